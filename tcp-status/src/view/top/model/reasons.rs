//! Why connects fail and connections end, below the rates while it happens.

use super::{
    PerSecond,
    table::{Cell, Row},
};

/// The least width of the name of a number.
pub(super) const NUMBER_NAME: u16 = 14;

/// As many rates as fit beside the states: of those, rates that are zero make room.
const ROWS: usize = 6;

/// What happened per second, by reason.
fn rates<'a>(
    prefix: &'a str,
    reasons: Option<&'a Vec<(&'static str, f64)>>,
) -> impl Iterator<Item = Row> + 'a {
    let row = move |(reason, rate): &(&str, f64)| {
        let reason = reason.replace('_', " ");
        let named = format!("{prefix}{reason}");
        let name = if named.len() <= NUMBER_NAME.into() {
            named
        } else {
            reason
        };
        Row {
            cells: vec![
                Cell::Text(name),
                Cell::Rate(Some(*rate)),
                Cell::Text(String::new()),
            ],
            ..Row::default()
        }
    };
    reasons.into_iter().flatten().map(row)
}

/// Adds why connects failed and connections ended, as far as any did.
pub(super) fn add_rates(rows: &mut Vec<Row>, now: Option<&PerSecond>) {
    rows.extend(rates("open ", now.map(|now| &now.connect_failures)));
    rows.extend(rates("", now.map(|now| &now.aborts)));
    while rows.len() > ROWS {
        let is_zero = |row: &Row| row.cells.get(1) == Some(&Cell::Rate(Some(0.0)));
        let Some(at) = rows.iter().rposition(is_zero) else {
            return;
        };
        rows.remove(at);
    }
}
