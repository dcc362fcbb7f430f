//! One version from an empty folder to the last check. Owns the order of things; what is checked
//! is in [`super::checks`].

use anyhow::{Context as _, Result, ensure};
use tcp_status_testkit::{held_sockets::HeldSockets, netns::Netns};

use super::{
    Version,
    api::{Api, CLASSIC, Host, MASTER},
    checks, community, formats, packages, pictures,
    sandbox::Sandbox,
    servers::{self, AGENTS, Database},
    subject::Subject,
    unpack,
};
use crate::{process::Process, test_totals::TestTotals, vm, workspace::Workspace};

/// Where the tracker answers passive checks, and what makes it do so.
const PORT: u16 = 10060;
const PASSIVE: [&str; 2] = ["--zabbix", "127.0.0.1:10060"];

/// Thresholds that a few sockets are above; those of the newer template.
const LOW: [(&str, &str); 3] = [
    ("{$TCP.STATUS.CLOSEWAIT.MAX.WARN}", "0"),
    ("{$TCP.STATUS.SYNRECV.MAX.WARN}", "0"),
    ("{$TCP.STATUS.SYNSENT.MAX.WARN}", "0"),
];
const LOW_MASTER: [(&str, &str); 5] = [
    ("{$TCP.STATUS.PORTS.FILLING.PERIOD}", "10s"),
    ("{$TCP.STATUS.SURGE.MIN}", "0"),
    ("{$TCP.STATUS.OVERFLOWS.PERIOD}", "1m"),
    ("{$TCP.STATUS.OVERFLOWS.MAX.WARN}", "0"),
    ("{$TCP.STATUS.PORTS.PUSED.MAX.WARN}", "0"),
];

/// Open connections of the past hour, which a round has no time to wait for.
const FORMERLY: u64 = 1;

/// The hosts of a round: each agent with each template, and a tracker without an agent.
struct Hosts {
    /// Of agents that query the tracker of the counted namespace.
    counted: Vec<Host>,
    /// Of the tracker that answers by itself.
    beside: Vec<Host>,
}

/// Everything that runs; ended in the order of the fields.
struct Round<'a> {
    api: Api,
    _agents: Vec<Process>,
    /// Counts the namespace of [`Subject`], for the agents.
    tracker: Process,
    /// Counts the namespace of the servers, and answers passive checks by itself.
    beside: Process,
    _frontend: Process,
    database: Database<'a>,
    subject: Subject<'a>,
    sandbox: &'a Sandbox,
    workspace: &'a Workspace,
}

/// Runs everything in a network namespace of its own.
///
/// With `keep`, writes the templates for newer versions and does nothing else.
pub(super) fn run(workspace: &Workspace, version: Version, keep: bool) -> Result<TestTotals> {
    let sandbox = Sandbox::new()?;
    let mut totals = TestTotals {
        label: version.label(),
        ..TestTotals::default()
    };
    Netns::new()?.run(|| {
        if keep {
            let _: Option<()> = keep_formats(workspace, &sandbox, version, &mut totals);
        } else if let Some(mut round) = Round::start(workspace, &sandbox, version, &mut totals) {
            // What failed is in the totals.
            let _: Option<()> = round.run_steps(&mut totals);
        }
    })?;
    Ok(totals)
}

/// Everything up to the front end, which needs no server to import and export.
fn keep_formats(
    workspace: &Workspace,
    sandbox: &Sandbox,
    version: Version,
    totals: &mut TestTotals,
) -> Option<()> {
    let (_database, _frontend) = start_frontend(workspace, sandbox, version, totals)?;
    let api = totals.need("sign in", || Api::sign_in(version).map(nothing))?;
    totals.need("export", || {
        MASTER.import(&api, &workspace.root)?;
        Ok(((), formats::keep(&api, &workspace.root)?))
    })?;
    totals.need("community", || {
        let folder = workspace.target.join("zabbix/community");
        Ok(((), community::write(&api, &workspace.root, &folder)?))
    })
}

fn start_frontend<'a>(
    workspace: &Workspace,
    sandbox: &'a Sandbox,
    version: Version,
    totals: &mut TestTotals,
) -> Option<(Database<'a>, Process)> {
    totals.need("unpack", || {
        unpack(&packages(workspace, version), &sandbox.tree(""))?;
        sandbox.make_locale().map(nothing)
    })?;
    let database = totals.need("database", || Database::start(sandbox).map(nothing))?;
    let frontend = totals.need("front end", || {
        servers::start_frontend(sandbox).map(nothing)
    })?;
    Some((database, frontend))
}

fn nothing<T>(value: T) -> (T, String) {
    (value, String::new())
}

impl<'a> Round<'a> {
    /// From packages to a front end that answers.
    fn start(
        workspace: &'a Workspace,
        sandbox: &'a Sandbox,
        version: Version,
        totals: &mut TestTotals,
    ) -> Option<Self> {
        let (database, frontend) = start_frontend(workspace, sandbox, version, totals)?;
        let subject = totals.need("sockets", || {
            Subject::new(sandbox, &vm::program(workspace)).map(nothing)
        })?;
        let tracker = totals.need("tracker", || subject.start_tracker())?;
        let beside = totals.need("tracker with --zabbix", || {
            subject.start_tracker_beside(&[&PASSIVE[..], &["--backend", "scan"]].concat())
        })?;
        let agents = totals.need("agents", || start_agents(sandbox, &subject))?;
        let api = totals.need("sign in", || Api::sign_in(version).map(nothing))?;
        Some(Self {
            api,
            _agents: agents,
            tracker,
            beside,
            _frontend: frontend,
            database,
            subject,
            sandbox,
            workspace,
        })
    }

    fn run_steps(&mut self, totals: &mut TestTotals) -> Option<()> {
        for template in [CLASSIC, MASTER] {
            totals.need(&format!("import {}", template.name), || {
                let items = template.import(&self.api, &self.workspace.root)?;
                Ok(((), format!("twice, {items} items, nothing changed")))
            })?;
        }
        if self.api.version == Version::V7_0 {
            totals.check("templates for newer versions", || {
                formats::check(&self.api, &self.workspace.root)
            });
        }
        let hosts = totals.need("hosts", || self.hosts())?;
        let held = totals.need("hold every state", || self.subject.hold().map(nothing))?;
        let _server = totals.need("server", || {
            servers::start_server(self.sandbox).map(nothing)
        })?;
        self.while_held(&hosts, totals);
        self.afterwards(&hosts, held, totals);
        Some(())
    }

    /// Creates the hosts, before there is a server: later, it would not look at the history of
    /// items that are new to it.
    fn hosts(&self) -> Result<(Hosts, String)> {
        let (mut counted, mut beside) = (Vec::new(), Vec::new());
        for template in [CLASSIC, MASTER] {
            let suffix = if template == CLASSIC { "-classic" } else { "" };
            let create = |name: &str, port, macros: &[_]| {
                let name = format!("{name}{suffix}");
                Host::create(&self.api, &name, port, template, macros)
            };
            for agent in &AGENTS {
                let mut macros = LOW.to_vec();
                if template == MASTER {
                    macros.extend(LOW_MASTER);
                }
                counted.push(create(agent.name, agent.port, &macros)?);
            }
            let macros = [("{$TCP.STATUS.NODATA.PERIOD}", "30s")];
            beside.push(create("tracker", PORT, &macros)?);
        }
        for host in counted.iter().filter(|host| host.template == MASTER) {
            self.add_history(host)?;
        }
        let names = counted.iter().chain(&beside).map(|host| host.name.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        Ok((Hosts { counted, beside }, names))
    }

    /// Gives a host an hour of few connections.
    fn add_history(&self, host: &Host) -> Result<()> {
        let items = host.items(&self.api)?;
        let item = items.get("tcp.status[established]");
        let item = item.context("no item for open connections")?;
        self.database.execute(&format!(
            "INSERT INTO history_uint (itemid, clock, value, ns)
             SELECT {}, extract(epoch FROM now())::integer - 360 - 60 * minute, {FORMERLY}, 0
             FROM generate_series(0, 50) AS minute;",
            item.id
        ))
    }

    fn while_held(&mut self, hosts: &Hosts, totals: &mut TestTotals) {
        let (api, subject, counted) = (&self.api, &self.subject, &hosts.counted);
        let folder = self.workspace.target.join("zabbix/pictures");
        totals.check("values", || checks::values_arrive(api, counted));
        // Before minisockets of TIME_WAIT are over.
        totals.check("triggers fire", || {
            subject.exhaust_ports()?;
            checks::triggers_fire(api, counted)
        });
        for host in counted {
            totals.check(&format!("gauges of {}", host.name), || {
                subject.leave_timewait()?;
                checks::gauges_equal(api, host, subject)
            });
        }
        for host in counted.iter().filter(|host| host.template == MASTER) {
            let name = format!("ports of {}", host.name);
            totals.check(&name, || checks::ports_equal(api, host, subject));
            let name = format!("cgroup of {}", host.name);
            totals.check(&name, || checks::cgroups_equal(api, host, subject));
        }
        totals.check("trigger for a scan fires", || {
            checks::one_fires(api, &hosts.beside, checks::SCAN)
        });
        // Until the pictures are taken.
        let mut destination = None;
        totals.check("ephemeral ports run out", || {
            let destination = destination.insert(subject.destination()?);
            checks::ports_run_out(api, counted, subject, destination)
        });
        // The time without values begins here.
        totals.check("end the tracker with --zabbix", || self.beside.end());
        totals.check("graphs", || pictures::graphs(api, counted, &folder));
        totals.check("dashboard", || {
            pictures::dashboard(api, self.sandbox, counted, &folder)
        });
        totals.check("tracker gone and back", || {
            self.tracker.end()?;
            let error = checks::unsupported(api, counted)?;
            self.tracker = subject.start_tracker()?.0;
            checks::supported_again(api, counted)?;
            Ok(error)
        });
    }

    fn afterwards(&mut self, hosts: &Hosts, held: HeldSockets, totals: &mut TestTotals) {
        let (api, beside) = (&self.api, &hosts.beside);
        drop(held);
        totals.check("trigger for no answer fires", || {
            checks::one_fires(api, beside, checks::NO_ANSWER)
        });
        totals.check("passive checks without an agent", || {
            self.beside = self.subject.start_tracker_beside(&PASSIVE)?.0;
            checks::values_arrive(api, beside)?;
            checks::listeners_equal(api, beside)
        });
        totals.check("triggers recover", || {
            checks::triggers_recover(api, &[&hosts.counted[..], beside].concat())
        });
    }
}

/// Both agents, with what `tcp-status zabbix install` puts into the folders of their packages.
fn start_agents(sandbox: &Sandbox, subject: &Subject<'_>) -> Result<(Vec<Process>, String)> {
    subject.install()?;
    let (mut started, mut seen) = (Vec::new(), Vec::new());
    for agent in &AGENTS {
        started.push(agent.start(sandbox, &subject.socket())?);
        let key = "tcp.status[listen]";
        let answer = agent.get(sandbox, key)?;
        ensure!(answer.parse::<u64>().is_ok(), "{key} is {answer}");
        seen.push(format!("{}: {key} = {answer}", agent.name));
    }
    Ok((started, seen.join(", ")))
}
