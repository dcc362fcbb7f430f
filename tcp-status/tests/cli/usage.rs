//! Bad usage: status 2, one line, nothing on standard output, and nobody is asked.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use crate::{complaint, output, tcp_status};

const STATES: &str = "established, synsent, synrecv, finwait1, finwait2, timewait, closed, \
                      closewait, lastack, listen, closing";

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_bad_argument_is_one_line() {
    let long = "x".repeat(100_000);
    let path = format!("/tmp/{}", "x".repeat(200));
    let cases: &[(&[&str], &str)] = &[
        (&[""], "subcommand ''"),
        (
            &["frobnicate"],
            "subcommand 'frobnicate'; see tcp-status --help",
        ),
        (&["shwo"], "subcommand 'shwo'; did you mean who or show?"),
        (&["--frobnicate"], "argument '--frobnicate'"),
        (&["get"], "not provided: <STATE>; see tcp-status get --help"),
        (&["get", ""], STATES),
        (&["get", "foo"], STATES),
        (&["get", "estab lished"], STATES),
        (&["get", "establishd"], "did you mean established?"),
        (&["get", "TIME-WAI"], "did you mean timewait?"),
        (&["get", "\u{1b}[2J\n\u{7}"], "'\\u{1b}[2J\\n\\u{7}'"),
        (&["get", &long], "xxx…'"),
        (&["get", "listen", "clsed"], "did you mean closed?"),
        (&["get", "listen", "--port", "0"], "use 1 to 65535"),
        (
            &["get", "listen", "--port", "70000"],
            "'70000' for '--port <PORT>': not a tcp port",
        ),
        (&["get", "listen", "--port", "abc"], "use 1 to 65535"),
        (&["get", "listen", "--port", "-1"], "use 1 to 65535"),
        (&["get", "listen", "--port", ""], "use 1 to 65535"),
        (
            &["get", "listen", "--port"],
            "a value is required for '--port <PORT>'",
        ),
        (&["get", "listen", "--prot=80"], "did you mean --port?"),
        (&["get", "listen", "--family", "5"], "use one of 4, 6"),
        (&["get", "listen", "--family", "ipv5"], "use one of 4, 6"),
        (
            &["get", "listen", "--netns", ""],
            "use a name, an inode number or a PID",
        ),
        (
            &["get", "listen", "--netns", &long],
            "not a network namespace",
        ),
        (&["get", "listen", "--json"], "unexpected argument '--json'"),
        (&["get", "-4", "listen"], "unexpected argument '-4'"),
        (
            &["show", "listen"],
            "unexpected argument 'listen' found; see tcp-status show --help",
        ),
        (&["show", "--port", "65536"], "'65536' for '--port <PORT>'"),
        (
            &["show", "--all-netns", "--netns", "1"],
            "cannot be used with '--netns <NS>'",
        ),
        (
            &["show", "--json=yes"],
            "unexpected value 'yes' for '--json'",
        ),
        (
            &["show", "--window", "25h"],
            "use whole seconds up to 24 hours",
        ),
        (
            &["listeners", "--window", "20m"],
            "use whole seconds up to 10 minutes",
        ),
        (
            &["show", "--socket", ""],
            "'--socket <PATH>': empty; name a file",
        ),
        (&["show", "--socket", "/"], "a directory, not a file"),
        (
            &["show", "--socket", &path],
            "205 bytes long, at most 107 fit",
        ),
        (
            &["show", "--socket", "/etc/passwd"],
            "cannot connect to /etc/passwd: not a socket; ",
        ),
        (
            &["verify", "--socket", &long],
            "100000 bytes long, at most 107 fit",
        ),
        (&["verify", "--port", "80"], "unexpected argument '--port'"),
        (&["run", "--socket", ""], "empty; name a file"),
        (
            &["run", "--metrics-ports", "many"],
            "use 0 to 65535, or off",
        ),
        (
            &["run", "--metrics-cgroups", "-1"],
            "use 0 to 65535, or off",
        ),
        (
            &["run", "--metrics-namespaces", "65536"],
            "use 0 to 65535, or off",
        ),
        (
            &["run", "--socket-mode", "0999"],
            "use an octal number up to 0777",
        ),
        (
            &["run", "--socket-mode", "4755"],
            "use an octal number up to 0777",
        ),
        (&["run", "--socket-group", ""], "use the name of a group"),
        (
            &[
                "run",
                "--socket-group",
                "no-such-group",
                "--socket",
                "/tmp/no-such/s",
            ],
            "groupadd",
        ),
        (&["run", "--audit-interval", "soon"], "use 10ms to 1day"),
        (&["run", "--audit-interval", "-1"], "use 10ms to 1day"),
        (&["run", "--audit-share", "0"], "use 0.001 to 100"),
        (&["run", "--split-interval", "0"], "use 10ms to 1day"),
        (&["run", "--backend", "perf"], "use one of auto, ebpf, scan"),
        (&["run", "--backend", "epbf"], "did you mean ebpf?"),
        (
            &["run", "--netns", "other"],
            "'other' for '--netns <NETNS>'; use one of self, all",
        ),
        (
            &["top"],
            "cannot show top: standard output is not a terminal; use tcp-status show",
        ),
        (&["top", "--interval", "0"], "not a time; use 100ms to 1h"),
        (&["top", "--interval", "-1"], "use 100ms to 1h"),
        (&["top", "--json"], "unexpected argument '--json'"),
        (&["top", "--netns", ""], "use a name, an inode"),
        (&["listeners", "--port", "0"], "use 1 to 65535"),
        (
            &["listeners", "--window", "601"],
            "not a window; use whole seconds",
        ),
        (
            &["listeners", "--all-netns"],
            "unexpected argument '--all-netns'",
        ),
        (&["listeners", "--netns", ""], "use a name, an inode"),
        (&["ports", "--sort", "closwait"], "did you mean closewait?"),
        (&["wait", "established"], "<--above <N>|--below <N>>"),
        (
            &["wait", "established", "--above", "1", "--below", "2"],
            "cannot be used with",
        ),
        (&["wait", "established", "--below", "-1"], "use 0 or more"),
        (
            &["wait", "established", "--below", "1", "--for", "soon"],
            "use up to 30days",
        ),
        (&["ports", "--limit", "0"], "use 1 to 1000000"),
        (&["ports", "--port", "1"], "unexpected argument '--port'"),
        (&["discover", "--json"], "unexpected argument '--json'"),
        (
            &["discover", "--all-netns", "--netns=1"],
            "cannot be used with",
        ),
        (
            &["check", "now"],
            "'now' found; see tcp-status check --help",
        ),
        (&["zabbix", "instal"], "did you mean"),
        (
            &["completions"],
            "<SHELL>; see tcp-status completions --help",
        ),
        (
            &["completions", "cmd"],
            "use one of bash, elvish, fish, powershell, zsh",
        ),
        (&["man", "--raw"], "unexpected argument '--raw'"),
    ];
    for (arguments, part) in cases {
        let line = complaint(&output(arguments), 2);
        assert!(line.contains(part), "{arguments:?}: {line}");
        assert!(line.starts_with("tcp-status: cannot "), "{line}");
    }
}

#[test]
fn without_a_command_there_is_help() {
    for (arguments, commands) in [
        (&[] as &[_], ["\n  get ", "\n  show "]),
        (&["zabbix"], ["\n  install ", "\n  check "]),
    ] {
        let output = output(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        let help = String::from_utf8(output.stderr).unwrap();
        for part in ["\nUsage: tcp-status", "--help"].iter().chain(&commands) {
            assert!(help.contains(part), "{part}: {help}");
        }
        assert!(!help.contains("error:"), "{help}");
    }
}

#[test]
fn families_and_times_are_spelled_as_usual() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let socket = socket.to_str().unwrap();
    for spelled in ["4", "6", "ipv4", "IPv6", "v4", "v6", "inet", "inet6"] {
        let arguments = ["get", "listen", "--family", spelled, "--socket", socket];
        complaint(&output(&arguments), 3);
    }
    for time in ["1", "90", "90s", "5m", "10m", "1m 30s"] {
        for command in ["show", "listeners"] {
            complaint(&output(&[command, "--window", time, "--socket", socket]), 3);
        }
    }
}

#[test]
fn arguments_need_not_be_utf8_to_be_refused() {
    let bytes = OsStr::from_bytes(b"\xff\xfe\x1b");
    for arguments in [
        vec![OsStr::new("get"), bytes],
        vec![OsStr::new("show"), OsStr::new("--port"), bytes],
        vec![bytes],
    ] {
        complaint(&output(&arguments), 2);
    }
}

#[test]
fn the_environment_is_checked_like_the_option() {
    let from_environment = |value: &str| {
        tcp_status()
            .args(["get", "listen"])
            .env("TCP_STATUS_SOCKET", value)
            .output()
            .unwrap()
    };
    assert!(complaint(&from_environment(""), 2).contains("empty; name a file"));
    let missing = complaint(&from_environment("/nowhere/from-env"), 3);
    assert!(missing.contains("/nowhere/from-env"), "{missing}");
}
