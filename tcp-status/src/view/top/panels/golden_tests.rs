//! Screens of an incident as they are in `tests/screens/`. After a change that is meant, run the tests with
//! `TCP_STATUS_BLESS=1` and read the difference.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use tcp_status_common::state::State;

use super::{
    render_tests::{press, text},
    theme::Theme,
};
use crate::{
    snapshot::Snapshot,
    view::top::{
        fixtures::{OWN, deliver, model, reading},
        model::{Model, keys::KEYS},
    },
};

/// A full accept queue, a flood, and a leak in `orders.service`.
fn incident(step: u64) -> Snapshot {
    let mut reading = reading(OWN, step);
    if let Some(stale) = &mut reading.stale {
        stale.closewait = 303;
    }
    let cgroups = reading.cgroups.iter_mut().flat_map(|of| &mut of.tracked);
    for one in cgroups.filter(|one| one.id == 7) {
        one.states[State::CloseWait] = 341;
    }
    reading.with_problems()
}

fn watched(start: Instant) -> Model {
    let mut model = model(start);
    for second in 1..90 {
        deliver(&mut model, Ok(vec![incident(second)]), at(start, second));
    }
    model
}

fn at(start: Instant, second: u64) -> Instant {
    start + Duration::from_secs(second)
}

fn compare(name: &str, drawn: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/screens/{name}.txt"));
    if env::var_os("TCP_STATUS_BLESS").is_some() {
        fs::write(&file, drawn).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        drawn == expected,
        "{name} differs from {}:\n{drawn}",
        file.display()
    );
}

#[test]
fn an_incident_at_five_sizes() {
    let mut model = watched(Instant::now());
    let unicode = Theme::new(true, true);
    for (width, height) in [(60, 15), (80, 24), (120, 40), (200, 50), (250, 70)] {
        let drawn = text(&mut model, (width, height), &unicode);
        let widest = drawn.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width.into()), "{drawn}");
        compare(&format!("overview-{width}x{height}"), &drawn);
    }
    let ascii = text(&mut model, (80, 24), &Theme::new(false, false));
    compare("overview-80x24-ascii", &ascii);
}

/// All of it, at the smallest size: keys, and what follows them on the next page.
#[test]
fn the_help_on_a_small_screen() {
    let mut model = watched(Instant::now());
    let mut drawn = String::new();
    for key in ["?", "j"] {
        press(&mut model, key);
        drawn += &text(&mut model, (60, 15), &Theme::new(true, true));
    }
    compare("help-60x15", &drawn);
    press(&mut model, "j");
    let first = text(&mut model, (60, 15), &Theme::new(true, true));
    assert!(drawn.starts_with(&first), "{first}");
    press(&mut model, "k");
    let last = text(&mut model, (60, 15), &Theme::new(true, true));
    assert!(drawn.ends_with(&last), "{last}");
    for part in KEYS.iter().flat_map(|(key, does)| [key, does]) {
        assert!(drawn.contains(part), "{part}");
    }
}

#[test]
fn each_tab() {
    let start = Instant::now();
    let mut model = watched(start);
    let mut drawn = String::new();
    for tab in ["2", "3", "4", "5", "6"] {
        press(&mut model, tab);
        let all = match tab {
            "4" | "5" => vec![incident(1), reading(crate::view::top::fixtures::OTHER, 1)],
            _ => vec![incident(1)],
        };
        deliver(&mut model, Ok(all), at(start, 91));
        drawn += &text(&mut model, (80, 24), &Theme::new(true, true));
    }
    compare("tabs-80x24", &drawn);
}

/// From what is wrong to its unit and its peers, and from a leak to the program: three keys each.
#[test]
fn the_path_from_a_problem_to_its_unit_and_peers() {
    let start = Instant::now();
    let mut model = watched(start);
    let mut drawn = String::new();
    let mut path = |keys: &[&str], parts: &[&str]| {
        let mut model_keys = String::new();
        for key in keys {
            press(&mut model, key);
            model_keys += key;
            deliver(&mut model, Ok(vec![incident(1)]), at(start, 91));
        }
        let screen = text(&mut model, (80, 24), &Theme::new(true, true));
        for part in parts {
            assert!(screen.contains(part), "{part}\n{screen}");
        }
        drawn += &format!("keys: {}\n{screen}", model_keys.escape_debug());
    };
    path(&[], &["FULL     port 5432 (web.service)"]);
    path(&["\n"], &["web.service", "192.0.2.7     180"]);
    path(&["\n"], &["orders]0;owned[2J (4242)", "192.0.2.7     180"]);
    path(&["\u{1b}", "\u{1b}"], &["leak     303 connections"]);
    path(
        &["j", "j", "j", "\n"],
        &[" orders.service", "192.0.2.7     180"],
    );
    compare("path-80x24", &drawn);
}
