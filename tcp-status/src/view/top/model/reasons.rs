//! Why connects fail and connections end, below the rates while it happens.

use super::{
    PerSecond,
    table::{Cell, Row},
};

/// The width of the name of a number.
pub(super) const NUMBER_NAME: u16 = 14;

/// What reasons stand in for.
pub(super) const FAILED_OPEN: &str = "failed open";
pub(super) const ABORTED: &str = "aborted";

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
            cells: vec![Cell::Text(name), Cell::Rate(Some(*rate))],
            ..Row::default()
        }
    };
    reasons.into_iter().flatten().map(row)
}

/// Puts reasons, as far as there are any, in the place of their sum; where there is `room` for fewer rows, zeros
/// give way.
pub(super) fn add_rates(rows: &mut Vec<Row>, now: Option<&PerSecond>, room: usize) {
    for (sum, prefix, reasons) in [
        (FAILED_OPEN, "open ", now.map(|now| &now.connect_failures)),
        (ABORTED, "", now.map(|now| &now.aborts)),
    ] {
        let place = rows
            .iter()
            .position(|row| row.cells[0] == Cell::Text(sum.into()));
        let reasons: Vec<_> = rates(prefix, reasons).collect();
        if let (Some(at), false) = (place, reasons.is_empty()) {
            rows.splice(at..=at, reasons);
        }
    }
    while rows.len() > room {
        let is_zero = |row: &Row| row.cells[1] == Cell::Rate(Some(0.0));
        let Some(at) = rows.iter().rposition(is_zero) else {
            return;
        };
        rows.remove(at);
    }
}
