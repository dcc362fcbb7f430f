//! The kernel's listing with addresses: which sockets there are, not only how many.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::{
    context,
    oracle::{Table, parse},
};

/// One line of the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListedSocket {
    pub(crate) table: Table,
    /// As in [`crate::oracle::st`].
    pub(crate) st: usize,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// Everything that is listed in the calling thread's namespace.
pub(crate) fn sockets() -> io::Result<Vec<ListedSocket>> {
    let mut sockets = Vec::new();
    for table in Table::ALL {
        let path = table.path();
        let text = fs::read_to_string(path).map_err(|error| context(path, &error))?;
        for line in text.lines().skip(1) {
            let socket = listed(table, line).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {line}"))
            })?;
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

fn listed(table: Table, line: &str) -> Option<ListedSocket> {
    let (st, _) = parse(line)?;
    let mut columns = line.split_ascii_whitespace().skip(1);
    let local = address(columns.next()?)?;
    let remote = address(columns.next()?)?;
    Some(ListedSocket {
        table,
        st,
        local,
        remote,
    })
}

/// Words of 32 bits, each printed as a number of this machine, and a port.
fn address(column: &str) -> Option<SocketAddr> {
    let (words, port) = column.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::new();
    for at in (0..words.len()).step_by(8) {
        let word = u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let address = match octets.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_are_read_as_the_kernel_prints_them() {
        let read = |column| address(column).map(|address| address.to_string());
        assert_eq!(read("0100007F:07E8").unwrap(), "127.0.0.1:2024");
        let v6 = "00000000000000000000000001000000:1F90";
        assert_eq!(read(v6).unwrap(), "[::1]:8080");
        for bad in ["0100007F", "010000:0001", "0100007F01:1", ":1"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
