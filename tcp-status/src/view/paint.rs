//! Colours of what is printed: of the terminal's own sixteen, and none where nobody looks.

use std::io::{IsTerminal as _, stdout};

use super::top::panels::theme::Theme;
use crate::snapshot::Severity;

/// Whether text has colours.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paint(bool);

impl Paint {
    /// On a terminal that can, unless `NO_COLOR` is set.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(stdout().is_terminal() && Theme::is_coloured())
    }

    /// A number at the right of a column; zeros are dim.
    pub(super) fn number(self, number: u64, width: usize) -> String {
        let text = format!("{number:>width$}");
        if number == 0 {
            self.styled(&text, "2")
        } else {
            text
        }
    }

    /// The name of a severity.
    pub(super) fn severity(self, severity: Severity) -> String {
        let style = match severity {
            Severity::Critical => "1;7;31",
            Severity::Warning => "30;43",
        };
        self.styled(severity.name(), style)
    }

    fn styled(self, text: &str, style: &str) -> String {
        if self.0 {
            format!("\u{1b}[{style}m{text}\u{1b}[0m")
        } else {
            text.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Paint;
    use crate::snapshot::Severity;

    #[test]
    fn zeros_are_dim_and_only_where_there_are_colours() {
        assert_eq!(Paint(true).number(0, 3), "\u{1b}[2m  0\u{1b}[0m");
        assert_eq!(Paint(true).number(10, 3), " 10");
        assert_eq!(Paint(false).number(0, 3), "  0");
        assert_eq!(
            Paint(true).severity(Severity::Critical),
            "\u{1b}[1;7;31mCRITICAL\u{1b}[0m"
        );
    }
}
