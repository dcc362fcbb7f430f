//! Rules and dashboard: sound, tested, and about metrics that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use tcp_status::serve::http::Options;

use crate::{
    Running,
    client::get,
    fake::{Fixed, full},
    programs::{TEMPLATES, promtool},
    text::Page,
};

pub(crate) fn template(name: &str) -> String {
    fs::read_to_string(Path::new(TEMPLATES).join(name)).unwrap()
}

/// A page of the user documentation.
pub(crate) fn manual(name: &str) -> String {
    fs::read_to_string(Path::new(TEMPLATES).join("../docs").join(name)).unwrap()
}

pub(crate) fn rules_file() -> String {
    template("prometheus/tcp-status.rules.yml")
}

/// Every expression of the rules.
pub(crate) fn rules() -> Vec<String> {
    values(&rules_file(), "expr")
}

/// The dashboards: of one host, and of all.
pub(crate) const DASHBOARDS: [&str; 2] = ["tcp-status", "tcp-status-fleet"];

/// A dashboard, and its panels: those of collapsed rows are inside of the rows.
pub(crate) fn dashboard(name: &str) -> (Value, Vec<Value>) {
    let dashboard: Value =
        serde_json::from_str(&template(&format!("grafana/{name}.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let panels = panels.flat_map(|panel| match panel["type"].as_str().unwrap() {
        "row" => panel["panels"].as_array().unwrap().clone(),
        _ => vec![panel.clone()],
    });
    let panels = panels.collect();
    (dashboard, panels)
}

/// Every query of the dashboards.
pub(crate) fn queries() -> Vec<String> {
    let targets = |panel: &Value| panel["targets"].as_array().unwrap().clone();
    let panels = DASHBOARDS.into_iter().flat_map(|name| dashboard(name).1);
    panels
        .flat_map(|panel| targets(&panel))
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// Values of a key in a YAML file of ours: on its line, or indented below it.
pub(crate) fn values<'a>(text: &'a str, key: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let lines: Vec<&'a str> = text.lines().collect();
    let mut values = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(value) = line
            .trim_start_matches([' ', '-'])
            .strip_prefix(&format!("{key}: "))
        else {
            continue;
        };
        let below = lines[i + 1..]
            .iter()
            .take_while(|below| indent(below) > indent(line));
        values.push(match value {
            "|" | ">-" => below.map(|line| line.trim()).collect::<Vec<_>>().join(" "),
            _ => value.trim_matches('"').into(),
        });
    }
    values
}

/// Words and other signs of a PromQL expression, without strings, matchers and ranges.
pub(crate) fn tokens(expression: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let (mut quoted, mut inside) = (false, 0);
    for c in expression.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' | '[' => inside += 1,
            '}' | ']' => inside -= 1,
            _ if inside > 0 => {}
            _ if c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.') => {
                tokens.last_mut().unwrap().push(c);
                continue;
            }
            _ => tokens.push(c.into()),
        }
        tokens.push(String::new());
    }
    tokens.retain(|token| !token.trim().is_empty());
    tokens
}

/// The metrics that a PromQL expression names: what is neither a label, a function nor a keyword.
pub(crate) fn metrics(expression: &str) -> BTreeSet<String> {
    const BEFORE_LABELS: [&str; 4] = ["by", "without", "on", "ignoring"];
    const BETWEEN: [&str; 4] = ["and", "or", "unless", "offset"];
    let tokens = tokens(expression);
    let mut names = BTreeSet::new();
    let mut rest = tokens.iter().map(String::as_str).peekable();
    while let Some(token) = rest.next() {
        if BEFORE_LABELS.contains(&token) {
            rest.find(|token| *token == ")");
        } else if token.starts_with(|c: char| c.is_ascii_alphabetic()) && !BETWEEN.contains(&token)
        {
            let next = rest.peek().copied().unwrap_or_default();
            if next != "(" && !matches!(next, "by" | "without") {
                names.insert(token.into());
            }
        }
    }
    names
}

#[test]
fn names_of_metrics_are_told_from_what_is_around_them() {
    for (expression, expected) in [
        ("a", vec!["a"]),
        (
            "sum by (x, y) (rate(a_total{l=\"b\",m=~\"c|d\"}[$__rate_interval])) > 0",
            vec!["a_total"],
        ),
        (
            "sum without (x) (a:b:sum) and on(i) c or e offset 10m",
            vec!["a:b:sum", "c", "e"],
        ),
        (
            "topk(10, a > 3 * avg_over_time(b[1h] offset 10m))",
            vec!["a", "b"],
        ),
        (
            "0.8 * 28232 unless ignoring (x) (max_over_time(f[5m]) + g)",
            vec!["f", "g"],
        ),
    ] {
        let found = metrics(expression);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{expression}");
    }
}

#[test]
fn every_metric_in_rules_and_dashboard_exists() {
    let server = Running::with(Fixed(vec![full()]), Options::default());
    let page = Page::parse(&get(server.address, "/metrics").body);
    let series = |(name, kind): (String, String)| match &*kind {
        "histogram" => ["_bucket", "_sum", "_count"]
            .map(|suffix| format!("{name}{suffix}"))
            .into(),
        _ => vec![name],
    };
    let mut known: BTreeSet<_> = page.kinds.into_iter().flat_map(series).collect();
    known.insert("up".into());
    let in_dashboard = queries();
    assert!(in_dashboard.len() > 40);
    let recorded = values(&rules_file(), "record");
    let in_rules = rules();
    assert_eq!(
        in_rules.len(),
        values(&rules_file(), "alert").len() + recorded.len()
    );
    for expression in &in_dashboard {
        for name in metrics(expression) {
            // Not what rules record: a dashboard has to work without them.
            assert!(known.contains(&name), "{name} in {expression}");
        }
    }
    known.extend(recorded);
    for expression in &in_rules {
        let names = metrics(expression);
        assert!(!names.is_empty(), "{expression}");
        assert!(names.is_subset(&known), "{names:?} in {expression}");
    }
}

#[test]
fn the_reference_lists_every_metric() {
    let server = Running::with(Fixed(vec![full()]), Options::default());
    let page = Page::parse(&get(server.address, "/metrics").body);
    let reference = manual("reference.md");
    let names = reference.split('`').skip(1).step_by(2);
    let listed: BTreeSet<_> = names
        .filter_map(|name| name.split('{').next())
        .filter(|name| name.starts_with("tcp_status_") || name.starts_with("process_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, page.kinds.into_keys().collect());
}

#[test]
fn every_alert_says_what_why_and_what_to_do_and_has_a_test() {
    let alerts = values(&rules_file(), "alert");
    assert!(alerts.len() >= 10, "{alerts:?}");
    for key in ["summary", "description"] {
        let texts = values(&rules_file(), key);
        assert_eq!(texts.len(), alerts.len(), "{key}");
        assert!(texts.iter().all(|text| text.len() > 3), "{key}");
    }
    let tests = template("prometheus/tcp-status.rules_test.yml");
    let tested = values(&tests, "alertname");
    for alert in &alerts {
        assert!(
            tested.iter().filter(|name| *name == alert).count() > 0,
            "{alert}"
        );
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let directory = Path::new(TEMPLATES).join("prometheus");
    let check = [
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        "tcp-status.rules.yml",
    ];
    let Some(said) = promtool(&directory, &check, "") else {
        return;
    };
    let count = rules().len();
    assert!(
        said.contains(&format!("SUCCESS: {count} rules found")),
        "{said}"
    );
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "tcp-status.rules_test.yml"],
    ] {
        let said = promtool(&directory, &arguments, "").unwrap();
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn the_dashboard_of_a_host_has_collapsed_rows() {
    let (dashboard, _) = dashboard("tcp-status");
    assert_eq!(
        names(&dashboard["templating"]["list"], "name"),
        ["datasource", "instance", "netns", "port", "cgroup"]
    );
    let rows = dashboard["panels"].as_array().unwrap().iter();
    let rows = rows.filter(|panel| panel["type"] == "row");
    let collapsed: Vec<_> = rows.map(|row| row["collapsed"] == true).collect();
    assert!(!collapsed[0] && collapsed[1..].iter().all(|&it| it) && collapsed.len() > 5);
}

/// Each query of the fleet names few series, however many hosts there are, and leads to their own.
#[test]
fn the_dashboard_of_all_hosts_shows_twenty_of_them() {
    let (dashboard, panels) = dashboard("tcp-status-fleet");
    assert_eq!(
        names(&dashboard["templating"]["list"], "name"),
        ["datasource", "instance"]
    );
    for panel in &panels {
        let expression = panel["targets"][0]["expr"].as_str().unwrap();
        if panel["type"] == "stat" {
            assert!(expression.starts_with("count(") || expression.starts_with("sum("));
        } else {
            let few = ["topk(20, ", "bottomk(20, "];
            assert!(
                few.iter().any(|few| expression.starts_with(few)),
                "{expression}"
            );
            let link = &panel["fieldConfig"]["defaults"]["links"][0]["url"];
            let link = link.as_str().unwrap();
            assert!(link.starts_with("/d/tcp-status?var-instance="), "{link}");
        }
    }
}

fn names(list: &Value, key: &str) -> Vec<String> {
    let all = list.as_array().unwrap().iter();
    all.filter_map(|one| Some(one[key].as_str()?.to_owned()))
        .collect()
}

#[test]
fn dashboards_are_sound() {
    for name in DASHBOARDS {
        assert_sound(name);
    }
}

fn assert_sound(name: &str) {
    let (dashboard, panels) = dashboard(name);
    assert!(
        dashboard["schemaVersion"].as_u64().unwrap() >= 38,
        "Grafana 10"
    );
    assert_eq!(dashboard["id"], Value::Null);
    assert_eq!(dashboard["uid"], name);
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    let rows = dashboard["panels"].as_array().unwrap().iter();
    let rows = rows.filter(|panel| panel["type"] == "row");
    for panel in rows.chain(&panels) {
        let title = panel["title"].as_str().unwrap();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: its number is taken"
        );
        assert!(titles.insert(title.to_owned()), "{title}: twice");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(
            place("w") > 0 && place("h") > 0 && place("x") + place("w") <= 24,
            "{title}"
        );
    }
    // What is visible at once: a row that opens moves the rows below it.
    let visible = dashboard["panels"].as_array().unwrap();
    let hidden = visible.iter().filter_map(|row| row["panels"].as_array());
    for shown in hidden.chain([visible]) {
        let mut taken = BTreeMap::new();
        for panel in shown {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    let other = taken.insert((x, y), &panel["title"]);
                    assert_eq!(other, None, "under {}", panel["title"]);
                }
            }
        }
    }
    for panel in &panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            panel["description"].as_str().unwrap().ends_with('.'),
            "{title}"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let refs = names(&panel["targets"], "refId");
        let distinct: BTreeSet<_> = refs.iter().collect();
        assert!(!refs.is_empty() && refs.len() == distinct.len(), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                expression.contains("$instance") || expression.contains("tcp_status_build_info"),
                "{expression}"
            );
        }
    }
}
