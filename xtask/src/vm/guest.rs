//! A machine for one program that measures, rather than for tests: `xtask guest`, with the tracker
//! beside it, and as many possible processors as requested.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    host::{Host, INIT},
    kernels::Version,
    machine::Accel,
};
use crate::{build::static_binary, workspace::Workspace};

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
    version: Version,
    program: PathBuf,
    files: Vec<PathBuf>,
}

impl Guest {
    /// Gets and builds what is missing. `files` are in the machine, too, with the same paths.
    pub(crate) fn new(workspace: &Workspace, files: Vec<PathBuf>) -> Result<Self> {
        let version: Version = KERNEL.parse()?;
        Ok(Self {
            host: Host::new(workspace, std::slice::from_ref(&version), false)?,
            version,
            program: static_binary(workspace, "xtask", "xtask", "dev")?,
            files,
        })
    }

    /// Names it for a reader of the figures.
    pub(crate) fn describe(&self) -> Result<String> {
        let package = &self.host.kernel(&self.version)?.package;
        Ok(format!(
            "a virtual machine with Linux {package}, in which each instruction takes a nanosecond"
        ))
    }

    /// Runs the program with these arguments in a machine with `possible` processors, one of which
    /// is there; what it printed after [`FIGURES`].
    pub(crate) fn run(&self, arguments: &str, possible: u32) -> Result<Value> {
        let kernel = self.host.kernel(&self.version)?;
        let mut machine = self.host.machine(kernel, "guest", INIT)?;
        // More would wait for each other while an emulated clock runs on.
        (machine.cpus, machine.hotplug_cpus) = (1, possible - 1);
        machine.accel = Accel::Counted;
        (machine.silence, machine.limit) = (LIMIT, LIMIT);
        let plan = format!("NAME=guest TESTS=xtask LIMIT={OWN_LIMIT} ARGUMENTS='{arguments}'\n");
        machine.write("plan", &plan)?;
        machine.copy(&self.program, "tests/xtask")?;
        machine.copy_all(&self.files)?;
        machine.pack()?;
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
        let figures = figures.with_context(|| {
            let (end, log) = (ended.end, machine.log.display());
            format!("the machine measured nothing ({end:?}): {last}; see {log}")
        })?;
        serde_json::from_str(&figures).context("the figures are not JSON")
    }
}
