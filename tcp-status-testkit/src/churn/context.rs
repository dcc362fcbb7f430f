//! What a scenario works with: random numbers, listeners that last, and a thread that closes.

use std::{io, sync::mpsc, thread};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    Family,
    endpoints::{Endpoint, Listener, Style, full_listener},
};

/// Connections to one listener before it gives way to another: on `::1` all connections
/// differ by their ports only, and a port stays in TIME_WAIT for a minute.
const PER_LISTENER: u32 = 4_000;

/// A listener of [`Ctx::pair`] and how often it was used.
#[derive(Debug)]
struct Used {
    listener: Listener,
    connections: u32,
}

/// One worker's belongings.
#[derive(Debug)]
pub struct Ctx {
    pub(crate) rng: StdRng,
    family: Option<Family>,
    plain: [Option<Used>; 3],
    small: [Option<Used>; 3],
    connections: u64,
    closer: mpsc::Sender<Endpoint>,
}

impl Ctx {
    /// Belongings of one worker. Scenarios use the family given, or else draw one each time.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn new(seed: u64, family: Option<Family>) -> io::Result<Self> {
        let (closer, to_close) = mpsc::channel::<Endpoint>();
        // Ends by itself when the sender is dropped.
        thread::Builder::new()
            .name("closer".to_owned())
            .spawn(move || to_close.into_iter().for_each(drop))?;
        Ok(Self {
            rng: StdRng::seed_from_u64(seed),
            family,
            plain: [const { None }; 3],
            small: [const { None }; 3],
            connections: 0,
            closer,
        })
    }

    /// Connections opened so far, or tried to.
    #[must_use]
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// Closes the listeners that last. Needed after a failure: something may wait at them.
    pub fn forget_listeners(&mut self) {
        self.plain = [const { None }; 3];
        self.small = [const { None }; 3];
    }

    /// Lets what follows use one family.
    pub(crate) const fn speak(&mut self, family: Family) {
        self.family = Some(family);
    }

    /// The family of this run.
    pub(super) fn family(&mut self) -> Family {
        self.family
            .unwrap_or_else(|| Family::ALL[self.rng.random_range(0..Family::ALL.len())])
    }

    /// True in half of all cases.
    pub(crate) fn coin(&mut self) -> bool {
        self.rng.random()
    }

    /// From 1 to 4.
    pub(crate) fn few(&mut self) -> usize {
        self.rng.random_range(1..=4)
    }

    /// Counts connections that were opened without this value's help.
    pub(crate) fn count(&mut self, connections: u64) {
        self.connections += connections;
    }

    /// A connection, client first.
    pub(crate) fn pair(&mut self) -> io::Result<(Endpoint, Endpoint)> {
        let family = self.family();
        self.pair_of(family, Style::PLAIN)
    }

    /// A connection whose windows are soon full, its ends in random order.
    pub(crate) fn small_pair(&mut self) -> io::Result<(Endpoint, Endpoint)> {
        let family = self.family();
        let (client, server) = self.pair_of(family, Style::SMALL)?;
        Ok(if self.coin() {
            (client, server)
        } else {
            (server, client)
        })
    }

    pub(super) fn pair_of(
        &mut self,
        family: Family,
        style: Style,
    ) -> io::Result<(Endpoint, Endpoint)> {
        let of_style = if style.small {
            &mut self.small
        } else {
            &mut self.plain
        };
        let slot = &mut of_style[family as usize];
        let used = match slot {
            Some(used) if used.connections < PER_LISTENER => used,
            _ => slot.insert(Used {
                listener: Listener::new(&mut self.rng, family, style)?,
                connections: 0,
            }),
        };
        used.connections += 1;
        self.connections += 1;
        used.listener.pair(&mut self.rng)
    }

    /// A listener of this scenario's own.
    pub(crate) fn listener(&mut self, style: Style) -> io::Result<Listener> {
        let family = self.family();
        Listener::new(&mut self.rng, family, style)
    }

    /// As [`full_listener`].
    pub(super) fn full_listener(&mut self) -> io::Result<(Listener, [Endpoint; 2])> {
        let family = self.family();
        self.connections += 2;
        full_listener(&mut self.rng, family)
    }

    /// Clients that are connected to a listener, which need not have noticed yet.
    pub(crate) fn connect(&mut self, to: &Listener, number: usize) -> io::Result<Vec<Endpoint>> {
        let mut clients = Vec::with_capacity(number);
        for _ in 0..number {
            self.connections += 1;
            clients.push(to.connect(&mut self.rng)?);
        }
        Ok(clients)
    }

    /// Clients that have sent a SYN to a listener.
    pub(crate) fn start_connect(
        &mut self,
        to: &Listener,
        number: usize,
    ) -> io::Result<Vec<Endpoint>> {
        let mut clients = Vec::with_capacity(number);
        for _ in 0..number {
            self.connections += 1;
            clients.push(to.start_connect(&mut self.rng)?);
        }
        Ok(clients)
    }

    /// Closes an end on another thread, now or a little later.
    pub(super) fn close_elsewhere(&self, end: Endpoint) {
        // Should that thread be gone, the end comes back in the error and is closed here.
        drop(self.closer.send(end));
    }
}
