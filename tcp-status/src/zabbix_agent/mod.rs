//! The agent's configuration file: where it belongs, what is there, and how it gets there.
//! Facts, then plan, then effect; nothing here asks the user or prints.

mod effect;
mod error;
pub mod facts;
mod include;
pub mod plan;
pub mod probe;

pub use effect::{EffectError, remove, write};
pub use error::FactsError;
pub use facts::{Agent, Kind, Setting};
pub use plan::{Change, ConfigPlan};

/// What the agent has to read: the file of the repository.
pub const CONFIGURATION: &str =
    include_str!("../../templates/zabbix/userparameter_tcp_status.conf");

/// Its name in the agent's folder.
pub const FILE: &str = "userparameter_tcp_status.conf";
