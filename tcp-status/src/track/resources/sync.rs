//! Locks of the tracker.

use std::sync::{Mutex, MutexGuard};

/// Why no lock is poisoned: the panic hook ends the process.
pub(crate) const POISONED: &str = "a panic ends the process";

/// Locks a mutex that cannot be poisoned.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(POISONED)
}
