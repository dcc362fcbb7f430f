//! Styles and symbols: sixteen colours or none, Unicode or ASCII. What matters is said by words as well; colours only
//! make it found sooner. Text has the terminal's own colours, which can be read on a dark and on a light background;
//! only the words that say what is wrong stand on another one.

use std::env;

use ratatui::style::{Color, Modifier, Style};

use crate::snapshot::Severity;

/// How things look.
#[derive(Clone, Debug)]
pub struct Theme {
    /// What has no style of its own.
    pub plain: Style,
    /// Titles of tables.
    pub title: Style,
    /// The tab that is shown.
    pub focused_title: Style,
    /// The row under the cursor.
    pub cursor: Style,
    /// Names of columns.
    pub head: Style,
    /// What is less important.
    pub dim: Style,
    /// The words that say what should be looked at.
    pub warning: Style,
    /// The words that say what must be looked at.
    pub alarm: Style,
    /// Graphs of what is not wrong.
    pub bar: Style,
    /// Whether there are characters beyond ASCII.
    pub unicode: bool,
    /// The mark of the column that sorts, the smallest first.
    pub ascending: &'static str,
    /// The same, the largest first.
    pub descending: &'static str,
    /// From empty to full, by eighths.
    pub heights: [&'static str; 9],
    /// A part of a bar that is filled.
    pub filled: &'static str,
    /// A part of a bar that is empty.
    pub empty: &'static str,
    /// The mark of a text that was cut.
    pub cut: &'static str,
}

const UNICODE_HEIGHTS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
const ASCII_HEIGHTS: [&str; 9] = [" ", ".", ":", "-", "=", "+", "*", "#", "#"];

impl Theme {
    /// As the environment says: `NO_COLOR` (<https://no-color.org>), and the character set of the
    /// locale.
    #[must_use]
    pub fn from_environment() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(said);
        Self::new(Self::is_coloured(), unicode(locale.as_deref()))
    }

    /// Whether the environment allows colours.
    #[must_use]
    pub fn is_coloured() -> bool {
        said("NO_COLOR").is_none() && !Self::is_dumb()
    }

    /// Whether the terminal can only print lines.
    #[must_use]
    pub fn is_dumb() -> bool {
        said("TERM").is_some_and(|term| term == "dumb")
    }

    /// With or without colours and characters beyond ASCII.
    #[must_use]
    pub fn new(colours: bool, unicode: bool) -> Self {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        // Yellow is light in every palette; red is made to be told from the background.
        let (warning, alarm) = if colours {
            let warning = plain.fg(Color::Black).bg(Color::Yellow);
            let alarm = bold.fg(Color::Red).add_modifier(Modifier::REVERSED);
            // Under the cursor as well.
            (warning.remove_modifier(Modifier::REVERSED), alarm)
        } else {
            (plain, bold)
        };
        Self {
            plain,
            cursor: plain.add_modifier(Modifier::REVERSED),
            title: bold.add_modifier(Modifier::UNDERLINED),
            focused_title: bold.add_modifier(Modifier::REVERSED),
            head: bold,
            dim: plain.add_modifier(Modifier::DIM),
            warning,
            alarm,
            bar: plain.add_modifier(Modifier::DIM),
            unicode,
            ascending: if unicode { "▲" } else { "^" },
            descending: if unicode { "▼" } else { "v" },
            heights: if unicode {
                UNICODE_HEIGHTS
            } else {
                ASCII_HEIGHTS
            },
            filled: if unicode { "█" } else { "#" },
            empty: if unicode { "░" } else { "." },
            cut: if unicode { "…" } else { "~" },
        }
    }

    /// The words that say what is wrong, by how bad it is.
    pub(super) const fn severity(&self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.alarm,
            Severity::Warning => self.warning,
        }
    }
}

fn said(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a locale's character set is UTF-8; no locale says nothing against it.
fn unicode(locale: Option<&str>) -> bool {
    locale.is_none_or(|name| {
        let name = name.to_ascii_lowercase();
        name.contains("utf-8") || name.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::unicode;

    #[test]
    fn the_locale_names_its_character_set() {
        for name in [None, Some("C.UTF-8"), Some("de_DE.utf8")] {
            assert!(unicode(name), "{name:?}");
        }
        for name in ["C", "POSIX", "en_US.ISO-8859-1", "ja_JP.eucJP"] {
            assert!(!unicode(Some(name)), "{name}");
        }
    }
}
