//! Reads a whole map in few system calls: aya needs two for each entry, and returns large ones on the
//! stack.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`, since Linux 5.6.
const LOOKUP_BATCH: libc::c_int = 24;

/// Entries in one call, of a hash map: more than are in any bucket, few enough not to keep a processor
/// for long.
const AT_ONCE: u32 = 1024;

/// The same where they are large. No bucket has as many: there are as many buckets as entries.
const LARGE_AT_ONCE: u32 = 64;

/// The part of `union bpf_attr` that the command reads.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// In: for how many there is room. Out: how many were written.
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Calls `visit` with every entry of a hash map. One that is there all the time is visited once.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn for_each<K: aya::Pod, V: aya::Pod>(
    map: &OwnedFd,
    empty: (K, V),
    visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    let at_once = match size_of::<V>() {
        0..1024 => AT_ONCE,
        _ => LARGE_AT_ONCE,
    };
    let keys = vec![empty.0; at_once as usize];
    let values = vec![empty.1; at_once as usize];
    read(map, keys, values, visit)
}

/// The same of an array, of large elements.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn for_each_element<V: aya::Pod>(
    map: &OwnedFd,
    empty: V,
    mut visit: impl FnMut(&V),
) -> io::Result<()> {
    read(map, vec![0_u32], vec![empty], |_, element| visit(element))
}

fn read<K: aya::Pod, V: aya::Pod>(
    map: &OwnedFd,
    mut keys: Vec<K>,
    mut values: Vec<V>,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    let (mut at, mut next) = (None::<u32>, 0_u32);
    loop {
        let mut attributes = Attributes {
            in_batch: at.as_ref().map_or(0, |at| &raw const *at as u64),
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(keys.len()).unwrap_or(AT_ONCE),
            map: map.as_raw_fd().cast_unsigned(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values of the map's sizes, which are those of
        // `K` and `V`, and to `out_batch` 4 bytes, of a bucket or an index.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        let error = (done < 0).then(io::Error::last_os_error);
        // The end of the map.
        let ended = error.as_ref().and_then(io::Error::raw_os_error) == Some(libc::ENOENT);
        if let Some(error) = error.filter(|_| !ended) {
            return Err(error);
        }
        let count = attributes.count as usize;
        for (key, value) in keys.iter().zip(&values).take(count) {
            visit(key, value);
        }
        if ended {
            return Ok(());
        }
        at = Some(next);
    }
}
