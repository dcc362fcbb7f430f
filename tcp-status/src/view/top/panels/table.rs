//! The one widget for tables: a title, names of columns with an arrow at the one that sorts, rows that begin in the
//! colour of what is wrong with them, and a cursor.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    text::{Line, Span, Text},
    widgets::{Row as Line_, Table as Widget},
};

use super::{
    graph,
    number::{count, rate},
    text::{cut, right, sides},
    theme::Theme,
};
use crate::{
    snapshot::Severity,
    view::top::model::{Cell, Column, Pane, Row, Table},
};

pub(super) fn draw(frame: &mut Frame<'_>, pane: &Pane, theme: &Theme) {
    let Pane {
        table,
        area,
        cursor,
    } = pane;
    let room = usize::from(area.height.saturating_sub(table.heads()) / table.lines.max(1));
    // The row under the cursor stands in the middle where there are more.
    let last = table.rows.len().saturating_sub(room);
    let first = cursor.unwrap_or(0).saturating_sub(room / 2).min(last);
    let mut lines = area.rows();
    if !table.title.is_empty()
        && let Some(line) = lines.next()
    {
        let shown = match table.rows.len() {
            0 => String::new(),
            _ if !table.selectable => String::new(),
            rows => format!("{}-{} of {rows} ", first + 1, (first + room).min(rows)),
        };
        let title = sides(&format!(" {}", table.title), &shown, line.width, theme);
        frame.render_widget(title.style(theme.title), line);
    }
    let below = lines.next().map_or(area.bottom(), |line| line.y);
    let below = Rect {
        y: below,
        height: area.bottom() - below,
        ..*area
    };
    let columns = fit(table, below.width);
    let rows = table.rows.iter().enumerate().skip(first).take(room);
    let undimmed = Theme {
        dim: theme.plain,
        bar: theme.plain,
        ..theme.clone()
    };
    let rows = rows.map(|(at, row)| {
        let is_chosen = *cursor == Some(at);
        let theme = if is_chosen { &undimmed } else { theme };
        let cells = columns
            .iter()
            .map(|(of, width)| cell((table, row), *of, *width, theme));
        let style = match row.mark {
            Some((Severity::Critical, _)) => theme.head,
            _ => theme.plain,
        };
        Line_::new(cells).height(table.lines).style(if is_chosen {
            style.patch(theme.cursor)
        } else {
            style
        })
    });
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let mut widget = Widget::new(rows, widths).column_spacing(1);
    if table.headed {
        let heads = columns
            .iter()
            .map(|(of, width)| head(table, *of, *width, theme));
        widget = widget.header(Line_::new(heads).style(theme.head));
    }
    frame.render_widget(widget, below);
    if let Some((idle, what)) = table.idle {
        let after = below.y + u16::from(table.headed);
        let rows = u16::try_from(table.rows.len().min(room)).unwrap_or(u16::MAX);
        let line = Rect {
            y: after + rows,
            height: 1,
            ..below
        };
        let text = format!("{idle} idle {what}, press i");
        let text = cut(&text, line.width.into(), theme);
        frame.render_widget(Line::styled(text, theme.dim), line.intersection(below));
    }
}

/// The columns for which there is room, by number, and their widths.
fn fit(table: &Table, width: u16) -> Vec<(usize, u16)> {
    let natural: Vec<_> = (0..table.columns.len())
        .map(|at| widest(table, at))
        .collect();
    let sorts = |at: usize| table.sort.is_some_and(|sort| sort.column == at);
    let least = |at: usize| {
        let Column {
            ref name,
            width,
            grows,
            ..
        } = table.columns[at];
        // Room for the arrow.
        let width = width + u16::from(sorts(at) && name.len() >= usize::from(width));
        if grows { natural[at].min(width) } else { width }
    };
    let mut order: Vec<_> = (0..table.columns.len()).collect();
    // The column that sorts is shown in any case.
    order.sort_by_key(|at| (!sorts(*at), table.columns[*at].rank));
    let (mut chosen, mut used) = (Vec::new(), 0_u16);
    for at in order {
        let more = used.saturating_add(least(at) + u16::from(used > 0));
        if more > width && !chosen.is_empty() {
            break;
        }
        used = more;
        chosen.push(at);
    }
    chosen.sort_unstable();
    let mut left = width.saturating_sub(used);
    let grown = chosen.into_iter().map(|at| {
        let more = natural[at].saturating_sub(least(at));
        let more = if table.columns[at].grows {
            more.min(left)
        } else {
            0
        };
        left -= more;
        (at, least(at) + more)
    });
    grown.collect()
}

/// What a column that grows would take.
fn widest(table: &Table, at: usize) -> u16 {
    let column = &table.columns[at];
    if !column.grows {
        return column.width;
    }
    let width = |row: &Row| match row.cells.get(at) {
        Some(Cell::Text(text)) => Line::raw(text.as_str()).width(),
        // As wide as there is room.
        Some(Cell::Graph(_)) => usize::from(u16::MAX),
        _ => 0,
    };
    let head = Line::raw(column.name.as_str()).width() + 1;
    let widest = table.rows.iter().map(width).max().unwrap_or(0);
    u16::try_from(widest.max(head)).unwrap_or(u16::MAX)
}

fn head(table: &Table, at: usize, width: u16, theme: &Theme) -> Text<'static> {
    let name = &table.columns[at].name;
    let arrow = match table.sort {
        // A number begins with the largest, a name with the first.
        Some(sort) if sort.column == at => {
            let ascends = table
                .rows
                .iter()
                .any(|row| matches!(row.cells.get(at), Some(Cell::Text(_))));
            let ascends = ascends && at > 0;
            if ascends == sort.reversed {
                theme.descending
            } else {
                theme.ascending
            }
        }
        _ => "",
    };
    let room = usize::from(width).saturating_sub(Line::raw(arrow).width());
    let text = format!("{}{arrow}", cut(name, room, theme));
    let is_text = table.rows.iter().any(|row| match row.cells.get(at) {
        Some(Cell::Text(text)) => !text.is_empty(),
        Some(Cell::Graph(_) | Cell::Bar(..)) => true,
        _ => false,
    });
    if is_text || table.columns[at].grows {
        Text::raw(text)
    } else {
        right(text)
    }
}

fn cell((table, row): (&Table, &Row), at: usize, width: u16, theme: &Theme) -> Text<'static> {
    let room = usize::from(width);
    let number = |text: String, is_zero: bool| {
        let text = right(text);
        if is_zero { text.style(theme.dim) } else { text }
    };
    match row.cells.get(at) {
        Some(Cell::Text(text)) => {
            let text = Span::raw(cut(text, room, theme));
            match row.mark {
                Some((severity, _)) if at == 0 => text.style(theme.severity(severity)).into(),
                _ => text.into(),
            }
        }
        Some(Cell::Number(Some(value))) => number(count(*value, room), *value == 0),
        Some(Cell::Change(Some(change))) => {
            let sign = if *change < 0 { '-' } else { '+' };
            let text = count(change.unsigned_abs(), room.saturating_sub(1));
            match change {
                0 => number("0".into(), true),
                _ => number(format!("{sign}{text}"), false),
            }
        }
        Some(Cell::Rate(Some(value))) => number(rate(*value), *value == 0.0),
        Some(Cell::Number(None) | Cell::Change(None) | Cell::Rate(None)) => {
            number("-".into(), true)
        }
        Some(Cell::Bar(taken, of)) => bar(*taken, *of, width, theme),
        Some(Cell::Graph(series)) => {
            let values = series.parts(graph::values(width, theme));
            // A gap below tells graphs apart.
            let lines = table.lines - u16::from(table.lines > 2);
            let graph = graph::draw(&values, series.max().unwrap_or(0), lines, theme);
            let text: Text<'_> = graph.into_iter().map(Line::from).collect();
            match row.mark {
                Some(_) => text,
                None => text.style(theme.bar),
            }
        }
        None => Text::default(),
    }
}

/// Whoever waits is seen; what is not full does not look full.
fn bar(taken: u64, of: u64, width: u16, theme: &Theme) -> Text<'static> {
    let columns = u64::from(width);
    let part = u128::from(taken) * u128::from(columns);
    let filled = u64::try_from(part.div_ceil(u128::from(of.max(1)))).unwrap_or(columns);
    let most = if taken < of {
        columns.saturating_sub(1)
    } else {
        columns
    };
    let filled = filled.min(most);
    let repeat = |part: &str, times: u64| part.repeat(usize::try_from(times).unwrap_or(0));
    Text::from(Line::from(vec![
        Span::raw(repeat(theme.filled, filled)),
        Span::styled(repeat(theme.empty, columns - filled), theme.dim),
    ]))
}
