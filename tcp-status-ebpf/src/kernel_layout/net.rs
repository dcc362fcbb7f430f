//! `struct net`: a network namespace.

use tcp_status_common::counters::NetnsId;

use super::Sock;

/// A pointer that the verifier knows as `struct net *`.
#[derive(Clone, Copy)]
pub(crate) struct Net(pub(super) Sock);

impl Net {
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0.0 as u64
    }

    /// Inode number, as `/proc/PID/ns/net` shows it.
    #[inline(always)]
    pub(crate) fn inode(self) -> u32 {
        self.0.read(layout!(net_inum))
    }

    /// What identifies it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what differs is in the lower half"
    )]
    #[inline(always)]
    pub(crate) fn id(self) -> NetnsId {
        if layout!(net_cookie) != 0 {
            return self.0.read(layout!(net_cookie));
        }
        let mix = match layout!(net_hash_mix) {
            0 => self.address() as u32,
            hash_mix => self.0.read(hash_mix),
        };
        synthetic_id(mix, self.inode())
    }
}

/// What stands in for the cookie.
#[inline(always)]
fn synthetic_id(mix: u32, inode: u32) -> NetnsId {
    u64::from(mix) << 32 | u64::from(inode)
}

/// The address of what is, or was, a `struct net`; the verifier does not know it.
#[derive(Clone, Copy)]
pub(crate) struct UntypedNet(pub(crate) u64);

impl UntypedNet {
    #[inline(always)]
    fn probe<T>(self, offset: u32) -> Result<T, i32> {
        Sock(self.0 as *const u8).probe(offset)
    }

    /// Whether the namespace `id` is still there, and not being destroyed.
    #[inline(always)]
    pub(crate) fn is_live(self, id: NetnsId) -> Result<bool, i32> {
        Ok(self.identity()?.0 == id && self.probe::<u32>(layout!(net_count))? != 0)
    }

    /// What identifies it, and its inode number.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what differs is in the lower half"
    )]
    #[inline(always)]
    pub(crate) fn identity(self) -> Result<(NetnsId, u32), i32> {
        let inode: u32 = self.probe(layout!(net_inum))?;
        let id = if layout!(net_cookie) != 0 {
            self.probe(layout!(net_cookie))?
        } else {
            let mix = match layout!(net_hash_mix) {
                0 => self.0 as u32,
                hash_mix => self.probe(hash_mix)?,
            };
            synthetic_id(mix, inode)
        };
        Ok((id, inode))
    }

    #[inline(always)]
    fn death_row(self) -> Result<Sock, i32> {
        let row = if layout!(death_row_pointer) == 1 {
            self.probe(layout!(net_death_row))?
        } else {
            self.0 + u64::from(layout!(net_death_row))
        };
        Ok(Sock(row as *const u8))
    }

    /// Address of the `struct inet_hashinfo` that has its sockets.
    #[inline(always)]
    pub(crate) fn hashinfo(self) -> Result<u64, i32> {
        self.death_row()?.probe(layout!(death_row_hashinfo))
    }

    /// The kernel's own number of its timewait minisockets.
    #[inline(always)]
    pub(crate) fn timewait(self) -> Result<u32, i32> {
        let count: u32 = self.death_row()?.probe(layout!(death_row_timewait))?;
        Ok(count.wrapping_sub(layout!(death_row_none)))
    }
}
