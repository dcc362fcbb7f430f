//! Eleven numbers, one per state.

use std::{
    fmt,
    marker::PhantomData,
    ops::{AddAssign, Index, IndexMut},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use tcp_status_common::state::State;

/// A number per state; in JSON an object with all eleven keys, in the order of [`State::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByState<T>([T; State::COUNT]);

/// How many sockets there are in each state.
pub type Counts = ByState<u64>;

/// Seconds in each state, summed over sockets.
pub type StateSeconds = ByState<f64>;

impl<T: Copy> ByState<T> {
    /// State by state, in the order in which outputs list them.
    pub fn iter(&self) -> impl Iterator<Item = (State, T)> + '_ {
        State::ALL.into_iter().map(|state| (state, self[state]))
    }
}

impl Counts {
    /// The sum over all states.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl<T> Index<State> for ByState<T> {
    type Output = T;

    fn index(&self, state: State) -> &T {
        &self.0[state.index()]
    }
}

impl<T> IndexMut<State> for ByState<T> {
    fn index_mut(&mut self, state: State) -> &mut T {
        &mut self.0[state.index()]
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }
}

impl<T: Copy + Serialize> Serialize for ByState<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(State::COUNT))?;
        for (state, count) in self.iter() {
            map.serialize_entry(state.name(), &count)?;
        }
        map.end()
    }
}

impl<'de, T: Default + Deserialize<'de>> Deserialize<'de> for ByState<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct States<T>(PhantomData<T>);

        impl<'de, T: Default + Deserialize<'de>> Visitor<'de> for States<T> {
            type Value = ByState<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a number for each of the eleven states")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut counts = ByState::default();
                let mut seen = 0;
                while let Some((key, count)) = map.next_entry::<String, T>()? {
                    counts[key.parse::<State>().map_err(A::Error::custom)?] = count;
                    seen += 1;
                }
                if seen == State::COUNT {
                    Ok(counts)
                } else {
                    Err(A::Error::invalid_length(seen, &self))
                }
            }
        }

        deserializer.deserialize_map(States(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, State};

    #[test]
    fn json_has_all_eleven_keys_and_reads_back() {
        let mut counts = Counts::default();
        for (i, state) in (0..).zip(State::ALL) {
            counts[state] = i * 7;
        }
        let json = serde_json::to_string(&counts).unwrap();
        for state in State::ALL {
            assert!(json.contains(&format!("\"{state}\":")), "{json}");
        }
        assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), counts);
        assert_eq!(counts.total(), 7 * 55);
    }

    #[test]
    fn json_with_a_missing_or_foreign_key_is_refused() {
        assert!(serde_json::from_str::<Counts>("{}").is_err());
        assert!(serde_json::from_str::<Counts>("{\"established\":1}").is_err());
        assert!(serde_json::from_str::<Counts>("{\"open\":1}").is_err());
    }
}
