//! Numbers in few columns.

/// A count; exactly, as long as it fits, then in thousands, millions and so on.
pub(super) fn count(number: u64, width: usize) -> String {
    const UNITS: [(u64, char); 3] = [(1_000, 'k'), (1_000_000, 'M'), (1_000_000_000, 'G')];

    let text = number.to_string();
    if text.len() <= width {
        return text;
    }
    UNITS
        .iter()
        .map(|(size, unit)| format!("{}{unit}", number / size))
        .find(|text| text.len() <= width)
        .unwrap_or_else(|| format!("{}T", number / 1_000_000_000_000))
}

/// A number per second, in at most five columns.
pub(super) fn rate(number: f64) -> String {
    if number < 99.95 {
        format!("{number:.1}")
    } else if number < 9_999.5 {
        format!("{number:.0}")
    } else if number < 999_500.0 {
        format!("{:.0}k", number / 1e3)
    } else {
        format!("{:.0}M", number / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::{count, rate};

    #[test]
    fn counts_are_exact_while_they_fit() {
        for (number, width, expected) in [
            (0, 1, "0"),
            (99_999, 5, "99999"),
            (100_000, 5, "100k"),
            (123_456_789, 5, "123M"),
            (u64::MAX, 9, "18446744T"),
        ] {
            assert_eq!(count(number, width), expected);
        }
    }

    #[test]
    fn rates_have_five_columns_at_most() {
        for (number, expected) in [
            (0.0, "0.0"),
            (0.04, "0.0"),
            (99.94, "99.9"),
            (99.96, "100"),
            (1234.5, "1234"),
            (9_999.9, "10k"),
            (999_499.0, "999k"),
            (1e6, "1M"),
        ] {
            assert_eq!(rate(number), expected);
        }
    }
}
