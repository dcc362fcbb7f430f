//! Completion by the shells themselves, with the script that `completions` prints.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tcp_status_testkit::{cgroup::Cgroup, netns::Netns, skip_unprepared};

use crate::{
    printed,
    rich::{FULL, OTHER, Rich},
    terminal::Terminal,
    tracker::{Tracker, serve, wait},
};

/// A command line, and some of the words that are offered at its end.
type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

/// Where a shell runs: scripts, and the program on its PATH.
struct ShellHome {
    directory: tempfile::TempDir,
}

impl ShellHome {
    fn new(shell: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = printed(&["completions", shell]);
        // As packages name it: zsh finds functions by the name of the file.
        fs::write(directory.path().join("_tcp-status"), script).unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What a shell prints; none if there is no such shell.
    fn run(&self, shell: &str, program: &str) -> Option<String> {
        let mut command = Command::new(shell);
        match shell {
            "bash" => command.args(["--norc", "--noprofile", "-c"]),
            "zsh" => command.args(["-f", "-c"]),
            _ => command.args(["--no-config", "-c"]),
        };
        let output = command
            .arg(program)
            .env("PATH", path())
            .env_remove("TCP_STATUS_SOCKET")
            .env("HOME", self.path())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && error.is_empty(), "{error}");
                Some(String::from_utf8(output.stdout).unwrap())
            }
            Err(why) => {
                skip_unprepared(&format!("{shell}: {why}"));
                None
            }
        }
    }

    /// Serves what a busy host has, and makes a socket and a file beside each other.
    fn serve(&self) {
        serve(&self.path().join("s.sock"), 0o600, Rich::after(0));
        drop(UnixListener::bind(self.path().join("stale.sock")).unwrap());
        fs::write(self.path().join("s.txt"), "").unwrap();
    }
}

/// With the program on it.
fn path() -> OsString {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_tcp-status"));
    let folder = binary.parent().unwrap().to_path_buf();
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder).chain(env::split_paths(&path));
    env::join_paths(folders).unwrap()
}

/// What has to be offered, and what must not be.
fn cases<'a>(other: &'a [&'a str]) -> [Case<'a>; 15] {
    [
        ("tcp-status ", &["get", "show", "zabbix"], &["--socket"]),
        ("tcp-status sh", &["show"], &["get"]),
        ("tcp-status get est", &["established"], &["timewait"]),
        ("tcp-status get ", &["finwait2", "closing", "all"], &[]),
        ("tcp-status get established --fam", &["--family"], &[]),
        ("tcp-status get established --family ", &["4", "6"], &["5"]),
        ("tcp-status zabbix un", &["uninstall"], &["install"]),
        ("tcp-status completions ", &["bash", "zsh", "fish"], &[]),
        ("tcp-status run --backend ", &["auto", "ebpf", "scan"], &[]),
        ("tcp-status run --socket-group ro", &["root"], &["daemon"]),
        (
            "tcp-status show --socket s",
            &["s.sock", "stale.sock"],
            &["s.txt"],
        ),
        (
            "tcp-status listeners --socket s.sock --port 54",
            &["5432"],
            &["443"],
        ),
        (
            "tcp-status get closewait --socket s.sock --cgroup ",
            &["orders.service", "/system.slice/orders.service"],
            &["443"],
        ),
        (
            "tcp-status wait closewait --socket s.sock --cgroup or",
            &["orders.service"],
            &["/system.slice/orders.service"],
        ),
        ("tcp-status top --socket s.sock --netns 4026532", other, &[]),
    ]
}

/// Compares what a shell offers for each case.
fn assert_offered(shell: &str, offered: impl Fn(&ShellHome, &str) -> Option<String>) {
    assert_eq!(FULL, 5432);
    let home = ShellHome::new(shell);
    home.serve();
    let other = OTHER.to_string();
    for (line, wanted, unwanted) in cases(&[&other]) {
        let Some(offered) = offered(&home, line) else {
            return;
        };
        // Fish has what each word means behind it.
        let words: Vec<_> = offered
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        for word in wanted {
            assert!(words.contains(word), "{shell}: {line}: {offered}");
        }
        for word in unwanted {
            assert!(!words.contains(word), "{shell}: {line}: {offered}");
        }
    }
}

/// What bash offers at the end of a line.
fn offered_by_bash(home: &ShellHome, line: &str) -> Option<String> {
    // As readline calls it: the words so far, the last one, and the one before.
    const PROGRAM: &str = r#"
        source ./_tcp-status
        read -ra COMP_WORDS <<< "$LINE"
        [[ $LINE == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        COMP_LINE=$LINE COMP_POINT=${#LINE} COMP_TYPE=9
        specification=$(complete -p tcp-status)
        [[ $specification =~ -F\ ([^\ ]+) ]]
        "${BASH_REMATCH[1]}" tcp-status "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2> errors
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    home.run("bash", &format!("LINE={line:?}\n{PROGRAM}"))
}

#[test]
fn bash_completes_every_word() {
    assert_offered("bash", offered_by_bash);
}

#[test]
fn units_with_sockets_are_offered() {
    let (Some(netns), Some(cgroup)) = (Netns::for_test(), Cgroup::for_test(None, "a.service"))
    else {
        return;
    };
    netns
        .run(|| {
            let mut traffic = cgroup.spawn(&["bulk", "1"]);
            traffic.hold();
            let (tracker, home, name) = (
                Tracker::start_by_events(),
                ShellHome::new("bash"),
                cgroup.name(),
            );
            let socket = tracker.socket();
            let socket = socket.to_str().unwrap();
            let shown = printed(&["show", "--json", "--socket", socket]);
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            if let Some(reason) = shown["cgroups_reason"].as_str() {
                return skip_unprepared(reason);
            }
            let (first, path) = (&name[..name.len() - 6], format!("/{name}"));
            for (typed, wanted) in [(first, &name), (&path[..3], &path)] {
                let line = format!("tcp-status get listen --socket {socket} --cgroup {typed}");
                // The tracker reads names of cgroups for a part of the time only.
                wait(wanted, || {
                    let offered = offered_by_bash(&home, &line);
                    offered.is_none_or(|offered| offered.lines().any(|line| line == wanted))
                });
            }
            traffic.end();
        })
        .unwrap();
}

#[test]
fn fish_completes_every_word() {
    assert_offered("fish", |home, line| {
        let program = format!("source ./_tcp-status; complete --do-complete {line:?}");
        home.run("fish", &program)
    });
}

#[test]
fn zsh_completes_from_the_first_word_on() {
    let home = ShellHome::new("zsh");
    if home.run("zsh", "true").is_none() {
        return;
    }
    home.serve();
    let command = pty_process::blocking::Command::new("zsh")
        .arg("-f")
        .env("PATH", path())
        .env_remove("TCP_STATUS_SOCKET")
        .env("TERM", "dumb")
        .current_dir(home.path());
    let terminal = Terminal::start(command, (80, 24));
    terminal.send("fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; PS1='ready> '\n");
    terminal.wait_for("\nready> ");
    for (typed, completed) in [
        ("tcp-status get est", "tcp-status get established"),
        ("tcp-status zabbix un", "tcp-status zabbix uninstall"),
        ("tcp-status run --backend eb", "--backend ebpf"),
        ("tcp-status run --socket-group roo", "--socket-group root"),
        ("tcp-status listeners --socket s.s", "--socket s.sock"),
        (
            "tcp-status listeners --socket s.sock --port 54",
            "--port 5432",
        ),
        (
            "tcp-status get listen --socket s.sock --cgroup or",
            "--cgroup orders.service",
        ),
    ] {
        terminal.send(typed);
        terminal.send("\t");
        terminal.wait_for(completed);
        // Clears the line.
        terminal.send("\u{15}");
    }
}
