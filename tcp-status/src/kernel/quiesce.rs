//! Waiting until everything that was under way in the kernel without being preemptible has ended.

use std::{thread, time::Duration};

/// What is waited where the kernel has no better answer, and between two looks at something that
/// may only be passing.
pub const GRACE: Duration = Duration::from_millis(10);

/// `MEMBARRIER_CMD_GLOBAL` of `linux/membarrier.h`: the kernel runs `synchronize_rcu()`.
const GLOBAL: libc::c_long = 1;

/// Returns when every eBPF handler and every softirq that began before has ended, however long
/// its CPU was taken away by a hypervisor; takes about ten milliseconds. A task that is preempted
/// between two steps of a system call, outside any handler, is not waited for.
///
/// Where the kernel refuses (`nohz_full=`, or a system call filter), it only waits for [`GRACE`].
pub fn quiesce() {
    // SAFETY: membarrier(2) takes three numbers and touches no memory of the caller.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if done != 0 {
        thread::sleep(GRACE);
    }
}
