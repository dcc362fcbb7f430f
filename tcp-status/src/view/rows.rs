//! Rows of counts by state, in columns.

use std::fmt::{self, Write as _};

use tcp_status_common::state::State;

use crate::{printable::printable, snapshot::Counts};

/// A row: what it is of, its counts, and what follows these.
pub(super) struct Row {
    pub(super) name: String,
    /// None where they are not known.
    pub(super) counts: Option<Counts>,
    pub(super) note: String,
}

impl Row {
    pub(super) fn new(name: impl Into<String>, counts: Option<Counts>) -> Self {
        Self {
            name: name.into(),
            counts,
            note: String::new(),
        }
    }
}

/// The rows, and beneath them their sums. States that no row has are left out.
pub(super) fn write(
    out: &mut String,
    heading: &str,
    note: &str,
    mut rows: Vec<Row>,
) -> fmt::Result {
    let mut sum = Counts::default();
    for counts in rows.iter().filter_map(|row| row.counts.as_ref()) {
        sum += counts;
    }
    rows.push(Row::new("all", Some(sum)));
    for row in &mut rows {
        row.name = printable(&row.name);
        row.note = printable(&row.note);
    }
    let states: Vec<_> = State::ALL
        .into_iter()
        .filter(|&state| sum[state] > 0)
        .collect();
    let names = rows.iter().map(|row| row.name.chars().count());
    let first = names.max().unwrap_or(0).max(13) + 1;
    let mut line = format!("{heading:<first$}{:>9}", "total");
    for &state in &states {
        write!(line, " {:>width$}", state.name(), width = width(state))?;
    }
    writeln!(out, "\n{}", with_note(line, note))?;
    for Row { name, counts, note } in rows {
        let mut line = format!("{name:<first$}");
        match counts {
            Some(counts) => {
                write!(line, "{:>9}", counts.total())?;
                for &state in &states {
                    write!(line, " {:>width$}", counts[state], width = width(state))?;
                }
            }
            None => write!(line, "{:>9}", "unknown")?,
        }
        writeln!(out, "{}", with_note(line, &note))?;
    }
    Ok(())
}

fn with_note(line: String, note: &str) -> String {
    if note.is_empty() {
        line
    } else {
        format!("{line}  {note}")
    }
}

/// Room for the name of a state, and for seven digits.
fn width(state: State) -> usize {
    state.name().len().max(7)
}
