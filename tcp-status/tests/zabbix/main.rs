//! What Zabbix gets without an agent, and what `tcp-status zabbix` does with an agent's files.
//! Real servers and agents are tried by `cargo xtask zabbix` and in `zabbix_agent`.

mod passive;
mod probe;
mod setup;
