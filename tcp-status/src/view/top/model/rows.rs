//! Which rows a panel has, and which of them are in view.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{
    Mode, Model, Panel,
    cgroup_row::{CgroupGroup, CgroupRow},
    port_row::{PortGroup, PortRow},
    sort::SortKey as _,
};
use crate::{printable::printable, snapshot::Group, view::cgroups};

impl Model {
    /// The listeners to show, in order.
    #[must_use]
    pub fn listener_rows(&self) -> Vec<Group<'_>> {
        let mut rows = self.reading.groups();
        if self.ungrouped {
            rows = rows.into_iter().flat_map(single).collect();
        }
        rows.retain(|group| self.passes(&filter_text(group)));
        // Stable: what is equal stays in the order of ports.
        rows.sort_by(|a, b| self.listeners.compare(a, b));
        rows
    }

    /// The ports to show, in order: those with a listener that is shown, those whose number passes
    /// the filter, and the rest together. What is beyond the limit comes last.
    #[must_use]
    pub fn port_rows(&self) -> Vec<PortRow> {
        let ports = &self.reading.ports;
        let listeners = self.listener_rows();
        let listeners: BTreeSet<_> = listeners.iter().map(|group| group.address().1).collect();
        let mut rows: Vec<_> = ports
            .tracked
            .iter()
            .filter(|one| listeners.contains(&one.port) || self.passes(&one.port.to_string()))
            .map(|one| PortRow {
                local: PortGroup::Port(one.port),
                states: one.states,
                unaudited: ports.unaudited.contains(&one.port),
            })
            .collect();
        rows.extend(ports.outgoing.map(|states| PortRow {
            local: PortGroup::Outgoing,
            states,
            unaudited: !ports.unaudited.is_empty(),
        }));
        rows.retain(|row| row.local != PortGroup::Outgoing || self.passes("outgoing"));
        rows.sort_by(|a, b| self.ports.compare(a, b));
        rows.extend(ports.other.map(|states| PortRow {
            local: PortGroup::Other,
            states,
            unaudited: false,
        }));
        rows
    }

    /// The cgroups to show, in order: those whose name or path passes the filter. What is beyond the limit and what
    /// has no cgroup come last.
    #[must_use]
    pub fn cgroup_rows(&self) -> Vec<CgroupRow> {
        let Some(cgroups) = &self.reading.cgroups else {
            return Vec::new();
        };
        let listed = cgroups.tracked.iter().filter_map(|one| {
            let name = printable(&cgroups::name(one.id, &one.name));
            let path = one.name.path.as_deref().unwrap_or_default();
            let passes = self.passes(&format!("{name} {path}").to_lowercase());
            passes.then_some(CgroupRow {
                cgroup: CgroupGroup::Cgroup(name),
                states: one.states,
            })
        });
        let mut rows: Vec<_> = listed.collect();
        rows.sort_by(|a, b| self.cgroups.compare(a, b));
        rows.extend(cgroups.other.map(|states| CgroupRow {
            cgroup: CgroupGroup::Other,
            states,
        }));
        rows.push(CgroupRow {
            cgroup: CgroupGroup::Unattributed,
            states: cgroups.unattributed,
        });
        rows
    }

    /// How a panel is sorted: by what, and whether the other way round.
    #[must_use]
    pub fn order(&self, panel: Panel) -> (&'static str, bool) {
        match panel {
            Panel::Listeners => (self.listeners.by.name(), self.listeners.reversed),
            Panel::Ports => (self.ports.by.name(), self.ports.reversed),
            Panel::Cgroups => (self.cgroups.by.name(), self.cgroups.reversed),
        }
    }

    /// The first row of a panel that is shown.
    #[must_use]
    pub const fn offset(&self, panel: Panel) -> usize {
        match panel {
            Panel::Listeners => self.listeners.offset,
            Panel::Ports => self.ports.offset,
            Panel::Cgroups => self.cgroups.offset,
        }
    }

    /// Whether sockets of a group are shown apart.
    #[must_use]
    pub const fn ungrouped(&self) -> bool {
        self.ungrouped
    }

    /// Scrolls the panel in hand.
    pub(super) fn scroll(&mut self, to: impl Fn(usize, usize) -> usize) {
        let panel = self.panel;
        let offset = to(self.offset(panel), self.room(panel));
        match panel {
            Panel::Listeners => self.listeners.offset = offset,
            Panel::Ports => self.ports.offset = offset,
            Panel::Cgroups => self.cgroups.offset = offset,
        }
        self.keep_in_view();
    }

    /// No panel is scrolled, and nothing chosen, beyond its last row.
    pub(super) fn keep_in_view(&mut self) {
        let last = |rows: usize, panel| rows.saturating_sub(self.room(panel));
        let listeners = last(self.listener_rows().len(), Panel::Listeners);
        let ports = last(self.port_rows().len(), Panel::Ports);
        let cgroups = last(self.cgroup_rows().len(), Panel::Cgroups);
        self.listeners.offset = self.listeners.offset.min(listeners);
        self.ports.offset = self.ports.offset.min(ports);
        self.cgroups.offset = self.cgroups.offset.min(cgroups);
        if let Mode::Namespaces(chosen) = &mut self.mode {
            *chosen = (*chosen).min(self.namespaces.len().saturating_sub(1));
        }
    }

    fn passes(&self, text: &str) -> bool {
        self.filter.is_empty() || text.contains(&self.filter.to_lowercase())
    }
}

fn single(group: Group<'_>) -> impl Iterator<Item = Group<'_>> {
    group.sockets.into_iter().map(|socket| Group {
        sockets: vec![socket],
    })
}

/// What a filter looks at, in lower case.
fn filter_text(group: &Group<'_>) -> String {
    let (address, port) = group.address();
    let mark = group.fullness().name().to_lowercase();
    let uid = group.uid().map(|uid| format!(" uid {uid}"));
    let at = SocketAddr::new(address, port);
    format!("{at} {mark}{}", uid.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tcp_status_common::state::State;

    use crate::view::top::{
        fixtures::{FLOODED, FULL, SHARED, model},
        model::{CgroupGroup, CgroupSort, ListenerSort, Model, Panel, PortGroup, PortSort},
    };

    fn listeners(model: &Model) -> Vec<u16> {
        let rows = model.listener_rows();
        rows.iter().map(|group| group.address().1).collect()
    }

    fn ports(model: &Model) -> Vec<PortGroup> {
        model.port_rows().iter().map(|row| row.local).collect()
    }

    fn cgroups(model: &Model) -> Vec<String> {
        let rows = model.cgroup_rows();
        assert_eq!(rows.last().unwrap().cgroup, CgroupGroup::Unattributed);
        let names = rows.iter().map(|row| row.cgroup.name().to_owned());
        names.take(rows.len() - 1).collect()
    }

    #[test]
    fn what_is_full_comes_first() {
        let mut model = model(Instant::now());
        let together = listeners(&model);
        assert_eq!(together[..3], [FULL, FLOODED, SHARED]);
        model.ungrouped = true;
        assert_eq!(listeners(&model).len(), together.len() + 6);
        model.listeners.reversed = true;
        assert_eq!(listeners(&model).last(), Some(&FULL));
        model.listeners.by = ListenerSort::Port;
        model.listeners.reversed = false;
        assert!(listeners(&model).is_sorted());
        model.listeners.by = ListenerSort::Syn;
        assert_eq!(listeners(&model)[0], FLOODED);
    }

    #[test]
    fn filters_look_at_what_is_shown() {
        let mut model = model(Instant::now());
        for (filter, expected) in [
            ("FULL", vec![FULL, SHARED]),
            ("127.0.0.1:54", vec![FULL]),
            ("0.0.0.0:443", vec![SHARED]),
            ("[::]:44", vec![SHARED]),
            ("uid 32", vec![FULL]),
            ("nothing like it", vec![]),
        ] {
            model.filter = filter.into();
            assert_eq!(listeners(&model), expected, "{filter}");
        }
        model.filter = "full".into();
        // By total. What is beyond the limit has no number that could differ.
        let full = [
            PortGroup::Port(FULL),
            PortGroup::Port(SHARED),
            PortGroup::Other,
        ];
        assert_eq!(ports(&model), full);
        model.filter = "802".into();
        assert!(ports(&model).contains(&PortGroup::Port(8020)));
        assert!(!ports(&model).contains(&PortGroup::Port(FULL)));
        model.filter = "outgo".into();
        assert_eq!(ports(&model), [PortGroup::Outgoing, PortGroup::Other]);
    }

    #[test]
    fn ports_are_sorted_by_what_they_have() {
        let mut model = model(Instant::now());
        assert_eq!(model.ports.by, PortSort::Total);
        // The largest of the numbers that the test data has.
        assert_eq!(ports(&model).first(), Some(&PortGroup::Port(8020)));
        assert_eq!(ports(&model).last(), Some(&PortGroup::Other));
        // A leak of this side as a client stands among the ports, by what it has.
        model.ports.by = PortSort::State(State::CloseWait);
        assert_eq!(
            ports(&model)[..2],
            [PortGroup::Outgoing, PortGroup::Port(FULL)]
        );
        model.ports.by = PortSort::Port;
        let rows = ports(&model);
        assert!(rows[..rows.len() - 1].is_sorted());
        model.ports.next();
        assert_eq!(model.order(Panel::Ports), ("total", false));
    }

    #[test]
    fn cgroups_are_sorted_and_filtered_by_name_and_path() {
        let mut model = model(Instant::now());
        let by_total = cgroups(&model);
        // What would act on a terminal is not in a name.
        let expected = [
            "orders.service",
            "0a0a0a0a0a0a",
            "web]0;owned[2J.service",
            "cgroup 6, removed",
        ];
        assert_eq!(by_total, expected);
        model.cgroups.by = CgroupSort::State(State::Established);
        assert_eq!(cgroups(&model)[3], "orders.service");
        model.cgroups.by = CgroupSort::Name;
        assert!(cgroups(&model).is_sorted());
        for (filter, expected) in [("ORDERS", "orders.service"), ("docker-0a", "0a0a0a0a0a0a")] {
            model.filter = filter.into();
            assert_eq!(cgroups(&model), [expected]);
        }
        model.filter = "nothing like it".into();
        assert_eq!(cgroups(&model), [] as [&str; 0]);
        model.reading.cgroups = None;
        assert_eq!(model.cgroup_rows(), []);
    }
}
