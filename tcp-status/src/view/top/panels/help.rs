//! The page that explains: keys, and in full what the lines above have no room for.

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Widget as _, Wrap},
};

use super::theme::Theme;
use crate::{
    printable::printable,
    snapshot::{Events, Snapshot},
    view::top::model::{Model, keys::KEYS},
};

/// More lines than there are on the narrowest screen.
const MOST_LINES: u16 = 200;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, page: isize, model: &Model, theme: &Theme) {
    let mut lines: Vec<_> = KEYS
        .iter()
        .map(|(key, does)| {
            Line::from(vec![
                Span::styled(format!("{key:<16} "), theme.head),
                Span::raw(*does),
            ])
        })
        .collect();
    lines.push(Line::raw(""));
    lines.extend(state_of(model).into_iter().map(|(name, text)| {
        Line::from(vec![
            Span::styled(format!("{name:<9} "), theme.head),
            Span::raw(printable(&text)),
        ])
    }));
    let mut block = Block::bordered().title(" tcp-status top ");
    let inner = block.inner(area);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false });
    let pages = line_count(&text, inner.width).div_ceil(inner.height);
    let page = page.rem_euclid(isize::from(pages.cast_signed()));
    if pages > 1 {
        let number = page + 1;
        let turning = format!(" page {number} of {pages}: up, down turn it, Esc closes ");
        block = block.title_bottom(turning);
    }
    let above = u16::try_from(page).expect("fewer than pages") * inner.height;
    frame.render_widget(Clear, area);
    frame.render_widget(block, area);
    frame.render_widget(text.scroll((above, 0)), inner);
}

/// How many lines a text has, wrapped.
fn line_count(text: &Paragraph<'_>, width: u16) -> u16 {
    let mut whole = Buffer::empty(Rect::new(0, 0, width, MOST_LINES));
    text.render(whole.area, &mut whole);
    let is_blank = |y: u16| (0..width).all(|x| whole[(x, y)].symbol() == " ");
    let last = (0..MOST_LINES).rev().find(|&y| !is_blank(y));
    last.map_or(1, |y| y + 1)
}

/// How far the numbers can be relied on.
fn state_of(model: &Model) -> Vec<(&'static str, String)> {
    let Snapshot {
        tier,
        tier_reason,
        degraded,
        drift,
        events,
        peaks,
        version,
        ..
    } = model.reading();
    let reason = tier_reason.as_deref().map(|why| format!(": {why}"));
    let audit = match drift.last_audit_seconds_ago {
        Some(ago) => format!(", the last {ago} s ago"),
        None => String::new(),
    };
    let mut all = vec![
        (
            "tier",
            format!("{}{}", tier.name(), reason.unwrap_or_default()),
        ),
        (
            "drift",
            format!(
                "{} corrections by {} audits{audit}",
                drift.corrections, drift.audits
            ),
        ),
    ];
    if let Some(Events { counted, missed }) = events {
        all.push(("events", format!("{counted} counted, {missed} missed")));
    }
    if let Some(why) = degraded {
        all.insert(0, ("DEGRADED", why.clone()));
    }
    if let Some(outage) = model.outage() {
        all.insert(0, ("NO ANSWER", outage.why.clone()));
    }
    if let Some(peaks) = peaks {
        let (window, sample) = (peaks.window_seconds, peaks.sample_milliseconds);
        let text = format!("min, max and peak of {window} s, sampled every {sample} ms");
        all.push(("peaks", text));
    }
    all.push((
        "tracker",
        format!("{version}, on {}", model.settings().socket),
    ));
    all
}
