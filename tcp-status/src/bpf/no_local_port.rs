//! Destinations of connects that failed for want of a local port.

use aya::maps::MapError;
use tcp_status_common::{
    counters::OWN_NETNS,
    no_local_port::{Destination, NoLocalPort},
};

use super::{
    error::{BpfError, ignore_enoent},
    load::{Bpf, Destinations, NO_LOCAL_PORT},
    object::lock,
    pod::PodWrapper,
};

impl Bpf {
    /// Where to connects failed for want of a local port, the last one first.
    ///
    /// # Errors
    /// If the kernel refuses the read.
    pub fn no_local_port(&self) -> Result<Vec<(Destination, NoLocalPort)>, BpfError> {
        sorted(&lock(&self.destinations))
    }

    /// Forgets all but the last `kept` of the tracker's namespace, and of all others together.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget_destinations(&self, kept: usize) -> Result<(), BpfError> {
        let mut destinations = lock(&self.destinations);
        let (own, others): (Vec<_>, Vec<_>) = sorted(&destinations)?
            .into_iter()
            .partition(|(destination, _)| destination.netns == OWN_NETNS);
        for (destination, _) in [own, others].iter().flat_map(|some| some.iter().skip(kept)) {
            ignore_enoent(destinations.remove(&PodWrapper(*destination))).map_err(error)?;
        }
        Ok(())
    }
}

fn sorted(destinations: &Destinations) -> Result<Vec<(Destination, NoLocalPort)>, BpfError> {
    let entries = destinations.iter();
    let entries = entries.map(|entry| entry.map(|(of, failed)| (of.0, failed.0)));
    let mut all: Vec<_> = entries.collect::<Result<_, _>>().map_err(error)?;
    all.sort_unstable_by_key(|(_, failed)| std::cmp::Reverse(failed.last));
    Ok(all)
}

fn error(source: MapError) -> BpfError {
    BpfError::Map {
        name: NO_LOCAL_PORT,
        source,
    }
}
