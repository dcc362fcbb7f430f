//! The history by minute as text: a row with a plot for each number, or a row for each minute of one state.

use std::{
    fmt::{self, Write as _},
    io::{IsTerminal as _, stdout},
};

use ratatui::crossterm::terminal;
use tcp_status_common::state::State;

use super::{
    field::field,
    time::{ago, clock, date},
    top::panels::theme::Theme,
};
use crate::snapshot::minutes::{Extremes, History, Minute};

/// Columns before a plot.
const BEFORE_PLOT: usize = 62;

/// How a plot is drawn.
#[derive(Clone, Debug)]
pub struct Plot {
    width: usize,
    /// From nothing to the maximum.
    heights: [&'static str; 9],
    filled: &'static str,
}

impl Plot {
    /// For the terminal, if there is one, and the character set of the locale.
    #[must_use]
    pub fn from_environment() -> Self {
        let size = terminal::size().ok().filter(|_| stdout().is_terminal());
        let columns = size.map_or(80, |(columns, _)| usize::from(columns));
        Self::of(columns, &Theme::from_environment())
    }

    /// For so many columns, with or without characters beyond ASCII.
    #[must_use]
    pub fn new(columns: usize, unicode: bool) -> Self {
        Self::of(columns, &Theme::new(false, unicode))
    }

    fn of(columns: usize, theme: &Theme) -> Self {
        Self {
            width: columns.saturating_sub(BEFORE_PLOT).clamp(10, 120),
            heights: theme.heights,
            filled: theme.filled,
        }
    }

    /// A value from 0 to `max`: only 0 is empty.
    fn height(&self, value: f64, max: f64) -> &'static str {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 8: a cast saturates"
        )]
        let eighths = (value / max * 8.0).ceil() as usize;
        self.heights[eighths.min(8)]
    }
}

/// One number of each minute.
type Number = dyn Fn(&Minute) -> Option<Extremes<f64>>;

/// A row for each number, or for each minute of `state`.
#[must_use]
pub fn render(history: &History, state: Option<State>, plot: &Plot) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = header(&mut text, history).and_then(|()| match state {
        Some(state) => minutes(&mut text, history, state, plot),
        None => summary(&mut text, history, plot),
    });
    text
}

fn header(out: &mut String, history: &History) -> fmt::Result {
    field(out, "netns", &history.netns.to_string())?;
    let asked = history.since_seconds.div_ceil(60);
    let mut covered = format!(
        "{} minutes of the last {asked}, sampled every {} ms",
        history
            .minutes
            .len()
            .min(asked.try_into().unwrap_or(usize::MAX)),
        history.sample_milliseconds
    );
    let degraded = history.minutes.iter().filter(|one| one.degraded).count();
    if degraded > 0 {
        write!(covered, "; {degraded} degraded")?;
    }
    field(out, "history", &covered)?;
    let queues = history.minutes.iter();
    let queues = queues.filter_map(|one| one.fullest_accept_queue);
    let share = |length: u32, limit: u32| f64::from(length) / (f64::from(limit) + 1.0);
    if let Some(of) =
        queues.max_by(|a, b| share(a.length, a.limit).total_cmp(&share(b.length, b.limit)))
    {
        let (time, ago) = (clock(of.at), ago(history.now - of.at));
        let text = format!(
            "accept queue of port {}: {} of {} at {time}, {ago} ago",
            of.port, of.length, of.limit
        );
        field(out, "fullest", &text)?;
    }
    Ok(())
}

fn summary(out: &mut String, history: &History, plot: &Plot) -> fmt::Result {
    write!(
        out,
        "\n{:<14}{:>9}{:>11}{:>9}",
        "state", "min", "mean", "max"
    )?;
    writeln!(out, "  {:<8} {:>6}", "at UTC", "ago")?;
    let mut idle = Vec::new();
    for state in State::ALL {
        let number = move |minute: &Minute| minute.states.get(state.name()).map(exact);
        if !row(out, state.name(), &number, history, plot)? {
            idle.push(state.name());
        }
    }
    let queued = |minute: &Minute| minute.accept_queues.as_ref().map(exact);
    row(out, "accept queues", &queued, history, plot)?;
    writeln!(out, "\nper second")?;
    for (key, name) in [
        ("active_open", "active opens"),
        ("passive_open", "passive opens"),
        ("failed_open", "failed opens"),
        ("active_close", "active closes"),
        ("passive_close", "passive closes"),
        ("aborted", "aborted"),
    ] {
        let rate = move |minute: &Minute| minute.rates.get(key).copied();
        row(out, name, &rate, history, plot)?;
    }
    if !history.minutes.is_empty() && !idle.is_empty() {
        writeln!(out)?;
        field(out, "always 0", &idle.join(", "))?;
    }
    Ok(())
}

/// Whether there is anything to show but zeros.
fn row(
    out: &mut String,
    name: &str,
    number: &Number,
    history: &History,
    plot: &Plot,
) -> Result<bool, fmt::Error> {
    let known = history
        .minutes
        .iter()
        .filter_map(|one| Some((one, number(one)?)));
    let (mut min, mut sum, mut weight) = (f64::INFINITY, 0.0, 0.0);
    let mut peak: Option<(f64, f64)> = None;
    for (minute, of) in known {
        min = min.min(of.min);
        sum += of.mean * minute.seconds;
        weight += minute.seconds;
        if peak.is_none_or(|(max, _)| of.max > max) {
            peak = Some((of.max, of.max_at));
        }
    }
    let Some((max, at)) = peak.filter(|&(max, _)| max > 0.0) else {
        return Ok(false);
    };
    let mean = if weight > 0.0 { sum / weight } else { max };
    write!(
        out,
        "{name:<14}{:>9}{mean:>11.1}{:>9}",
        short(min),
        short(max)
    )?;
    write!(out, "  {} {:>6}  ", clock(at), ago(history.now - at))?;
    let line = line(number, history, max, plot);
    writeln!(out, "{}", line.trim_end())?;
    Ok(true)
}

/// The maxima from old to new, one for each column.
fn line(number: &Number, history: &History, max: f64, plot: &Plot) -> String {
    let since = f64::from(history.since_seconds);
    let begin = history.now - since;
    #[expect(clippy::cast_precision_loss, reason = "a terminal is not as wide")]
    let step = since / plot.width as f64;
    let mut text = String::new();
    let mut from = begin;
    for _ in 0..plot.width {
        let to = from + step;
        let within = history.minutes.iter().filter(|minute| {
            let start = seconds(minute.start);
            start < to && start + 60.0 > from
        });
        let highest = within
            .filter_map(|minute| Some(number(minute)?.max))
            .reduce(f64::max);
        text.push_str(highest.map_or("-", |value| plot.height(value, max)));
        from = to;
    }
    text
}

fn minutes(out: &mut String, history: &History, state: State, plot: &Plot) -> fmt::Result {
    let of = |minute: &Minute| minute.states.get(state.name()).copied();
    if let Some(peak) = history.peaks.get(state.name()) {
        let ago = ago(history.now - peak.at);
        let text = format!("{} {state} at {}, {ago} ago", peak.max, clock(peak.at));
        field(out, "peak", &text)?;
    }
    writeln!(
        out,
        "\n{:<18}{:>9}{:>11}{:>9}  {:<8}",
        "minute UTC", "min", "mean", "max", "max at"
    )?;
    let all = history.minutes.iter().filter_map(of);
    let max = all.map(|one| one.max).max().unwrap_or(0).max(1);
    let mut next = None;
    for minute in &history.minutes {
        let Some(extremes) = of(minute) else { continue };
        if next.is_some_and(|next| minute.start > next) {
            writeln!(out, "-")?;
        }
        next = Some(minute.start + 61);
        let start = date(seconds(minute.start));
        let exact = exact(&extremes);
        let Extremes { min, max: top, .. } = extremes;
        write!(out, "{start:<18}{min:>9}{:>11.1}{top:>9}  ", exact.mean)?;
        write!(out, "{}  ", clock(exact.max_at))?;
        let filled = filled(top, max, plot.width);
        let mut bar = plot.filled.repeat(filled);
        let last = Some(minute) == history.minutes.last();
        if minute.seconds < 59.0 && !last {
            write!(bar, " partial, {:.0} s", minute.seconds)?;
        }
        if minute.degraded {
            bar.push_str(" degraded");
        }
        let line = bar.trim_end();
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Columns of a bar: at least one unless the value is 0.
fn filled(value: u64, max: u64, width: usize) -> usize {
    let columns = (u128::from(value) * width as u128).div_ceil(u128::from(max));
    usize::try_from(columns).unwrap_or(width).min(width)
}

fn exact(of: &Extremes<u64>) -> Extremes<f64> {
    #[expect(clippy::cast_precision_loss, reason = "no host has 2^53 sockets")]
    let number = |value: u64| value as f64;
    Extremes {
        min: number(of.min),
        max: number(of.max),
        mean: of.mean,
        max_at: of.max_at,
    }
}

/// A count as it is, a rate with one digit.
fn short(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53")]
const fn seconds(time: u64) -> f64 {
    time as f64
}
