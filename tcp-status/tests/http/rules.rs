//! `templates/rules.json` against what follows from it: alerts of Prometheus, problems of `show`,
//! runbooks, and the table in the user documentation. Triggers of Zabbix: `triggers.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use serde::Deserialize;
use serde_json::Number;
use tcp_status::snapshot::{
    Counts, FullestDestination, Listener, NoLocalPortDestination, Severity, Snapshot, Stale, Tier,
};
use tcp_status_common::state::State;

use crate::templates::{DASHBOARDS, dashboard, manual, rules_file, template, tokens, values};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rules: Vec<Rule>,
}

/// One thing that can be wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    id: String,
    /// When it fires; `{0}` stands for the first limit.
    text: String,
    pub(super) limits: Vec<Limit>,
    /// How long it must hold.
    r#for: Option<String>,
    /// How long events are summed up.
    within: Option<String>,
    /// What a number is compared with, or how long something must have been there.
    compared_with: Option<String>,
    pub(super) severity: String,
    /// Of `docs/troubleshooting.md`.
    section: String,
    prometheus: Vec<String>,
    not_in_prometheus: Option<String>,
    pub(super) zabbix: Vec<String>,
    not_in_zabbix: Option<String>,
    /// What the triggers look at instead of the limits.
    pub(super) zabbix_when: Option<String>,
    /// How `show` and `top` mark it.
    show: Option<String>,
    /// What they look at instead of the limits.
    show_when: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    above: Option<Number>,
    below: Option<Number>,
    unit: String,
    pub(super) r#macro: Option<String>,
}

impl Limit {
    pub(super) fn number(&self) -> &Number {
        self.above.as_ref().or(self.below.as_ref()).unwrap()
    }

    /// As PromQL compares with it; a tier is a label there.
    fn in_prometheus(&self) -> Option<f64> {
        match self.unit.as_str() {
            "tier" => None,
            "%" => Some(self.number().as_f64()? / 100.0),
            _ => self.number().as_f64(),
        }
    }
}

impl Rule {
    pub(super) fn period(&self) -> Option<u64> {
        assert!(self.r#for.is_none() || self.within.is_none(), "{}", self.id);
        let period = self.r#for.as_ref().or(self.within.as_ref());
        period.map(|text| seconds(text).unwrap())
    }

    pub(super) fn runbook(&self) -> String {
        let repository = env!("CARGO_PKG_REPOSITORY");
        let page = "blob/main/docs/troubleshooting.md";
        format!("{repository}/{page}#{}", self.section)
    }

    /// Periods in an expression or a text are the rule's.
    pub(super) fn check_periods(&self, text: &str) {
        let compared_with = self.compared_with.as_deref().and_then(seconds);
        for found in periods(text) {
            let known = [self.period(), compared_with].contains(&Some(found));
            assert!(known, "{}: {found} s in {text}", self.id);
        }
    }

    /// `N minutes` and `N %` in a text are the rule's.
    fn check_text(&self, text: &str) {
        let words: Vec<_> = text.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else {
                continue;
            };
            let known = match pair[1].trim_end_matches(['"', '.', ',', ':', ')']) {
                "minutes" => self.period() == Some(number * 60),
                "%" => self
                    .limits
                    .iter()
                    .any(|limit| limit.number().as_u64() == Some(number)),
                _ => true,
            };
            assert!(known, "{}: {pair:?} in {text}", self.id);
        }
    }
}

/// `5m` and the like.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * unit)
}

pub(super) fn periods(text: &str) -> BTreeSet<u64> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(seconds)
        .collect()
}

pub(super) fn table() -> Vec<Rule> {
    let table: Table = serde_json::from_str(&template("rules.json")).unwrap();
    table.rules
}

/// The rule of each alert or trigger; all have one.
pub(super) fn by_name(
    rules: &[Rule],
    names: impl Fn(&Rule) -> &Vec<String>,
) -> BTreeMap<&str, &Rule> {
    let mut found = BTreeMap::new();
    for rule in rules {
        for name in names(rule) {
            let other = found.insert(name.as_str(), rule);
            assert!(other.is_none(), "{name} is in two rules");
        }
    }
    found
}

/// Entries of lists in a YAML file of ours that begin with a key.
pub(super) fn entries(text: &str, key: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<_> = text.lines().collect();
    let starts = (0..lines.len()).filter(|&i| lines[i].trim().starts_with(&format!("- {key}: ")));
    let entry = |start: usize| {
        let below = lines[start + 1..].iter();
        let below = below.take_while(|line| line.is_empty() || indent(line) > indent(lines[start]));
        let entry: Vec<_> = [lines[start]].iter().chain(below).copied().collect();
        entry.join("\n")
    };
    starts.map(entry).collect()
}

/// The first value of a key in an entry, without quotes.
pub(super) fn value(entry: &str, key: &str) -> Option<String> {
    let value = values(entry, key).into_iter().next()?;
    Some(value.trim_matches('\'').into())
}

#[test]
fn every_rule_is_in_prometheus_and_in_zabbix_or_says_why_not() {
    let rules = table();
    let runbooks = manual("troubleshooting.md");
    let headings = runbooks.lines().filter_map(|line| line.strip_prefix("## "));
    let sections: BTreeSet<_> = headings
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    let ids: BTreeSet<_> = rules.iter().map(|rule| &rule.id).collect();
    assert_eq!(ids.len(), rules.len());
    for rule in &rules {
        let id = &rule.id;
        let sides = [
            (&rule.prometheus, &rule.not_in_prometheus),
            (&rule.zabbix, &rule.not_in_zabbix),
        ];
        for (names, reason) in sides {
            let is_absent = reason.as_ref().is_some_and(|reason| reason.len() > 10);
            assert_eq!(names.is_empty(), is_absent, "{id}");
        }
        assert!(sections.contains(&rule.section), "{id}");
        assert!(
            ["critical", "warning", "info"].contains(&&*rule.severity),
            "{id}"
        );
    }
}

#[test]
fn alerts_are_as_the_table_has_them() {
    let rules = table();
    let mut expected = by_name(&rules, |rule| &rule.prometheus);
    for alert in entries(&rules_file(), "alert") {
        let name = value(&alert, "alert").unwrap();
        let rule = expected.remove(name.as_str());
        let rule = rule.unwrap_or_else(|| panic!("{name} is in no rule"));
        let expression = value(&alert, "expr").unwrap();
        let limits: Vec<_> = rule
            .limits
            .iter()
            .filter_map(Limit::in_prometheus)
            .collect();
        for limit in &rule.limits {
            let sign = if limit.below.is_some() { '<' } else { '>' };
            if let Some(number) = limit.in_prometheus() {
                let compared = format!("{sign} {number}");
                assert!(expression.contains(&compared), "{name}: {compared}");
            }
        }
        // 0 and 1 say whether something is there, or full; which quantile it is, the text says.
        let compared = expression.replace("histogram_quantile(0.99,", "");
        let numbers = tokens(&compared).into_iter();
        let numbers = numbers.filter_map(|token| token.parse::<f64>().ok());
        for number in numbers.filter(|number| ![0.0, 1.0].contains(number)) {
            assert!(limits.contains(&number), "{name}: {number}");
        }
        assert_eq!(value(&alert, "for"), rule.r#for, "{name}");
        rule.check_periods(&expression);
        if let Some(within) = &rule.within {
            assert!(expression.contains(&format!("[{within}]")), "{name}");
        }
        rule.check_text(&value(&alert, "description").unwrap());
        assert_eq!(value(&alert, "severity").unwrap(), rule.severity, "{name}");
        assert_eq!(value(&alert, "runbook_url").unwrap(), rule.runbook());
    }
    assert!(expected.is_empty(), "no alerts: {:?}", expected.keys());
}

/// A reading with `n` of what a mark is about.
fn reading(mark: &str, n: u64) -> Snapshot {
    let mut snapshot = Snapshot::of(Tier::Full, 1, [Counts::default(); 2]);
    let queue = u32::try_from(n).unwrap();
    let mut listener = Listener {
        syn_queue_limit: Some(128),
        ..Listener::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80, 128)
    };
    match mark {
        "syn" => snapshot.states[State::SynRecv] = n,
        "SYN FULL" => listener.syn_queue = Some(queue),
        "FULL" => listener.accept_queue = queue,
        "was full" => listener.accept_queue_peak = Some(queue),
        "leak" => {
            snapshot.stale = Some(Stale {
                closewait: n,
                finwait2: 0,
                older_than_seconds: 60,
                walked_seconds_ago: 0,
            });
        }
        "filling" => {
            snapshot.fullest_destination = Some(FullestDestination {
                destination: "10.0.0.1 -> 10.0.0.2:9200".into(),
                used_ports: 600,
                ephemeral_ports: 1000,
                ports_per_second: Some(1.0),
                seconds_until_exhausted: Some(n),
                walked_seconds_ago: 0,
            });
        }
        "NO PORTS" => {
            let to = NoLocalPortDestination {
                address: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 5432,
                failures: n,
                last_seconds_ago: 299,
            };
            snapshot.no_local_port_destinations = Some(if n > 0 { vec![to] } else { Vec::new() });
        }
        "no ports" => {
            let mut outgoing = Counts::default();
            outgoing[State::TimeWait] = n;
            snapshot.ports.outgoing = Some(outgoing);
            snapshot.ephemeral_ports = Some(1000);
        }
        _ => panic!("no reading for {mark}"),
    }
    snapshot.listeners = vec![listener];
    snapshot
}

#[test]
fn show_reports_a_problem_above_the_limit_of_its_rule() {
    for rule in table() {
        let Some(mark) = rule.show.as_deref() else {
            continue;
        };
        let limit = match (mark, &rule.show_when) {
            // Full is the limit of a SYN queue, and one more than that of an accept queue.
            ("SYN FULL", Some(_)) => 127,
            ("FULL" | "was full", Some(_)) => 128,
            // Of 1000 ports.
            ("no ports", None) => rule.limits[0].number().as_u64().unwrap() * 10,
            (_, None) => rule.limits[0].number().as_u64().unwrap(),
            _ => panic!("{mark} with show_when"),
        };
        assert_eq!(reading(mark, limit).find_problems(), [], "{mark}");
        let is_below = rule.limits.iter().any(|limit| limit.below.is_some());
        let beyond = if is_below { limit - 1 } else { limit + 1 };
        let problems = reading(mark, beyond).find_problems();
        let severity = match rule.severity.as_str() {
            "critical" => Severity::Critical,
            _ => Severity::Warning,
        };
        assert_eq!(problems.len(), 1, "{mark}");
        let found = (problems[0].mark(), problems[0].severity);
        assert_eq!(found, (mark, severity));
        assert_eq!(serde_json::to_value(problems[0].rule).unwrap(), rule.id);
    }
}

#[test]
fn dashboards_colour_by_the_rules() {
    let rules = table();
    let panels = DASHBOARDS.map(|name| dashboard(name).1).concat();
    for (title, color, id) in [
        ("Fullest SYN queue", "red", "syn-queue-full"),
        ("Ephemeral ports used", "orange", "ephemeral-ports"),
        ("CLOSE_WAIT, stale", "orange", "close-wait-leak"),
        ("Fullest accept queue", "orange", "accept-queue-filling"),
        ("Turned away, 5 min", "red", "accept-queue-overflow"),
        ("Fullest SYN queues", "red", "syn-queue-full"),
        ("Fullest accept queues", "orange", "accept-queue-filling"),
    ] {
        let panel = panels.iter().find(|panel| panel["title"] == title).unwrap();
        let rule = rules.iter().find(|rule| rule.id == id).unwrap();
        // A queue without a limit of its own is full at all of it.
        let limit = rule.limits.first().map_or(Some(1.0), Limit::in_prometheus);
        let steps = &panel["fieldConfig"]["defaults"]["thresholds"]["steps"];
        let step = steps
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["color"] == color);
        assert_eq!(step.unwrap()["value"].as_f64(), limit, "{title}");
        assert_eq!(rule.severity == "critical", color == "red", "{title}");
    }
}

#[test]
fn the_documentation_has_the_table() {
    let row = |rule: &Rule| {
        let mut text = rule.text.clone();
        for (i, limit) in rule.limits.iter().enumerate() {
            let spelled = limit.number().to_string();
            let spelled = match &limit.r#macro {
                Some(name) => format!("{spelled} (`{name}`)"),
                None => spelled,
            };
            text = text.replace(&format!("{{{i}}}"), &spelled);
        }
        let period = match (&rule.r#for, &rule.within) {
            (Some(time), _) => format!(", for {time}"),
            (_, Some(time)) => format!(", within {time}"),
            _ => String::new(),
        };
        let list = |names: &[String]| match names {
            [] => "-".into(),
            _ => names.join(", "),
        };
        let alerts: Vec<_> = rule
            .prometheus
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        // Prototypes have the name of the trigger, with their port or cgroup before it.
        let triggers = rule.zabbix.iter().take(1);
        let triggers: Vec<_> = triggers
            .map(|name| name.split_once(": ").unwrap().1.to_owned())
            .collect();
        let (alerts, triggers) = (list(&alerts), list(&triggers));
        let severity = &rule.severity;
        format!("| {text}{period} | {severity} | {alerts} | {triggers} |\n")
    };
    let expected: String = table().iter().map(row).collect();
    let page = manual("alerts.md");
    assert!(
        page.contains(&expected),
        "docs/alerts.md needs:\n{expected}"
    );
}
