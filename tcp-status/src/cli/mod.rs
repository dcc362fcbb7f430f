//! The command line: what may be said, what is done, and how the process ends.

pub mod args;
mod check;
mod client_commands;
mod complete;
pub mod exit;
mod help;
mod man;
mod panic;
mod parse;
mod passive;
pub mod push;
mod query;
pub mod query_args;
mod run;
mod self_test;
mod signals;
mod state_argument;
mod systemd;
pub mod template;
mod top;
mod usage;
mod verify;
mod who;
mod zabbix;

#[cfg(any(test, fuzzing))]
pub(crate) use usage::fuzz;

use std::{env, process::ExitCode};

use clap::{CommandFactory as _, Parser};

use args::{Cli, Command};
use exit::Verdict;
use query_args::GetOptions;

use crate::view::print;

/// What an agent starts a process for again and again: describing all commands to the parser would
/// cost it more than the question. What this does not understand, the whole description does, or
/// refuses.
#[derive(Parser)]
enum Frequent {
    Get(GetOptions),
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    match complete::answer(Cli::command, &arguments) {
        Ok(true) => return exit::YES.into(),
        Ok(false) => {}
        Err(error) => return usage::answer(error),
    }
    if let Ok(Frequent::Get(options)) = Frequent::try_parse_from(&arguments) {
        return exit::code(dispatch(Command::Get(options)));
    }
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => exit::code(dispatch(cli.command)),
        Err(error) => usage::answer(error),
    }
}

fn dispatch(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Run(options) => run::run(&options)?,
        Command::Get(options) => query::get(&options)?,
        Command::Show(options) => query::show(options)?,
        Command::Top(options) => top::top(options)?,
        Command::Listeners(options) => query::listeners(options)?,
        Command::Ports(options) => query::ports(options)?,
        Command::Cgroups(options) => query::cgroups(options)?,
        Command::Wait(options) => return query::wait(&options),
        Command::Who(options) => who::who(&options)?,
        Command::History(options) => query::history(&options)?,
        Command::Discover(options) => query::discover(options)?,
        Command::Verify(options) => return verify::verify(&options),
        Command::Check(options) => return check::check(&options),
        Command::Zabbix(command) => return zabbix::zabbix(&command),
        Command::Template { name } => print(name.text())?,
        Command::Completions { shell } => print(&complete::script(shell)?)?,
        Command::Man => print(&man::man()?)?,
    }
    Ok(Verdict::Yes)
}
