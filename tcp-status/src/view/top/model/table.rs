//! Tables as data: rows with what is wrong with them, sorted, filtered and folded.

use std::cmp::{Ordering, Reverse};

use tcp_status_common::state::State;

use super::history::Series;
use crate::snapshot::{Counts, Severity, Subject};

/// The name of the column that says what is wrong.
pub const PROBLEM: &str = "problem";

/// States in the order of what is asked most.
const STATES: [State; 9] = [
    State::Established,
    State::CloseWait,
    State::TimeWait,
    State::SynRecv,
    State::FinWait2,
    State::FinWait1,
    State::LastAck,
    State::Closing,
    State::SynSent,
];

/// What a cell shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A name, at the left.
    Text(String),
    /// A count; none if it is not known.
    Number(Option<u64>),
    /// A difference.
    Change(Option<i64>),
    /// A number with a digit behind the point.
    Rate(Option<f64>),
    /// How much of how much is taken.
    Bar(u64, u64),
    /// A number over time, from 0 to its maximum.
    Graph(Series),
}

impl Cell {
    /// A count.
    #[must_use]
    pub fn number(number: impl Into<u64>) -> Self {
        Self::Number(Some(number.into()))
    }

    /// The largest number, or the first name, first; what is not known last.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => a.is_empty().cmp(&b.is_empty()).then(a.cmp(b)),
            },
            (Self::Number(a), Self::Number(b)) => b.cmp(a),
            (Self::Change(a), Self::Change(b)) => b.cmp(a),
            (Self::Rate(Some(a)), Self::Rate(Some(b))) => b.total_cmp(a),
            (Self::Rate(a), Self::Rate(b)) => b.is_some().cmp(&a.is_some()),
            (Self::Bar(a, of), Self::Bar(b, other)) => {
                let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
                product(*b, *of).cmp(&product(*a, *other))
            }
            _ => Ordering::Equal,
        }
    }
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// As it is shown.
    pub name: String,
    /// Its width, or its smallest one if it grows.
    pub width: u16,
    /// Whether it takes the room that is left, up to its widest cell.
    pub grows: bool,
    /// The lowest are shown if not all fit.
    pub rank: usize,
}

/// A column of a fixed width.
pub(super) fn column(name: impl Into<String>, width: u16, rank: usize) -> Column {
    Column {
        name: name.into(),
        width,
        grows: false,
        rank,
    }
}

/// A column that grows.
pub(super) fn growing(name: impl Into<String>, width: u16, rank: usize) -> Column {
    Column {
        grows: true,
        ..column(name, width, rank)
    }
}

/// The columns of the total and of each state.
pub(super) fn state_columns() -> impl Iterator<Item = Column> {
    let width = |state: &State| u16::try_from(state.name().len()).unwrap_or(u16::MAX);
    // The unit comes between them.
    let rank = |at: usize| if at == 0 { 2 } else { at + 3 };
    let states = STATES.iter().enumerate();
    let states = states.map(move |(at, state)| column(state.name(), width(state), rank(at)));
    [column("total", 7, 1)].into_iter().chain(states)
}

/// The cells of these columns.
pub(super) fn state_cells(counts: &Counts) -> impl Iterator<Item = Cell> + '_ {
    let states = STATES.iter().map(|state| Cell::number(counts[*state]));
    [Cell::number(counts.total())].into_iter().chain(states)
}

/// What is wrong with a row, in one or two words.
pub type Mark = (Severity, &'static str);

/// A row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// What tells it from others.
    pub key: String,
    /// What filters look at besides its texts.
    pub search: String,
    /// What Enter opens.
    pub opens: Option<Subject>,
    /// What is wrong.
    pub mark: Option<Mark>,
    /// One for each column.
    pub cells: Vec<Cell>,
    /// Of rows that are equal otherwise, the heaviest comes first.
    pub weight: u64,
    /// Nothing happens there.
    pub idle: bool,
    /// It is of several that are not listed, and comes last.
    pub rest: bool,
}

/// What a table is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    /// Number of the column.
    pub column: usize,
    /// The other way round.
    pub reversed: bool,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The line above it; none if empty.
    pub title: String,
    /// Whether the names of the columns are shown.
    pub headed: bool,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether the cursor goes through its rows.
    pub selectable: bool,
    /// What it is sorted by, if it says so.
    pub sort: Option<Sort>,
    /// How many idle rows are left out, and of what.
    pub idle: Option<(usize, &'static str)>,
    /// Lines of a row.
    pub lines: u16,
}

impl Table {
    /// With a title, names of columns if there are rows, and rows to choose from.
    pub(super) fn new(title: impl Into<String>, columns: Vec<Column>, rows: Vec<Row>) -> Self {
        Self {
            title: title.into(),
            headed: !rows.is_empty(),
            columns,
            rows,
            selectable: true,
            sort: None,
            idle: None,
            lines: 1,
        }
    }

    /// Lines that are no rows.
    #[must_use]
    pub fn heads(&self) -> u16 {
        u16::from(!self.title.is_empty()) + u16::from(self.headed) + u16::from(self.idle.is_some())
    }

    /// Lines of all.
    #[must_use]
    pub fn height(&self) -> u16 {
        let rows = u16::try_from(self.rows.len()).unwrap_or(u16::MAX);
        let lines = rows.saturating_mul(self.lines);
        lines.saturating_add(self.heads())
    }

    /// Sorts: what is wrong first, or by another column.
    pub(super) fn sort(&mut self, sort: Sort) {
        let Sort { column, reversed } = sort;
        let by_problem = self.columns.first().is_some_and(|of| of.name == PROBLEM) && column == 0;
        self.rows.sort_by(|a, b| {
            let order = if by_problem {
                let severity =
                    |row: &Row| row.mark.map_or((true, None), |mark| (false, Some(mark.0)));
                let key = |row: &Row| (severity(row), Reverse(row.weight));
                key(a).cmp(&key(b))
            } else {
                let cells = a.cells.get(column).zip(b.cells.get(column));
                cells.map_or(Ordering::Equal, |(a, b)| a.compare(b))
            };
            let order = if reversed { order.reverse() } else { order };
            let rest = a.rest.cmp(&b.rest).then(order);
            rest.then(b.weight.cmp(&a.weight))
        });
        self.sort = Some(sort);
    }

    /// Keeps rows that contain a text, in any column.
    pub(super) fn filter(&mut self, text: &str) {
        let text = text.to_lowercase();
        let passes = |row: &Row| {
            let texts = row.cells.iter().filter_map(|cell| match cell {
                Cell::Text(text) => Some(text.as_str()),
                _ => None,
            });
            let mut all = texts.chain([row.search.as_str()]);
            all.any(|part| part.to_lowercase().contains(&text))
        };
        self.rows.retain(|row| passes(row) || row.rest);
    }

    /// Leaves out what is idle and has no problem.
    pub(super) fn fold(&mut self, what: &'static str) {
        let all = self.rows.len();
        self.rows.retain(|row| !row.idle || row.mark.is_some());
        let idle = all - self.rows.len();
        self.idle = (idle > 0).then_some((idle, what));
    }

    /// Keeps what has sockets in this state, the most first, and shows that column whatever the width.
    pub(super) fn lead(&mut self, state: State) {
        let Some(at) = self.columns.iter().position(|of| of.name == state.name()) else {
            return;
        };
        self.columns[at].rank = 0;
        let is_none = |row: &Row| matches!(row.cells[at], Cell::Number(Some(0)));
        self.rows.retain(|row| !is_none(row));
        self.sort(Sort {
            column: at,
            reversed: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, PROBLEM, Row, Sort, Table, column};
    use crate::snapshot::Severity;

    fn table() -> Table {
        let row = |name: &str, number: Option<u64>, severity: Option<Severity>| Row {
            key: name.into(),
            search: format!("search of {name}"),
            mark: severity.map(|severity| (severity, "mark")),
            cells: vec![
                Cell::Text("mark".into()),
                Cell::Text(name.into()),
                Cell::Number(number),
            ],
            weight: number.unwrap_or(0),
            idle: number == Some(0),
            ..Row::default()
        };
        let columns = [PROBLEM, "name", "number"].map(|name| column(name, 9, 0));
        let mut rows = vec![
            row("other", Some(99), None),
            row("90", Some(0), Some(Severity::Warning)),
            row("100", None, None),
            row("8", Some(7), None),
            row("9", Some(0), None),
            row("70", Some(1), Some(Severity::Critical)),
        ];
        rows[0].rest = true;
        Table::new("Numbers", columns.into(), rows)
    }

    fn names(table: &Table) -> Vec<String> {
        table.rows.iter().map(|row| row.key.clone()).collect()
    }

    #[test]
    fn what_is_wrong_comes_first_and_the_rest_last() {
        let mut table = table();
        for (column, reversed, expected) in [
            (0, false, ["70", "90", "8", "9", "100", "other"]),
            (1, false, ["8", "9", "70", "90", "100", "other"]),
            (1, true, ["100", "90", "70", "9", "8", "other"]),
            // What is not known comes last.
            (2, false, ["8", "70", "9", "90", "100", "other"]),
        ] {
            // From any order: equal rows stay as they are.
            table.rows.sort_by(|a, b| b.key.cmp(&a.key));
            table.rows.sort_by_key(|row| row.key.len());
            table.sort(Sort { column, reversed });
            assert_eq!(names(&table), expected, "{column} {reversed}");
        }
    }

    #[test]
    fn idle_rows_are_folded_unless_something_is_wrong_with_them() {
        let mut table = table();
        table.fold("numbers");
        assert_eq!(names(&table), ["other", "90", "100", "8", "70"]);
        assert_eq!(table.idle, Some((1, "numbers")));
        assert_eq!(table.height(), 5 + 3);
        table.filter("Search OF 7");
        assert_eq!(names(&table), ["other", "70"]);
    }
}
