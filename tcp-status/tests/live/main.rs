//! The tracker on the running kernel, one network namespace per test. The oracle is the kernel's
//! own listing, read by code that the tracker does not share.

mod accept_latency;
mod attaching;
mod battery;
mod between_polls;
mod cgroups;
mod cgroups_elsewhere;
mod churn;
mod ends;
mod ends_by_network;
mod ends_by_peer;
mod floods;
mod forecast;
mod half_open;
mod history;
mod listeners_elsewhere;
mod local_ports;
mod many_namespaces;
mod namespace_names;
mod namespaces;
mod nested;
mod onsets;
mod pacing;
mod port_slots;
mod ports;
mod preemption;
mod seeding;
mod split;
mod states;
mod subject;
mod unreported;
mod walks;
mod witness;
