//! One command: printed, run, or read.

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// A [`Step`] of the given parts, each as [`Words`] says.
macro_rules! step {
    ($($part:expr),+ $(,)?) => { $crate::step::Step::default()$(.with($part))+ };
}

/// Runs a [`step!`] to its end.
macro_rules! run {
    ($($part:expr),+ $(,)?) => { $crate::step::step!($($part),+).run() };
}

pub(crate) use {run, step};

/// A command that can be printed so that a shell takes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    /// The program, then its arguments.
    words: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    folder: Option<PathBuf>,
}

/// A part of a command line: a `&str` is split at spaces, anything else is one word.
pub(crate) trait Words {
    fn append_to(self, words: &mut Vec<OsString>);
}

impl Words for &str {
    fn append_to(self, words: &mut Vec<OsString>) {
        words.extend(self.split_whitespace().map(OsString::from));
    }
}

macro_rules! one_word {
    ($($kind:ty)+) => {$(impl Words for $kind {
        fn append_to(self, words: &mut Vec<OsString>) {
            words.push(self.into());
        }
    })+};
}
one_word!(String &String OsString &OsString PathBuf &PathBuf &Path);

impl<T: Words> Words for Vec<T> {
    fn append_to(self, words: &mut Vec<OsString>) {
        self.into_iter().for_each(|one| one.append_to(words));
    }
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

impl Step {
    pub(crate) fn with(mut self, words: impl Words) -> Self {
        words.append_to(&mut self.words);
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    pub(crate) fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// As a [`Command`] without input, for what the methods here do not cover.
    pub(crate) fn command(&self) -> Command {
        let (program, args) = self.words.split_first().expect("a step has a program");
        let mut command = Command::new(program);
        command.args(args).envs(self.env.iter().cloned());
        command.stdin(Stdio::null());
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// Runs it with its output on stderr: stdout is data.
    pub(crate) fn run(&self) -> Result<()> {
        let status = self.command().stdout(io::stderr()).status();
        self.expect_success(status.with_context(|| format!("cannot start `{self}`"))?)
    }

    /// Runs it and returns what it printed on stdout, without the last line break.
    pub(crate) fn read(&self) -> Result<String> {
        let printed = String::from_utf8(self.bytes()?)
            .with_context(|| format!("`{self}` printed no text"))?;
        Ok(printed.trim_end().to_owned())
    }

    /// As [`Self::read`], unchanged.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let output = self.output(Stdio::inherit())?;
        self.expect_success(output.status)?;
        Ok(output.stdout)
    }

    /// As [`Self::read`], silently; `None` if it cannot be started or fails.
    pub(crate) fn try_read(&self) -> Option<String> {
        let output = self.output(Stdio::null()).ok()?;
        let printed = String::from_utf8(output.stdout).ok()?;
        output
            .status
            .success()
            .then(|| printed.trim_end().to_owned())
    }

    /// Runs it and collects stdout, and stderr where it is piped.
    pub(crate) fn output(&self, stderr: Stdio) -> Result<Output> {
        let output = self.command().stderr(stderr).output();
        output.with_context(|| format!("cannot start `{self}`"))
    }

    fn expect_success(&self, status: ExitStatus) -> Result<()> {
        ensure!(
            status.success(),
            "`{self}` failed ({status}); what it printed above says why"
        );
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env = self.env.iter();
        let env = env.map(|(name, value)| format!("{name}={}", quoted(value)));
        let words: Vec<_> = env
            .chain(self.words.iter().map(|word| quoted(word)))
            .collect();
        formatter.write_str(&words.join(" "))
    }
}

/// As a shell takes it; cargo's encoded flags are separated by a control character.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=+./:,@".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into_owned()
    } else if word.contains('\x1f') {
        let escaped = word.escape_debug().to_string();
        format!("$'{}'", escaped.replace("\\u{1f}", r"\x1f"))
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn prints_as_a_shell_takes_it() {
        let words = ["it's", "", "a\x1f'b\\"].map(str::to_owned);
        let step = step!("cargo  install", Vec::from(words)).env("LLVM_PREFIX", "/usr/lib/llvm 22");
        assert_eq!(
            step.to_string(),
            r"LLVM_PREFIX='/usr/lib/llvm 22' cargo install 'it'\''s' '' $'a\x1f\'b\\'"
        );
    }

    #[test]
    fn failure_names_the_command() {
        let error = run!("false").unwrap_err().to_string();
        assert!(
            error.starts_with("`false` failed (exit status: 1)"),
            "{error}"
        );
        let error = run!("/no/such/program").unwrap_err().to_string();
        assert_eq!(error, "cannot start `/no/such/program`");
    }
}
