//! The client's end of the socket: blocking and small, since a whole process is often started
//! for one number. Decides nothing about exit statuses.

use std::{
    fs::Metadata,
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
    unistd::{Gid, Group},
};

use super::protocol::{MAX_REQUEST, MAX_RESPONSE, Query, Request, Response, encode};

/// How long the tracker may take, from the connection to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A wait without a limit: the kernel takes no longer time.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("cannot connect to {}: {why}; start the tracker: {hint}", path.display())]
    NoTracker {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        why: &'static str,
        /// The command.
        hint: String,
    },
    /// Something else than a socket is there.
    #[error("cannot connect to {}: not a socket; pass the tracker's by --socket PATH", .0.display())]
    NotASocket(PathBuf),
    /// This user may not connect.
    #[error("cannot connect to {}: permission denied; {hint}", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// Which group to join.
        hint: String,
    },
    /// The path cannot be connected to.
    #[error("cannot connect to {}: {error}; check the path", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// More than a request may be.
    #[error("cannot send request: longer than {MAX_REQUEST} bytes; shorten its arguments")]
    TooLong,
    /// The tracker is there and does not answer.
    #[error("cannot query {}: {why}; look at the tracker's log, or restart it", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What was seen instead.
        why: String,
    },
    /// Something else is there, or another version.
    #[error(
        "cannot query {}: the answer cannot be understood ({why}); use the same version of tcp-status on both sides",
        path.display()
    )]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Asks the tracker at `path`. The answer may be a refusal.
///
/// # Errors
/// [`ClientError`], after five seconds at the latest, or as many more than a wait may take.
pub fn request(path: &Path, query: &Query) -> Result<Response, ClientError> {
    let limit = match query {
        Query::Wait(wait) => wait.limit().map_or(FOREVER, |limit| limit + TIMEOUT),
        Query::Get(_) | Query::Show(_) | Query::History(_) => TIMEOUT,
    };
    let deadline = Instant::now() + limit;
    let malformed = |why: String| ClientError::Malformed {
        path: path.to_owned(),
        why,
    };
    let request = encode(&Request::new(query.clone())).map_err(|e| malformed(e.to_string()))?;
    if request.len() > MAX_REQUEST {
        return Err(ClientError::TooLong);
    }
    let mut stream = open(path).map_err(|error| not_connected(path, error))?;
    let line =
        exchange(&mut stream, &request, deadline).map_err(|error| ClientError::NoAnswer {
            path: path.to_owned(),
            why: match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("no answer within {limit:?}")
                }
                _ => error.to_string(),
            },
        })?;
    if line.len() > MAX_RESPONSE {
        return Err(malformed(format!("longer than {MAX_RESPONSE} bytes")));
    }
    serde_json::from_slice(&line).map_err(|error| malformed(error.to_string()))
}

/// Connects. The kernel makes a client wait while the server's queue is full; the standard
/// library has no limit for that.
fn open(path: &Path) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let limit = TimeVal::new(TIMEOUT.as_secs().cast_signed(), 0);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(UnixStream::from(socket))
}

/// Sends the request and reads up to one byte more than an answer may have.
fn exchange(stream: &mut UnixStream, request: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    // A server that drops this connection may have said why.
    let sent = stream.write_all(request);
    let mut line = Vec::new();
    let mut part = [0; 8192];
    while line.len() <= MAX_RESPONSE {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) if line.is_empty() => {
                sent?;
                return Err(io::Error::other("the connection was closed"));
            }
            Ok(0) => break,
            Ok(count) => {
                line.extend_from_slice(&part[..count]);
                if part[..count].contains(&b'\n') {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

fn not_connected(path: &Path, errno: Errno) -> ClientError {
    let path = path.to_owned();
    let is_socket = |found: Metadata| found.file_type().is_socket();
    match errno {
        Errno::ECONNREFUSED if path.metadata().is_ok_and(|found| !is_socket(found)) => {
            ClientError::NotASocket(path)
        }
        Errno::ENOENT | Errno::ECONNREFUSED => ClientError::NoTracker {
            why: if errno == Errno::ENOENT {
                "no such file"
            } else {
                "connection refused"
            },
            hint: start_command(&path),
            path,
        },
        Errno::EACCES | Errno::EPERM => ClientError::Denied {
            hint: access_hint(&path),
            path,
        },
        Errno::EAGAIN => ClientError::NoAnswer {
            path,
            why: "too many clients wait".into(),
        },
        _ => ClientError::Connect {
            path,
            error: errno.into(),
        },
    }
}

/// The command that starts a tracker on this path.
fn start_command(path: &Path) -> String {
    if path == Path::new(super::DEFAULT_SOCKET) {
        "systemctl start tcp-status, or tcp-status run".into()
    } else {
        format!("tcp-status run --socket {}", path.display())
    }
}

/// How this user can be let in.
fn access_hint(path: &Path) -> String {
    match path.metadata() {
        Ok(metadata) if metadata.gid() != 0 && metadata.mode() & 0o020 != 0 => {
            let group = Group::from_gid(Gid::from_raw(metadata.gid()))
                .ok()
                .flatten();
            let name = group.map_or_else(|| metadata.gid().to_string(), |group| group.name);
            format!("join its group with: usermod --append --groups {name} USER")
        }
        Ok(_) => {
            "run as root, or start the tracker with --socket-group GROUP and join that group".into()
        }
        Err(_) => "run as root, or move the socket to a directory that this user may search".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nix::errno::Errno;

    use super::{ClientError, not_connected};

    #[test]
    fn what_the_kernel_says_becomes_a_cure() {
        let path = Path::new("/nowhere/s");
        let missing = not_connected(path, Errno::ENOENT);
        assert!(matches!(missing, ClientError::NoTracker { .. }));
        let text = missing.to_string();
        for part in [
            "cannot connect to /nowhere/s: no such file; ",
            "start the tracker: tcp-status run --socket /nowhere/s",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let default = not_connected(Path::new(super::super::DEFAULT_SOCKET), Errno::ECONNREFUSED);
        assert!(
            default
                .to_string()
                .ends_with("start the tracker: systemctl start tcp-status, or tcp-status run"),
            "{default}"
        );
        assert!(matches!(
            not_connected(Path::new("/proc/self/status"), Errno::ECONNREFUSED),
            ClientError::NotASocket(_)
        ));
        assert!(matches!(
            not_connected(path, Errno::EACCES),
            ClientError::Denied { .. }
        ));
        assert!(matches!(
            not_connected(path, Errno::EAGAIN),
            ClientError::NoAnswer { .. }
        ));
        assert!(matches!(
            not_connected(path, Errno::ENAMETOOLONG),
            ClientError::Connect { .. }
        ));
    }
}
