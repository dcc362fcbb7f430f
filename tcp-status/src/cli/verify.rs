//! `verify`: the tracker, the kernel's tables, the tracker again; and once more while things move.
//! What counts as equal is decided in [`crate::snapshot::compare`].

use std::{io, thread, time::Duration};

use anyhow::Context as _;

use super::{
    args::VerifyOptions,
    exit::{Usage, Verdict},
    query::unexpected,
};
use crate::{
    kernel::{netns, procfs},
    output::{json, print, verify::render},
    server::{
        client::ask,
        protocol::{Answer, Query, Show},
    },
    snapshot::{Counts, Snapshot, compare::Comparison},
};

/// Pauses between attempts. Together a little more than the two seconds that a tracker may take to
/// become exact after coming to rest.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(600),
    Duration::from_millis(800),
];

/// How often an exact match is tried for before one that moves explain will do.
const EXACT_ATTEMPTS: usize = 3;

/// What is compared, and what time is.
struct World<'a> {
    /// Asks the tracker.
    ask: &'a dyn Fn(&Query) -> anyhow::Result<Answer>,
    /// The kernel's counts of one port or of all, IPv4 and IPv6.
    listing: &'a dyn Fn(Option<u16>) -> anyhow::Result<(Counts, Counts)>,
    /// The namespace that the listing is of.
    netns: &'a dyn Fn() -> io::Result<u32>,
    /// Waits.
    pause: &'a dyn Fn(Duration),
}

pub(super) fn verify(options: &VerifyOptions) -> anyhow::Result<Verdict> {
    let compared = compare(&World {
        ask: &|query| Ok(ask(&options.socket.socket, query)?),
        listing: &|port| Ok(procfs::listing(port).map(|list| (list.ipv4, list.ipv6))?),
        netns: &netns::own,
        pause: &thread::sleep,
    })?;
    print(&if options.json {
        json(&compared)?
    } else {
        render(&compared)
    })?;
    Ok(if compared.equal {
        Verdict::Yes
    } else {
        Verdict::No
    })
}

fn compare(world: &World<'_>) -> anyhow::Result<Comparison> {
    let first = reading(world)?;
    for (attempt, pause) in (1..).zip(PAUSES) {
        let compared = attempt_one(world, &first)?;
        if compared.exact() || (compared.equal && attempt >= EXACT_ATTEMPTS) {
            return Ok(compared);
        }
        (world.pause)(pause);
    }
    attempt_one(world, &first)
}

fn attempt_one(world: &World<'_>, first: &Snapshot) -> anyhow::Result<Comparison> {
    let before = reading(world)?;
    let listing = (world.listing)(None)?;
    let after = reading(world)?;
    Ok(Comparison::new(first, &before, &listing, &after))
}

/// The tracker's reading, which has to be of the namespace that the listing will be of.
fn reading(world: &World<'_>) -> anyhow::Result<Snapshot> {
    let snapshot = match (world.ask)(&Query::Show(Show::default()))? {
        Answer::Snapshots(mut all) if all.len() == 1 => all.remove(0),
        other => return Err(unexpected(other)),
    };
    let own = (world.netns)().context("read network namespace, on this process")?;
    if own == snapshot.netns {
        return Ok(snapshot);
    }
    Err(Usage(format!(
        "verify, on network namespace {own}: the tracker counts {}; run it there with: \
         nsenter --target PID --net tcp-status verify, where PID is the tracker's",
        snapshot.netns
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use tcp_status_common::state::State;

    use super::{PAUSES, World, compare};
    use crate::{
        server::protocol::Answer,
        snapshot::{Counts, Flow, Snapshot, Tier, Transitions, compare::Comparison},
    };

    /// Compares with a tracker that has so many listeners and so many changes at each reading.
    fn compared(listeners: impl Fn(u32) -> (u64, u64), kernel: u64) -> (Comparison, u32, Duration) {
        let (readings, paused) = (Cell::new(0), Cell::new(Duration::ZERO));
        let compared = compare(&World {
            ask: &|_| {
                let (count, births) = listeners(readings.replace(readings.get() + 1));
                let (from, to) = (State::Closed, State::Listen);
                Ok(Answer::Snapshots(vec![Snapshot {
                    transitions: Some(Transitions::from_flows(&[Flow {
                        from,
                        to,
                        count: births,
                    }])),
                    ..Snapshot::of(Tier::Full, 7, [counts(count), Counts::default()])
                }]))
            },
            listing: &|_| Ok((counts(kernel), Counts::default())),
            netns: &|| Ok(7),
            pause: &|time| paused.set(paused.get() + time),
        });
        // One reading at first, two per attempt.
        (compared.unwrap(), readings.get() / 2, paused.get())
    }

    fn counts(listeners: u64) -> Counts {
        let mut counts = Counts::default();
        counts[State::Listen] = listeners;
        counts
    }

    #[test]
    fn an_exact_match_needs_one_attempt() {
        let (compared, attempts, paused) = compared(|_| (3, 3), 3);
        assert!(compared.equal && !compared.moving);
        assert_eq!((attempts, paused), (1, Duration::ZERO));
    }

    #[test]
    fn a_late_match_is_a_match() {
        let (compared, attempts, _) = compared(|reading| (3 + u64::from(reading < 11), 4), 3);
        assert!(compared.equal && !compared.moving);
        assert_eq!(attempts, 6);
    }

    #[test]
    fn moves_are_accepted_after_a_few_attempts() {
        let (compared, attempts, _) = compared(|reading| (3, u64::from(reading)), 4);
        assert!(compared.equal && compared.moving && !compared.exact());
        assert_eq!(attempts, 3);
    }

    #[test]
    fn a_lasting_difference_gets_more_than_two_seconds() {
        let (compared, attempts, paused) = compared(|_| (3, 3), 4);
        assert!(!compared.equal && !compared.moving);
        assert_eq!(attempts as usize, PAUSES.len() + 1);
        assert!(paused > Duration::from_secs(2));
    }

    #[test]
    fn another_namespace_is_no_comparison() {
        let error = compare(&World {
            ask: &|_| {
                Ok(Answer::Snapshots(vec![Snapshot::of(
                    Tier::Full,
                    7,
                    <_>::default(),
                )]))
            },
            listing: &|_| panic!("compared with another namespace"),
            netns: &|| Ok(8),
            pause: &|_| {},
        });
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("namespace 8: the tracker counts 7; run it there with: nsenter"),
            "{text}"
        );
    }
}
