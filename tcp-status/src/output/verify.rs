//! A comparison as a table.

use std::fmt::{self, Write as _};

use crate::snapshot::compare::{Comparison, Match, Row};

/// The verdict, all states, and below them the families that are not just equal.
#[must_use]
pub fn render(compared: &Comparison) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, compared);
    text
}

fn write(out: &mut String, compared: &Comparison) -> fmt::Result {
    let result = match (compared.equal, compared.moving) {
        (true, false) => "equal",
        (true, true) => "equal, as far as moving numbers can be",
        (false, false) => "DIFFERENT",
        (false, true) => "DIFFERENT, beyond what moved meanwhile",
    };
    writeln!(out, "netns     {}", compared.netns)?;
    writeln!(out, "tier      {}", compared.tier.name())?;
    writeln!(out, "result    {result}")?;
    writeln!(
        out,
        "\n{:<20}{:>12}{:>12}{:>12}",
        "state", "kernel", "tracker", "difference"
    )?;
    for each in &compared.states {
        row(out, each, "")?;
    }
    for (rows, family) in [(&compared.ipv4, " ipv4"), (&compared.ipv6, " ipv6")] {
        for each in rows.iter().filter(|row| row.verdict != Match::Equal) {
            row(out, each, family)?;
        }
    }
    Ok(())
}

fn row(out: &mut String, row: &Row, family: &str) -> fmt::Result {
    let name = format!("{}{family}", row.state);
    let note = match row.verdict {
        Match::Equal => "",
        Match::Moved => "  moving",
        Match::Differs => "  DIFFERS",
    };
    let Row {
        kernel,
        tracker,
        difference,
        ..
    } = row;
    let difference = match difference {
        0 => "0".into(),
        other => format!("{other:+}"),
    };
    writeln!(
        out,
        "{name:<20}{kernel:>12}{tracker:>12}{difference:>12}{note}"
    )
}

#[cfg(test)]
mod tests {
    use tcp_status_common::state::State;

    use super::render;
    use crate::snapshot::{Counts, Snapshot, Tier, compare::Comparison};

    #[test]
    fn a_difference_is_shown_where_it_is() {
        let mut ipv4 = Counts::default();
        ipv4[State::Listen] = 3;
        let reading = Snapshot::of(Tier::Reduced, 7, [ipv4, Counts::default()]);
        let equal = render(&Comparison::new(
            &reading,
            &reading,
            &(ipv4, Counts::default()),
            &reading,
        ));
        assert!(equal.contains("result    equal\n"), "{equal}");
        assert_eq!(equal.lines().count(), 5 + State::COUNT);
        ipv4[State::Listen] = 5;
        let differs = render(&Comparison::new(
            &reading,
            &reading,
            &(ipv4, Counts::default()),
            &reading,
        ));
        assert!(differs.contains("result    DIFFERENT\n"), "{differs}");
        let row = "listen                         5           3          -2  DIFFERS\n";
        assert!(differs.contains(row), "{differs}");
        assert!(differs.contains("\nlisten ipv4 "), "{differs}");
        assert!(differs.lines().all(|line| line.len() <= 80));
    }
}
