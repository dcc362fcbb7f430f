//! Who uses up the ephemeral ports, and where to connects failed for want of one.

pub(crate) mod fullest;
pub(crate) mod no_local_port;
pub(crate) mod walks;
