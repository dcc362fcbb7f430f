//! x
use std::{sync::Arc, time::*};
use tcp_status::{
    kernel::{facts::Facts, plan::*, procfs},
    server::{Source, protocol::*},
    track::*,
};
use tcp_status_common::state::*;
fn main() {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("debug")).init();
    let t = Instant::now();
    let (facts, btf) = Facts::probe();
    println!("probe {:?}", t.elapsed());
    let Plan::Ebpf(plan) = Plan::from_facts(&facts, Backend::Ebpf).unwrap() else {
        panic!()
    };
    let t = Instant::now();
    let tr = Arc::new(
        Tracker::start(
            plan,
            &btf.unwrap(),
            Settings {
                pace: Pace {
                    interval: Duration::from_secs(1),
                    share: 0.005,
                },
                split_interval: Duration::from_secs(1),
            },
        )
        .unwrap(),
    );
    println!("start {:?}", t.elapsed());
    let _a = Auditor::spawn(Arc::clone(&tr)).unwrap();
    let secs: u64 = std::env::args()
        .nth(1)
        .and_then(|a| a.parse().ok())
        .unwrap_or(3);
    for _ in 0..secs {
        std::thread::sleep(Duration::from_millis(1100));
        let t = Instant::now();
        let s = &tr.show(&Show::default()).unwrap()[0];
        let e = t.elapsed();
        let l = procfs::listing(None).unwrap();
        let mut d = String::new();
        for st in State::ALL {
            for (f, a, b) in [(4, s.ipv4[st], l.ipv4[st]), (6, s.ipv6[st], l.ipv6[st])] {
                if a != b {
                    d += &format!("{st}/{f}: {a} vs {b}; ");
                }
            }
        }
        println!(
            "{e:?} total {} diff [{d}] degraded {:?} drift {:?} events {:?}",
            s.states.total(),
            s.degraded,
            s.drift.corrections,
            s.events
        );
    }
}
