//! Which panel lies where, by the size of the terminal and the number of cgroups.

use ratatui::layout::{Constraint, Layout, Rect, Size};
use tcp_status_common::state::State;

/// A title and all states.
#[expect(clippy::cast_possible_truncation, reason = "eleven")]
const STATES_HEIGHT: u16 = State::COUNT as u16 + 1;

/// Below it, nothing can be read.
const SMALLEST: Size = Size::new(30, 5);

/// From this width on, rates stand beside the states.
const RATES_FROM: u16 = 58;

/// From this width on, listeners and ports stand beside each other.
const BESIDE_FROM: u16 = 130;

/// From this height on, ports and cgroups stand one above the other.
const ABOVE_FROM: u16 = 14;

/// Lines of a lower panel that are no rows: its title and its head.
const HEADS: u16 = 2;

/// The panels that can be scrolled and sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Panel {
    /// Listening sockets.
    #[default]
    Listeners,
    /// Connections by port.
    Ports,
    /// Connections by cgroup, where they are counted.
    Cgroups,
}

/// Where everything lies.
#[derive(Clone, Copy, Debug)]
pub struct Arrangement {
    /// Nothing fits.
    pub too_small: bool,
    /// The first line.
    pub header: Rect,
    /// Below it, where there is something to say.
    pub notice: Rect,
    /// The gauges.
    pub states: Rect,
    /// Rates and what else is counted, where there is room.
    pub rates: Option<Rect>,
    /// What is below.
    pub lower: Lower,
    /// The last line.
    pub footer: Rect,
}

/// What is below the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// All panels.
    SideBySide {
        /// Left.
        listeners: Rect,
        /// Right.
        ports: Rect,
        /// Below the ports. None where there is no room or no cgroup: then it takes their place while it is in hand.
        cgroups: Option<Rect>,
    },
    /// The panel in hand.
    One(Rect),
    /// There is no room.
    None,
}

impl Arrangement {
    /// How many rows of a panel fit.
    #[must_use]
    pub fn rows(&self, panel: Panel) -> u16 {
        let area = match (self.lower, panel) {
            (Lower::SideBySide { listeners, .. }, Panel::Listeners) => listeners,
            (Lower::SideBySide { ports, .. }, Panel::Ports) => ports,
            (Lower::SideBySide { ports, cgroups, .. }, Panel::Cgroups) => cgroups.unwrap_or(ports),
            (Lower::One(area), _) => area,
            (Lower::None, _) => Rect::ZERO,
        };
        area.height.saturating_sub(HEADS)
    }
}

/// Arranges a terminal of this size, with so many lines for what there is to say, and so many rows of cgroups where
/// they are counted.
#[must_use]
pub fn arrange(size: Size, notice: u16, cgroups: Option<u16>) -> Arrangement {
    let area = Rect::from((ratatui::layout::Position::ORIGIN, size));
    let [header, notice, upper, lower, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(notice),
        Constraint::Max(STATES_HEIGHT),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    let [states, rates] = Layout::horizontal([
        Constraint::Fill(1),
        Constraint::Length(if size.width < RATES_FROM {
            0
        } else if size.width < BESIDE_FROM {
            26
        } else {
            34
        }),
    ])
    .areas(upper);
    Arrangement {
        too_small: size.width < SMALLEST.width || size.height < SMALLEST.height,
        header,
        notice,
        states,
        rates: (!rates.is_empty()).then_some(rates),
        lower: divide(lower, cgroups),
        footer,
    }
}

fn divide(area: Rect, cgroups: Option<u16>) -> Lower {
    if area.height <= HEADS {
        Lower::None
    } else if area.width < BESIDE_FROM {
        Lower::One(area)
    } else {
        let [listeners, _gap, right] = Layout::horizontal([
            Constraint::Percentage(55),
            Constraint::Length(1),
            Constraint::Fill(1),
        ])
        .areas(area);
        let (ports, cgroups) = match cgroups {
            Some(rows) if area.height >= ABOVE_FROM => {
                let height = rows.saturating_add(HEADS).min(area.height / 2);
                let split = Layout::vertical([Constraint::Fill(1), Constraint::Length(height)]);
                let [ports, cgroups] = split.areas(right);
                (ports, Some(cgroups))
            }
            _ => (right, None),
        };
        Lower::SideBySide {
            listeners,
            ports,
            cgroups,
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Size;

    use super::{Lower, Panel, arrange};
    #[test]
    fn an_ordinary_terminal_has_all_states_and_some_rows() {
        for (width, height, rows) in [(80, 24, 7), (60, 20, 3), (160, 48, 31)] {
            let arrangement = arrange(Size::new(width, height), 1, None);
            assert!(!arrangement.too_small);
            assert_eq!(arrangement.states.height, 12, "{width}x{height}");
            assert!(arrangement.rates.is_some());
            assert_eq!(arrangement.rows(Panel::Listeners), rows);
            assert_eq!(arrangement.rows(Panel::Ports), rows);
            assert_eq!(arrangement.footer.y, height - 1);
        }
        let wide = arrange(Size::new(160, 48), 1, None);
        assert!(matches!(
            wide.lower,
            Lower::SideBySide { cgroups: None, .. }
        ));
    }

    #[test]
    fn cgroups_stand_below_ports_where_there_is_room() {
        let rows = |size: (u16, u16), cgroups| {
            let arrangement = arrange(size.into(), 1, Some(cgroups));
            [Panel::Listeners, Panel::Ports, Panel::Cgroups].map(|panel| arrangement.rows(panel))
        };
        assert_eq!(rows((80, 24), 90), [7, 7, 7]);
        assert_eq!(rows((160, 24), 90), [7, 7, 7]);
        assert_eq!(rows((160, 29), 90), [12, 5, 5]);
        assert_eq!(rows((160, 50), 90), [33, 16, 15]);
        assert_eq!(rows((160, 50), 4), [33, 27, 4]);
    }

    #[test]
    fn every_size_can_be_arranged() {
        for width in (0..200).step_by(13) {
            for height in (0..60).step_by(7) {
                for notice in 0..4 {
                    let arrangement = arrange(Size::new(width, height), notice, Some(20));
                    let Lower::SideBySide {
                        listeners,
                        ports,
                        cgroups,
                    } = arrangement.lower
                    else {
                        continue;
                    };
                    assert!(cgroups.is_none_or(|cgroups| cgroups.y == ports.bottom()));
                    assert!(listeners.right() <= ports.x, "{width}x{height}");
                    assert!(ports.right() <= width, "{width}x{height}");
                }
            }
        }
    }
}
