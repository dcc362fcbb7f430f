//! One virtual machine, from start to end: QEMU, its two serial ports, and limits on time.
//! What the machine says goes to the caller; what it means is not known here.

use std::{
    io::Read,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::step::Step;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// In MiB: enough for any of the tests.
pub(super) const MEMORY: u32 = 1024;

/// Who executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accel {
    Kvm,
    /// QEMU itself: slow, and works everywhere.
    Tcg,
    /// The same, several times slower, with a thread for each processor: an interrupt may come
    /// between any two instructions, rather than between blocks of them only.
    Fine,
    /// As [`Accel::Tcg`], with a clock of its own: each instruction takes a nanosecond, and a wait none.
    /// So what is measured depends on nothing but the instructions.
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
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "max"],
            Self::Tcg => &["-accel", "tcg,thread=single", "-cpu", "max"],
            // QEMU 8.1 or later.
            Self::Fine => &[
                "-accel",
                "tcg,thread=multi,one-insn-per-tb=on",
                "-cpu",
                "max",
            ],
            // An instruction that copies many bytes counts as one for each: without these two
            // features of a processor, none copies bytes one by one.
            Self::Counted => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                "max,-erms,-fsrm",
            ],
        }
    }
}

/// A machine to be started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) cpus: u32,
    /// For how many more there is room; the kernel makes what is there for each CPU for them, too.
    pub(super) room: u32,
    /// In MiB.
    pub(super) memory: u32,
    pub(super) accel: Accel,
    /// How long it may say nothing.
    pub(super) silence: Duration,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// Which serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// Kernel messages, and QEMU's own.
    Console,
    /// The first process and the tests.
    Report,
}

/// What the caller wants after a piece of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    /// Everything is said: the machine has a moment left to power off.
    Finish,
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Exited(ExitStatus),
    /// It was stopped after it had said everything.
    Stopped,
    /// It said nothing for too long.
    Silent,
    /// It took too long.
    Overtime,
}

/// How long a machine may take to power off once it has said everything.
const FAREWELL: Duration = Duration::from_secs(10);

/// What ends QEMU when the caller fails.
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
        Step::new(PROGRAM)
            .args(self.accel.options().iter().copied())
            .args(["-m", &self.memory.to_string()])
            .args(["-smp", &self.processors()])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(["-chardev", "file,id=console,path=/dev/stderr"])
            .args(["-serial", "chardev:console"])
            .args(["-chardev", "file,id=report,path=/dev/stdout"])
            .args(["-serial", "chardev:report"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            // Stacks of hung tasks are shown; an oops, which would only end a thread, ends the machine.
            .arg("console=ttyS0 loglevel=7 oops=panic panic=-1")
    }

    /// QEMU's `-smp`.
    fn processors(&self) -> String {
        match self.room {
            0 => self.cpus.to_string(),
            room => format!("{},maxcpus={}", self.cpus, self.cpus + room),
        }
    }

    /// Starts it and hands everything that it says to `said`, until it ends or is stopped.
    pub(super) fn run(&self, mut said: impl FnMut(Port, &[u8], Duration) -> Next) -> Result<End> {
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
        forward(
            Port::Report,
            stdout.context("QEMU has no stdout")?,
            sender.clone(),
        );
        forward(Port::Console, stderr.context("QEMU has no stderr")?, sender);

        let start = Instant::now();
        let mut heard = start;
        let mut finished = None;
        loop {
            let now = Instant::now();
            let (deadline, end) = [
                Some((heard + self.silence, End::Silent)),
                Some((start + self.limit, End::Overtime)),
                finished.map(|since| (since + FAREWELL, End::Stopped)),
            ]
            .into_iter()
            .flatten()
            .min_by_key(|&(deadline, _)| deadline)
            .context("no limit")?;
            if now >= deadline {
                return Ok(end);
            }
            match receiver.recv_timeout(deadline - now) {
                Ok((port, bytes)) => {
                    heard = Instant::now();
                    let next = said(port, &bytes, heard - start);
                    if next == Next::Finish && finished.is_none() {
                        finished = Some(heard);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = running.0.wait().context("cannot wait for QEMU")?;
                    return Ok(End::Exited(status));
                }
            }
        }
    }
}

/// Reads a port to its end.
fn forward(port: Port, mut from: impl Read + Send + 'static, to: Sender<(Port, Vec<u8>)>) {
    thread::spawn(move || {
        let mut piece = [0; 4096];
        // An error is the end as well; how the machine ended says its exit status.
        while let Ok(length @ 1..) = from.read(&mut piece) {
            if to.send((port, piece[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_repeated_by_hand() {
        let machine = Machine {
            kernel: Path::new("/k/vmlinuz"),
            initramfs: Path::new("/k/initramfs"),
            cpus: 2,
            room: 6,
            memory: MEMORY,
            accel: Accel::Tcg,
            silence: Duration::from_secs(1),
            limit: Duration::from_secs(1),
        };
        let shown = machine.step().to_string();
        assert!(
            shown.starts_with("qemu-system-x86_64 -accel tcg,thread=single -cpu max"),
            "{shown}"
        );
        assert!(shown.contains(" -smp 2,maxcpus=8 "), "{shown}");
        assert!(shown.ends_with("-append 'console=ttyS0 loglevel=7 oops=panic panic=-1'"));
    }
}
