//! The shape of a JSON text: its structure, keys and the beginnings of its strings.
//!
//! Request bodies are megabytes of prompt of which a few short fields matter. Long strings are cut to [`KEPT`] bytes,
//! so looking at a body costs little memory. A key that stands twice in one object is an error: which of the two an API
//! takes is its own choice, and a value could be hidden in the other.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How much of a string is kept. Unit: bytes.
pub(super) const KEPT: usize = 256;

/// Most values of one body: each takes a multiple of its bytes in memory, and the longest conversations have some
/// ten thousands.
const MOST_VALUES: u32 = 1 << 18;

/// Objects with more keys than this are checked for repeated ones with a set.
const FEW_KEYS: usize = 16;

/// Marks the error of a repeated key among those of the parser.
const REPEATED: &str = "repeated key ";

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Null,
    Bool(bool),
    /// A whole number that is not negative.
    Count(u64),
    /// Any other number.
    Number,
    /// A string's first [`KEPT`] bytes.
    Text(String),
    List(Vec<Shape>),
    Object(Vec<(String, Shape)>),
}

/// Why a text has no shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoShape {
    NotJson,
    Repeated(String),
}

impl Shape {
    /// Reads the shape of `json`.
    pub(super) fn read(json: &[u8]) -> Result<Shape, NoShape> {
        let mut parser = serde_json::Deserializer::from_slice(json);
        let left = Cell::new(MOST_VALUES);
        let shape = Seed(&left).deserialize(&mut parser).map_err(|error| {
            let text = error.to_string();
            match text.strip_prefix(REPEATED) {
                // The parser appends where it was: ` at line 1 column 2`.
                Some(key) => NoShape::Repeated(key.rsplit_once(" at line ").map_or(key, |(key, _)| key).to_owned()),
                None => NoShape::NotJson,
            }
        })?;
        parser.end().map_err(|_| NoShape::NotJson)?;
        Ok(shape)
    }

    /// Gets the value of `key`, where this is an object that has it and it is not null.
    pub(super) fn get(&self, key: &str) -> Option<&Shape> {
        self.fields().iter().find(|(k, v)| k == key && *v != Shape::Null).map(|(_, v)| v)
    }

    /// Gets the text at `key`.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Shape::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Gets the fields; none where this is no object.
    pub(super) fn fields(&self) -> &[(String, Shape)] {
        match self {
            Shape::Object(fields) => fields,
            _ => &[],
        }
    }

    /// Gets the elements; none where this is no list.
    pub(super) fn elements(&self) -> &[Shape] {
        match self {
            Shape::List(elements) => elements,
            _ => &[],
        }
    }

    /// Tells whether this says nothing: null, false, an empty list or object.
    pub(super) fn is_void(&self) -> bool {
        match self {
            Shape::Null | Shape::Bool(false) => true,
            Shape::List(elements) => elements.is_empty(),
            Shape::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }
}

/// Reads one value; counts down how many there may still be.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a Cell<u32>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Shape;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.0.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Shape;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Count(value))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Number)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Number)
    }
    fn visit_str<E>(self, text: &str) -> Result<Shape, E> {
        let end = (0..=KEPT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        Ok(Shape::Text(text[..end].to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(self)? {
            elements.push(element);
        }
        // Most are small, and a list grows in steps that are not.
        elements.shrink_to_fit();
        Ok(Shape::List(elements))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut fields: Vec<(String, Shape)> = Vec::new();
        let mut known: HashSet<String> = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.len() == FEW_KEYS {
                known = fields.iter().map(|(k, _)| k.clone()).collect();
            }
            let repeated = match fields.len() {
                n if n < FEW_KEYS => fields.iter().any(|(k, _)| *k == key),
                _ => !known.insert(key.clone()),
            };
            if repeated {
                let key: String = key.chars().take(40).collect();
                return Err(A::Error::custom(format!("{REPEATED}{key}")));
            }
            let value = map.next_value_seed(self)?;
            fields.push((key, value));
        }
        fields.shrink_to_fit();
        Ok(Shape::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_found_at_any_depth_and_however_it_is_written() {
        let repeated = |text: &str| Shape::read(text.as_bytes()).unwrap_err();
        assert_eq!(repeated(r#"{"a":1,"a":1}"#), NoShape::Repeated("a".into()));
        assert_eq!(repeated(r#"{"x":[{"ab":1,"\u0061b":2}]}"#), NoShape::Repeated("ab".into()));
        let many: Vec<String> = (0..40).map(|n| format!("\"k{}\":0", n % 39)).collect();
        assert_eq!(repeated(&format!("{{{}}}", many.join(","))), NoShape::Repeated("k0".into()));
        assert!(Shape::read(br#"[{"a":1},{"a":{"a":1}}]"#).is_ok());
    }

    #[test]
    fn a_body_of_very_many_small_values_is_refused_before_it_fills_the_memory() {
        let list = |n: usize| format!("[{}0]", "0,".repeat(n));
        assert!(Shape::read(list(100_000).as_bytes()).is_ok());
        assert_eq!(Shape::read(list(MOST_VALUES as usize).as_bytes()), Err(NoShape::NotJson));
    }

    #[test]
    fn long_strings_keep_their_beginning_only() {
        let text = format!("\"{}\"", "\u{e9}".repeat(KEPT));
        let Shape::Text(kept) = Shape::read(text.as_bytes()).unwrap() else { panic!("no text") };
        assert_eq!(kept, "\u{e9}".repeat(KEPT / 2));
    }

    #[test]
    fn what_follows_the_text_makes_it_no_json() {
        assert_eq!(Shape::read(b"{} {}").unwrap_err(), NoShape::NotJson);
        assert_eq!(Shape::read(b"{\"a\":\"\xff\"}").unwrap_err(), NoShape::NotJson);
        let deep = "[".repeat(5000);
        assert_eq!(Shape::read(deep.as_bytes()).unwrap_err(), NoShape::NotJson);
    }
}
