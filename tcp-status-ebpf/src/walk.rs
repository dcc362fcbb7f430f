//! The seeding walk: visits every entry of the namespace once.

use tcp_status_common::{
    counters::{Walked, Writer},
    state::{Family, MINI_FIN_WAIT2, NEW_SYN_RECV, State},
};

use crate::{
    count::{self, Place},
    host::{self, Sock},
    maps::{self, WALKED},
    seed,
};

const FIN_WAIT2: u8 = State::FinWait2.number();
const TIME_WAIT: u8 = State::TimeWait.number();

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub(crate) struct TcpIterContext {
    meta: *const u8,
    /// Null once, behind the last entry.
    pub(crate) sk_common: *const u8,
    uid: u32,
}

#[inline(always)]
pub(crate) fn visit(ctx: &TcpIterContext) {
    if ctx.sk_common.is_null() {
        return;
    }
    let sock = Sock(ctx.sk_common);
    let Some(family) = Family::from_address_family(sock.address_family()) else {
        return;
    };
    let Some(walked) = WALKED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map gave the pointer; one walk at a time, nothing else writes it.
    let walked = unsafe { &mut *walked };
    match sock.state() {
        TIME_WAIT => minisocket(sock, family.index(), walked),
        NEW_SYN_RECV => walked.requests[family.index()] += 1,
        state => {
            if let Some(place) = Place::new(family.index(), u32::from(state))
                && !place.is_closed()
                && visit_socket(sock, place)
            {
                walked.sockets += 1;
            }
        }
    }
}

/// Counted like full sockets where events follow them, else only looked at.
#[inline(always)]
fn minisocket(tw: Sock, family: usize, walked: &mut Walked) {
    let Ok(substate) = tw.timewait_substate() else {
        return count::failed(Writer::Walk);
    };
    let place = if substate == FIN_WAIT2 {
        walked.finwait2[family] += 1;
        MINI_FIN_WAIT2
    } else {
        walked.timewait[family] += 1;
        TIME_WAIT
    };
    if host::timewait_events()
        && let Some(place) = Place::new(family, u32::from(place))
    {
        visit_socket(tw, place);
    }
}

#[inline(always)]
fn visit_socket(sock: Sock, place: Place) -> bool {
    let bank = maps::control().and_then(|(_, mode)| mode.seed());
    bank.is_some_and(|bank| seed::visit(bank, sock.0, place))
}
