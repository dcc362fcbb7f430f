//! Which process has which socket open, as far as this user may see it.

use std::{collections::BTreeMap, fs, path::Path};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id, in the PID namespace of the caller.
    pub pid: u32,
    /// Name of the command, up to 15 bytes.
    pub comm: String,
}

/// The oldest process that has each socket open, by inode number of the socket: one that inherited
/// it came later. Reads one link per open file of the host. Processes of other users are left out
/// where the caller lacks permission.
#[must_use]
pub fn by_socket() -> BTreeMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut holders: Vec<_> = pids
        .filter_map(|pid: u32| {
            let folder = Path::new("/proc").join(pid.to_string());
            let sockets = sockets(&folder.join("fd"));
            if sockets.is_empty() {
                return None;
            }
            let stat = fs::read(folder.join("stat")).ok()?;
            let (comm, started) = comm_and_start(&String::from_utf8_lossy(&stat))?;
            Some((started, Process { pid, comm }, sockets))
        })
        .collect();
    holders.sort();
    let mut owners = BTreeMap::new();
    for (_, process, sockets) in holders {
        for inode in sockets {
            owners.entry(inode).or_insert_with(|| process.clone());
        }
    }
    owners
}

/// The name of the command, and when the process started, in clock ticks since boot, of
/// `/proc/PID/stat`: fields 2 and 22. The name stands in parentheses and may contain any character.
fn comm_and_start(stat: &str) -> Option<(String, u64)> {
    let (head, fields) = stat.rsplit_once(')')?;
    let (_, comm) = head.split_once('(')?;
    let started = fields.split_whitespace().nth(19)?.parse().ok()?;
    Some((comm.to_owned(), started))
}

fn sockets(folder: &Path) -> Vec<u32> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.filter_map(|link| inode(link.to_str()?)).collect()
}

/// The inode number in `socket:[4711]`.
fn inode(link: &str) -> Option<u32> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{comm_and_start, inode};

    #[test]
    fn only_sockets_have_an_inode_number_in_their_link() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        for link in ["pipe:[4711]", "socket:[]", "socket:[4711", "/dev/null"] {
            assert_eq!(inode(link), None, "{link}");
        }
    }

    #[test]
    fn a_name_may_contain_parentheses_and_spaces() {
        let stat = "7 (a) S (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(comm_and_start(stat), Some(("a) S (b".into(), 4711)));
        assert_eq!(comm_and_start("7 (cut"), None);
    }
}
