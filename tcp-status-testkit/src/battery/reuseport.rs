//! Groups of listeners on one address (`SO_REUSEPORT`), one of which closes.

use std::io;

use super::{Stage, Verdict, proof::Proof};
use crate::{
    churn::Ctx,
    endpoints::{Endpoint, Listener, Style},
    netns::set_sysctl,
};

const SHARED: Style = Style {
    shared: true,
    ..Style::PLAIN
};
const HALF_OPEN: Style = Style {
    deferred: Some(30),
    ..SHARED
};
/// So many that hardly ever all of them come to one listener.
const CLIENTS: usize = 12;

struct Group {
    first: Listener,
    second: Listener,
    clients: Vec<Endpoint>,
}

/// Queued connections of the one that closes are reset; half-open ones stay until their timers
/// fire.
pub(super) fn closed(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    for style in [SHARED, HALF_OPEN] {
        let groups = stage.each(|ctx| group(ctx, style))?;
        stage.rest("connections at two listeners of one address");
        let mut left = Vec::new();
        for Group {
            first,
            second,
            clients,
        } in groups
        {
            drop(first);
            left.push((second, clients));
        }
        stage.rest("one of the listeners is gone");
    }
    Ok(Verdict::Done)
}

/// With `tcp_migrate_req`, from 5.14: both kinds go over to the listener that stays.
pub(super) fn migrated(stage: &mut Stage<'_>) -> io::Result<Verdict> {
    let migrated = match Proof::new("TCPMigrateReqSuccess") {
        // 5.10 has the sysctl, which does nothing there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Verdict::Lacking(error.to_string()));
        }
        result => result?,
    };
    for style in [SHARED, HALF_OPEN] {
        let groups = stage.each(|ctx| group(ctx, style))?;
        stage.rest("connections at two listeners of one address");
        let mut left = Vec::new();
        for Group {
            first,
            second,
            clients,
        } in groups
        {
            drop(first);
            left.push((second, clients));
        }
        stage.rest("one of the listeners is gone");
        for (_, clients) in &left {
            // The last step of the handshake, for those that are half-open.
            clients.iter().try_for_each(Endpoint::send_byte)?;
        }
        stage.rest("all connections at the other one");
        for (second, clients) in left {
            // In whatever order they came over.
            drop(clients);
            for _ in 0..CLIENTS {
                second.accept()?.read_to_end()?;
            }
        }
    }
    migrated.grown_by(2)?;
    // For the scenarios that may follow in this namespace.
    set_sysctl("ipv4/tcp_migrate_req", "0")?;
    Ok(Verdict::Done)
}

fn group(ctx: &mut Ctx, style: Style) -> io::Result<Group> {
    let first = ctx.listener(style)?;
    let second = first.sibling()?;
    let clients = ctx.connect(&first, CLIENTS)?;
    Ok(Group {
        first,
        second,
        clients,
    })
}
