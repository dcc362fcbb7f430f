//! A fresh cgroup for one test, and traffic of a process in it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{bulk::find_binary, context, skip_unprepared};

/// A cgroup that exists for as long as this value, if nothing holds it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one whose name ends with `name`, in the root of the cgroup2 hierarchy or in another one.
    ///
    /// # Errors
    /// When the hierarchy is not there, or not ours.
    pub fn new(above: Option<&Self>, name: &str) -> io::Result<Self> {
        // Process ids are not unique: tests may run in namespaces.
        Self::named(above, &format!("{:08x}-{name}", rand::random::<u32>()))
    }

    /// As [`Cgroup::new`], of exactly this name.
    ///
    /// # Errors
    /// As [`Cgroup::new`], and when there is one of the name.
    pub fn named(above: Option<&Self>, name: &str) -> io::Result<Self> {
        let root = match above {
            Some(above) => above.0.clone(),
            None => mount_point()?,
        };
        let path = root.join(name);
        fs::create_dir(&path).map_err(|error| context("create a cgroup", &error))?;
        Ok(Self(path))
    }

    /// As [`Cgroup::new`]; where that fails, says so and gives nothing.
    #[must_use]
    pub fn for_test(above: Option<&Self>, name: &str) -> Option<Self> {
        Self::new(above, name)
            .map_err(|error| skip_unprepared(&error.to_string()))
            .ok()
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

    /// Runs `work` while this process is in the cgroup: sockets that it makes belong there.
    ///
    /// # Errors
    /// When the kernel does not move the process, or not back.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let before = mount_point()?.join(own.unwrap_or_default());
        let enter = |cgroup: &Path| {
            fs::write(cgroup.join("cgroup.procs"), "0")
                .map_err(|error| context("enter a cgroup", &error))
        };
        enter(&self.0)?;
        let result = work();
        enter(&before)?;
        Ok(result)
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

fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut lines = mounts.lines().map(|line| line.split(' '));
    let found = lines.find_map(|mut fields| {
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 hierarchy is mounted"))
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
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
    }
}
