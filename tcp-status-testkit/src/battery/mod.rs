//! The battery: whatever brings the kernel's counts into unusual states, one scenario at a time,
//! with a pause wherever everything is at rest, so that somebody may compare. Owns the
//! scenarios' list and the stage that they play on; compares nothing itself.

mod backlog;
mod destroy;
mod fast_open;
mod mptcp;
mod proof;
mod repair;
mod reuseport;
mod timewait;

use std::{fmt, io, time::Duration};

use rand::RngExt;

use crate::{
    Family,
    churn::{self, CONTRARY, Ctx, SCENARIOS},
    endpoints::Endpoint,
    held_sockets::{HeldSockets, SocketPlan},
    netns::set_sysctl,
    oracle::Counts,
};

/// How long anything may take that the kernel does by itself.
const LIMIT: Duration = Duration::from_secs(20);

/// How often a scenario of churn is run on each family.
const TIMES: u32 = 6;

/// What became of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took place, as counters of the kernel prove where nothing else does.
    Done,
    /// This kernel does not have it; how that was found.
    Lacking(String),
}

#[derive(Clone, Copy)]
enum Play {
    /// From churn: each run opens and closes, and holds nothing.
    Connections(churn::Scenario),
    /// Holds sockets, and says when.
    Staged(fn(&mut Stage<'_>) -> io::Result<Verdict>),
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name, unlike all others.
    pub name: &'static str,
    /// The kernel's events contradict each other: only an audit can tell.
    pub contrary: bool,
    settings: &'static [(&'static str, &'static str)],
    play: Play,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scenario").field(&self.name).finish()
    }
}

/// Those with pauses, in the order of their files.
const STAGED: &[Scenario] = &[
    Scenario::staged("every_state", &[], every_state),
    Scenario::staged("tw_reuse", &[("ipv4/tcp_tw_reuse", "1")], timewait::reuse),
    Scenario::staged(
        "bucket_overflow",
        &[("ipv4/tcp_max_tw_buckets", "3")],
        timewait::bucket_overflow,
    ),
    Scenario::staged("fin_wait2_met", &[], timewait::fin_wait2_met),
    Scenario::staged(
        "fin_timeout_short",
        &[("ipv4/tcp_fin_timeout", "2")],
        timewait::fin_timeout_short,
    ),
    Scenario::staged(
        "fin_timeout_long",
        &[("ipv4/tcp_fin_timeout", "62")],
        timewait::fin_timeout_long,
    ),
    Scenario::staged("linger2", &[], timewait::linger2),
    Scenario::staged(
        "syncookies",
        &[("ipv4/tcp_syncookies", "2")],
        backlog::syncookies,
    ),
    Scenario::staged(
        "syn_queue_overflow",
        &[("ipv4/tcp_syncookies", "1")],
        backlog::syn_queue_overflow,
    ),
    Scenario::staged(
        "accept_overflow_kept",
        &[("ipv4/tcp_abort_on_overflow", "0")],
        backlog::accept_overflow_kept,
    ),
    Scenario::staged(
        "accept_overflow_aborted",
        &[("ipv4/tcp_abort_on_overflow", "1")],
        backlog::accept_overflow_aborted,
    ),
    Scenario::staged("fast_open_held", &[], fast_open::held),
    Scenario::staged("repair_alone", &[], repair::alone),
    Scenario::staged("repair_moved", &[], repair::moved),
    Scenario::staged("repair_closing", &[], repair::closing),
    Scenario::staged("reuseport_closed", &[], reuseport::closed),
    Scenario::staged(
        "reuseport_migrated",
        &[("ipv4/tcp_migrate_req", "1")],
        reuseport::migrated,
    ),
    Scenario::staged("destroyed", &[], destroy::destroyed),
    Scenario::staged("mptcp", &[], mptcp::both),
    Scenario::staged("mptcp_fallback", &[], mptcp::fallback),
];

impl Scenario {
    const fn staged(
        name: &'static str,
        settings: &'static [(&'static str, &'static str)],
        play: fn(&mut Stage<'_>) -> io::Result<Verdict>,
    ) -> Self {
        Self {
            name,
            contrary: false,
            settings,
            play: Play::Staged(play),
        }
    }

    /// All of them, those of churn first.
    pub fn all() -> impl Iterator<Item = Self> {
        let connections = |contrary| {
            move |&(name, play): &(&'static str, churn::Scenario)| Self {
                name,
                contrary,
                settings: &[],
                play: Play::Connections(play),
            }
        };
        let contrary = CONTRARY.iter().map(connections(true));
        let churned = SCENARIOS.iter().map(connections(false)).chain(contrary);
        churned.chain(STAGED.iter().copied())
    }

    /// Plays it once, on every family where it makes sense, in the calling thread's namespace,
    /// whose sysctls it changes.
    ///
    /// # Errors
    /// When a call fails that should not, or when what was to be shown did not happen.
    pub fn run(&self, stage: &mut Stage<'_>) -> io::Result<Verdict> {
        for (name, value) in self.settings {
            match set_sysctl(name, value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Verdict::Lacking(error.to_string()));
                }
                result => result?,
            }
        }
        match self.play {
            Play::Connections(play) => connections(play, stage),
            Play::Staged(play) => play(stage),
        }
    }
}

fn connections(play: churn::Scenario, stage: &mut Stage<'_>) -> io::Result<Verdict> {
    for family in Family::ALL {
        stage.ctx.speak(family);
        (0..TIMES).try_for_each(|_| play(&mut stage.ctx))?;
        stage.rest("opened and closed");
    }
    Ok(Verdict::Done)
}

/// What a scenario plays on.
pub struct Stage<'a> {
    ctx: Ctx,
    at_rest: &'a mut dyn FnMut(&str),
}

impl<'a> Stage<'a> {
    /// Calls `at_rest` at every pause, with what is held then. What was done last may still be
    /// on its way.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn new(seed: u64, at_rest: &'a mut dyn FnMut(&str)) -> io::Result<Self> {
        let ctx = Ctx::new(seed, None)?;
        Ok(Self { ctx, at_rest })
    }

    /// Connections opened so far, or tried to.
    #[must_use]
    pub const fn connections(&self) -> u64 {
        self.ctx.connections()
    }

    fn rest(&mut self, held: &str) {
        (self.at_rest)(held);
    }

    /// A few connections on every family, from `open`, by way of which each gives what is kept.
    fn each<T>(&mut self, mut open: impl FnMut(&mut Ctx) -> io::Result<T>) -> io::Result<Vec<T>> {
        let mut kept = Vec::new();
        for family in Family::ALL {
            self.ctx.speak(family);
            for _ in 0..1 + self.ctx.few() {
                kept.push(open(&mut self.ctx)?);
            }
        }
        Ok(kept)
    }
}

/// All that can be held at once.
fn every_state(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let hold = HeldSockets::new(&SocketPlan::random(4, stage.ctx.rng.random()))?;
    hold.wait(LIMIT)?;
    // Not every socket is a connection, and most connections are two sockets.
    stage.ctx.count(hold.expected().total() / 2);
    stage.rest("every state");
    drop(hold);
    stage.rest("reset");
    Ok(Verdict::Done)
}

/// Both ends of a connection whose windows are soon full.
fn pair(ctx: &mut Ctx) -> io::Result<(Endpoint, Endpoint)> {
    ctx.small_pair()
}

/// Waits until the kernel lists what is wanted.
fn listed(what: &str, wanted: impl Fn(&Counts) -> bool) -> io::Result<()> {
    Counts::wait_for(LIMIT, wanted)?
        .map(drop)
        .map_err(|last| not_shown(what, &last.to_string()))
}

/// What was to be shown did not happen.
fn not_shown(what: &str, instead: &str) -> io::Error {
    io::Error::other(format!(
        "{what}, within {LIMIT:?}: did not happen; {instead}"
    ))
}
