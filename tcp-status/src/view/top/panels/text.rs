//! Texts that fit: at the right, at both ends of a line, or cut where there is no room.

use ratatui::text::{Line, Text};

use super::theme::Theme;

/// A cell whose text ends where the cell does.
pub(super) fn right(text: String) -> Text<'static> {
    Text::from(Line::raw(text).right_aligned())
}

/// Two texts at both ends of a line; the left one is cut.
pub(super) fn sides(left: &str, right: &str, width: u16, theme: &Theme) -> Line<'static> {
    let width = usize::from(width);
    let right = cut(right, width, theme);
    let room = width.saturating_sub(Line::raw(&right).width() + 1);
    let left = cut(left, room, theme);
    let gap = width - Line::raw(&left).width() - Line::raw(&right).width();
    Line::raw(format!("{left}{:gap$}{right}", ""))
}

/// The text, or as much of it as fits, with a mark.
pub(super) fn cut(text: &str, width: usize, theme: &Theme) -> String {
    if Line::raw(text).width() <= width {
        return text.into();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if Line::raw(&kept).width() >= width {
            kept.pop();
            kept.push_str(if width == 0 { "" } else { theme.cut });
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use ratatui::text::Line;

    use super::{Theme, cut, sides};

    #[test]
    fn what_is_cut_says_so_and_is_not_too_wide() {
        let theme = Theme::new(false, true);
        assert_eq!(cut("abcdef", 6, &theme), "abcdef");
        assert_eq!(cut("abcdef", 4, &theme), "abc…");
        assert_eq!(cut("abcdef", 1, &theme), "…");
        assert_eq!(cut("abcdef", 0, &theme), "");
        for width in 0..12 {
            for text in ["青青青青青", "a青b青c", "abc"] {
                let cut = cut(text, width, &theme);
                assert!(Line::raw(cut.clone()).width() <= width, "{cut} in {width}");
            }
        }
    }

    #[test]
    fn both_sides_fill_the_line() {
        let theme = Theme::new(false, true);
        for width in 0..30 {
            let line = sides("the left side", "right", width, &theme);
            assert_eq!(line.width(), usize::from(width));
        }
        assert_eq!(sides("ab", "c", 5, &theme).to_string(), "ab  c");
    }
}
