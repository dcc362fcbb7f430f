//! Timewait minisockets change state without a tracepoint (`timewait.rs` of the programs): a program at the
//! entry of `tcp_timewait_state_process()` stores the substate, and one at its return compares. Each is attached
//! once.

use stateright::{Model, Property};

use super::{EXACT, assert_broken, assert_exact};

/// Where the substate at the entry is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slots {
    Cpu,
    Task,
}

/// What a task does with a minisocket of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    /// It processes a segment that takes the minisocket from FIN_WAIT2 to TIME_WAIT.
    Change,
    /// It processes a segment that changes nothing: the minisocket is in TIME_WAIT.
    Nothing,
    /// It ends the minisocket, which a third program counts (`inet_twsk_kill()`).
    Endpoint,
}

/// The parameters. All tasks are on one CPU.
#[derive(Clone, Debug)]
struct Timewait {
    /// While one task has bottom halves off, no other task of the CPU processes segments.
    /// Not so on `PREEMPT_RT` without `PREEMPT_RT_NEEDS_BH_LOCK`.
    excludes: bool,
    slots: Slots,
    is_atomic: bool,
    /// Whether the number of times that the kernel skipped a program is compared as well.
    reads_skips: bool,
    tasks: Vec<Work>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    EnterFirst,
    StoreSubstate,
    ExitFirst,
    Change,
    EnterSecond,
    Compare,
    Load,
    Store { loaded: u8 },
    ExitSecond,
    EnterEnd,
    LoadEnd,
    StoreEnd { loaded: u8 },
    ExitEnd,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    steps: Vec<Step>,
    /// Minisockets in FIN_WAIT2.
    is_fin_wait2: Vec<bool>,
    /// What each slot holds: the minisocket, and whether it was in FIN_WAIT2.
    slots: Vec<Option<(usize, bool)>>,
    /// Which of the programs at the entry, at the return and at the end are running.
    running: [bool; 3],
    skipped: u8,
    counted: u8,
}

impl Timewait {
    fn may_run(&self, state: &State, task: usize) -> bool {
        let is_between = |step| !matches!(step, Step::EnterFirst | Step::EnterEnd | Step::Done);
        state.steps[task] != Step::Done
            && !(self.excludes
                && (0..state.steps.len())
                    .any(|other| other != task && is_between(state.steps[other])))
    }

    fn next(&self, state: &mut State, task: usize) -> Step {
        let slot = match self.slots {
            Slots::Cpu => 0,
            Slots::Task => task,
        };
        match state.steps[task] {
            Step::EnterFirst if state.running[0] => {
                state.skipped += 1;
                Step::Change
            }
            Step::EnterFirst => {
                state.running[0] = true;
                Step::StoreSubstate
            }
            Step::StoreSubstate => {
                state.slots[slot] = Some((task, state.is_fin_wait2[task]));
                Step::ExitFirst
            }
            Step::ExitFirst => {
                state.running[0] = false;
                Step::Change
            }
            Step::Change => {
                state.is_fin_wait2[task] = false;
                Step::EnterSecond
            }
            Step::EnterSecond if state.running[1] => {
                state.skipped += 1;
                Step::Done
            }
            Step::EnterSecond => {
                state.running[1] = true;
                Step::Compare
            }
            // The minisocket is compared as well where the slot has it; a slot by CPU did not have it.
            Step::Compare => match state.slots[slot] {
                Some((owner, true)) if owner == task || self.slots == Slots::Cpu => Step::Load,
                _ => Step::ExitSecond,
            },
            Step::Load if self.is_atomic => {
                state.counted += 1;
                Step::ExitSecond
            }
            Step::Load => Step::Store {
                loaded: state.counted,
            },
            Step::Store { loaded } => {
                state.counted = loaded + 1;
                Step::ExitSecond
            }
            Step::ExitSecond => {
                state.running[1] = false;
                Step::Done
            }
            Step::EnterEnd if state.running[2] => {
                state.skipped += 1;
                Step::Done
            }
            Step::EnterEnd => {
                state.running[2] = true;
                Step::LoadEnd
            }
            Step::LoadEnd if self.is_atomic => {
                state.counted += 1;
                Step::ExitEnd
            }
            Step::LoadEnd => Step::StoreEnd {
                loaded: state.counted,
            },
            Step::StoreEnd { loaded } => {
                state.counted = loaded + 1;
                Step::ExitEnd
            }
            Step::ExitEnd => {
                state.running[2] = false;
                Step::Done
            }
            Step::Done => Step::Done,
        }
    }

    fn is_exact(&self, state: &State) -> bool {
        let events = self
            .tasks
            .iter()
            .filter(|&&work| work != Work::Nothing)
            .count();
        state.steps.iter().any(|&step| step != Step::Done)
            || usize::from(state.counted) == events
            || (self.reads_skips && state.skipped > 0)
    }
}

impl Model for Timewait {
    type State = State;
    type Action = usize;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            steps: self.tasks.iter().map(first_step).collect(),
            is_fin_wait2: self
                .tasks
                .iter()
                .map(|&work| work == Work::Change)
                .collect(),
            slots: vec![None; self.tasks.len()],
            running: [false; 3],
            skipped: 0,
            counted: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<usize>) {
        actions.extend((0..state.steps.len()).filter(|&task| self.may_run(state, task)));
    }

    fn next_state(&self, last: &State, task: usize) -> Option<State> {
        let mut state = last.clone();
        state.steps[task] = self.next(&mut state, task);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(EXACT, Self::is_exact)]
    }
}

const fn first_step(work: &Work) -> Step {
    match work {
        Work::Change | Work::Nothing => Step::EnterFirst,
        Work::Endpoint => Step::EnterEnd,
    }
}

/// Without `PREEMPT_RT`.
fn excluding() -> Timewait {
    Timewait {
        excludes: true,
        slots: Slots::Cpu,
        is_atomic: false,
        reads_skips: false,
        tasks: vec![Work::Change, Work::Nothing, Work::Change, Work::Endpoint],
    }
}

/// `PREEMPT_RT` without the lock of bottom halves.
fn preemptible() -> Timewait {
    Timewait {
        excludes: false,
        slots: Slots::Task,
        is_atomic: true,
        reads_skips: true,
        ..excluding()
    }
}

#[test]
fn slots_by_cpu_are_exact_where_bottom_halves_exclude_each_other() {
    assert_exact(excluding());
}

#[test]
fn slots_by_task_and_atomic_additions_are_exact_where_they_do_not() {
    assert_exact(preemptible());
}

#[test]
fn a_slot_by_cpu_is_overwritten_where_they_do_not() {
    assert_broken(Timewait {
        slots: Slots::Cpu,
        ..preemptible()
    });
}

#[test]
fn plain_additions_are_torn_where_they_do_not() {
    assert_broken(Timewait {
        is_atomic: false,
        ..preemptible()
    });
}

#[test]
fn skipped_programs_lose_changes_that_only_their_number_shows() {
    assert_broken(Timewait {
        reads_skips: false,
        ..preemptible()
    });
}
