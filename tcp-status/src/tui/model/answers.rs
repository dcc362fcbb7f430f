//! What is asked of the tracker, and what becomes of its answers.

use std::time::{Duration, Instant};

use ratatui::text::Line;

use super::{History, Mode, Model};
use crate::{output::plain, snapshot::Snapshot};

/// The most lines of a notice.
const MAX_NOTICE: u16 = 3;

/// What is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which namespace; none for the tracker's own.
    pub netns: Option<String>,
    /// All of them, while one is being chosen.
    pub all_netns: bool,
    /// Nothing at all.
    pub paused: bool,
    /// How often.
    pub interval: Duration,
}

/// What the tracker said, or why it did not.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The question.
    pub question: Question,
    /// The answer.
    pub result: Result<Vec<Snapshot>, String>,
    /// When it came.
    pub at: Instant,
}

/// There is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub why: String,
    /// Since the last reading.
    pub lasts: Duration,
}

impl Model {
    /// What has to be asked for what is shown.
    #[must_use]
    pub fn question(&self) -> Question {
        Question {
            netns: self.netns.clone(),
            all_netns: matches!(self.mode, Mode::Namespaces(_)),
            paused: self.paused,
            interval: self.settings.interval,
        }
    }

    /// Takes an answer, unless something else has been asked since.
    pub fn answered(&mut self, answered: Answered) {
        let Answered {
            question,
            result,
            at,
        } = answered;
        if question != self.question() {
            return;
        }
        match result {
            Ok(all) if question.all_netns => {
                let shown = all.iter().find(|one| one.netns == self.reading.netns);
                if let Some(one) = shown.cloned() {
                    self.take(one, at);
                }
                self.namespaces = all;
                self.trouble = None;
                self.keep_in_view();
            }
            Ok(all) => match <[Snapshot; 1]>::try_from(all) {
                Ok([one]) => self.take(one, at),
                Err(all) => self.miss(
                    format!(
                        "cannot show one namespace: {} readings came; report it as a bug",
                        all.len()
                    ),
                    at,
                ),
            },
            Err(why) => self.miss(why, at),
        }
    }

    fn take(&mut self, reading: Snapshot, at: Instant) {
        if reading.netns != self.reading.netns {
            self.history = History::default();
        }
        self.history.add(&reading, at);
        self.reading = reading;
        self.read_at = at;
        self.trouble = None;
        self.keep_in_view();
    }

    fn miss(&mut self, why: String, at: Instant) {
        let lasts = at.saturating_duration_since(self.read_at);
        self.trouble = Some(Trouble { why, lasts });
    }

    /// What a reader must know first: why there is no answer, why numbers may be off, or why the
    /// tier is not the best one.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let Snapshot {
            degraded,
            tier_reason,
            tier,
            ..
        } = &self.reading;
        let text = match (&self.trouble, degraded, tier_reason) {
            (Some(trouble), ..) => trouble.why.clone(),
            (None, Some(why), _) => format!("degraded: {why}"),
            (None, None, Some(why)) => format!("{}: {why}", tier.name()),
            (None, None, None) => return None,
        };
        Some(plain(&text))
    }

    /// How many lines a terminal of this width gives it: more than one where the cure, which
    /// comes last, matters most.
    #[must_use]
    pub fn notice_lines(&self, width: u16) -> u16 {
        let Some(notice) = self.notice() else {
            return 0;
        };
        if self.trouble.is_none() || width == 0 {
            return 1;
        }
        let needed = Line::raw(notice).width() / usize::from(width) + 1;
        u16::try_from(needed).unwrap_or(u16::MAX).min(MAX_NOTICE)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Answered, Mode, Model, Question, Snapshot};
    use crate::{
        snapshot::Tier,
        tui::invented::{OTHER, OWN, model, reading},
    };

    fn answer(model: &mut Model, result: Result<Vec<Snapshot>, String>, at: Instant) {
        let question = model.question();
        model.answered(Answered {
            question,
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
        let trouble = model.trouble().unwrap();
        assert_eq!(trouble.lasts, Duration::from_secs(12));
        assert_eq!(model.notice().unwrap(), "no[2J tracker");
        // The last numbers stay.
        assert_eq!(model.reading().netns, OWN);
        answer(&mut model, Ok(vec![reading(OWN, 1)]), start);
        assert_eq!((model.trouble(), model.notice()), (None, usual));
    }

    #[test]
    fn answers_to_another_question_are_not_taken() {
        let start = Instant::now();
        let mut model = model(start);
        let asked = model.question();
        model.answered(Answered {
            question: Question {
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
        assert!(model.question().all_netns);
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
