//! A machine for one program that measures, rather than for tests: `xtask guest`, with the tracker
//! beside it, and as many possible processors as are wanted. Does not know what is measured.

use std::{fs, io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    PROGRAMS,
    apt::Apt,
    binaries::TestBinary,
    busybox,
    initramfs::{self, Content},
    kernels::{self, Kernel, SUITES},
    lines::Lines,
    provide,
    qemu::{Accel, MEMORY, Machine, Next, Port},
    verdict,
};
use crate::{build::binary, workspace::Workspace};

/// Before what the program measured.
pub(crate) const FIGURES: &str = "##figures ";

/// With all hooks, and what most servers run.
const KERNEL: &str = "6.1";

/// Emulated, a part takes some minutes.
const LIMIT: Duration = Duration::from_mins(20);

/// By the machine's own clock, which goes ahead when nothing happens.
const OWN_LIMIT: Duration = Duration::from_hours(2);

/// Everything that such a machine is made of.
#[derive(Debug)]
pub(crate) struct Guest {
    folder: PathBuf,
    kernel: Kernel,
    busybox: PathBuf,
    program: TestBinary,
    files: Vec<PathBuf>,
}

impl Guest {
    /// Gets and builds what is missing. `files` are there in the machine, too, at the same place.
    pub(crate) fn new(workspace: &Workspace, files: Vec<PathBuf>) -> Result<Self> {
        provide(&PROGRAMS, false, "vm")?;
        let folder = workspace.target.join("vm");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let apt = Apt::new(folder.join("apt"), &SUITES)?;
        let kernels = kernels::get(&apt, &folder.join("kernels"), &[KERNEL.parse()?])?;
        let kernel = kernels.into_iter().next().context("no kernel")?;
        let busybox = busybox(&apt, &folder.join("busybox"))?;
        let program = TestBinary {
            name: "xtask".to_owned(),
            path: binary::xtask(workspace)?,
        };
        Ok(Self {
            folder,
            kernel,
            busybox,
            program,
            files,
        })
    }

    /// What it is, for who reads the figures.
    pub(crate) fn describe(&self) -> String {
        format!(
            "a virtual machine with Linux {}, in which each instruction takes a nanosecond",
            self.kernel.package
        )
    }

    /// Runs the program with these arguments in a machine with `possible` processors, one of which
    /// is there; what it printed after [`FIGURES`].
    pub(crate) fn run(&self, arguments: &[String], possible: u32) -> Result<Value> {
        let initramfs = self.folder.join("guest.initramfs");
        let content = Content {
            busybox: &self.busybox,
            tests: std::slice::from_ref(&self.program),
            arguments,
            environment: &[],
            files: &self.files,
            limit: OWN_LIMIT,
        };
        initramfs::write(&initramfs, &self.kernel, &content)?;
        let machine = Machine {
            kernel: &self.kernel.image,
            initramfs: &initramfs,
            // More would wait for each other while an emulated clock runs on.
            cpus: 1,
            room: possible - 1,
            memory: MEMORY,
            accel: Accel::Counted,
            silence: LIMIT,
            limit: LIMIT,
        };
        let found = self.listen(&machine);
        fs::remove_file(&initramfs)
            .with_context(|| format!("cannot remove {}", initramfs.display()))?;
        found
    }

    fn listen(&self, machine: &Machine<'_>) -> Result<Value> {
        let log = self.folder.join("guest.log");
        let mut file =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let (mut report, mut console) = (Lines::default(), Lines::default());
        let (mut figures, mut last) = (None, String::new());
        let end = machine.run(|port, bytes, _| {
            let lines = match port {
                Port::Report => report.take(bytes),
                Port::Console => console.take(bytes),
            };
            for line in lines {
                // The log is a help; without it the figures are what they are.
                let _ = writeln!(file, "{line}");
                if let Some(found) = line.strip_prefix(FIGURES) {
                    figures = Some(found.to_owned());
                } else if verdict::is_crash(&line)
                    || (port == Port::Report && !line.is_empty() && !line.starts_with("##vm "))
                {
                    eprintln!("   {line}");
                    last = line;
                }
            }
            match figures {
                Some(_) => Next::Finish,
                None => Next::Continue,
            }
        })?;
        let Some(figures) = figures else {
            bail!(
                "the machine measured nothing ({end:?}); its last word was \"{last}\", all of them \
                 are in {}",
                log.display()
            );
        };
        serde_json::from_str(&figures).context("the figures are no JSON")
    }
}
