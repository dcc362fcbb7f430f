//! `cargo xtask run` and `load`: builds if needed, then becomes `tcp-status run`. Does not decide
//! how counting is done: without privilege, the tracker itself falls back and says so.

use std::{
    convert::Infallible,
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{IsTerminal as _, stdin},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::unistd::Uid;

use crate::{
    build::{self, ProfileArgs, binary},
    step::Step,
    workspace::Workspace,
};

const SOCKET_VARIABLE: &str = "TCP_STATUS_SOCKET";

/// Arguments of `run` and `load`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Options of `tcp-status run`, from the first one that is not named above
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// What the way of starting depends on.
#[derive(Debug, Clone, Copy)]
struct Facts {
    root: bool,
    sudo: bool,
    /// The user asked for counting without eBPF.
    scan: bool,
    /// The user said where the socket is to be.
    socket: bool,
}

/// How the tracker is started.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// As it is.
    Direct,
    /// By sudo.
    Sudo,
    /// Without privilege, and with the socket where this user may write.
    OwnSocket,
}

impl Plan {
    fn from_facts(facts: Facts) -> Self {
        if facts.root {
            Self::Direct
        } else if facts.sudo && !facts.scan {
            Self::Sudo
        } else if facts.socket {
            Self::Direct
        } else {
            Self::OwnSocket
        }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &RunArgs) -> Result<Infallible> {
    build::refresh_object(workspace)?;
    let binary = binary::build(workspace, args.profile.profile())?.path;
    let scan = has_option(&args.args, "--backend", Some("scan"));
    let root = Uid::effective().is_root();
    let plan = Plan::from_facts(Facts {
        root,
        sudo: !root && !scan && sudo_works(),
        scan,
        socket: env::var_os(SOCKET_VARIABLE).is_some() || has_option(&args.args, "--socket", None),
    });
    if !root && plan != Plan::Sudo && !scan {
        eprintln!(
            "neither root nor sudo: without eBPF, counts come from the kernel's tables; \
             for eBPF, run this as root"
        );
    }
    let step = match plan {
        Plan::Direct => Step::new(&binary),
        Plan::Sudo => {
            eprintln!(
                "query it by: sudo {} show; with --socket-group, its members need no sudo",
                binary.display()
            );
            Step::new("sudo")
                .arg(format!("--preserve-env={SOCKET_VARIABLE},RUST_LOG"))
                .arg("--")
                .arg(&binary)
        }
        Plan::OwnSocket => {
            let socket = own_socket(workspace, env::var_os("XDG_RUNTIME_DIR").as_deref());
            make_folder(&socket)?;
            eprintln!(
                "query it by: {SOCKET_VARIABLE}={} {} show",
                socket.display(),
                binary.display()
            );
            Step::new(&binary).env(SOCKET_VARIABLE, socket)
        }
    };
    let step = step.arg("run").args(&args.args);
    eprintln!("{step}");
    let error = step.command().exec();
    Err(error).with_context(|| format!("cannot start `{step}`"))
}

/// Whether `args` have the option, and with this value, if one is asked for.
fn has_option(args: &[OsString], name: &str, value: Option<&str>) -> bool {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    args.iter().enumerate().any(|(index, arg)| {
        let given = match arg.strip_prefix(name) {
            Some("") => args.get(index + 1).map(AsRef::as_ref),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        given.is_some_and(|given| value.is_none_or(|value| given == value))
    })
}

/// Sudo is of use if it asks for no password, or if there is somebody to ask.
fn sudo_works() -> bool {
    let exists = Step::new("sudo").arg("--version").ask().is_some();
    exists && (stdin().is_terminal() || Step::new("sudo").args(["-n", "true"]).ask().is_some())
}

fn own_socket(workspace: &Workspace, runtime: Option<&OsStr>) -> PathBuf {
    runtime
        .map(Path::new)
        .filter(|folder| folder.is_dir())
        .unwrap_or(&workspace.target)
        .join("tcp-status/tcp-status.sock")
}

fn make_folder(socket: &Path) -> Result<()> {
    let Some(folder) = socket.parent() else {
        return Ok(());
    };
    fs::create_dir_all(folder).with_context(|| {
        format!(
            "cannot make {} for the socket; set {SOCKET_VARIABLE} to a path you may write",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Facts = Facts {
        root: false,
        sudo: false,
        scan: false,
        socket: false,
    };

    #[test]
    fn root_needs_nothing() {
        for sudo in [false, true] {
            let root = Facts {
                root: true,
                sudo,
                ..USER
            };
            assert_eq!(Plan::from_facts(root), Plan::Direct);
        }
    }

    #[test]
    fn a_user_takes_sudo_unless_ebpf_is_not_wanted() {
        let sudo = Facts { sudo: true, ..USER };
        assert_eq!(Plan::from_facts(sudo), Plan::Sudo);
        assert_eq!(
            Plan::from_facts(Facts { scan: true, ..sudo }),
            Plan::OwnSocket
        );
    }

    #[test]
    fn a_user_alone_gets_a_socket_of_their_own() {
        assert_eq!(Plan::from_facts(USER), Plan::OwnSocket);
        let given = Facts {
            socket: true,
            ..USER
        };
        assert_eq!(Plan::from_facts(given), Plan::Direct);
    }

    #[test]
    fn options_are_found_in_both_spellings() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for words in [&["--backend", "scan"][..], &["-v", "--backend=scan"]] {
            assert!(has_option(&args(words), "--backend", Some("scan")));
            assert!(!has_option(&args(words), "--backend", Some("ebpf")));
            assert!(!has_option(&args(words), "--socket", None));
        }
        assert!(has_option(&args(&["--socket=/a"]), "--socket", None));
        // Another option that begins alike.
        assert!(!has_option(
            &args(&["--socket-mode", "0600"]),
            "--socket",
            None
        ));
    }

    #[test]
    fn own_socket_goes_where_the_user_may_write() {
        let workspace = Workspace {
            root: "/src".into(),
            target: "/src/target".into(),
            host: String::new(),
        };
        let fallback = PathBuf::from("/src/target/tcp-status/tcp-status.sock");
        assert_eq!(own_socket(&workspace, None), fallback);
        assert_eq!(own_socket(&workspace, Some("/no/such".as_ref())), fallback);
        assert_eq!(
            own_socket(&workspace, Some("/tmp".as_ref())),
            PathBuf::from("/tmp/tcp-status/tcp-status.sock")
        );
    }
}
