//! An audit as a transaction of the tracker (`track/`): it fills the other bank, makes it the live one, and takes
//! over what the old bank counted. Every step that reads or writes a map may fail. Whatever fails, no transition
//! counter goes backwards, no gauge changes, and the map of seen sockets is given back.

use stateright::{Model, Property};

use super::{EXACT, assert_broken, assert_exact};

/// How many events come at most, and how many audits are held.
const EVENTS: u8 = 3;
const AUDITS: u8 = 2;

/// The parameters.
#[derive(Clone, Debug)]
struct Audit {
    /// What the old bank counted is read after the switch. Until that has succeeded, readers add the old bank
    /// themselves, and the next audit reads it first. Otherwise readers use only what was taken over.
    keeps_old_bank: bool,
    /// The map of seen sockets is given back however the audit ends; otherwise only at its regular end.
    always_frees: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    /// What an earlier audit could not take over.
    Resume,
    Fill,
    Switch,
    /// Events that had read the mode before the switch still count into the old bank.
    Wait,
    TakeOver,
    Free,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    step: Step,
    audits: u8,
    events: u8,
    /// Events that have read the mode, by the bank that they count into.
    in_flight: [u8; 2],
    /// Events counted, by bank, since it was filled last.
    flows: [u8; 2],
    /// Sockets that seeding counted, by bank.
    seeded: [i8; 2],
    live: usize,
    /// What banks that are no longer live have counted.
    retired: u8,
    /// Added to the live bank's gauge.
    base: i8,
    /// The old bank is still to be taken over.
    retiring: bool,
    seen: bool,
    /// The greatest value of the transition counter that was ever read.
    read: u8,
    is_broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    /// An event begins: it reads the mode.
    Begin,
    /// It counts. Each opens a socket.
    Count(usize),
    /// A client reads the transition counter and the gauge.
    Read,
    Step,
    Fail,
}

impl Audit {
    fn counter(&self, state: &State) -> u8 {
        let old = if self.keeps_old_bank && state.retiring {
            state.flows[1 - state.live]
        } else {
            0
        };
        state.flows[state.live] + state.retired + old
    }

    fn gauge(&self, state: &State) -> i8 {
        let live = state.live;
        if self.keeps_old_bank && state.retiring {
            // As before the switch: both banks count the same events until the old one is taken over.
            let before = state.seeded[1 - live] + state.flows[1 - live].cast_signed() + state.base;
            return before + state.flows[live].cast_signed();
        }
        state.seeded[live] + state.flows[live].cast_signed() + state.base
    }

    fn step(&self, state: &mut State) {
        let old = 1 - state.live;
        state.step = match state.step {
            Step::Idle => {
                state.audits += 1;
                Step::Resume
            }
            Step::Resume => {
                if state.retiring {
                    self.take_over(state);
                }
                Step::Fill
            }
            Step::Fill => {
                // The walk counts what is there; events during it are the concern of another model.
                state.seen = true;
                state.flows[old] = 0;
                state.seeded[old] =
                    state.events.cast_signed() - state.in_flight.iter().sum::<u8>().cast_signed();
                Step::Switch
            }
            Step::Switch => {
                // Events go on between the fill and the switch, and move the bank that is being filled.
                let counted = state.events - state.in_flight.iter().sum::<u8>();
                state.seeded[old] = counted.cast_signed();
                if !self.keeps_old_bank {
                    state.base = self.gauge(state) - counted.cast_signed();
                }
                state.live = old;
                state.retiring = true;
                Step::Wait
            }
            Step::Wait => Step::TakeOver,
            Step::TakeOver => {
                self.take_over(state);
                Step::Free
            }
            Step::Free => {
                state.seen = false;
                Step::Idle
            }
        };
    }

    fn take_over(&self, state: &mut State) {
        let gauge = self.gauge(state);
        state.retired += state.flows[1 - state.live];
        state.retiring = false;
        if self.keeps_old_bank {
            state.base = gauge - state.seeded[state.live] - state.flows[state.live].cast_signed();
        }
    }

    fn may_step(&self, state: &State) -> bool {
        match state.step {
            Step::Idle => state.audits < AUDITS,
            // The tracker waits for events that had read the mode before.
            Step::Wait => state.in_flight[1 - state.live] == 0,
            _ => true,
        }
    }

    fn is_exact(&self, state: &State) -> bool {
        !state.is_broken && (state.step != Step::Idle || !state.seen)
    }
}

impl Model for Audit {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            step: Step::Idle,
            audits: 0,
            events: 0,
            in_flight: [0; 2],
            flows: [0; 2],
            seeded: [0; 2],
            live: 0,
            retired: 0,
            base: 0,
            retiring: false,
            seen: false,
            read: 0,
            is_broken: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.events < EVENTS {
            actions.push(Action::Begin);
        }
        actions.extend(
            (0..2)
                .filter(|&bank| state.in_flight[bank] > 0)
                .map(Action::Count),
        );
        actions.push(Action::Read);
        if self.may_step(state) {
            actions.push(Action::Step);
            let may_fail = matches!(
                state.step,
                Step::Resume | Step::Fill | Step::Switch | Step::TakeOver
            );
            if may_fail {
                actions.push(Action::Fail);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Begin => {
                state.events += 1;
                state.in_flight[state.live] += 1;
            }
            Action::Count(bank) => {
                state.in_flight[bank] -= 1;
                state.flows[bank] += 1;
            }
            Action::Read => {
                let counted = state.events - state.in_flight.iter().sum::<u8>();
                let (counter, gauge) = (self.counter(&state), self.gauge(&state));
                state.is_broken = counter < state.read || gauge != counted.cast_signed();
                state.read = counter;
            }
            Action::Step => self.step(&mut state),
            Action::Fail => {
                state.step = Step::Idle;
                if self.always_frees {
                    state.seen = false;
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(EXACT, Self::is_exact)]
    }
}

/// What the tracker does.
fn transaction() -> Audit {
    Audit {
        keeps_old_bank: true,
        always_frees: true,
    }
}

#[test]
fn an_audit_that_fails_at_any_step_changes_no_reading() {
    assert_exact(transaction());
}

#[test]
fn a_failure_after_the_switch_loses_flows_that_are_taken_over_later_only() {
    assert_broken(Audit {
        keeps_old_bank: false,
        ..transaction()
    });
}

#[test]
fn a_failure_keeps_the_map_of_seen_sockets_that_only_the_regular_end_frees() {
    assert_broken(Audit {
        always_frees: false,
        ..transaction()
    });
}
