//! What Enter opens: the details of a port, a cgroup, a peer or a state.

use tcp_status_common::state::State;

use super::{
    Cursor, Details, Model, Page, Readings, Series, Tab, WATCHED,
    table::{Cell, Row, Sort, Table, column},
    tabs::{problem_row, problem_table},
};
use crate::{
    printable::printable,
    snapshot::{Counts, Snapshot, Subject},
    view::{
        cgroups,
        field::{ends_at, reasons_text},
    },
};

impl Model {
    /// Opens what the row under the cursor is of; of a namespace, chooses it.
    pub(super) fn open(&mut self) {
        let panes = self.panes();
        let chosen = panes
            .iter()
            .find_map(|pane| Some(&pane.table.rows[pane.cursor?]));
        let Some(row) = chosen else { return };
        if self.tab == Tab::Namespaces && self.details.is_empty() {
            // A name may be given to another namespace, an inode number is its own.
            self.netns = Some(row.key.clone());
            self.show(Tab::Overview);
        } else if let Some(subject) = row.opens {
            if let (Tab::Units, Subject::Cgroup(id)) = (self.tab, subject) {
                self.choose_namespace_of(id);
            }
            self.filter.clear();
            self.details.push(Details {
                subject,
                cursor: Cursor::default(),
            });
            self.walked = None;
            if self.readings(subject).is_none() {
                self.record_watched();
            }
        }
    }

    /// Chooses the namespace where a cgroup has the most sockets: ports, remotes and processes are
    /// those of one namespace.
    fn choose_namespace_of(&mut self, id: u64) {
        let shown = self.reading.netns;
        let sockets = |one: &Snapshot| {
            let mut rows = one.cgroups.iter().flat_map(|found| &found.tracked);
            rows.find(|row| row.id == id).map(|row| row.states.total())
        };
        let all = self.namespaces.iter();
        let most = all.max_by_key(|one| (sockets(one), one.netns == shown));
        let most = most.filter(|one| one.netns != shown && sockets(one).is_some());
        if let Some(other) = most.cloned() {
            self.netns = Some(other.netns.to_string());
            self.accept_reading(other, self.read_at);
        }
    }

    /// Leaves the details opened last, or the filter.
    pub(super) fn back(&mut self) {
        self.walked = None;
        if self.details.pop().is_none() {
            self.filter.clear();
        }
    }

    /// Shows a tab, and no details.
    pub(super) fn show(&mut self, tab: Tab) {
        self.details.clear();
        self.walked = None;
        self.filter.clear();
        self.tab = tab;
    }

    /// Adds the last reading to the counts of what something is wrong with and of what is opened.
    pub(super) fn record_watched(&mut self) {
        let wrong = self.problems.iter().flat_map(|problem| &problem.at);
        let opened = self.details.iter().map(|details| &details.subject);
        let new: Vec<_> = wrong.chain(opened).copied().collect();
        for subject in new {
            if self.readings(subject).is_none() {
                self.watched.push((subject, Readings::default()));
            }
        }
        let beyond = self.watched.len().saturating_sub(WATCHED);
        self.watched.drain(..beyond);
        let mut watched = std::mem::take(&mut self.watched);
        for (subject, readings) in &mut watched {
            let counts = self.counts(*subject);
            // What no reading has is unknown of a remote, and none of anything else.
            if counts.is_some() || !matches!(subject, Subject::Remote(_)) {
                readings.add(self.read_at, counts.unwrap_or_default());
            }
        }
        self.watched = watched;
    }

    fn readings(&self, subject: Subject) -> Option<&Readings> {
        let mut all = self.watched.iter();
        all.find(|(of, _)| *of == subject)
            .map(|(_, readings)| readings)
    }

    /// The last counts of something; none if it is gone, or no reading has them.
    fn counts(&self, subject: Subject) -> Option<Counts> {
        let reading = &self.reading;
        match subject {
            Subject::Port(port) => {
                let mut ports = reading.ports.tracked.iter();
                ports.find(|one| one.port == port).map(|one| one.states)
            }
            Subject::Outgoing => reading.ports.outgoing,
            Subject::Cgroup(id) => {
                let mut all = reading.cgroups.iter().flat_map(|found| &found.tracked);
                all.find(|one| one.id == id).map(|one| one.states)
            }
            Subject::State(state) => {
                let mut counts = Counts::default();
                counts[state] = reading.states[state];
                Some(counts)
            }
            Subject::Remote(remote) => {
                let walked = self.walked.as_ref();
                let (_, found) = walked.filter(|(walk, _)| walk.remote == Some(remote))?;
                let groups = &found.as_ref().ok()?.first()?.groups;
                let mut sum = Counts::default();
                groups.iter().for_each(|group| sum += &group.states);
                Some(sum)
            }
        }
    }

    fn name(&self, subject: Subject) -> String {
        match subject {
            Subject::Port(port) => match ends_at(&self.reading.ports, port) {
                ends if ends.is_empty() => format!("port {port}"),
                ends => format!("port {port}, ended: {ends}"),
            },
            Subject::Outgoing => {
                let failed = self.reading.ends.map(|ends| ends.failed_connects());
                match reasons_text(failed.as_ref().map_or(&[], |reasons| reasons)) {
                    failed if failed.is_empty() => "outgoing connections".into(),
                    failed => format!("outgoing connections, failed: {failed}"),
                }
            }
            Subject::Cgroup(id) => {
                let mut all = self.reading.cgroups.iter().flat_map(|found| &found.tracked);
                let found = all.find(|one| one.id == id);
                found.map_or_else(
                    || format!("cgroup {id}, without sockets"),
                    |one| printable(&cgroups::name(one.id, &one.name)),
                )
            }
            Subject::State(state) => state.name().into(),
            Subject::Remote(remote) => remote.to_string(),
        }
    }

    pub(super) fn details_page(&self, details: &Details) -> Page {
        let subject = details.subject;
        let problems = self.problems.iter().filter(|one| one.at.contains(&subject));
        let rows = problems.map(problem_row).collect();
        let top = Table {
            selectable: false,
            ..problem_table(self.name(subject), rows)
        };
        let mut ports = self.ports();
        let mut units = self.units();
        let fill = match subject {
            Subject::Port(port) => {
                let mut listeners = self.listeners();
                let opens = Some(Subject::Port(port));
                listeners.rows.retain(|row| row.opens == opens);
                let of_port = self.reading.listeners.iter().filter(|one| one.port == port);
                let unit = of_port.filter_map(|one| one.cgroup).next();
                for row in &mut listeners.rows {
                    row.opens = unit.map(Subject::Cgroup);
                }
                listeners.title = "Listeners".into();
                vec![listeners, self.who(0, "Remotes"), self.who(1, "Processes")]
            }
            Subject::Outgoing => vec![self.who(0, "Destinations"), self.who(1, "Processes")],
            Subject::Cgroup(id) => {
                let listeners = self
                    .reading
                    .listeners
                    .iter()
                    .filter(|one| one.cgroup == Some(id));
                let own: Vec<_> = listeners.map(|one| Some(Subject::Port(one.port))).collect();
                ports.rows.retain(|row| own.contains(&row.opens));
                ports.title = format!("Ports {}", ports.rows.len());
                ports.sort(Sort::default());
                ports.fold("ports");
                vec![ports, self.who(0, "Remotes"), self.who(1, "Processes")]
            }
            Subject::Remote(_) => vec![self.who(0, "Ports"), self.who(1, "Processes")],
            Subject::State(state) => {
                let (mut remotes, mut processes) =
                    (self.who(0, "Remotes"), self.who(1, "Processes"));
                for table in [&mut ports, &mut units, &mut remotes, &mut processes] {
                    table.lead(state);
                }
                vec![ports, units, remotes, processes]
            }
        };
        Page {
            top,
            states: self.states_of(details),
            side: Vec::new(),
            fill,
        }
    }

    /// The states that the subject has or had while its counts were kept.
    fn states_of(&self, details: &Details) -> Table {
        let readings = self.readings(details.subject);
        let known = match (details.subject, readings) {
            (Subject::State(_), _) => self.history.known(self.read_at),
            (_, Some(readings)) => readings.known(self.read_at),
            (_, None) => 0.0,
        };
        let seconds = self.graph_seconds(known);
        let columns = vec![
            column("state", 11, 0),
            column("total", 8, 0),
            column("max", 8, 1),
            self.graph_column(seconds),
        ];
        let counts = self.counts(details.subject).unwrap_or_default();
        let row = |state: State| {
            let series = match (details.subject, readings) {
                (Subject::State(_), _) => self.history.series(state, self.read_at, seconds),
                (_, Some(readings)) => readings.series(state, self.read_at, seconds),
                (_, None) => Series::default(),
            };
            let has_any = counts[state] > 0 || series.max() > Some(0);
            let is_shown = match details.subject {
                Subject::State(shown) => shown == state,
                _ => has_any,
            };
            is_shown.then(|| Row {
                cells: vec![
                    Cell::Text(state.name().into()),
                    Cell::number(counts[state]),
                    Cell::Number(series.max()),
                    Cell::Graph(series),
                ],
                ..Row::default()
            })
        };
        Table {
            selectable: false,
            ..Table::new(
                "",
                columns,
                State::ALL.into_iter().filter_map(row).collect(),
            )
        }
    }
}
