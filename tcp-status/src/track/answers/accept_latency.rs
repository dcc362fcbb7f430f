//! Time in accept queues: whether it is measured, why not, and what was measured.

use std::{collections::BTreeSet, sync::Mutex};

use aya::Btf;
use tcp_status_common::counters::{NetnsId, OWN_NETNS};

use crate::{
    bpf::{Bpf, BpfError},
    kernel::plan::EbpfPlan,
    snapshot::AcceptLatency,
    track::resources::sync::lock,
};

/// Why it is not measured unless somebody wants it.
const SWITCHED_OFF: &str = "switched off; start the tracker with --accept-latency";

/// Why it is not measured in the meantime.
const ATTACHING: &str = "attaching";

/// Whether connections are measured when they are accepted.
pub(crate) struct AcceptMeter {
    /// Why not; none where they are.
    reason: Mutex<Option<String>>,
    /// Jiffies per second.
    hz: u32,
}

impl AcceptMeter {
    /// Loads the program, if somebody wants it and the kernel can have it.
    pub(crate) fn load(bpf: &Bpf, btf: &Btf, plan: &EbpfPlan, wanted: bool) -> Self {
        let load = || {
            let form = plan.accept.as_ref().map_err(Clone::clone)?.form;
            let loaded = bpf.load_accept(btf, form);
            loaded.map_err(|error| error.to_string())
        };
        let reason = match wanted {
            true => load().map_or_else(warn, |()| ATTACHING.into()),
            false => SWITCHED_OFF.into(),
        };
        Self {
            reason: Mutex::new(Some(reason)),
            hz: plan.layout.hz,
        }
    }

    /// Notes how `attach` ends, which blocks for as long as the kernel takes. `refused` is why the tier
    /// is reduced, in which nothing is attached.
    pub(crate) fn attach(
        &self,
        refused: Option<String>,
        attach: impl FnOnce() -> Result<(), BpfError>,
    ) {
        if self.reason().as_deref() != Some(ATTACHING) {
            return;
        }
        let attached = match refused {
            Some(reason) => Err(format!("the tier is reduced: {reason}")),
            None => attach().map_err(|error| error.to_string()),
        };
        *lock(&self.reason) = attached.err().map(warn);
    }

    /// Why they are not measured.
    pub(crate) fn reason(&self) -> Option<String> {
        lock(&self.reason).clone()
    }

    /// What was measured in the tracker's namespace since start, in ascending order of ports.
    pub(crate) fn read(&self, bpf: &Bpf) -> Result<Vec<AcceptLatency>, BpfError> {
        let times = bpf.accept_times()?;
        let rows = times.iter().map(|(&port, times)| {
            let sum = times.jiffies as f64 / f64::from(self.hz);
            AcceptLatency::new(u16::try_from(port).ok(), times.buckets, sum)
        });
        Ok(rows.filter(|row| row.accepted > 0).collect())
    }
}

/// Forgets what was measured at ports that are no longer counted individually.
pub(crate) fn forget_all_but(ports: &BTreeSet<(NetnsId, u16)>, bpf: &Bpf) -> Result<(), BpfError> {
    bpf.forget_accept_times(|port| {
        let port = u16::try_from(port).unwrap_or_default();
        !ports.contains(&(OWN_NETNS, port))
    })
}

/// Logs why what the user asked for is absent.
pub(crate) fn warn(reason: String) -> String {
    log::warn!(reason = reason.as_str(); "accept latency not measured");
    reason
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{ATTACHING, AcceptMeter, BpfError, Mutex, SWITCHED_OFF};

    fn meter(reason: &str) -> AcceptMeter {
        AcceptMeter {
            reason: Mutex::new(Some(reason.into())),
            hz: 250,
        }
    }

    #[test]
    fn it_measures_once_it_is_attached() {
        let meter = meter(ATTACHING);
        meter.attach(None, || Ok(()));
        assert_eq!(meter.reason(), None);
    }

    #[test]
    fn what_was_refused_says_why() {
        let refused = meter(ATTACHING);
        refused.attach(None, || {
            Err(BpfError::Program {
                name: "accept_exit",
                why: io::Error::from_raw_os_error(libc::E2BIG).into(),
            })
        });
        let reason = refused.reason().unwrap();
        assert!(
            reason.contains("accept_exit: Argument list too long"),
            "{reason}"
        );
        let reduced = meter(ATTACHING);
        reduced.attach(Some("no hooks".into()), || panic!("the tier is reduced"));
        assert_eq!(
            reduced.reason().as_deref(),
            Some("the tier is reduced: no hooks")
        );
    }

    #[test]
    fn what_nobody_wants_is_not_attached() {
        let off = meter(SWITCHED_OFF);
        off.attach(None, || panic!("nobody wants it"));
        assert_eq!(off.reason().as_deref(), Some(SWITCHED_OFF));
    }
}
