//! One version from an empty folder to the last check. Owns the order of things; what is checked
//! is in [`super::checks`].

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tcp_status_testkit::{hold::Hold, netns::Netns};

use super::{
    Parts, agents,
    api::Api,
    checks::{discovery, triggers, values},
    database::Database,
    fleet::{self, Fleet},
    frontend, hosts, packages, pictures,
    place::Place,
    process::Process,
    report::{Done, Report},
    server,
    subject::Subject,
};

/// Everything that runs; ended in the order of the fields.
struct Scene<'a> {
    api: Api,
    _agents: Vec<Process>,
    /// Counts the namespace of [`Subject`], for the agents.
    tracker: Process,
    /// Counts the namespace of the servers, and answers passive checks by itself.
    beside: Process,
    _frontend: Process,
    database: Database<'a>,
    subject: Subject,
    place: &'a Place,
}

/// Runs everything in a network namespace of its own.
pub(super) fn run(parts: &Parts<'_>, report: &mut Report) -> Result<()> {
    let place = Place::new()?;
    let namespace = Netns::new()?;
    namespace.run(|| {
        if let Some(mut scene) = Scene::set(parts, &place, report) {
            // What failed is in the report.
            let _: Option<()> = scene.play(parts, report);
        }
    })?;
    Ok(())
}

impl<'a> Scene<'a> {
    /// From packages to a front end that can be asked.
    fn set(parts: &Parts<'_>, place: &'a Place, report: &mut Report) -> Option<Self> {
        report.need("unpack", || {
            packages::unpack(&parts.packages, &place.tree(""))?;
            place.make_locale()?;
            Ok(((), String::new()))
        })?;
        let database = report.need("database", || {
            let database = Database::start(place)?;
            database.load()?;
            Ok((database, String::new()))
        })?;
        let frontend = report.need("front end", || {
            Ok((frontend::start(place)?, frontend::URL.into()))
        })?;
        let subject = report.need("sockets", || {
            Ok((Subject::prepare(place, &parts.binary)?, String::new()))
        })?;
        let tracker = report.need("tracker", || {
            let tracker = subject.start_tracker(place, &socket(place))?;
            Ok((tracker, subject.tier(&socket(place))?))
        })?;
        let beside = report.need("tracker with --zabbix", || {
            let more = [fleet::PASSIVE, &["--backend", "scan"]].concat();
            let beside = subject.start_tracker_beside(place, &socket_beside(place), &more)?;
            Ok((beside, subject.tier(&socket_beside(place))?))
        })?;
        let agents = report.need("agents", || start_agents(place, &subject, &socket(place)))?;
        let version = report.version;
        let api = report.need("sign in", || Ok((Api::sign_in(version)?, String::new())))?;
        Some(Self {
            api,
            _agents: agents,
            tracker,
            beside,
            _frontend: frontend,
            database,
            subject,
            place,
        })
    }

    fn play(&mut self, parts: &Parts<'_>, report: &mut Report) -> Option<()> {
        for template in [hosts::CLASSIC, hosts::MASTER] {
            report.need(&format!("import {}", template.name), || {
                let items = template.import(&self.api, parts.root)?;
                Ok(((), format!("twice, {items} items, nothing changed")))
            })?;
        }
        let fleet = report.need("hosts", || {
            let fleet = Fleet::make(&self.api, &self.database)?;
            let names = fleet.names();
            Ok((fleet, names))
        })?;
        let held = report.need("hold every state", || {
            let held = self.subject.hold(tcp_status_testkit::seed())?;
            Ok((held, String::new()))
        })?;
        let _server = report.need("server", || Ok((server::start(self.place)?, String::new())))?;
        self.while_held(&fleet, parts, report);
        self.afterwards(&fleet, held, report);
        Some(())
    }

    fn while_held(&mut self, fleet: &Fleet, parts: &Parts<'_>, report: &mut Report) {
        let Self {
            api,
            subject,
            place,
            ..
        } = self;
        report.check("values", || values::arrive(api, &fleet.counted));
        // Before minisockets of TIME_WAIT are over.
        report.check("triggers fire", || triggers::fire(api, &fleet.counted));
        for host in &fleet.counted {
            report.check(&format!("gauges of {}", host.name), || {
                subject.leave_timewait()?;
                values::equal_the_listing(api, host, subject)
            });
        }
        for host in fleet.discovering() {
            report.check(&format!("ports of {}", host.name), || {
                discovery::equals_the_listing(api, host, subject)
            });
        }
        report.check("trigger for a scan fires", || {
            triggers::one_fires(api, &fleet.beside, triggers::SCAN)
        });
        // The time without values begins here.
        report.check("end the tracker with --zabbix", || {
            self.beside.end()?;
            Ok(Done::Passed(String::new()))
        });
        report.check("graphs", || {
            pictures::graphs(api, &fleet.counted, &parts.pictures)
        });
        report.check("dashboard", || {
            pictures::dashboard(api, place, &fleet.counted, &parts.pictures)
        });
        let tracker = &mut self.tracker;
        report.check("tracker gone and back", || {
            tracker.end()?;
            let gone = values::unsupported(api, &fleet.counted)?;
            *tracker = subject.start_tracker(place, &socket(place))?;
            values::supported_again(api, &fleet.counted)?;
            Ok(Done::Passed(gone))
        });
    }

    fn afterwards(&mut self, fleet: &Fleet, held: Hold, report: &mut Report) {
        let Self {
            api,
            subject,
            place,
            beside,
            ..
        } = self;
        drop(held);
        report.check("trigger for no answer fires", || {
            triggers::one_fires(api, &fleet.beside, triggers::NO_ANSWER)
        });
        report.check("passive checks without an agent", || {
            let path = socket_beside(place);
            *beside = subject.start_tracker_beside(place, &path, fleet::PASSIVE)?;
            values::arrive(api, &fleet.beside)?;
            values::listening_here(api, &fleet.beside)
        });
        report.check("triggers recover", || {
            let all = [fleet.counted.as_slice(), &fleet.beside].concat();
            triggers::recover(api, &all)
        });
    }
}

fn socket(place: &Place) -> PathBuf {
    place.path("socket")
}

fn socket_beside(place: &Place) -> PathBuf {
    place.path("socket-beside")
}

/// Both agents, with what `tcp-status zabbix install` puts into the folders of their packages.
fn start_agents(place: &Place, subject: &Subject, socket: &Path) -> Result<(Vec<Process>, String)> {
    agents::provide_configuration(place)?;
    subject.install(&place.tree(""))?;
    let mut started = Vec::new();
    let mut seen = Vec::new();
    for kind in agents::Kind::ALL {
        started.push(agents::start(place, kind, socket)?);
        let key = "tcp.status[listen]";
        let answer = agents::zabbix_get(place, kind.port(), key)?;
        ensure!(answer.parse::<u64>().is_ok(), "{key} is {answer}");
        seen.push(format!("{}: {key} = {answer}", kind.name()));
    }
    Ok((started, seen.join(", ")))
}
