//! JSON from outside, read as it is written: names that are repeated are seen, and none has a meaning of the library's own.
//!
//! With the features `raw_value` and `arbitrary_precision` serde_json reads an object with one of its private names into a `Value` as
//! something else than that object, and of a name that is repeated a `Value` keeps the last: what was refused would be kept as what may
//! be done. So whatever decides what a body says, or writes it anew, reads it by this.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What the library's own names begin with.
const RESERVED: &str = "$serde_json::private::";

/// Whether a name means something to the library itself. Nobody else has a use for it.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

/// The pairs of an object in their order, repeated names too, their values unread.
pub(super) struct Pairs<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'de>, M::Error> {
                let mut pairs = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Pairs<'a> {
    /// The value of each name, and `None` where it is repeated: which of them was meant, nobody knows.
    pub(super) fn once(&self) -> HashMap<&str, Option<&'a RawValue>> {
        let mut once = HashMap::with_capacity(self.0.len());
        for (name, value) in &self.0 {
            once.entry(name.as_ref()).and_modify(|value| *value = None).or_insert(Some(*value));
        }
        once
    }
}

/// A name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Hands every name within a value to `each`, at any depth.
pub(super) fn names(value: &RawValue, each: &mut impl FnMut(&str)) {
    match value.get().as_bytes().first() {
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(value.get()).unwrap_or(Pairs(Vec::new()));
            for (name, value) in pairs {
                each(&name);
                names(value, each);
            }
        }
        Some(b'[') => {
            let list: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
            list.into_iter().for_each(|value| names(value, each));
        }
        Some(_) | None => {}
    }
}

/// JSON as a whole, none of it kept. What is unread of a `RawValue` may be nested without end and hold half a character: this refuses it.
pub(super) struct Whole;

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Whole, E> {
                Ok(Whole)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Whole, E> {
                Ok(Whole)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Whole, E> {
                Ok(Whole)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Whole, E> {
                Ok(Whole)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Whole, E> {
                Ok(Whole)
            }

            fn visit_str<E>(self, _: &str) -> Result<Whole, E> {
                Ok(Whole)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Whole, S::Error> {
                while let Some(Whole) = list.next_element()? {}
                Ok(Whole)
            }

            /// Numbers may come this way too, since the library keeps all their digits.
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Whole, M::Error> {
                while let Some((Whole, Whole)) = map.next_entry()? {}
                Ok(Whole)
            }
        }
        deserializer.deserialize_any(Anything)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> bool {
        serde_json::from_str::<Whole>(text).is_ok()
    }

    #[test]
    fn what_is_json_as_a_whole_is_told_from_what_is_not() {
        for good in [
            "null",
            "true",
            "-0.5e+3",
            "12345678901234567890123",
            "\"\\ud83d\\ude00\"",
            "[1,[{}]]",
            "{\"a\":{\"a\":1,\"a\":2.5}}",
        ] {
            assert!(whole(good), "{good}");
        }
        for good in [r#"{"$serde_json::private::RawValue":"{"}"#, r#"{"$serde_json::private::Number":1,"x":2}"#] {
            assert!(whole(good), "{good}");
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for bad in ["", "{", "[1,]", "01", "\"\\ud800\"", "{\"\\ud800\":1}", "{\"a\":[\"\\udc00\"]}", "1 2", &deep] {
            assert!(!whole(bad), "{bad}");
        }
    }

    #[test]
    fn every_name_is_found_and_repeated_ones_are_told() {
        let text = r#"{"a":[{"b":{"\u0063":1.5,"c":2}}],"d":"{\"e\":1}","$serde_json::private::Number":"1","a":null}"#;
        let value: &RawValue = serde_json::from_str(text).unwrap();
        let mut found = Vec::new();
        names(value, &mut |name| found.push(name.to_owned()));
        assert_eq!(found, ["a", "b", "c", "c", "d", "$serde_json::private::Number", "a"]);
        let pairs: Pairs<'_> = serde_json::from_str(text).unwrap();
        let once = pairs.once();
        assert_eq!((once["a"].is_none(), once["d"].map(RawValue::get)), (true, Some(r#""{\"e\":1}""#)));
        assert!(is_reserved(&found[5]) && !is_reserved("a"));
    }
}
