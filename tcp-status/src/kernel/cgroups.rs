//! The cgroup2 hierarchy: which directory has which id, and what it is called.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::snapshot::CgroupName;

/// The path of every cgroup below the root of the cgroup2 hierarchy, by id, as in
/// `/system.slice/nginx.service`; the root itself is `/`. Reads one directory per cgroup.
///
/// # Errors
/// If no cgroup2 hierarchy is mounted, or a part of it cannot be read for want of memory or files.
pub fn paths() -> io::Result<BTreeMap<u64, String>> {
    let root = root()?;
    let mut paths = BTreeMap::from([(fs::metadata(&root)?.ino(), "/".to_owned())]);
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if is_out_of_reach(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_out_of_reach(&error) => break,
                Err(error) => return Err(error),
            };
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

/// Whether a cgroup was removed meanwhile, or is not for this user.
fn is_out_of_reach(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::ENODEV)
}

/// Whether a cgroup2 hierarchy is mounted; the error says why not.
///
/// # Errors
/// If none is mounted.
pub fn probe() -> io::Result<()> {
    root().map(drop)
}

fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mount_point(&mounts)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 hierarchy is mounted"))
}

/// What every cgroup is called, by id. Reads one directory per cgroup.
///
/// # Errors
/// As [`paths`].
pub fn names() -> io::Result<BTreeMap<u64, CgroupName>> {
    let pods = pods();
    let mut names = BTreeMap::new();
    for (id, path) in paths()? {
        let mut name = CgroupName::of(&path);
        if let Some(pod) = name.pod_uid.as_ref().and_then(|uid| pods.get(uid)) {
            name.pod = Some(pod.clone());
        }
        names.insert(id, name);
    }
    Ok(names)
}

/// `NAMESPACE/NAME` of each pod of this node, by UID, of the names that kubelet gives the folders of
/// their logs; empty where there are none or they cannot be read.
pub(crate) fn pods() -> BTreeMap<String, String> {
    let folders = fs::read_dir("/var/log/pods")
        .into_iter()
        .flatten()
        .flatten();
    let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    names.filter_map(|name| pod(&name)).collect()
}

/// UID, and namespace and name, of `NAMESPACE_NAME_UID`.
fn pod(folder: &str) -> Option<(String, String)> {
    let (rest, uid) = folder.rsplit_once('_')?;
    let (namespace, name) = rest.split_once('_')?;
    Some((uid.to_owned(), format!("{namespace}/{name}")))
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

    use super::{mount_point, pod};

    #[test]
    fn pods_are_named_by_the_folders_of_their_logs() {
        let pod = pod("kube-system_coredns-5d78c9869d-abcde_2dd25b02-8d1b");
        let expected = (
            "2dd25b02-8d1b".to_owned(),
            "kube-system/coredns-5d78c9869d-abcde".to_owned(),
        );
        assert_eq!(pod, Some(expected));
    }

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
