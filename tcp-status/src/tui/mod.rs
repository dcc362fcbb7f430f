//! `top`: the event loop between terminal, tracker and [`model`]. Decides nothing about what is
//! shown (that is [`view`]'s) nor what keys do (that is [`model`]'s).

#[cfg(test)]
mod invented;
pub mod model;
mod questioner;
pub mod screen;
pub mod view;

use std::{io, path::PathBuf, thread, time::Instant};

use nix::sys::signal::{self, Signal};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::{
    runtime::Builder,
    select,
    signal::unix::{self, SignalKind},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use model::{Model, Settings, Then};
use questioner::Questioner;
use screen::Screen;
use view::theme::Theme;

use crate::snapshot::Snapshot;

/// The view cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TuiError {
    /// The terminal cannot be read or written.
    #[error("cannot draw on the terminal: {0}; use tcp-status show, or another terminal")]
    Terminal(#[source] io::Error),
    /// Signals cannot be caught, or threads not be started.
    #[error("cannot start a thread: {0}; raise its limits")]
    Process(#[source] io::Error),
    /// A thread panicked, which it has said.
    #[error("cannot ask the tracker: the thread failed; report it as a bug")]
    Thread,
}

/// Shows what the tracker at `socket` says, beginning with `first`, until the user or a signal
/// ends it. The terminal is as before afterwards, whatever happens.
///
/// # Errors
/// [`TuiError`]; a tracker that does not answer is none: it is shown, and asked again.
pub fn run(socket: PathBuf, settings: Settings, first: Snapshot) -> Result<(), TuiError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(TuiError::Process)?;
    runtime.block_on(watch(socket, settings, first))
}

async fn watch(socket: PathBuf, settings: Settings, first: Snapshot) -> Result<(), TuiError> {
    let signal = |kind| unix::signal(kind).map_err(TuiError::Process);
    // Before the terminal is changed: from here on, none of them leaves it changed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut model = Model::new(settings, first, Instant::now());
    let mut screen = Screen::enter().map_err(TuiError::Terminal)?;
    let mut questioner = Questioner::start(socket.clone(), model.question())?;
    let mut events = events()?;
    let theme = Theme::from_environment();
    loop {
        model.resize(screen.size().map_err(TuiError::Terminal)?);
        screen
            .draw(|frame| view::draw(frame, &model, &theme))
            .map_err(TuiError::Terminal)?;
        let then = select! {
            biased;
            _ = terminate.recv() => Then::Quit,
            _ = interrupt.recv() => Then::Quit,
            _ = hangup.recv() => Then::Quit,
            event = events.recv() => {
                let event = event.ok_or(TuiError::Thread)?;
                handle(&mut model, &event.map_err(TuiError::Terminal)?)
            }
            answer = questioner.answer() => {
                model.answered(answer.ok_or(TuiError::Thread)?);
                Then::Go
            }
        };
        match then {
            Then::Go => questioner.ask(model.question()),
            Then::Quit => return Ok(()),
            Then::Suspend => {
                drop(screen);
                signal::raise(Signal::SIGTSTP).map_err(|e| TuiError::Process(e.into()))?;
                // In the foreground again.
                screen = Screen::enter().map_err(TuiError::Terminal)?;
            }
        }
    }
}

fn handle(model: &mut Model, event: &Event) -> Then {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => model.key(*key),
        // A resize is seen before drawing.
        _ => Then::Go,
    }
}

/// What the user does, from a thread that ends with the process.
fn events() -> Result<UnboundedReceiver<io::Result<Event>>, TuiError> {
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
        .map_err(TuiError::Process)?;
    Ok(receive)
}
