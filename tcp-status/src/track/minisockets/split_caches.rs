//! The last split of each namespace. One walk at a time renews them; reading a split waits for no walk.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::split::{Split, SplitCache, SplitMoment};
use tcp_status_common::counters::NetnsId;

/// The result of a walk.
pub struct SplitWalk {
    /// All minisockets.
    pub all: Split,
    /// Those of ports; none if the walk did not separate ports.
    pub ports: Option<BTreeMap<u16, Split>>,
    /// The counters when it began.
    pub began: SplitMoment,
    /// The processor time that it took.
    pub cost: Duration,
}

/// The last split of each namespace, by inode number.
#[derive(Debug, Default)]
pub struct SplitCaches {
    caches: Mutex<BTreeMap<NetnsId, SplitCache>>,
    /// Held during a walk, never by a reader of `caches`.
    walking: Mutex<()>,
}

impl SplitCaches {
    /// Accesses the cache of a namespace. Does not wait for a walk.
    pub fn with<T>(&self, netns: NetnsId, of_cache: impl FnOnce(&mut SplitCache) -> T) -> T {
        of_cache(lock(&self.caches).entry(netns).or_default())
    }

    /// Removes the namespaces that are not `kept`.
    pub fn retain(&self, kept: impl Fn(NetnsId) -> bool) {
        lock(&self.caches).retain(|&netns, _| kept(netns));
    }

    /// Walks if the cached split of a namespace `is_old`. Waits for a walk in progress and uses its result.
    ///
    /// # Errors
    /// Those of `walk`; the cached split stays.
    pub fn refresh<E>(
        &self,
        netns: NetnsId,
        is_old: impl Fn(&SplitCache) -> bool,
        walk: impl FnOnce() -> Result<SplitWalk, E>,
    ) -> Result<(), E> {
        let is_old = || self.with(netns, |cache| is_old(cache));
        if !is_old() {
            return Ok(());
        }
        let _walking = lock(&self.walking);
        if !is_old() {
            return Ok(());
        }
        let SplitWalk {
            all,
            ports,
            began,
            cost,
        } = walk()?;
        self.with(netns, |cache| {
            cache.put_ports(all, ports);
            cache.put(all, Some(began), cost);
        });
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a panic ends the process")
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::mpsc, thread, time::Duration};

    use super::{NetnsId, Split, SplitCache, SplitCaches, SplitMoment, SplitWalk};

    const NETNS: NetnsId = 1;
    const AGE: Duration = Duration::from_secs(3600);
    /// Longer than any busy machine needs.
    const SETTLE_TIMES: Duration = Duration::from_secs(60);

    fn walk(timewait: u64) -> SplitWalk {
        SplitWalk {
            all: Split {
                timewait: [timewait, 0],
                ..Split::default()
            },
            ports: None,
            began: SplitMoment::default(),
            cost: Duration::ZERO,
        }
    }

    fn renew(splits: &SplitCaches, walk: impl FnOnce() -> SplitWalk) {
        let is_old = |cache: &SplitCache| cache.is_older_than(AGE, false);
        let Ok(()) = splits.refresh(NETNS, is_old, || Ok::<_, Infallible>(walk()));
    }

    fn timewait(splits: &SplitCaches) -> u64 {
        splits.with(NETNS, |cache| cache.last().timewait[0])
    }

    #[test]
    fn a_walk_that_takes_long_keeps_no_reader_waiting() {
        let splits = &SplitCaches::default();
        let (started, walks) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                renew(splits, || {
                    started.send(()).unwrap();
                    // Ends with the test too, where that fails.
                    let _: Result<(), _> = may_finish.recv();
                    walk(7)
                });
            });
            walks.recv_timeout(SETTLE_TIMES).unwrap();
            let (read, reads) = mpsc::channel();
            let (renewed, renewals) = mpsc::channel();
            scope.spawn(move || read.send(timewait(splits)).unwrap());
            scope.spawn(move || {
                renew(splits, || panic!("a second walk"));
                renewed.send(timewait(splits)).unwrap();
            });
            let answer = reads.recv_timeout(SETTLE_TIMES / 12);
            let none_yet = renewals.try_recv();
            drop(finish);
            assert_eq!(answer, Ok(0), "what was cached before the walk");
            assert_eq!(none_yet, Err(mpsc::TryRecvError::Empty));
            assert_eq!(
                renewals.recv_timeout(SETTLE_TIMES),
                Ok(7),
                "what the walk found"
            );
        });
    }

    #[test]
    fn a_walk_that_fails_leaves_what_was_cached() {
        let splits = SplitCaches::default();
        renew(&splits, || walk(5));
        assert_eq!(
            splits.refresh(NETNS, |_| true, || Err("refused")),
            Err("refused")
        );
        assert_eq!(timewait(&splits), 5);
        splits.retain(|netns| netns != NETNS);
        assert_eq!(timewait(&splits), 0);
    }
}
