//! A number over time in one line: dots of braille, or ASCII.

use super::theme::Theme;

/// The dots of a braille character that fill it up to each level, at the left and at the right.
const LEVELS: [[u8; 5]; 2] = [[0, 0x40, 0x44, 0x46, 0x47], [0, 0x80, 0xa0, 0xb0, 0xb8]];

/// The highest dots.
const TOP: u8 = 0x09;

/// Levels of a character.
const BRAILLE: u64 = 4;
const ASCII: u64 = 8;

/// How many values `width` columns show.
pub(super) fn values(width: u16, theme: &Theme) -> usize {
    usize::from(width) * if theme.unicode { 2 } else { 1 }
}

/// So many lines, from 0 to `max`: what is not known is empty, 0 has the lowest level, and any more than 0 a higher one.
pub(super) fn draw(values: &[Option<u64>], max: u64, lines: u16, theme: &Theme) -> Vec<String> {
    let lines = u64::from(lines.max(1));
    let each = if theme.unicode { BRAILLE } else { ASCII };
    let levels = each * lines;
    let level = |value: u64| {
        let part = u128::from(value) * u128::from(levels - 1);
        let above = part.div_ceil(u128::from(max.max(1)));
        1 + u64::try_from(above).unwrap_or(levels).min(levels - 1)
    };
    // What does not change is a line: a block would draw the eye.
    let known = || values.iter().flatten();
    let is_constant = known().all(|value| Some(value) == known().next()) && max > 0;
    let line = |below: u64| {
        let level = |value: &Option<u64>| {
            let level = value.map_or(0, level).saturating_sub(below).min(each);
            usize::try_from(level).unwrap_or(0)
        };
        if !theme.unicode {
            return values
                .iter()
                .map(|value| theme.heights[level(value)])
                .collect();
        }
        let character = |pair: &[Option<u64>]| {
            let dots = pair.iter().zip(LEVELS);
            let dots = dots.fold(0, |dots, (value, side)| dots | side[level(value)]);
            match if is_constant { dots & TOP } else { dots } {
                0 => ' ',
                dots => char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' '),
            }
        };
        let text: String = values.chunks(2).map(character).collect();
        // Below its top line, a constant is empty.
        if is_constant && below + each < levels {
            " ".repeat(values.len() / 2)
        } else {
            text
        }
    };
    (0..lines).rev().map(|at| line(at * each)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Theme, draw};

    #[test]
    fn zero_is_low_more_is_higher_and_what_is_not_known_is_empty() {
        let values = [None, Some(0), Some(1), Some(1000), Some(500), Some(666)];
        let drawn = |unicode| draw(&values, 1000, 1, &Theme::new(false, unicode));
        assert_eq!(drawn(true), ["⢀⣼⣶"]);
        assert_eq!(drawn(false), [" .:#+*"]);
        let theme = Theme::new(false, true);
        let two = draw(&values, 1000, 2, &theme);
        assert_eq!(two, [" ⢸⣠", "⢀⣼⣿"]);
        assert_eq!(draw(&[Some(u64::MAX), Some(0)], u64::MAX, 1, &theme), ["⣇"]);
        let constant = [None, None, Some(7), Some(7)];
        assert_eq!(draw(&constant, 7, 2, &theme), [" ⠉", "  "]);
        assert_eq!(draw(&[Some(0); 2], 0, 1, &theme), ["⣀"]);
    }
}
