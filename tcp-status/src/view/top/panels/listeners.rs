//! Listening sockets, with bars for their accept queues.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::Style,
    text::{Line, Span, Text},
    widgets::{Row, Table},
};

use super::{
    number::{count, rate},
    text::{cut, right},
    theme::Theme,
    title,
};
use crate::{
    snapshot::{Fullness, Group},
    view::top::model::{Model, Panel},
};

/// How wide a column is.
#[derive(Clone, Copy)]
enum Width {
    Fixed(u16),
    /// A part of the panel.
    Bar,
    /// What is left.
    Rest,
}

/// A column.
struct Column {
    name: &'static str,
    width: Width,
    /// The width of the panel from which on it is shown.
    from: u16,
    cell: fn(&Group<'_>, &Look<'_>) -> Text<'static>,
}

/// What a cell needs besides its group.
struct Look<'a> {
    theme: &'a Theme,
    bar: u16,
    rest: u16,
}

impl Look<'_> {
    const fn width(&self, column: &Column) -> u16 {
        match column.width {
            Width::Fixed(width) => width,
            Width::Bar => self.bar,
            Width::Rest => self.rest,
        }
    }
}

const fn column(
    name: &'static str,
    width: Width,
    from: u16,
    cell: fn(&Group<'_>, &Look<'_>) -> Text<'static>,
) -> Column {
    Column {
        name,
        width,
        from,
        cell,
    }
}

const COLUMNS: [Column; 10] = [
    column("", Width::Fixed(8), 0, mark),
    column("port", Width::Fixed(5), 0, port),
    column("accept", Width::Bar, 0, bar),
    column("queue", Width::Fixed(6), 0, |of, _| {
        number(Some(of.accept_queue()))
    }),
    column("limit", Width::Fixed(6), 0, |of, _| {
        number(Some(of.accept_queue_limit()))
    }),
    column("peak", Width::Fixed(6), 48, |of, _| {
        number(of.accept_queue_peak())
    }),
    column("syn", Width::Fixed(6), 76, |of, _| number(of.syn_queue())),
    column("of", Width::Fixed(6), 83, |of, _| {
        number(of.syn_queue_limit())
    }),
    column("uid", Width::Fixed(6), 96, |of, _| {
        number(of.uid().map(u64::from))
    }),
    column("address", Width::Rest, 0, address),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let rows = model.listener_rows();
    let ungrouped = if model.ungrouped() { ", apart" } else { "" };
    let cookies = model.history().rates().and_then(|rates| rates.syncookies);
    let cookies = cookies.filter(|rate| *rate > 0.0);
    let cookies = cookies.map_or_else(String::new, |of| format!(", {} syncookies/s", rate(of)));
    let what = format!(
        "Listeners {}{ungrouped}{cookies}",
        model.reading().listeners.len()
    );
    let what = (what, rows.len());
    title::draw(frame, area, model, Panel::Listeners, what, theme);
    let below = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    let shown = COLUMNS.iter().filter(|column| below.width >= column.from);
    let columns: Vec<_> = shown.collect();
    let look = look(&columns, below.width, theme);
    let heads = columns.iter().map(|column| match column.width {
        Width::Fixed(_) => right(column.name.into()),
        Width::Bar | Width::Rest => Text::raw(column.name),
    });
    let shown = rows.iter().skip(model.offset(Panel::Listeners));
    let shown = shown.take(below.height.into()).map(|group| {
        let cells = columns.iter().map(|column| (column.cell)(group, &look));
        Row::new(cells)
    });
    let widths = columns.iter().map(|column| look.width(column));
    let table = Table::new(shown, widths.map(Constraint::Length))
        .header(Row::new(heads).style(theme.head))
        .column_spacing(1);
    frame.render_widget(table, below);
}

fn look<'a>(columns: &[&Column], width: u16, theme: &'a Theme) -> Look<'a> {
    let bar = (width / 6).min(20);
    let gaps = u16::try_from(columns.len()).unwrap_or(u16::MAX) - 1;
    let look = Look {
        theme,
        bar,
        rest: 0,
    };
    let used: u16 = columns.iter().map(|column| look.width(column)).sum();
    Look {
        rest: width.saturating_sub(used + gaps),
        ..look
    }
}

fn number(number: Option<u64>) -> Text<'static> {
    right(number.map_or_else(|| "-".into(), |number| count(number, 6)))
}

fn mark(group: &Group<'_>, look: &Look<'_>) -> Text<'static> {
    let fullness = group.fullness();
    let style = match fullness {
        Fullness::Full | Fullness::SynFull => look.theme.alarm,
        Fullness::SynFilling | Fullness::WasFull => look.theme.warning,
        Fullness::Room => Style::new(),
    };
    Text::styled(fullness.name(), style)
}

fn port(group: &Group<'_>, _: &Look<'_>) -> Text<'static> {
    right(group.address().1.to_string())
}

fn address(group: &Group<'_>, look: &Look<'_>) -> Text<'static> {
    let (address, _) = group.address();
    let text = match group.sockets.len() {
        1 => address.to_string(),
        count => format!("{address} ({count} sockets)"),
    };
    Text::raw(cut(&text, look.rest.into(), look.theme))
}

/// How much of the queue is taken.
fn bar(group: &Group<'_>, look: &Look<'_>) -> Text<'static> {
    let width = u64::from(look.bar);
    let (waiting, limit) = (group.accept_queue(), group.accept_queue_limit());
    // The kernel admits one more. Whoever waits is seen; what is not full does not look full.
    let room = limit + group.sockets.len() as u64;
    let mut filled = (waiting * width).div_ceil(room).min(width);
    if waiting < room {
        filled = filled.min(width.saturating_sub(1));
    }
    let repeat = |part: &str, times: u64| part.repeat(usize::try_from(times).unwrap_or(0));
    let style = match group.fullness() {
        Fullness::Full => look.theme.warning,
        _ => look.theme.bar,
    };
    Text::from(Line::from(vec![
        Span::styled(repeat(look.theme.filled, filled), style),
        Span::styled(repeat(look.theme.empty, width - filled), look.theme.dim),
    ]))
}
