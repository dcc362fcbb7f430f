//! From the types of real kernels to the plan: `btf/` beside this file holds what
//! `cargo xtask types` kept of them.

use std::path::Path;

use tcp_status::{
    kernel::{
        facts::{Capabilities, Facts},
        layout::KernelTypes,
        plan::{Backend, BackendPlan, EbpfPlan},
    },
    snapshot::Tier,
};
use tcp_status_common::kernel_layout::KernelLayout;

fn types(kernel: &str) -> KernelTypes {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/btf");
    KernelTypes::read(&folder.join(format!("{kernel}.btf")))
        .unwrap()
        .0
}

fn plan(types: KernelTypes) -> BackendPlan {
    let facts = Facts {
        release: None,
        types: Ok(types),
        capabilities: Some(Capabilities::from_mask(u64::MAX)),
        lockdown: None,
        cgroup2: Ok(()),
    };
    BackendPlan::from_facts(&facts, Backend::Auto).unwrap()
}

fn tracked(types: KernelTypes) -> EbpfPlan {
    match plan(types) {
        BackendPlan::Ebpf(plan) => plan,
        BackendPlan::Scan { reason } => panic!("{reason}"),
    }
}

/// What a kernel does with programs.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    recursion_guard: u32,
    two_copies: u32,
    per_task_tokens: u32,
    bottom_halves_preemptible: u32,
}

fn behaviour(host: &KernelLayout) -> Behaviour {
    Behaviour {
        recursion_guard: host.recursion_guard,
        two_copies: host.two_copies,
        per_task_tokens: host.per_task_tokens,
        bottom_halves_preemptible: host.bottom_halves_preemptible,
    }
}

#[test]
fn additions_are_plain_only_where_the_kernel_has_a_recursion_guard() {
    const PLAIN: Behaviour = Behaviour {
        recursion_guard: 1,
        two_copies: 1,
        per_task_tokens: 0,
        bottom_halves_preemptible: 0,
    };
    for (kernel, expected) in [
        (
            "debian-x86_64-5.10.223",
            Behaviour {
                recursion_guard: 0,
                two_copies: 0,
                per_task_tokens: 1,
                ..PLAIN
            },
        ),
        ("debian-x86_64-6.1.176", PLAIN),
        (
            "debian-rt-x86_64-6.12.117",
            Behaviour {
                bottom_halves_preemptible: 1,
                ..PLAIN
            },
        ),
        (
            "mainline-x86_64-7.1",
            Behaviour {
                per_task_tokens: 1,
                ..PLAIN
            },
        ),
    ] {
        let plan = tracked(types(kernel));
        assert_eq!(behaviour(&plan.layout), expected, "{kernel}");
        assert_eq!((plan.tier(), plan.reason), (Tier::Full, None), "{kernel}");
        assert_eq!(plan.layout.sk_protocol_mask, 0xffff, "{kernel}");
    }
}

/// A cookie that is never given again since 5.12; before, the random number that the kernel mixes into
/// hashes, beside the inode number.
#[test]
fn a_namespace_is_identified_by_its_cookie_or_by_what_stands_in_for_it() {
    for (kernel, has_cookie) in [
        ("debian-x86_64-5.10.223", false),
        ("debian-x86_64-6.1.176", true),
        ("mainline-x86_64-7.1", true),
    ] {
        let layout = types(kernel).layout.unwrap();
        assert_eq!(layout.net_cookie > 0, has_cookie, "{kernel}");
        assert!(layout.net_hash_mix > 0, "{kernel}");
        assert!(layout.net_inum > 0, "{kernel}");
    }
}

/// One array of listeners and a counter of minisockets before 5.19, then a table of their own and a
/// counter of references.
#[test]
fn the_socket_tables_are_found() {
    for (kernel, listener_array, death_row_none) in [
        ("debian-x86_64-5.10.223", 32, 0),
        ("debian-x86_64-6.1.176", 0, 1),
        ("mainline-x86_64-7.1", 0, 1),
    ] {
        let layout = types(kernel).layout.unwrap();
        assert_eq!(layout.lists_tables, 1, "{kernel}");
        assert_eq!(layout.listener_array, listener_array, "{kernel}");
        assert_eq!(layout.death_row_none, death_row_none, "{kernel}");
        assert_eq!(layout.death_row_pointer, 0, "{kernel}");
        assert_eq!((layout.listener_stride, layout.listener_head), (2, 1));
        assert!(layout.net_death_row > 0 && layout.skc_nulls_node > 0);
    }
    for kernel in OLD {
        assert_eq!(types(kernel).layout.unwrap().lists_tables, 0, "{kernel}");
    }
}

const OLD: [&str; 2] = [
    "centos-8.1-aarch64-4.18.0-147.5.1",
    "openeuler-x86_64-4.19.90-2107",
];

#[test]
fn a_protocol_among_bit_fields_is_read() {
    for kernel in OLD {
        let host = types(kernel).layout.unwrap();
        assert_eq!(host.sk_protocol_mask, 0xff, "{kernel}");
        // It is the second byte of its word, behind eight single bits.
        assert_eq!(host.sk_protocol % 4, 1, "{kernel}");
    }
}

#[test]
fn a_kernel_without_typed_tracepoints_leaves_the_scan() {
    for kernel in OLD {
        let BackendPlan::Scan { reason } = plan(types(kernel)) else {
            panic!("{kernel} has no typed tracepoints");
        };
        assert!(reason.contains("inet_sock_set_state"), "{kernel}: {reason}");
    }
}

/// Later kernels of RHEL 8 have the same sockets, and programs as in 5.10 or later.
#[test]
fn with_typed_tracepoints_a_kernel_of_rhel_8_gets_the_full_tier_and_atomic_additions() {
    for current_task_btf in [false, true] {
        let plan = tracked(KernelTypes {
            tracepoint: true,
            tcp_iterator: true,
            current_task_btf,
            ..types(OLD[0])
        });
        assert_eq!((plan.tier(), &plan.reason), (Tier::Full, &None));
        assert_eq!(
            behaviour(&plan.layout),
            Behaviour {
                recursion_guard: 0,
                two_copies: current_task_btf.into(),
                per_task_tokens: 1,
                bottom_halves_preemptible: 0,
            }
        );
    }
}

#[test]
fn the_cgroup_of_a_socket_is_found_where_its_id_is_an_inode_number() {
    for (kernel, tagged) in [
        ("debian-x86_64-5.10.223", 1),
        ("debian-x86_64-6.1.176", 0),
        ("mainline-x86_64-7.1", 0),
    ] {
        let plan = tracked(types(kernel));
        assert_eq!(plan.cgroups_reason, None, "{kernel}");
        let layout = plan.layout;
        assert_eq!(
            (layout.counts_cgroups, layout.cgroup_is_tagged),
            (1, tagged),
            "{kernel}"
        );
    }
    // Ids are a union there, of which the inode number is a part.
    let layout = types("centos-8.1-aarch64-4.18.0-147.5.1").layout.unwrap();
    assert_eq!(layout.sk_cgrp_data, 0);
}
