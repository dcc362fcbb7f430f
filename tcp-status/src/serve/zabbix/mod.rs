//! What Zabbix needs of this program: answers to passive checks without an agent, and the agent's
//! configuration file.

pub mod key;
pub mod passive;
pub mod wire;
