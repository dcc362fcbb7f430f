//! What `cargo xtask` and its tests share: the eBPF object that is kept in the repository, and
//! the record that ties it to its sources. The subcommands are in the binary.

pub mod object;
