//! Text of others on a terminal: nothing in it may act as a command.

/// The text without what a terminal would obey or not show: control characters, line breaks and
/// marks that change the direction of writing.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !acts(*c)).collect()
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_acts_is_left_out_and_the_rest_stays() {
        assert_eq!(printable("\u{1b}[31mré\r\nd\u{9b}0m\u{7}"), "[31mréd0m");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{200b}d\u{feff}"), "abcd");
        assert_eq!(printable("netns 青 #1"), "netns 青 #1");
    }
}
