//! Lines of the protocol, sound and unsound.

use super::{ApiError, ApiErrorKind, Get, History, Query, Request, Response, Show, Wait, encode};

#[test]
fn requests_read_back() {
    for query in [
        Query::Get(Get {
            state: "listen".into(),
            port: Some(443),
            family: Some(6),
            netns: Some("\u{7f}\"blue\n".into()),
            cgroup: None,
        }),
        Query::Show(Show::default()),
        Query::History(History {
            state: Some("TIME_WAIT".into()),
            since: Some(7200),
        }),
        Query::Wait(Wait {
            of: Get {
                state: "established".into(),
                port: None,
                family: None,
                netns: None,
                cgroup: None,
            },
            above: None,
            below: Some(1),
            hold: 500,
            timeout: None,
        }),
    ] {
        let request = Request::new(query);
        let line = encode(&request).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(Request::decode(&line), Ok(request));
    }
}

#[test]
fn another_version_is_told_apart_from_garbage() {
    let other = Request::decode(br#"{"v":9,"ask":["something","new"]}"#).unwrap_err();
    assert_eq!(other.kind, ApiErrorKind::Unavailable);
    assert!(other.message.contains("version 9"), "{other}");
    for line in [
        "",
        "GET / HTTP/1.1",
        "{}",
        "[1]",
        r#"{"v":1}"#,
        r#"{"v":1,"do":"halt"}"#,
        r#"{"v":1,"do":"get"}"#,
        r#"{"v":1,"do":"get","state":"listen","port":70000}"#,
        r#"{"v":-1,"do":"show"}"#,
        r#"{"v":1,"do":"show","port":0}"#,
        r#"{"v":1,"do":"get","state":"open"}"#,
        r#"{"v":1,"do":"get","state":"listen","family":5}"#,
        // What would be ignored: the answer would be of something else.
        r#"{"v":1,"do":"show","prot":80}"#,
        r#"{"v":1,"do":"get","state":"listen","netnss":"blue"}"#,
        r#"{"v":1,"do":"show","all_netns":true,"netns":"blue"}"#,
        r#"{"v":1,"do":"history","state":"open"}"#,
        r#"{"v":1,"do":"history","port":80}"#,
        r#"{"v":1,"do":"wait","of":{"state":"listen"}}"#,
        r#"{"v":1,"do":"wait","of":{"state":"listen"},"above":1,"below":9}"#,
        r#"{"v":1,"do":"wait","of":{"state":"open"},"above":1}"#,
        r#"{"v":1,"do":"wait","of":{"state":"listen","port":0},"above":1}"#,
    ] {
        let refusal = Request::decode(line.as_bytes()).unwrap_err();
        assert_eq!(refusal.kind, ApiErrorKind::BadArgument, "{line}");
        assert!(!refusal.message.contains('\n'), "{line}");
    }
}

#[test]
fn answers_read_back() {
    let refusal = ApiError::bad_argument("cannot get port 0: no such port; use 1 to 65535".into());
    for answer in [Response::Value(u64::MAX), Response::Error(refusal)] {
        let line = encode(&answer).unwrap();
        assert_eq!(serde_json::from_slice::<Response>(&line).unwrap(), answer);
    }
}
