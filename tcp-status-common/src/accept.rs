//! Time in the accept queue: where a socket has when it was queued, and the histogram of a port.

/// Upper bounds of the buckets in microseconds, each part of its bucket; one more bucket has none.
pub const BOUNDS: [u32; 12] = [
    1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// How many buckets there are.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// What the program at the exit of `inet_csk_accept()` must know about the running kernel, beside
/// [`KernelLayout`](crate::kernel_layout::KernelLayout).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AcceptLayout {
    /// `struct tcp_sock`: `lsndtime`, 4 bytes: jiffies when the connection was established, until it
    /// sends data.
    pub lsndtime: u32,
    /// `struct tcp_sock`: the byte of the bit field `syn_data_acked`.
    pub syn_data_acked: u32,
    /// Its bit in there.
    pub syn_data_acked_mask: u32,
    /// [`BOUNDS`] in whole jiffies.
    pub bounds: [u32; BOUNDS.len()],
}

const _: () = assert!(size_of::<AcceptLayout>() == 60);

impl AcceptLayout {
    /// What the loader replaces.
    pub const NONE: Self = Self {
        lsndtime: 0,
        syn_data_acked: 0,
        syn_data_acked_mask: 0,
        bounds: [0; BOUNDS.len()],
    };
}

/// Accepted connections of one port since its first one; every addition is atomic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AcceptTimes {
    /// How many there were, by bucket.
    pub buckets: [u64; BUCKETS],
    /// The sum of their times, in jiffies.
    pub jiffies: u64,
}

const _: () = assert!(size_of::<AcceptTimes>() == 112);

impl AcceptTimes {
    /// None.
    pub const NONE: Self = Self {
        buckets: [0; BUCKETS],
        jiffies: 0,
    };
}

/// The key of all ports that are not counted individually. No connection has it.
pub const OTHER_PORT: u32 = 0;
