//! A comparison as a table.

use std::fmt::{self, Write as _};

use crate::snapshot::compare::{Comparison, Match, PortRows, Row};

/// The verdict, all states, and below them what is not equal of families and ports.
#[must_use]
pub fn render(compared: &Comparison) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _: fmt::Result = write(&mut text, compared);
    text
}

fn write(out: &mut String, compared: &Comparison) -> fmt::Result {
    let exact = compared.exact();
    let result = match (compared.equal, compared.differs) {
        (true, _) if exact => "equal",
        (true, _) => "equal, timewait and finwait2 as of the last walk",
        (false, true) => "DIFFERENT",
        (false, false) => "UNDECIDED: too much moved meanwhile",
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
    let of_port = |of: &PortRows| format!(" port {}", of.port);
    let ports = compared.ports.iter().map(|of| (&of.states, of_port(of)));
    let families = [
        (&compared.ipv4, " ipv4".into()),
        (&compared.ipv6, " ipv6".into()),
    ];
    let together = [
        (&compared.outgoing, " outgoing".into()),
        (&compared.other, " other".into()),
    ];
    for (rows, name) in families.into_iter().chain(ports).chain(together) {
        for each in rows.iter().filter(|row| row.verdict != Match::Equal) {
            row(out, each, &name)?;
        }
    }
    Ok(())
}

fn row(out: &mut String, row: &Row, of: &str) -> fmt::Result {
    let name = format!("{}{of}", row.state);
    let [least, most] = row.possible;
    let note = match row.verdict {
        Match::Equal => String::new(),
        Match::Unrefreshed => "  as of a walk".into(),
        Match::Undecided => format!("  {least:+} to {most:+}"),
        Match::Differs => "  DIFFERS".into(),
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
    use crate::{
        kernel::procfs::{Listing, PortListing},
        snapshot::{Counts, Snapshot, Tier, compare::Comparison},
    };

    fn listing(ipv4: Counts) -> PortListing {
        PortListing {
            all: Listing {
                ipv4,
                ..Listing::default()
            },
            ..PortListing::default()
        }
    }

    #[test]
    fn a_difference_is_shown_where_it_is() {
        let mut ipv4 = Counts::default();
        ipv4[State::Listen] = 3;
        let reading = Snapshot::of(Tier::Reduced, 7, [ipv4, Counts::default()]);
        let equal = render(&Comparison::new(
            &reading,
            &reading,
            &listing(ipv4),
            &reading,
        ));
        assert!(equal.contains("result    equal\n"), "{equal}");
        assert_eq!(equal.lines().count(), 5 + State::COUNT);
        ipv4[State::Listen] = 5;
        let differs = render(&Comparison::new(
            &reading,
            &reading,
            &listing(ipv4),
            &reading,
        ));
        assert!(differs.contains("result    DIFFERENT\n"), "{differs}");
        let row = "listen                         5           3          -2  DIFFERS\n";
        assert!(differs.contains(row), "{differs}");
        assert!(differs.contains("\nlisten ipv4 "), "{differs}");
        assert!(differs.lines().all(|line| line.len() <= 80));
    }
}
