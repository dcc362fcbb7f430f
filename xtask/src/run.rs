//! `cargo xtask run` and `load`: builds if needed, then becomes `tcp-status run`. Without
//! privilege, the tracker itself selects the scan backend and logs it.

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    io::{IsTerminal as _, stdin, stdout},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::unistd::{Gid, Group, Uid};

use crate::{
    build::{self, ProfileArgs},
    files,
    step::{Step, step},
    toolchain::exists,
    workspace::Workspace,
};

const SOCKET_VARIABLE: &str = "TCP_STATUS_SOCKET";

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Options of `tcp-status run`, from the first one that is not named above
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, args: &RunArgs) -> Result<Infallible> {
    build::refresh_object(workspace)?;
    let profile = args.profile.name();
    let binary = build::static_binary(workspace, "tcp-status", "tcp-status", profile)?;
    let scan = has_option(&args.args, "--backend", Some("scan"));
    let mut shared = Vec::new();
    let step = if Uid::effective().is_root() {
        step!(&binary)
    } else if !scan && sudo_works() {
        shared = socket_group(&args.args);
        step!(
            "sudo",
            format!("--preserve-env={SOCKET_VARIABLE},RUST_LOG"),
            "--",
            &binary
        )
    } else {
        if !scan {
            eprintln!("neither root nor sudo: the scan backend counts; run this as root for eBPF");
        }
        unprivileged(workspace, &binary, &args.args)?
    };
    if !stdout().is_terminal() {
        // On a terminal the tracker prints it, with the socket.
        let folder = binary.parent().unwrap_or(Path::new("."));
        eprintln!("in another shell: export PATH={}:$PATH", folder.display());
    }
    let step = step.with("run").with(shared).with(args.args.clone());
    eprintln!("{step}");
    let error = step.command().stdin(Stdio::inherit()).exec();
    Err(error).with_context(|| format!("cannot start `{step}`"))
}

/// An option by which the user who called sudo may query the tracker, as their group may.
fn socket_group(args: &[OsString]) -> Vec<OsString> {
    let given = ["--socket-group", "--socket-mode"];
    if given.iter().any(|name| has_option(args, name, None)) {
        return Vec::new();
    }
    let group = Group::from_gid(Gid::current()).ok().flatten();
    let name = group.map(|group| vec!["--socket-group".into(), group.name.into()]);
    name.unwrap_or_default()
}

/// With the socket where this user may write.
fn unprivileged(workspace: &Workspace, binary: &Path, args: &[OsString]) -> Result<Step> {
    let step = step!(binary);
    if env::var_os(SOCKET_VARIABLE).is_some() || has_option(args, "--socket", None) {
        return Ok(step);
    }
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_dir());
    let folder = runtime.map_or_else(|| workspace.target.clone(), Into::into);
    let folder = folder.join("tcp-status");
    files::create_folder(&folder)?;
    let step = step.env(SOCKET_VARIABLE, folder.join("tcp-status.sock"));
    if !stdout().is_terminal() {
        let socket = folder.join("tcp-status.sock");
        eprintln!(
            "in another shell: export {SOCKET_VARIABLE}={}",
            socket.display()
        );
    }
    Ok(step)
}

/// Whether `args` have the option, and with this value, if one is given.
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

/// Whether sudo needs no password, or somebody can enter one.
fn sudo_works() -> bool {
    exists("sudo") && (stdin().is_terminal() || step!("sudo -n true").try_read().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mode = args(&["--socket-mode", "0600"]);
        assert!(!has_option(&mode, "--socket", None));
    }
}
