//! The options as a JSON Schema (draft 2020-12) of `tidewire.toml`, for editors. Must not be used to check a
//! configuration: the parser does, and names what the schema cannot.

use serde_json::{Map, Value, json};

use super::definition::{Entry, Kind, Section, Standard};
use super::options::ROOT;

/// The schema of the whole file.
pub(super) fn schema() -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("tidewire.toml"));
    schema.extend(object(&ROOT));
    Value::Object(schema)
}

fn object(section: &Section) -> Map<String, Value> {
    let mut properties = Map::new();
    for entry in section.options {
        properties.insert(entry.name.to_owned(), option(entry));
    }
    for inner in section.sections {
        let object = Value::Object(object(inner));
        let value = if inner.many { json!({"type": "array", "items": object}) } else { object };
        properties.insert(inner.name.to_owned(), value);
    }
    let mut object = Map::new();
    object.insert("type".to_owned(), json!("object"));
    if !section.text.is_empty() {
        object.insert("description".to_owned(), json!(section.text));
    }
    object.insert("properties".to_owned(), Value::Object(properties));
    if !section.needs.is_empty() {
        object.insert("required".to_owned(), json!(section.needs));
    }
    object.insert("additionalProperties".to_owned(), json!(false));
    object
}

fn option(entry: &Entry) -> Value {
    let text = json!({"type": "string", "minLength": 1});
    let mut schema = match entry.kind {
        Kind::Truth => json!({"type": "boolean"}),
        Kind::Number { least, most } => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Text(_) => text,
        Kind::Choice(choices) => json!({"enum": choices}),
        Kind::Texts { most, .. } => {
            json!({"anyOf": [text, {"type": "array", "items": text, "maxItems": most}]})
        }
        Kind::Choices(choices) => {
            json!({"anyOf": [{"enum": choices}, {"type": "array", "items": {"enum": choices}}]})
        }
    };
    let told = entry.told();
    let mut description = told.meaning;
    for (title, more) in [("Cost", told.cost), ("Danger", told.danger)] {
        if let Some(more) = more {
            description.push_str(&format!(" {title}: {more}"));
        }
    }
    let default = match entry.standard {
        Standard::Words(words) => {
            description.push_str(&format!(" Default: {words}."));
            None
        }
        Standard::Truth(truth) => Some(json!(truth)),
        Standard::Number(number) => Some(json!(number)),
        Standard::Text(text) => Some(json!(text)),
        Standard::Texts(texts) => Some(json!(texts)),
    };
    schema["description"] = json!(description);
    if let Some(default) = default {
        schema["default"] = default;
    }
    schema
}
