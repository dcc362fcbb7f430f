//! Screens of an incident as they are in `tests/screens/`, with their colours: `cat` shows them. After a change that
//! is meant, run the tests with `TCP_STATUS_BLESS=1` and read the difference.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ratatui::{
    buffer::Cell,
    style::{Color, Modifier},
};
use tcp_status_common::state::State;

use super::{
    render_tests::{buffer, press, text},
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
    let mut reading = reading.with_problems();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for (problem, minutes) in reading.problems.iter_mut().zip([3_u32, 400]) {
        problem.since = Some(now.as_secs_f64() - f64::from(minutes * 60 + 30));
    }
    reading
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

/// A screen as it is printed on a terminal.
fn printed(model: &mut Model, size: (u16, u16), theme: &Theme) -> String {
    let drawn = buffer(model, size, theme);
    let is_blank = |cell: &&Cell| cell.symbol() == " " && codes(cell).is_empty();
    let mut printed = String::new();
    for line in drawn.content.chunks(size.0.into()) {
        let blank = line.iter().rev().take_while(is_blank).count();
        let mut codes_before = String::new();
        for cell in &line[..line.len() - blank] {
            let codes = codes(cell);
            if codes != codes_before {
                write!(printed, "\u{1b}[0{codes}m").unwrap();
            }
            printed += cell.symbol();
            codes_before = codes;
        }
        printed += match codes_before.as_str() {
            "" => "\n",
            _ => "\u{1b}[0m\n",
        };
    }
    printed
}

/// The parameters of ECMA-48's SGR for a cell, each after a semicolon.
fn codes(cell: &Cell) -> String {
    let modifiers = [
        (Modifier::BOLD, 1),
        (Modifier::DIM, 2),
        (Modifier::UNDERLINED, 4),
        (Modifier::REVERSED, 7),
    ];
    let modifiers = modifiers.into_iter();
    let modifiers = modifiers.filter_map(|(of, code)| cell.modifier.contains(of).then_some(code));
    let colours = [(cell.fg, 30), (cell.bg, 40)].into_iter();
    let colours = colours.filter_map(|(colour, base)| match colour {
        Color::Reset => None,
        Color::Black => Some(base),
        Color::Red => Some(base + 1),
        Color::Yellow => Some(base + 3),
        other => panic!("{other} is in no golden screen"),
    });
    let all = modifiers.chain(colours);
    all.map(|code: u8| format!(";{code}")).collect()
}

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn compare(name: &str, drawn: &str) {
    let file = repository(&format!("tcp-status/tests/screens/{name}.ansi"));
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

/// The texts of a picture by `docs/images/svg.py`, without the space between them.
fn texts(picture: &str) -> String {
    let texts = picture
        .lines()
        .filter_map(|line| line.strip_prefix("<text "));
    let texts = texts.filter_map(|line| line.strip_suffix("</text>")?.split_once('>'));
    let all: String = texts.map(|(_, text)| text).collect();
    let all = all.replace("&lt;", "<").replace("&gt;", ">");
    all.replace("&amp;", "&").replace(' ', "")
}

#[test]
fn an_incident_at_five_sizes_and_in_the_pictures_of_the_docs() {
    let mut model = watched(Instant::now());
    let unicode = Theme::new(true, true);
    for size in [(60, 15), (80, 24), (120, 40), (200, 50), (250, 70)] {
        let name = format!("{}x{}", size.0, size.1);
        compare(
            &format!("overview-{name}"),
            &printed(&mut model, size, &unicode),
        );
        let picture = repository(&format!("docs/images/screens/{name}.svg"));
        let picture = fs::read_to_string(picture).unwrap_or_default();
        let shown = text(&mut model, size, &unicode).replace(char::is_whitespace, "");
        assert!(
            texts(&picture) == shown,
            "the picture of {name} is another screen: sh docs/images/screens.sh"
        );
    }
    let ascii = printed(&mut model, (80, 24), &Theme::new(false, false));
    compare("overview-80x24-ascii", &ascii);
}

/// How terminals show text, the page, black, red and yellow.
const PALETTES: [(&str, [u32; 5]); 7] = [
    (
        "xterm, dark",
        [0xe5e5e5, 0x000000, 0x000000, 0xcd0000, 0xcdcd00],
    ),
    (
        "xterm, light",
        [0x000000, 0xffffff, 0x000000, 0xcd0000, 0xcdcd00],
    ),
    (
        "GNOME, dark",
        [0xffffff, 0x1e1e1e, 0x171421, 0xc01c28, 0xa2734c],
    ),
    (
        "GNOME, light",
        [0x171421, 0xffffff, 0x171421, 0xc01c28, 0xa2734c],
    ),
    (
        "VS Code, dark",
        [0xcccccc, 0x1e1e1e, 0x000000, 0xcd3131, 0xe5e510],
    ),
    (
        "VS Code, light",
        [0x333333, 0xffffff, 0x000000, 0xcd3131, 0x949800],
    ),
    (
        "Solarized, light",
        [0x657b83, 0xfdf6e3, 0x073642, 0xdc322f, 0xb58900],
    ),
];

/// The relative luminance of WCAG 2.
fn luminance(colour: u32) -> f64 {
    let part = |shift: u32| {
        let part = f64::from(colour >> shift & 0xff) / 255.0;
        if part > 0.04 {
            ((part + 0.055) / 1.055).powf(2.4)
        } else {
            part / 12.92
        }
    };
    0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0)
}

#[test]
fn texts_can_be_read_on_a_dark_and_on_a_light_page() {
    let mut model = watched(Instant::now());
    let mut drawn = Vec::new();
    for keys in ["", "2", "?"] {
        press(&mut model, keys);
        drawn.push(buffer(&mut model, (120, 40), &Theme::new(true, true)));
    }
    let cells = drawn.iter().flat_map(|drawn| &drawn.content);
    for cell in cells.filter(|cell| cell.symbol() != " ") {
        for (name, palette) in PALETTES {
            let shown = |colour, default| match colour {
                Color::Black => palette[2],
                Color::Red => palette[3],
                Color::Yellow => palette[4],
                Color::Reset => default,
                other => panic!("{other} has no contrast"),
            };
            let (text, page) = (shown(cell.fg, palette[0]), shown(cell.bg, palette[1]));
            let (text, page) = (luminance(text), luminance(page));
            let contrast = (text.max(page) + 0.05) / (text.min(page) + 0.05);
            // Bold text can be read with less.
            let least = match cell.modifier.contains(Modifier::BOLD) {
                true => 2.7,
                false => 4.0,
            };
            assert!(contrast >= least, "{name}: {contrast} of {cell:?}");
        }
    }
}

/// All of it, at the smallest size: keys, and what follows them on the next page.
#[test]
fn the_help_on_a_small_screen() {
    let mut model = watched(Instant::now());
    let mut drawn = String::new();
    for key in ["?", "j"] {
        press(&mut model, key);
        drawn += &printed(&mut model, (60, 15), &Theme::new(true, true));
    }
    compare("help-60x15", &drawn);
    press(&mut model, "j");
    let first = printed(&mut model, (60, 15), &Theme::new(true, true));
    assert!(drawn.starts_with(&first), "{first}");
    press(&mut model, "k");
    let last = printed(&mut model, (60, 15), &Theme::new(true, true));
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
        drawn += &printed(&mut model, (80, 24), &Theme::new(true, true));
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
        let screen = printed(&mut model, (80, 24), &Theme::new(true, true));
        drawn += &format!("keys: {}\n{screen}", model_keys.escape_debug());
    };
    path(&[], &["FULL     for 3m    port 5432 (web.service)"]);
    path(&["\n"], &["web.service", "192.0.2.7     180"]);
    path(&["\n"], &["orders]0;owned[2J (4242)", "192.0.2.7     180"]);
    path(
        &["\u{1b}", "\u{1b}"],
        &[" orders.service does not close 303 connections"],
    );
    path(
        &["j", "j", "j", "\n"],
        &[" orders.service", "192.0.2.7     180"],
    );
    compare("path-80x24", &drawn);
}
