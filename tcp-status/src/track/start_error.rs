//! Why counting cannot start.

use std::io;

use super::seed::seeding::SeedError;
use crate::{
    bpf::BpfError,
    kernel::{plan::BackendUnavailable, procfs, sock_diag},
};

/// Counting cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `--backend ebpf`, and a prerequisite of eBPF is missing.
    #[error(transparent)]
    BackendUnavailable(#[from] BackendUnavailable),
    /// The kernel refused a program or a map.
    #[error(transparent)]
    Load(#[from] BpfError),
    /// The first seeding failed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The kernel's tables cannot be read.
    #[error(transparent)]
    Procfs(#[from] procfs::Error),
    /// The kernel's tables cannot be dumped.
    #[error(transparent)]
    SockDiag(#[from] sock_diag::Error),
    /// The network namespace of this process is unknown.
    #[error("cannot read the network namespace of this process: {0}; mount /proc")]
    Netns(io::Error),
    /// A thread cannot be created.
    #[error("cannot start a thread: {0}; raise the limit of tasks")]
    Thread(io::Error),
}
