//! The title of a lower panel.

use ratatui::{Frame, layout::Rect};

use super::{text::sides, theme::Theme};
use crate::view::top::model::{Model, Panel};

/// The first line of a panel: its name, its order, which rows are shown.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    model: &Model,
    panel: Panel,
    (what, rows): (String, usize),
    theme: &Theme,
) {
    let offset = model.offset(panel);
    let shown = rows
        .saturating_sub(offset)
        .min(usize::from(area.height) - 2);
    let (order, reversed) = model.order(panel);
    let reversed = if reversed { ", reversed" } else { "" };
    let filter = match model.filter() {
        "" => String::new(),
        text => format!("  /{text}"),
    };
    let left = format!(" {what}  by {order}{reversed}{filter}");
    let right = match rows {
        0 => "none ".into(),
        _ => format!("{}-{} of {rows} ", offset + 1, offset + shown),
    };
    let style = if model.panel() == panel {
        theme.focused_title
    } else {
        theme.title
    };
    let line = Rect { height: 1, ..area };
    frame.render_widget(sides(&left, &right, line.width, theme).style(style), line);
}
