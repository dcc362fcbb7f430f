//! What the allocator and the kernel would keep for the tracker, or add to it, beyond what it needs.

use nix::sys::prctl::set_thp_disable;

/// Sets up the allocator of the C library, whose lock the event loop must not wait for.
///
/// Threads that walk in other namespaces come and go by the hundred: it would keep a heap for each
/// eight of a processor, and what was ever in it. Long answers lie apart, and nothing is given back
/// to the kernel by whoever frees something, under the lock of the heap.
pub(crate) fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets parameters; heaps that there are stay.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
    }
}

/// Where the kernel makes huge pages of its own accord (Debian's does), it would fill up what has been
/// given back, ten seconds later: 40 MB at rest instead of 10.
pub(crate) fn disable_huge_pages() {
    // Fails on kernels without huge pages.
    let _ = set_thp_disable(true);
}

/// Reading the kernel's types takes tens of megabytes for a moment, and so do answers about hundreds of
/// namespaces; the allocator would keep them for the life of the tracker.
pub(crate) fn release_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
