//! What happens per second, what accept queues could not take, and what sits in a state.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::Style,
    text::Text,
    widgets::{Row, Table},
};

use super::{
    number::{count, rate},
    text,
    theme::Theme,
};
use crate::view::top::model::{Model, PerSecond};

const NUMBER: u16 = 6;

/// Three columns, the third of which is the window's or the sum.
type Texts = (String, String, String);

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: &Theme) {
    let head = theme.head;
    let plain = Style::new();
    let window = model.reading().rates.map_or_else(String::new, |rates| {
        format!("{:.0} s", rates.window_seconds)
    });
    let mut rows = vec![row(("per second".into(), "now".into(), window), head)];
    rows.extend(rates(model).into_iter().map(|texts| row(texts, plain)));
    rows.push(row(
        ("listeners".into(), "now".into(), "total".into()),
        head,
    ));
    let style = |alarming: bool| if alarming { theme.warning } else { plain };
    rows.extend(drops(model).map(|(texts, growing)| row(texts, style(growing))));
    rows.extend(stale(model).map(|(texts, some)| row(texts, style(some))));
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(NUMBER),
        Constraint::Length(NUMBER),
    ];
    // The gap at the left is the states' own.
    frame.render_widget(Table::new(rows, widths).column_spacing(0), area);
}

fn row((name, left, right): Texts, style: Style) -> Row<'static> {
    Row::new([Text::raw(name), text::right(left), text::right(right)]).style(style)
}

fn rates(model: &Model) -> [Texts; 6] {
    let now = model.history().rates();
    let mean = model.reading().rates.as_ref();
    let row = |name: &str, of: fn(&PerSecond) -> f64, mean: Option<f64>| {
        (name.into(), known(now.map(of)), known(mean))
    };
    [
        row(
            "active open",
            |of| of.active_open,
            mean.map(|of| of.active_open),
        ),
        row(
            "passive open",
            |of| of.passive_open,
            mean.map(|of| of.passive_open),
        ),
        row(
            "failed open",
            |of| of.failed_open,
            mean.map(|of| of.failed_open),
        ),
        row(
            "active close",
            |of| of.active_close,
            mean.map(|of| of.active_close),
        ),
        row(
            "passive close",
            |of| of.passive_close,
            mean.map(|of| of.passive_close),
        ),
        row("aborted", |of| of.aborted, mean.map(|of| of.aborted)),
    ]
}

fn known(number: Option<f64>) -> String {
    number.map_or_else(|| "-".into(), rate)
}

/// And whether they grow.
fn drops(model: &Model) -> [(Texts, bool); 2] {
    let all = model.reading().overflows;
    // Where the kernel does not tell, nothing grows either.
    let now = model.history().rates().filter(|_| all.is_some());
    let row = |name: &str, now: Option<f64>, all: Option<u64>| {
        let all = all.map_or_else(|| "-".into(), |all| count(all, NUMBER.into()));
        (
            (name.into(), known(now), all),
            now.is_some_and(|now| now > 0.0),
        )
    };
    [
        row(
            "overflows",
            now.map(|of| of.overflows),
            all.map(|all| all.listen_overflows),
        ),
        row(
            "drops",
            now.map(|of| of.drops),
            all.map(|all| all.listen_drops),
        ),
    ]
}

/// And whether there are any.
fn stale(model: &Model) -> impl Iterator<Item = (Texts, bool)> {
    let stale = model.reading().stale;
    let limit = stale.map_or(60, |stale| stale.older_than_seconds);
    [
        ("closewait", stale.map(|stale| stale.closewait)),
        ("finwait2", stale.map(|stale| stale.finwait2)),
    ]
    .into_iter()
    .map(move |(state, number)| {
        let text = number.map_or_else(|| "-".into(), |number| count(number, NUMBER.into()));
        let name = format!("{state} >{limit}s");
        (
            (name, String::new(), text),
            number.is_some_and(|number| number > 0),
        )
    })
}
