//! Clap's errors in the one line that every error has here. Help and version stay as clap makes
//! them.

use std::{io::ErrorKind::BrokenPipe, process::ExitCode};

use clap::{
    Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::exit::{self, UsageError};
use crate::view::OutputError;

/// How much of an argument is shown, in characters.
const SHOWN: usize = 60;

/// No message is as long, in bytes.
#[cfg(any(test, fuzzing))]
const LONGEST: usize = 700;

/// Prints help where it is wanted, or where nothing else is; else why it cannot be done.
pub(super) fn answer(error: Error) -> ExitCode {
    if !matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return exit::code(Err(UsageError(line(error)).into()));
    }
    match error.print() {
        Err(why) if why.kind() != BrokenPipe => exit::code(Err(OutputError::from(why).into())),
        _ if error.use_stderr() => exit::USAGE.into(),
        _ => exit::YES.into(),
    }
}

/// The first paragraph of clap's message is the cause; what clap suggests is the hint.
fn line(mut error: Error) -> String {
    let names = |value| match value {
        ContextValue::String(name) => vec![name],
        ContextValue::Strings(names) => names,
        _ => Vec::new(),
    };
    let usage = error.remove(ContextKind::Usage);
    let valid = error.remove(ContextKind::ValidValue).map(names);
    let suggested = [
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedArg,
        ContextKind::SuggestedValue,
    ]
    .map(|kind| error.remove(kind).map(names));
    let suggested: Vec<_> = suggested.into_iter().flatten().flatten().collect();
    let typed: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(shown(text)))),
            _ => None,
        })
        .collect();
    for (kind, text) in typed {
        error.insert(kind, text);
    }
    let mut hints = Vec::new();
    if !suggested.is_empty() {
        hints.push(format!("did you mean {}?", suggested.join(" or ")));
    }
    if let Some(valid) = valid.filter(|valid| !valid.is_empty()) {
        hints.push(format!("use one of {}", valid.join(", ")));
    }
    // The parsers of values give hints of their own.
    if hints.is_empty() && error.kind() != ErrorKind::ValueValidation {
        hints.push(format!("see {} --help", command(usage)));
    }
    let text = error.render().to_string();
    let cause = text.split("\n\n").next().unwrap_or_default();
    let cause: Vec<_> = cause.lines().map(str::trim).collect();
    let cause = cause.join(" ");
    let cause = cause.strip_prefix("error: ").unwrap_or(&cause);
    let separator = if hints.is_empty() { "" } else { "; " };
    format!(
        "cannot parse arguments: {cause}{separator}{}",
        hints.join(" ")
    )
}

/// The command whose usage this is: `Usage: tcp-status get [OPTIONS] <STATE>`.
fn command(usage: Option<ContextValue>) -> String {
    let usage = match usage {
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        _ => String::new(),
    };
    let words = usage.split_whitespace().skip(2);
    let names = words.take_while(|word| word.starts_with(char::is_alphabetic));
    let mut all = vec!["tcp-status"];
    all.extend(names);
    all.join(" ")
}

/// Without control characters, and not too long.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// A command line, an argument to each line of `bytes`: what is refused is refused in one line.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use std::{
        ffi::{OsStr, OsString},
        os::unix::ffi::OsStrExt as _,
    };

    use clap::Parser as _;

    let arguments = std::iter::once(&b"tcp-status"[..])
        .chain(bytes.split(|byte| *byte == b'\n'))
        .map(|argument| OsString::from(OsStr::from_bytes(argument)));
    if let Err(error) = super::args::Cli::try_parse_from(arguments)
        && !matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        )
    {
        let line = line(error);
        assert!(line.len() < LONGEST && !line.contains('\n'), "{line:?}");
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{LONGEST, line};
    use crate::cli::args::Cli;

    fn said(arguments: &[&str]) -> String {
        let all = ["tcp-status"].iter().chain(arguments);
        let said = line(Cli::try_parse_from(all).unwrap_err());
        let said = said.strip_prefix("cannot parse arguments: ");
        said.expect("the action and its object").into()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_error_names_cause_and_hint() {
        let states = "use one of established, synsent, synrecv, finwait1, finwait2, timewait, \
                      closed, closewait, lastack, listen, closing";
        let cases: [(&[&str], &str); 19] = [
            (
                &["shwo"],
                "unrecognized subcommand 'shwo'; did you mean who or show?",
            ),
            (
                &["frobnicate"],
                "unrecognized subcommand 'frobnicate'; see tcp-status --help",
            ),
            (
                &["zabbix", "instal"],
                "unrecognized subcommand 'instal'; did you mean uninstall or install?",
            ),
            (
                &["--port"],
                "unexpected argument '--port' found; see tcp-status --help",
            ),
            (
                &["get"],
                "the following required arguments were not provided: <STATE>; \
                 see tcp-status get --help",
            ),
            (
                &["get", "foo"],
                &format!("invalid value 'foo' for '<STATE>'; {states}"),
            ),
            (
                &["get", "TIME_WAI"],
                &format!("invalid value 'TIME_WAI' for '<STATE>'; did you mean timewait? {states}"),
            ),
            (
                &["get", ""],
                &format!("a value is required for '<STATE>' but none was supplied; {states}"),
            ),
            (
                &["get", "listen", "x"],
                &format!("invalid value 'x' for '[STATE]...'; {states}"),
            ),
            (
                &["get", "listen", "--port", "0"],
                "invalid value '0' for '--port <PORT>': not a tcp port; use 1 to 65535",
            ),
            (
                &["get", "listen", "--port="],
                "invalid value '' for '--port <PORT>': not a tcp port; use 1 to 65535",
            ),
            (
                &["get", "listen", "--port"],
                "a value is required for '--port <PORT>' but none was supplied; \
                 see tcp-status --help",
            ),
            (
                &["get", "listen", "--family", "5"],
                "invalid value '5' for '--family <4|6>'; use one of 4, 6",
            ),
            (
                &["get", "listen", "--prot", "1"],
                "unexpected argument '--prot' found; did you mean --port?",
            ),
            (
                &["show", "--socket", ""],
                "invalid value '' for '--socket <PATH>': empty; name a file",
            ),
            (
                &["show", "--json", "--json"],
                "the argument '--json' cannot be used multiple times; see tcp-status show --help",
            ),
            (
                &["show", "--all-netns", "--netns", "1"],
                "the argument '--all-netns' cannot be used with '--netns <NS>'; \
                 see tcp-status show --help",
            ),
            (
                &["run", "--backend", "perf"],
                "invalid value 'perf' for '--backend <BACKEND>'; use one of auto, ebpf, scan",
            ),
            (
                &["run", "--backend", "epbf"],
                "invalid value 'epbf' for '--backend <BACKEND>'; did you mean ebpf? \
                 use one of auto, ebpf, scan",
            ),
        ];
        for (arguments, expected) in cases {
            assert_eq!(said(arguments), expected);
        }
    }

    #[test]
    fn what_was_typed_is_cut_and_made_harmless() {
        let long = "\u{1b}[2J\n\n".repeat(1000);
        for arguments in [
            &["get", &long] as &[&str],
            &["get", "listen", "--netns", &long],
            &[&long],
        ] {
            let said = said(arguments);
            assert!(
                said.len() < LONGEST && !said.contains(char::is_control),
                "{said}"
            );
            assert!(said.contains('…'), "{said}");
        }
    }
}
