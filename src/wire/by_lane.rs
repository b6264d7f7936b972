//! What is said of each lane: fields that are named after the lanes.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::domain::job::Lane;

/// A field for each of some lanes, in their order: `interactive` and `bulk`, or with an ending `interactiveClosed` and `bulkClosed`. It is
/// flattened into the object that has them.
#[derive(Debug, PartialEq, Eq)]
pub struct ByLane<T> {
    ending: &'static str,
    fields: Vec<(Lane, T)>,
}

impl<T> ByLane<T> {
    /// A field for each lane.
    pub fn all(values: [T; Lane::COUNT]) -> Self {
        Self { ending: "", fields: Lane::ALL.into_iter().zip(values).collect() }
    }

    /// A field for each lane of which there is something to say.
    pub fn some(values: [Option<T>; Lane::COUNT]) -> Self {
        let fields = Lane::ALL.into_iter().zip(values).filter_map(|(lane, value)| Some((lane, value?)));
        Self { ending: "", fields: fields.collect() }
    }

    /// The same with an ending to each name.
    pub fn ending(self, ending: &'static str) -> Self {
        Self { ending, ..self }
    }

    /// Without the fields of some lanes.
    pub fn without(mut self, left_out: impl Fn(Lane, &T) -> bool) -> Self {
        self.fields.retain(|(lane, value)| !left_out(*lane, value));
        self
    }

    /// What is said of each lane.
    pub fn values(self) -> [Option<T>; Lane::COUNT] {
        let mut values = [const { None }; Lane::COUNT];
        self.fields.into_iter().for_each(|(lane, value)| values[lane.index()] = Some(value));
        values
    }
}

impl<T: Serialize> Serialize for ByLane<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = |lane: &Lane| format!("{}{}", lane.as_str(), self.ending);
        serializer.collect_map(self.fields.iter().map(|(lane, value)| (name(lane), value)))
    }
}

/// Fields of other names are passed over.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByLane<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lanes<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Lanes<T> {
            type Value = ByLane<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field for each lane")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ByLane<T>, M::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    match Lane::named(&name) {
                        Ok(lane) => fields.push((lane, map.next_value()?)),
                        Err(_) => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(ByLane { ending: "", fields })
            }
        }
        deserializer.deserialize_map(Lanes(PhantomData))
    }
}
