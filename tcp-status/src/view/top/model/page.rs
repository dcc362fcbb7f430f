//! A page: its tables, where they lie, and the cursor that goes through their rows.

use ratatui::layout::{Constraint, Layout, Rect};

use super::{Cursor, Model, Tab, table::Table};

/// Lines above and below a page: header, tabs, footer.
const FRAME: u16 = 3;

/// From this height on, a page has rates, and states without sockets.
const TALL: u16 = 18;

/// From this width on, rates stand beside the states.
const RATES_FROM: u16 = 58;

/// The least width of a table beside another one.
const BESIDE: u16 = 66;

/// The least lines of a table, if it has as many.
const LEAST: u16 = 4;

/// The most lines of a graph.
const MOST: u16 = 4;

/// Tables from top to bottom.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What is wrong, or what details are of.
    pub top: Table,
    /// The states.
    pub states: Table,
    /// To the right of the states.
    pub side: Vec<Table>,
    /// Where there is room, one beside the other or one below the other.
    pub fill: Vec<Table>,
}

/// A table, where it lies, and the row that the cursor is on.
#[derive(Clone, Debug)]
pub struct Pane {
    /// The table.
    pub table: Table,
    /// Where it lies.
    pub area: Rect,
    /// The row that the cursor is on.
    pub cursor: Option<usize>,
}

impl Model {
    /// The body of the terminal, below `notices` lines.
    #[must_use]
    pub fn body(&self) -> Rect {
        let above = FRAME - 1 + self.notice_lines();
        let height = self.size.height.saturating_sub(above + 1);
        Rect::new(0, above, self.size.width, height)
    }

    /// Whether there is room for what is less important.
    pub(super) fn is_tall(&self) -> bool {
        self.body().height >= TALL
    }

    /// The tables that are shown.
    #[must_use]
    pub fn panes(&self) -> Vec<Pane> {
        let page = match self.details.last() {
            Some(details) => self.details_page(details),
            None if self.tab == Tab::Overview => self.overview(),
            None => Page {
                fill: vec![self.table()],
                ..Page::default()
            },
        };
        let mut panes = page.arrange(self.body());
        let Cursor { at, key } = self.cursor();
        let rows = panes.iter().enumerate();
        let rows = rows.filter(|(_, pane)| pane.table.selectable);
        let rows: Vec<_> = rows
            .flat_map(|(i, pane)| (0..pane.table.rows.len()).map(move |row| (i, row)))
            .collect();
        let is_chosen = |(i, row): &(usize, usize)| {
            let pane: &Pane = &panes[*i];
            key.as_ref() == Some(&pane.table.rows[*row].key)
        };
        let found = rows.iter().copied().find(is_chosen);
        let last = rows.len().saturating_sub(1);
        let chosen = found.or_else(|| rows.get((*at).min(last)).copied());
        if let Some((i, row)) = chosen {
            panes[i].cursor = Some(row);
        }
        panes
    }

    fn cursor(&self) -> &Cursor {
        match self.details.last() {
            Some(details) => &details.cursor,
            None => &self.cursors[self.tab as usize],
        }
    }

    /// Moves the cursor, given the number of its row and how many rows fit.
    pub(super) fn move_cursor(&mut self, to: impl Fn(usize, usize) -> usize) {
        let panes = self.panes();
        let panes = panes.iter().filter(|pane| pane.table.selectable);
        let (mut keys, mut at, mut room) = (Vec::new(), 0, 0);
        for pane in panes {
            if let Some(row) = pane.cursor {
                at = keys.len() + row;
                room = usize::from(
                    pane.area.height.saturating_sub(pane.table.heads()) / pane.table.lines.max(1),
                );
            }
            keys.extend(pane.table.rows.iter().map(|row| row.key.clone()));
        }
        let at = to(at, room).min(keys.len().saturating_sub(1));
        let key = keys.get(at).filter(|_| at > 0).cloned();
        let cursor = Cursor { at, key };
        match self.details.last_mut() {
            Some(details) => details.cursor = cursor,
            None => self.cursors[self.tab as usize] = cursor,
        }
    }
}

impl Page {
    /// Gives each table its area; those without are left out.
    fn arrange(self, body: Rect) -> Vec<Pane> {
        let Self {
            top,
            mut states,
            side,
            fill,
        } = self;
        let columns = usize::from(body.width / BESIDE).clamp(1, fill.len().max(1));
        let mut stacks = vec![Vec::new(); columns];
        for (at, table) in fill.into_iter().enumerate() {
            stacks[at % columns].push(table);
        }
        let heights = stacks
            .iter()
            .map(|tables| tables.iter().map(Table::height).sum());
        let fill_height: u16 = heights.max().unwrap_or(0);
        let top_height = top.height().min((body.height / 3).max(1));
        let used = top_height
            .saturating_add(states.height())
            .saturating_add(fill_height);
        let spare = body.height.saturating_sub(used);
        let rows = u16::try_from(states.rows.len()).unwrap_or(u16::MAX).max(1);
        states.lines = 1 + (spare / rows).min(MOST - 1);
        let states_height = states.height();
        let [top_area, states_area, fill_area] = Layout::vertical([
            Constraint::Length(top_height),
            Constraint::Max(states_height),
            Constraint::Fill(1),
        ])
        .areas(body);
        let width = match body.width {
            _ if side.is_empty() => 0,
            0..RATES_FROM => 0,
            RATES_FROM..130 => 21,
            _ => 28,
        };
        let sides = [Constraint::Fill(1), Constraint::Length(width)];
        let sides = Layout::horizontal(sides).spacing(u16::from(width > 0));
        let [states_area, side_area] = sides.areas(states_area);
        let mut panes = vec![(top, top_area), (states, states_area)];
        panes.extend(stack(side, side_area));
        let areas = Layout::horizontal(vec![Constraint::Fill(1); columns]).spacing(2);
        let areas = areas.split(fill_area);
        for (tables, area) in stacks.into_iter().zip(areas.iter()) {
            panes.extend(stack(tables, *area));
        }
        let shown = panes.into_iter().filter(|(table, area)| {
            !area.is_empty() && area.height >= table.heads() + u16::from(!table.rows.is_empty())
        });
        let pane = |(table, area)| Pane {
            table,
            area,
            cursor: None,
        };
        shown.map(pane).collect()
    }
}

/// One below the other, as many as have their least; what is left is shared evenly among those that need it.
fn stack(mut tables: Vec<Table>, area: Rect) -> impl Iterator<Item = (Table, Rect)> {
    let least = |table: &Table| table.height().min(LEAST);
    let (mut fits, mut left) = (0, area.height);
    while let Some(rest) = tables
        .get(fits)
        .and_then(|table| left.checked_sub(least(table)))
    {
        (fits, left) = (fits + 1, rest);
    }
    if fits == 0 {
        (fits, left) = (1, 0);
    }
    tables.truncate(fits);
    let least = |table: &Table| least(table).min(area.height);
    let mut heights: Vec<_> = tables.iter().map(least).collect();
    let mut grows = true;
    while grows {
        grows = false;
        for (height, table) in heights.iter_mut().zip(&tables) {
            if left > 0 && *height < table.height() {
                (*height, left, grows) = (*height + 1, left - 1, true);
            }
        }
    }
    let mut y = area.y;
    tables.into_iter().zip(heights).map(move |(table, height)| {
        let below = Rect { y, height, ..area };
        y += height;
        (table, below)
    })
}
