//! The model of `top`: readings and the user's choices. Pure: no terminal, no tracker, no clock.

mod answers;
mod cgroup_row;
mod history;
pub mod keys;
mod port_row;
mod rows;
mod sort;

pub use super::panels::arrange::Panel;
pub use answers::{Outage, PollQuery, PollResult};
pub use cgroup_row::{CgroupGroup, CgroupRow};
pub use history::{History, PerSecond};
pub use port_row::{PortGroup, PortRow};
pub use sort::{CgroupSort, ListenerSort, PortSort};

use std::time::{Duration, Instant};

use ratatui::layout::Size;

use self::sort::Sorted;
use super::panels::arrange::{Arrangement, arrange};
use crate::snapshot::{Cgroups, Snapshot};

/// Options of `top`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between readings.
    pub interval: Duration,
    /// The namespace shown first; none for the tracker's.
    pub netns: Option<String>,
    /// The path of the socket, for display.
    pub socket: String,
}

/// The effect of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Redraw.
    Continue,
    /// Leave `top`.
    Quit,
    /// Suspend the process.
    Suspend,
}

/// Input modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The panels.
    #[default]
    Watch,
    /// The text of the filter.
    Filter,
    /// The help page.
    Help,
    /// The list of namespaces, with the chosen row.
    Namespaces(usize),
}

/// The state of the view.
#[derive(Debug)]
pub struct Model {
    settings: Settings,
    netns: Option<String>,
    reading: Snapshot,
    read_at: Instant,
    outage: Option<Outage>,
    namespaces: Vec<Snapshot>,
    history: History,
    mode: Mode,
    paused: bool,
    panel: Panel,
    filter: String,
    ungrouped: bool,
    listeners: Sorted<ListenerSort>,
    ports: Sorted<PortSort>,
    cgroups: Sorted<CgroupSort>,
    size: Size,
}

impl Model {
    /// With the first reading.
    #[must_use]
    pub fn new(settings: Settings, first: Snapshot, now: Instant) -> Self {
        let mut history = History::default();
        history.add(&first, now);
        Self {
            netns: settings.netns.clone(),
            settings,
            reading: first,
            read_at: now,
            outage: None,
            namespaces: Vec::new(),
            history,
            mode: Mode::default(),
            paused: false,
            panel: Panel::default(),
            filter: String::new(),
            ungrouped: false,
            listeners: Sorted::default(),
            ports: Sorted::default(),
            cgroups: Sorted::default(),
            size: Size::default(),
        }
    }

    /// Sets the size of the terminal.
    pub fn resize(&mut self, size: Size) {
        if self.size != size {
            self.size = size;
            self.keep_in_view();
        }
    }

    /// The last reading.
    #[must_use]
    pub const fn reading(&self) -> &Snapshot {
        &self.reading
    }

    /// Why there is no newer reading.
    #[must_use]
    pub const fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    /// Earlier readings.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The options.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The input mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether polling is paused.
    #[must_use]
    pub const fn paused(&self) -> bool {
        self.paused
    }

    /// The focused panel.
    #[must_use]
    pub const fn panel(&self) -> Panel {
        self.panel
    }

    /// The filter: a text that rows must contain.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The namespaces to choose from.
    #[must_use]
    pub fn namespaces(&self) -> &[Snapshot] {
        &self.namespaces
    }

    /// Where everything lies on a terminal of this size.
    #[must_use]
    pub fn arrangement(&self, size: Size) -> Arrangement {
        // Filtered or not, so that the panel stays as high.
        let rows = |all: &Cgroups| all.tracked.len() + 1 + usize::from(all.other.is_some());
        let rows = self.reading.cgroups.as_ref().map(rows);
        let rows = rows.map(|rows| u16::try_from(rows).unwrap_or(u16::MAX));
        arrange(size, self.notice_lines(size), rows)
    }

    /// Rows that fit into a panel.
    fn room(&self, panel: Panel) -> usize {
        self.arrangement(self.size).rows(panel).into()
    }
}
