//! Counts state changes without eBPF: a counter of the kernel's on the tracepoint.

use std::{fs, io};

use aya::util::online_cpus;
use perf_event::{Builder, Counter, events::Tracepoint};
use tcp_status_testkit::skip_unprepared;

use crate::subject::is_virtual;

/// Counts the state changes of all sockets of the host, also those that the kernel hides from every
/// eBPF program: each leaves two gauges wrong until an audit corrects them.
pub struct Witness(Vec<Counter>);

impl Witness {
    const ID: &str = "/sys/kernel/tracing/events/sock/inet_sock_set_state/id";

    /// Begins to count; else says why not. None in a machine of `cargo xtask vm`, where the hooks of
    /// minisockets are counted as events as well.
    pub fn for_test() -> Option<Self> {
        if is_virtual() {
            return None;
        }
        let unprepared = |error| {
            skip_unprepared(&format!(
                "no witness of hidden state changes: {}: {error}; mount -t tracefs nodev \
                 /sys/kernel/tracing",
                Self::ID
            ));
        };
        Self::start().map_err(unprepared).ok()
    }

    fn start() -> io::Result<Self> {
        let id = fs::read_to_string(Self::ID)?;
        let id = id.trim_end().parse().map_err(io::Error::other)?;
        let on_cpu = |cpu| {
            Builder::new(Tracepoint::with_id(id))
                .any_pid()
                .one_cpu(cpu)
                .include_kernel()
                .include_hv()
                .enabled(true)
                .build()
        };
        let cpus = online_cpus().map_err(|(_, error)| error)?;
        let counters = cpus.into_iter().map(|cpu| on_cpu(cpu as usize));
        counters.collect::<io::Result<_>>().map(Self)
    }

    /// State changes that neither copy of the handler was called for, of those since the start, if
    /// the tracker counted `counted` of them, and no other namespace has any.
    pub fn hidden(&mut self, counted: u64) -> u64 {
        let all: io::Result<u64> = self.0.iter_mut().map(Counter::read).sum();
        all.unwrap().saturating_sub(counted)
    }
}
