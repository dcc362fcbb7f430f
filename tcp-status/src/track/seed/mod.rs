//! Counting what is there already, while events go on.

pub(crate) mod first;
pub(crate) mod netns_targets;
pub(crate) mod seeding;
