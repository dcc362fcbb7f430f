//! What must not grow unnoticed: figures of the object and of a query that are the same on every
//! machine. Times are measured by `cargo xtask bench`, and checked nowhere.
//!
//! A bound that is passed for a good reason is raised here, with the reason in the commit.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya_obj::{Map, Object};
use tcp_status_testkit::{netns::Netns, skip, skip_unprepared};

/// Programs that run for each state change, or for each minisocket, and how many instructions
/// each may have, of all its branches: a part of them runs. What happens rarely is out of line.
const HANDLERS: [(&str, usize); 9] = [
    ("set_state_first", 750),
    ("set_state_second", 750),
    ("tw_create_first", 520),
    ("tw_create_second", 520),
    ("tw_segment_entry", 40),
    ("tw_segment_exit", 430),
    ("tw_destroy", 410),
    ("accept_exit", 300),
    ("accept_exit_with_flags", 300),
];

/// `BPF_F_NO_PREALLOC`
const ON_DEMAND: u32 = 1;

fn object() -> Object {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/tcp-status.bpf.o");
    Object::parse(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn handlers_stay_short() {
    let object = object();
    for (name, bound) in HANDLERS {
        let program = &object.programs[name];
        let length = object.functions[&program.function_key()].instructions.len();
        println!("{name}: {length} instructions, at most {bound}");
        assert!(length <= bound, "{name} has {length} instructions");
        assert!(length > bound / 2, "{name}: {length}; lower its bound");
    }
}

/// What maps take at the default limits, for each CPU that is online at the start, and for each further
/// one that there may be, without what the kernel adds.
#[test]
fn maps_stay_small() {
    let object = object();
    let (ports, namespaces) = (option("max_ports"), option("max_namespaces"));
    let cgroups = option("max_cgroups");
    let bytes = |online: u64, cpus: u64| -> u64 {
        let sizes = object.maps.iter().map(|(name, map)| {
            let entries = match name.as_str() {
                "PORT_GAUGES" => (online + 1) * (ports + 1) * 2,
                "FREE_PORTS" => ports + 1,
                "CGROUP_GAUGES" => (online + 1) * (cgroups + 1) * 2,
                "PER_CPU" => cpus,
                "SECONDARY_BANKS" => 2 * cpus,
                "FREE_CGROUPS" => cgroups + 1,
                "CGROUPS" => 2 * (cgroups + 1),
                "NAMESPACES" => namespaces,
                // Where tasks that process segments preempt each other, one for each of them.
                "TASK_SEGMENTS" => 1,
                _ => u64::from(map.max_entries()),
            };
            size(map, entries, cpus)
        });
        sizes.sum()
    };
    let (one, possible, online) = (bytes(1, 1), bytes(1, 2), bytes(2, 2));
    let (online, possible) = (online - possible, possible - one);
    println!("{one} bytes, {possible} more for each possible CPU, {online} for each online");
    assert!(one < 4608 << 10);
    assert!(possible < 32 << 10);
    assert!(online < 155 << 10);
}

/// Of maps that are filled on demand, only what they begin with, a pointer for each bucket.
fn size(map: &Map, entries: u64, cpus: u64) -> u64 {
    use aya_obj::generated::bpf_map_type as kind;
    let value = u64::from(map.value_size()).next_multiple_of(8);
    if map.map_flags() & ON_DEMAND != 0 {
        16 * entries.next_power_of_two()
    } else if map.map_type() == kind::BPF_MAP_TYPE_PERCPU_ARRAY as u32 {
        entries * value * cpus
    } else {
        entries * value
    }
}

/// The default of an option of `run`, from the one definition of the command line.
fn option(name: &str) -> u64 {
    use clap::CommandFactory as _;
    let cli = tcp_status::cli::args::Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let option = run.get_arguments().find(|option| option.get_id() == name);
    let default = &option.unwrap().get_default_values()[0];
    default.to_str().unwrap().parse().unwrap()
}

/// Answers `get` so often; one line for each connection.
fn serve(listener: UnixListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert!(line.ends_with("}\n"), "{line:?}");
            stream.write_all(b"{\"value\":7}\n").unwrap();
        }
    });
}

#[test]
fn a_query_takes_few_system_calls() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, trace) = (folder.path().join("s"), folder.path().join("trace"));
    serve(UnixListener::bind(&socket).unwrap());
    let run = Command::new("strace")
        .arg("-o")
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_tcp-status"))
        .args(["get", "established", "--socket"])
        .arg(&socket)
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return skip_unprepared(&format!("cannot start strace: {error}")),
    };
    if String::from_utf8_lossy(&output.stderr).contains("PTRACE") {
        return skip_unprepared("strace may trace nothing here");
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), "7\n");
    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<_> = trace
        .lines()
        .skip_while(|line| !line.starts_with("socket("))
        .take_while(|line| !line.starts_with("exit_group("))
        .collect();
    println!("{}", calls.join("\n"));
    let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(count("connect("), 1);
    // One request, one answer, one line on standard output.
    assert_eq!(count("write(") + count("send"), 2);
    assert_eq!(count("read(") + count("recv"), 1);
    assert!(calls.len() <= 14, "{} system calls", calls.len());
}

/// A tracker in the calling thread's namespace, once it answers; else why it does not.
fn tracker(backend: &str, socket: &Path) -> Result<Child, String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tcp-status"))
        .args(["run", "--backend", backend, "--socket"])
        .arg(socket)
        .env_remove("NOTIFY_SOCKET")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        if let Some(status) = child.try_wait().unwrap() {
            return Err(format!("no tracker by {backend} here: {status}"));
        }
        let asked = Command::new(env!("CARGO_BIN_EXE_tcp-status"))
            .args(["get", "established", "--socket"])
            .arg(socket)
            .output();
        if asked.unwrap().status.success() {
            return Ok(child);
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("the tracker does not answer");
}

/// Huge pages that the kernel makes by itself would fill up what the tracker has given back.
#[test]
fn memory_stays_in_small_pages() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = tracker("scan", &folder.path().join("s")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    match status
        .lines()
        .find_map(|line| line.strip_prefix("THP_enabled:"))
    {
        Some(enabled) => assert_eq!(enabled.trim(), "0"),
        None => skip("the kernel does not tell whether huge pages are made"),
    }
}

/// How often the thread of that name slept so far.
fn sleeps(process: &Child, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let named = |folder: &Path| fs::read_to_string(folder.join("comm")).unwrap().trim() == name;
    let folder = tasks
        .map(|task| task.unwrap().path())
        .find(|task| named(task));
    let status = fs::read_to_string(folder.unwrap().join("status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn nothing_wakes_at_rest_but_the_audit_and_the_reading_of_segments() {
    const SECONDS: u64 = 4;
    // Ten readings a second of how many segments came, and one sample.
    const PER_SECOND: u64 = 11;
    let Some(netns) = Netns::for_test() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut process = match netns.run(|| tracker("ebpf", &socket)).unwrap() {
        Ok(process) => process,
        Err(why) => return skip_unprepared(&why),
    };
    let over = AtomicBool::new(false);
    let slept = thread::scope(|scope| {
        // In another namespace there is no rest.
        scope.spawn(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            while !over.load(Ordering::Relaxed) {
                TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                listener.accept().unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        });
        // Until what came with the start is over, which a busy machine needs long for.
        let started = Instant::now();
        let mut last = sleeps(&process, "sample");
        while started.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_secs(2));
            let now = sleeps(&process, "sample");
            if now - std::mem::replace(&mut last, now) <= 2 * PER_SECOND {
                break;
            }
        }
        let slept = || ["sample", "audit"].map(|name| sleeps(&process, name));
        let before = slept();
        thread::sleep(Duration::from_secs(SECONDS));
        let after = slept();
        over.store(true, Ordering::Relaxed);
        [after[0] - before[0], after[1] - before[1]]
    });
    process.kill().unwrap();
    process.wait().unwrap();
    println!(
        "the sampler slept {} times, the audit {} times",
        slept[0], slept[1]
    );
    assert!(slept[0] <= (SECONDS + 1) * PER_SECOND, "{}", slept[0]);
    // Once a second, and for one of the audits that are held at rest.
    assert!(slept[1] <= 5 * SECONDS, "{}", slept[1]);
}
