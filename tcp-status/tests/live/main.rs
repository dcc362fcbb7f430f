//! The tracker on the running kernel, one network namespace per test. The oracle is the kernel's
//! own listing, read by code that the tracker does not share.

mod battery;
mod churn;
mod orphans;
mod seeding;
mod stalls;
mod states;
mod subject;
