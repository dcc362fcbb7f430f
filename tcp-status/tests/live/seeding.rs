//! The last resort: a kernel that refuses the iterator.

use std::time::Duration;

use tcp_status::kernel::plan::{EbpfPlan, SeedMethod};
use tcp_status_testkit::{
    churn::Churn,
    hold::{Hold, Plan},
    raise_fd_limit, seed,
};

use crate::subject::{SOON, Subject, place, turn};

fn procfs(plan: EbpfPlan) -> EbpfPlan {
    EbpfPlan {
        seed: SeedMethod::Procfs,
        ..plan.reduced("the test wants no iterator".into())
    }
}

#[test]
fn without_the_iterator_procfs_seeds_and_the_audit_settles_the_doubt() {
    let Some(netns) = place() else { return };
    let _turn = turn();
    raise_fd_limit().unwrap();
    let plan = Plan::random(20, seed());
    netns
        .run(|| {
            let hold = Hold::new(&plan).unwrap();
            hold.wait(Duration::from_secs(10)).unwrap();
            let churn = Churn {
                workers: 2,
                connections: None,
                duration: None,
                seed: seed(),
            };
            let churn = churn.start().unwrap();
            let subject = Subject::start_with(procfs, 0.05);
            let doubt = subject
                .snapshot()
                .degraded
                .expect("a seed from procfs is in doubt");
            assert!(doubt.contains("procfs"), "{doubt}");
            churn.stop().unwrap();
            subject.assert_exact_within(2 * SOON);
            subject.vouched_within(2 * SOON);
        })
        .unwrap();
}
