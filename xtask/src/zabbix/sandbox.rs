//! Where a round lives: a temporary folder with the unpacked packages, the ordinary user that its
//! servers run as.

use std::{
    fs::File,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{Group, User};
use tempfile::TempDir;

use crate::{
    files,
    process::Process,
    step::{Words, step},
};

/// Whom root runs programs as: neither the database nor Zabbix runs as root.
const NOBODY: &str = "nobody";

/// A temporary folder, removed in the end.
pub(super) struct Sandbox {
    folder: TempDir,
    user: User,
}

impl Sandbox {
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tcp-status-zabbix-")
            .tempdir();
        let sandbox = Self {
            folder: folder.context("cannot create a temporary folder")?,
            user: User::from_name(NOBODY)?.context("this host has no user nobody")?,
        };
        sandbox.create_folder("")?;
        Ok(sandbox)
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file out of the packages.
    pub(super) fn tree(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path("tree").join(name)
    }

    /// Name of the group that programs run as.
    pub(super) fn group(&self) -> Result<String> {
        let group = Group::from_gid(self.user.gid)?;
        Ok(group.context("this host has no group of nobody")?.name)
    }

    /// A folder that programs may write to.
    pub(super) fn create_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        files::create_folder(&path)?;
        let (user, group) = (self.user.uid.as_raw(), self.user.gid.as_raw());
        chown(&path, Some(user), Some(group))
            .with_context(|| format!("cannot change the owner of {}", path.display()))?;
        Ok(path)
    }

    /// Writes a configuration; `words` are replaced in it, and `@FOLDER@` by this folder.
    pub(super) fn configure(
        &self,
        name: &str,
        template: &str,
        words: &[(&str, &str)],
    ) -> Result<PathBuf> {
        let path = self.path(name);
        let folder = self.folder.path().display().to_string();
        let text = files::fill(template, words).replace("@FOLDER@", &folder);
        files::write(&path, text)?;
        Ok(path)
    }

    /// Everything that a program wrote.
    pub(super) fn log(&self, name: &str) -> String {
        let text = files::read(self.path(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }

    /// A program and its first arguments, as the ordinary user, with the libraries of the packages.
    pub(super) fn command(&self, words: impl Words) -> Command {
        let mut command = step!(words).folder(self.folder.path()).command();
        command
            .env("HOME", self.folder.path())
            .env("LD_LIBRARY_PATH", self.tree("usr/lib/x86_64-linux-gnu"))
            .env("LOCPATH", self.path("locale"))
            .uid(self.user.uid.as_raw())
            .gid(self.user.gid.as_raw());
        command
    }

    /// Starts a program that goes on, with its output in `NAME.log`.
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Result<Process> {
        let path = self.path(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        Process::start(command.stdout(log.try_clone()?).stderr(log))
    }

    /// Starts a program and waits until it is ready.
    pub(super) fn start_until(
        &self,
        name: &str,
        command: &mut Command,
        ready: impl FnMut() -> bool,
    ) -> Result<Process> {
        let mut process = self.start(name, command)?;
        let waited = process.wait_until(ready);
        waited.with_context(|| self.log(name))?;
        Ok(process)
    }

    /// The locale that graphs are drawn in.
    pub(super) fn make_locale(&self) -> Result<()> {
        let locale = self.create_folder("locale")?.join("en_US.UTF-8");
        step!(
            "localedef --inputfile en_US --charmap UTF-8 --no-archive",
            locale
        )
        .env("I18NPATH", self.tree("usr/share/i18n"))
        .run()
    }
}

/// Runs a program to its end and returns what it printed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let [stdout, stderr] = [output.stdout, output.stderr]
        .map(|printed| String::from_utf8_lossy(&printed).trim_end().to_owned());
    let status = output.status;
    ensure!(
        status.success(),
        "{program} failed ({status}): {stdout}{stderr}"
    );
    Ok(stdout)
}
