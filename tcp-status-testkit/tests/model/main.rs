//! Models of the counting protocol, explored exhaustively for small cases: every order in which the steps
//! of a few tasks, softirqs and walks can follow each other. Each step is one access to memory.
//!
//! Every model takes its rules as parameters. With the rules that the programs follow, no order may break a
//! property; with a rule left out, the explorer must find an order that does. So a model that proves nothing
//! fails as well.

mod audit;
mod claim;
mod seeding;
mod timewait;

use std::{fmt::Debug, hash::Hash};

use stateright::{Checker as _, Model};

/// The name of the one property of each model.
const EXACT: &str = "every change is counted once, or its loss is detected";

/// Explores `model` whole. Returns the shortest order of steps that breaks the property, if one does.
fn counterexample<M>(model: M) -> Option<String>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{} states, up to {} steps",
        checker.unique_state_count(),
        checker.max_depth()
    );
    assert!(checker.is_done(), "not explored whole");
    let path = checker.discovery(EXACT)?;
    Some(format!("{:?}", path.into_actions()))
}

#[track_caller]
fn assert_exact<M>(model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    if let Some(steps) = counterexample(model) {
        panic!("miscounted after {steps}");
    }
}

#[track_caller]
fn assert_broken<M>(model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let steps = counterexample(model).expect("a miscount, which no order of steps makes");
    println!("miscounted after {steps}");
}
