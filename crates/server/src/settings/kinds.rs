//! One raw value held against the kind that its option has. Must not know tables, nor what any option means.

use super::definition::{Entry, Kind, nearest, one_of};
use super::mistakes::{Mistakes, Origin};
use super::source::{Body, Raw};
use super::values::{Data, Value};

/// What a value is, for messages.
pub(super) fn name_of(body: &Body) -> &'static str {
    match body {
        Body::Truth(_) => "true or false",
        Body::Number(..) => "a number",
        Body::Text(_) => "a text",
        Body::List(_) => "a list",
        Body::Table(_) => "a table",
        Body::Other(name) => name,
    }
}

/// A raw value of the kind that the option has; else a mistake.
pub(super) fn checked(entry: &Entry, path: &str, raw: Raw, mistakes: &mut Mistakes) -> Option<Value> {
    let Raw { body, origin } = raw;
    let list = |body: Body, origin: &Origin| match body {
        Body::List(items) => items,
        // A list of one may be written without its brackets.
        body => vec![Raw { body, origin: origin.clone() }],
    };
    let result = match (entry.kind, body) {
        (Kind::Truth, Body::Truth(truth)) => Ok(Data::Truth(truth)),
        (Kind::Number { least, most }, Body::Number(number, written)) => {
            let within = |number: &u64| (least..=most).contains(number);
            let number = number.and_then(|number| u64::try_from(number).ok()).filter(within);
            number
                .map(Data::Number)
                .ok_or_else(|| format!("{path} = {written} is out of range; {least} to {most} are possible"))
        }
        (Kind::Text(form), Body::Text(text)) => {
            form.check(&text).map(|()| Data::Text(text)).map_err(|why| format!("{path} {why}"))
        }
        (Kind::Choice(choices), Body::Text(text)) => {
            chosen(choices, &text).map(|()| Data::Text(text)).map_err(|why| format!("{path} {why}"))
        }
        (Kind::Texts { form, most }, body @ (Body::List(_) | Body::Text(_))) => {
            let items = list(body, &origin);
            if items.len() > most {
                Err(format!("{path} has {} entries; at most {most} are possible", items.len()))
            } else {
                return texts(items, &|text| form.check(text), path, origin, mistakes);
            }
        }
        (Kind::Choices(choices), body @ (Body::List(_) | Body::Text(_))) => {
            return texts(list(body, &origin), &|text| chosen(choices, text), path, origin, mistakes);
        }
        (kind, body) => Err(format!("{path} must be {}, not {}", kind.noun(), name_of(&body))),
    };
    match result {
        Ok(data) => Some(Value { data, origin }),
        Err(what) => {
            mistakes.add(&origin, what);
            None
        }
    }
}

fn texts(
    items: Vec<Raw>,
    check: &dyn Fn(&str) -> Result<(), String>,
    path: &str,
    origin: Origin,
    mistakes: &mut Mistakes,
) -> Option<Value> {
    let mut right = Vec::new();
    let count = items.len();
    for item in items {
        let outcome = match item.body {
            Body::Text(text) => check(&text).map(|()| text).map_err(|why| format!("{path} {why}")),
            body => Err(format!("{path} must have texts in it, not {}", name_of(&body))),
        };
        match outcome {
            Ok(text) => right.push((text, item.origin)),
            Err(what) => mistakes.add(&item.origin, what),
        }
    }
    (right.len() == count).then_some(Value { data: Data::Texts(right), origin })
}

fn chosen(choices: &[&str], text: &str) -> Result<(), String> {
    if choices.contains(&text) {
        return Ok(());
    }
    let meant = nearest(text, choices.iter().copied()).map(|meant| format!("; did you mean {meant:?}?"));
    Err(format!("= {text:?} is not {}{}", one_of(choices), meant.unwrap_or_default()))
}
