//! One virtual machine, from start to end: its initramfs, QEMU, two serial ports, and limits on
//! time. Does not interpret what the machine reports.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::kernels::Kernel;
use crate::{files, step::Step};

pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// In MiB: enough for any of the tests.
pub(super) const MEMORY: u32 = 1024;

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

/// The files of an initramfs, in a temporary folder.
pub(super) struct Tree {
    folder: TempDir,
    busybox: PathBuf,
}

impl Tree {
    /// With busybox, the kernel's modules and the first process, a shell script.
    pub(super) fn new(busybox: &Path, kernel: &Kernel, init: &str) -> Result<Self> {
        let tree = Self {
            folder: tempfile::tempdir().context("cannot create a temporary folder")?,
            busybox: busybox.to_owned(),
        };
        for folder in ["modules", "tests"] {
            files::create_folder(tree.folder.path().join(folder))?;
        }
        tree.write("init", init)?;
        files::set_mode(&tree.folder.path().join("init"), 0o755)?;
        tree.copy(busybox, "bin/busybox")?;
        for (number, module) in kernel.modules.iter().enumerate() {
            tree.copy(module, &format!("modules/{number}.ko"))?;
        }
        Ok(tree)
    }

    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        files::write(self.folder.path().join(path), text)
    }

    pub(super) fn copy(&self, from: &Path, path: &str) -> Result<()> {
        files::copy(from, self.folder.path().join(path))
    }

    /// Writes the archive that the kernel unpacks as its first root file system.
    pub(super) fn pack(&self, archive: &Path) -> Result<()> {
        Step::new("sh")
            .args(["-c", r#"find . | "$0" cpio -o -H newc 2>/dev/null >"$1""#])
            .args([&self.busybox, archive])
            .folder(self.folder.path())
            .run()
    }
}

/// A machine to be started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    /// Gets everything that it prints.
    pub(super) log: &'a Path,
    pub(super) cpus: u32,
    /// Possible processors beside them; the kernel allocates what is per processor for them, too.
    pub(super) room: u32,
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

/// Ends QEMU in any case.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to be done.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// QEMU for this machine: the console on its stderr, the report on its stdout.
    pub(super) fn step(&self) -> Step {
        let possible = self.cpus + self.room;
        Step::new(PROGRAM)
            .args(self.accel.options().split(' '))
            .args(["-m", &self.memory.to_string()])
            .args(["-smp", &format!("{},maxcpus={possible}", self.cpus)])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(["-chardev", "file,id=console,path=/dev/stderr"])
            .args(["-serial", "chardev:console"])
            .args(["-chardev", "file,id=report,path=/dev/stdout"])
            .args(["-serial", "chardev:report", "-kernel"])
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            // Stacks of hung tasks are shown; an oops, which would only end a thread, ends the machine.
            .arg("console=ttyS0 loglevel=7 oops=panic panic=-1")
    }

    /// Starts it and passes each line of the report to `read` with the time since the start, until
    /// the machine ends or `read` returns that it is done.
    pub(super) fn run(&self, mut read: impl FnMut(&str, Duration) -> bool) -> Result<Ended> {
        let step = self.step();
        let mut child = step
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{step}`"))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut running = Running(child);
        let (sender, receiver) = mpsc::channel();
        forward(Port::Report, stdout.context("no stdout")?, sender.clone());
        forward(Port::Console, stderr.context("no stderr")?, sender);
        let mut log = File::create(self.log)
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
                    break End::Exited(running.0.wait().context("cannot wait for QEMU")?);
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
            if to
                .send((port, line.trim_end_matches('\r').to_owned()))
                .is_err()
            {
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
