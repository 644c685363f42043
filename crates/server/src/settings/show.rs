//! The effective configuration as TOML, each value with where it comes from. Must not show a secret: those are in no
//! value, only in the files and variables that values name, and in the queries of URLs.

use std::fmt::Write;

use super::definition::{Entry, Kind, Standard};
use super::forms::Form;
use super::load::{Configuration, Sources};
use super::mistakes::Origin;
use super::source::ADMIN_KEY;
use super::values::{Data, Table, Value};
use crate::backplane;

/// All values.
pub(super) fn show(configuration: &Configuration, sources: &Sources) -> String {
    let mut text = String::new();
    let mut notes = Vec::new();
    if configuration.settings.data.is_none() {
        notes.push(("data", "nothing is on disk; flag, --memory".to_owned()));
    }
    if sources.variable(ADMIN_KEY).is_some() {
        notes.push(("admin_key_file", format!("\"[secret]\"; environment, {ADMIN_KEY}")));
    }
    table(&mut text, &configuration.table, &notes, false);
    text
}

/// A table and those in it. Of one that there may be several of, only what was said: all else is said elsewhere.
fn table(text: &mut String, shown: &Table, notes: &[(&str, String)], said_only: bool) {
    let name = shown.path("");
    let name = name.trim_end_matches('.');
    let lines = lines(shown, notes, said_only);
    if shown.section.needs.iter().any(|needed| shown.value(needed).is_none()) {
        let _ = writeln!(text, "\n# [{name}]: not set");
        return;
    }
    if shown.section.many {
        let _ = writeln!(text, "\n[[{name}]] # {}", shown.origin.brief());
    } else if !name.is_empty() && !lines.is_empty() {
        let _ = writeln!(text, "\n[{name}]");
    }
    text.push_str(&lines);
    for inner in shown.section.sections {
        for inner in shown.many(inner.name) {
            table(text, inner, notes, said_only || inner.section.name == "channels");
        }
    }
}

fn lines(shown: &Table, notes: &[(&str, String)], said_only: bool) -> String {
    let mut lines = String::new();
    for entry in shown.section.options {
        let value = shown.value(entry.name);
        let is_said = value.is_some_and(|value| value.origin != Origin::Default);
        if said_only && !is_said {
            continue;
        }
        let note = notes.iter().find(|(name, _)| *name == entry.name).map(|(_, note)| note);
        let _ = match (note, value) {
            (Some(note), _) => writeln!(lines, "# {}: {note}", entry.name),
            (None, Some(value)) => {
                writeln!(lines, "{} = {} # {}", entry.name, written(entry, value), value.origin.brief())
            }
            (None, None) => writeln!(lines, "# {}: {}", entry.name, words(entry)),
        };
    }
    lines
}

fn words(entry: &Entry) -> &'static str {
    if let Standard::Words(words) = entry.standard { words } else { "" }
}

/// A value as TOML.
fn written(entry: &Entry, value: &Value) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    match &value.data {
        Data::Truth(truth) => truth.to_string(),
        Data::Number(number) => number.to_string(),
        Data::Text(text) => match (entry.kind, text.split_once('?')) {
            (Kind::Text(Form::Brokers), _) => {
                let urls = backplane::split(text);
                quoted(&urls.iter().map(|url| backplane::shown(url)).collect::<Vec<_>>().join(","))
            }
            (Kind::Text(Form::Url), Some((before, _))) => quoted(&format!("{before}?[secret]")),
            _ => quoted(text),
        },
        Data::Texts(texts) => {
            let texts: Vec<_> = texts.iter().map(|(text, _)| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}
