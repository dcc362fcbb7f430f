//! The real binary, as users and scripts start it.

mod answers;
mod complete;
mod generated;
mod refused;
mod rich;
mod run;
mod schema;
mod self_test;
mod terminal;
mod top;
mod tracker;
mod usage;
mod views;
mod who;

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

/// The binary, with nothing of the tests' own environment that could matter.
fn tcp_status() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-status"));
    for name in [
        "TCP_STATUS_SOCKET",
        "RUST_LOG",
        "RUST_LOG_STYLE",
        "NOTIFY_SOCKET",
        "NO_COLOR",
        "LC_ALL",
        "LC_CTYPE",
        "LANG",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn output<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    tcp_status().args(arguments).output().unwrap()
}

/// Standard output of a command that has to work.
fn printed<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let output = output(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*error), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that a command which has to fail says, without its newline.
fn complaint(output: &Output, status: i32) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{error}");
    let line = error
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("no line: {error:?}"));
    assert!(line.starts_with("tcp-status: "), "{line}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert!(line.len() < 700, "{line}");
    line.into()
}
