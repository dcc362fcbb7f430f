//! Keeps the counts: seeding, auditing, and what is put together for an answer.

pub mod gauge;
