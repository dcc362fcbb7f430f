//! Tests of what is drawn, on a terminal of any size that is none.

use std::time::{Duration, Instant};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::{Buffer, Cell},
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Size,
    style::{Color, Modifier},
};
use tcp_status_common::state::State;

use super::{draw, theme::Theme};
use crate::view::top::{
    fixtures::{HARMFUL, OTHER, OWN, deliver, model, reading},
    model::Model,
};

/// Every page, one after the other.
const PAGES: [&str; 9] = ["", "\n", "\n", "2", "3", "4", "6", "5", "?"];

/// A screen, cell by cell.
pub(super) fn buffer(model: &mut Model, (width, height): (u16, u16), theme: &Theme) -> Buffer {
    model.resize(Size::new(width, height));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme)).unwrap();
    terminal.backend().buffer().clone()
}

/// A screen, one line each.
pub(super) fn text(model: &mut Model, size: (u16, u16), theme: &Theme) -> String {
    let buffer = buffer(model, size, theme);
    let lines = buffer.content.chunks(size.0.into());
    let line = |cells: &[Cell]| {
        let line: String = cells.iter().map(Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    };
    lines.map(line).collect()
}

fn shown(model: &mut Model, size: (u16, u16)) -> String {
    text(model, size, &Theme::new(true, true))
}

/// After a second reading, a second later.
fn busy() -> Model {
    let start = Instant::now();
    let mut model = model(start);
    let at = start + Duration::from_secs(1);
    deliver(&mut model, Ok(vec![reading(OWN, 1)]), at);
    model
}

/// Types; a newline is Enter.
pub(super) fn press(model: &mut Model, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\t' => KeyCode::Tab,
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        model.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

#[test]
fn what_is_wrong_has_the_colour_of_its_severity_and_nothing_else_has() {
    let mut model = busy();
    let (size, theme) = ((120, 60), Theme::new(true, true));
    let mut coloured = |colour: Color| {
        let drawn = buffer(&mut model, size, &theme);
        let lines = drawn.content.chunks(size.0.into());
        let lines = lines.enumerate().filter(|(_, line)| {
            // The cursor is on the first problem.
            line.iter()
                .any(|cell| [cell.fg, cell.bg].contains(&colour) && cell.symbol() != " ")
        });
        lines
            .map(|(_, line)| line[..9].iter().map(Cell::symbol).collect::<String>())
            .collect::<Vec<_>>()
    };
    let full = "FULL     ";
    // The problem, the port, its unit and the listener.
    assert_eq!(coloured(Color::Red), [full; 4]);
    let (was, syn) = ("was full ", "syn      ");
    let warnings = coloured(Color::Yellow);
    // The problems, the state, the port and the listeners.
    assert_eq!(warnings, [was, syn, "synrecv  ", was, syn, was]);
}

#[test]
fn the_cursor_is_seen_without_colours() {
    let mut model = busy();
    let drawn = buffer(&mut model, (80, 24), &Theme::new(false, true));
    let reversed = |cell: &&Cell| cell.modifier.contains(Modifier::REVERSED);
    let line = &drawn.content[2 * 80..3 * 80];
    assert_eq!(line.iter().filter(reversed).count(), 80);
}

#[test]
fn an_ordinary_terminal_shows_what_matters() {
    let text = shown(&mut busy(), (80, 24));
    for part in [
        "tcp-status  tier reduced  netns 4026531833",
        " every 1s\n",
        " 1 Overview  2 Listeners  3 Ports  4 Units  5 Namespaces  6 Remotes\n",
        "\nFULL       port 5432 (web.service): the accept queue is full: 129 wait, limit 1…\n",
        "\nwas full   port 443: the accept queue was full\n",
        "\nsyn        port 9100: 896 connections are half-open\n",
        "\nestablished     1720     +595     4321 ",
        "passive open     1200\n",
        "overflows         701\n",
        "closewait >60s     17\n",
        "\nFULL     5432*     web.service",
        "\nq quit  ? help ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    for state in State::ALL {
        assert!(text.contains(&format!("\n{state} ")), "{state}\n{text}");
    }
    assert_eq!(text.lines().count(), 24);
}

#[test]
fn listeners_have_queues_and_can_be_shown_each() {
    let start = Instant::now();
    let mut model = model(start);
    let mut flooded = reading(OWN, 1);
    flooded.syncookies.as_mut().unwrap().failed += 3;
    deliver(
        &mut model,
        Ok(vec![flooded]),
        start + Duration::from_secs(1),
    );
    press(&mut model, "2");
    let listeners = shown(&mut model, (120, 24));
    for part in [
        "\n Listeners 40, 12.0 syncookies/s, 3.0 invalid syncookies/s ",
        "\nproblem▼ port  accept    queue  limit   peak    syn     of retrans  drops    uid unit        address\n",
        "\nFULL     5432  ████████    129    128    129      3    128       0      3     32 web.service 127.0.0.1\n",
        "\nwas full 443   ███░░░░░    540   2044   1300     12   2044       2    117     43             0.0.0.0 (4 sockets)\n",
        " idle listeners, press i\n",
    ] {
        assert!(listeners.contains(part), "{part}\n{listeners}");
    }
    press(&mut model, "ig");
    let each = shown(&mut model, (120, 60));
    assert!(
        each.contains("1-40 of 40\n") && !each.contains("press i"),
        "{each}"
    );
}

#[test]
fn ports_are_sorted_and_filtered() {
    let mut model = busy();
    // By what is wrong, port, unit, total, established, closewait.
    press(&mut model, "3sssss");
    let sorted = shown(&mut model, (80, 24));
    for part in [
        "\n Ports 30 of at most 30, * not all counted yet ",
        "\nproblem  port      unit          total established closewait▼ timewait synrecv\n\
         \x20        outgoing*                 231          31        200        0       0\n\
         FULL     5432*     web.service    1142           0         41     1100       0\n",
    ] {
        assert!(sorted.contains(part), "{part}\n{sorted}");
    }
    press(&mut model, "r/801");
    let filtered = shown(&mut model, (80, 24));
    assert!(filtered.contains("1-11 of 11\n"), "{filtered}");
    assert!(filtered.contains("\n/801_   Enter keeps it"), "{filtered}");
    press(&mut model, "\n\u{1b}");
    let whole = shown(&mut model, (80, 50));
    assert!(whole.contains("1-32 of 32\n"), "{whole}");
}

#[test]
fn a_namespace_without_cgroups_says_why() {
    let mut model = busy();
    let mut other = reading(OTHER, 1);
    other.cgroups = None;
    other.cgroups_reason = Some("only those of the tracker's own\u{1b}[2J namespace".into());
    deliver(&mut model, Ok(vec![other]), Instant::now());
    press(&mut model, "4");
    let text = shown(&mut model, (80, 24));
    let reason = "\n No units: only those of the tracker's own[2J namespace";
    assert!(text.contains(reason), "{text}");
}

#[test]
fn a_tracker_that_is_gone_is_told_and_its_last_numbers_stay() {
    let mut model = busy();
    let gone = Instant::now() + Duration::from_secs(42);
    let why = "cannot connect to /run/tcp-status/tcp-status.sock: connection refused; start the \
               tracker: tcp-status run";
    deliver(&mut model, Err(why.into()), gone);
    let text = shown(&mut model, (80, 24));
    assert!(
        text.lines().next().unwrap().contains("NO ANSWER FOR 4"),
        "{text}"
    );
    for part in ["tracker: tcp-status run\n", "\nestablished     1720 "] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_walk_that_fails_says_why() {
    let mut model = busy();
    press(&mut model, "6");
    assert!(shown(&mut model, (80, 24)).contains(" Remotes: walking"));
    let poll_query = model.poll_query();
    model.handle_poll_result(crate::view::top::model::PollResult {
        poll_query,
        result: Ok(vec![reading(OWN, 1)]),
        history: None,
        walked: Some(Err("cannot enter it; use\u{7} sudo".into())),
        at: Instant::now(),
    });
    let text = shown(&mut model, (80, 24));
    assert!(
        text.contains("\n Remotes: cannot enter it; use sudo"),
        "{text}"
    );
}

#[test]
fn the_help_page_has_keys_and_the_tier() {
    let mut model = busy();
    press(&mut model, "?");
    let help = shown(&mut model, (80, 24));
    for part in ["q, Ctrl-C", "tier", "filtered walk "] {
        assert!(help.contains(part), "{part}\n{help}");
    }
    press(&mut model, "?");
    assert!(!shown(&mut model, (80, 24)).contains("filtered walk "));
}

#[test]
fn a_scan_has_no_rates_and_no_history_no_peaks() {
    let mut model = model(Instant::now());
    let mut scanned = reading(OWN, 0);
    scanned.tier = crate::snapshot::Tier::Scan;
    (scanned.transitions, scanned.events) = (None, None);
    (
        scanned.peaks,
        scanned.rates,
        scanned.stale,
        scanned.overflows,
    ) = (None, None, None, None);
    for listener in &mut scanned.listeners {
        (listener.uid, listener.syn_queue) = (None, None);
    }
    for second in 1..3 {
        let at = Instant::now() + Duration::from_secs(second);
        deliver(&mut model, Ok(vec![scanned.clone()]), at);
    }
    let text = shown(&mut model, (80, 24));
    for part in ["aborted             -\n", "drops               -\n"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn every_size_is_drawn() {
    let mut model = busy();
    for keys in PAGES {
        press(&mut model, keys);
        for width in [1, 30, 45, 58, 80, 130, 300] {
            for height in [1, 5, 13, 16, 17, 24, 48] {
                buffer(&mut model, (width, height), &Theme::new(true, true));
                let (panes, body) = (model.panes(), model.body());
                for (at, pane) in panes.iter().enumerate() {
                    assert_eq!(pane.area.intersection(body), pane.area);
                    let mut others = panes[..at].iter();
                    assert!(!others.any(|other| other.area.intersects(pane.area)));
                }
            }
        }
    }
    assert_eq!(shown(&mut model, (20, 3)), "20x3 is too small\n\n\n");
}

#[test]
fn sixteen_colours_or_none_and_ascii_where_nothing_else_is() {
    let mut model = busy();
    for keys in PAGES {
        press(&mut model, keys);
        let plain = buffer(&mut model, (160, 48), &Theme::new(false, false));
        for cell in &plain.content {
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        }
        let borders = |symbol: &str| "─│┌┐└┘".contains(symbol);
        let ascii = |symbol: &str| symbol.is_ascii() || borders(symbol);
        assert!(plain.content.iter().all(|cell| ascii(cell.symbol())));
        let coloured = buffer(&mut model, (160, 48), &Theme::new(true, true));
        for cell in &coloured.content {
            for colour in [cell.fg, cell.bg] {
                assert!(!matches!(colour, Color::Rgb(..) | Color::Indexed(_)));
            }
        }
    }
}

#[test]
fn nothing_of_the_tracker_acts_on_the_terminal() {
    let mut model = busy();
    let at = Instant::now();
    for keys in PAGES {
        press(&mut model, keys);
        deliver(&mut model, Err(format!("a{HARMFUL}b\r\nc\u{202e}d")), at);
        let all = vec![reading(OWN, 1)];
        for size in [(80, 24), (160, 48)] {
            let drawn = buffer(&mut model, size, &Theme::new(true, true));
            let acts = |c: char| c.is_control() || c == '\u{202e}';
            assert!(
                drawn
                    .content
                    .iter()
                    .all(|cell| !cell.symbol().contains(acts))
            );
        }
        deliver(&mut model, Ok(all), at);
    }
}
