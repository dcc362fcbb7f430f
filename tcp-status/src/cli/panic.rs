//! A panic of any thread ends the tracker: counts that nothing corrects any more, or that a panic
//! left half-changed behind a lock, are never answered.

use std::{
    panic::{self, PanicHookInfo},
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::anyhow;

use super::exit;
use crate::serve::socket_path::SocketFile;

/// The socket that a panic removes, once it is there.
pub(super) type Socket = Arc<OnceLock<SocketFile>>;

/// From now on, a panic ends the process with one line, and removes `socket`.
pub(super) fn end_on_panic(socket: Socket) {
    static ENDING: AtomicBool = AtomicBool::new(false);
    panic::set_hook(Box::new(move |panic| {
        if ENDING.swap(true, Ordering::Relaxed) {
            // Another thread ends the process.
            thread::park();
        }
        let error = Err(anyhow!("{}", describe(panic)));
        if let Some(socket) = socket.get() {
            socket.remove();
        }
        exit::code(error);
        process::exit(exit::REFUSED.into());
    }));
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let at = panic.location().map(ToString::to_string);
    let at = at.as_deref().unwrap_or("an unknown place");
    let message = panic.payload_as_str().unwrap_or("no message");
    let hint = hint(message);
    format!("cannot continue: thread {name} panicked at {at}: {message}; {hint}")
}

/// The standard library panics as well where the kernel has no memory for a new thread.
fn hint(message: &str) -> &'static str {
    let failed = |errno: i32| message.contains(&format!("(os error {errno})"));
    if failed(libc::ENOMEM) {
        "raise the memory limit (ulimit -v, LimitAS=, MemoryMax=)"
    } else if failed(libc::EAGAIN) {
        "raise the limits of threads and memory (TasksMax=, LimitNPROC=, LimitAS=)"
    } else {
        "report it as a bug"
    }
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn a_lack_of_memory_is_no_bug() {
        let stack = "failed to allocate an alternative stack: Cannot allocate memory (os error 12)";
        assert!(hint(stack).contains("memory limit"));
        assert!(hint("OS can't spawn worker thread: (os error 11)").contains("TasksMax"));
        assert!(hint("index out of bounds").contains("bug"));
    }
}
