//! `verify`: the tracker, the kernel's tables, the tracker again, until the numbers are known to be
//! equal or the time is up. What counts as equal is decided in [`crate::snapshot::compare`].

use std::{
    io, thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    exit::{UsageError, Verdict},
    query::unexpected,
    query_args::VerifyOptions,
};
use crate::{
    kernel::{
        netns,
        procfs::{self, PortListing},
    },
    serve::{
        client::request,
        protocol::{Query, Response, Show},
    },
    snapshot::{Snapshot, compare::Comparison},
    view::{json, print, verify::render},
};

/// Time between two comparisons, at least: while connections come and go, many are needed.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a difference must last: more than the two seconds that a tracker may take to become
/// exact after coming to rest.
const MIN_DIFFERENCE_AGE: Duration = Duration::from_millis(2_500);

/// How long it is tried to decide while connections come and go.
const TIMEOUT: Duration = Duration::from_secs(5);

/// For so long, an exact match is tried for before a split of minisockets that is old will do.
const EXACT_TIMEOUT: Duration = Duration::from_millis(500);

/// What is compared, and what time is.
struct World<'a> {
    /// Asks the tracker.
    request: &'a dyn Fn(&Query) -> anyhow::Result<Response>,
    /// The kernel's counts.
    listing: &'a dyn Fn() -> anyhow::Result<PortListing>,
    /// The namespace that the listing is of.
    netns: &'a dyn Fn() -> io::Result<u32>,
    /// Waits.
    pause: &'a dyn Fn(Duration),
    /// Time since the start.
    elapsed: &'a dyn Fn() -> Duration,
}

pub(super) fn verify(options: &VerifyOptions) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    let compared = compare(&World {
        request: &|query| Ok(request(&options.socket.socket, query)?),
        listing: &|| Ok(procfs::listing_by_port()?),
        netns: &netns::own,
        pause: &thread::sleep,
        elapsed: &|| started.elapsed(),
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
    let mut compared = compare_once(world, &first)?;
    loop {
        let elapsed = (world.elapsed)();
        let done = compared.exact()
            || (compared.equal && elapsed >= EXACT_TIMEOUT)
            || (compared.differs && elapsed >= MIN_DIFFERENCE_AGE)
            || elapsed >= TIMEOUT;
        if done {
            return Ok(compared.settled());
        }
        (world.pause)(PAUSE);
        compared = compare_once(world, &first)?.after(&compared);
    }
}

fn compare_once(world: &World<'_>, first: &Snapshot) -> anyhow::Result<Comparison> {
    let before = reading(world)?;
    let listing = (world.listing)()?;
    let after = reading(world)?;
    Ok(Comparison::new(first, &before, &listing, &after))
}

/// The tracker's reading, which has to be of the namespace that the listing will be of.
fn reading(world: &World<'_>) -> anyhow::Result<Snapshot> {
    let snapshot = match (world.request)(&Query::Show(Show::default()))? {
        Response::Snapshots(mut all) if all.len() == 1 => all.remove(0),
        other => return Err(unexpected(other)),
    };
    let own = (world.netns)().context("cannot read the network namespace of this process")?;
    if own == snapshot.netns {
        return Ok(snapshot);
    }
    Err(UsageError(format!(
        "cannot verify network namespace {own}: the tracker counts {}; run it there with: \
         nsenter --target PID --net tcp-status verify, where PID is the tracker's",
        snapshot.netns
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use tcp_status_common::state::State;

    use super::{MIN_DIFFERENCE_AGE, TIMEOUT, World, compare};
    use crate::{
        kernel::procfs::{Listing, PortListing},
        serve::protocol::Response,
        snapshot::{Counts, Flow, Snapshot, Tier, Transitions, compare::Comparison},
    };

    /// Compares with a tracker that has so many listeners and so many changes at each reading.
    fn compared(listeners: impl Fn(u32) -> (u64, u64), kernel: u64) -> (Comparison, u32, Duration) {
        let (readings, paused) = (Cell::new(0), Cell::new(Duration::ZERO));
        let compared = compare(&World {
            request: &|_| {
                let (count, births) = listeners(readings.replace(readings.get() + 1));
                let (from, to) = (State::Closed, State::Listen);
                Ok(Response::Snapshots(vec![Snapshot {
                    transitions: Some(Transitions::from_flows(&[Flow {
                        from,
                        to,
                        count: births,
                    }])),
                    ..Snapshot::of(Tier::Full, 7, [counts(count), Counts::default()])
                }]))
            },
            listing: &|| Ok(listing(kernel)),
            netns: &|| Ok(7),
            pause: &|time| paused.set(paused.get() + time),
            elapsed: &|| paused.get(),
        });
        // One reading at first, two per comparison.
        (compared.unwrap(), readings.get() / 2, paused.get())
    }

    fn listing(listeners: u64) -> PortListing {
        PortListing {
            all: Listing {
                ipv4: counts(listeners),
                ..Listing::default()
            },
            ..PortListing::default()
        }
    }

    fn counts(listeners: u64) -> Counts {
        let mut counts = Counts::default();
        counts[State::Listen] = listeners;
        counts
    }

    #[test]
    fn an_exact_match_needs_one_comparison() {
        let (compared, comparisons, paused) = compared(|_| (3, 3), 3);
        assert!(compared.equal && !compared.moving);
        assert_eq!((comparisons, paused), (1, Duration::ZERO));
    }

    #[test]
    fn a_late_match_is_a_match() {
        let (compared, comparisons, _) = compared(|reading| (3 + u64::from(reading < 11), 4), 3);
        assert!(compared.equal);
        assert_eq!(comparisons, 6);
    }

    #[test]
    fn what_moves_may_explain_is_undecided_in_the_end() {
        let (compared, _, paused) = compared(|reading| (3, u64::from(reading)), 4);
        assert!(!compared.equal && !compared.differs && compared.moving);
        assert!(paused >= TIMEOUT);
    }

    #[test]
    fn a_lasting_difference_gets_more_than_two_seconds() {
        let (compared, _, paused) = compared(|_| (3, 3), 4);
        assert!(!compared.equal && compared.differs && !compared.moving);
        assert!(paused >= MIN_DIFFERENCE_AGE && MIN_DIFFERENCE_AGE > Duration::from_secs(2));
    }

    #[test]
    fn another_namespace_is_no_comparison() {
        let error = compare(&World {
            request: &|_| {
                Ok(Response::Snapshots(vec![Snapshot::of(
                    Tier::Full,
                    7,
                    <_>::default(),
                )]))
            },
            listing: &|| panic!("compared with another namespace"),
            netns: &|| Ok(8),
            pause: &|_| {},
            elapsed: &|| Duration::ZERO,
        });
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("namespace 8: the tracker counts 7; run it there with: nsenter"),
            "{text}"
        );
    }
}
