//! Where a run lives: a temporary folder with the unpacked packages, and the ordinary user whom
//! its servers run as. Owns how a program out of the packages is started.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use super::process::Process;
use crate::step::Step;

/// Whom root hands over to: neither the database nor Zabbix runs as root.
const NOBODY: &str = "nobody";

/// A temporary folder, removed in the end.
pub(super) struct Place {
    folder: TempDir,
    /// Whom programs run as, where that is not who this is.
    user: Option<User>,
}

impl Place {
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tcp-status-zabbix-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let user = if Uid::effective().is_root() {
            let user = User::from_name(NOBODY)?.context("this host has no user nobody")?;
            chown(
                folder.path(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )
            .with_context(|| format!("cannot give {} away", folder.path().display()))?;
            Some(user)
        } else {
            None
        };
        Ok(Self { folder, user })
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
        let gid = match &self.user {
            Some(user) => user.gid,
            None => nix::unistd::getegid(),
        };
        let group = nix::unistd::Group::from_gid(gid)?;
        Ok(group.map_or_else(|| gid.to_string(), |group| group.name))
    }

    /// A folder that programs may write to.
    pub(super) fn make_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if let Some(user) = &self.user {
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .with_context(|| format!("cannot give {} away", path.display()))?;
        }
        Ok(path)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Everything that a program wrote.
    pub(super) fn log(&self, name: &str) -> String {
        let text = fs::read(self.path(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A program, as the ordinary user, with the libraries of the packages.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("LD_LIBRARY_PATH", self.tree("usr/lib/x86_64-linux-gnu"))
            .env("LOCPATH", self.path("locale"))
            .stdin(Stdio::null());
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Runs a program to its end; on failure tells what it said.
    pub(super) fn run(&self, command: &mut Command) -> Result<String> {
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "{} failed ({}): {}{}",
            command.get_program().display(),
            output.status,
            said.trim_end(),
            String::from_utf8_lossy(&output.stderr).trim_end(),
        );
        Ok(said)
    }

    /// Starts a program that goes on, with what it says in `NAME.log`.
    pub(super) fn start(&self, name: &'static str, command: &mut Command) -> Result<Process> {
        let path = self.path(format!("{name}.log"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        command.stdout(log.try_clone()?).stderr(log);
        Process::start(name, command)
    }

    /// The locale that graphs are drawn in.
    pub(super) fn make_locale(&self) -> Result<()> {
        let folder = self.make_folder("locale")?;
        Step::new("localedef")
            .env("I18NPATH", self.tree("usr/share/i18n"))
            .args(["--inputfile", "en_US", "--charmap", "UTF-8", "--no-archive"])
            .arg(folder.join("en_US.UTF-8"))
            .run()
    }
}
