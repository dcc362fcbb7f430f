//! One virtual machine, from start to end: its initramfs, QEMU, two serial ports, and limits on
//! time. Does not interpret what the machine reports.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    files,
    process::Process,
    step::{Step, step},
};

pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// How long a machine may take to power off once it is done.
const POWER_OFF: Duration = Duration::from_secs(10);

/// How many of the last lines are kept for when something goes wrong.
const TAIL: usize = 40;

/// Beginnings of kernel messages, after the time stamp, after which it must not be trusted.
const CRASHES: [&str; 8] = [
    "Kernel panic",
    "Oops",
    "BUG: kernel NULL pointer",
    "BUG: unable to handle",
    "kernel BUG at",
    "general protection fault",
    "Internal error:",
    "double fault:",
];

/// Whether a line of the console is the first one of a crash.
fn is_crash(line: &str) -> bool {
    let message = match line.split_once("] ") {
        Some((stamp, message)) if stamp.starts_with('[') => message,
        _ => line,
    };
    CRASHES.iter().any(|crash| message.starts_with(crash))
}

/// Who executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accel {
    Kvm,
    /// QEMU itself: slow, and works everywhere.
    Tcg,
    /// The same, several times slower, with a thread for each processor: an interrupt may come
    /// between any two instructions, rather than between blocks of them only.
    Fine,
    /// As [`Accel::Tcg`], with a clock of its own: each instruction takes a nanosecond, and a wait
    /// none. So what is measured depends on nothing but the instructions.
    Counted,
}

impl Accel {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Fine => "tcg, interrupts anywhere",
            Self::Counted => "tcg, instructions counted",
        }
    }

    /// QEMU's options. Emulated processors take turns in one thread: with a thread each, QEMU 7.2
    /// now and then goes on executing a breakpoint that the kernel had put where a BPF program
    /// was being attached, after it was taken away again, and the processor hangs there.
    fn options(self) -> &'static str {
        match self {
            Self::Kvm => "-accel kvm -cpu max",
            Self::Tcg => "-accel tcg,thread=single -cpu max",
            // QEMU 8.1 or later.
            Self::Fine => "-accel tcg,thread=multi,one-insn-per-tb=on -cpu max",
            // An instruction that copies many bytes counts as one for each: without these two
            // features of a processor, none copies bytes one by one.
            Self::Counted => {
                "-accel tcg,thread=single -icount shift=0,sleep=off -cpu max,-erms,-fsrm"
            }
        }
    }
}

/// A machine to be started; its initramfs goes with this value.
pub(super) struct Machine {
    /// The files of the initramfs.
    pub(super) tree: TempDir,
    pub(super) busybox: PathBuf,
    /// The kernel.
    pub(super) image: PathBuf,
    pub(super) initramfs: PathBuf,
    /// Gets everything that it prints.
    pub(super) log: PathBuf,
    pub(super) cpus: u32,
    /// Possible processors beside them; the kernel allocates what is per processor for them, too.
    pub(super) hotplug_cpus: u32,
    /// In MiB.
    pub(super) memory: u32,
    pub(super) accel: Accel,
    /// How long it may print nothing.
    pub(super) silence: Duration,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Exited(ExitStatus),
    /// It was stopped after it was done.
    Stopped,
    /// It printed nothing for too long.
    Silent,
    /// It took too long.
    Overtime,
}

/// What is left of a machine.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) end: End,
    /// The kernel's first message about a crash.
    pub(super) crash: Option<String>,
    /// The last lines of both ports.
    pub(super) tail: VecDeque<String>,
}

/// Which serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Kernel messages, and QEMU's own.
    Console,
    /// The first process and the tests.
    Report,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may not have been written.
        let _ = fs::remove_file(&self.initramfs);
    }
}

impl Machine {
    /// Writes a file of the initramfs.
    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        files::write(self.tree.path().join(path), text)
    }

    /// Copies a file into the initramfs.
    pub(super) fn copy(&self, from: &Path, path: &str) -> Result<()> {
        files::copy(from, self.tree.path().join(path))
    }

    /// Copies files into the initramfs, with the same paths.
    pub(super) fn copy_all(&self, paths: &[PathBuf]) -> Result<()> {
        let inside = |path: &PathBuf| {
            self.tree
                .path()
                .join(path.strip_prefix("/").unwrap_or(path))
        };
        paths
            .iter()
            .try_for_each(|path| files::copy(path, inside(path)))
    }

    /// Writes the archive that the kernel unpacks as its first root file system.
    pub(super) fn pack(&self) -> Result<()> {
        let script = r#"find . | "$0" cpio -o -H newc 2>/dev/null >"$1""#.to_owned();
        step!("sh -c", script, &self.busybox, &self.initramfs)
            .folder(self.tree.path())
            .run()
    }

    /// QEMU for this machine: the console on its stderr, the report on its stdout.
    fn step(&self) -> Step {
        let (cpus, possible) = (self.cpus, self.cpus + self.hotplug_cpus);
        step!(PROGRAM, self.accel.options(), "-m", self.memory.to_string())
            .with(&*format!("-smp {cpus},maxcpus={possible}"))
            .with("-nodefaults -no-user-config -no-reboot -display none")
            .with("-chardev file,id=console,path=/dev/stderr -serial chardev:console")
            .with("-chardev file,id=report,path=/dev/stdout -serial chardev:report -kernel")
            .with(&self.image)
            .with("-initrd")
            .with(&self.initramfs)
            .with("-append")
            // Stacks of hung tasks are shown; an oops, which would only end a thread, ends the machine.
            .with("console=ttyS0 loglevel=7 oops=panic panic=-1".to_owned())
    }

    /// Starts it and passes each line of the report to `read` with the time since the start, until
    /// the machine ends or `read` returns that it is done.
    pub(super) fn run(&self, mut read: impl FnMut(&str, Duration) -> bool) -> Result<Ended> {
        let mut command = self.step().command();
        let mut qemu = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let (stdout, stderr) = (qemu.child.stdout.take(), qemu.child.stderr.take());
        let (sender, receiver) = mpsc::channel();
        forward(Port::Report, stdout.context("no stdout")?, sender.clone());
        forward(Port::Console, stderr.context("no stderr")?, sender);
        let mut log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;

        let start = Instant::now();
        let (mut last, mut done) = (start, None);
        let (mut crash, mut tail) = (None, VecDeque::new());
        let end = loop {
            let limits = [
                Some((last + self.silence, End::Silent)),
                Some((start + self.limit, End::Overtime)),
                done.map(|since| (since + POWER_OFF, End::Stopped)),
            ];
            let limits = limits.into_iter().flatten();
            let first = limits.min_by_key(|&(deadline, _)| deadline);
            let (deadline, end) = first.context("no limit")?;
            let left = deadline.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left) {
                Ok((port, line)) => {
                    last = Instant::now();
                    if port == Port::Report && read(&line, last - start) && done.is_none() {
                        done = Some(last);
                    }
                    if port == Port::Console && crash.is_none() && is_crash(&line) {
                        eprintln!("{line}");
                        crash = Some(line.clone());
                    }
                    // The log is a help; without it the result is the same.
                    let _ = writeln!(log, "{line}");
                    if tail.len() == TAIL {
                        tail.pop_front();
                    }
                    tail.push_back(line);
                }
                Err(RecvTimeoutError::Timeout) => break end,
                Err(RecvTimeoutError::Disconnected) => {
                    break End::Exited(qemu.child.wait().context("cannot wait for QEMU")?);
                }
            }
        };
        Ok(Ended { end, crash, tail })
    }
}

/// Sends the lines of a port, without the carriage returns of a terminal.
fn forward(port: Port, from: impl Read + Send + 'static, to: Sender<(Port, String)>) {
    thread::spawn(move || {
        // An error is the end as well; the exit status shows how the machine ended.
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r').to_owned();
            if to.send((port, line)).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::is_crash;

    #[test]
    fn crashes_are_distinguished_from_similar_lines() {
        for line in [
            "[    2.1] Kernel panic - not syncing: Attempted to kill init!",
            "[   12.345678] BUG: unable to handle page fault for address: 0",
            "Oops: 0002 [#1] SMP",
        ] {
            assert!(is_crash(line), "{line}");
        }
        for line in [
            "[    0.1] Command line: oops=panic panic=-1",
            "[    9.1] TCP: Possible SYN flooding on port 1",
            "[    9.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        ] {
            assert!(!is_crash(line), "{line}");
        }
    }
}
