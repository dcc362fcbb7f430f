//! One command: to be shown, run, or read. Does not decide which.

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// A command that can be printed so that a shell would take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    folder: Option<PathBuf>,
}

impl Step {
    pub(crate) fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
        }
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
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

    /// As a [`Command`], for what the methods here do not cover.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// Runs it with its output on stderr: stdout is data.
    pub(crate) fn run(&self) -> Result<()> {
        let status = self
            .command()
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .status()
            .with_context(|| format!("cannot start `{self}`"))?;
        self.expect_success(status)
    }

    /// Runs it and returns what it printed on stdout.
    pub(crate) fn read(&self) -> Result<String> {
        String::from_utf8(self.bytes()?).with_context(|| format!("`{self}` did not print text"))
    }

    /// As [`Self::read`], whatever the bytes are.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        let output = self
            .command()
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start `{self}`"))?;
        self.expect_success(output.status)?;
        Ok(output.stdout)
    }

    /// What it printed on stdout, if it can be started and succeeds.
    pub(crate) fn ask(&self) -> Option<String> {
        let output = self
            .command()
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        if !output.status.success() {
            return None;
        }
        String::from_utf8(output.stdout).ok()
    }

    pub(crate) fn expect_success(&self, status: ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("`{self}` failed ({status}); what it printed above says why");
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(formatter, "{name}={} ", quoted(value))?;
        }
        write!(formatter, "{}", quoted(&self.program))?;
        for arg in &self.args {
            write!(formatter, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

/// As a shell takes it; cargo's encoded flags are separated by a control character.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=+./:,@".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into_owned()
    } else if word.contains('\x1f') {
        format!(
            "$'{}'",
            word.escape_debug().to_string().replace("\\u{1f}", r"\x1f")
        )
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_a_shell_takes_it() {
        let step = Step::new("cargo")
            .arg("install")
            .args(["it's", "", "a\x1f'b\\"])
            .env("LLVM_PREFIX", "/usr/lib/llvm 22");
        assert_eq!(
            step.to_string(),
            r"LLVM_PREFIX='/usr/lib/llvm 22' cargo install 'it'\''s' '' $'a\x1f\'b\\'"
        );
    }

    #[test]
    fn failure_names_the_command() {
        let error = Step::new("false").run().unwrap_err().to_string();
        assert!(
            error.starts_with("`false` failed (exit status: 1)"),
            "{error}"
        );
        let error = Step::new("/no/such/program").run().unwrap_err().to_string();
        assert_eq!(error, "cannot start `/no/such/program`");
    }
}
