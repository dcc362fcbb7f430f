//! The hook that measures time in accept queues, as far as the running kernel's types show it.

use aya::Btf;
use aya_obj::btf::BtfKind;
use tcp_status_common::accept::{AcceptLayout, BOUNDS};

use super::btf::{MemberLocation, Types};

/// What accepts: the kernel calls it for every connection of a listener.
pub const ACCEPT: &str = "inet_csk_accept";

/// What the programs need for the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptHook {
    /// For the program.
    pub layout: AcceptLayout,
    /// Which form the function has.
    pub form: AcceptForm,
}

/// The parameters of `inet_csk_accept()`, behind which its program finds what it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptForm {
    /// `sk, arg`: from 6.10 on.
    Argument,
    /// `sk, flags, err, kern`.
    Flags,
}

impl AcceptHook {
    /// In a kernel with `hz` jiffies per second. The error is the cause, and what to do.
    pub(super) fn of(btf: &Btf, types: &Types<'_>, hz: u32) -> Result<Self, String> {
        let id = |name, kind| btf.id_by_type_name_kind(name, kind).ok();
        // Before it came (5.12), a call that sleeps while a program is detached from its end returns to
        // memory that is free.
        if id("bpf_tramp_image", BtfKind::Struct).is_none() {
            let why = "the kernel frees a program while accept() still sleeps in its function";
            return Err(format!("{why}; use kernel 5.12 or newer"));
        }
        let parameters = id(ACCEPT, BtfKind::Func).and_then(|id| types.parameters(id));
        let form = match parameters {
            Some(2) => AcceptForm::Argument,
            Some(4) => AcceptForm::Flags,
            Some(other) => {
                return Err(format!(
                    "{ACCEPT}() has {other} parameters; report it as a bug"
                ));
            }
            None => return Err(format!("the kernel has no function {ACCEPT} to attach to")),
        };
        let tcp_sock = id("tcp_sock", BtfKind::Struct);
        let find = |member: &str| {
            let found = tcp_sock.and_then(|id| types.locate(id, member));
            found.ok_or_else(|| {
                format!("struct tcp_sock has no member {member}; report it as a bug")
            })
        };
        let MemberLocation { bits: lsndtime, .. } = find("lsndtime")?;
        let MemberLocation { bits: flag, .. } = find("syn_data_acked")?;
        Ok(Self {
            layout: AcceptLayout {
                lsndtime: lsndtime / 8,
                syn_data_acked: flag / 8,
                syn_data_acked_mask: 1 << (flag % 8),
                bounds: BOUNDS.map(|bound| whole_jiffies(bound, hz)),
            },
            form,
        })
    }
}

/// A time in microseconds, rounded down.
fn whole_jiffies(microseconds: u32, hz: u32) -> u32 {
    let jiffies = u64::from(microseconds) * u64::from(hz) / 1_000_000;
    u32::try_from(jiffies).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tcp_status_common::accept::BOUNDS;

    use super::whole_jiffies;

    /// So many jiffies belong to a bucket if they are no longer than its bound.
    #[test]
    fn bounds_are_what_fits_in_whole_jiffies() {
        assert_eq!(
            BOUNDS.map(|bound| whole_jiffies(bound, 250))[..5],
            [0, 1, 2, 6, 12]
        );
        assert_eq!(
            BOUNDS.map(|bound| whole_jiffies(bound, 100))[..5],
            [0, 0, 1, 2, 5]
        );
        assert_eq!(whole_jiffies(10_000_000, 1000), 10_000);
    }
}
