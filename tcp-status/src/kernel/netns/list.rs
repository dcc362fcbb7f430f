//! Which network namespaces there are, as far as anything in the file system leads to them: a
//! process, a name, another mount. One that only an open file or a closing connection keeps alive
//! cannot be found.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use super::{Error, NAMED, Target, entries};
use crate::{kernel::cgroups, snapshot::CgroupName};

const MOUNTS: &str = "/proc/thread-self/mountinfo";

/// A namespace, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsEntry {
    /// Its name as of `ip netns`, else that of the pod that is in it, else the id of the container, in 12 digits.
    pub name: Option<String>,
    path: PathBuf,
}

impl NetnsEntry {
    /// The namespace itself; none if the way to it has gone, or leads to another one by now.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(&self, inode: u32) -> Result<Option<Target>, Error> {
        let target = Target::open_if_there(&self.path)?;
        Ok(target.filter(|target| target.inode() == inode))
    }
}

/// All that can be found, by inode number. What may not be looked at is left out.
#[must_use]
pub fn all() -> BTreeMap<u32, NetnsEntry> {
    let mut found = BTreeMap::new();
    let mounts = fs::read(MOUNTS).unwrap_or_default();
    for (inode, path) in mounts.split(|byte| *byte == b'\n').filter_map(mounted) {
        let name = path
            .parent()
            .filter(|folder| NAMED.iter().any(|named| *folder == Path::new(named)))
            .and_then(|_| Some(path.file_name()?.to_string_lossy().into_owned()));
        let entry = found
            .entry(inode)
            .or_insert(NetnsEntry { name: None, path });
        entry.name = entry.name.take().or(name);
    }
    // Containers may run in the host's own namespace, which is not theirs.
    let host = inode(Path::new("/proc/1/ns/net"));
    let pods = LazyCell::new(cgroups::pods);
    for process in entries("/proc").filter(|path| is_process(path)) {
        let path = process.join("ns/net");
        let Some(inode) = inode(&path) else { continue };
        let is_host = host == Some(inode);
        let entry = found
            .entry(inode)
            .or_insert(NetnsEntry { name: None, path });
        if entry.name.is_none() && !is_host {
            let cgroups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
            entry.name = pod(&cgroups, |uid| pods.get(uid).cloned()).or(container_id(&cgroups));
        }
    }
    found
}

fn is_process(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_bytes()[0].is_ascii_digit())
}

fn inode(path: &Path) -> Option<u32> {
    u32::try_from(fs::metadata(path).ok()?.ino()).ok()
}

/// Inode number and place of a network namespace that a line of mountinfo shows: the fourth field
/// is `net:[INODE]`, the fifth the mount point.
fn mounted(line: &[u8]) -> Option<(u32, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    let inode = fields.next()?.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    let inode = str::from_utf8(inode).ok()?.parse().ok()?;
    Some((inode, unescaped(fields.next()?)))
}

/// A path of mountinfo, which shows a space, tab, newline or backslash as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..3).filter(|_| *first == b'\\');
        let octal = escaped
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = &tail[octal.map_or(0, |_| 3)..];
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The pod of a process, of the lines of its cgroups: its name, or its UID where `name` gives none.
fn pod(cgroups: &str, name: impl Fn(&str) -> Option<String>) -> Option<String> {
    let paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    let uid = paths.map(CgroupName::of).find_map(|name| name.pod_uid)?;
    Some(name(&uid).unwrap_or(uid))
}

/// Docker, containerd, CRI-O and podman put the id of a container, 64 hexadecimal digits, into the
/// path of its cgroup. Its first 12 are what their tools show.
fn container_id(cgroup: &str) -> Option<String> {
    const DIGITS: usize = 64;
    const SHOWN: usize = 12;
    cgroup
        .split(|c: char| !c.is_ascii_hexdigit())
        .find(|part| part.len() == DIGITS)
        .map(|id| id[..SHOWN].to_owned())
}

/// Lines of mountinfo, and of the cgroups of a process.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        mounted(line);
    }
    pod(&String::from_utf8_lossy(bytes), |_| None);
    if let Some(id) = container_id(&String::from_utf8_lossy(bytes)) {
        assert!(id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::ffi::OsStrExt as _, path::PathBuf};

    use super::{all, container_id, mounted, pod};
    use crate::kernel::netns::own;

    #[test]
    fn a_mount_shows_its_namespace() {
        let line = b"291 25 0:4 net:[4026532245] /run/netns/blue rw shared:140 - nsfs nsfs rw";
        let expected = (4_026_532_245, PathBuf::from("/run/netns/blue"));
        assert_eq!(mounted(line), Some(expected));
        let line = r#"3 2 0:4 net:[7] /run/netns/a\040b\011"\134\0é rw - nsfs nsfs rw"#;
        let expected = (7, PathBuf::from("/run/netns/a b\t\"\\\\0é"));
        assert_eq!(mounted(line.as_bytes()), Some(expected));
        // A name is any bytes.
        let (inode, path) = mounted(b"3 2 0:4 net:[7] /run/netns/\xff rw - nsfs nsfs rw").unwrap();
        assert_eq!(
            (inode, path.as_os_str().as_bytes()),
            (7, &b"/run/netns/\xff"[..])
        );
        for line in [
            "",
            "25 1 0:23 / /run rw,nosuid shared:5 - tmpfs tmpfs rw",
            "291 25 0:4 mnt:[4026532245] /run/x rw - nsfs nsfs rw",
            "291 25 0:4 net:[] /run/netns/blue rw - nsfs nsfs rw",
        ] {
            assert_eq!(mounted(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn containers_are_named_as_their_tools_do() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("12:pids:/kubepods/besteffort/pod1/{id}\n"),
            format!("0::/kubepods.slice/cri-containerd-{id}.scope"),
        ] {
            assert_eq!(
                container_id(&path).as_deref(),
                Some("0123456789ab"),
                "{path}"
            );
        }
        assert_eq!(container_id("0::/user.slice/user-1000.slice\n"), None);
        assert_eq!(container_id(&format!("0::/{id}0")), None);
    }

    #[test]
    fn pods_come_before_containers() {
        let (uid, id) = ("2dd25b02-8d1b-4a36-9b8c-5c1e2f3a4b5c", "0b".repeat(32));
        let known = |found: &str| (found == uid).then(|| "shop/web-0".to_owned());
        for cgroups in [
            format!(
                "0::/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{id}.scope\n",
                uid.replace('-', "_")
            ),
            format!("12:pids:/\n11:memory:/kubepods/besteffort/pod{uid}/{id}\n0::/\n"),
            format!("0::/../../pod{uid}/{id}\n"),
        ] {
            assert_eq!(
                pod(&cgroups, known).as_deref(),
                Some("shop/web-0"),
                "{cgroups}"
            );
            assert_eq!(pod(&cgroups, |_| None).as_deref(), Some(uid));
        }
        assert_eq!(
            pod(&format!("0::/system.slice/docker-{id}.scope\n"), known),
            None
        );
        assert_eq!(pod("", known), None);
    }

    #[test]
    fn the_own_namespace_is_among_all() {
        let own = own().unwrap();
        let found = all();
        let entry = found.get(&own).expect("this process is in it");
        assert_eq!(entry.open(own).unwrap().unwrap().inode(), own);
        assert!(entry.open(own ^ 1).unwrap().is_none());
    }
}
