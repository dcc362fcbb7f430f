//! `check`: what this host offers, and the tier that follows. Attaches, to be sure, and detaches.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use super::{args::CheckOptions, exit::Verdict, self_test};
use crate::{
    bpf::MapLimits,
    kernel::{
        facts::Facts,
        plan::{Backend, BackendPlan},
    },
    serve::protocol::Show,
    snapshot::{Snapshot, Tier},
    track::{self, Pace, Settings},
    view::print,
};

/// Nothing is audited in the moment that the check takes.
const SETTINGS: Settings = Settings {
    pace: Pace {
        interval: Duration::from_secs(3600),
        share: 0.005,
    },
    split_interval: Duration::from_secs(1),
    sample_interval: Duration::from_secs(1),
    all_namespaces: false,
    limits: MapLimits {
        ports: 16,
        namespaces: 1,
        cgroups: 0,
    },
    // The tier that follows is what is asked for.
    attach_later: false,
    accept_latency: false,
};

pub(super) fn check(options: &CheckOptions) -> anyhow::Result<Verdict> {
    let (facts, _) = Facts::probe();
    let mut text = String::new();
    describe(&mut text, &facts)?;
    if options.self_test {
        return self_test(text);
    }
    let (tier, reason) = match BackendPlan::from_facts(&facts, Backend::Ebpf) {
        Ok(_) => match attach() {
            Ok(snapshot) => (snapshot.tier, snapshot.tier_reason),
            Err(error) => (Tier::Scan, Some(format!("{error:#}"))),
        },
        Err(impossible) => (Tier::Scan, Some(impossible.0)),
    };
    row(&mut text, "tier", tier.name())?;
    if let Some(reason) = reason {
        row(&mut text, "reason", &reason)?;
    }
    print(&text)?;
    Ok(Verdict::Yes)
}

/// Prints what `text` says of the host, and whether sockets in every state are counted exactly.
fn self_test(mut text: String) -> anyhow::Result<Verdict> {
    let report = self_test::run(SETTINGS)?;
    row(&mut text, "tier", report.snapshot.tier.name())?;
    if let Some(reason) = &report.snapshot.tier_reason {
        row(&mut text, "reason", reason)?;
    }
    let netns = match report.isolated {
        true => "of its own",
        false => "of the caller",
    };
    row(&mut text, "network namespace", netns)?;
    text.push('\n');
    report.write(&mut text)?;
    print(&text)?;
    Ok(match report.is_right() {
        true => Verdict::Yes,
        false => Verdict::No,
    })
}

/// Loads, attaches, seeds, reads once, and takes everything out again.
fn attach() -> anyhow::Result<Snapshot> {
    let running = track::start(Backend::Ebpf, SETTINGS)?;
    let snapshots = running.source.show(&Show::default())?;
    let first = snapshots.into_iter().next();
    first.ok_or_else(|| anyhow::anyhow!("cannot read counts: there are none; report it as a bug"))
}

fn describe(out: &mut String, facts: &Facts) -> fmt::Result {
    row(out, "kernel", facts.release.as_deref().unwrap_or("unknown"))?;
    match &facts.types {
        Ok(types) => {
            let offsets = types
                .layout
                .as_ref()
                .map_or_else(String::as_str, |_| "all found");
            row(out, "kernel types (BTF)", "present")?;
            row(out, "offsets", offsets)?;
            row(out, "inet_sock_set_state", there(types.tracepoint))?;
            row(out, "iter/tcp", there(types.tcp_iterator))?;
            row(out, "current task", there(types.current_task_btf))?;
            let hooks = match types.missing_timewait_hooks.as_slice() {
                [] => "present".into(),
                missing => format!("missing: {}", missing.join(", ")),
            };
            row(out, "timewait functions", &hooks)?;
        }
        Err(why) => row(out, "kernel types (BTF)", why)?,
    }
    let held = |held: fn(&_) -> bool| match &facts.capabilities {
        Some(capabilities) if held(capabilities) => "held",
        Some(_) => "not held",
        None => "unknown",
    };
    row(
        out,
        "CAP_BPF",
        held(|of: &crate::kernel::facts::Capabilities| of.bpf),
    )?;
    row(out, "CAP_PERFMON", held(|of| of.perfmon))?;
    row(out, "CAP_SYS_ADMIN", held(|of| of.sys_admin))?;
    row(
        out,
        "lockdown",
        facts.lockdown.as_deref().unwrap_or("not built in"),
    )?;
    let cgroup2 = facts.cgroup2.as_ref();
    row(
        out,
        "cgroup2",
        cgroup2.err().map_or("mounted", String::as_str),
    )
}

const fn there(is: bool) -> &'static str {
    if is { "present" } else { "missing" }
}

fn row(out: &mut String, name: &str, value: &str) -> fmt::Result {
    writeln!(out, "{name:<22}{value}")
}

#[cfg(test)]
mod tests {
    use super::describe;
    use crate::kernel::facts::{Capabilities, Facts};

    #[test]
    fn unknown_is_not_no() {
        let mut facts = Facts {
            release: None,
            types: Err("read kernel types, on /sys: gone".into()),
            capabilities: None,
            lockdown: None,
            cgroup2: Err("no cgroup2 hierarchy is mounted".into()),
        };
        let mut text = String::new();
        describe(&mut text, &facts).unwrap();
        assert!(text.contains("CAP_BPF               unknown\n"), "{text}");
        assert!(
            text.contains("kernel types (BTF)    read kernel types, on /sys: gone\n"),
            "{text}"
        );
        facts.capabilities = Some(Capabilities {
            bpf: true,
            perfmon: false,
            sys_admin: false,
        });
        text.clear();
        describe(&mut text, &facts).unwrap();
        assert!(text.contains("CAP_BPF               held\n"), "{text}");
        assert!(text.contains("CAP_PERFMON           not held\n"), "{text}");
    }
}
