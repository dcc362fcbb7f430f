//! Pushes to a collector that answers what a test wants.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::Value;
use tcp_status::{
    serve::otlp::{Target, push},
    snapshot::{Counts, Snapshot},
};
use tcp_status_common::state::State;
use tokio::sync::oneshot;

use crate::fake::{Fixed, full};

/// What the conventions call the states, in the order of [`State::ALL`].
const STATES: [&str; State::COUNT] = [
    "established",
    "syn_sent",
    "syn_received",
    "fin_wait_1",
    "fin_wait_2",
    "time_wait",
    "closed",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
];

/// Pushes every `period` until the collector has given these answers; returns what it got.
fn pushed(snapshot: Snapshot, period: Duration, answers: &[(&str, &str)]) -> Vec<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target: Target = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let (done, shutdown) = oneshot::channel();
    let pushing = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let source = Arc::new(Fixed(vec![snapshot]));
        let shutdown = async { drop(shutdown.await) };
        runtime.block_on(push(&target, period, source, shutdown));
    });
    let requests = answers.iter().map(|answer| respond(&listener, *answer));
    let requests = requests.collect();
    done.send(()).unwrap();
    pushing.join().unwrap();
    requests
}

/// Reads one request, and answers with a status line and its body.
fn respond(listener: &TcpListener, (status, body): (&str, &str)) -> Value {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let head = head.to_lowercase();
    assert!(head.starts_with("post /v1/metrics http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json\r\n"));
    let length = head.split_once("content-length: ").unwrap().1;
    let length: usize = length.split_once('\r').unwrap().0.parse().unwrap();
    let mut request = vec![0; length];
    reader.read_exact(&mut request).unwrap();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    serde_json::from_slice(&request).unwrap()
}

/// The points of a metric: their attributes as `key=value`, sorted, and their values.
fn points(request: &Value, name: &str) -> Vec<(Vec<String>, u64)> {
    let metrics = &request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
    let metric = metrics.as_array().unwrap().iter();
    let metric = metric.clone().find(|one| one["name"] == name).unwrap();
    let data = metric.get("sum").unwrap_or(&metric["gauge"]);
    let points = data["dataPoints"].as_array().unwrap().iter().map(|point| {
        let attributes = point["attributes"].as_array().unwrap().iter();
        let mut attributes: Vec<_> = attributes
            .map(|one| {
                let value = one["value"].as_object().unwrap().values().next().unwrap();
                let key = one["key"].as_str().unwrap();
                format!("{key}={}", value.as_str().unwrap())
            })
            .collect();
        attributes.sort();
        (attributes, point["asInt"].as_u64().unwrap())
    });
    points.collect()
}

fn times(request: &Value) -> &Value {
    let metrics = &request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
    &metrics[0]["sum"]["dataPoints"][0]["timeUnixNano"]
}

fn assert_names_the_conventions(request: &Value) {
    let resource = &request["resourceMetrics"][0];
    for schema in [resource, &resource["scopeMetrics"][0]].map(|one| &one["schemaUrl"]) {
        assert_eq!(schema, "https://opentelemetry.io/schemas/1.44.0");
    }
}

#[test]
fn a_reading_has_the_names_of_the_conventions() {
    let hour = Duration::from_secs(3600);
    let taken = pushed(full(), hour, &[("200 OK", "{\"partialSuccess\":{}}")]);
    assert_names_the_conventions(&taken[0]);
    let found = points(&taken[0], "system.network.connection.count");
    assert_eq!(found.len(), 22);
    let wanted = |family: &str, counts: &Counts| {
        let states = STATES.iter().zip(State::ALL).map(|(name, state)| {
            let attributes = [
                format!("network.connection.state={name}"),
                "network.transport=tcp".to_owned(),
                format!("network.type={family}"),
            ];
            (attributes.to_vec(), counts[state])
        });
        states.collect::<Vec<_>>()
    };
    let all = [wanted("ipv4", &full().ipv4), wanted("ipv6", &full().ipv6)].concat();
    assert_eq!(found, all);
    let ports = points(&taken[0], "tcp_status.port.connection.count");
    let listening = [
        "network.connection.state=listen",
        "network.local.port=8080",
        "network.transport=tcp",
    ]
    .map(str::to_owned)
    .to_vec();
    assert!(ports.contains(&(listening, 410)), "{ports:?}");
    assert_eq!(points(&taken[0], "tcp_status.degraded"), [(vec![], 0)]);
    let opened = ["tcp_status.from=closed", "tcp_status.to=syn_sent"].map(str::to_owned);
    let transitions = points(&taken[0], "tcp_status.transitions");
    assert!(
        transitions.contains(&(opened.to_vec(), 41)),
        "{transitions:?}"
    );
}

#[test]
fn every_namespace_has_points_of_its_own() {
    let snapshot = Snapshot {
        all_netns: true,
        netns_name: Some("blue".into()),
        ..full()
    };
    let taken = pushed(snapshot, Duration::from_secs(3600), &[("200 OK", "")]);
    let named = ["tcp_status.netns=blue".to_owned()].to_vec();
    assert_eq!(points(&taken[0], "tcp_status.degraded"), [(named, 0)]);
}

#[test]
fn what_is_not_taken_is_sent_again() {
    let answers = [
        ("503 Service Unavailable", ""),
        ("429 Too Many Requests\r\nRetry-After: 1", ""),
        ("200 OK", "{}"),
    ];
    let sent = pushed(full(), Duration::from_secs(3600), &answers);
    assert!(sent[0] == sent[1] && sent[1] == sent[2]);
}

#[test]
fn what_is_refused_is_not_sent_again() {
    let partial = r#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"no"}}"#;
    let answers = [
        ("400 Bad Request", ""),
        ("200 OK", partial),
        ("200 OK", "{}"),
    ];
    let sent = pushed(full(), Duration::from_millis(50), &answers);
    assert_ne!(times(&sent[0]), times(&sent[1]));
    assert_ne!(times(&sent[1]), times(&sent[2]));
}

#[test]
fn a_collector_has_an_address_and_a_port() {
    for (text, target) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/metrics"),
        ("http://[::1]:4318/", "http://[::1]:4318/v1/metrics"),
        (
            "http://10.0.0.1:80/otlp/v1/metrics",
            "http://10.0.0.1:80/otlp/v1/metrics",
        ),
    ] {
        assert_eq!(text.parse::<Target>().unwrap().to_string(), target);
    }
    for text in [
        "",
        "127.0.0.1:4318",
        "http://127.0.0.1",
        "http://localhost:4318",
        "https://127.0.0.1:4318",
        "http://user@127.0.0.1:4318",
        "grpc://127.0.0.1:4317",
    ] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
}
