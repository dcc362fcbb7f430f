//! Connections by cgroup and state.

use std::iter;

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    text::Text,
    widgets::{Row, Table},
};

use super::{
    ports::{TOTAL, fitting, numbers, width},
    text::{cut, right},
    theme::Theme,
    title,
};
use crate::view::top::model::{Model, Panel};

/// A name is given at least so much room, and what the states leave.
const NAME: u16 = 28;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let Some(cgroups) = &model.reading().cgroups else {
        return;
    };
    let rows = model.cgroup_rows();
    let what = format!(
        "Cgroups {} of at most {}",
        cgroups.tracked.len(),
        cgroups.limit
    );
    title::draw(
        frame,
        area,
        model,
        Panel::Cgroups,
        (what, rows.len()),
        theme,
    );
    let below = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    let states = fitting(below.width.saturating_sub(NAME));
    let widths: Vec<_> = iter::once(TOTAL)
        .chain(states.iter().map(|state| width(*state)))
        .collect();
    let used: u16 = widths.iter().map(|width| width + 1).sum();
    let room = below.width.saturating_sub(used);
    let names = states.iter().map(|state| state.name());
    let heads = iter::once("total").chain(names);
    let heads = heads.map(|name| right(name.into()));
    let heads = Row::new(iter::once(Text::raw("cgroup")).chain(heads));
    let shown = rows.iter().skip(model.offset(Panel::Cgroups));
    let shown = shown.take(below.height.into()).map(|row| {
        let name = cut(row.cgroup.name(), room.into(), theme);
        let numbers = numbers(&row.states, states).map(right);
        Row::new(iter::once(Text::raw(name)).chain(numbers))
    });
    let widths = iter::once(room).chain(widths).map(Constraint::Length);
    let table = Table::new(shown, widths)
        .header(heads.style(theme.head))
        .column_spacing(1);
    frame.render_widget(table, below);
}
