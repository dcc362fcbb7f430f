//! Triggers and macros of the Zabbix templates against `templates/rules.json`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    rules::{by_name, entries, periods, seconds, table, value},
    templates::template,
};

const MACRO: &str = "{$TCP.STATUS.";

/// What both templates have of a trigger.
struct Trigger {
    name: String,
    event_name: String,
    expression: String,
    priority: String,
    url: String,
}

type Macros = BTreeMap<String, String>;

/// Triggers and macros of the template for 6.0.
fn newer() -> (Vec<Trigger>, Macros) {
    let text = template("zabbix/template_tcp_status_6.0.yaml");
    let is_trigger = |entry: &String| {
        let second = entry.lines().nth(1);
        second.is_some_and(|line| line.trim().starts_with("expression: "))
    };
    let triggers = entries(&text, "uuid").into_iter().filter(is_trigger);
    let trigger = |entry: String| {
        let get = |key| value(&entry, key).unwrap_or_default();
        Trigger {
            name: get("name"),
            event_name: get("event_name"),
            expression: get("expression"),
            priority: get("priority"),
            url: get("url"),
        }
    };
    let macros = entries(&text, "macro").into_iter();
    let of = |entry: String| Some((value(&entry, "macro")?, value(&entry, "value")?));
    (
        triggers.map(trigger).collect(),
        macros.filter_map(of).collect(),
    )
}

/// Those of the template for 3.0.
fn classic() -> (Vec<Trigger>, Macros) {
    let text = template("zabbix/template_tcp_status_3.0.xml");
    let tag = |entry: &str, name: &str| {
        let (_, rest) = entry.split_once(&format!("<{name}>")).unwrap();
        rest.split_once('<').unwrap().0.replace("&gt;", ">")
    };
    let trigger = |entry: &str| Trigger {
        name: tag(entry, "name"),
        event_name: String::new(),
        // Periods are seconds without a unit.
        expression: tag(entry, "expression").replace(')', "s)"),
        priority: match tag(entry, "priority").as_str() {
            "1" => "INFO".into(),
            "2" => "WARNING".into(),
            "4" => "HIGH".into(),
            other => panic!("priority {other}"),
        },
        url: tag(entry, "url"),
    };
    let triggers = text.split("<trigger>").skip(1).map(trigger);
    let macros = text.split("<macro>{").skip(1);
    let of = |entry: &str| {
        (
            format!("{{{}", entry.split('<').next().unwrap()),
            tag(entry, "value"),
        )
    };
    (triggers.collect(), macros.map(of).collect())
}

/// The macros that an expression names, without their context.
fn macros_in(expression: &str) -> BTreeSet<String> {
    let rest = expression.split(MACRO).skip(1);
    let name = |rest: &str| rest.split([':', '}']).next().unwrap().to_owned();
    rest.map(name).collect()
}

fn check_triggers((triggers, defaults): &(Vec<Trigger>, Macros)) -> BTreeSet<String> {
    let rules = table();
    let expected = by_name(&rules, |rule| &rule.zabbix);
    let mut used = BTreeSet::new();
    for trigger in triggers {
        let name = &trigger.name;
        let rule = expected.get(name.as_str());
        let rule = rule.unwrap_or_else(|| panic!("{name} is in no rule"));
        let expand = |text: &str| {
            let known = defaults.iter();
            known.fold(text.to_owned(), |text, (of, to)| text.replace(of, to))
        };
        let expanded = expand(&trigger.expression);
        rule.check_periods(&expanded);
        let period = rule.period();
        assert!(
            period.is_none_or(|period| periods(&expanded).contains(&period)),
            "{name}: {expanded}"
        );
        rule.check_periods(&expand(&trigger.event_name));
        let mut named = macros_in(&trigger.expression);
        used.extend(named.iter().map(|name| format!("{MACRO}{name}}}")));
        named.retain(|name| seconds(&defaults[&format!("{MACRO}{name}}}")]).is_none());
        let limits = rule.limits.iter();
        let limits: BTreeSet<_> = limits.filter_map(|limit| limit.r#macro.clone()).collect();
        assert_eq!(named, limits, "{name}");
        for limit in &rule.limits {
            let above = limit.number().to_string();
            match &limit.r#macro {
                Some(name) => assert_eq!(defaults[&format!("{MACRO}{name}}}")], above, "{name}"),
                None if rule.zabbix_when.is_some() => {}
                None => assert!(trigger.expression.ends_with(&format!(">{above}")), "{name}"),
            }
        }
        let priority = match rule.severity.as_str() {
            "critical" => "HIGH",
            "warning" => "WARNING",
            _ => "INFO",
        };
        assert_eq!(trigger.priority, priority, "{name}");
        assert_eq!(trigger.url, rule.runbook(), "{name}");
        assert!(trigger.url.len() <= 255, "longer than Zabbix 6.0 stores");
    }
    let thresholds = defaults.keys().filter(|name| name.starts_with(MACRO));
    for name in thresholds.filter(|name| !name.ends_with("MATCHES}")) {
        assert!(used.contains(name), "no trigger uses {name}");
    }
    triggers
        .iter()
        .map(|trigger| trigger.name.clone())
        .collect()
}

#[test]
fn triggers_and_macros_are_as_the_table_has_them() {
    let found = check_triggers(&newer());
    let rules = table();
    let named = rules.iter().flat_map(|rule| rule.zabbix.clone());
    assert_eq!(found, named.collect());
    assert!(check_triggers(&classic()).len() >= 4);
    let template = template("zabbix/template_tcp_status_6.0.yaml");
    for rule in rules.iter().filter(|rule| rule.zabbix_when.is_some()) {
        let comparison = format!("< {} ? 1 : 0;", rule.limits[0].number());
        assert!(template.contains(&comparison), "no item has {comparison}");
    }
}
