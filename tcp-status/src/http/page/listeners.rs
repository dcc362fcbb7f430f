//! Listening sockets: their queues, by address and port, and what the queues could not take.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use prometheus_client::encoding::EncodeGaugeValue;

use super::{Pen, Reading};
use crate::snapshot::{Listener, Overflows};

/// The listening sockets of one address and port: one, or a group by `SO_REUSEPORT`.
#[derive(Debug, Default, PartialEq)]
struct Group {
    sockets: u64,
    length: u64,
    limit: u64,
    peak: u64,
    /// Of the socket that is worst off: a full one among empty ones turns clients away.
    peak_ratio: f64,
    /// None unless it is known of all.
    syn_queue: Option<u64>,
}

impl Group {
    fn add(&mut self, listener: &Listener) {
        let syn_queue = listener.syn_queue.map(u64::from);
        self.syn_queue = match self.sockets {
            0 => syn_queue,
            _ => self.syn_queue.zip(syn_queue).map(|(sum, one)| sum + one),
        };
        self.sockets += 1;
        self.length += u64::from(listener.accept_queue);
        self.limit += u64::from(listener.accept_queue_limit);
        self.peak += u64::from(listener.accept_queue_peak);
        self.peak_ratio = self.peak_ratio.max(peak_ratio(listener));
    }
}

/// 1 where it was full: the kernel admits one more than the limit.
fn peak_ratio(listener: &Listener) -> f64 {
    f64::from(listener.accept_queue_peak) / (f64::from(listener.accept_queue_limit) + 1.0)
}

fn groups(listeners: &[Listener]) -> BTreeMap<(IpAddr, u16), Group> {
    let mut groups = BTreeMap::<_, Group>::new();
    for listener in listeners {
        groups
            .entry((listener.address, listener.port))
            .or_default()
            .add(listener);
    }
    groups
}

/// A reading and its groups, with their labels.
type Grouped<'a> = (&'a Reading, Vec<([String; 2], Group)>);

fn grouped(reading: &Reading) -> Grouped<'_> {
    let named = groups(&reading.of.listeners)
        .into_iter()
        .map(|((address, port), group)| ([address.to_string(), port.to_string()], group));
    (reading, named.collect())
}

pub(super) fn write(pen: &mut Pen<'_>, readings: &[Reading]) -> fmt::Result {
    let all: Vec<_> = readings.iter().map(grouped).collect();
    family(
        pen,
        &all,
        "tcp_status_listeners",
        "Listening sockets of this address and port.",
        |group| Some(group.sockets),
    )?;
    family(
        pen,
        &all,
        "tcp_status_accept_queue_length",
        "Connections that wait for accept(), of all sockets of this address and port.",
        |group| Some(group.length),
    )?;
    family(
        pen,
        &all,
        "tcp_status_accept_queue_limit",
        "How many may wait: the smaller of listen()'s backlog and net.core.somaxconn, of all sockets \
         together; the kernel admits one more each.",
        |group| Some(group.limit),
    )?;
    family(
        pen,
        &all,
        "tcp_status_accept_queue_peak",
        "The most that were seen waiting within the window: the sum of each socket's own peak.",
        |group| Some(group.peak),
    )?;
    family(
        pen,
        &all,
        "tcp_status_accept_queue_peak_ratio",
        "The fullest that any one socket was within the window; 1 is full.",
        |group| Some(group.peak_ratio),
    )?;
    family(
        pen,
        &all,
        "tcp_status_syn_queue_length",
        "Half-open connections, of all sockets of this address and port.",
        |group| group.syn_queue,
    )?;
    write_overflows(pen, readings)
}

fn family<V: EncodeGaugeValue>(
    pen: &mut Pen<'_>,
    all: &[Grouped<'_>],
    name: &str,
    help: &str,
    value: impl Fn(&Group) -> Option<V> + Copy,
) -> fmt::Result {
    let samples = all.iter().flat_map(|(reading, groups)| {
        groups.iter().filter_map(move |([address, port], group)| {
            let labels = [("address", address.as_str()), ("port", port.as_str())];
            Some((&*reading.netns, labels, value(group)?))
        })
    });
    pen.gauges((name, None), help, samples)
}

fn write_overflows(pen: &mut Pen<'_>, readings: &[Reading]) -> fmt::Result {
    let of = |value: fn(&Overflows) -> u64| {
        readings.iter().filter_map(move |reading| {
            Some((&*reading.netns, [], value(reading.of.overflows.as_ref()?)))
        })
    };
    pen.counters(
        ("tcp_status_listen_overflows", None),
        "Complete handshakes that found the accept queue full, since the namespace was made \
         (ListenOverflows).",
        of(|overflows| overflows.listen_overflows),
    )?;
    pen.counters(
        ("tcp_status_listen_drops", None),
        "The same, and handshakes that were dropped for another reason (ListenDrops).",
        of(|overflows| overflows.listen_drops),
    )
}

#[cfg(test)]
mod tests {
    use super::{Group, Listener, groups};

    fn listener(queue: u32, limit: u32, peak: u32, syn_queue: Option<u32>) -> Listener {
        Listener {
            family: 4,
            address: [127, 0, 0, 1].into(),
            port: 80,
            uid: None,
            reuseport: true,
            accept_queue: queue,
            accept_queue_limit: limit,
            accept_queue_peak: peak,
            syn_queue,
        }
    }

    #[test]
    fn sockets_of_one_address_are_one_group_in_which_the_worst_shows() {
        let mut other = listener(0, 0, 1, Some(0));
        other.address = [0; 16].into();
        let all = [
            listener(1, 9, 10, Some(3)),
            other,
            listener(2, 9, 4, Some(4)),
        ];
        let groups = groups(&all);
        let group = Group {
            sockets: 2,
            length: 3,
            limit: 18,
            peak: 14,
            peak_ratio: 1.0,
            syn_queue: Some(7),
        };
        assert_eq!(groups[&([127, 0, 0, 1].into(), 80)], group);
        let backlog_of_none = &groups[&([0; 16].into(), 80)];
        assert!((backlog_of_none.peak_ratio - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_sum_with_an_unknown_part_is_unknown() {
        for parts in [[Some(1), None], [None, Some(1)], [None, None]] {
            let mut group = Group::default();
            for part in parts {
                group.add(&listener(0, 1, 0, part));
            }
            assert_eq!(group.syn_queue, None);
        }
    }
}
