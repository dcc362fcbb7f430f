//! `get`, `show` and `verify`, of a tracker that scans and of one that says what a test wants.

use std::{fs::File, io, path::Path};

use serde_json::Value;
use tcp_status::{
    kernel::{netns, procfs},
    serve::{
        Source,
        protocol::{ApiError, ApiErrorKind, Get, Show},
    },
    snapshot::{Counts, Snapshot, Tier},
};
use tcp_status_common::state::State;
use tcp_status_testkit::netns::Netns;

use crate::{
    complaint, output, printed,
    rich::Rich,
    tcp_status,
    tracker::{Tracker, serve},
};

#[test]
fn get_and_show_agree() {
    let tracker = Tracker::start();
    let socket = tracker.socket();
    let socket = socket.to_str().unwrap();
    for state in State::ALL {
        let number = printed(&["get", state.name(), "--socket", socket]);
        number.trim_end_matches('\n').parse::<u64>().unwrap();
        assert!(
            number.ends_with('\n') && !number.ends_with("\n\n"),
            "{number:?}"
        );
    }
    for arguments in [
        &["get", "TIME-WAIT", "--port", "65535"] as &[_],
        &["get", "fin_wait_2", "--family", "6", "--port=1"],
    ] {
        assert_eq!(printed(&[arguments, &["--socket", socket]].concat()), "0\n");
    }
    let json = printed(&["show", "--json", "--socket", socket]);
    assert_eq!(json.matches('\n').count(), 1);
    let one: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&one["schema"], &one["tier"]), (&1.into(), &"scan".into()));
    for counts in ["states", "ipv4", "ipv6"] {
        for state in State::ALL {
            assert!(one[counts][state.name()].is_u64(), "{json}");
        }
    }
    // A scan sees no events.
    for unknown in ["transitions", "events", "rates", "peaks"] {
        assert!(one[unknown].is_null(), "{unknown}: {json}");
    }
    let all = printed(&["show", "--json", "--all-netns", "--socket", socket]);
    assert!(
        serde_json::from_str::<Value>(&all).unwrap()[0]["states"].is_object(),
        "{all}"
    );
    let table = printed(&["show", "--verbose", "--socket", socket]);
    assert!(
        table.contains("tier      scan: asked for by --backend scan\n"),
        "{table}"
    );
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    for unknown in ["drift", "opened", "events"] {
        assert!(!table.contains(unknown), "{unknown}: {table}");
    }
    let by_environment = tcp_status()
        .arg("show")
        .env("TCP_STATUS_SOCKET", socket)
        .output();
    assert_eq!(by_environment.unwrap().status.code(), Some(0));
}

#[test]
fn namespaces_that_are_not_counted_are_named() {
    let tracker = Tracker::start();
    let socket = tracker.socket();
    let socket = socket.to_str().unwrap();
    let all = printed(&["show", "--all-netns", "--socket", socket]);
    let line = "\nother network namespaces are not counted; start the tracker with --netns all\n";
    assert!(all.ends_with(line), "{all}");
    let json = printed(&["show", "--all-netns", "--json", "--socket", socket]);
    let all: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(all[0]["all_netns"], false, "{json}");
    let own = printed(&["show", "--socket", socket]);
    assert!(!own.contains("not counted"), "{own}");
}

#[test]
fn readers_that_leave_and_full_devices() {
    let tracker = Tracker::start();
    for arguments in [&["get", "listen"] as &[_], &["show"], &["show", "--json"]] {
        let run = |stdout: std::process::Stdio| {
            let mut command = tcp_status();
            command
                .args(arguments)
                .arg("--socket")
                .arg(tracker.socket());
            command.stdout(stdout).output().unwrap()
        };
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let left = run(writer.into());
        assert_eq!(
            (left.status.code(), left.stderr.len()),
            (Some(0), 0),
            "{arguments:?}"
        );
        let full = run(File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
            .into());
        assert!(
            complaint(&full, 4).contains("standard output"),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_namespace_that_is_not_there_is_a_bad_argument() {
    let tracker = Tracker::start();
    for command in [&["get", "listen"] as &[_], &["show"]] {
        let socket = tracker.socket();
        let more = [
            "--netns",
            "no-such-namespace",
            "--socket",
            socket.to_str().unwrap(),
        ];
        let line = complaint(&output(&[command, &more].concat()), 2);
        assert!(line.contains("\"no-such-namespace\""), "{line}");
    }
}

/// `get` of several states, against one reading that does not change.
#[test]
fn several_states_are_one_reading_in_the_order_asked() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    serve(&socket, 0o600, Rich::after(0));
    let get = |arguments: &[&str]| {
        let socket = ["--socket", socket.to_str().unwrap()];
        printed(&[&["get"], arguments, &socket].concat())
    };
    assert_eq!(get(&["timewait", "LISTEN"]), "20000\n40\n");
    assert_eq!(get(&["listen", "TIME_WAIT", "listen"]), "40\n20000\n40\n");
    assert_eq!(get(&["listen", "closewait", "--family", "6"]), "9\n0\n");
    let all = get(&["all", "--family", "4"]);
    let numbers: Vec<_> = all.lines().collect();
    assert_eq!(numbers.len(), State::COUNT, "{all}");
    let at = |state: State| numbers[State::ALL.iter().position(|one| *one == state).unwrap()];
    let some = [
        State::TimeWait,
        State::CloseWait,
        State::Listen,
        State::Closing,
    ]
    .map(at);
    assert_eq!(some, ["20000", "41", "31", "0"]);
    let tracker = Tracker::start();
    let socket = tracker.socket();
    let arguments = [
        "get",
        "all",
        "--port",
        "65535",
        "--socket",
        socket.to_str().unwrap(),
    ];
    assert_eq!(printed(&arguments), "0\n".repeat(State::COUNT));
    let absent = ["get", "all", "listen", "--netns", "no-such", "--socket"];
    let refused = output(&[&absent as &[_], &[socket.to_str().unwrap()]].concat());
    complaint(&refused, 2);
}

#[test]
fn a_scan_has_no_history_and_says_so() {
    let tracker = Tracker::start();
    let socket = tracker.socket();
    let arguments = ["history", "--socket", socket.to_str().unwrap()];
    let line = complaint(&output(&arguments), 3);
    assert!(line.contains("the scan tier keeps none"), "{line}");
}

#[test]
fn verify_agrees_with_a_scan_at_rest() {
    let Some(netns) = Netns::for_test() else {
        return;
    };
    netns
        .run(|| {
            let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let tracker = Tracker::start();
            let socket = tracker.socket();
            let socket = socket.to_str().unwrap();
            let table = printed(&["verify", "--socket", socket]);
            assert!(table.contains("\nresult    equal\n"), "{table}");
            let json = printed(&["verify", "--json", "--socket", socket]);
            let compared: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(
                (&compared["equal"], &compared["moving"]),
                (&true.into(), &false.into())
            );
            assert_eq!(compared["states"][9]["kernel"], 1, "{json}");
            assert_eq!(compared["ipv4"][9]["difference"], 0, "{json}");
            assert_eq!(compared["outgoing"][9]["verdict"], "equal", "{json}");
        })
        .unwrap();
}

/// Shows one reading, whatever is asked; has no numbers.
struct Fixed(Snapshot);

impl Source for Fixed {
    fn get(&self, _: &Get) -> Result<u64, ApiError> {
        Err(ApiError {
            kind: ApiErrorKind::Refused,
            message: "cannot get anything: not\nallowed; ask somebody else".into(),
        })
    }

    fn show(&self, _: &Show) -> Result<Vec<Snapshot>, ApiError> {
        Ok(vec![self.0.clone()])
    }
}

/// A reading with more listeners than there are, whatever other tests open meanwhile.
fn wrong(netns: u32) -> Fixed {
    let mut listing = procfs::listing(None).unwrap();
    listing.ipv4[State::Listen] += 1000;
    Fixed(Snapshot::of(
        Tier::Full,
        netns,
        [listing.ipv4, Counts::default()],
    ))
}

fn verify(socket: &Path) -> std::process::Output {
    let socket = socket.to_str().unwrap();
    output(&["verify", "--json", "--socket", socket])
}

#[test]
fn verify_says_no_when_the_tracker_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    serve(&socket, 0o600, wrong(netns::own().unwrap()));
    let output = verify(&socket);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(compared["equal"], false);
    assert_eq!(compared["ipv4"][9]["verdict"], "differs");
    let table = crate::output(&["verify", "--socket", socket.to_str().unwrap()]);
    assert_eq!(table.status.code(), Some(1));
    assert!(
        String::from_utf8(table.stdout)
            .unwrap()
            .contains("\nresult    DIFFERENT")
    );
}

#[test]
fn verify_does_not_compare_two_namespaces() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    serve(&socket, 0o600, wrong(42));
    let line = complaint(&verify(&socket), 2);
    let own = netns::own().unwrap().to_string();
    for part in [own.as_str(), "the tracker counts 42", "nsenter"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn what_a_tracker_refuses_is_said_as_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    serve(&socket, 0o600, wrong(42));
    let line = complaint(
        &output(&["get", "listen", "--socket", socket.to_str().unwrap()]),
        4,
    );
    assert_eq!(
        line,
        "tcp-status: cannot get anything: notallowed; ask somebody else"
    );
}
