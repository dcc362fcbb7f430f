//! Shell completion: what the shell loads, and what it is answered. States, ports, cgroups, namespaces
//! and groups are those of this host at the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::PathBuf,
};

use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter},
    env::Shells,
};

use crate::{
    printable::printable,
    serve::{
        DEFAULT_SOCKET,
        client::request,
        protocol::{Query, Response, Show},
    },
    snapshot::{CgroupName, Snapshot},
};

/// The variable by which the shell asks for candidates.
const VARIABLE: &str = "TCP_STATUS_COMPLETE";

const PROGRAM: &str = "tcp-status";

/// What zsh has to do where it loads the script as a function, at the first completion.
const ZSH_FIRST: &str = "\
if [ \"$funcstack[1]\" = \"_tcp-status\" ]; then
    _clap_dynamic_completer_tcp_status \"$@\"
fi
";

/// Prints candidates, if the shell asks for some; whether it did.
pub(super) fn answer(
    command: impl Fn() -> clap::Command,
    arguments: &[OsString],
) -> clap::error::Result<bool> {
    let directory = env::current_dir().ok();
    CompleteEnv::with_factory(command)
        .var(VARIABLE)
        .completer(PROGRAM)
        .try_complete(arguments, directory.as_deref())
}

/// The script that a shell loads.
pub(super) fn script(shell: Shell) -> io::Result<String> {
    let shells = Shells::builtins();
    let completer = shells
        .completer(&shell.to_string())
        .ok_or(io::ErrorKind::Unsupported)?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)?;
    if shell == Shell::Zsh {
        script.extend_from_slice(ZSH_FIRST.as_bytes());
    }
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// Ports that have a listener, with its addresses.
pub(super) fn ports() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let mut ports = BTreeMap::<u16, BTreeSet<_>>::new();
        let netns = typed("--netns").and_then(|netns| netns.into_string().ok());
        for one in snapshots(netns, false) {
            for listener in one.listeners {
                let addresses = ports.entry(listener.port).or_default();
                addresses.insert(listener.address.to_string());
            }
        }
        let candidate = |(port, addresses): (u16, BTreeSet<String>)| {
            let addresses: Vec<_> = addresses.into_iter().collect();
            candidate(&port.to_string(), Some(&addresses.join(", ")))
        };
        ports.into_iter().map(candidate).collect()
    })
}

/// Units that have sockets, and the paths of their cgroups.
pub(super) fn cgroups() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let mut names = BTreeMap::new();
        let counted = snapshots(None, true).into_iter();
        for one in counted
            .filter_map(|one| one.cgroups)
            .flat_map(|all| all.tracked)
        {
            let CgroupName { path, unit, .. } = one.name;
            let below = unit.clone().zip(path.clone());
            names.extend(path.map(|path| (path, unit)));
            names.extend(below.map(|(unit, path)| (unit, Some(path))));
        }
        // A cgroup has the name that its maker wanted, and the shell prints it.
        let names = names.iter().filter(|(name, _)| printable(name) == **name);
        names
            .map(|(name, help)| candidate(name, help.as_deref().map(printable).as_deref()))
            .collect()
    })
}

/// Namespaces that `ip netns` has named, and the numbers of those that are counted.
pub(super) fn namespaces() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = named.filter_map(|entry| entry.file_name().into_string().ok());
        let names: BTreeSet<_> = names.collect();
        let counted = snapshots(None, true);
        let numbers = counted
            .iter()
            .map(|one| candidate(&one.netns.to_string(), one.netns_name.as_deref()));
        let names = names.iter().map(|name| candidate(name, None));
        names.chain(numbers).collect()
    })
}

/// Groups of this host.
pub(super) fn groups() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let file = fs::read_to_string("/etc/group").unwrap_or_default();
        let names = file.lines().filter_map(|line| line.split(':').next());
        names.map(|name| candidate(name, None)).collect()
    })
}

/// Paths that lead to sockets.
pub(super) fn sockets() -> ArgValueCompleter {
    ArgValueCompleter::new(PathCompleter::any().filter(|path| {
        let found = path.metadata();
        found.is_ok_and(|found| found.is_dir() || found.file_type().is_socket())
    }))
}

fn candidate(value: &str, help: Option<&str>) -> CompletionCandidate {
    CompletionCandidate::new(value).help(help.map(|help| help.to_owned().into()))
}

/// What the tracker says; nothing if there is none.
fn snapshots(netns: Option<String>, all_netns: bool) -> Vec<Snapshot> {
    let socket = typed("--socket").or_else(|| env::var_os("TCP_STATUS_SOCKET"));
    let socket = socket.map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from);
    let query = Query::Show(Show {
        netns,
        all_netns,
        ..Show::default()
    });
    match request(&socket, &query) {
        Ok(Response::Snapshots(all)) => all,
        _ => Vec::new(),
    }
}

/// The value of an option among the words that are on the command line so far; bash makes a word
/// of the sign between them.
fn typed(option: &str) -> Option<OsString> {
    let words = env::args_os().skip_while(|word| word != option).skip(1);
    words.into_iter().find(|word| word != "=")
}
