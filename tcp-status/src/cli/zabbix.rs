//! `zabbix install`, `uninstall` and `check`: shows what would change, asks, and says what is left
//! to do. What has to change is decided by [`crate::zabbix_agent`].

use std::{
    env,
    fmt::Write as _,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

use anyhow::Context as _;

use super::{
    args::{ZabbixCheck, ZabbixCommand, ZabbixFile},
    exit::{UsageError, Verdict},
};
use crate::{
    view::print,
    zabbix_agent::{
        self, Agent, CONFIGURATION, Change, ConfigPlan, Kind, Setting, facts,
        probe::{self, AgentReply, SocketAccess},
    },
};

pub(super) fn zabbix(command: &ZabbixCommand) -> anyhow::Result<Verdict> {
    match command {
        ZabbixCommand::Install(options) => install(options),
        ZabbixCommand::Uninstall(options) => uninstall(options),
        ZabbixCommand::Check(options) => check(options),
    }
}

fn install(options: &ZabbixFile) -> anyhow::Result<Verdict> {
    let agents = agents("install", &options.root)?;
    let mut changes = Vec::new();
    for agent in &agents {
        match ConfigPlan::install(agent) {
            ConfigPlan::Nothing => print(&format!(
                "{}: in place and current\n",
                agent.target.display()
            ))?,
            ConfigPlan::Change(change) => changes.push((agent, change)),
            ConfigPlan::Conflict(others) => return Err(conflict(agent, &others).into()),
        }
    }
    let verdict = apply(&changes, options.yes)?;
    if verdict == Verdict::Yes && is_this_host(&options.root) {
        for agent in &agents {
            print(&remaining_steps(agent, !changes.is_empty()))?;
        }
    }
    Ok(verdict)
}

fn uninstall(options: &ZabbixFile) -> anyhow::Result<Verdict> {
    let agents = agents("uninstall", &options.root)?;
    let mut changes = Vec::new();
    for agent in &agents {
        match ConfigPlan::uninstall(agent) {
            ConfigPlan::Change(change) => changes.push((agent, change)),
            _ => print(&format!("{}: not there\n", agent.target.display()))?,
        }
    }
    let verdict = apply(&changes, options.yes)?;
    if verdict == Verdict::Yes && is_this_host(&options.root) {
        for (agent, _) in &changes {
            print(&format!("then: {}\n", restart(agent.kind)))?;
        }
    }
    Ok(verdict)
}

fn agents(command: &str, root: &Path) -> anyhow::Result<Vec<Agent>> {
    let agents = facts::agents(root)?;
    if agents.is_empty() {
        let [agent, agent2] = Kind::ALL.map(Kind::configuration);
        return Err(UsageError(format!(
            "cannot {command} below {}: neither {agent} nor {agent2}; install zabbix-agent or \
             zabbix-agent2, or let the tracker answer by itself: tcp-status run --zabbix ADDR:PORT",
            root.display()
        ))
        .into());
    }
    Ok(agents)
}

/// Shows the changes, asks for consent, and makes them.
fn apply(changes: &[(&Agent, Change)], yes: bool) -> anyhow::Result<Verdict> {
    if changes.is_empty() {
        return Ok(Verdict::Yes);
    }
    for (_, change) in changes {
        print(&change.diff())?;
    }
    if !(yes || consent(changes)?) {
        print("nothing changed; --yes makes the changes without asking\n")?;
        return Ok(Verdict::No);
    }
    for (_, change) in changes {
        let path = change.path();
        match change {
            Change::Write { .. } => zabbix_agent::write(path)?,
            Change::Remove { .. } => zabbix_agent::remove(path)?,
        }
        let done = match change {
            Change::Write { .. } => "written",
            Change::Remove { .. } => "removed",
        };
        print(&format!("{}: {done}\n", path.display()))?;
    }
    Ok(Verdict::Yes)
}

/// Asks on the terminal; nobody there is a no.
fn consent(changes: &[(&Agent, Change)]) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    let mut stderr = io::stderr();
    write!(stderr, "change {} file(s) as above? [y/N] ", changes.len())?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn conflict(agent: &Agent, others: &[Setting]) -> UsageError {
    let locations: Vec<_> = others
        .iter()
        .map(|other| {
            format!(
                "{} line {} ({})",
                other.path.display(),
                other.line,
                other.key
            )
        })
        .collect();
    UsageError(format!(
        "cannot install {}: the keys are defined elsewhere, in {}; remove them there first: \
         an agent with a key twice does not start",
        agent.target.display(),
        locations.join(", ")
    ))
}

/// What is not done silently: the socket's group and the restart.
fn remaining_steps(agent: &Agent, changed: bool) -> String {
    let mut text = String::new();
    let user = &agent.user;
    if changed {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "then: {}", restart(agent.kind));
    }
    let _ = writeln!(
        text,
        "{}: user {user} must be able to ask the tracker: usermod --append --groups GROUP {user}, \
         with the group of the tracker's socket, and a restart of the agent; or tcp-status run \
         --socket-group {user}. tcp-status zabbix check says whether it is",
        agent.kind.service()
    );
    text
}

fn restart(kind: Kind) -> String {
    format!("systemctl restart {}", kind.service())
}

fn is_this_host(root: &Path) -> bool {
    root == Path::new("/")
}

fn check(options: &ZabbixCheck) -> anyhow::Result<Verdict> {
    let agents = agents("zabbix check", &options.root)?;
    let program = env::current_exe().context("cannot find the path of this program")?;
    let mut report = CheckReport::default();
    for agent in &agents {
        report.file(agent);
        if is_this_host(&options.root) {
            report.reach(&program, agent, &options.socket.socket);
            report.agent_reply(agent);
        }
    }
    print(&report.text)?;
    Ok(if report.wrong {
        Verdict::No
    } else {
        Verdict::Yes
    })
}

/// What `check` finds, line by line.
#[derive(Default)]
struct CheckReport {
    text: String,
    wrong: bool,
}

impl CheckReport {
    fn line(&mut self, well: bool, text: &str) {
        let word = if well { "ok  " } else { "FAIL" };
        self.wrong |= !well;
        // Writing into a string cannot fail.
        let _ = writeln!(self.text, "{word} {text}");
    }

    fn file(&mut self, agent: &Agent) {
        let target = agent.target.display();
        for other in &agent.others {
            let text = format!(
                "{} line {}: {} is defined here as well; remove it",
                other.path.display(),
                other.line,
                other.key
            );
            self.line(false, &text);
        }
        let install = "tcp-status zabbix install shows and makes the change";
        match agent.present.as_deref() {
            Some(CONFIGURATION) => self.line(true, &format!("{target}: in place and current")),
            Some(_) => self.line(
                false,
                &format!("{target}: not as in this version; {install}"),
            ),
            None => self.line(false, &format!("{target}: not there; {install}")),
        }
    }

    fn reach(&mut self, program: &Path, agent: &Agent, socket: &Path) {
        let user = &agent.user;
        let what = format!("user {user}, socket {}", socket.display());
        match probe::reach(program, user, socket) {
            SocketAccess::Answers => self.line(true, &format!("{what}: the tracker answers")),
            SocketAccess::No(why) => self.line(false, &format!("{what}: {why}")),
            SocketAccess::NoUser => self.line(false, &format!("{what}: no such user on this host")),
            SocketAccess::Untried(why) => self.line(
                false,
                &format!("{what}: not tried, which takes root ({why}); run it as root"),
            ),
        }
    }

    fn agent_reply(&mut self, agent: &Agent) {
        let service = agent.kind.service();
        let what = format!("{service}, port {}: {}", agent.port, probe::KEY);
        let restart = restart(agent.kind);
        match probe::query_agent(agent.port) {
            AgentReply::Value(value) => self.line(true, &format!("{what} = {value}")),
            AgentReply::UnknownKey => {
                self.line(false, &format!("{what}: not known to the agent; {restart}"));
            }
            AgentReply::Text(text) => self.line(false, &format!("{what}: {text}")),
            AgentReply::Rejected => self.line(
                false,
                &format!(
                    "{what}: refused; add 127.0.0.1 to Server= in {}",
                    agent.configuration.display()
                ),
            ),
            AgentReply::Unreachable(why) => {
                self.line(false, &format!("{what}: {why}; start the agent: {restart}"));
            }
        }
    }
}
