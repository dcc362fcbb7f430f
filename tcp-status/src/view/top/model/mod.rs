//! What `top` knows: readings, and what the user has chosen to see of them. Pure: neither terminal
//! nor tracker nor clock.

mod answers;
mod history;
pub mod keys;
mod port_row;
mod rows;
mod sort;

pub use super::panels::arrange::Panel;
pub use answers::{Outage, PollQuery, PollResult};
pub use history::{History, PerSecond};
pub use port_row::{PortGroup, PortRow};
pub use sort::{ListenerSort, PortSort};

use std::time::{Duration, Instant};

use ratatui::layout::Size;

use self::sort::Sorted;
use super::panels::arrange;
use crate::snapshot::Snapshot;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between readings.
    pub interval: Duration,
    /// The namespace to begin with; none for the tracker's own.
    pub netns: Option<String>,
    /// How the tracker is reached, as text.
    pub socket: String,
}

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On with it.
    Continue,
    /// The end.
    Quit,
    /// Into the background.
    Suspend,
}

/// What keys act on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The panels.
    #[default]
    Watch,
    /// The text of the filter.
    Filter,
    /// The page that explains.
    Help,
    /// The list of namespaces, with the chosen row.
    Namespaces(usize),
}

/// Everything that is shown.
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
            size: Size::default(),
        }
    }

    /// The terminal has this size.
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

    /// Why there is none that is newer.
    #[must_use]
    pub const fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    /// The readings before it.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// What the command line says.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What keys act on.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether nothing is asked.
    #[must_use]
    pub const fn paused(&self) -> bool {
        self.paused
    }

    /// The panel that keys act on.
    #[must_use]
    pub const fn panel(&self) -> Panel {
        self.panel
    }

    /// The text that rows must contain.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The namespaces to choose from.
    #[must_use]
    pub fn namespaces(&self) -> &[Snapshot] {
        &self.namespaces
    }

    /// Rows that fit into a panel.
    fn room(&self, panel: Panel) -> usize {
        let arrangement = arrange::arrange(self.size, self.notice_lines(self.size.width));
        arrangement.rows(panel).into()
    }
}
