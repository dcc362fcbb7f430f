//! Privileges that are given up. Owns which capabilities a tracker keeps once its programs are
//! attached; does not know what needs them, which `docs/install.md` shows as a table.
//!
//! The kernel keeps capabilities per thread, and a new thread has those of its creator. So every
//! thread that is there when the programs are attached has to give them up itself.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{errno::Errno, sys::prctl};

/// What may be needed later, if it is held at all; the unit holds the first one only.
const KEPT: [Capability; 4] = [
    // Audits create maps; before kernel 6.0, reading a map needs it as well.
    Capability::CAP_BPF,
    // In its stead before 5.8, and to enter another network namespace that somebody asks for.
    Capability::CAP_SYS_ADMIN,
    // To find that namespace among the processes of other users.
    Capability::CAP_SYS_PTRACE,
    // To remove the socket from the folder of another user.
    Capability::CAP_DAC_OVERRIDE,
];

/// A privilege that could not be given up; the thread has it still.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Capabilities.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// What programs that are executed could gain.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(#[from] Errno),
}

/// No program that this thread or one of its later threads executes gains anything by it.
///
/// # Errors
/// [`Error`].
pub fn set_no_new_privs() -> Result<(), Error> {
    Ok(prctl::set_no_new_privs()?)
}

/// Reduces the calling thread, and those that it starts from now on, to what a tracker needs
/// whose programs are attached. Gives what is left.
///
/// # Errors
/// [`Error`].
pub fn retain_needed_capabilities() -> Result<CapsHashSet, Error> {
    let kept = needed(&caps::read(None, CapSet::Permitted)?);
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    // Takes the ambient ones along.
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    Ok(kept)
}

/// The same, for a tracker that goes on if it cannot.
pub fn drop_unneeded_capabilities() {
    match retain_needed_capabilities() {
        Ok(kept) => log::debug!(kept:?; "dropped privileges"),
        Err(error) => log::warn!(error:%; "privileges not dropped"),
    }
}

fn needed(held: &CapsHashSet) -> CapsHashSet {
    held.intersection(&KEPT.into()).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use caps::{CapSet, Capability, CapsHashSet};

    use super::{KEPT, needed, retain_needed_capabilities, set_no_new_privs};

    fn set(of: &[Capability]) -> CapsHashSet {
        of.iter().copied().collect()
    }

    #[test]
    fn nothing_is_kept_that_was_not_held() {
        let unit = set(&[Capability::CAP_BPF, Capability::CAP_PERFMON]);
        assert_eq!(needed(&unit), set(&[Capability::CAP_BPF]));
        assert_eq!(needed(&caps::all()), set(&KEPT));
        assert_eq!(needed(&set(&[])), set(&[]));
    }

    #[test]
    fn a_thread_and_its_threads_lose_what_is_not_needed() {
        // Another test may run in this thread later.
        let of_both = thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            set_no_new_privs().unwrap();
            assert_eq!(retain_needed_capabilities().unwrap(), needed(&before));
            let kernel = || fs::read_to_string("/proc/thread-self/status").unwrap();
            (kernel(), thread::spawn(kernel).join().unwrap())
        });
        let (own, of_child) = of_both.join().unwrap();
        let allowed = KEPT.iter().fold(0, |mask, kept| mask | kept.bitmask());
        for status in [own, of_child] {
            let line = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap().trim().to_owned()
            };
            for name in ["CapEff:", "CapPrm:"] {
                let held = u64::from_str_radix(&line(name), 16).unwrap();
                assert_eq!(held & !allowed, 0, "{name} {held:x}");
            }
            for name in ["CapInh:", "CapAmb:"] {
                assert_eq!(line(name), "0000000000000000", "{name}");
            }
            assert_eq!(line("NoNewPrivs:"), "1");
        }
    }
}
