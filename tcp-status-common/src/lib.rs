//! What the eBPF programs and user space agree on: the states, and the layout
//! of everything that lies in a BPF map. No dependencies, no text beyond names.
#![cfg_attr(not(test), no_std)]

pub mod accept;
pub mod control;
pub mod counters;
pub mod ends;
pub mod kernel_layout;
pub mod no_local_port;
pub mod per_cpu;
pub mod state;
pub mod table;
