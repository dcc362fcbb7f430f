//! What must hold, against the kernel's listing: values, discovered ports, triggers.

pub(super) mod discovery;
pub(super) mod triggers;
pub(super) mod values;
