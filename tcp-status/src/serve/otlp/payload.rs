//! Builds the body of an export request: OTLP in its JSON encoding, in which 64-bit integers are
//! strings or numbers. Names of states, attributes and the first metric are those of OpenTelemetry's semantic
//! conventions; the others begin with `tcp_status.`.

use serde_json::{Value, json};

use crate::snapshot::{Counts, Snapshot, netns_names};

/// The version of the conventions that names and values are from.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";

/// Cumulative: each point counts from the start.
const CUMULATIVE: u8 = 2;

/// What all points of one request have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When the counters began, in nanoseconds since 1970.
    pub(super) start: u64,
    /// When they were read.
    pub(super) now: u64,
}

/// The body of a request with one reading of each namespace.
pub(super) fn body(host: &str, snapshots: &[Snapshot], times: Times) -> String {
    let resource = attributes([
        ("service.name", "tcp-status".into()),
        ("service.version", env!("CARGO_PKG_VERSION").into()),
        ("host.name", host.into()),
    ]);
    let scope = json!({ "name": "tcp-status", "version": env!("CARGO_PKG_VERSION") });
    let request = json!({ "resourceMetrics": [{
        "resource": { "attributes": resource },
        "scopeMetrics": [{
            "scope": scope,
            "metrics": metrics(snapshots, times),
            "schemaUrl": SCHEMA,
        }],
        "schemaUrl": SCHEMA,
    }] });
    request.to_string()
}

fn metrics(snapshots: &[Snapshot], times: Times) -> Vec<Value> {
    let families = of_each(snapshots, times, |one, points| {
        for (family, counts) in [("ipv4", &one.ipv4), ("ipv6", &one.ipv6)] {
            points.states(counts, |_| true, &[("network.type", family.into())]);
        }
    });
    let ports = of_each(snapshots, times, |one, points| {
        for port in &one.ports.tracked {
            let port_number = [("network.local.port", port.port.into())];
            points.states(&port.states, |count| count > 0, &port_number);
        }
    });
    let transitions = of_each(snapshots, times, |one, points| {
        for (from, to, count) in one.transitions.iter().flat_map(|all| &all.flows) {
            let ends = [
                ("tcp_status.from", convention(from).into()),
                ("tcp_status.to", convention(to).into()),
            ];
            points.add(*count, &ends);
        }
    });
    let degraded = of_each(snapshots, times, |one, points| {
        points.add(u64::from(one.degraded.is_some()), &[]);
    });
    [
        (
            "system.network.connection.count",
            "{connection}",
            "sum",
            false,
            families,
        ),
        (
            "tcp_status.port.connection.count",
            "{connection}",
            "sum",
            false,
            ports,
        ),
        (
            "tcp_status.transitions",
            "{transition}",
            "sum",
            true,
            transitions,
        ),
        ("tcp_status.degraded", "1", "gauge", false, degraded),
    ]
    .into_iter()
    .filter(|(.., points)| !points.is_empty())
    .map(|(name, unit, kind, is_monotonic, points)| {
        let mut data = json!({ "dataPoints": points });
        if kind == "sum" {
            data["aggregationTemporality"] = CUMULATIVE.into();
            data["isMonotonic"] = is_monotonic.into();
        }
        json!({ "name": name, "unit": unit, kind: data })
    })
    .collect()
}

/// The points of one metric, of one namespace.
struct Points<'a> {
    times: Times,
    /// The namespace, where there are several.
    netns: Option<&'a str>,
    all: Vec<Value>,
}

impl Points<'_> {
    fn add(&mut self, value: u64, labels: &[(&str, Value)]) {
        let netns = self.netns.map(|name| ("tcp_status.netns", name.into()));
        self.all.push(json!({
            "attributes": attributes(labels.iter().cloned().chain(netns)),
            "startTimeUnixNano": self.times.start.to_string(),
            "timeUnixNano": self.times.now.to_string(),
            // A number, which every receiver takes as well: Rotel loses a value that is a string.
            "asInt": value,
        }));
    }

    /// A point for each state whose count is to be listed.
    fn states(&mut self, counts: &Counts, is_listed: fn(u64) -> bool, labels: &[(&str, Value)]) {
        for (state, count) in counts.iter().filter(|(_, count)| is_listed(*count)) {
            let own = [
                ("network.transport", "tcp".into()),
                ("network.connection.state", convention(state.name()).into()),
            ];
            self.add(count, &[labels, &own].concat());
        }
    }
}

/// The points of all namespaces.
fn of_each(
    snapshots: &[Snapshot],
    times: Times,
    add: impl Fn(&Snapshot, &mut Points<'_>),
) -> Vec<Value> {
    let named = snapshots.iter().zip(netns_names(snapshots));
    let points = named.flat_map(|(one, name)| {
        let mut points = Points {
            times,
            netns: one.all_netns.then_some(&*name),
            all: Vec::new(),
        };
        add(one, &mut points);
        points.all
    });
    points.collect()
}

/// A list of attributes, as the encoding has it.
fn attributes<'a>(pairs: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let pairs = pairs.into_iter().map(|(key, value)| {
        let value = match value {
            Value::Number(number) => json!({ "intValue": number.to_string() }),
            text => json!({ "stringValue": text }),
        };
        json!({ "key": key, "value": value })
    });
    pairs.collect()
}

/// What the conventions call a state.
fn convention(state: &str) -> &str {
    match state {
        "synsent" => "syn_sent",
        "synrecv" => "syn_received",
        "finwait1" => "fin_wait_1",
        "finwait2" => "fin_wait_2",
        "timewait" => "time_wait",
        "closewait" => "close_wait",
        "lastack" => "last_ack",
        same => same,
    }
}
