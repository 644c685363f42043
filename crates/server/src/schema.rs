//! JSON Schemas (draft 2020-12) that the data of a channel's events must fit, checked before anything else sees it.
//! Must not know channels, nor fetch anything: a schema that refers to another document is refused.

use std::collections::HashSet;
use std::fmt;

use jsonschema::{Draft, PatternOptions, Validator};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use tidewire_core::event::Kind;
use tidewire_core::{Code, Payload, Problem};

/// How much of a path is shown.
const PATH_CHARS_MAX: usize = 200;

/// A compiled schema.
pub(crate) struct Schema {
    validator: Validator,
}

impl fmt::Debug for Schema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Schema")
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        // The linear engine: a pattern must not be a way to stop the server with a string.
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex());
        let validator = options.build(schema).map_err(|error| {
            let at = error.instance_path().as_str();
            format!(
                "is no JSON Schema that can be used: {error} (at {})",
                if at.is_empty() { "/" } else { at }
            )
        })?;
        Ok(Self { validator })
    }

    /// Checks an event's data.
    ///
    /// # Errors
    /// `schema_violation`, which names the path in the data that does not fit, and never the data itself.
    pub(crate) fn check(&self, payload: &Payload) -> Result<(), Problem> {
        if payload.kind() != Kind::Json {
            return Err(violation(
                "the channel takes JSON that fits its schema, and nothing else".to_owned(),
            ));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(payload.data());
        let value = Strict.deserialize(&mut deserializer).map_err(|error| {
            // The text of a parser's complaint may repeat a member's name.
            violation(format!("line {}, column {}: {}", error.line(), error.column(), reason(&error)))
        })?;
        self.validator.validate(&value).map_err(|error| {
            let path: String = error.instance_path().as_str().chars().take(PATH_CHARS_MAX).collect();
            let path = if path.is_empty() { "/" } else { &path };
            violation(format!("at {path}: {}", error.masked_with("the value")))
        })
    }
}

fn reason(error: &serde_json::Error) -> &'static str {
    if error.to_string().starts_with(TWICE) {
        TWICE
    } else {
        "the JSON has a number or text that cannot be checked"
    }
}

fn violation(detail: String) -> Problem {
    Problem::new(Code::SchemaViolation, detail)
}

/// Of two members of one name, some parsers take the first and some the last, so what was checked here might
/// not be what a client sees.
const TWICE: &str = "an object has a member twice";

/// A JSON value whose objects have each member once.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (mut all, mut names) = (Map::new(), HashSet::new());
        while let Some(name) = members.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(TWICE));
            }
            all.insert(name, members.next_value_seed(Strict)?);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(schema: &Value, data: &str) -> Result<(), String> {
        let schema = Schema::compile(schema).expect("a right schema");
        let payload = Payload::sniffed(data.as_bytes().to_vec().into());
        schema.check(&payload).map_err(|problem| problem.detail.into_owned())
    }

    #[test]
    fn the_path_is_named_and_the_data_is_not() {
        let schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {"items": {"type": "array", "items": {"properties": {"price": {"minimum": 0}}}},
                           "name": {"pattern": "^[a-z]+$"}}
        });
        assert_eq!(outcome(&schema, "{\"items\":[{\"price\":1}]}"), Ok(()));
        for (data, part) in [
            ("{\"items\":[{\"price\":1},{\"price\":-4711}]}", "at /items/1/price"),
            ("{\"items\":[],\"name\":\"4711\"}", "at /name"),
            ("{}", "items"),
            ("[4711]", "at /:"),
            ("4711 is text", "takes JSON"),
            ("{\"items\":[],\"items\":[4711]}", "twice"),
        ] {
            let error = outcome(&schema, data).expect_err(data);
            assert!(error.contains(part), "{data}: {error}");
            assert!(!error.contains("4711"), "{data}: {error}");
        }
    }

    #[test]
    fn nothing_is_fetched() {
        for reference in ["https://example.com/schema.json", "file:///etc/passwd", "other.json"] {
            assert!(Schema::compile(&json!({"$ref": reference})).is_err(), "{reference}");
        }
        assert!(Schema::compile(&json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}})).is_ok());
        assert!(Schema::compile(&json!({"type": "strng"})).is_err());
    }

    #[test]
    fn a_pattern_takes_linear_time() {
        let schema = json!({"pattern": "^(a+)+$"});
        let data = format!("\"{}!\"", "a".repeat(50_000));
        assert!(outcome(&schema, &data).is_err());
    }
}
