//! Tests of what is drawn, on a terminal of any size that is none.

use std::time::{Duration, Instant};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Size,
    style::Color,
};
use tcp_status_common::state::State;

use super::{draw, theme::Theme};
use crate::view::top::{
    fixtures::{HARMFUL, OTHER, OWN, model, reading},
    model::{Model, PollResult},
};

fn buffer(model: &mut Model, (width, height): (u16, u16), theme: &Theme) -> Buffer {
    model.resize(Size::new(width, height));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, theme)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(model: &mut Model, size: (u16, u16)) -> String {
    let buffer = buffer(model, size, &Theme::new(true, true));
    let lines = buffer.content.chunks(size.0.into());
    let line = |cells: &[ratatui::buffer::Cell]| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    };
    lines.map(line).collect()
}

/// After a second reading, a second later.
fn busy() -> Model {
    let start = Instant::now();
    let mut model = model(start);
    deliver(
        &mut model,
        Ok(vec![reading(OWN, 1)]),
        start + Duration::from_secs(1),
    );
    model
}

fn deliver(model: &mut Model, result: Result<Vec<crate::snapshot::Snapshot>, String>, at: Instant) {
    let poll_query = model.poll_query();
    model.handle_poll_result(PollResult {
        poll_query,
        result,
        at,
    });
}

fn press(model: &mut Model, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\t' => KeyCode::Tab,
            c => KeyCode::Char(c),
        };
        model.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

#[test]
fn an_ordinary_terminal_shows_what_matters() {
    let text = text(&mut busy(), (80, 24));
    for part in [
        "tcp-status  tier reduced  drift 0  netns 4026531833",
        " every 1s\n",
        "\nport 5432 (web.service): the accept queue is full: 129 wait, limit 128\n",
        "\nport 443: the accept queue was full\nport 9100: 896 connections are half-open\n",
        "\nestablished     1720     1490     2300 ",
        "passive open    1200  1234\n",
        "overflows        1.0   701\n",
        "closewait >60s          17\n",
        " Listeners 40, 12.0 syncookies/s  by queue ",
        "1-5 of 34\n",
        "\nsyn       9100 ",
        "\nFULL      5432 █████████████    129    128    129      3 127.0.0.1\n",
        "\nwas full   443 ████░░░░░░░░░    540   2044   1300     12 0.0.0.0 (4 sockets)\n",
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
fn a_wide_terminal_shows_all_panels_and_families() {
    let mut model = busy();
    let whole = text(&mut model, (160, 48));
    for part in [
        "state          total     ipv4     ipv6      min      max",
        " Listeners 40, 12.0 syncookies/s  by queue ",
        "\nsyn       9100 ░░░░░░░░░░░░░░      0   4096      0    896   4096 2001:db8:",
        "     5432*     1142           0        41     1100 ",
        " Ports 30 of at most 30, * not all counted yet  by total ",
        "1-22 of 32\n",
        " Cgroups 4 of at most 256  by total ",
        "1-5 of 5\n",
        " cgroup                             total established closewait timewait\n",
        " orders.service                        75          33        41        0\n",
        " unattributed                           9           0         0        9\n",
    ] {
        assert!(whole.contains(part), "{part}\n{whole}");
    }
    // Without room for both, the panel in hand is shown.
    let low = text(&mut model, (160, 24));
    assert!(
        low.contains(" Ports 30 ") && !low.contains(" Cgroups "),
        "{low}"
    );
    press(&mut model, "\t\t");
    let low = text(&mut model, (160, 24));
    assert!(
        !low.contains(" Ports 30 ") && low.contains(" Cgroups "),
        "{low}"
    );
}

#[test]
fn cgroups_are_shown_where_they_are_counted() {
    let mut model = busy();
    press(&mut model, "\t\tss");
    let sorted = text(&mut model, (80, 24));
    for part in [
        " Cgroups 4 of at most 256  by closewait ",
        "\ncgroup                              total established closewait timewait synrecv\n\
         orders.service                         75          33        41        0       0\n",
        "\nunattributed                            9           0         0        9       0\n",
    ] {
        assert!(sorted.contains(part), "{part}\n{sorted}");
    }
    // The other namespace has none.
    deliver(&mut model, Ok(vec![reading(OTHER, 1)]), Instant::now());
    let other = text(&mut model, (80, 24));
    assert!(other.contains(" Listeners 1 "), "{other}");
    press(&mut model, "\t\t");
    assert!(text(&mut model, (80, 24)).contains(" Listeners 1 "));
    let wide = text(&mut model, (160, 48));
    assert!(!wide.contains("Cgroups"), "{wide}");
}

#[test]
fn a_narrow_terminal_loses_columns_and_no_rows() {
    let text = text(&mut busy(), (60, 20));
    for part in [
        "\nport 5432 (web.service): the accept queue is ful… and 2 more\n",
        "\nestablished     1720     2300 ",
        "\nclosing ",
        "passive close   1100  1200\n",
        "\nFULL      5432 ",
        "1-3 of 34\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn ports_are_sorted_and_filtered() {
    let mut model = busy();
    press(&mut model, "\tss");
    let sorted = text(&mut model, (80, 24));
    for part in [
        " Ports 30 of at most 30, * not all counted yet  by closewait ",
        "    port     total established closewait timewait synrecv finwait2 finwait1\n\
         outgoing*      231          31       200        0 ",
        "\n    5432*     1142           0        41     1100 ",
    ] {
        assert!(sorted.contains(part), "{part}\n{sorted}");
    }
    press(&mut model, "/801");
    let filtered = text(&mut model, (80, 24));
    assert!(filtered.contains("  /801 "), "{filtered}");
    assert!(filtered.contains("1-5 of 11\n"), "{filtered}");
    assert!(filtered.contains("\n/801_   Enter keeps it"), "{filtered}");
}

#[test]
fn a_tracker_that_is_gone_is_told_and_its_last_numbers_stay() {
    let mut model = busy();
    let gone = Instant::now() + Duration::from_secs(42);
    let why = "cannot connect to /run/tcp-status/tcp-status.sock: connection refused; start the \
               tracker: tcp-status run";
    deliver(&mut model, Err(why.into()), gone);
    let text = text(&mut model, (80, 24));
    assert!(
        text.lines().next().unwrap().contains("NO ANSWER FOR 4"),
        "{text}"
    );
    let cure = "tracker: tcp-status run\n";
    assert!(text.contains(cure), "{text}");
    for part in ["\nestablished     1720 ", "1-6 of 34\n"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn overlays_explain_and_let_choose() {
    let mut model = busy();
    press(&mut model, "?");
    let help = text(&mut model, (80, 24));
    for part in ["q, Ctrl-C", "tier", "filtered walk "] {
        assert!(help.contains(part), "{part}\n{help}");
    }
    press(&mut model, "?n");
    let all = vec![reading(OWN, 1), reading(OTHER, 1)];
    deliver(&mut model, Ok(all), Instant::now());
    let list = text(&mut model, (80, 24));
    for part in ["Network namespaces: 2", "4026532999", "web]0;owned[2J"] {
        assert!(list.contains(part), "{part}\n{list}");
    }
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
    let text = text(&mut model, (80, 24));
    for part in [
        "aborted            -     -\n",
        "drops              -     -\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn every_size_is_drawn() {
    let mut model = busy();
    for keys in ["", "\t", "\t", "?", "?n"] {
        press(&mut model, keys);
        for width in [1, 30, 45, 58, 80, 130, 300] {
            for height in [1, 5, 13, 16, 17, 24, 48] {
                buffer(&mut model, (width, height), &Theme::new(true, true));
            }
        }
    }
    assert_eq!(text(&mut model, (20, 3)), "20x3 is too small\n\n\n");
}

#[test]
fn sixteen_colours_or_none_and_ascii_where_nothing_else_is() {
    let mut model = busy();
    for keys in ["", "\t", "\t", "?", "?n"] {
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
    for keys in ["", "?", "?n"] {
        press(&mut model, keys);
        deliver(&mut model, Err(format!("a{HARMFUL}b\r\nc\u{202e}d")), at);
        let all = vec![reading(OTHER, 1)];
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
