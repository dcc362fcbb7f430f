//! `top` on a terminal: shown, steered, resized, and ended in every way.

use std::{
    env,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use pty_process::blocking::Command;
use tcp_status::view::top::screen::Screen;
use tempfile::TempDir;

use crate::{
    rich::{HARMFUL, OTHER, Rich},
    tcp_status,
    terminal::Terminal,
    tracker::Serving,
};

const SIZE: (u16, u16) = (80, 24);

/// A tracker with much to show, until it is dropped.
struct Host {
    serving: Option<Serving>,
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        let mut host = Self {
            serving: None,
            directory: tempfile::tempdir().unwrap(),
        };
        host.serve();
        host
    }

    fn serve(&mut self) {
        self.serving = Some(Serving::start(&self.socket(), 0o600, Rich::after(0)));
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn top(&self, size: (u16, u16)) -> Terminal {
        Terminal::start(top(&self.socket()), size)
    }
}

fn top(socket: &Path) -> Command {
    Command::from(tcp_status())
        .args(["top", "--interval", "100ms", "--socket"])
        .arg(socket)
        .env("LANG", "C.UTF-8")
        .env("TERM", "xterm")
}

#[test]
fn it_shows_what_the_tracker_says_and_quits() {
    let host = Host::new();
    let mut terminal = host.top(SIZE);
    terminal.wait_for_all(&[
        "tcp-status  tier reduced  netns 4026531833",
        "1 Overview  2 Listeners",
        "FULL       port 5432 (web.service): the accept queue is full: 129 wait, limit 1",
        "established ",
        "Ports 30 of at most 30",
        "q quit",
    ]);
    assert!(terminal.screen().alternate_screen());
    // Two readings: something happens per second.
    terminal.wait_until("rates", |text| {
        let passive = text.lines().find(|line| line.contains("passive open"));
        passive.is_some_and(|line| !line.contains(" - "))
    });
    terminal.send("q");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(!terminal.text().contains("established"));
}

#[test]
fn keys_steer_it() {
    let host = Host::new();
    let mut terminal = host.top(SIZE);
    terminal.wait_for("1 Overview");
    terminal.send("\t");
    terminal.wait_for("Listeners 40");
    terminal.send("\tsssss");
    terminal.wait_for_all(&[
        "Ports 30 of at most 30, * not all counted yet",
        "closewait▼",
    ]);
    terminal.send("/801");
    terminal.wait_for("/801_");
    terminal.send("\r");
    terminal.wait_for("1-11 of 11");
    terminal.send("\x1b[B\r");
    terminal.wait_for_all(&[" port 801", "Esc back"]);
    terminal.send("\x1b");
    terminal.wait_for("q quit  ? help");
    terminal.send("p");
    terminal.wait_for("PAUSED");
    terminal.send("p?");
    terminal.wait_for("choose a network namespace");
    terminal.send("?n");
    terminal.wait_for("Network namespaces 2");
    terminal.send("\x1b[B\r");
    terminal.wait_for(&format!("DEGRADED  netns {OTHER}"));
    terminal.send("\x03");
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn it_follows_the_size_of_the_terminal() {
    let host = Host::new();
    let mut terminal = host.top(SIZE);
    terminal.wait_for("1 Overview");
    terminal.resize((60, 20));
    terminal.wait_until("short names", |text| {
        text.contains("1 View") && !text.contains("Overview")
    });
    terminal.resize((200, 48));
    terminal.wait_for_all(&["ipv6", "Listeners 40", "Ports 30 of at most 30", "Units 4"]);
    terminal.resize((20, 3));
    terminal.wait_for("20x3 is too small");
    terminal.resize(SIZE);
    terminal.wait_for("1 Overview");
    terminal.send("q");
    terminal.end();
}

#[test]
fn signals_end_it_and_leave_the_terminal_as_it_was() {
    let host = Host::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut terminal = host.top(SIZE);
        terminal.wait_for("q quit");
        terminal.signal(signal);
        assert_eq!(terminal.end().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_tracker_that_goes_is_told_and_found_again() {
    let mut host = Host::new();
    let mut terminal = host.top(SIZE);
    terminal.wait_for("every 100ms");
    host.serving = None;
    // The last numbers stay.
    terminal.wait_for_all(&["NO ANSWER FOR ", "no such file", "\nestablished "]);
    // One that takes connections and says nothing is none: keys work all the same.
    let silent = UnixListener::bind(host.socket()).unwrap();
    thread::sleep(Duration::from_millis(300));
    terminal.send("?");
    terminal.wait_for("choose a network namespace");
    terminal.send("?");
    drop(silent);
    host.serve();
    let text = terminal.wait_for("every 100ms");
    assert!(!text.contains("NO ANSWER"), "{text}");
    terminal.send("q");
    assert_eq!(terminal.end().code(), Some(0));
}

#[test]
fn a_panic_leaves_the_terminal_as_it_was() {
    let itself = env::current_exe().unwrap();
    let command = Command::new(itself)
        .args(["--exact", "top::panics_on_a_terminal", "--nocapture"])
        .env("PANICS_ON_A_TERMINAL", "1")
        // The screen is small.
        .env("RUST_BACKTRACE", "0");
    let mut terminal = Terminal::start(command, SIZE);
    assert_eq!(terminal.end().code(), Some(101));
    terminal.wait_for_all(&["panicked at", "on purpose"]);
    let bytes = terminal.bytes();
    assert!(contains(&bytes, b"\x1b[?1049h") && contains(&bytes, b"drawn"));
}

/// The process of the test above; nothing by itself.
#[test]
fn panics_on_a_terminal() {
    if env::var_os("PANICS_ON_A_TERMINAL").is_none() {
        return;
    }
    let mut screen = Screen::enter().unwrap();
    screen
        .draw(|frame| frame.render_widget("drawn", frame.area()))
        .unwrap();
    panic!("on purpose");
}

#[test]
fn it_goes_into_the_background_and_comes_back() {
    let host = Host::new();
    let shell = Command::new("sh")
        .arg("-i")
        .env("PS1", "ready ")
        .env("TERM", "xterm");
    let mut terminal = Terminal::start(shell, SIZE);
    terminal.wait_for("ready ");
    let top = format!(
        "{} top --socket {}\r",
        env!("CARGO_BIN_EXE_tcp-status"),
        host.socket().display()
    );
    terminal.send(&top);
    terminal.wait_for("q quit");
    terminal.send("\x1a");
    terminal.wait_for("topped");
    assert!(!terminal.screen().alternate_screen());
    terminal.send("fg\r");
    terminal.wait_for("q quit");
    assert!(terminal.screen().alternate_screen());
    terminal.send("q");
    terminal.wait_until("shell", |_| !terminal.screen().alternate_screen());
    terminal.send("exit\r");
    terminal.end();
}

#[test]
fn a_terminal_that_is_closed_ends_it() {
    let host = Host::new();
    let mut terminal = host.top(SIZE);
    terminal.wait_for("q quit");
    terminal.hang_up();
}

#[test]
fn nothing_of_the_tracker_acts_on_the_terminal() {
    let host = Host::new();
    let mut terminal = host.top((160, 48));
    terminal.wait_for("owned");
    terminal.send("n");
    terminal.wait_for_all(&["Network namespaces 2", "4026532999", " web]0;owned[2J"]);
    terminal.send("?");
    terminal.wait_for("q, Ctrl-C");
    terminal.send("?q");
    terminal.end();
    let bytes = terminal.bytes();
    assert!(!contains(&bytes, HARMFUL.as_bytes()));
    assert!(!contains(&bytes, b"\x07") && !contains(&bytes, b"\x1b]"));
}

#[test]
fn without_colour_and_unicode_it_is_read_all_the_same() {
    let host = Host::new();
    let coloured = |terminal: &Terminal| {
        let screen = terminal.screen();
        let cells = (0..SIZE.1).flat_map(|row| (0..SIZE.0).map(move |column| (row, column)));
        cells
            .filter_map(|(row, column)| screen.cell(row, column))
            .any(|cell| cell.fgcolor() != vt100::Color::Default)
    };
    let mut usual = host.top(SIZE);
    usual.wait_for("q quit");
    assert!(coloured(&usual));
    usual.send("q");
    usual.end();
    let plain = top(&host.socket()).env("NO_COLOR", "1").env("LANG", "C");
    let mut plain = Terminal::start(plain, SIZE);
    let text = plain.wait_for("q quit");
    assert!(
        text.contains("FULL     5432*     web.service") && text.contains("problemv"),
        "{text}"
    );
    assert!(text.is_ascii(), "{text}");
    assert!(!coloured(&plain));
    plain.send("q");
    plain.end();
}

#[test]
fn a_terminal_without_a_cursor_gets_a_table_a_time() {
    let host = Host::new();
    let mut terminal = Terminal::start(top(&host.socket()).env("TERM", "dumb"), (80, 200));
    terminal.wait_until("two tables", |text| {
        text.matches("CRITICAL  port 5432").count() > 1
            && text.matches("\nestablished ").count() > 1
    });
    terminal.signal(Signal::SIGTERM);
    assert_eq!(terminal.end().code(), None);
    assert!(!contains(&terminal.bytes(), b"\x1b"));
}

#[test]
fn what_cannot_begin_says_so_and_leaves_the_terminal_alone() {
    let host = Host::new();
    let nowhere = host.directory.path().join("nowhere");
    let netns = top(&host.socket()).args(["--netns", "atlantis"]);
    for (command, size, status, part) in [
        (top(&nowhere), (200, 24), 3, "no such file"),
        (netns, (200, 24), 2, "\"atlantis\": not there"),
        (top(&host.socket()), (0, 0), 2, "stty rows 24 columns 80"),
    ] {
        let mut terminal = Terminal::start(command, size);
        assert_eq!(terminal.end().code(), Some(status));
        let text = terminal.wait_for(part);
        assert!(text.starts_with("tcp-status: "), "{text}");
        assert!(!contains(&terminal.bytes(), b"\x1b"));
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
