//! Programs of Prometheus, where they are installed.

use std::{
    io::{ErrorKind, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use tcp_status_testkit::skip_unprepared;

/// Where rules, configuration and dashboard are.
pub(crate) const TEMPLATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates");

/// Whether a program is there; says that it is not.
pub(crate) fn is_alive(program: &str) -> bool {
    match Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
    {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skip_unprepared(&format!(
                "no {program} on PATH; install Debian's prometheus"
            ));
            false
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// What promtool says, of a run that has to succeed; none where there is no promtool.
pub(crate) fn promtool(directory: &Path, arguments: &[&str], input: &str) -> Option<String> {
    if !is_alive("promtool") {
        return None;
    }
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(directory);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{arguments:?}: {output:?}"
    );
    Some(String::from_utf8(output.stdout).unwrap())
}
