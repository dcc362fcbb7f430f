//! What `docs/troubleshooting.md` says of log lines is all that the program can log, and what
//! `docs/dev/faults.md` says of faults is seen by tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tcp_status::{serve::protocol::Query, track::Pace};

/// The macros whose lines an operator sees without asking for more.
const LEVELS: [&str; 3] = ["info", "warn", "error"];

/// The longest call of one of them, in bytes.
const LONGEST: usize = 400;

/// `level` and message of every call in a source.
fn logged(source: &str) -> BTreeSet<(&'static str, String)> {
    let mut found = BTreeSet::new();
    for level in LEVELS {
        for (_, call) in source
            .match_indices(&format!("log::{level}!("))
            .map(|(at, marker)| (at, &source[at + marker.len()..]))
        {
            let end = call.len().min(LONGEST);
            let call: String = call.chars().take(end).collect();
            let message = message(&call).expect("a call without a message");
            found.insert((level, message));
        }
    }
    found
}

/// The string that the call begins with, or the one after its fields.
fn message(call: &str) -> Option<String> {
    let parts: Vec<_> = call.split('"').collect();
    let is_message = |index: &usize| {
        let before = parts[index - 1].trim_end();
        before.is_empty() || before.ends_with(';')
    };
    let index = (1..parts.len()).step_by(2).find(is_message)?;
    // A string that goes on in the next line.
    let lines = parts[index].split("\\\n").map(str::trim_start);
    Some(lines.collect())
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn every_log_line_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_to_string(root.join("../docs/troubleshooting.md")).unwrap();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut all = BTreeSet::new();
    for path in files {
        all.extend(logged(&fs::read_to_string(path).unwrap()));
    }
    assert!(all.len() > 10, "{all:?}");
    let rows: Vec<_> = manual
        .lines()
        .filter(|line| line.starts_with("| "))
        .collect();
    for (level, message) in &all {
        let explained = rows.iter().any(|row| {
            row.starts_with(&format!("| {level} |")) && row.contains(&format!("`{message}`"))
        });
        assert!(
            explained,
            "docs/troubleshooting.md has no row for {level} `{message}`"
        );
    }
    for row in rows.iter().filter(|row| {
        LEVELS
            .iter()
            .any(|it| row.starts_with(&format!("| {it} |")))
    }) {
        let lines = row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2);
        for line in lines {
            let exists = all.iter().any(|(_, message)| message == line);
            assert!(
                exists,
                "docs/troubleshooting.md explains `{line}`, which nothing logs"
            );
        }
    }
}

/// The names of the tests in a source.
fn tests(source: &str) -> Vec<&str> {
    let after = source.split("#[test]\nfn ").skip(1);
    after.filter_map(|rest| rest.split('(').next()).collect()
}

/// The tests that a page names, each as `file::function`, in folders of any depth. All of them exist: as tests of
/// the binary, or beside the code.
fn named_tests(page: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("..").join(page)).unwrap();
    let code = text.split('`').skip(1).step_by(2);
    let named: BTreeSet<_> = code
        .filter(|code| code.split("::").count() >= 2)
        .map(str::to_owned)
        .collect();
    for name in &named {
        let (file, function) = name.rsplit_once("::").unwrap();
        let file = file.replace("::", "/");
        let exists = ["tests", "src"].iter().any(|folder| {
            let path = root.join(format!("{folder}/{file}.rs"));
            fs::read_to_string(path).is_ok_and(|source| source.contains(&format!("fn {function}(")))
        });
        assert!(exists, "{page}: no test {name}");
    }
    named
}

#[test]
fn what_the_programs_read_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (page, source) = (read("../SECURITY.md"), read("src/kernel/layout.rs"));
    let accept = read("src/kernel/accept.rs");
    let of_accept = accept.split("find(\"").skip(1);
    let of_accept = of_accept.filter_map(|call| call.split('"').next());
    let members: Vec<_> = source
        .split("offset(\"")
        .skip(1)
        .filter_map(|call| call.split('"').nth(2))
        .chain(of_accept)
        .flat_map(|path| path.split('.'))
        .filter(|member| !["__sk_common", "net", "ns", "icsk_accept_queue"].contains(member))
        .collect();
    assert!(members.len() > 10, "{members:?}");
    for member in members {
        let listed = page.contains(&format!("`{member}`"));
        assert!(
            listed,
            "SECURITY.md does not list `{member}`, which is read"
        );
    }
}

#[test]
fn every_claim_on_security_has_its_test() {
    assert!(named_tests("SECURITY.md").len() > 15);
    assert!(named_tests("docs/dev/security.md").len() > 15);
}

/// "No packet, no socket, no return value": what is not a store to their own memory is a helper, and none of
/// these changes anything but maps.
#[test]
fn the_programs_call_helpers_that_read_and_that_write_maps() {
    use aya_obj::generated::bpf_func_id::*;
    const CALL: u8 = 0x85;
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/tcp-status.bpf.o");
    let object = aya_obj::Object::parse(&fs::read(object).unwrap()).unwrap();
    let allowed = [
        BPF_FUNC_map_lookup_elem,
        BPF_FUNC_map_update_elem,
        BPF_FUNC_map_delete_elem,
        BPF_FUNC_map_push_elem,
        BPF_FUNC_map_pop_elem,
        BPF_FUNC_ringbuf_output,
        BPF_FUNC_ringbuf_reserve,
        BPF_FUNC_ringbuf_submit,
        BPF_FUNC_ringbuf_discard,
        BPF_FUNC_seq_write,
        BPF_FUNC_probe_read_kernel,
        BPF_FUNC_skc_to_tcp_sock,
        BPF_FUNC_get_current_task,
        BPF_FUNC_get_current_task_btf,
        BPF_FUNC_get_current_pid_tgid,
        BPF_FUNC_get_smp_processor_id,
        BPF_FUNC_ktime_get_ns,
        BPF_FUNC_jiffies64,
    ];
    let allowed = allowed.map(|helper| helper as u32);
    let instructions = object.functions.values().flat_map(|of| &of.instructions);
    let calls: Vec<_> = instructions.filter(|one| one.code == CALL).collect();
    // 0: a helper; 1: a function of the program's own; 2: a function of the kernel.
    assert!(calls.iter().all(|one| one.src_reg() < 2));
    let helpers = calls.into_iter().filter(|one| one.src_reg() == 0);
    let called: BTreeSet<_> = helpers.map(|one| one.imm.cast_unsigned()).collect();
    assert!(called.len() > 5, "{called:?}");
    for helper in called {
        assert!(allowed.contains(&helper), "helper {helper}");
    }
}

#[test]
fn no_request_writes() {
    let error = serde_json::from_str::<Query>(r#"{"do":"-"}"#).unwrap_err();
    let known = "expected one of `get`, `show`, `history`, `wait` at line";
    assert!(error.to_string().contains(known), "{error}");
}

#[test]
fn the_service_may_do_no_more_than_its_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let unit = fs::read_to_string(root.join("templates/systemd/tcp-status.service")).unwrap();
    for line in [
        "User=tcp-status",
        "CapabilityBoundingSet=CAP_BPF CAP_PERFMON 39 38",
        "AmbientCapabilities=CAP_BPF CAP_PERFMON 39 38",
        "NoNewPrivileges=yes",
        "RestrictAddressFamilies=AF_UNIX AF_NETLINK",
        "IPAddressDeny=any",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectProc=invisible",
    ] {
        let key = line.split_inclusive('=').next().unwrap();
        let found: Vec<_> = unit.lines().filter(|of| of.starts_with(key)).collect();
        assert_eq!(found, [line]);
    }
}

#[test]
fn every_fault_has_its_test_and_every_test_its_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = named_tests("docs/dev/faults.md");
    let mut files = Vec::new();
    sources(&root.join("tests/faults"), &mut files);
    let mut count = 0;
    for path in files {
        let module = path.file_stem().unwrap().to_str().unwrap();
        for test in tests(&fs::read_to_string(&path).unwrap()) {
            let name = format!("faults::{module}::{test}");
            assert!(
                named.contains(&name),
                "docs/dev/faults.md has no row for {name}"
            );
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}

/// What audits and walks on demand may take of a core is one number, in the code and in each manual.
#[test]
fn shares_of_a_core_are_the_same_everywhere() {
    use clap::CommandFactory as _;
    let cli = tcp_status::cli::args::Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let option = run.get_arguments().find(|it| it.get_id() == "audit_share");
    let audits = option.unwrap().get_default_values()[0].to_str().unwrap();
    let pace = Pace {
        interval: Duration::from_secs(1),
        share: audits.parse::<f64>().unwrap() / 100.0,
    };
    let on_demand = pace.share_on_demand() * 100.0;
    assert!((Pace::URGENCY - 10.0).abs() < f64::EPSILON, "ten times");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for manual in ["README.md", "SECURITY.md"] {
        let text = fs::read_to_string(root.join(manual)).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for sentence in [
            format!("at most `--audit-share` of one core ({audits} %)"),
            format!("at most ten times `--audit-share` of one core ({on_demand} %)"),
        ] {
            assert!(text.contains(&sentence), "{manual}: {sentence}");
        }
    }
}

#[test]
fn messages_are_found_among_fields() {
    let source = r#"
        log::warn!(states = states.join(", ").as_str();
            "corrected");
        log::info!(tier = tier.unwrap_or("unknown"), of:%; "ready");
        log::debug!("quiet");
        log::error!(error:%; "lost, \
                              and found")
    "#;
    let found: Vec<_> = logged(source).into_iter().collect();
    let wanted = [
        ("error", "lost, and found"),
        ("info", "ready"),
        ("warn", "corrected"),
    ];
    assert_eq!(found, wanted.map(|(level, text)| (level, text.to_owned())));
}
