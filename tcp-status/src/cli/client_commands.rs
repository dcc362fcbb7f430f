//! The commands that query this tracker from another terminal: with the path of the program and the
//! socket where a shell would not find them.

use std::{
    env, fs,
    path::{Path, PathBuf, absolute},
};

use nix::unistd::Uid;

use crate::serve::DEFAULT_SOCKET;

/// What a client has to be told.
#[derive(Debug)]
pub(super) struct Client {
    /// The program, unless a shell finds it by its name.
    program: Option<PathBuf>,
    /// The socket, unless it is the default.
    socket: Option<PathBuf>,
    /// The socket is root's, and the user came by sudo.
    sudo: bool,
}

impl Client {
    /// For the socket at `path`; `shared` if it belongs to a group of the user's choice.
    pub(super) fn find(path: &Path, shared: bool) -> Self {
        let socket = absolute(path).unwrap_or_else(|_| path.into());
        Self {
            program: env::current_exe()
                .ok()
                .filter(|program| !is_on_path(program)),
            socket: (path != Path::new(DEFAULT_SOCKET)).then_some(socket),
            sudo: !shared && Uid::effective().is_root() && env::var_os("SUDO_UID").is_some(),
        }
    }

    /// One a line, indented.
    pub(super) fn commands(&self) -> String {
        let socket = self.socket.as_deref().map(quoted);
        let folder = self.program.as_deref().and_then(Path::parent);
        let (before, program, after) = if self.sudo {
            // sudo keeps neither PATH nor other variables.
            let program = self.program.as_deref().map(quoted);
            let program = program.unwrap_or_else(|| "tcp-status".into());
            let after = socket.map(|socket| format!(" --socket {socket}"));
            (String::new(), format!("sudo {program}"), after)
        } else {
            let path = folder.map(|folder| format!(" PATH={}:$PATH", quoted(folder)));
            let socket = socket.map(|socket| format!(" TCP_STATUS_SOCKET={socket}"));
            let exports = path.unwrap_or_default() + &socket.unwrap_or_default();
            let before = if exports.is_empty() {
                exports
            } else {
                format!("  export{exports}\n")
            };
            (before, "tcp-status".into(), None)
        };
        let after = after.unwrap_or_default();
        format!("{before}  {program} show{after}\n  {program} get established{after}\n")
    }
}

/// Whether a shell that is asked for the program's name starts this one.
fn is_on_path(program: &Path) -> bool {
    let (Some(name), Some(folders)) = (program.file_name(), env::var_os("PATH")) else {
        return false;
    };
    let found = env::split_paths(&folders).find_map(|it| fs::canonicalize(it.join(name)).ok());
    found.is_some_and(|found| found == program)
}

/// As a word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(program: Option<&str>, socket: Option<&str>, sudo: bool) -> String {
        let client = Client {
            program: program.map(Into::into),
            socket: socket.map(Into::into),
            sudo,
        };
        client.commands()
    }

    #[test]
    fn a_shell_gets_what_it_does_not_find() {
        const PROGRAM: Option<&str> = Some("/b/tcp-status");
        for (program, socket, sudo, expected) in [
            (None, None, false, "  tcp-status show\n"),
            (
                PROGRAM,
                Some("/a b/s"),
                false,
                "  export PATH=/b:$PATH TCP_STATUS_SOCKET='/a b/s'\n  tcp-status show\n",
            ),
            (None, None, true, "  sudo tcp-status show\n"),
            (
                PROGRAM,
                Some("/s"),
                true,
                "  sudo /b/tcp-status show --socket /s\n",
            ),
        ] {
            let text = commands(program, socket, sudo);
            let get = expected.rsplit("show").next().unwrap();
            assert!(text.starts_with(expected), "{text}");
            assert!(text.ends_with(&format!("get established{get}")), "{text}");
        }
    }

    #[test]
    fn quotes_are_quoted() {
        assert_eq!(quoted(Path::new("/a'b")), r"'/a'\''b'");
    }
}
