//! What the allocator and the kernel would keep for the tracker, or add to it, beyond what it needs.

use nix::sys::prctl::set_thp_disable;

/// Threads that walk in other namespaces come and go by the hundred. The allocator would keep a heap
/// for each eight of a processor, and what was ever in it.
pub(super) fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a parameter; heaps that there are stay.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Where the kernel makes huge pages of its own accord (Debian's does), it would fill up what has been
/// given back, ten seconds later: 40 MB at rest instead of 10.
pub(super) fn disable_huge_pages() {
    // Fails on kernels without huge pages.
    let _ = set_thp_disable(true);
}

/// Reading the kernel's types takes tens of megabytes for a moment, and so do answers about hundreds of
/// namespaces; the allocator would keep them for the life of the tracker.
pub(super) fn release_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
