//! A network namespace beside that of the tracker. Does not know what happens in it.

use std::{
    io,
    net::TcpListener,
    process::{Child, Command},
};

use anyhow::Result;
use tcp_status_testkit::netns::Netns;

/// A namespace with a listener, and with a process, by which it is found. Goes with this value.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    process: Child,
    _listener: TcpListener,
    netns: Netns,
}

impl Elsewhere {
    pub(crate) fn new() -> Result<Self> {
        let netns = Netns::new()?;
        let (process, listener) = netns.run(|| {
            let process = Command::new("sleep").arg("600").spawn()?;
            Ok::<_, io::Error>((process, TcpListener::bind("127.0.0.1:0")?))
        })??;
        Ok(Self {
            process,
            _listener: listener,
            netns,
        })
    }

    /// Does `work` in there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.netns.run(work)?
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
