//! The list of network namespaces to choose from, with what is most telling of each.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::Modifier,
    text::Text,
    widgets::{Block, Clear, Row, Table, TableState},
};
use tcp_status_common::state::State;

use super::{number::count, text::right, theme::Theme};
use crate::{
    printable::printable,
    snapshot::{Fullness, Snapshot},
    view::top::model::Model,
};

const STATES: [State; 4] = [
    State::Established,
    State::CloseWait,
    State::TimeWait,
    State::SynRecv,
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, chosen: usize, theme: &Theme) {
    // Names last and cut: they are as long as whoever made them wanted.
    let names = STATES.iter().map(|state| state.name());
    let heads = ["netns"].into_iter().chain(names).chain(["full"]);
    let heads = heads
        .map(|name| right(name.into()))
        .chain([Text::raw("name")]);
    let rows = model.namespaces().iter().map(|one| {
        let numbers = STATES.iter().map(|state| count(one.states[*state], 9));
        let cells = [one.netns.to_string()]
            .into_iter()
            .chain(numbers)
            .chain([full(one)]);
        let name = one.netns_name.as_deref().map(printable).unwrap_or_default();
        Row::new(cells.map(right).chain([Text::raw(name)]))
    });
    let widths = [10, 11, 9, 9, 9, 4].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    let title = match model.namespaces().len() {
        0 => " Network namespaces: asking ".into(),
        count => format!(" Network namespaces: {count} "),
    };
    let table = Table::new(rows, widths)
        .header(Row::new(heads).style(theme.head))
        .column_spacing(1)
        .row_highlight_style(Modifier::REVERSED)
        .block(Block::bordered().title(title));
    let mut state = TableState::default().with_selected(chosen);
    frame.render_widget(Clear, area);
    frame.render_stateful_widget(table, area, &mut state);
}

/// How many accept queues are full.
fn full(snapshot: &Snapshot) -> String {
    let full: usize = snapshot
        .groups()
        .iter()
        .map(|group| group.count(Fullness::Full))
        .sum();
    full.to_string()
}
