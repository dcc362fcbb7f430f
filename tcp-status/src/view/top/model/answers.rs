//! Polls of the tracker: what is requested, and how results update the model.

use std::time::{Duration, Instant};

use ratatui::text::Line;

use super::{History, Mode, Model, Panel};
use crate::{printable::printable, snapshot::Snapshot};

/// The most lines of a notice.
const MAX_NOTICE: u16 = 3;

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

    /// The most important notice: an outage, a degradation, or the reason of a lower tier.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let Snapshot {
            degraded,
            tier_reason,
            tier,
            ..
        } = &self.reading;
        let text = match (&self.outage, degraded, tier_reason) {
            (Some(outage), ..) => outage.why.clone(),
            (None, Some(why), _) => format!("degraded: {why}"),
            (None, None, Some(why)) => format!("{}: {why}", tier.name()),
            (None, None, None) => return None,
        };
        Some(printable(&text))
    }

    /// Lines of the notice at this width. An outage gets several: its hint comes last.
    #[must_use]
    pub fn notice_lines(&self, width: u16) -> u16 {
        let Some(notice) = self.notice() else {
            return 0;
        };
        if self.outage.is_none() || width == 0 {
            return 1;
        }
        let needed = Line::raw(notice).width() / usize::from(width) + 1;
        u16::try_from(needed).unwrap_or(u16::MAX).min(MAX_NOTICE)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Mode, Model, PollQuery, PollResult, Snapshot};
    use crate::{
        snapshot::Tier,
        view::top::fixtures::{OTHER, OWN, model, reading},
    };

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
        let usual = model.notice();
        answer(
            &mut model,
            Err("no\u{1b}[2J tracker".into()),
            start + Duration::from_secs(12),
        );
        let outage = model.outage().unwrap();
        assert_eq!(outage.lasts, Duration::from_secs(12));
        assert_eq!(model.notice().unwrap(), "no[2J tracker");
        // The last numbers stay.
        assert_eq!(model.reading().netns, OWN);
        answer(&mut model, Ok(vec![reading(OWN, 1)]), start);
        assert_eq!((model.outage(), model.notice()), (None, usual));
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
        assert!(model.notice().unwrap().contains("0 readings came"));
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
        assert_eq!(model.notice(), None);
        best.tier = Tier::Scan;
        best.tier_reason = Some("no BTF".into());
        answer(&mut model, Ok(vec![best.clone()]), start);
        assert_eq!(model.notice().unwrap(), "scan: no BTF");
        best.degraded = Some("an audit is due".into());
        answer(&mut model, Ok(vec![best]), start);
        assert_eq!(model.notice().unwrap(), "degraded: an audit is due");
    }
}
