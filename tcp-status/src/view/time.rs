//! Times and time spans as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::snapshot::Problem;

/// What is wrong, since when, and which command says more.
pub(super) fn describe(problem: &Problem) -> String {
    describe_at(problem, now())
}

/// How long it has lasted, or longer.
pub(super) fn lasts(problem: &Problem) -> String {
    match (problem.since, problem.since_before) {
        (Some(since), _) => format!("for {}", ago(now() - since)),
        (None, Some(before)) => format!("for >{}", ago(now() - before)),
        (None, None) => String::new(),
    }
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

fn describe_at(problem: &Problem, now: f64) -> String {
    let mut text = problem.text.clone();
    let since = problem.since.map(|time| ("since", time));
    let before = problem.since_before.map(|time| ("since before", time));
    if let Some((since, time)) = since.or(before) {
        let day = |time: f64| date(time).get(..10).map(str::to_owned);
        let is_today = day(time) == day(now);
        let time = if is_today { clock(time) } else { date(time) };
        text += &format!(", {since} {time} UTC");
    }
    if let Some(hint) = &problem.hint {
        text += "; ";
        text += hint;
    }
    text
}

/// Date and time to the second, in UTC; a dash if there is no such time.
fn timestamp(time: f64) -> Option<String> {
    /// The last second that has four digits for its year.
    const LAST: f64 = 253_402_300_799.0;
    let time = (0.0..=LAST).contains(&time).then_some(time)?;
    let time = UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(time).ok()?)?;
    Some(humantime::format_rfc3339_seconds(time).to_string())
}

/// Hours, minutes, seconds.
pub(super) fn clock(time: f64) -> String {
    let time = timestamp(time).and_then(|text| Some(text.get(11..19)?.to_owned()));
    time.unwrap_or_else(|| "-".into())
}

/// Date, hours, minutes.
pub(super) fn date(time: f64) -> String {
    let time = timestamp(time).and_then(|text| Some(text.get(..16)?.replace('T', " ")));
    time.unwrap_or_else(|| "-".into())
}

/// A time span in two units at most.
pub(super) fn ago(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast saturates"
    )]
    let seconds = seconds.max(0.0) as u64;
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::{describe_at, lasts, now};
    use crate::snapshot::{Problem, Rule, Severity};

    fn leak() -> Problem {
        Problem {
            rule: Rule::CloseWaitLeak,
            severity: Severity::Warning,
            text: "51 leak".into(),
            hint: None,
            at: Vec::new(),
            since: None,
            since_before: None,
        }
    }

    #[test]
    fn a_problem_says_since_when_it_is_there() {
        let mut problem = leak();
        let now = 1_764_511_387.0;
        assert_eq!(describe_at(&problem, now), "51 leak");
        problem.hint = Some("tcp-status who".into());
        assert_eq!(describe_at(&problem, now), "51 leak; tcp-status who");
        problem.since = Some(1_764_510_000.5);
        let today = "51 leak, since 13:40:00 UTC; tcp-status who";
        assert_eq!(describe_at(&problem, now), today);
        problem.since = None;
        problem.since_before = Some(1_764_000_000.0);
        let earlier = "51 leak, since before 2025-11-24 16:00 UTC; tcp-status who";
        assert_eq!(describe_at(&problem, now), earlier);
    }

    #[test]
    fn a_problem_says_how_long_it_has_lasted() {
        let mut problem = leak();
        assert_eq!(lasts(&problem), "");
        problem.since_before = Some(now() - 4000.0);
        assert_eq!(lasts(&problem), "for >1h06m");
        problem.since = Some(now() - 90.0);
        assert_eq!(lasts(&problem), "for 1m");
    }
}
