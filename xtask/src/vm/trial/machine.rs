//! The trial in a virtual machine: what is in it, and what it says.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::Packages;
use crate::{
    tally::Tally,
    vm::{
        cpio::Archive,
        kernels::Kernel,
        lines::Lines,
        plan::SUSPENDED_PROCESSORS,
        qemu::{Accel, End, Machine, Next, Port},
        verdict,
    },
};

const INIT: &str = include_str!("init.sh");
const TRIAL: &str = include_str!("trial.sh");

/// What the trial reads: the life of each kind of package.
const LIVES: [(&str, &str); 2] = [
    ("trial/deb.sh", include_str!("deb.sh")),
    ("trial/rpm.sh", include_str!("rpm.sh")),
];

/// In MiB: the Debian lies in memory, packed and unpacked at first.
const MEMORY: u32 = 1500;

const SILENCE: Duration = Duration::from_mins(5);
const LIMIT: Duration = Duration::from_mins(30);

/// What comes together in the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial<'a> {
    pub(super) packages: Packages<'a>,
    pub(super) kernel: &'a Kernel,
    pub(super) accel: Accel,
    pub(super) busybox: &'a Path,
    /// A tar archive.
    pub(super) debian: &'a Path,
    pub(super) traffic: &'a Path,
    /// For initramfs and log.
    pub(super) folder: &'a Path,
}

impl Trial<'_> {
    pub(super) fn run(&self) -> Result<Tally> {
        fs::create_dir_all(self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let initramfs = self.initramfs()?;
        let machine = Machine {
            kernel: &self.kernel.image,
            initramfs: &initramfs,
            // It is suspended, too.
            cpus: SUSPENDED_PROCESSORS,
            room: 0,
            memory: MEMORY,
            accel: self.accel,
            silence: SILENCE,
            limit: LIMIT,
        };
        let log = self.folder.join("log");
        eprintln!(
            "trying the packages on {} with systemd, {}; everything that is said goes to {}",
            self.kernel.package,
            self.accel.name(),
            log.display()
        );
        let mut report = Report::default();
        let mut console = Lines::default();
        let mut file =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let end = machine.run(|port, bytes, _| {
            let lines = match port {
                Port::Report => report.take(bytes),
                Port::Console => console.take(bytes),
            };
            for line in lines {
                if port == Port::Report || verdict::is_crash(&line) {
                    eprintln!("  {line}");
                }
                // The log is a help; without it the trial is what it is.
                let _ = writeln!(file, "{line}");
            }
            if report.done {
                Next::Finish
            } else {
                Next::Continue
            }
        })?;
        fs::remove_file(&initramfs)
            .with_context(|| format!("cannot remove {}", initramfs.display()))?;
        Ok(report.tally(end))
    }

    fn initramfs(&self) -> Result<PathBuf> {
        let mut archive = Archive::default();
        for folder in ["bin", "modules", "trial"] {
            archive.folder(folder)?;
        }
        archive.file("init", 0o755, INIT.as_bytes())?;
        archive.file("bin/busybox", 0o755, &read(self.busybox)?)?;
        for (number, module) in self.kernel.modules.iter().enumerate() {
            archive.file(&format!("modules/{number}.ko"), 0o644, &read(module)?)?;
        }
        archive.file("debian.tar", 0o644, &read(self.debian)?)?;
        archive.file("trial/trial.sh", 0o755, TRIAL.as_bytes())?;
        archive.file("trial/tcp-traffic", 0o755, &read(self.traffic)?)?;
        for (name, text) in LIVES {
            archive.file(name, 0o644, text.as_bytes())?;
        }
        for (kind, pair) in [("deb", self.packages.deb), ("rpm", self.packages.rpm)] {
            for (name, package) in [("first", pair.first), ("upgrade", pair.upgrade)] {
                archive.file(&format!("trial/{name}.{kind}"), 0o644, &read(package)?)?;
            }
        }
        let path = self.folder.join("initramfs");
        fs::write(&path, archive.finish()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What the machine said: `##trial ok NAME`, `##trial failed NAME`, `##trial done`.
#[derive(Debug, Default)]
struct Report {
    lines: Lines,
    tally: Tally,
    done: bool,
}

impl Report {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let lines = self.lines.take(bytes);
        for line in &lines {
            match line
                .strip_prefix("##trial ")
                .map(|said| said.split(' ').next())
            {
                Some(Some("ok")) => self.tally.passed += 1,
                Some(Some("failed")) => self.tally.failed += 1,
                Some(Some("done")) => self.done = true,
                _ => {}
            }
        }
        lines
    }

    /// The counts; a trial that did not come to its end has failed.
    fn tally(mut self, end: End) -> Tally {
        if !self.done {
            eprintln!("the trial did not come to its end: {end:?}");
            self.tally.failed += 1;
        }
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_without_an_end_has_failed() {
        let mut report = Report::default();
        report.take(b"##trial ok one\r\nother\n##trial failed two\n##trial ok thr");
        report.take(b"ee\n");
        let tally = report.tally(End::Silent);
        assert_eq!(tally.to_string(), "2 passed, 2 failed, 0 skipped");
        let mut report = Report::default();
        report.take(b"##trial ok one\n##trial done\n");
        assert_eq!(report.tally(End::Stopped).failed, 0);
    }
}
