//! The cgroup2 hierarchy: which directory has which id.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The path of every cgroup below the root of the cgroup2 hierarchy, by id, as in
/// `/system.slice/nginx.service`; the root itself is `/`. Reads one directory per cgroup.
///
/// # Errors
/// If no cgroup2 hierarchy is mounted, or its root cannot be read.
pub fn paths() -> io::Result<BTreeMap<u64, String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root = mount_point(&mounts).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no cgroup2 hierarchy is mounted")
    })?;
    let mut paths = BTreeMap::from([(fs::metadata(&root)?.ino(), "/".to_owned())]);
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        // It may be gone by now.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if let (Ok(metadata), Ok(below)) = (entry.metadata(), path.strip_prefix(&root)) {
                let name = Path::new("/").join(below).to_string_lossy().into_owned();
                paths.insert(metadata.ino(), name);
                folders.push(path);
            }
        }
    }
    Ok(paths)
}

/// Where the hierarchy is mounted, of the lines of `/proc/self/mounts`.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let mut lines = mounts.lines().map(str::split_whitespace);
    lines.find_map(|mut fields| {
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::mount_point;

    #[test]
    fn the_hierarchy_is_found_beside_the_first_version() {
        let mounts = "proc /proc proc rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n";
        let found = mount_point(mounts);
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("cgroup /c cgroup rw,cpu 0 0\n\nodd\n"), None);
    }
}
