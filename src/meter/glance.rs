//! Fields of an answer at a glance: what of a value matters, without keeping the rest.
//!
//! An answer is bounded in bytes; read into a tree of values, the same bytes would take a multiple of them in memory.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Most values of a usage object.
const MOST_VALUES: u32 = 4096;

/// Length of a JSON string in bytes; 0 for whatever else stands there. Copies nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Len(pub(super) u64);

/// A whole number that is not negative; none for whatever else stands there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Whole(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Len {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Len, D::Error> {
        deserializer.deserialize_any(Glance).map(|(length, _)| Len(length))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Whole, D::Error> {
        deserializer.deserialize_any(Glance).map(|(_, number)| Whole(number))
    }
}

/// Length of all text below a value, in bytes, but for what only says of what kind something is. Copies nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum(pub(super) u64);

/// Keys whose text is no output.
const KINDS: [&str; 4] = ["type", "id", "format", "signature"];

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sum, D::Error> {
        deserializer.deserialize_any(Adder).map(Sum)
    }
}

/// Adds up the lengths of texts.
struct Adder;

impl<'de> Visitor<'de> for Adder {
    type Value = u64;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_str<E>(self, text: &str) -> Result<u64, E> {
        Ok(text.len() as u64)
    }
    fn visit_bool<E>(self, _: bool) -> Result<u64, E> {
        Ok(0)
    }
    fn visit_i64<E>(self, _: i64) -> Result<u64, E> {
        Ok(0)
    }
    fn visit_u64<E>(self, _: u64) -> Result<u64, E> {
        Ok(0)
    }
    fn visit_f64<E>(self, _: f64) -> Result<u64, E> {
        Ok(0)
    }
    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(0)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<u64, A::Error> {
        let mut sum = 0u64;
        while let Some(Sum(length)) = seq.next_element()? {
            sum = sum.saturating_add(length);
        }
        Ok(sum)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let mut sum = 0u64;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if KINDS.contains(&key.as_ref()) {
                map.next_value::<IgnoredAny>()?;
            } else {
                sum = sum.saturating_add(map.next_value::<Sum>()?.0);
            }
        }
        Ok(sum)
    }
}

/// Most elements of a list that is read: a list of nothings takes many times its bytes in memory.
const FEW: usize = 16 << 10;

/// Reads a list of a reasonable number of elements; `None` for null.
///
/// # Errors
/// Those of the parser, and one where there are more.
pub(super) fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Reader<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
        type Value = Option<Vec<T>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                if elements.len() == FEW {
                    return Err(A::Error::custom("too many elements"));
                }
                elements.push(element);
            }
            Ok(Some(elements))
        }
    }
    deserializer.deserialize_any(Reader(PhantomData))
}

/// Takes the length of a string and the value of a whole number.
struct Glance;

impl<'de> Visitor<'de> for Glance {
    type Value = (u64, Option<u64>);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok((text.len() as u64, None))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok((0, None))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok((0, None))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok((0, Some(number)))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok((0, None))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok((0, None))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok((0, None))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok((0, None))
    }
}

/// Reads a value that is small: a usage object.
///
/// # Errors
/// Those of the parser, and one where it is made of very many values.
pub(super) fn small<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Small(&Cell::new(MOST_VALUES)).deserialize(deserializer)
}

/// Reads one value; counts down how many there may still be.
#[derive(Clone, Copy)]
struct Small<'a>(&'a Cell<u32>);

impl<'de> DeserializeSeed<'de> for Small<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.0.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Small<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(self)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            fields.insert(key, map.next_value_seed(self)?);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_of_the_text_not_of_its_escapes() {
        let of = |json: &str| serde_json::from_str::<Len>(json).unwrap().0;
        assert_eq!((of(r#""a\nb""#), of(r#""\u00e9""#), of("{\"a\":[1]}"), of("null"), of("-3")), (3, 2, 0, 0, 0));
    }

    #[test]
    fn texts_are_added_up_wherever_they_stand_but_for_words_of_kind() {
        let of = |json: &str| serde_json::from_str::<Sum>(json).unwrap().0;
        let parts = r#"[{"type":"thinking","thinking":[{"type":"text","text":"abc"}]},{"text":"d\u00e9"},7,null]"#;
        assert_eq!((of(parts), of(r#""abc""#), of("null"), of("{}")), (6, 3, 0, 0));
    }

    #[test]
    fn a_list_of_very_many_nothings_is_not_read() {
        let read = |n: usize| {
            few::<_, IgnoredAny>(&mut serde_json::Deserializer::from_str(&format!("[{}{{}}]", "{},".repeat(n))))
        };
        assert_eq!(read(FEW - 1).unwrap().map(|list| list.len()), Some(FEW));
        assert!(read(FEW).is_err());
        assert_eq!(few::<_, IgnoredAny>(&mut serde_json::Deserializer::from_str("null")).unwrap(), None);
    }

    #[test]
    fn only_a_whole_number_is_one() {
        let of = |json: &str| serde_json::from_str::<Whole>(json).unwrap().0;
        assert_eq!((of("429"), of("0")), (Some(429), Some(0)));
        for none in ["-1", "1.5", "\"429\"", "null", "[429]", "{\"a\":429}", "true"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_small_value_is_read_as_it_is_and_a_large_one_not_at_all() {
        let read = |json: &str| small(&mut serde_json::Deserializer::from_str(json));
        let text = r#"{"a":[1,-2,1.5,null,true,"x\n"],"b":{"c":{}}}"#;
        assert_eq!(read(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert!(read(&format!("[{}0]", "0,".repeat(4000))).is_ok());
        assert!(read(&format!("[{}0]", "0,".repeat(4096))).is_err());
    }
}
