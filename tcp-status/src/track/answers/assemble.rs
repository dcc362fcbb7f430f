//! Combines gauges with minisockets and request sockets into the counts that the kernel lists. Pure.

use tcp_status_common::state::{Family, State};

use crate::{
    snapshot::Counts,
    track::{gauge::Gauges, minisockets::split::Split},
};

/// The counts of IPv4 and of IPv6.
pub type FamilyCounts = [Counts; Family::COUNT];

/// Counts that full sockets do not include, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuxCounts {
    /// The kernel's total of timewait minisockets, both families and substates.
    pub minisockets: u64,
    /// Minisockets in FIN_WAIT2, by family, at the last split.
    pub finwait2: [u64; Family::COUNT],
    /// Minisockets in TIME_WAIT, by family, at the last split.
    pub timewait: [u64; Family::COUNT],
    /// Request sockets, by family.
    pub requests: [u64; Family::COUNT],
}

/// The counts of IPv4 and of IPv6.
#[must_use]
pub fn assemble(gauges: &Gauges, aux: &AuxCounts) -> FamilyCounts {
    let (finwait2, timewait) = split(aux);
    Family::ALL.map(|family| {
        let i = family.index();
        let mut counts = Counts::default();
        for state in State::ALL {
            counts[state] = match state {
                // The kernel lists no closed socket.
                State::Closed => 0,
                State::TimeWait => timewait[i],
                State::FinWait2 => gauges.get(family, state) + finwait2[i],
                State::SynRecv => gauges.get(family, state) + aux.requests[i],
                _ => gauges.get(family, state),
            };
        }
        counts
    })
}

/// The counts of one local port. The kernel has no totals by port, so minisockets are those of the last
/// split. `requests` are its request sockets.
#[must_use]
pub fn assemble_port(
    gauges: &Gauges,
    split: &Split,
    requests: [u64; Family::COUNT],
) -> FamilyCounts {
    let minisockets = split.timewait.iter().chain(&split.finwait2).sum();
    assemble(
        gauges,
        &AuxCounts {
            minisockets,
            finwait2: split.finwait2,
            timewait: split.timewait,
            requests,
        },
    )
}

/// Scales the parts of the last split so that their sum is the kernel's current total.
fn split(aux: &AuxCounts) -> ([u64; Family::COUNT], [u64; Family::COUNT]) {
    let part = |whole: u64, [a, b]: [u64; 2]| {
        let scaled = u128::from(whole) * u128::from(b) / u128::from((a + b).max(1));
        let b = u64::try_from(scaled).unwrap_or(whole);
        [whole - b, b]
    };
    let finwait2 = aux.finwait2.iter().sum::<u64>().min(aux.minisockets);
    (
        part(finwait2, aux.finwait2),
        part(aux.minisockets - finwait2, aux.timewait),
    )
}

#[cfg(test)]
mod tests {
    use super::{AuxCounts, Counts, Gauges, State, assemble};

    fn sum(counts: [Counts; 2], state: State) -> u64 {
        counts[0][state] + counts[1][state]
    }

    #[test]
    fn each_state_is_what_the_kernel_lists() {
        let mut gauges = Gauges::default();
        gauges.0[0] = [0, 10, 1, 2, 3, 4, 0, 9, 5, 6, 7, 8];
        let [v4, v6] = assemble(
            &gauges,
            &AuxCounts {
                minisockets: 30,
                finwait2: [5, 6],
                timewait: [10, 9],
                requests: [100, 1000],
            },
        );
        assert_eq!((v4[State::Established], v4[State::Closing]), (10, 8));
        assert_eq!((v4[State::SynRecv], v6[State::SynRecv]), (102, 1000));
        assert_eq!((v4[State::FinWait2], v6[State::FinWait2]), (9, 6));
        assert_eq!((v4[State::TimeWait], v6[State::TimeWait]), (10, 9));
        assert_eq!(v4[State::Closed], 0);
    }

    #[test]
    fn the_sum_of_minisockets_is_kept_whatever_the_parts_were() {
        for minisockets in [0, 1, 7, 19, 30, 1_000_000] {
            let aux = AuxCounts {
                minisockets,
                finwait2: [5, 6],
                timewait: [10, 9],
                ..AuxCounts::default()
            };
            let counts = assemble(&Gauges::default(), &aux);
            let total = sum(counts, State::FinWait2) + sum(counts, State::TimeWait);
            assert_eq!(total, minisockets);
        }
        let unknown = AuxCounts {
            minisockets: 3,
            ..AuxCounts::default()
        };
        assert_eq!(
            sum(assemble(&Gauges::default(), &unknown), State::TimeWait),
            3
        );
    }
}
