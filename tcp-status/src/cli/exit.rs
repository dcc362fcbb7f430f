//! How the process ends: the one place that turns outcomes into exit statuses and errors into
//! the one line on standard error.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::{
    kernel::procfs,
    serve::{
        bind::BindError,
        client::ClientError,
        protocol::{ApiError, ApiErrorKind},
        socket_path::SocketPathError,
        unix::ServeError,
    },
};

/// Success.
pub const YES: u8 = 0;
/// The answer is "no".
pub const NO: u8 = 1;
/// Bad usage or a bad argument.
pub const USAGE: u8 = 2;
/// No tracker that answers.
pub const NO_TRACKER: u8 = 3;
/// The kernel or a permission refuses.
pub const REFUSED: u8 = 4;

/// What a command that worked has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Success.
    Yes,
    /// It worked, and the answer is "no".
    No,
}

/// The command line, or what it names, is wrong: what, on which object: why; cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Ends the program: says what went wrong, if anything, and gives the status.
pub fn code(done: anyhow::Result<Verdict>) -> ExitCode {
    match done {
        Ok(Verdict::Yes) => YES.into(),
        Ok(Verdict::No) => NO.into(),
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell.
            let _: io::Result<()> = writeln!(io::stderr(), "tcp-status: {}", line(&error));
            status(&error).into()
        }
    }
}

/// The exit status that belongs to an error.
fn status(error: &anyhow::Error) -> u8 {
    error.chain().find_map(known).unwrap_or(REFUSED)
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(refusal) = cause.downcast_ref::<ApiError>() {
        return Some(match refusal.kind {
            ApiErrorKind::BadArgument => USAGE,
            ApiErrorKind::Unavailable => NO_TRACKER,
            ApiErrorKind::Refused => REFUSED,
        });
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return Some(match error {
            ClientError::NoTracker { .. }
            | ClientError::NoAnswer { .. }
            | ClientError::Malformed { .. } => NO_TRACKER,
            ClientError::TooLong | ClientError::NotASocket(_) => USAGE,
            ClientError::Denied { .. } | ClientError::Connect { .. } => REFUSED,
        });
    }
    let path_error = match cause.downcast_ref::<ServeError>() {
        Some(ServeError::SocketPath(error)) => Some(error),
        _ => cause.downcast_ref::<SocketPathError>(),
    };
    if let Some(error) = path_error {
        return Some(match error {
            SocketPathError::System { .. } => REFUSED,
            SocketPathError::BadPath { .. }
            | SocketPathError::NotASocket(_)
            | SocketPathError::InUse { .. }
            | SocketPathError::UnknownGroup(_) => USAGE,
        });
    }
    if let Some(error) = cause.downcast_ref::<BindError>() {
        return Some(if error.is_argument() { USAGE } else { REFUSED });
    }
    if cause.is::<UsageError>() {
        return Some(USAGE);
    }
    cause.is::<procfs::Error>().then_some(REFUSED)
}

/// An error as one line without control characters, whatever a tracker or an argument put in.
fn line(error: &anyhow::Error) -> String {
    struct Plain(String);

    impl fmt::Write for Plain {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                if c.is_control() {
                    self.0.extend(c.escape_default());
                } else {
                    self.0.push(c);
                }
            }
            Ok(())
        }
    }

    let mut plain = Plain(String::new());
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Some errors tell their causes themselves.
        if !said.contains(&text) {
            let colon = if said.is_empty() { "" } else { ": " };
            // Writing into a string cannot fail.
            let _: fmt::Result = fmt::write(&mut plain, format_args!("{colon}{text}"));
            said += &text;
        }
    }
    plain.0
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::{NO_TRACKER, REFUSED, USAGE, UsageError, line, status};
    use crate::serve::protocol::{ApiError, ApiErrorKind};

    #[test]
    fn the_cause_decides_the_status() {
        let refusal = |kind| {
            let refusal = ApiError {
                kind,
                message: "no".into(),
            };
            Err::<(), _>(refusal).context("ask").unwrap_err()
        };
        assert_eq!(status(&refusal(ApiErrorKind::BadArgument)), USAGE);
        assert_eq!(status(&refusal(ApiErrorKind::Unavailable)), NO_TRACKER);
        assert_eq!(status(&refusal(ApiErrorKind::Refused)), REFUSED);
        assert_eq!(status(&UsageError("x".into()).into()), USAGE);
        assert_eq!(status(&anyhow!("anything else")), REFUSED);
    }

    #[test]
    fn errors_are_one_line() {
        let error = anyhow!("b\n\x1b[31m\u{9b}é").context("a\r\n");
        assert_eq!(line(&error), "a\\r\\n: b\\n\\u{1b}[31m\\u{9b}é");
        let told = anyhow!("why").context("what: why; cure");
        assert_eq!(line(&told), "what: why; cure");
    }
}
