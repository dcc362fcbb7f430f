//! `tcp-traffic`: the test kit, for use by hand and in virtual machines. Owns its arguments and
//! what it prints; all work is done by the library.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use tcp_status_testkit::{
    Family,
    bulk::{self, Bulk},
    churn::{CONTRARY, Churn, Ctx, SCENARIOS},
    held_sockets::{HeldSockets, SocketPlan},
    netns::{Netns, allow_fast_open},
    oracle::Counts,
    raise_fd_limit,
};

const USAGE: &str = "\
usage: tcp-traffic [fresh] COMMAND
  list                           what the kernel lists, counted by state
  hold [NUMBER [SEED [away]]]    hold NUMBER sockets of every kind until standard input ends;
                                 away: from another network namespace than theirs
  churn BOUND [WORKERS [SEED]]   open and close; BOUND is seconds (5s) or connections (100000)
  battery [RUNS [SEED]]          every churn scenario by itself, on every family
  bulk IPV4 [IPV6]               hold so many open connections until standard input ends
`fresh` does it in a network namespace of its own.";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.split_first() {
        // The main thread enters, so that /proc/PID/net and nsenter show it.
        Some((first, rest)) if first == "fresh" => Netns::new()
            .and_then(|netns| netns.enter())
            .and_then(|()| allow_fast_open())
            .and_then(|()| command(rest)),
        _ => command(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tcp-traffic: {error}");
            match error.kind() {
                io::ErrorKind::InvalidInput => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn command(arguments: &[String]) -> io::Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(usage());
    };
    match name.as_str() {
        "list" => print(&Counts::read()?.to_string()),
        "hold" => {
            let is_away = rest.get(2).is_some_and(|word| word == "away");
            hold(number(rest, 0, 3)?, number(rest, 1, any_seed())?, is_away)
        }
        "churn" => churn(rest),
        "battery" => battery(number(rest, 0, 20)?, number(rest, 1, any_seed())?),
        "bulk" if !rest.is_empty() => hold_bulk(number(rest, 0, 0)?, number(rest, 1, 0)?),
        bulk::CHILD => bulk::child(rest),
        "help" | "--help" | "-h" => print(USAGE),
        _ => Err(usage()),
    }
}

fn usage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, USAGE)
}

fn number<T: FromStr>(arguments: &[String], at: usize, default: T) -> io::Result<T> {
    arguments
        .get(at)
        .map_or(Ok(default), |text| text.parse().map_err(|_| usage()))
}

fn any_seed() -> u64 {
    u64::from(rand::random::<u32>())
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

fn until_stdin_ends() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn hold(each: u32, seed: u64, is_away: bool) -> io::Result<()> {
    raise_fd_limit()?;
    let start = Instant::now();
    let hold = HeldSockets::new(&SocketPlan::uniform(each, seed))?;
    let counts = hold.wait(Duration::from_secs(10))?;
    let took = start.elapsed();
    if is_away {
        Netns::new()?.enter()?;
    }
    print(&format!(
        "{counts}\nheld after {took:.1?}, seed {seed}; end standard input to close"
    ))?;
    until_stdin_ends()
}

fn churn(arguments: &[String]) -> io::Result<()> {
    let bound = arguments.first().ok_or_else(usage)?;
    let (connections, duration) = match bound.strip_suffix('s') {
        Some(seconds) => {
            let seconds = seconds.parse().map_err(|_| usage())?;
            (None, Some(Duration::from_secs(seconds)))
        }
        None => (Some(number(arguments, 0, 0)?), None),
    };
    raise_fd_limit()?;
    let churn = Churn {
        workers: number(arguments, 1, thread::available_parallelism()?.get())?,
        connections,
        duration,
        seed: number(arguments, 2, any_seed())?,
    };
    print(&format!("seed {}", churn.seed))?;
    let report = churn.run()?;
    print(&report.to_string())?;
    match report.failures() {
        0 => Ok(()),
        failures => Err(io::Error::other(format!(
            "churn: {failures} scenarios failed"
        ))),
    }
}

fn battery(runs: u64, seed: u64) -> io::Result<()> {
    print(&format!("seed {seed}, {runs} runs each"))?;
    let mut failures = 0;
    for (name, scenario) in SCENARIOS.iter().chain(CONTRARY) {
        for family in Family::ALL {
            let mut ctx = Ctx::new(seed, Some(family))?;
            let start = Instant::now();
            let result = (0..runs).try_for_each(|_| scenario(&mut ctx));
            let (made, took) = (ctx.connections(), start.elapsed());
            let verdict = match result {
                Ok(()) => "ok".to_owned(),
                Err(error) => {
                    failures += 1;
                    format!("FAILED: {error}")
                }
            };
            print(&format!(
                "{name:<26}{family:<8}{made:>7}{took:>12.1?}  {verdict}"
            ))?;
        }
    }
    match failures {
        0 => Ok(()),
        _ => Err(io::Error::other(format!(
            "battery: {failures} scenarios failed"
        ))),
    }
}

fn hold_bulk(ipv4: u64, ipv6: u64) -> io::Result<()> {
    let bulk = Bulk::new(&env::current_exe()?, ipv4, ipv6)?;
    let (processes, took) = (bulk.pids().len(), bulk.elapsed());
    let pairs = ipv4 + ipv6;
    print(&format!(
        "{pairs} connections in {took:.1?}, {processes} processes; end standard input to close"
    ))?;
    until_stdin_ends()
}
