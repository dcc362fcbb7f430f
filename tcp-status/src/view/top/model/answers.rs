//! Polls of the tracker: what is requested, and how results update the model.

use std::time::{Duration, Instant};

use ratatui::{layout::Size, text::Line};

use super::{History, Mode, Model, Panel};
use crate::{
    printable::printable,
    snapshot::{Severity, Snapshot},
};

/// The most lines of notices.
const MAX_NOTICE: u16 = 3;

/// From this height on, several problems have a line each.
const SEVERAL_FROM: u16 = 24;

/// What to request from the tracker, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollQuery {
    /// The namespace; none for the tracker's.
    pub netns: Option<String>,
    /// All namespaces, while the list of them is open.
    pub all_netns: bool,
    /// Whether polling is paused.
    pub paused: bool,
    /// Time between polls.
    pub interval: Duration,
}

/// The result of one poll.
#[derive(Clone, Debug)]
pub struct PollResult {
    /// The request.
    pub poll_query: PollQuery,
    /// The snapshots, or the error.
    pub result: Result<Vec<Snapshot>, String>,
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
            all_netns: matches!(self.mode, Mode::Namespaces(_)),
            paused: self.paused,
            interval: self.settings.interval,
        }
    }

    /// Updates the model, unless the request has changed since.
    pub fn handle_poll_result(&mut self, answered: PollResult) {
        let PollResult {
            poll_query,
            result,
            at,
        } = answered;
        if poll_query != self.poll_query() {
            return;
        }
        match result {
            Ok(all) if poll_query.all_netns => {
                let shown = all.iter().find(|one| one.netns == self.reading.netns);
                if let Some(one) = shown.cloned() {
                    self.accept_reading(one, at);
                }
                self.namespaces = all;
                self.outage = None;
                self.keep_in_view();
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
    }

    fn accept_reading(&mut self, reading: Snapshot, at: Instant) {
        if reading.netns != self.reading.netns {
            self.history = History::default();
        }
        self.history.add(&reading, at);
        self.reading = reading;
        self.read_at = at;
        self.outage = None;
        if self.panel == Panel::Cgroups && self.reading.cgroups.is_none() {
            self.panel = Panel::default();
        }
        self.keep_in_view();
    }

    fn record_outage(&mut self, why: String, at: Instant) {
        let lasts = at.saturating_duration_since(self.read_at);
        self.outage = Some(Outage { why, lasts });
    }

    /// What stands above the states, the most urgent first, and how urgent it is: an outage alone;
    /// else what is wrong, or the reason of a lower tier if nothing is.
    #[must_use]
    pub fn notices(&self) -> Vec<(Option<Severity>, String)> {
        if let Some(outage) = &self.outage {
            return vec![(Some(Severity::Critical), printable(&outage.why))];
        }
        let reading = &self.reading;
        let problems = reading.problems().into_iter();
        let problems = problems.map(|problem| (Some(problem.severity), problem.text));
        let degraded = reading.degraded.iter();
        let degraded = degraded.map(|why| (Some(Severity::Warning), format!("degraded: {why}")));
        let mut notices: Vec<_> = problems.chain(degraded).collect();
        if notices.is_empty() {
            let reason = reading.tier_reason.iter();
            notices.extend(reason.map(|why| (None, format!("{}: {why}", reading.tier.name()))));
        }
        for (_, text) in &mut notices {
            *text = printable(text);
        }
        notices
    }

    /// Lines of the notices on a terminal of this size. An outage gets several: its hint comes last.
    #[must_use]
    pub fn notice_lines(&self, Size { width, height }: Size) -> u16 {
        let notices = self.notices();
        let most = if self.outage.is_some() || height >= SEVERAL_FROM {
            MAX_NOTICE
        } else {
            1
        };
        let lines = match (&self.outage, &notices[..]) {
            (Some(_), [(_, outage)]) if width > 0 => {
                Line::raw(outage).width() / usize::from(width) + 1
            }
            _ => notices.len(),
        };
        u16::try_from(lines).unwrap_or(u16::MAX).min(most)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tcp_status_common::state::State;

    use super::{Mode, Model, PollQuery, PollResult, Snapshot};
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
        model.mode = Mode::Namespaces(0);
        assert!(model.poll_query().all_netns);
        let all = vec![reading(OTHER, 0), reading(OWN, 3)];
        answer(&mut model, Ok(all), start);
        assert_eq!(model.namespaces().len(), 2);
        assert_eq!((model.reading().netns, model.history().len()), (OWN, 2));
    }

    #[test]
    fn the_worst_is_told_first() {
        let start = Instant::now();
        let mut best = Snapshot::of(Tier::Full, OWN, <_>::default());
        let mut model = model(start);
        answer(&mut model, Ok(vec![best.clone()]), start);
        assert_eq!(texts(&model), [""; 0]);
        best.tier = Tier::Scan;
        best.tier_reason = Some("no BTF".into());
        answer(&mut model, Ok(vec![best.clone()]), start);
        assert_eq!(texts(&model), ["scan: no BTF"]);
        best.degraded = Some("an audit is due".into());
        answer(&mut model, Ok(vec![best.clone()]), start);
        assert_eq!(texts(&model), ["degraded: an audit is due"]);
        best.states[State::SynRecv] = 300;
        answer(&mut model, Ok(vec![best]), start);
        let both = ["300 connections are half-open", "degraded: an audit is due"];
        assert_eq!(texts(&model), both);
        let lines = [(80, 24), (80, 23), (0, 24)].map(|size| model.notice_lines(size.into()));
        assert_eq!(lines, [2, 1, 2]);
    }
}
