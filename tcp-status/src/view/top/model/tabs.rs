//! The tables of the tabs, from the last reading.

use std::collections::{BTreeMap, HashMap};

use tcp_status_common::state::State;

use super::{
    Model, Page, Tab, marks, reasons,
    table::{
        Cell, Column, Mark, PROBLEM, Row, Sort, Table, column, growing, state_cells, state_columns,
    },
};
use crate::{
    printable::printable,
    snapshot::{Cgroups, Counts, Problem, Rates, Snapshot, Subject},
    view::{cgroups, time::lasts},
};

/// The width of a name that is whole wherever there is room for a number beside it.
pub(super) const NAME: u16 = 24;

/// The same of a note, which leaves CLOSE_WAIT its place in half of 132 columns.
const NOTE: u16 = 16;

/// The width of `for >23h59m`.
const LASTS: u16 = 11;

/// From this height on, there is room for more rates.
const HIGH: u16 = 50;

/// From this width on, graphs are wide.
const WIDE: u16 = 100;

impl Model {
    /// The table of the tab that is shown, sorted, filtered and folded; of the overview, there is none.
    pub(super) fn table(&self) -> Table {
        let (mut table, what) = match self.tab {
            Tab::Overview => (Table::default(), ""),
            Tab::Listeners => (self.listeners(), "listeners"),
            Tab::Ports => (self.ports(), "ports"),
            Tab::Units => (self.all_units(), "units"),
            Tab::Namespaces => (self.namespaces(), "namespaces"),
            Tab::Remotes => (self.who(0, "Remotes"), "remotes"),
        };
        table.sort(self.sorts[self.tab as usize]);
        if !self.filter.is_empty() {
            table.filter(&self.filter);
        } else if !self.shows_idle && table.height() > self.body().height {
            table.fold(what);
        }
        table
    }

    pub(super) fn overview(&self) -> Page {
        let mut problems: Vec<_> = self.problems.iter().map(problem_row).collect();
        if problems.is_empty() {
            let healthy = ["healthy", "", "nothing is wrong"];
            problems.push(Row {
                cells: healthy.map(|text| Cell::Text(text.into())).into(),
                ..Row::default()
            });
        }
        let top = Table {
            selectable: !self.problems.is_empty(),
            ..problem_table("", problems)
        };
        let fill = [self.ports(), self.units(), self.listeners()].map(|mut table| {
            table.sort(Sort::default());
            table.fold("rows");
            table.idle = None;
            table
        });
        Page {
            top,
            states: self.states(),
            side: if self.is_tall() {
                vec![self.rates(), self.drops()]
            } else {
                Vec::new()
            },
            fill: fill
                .into_iter()
                .filter(|table| !table.rows.is_empty())
                .collect(),
        }
    }

    /// The seconds that graphs show: no more than is known.
    pub(super) fn graph_seconds(&self, known: f64) -> f64 {
        let step = if known < 300.0 { 60.0 } else { 300.0 };
        let known = (known / step).ceil().max(1.0) * step;
        known.min(self.span().into())
    }

    /// What graphs show, as the name of their column.
    pub(super) fn graph_column(&self, seconds: f64) -> Column {
        let minutes = seconds / 60.0;
        let span = if minutes < 60.0 {
            format!("{minutes:.0}m")
        } else {
            format!("{:.1}h", minutes / 60.0).replace(".0", "")
        };
        let least = if self.size.width < WIDE { 12 } else { 30 };
        growing(format!("0-max, {span}"), least, 1)
    }

    fn states(&self) -> Table {
        let reading = &self.reading;
        let seconds = self.graph_seconds(self.history.known(self.read_at));
        let columns = vec![
            column("state", 11, 0),
            column("total", 8, 0),
            column("change", 8, 3),
            column("max", 8, 2),
            self.graph_column(seconds),
            column("ipv4", 8, 5),
            column("ipv6", 8, 6),
            column("min 1m", 8, 7),
            column("max 1m", 8, 4),
        ];
        let minute = self.history.last_minute();
        let row = |state: State| {
            let series = self.history.series(state, self.read_at, seconds);
            #[expect(clippy::cast_possible_truncation, reason = "no host has 2^63 sockets")]
            let before = minute
                .and_then(|minute| Some(minute.states.get(state.name())?.mean.round() as i64));
            let total = reading.states[state];
            let peaks = reading.peaks.as_ref();
            Row {
                key: state.name().into(),
                opens: Some(Subject::State(state)),
                mark: self.state_mark(state),
                idle: total == 0,
                cells: vec![
                    Cell::Text(state.name().into()),
                    Cell::number(total),
                    Cell::Change(before.map(|before| total.cast_signed() - before)),
                    Cell::Number(series.max()),
                    Cell::Graph(series),
                    Cell::number(reading.ipv4[state]),
                    Cell::number(reading.ipv6[state]),
                    Cell::Number(peaks.map(|of| of.min[state])),
                    Cell::Number(peaks.map(|of| of.max[state])),
                ],
                ..Row::default()
            }
        };
        let rows = State::ALL.map(row).into_iter();
        let rows = rows.filter(|row| self.is_tall() || !row.idle);
        Table::new("", columns, rows.collect())
    }

    /// What is wrong with the sockets in a state, by the problems that are about it.
    fn state_mark(&self, state: State) -> Option<Mark> {
        let about = match state {
            State::SynRecv => &["syn", "SYN FULL"][..],
            State::CloseWait => &["leak"],
            _ => return None,
        };
        let mut problems = self.problems.iter();
        let found = problems.find(|one| about.contains(&one.mark()))?;
        Some((found.severity, found.mark()))
    }

    fn rates(&self) -> Table {
        let (now, mean) = (self.history.rates(), self.reading.rates.as_ref());
        let window = mean.map_or_else(String::new, |rates| {
            format!("{:.0} s", rates.window_seconds)
        });
        let row = |name: &str, rate: fn(&Rates) -> f64| Row {
            cells: vec![
                Cell::Text(name.into()),
                Cell::Rate(now.map(|now| rate(&now.rates))),
                Cell::Rate(mean.map(rate)),
            ],
            ..Row::default()
        };
        let mut rows = vec![
            row("active open", |of| of.active_open),
            row("passive open", |of| of.passive_open),
            row(reasons::FAILED_OPEN, |of| of.failed_open),
            row("active close", |of| of.active_close),
            row("passive close", |of| of.passive_close),
            row(reasons::ABORTED, |of| of.aborted),
        ];
        let room = if self.size.height < HIGH {
            rows.len()
        } else {
            usize::MAX
        };
        reasons::add_rates(&mut rows, now, room);
        Table {
            selectable: false,
            ..Table::new(
                "",
                number_columns(["per second", "now", &window], [0, 1]),
                rows,
            )
        }
    }

    /// What queues could not take, and what sits in a state.
    fn drops(&self) -> Table {
        let all = self.reading.overflows;
        // Where the kernel does not report them, nothing grows either.
        let now = self.history.rates().filter(|_| all.is_some());
        let stale = self.reading.stale;
        let limit = stale.map_or(60, |stale| stale.older_than_seconds);
        let row = |name: String, now: Cell, all: Option<u64>| Row {
            cells: vec![Cell::Text(name), now, Cell::Number(all)],
            ..Row::default()
        };
        let none = || Cell::Text(String::new());
        let rows = vec![
            row(
                "overflows".into(),
                Cell::Rate(now.map(|of| of.overflows)),
                all.map(|all| all.listen_overflows),
            ),
            row(
                "drops".into(),
                Cell::Rate(now.map(|of| of.drops)),
                all.map(|all| all.listen_drops),
            ),
            Row {
                mark: self.state_mark(State::CloseWait),
                ..row(
                    format!("closewait >{limit}s"),
                    none(),
                    stale.map(|of| of.closewait),
                )
            },
            row(
                format!("finwait2 >{limit}s"),
                none(),
                stale.map(|of| of.finwait2),
            ),
        ];
        Table {
            selectable: false,
            ..Table::new(
                "",
                number_columns(["listeners", "now", "total"], [1, 0]),
                rows,
            )
        }
    }

    pub(super) fn ports(&self) -> Table {
        let ports = &self.reading.ports;
        let mut units = BTreeMap::new();
        for one in &self.reading.listeners {
            let unit = units.entry(one.port).or_insert(one.unit.as_deref());
            *unit = unit.filter(|unit| one.unit.as_deref() == Some(*unit));
        }
        let row = |name: String, states: &Counts, opens: Option<Subject>, mark: &str| {
            let unit = match opens {
                Some(Subject::Port(port)) => units.get(&port).copied().flatten(),
                _ => None,
            };
            let unit = unit.map(printable).unwrap_or_default();
            counts_row(
                format!("{name}{mark}"),
                Some(unit),
                states,
                opens,
                opens.and_then(|at| self.marks.get(&at).copied()),
            )
        };
        let tracked = ports.tracked.iter().map(|one| {
            let mark = if ports.unaudited.contains(&one.port) {
                "*"
            } else {
                ""
            };
            let opens = Some(Subject::Port(one.port));
            row(one.port.to_string(), &one.states, opens, mark)
        });
        let mut rows: Vec<_> = tracked.collect();
        let mark = if ports.unaudited.is_empty() { "" } else { "*" };
        let outgoing = ports.outgoing.iter();
        rows.extend(
            outgoing.map(|states| row("outgoing".into(), states, Some(Subject::Outgoing), mark)),
        );
        rows.extend(ports.other.iter().map(|states| Row {
            rest: true,
            ..row("other".into(), states, None, "")
        }));
        let limit = ports.limit.filter(|_| ports.other.is_some());
        let limit = limit.map_or_else(String::new, |limit| format!(" of at most {limit}"));
        let note = if ports.unaudited.is_empty() {
            ""
        } else {
            ", * not all counted yet"
        };
        let title = format!("Ports {}{limit}{note}", ports.tracked.len());
        Table::new(
            title,
            counts_columns(column("port", 9, 0), Some("unit")),
            rows,
        )
    }

    /// Those of the namespace that is shown.
    pub(super) fn units(&self) -> Table {
        let Some(found) = &self.reading.cgroups else {
            let reason = self.reading.cgroups_reason.as_deref();
            let reason = reason.unwrap_or("the tracker does not count them");
            let columns = counts_columns(growing("unit", NAME, 0), None);
            let title = format!("No units: {}", printable(reason));
            return Table::new(title, columns, Vec::new());
        };
        let title = format!("Units {}", found.tracked.len());
        units_table(title, found, &self.marks, None)
    }

    /// Those of all namespaces that are counted, once these have been read.
    fn all_units(&self) -> Table {
        let all = &self.namespaces;
        match Cgroups::merge(all) {
            Ok(found) if self.reading.all_netns => {
                let title = format!("Units {} of all namespaces", found.tracked.len());
                let marks = marks(all.iter().flat_map(|one| &one.problems));
                units_table(title, &found, &marks, Some(&Cgroups::namespaces(all)))
            }
            _ => self.units(),
        }
    }

    fn namespaces(&self) -> Table {
        let rows = self.namespaces.iter().map(|one: &Snapshot| {
            let mark = one
                .problems
                .first()
                .map(|first| (first.severity, first.mark()));
            let name = one.netns_name.as_deref().map(printable);
            counts_row(
                one.netns.to_string(),
                Some(name.unwrap_or_default()),
                &one.states,
                None,
                mark,
            )
        });
        let title = match self.namespaces.len() {
            0 => "Network namespaces: asking".into(),
            count => format!("Network namespaces {count}, Enter chooses one"),
        };
        let columns = counts_columns(column("netns", 10, 0), Some("name"));
        Table::new(title, columns, rows.collect())
    }
}

/// Cgroups, and the namespaces of each, if there may be several.
fn units_table(
    title: String,
    found: &Cgroups,
    marks: &HashMap<Subject, Mark>,
    namespaces: Option<&BTreeMap<u64, Vec<u32>>>,
) -> Table {
    let tracked = found.tracked.iter().map(|one| {
        let name = printable(&cgroups::name(one.id, &one.name));
        let at = Subject::Cgroup(one.id);
        let netns = namespaces.map(|all| cgroups::netns_text(&all[&one.id]));
        let mark = marks.get(&at).copied();
        Row {
            key: format!("cgroup {}", one.id),
            search: one.name.path.as_deref().map(printable).unwrap_or_default(),
            ..counts_row(name, netns, &one.states, Some(at), mark)
        }
    });
    let mut rows: Vec<_> = tracked.collect();
    let rest = |name: &str, states| Row {
        key: format!("cgroup {name}"),
        rest: true,
        ..counts_row(
            name.into(),
            namespaces.map(|_| String::new()),
            states,
            None,
            None,
        )
    };
    rows.extend(found.other.iter().map(|states| rest("other", states)));
    rows.push(rest("unattributed", &found.unattributed));
    let note = namespaces.map(|_| "netns");
    Table::new(title, counts_columns(growing("unit", NAME, 0), note), rows)
}

/// A problem, and what Enter opens.
pub(super) fn problem_row(problem: &Problem) -> Row {
    let (mut text, mark) = (problem.text.clone(), problem.mark());
    if let Some(hint) = &problem.hint {
        text += "; ";
        text += hint;
    }
    Row {
        key: format!("{mark} {:?}", problem.at),
        opens: problem.at.first().copied(),
        mark: Some((problem.severity, mark)),
        cells: [mark.into(), lasts(problem), printable(&text)]
            .map(Cell::Text)
            .into(),
        ..Row::default()
    }
}

/// What is wrong, for how long, and in words.
pub(super) fn problem_table(title: impl Into<String>, rows: Vec<Row>) -> Table {
    let columns = vec![
        column("", 8, 0),
        growing("", LASTS, 0),
        growing("", NAME, 0),
    ];
    Table {
        headed: false,
        ..Table::new(title, columns, rows)
    }
}

/// A name and two numbers, of which the second one of `ranks` may be left out.
fn number_columns([name, left, right]: [&str; 3], ranks: [usize; 2]) -> Vec<Column> {
    vec![
        column(name, reasons::NUMBER_NAME, 0),
        column(left, 6, ranks[0]),
        column(right, 6, ranks[1]),
    ]
}

/// What is wrong, a name, a note if there are any, the total and the states.
fn counts_columns(name: Column, note: Option<&str>) -> Vec<Column> {
    let mut columns = vec![column(PROBLEM, 8, 0), name];
    columns.extend(note.map(|note| growing(note, NOTE, 3)));
    columns.extend(state_columns());
    columns
}

/// A row of these columns; without a note, there is no column for it.
pub(super) fn counts_row(
    name: String,
    note: Option<String>,
    states: &Counts,
    opens: Option<Subject>,
    mark: Option<Mark>,
) -> Row {
    let mut cells = vec![mark_cell(mark), Cell::Text(name.clone())];
    cells.extend(note.map(Cell::Text));
    cells.extend(state_cells(states));
    let total = states.total();
    Row {
        key: name,
        search: String::new(),
        opens,
        mark,
        cells,
        weight: total,
        idle: total == states[State::Listen],
        rest: false,
    }
}

pub(super) fn mark_cell(mark: Option<Mark>) -> Cell {
    Cell::Text(mark.map_or("", |(_, mark)| mark).into())
}
