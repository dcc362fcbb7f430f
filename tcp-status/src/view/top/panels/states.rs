//! The gauges: how many connections are in each state, between which extremes, and over time.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    text::Text,
    widgets::{RenderDirection, Row, Sparkline, Table},
};
use tcp_status_common::state::State;

use super::{number::count, text::right, theme::Theme};
use crate::{snapshot::Snapshot, view::top::model::Model};

const NAME: u16 = 11;
const NUMBER: u16 = 8;

/// Columns, what is most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Total,
    Max,
    Min,
    Ipv4,
    Ipv6,
}

impl Column {
    /// In the order in which they stand.
    const ALL: [Self; 5] = [Self::Total, Self::Ipv4, Self::Ipv6, Self::Min, Self::Max];

    /// The width of the panel from which on there is room for it, and for some history.
    const fn fits_from(self) -> u16 {
        NAME + match self {
            Self::Total => 0,
            Self::Max => 2 * (NUMBER + 1),
            Self::Min => 3 * (NUMBER + 1) + 10,
            Self::Ipv4 | Self::Ipv6 => 5 * (NUMBER + 1) + 20,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Max => "max",
            Self::Min => "min",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    fn value(self, of: &Snapshot, state: State) -> Option<u64> {
        match self {
            Self::Total => Some(of.states[state]),
            Self::Ipv4 => Some(of.ipv4[state]),
            Self::Ipv6 => Some(of.ipv6[state]),
            Self::Min => of.peaks.map(|peaks| peaks.min[state]),
            Self::Max => of.peaks.map(|peaks| peaks.max[state]),
        }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let columns: Vec<_> = Column::ALL
        .into_iter()
        .filter(|column| area.width >= column.fits_from())
        .collect();
    let reading = model.reading();
    let head = columns.iter().map(|column| right(column.name().into()));
    let head = Row::new(std::iter::once(Text::raw("state")).chain(head));
    let rows = State::ALL.into_iter().map(|state| {
        let values = columns.iter().map(|column| {
            let value = column.value(reading, state);
            right(value.map_or_else(|| "-".into(), |value| count(value, NUMBER.into())))
        });
        Row::new(std::iter::once(Text::raw(state.name())).chain(values))
    });
    let widths = std::iter::once(Constraint::Length(NAME))
        .chain(columns.iter().map(|_| Constraint::Length(NUMBER)));
    let table = Table::new(rows, widths)
        .header(head.style(theme.head))
        .column_spacing(1);
    frame.render_widget(table, area);
    let used = NAME + (NUMBER + 1) * u16::try_from(columns.len()).unwrap_or(u16::MAX);
    let beside = Rect {
        x: area.x + used.min(area.width),
        width: area.width.saturating_sub(used),
        ..area
    };
    sparklines(frame, beside, model, theme);
}

/// One for each state, each by its own measure, with the newest reading at the right.
fn sparklines(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    // A gap on both sides.
    let Some(width) = area.width.checked_sub(2).filter(|width| *width > 0) else {
        return;
    };
    let lines = (area.y..area.bottom()).map(|y| Rect {
        x: area.x + 1,
        y,
        width,
        height: 1,
    });
    for (state, line) in State::ALL.into_iter().zip(lines.skip(1)) {
        let shown: Vec<_> = model.history().of(state).take(width.into()).collect();
        let largest = shown.iter().copied().max().unwrap_or(0).max(1);
        let sparkline = Sparkline::default()
            .data(shown.into_iter().map(|value| height(value, largest)))
            .max(HEIGHTS)
            .bar_set(theme.heights.clone())
            .direction(RenderDirection::RightToLeft)
            .style(theme.bar);
        frame.render_widget(sparkline, line);
    }
}

const HEIGHTS: u64 = 8;

/// What is there is seen, however little it is.
fn height(value: u64, largest: u64) -> u64 {
    let part = u128::from(value) * u128::from(HEIGHTS);
    u64::try_from(part.div_ceil(largest.into())).unwrap_or(HEIGHTS)
}

#[cfg(test)]
mod tests {
    use super::height;

    #[test]
    fn only_nothing_is_not_seen() {
        assert_eq!(height(0, 1), 0);
        assert_eq!(height(1, 1_000_000), 1);
        assert_eq!(height(u64::MAX, u64::MAX), 8);
        assert_eq!(height(50, 100), 4);
    }
}
