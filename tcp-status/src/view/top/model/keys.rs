//! What keys do. The page that explains them is [`crate::view::top::panels`]'s, from [`KEYS`].

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{Action, Mode, Model, SPANS, Sort, Tab};

/// Every key, and what it does: no line is longer than the smallest screen is wide.
pub const KEYS: &[(&str, &str)] = &[
    ("1-6, Tab, arrows", "tabs; also Shift-Tab"),
    ("up, down, j, k", "move the cursor; PgUp, PgDn, Home, End"),
    ("Enter", "open the row: states, remotes, processes"),
    ("Esc", "back, or clear the filter"),
    ("s, r", "sort by the next column, or reversed"),
    ("/", "show only rows with: 443, full, nginx"),
    ("i", "show or fold idle rows"),
    ("g", "sockets of one address: together, or each"),
    ("z", "time that graphs show: 1h, 5m, 24h"),
    ("n", "choose a network namespace"),
    ("p, space", "pause, and go on"),
    ("?, h", "this page"),
    ("q, Ctrl-C", "quit"),
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
            Mode::Help(page) => match key.code {
                KeyCode::Down | KeyCode::PageDown | KeyCode::Char('j' | ' ') => {
                    self.mode = Mode::Help(page + 1);
                }
                KeyCode::Up | KeyCode::PageUp | KeyCode::Char('k') => {
                    self.mode = Mode::Help(page - 1);
                }
                KeyCode::Char('q' | '?' | 'h') | KeyCode::Esc | KeyCode::Enter => {
                    self.mode = Mode::Watch;
                }
                _ => {}
            },
        }
        Action::Continue
    }

    fn watch_key(&mut self, code: KeyCode) -> Action {
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help(0),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') if self.has_rows() => self.mode = Mode::Filter,
            // What it shows has to be requested, so a pause ends.
            KeyCode::Char('n') => {
                self.paused = false;
                self.show(Tab::Namespaces);
            }
            KeyCode::Char('g') => self.ungrouped = !self.ungrouped,
            KeyCode::Char('i') => self.shows_idle = !self.shows_idle,
            KeyCode::Char('z') => self.span = (self.span + 1) % SPANS.len(),
            KeyCode::Char(c @ '1'..='6') => {
                let at = usize::from(c as u8 - b'1');
                self.show(Tab::ALL[at]);
            }
            KeyCode::Tab | KeyCode::Right => self.show(self.tab_at(1)),
            KeyCode::BackTab | KeyCode::Left => self.show(self.tab_at(-1)),
            KeyCode::Char('s') if self.has_rows() => {
                let columns = self.table().columns.len();
                let sort = &mut self.sorts[self.tab as usize];
                *sort = Sort {
                    column: (sort.column + 1) % columns,
                    reversed: false,
                };
            }
            KeyCode::Char('r') if self.has_rows() => {
                let sort = &mut self.sorts[self.tab as usize];
                sort.reversed = !sort.reversed;
            }
            KeyCode::Enter => self.open(),
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            KeyCode::Down | KeyCode::Char('j') => self.move_cursor(|at, _| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.move_cursor(|at, _| at.saturating_sub(1)),
            KeyCode::PageDown => self.move_cursor(|at, page| at + page),
            KeyCode::PageUp => self.move_cursor(|at, page| at.saturating_sub(page)),
            KeyCode::Home => self.move_cursor(|_, _| 0),
            KeyCode::End => self.move_cursor(|_, _| usize::MAX),
            _ => {}
        }
        Action::Continue
    }

    /// Whether a table is shown that can be sorted and filtered.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.tab != Tab::Overview && !self.has_details()
    }

    /// The tab that is so many steps from the one that is shown, around.
    fn tab_at(&self, steps: isize) -> Tab {
        let at = self.tab as usize + Tab::ALL.len();
        Tab::ALL[at.saturating_add_signed(steps) % Tab::ALL.len()]
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
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::{
        crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
        layout::Size,
    };

    use crate::{
        snapshot::who::GroupBy,
        view::top::{
            fixtures::{FULL, OTHER, OWN, model, reading},
            model::{Action, Mode, Model, Pane, PollResult, Tab},
        },
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
        for mode in [Mode::Watch, Mode::Filter, Mode::Help(0)] {
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
        type_in(&mut model, "2/q?");
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

    /// The key of the row under the cursor.
    fn chosen(model: &Model) -> Option<String> {
        let panes = model.panes();
        let key = |pane: &Pane| Some(pane.table.rows[pane.cursor?].key.clone());
        panes.iter().find_map(key)
    }

    #[test]
    fn the_cursor_stays_on_its_row_and_ends_where_rows_end() {
        let mut model = model(Instant::now());
        model.resize(Size::new(80, 24));
        type_in(&mut model, "3");
        let rows = || -> Vec<String> {
            let table = model.panes().remove(0).table;
            table.rows.into_iter().map(|row| row.key).collect()
        };
        let rows = rows();
        assert_eq!(chosen(&model).as_ref(), Some(&rows[0]));
        press(&mut model, KeyCode::Up);
        assert_eq!(chosen(&model).as_ref(), Some(&rows[0]));
        press(&mut model, KeyCode::Down);
        press(&mut model, KeyCode::Down);
        assert_eq!(chosen(&model).as_ref(), Some(&rows[2]));
        // In another order, too.
        type_in(&mut model, "sr");
        assert_eq!(chosen(&model).as_ref(), Some(&rows[2]));
        type_in(&mut model, "sssssssssssss");
        press(&mut model, KeyCode::End);
        press(&mut model, KeyCode::PageDown);
        assert_eq!(chosen(&model).as_ref(), rows.last());
        press(&mut model, KeyCode::Home);
        assert_ne!(chosen(&model).as_ref(), rows.last());
        assert!(rows.len() > 30, "{rows:?}");
    }

    #[test]
    fn tabs_go_around_and_have_numbers() {
        let mut model = model(Instant::now());
        for (code, expected) in [
            (KeyCode::Tab, Tab::Listeners),
            (KeyCode::Right, Tab::Ports),
            (KeyCode::BackTab, Tab::Listeners),
            (KeyCode::Left, Tab::Overview),
            (KeyCode::Left, Tab::Remotes),
            (KeyCode::Tab, Tab::Overview),
            (KeyCode::Char('4'), Tab::Units),
            (KeyCode::Char('n'), Tab::Namespaces),
        ] {
            press(&mut model, code);
            assert_eq!(model.tab(), expected, "{code:?}");
        }
    }

    #[test]
    fn sockets_are_walked_only_while_what_is_found_is_shown() {
        let mut model = model(Instant::now());
        model.resize(Size::new(80, 24));
        assert_eq!(model.poll_query().walk, None);
        type_in(&mut model, "6");
        assert_eq!(model.poll_query().walk.unwrap().by, [GroupBy::Remote]);
        type_in(&mut model, "2");
        assert_eq!(model.poll_query().walk, None);
        press(&mut model, KeyCode::Enter);
        assert_eq!(model.poll_query().walk.unwrap().port, Some(FULL));
        // From the listener to its unit.
        press(&mut model, KeyCode::Enter);
        assert_eq!(model.poll_query().walk.unwrap().cgroup, Some(4));
        press(&mut model, KeyCode::Esc);
        assert_eq!(model.poll_query().walk.unwrap().port, Some(FULL));
        press(&mut model, KeyCode::Esc);
        assert_eq!(
            (model.poll_query().walk, model.tab()),
            (None, Tab::Listeners)
        );
    }

    /// Both namespaces, if these are asked for.
    fn deliver_all(model: &mut Model) {
        let poll_query = model.poll_query();
        assert!(poll_query.all_netns);
        model.handle_poll_result(PollResult {
            poll_query,
            result: Ok(vec![reading(OWN, 0), reading(OTHER, 0)]),
            history: None,
            walked: None,
            at: Instant::now(),
        });
    }

    #[test]
    fn units_of_all_namespaces_are_listed_and_lead_into_theirs() {
        let mut model = model(Instant::now());
        model.resize(Size::new(80, 24));
        type_in(&mut model, "4");
        deliver_all(&mut model);
        let title = |model: &Model| model.panes().remove(0).table.title;
        assert_eq!(title(&model), "Units 5 of all namespaces");
        // A pod of the other namespace, found by its number.
        type_in(&mut model, &format!("/{OTHER}"));
        press(&mut model, KeyCode::Enter);
        assert_eq!(chosen(&model).as_deref(), Some("cgroup 9"));
        press(&mut model, KeyCode::Enter);
        assert!(title(&model).ends_with("0b0b0b0b0b0b"), "{}", title(&model));
        let poll_query = model.poll_query();
        let other = Some(OTHER.to_string());
        assert_eq!((&poll_query.netns, poll_query.all_netns), (&other, false));
        let walk = poll_query.walk.unwrap();
        assert_eq!((walk.netns, walk.cgroup), (other, Some(9)));
        // Of one in both, where it has the most.
        press(&mut model, KeyCode::Esc);
        deliver_all(&mut model);
        type_in(&mut model, "/2 netns");
        press(&mut model, KeyCode::Enter);
        press(&mut model, KeyCode::Enter);
        let walk = model.poll_query().walk.unwrap();
        assert_eq!((walk.netns, walk.cgroup), (Some(OWN.to_string()), Some(5)));
        // A tracker that counts one namespace is asked for no other.
        let mut alone = reading(OWN, 0);
        alone.all_netns = false;
        model.accept_reading(alone, Instant::now());
        type_in(&mut model, "4");
        assert!(!model.poll_query().all_netns);
        assert_eq!(title(&model), "Units 4");
    }

    #[test]
    fn a_namespace_is_chosen_from_the_list() {
        let mut model = model(Instant::now());
        model.resize(Size::new(80, 24));
        press(&mut model, KeyCode::Char('n'));
        deliver_all(&mut model);
        for _ in 0..5 {
            press(&mut model, KeyCode::Down);
        }
        assert_eq!(chosen(&model), Some(OTHER.to_string()));
        press(&mut model, KeyCode::Enter);
        let poll_query = model.poll_query();
        assert_eq!(
            (poll_query.netns, poll_query.all_netns),
            (Some(OTHER.to_string()), false)
        );
    }
}
