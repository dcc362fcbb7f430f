//! TIME_WAIT and FIN_WAIT2 of connections that have no full socket any more.

pub(crate) mod idle_ages;
pub(crate) mod split;
pub(crate) mod split_caches;
pub(crate) mod timewait_hooks;
