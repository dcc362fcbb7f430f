//! Settings of a network namespace: how half-open connections are limited, and which local ports
//! `connect()` chooses from. Reads the namespace of the calling thread.

use std::{fs, ops::RangeInclusive};

/// Settings of the calling thread's network namespace; none where `/proc/sys` does not show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.tcp_syncookies`: never (0), for a full SYN queue (1), always (2).
    pub syncookies: Option<u8>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub max_syn_backlog: Option<u32>,
    /// Local ports that `connect()` chooses from: `net.ipv4.ip_local_port_range` without
    /// `net.ipv4.ip_local_reserved_ports`.
    pub ephemeral_ports: Option<u32>,
    /// How many of the range are reserved.
    pub reserved_ports: Option<u32>,
}

/// Reads all settings: four small files.
#[must_use]
pub fn settings() -> Settings {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
    let range = read("ip_local_port_range");
    let reserved = read("ip_local_reserved_ports").unwrap_or_default();
    let ports = range.and_then(|range| ephemeral_ports(&range, &reserved));
    Settings {
        syncookies: read("tcp_syncookies").and_then(|text| text.trim().parse().ok()),
        max_syn_backlog: read("tcp_max_syn_backlog").and_then(|text| text.trim().parse().ok()),
        ephemeral_ports: ports.map(|(free, _)| free),
        reserved_ports: ports.map(|(_, reserved)| reserved),
    }
}

/// The local ports that `connect()` chooses from, reserved ones included: the range of
/// `net.ipv4.ip_local_port_range` in the calling thread's namespace.
#[must_use]
pub fn ephemeral_range() -> Option<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut bounds = text.split_whitespace().map(str::parse);
    Some(bounds.next()?.ok()?..=bounds.next()?.ok()?)
}

impl Settings {
    /// How many half-open connections a listener holds before the kernel drops the next SYN, or
    /// answers it with a cookie (`tcp_conn_request()`). With cookies that is its backlog
    /// (`inet_csk_reqsk_queue_is_full()`; recent kernels admit one more); without them
    /// at most three quarters of `tcp_max_syn_backlog`, but for peers that are known.
    #[must_use]
    pub fn syn_queue_limit(&self, backlog: u32) -> u32 {
        match (self.syncookies, self.max_syn_backlog) {
            (Some(0), Some(max)) => backlog.min(max - max / 4),
            _ => backlog,
        }
    }
}

/// The size of a range such as `32768 60999` without reserved ports such as `40000,50000-50010`, and how many of it
/// are reserved.
fn ephemeral_ports(range: &str, reserved: &str) -> Option<(u32, u32)> {
    let mut bounds = range.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    let within = |(from, to): (u16, u16)| {
        let (from, to) = (from.max(first), to.min(last));
        (from <= to).then(|| u32::from(to) - u32::from(from) + 1)
    };
    // The kernel lists reserved ports in order, and none twice.
    let reserved = reserved.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        within((from.parse().ok()?, to.parse().ok()?))
    });
    let reserved = reserved.sum();
    Some((within((first, last))? - reserved, reserved))
}

#[cfg(test)]
mod tests {
    use super::{Settings, ephemeral_ports, settings};

    #[test]
    fn reserved_ports_are_not_chosen() {
        let of = ephemeral_ports;
        assert_eq!(of("32768\t60999\n", "\n"), Some((28_232, 0)));
        assert_eq!(of("1 65535", "1-65535"), Some((0, 65_535)));
        assert_eq!(of("100 199", "99-101,150,198-300,4000"), Some((95, 5)));
        assert_eq!(of("200 100", ""), None);
        assert_eq!(of("100", ""), None);
    }

    #[test]
    fn a_syn_queue_ends_at_the_backlog_or_without_cookies_earlier() {
        let of = |syncookies, max_syn_backlog, backlog| {
            let settings = Settings {
                syncookies,
                max_syn_backlog,
                ..Settings::default()
            };
            settings.syn_queue_limit(backlog)
        };
        assert_eq!(of(Some(1), Some(128), 4096), 4096);
        assert_eq!(of(Some(0), Some(1026), 4096), 770);
        assert_eq!(of(Some(0), Some(1026), 511), 511);
        assert_eq!(of(None, None, 511), 511);
    }

    #[test]
    fn this_host_shows_them() {
        let settings = settings();
        assert!(settings.ephemeral_ports.is_some_and(|ports| ports > 0));
        assert!(settings.syncookies.is_some_and(|mode| mode <= 2));
    }
}
