//! A terminal for the real binary: a pty, and what a terminal would show of what is written to it.

use std::{
    io::{Read as _, Write as _},
    num::NonZeroU16,
    os::fd::AsFd as _,
    process::{Child, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};
use pty_process::{
    Size,
    blocking::{Command, Pty},
};
use vt100::{Parser, Screen};

/// How long anything may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process on a terminal of its own.
pub(crate) struct Terminal {
    /// None once it is closed.
    pty: Option<Arc<Pty>>,
    child: Child,
    before: Termios,
    seen: Arc<Seen>,
    reader: Option<JoinHandle<()>>,
}

/// What was written to the terminal.
struct Seen {
    parser: Mutex<Parser>,
    bytes: Mutex<Vec<u8>>,
    closing: AtomicBool,
}

impl Terminal {
    /// Starts `command` on a terminal of so many columns and rows; of none, it does not say.
    pub(crate) fn start(command: Command, (columns, rows): (u16, u16)) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(rows, columns)).unwrap();
        let pty = Arc::new(pty);
        let before = tcgetattr(&pty).unwrap();
        let child = command.spawn(pts).unwrap();
        let seen = Arc::new(Seen {
            parser: Mutex::new(Parser::new(size(rows), size(columns), 0)),
            bytes: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let (from, to) = (Arc::clone(&pty), Arc::clone(&seen));
        Self {
            pty: Some(pty),
            child,
            before,
            seen,
            reader: Some(thread::spawn(move || to.read(&from))),
        }
    }

    fn pty(&self) -> &Pty {
        self.pty.as_deref().unwrap()
    }

    fn parser(&self) -> MutexGuard<'_, Parser> {
        self.seen.parser.lock().unwrap()
    }

    /// What is on the screen.
    pub(crate) fn screen(&self) -> Screen {
        self.parser().screen().clone()
    }

    /// What is on the screen, as text.
    pub(crate) fn text(&self) -> String {
        self.screen().contents()
    }

    /// All that was ever written.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.seen.bytes.lock().unwrap().clone()
    }

    /// Waits until the screen has this text.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |screen| screen.contains(text))
    }

    /// Waits until the screen has all these texts: it may be drawn in parts.
    pub(crate) fn wait_for_all(&self, texts: &[&str]) {
        for text in texts {
            self.wait_for(text);
        }
    }

    /// Waits until the screen is as wanted.
    pub(crate) fn wait_until(&self, what: &str, done: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if done(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "no {what} on:\n{text}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types.
    pub(crate) fn send(&self, keys: &str) {
        self.pty().write_all(keys.as_bytes()).unwrap();
    }

    /// Makes the terminal larger or smaller.
    pub(crate) fn resize(&self, (columns, rows): (u16, u16)) {
        let mut parser = self.parser();
        let screen = parser.screen_mut();
        screen.set_size(size(rows), size(columns));
        self.pty().resize(Size::new(rows, columns)).unwrap();
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Waits for the end of the process, which has to leave the terminal as it was.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let status = self.exit();
        assert!(tcgetattr(self.pty()).unwrap() == self.before);
        self.wait_until("usual screen", |_| {
            let screen = self.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        });
        status
    }

    /// Closes the terminal and waits for the end of the process.
    pub(crate) fn hang_up(&mut self) {
        self.seen.closing.store(true, Ordering::Relaxed);
        self.reader.take().unwrap().join().unwrap();
        self.pty = None;
        self.exit();
    }

    fn exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "no end:\n{}", self.text());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Seen {
    /// Reads until nobody has the other end any more, or this one is closed.
    fn read(&self, mut pty: &Pty) {
        let mut part = [0; 4096];
        while !self.closing.load(Ordering::Relaxed) {
            let mut readable = [PollFd::new(pty.as_fd(), PollFlags::POLLIN)];
            if poll(&mut readable, PollTimeout::from(50_u8)).unwrap() == 0 {
                continue;
            }
            let Ok(count) = pty.read(&mut part) else {
                return;
            };
            self.bytes.lock().unwrap().extend_from_slice(&part[..count]);
            self.parser.lock().unwrap().process(&part[..count]);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn size(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap_or(NonZeroU16::new(80).unwrap())
}
