//! What keys do. The page that explains them is [`crate::view::top::panels`]'s, from [`KEYS`].

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{Action, Mode, Model, Panel};

/// Every key, and what it does.
pub const KEYS: &[(&str, &str)] = &[
    ("q, Ctrl-C", "quit"),
    ("p, space", "pause, and go on"),
    ("Tab", "to the next panel: listeners, ports, cgroups"),
    ("s, r", "sort by the next column; the other way round"),
    ("/", "show only rows that contain a text: 443, full, nginx"),
    ("g", "sockets that share an address: together, or apart"),
    ("n", "choose a network namespace"),
    ("arrows, PgUp", "scroll; also PgDn, Home, End"),
    ("Esc", "clear the filter, close what is open"),
    ("?, h", "this page"),
];

/// The longest text of a filter: an IPv6 address and a port.
const MAX_FILTER: usize = 48;

impl Model {
    /// Obeys a key.
    pub fn key(&mut self, key: KeyEvent) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Action::Quit,
                KeyCode::Char('z') => Action::Suspend,
                _ => Action::Continue,
            };
        }
        match self.mode {
            Mode::Watch => return self.watch_key(key.code),
            Mode::Filter => self.filter_key(key.code),
            Mode::Help => match key.code {
                KeyCode::Char('q' | '?' | 'h') | KeyCode::Esc | KeyCode::Enter => {
                    self.mode = Mode::Watch;
                }
                _ => {}
            },
            Mode::Namespaces(chosen) => self.namespaces_key(key.code, chosen),
        }
        Action::Continue
    }

    fn watch_key(&mut self, code: KeyCode) -> Action {
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            // The list is asked for, so a pause ends.
            KeyCode::Char('n') => {
                self.paused = false;
                let chosen = |one: &crate::snapshot::Snapshot| one.netns == self.reading.netns;
                let at = self.namespaces.iter().position(chosen);
                self.mode = Mode::Namespaces(at.unwrap_or(0));
            }
            KeyCode::Char('g') => {
                self.ungrouped = !self.ungrouped;
                self.keep_in_view();
            }
            KeyCode::Tab => self.panel = self.panel_at(1),
            KeyCode::BackTab => self.panel = self.panel_at(-1),
            KeyCode::Char('s') => match self.panel {
                Panel::Listeners => self.listeners.next(),
                Panel::Ports => self.ports.next(),
                Panel::Cgroups => self.cgroups.next(),
            },
            KeyCode::Char('r') => match self.panel {
                Panel::Listeners => self.listeners.reversed = !self.listeners.reversed,
                Panel::Ports => self.ports.reversed = !self.ports.reversed,
                Panel::Cgroups => self.cgroups.reversed = !self.cgroups.reversed,
            },
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|at, _| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|at, _| at.saturating_sub(1)),
            KeyCode::PageDown => self.scroll(|at, page| at + page),
            KeyCode::PageUp => self.scroll(|at, page| at.saturating_sub(page)),
            KeyCode::Home => self.scroll(|_, _| 0),
            KeyCode::End => self.scroll(|_, _| usize::MAX),
            _ => {}
        }
        Action::Continue
    }

    /// The panel that is so many steps from the one in hand, around.
    fn panel_at(&self, steps: isize) -> Panel {
        let all = match self.reading.cgroups {
            Some(_) => &[Panel::Listeners, Panel::Ports, Panel::Cgroups][..],
            None => &[Panel::Listeners, Panel::Ports],
        };
        let at = all.iter().position(|panel| *panel == self.panel);
        let at = at.unwrap_or(0) + all.len();
        all[at.saturating_add_signed(steps) % all.len()]
    }

    fn filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter | KeyCode::Tab => self.mode = Mode::Watch,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Watch;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.len() < MAX_FILTER => {
                self.filter.push(c);
            }
            _ => {}
        }
        self.keep_in_view();
    }

    fn namespaces_key(&mut self, code: KeyCode, chosen: usize) {
        let to = match code {
            KeyCode::Esc | KeyCode::Char('q' | 'n') => {
                self.mode = Mode::Watch;
                return;
            }
            KeyCode::Enter => {
                if let Some(one) = self.namespaces.get(chosen) {
                    // A name may be given to another namespace, an inode number is its own.
                    self.netns = Some(one.netns.to_string());
                }
                self.mode = Mode::Watch;
                return;
            }
            KeyCode::Down | KeyCode::Char('j') => chosen + 1,
            KeyCode::Up | KeyCode::Char('k') => chosen.saturating_sub(1),
            KeyCode::Home => 0,
            KeyCode::End => usize::MAX,
            _ => return,
        };
        self.mode = Mode::Namespaces(to);
        self.keep_in_view();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::{
        crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
        layout::Size,
    };

    use crate::view::top::{
        fixtures::{OTHER, OWN, model, reading},
        model::{Action, Mode, Model, Panel, PollResult},
    };

    fn press(model: &mut Model, code: KeyCode) -> Action {
        model.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn type_in(model: &mut Model, text: &str) {
        for c in text.chars() {
            assert_eq!(press(model, KeyCode::Char(c)), Action::Continue);
        }
    }

    #[test]
    fn quitting_is_always_possible() {
        let mut model = model(Instant::now());
        for mode in [Mode::Watch, Mode::Filter, Mode::Help, Mode::Namespaces(0)] {
            model.mode = mode;
            let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
            assert_eq!(model.key(control('c')), Action::Quit);
            assert_eq!(model.key(control('z')), Action::Suspend);
            assert_eq!(model.key(control('q')), Action::Continue);
        }
        model.mode = Mode::Watch;
        assert_eq!(press(&mut model, KeyCode::Char('q')), Action::Quit);
    }

    #[test]
    fn a_filter_is_typed_kept_and_cleared() {
        let mut model = model(Instant::now());
        type_in(&mut model, "/q?");
        assert_eq!((model.filter(), model.mode()), ("q?", Mode::Filter));
        press(&mut model, KeyCode::Backspace);
        press(&mut model, KeyCode::Enter);
        assert_eq!((model.filter(), model.mode()), ("q", Mode::Watch));
        press(&mut model, KeyCode::Esc);
        assert_eq!(model.filter(), "");
        type_in(&mut model, "/");
        type_in(&mut model, &"é".repeat(100));
        assert!(model.filter().len() < 50);
    }

    #[test]
    fn a_pause_asks_nothing() {
        let mut model = model(Instant::now());
        press(&mut model, KeyCode::Char('p'));
        assert!(model.poll_query().paused);
        press(&mut model, KeyCode::Char(' '));
        assert!(!model.poll_query().paused);
    }

    #[test]
    fn scrolling_ends_where_rows_end() {
        let mut model = model(Instant::now());
        model.resize(Size::new(80, 24));
        press(&mut model, KeyCode::Up);
        assert_eq!(model.offset(Panel::Listeners), 0);
        press(&mut model, KeyCode::Down);
        assert_eq!(model.offset(Panel::Listeners), 1);
        press(&mut model, KeyCode::End);
        let rows = model.listener_rows().len();
        let (end, room) = (model.offset(Panel::Listeners), model.room(Panel::Listeners));
        assert!(room > 3, "{room}");
        assert_eq!(end + room, rows);
        press(&mut model, KeyCode::PageDown);
        assert_eq!(model.offset(Panel::Listeners), end);
        // All of them fit.
        model.resize(Size::new(80, 200));
        assert_eq!(model.offset(Panel::Listeners), 0);
        press(&mut model, KeyCode::Tab);
        assert_eq!(model.panel(), Panel::Ports);
    }

    #[test]
    fn tab_goes_around_the_panels_that_there_are() {
        let mut model = model(Instant::now());
        let around = |model: &mut Model, code| {
            [(); 3].map(|()| {
                press(model, code);
                model.panel()
            })
        };
        let (listeners, ports, cgroups) = (Panel::Listeners, Panel::Ports, Panel::Cgroups);
        let forth = around(&mut model, KeyCode::Tab);
        assert_eq!(forth, [ports, cgroups, listeners]);
        let back = around(&mut model, KeyCode::BackTab);
        assert_eq!(back, [cgroups, ports, listeners]);
        model.reading.cgroups = None;
        for code in [KeyCode::Tab, KeyCode::BackTab] {
            assert_eq!(around(&mut model, code), [ports, listeners, ports]);
            model.panel = listeners;
        }
    }

    #[test]
    fn a_namespace_is_chosen_from_the_list() {
        let start = Instant::now();
        let mut model = model(start);
        press(&mut model, KeyCode::Char('n'));
        let poll_query = model.poll_query();
        model.handle_poll_result(PollResult {
            poll_query,
            result: Ok(vec![reading(OWN, 0), reading(OTHER, 0)]),
            at: start,
        });
        for _ in 0..5 {
            press(&mut model, KeyCode::Down);
        }
        assert_eq!(model.mode(), Mode::Namespaces(1));
        press(&mut model, KeyCode::Enter);
        let poll_query = model.poll_query();
        assert_eq!(
            (poll_query.netns, poll_query.all_netns),
            (Some(OTHER.to_string()), false)
        );
    }
}
