//! Polls of the tracker: what is requested, and how results update the model.

use std::time::{Duration, Instant};

use ratatui::text::Line;

use super::{History, Model, Tab};
use crate::{
    printable::printable,
    snapshot::{Severity, Snapshot, minutes, who::Who},
    track::who::Walk,
};

/// The most lines of notices.
const MAX_NOTICE: u16 = 3;

/// What to request from the tracker, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollQuery {
    /// The namespace; none for the tracker's.
    pub netns: Option<String>,
    /// All namespaces, while they or their units are listed.
    pub all_netns: bool,
    /// Whether polling is paused.
    pub paused: bool,
    /// Time between polls.
    pub interval: Duration,
    /// How far back the history by minute has to reach, in seconds.
    pub span: u32,
    /// A walk over the sockets, while what it finds is shown.
    pub walk: Option<Walk>,
}

/// The result of one poll.
#[derive(Clone, Debug)]
pub struct PollResult {
    /// The request.
    pub poll_query: PollQuery,
    /// The snapshots, or the error.
    pub result: Result<Vec<Snapshot>, String>,
    /// The history, if it was due and there is one.
    pub history: Option<minutes::History>,
    /// What the walk found, if it was due.
    pub walked: Option<Result<Vec<Who>, String>>,
    /// When it arrived.
    pub at: Instant,
}

/// The tracker does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The error.
    pub why: String,
    /// Time since the last reading.
    pub lasts: Duration,
}

impl Model {
    /// The request for what is shown.
    #[must_use]
    pub fn poll_query(&self) -> PollQuery {
        PollQuery {
            netns: self.netns.clone(),
            all_netns: self.lists_all(),
            paused: self.paused,
            interval: self.settings.interval,
            span: self.span(),
            walk: self.walk(),
        }
    }

    /// Whether the page is of all namespaces.
    fn lists_all(&self) -> bool {
        self.details.is_empty()
            && match self.tab {
                Tab::Namespaces => true,
                Tab::Units => self.reading.all_netns,
                _ => false,
            }
    }

    /// Updates the model, unless the request has changed since.
    pub fn handle_poll_result(&mut self, answered: PollResult) {
        let PollResult {
            poll_query,
            result,
            history,
            walked,
            at,
        } = answered;
        if poll_query != self.poll_query() {
            return;
        }
        self.walked = poll_query.walk.zip(walked).or_else(|| self.walked.take());
        match result {
            Ok(all) if poll_query.all_netns => {
                let shown = all.iter().find(|one| one.netns == self.reading.netns);
                if let Some(one) = shown.cloned() {
                    self.accept_reading(one, at);
                }
                self.namespaces = all;
                self.outage = None;
            }
            Ok(all) => match <[Snapshot; 1]>::try_from(all) {
                Ok([one]) => self.accept_reading(one, at),
                Err(all) => self.record_outage(
                    format!(
                        "cannot show one namespace: {} readings came; report it as a bug",
                        all.len()
                    ),
                    at,
                ),
            },
            Err(why) => self.record_outage(why, at),
        }
        // The tracker keeps that of its own namespace.
        if let Some(history) = history.filter(|of| of.netns == self.reading.netns) {
            self.history.set_minutes(history, at);
        }
    }

    pub(super) fn accept_reading(&mut self, reading: Snapshot, at: Instant) {
        if reading.netns != self.reading.netns {
            self.history = History::default();
            self.details.clear();
            self.watched.clear();
        }
        self.history.add(&reading, at);
        self.set_problems(reading.problems.clone());
        self.reading = reading;
        self.read_at = at;
        self.outage = None;
        self.record_watched();
    }

    fn record_outage(&mut self, why: String, at: Instant) {
        let lasts = at.saturating_duration_since(self.read_at);
        self.outage = Some(Outage { why, lasts });
    }

    /// What stands above a page, the most urgent first, and how urgent it is: an outage alone; else why a count may
    /// be off, and the problems, unless the page lists them itself.
    #[must_use]
    pub fn notices(&self) -> Vec<(Severity, String)> {
        if let Some(outage) = &self.outage {
            return vec![(Severity::Critical, printable(&outage.why))];
        }
        let lists_them = self.tab == Tab::Overview || self.has_details();
        let problems = self.problems.iter().filter(|_| !lists_them);
        let problems = problems.map(|problem| (problem.severity, problem.text.clone()));
        let degraded = self.reading.degraded.iter();
        let degraded = degraded.map(|why| (Severity::Warning, format!("degraded: {why}")));
        let all = problems.chain(degraded);
        all.map(|(severity, text)| (severity, printable(&text)))
            .collect()
    }

    /// Lines of the notices. An outage gets several: its hint comes last.
    #[must_use]
    pub fn notice_lines(&self) -> u16 {
        let notices = self.notices();
        let width = usize::from(self.size.width).max(1);
        match (&self.outage, &notices[..]) {
            (Some(_), [(_, outage)]) => {
                let lines = Line::raw(outage).width() / width + 1;
                u16::try_from(lines).unwrap_or(u16::MAX).min(MAX_NOTICE)
            }
            (_, notices) => u16::from(!notices.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tcp_status_common::state::State;

    use super::{Model, PollQuery, PollResult, Snapshot, Tab};
    use crate::{
        snapshot::Tier,
        view::top::fixtures::{OTHER, OWN, model, reading},
    };

    fn texts(model: &Model) -> Vec<String> {
        let notices = model.notices().into_iter();
        notices.map(|(_, text)| text).collect()
    }

    fn answer(model: &mut Model, result: Result<Vec<Snapshot>, String>, at: Instant) {
        let poll_query = model.poll_query();
        model.handle_poll_result(PollResult {
            poll_query,
            result,
            history: None,
            walked: None,
            at,
        });
    }

    #[test]
    fn a_tracker_that_goes_is_told_and_forgotten_when_it_is_back() {
        let start = Instant::now();
        let mut model = model(start);
        let usual = model.notices();
        answer(
            &mut model,
            Err("no\u{1b}[2J tracker".into()),
            start + Duration::from_secs(12),
        );
        let outage = model.outage().unwrap();
        assert_eq!(outage.lasts, Duration::from_secs(12));
        assert_eq!(texts(&model), ["no[2J tracker"]);
        // The last numbers stay.
        assert_eq!(model.reading().netns, OWN);
        answer(&mut model, Ok(vec![reading(OWN, 1)]), start);
        assert_eq!((model.outage(), model.notices()), (None, usual));
    }

    #[test]
    fn answers_to_another_question_are_not_taken() {
        let start = Instant::now();
        let mut model = model(start);
        let asked = model.poll_query();
        model.handle_poll_result(PollResult {
            poll_query: PollQuery {
                netns: Some("elsewhere".into()),
                ..asked
            },
            result: Ok(vec![reading(OTHER, 1)]),
            history: None,
            walked: None,
            at: start,
        });
        assert_eq!(model.reading().netns, OWN);
        answer(&mut model, Ok(Vec::new()), start);
        assert!(texts(&model)[0].contains("0 readings came"));
    }

    #[test]
    fn another_namespace_has_a_history_of_its_own() {
        let start = Instant::now();
        let mut model = model(start);
        answer(&mut model, Ok(vec![reading(OWN, 1)]), start);
        assert_eq!(model.history().len(), 2);
        answer(&mut model, Ok(vec![reading(OTHER, 1)]), start);
        assert_eq!((model.reading().netns, model.history().len()), (OTHER, 1));
    }

    #[test]
    fn while_one_is_chosen_all_namespaces_are_asked() {
        let start = Instant::now();
        let mut model = model(start);
        model.tab = Tab::Namespaces;
        assert!(model.poll_query().all_netns);
        let all = vec![reading(OTHER, 0), reading(OWN, 3)];
        answer(&mut model, Ok(all), start);
        assert_eq!(model.namespaces.len(), 2);
        assert_eq!((model.reading().netns, model.history().len()), (OWN, 2));
    }

    #[test]
    fn the_worst_is_told_first() {
        let start = Instant::now();
        let mut best = Snapshot::of(Tier::Full, OWN, <_>::default());
        let mut model = model(start);
        answer(&mut model, Ok(vec![best.clone()]), start);
        assert_eq!(texts(&model), [""; 0]);
        best.degraded = Some("an audit is due".into());
        answer(&mut model, Ok(vec![best.clone()]), start);
        assert_eq!(texts(&model), ["degraded: an audit is due"]);
        best.states[State::SynRecv] = 300;
        answer(&mut model, Ok(vec![best.with_problems()]), start);
        // The overview lists the problem itself.
        assert_eq!(texts(&model), ["degraded: an audit is due"]);
        model.tab = Tab::Ports;
        let both = ["300 connections are half-open", "degraded: an audit is due"];
        assert_eq!(
            (texts(&model), model.notice_lines()),
            (both.map(String::from).into(), 1)
        );
    }
}
