//! Polls the tracker from a thread of its own: a response may take seconds, and keys must work meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    error::TopError,
    model::{PollQuery, PollResult},
};
use crate::{
    serve::{
        client::request,
        protocol::{History, Query, Response, Show},
    },
    snapshot::{Snapshot, minutes, who::Who},
    track::who::Walk,
};

/// How often the history by minute is read again.
const HISTORY: Duration = Duration::from_secs(30);

/// The least time between two walks.
const WALK: Duration = Duration::from_secs(2);

/// A walk takes at most one of so many parts of the time.
const WALK_SHARE: u32 = 20;

/// The polling thread, as the event loop sees it.
pub(super) struct Poller {
    asked: PollQuery,
    queries: Sender<PollQuery>,
    answers: UnboundedReceiver<PollResult>,
}

impl Poller {
    /// Starts the thread.
    pub(super) fn start(socket: PathBuf, first: PollQuery) -> Result<Self, TopError> {
        let (queries, next) = channel();
        let (send, answers) = unbounded_channel();
        let asked = first.clone();
        thread::Builder::new()
            .name("questions".into())
            .spawn(move || poll_loop(&socket, first, &next, &send))
            .map_err(TopError::Process)?;
        Ok(Self {
            asked,
            queries,
            answers,
        })
    }

    /// Sets what to poll from now on; a change is polled at once.
    pub(super) fn ask(&mut self, poll_query: PollQuery) {
        if self.asked != poll_query {
            self.asked = poll_query.clone();
            // If the thread has ended, the event loop notices the end of its results.
            drop(self.queries.send(poll_query));
        }
    }

    /// The next result; none if the thread has failed.
    pub(super) async fn answer(&mut self) -> Option<PollResult> {
        self.answers.recv().await
    }
}

/// Polls until the receiver is dropped.
fn poll_loop(
    socket: &Path,
    mut poll_query: PollQuery,
    next: &Receiver<PollQuery>,
    answers: &UnboundedSender<PollResult>,
) {
    let mut due = Instant::now();
    let mut seldom = Seldom::default();
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        let other = if poll_query.paused {
            next.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            next.recv_timeout(wait)
        };
        match other {
            Ok(other) => poll_query = next.try_iter().last().unwrap_or(other),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if poll_query.paused {
            continue;
        }
        let asked = Instant::now();
        let answered = PollResult {
            result: answer(socket, &poll_query),
            history: seldom.history(socket, poll_query.span),
            walked: seldom.walk(poll_query.walk.as_ref()),
            at: Instant::now(),
            poll_query: poll_query.clone(),
        };
        if answers.send(answered).is_err() {
            return;
        }
        due = asked + poll_query.interval;
    }
}

/// What is not read with each poll: what was read last, and when it is due again.
#[derive(Default)]
struct Seldom {
    history: Option<(u32, Instant)>,
    walk: Option<(Walk, Instant)>,
}

impl Seldom {
    /// The history, if it is due. A tracker that keeps none is no failure.
    fn history(&mut self, socket: &Path, span: u32) -> Option<minutes::History> {
        let now = Instant::now();
        if matches!(self.history, Some((of, due)) if of == span && now < due) {
            return None;
        }
        self.history = Some((span, now + HISTORY));
        let query = Query::History(History {
            state: None,
            since: Some(span),
        });
        match request(socket, &query) {
            Ok(Response::History(history)) => Some(history),
            _ => None,
        }
    }

    /// What a walk finds, if one is wanted and due.
    fn walk(&mut self, walk: Option<&Walk>) -> Option<Result<Vec<Who>, String>> {
        let walk = walk?;
        let started = Instant::now();
        if matches!(&self.walk, Some((of, due)) if of == walk && started < *due) {
            return None;
        }
        let found = walk.run().map_err(|error| error.to_string());
        let pause = WALK.max(started.elapsed() * WALK_SHARE);
        self.walk = Some((walk.clone(), started + pause));
        Some(found)
    }
}

fn answer(socket: &Path, poll_query: &PollQuery) -> Result<Vec<Snapshot>, String> {
    let query = Query::Show(Show {
        netns: poll_query.netns.clone().filter(|_| !poll_query.all_netns),
        all_netns: poll_query.all_netns,
        ..Show::default()
    });
    match request(socket, &query) {
        Ok(Response::Snapshots(snapshots)) => Ok(snapshots),
        Ok(Response::Error(refusal)) => Err(refusal.to_string()),
        Ok(Response::Value(_) | Response::History(_) | Response::Waited { .. }) => {
            Err("cannot query the tracker: it answers another question".into())
        }
        Err(error) => Err(error.to_string()),
    }
}
