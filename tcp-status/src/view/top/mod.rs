//! `top`: the event loop between terminal, tracker and [`model`]. Decides nothing about what is
//! shown (that is [`view`]'s) nor what keys do (that is [`model`]'s).

mod error;
#[cfg(test)]
mod fixtures;
pub mod model;
pub mod panels;
mod poller;
pub mod screen;

pub use error::TopError;

use std::{io, path::PathBuf, thread, time::Instant};

use nix::sys::signal::{self, Signal};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::{
    runtime::Builder,
    select,
    signal::unix::{self, SignalKind},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use model::{Action, Model, Settings};
use panels::theme::Theme;
use poller::Poller;
use screen::Screen;

use crate::snapshot::Snapshot;

/// Shows readings of the tracker at `socket`, starting with `first`, until the user or a signal ends it. Restores
/// the terminal in any case.
///
/// # Errors
/// [`TopError`]; a tracker that does not answer is no error: it is shown, and polled again.
pub fn run(socket: PathBuf, settings: Settings, first: Snapshot) -> Result<(), TopError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(TopError::Process)?;
    runtime.block_on(watch(socket, settings, first))
}

async fn watch(socket: PathBuf, settings: Settings, first: Snapshot) -> Result<(), TopError> {
    let signal = |kind| unix::signal(kind).map_err(TopError::Process);
    // Before the terminal is changed: from here on, none of them leaves it changed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut model = Model::new(settings, first, Instant::now());
    let mut screen = Screen::enter().map_err(TopError::Terminal)?;
    let mut poller = Poller::start(socket.clone(), model.poll_query())?;
    let mut events = events()?;
    let theme = Theme::from_environment();
    loop {
        model.resize(screen.size().map_err(TopError::Terminal)?);
        screen
            .draw(|frame| panels::draw(frame, &model, &theme))
            .map_err(TopError::Terminal)?;
        let then = select! {
            biased;
            _ = terminate.recv() => Action::Quit,
            _ = interrupt.recv() => Action::Quit,
            _ = hangup.recv() => Action::Quit,
            event = events.recv() => {
                let event = event.ok_or(TopError::Thread)?;
                handle(&mut model, &event.map_err(TopError::Terminal)?)
            }
            answer = poller.answer() => {
                model.handle_poll_result(answer.ok_or(TopError::Thread)?);
                Action::Continue
            }
        };
        match then {
            Action::Continue => poller.ask(model.poll_query()),
            Action::Quit => return Ok(()),
            Action::Suspend => {
                drop(screen);
                signal::raise(Signal::SIGTSTP).map_err(|e| TopError::Process(e.into()))?;
                // In the foreground again.
                screen = Screen::enter().map_err(TopError::Terminal)?;
            }
        }
    }
}

fn handle(model: &mut Model, event: &Event) -> Action {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => model.key(*key),
        // A resize is seen before drawing.
        _ => Action::Continue,
    }
}

/// Terminal events, from a thread that ends with the process.
fn events() -> Result<UnboundedReceiver<io::Result<Event>>, TopError> {
    let (send, receive) = unbounded_channel();
    let read = move || {
        loop {
            let event = event::read();
            let last = event.is_err();
            if send.send(event).is_err() || last {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("terminal".into())
        .spawn(read)
        .map_err(TopError::Process)?;
    Ok(receive)
}
