//! Help, version, completions and manual: there, and about every command.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::ValueEnum;
use tcp_status::cli::template::Template;
use tcp_status_testkit::skip_unprepared;

use crate::{printed, tcp_status};

const COMMANDS: [&str; 17] = [
    "run",
    "get",
    "show",
    "top",
    "listeners",
    "ports",
    "cgroups",
    "who",
    "wait",
    "history",
    "discover",
    "verify",
    "check",
    "zabbix",
    "template",
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
    let sections = manual.lines().filter_map(|line| line.strip_prefix(".SH "));
    let sections: Vec<_> = sections.collect();
    assert_eq!(
        sections,
        [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "COMMANDS",
            "EXIT STATUS",
            "ENVIRONMENT",
            "FILES",
            "EXAMPLES",
            "SEE ALSO"
        ]
    );
    assert!(manual.contains("{#ADDRESSES}"), "{manual}");
}

/// Formats the page as `man` does, and asks the formatter for its warnings.
#[test]
fn the_manual_has_no_formatting_error() {
    let checkers: [&[&str]; 2] = [
        &["groff", "-man", "-Tutf8", "-ww", "-z"],
        &["mandoc", "-T", "lint", "-W", "warning"],
    ];
    let is_there = |program: &str| {
        let found = Command::new(program).arg("--version").output();
        found.is_ok()
    };
    let Some(checker) = checkers.iter().find(|checker| is_there(checker[0])) else {
        return skip_unprepared("neither groff nor mandoc is installed");
    };
    let mut page = tempfile::NamedTempFile::new().unwrap();
    page.write_all(printed(&["man"]).as_bytes()).unwrap();
    let checked = Command::new(checker[0])
        .args(&checker[1..])
        .arg(page.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned()
        + &String::from_utf8_lossy(&checked.stdout);
    assert_eq!(said, "", "{checker:?}");
}

#[test]
fn every_shell_has_its_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("TCP_STATUS_COMPLETE"), "{script}");
    }
}

/// The files that `template` does not print: tests, and what makes the thresholds.
const NOT_TEMPLATES: [&str; 2] = ["rules.json", "tcp-status.rules_test.yml"];

#[test]
fn every_template_is_printed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let mut files: BTreeSet<_> = files(&folder)
        .into_iter()
        .filter(|path| !NOT_TEMPLATES.iter().any(|name| path.ends_with(name)))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let names = Template::value_variants().iter();
    for name in names.filter_map(ValueEnum::to_possible_value) {
        let text = printed(&["template", name.get_name()]);
        assert!(files.remove(&text), "{}", name.get_name());
    }
    assert_eq!(files.len(), 0, "{files:?}");
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
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
