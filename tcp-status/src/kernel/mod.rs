//! What the kernel offers and what it lists, read from user space.

pub mod accept;
mod btf;
pub mod cgroups;
pub mod facts;
pub mod layout;
pub mod netns;
pub mod plan;
pub mod processes;
pub mod procfs;
pub mod quiesce;
pub mod sock_diag;
pub mod sysctl;
