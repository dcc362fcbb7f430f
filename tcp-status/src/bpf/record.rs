//! Lets aya copy the shared types in and out of maps.

use tcp_status_common::{
    control::Control,
    counters::{Bank, Listeners, Walked, WriterStats},
    host::Host,
};

/// A shared type as a map holds it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Record<T>(pub(super) T);

macro_rules! plain_data {
    ($($shared:ty),+) => {
        $(
            // SAFETY: `repr(C)` with integers only and without implicit padding; any bytes are valid.
            unsafe impl aya::Pod for Record<$shared> {}
        )+
    };
}

plain_data!(Bank, Control, Host, Listeners, Walked, WriterStats);
