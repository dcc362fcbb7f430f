//! Asks the tracker again and again, from a thread of its own: an answer may take seconds, and
//! keys are obeyed meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Instant,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    TuiError,
    model::{Answered, Question},
};
use crate::server::{
    client::ask,
    protocol::{Answer, Query, Show},
};

/// The near end of the thread.
pub(super) struct Questioner {
    asked: Question,
    questions: Sender<Question>,
    answers: UnboundedReceiver<Answered>,
}

impl Questioner {
    /// Starts to ask.
    pub(super) fn start(socket: PathBuf, first: Question) -> Result<Self, TuiError> {
        let (questions, next) = channel();
        let (send, answers) = unbounded_channel();
        let asked = first.clone();
        thread::Builder::new()
            .name("questions".into())
            .spawn(move || go_on(&socket, first, &next, &send))
            .map_err(TuiError::Process)?;
        Ok(Self {
            asked,
            questions,
            answers,
        })
    }

    /// What is to be asked from now on. If it is something else than before, at once.
    pub(super) fn ask(&mut self, question: Question) {
        if self.asked != question {
            self.asked = question.clone();
            // Where the thread has ended, its answers have, and that is noticed.
            drop(self.questions.send(question));
        }
    }

    /// The next answer; none when the thread has failed.
    pub(super) async fn answer(&mut self) -> Option<Answered> {
        self.answers.recv().await
    }
}

/// Asks until nobody wants answers any more.
fn go_on(
    socket: &Path,
    mut question: Question,
    next: &Receiver<Question>,
    answers: &UnboundedSender<Answered>,
) {
    // The first answer is there already.
    let mut due = Instant::now() + question.interval;
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        let other = if question.paused {
            next.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            next.recv_timeout(wait)
        };
        match other {
            Ok(other) => question = next.try_iter().last().unwrap_or(other),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if question.paused {
            continue;
        }
        let asked = Instant::now();
        let answered = Answered {
            result: answer(socket, &question),
            at: Instant::now(),
            question: question.clone(),
        };
        if answers.send(answered).is_err() {
            return;
        }
        due = asked + question.interval;
    }
}

fn answer(socket: &Path, question: &Question) -> Result<Vec<crate::snapshot::Snapshot>, String> {
    let query = Query::Show(Show {
        netns: question.netns.clone().filter(|_| !question.all_netns),
        all_netns: question.all_netns,
        ..Show::default()
    });
    match ask(socket, &query) {
        Ok(Answer::Snapshots(snapshots)) => Ok(snapshots),
        Ok(Answer::Error(refusal)) => Err(refusal.to_string()),
        Ok(Answer::Value(_)) => Err("cannot query the tracker: it answers another question".into()),
        Err(error) => Err(error.to_string()),
    }
}
