//! `top`: whether it can be shown at all, before the terminal is taken.

use std::{
    io::{self, IsTerminal as _},
    thread,
};

use ratatui::crossterm::terminal;

use super::{exit::UsageError, query::reading, query_args::TopOptions};
use crate::{
    serve::protocol::Show,
    view::{
        print,
        table::{self, Details},
        top::{self, model::Settings, panels::theme::Theme},
    },
};

pub(super) fn top(options: TopOptions) -> anyhow::Result<()> {
    for (stream, is_terminal) in [
        ("standard output", io::stdout().is_terminal()),
        ("standard input", io::stdin().is_terminal()),
    ] {
        if !is_terminal {
            let why = format!("cannot show top: {stream} is not a terminal; use tcp-status show");
            return Err(UsageError(why).into());
        }
    }
    let socket = options.socket.socket;
    let query = Show {
        netns: options.netns.clone(),
        ..Show::default()
    };
    // Such a terminal cannot be drawn on.
    while Theme::is_dumb() {
        let one = reading(&socket, query.clone())?;
        print(&(table::render(&one, &Details::default()) + "\n"))?;
        thread::sleep(options.interval);
    }
    if let Ok((0, _) | (_, 0)) = terminal::size() {
        let why = "cannot show top: the terminal does not report its size; \
                   set it with: stty rows 24 columns 80";
        return Err(UsageError(why.into()).into());
    }
    let first = reading(&socket, query)?;
    let settings = Settings {
        interval: options.interval,
        netns: options.netns,
        socket: socket.display().to_string(),
    };
    Ok(top::run(socket, settings, first)?)
}
