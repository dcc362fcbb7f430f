//! The recipe for each kind. Works on loopback and without privilege.

use std::{io, net::Shutdown};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{HeldSockets, SocketKind, SocketPlan};
use crate::{
    Family, context,
    endpoints::{Endpoint, Listener, Style, full_listener},
    oracle::{Counts, Table, st},
};

/// Half-open connections per listener: a queue of a few hundred is long enough for a small
/// machine to defend itself against a flood.
const HALF_OPEN: u32 = 64;

/// How long a listener waits for data before it asks again, in seconds; the kernel turns it
/// into retransmissions of SYN-ACK.
const DEFER: i32 = 120;

struct Builder {
    rng: StdRng,
    hold: HeldSockets,
}

pub(super) fn build(plan: &SocketPlan) -> io::Result<HeldSockets> {
    let mut builder = Builder {
        rng: StdRng::seed_from_u64(plan.seed()),
        hold: HeldSockets {
            ends: Vec::new(),
            listeners: Vec::new(),
            expected: Counts::default(),
        },
    };
    for family in Family::ALL {
        for kind in SocketKind::ALL {
            let number = plan.number(family, kind);
            if number == 0 {
                continue;
            }
            let made = match kind {
                SocketKind::Listen => builder.listeners(family, number),
                SocketKind::SynSent => builder.syn_sent(family, number),
                SocketKind::SynRecv => builder.syn_recv(family, number),
                _ => builder.pairs(family, kind, number),
            };
            made.map_err(|error| context(&format!("hold {kind:?}, on {family}"), &error))?;
        }
    }
    Ok(builder.hold)
}

impl Builder {
    const fn expect(&mut self, table: Table, st: usize) {
        self.hold.expected.0[table as usize][st] += 1;
    }

    fn keep(&mut self, end: Endpoint, st: usize) {
        self.expect(end.table, st);
        self.hold.ends.push(end);
    }

    fn keep_listener(&mut self, listener: Listener) {
        self.expect(listener.end.table, st::LISTEN);
        self.hold.listeners.push(listener);
    }

    fn listeners(&mut self, family: Family, number: u32) -> io::Result<()> {
        for _ in 0..number {
            let listener = Listener::new(&mut self.rng, family, Style::PLAIN)?;
            self.keep_listener(listener);
        }
        Ok(())
    }

    fn syn_sent(&mut self, family: Family, number: u32) -> io::Result<()> {
        let (listener, fillers) = full_listener(&mut self.rng, family)?;
        for filler in fillers {
            // Its other end waits in the accept queue and is listed.
            self.expect(listener.end.table, st::ESTABLISHED);
            self.keep(filler, st::ESTABLISHED);
        }
        for _ in 0..number {
            let client = listener.start_connect(&mut self.rng)?;
            self.keep(client, st::SYN_SENT);
        }
        self.keep_listener(listener);
        Ok(())
    }

    fn syn_recv(&mut self, family: Family, number: u32) -> io::Result<()> {
        let style = Style {
            deferred: Some(DEFER),
            ..Style::PLAIN
        };
        let mut left = number;
        while left > 0 {
            let listener = Listener::new(&mut self.rng, family, style)?;
            let here = left.min(HALF_OPEN);
            for _ in 0..here {
                let client = listener.connect(&mut self.rng)?;
                self.keep(client, st::ESTABLISHED);
                self.expect(listener.end.table, st::SYN_RECV);
            }
            self.keep_listener(listener);
            left -= here;
        }
        Ok(())
    }

    /// Kinds that begin with an open connection. By chance it is the client's end or the
    /// server's that comes into the planned state.
    fn pairs(&mut self, family: Family, kind: SocketKind, number: u32) -> io::Result<()> {
        let listener = Listener::new(&mut self.rng, family, Style::SMALL)?;
        for _ in 0..number {
            let (client, server) = listener.pair(&mut self.rng)?;
            if self.rng.random() {
                self.pair(kind, client, server)?;
            } else {
                self.pair(kind, server, client)?;
            }
        }
        self.keep_listener(listener);
        Ok(())
    }

    fn pair(&mut self, kind: SocketKind, end: Endpoint, peer: Endpoint) -> io::Result<()> {
        let peer_st = match kind {
            SocketKind::FinWait1 => {
                end.fill()?;
                end.socket.shutdown(Shutdown::Write)?;
                st::ESTABLISHED
            }
            SocketKind::FinWait2 => {
                end.socket.shutdown(Shutdown::Write)?;
                st::CLOSE_WAIT
            }
            SocketKind::FinWait2Mini => {
                self.expect(end.table, st::FIN_WAIT2);
                drop(end);
                self.keep(peer, st::CLOSE_WAIT);
                return Ok(());
            }
            SocketKind::TimeWait => {
                self.expect(end.table, st::TIME_WAIT);
                drop(end);
                return peer.read_to_end();
            }
            SocketKind::CloseWait => {
                peer.socket.shutdown(Shutdown::Write)?;
                st::FIN_WAIT2
            }
            SocketKind::LastAck => {
                peer.socket.shutdown(Shutdown::Write)?;
                // Else the two FINs might cross, and this end would come into CLOSING.
                end.read_to_end()?;
                end.fill()?;
                end.socket.shutdown(Shutdown::Write)?;
                st::FIN_WAIT2
            }
            SocketKind::Closing => {
                end.fill()?;
                end.socket.shutdown(Shutdown::Write)?;
                peer.socket.shutdown(Shutdown::Write)?;
                st::FIN_WAIT2
            }
            SocketKind::Established
            | SocketKind::Listen
            | SocketKind::SynSent
            | SocketKind::SynRecv => st::ESTABLISHED,
        };
        self.keep(end, kind.st());
        self.keep(peer, peer_st);
        Ok(())
    }
}
