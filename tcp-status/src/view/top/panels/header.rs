//! The first line, the tabs, the lines that warn, and the last line.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Paragraph, Wrap},
};

use super::{
    text::{cut, sides},
    theme::Theme,
};
use crate::{
    printable::printable,
    view::top::model::{Mode, Model, Tab},
};

/// From this width on, tabs have their whole names.
const NAMES_FROM: u16 = 76;

/// What is shown, how far it can be relied on, and how fresh it is.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let reading = model.reading();
    let netns = match &reading.netns_name {
        Some(name) => format!("{} ({})", reading.netns, printable(name)),
        None => reading.netns.to_string(),
    };
    let degraded = match reading.degraded {
        Some(_) => " DEGRADED",
        None => "",
    };
    let left = format!(
        "tcp-status  tier {}{degraded}  netns {netns}",
        reading.tier.name(),
    );
    let (right, style) = match (model.outage(), model.paused()) {
        (Some(outage), _) => {
            let lasts = outage.lasts.as_secs();
            (format!("NO ANSWER FOR {lasts} s"), theme.alarm)
        }
        (None, true) => ("PAUSED".into(), theme.warning),
        (None, false) => {
            let interval = humantime::format_duration(model.settings().interval);
            (format!("every {interval}"), theme.dim)
        }
    };
    let [left_area, _gap, right_area] = Layout::horizontal([
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Length(u16::try_from(right.len()).unwrap_or(u16::MAX)),
    ])
    .areas(area);
    let left = cut(&left, left_area.width.into(), theme);
    frame.render_widget(Line::styled(left, theme.head), left_area);
    frame.render_widget(Line::styled(right, style), right_area);
}

/// The tabs, by short names where there is little room.
pub(super) fn draw_tabs(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let all = Tab::ALL.iter().enumerate();
    let spans = all.flat_map(|(at, tab)| {
        let (long, short) = tab.names();
        let name = if area.width < NAMES_FROM { short } else { long };
        let style = match (*tab == model.tab(), model.has_details()) {
            (true, false) => theme.focused_title,
            (true, true) => theme.head,
            (false, _) => theme.plain,
        };
        [Span::styled(format!(" {} {name} ", at + 1), style)]
    });
    frame.render_widget(Line::from_iter(spans), area);
}

/// What is wrong, if anything: an outage in all lines, anything else in one line each, as many as fit.
pub(super) fn draw_notices(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let notices = model.notices();
    if let (Some(_), [(severity, outage)]) = (model.outage(), &notices[..]) {
        let text = cut(outage, width * height, theme);
        let text = Paragraph::new(text).wrap(Wrap { trim: true });
        frame.render_widget(text.style(theme.severity(*severity)), area);
        return;
    }
    for (number, (row, (severity, text))) in (1..).zip(area.rows().zip(&notices)) {
        let text = match notices.len() - number {
            more if number == height && more > 0 => {
                sides(text, &format!("and {more} more"), area.width, theme)
            }
            _ => Line::raw(cut(text, width, theme)),
        };
        frame.render_widget(text.style(theme.severity(*severity)), row);
    }
}

/// What can be done next, as far as there is room.
pub(super) fn draw_footer(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let text = match model.mode() {
        Mode::Filter => format!("/{}_   Enter keeps it, Esc clears it", model.filter()),
        Mode::Help(_) => "Esc closes".into(),
        Mode::Watch => {
            let keys: &[_] = if model.has_details() {
                &["Esc back", "Enter open", "up, down choose", "z time"]
            } else if model.has_rows() {
                &[
                    "1-6 tabs",
                    "Enter open",
                    "s sort",
                    "/ filter",
                    "i idle",
                    "z time",
                ]
            } else {
                &["1-6 tabs", "Enter open", "up, down choose", "z time"]
            };
            let mut text = String::from("q quit  ? help");
            for key in keys.iter().chain(&["p pause"]) {
                if text.len() + 2 + key.len() <= area.width.into() {
                    text += "  ";
                    text += key;
                }
            }
            text
        }
    };
    let style = if model.mode() == Mode::Filter {
        theme.head
    } else {
        theme.dim
    };
    let text = cut(&text, area.width.into(), theme);
    frame.render_widget(Line::styled(text, style), area);
}
