//! A fresh cgroup for one test, and traffic of a process in it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use crate::{bulk::find_binary, skip_unprepared};

/// A cgroup that exists for as long as this value, if nothing holds it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one whose name ends with `name`, in the root of the cgroup2 hierarchy or in another one. Where the
    /// hierarchy is not there or not ours, says so and gives nothing.
    #[must_use]
    pub fn for_test(above: Option<&Self>, name: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = match above {
            Some(above) => above.0.clone(),
            None => mount_point()?,
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{number}-{}-{name}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                skip_unprepared(&format!("cannot create a cgroup: {error}"));
                None
            }
        }
    }

    /// The inode number of its directory.
    ///
    /// # Panics
    /// When it is not there any more.
    #[must_use]
    pub fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }

    /// The last part of its path.
    ///
    /// # Panics
    /// Never: it has one.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Runs `tcp-traffic` in this cgroup and the calling thread's namespace.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Traffic {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(find_binary().unwrap())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Traffic { child, output }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that have just ended may still be there.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut lines = mounts.lines().map(|line| line.split(' '));
    let found = lines.find_map(|mut fields| {
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    if found.is_none() {
        skip_unprepared("no cgroup2 hierarchy is mounted");
    }
    found
}

/// A process with sockets. Ends by itself when this value is dropped: its standard input is a pipe from here.
#[derive(Debug)]
pub struct Traffic {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Traffic {
    /// Waits until its sockets are held.
    ///
    /// # Panics
    /// When it ends before.
    pub fn hold(&mut self) {
        let mut line = String::new();
        while !line.contains("end standard input to close") {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
        }
    }

    /// Moves it to the root of the hierarchy. Its sockets stay what they are.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn leave(&self) {
        let processes = mount_point().unwrap().join("cgroup.procs");
        fs::write(processes, self.child.id().to_string()).unwrap();
    }

    /// Ends it, and with it its sockets.
    ///
    /// # Panics
    /// When it failed.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        self.output.read_to_end(&mut Vec::new()).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}
