//! Every JSON output conforms to its schema in `docs/schema`, and has no field that the schema does not
//! describe.

use std::{fs, path::Path};

use jsonschema::Validator;
use serde_json::Value;

use crate::{
    output, printed,
    rich::{OTHER, Rich},
    tracker::{Tracker, serve},
};

/// A schema as the page has it, but closed: consumers accept fields that come later, this test does not.
fn schema(name: &str) -> Validator {
    let path = format!("../docs/schema/{name}.json");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let mut schema = serde_json::from_str(&text).unwrap();
    close(&mut schema);
    jsonschema::validator_for(&schema).unwrap()
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") {
                members.insert("additionalProperties".into(), false.into());
            }
            members.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn assert_conforms(schema: &Validator, text: &str) {
    let value: Value = serde_json::from_str(text).unwrap();
    let errors: Vec<_> = schema
        .iter_errors(&value)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
}

const OUTPUTS: [(&str, &[&[&str]]); 4] = [
    (
        "show",
        &[
            &["show", "--json"],
            &["show", "--json", "--all-netns"],
            &["show", "--json", "--port", "443"],
        ],
    ),
    ("listeners", &[&["listeners", "--json"]]),
    (
        "ports",
        &[
            &["ports", "--json"],
            &["ports", "--json", "--all", "--limit", "1"],
        ],
    ),
    ("discover", &[&["discover"], &["discover", "--all-netns"]]),
];

#[test]
fn every_json_output_conforms_to_its_schema() {
    let directory = tempfile::tempdir().unwrap();
    let rich = directory.path().join("s");
    serve(&rich, 0o600, Rich::after(0));
    // Knows much less: most of its fields are null.
    let scan = Tracker::start();
    let other = OTHER.to_string();
    for (name, commands) in OUTPUTS {
        let schema = schema(name);
        for socket in [rich.clone(), scan.socket()] {
            for command in commands {
                let arguments = [command, &["--socket", socket.to_str().unwrap()] as &[_]];
                assert_conforms(&schema, &printed(&arguments.concat()));
            }
        }
        if name != "discover" {
            let socket = rich.to_str().unwrap();
            let arguments = [name, "--json", "--netns", &other, "--socket", socket];
            assert_conforms(&schema, &printed(&arguments));
        }
    }
    let history = schema("history");
    for state in [&[] as &[_], &["TIME_WAIT"]] {
        let arguments = ["history", "--json", "--socket", rich.to_str().unwrap()];
        assert_conforms(&history, &printed(&[&arguments, state].concat()));
    }
    let socket = rich.to_str().unwrap();
    for more in [&[] as &[_], &["--all", "--limit", "1"]] {
        let arguments = [&["cgroups", "--json", "--socket", socket], more].concat();
        assert_conforms(&schema("cgroups"), &printed(&arguments));
    }
    let discovered = printed(&["discover", "--cgroups", "--socket", socket]);
    assert_conforms(&schema("discover-cgroups"), &discovered);
    for by in ["remote", "destination", "process", "cgroup", "port"] {
        let found = output(&["who", "--json", "--by", by]);
        if by == "cgroup" && !found.status.success() {
            // No cgroup2 hierarchy, or an old kernel.
            continue;
        }
        let text = String::from_utf8(found.stdout).unwrap();
        assert_conforms(&schema("who"), &text);
    }
    let socket = scan.socket();
    let verified = output(&["verify", "--json", "--socket", socket.to_str().unwrap()]);
    let text = String::from_utf8(verified.stdout).unwrap();
    assert_conforms(&schema("verify"), &text);
}

#[test]
fn a_schema_refuses_what_is_not_described() {
    let schema = schema("show");
    let mut one: Value = serde_json::to_value(tcp_status::snapshot::Snapshot::of(
        tcp_status::snapshot::Tier::Scan,
        1,
        Default::default(),
    ))
    .unwrap();
    assert!(schema.is_valid(&one));
    for (field, value) in [
        ("more", Value::from(1)),
        ("tier", "best".into()),
        ("states", Value::Null),
    ] {
        let before = one[field].clone();
        one[field] = value;
        assert!(!schema.is_valid(&one), "{field}");
        match before {
            Value::Null => drop(one.as_object_mut().unwrap().remove(field)),
            before => one[field] = before,
        }
    }
}
