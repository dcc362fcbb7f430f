//! The hooks of timewait minisockets: how far they are attached decides whether events or a walk
//! split minisockets, and so the tier.

use std::sync::Mutex;

use crate::{
    bpf::BpfError,
    kernel::plan::{EbpfPlan, SplitMethod},
    snapshot::Tier,
    track::resources::sync::lock,
};

/// Why the tier is reduced in the meantime.
const ATTACHING: &str = "attaching: until the timewait hooks count, TIME_WAIT and FIN_WAIT2 are \
     separated by a filtered walk";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Missing or refused, and why.
    Absent(Option<String>),
    /// The kernel may take long.
    Attaching,
    /// Every bank that is seeded from now on counts timewait minisockets.
    Attached,
    /// So does the live one, with which readings begin.
    Counting,
}

/// The stage that the hooks are in.
pub(crate) struct TimewaitHooks(Mutex<Stage>);

impl TimewaitHooks {
    pub(crate) fn new(plan: &EbpfPlan) -> Self {
        Self(Mutex::new(match plan.split {
            SplitMethod::Events => Stage::Attaching,
            SplitMethod::Walk => Stage::Absent(plan.reason.clone()),
        }))
    }

    /// Whether [`TimewaitHooks::attach`] is due.
    pub(crate) fn are_pending(&self) -> bool {
        *lock(&self.0) == Stage::Attaching
    }

    /// Notes how `attach` ends, which blocks for as long as the kernel takes.
    pub(crate) fn attach(&self, attach: impl FnOnce() -> Result<(), BpfError>) {
        match attach() {
            Ok(()) => *lock(&self.0) = Stage::Attached,
            Err(refused) => {
                *lock(&self.0) = Stage::Absent(Some(refused.to_string()));
                self.log();
            }
        }
    }

    /// Why the tier stays reduced, if it does.
    pub(crate) fn refusal(&self) -> Option<String> {
        match &*lock(&self.0) {
            Stage::Absent(reason) => reason.clone(),
            _ => None,
        }
    }

    /// Whether seeding a bank makes the tier full.
    pub(crate) fn need_seeding(&self) -> bool {
        *lock(&self.0) == Stage::Attached
    }

    /// Readings that begin from now on are of a bank that counts timewait minisockets, if `counted`.
    pub(crate) fn bank_switched(&self, counted: bool) {
        let mut stage = lock(&self.0);
        if counted && *stage == Stage::Attached {
            *stage = Stage::Counting;
            drop(stage);
            self.log();
        }
    }

    pub(crate) fn log(&self) {
        let (tier, reason) = self.tier();
        log::info!(tier = tier.name(), reason = reason.as_deref(); "attached");
    }

    /// Where the split of minisockets comes from, in readings of counters that begin later: those
    /// that began before may be of a bank that does not count them.
    pub(crate) fn split(&self) -> SplitMethod {
        match *lock(&self.0) {
            Stage::Counting => SplitMethod::Events,
            _ => SplitMethod::Walk,
        }
    }

    /// The tier, and why it is not full.
    pub(crate) fn tier(&self) -> (Tier, Option<String>) {
        match &*lock(&self.0) {
            Stage::Absent(reason) => (Tier::Reduced, reason.clone()),
            Stage::Attaching | Stage::Attached => (Tier::Reduced, Some(ATTACHING.into())),
            Stage::Counting => (Tier::Full, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tcp_status_common::kernel_layout::KernelLayout;

    use super::{BpfError, SplitMethod, Tier, TimewaitHooks};
    use crate::kernel::plan::{EbpfPlan, SeedMethod};

    fn hooks() -> TimewaitHooks {
        TimewaitHooks::new(&EbpfPlan {
            layout: KernelLayout::default(),
            seed: SeedMethod::Iterator,
            walk_skips: false,
            split: SplitMethod::Events,
            cgroups_reason: None,
            accept: Err(String::new()),
            reason: None,
        })
    }

    fn assert_reduced(hooks: &TimewaitHooks, why: &str) {
        let (tier, reason) = hooks.tier();
        assert_eq!((tier, hooks.split()), (Tier::Reduced, SplitMethod::Walk));
        let reason = reason.unwrap();
        assert!(reason.contains(why), "{reason}");
    }

    #[test]
    fn the_tier_is_full_once_the_live_bank_counts_minisockets() {
        let hooks = hooks();
        assert!(hooks.are_pending() && !hooks.need_seeding());
        assert_reduced(&hooks, "attaching");
        // No bank counts them before they are attached.
        hooks.bank_switched(false);
        hooks.attach(|| Ok(()));
        assert!(!hooks.are_pending() && hooks.need_seeding());
        hooks.bank_switched(false);
        assert_reduced(&hooks, "attaching");
        hooks.bank_switched(true);
        assert!(!hooks.need_seeding());
        assert_eq!(hooks.tier(), (Tier::Full, None));
        assert_eq!(hooks.split(), SplitMethod::Events);
    }

    #[test]
    fn a_hook_that_is_refused_late_leaves_the_tier_reduced_and_says_why() {
        let hooks = hooks();
        hooks.attach(|| {
            Err(BpfError::Timewait {
                function: "inet_twsk_alloc",
                source: io::Error::from_raw_os_error(libc::E2BIG).into(),
            })
        });
        assert!(!hooks.are_pending() && !hooks.need_seeding());
        hooks.bank_switched(true);
        assert_reduced(&hooks, "to inet_twsk_alloc: Argument list too long");
    }
}
