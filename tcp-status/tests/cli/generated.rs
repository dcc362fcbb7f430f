//! Help, version, completions and manual: there, and about every command.

use std::{io, process::Stdio};

use crate::{printed, tcp_status};

const COMMANDS: [&str; 11] = [
    "run",
    "get",
    "show",
    "top",
    "listeners",
    "discover",
    "verify",
    "check",
    "zabbix",
    "completions",
    "man",
];

#[test]
fn help_and_version_are_on_standard_output() {
    let help = printed(&["--help"]);
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let own = printed(&[command, "--help"]);
        assert!(
            own.contains(&format!("Usage: tcp-status {command}")),
            "{own}"
        );
    }
    assert!(help.contains("Exit status: 0 success"), "{help}");
    let version = printed(&["--version"]);
    assert_eq!(
        version,
        format!("tcp-status {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_manual_names_every_command_and_option() {
    let manual = printed(&["man"]);
    let text = manual.replace("\\-", "-");
    for word in COMMANDS.into_iter().chain([
        "socket-group",
        "audit-interval",
        "all-netns",
        "zabbix-allow",
        "uninstall",
    ]) {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(manual.contains(".TH tcp-status 8"), "{manual}");
    assert!(manual.contains(".SH FILES"), "{manual}");
    assert!(manual.contains("{#ADDRESSES}"), "{manual}");
}

#[test]
fn every_shell_has_its_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("TCP_STATUS_COMPLETE"), "{script}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for arguments in [
        &["man"] as &[_],
        &["completions", "zsh"],
        &["--help"],
        &["run", "--help"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = tcp_status()
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output();
        let output = output.unwrap();
        assert_eq!(
            (output.status.code(), output.stderr.len()),
            (Some(0), 0),
            "{arguments:?}"
        );
    }
}
