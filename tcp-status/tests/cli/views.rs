//! `listeners`, `discover` and the history in `show`, of a tracker with much to show.

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    complaint, output, printed,
    rich::{FULL, OTHER, OWN, POD, Rich, SHARED},
    tracker::serve,
};

struct Served {
    _directory: TempDir,
    socket: String,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        serve(&socket, 0o600, Rich::after(0));
        Self {
            socket: socket.to_str().unwrap().into(),
            _directory: directory,
        }
    }

    fn printed(&self, arguments: &[&str]) -> String {
        let text = printed(&[arguments, &["--socket", &self.socket]].concat());
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text:?}"
        );
        text
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.printed(arguments);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

#[test]
fn every_listening_socket_is_in_the_table() {
    let served = Served::new();
    let table = served.printed(&["listeners"]);
    for part in [
        "netns     4026531833\n",
        "overflows 700 for a full accept queue (1.0/s), 750 drops in all (1.5/s)\n",
        "cookies   40 sent (12.0/s), 30 valid, 1 invalid (0.050/s); full SYN queue: 40\n          cookies, 0 drops\n",
        "sockets   40 at 34 addresses; accept queue full: 1; SYN queue full: 0\n",
        "\nFULL      5432     129     128     129       3     128       0       3      32  127.0.0.1                               web.service\n",
        "\nwas full   443     540    2044    1300      12    2044       2     117      43  0.0.0.0  4 sockets together\n",
        "\nsyn       9100       0    4096       0     896    4096     640       0     100  2001:db8:1234:5678:9abc:def0:1234:5678\n",
        "\nwas full           270     511     550       6     511       1     117      43    4 of 4\n",
    ] {
        assert!(table.contains(part), "{part}{table}");
    }
    // Header, title, addresses, and the sockets of two groups.
    assert_eq!(table.lines().count(), 5 + 2 + 34 + 4 + 4, "{table}");
    let one = served.printed(&["listeners", "--port", "5432", "--window", "30"]);
    assert!(one.contains("\nport      5432\n"), "{one}");
    assert_eq!(one.lines().count(), 9, "{one}");
    let other = served.printed(&["listeners", "--netns", &OTHER.to_string()]);
    for part in [
        "netns     4026532999 (web]0;owned[2J )\n",
        "DEGRADED  an audit is due\n",
        "  10.9.8.7\n",
    ] {
        assert!(other.contains(part), "{part}{other}");
    }
    assert!(!other.contains("overflows"), "{other}");
}

#[test]
fn the_history_says_how_much_and_when() {
    let served = Served::new();
    // The peak was at 11:42:22 UTC, 18 minutes and 28 seconds ago; twenty minutes are not known.
    let summary = served.printed(&["history", "--since", "2h"]);
    for part in [
        "history   100 minutes of the last 120, sampled every 100 ms; 1 degraded\n",
        "fullest   accept queue of port 5432: 129 of 128 at 11:42:30, 18m ago\n",
        "\nestablished         750     1146.2     4321  11:42:22    18m  ",
        "\naccept queues        50       75.0      100  ",
        "\npassive opens         0        3.2     12.5  ",
        "\nalways 0  synsent, synrecv, finwait1,",
    ] {
        assert!(summary.contains(part), "{part}{summary}");
    }
    let row = summary.lines().find(|line| line.starts_with("established"));
    let plot: Vec<_> = row.unwrap().chars().skip(62).collect();
    assert!((17..=18).contains(&plot.len()), "{plot:?}");
    assert!(plot.contains(&'-') && plot.contains(&'█'), "{plot:?}");
    assert!(
        summary.lines().all(|line| line.chars().count() <= 80),
        "{summary}"
    );

    let state = served.printed(&["history", "ESTABLISHED", "--since", "1h"]);
    for part in [
        "peak      4321 established at 11:42:22, 18m ago\n",
        "\n2027-01-15 11:42       2160     3240.8     4321  11:42:22  ██████████████████\n",
        "\n2027-01-15 11:43        750     1125.0     1500  11:43:22  ███████ degraded\n",
        "\n-\n",
    ] {
        assert!(state.contains(part), "{part}{state}");
    }
    let never = served.printed(&["history", "closing", "--since", "1m"]);
    assert!(!never.contains('█'), "{never}");
    let json = served.json(&["history", "TIME-WAIT", "--json"]);
    assert_eq!(json["since_seconds"], 3600);
    assert_eq!(json["peaks"]["timewait"]["max"], 0);
}

#[test]
fn listeners_are_also_json() {
    let served = Served::new();
    let json = served.json(&["listeners", "--json"]);
    assert_eq!((&json["schema"], &json["netns"]), (&1.into(), &OWN.into()));
    assert_eq!(json["overflows"]["listen_drops"], 750);
    let sockets = json["listeners"].as_array().unwrap();
    assert_eq!(sockets.len(), 40);
    let full = sockets
        .iter()
        .find(|socket| socket["port"] == FULL)
        .unwrap();
    let expected = serde_json::json!({
        "family": 4, "address": "127.0.0.1", "port": FULL, "uid": 32, "reuseport": false,
        "accept_queue": 129, "accept_queue_limit": 128, "accept_queue_peak": 129, "syn_queue": 3,
        "syn_queue_retransmitted": 0,
        "syn_queue_limit": 128, "drops": 3, "cgroup": 4, "unit": "web.service",
    });
    assert_eq!(*full, expected);
    let none = served.json(&["listeners", "--json", "--port", "1"]);
    assert_eq!(none["listeners"], Value::Array(Vec::new()));
}

#[test]
fn discovery_has_one_object_for_each_port() {
    let served = Served::new();
    let json = served.json(&["discover"]);
    let ports = json.as_array().unwrap();
    let numbers: Vec<u16> = ports
        .iter()
        .map(|port| port["{#PORT}"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(numbers.len(), 31);
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let shared = ports
        .iter()
        .find(|port| port["{#PORT}"] == *SHARED.to_string())
        .unwrap();
    for (macro_name, value) in [
        ("{#ADDRESSES}", "0.0.0.0,::"),
        ("{#FAMILIES}", "4,6"),
        ("{#LIMIT}", "4088"),
        ("{#NETNS}", "4026531833"),
    ] {
        assert_eq!(shared[macro_name], value);
    }
    // The state of the tracker does not show in it.
    assert_eq!(served.json(&["discover"]), json);
    let all = served.json(&["discover", "--all-netns"]);
    let last = all.as_array().unwrap().last().unwrap();
    assert_eq!(last["{#NETNS}"], OTHER.to_string());
    assert_eq!(all.as_array().unwrap().len(), numbers.len() + 1);
    let other = served.json(&["discover", "--netns", &OTHER.to_string()]);
    assert_eq!(&other[0], last);
}

#[test]
fn show_has_history_of_all_ports_together() {
    let served = Served::new();
    let table = served.printed(&["show"]);
    for part in [
        "CRITICAL  port 5432 (web.service): the accept queue is full: 129 wait, limit 128\n",
        "\ntier      reduced: cannot attach to inet_twsk_kill",
        "\nsynrecv               3         +3          3          0          0       4096\n",
    ] {
        assert!(table.contains(part), "{part}{table}");
    }
    for word in ["opened", "stale", "drift", "overflows"] {
        assert!(!table.contains(word), "{word}: {table}");
    }
    let table = served.printed(&["show", "--verbose"]);
    for part in [
        "\nopened/s  5.0 active, 1234.5 passive, 0.4 failed, over 60 s\n",
        "\nstale     17 in closewait, 2 in finwait2 for over 60 s; walked 4 s ago\n",
        "\noutgoing  231: 31 established, 200 closewait; 28232 ephemeral ports, 16 reserved\n",
        "\noverflows 701 for a full accept queue (1.0/s), 751 drops in all (1.5/s)\n",
    ] {
        assert!(table.contains(part), "{part}{table}");
    }
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    let all = served.printed(&["show", "--all-netns"]);
    assert!(
        all.contains("\n4026532999            8           7 "),
        "{all}"
    );
    let port = served.printed(&["show", "--port", "443"]);
    for word in ["opened/s", "stale", "peaks", "max"] {
        assert!(!port.contains(word), "{port}");
    }
}

#[test]
fn a_namespace_that_the_tracker_refuses_is_said_as_one_line() {
    let served = Served::new();
    for command in ["listeners", "discover"] {
        let arguments = [command, "--netns", "nowhere", "--socket", &served.socket];
        let line = complaint(&output(&arguments), 2);
        assert!(line.contains("\"nowhere\": not there"), "{line}");
    }
}

/// The rows of a table, each as its first words and its numbers.
fn numbers(table: &str) -> Vec<(String, Vec<u64>)> {
    let rows = table.lines().skip_while(|line| !line.starts_with("port "));
    rows.skip(1)
        .map(|row| {
            let (name, counts) = row.split_at(14);
            // The unit of the listener may follow.
            let counts = counts
                .split_whitespace()
                .map_while(|word| word.parse().ok());
            (name.trim_end().to_owned(), counts.collect())
        })
        .collect()
}

#[test]
fn ports_are_sorted_and_add_up() {
    let served = Served::new();
    let table = served.printed(&["ports"]);
    assert!(table.starts_with("netns     4026531833\n"), "{table}");
    assert!(table.contains("\nnew       5432: "), "{table}");
    assert!(
        table.contains("\nport              total established timewait closewait  listen  unit\n"),
        "{table}"
    );
    let full = table.lines().find(|line| line.starts_with("5432 "));
    assert!(
        full.is_some_and(|row| row.ends_with("  web.service")),
        "{table}"
    );
    // All of them end alike: the three first.
    let ends = "8 reset by peer, 7 reset locally, 6 timed out";
    let words: Vec<_> = table.split_whitespace().collect();
    let aborted = format!("aborted 443: {ends}; 5432: {ends}; 8000: {ends}; 27 more");
    assert!(words.join(" ").contains(&aborted), "{table}");
    let rows = numbers(&table);
    // None is idle.
    let names: Vec<_> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 30 + 3, "{table}");
    assert_eq!(names[30..], ["outgoing", "other", "all"]);
    let totals: Vec<_> = rows.iter().map(|(_, counts)| counts[0]).collect();
    assert!(totals[..30].is_sorted_by(|a, b| a >= b), "{table}");
    for column in 0..rows[0].1.len() {
        let sum: u64 = rows[..32].iter().map(|(_, counts)| counts[column]).sum();
        assert_eq!(sum, rows[32].1[column], "{table}");
    }

    let few = numbers(&served.printed(&["ports", "--limit", "2", "--sort", "CLOSE_WAIT"]));
    assert_eq!(
        (few[0].0.as_str(), few[2].0.as_str()),
        ("5432", "28 more ports")
    );
    assert_eq!(few.last(), rows.last(), "what is left out is in the sums");
    let by_port = numbers(&served.printed(&["ports", "--sort", "port", "--all"]));
    assert_eq!(
        (by_port[0].0.as_str(), by_port[29].0.as_str()),
        ("443", "8027")
    );

    let json = served.json(&["ports", "--json", "--limit", "1", "--sort", "closewait"]);
    assert_eq!((&json["schema"], &json["limit"]), (&1.into(), &30.into()));
    assert_eq!(json["ports"][0]["port"], FULL);
    assert_eq!(json["ports"][0]["unit"], "web.service");
    assert_eq!(json["ports"][0]["states"]["closewait"], 41);
    assert_eq!(json["rest"]["ports"], 29);
    assert_eq!(json["outgoing"]["closewait"], 200);
    assert_eq!(json["other"]["listen"], 2);
    assert_eq!(json["unaudited"][0], FULL);

    // Another namespace has no tracked port, and nothing is known of outgoing connections.
    let other = served.printed(&["ports", "--netns", &OTHER.to_string()]);
    assert!(other.contains("\noutgoing        unknown\n"), "{other}");
    assert!(other.contains("\nDEGRADED  an audit is due\n"), "{other}");
    let json = served.json(&["ports", "--json", "--netns", &OTHER.to_string()]);
    assert_eq!(
        (&json["outgoing"], &json["rest"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(json["degraded"], "an audit is due");
}

#[test]
fn cgroups_have_their_shortest_name_and_add_up() {
    let served = Served::new();
    let table = served.printed(&["cgroups", "--all"]);
    let row = |name: &str| {
        let mut lines = table.lines();
        let found = lines.find(|line| line.starts_with(name));
        found
            .unwrap_or_else(|| panic!("{name}: {table}"))
            .to_owned()
    };
    assert!(row("0a0a0a0a0a0a ").contains("/system.slice/docker-0a0a"));
    assert!(row("cgroup 6, removed ").contains("34"), "{table}");
    assert!(row("unattributed ").contains("10"), "{table}");
    assert!(row("all ").contains("198"), "{table}");
    let json = served.json(&["cgroups", "--json", "--limit", "1"]);
    assert_eq!(json["cgroups"].as_array().unwrap().len(), 1);
    assert_eq!(json["rest"]["cgroups"], 4);
    let found = served.json(&["discover", "--cgroups"]);
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 4, "one has no path");
    assert_eq!(found[1]["{#NAME}"], "0a0a0a0a0a0a");
    let ports = served.json(&["ports", "--json", "--all"]);
    let ports = ports["ports"].as_array().unwrap();
    let full = ports.iter().find(|row| row["port"] == FULL).unwrap();
    assert_eq!(full["unit"], "web.service");
}

#[test]
fn cgroups_are_of_all_namespaces_unless_one_is_named() {
    let served = Served::new();
    let table = served.printed(&["cgroups", "--all"]);
    for part in [
        "netns     4026531833 and 1 more\n",
        "DEGRADED  an audit is due (1 of 2 network namespaces)\n",
        "  netns       path\n",
        "  4026531833\n",
        "  2 netns     /system.slice/docker-0a0a",
        "  4026532999  /kubepods/pod2dd25b02-",
    ] {
        assert!(table.contains(part), "{part}{table}");
    }
    let other = OTHER.to_string();
    let one = served.printed(&["cgroups", "--netns", &other]);
    assert!(
        one.starts_with("netns     4026532999 (web]0;owned[2J )\n"),
        "{one}"
    );
    assert!(one.contains("\nDEGRADED  an audit is due\n"), "{one}");
    assert!(
        one.lines()
            .any(|line| line.starts_with("all") && line.contains(" 8 ")),
        "{one}"
    );

    let json = served.json(&["cgroups", "--json", "--all"]);
    assert_eq!(
        (&json["netns"], &json["namespaces"]),
        (&OWN.into(), &2.into())
    );
    let row = |id: u64| {
        let mut rows = json["cgroups"].as_array().unwrap().iter();
        rows.find(|row| row["id"] == id).unwrap()
    };
    assert_eq!(row(5)["netns"], serde_json::json!([OWN, OTHER]));
    assert_eq!(row(5)["states"]["established"], 35 + 2);
    assert_eq!(
        (&row(9)["netns"], &row(9)["pod"]),
        (&serde_json::json!([OTHER]), &POD.into())
    );
    let json = served.json(&["cgroups", "--json", "--netns", &other]);
    assert_eq!(
        (&json["netns"], &json["namespaces"]),
        (&OTHER.into(), &1.into())
    );
    assert_eq!(json["cgroups"].as_array().unwrap().len(), 2);
    let found = served.json(&["discover", "--cgroups", "--netns", &other]);
    assert_eq!(found[0]["{#POD}"], POD);
    assert_eq!(found.as_array().unwrap().len(), 2);
}
