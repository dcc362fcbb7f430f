//! From clap's errors, which have many lines, to the one line that every error has here. Help and
//! version stay as clap makes them.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
};

use clap::{
    CommandFactory as _, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};
use tcp_status_common::state::UnknownState;

use super::{
    args::Cli,
    exit::{Usage, Verdict},
};
use crate::output::print;

/// How much of an argument is shown.
const SHOWN: usize = 60;

/// No message is as long, in bytes.
#[cfg(any(test, fuzzing))]
const LONGEST: usize = 700;

/// What was asked for, where that is help; else why it cannot be done.
pub(super) fn answer(error: &Error, arguments: &[OsString]) -> anyhow::Result<Verdict> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            print(&if io::stdout().is_terminal() {
                text.ansi().to_string()
            } else {
                text.to_string()
            })?;
            Ok(Verdict::Yes)
        }
        _ => Err(Usage(line(error, arguments)).into()),
    }
}

/// One line: what, on which object: why; cure.
fn line(error: &Error, arguments: &[OsString]) -> String {
    let command = command(arguments);
    let what = command.as_deref().unwrap_or("start");
    let help = match &command {
        Some(command) => format!("see: tcp-status {command} --help"),
        None => "see: tcp-status --help".into(),
    };
    let argument = text(error, ContextKind::InvalidArg);
    let value = text(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let why = why.unwrap_or_else(|| first_line(error));
            format!("{what}, on {} {}: {why}", object(&argument), quoted(&value))
        }
        ErrorKind::InvalidValue if value.is_empty() && !argument.starts_with('<') => {
            format!(
                "{what}, on {}: its value is missing; {help}",
                object(&argument)
            )
        }
        ErrorKind::InvalidValue => format!(
            "{what}, on {} {}: not possible; use one of {}",
            object(&argument),
            quoted(&value),
            text(error, ContextKind::ValidValue)
        ),
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("{what}, on option {}: unknown; {help}", quoted(&argument))
        }
        ErrorKind::UnknownArgument => {
            format!(
                "{what}, on argument {}: one too many; {help}",
                quoted(&argument)
            )
        }
        ErrorKind::InvalidSubcommand => {
            let command = text(error, ContextKind::InvalidSubcommand);
            format!(
                "{what}, on command {}: unknown; use one of {}",
                quoted(&command),
                commands()
            )
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("{what}, on command: missing; use one of {}", commands())
        }
        ErrorKind::MissingRequiredArgument if argument.contains("<STATE>") => {
            format!("{what}, on state: missing; {}", states())
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{what}, on {}: missing; {help}", object(&argument))
        }
        ErrorKind::ArgumentConflict => match text(error, ContextKind::PriorArg) {
            prior if prior == argument || prior.is_empty() => {
                format!(
                    "{what}, on {}: given twice; give it once",
                    object(&argument)
                )
            }
            prior => {
                let prior = object(&prior);
                format!(
                    "{what}, on {}: excludes {prior}; leave one out",
                    object(&argument)
                )
            }
        },
        ErrorKind::InvalidUtf8 => {
            format!("{what}, on arguments: not valid UTF-8; {help}")
        }
        _ => format!("{what}, on arguments: {}; {help}", first_line(error)),
    }
}

/// The command among the arguments.
fn command(arguments: &[OsString]) -> Option<String> {
    let first = arguments.iter().skip(1).find_map(|argument| {
        let text = argument.to_str()?;
        (!text.starts_with('-')).then_some(text)
    })?;
    Cli::command()
        .find_subcommand(first)
        .map(|command| command.get_name().into())
}

fn commands() -> String {
    let command = Cli::command();
    let names: Vec<_> = command
        .get_subcommands()
        .map(|command| command.get_name())
        .collect();
    names.join(", ")
}

/// The cure of an unknown state.
fn states() -> String {
    let text = UnknownState.to_string();
    text.split_once("; ")
        .map_or(text.clone(), |(_, cure)| cure.into())
}

/// `--port <PORT>` is `--port`, `<STATE>` is `state`.
fn object(argument: &str) -> String {
    let name = argument.split_whitespace().next().unwrap_or("arguments");
    match name
        .strip_prefix('<')
        .and_then(|name| name.strip_suffix('>'))
    {
        Some(name) => name.to_lowercase(),
        None => name.split('=').next().unwrap_or(name).into(),
    }
}

fn text(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    }
}

fn first_line(error: &Error) -> String {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).into()
}

/// In quotation marks, without control characters, and not too long.
fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// A command line, an argument to each line of `bytes`: what is refused is refused in one line.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt as _;

    use clap::Parser as _;

    let arguments: Vec<_> = std::iter::once(&b"tcp-status"[..])
        .chain(bytes.split(|byte| *byte == b'\n'))
        .map(|argument| OsString::from(std::ffi::OsStr::from_bytes(argument)))
        .collect();
    if let Err(error) = Cli::try_parse_from(&arguments)
        && !matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        )
    {
        let line = line(&error, &arguments);
        assert!(line.len() < LONGEST && !line.contains('\n'), "{line:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, line};

    fn said(arguments: &[&str]) -> String {
        let all: Vec<OsString> = ["tcp-status"]
            .iter()
            .chain(arguments)
            .map(OsString::from)
            .collect();
        line(&Cli::try_parse_from(&all).unwrap_err(), &all)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_error_names_command_object_and_cure() {
        let states = "use one of established, synsent, synrecv, finwait1, finwait2, timewait, \
                      closed, closewait, lastack, listen, closing";
        let commands = "use one of run, get, show, top, listeners, discover, verify, check, zabbix, completions, man";
        let cases: [(&[&str], &str); 16] = [
            (&[], &format!("start, on command: missing; {commands}")),
            (
                &["gte"],
                &format!("start, on command \"gte\": unknown; {commands}"),
            ),
            (
                &["--port"],
                "start, on option \"--port\": unknown; see: tcp-status --help",
            ),
            (&["get"], &format!("get, on state: missing; {states}")),
            (
                &["get", "foo"],
                &format!("get, on state \"foo\": not a tcp state; {states}"),
            ),
            (
                &["get", ""],
                &format!("get, on state \"\": not a tcp state; {states}"),
            ),
            (
                &["get", "listen", "x"],
                "get, on argument \"x\": one too many; see: tcp-status get --help",
            ),
            (
                &["get", "listen", "--port", "0"],
                "get, on --port \"0\": not a tcp port; use 1 to 65535",
            ),
            (
                &["get", "listen", "--port="],
                "get, on --port \"\": not a tcp port; use 1 to 65535",
            ),
            (
                &["get", "listen", "--port"],
                "get, on --port: its value is missing; see: tcp-status get --help",
            ),
            (
                &["get", "listen", "--family", "5"],
                "get, on --family \"5\": not an address family; use 4 or 6",
            ),
            (
                &["get", "listen", "--prot", "1"],
                "get, on option \"--prot\": unknown; see: tcp-status get --help",
            ),
            (
                &["show", "--socket", ""],
                "show, on --socket \"\": empty; name a file",
            ),
            (
                &["show", "--json", "--json"],
                "show, on --json: given twice; give it once",
            ),
            (
                &["show", "--all-netns", "--netns", "1"],
                "show, on --all-netns: excludes --netns; leave one out",
            ),
            (
                &["run", "--backend", "perf"],
                "run, on --backend \"perf\": not possible; use one of auto, ebpf, scan",
            ),
        ];
        for (arguments, expected) in cases {
            assert_eq!(said(arguments), expected);
        }
    }

    #[test]
    fn what_was_typed_is_cut_and_made_harmless() {
        let long = "\u{1b}[2J\n".repeat(1000);
        for arguments in [
            &["get", &long] as &[&str],
            &["get", "listen", "--netns", &long],
            &[&long],
        ] {
            let said = said(arguments);
            assert!(
                said.len() < 700 && !said.contains(char::is_control),
                "{said}"
            );
            assert!(said.contains('…'), "{said}");
        }
    }
}
