//! What is drawn, from a [`Model`]: one file for each panel. Knows neither keys nor the tracker.

pub mod arrange;
mod cgroups;
mod header;
mod help;
mod listeners;
mod namespaces;
mod number;
mod ports;
mod rates;
#[cfg(test)]
mod render_tests;
mod states;
mod text;
pub mod theme;
mod title;

use ratatui::{Frame, layout::Rect, text::Line};

use self::{
    arrange::{Arrangement, Lower},
    theme::Theme,
};
use super::model::{Mode, Model, Panel};

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model, theme: &Theme) {
    let area = frame.area();
    let arrangement = model.arrangement(area.as_size());
    if arrangement.too_small {
        let text = format!("{}x{} is too small", area.width, area.height);
        frame.render_widget(Line::styled(text, theme.alarm), area);
        return;
    }
    header::draw(frame, arrangement.header, model, theme);
    header::draw_notices(frame, arrangement.notice, model, theme);
    states::draw(frame, arrangement.states, model, theme);
    if let Some(area) = arrangement.rates {
        rates::draw(frame, area, model, theme);
    }
    lower(frame, &arrangement, model, theme);
    header::draw_footer(frame, arrangement.footer, model, theme);
    match model.mode() {
        Mode::Help => help::draw(frame, overlay(area, 76, 22), model, theme),
        Mode::Namespaces(chosen) => {
            let rows = u16::try_from(model.namespaces().len()).unwrap_or(u16::MAX);
            let area = overlay(area, 100, rows.saturating_add(4).max(6));
            namespaces::draw(frame, area, model, chosen, theme);
        }
        Mode::Watch | Mode::Filter => {}
    }
}

fn lower(frame: &mut Frame<'_>, arrangement: &Arrangement, model: &Model, theme: &Theme) {
    match arrangement.lower {
        Lower::SideBySide {
            listeners,
            ports,
            cgroups,
        } => {
            listeners::draw(frame, listeners, model, theme);
            match cgroups {
                None if model.panel() == Panel::Cgroups => {
                    cgroups::draw(frame, ports, model, theme);
                }
                None => ports::draw(frame, ports, model, theme),
                Some(cgroups) => {
                    ports::draw(frame, ports, model, theme);
                    cgroups::draw(frame, cgroups, model, theme);
                }
            }
        }
        Lower::One(area) => match model.panel() {
            Panel::Listeners => listeners::draw(frame, area, model, theme),
            Panel::Ports => ports::draw(frame, area, model, theme),
            Panel::Cgroups => cgroups::draw(frame, area, model, theme),
        },
        Lower::None => {}
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
