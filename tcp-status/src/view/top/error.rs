//! Errors of the terminal view.

use std::io;

/// The view cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The terminal cannot be read or written.
    #[error("cannot draw on the terminal: {0}; use tcp-status show, or another terminal")]
    Terminal(#[source] io::Error),
    /// Signal handlers or threads cannot be created.
    #[error("cannot start a thread: {0}; raise its limits")]
    Process(#[source] io::Error),
    /// A thread panicked; the panic hook has reported it.
    #[error("cannot poll the tracker: the thread panicked; report it as a bug")]
    Thread,
}
