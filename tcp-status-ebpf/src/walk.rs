//! The seeding walk: visits every entry of the namespace once.

use tcp_status_common::{
    control::Mode,
    counters::Writer,
    state::{Family, NEW_SYN_RECV, State},
};

use crate::{
    count::{self, Place},
    host::Sock,
    maps::{CONTROL, SEEN, WALKED},
};

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
    const TIME_WAIT: u8 = State::TimeWait.number();
    const FIN_WAIT2: u8 = State::FinWait2.number();
    match sock.state() {
        TIME_WAIT => match sock.timewait_substate() {
            Ok(FIN_WAIT2) => walked.finwait2[family.index()] += 1,
            Ok(_) => walked.timewait[family.index()] += 1,
            Err(_) => count::failed(Writer::Walk),
        },
        NEW_SYN_RECV => walked.requests[family.index()] += 1,
        state => {
            let Some(place) = Place::new(family.index(), u32::from(state)) else {
                return;
            };
            if !place.is_closed() && seed(sock, place) {
                walked.sockets += 1;
            }
        }
    }
}

/// Counts a socket that no event has counted yet.
#[inline(always)]
fn seed(sock: Sock, place: Place) -> bool {
    let (Some(control), Some(seen)) = (CONTROL.get(0), SEEN.get(0)) else {
        count::failed(Writer::Walk);
        return false;
    };
    let Some(bank) = Mode::seed(control.mode) else {
        return false;
    };
    let key = sock.0 as u64;
    if seen.insert(key, place.pack(), 1).is_ok() {
        count::seed(Writer::Walk, bank, place, 1);
        return true;
    }
    if seen.get_ptr(key).is_none() {
        count::failed(Writer::Walk);
    }
    false
}
