//! Errors of the eBPF object and its maps.

use std::{error::Error, io, iter::successors};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// The kernel refused a part of the programs, or the object is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// Maps or read-only data.
    #[error("cannot load the eBPF object: {}", error_chain(.0))]
    Object(#[from] EbpfError),
    /// A program that follows timewait minisockets; everything else can do without it.
    #[error(
        "cannot attach to {function}: {}; TIME_WAIT and FIN_WAIT2 are separated by a filtered walk",
        verifier_summary(source)
    )]
    Timewait {
        /// The function of the kernel.
        function: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// Any other program.
    #[error(
        "cannot load eBPF program {name}: {}{}",
        verifier_summary(why),
        hint(why)
    )]
    Program {
        /// The program.
        name: &'static str,
        /// What the kernel said: no source, for that would be thousands of lines.
        why: ProgramError,
    },
    /// A map.
    #[error("cannot use eBPF map {name}: {}", error_chain(source))]
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// How many CPUs there are is unknown.
    #[error("cannot read /sys/devices/system/cpu: {0}; mount /sys")]
    Cpus(io::Error),
    /// The object has no such part.
    #[error("cannot load {0}: not in the eBPF object; rebuild it with cargo xtask build")]
    Missing(&'static str),
}

/// An error with its causes, each once, for libraries repeat some; and what to do, where the
/// kernel's number says so.
fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut hint = None;
    for cause in successors(error.source(), |&cause| cause.source()) {
        let more = cause.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        let errno = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        hint = hint.or(match errno {
            Some(libc::EMFILE | libc::ENFILE) => Some("; raise the limit of open files"),
            Some(libc::ENOMEM | libc::ENOSPC | libc::E2BIG) => {
                Some("; give it more memory, or lower --max-ports and --max-namespaces")
            }
            Some(libc::EPERM | libc::EACCES) => {
                Some("; run as root or with CAP_BPF and CAP_PERFMON")
            }
            _ => None,
        });
    }
    text + hint.unwrap_or_default()
}

/// The verifier's log is thousands of lines, of which the last but the statistics says why.
pub(super) fn verifier_summary(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return error_chain(error);
    };
    let log = verifier_log.to_string();
    let statistics = ["processed ", "verification time ", "stack depth "];
    let mut lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines.rfind(|line| !statistics.iter().any(|start| line.starts_with(start))) {
        Some(why) => format!("{io_error} ({why})"),
        None => io_error.to_string(),
    }
}

fn hint(error: &ProgramError) -> &'static str {
    match error {
        ProgramError::LoadError { io_error, .. } => match io_error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files",
            _ => "; run as root or with CAP_BPF and CAP_PERFMON",
        },
        _ => "",
    }
}

/// Removing what is not there is no failure.
pub(super) fn ignore_enoent(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// What the kernel refused an operation on a map with; none if it was not the kernel.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
