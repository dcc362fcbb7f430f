//! A real Prometheus scrapes a real tracker, with our configuration, rules and queries. Both are
//! in a network namespace of their own.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tcp_status_testkit::{
    netns::{Netns, set_sysctl},
    raise_fd_limit, skip_unprepared,
};
use tempfile::TempDir;

use crate::{
    client::{OPEN_METRICS, ask},
    programs::{TEMPLATES, is_alive},
    templates::{metrics, queries, rules, rules_file},
    text::Page,
    tracker::Tracker,
};

/// In a namespace of their own, both have every port for themselves.
const PROMETHEUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
const TRACKER: &str = "127.0.0.1:9889";

const PATIENCE: Duration = Duration::from_secs(60);

struct Prometheus {
    child: Child,
    _directory: TempDir,
}

impl Prometheus {
    /// With our configuration and rules as they are, but in more of a hurry.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ours = Path::new(TEMPLATES).join("prometheus");
        let configuration = fs::read_to_string(ours.join("prometheus.yml")).unwrap();
        assert!(configuration.contains(TRACKER) && configuration.contains("_interval: 15s"));
        let configuration = configuration.replace("_interval: 15s", "_interval: 1s");
        fs::write(directory.path().join("prometheus.yml"), configuration).unwrap();
        let rules = rules_file();
        assert!(rules.contains("for: 2m"));
        let rules = rules.replace("for: 2m", "for: 5s");
        fs::write(directory.path().join("tcp-status.rules.yml"), rules).unwrap();
        let argument =
            |name: &str, file: &str| format!("{name}={}", directory.path().join(file).display());
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(argument("--config.file", "prometheus.yml"))
            .arg(argument("--storage.tsdb.path", "data"))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            _directory: directory,
        }
    }

    /// The `data` of its answer.
    fn api(path: &str) -> Value {
        let body = ask_prometheus(&format!("/api/v1/{path}")).unwrap();
        let json: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}"));
        assert_eq!(json["status"], "success", "{path}: {json}");
        json["data"].clone()
    }

    /// Labels and value of each sample.
    fn query(expression: &str) -> Vec<(Value, f64)> {
        let data = Self::api(&format!("query?query={}", encoded(expression)));
        let samples = data["result"].as_array().unwrap().iter();
        let value = |sample: &Value| sample["value"][1].as_str().unwrap().parse().unwrap();
        samples
            .map(|sample| (sample["metric"].clone(), value(sample)))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; only then its number may be another's.
        if let Ok(None) = self.child.try_wait() {
            let _asked: Result<_, _> = kill(
                Pid::from_raw(self.child.id().cast_signed()),
                Signal::SIGTERM,
            );
            drop(self.child.wait());
        }
    }
}

/// The body of an answer. By HTTP/1.0, so that it comes in one piece.
fn ask_prometheus(target: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(PROMETHEUS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {target} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(body.into())
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn prometheus_has_every_series_and_can_use_every_rule_and_query() {
    if !is_alive("prometheus") {
        return;
    }
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            // Destinations are looked at every two seconds.
            let interval = "--audit-interval=200ms";
            let tracker = Tracker::start(&["--accept-latency", interval, "--metrics", TRACKER]);
            let prometheus = Prometheus::start();
            wait("Prometheus is ready", || {
                ask_prometheus("/-/ready").is_ok_and(|body| body.contains("is Ready"))
            });
            wait("a scrape", || {
                Prometheus::query("up")
                    .iter()
                    .any(|(_, up)| up.round() == 1.0)
            });
            assert_series(&tracker);
            assert_queries();
            assert_rules();
            assert_exhaustion_fires();
            assert_names();
            drop(prometheus);
        })
        .unwrap();
}

fn assert_series(tracker: &Tracker) {
    let page = || Page::parse(&ask(tracker.address(), "GET", "/metrics", OPEN_METRICS).body);
    let up = Prometheus::query("up");
    assert_eq!(up.len(), 1, "{up:?}");
    assert_eq!(
        (&up[0].0["job"], up[0].1.to_string()),
        (&"tcp-status".into(), "1".into())
    );
    let target = &Prometheus::api("targets")["activeTargets"][0];
    assert_eq!(target["lastError"], "", "{target}");
    // A first event of its kind has a series more.
    wait("as many samples as there are", || {
        let scraped = Prometheus::query("scrape_samples_scraped")[0].1;
        scraped.to_string() == page().samples.len().to_string()
    });
    let page = page();
    for series in page.samples.keys() {
        let found = Prometheus::query(series);
        assert_eq!(found.len(), 1, "{series}: {found:?}");
        assert_eq!(found[0].0["job"], "tcp-status");
    }
    // Only OpenMetrics has units: that is what was negotiated.
    let metadata = Prometheus::api("metadata?metric=tcp_status_scrape_duration_seconds");
    let about = &metadata["tcp_status_scrape_duration_seconds"][0];
    assert_eq!(
        (&about["unit"], &about["type"]),
        (&"seconds".into(), &"gauge".into()),
        "{metadata}"
    );
    let listening = Prometheus::query("sum(tcp_status_connections{state=\"listen\"})")[0].1;
    // The test's, the tracker's and Prometheus' own.
    assert_eq!(listening.to_string(), "3");
}

/// The value of an alert that fires and whose annotations contain a text.
fn firing(name: &str, text: &str) -> Option<f64> {
    let alerts = Prometheus::api("alerts");
    let mut alerts = alerts["alerts"].as_array().unwrap().iter();
    let alert = alerts.find(|alert| {
        alert["labels"]["alertname"] == name
            && alert["state"] == "firing"
            && alert["annotations"].to_string().contains(text)
    })?;
    Some(alert["value"].as_str().unwrap().parse().unwrap())
}

/// Uses up the ephemeral ports to one destination, half of them at a constant rate. An alert forecasts when there
/// are none left, another one says so; both name the destination.
fn assert_exhaustion_fires() {
    const PORTS: usize = 1000;
    const PAUSE: Duration = Duration::from_millis(50);
    const TOLERANCE: Duration = Duration::from_secs(4);
    raise_fd_limit().unwrap();
    set_sysctl("ipv4/ip_local_port_range", "61000 61999").unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let destination = format!("127.0.0.1 -> {address}");
    let mut open = Vec::new();
    let mut next = Instant::now();
    let mut forecast = None;
    let refused = loop {
        match TcpStream::connect(address) {
            Ok(client) => open.push((client, listener.accept())),
            Err(error) => break error,
        }
        assert!(open.len() <= PORTS, "more connections than ports");
        if open.len() < PORTS / 2 {
            next = Instant::now();
            continue;
        }
        if forecast.is_none() && open.len().is_multiple_of(10) {
            let left = firing("TcpEphemeralPortsFilling", &destination);
            forecast = left.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        }
        next += PAUSE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    };
    assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
    let now = Instant::now();
    let forecast = forecast.expect("TcpEphemeralPortsFilling fires while there are ports left");
    assert!(
        forecast < now + TOLERANCE && now < forecast + TOLERANCE,
        "{:?} after the forecast, or {:?} before it",
        now.saturating_duration_since(forecast),
        forecast.saturating_duration_since(now)
    );
    let destination = format!("most often to 127.0.0.1 port {}.", address.port());
    wait("TcpNoLocalPort fires", || {
        firing("TcpNoLocalPort", &destination).is_some()
    });
}

/// What Grafana would ask, with its variables filled in.
fn assert_queries() {
    for query in queries() {
        let mut filled = query.clone();
        for (variable, value) in [
            ("$__rate_interval", "1m"),
            ("$instance", ".*"),
            ("$netns", ".*"),
            ("$port", ".*"),
            ("$cgroup", ".*"),
        ] {
            filled = filled.replace(variable, value);
        }
        assert!(!filled.contains('$'), "{query}");
        Prometheus::query(&filled);
    }
    assert_eq!(
        Prometheus::query("tcp_status_tier_info and on (job, instance) up").len(),
        1
    );
}

fn assert_rules() {
    let health = || {
        let groups = Prometheus::api("rules")["groups"]
            .as_array()
            .unwrap()
            .clone();
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone());
        rules
            .map(|rule| rule["health"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    wait("every rule evaluated", || {
        let health = health();
        assert!(health.len() > 10, "{health:?}");
        health.iter().all(|one| one == "ok")
    });
    wait("a recorded series", || {
        !Prometheus::query("instance_state:tcp_status_connections:sum{state=\"listen\"}").is_empty()
    });
}

/// What rules and dashboard name is there, where there is eBPF.
fn assert_names() {
    if Prometheus::query("tcp_status_tier_info{tier!=\"scan\"}").is_empty() {
        return skip_unprepared("prometheus: there are peaks and times in a state with eBPF only");
    }
    let is_full = !Prometheus::query("tcp_status_tier_info{tier=\"full\"}").is_empty();
    let expressions = queries().into_iter().chain(rules());
    for name in expressions.flat_map(|expression| metrics(&expression)) {
        if !is_full && name.starts_with("tcp_status_accept_latency_") {
            continue;
        }
        // What was there while ports were used up may be gone.
        let recent = format!("last_over_time({name}[5m])");
        wait(&name, || !Prometheus::query(&recent).is_empty());
    }
}
