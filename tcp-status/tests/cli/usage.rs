//! Bad usage: status 2, one line, nothing on standard output, and nobody is asked.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use crate::{complaint, output, tcp_status};

const STATES: &str = "established, synsent, synrecv, finwait1, finwait2, timewait, closed, \
                      closewait, lastack, listen, closing";

#[test]
fn every_bad_argument_is_one_line() {
    let long = "x".repeat(100_000);
    let path = format!("/tmp/{}", "x".repeat(200));
    let cases: &[(&[&str], &str)] = &[
        (
            &[],
            "on command: missing; use one of run, get, show, top, listeners, discover, verify,",
        ),
        (&[""], "on command \"\": unknown"),
        (
            &["frobnicate"],
            "on command \"frobnicate\": unknown; use one of run, get",
        ),
        (&["--frobnicate"], "on option \"--frobnicate\": unknown"),
        (&["get"], STATES),
        (
            &["get", ""],
            "get, on state \"\": not a tcp state; use one of established",
        ),
        (&["get", "foo"], STATES),
        (&["get", "estab lished"], STATES),
        (&["get", "\u{1b}[2J\n\u{7}"], "\\u{1b}[2J\\n\\u{7}"),
        (&["get", &long], "xxx…\""),
        (
            &["get", "listen", "closed"],
            "get, on argument \"closed\": one too many",
        ),
        (&["get", "listen", "--port", "0"], "use 1 to 65535"),
        (
            &["get", "listen", "--port", "70000"],
            "get, on --port \"70000\": not a tcp port",
        ),
        (&["get", "listen", "--port", "abc"], "use 1 to 65535"),
        (&["get", "listen", "--port", "-1"], "use 1 to 65535"),
        (&["get", "listen", "--port", ""], "use 1 to 65535"),
        (
            &["get", "listen", "--port"],
            "get, on --port: its value is missing",
        ),
        (&["get", "listen", "--family", "5"], "use 4 or 6"),
        (&["get", "listen", "--family", "ipv4"], "use 4 or 6"),
        (
            &["get", "listen", "--netns", ""],
            "use a name, an inode number or a PID",
        ),
        (
            &["get", "listen", "--netns", &long],
            "not a network namespace",
        ),
        (
            &["get", "listen", "--json"],
            "get, on option \"--json\": unknown",
        ),
        (&["get", "-4", "listen"], "get, on option \"-4\": unknown"),
        (
            &["show", "listen"],
            "show, on argument \"listen\": one too many",
        ),
        (&["show", "--port", "65536"], "show, on --port \"65536\""),
        (&["show", "--all-netns", "--netns", "1"], "leave one out"),
        (&["show", "--json=yes"], "show, on "),
        (
            &["show", "--socket", ""],
            "show, on --socket \"\": empty; name a file",
        ),
        (&["show", "--socket", "/"], "a directory, not a file"),
        (
            &["show", "--socket", &path],
            "205 bytes long, at most 107 fit",
        ),
        (
            &["verify", "--socket", &long],
            "100000 bytes long, at most 107 fit",
        ),
        (
            &["verify", "--port", "80"],
            "verify, on option \"--port\": unknown",
        ),
        (
            &["run", "--socket", ""],
            "run, on --socket \"\": empty; name a file",
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
        (
            &["run", "--netns", "other"],
            "run, on --netns \"other\": not possible",
        ),
        (
            &["top"],
            "top, on standard output: not a terminal; use tcp-status show",
        ),
        (
            &["top", "--interval", "0"],
            "top, on --interval \"0\": not a time; use 100ms to 1h",
        ),
        (&["top", "--interval", "-1"], "use 100ms to 1h"),
        (&["top", "--json"], "top, on option \"--json\": unknown"),
        (&["top", "--netns", ""], "use a name, an inode"),
        (&["listeners", "--port", "0"], "use 1 to 65535"),
        (
            &["listeners", "--window", "601"],
            "listeners, on --window \"601\": not a window; use 1 to 600",
        ),
        (
            &["listeners", "--all-netns"],
            "listeners, on option \"--all-netns\": unknown",
        ),
        (&["listeners", "--netns", ""], "use a name, an inode"),
        (
            &["discover", "--json"],
            "discover, on option \"--json\": unknown",
        ),
        (&["discover", "--all-netns", "--netns=1"], "leave one out"),
        (
            &["check", "now"],
            "check, on argument \"now\": one too many",
        ),
        (&["completions"], "completions, on shell: missing"),
        (
            &["completions", "cmd"],
            "use one of bash, elvish, fish, powershell, zsh",
        ),
        (&["man", "--raw"], "man, on option \"--raw\": unknown"),
    ];
    for (arguments, part) in cases {
        let line = complaint(&output(arguments), 2);
        assert!(line.contains(part), "{arguments:?}: {line}");
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
