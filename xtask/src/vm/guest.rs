//! A machine for one program that measures, rather than for tests: `xtask guest`, with the tracker
//! beside it, and as many possible processors as requested.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    host::{Host, INIT},
    machine::{Accel, Machine, Tree},
};
use crate::{build::static_binary, files, workspace::Workspace};

/// Before what the program measured.
pub(crate) const FIGURES: &str = "##figures ";

/// With all hooks, and what most servers run.
const KERNEL: &str = "6.1";

/// Emulated, a part takes some minutes.
const LIMIT: Duration = Duration::from_mins(20);

/// By the machine's own clock, in seconds, which goes ahead when nothing happens.
const OWN_LIMIT: u32 = 2 * 60 * 60;

/// Everything that such a machine is made of.
pub(crate) struct Guest {
    host: Host,
    program: PathBuf,
    files: Vec<PathBuf>,
}

impl Guest {
    /// Gets and builds what is missing. `files` are in the machine, too, with the same paths.
    pub(crate) fn new(workspace: &Workspace, files: Vec<PathBuf>) -> Result<Self> {
        Ok(Self {
            host: Host::new(workspace, &[KERNEL.parse()?], false)?,
            program: static_binary(workspace, "xtask", "xtask", "dev")?,
            files,
        })
    }

    /// Names it for a reader of the figures.
    pub(crate) fn describe(&self) -> String {
        let packages = self
            .host
            .kernels
            .iter()
            .map(|kernel| kernel.package.as_str());
        format!(
            "a virtual machine with Linux {}, in which each instruction takes a nanosecond",
            packages.collect::<String>()
        )
    }

    /// Runs the program with these arguments in a machine with `possible` processors, one of which
    /// is there; what it printed after [`FIGURES`].
    pub(crate) fn run(&self, arguments: &[String], possible: u32) -> Result<Value> {
        let kernel = self.host.kernels.first().context("no kernel")?;
        let initramfs = self.host.folder.join("guest.initramfs");
        let log = self.host.folder.join("guest.log");
        let tree = Tree::new(&self.host.busybox, kernel, INIT)?;
        let arguments = arguments.join(" ");
        let plan = format!("NAME=guest TESTS=xtask LIMIT={OWN_LIMIT} ARGUMENTS='{arguments}'\n");
        tree.write("plan", &plan)?;
        tree.copy(&self.program, "tests/xtask")?;
        for file in &self.files {
            let path = file.to_str().context("a path is not text")?;
            tree.copy(file, path.trim_start_matches('/'))?;
        }
        tree.pack(&initramfs)?;
        let machine = Machine {
            // More would wait for each other while an emulated clock runs on.
            cpus: 1,
            room: possible - 1,
            accel: Accel::Counted,
            silence: LIMIT,
            limit: LIMIT,
            ..self.host.machine(kernel, &initramfs, &log)
        };
        let (mut figures, mut last) = (None, String::new());
        let ended = machine.run(|line, _| {
            if let Some(found) = line.strip_prefix(FIGURES) {
                figures = Some(found.to_owned());
            } else if !line.is_empty() && !line.starts_with("##vm ") {
                eprintln!("   {line}");
                line.clone_into(&mut last);
            }
            figures.is_some()
        })?;
        files::remove(&initramfs)?;
        let figures = figures.with_context(|| {
            let (end, log) = (ended.end, log.display());
            format!("the machine measured nothing ({end:?}): {last}; see {log}")
        })?;
        serde_json::from_str(&figures).context("the figures are not JSON")
    }
}
