//! The model of `top`: readings and the user's choices. Pure: no terminal, no tracker, no clock.

mod answers;
mod details;
mod history;
pub mod keys;
mod listeners;
mod page;
mod reasons;
mod table;
mod tabs;
mod walks;

pub use answers::{Outage, PollQuery, PollResult};
pub use history::{History, PerSecond, Series};
pub use page::{Page, Pane};
pub use table::{Cell, Column, Mark, PROBLEM, Row, Sort, Table};

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ratatui::layout::Size;

use self::history::Readings;
use crate::{
    snapshot::{Problem, Snapshot, Subject, who::Who},
    track::who::Walk,
};

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
    /// A page.
    #[default]
    Watch,
    /// The text of the filter.
    Filter,
    /// The help, at this page: pages go around, as far as they are needed.
    Help(isize),
}

/// What is shown, unless details are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// Problems, states, rates, and the start of other tabs.
    #[default]
    Overview,
    /// Listening sockets.
    Listeners,
    /// Connections by port.
    Ports,
    /// Connections by cgroup.
    Units,
    /// Network namespaces.
    Namespaces,
    /// Connections by peer.
    Remotes,
}

impl Tab {
    /// In the order of their keys.
    pub const ALL: [Self; 6] = [
        Self::Overview,
        Self::Listeners,
        Self::Ports,
        Self::Units,
        Self::Namespaces,
        Self::Remotes,
    ];

    /// Its name, and a short one.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Overview => ("Overview", "View"),
            Self::Listeners => ("Listeners", "Listen"),
            Self::Ports => ("Ports", "Ports"),
            Self::Units => ("Units", "Units"),
            Self::Namespaces => ("Namespaces", "Netns"),
            Self::Remotes => ("Remotes", "Peers"),
        }
    }
}

/// The row that was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cursor {
    /// Its number.
    at: usize,
    /// Its key, by which it is found again; none while the first row is chosen, whichever that is.
    key: Option<String>,
}

/// An opened page.
#[derive(Debug)]
struct Details {
    subject: Subject,
    cursor: Cursor,
}

/// The most subjects whose counts are kept.
const WATCHED: usize = 32;

/// Times that graphs show, in seconds.
const SPANS: [u32; 3] = [3600, 300, 86_400];

/// The state of the view.
#[derive(Debug)]
pub struct Model {
    settings: Settings,
    netns: Option<String>,
    reading: Snapshot,
    problems: Vec<Problem>,
    /// The worst that is wrong with each subject.
    marks: HashMap<Subject, Mark>,
    read_at: Instant,
    outage: Option<Outage>,
    namespaces: Vec<Snapshot>,
    history: History,
    /// What a walk found, and which.
    walked: Option<(Walk, Result<Vec<Who>, String>)>,
    mode: Mode,
    paused: bool,
    tab: Tab,
    /// What was opened, the last of which is shown.
    details: Vec<Details>,
    /// The counts of what something is wrong with, and of what was opened.
    watched: Vec<(Subject, Readings)>,
    cursors: [Cursor; Tab::ALL.len()],
    sorts: [Sort; Tab::ALL.len()],
    filter: String,
    ungrouped: bool,
    shows_idle: bool,
    span: usize,
    size: Size,
}

/// The worst that is wrong with each subject.
fn marks<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> HashMap<Subject, Mark> {
    let mut marks = HashMap::new();
    for one in problems {
        let mark = (one.severity, one.mark());
        for at in &one.at {
            let worst = marks.entry(*at).or_insert(mark);
            if one.severity < worst.0 {
                *worst = mark;
            }
        }
    }
    marks
}

impl Model {
    /// With the first reading.
    #[must_use]
    pub fn new(settings: Settings, first: Snapshot, now: Instant) -> Self {
        let mut history = History::default();
        history.add(&first, now);
        let mut sorts = [Sort::default(); Tab::ALL.len()];
        // By total: nothing is known to be wrong with a peer.
        sorts[Tab::Remotes as usize].column = 1;
        let mut model = Self {
            netns: settings.netns.clone(),
            settings,
            problems: Vec::new(),
            marks: HashMap::new(),
            reading: first,
            read_at: now,
            outage: None,
            namespaces: Vec::new(),
            history,
            walked: None,
            mode: Mode::default(),
            paused: false,
            tab: Tab::default(),
            details: Vec::new(),
            watched: Vec::new(),
            cursors: Default::default(),
            sorts,
            filter: String::new(),
            ungrouped: false,
            shows_idle: false,
            span: 0,
            size: Size::default(),
        };
        model.set_problems(model.reading.problems.clone());
        model.record_watched();
        model
    }

    fn set_problems(&mut self, problems: Vec<Problem>) {
        self.marks = marks(&problems);
        self.problems = problems;
    }

    /// Sets the size of the terminal.
    pub const fn resize(&mut self, size: Size) {
        self.size = size;
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

    /// The tab that is shown, or was left for details.
    #[must_use]
    pub const fn tab(&self) -> Tab {
        self.tab
    }

    /// Whether details are shown.
    #[must_use]
    pub fn has_details(&self) -> bool {
        !self.details.is_empty()
    }

    /// The filter: a text that rows must contain.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The seconds that graphs show.
    const fn span(&self) -> u32 {
        SPANS[self.span]
    }
}
