//! Binds the addresses of `--metrics` and `--zabbix`.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
};

/// An address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {option} {address}: {why}; {hint}")]
pub struct BindError {
    option: &'static str,
    address: SocketAddr,
    why: io::Error,
    hint: &'static str,
}

impl BindError {
    /// Whether another address may work.
    #[must_use]
    pub fn is_argument(&self) -> bool {
        matches!(
            self.why.kind(),
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
        )
    }
}

/// A listener for `option` that does not block, and its address. What to do where the address is in use, and
/// where the port is not permitted, depends on the option.
pub(super) fn bind(
    option: &'static str,
    address: SocketAddr,
    [in_use, denied]: [&'static str; 2],
) -> Result<(TcpListener, SocketAddr), BindError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|why: io::Error| BindError {
        hint: match why.kind() {
            ErrorKind::AddrInUse => in_use,
            ErrorKind::AddrNotAvailable => "use an address of this host, such as 127.0.0.1",
            ErrorKind::PermissionDenied => denied,
            _ => "choose another address",
        },
        option,
        address,
        why,
    })
}
