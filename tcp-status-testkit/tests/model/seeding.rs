//! Seeding a bank while changes go on (`seed.rs` of the programs and of the tracker): every socket is counted
//! once, by whichever of walk and event sees it first. An audit is the same into the other bank.

use stateright::{Model, Property};

use super::{EXACT, assert_broken, assert_exact};

/// A socket's state. Sockets are listed by the kernel unless they are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum St {
    Closed,
    A,
    B,
}

/// The parameters.
#[derive(Clone, Debug)]
struct Seeding {
    /// The changes of each socket, from its first state on. They happen in one context each.
    sockets: Vec<Vec<St>>,
    /// The audit waits, after it has switched to seeding, for changes that began before.
    waits_before: bool,
    /// It waits, before it makes the bank live, for changes that began before the end of its last walk.
    waits_after: bool,
    /// A second walk finds what a task has reported before the seeding began and listed after the first walk.
    /// Without it, sockets are listed as soon as they are reported.
    second_pass: bool,
    /// A client's walk over listeners, at the same time on the same CPU, seeds as well.
    client_seeds: bool,
    /// A walk and an event insert into the map of seen sockets only if it has no entry.
    inserts_only_new: bool,
}

/// Where a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Nothing has happened. A socket that closes is unhashed first; no walk is at it then, which holds the
    /// bucket's lock (5.10) or the socket's (5.15 and later).
    Begin,
    /// The tracepoint, which reads the mode.
    Report,
    /// It has read that a bank is being seeded, and looks for an entry.
    Look,
    /// It has found none.
    Insert,
    /// The kernel stores the state after it has reported it.
    StoreState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Off,
    Seeding,
    SecondPass,
    Live,
}

/// Where a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Walk {
    Idle,
    /// It is at this socket.
    At(usize),
    /// It has read the state of this socket.
    Read(usize, St),
    /// It has inserted the socket and loaded the counter of its state.
    Loaded(usize, St, i8),
    Done,
}

impl Walk {
    fn is_at(self, socket: usize) -> bool {
        matches!(self, Self::Read(at, _) | Self::Loaded(at, ..) if at == socket)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    mode: Mode,
    /// The socket's state as stored.
    stored: Vec<St>,
    /// Walks meet the socket.
    listed: Vec<bool>,
    /// Changes done, by socket.
    done: Vec<usize>,
    steps: Vec<Step>,
    /// Changes that began before the audit switched to seeding, or before its walk ended.
    early: Vec<bool>,
    /// The map of seen sockets.
    seen: Vec<Option<St>>,
    /// What the walks counted, by state: one counter for each CPU.
    walked: [i8; 3],
    /// What events counted and moved. Their additions are the concern of the other models.
    moved: [i8; 3],
    audit: Walk,
    client: Walk,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Change(usize),
    /// The audit switches the mode, or begins a walk.
    Audit,
    AuditWalk,
    ClientWalk,
}

impl Seeding {
    fn change(&self, state: &mut State, socket: usize) {
        let to = self.sockets[socket][state.done[socket] + 1];
        state.steps[socket] = match state.steps[socket] {
            Step::Begin => {
                state.early[socket] = state.mode == Mode::Off;
                if to == St::Closed {
                    state.listed[socket] = false;
                }
                Step::Report
            }
            Step::Report => match state.mode {
                Mode::Off => Step::StoreState,
                Mode::Live => {
                    state.moved[state.stored[socket] as usize] -= 1;
                    state.moved[to as usize] += 1;
                    Step::StoreState
                }
                Mode::Seeding | Mode::SecondPass => Step::Look,
            },
            Step::Look => match state.seen[socket] {
                Some(from) => {
                    state.moved[from as usize] -= 1;
                    state.moved[to as usize] += 1;
                    state.seen[socket] = (to != St::Closed).then_some(to);
                    Step::StoreState
                }
                None if to == St::Closed => Step::StoreState,
                None => Step::Insert,
            },
            Step::Insert => {
                match state.seen[socket] {
                    Some(from) if self.inserts_only_new => state.moved[from as usize] -= 1,
                    _ => {}
                }
                state.moved[to as usize] += 1;
                state.seen[socket] = Some(to);
                Step::StoreState
            }
            Step::StoreState => {
                state.stored[socket] = to;
                state.listed[socket] = to != St::Closed;
                state.done[socket] += 1;
                state.early[socket] = false;
                Step::Begin
            }
        };
    }

    fn walk(&self, state: &mut State, walk: Walk) -> Walk {
        let next = |socket: usize| {
            if socket + 1 < self.sockets.len() {
                Walk::At(socket + 1)
            } else {
                Walk::Done
            }
        };
        match walk {
            Walk::At(socket) if !state.listed[socket] => next(socket),
            Walk::At(socket) => Walk::Read(socket, state.stored[socket]),
            Walk::Read(socket, at) => {
                if state.seen[socket].is_some() && self.inserts_only_new {
                    next(socket)
                } else {
                    state.seen[socket] = Some(at);
                    Walk::Loaded(socket, at, state.walked[at as usize])
                }
            }
            Walk::Loaded(socket, at, loaded) => {
                state.walked[at as usize] = loaded + 1;
                next(socket)
            }
            Walk::Idle | Walk::Done => walk,
        }
    }

    fn may_switch(&self, state: &State) -> bool {
        match state.mode {
            Mode::Off => true,
            Mode::Seeding if state.audit == Walk::Idle => {
                !self.waits_before || !state.early.contains(&true)
            }
            Mode::Seeding | Mode::SecondPass => {
                state.audit == Walk::Done && !(self.waits_after && state.early.contains(&true))
            }
            Mode::Live => false,
        }
    }

    fn switch(&self, state: &mut State) {
        (state.mode, state.audit) = match (state.mode, state.audit) {
            (Mode::Off, _) => (Mode::Seeding, Walk::Idle),
            (Mode::Seeding, Walk::Idle) => (Mode::Seeding, Walk::At(0)),
            (Mode::Seeding, _) if self.second_pass => (Mode::SecondPass, Walk::At(0)),
            _ => (Mode::Live, Walk::Done),
        };
    }

    fn is_exact(&self, state: &State) -> bool {
        let is_changing = |socket: usize| state.done[socket] + 1 < self.sockets[socket].len();
        if state.mode != Mode::Live
            || (0..self.sockets.len()).any(is_changing)
            || !matches!(state.client, Walk::Idle | Walk::Done)
        {
            return true;
        }
        let listed = |st| state.stored.iter().filter(|&&stored| stored == st).count();
        [St::A, St::B].into_iter().all(|st| {
            let gauge = state.walked[st as usize] + state.moved[st as usize];
            usize::try_from(gauge) == Ok(listed(st))
        })
    }
}

impl Model for Seeding {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let count = self.sockets.len();
        vec![State {
            mode: Mode::Off,
            stored: self.sockets.iter().map(|states| states[0]).collect(),
            listed: self
                .sockets
                .iter()
                .map(|states| states[0] != St::Closed)
                .collect(),
            done: vec![0; count],
            steps: vec![Step::Begin; count],
            early: vec![false; count],
            seen: vec![None; count],
            walked: [0; 3],
            moved: [0; 3],
            audit: Walk::Idle,
            client: Walk::Idle,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let changing = |&socket: &usize| {
            let next = self.sockets[socket].get(state.done[socket] + 1);
            let unhashes = next == Some(&St::Closed) && state.steps[socket] == Step::Begin;
            let is_visited = [state.audit, state.client]
                .into_iter()
                .any(|walk| walk.is_at(socket));
            next.is_some() && !(unhashes && is_visited)
        };
        actions.extend((0..self.sockets.len()).filter(changing).map(Action::Change));
        if self.may_switch(state) {
            actions.push(Action::Audit);
        }
        if !matches!(state.audit, Walk::Idle | Walk::Done) {
            actions.push(Action::AuditWalk);
        }
        // One that does not seed changes nothing.
        let may_begin = self.client_seeds && state.mode == Mode::SecondPass;
        if state.client == Walk::Idle && may_begin
            || !matches!(state.client, Walk::Idle | Walk::Done)
        {
            actions.push(Action::ClientWalk);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Change(socket) => self.change(&mut state, socket),
            Action::Audit => self.switch(&mut state),
            Action::AuditWalk => {
                state.audit = self.walk(&mut state, last.audit);
                if state.audit == Walk::Done {
                    state.early = state
                        .steps
                        .iter()
                        .map(|&step| step != Step::Begin)
                        .collect();
                }
            }
            Action::ClientWalk if last.client == Walk::Idle => state.client = Walk::At(0),
            Action::ClientWalk => state.client = self.walk(&mut state, last.client),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(EXACT, Self::is_exact)]
    }
}

/// What the programs and the tracker do.
fn audit() -> Seeding {
    Seeding {
        sockets: vec![
            vec![St::Closed, St::A, St::B],
            vec![St::A, St::B, St::Closed],
        ],
        waits_before: true,
        waits_after: true,
        second_pass: true,
        client_seeds: false,
        inserts_only_new: true,
    }
}

#[test]
fn an_audit_is_exact_however_changes_and_walks_interleave() {
    assert_exact(audit());
}

#[test]
fn without_waiting_for_earlier_changes_a_walk_reads_a_state_that_is_about_to_be_overwritten() {
    assert_broken(Seeding {
        waits_before: false,
        ..audit()
    });
}

#[test]
fn without_waiting_for_sockets_that_close_a_bank_is_made_live_between_unhashing_and_report() {
    assert_broken(Seeding {
        waits_after: false,
        ..audit()
    });
}

#[test]
fn without_insertion_of_new_entries_only_a_socket_is_counted_twice() {
    assert_broken(Seeding {
        inserts_only_new: false,
        ..audit()
    });
}

/// Two listeners that the first walk has not met: the audit and a client's walk count one each.
#[test]
fn a_clients_walk_that_seeds_tears_the_additions_of_the_audits_walk() {
    assert_broken(Seeding {
        client_seeds: true,
        ..audit()
    });
}
