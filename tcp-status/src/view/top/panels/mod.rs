//! What is drawn, from a [`Model`]: one file for each part of the screen. Knows neither keys nor the tracker.

#[cfg(test)]
mod golden_tests;
mod graph;
mod header;
mod help;
mod number;
#[cfg(test)]
mod render_tests;
mod table;
mod text;
pub mod theme;

use ratatui::{
    Frame,
    layout::{Rect, Size},
    text::Line,
};

use self::theme::Theme;
use super::model::{Mode, Model};

/// Below it, nothing can be read.
const SMALLEST: Size = Size::new(30, 5);

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model, theme: &Theme) {
    let area = frame.area();
    if area.width < SMALLEST.width || area.height < SMALLEST.height {
        let text = format!("{}x{} is too small", area.width, area.height);
        frame.render_widget(Line::styled(text, theme.alarm), area);
        return;
    }
    let body = model.body();
    let line = |y| Rect {
        y,
        height: 1,
        ..area
    };
    header::draw(frame, line(0), model, theme);
    header::draw_tabs(frame, line(1), model, theme);
    let notices = Rect {
        y: 2,
        height: body.y - 2,
        ..area
    };
    header::draw_notices(frame, notices, model, theme);
    for pane in model.panes() {
        table::draw(frame, &pane, theme);
    }
    header::draw_footer(frame, line(area.bottom() - 1), model, theme);
    if let Mode::Help(page) = model.mode() {
        help::draw(frame, overlay(area, 76, 24), page, model, theme);
    }
}

/// In the middle, not larger than there is room.
fn overlay(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}
