//! Connections by local port and state.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    widgets::{Row, Table},
};
use tcp_status_common::state::State;

use super::{number::count, text::right, theme::Theme, title};
use crate::{
    snapshot::Counts,
    view::top::model::{Model, Panel, PortRow},
};

/// A number or a name, and a mark.
const PORT: u16 = 9;
pub(super) const TOTAL: u16 = 8;

/// States in the order of what is asked most; as many are shown as fit.
const STATES: [State; 9] = [
    State::Established,
    State::CloseWait,
    State::TimeWait,
    State::SynRecv,
    State::FinWait2,
    State::FinWait1,
    State::LastAck,
    State::Closing,
    State::SynSent,
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let rows = model.port_rows();
    let ports = &model.reading().ports;
    let limit = ports
        .limit
        .map_or_else(String::new, |limit| format!(" of at most {limit}"));
    let mark = if ports.unaudited.is_empty() {
        ""
    } else {
        ", * not all counted yet"
    };
    let what = format!("Ports {}{limit}{mark}", ports.tracked.len());
    let what = (what, rows.len());
    title::draw(frame, area, model, Panel::Ports, what, theme);
    let below = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    let states = fitting(below.width.saturating_sub(PORT));
    let names = states.iter().map(|state| state.name());
    // The mark has a column of its own.
    let heads = ["port ", "total"].into_iter().chain(names);
    let heads = Row::new(heads.map(|name| right(name.into())));
    let shown = rows.iter().skip(model.offset(Panel::Ports));
    let shown = shown
        .take(below.height.into())
        .map(|shown| row(shown, states));
    let widths = [PORT, TOTAL]
        .into_iter()
        .chain(states.iter().map(|state| width(*state)));
    let table = Table::new(shown, widths.map(Constraint::Length))
        .header(heads.style(theme.head))
        .column_spacing(1);
    frame.render_widget(table, below);
}

fn row(row: &PortRow, states: &[State]) -> Row<'static> {
    let mark = if row.unaudited { '*' } else { ' ' };
    let cells = std::iter::once(format!("{}{mark}", row.local)).chain(numbers(&row.states, states));
    Row::new(cells.map(right))
}

/// The total, and the count of each of these states.
pub(super) fn numbers(counts: &Counts, states: &[State]) -> impl Iterator<Item = String> {
    let each = states.iter().map(|state| (counts[*state], width(*state)));
    let all = std::iter::once((counts.total(), TOTAL)).chain(each);
    all.map(|(number, width)| count(number, width.into()))
}

pub(super) fn width(state: State) -> u16 {
    u16::try_from(state.name().len()).unwrap_or(u16::MAX)
}

/// The states for which there is room beside the total.
pub(super) fn fitting(room: u16) -> &'static [State] {
    let mut used = 1 + TOTAL;
    let fits = |state: &&State| {
        used += 1 + width(**state);
        used <= room
    };
    let count = STATES.iter().take_while(fits).count();
    &STATES[..count]
}

#[cfg(test)]
mod tests {
    use super::{STATES, State, fitting};

    #[test]
    fn the_most_important_states_come_first() {
        assert_eq!(fitting(20), []);
        assert_eq!(fitting(21), [State::Established]);
        assert_eq!(fitting(71), &STATES[..6]);
        assert_eq!(fitting(200), STATES);
    }
}
