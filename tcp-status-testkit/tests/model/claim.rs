//! Two copies of a handler claim an event (`set_state.rs`, `mark.rs` of the programs): each counts only what
//! the other has not claimed, although the kernel skips a copy that is already running on the CPU.

use stateright::{Model, Property};

use super::{EXACT, assert_broken, assert_exact};

const CPUS: usize = 2;

/// What the kernel does around the programs.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    /// It skips a program that is already running on the CPU.
    has_guard: bool,
    /// A task may be preempted between and inside the copies, and moved to another CPU between them.
    is_preemptible: bool,
}

/// Where a copy stores the token of an event for the other copy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slots {
    /// One for each CPU and execution context.
    Cpu,
    /// One for each CPU, whatever runs there.
    SharedCpu,
    /// One for each task, and one for each CPU's softirqs.
    Task,
}

/// What brings events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Context {
    Task,
    Softirq,
}

/// The parameters.
#[derive(Clone, Debug)]
struct Claim {
    kernel: Kernel,
    slots: Slots,
    /// Either copy stores a token and looks for the other's, as if their order were unknown. Otherwise the
    /// first stores, and the second looks.
    is_symmetric: bool,
    copies: usize,
    /// Additions to counters are atomic.
    is_atomic: bool,
    /// Each with the CPU that it starts on, and its events. Equal numbers are equal changes of one socket.
    contexts: Vec<(Context, usize, Vec<u8>)>,
}

/// Which copy has stored a token, and of which event.
type Token = Option<(usize, u8)>;

/// What a context does next with its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Enter,
    ReadSlot,
    WriteSlot { is_claimed: bool },
    Load,
    Store { loaded: u8 },
    Exit,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Progress {
    cpu: usize,
    event: usize,
    copy: usize,
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    contexts: Vec<Progress>,
    /// By CPU and copy: the copy is running there.
    running: [[u8; 2]; CPUS],
    /// Events that the kernel skipped the first copy for (`recursion_misses`).
    skipped: u8,
    /// By CPU and copy: events counted.
    counted: [[u8; 2]; CPUS],
    /// By CPU: the slots of tasks and of softirqs.
    cpu_slots: [[Token; 2]; CPUS],
    task_slots: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// A context makes its next step.
    Run(usize),
    /// A task is moved to the other CPU.
    Migrate(usize),
}

impl Claim {
    fn event(&self, who: usize, progress: &Progress) -> Option<u8> {
        self.contexts[who].2.get(progress.event).copied()
    }

    /// Between its first copy and its last.
    fn is_inside(&self, who: usize, progress: &Progress) -> bool {
        self.event(who, progress).is_some() && (progress.copy, progress.step) != (0, Step::Enter)
    }

    fn may_run(&self, state: &State, who: usize) -> bool {
        let here = &state.contexts[who];
        if self.event(who, here).is_none() {
            return false;
        }
        let others = state.contexts.iter().enumerate();
        others
            .filter(|&(other, there)| other != who && there.cpu == here.cpu)
            .all(|(other, there)| match self.contexts[other].0 {
                // A softirq runs to its end.
                Context::Softirq => !self.is_inside(other, there),
                Context::Task => {
                    self.contexts[who].0 == Context::Softirq
                        || self.kernel.is_preemptible
                        || !self.is_inside(other, there)
                }
            })
    }

    fn may_migrate(&self, state: &State, who: usize) -> bool {
        let here = &state.contexts[who];
        // The kernel disables migration while a program runs, and preemption where it is not allowed.
        self.contexts[who].0 == Context::Task
            && here.step == Step::Enter
            && (self.kernel.is_preemptible || !self.is_inside(who, here))
            && self.may_run(state, who)
    }

    fn slot<'a>(&self, state: &'a mut State, who: usize) -> &'a mut Token {
        let cpu = state.contexts[who].cpu;
        match (self.slots, self.contexts[who].0) {
            (Slots::SharedCpu, _) | (Slots::Cpu, Context::Task) => &mut state.cpu_slots[cpu][0],
            (_, Context::Softirq) => &mut state.cpu_slots[cpu][1],
            (Slots::Task, Context::Task) => &mut state.task_slots[who],
        }
    }

    fn run(&self, state: &mut State, who: usize) {
        let Progress {
            cpu, copy, step, ..
        } = state.contexts[who];
        let event = self.contexts[who].2[state.contexts[who].event];
        let next = match step {
            Step::Enter if self.kernel.has_guard && state.running[cpu][copy] > 0 => {
                state.skipped += u8::from(copy == 0);
                return self.end_of_copy(state, who);
            }
            Step::Enter => {
                state.running[cpu][copy] += 1;
                if self.copies == 1 {
                    Step::Load
                } else {
                    Step::ReadSlot
                }
            }
            Step::ReadSlot => {
                let other = (1 - copy, event);
                let looks = self.is_symmetric || copy == 1;
                let is_claimed = looks && *self.slot(state, who) == Some(other);
                Step::WriteSlot { is_claimed }
            }
            Step::WriteSlot { is_claimed: true } => {
                *self.slot(state, who) = None;
                Step::Exit
            }
            Step::WriteSlot { is_claimed: false } => {
                if self.is_symmetric || copy == 0 {
                    *self.slot(state, who) = Some((copy, event));
                }
                Step::Load
            }
            Step::Load if self.is_atomic => {
                state.counted[cpu][copy] += 1;
                Step::Exit
            }
            Step::Load => Step::Store {
                loaded: state.counted[cpu][copy],
            },
            Step::Store { loaded } => {
                state.counted[cpu][copy] = loaded + 1;
                Step::Exit
            }
            Step::Exit => {
                state.running[cpu][copy] -= 1;
                return self.end_of_copy(state, who);
            }
        };
        state.contexts[who].step = next;
    }

    fn end_of_copy(&self, state: &mut State, who: usize) {
        let progress = &mut state.contexts[who];
        progress.step = Step::Enter;
        progress.copy += 1;
        if progress.copy == self.copies {
            progress.copy = 0;
            progress.event += 1;
        }
    }

    fn is_exact(&self, state: &State) -> bool {
        let mut contexts = state.contexts.iter().enumerate();
        if contexts.any(|(who, progress)| self.event(who, progress).is_some()) {
            return true;
        }
        let events: usize = self
            .contexts
            .iter()
            .map(|(_, _, events)| events.len())
            .sum();
        let by_copy = |copy: usize| {
            state
                .counted
                .iter()
                .map(|cpu| usize::from(cpu[copy]))
                .sum::<usize>()
        };
        // The second copy counts what the first was skipped for: the tracker compares the two numbers.
        let is_detected = usize::from(state.skipped) != by_copy(1);
        let counted = by_copy(0) + by_copy(1);
        counted == events || counted < events && is_detected
    }
}

impl Model for Claim {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = |&(_, cpu, _): &(Context, usize, Vec<u8>)| Progress {
            cpu,
            event: 0,
            copy: 0,
            step: Step::Enter,
        };
        vec![State {
            contexts: self.contexts.iter().map(start).collect(),
            running: [[0; 2]; CPUS],
            skipped: 0,
            counted: [[0; 2]; CPUS],
            cpu_slots: [[None; 2]; CPUS],
            task_slots: vec![None; self.contexts.len()],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for who in 0..self.contexts.len() {
            if self.may_run(state, who) {
                actions.push(Action::Run(who));
            }
            if self.may_migrate(state, who) {
                actions.push(Action::Migrate(who));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Run(who) => self.run(&mut state, who),
            Action::Migrate(who) => state.contexts[who].cpu = 1 - state.contexts[who].cpu,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(EXACT, Self::is_exact)]
    }
}

/// Two tasks and a softirq on one CPU. The first change repeats, as when a socket's address is used again.
fn busy() -> Vec<(Context, usize, Vec<u8>)> {
    vec![
        (Context::Task, 0, vec![1, 1]),
        (Context::Task, 0, vec![2]),
        (Context::Softirq, 0, vec![3]),
    ]
}

const GUARDED: Kernel = Kernel {
    has_guard: true,
    is_preemptible: false,
};

const PREEMPTIBLE: Kernel = Kernel {
    has_guard: true,
    is_preemptible: true,
};

const UNGUARDED: Kernel = Kernel {
    has_guard: false,
    is_preemptible: false,
};

/// What the programs do on a kernel with the guard whose tracepoints disable preemption.
fn guarded() -> Claim {
    Claim {
        kernel: GUARDED,
        slots: Slots::Cpu,
        is_symmetric: false,
        copies: 2,
        is_atomic: false,
        contexts: busy(),
    }
}

#[test]
fn slots_by_cpu_are_exact_where_tracepoints_disable_preemption() {
    assert_exact(guarded());
}

#[test]
fn slots_by_task_are_exact_where_tracepoints_are_preemptible() {
    assert_exact(Claim {
        kernel: PREEMPTIBLE,
        slots: Slots::Task,
        ..guarded()
    });
}

#[test]
fn one_copy_with_atomic_additions_is_exact_without_the_guard() {
    assert_exact(Claim {
        kernel: UNGUARDED,
        copies: 1,
        is_atomic: true,
        ..guarded()
    });
}

#[test]
fn plain_additions_lose_events_without_the_guard() {
    assert_broken(Claim {
        kernel: UNGUARDED,
        copies: 1,
        is_atomic: false,
        ..guarded()
    });
}

#[test]
fn slots_by_cpu_miscount_where_tracepoints_are_preemptible() {
    assert_broken(Claim {
        kernel: PREEMPTIBLE,
        ..guarded()
    });
}

/// A token that the second copy has stored for an event that the first was skipped for outlives it. If the same
/// change comes again, the first copy takes it for claimed; if the second is then skipped, nobody counts it, and
/// as many events were skipped as were recovered.
#[test]
fn copies_that_both_look_for_the_other_lose_a_repeated_change_undetected() {
    assert_broken(Claim {
        kernel: PREEMPTIBLE,
        slots: Slots::Task,
        is_symmetric: true,
        ..guarded()
    });
}

#[test]
fn one_slot_for_tasks_and_softirqs_of_a_cpu_miscounts() {
    assert_broken(Claim {
        slots: Slots::SharedCpu,
        ..guarded()
    });
}
