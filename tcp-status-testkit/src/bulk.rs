//! Very many open connections, held by child processes, since one process may not open so many
//! files. The children are the `tcp-traffic` binary: a fork of a test with threads is unsafe.

use std::{
    env, io,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    Family, context,
    endpoints::{Listener, Style},
    oracle::{Counts, Table, st},
    sys,
};

/// First argument of a child.
pub const CHILD: &str = "bulk-child";

/// The line that a child prints when all is open.
const READY: &str = "ready";

/// Files that a child needs besides its sockets: standard streams and the listener, amply.
const OTHER_FILES: u64 = 64;

/// Connections held by children, which end with this value, and also by themselves when the
/// process that holds it dies: their standard input is a pipe from it.
///
/// They end by reset and leave nothing behind.
#[derive(Debug)]
pub struct Bulk {
    children: Vec<Child>,
    expected: Counts,
    elapsed: Duration,
}

impl Bulk {
    /// Opens so many connections in the calling thread's namespace; each is two sockets.
    /// `binary` is `tcp-traffic`: see [`find_binary`].
    ///
    /// # Errors
    /// When a child cannot start, or says why it cannot go on.
    pub fn new(binary: &Path, ipv4: u64, ipv6: u64) -> io::Result<Self> {
        let per_child = sys::raise_fd_limit()?.saturating_sub(OTHER_FILES) / 2;
        if per_child == 0 {
            let why = "open connections, in children: the limit of open files is too low";
            return Err(io::Error::other(why));
        }
        let start = Instant::now();
        // Where a step fails, dropping this ends the children that run already.
        let mut bulk = Self {
            children: Vec::new(),
            expected: Counts::default(),
            elapsed: Duration::ZERO,
        };
        for (table, pairs) in [(Table::Tcp, ipv4), (Table::Tcp6, ipv6)] {
            let mut left = pairs;
            while left > 0 {
                let here = left.min(per_child);
                bulk.start(binary, table, here)?;
                left -= here;
            }
        }
        for child in &mut bulk.children {
            await_ready(child)?;
        }
        bulk.elapsed = start.elapsed();
        Ok(bulk)
    }

    fn start(&mut self, binary: &Path, table: Table, pairs: u64) -> io::Result<()> {
        let seed = self.children.len();
        let child = Command::new(binary)
            .args([CHILD, name(table), &pairs.to_string(), &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| context(&format!("start, on {}", binary.display()), &error))?;
        self.children.push(child);
        self.expected.0[table as usize][st::ESTABLISHED] += 2 * pairs;
        self.expected.0[table as usize][st::LISTEN] += 1;
        Ok(())
    }

    /// What is listed because of this value.
    #[must_use]
    pub const fn expected(&self) -> Counts {
        self.expected
    }

    /// How long the opening took.
    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Process ids of the children.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        // First all, then wait: they close their sockets at the same time.
        for child in &mut self.children {
            // Fails only when it has been reaped.
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

fn await_ready(child: &mut Child) -> io::Result<()> {
    let stdout = child.stdout.take().expect("its output is a pipe");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim_end() == READY {
        return Ok(());
    }
    let why = format!(
        "open connections, in process {}: it ended early",
        child.id()
    );
    Err(io::Error::other(why))
}

const fn name(table: Table) -> &'static str {
    match table {
        Table::Tcp => "tcp",
        Table::Tcp6 => "tcp6",
    }
}

/// The child's part: opens so many connections, says so, and holds them until its standard
/// input ends. The arguments are what follows [`CHILD`].
///
/// # Errors
/// When they are not its own kind of arguments, or a connection cannot be opened.
pub fn child(arguments: &[String]) -> io::Result<()> {
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "bulk-child is not for use by hand",
        )
    };
    let [table, pairs, seed] = arguments else {
        return Err(bad());
    };
    let family = match table.as_str() {
        "tcp" => Family::V4,
        "tcp6" => Family::V6,
        _ => return Err(bad()),
    };
    let pairs: usize = pairs.parse().map_err(|_| bad())?;
    let mut rng = StdRng::seed_from_u64(seed.parse().map_err(|_| bad())?);
    sys::raise_fd_limit()?;
    let listener = Listener::new(&mut rng, family, Style::PLAIN)?;
    // Inherited by what is accepted: neither end is to stay in TIME_WAIT.
    listener.end.reset_on_close()?;
    let mut held = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let (client, server) = listener.pair(&mut rng)?;
        client.reset_on_close()?;
        held.push((client, server));
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}")?;
    stdout.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

/// Finds `tcp-traffic`: where the environment variable `TCP_TRAFFIC` says, or beside this
/// executable, or one folder above it, where cargo puts it for tests.
///
/// # Errors
/// `NotFound`, with the cure.
pub fn find_binary() -> io::Result<PathBuf> {
    if let Some(path) = env::var_os("TCP_TRAFFIC") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("tcp-traffic"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let why = format!(
                "find tcp-traffic, beside {}: it is not there; run `cargo build -p tcp-status-testkit`",
                own.display()
            );
            io::Error::new(io::ErrorKind::NotFound, why)
        })
}
