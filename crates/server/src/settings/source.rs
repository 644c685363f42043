//! The sources of the configuration (the file's text, environment variables, flags) as one tree of raw values, each
//! with its origin. Must not know options but by their kind, nor check values.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::definition::{Kind, Section, nearest};
use super::mistakes::{Mistakes, Origin};
use super::options::ROOT;

/// What environment variables of ours begin with.
const PREFIX: &str = "TIDEWIRE_";
/// The admin key itself.
pub(super) const ADMIN_KEY: &str = "TIDEWIRE_ADMIN_KEY";
/// The file's name.
const CONFIG: &str = "TIDEWIRE_CONFIG";
/// Variables with our prefix that are no options: those of the command line, of clients, and of tests.
const OTHERS: &[&str] = &[
    ADMIN_KEY,
    CONFIG,
    "TIDEWIRE_URL",
    "TIDEWIRE_TOKEN",
    "TIDEWIRE_BIN",
    "TIDEWIRE_ADDRESS",
    "TIDEWIRE_KILLS",
    "TIDEWIRE_NATS_SERVER",
    "TIDEWIRE_DAMAGES",
    "TIDEWIRE_KEEP",
    "TIDEWIRE_SEED",
    "TIDEWIRE_MODEL_ROUNDS",
];
/// Beginnings of more such variables: of tests, and those that Kubernetes sets for a service named `tidewire`.
const OTHERS_BEGIN: &[&str] = &["TIDEWIRE_FAULT_", "TIDEWIRE_SERVICE_", "TIDEWIRE_PORT"];

/// A value as somebody wrote it.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) body: Body,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Truth(bool),
    /// `None` for one that is too large for any option.
    Number(Option<i128>, String),
    Text(String),
    List(Vec<Raw>),
    Table(Vec<(Key, Raw)>),
    /// What no option is; by its name.
    Other(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) origin: Origin,
}

impl Raw {
    pub(super) fn empty() -> Self {
        Self { body: Body::Table(Vec::new()), origin: Origin::Default }
    }

    /// Puts `value` where `path` says, over whatever is there.
    pub(super) fn put(&mut self, path: &[&str], value: Raw) {
        let Some((name, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self.body, Body::Table(_)) {
            *self = Self::empty();
        }
        let Body::Table(entries) = &mut self.body else { return };
        let at = entries.iter().position(|(key, _)| key.name == *name).unwrap_or_else(|| {
            let key = Key { name: (*name).to_owned(), origin: value.origin.clone() };
            entries.push((key, Self::empty()));
            entries.len() - 1
        });
        entries[at].1.put(rest, value);
    }
}

/// Reads a file's text.
///
/// # Errors
/// If it is not TOML, as the parser shows it.
pub(super) fn file(name: &str, text: &str) -> anyhow::Result<Raw> {
    let table = DeTable::parse(text)
        .map_err(|error| anyhow::anyhow!("{name} is not TOML: {}", error.to_string().trim_end()))?;
    let lines = Lines::new(name, text);
    let span = table.span();
    Ok(raw(&DeValue::Table(table.into_inner()), &|at: usize| lines.origin(at), span.start))
}

/// Where lines begin, to say where a byte is.
struct Lines<'t> {
    name: Arc<str>,
    text: &'t str,
    begins: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(name: &str, text: &'t str) -> Self {
        let begins = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1));
        Self { name: name.into(), text, begins: begins.collect() }
    }

    fn origin(&self, at: usize) -> Origin {
        let line = self.begins.partition_point(|begin| *begin <= at);
        let begin = self.begins[line.saturating_sub(1)];
        let column = self.text.get(begin..at).map_or(0, |before| before.chars().count()) + 1;
        Origin::File { name: Arc::clone(&self.name), line, column }
    }
}

fn raw(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin, at: usize) -> Raw {
    let within = |value: &Spanned<DeValue<'_>>| raw(value.get_ref(), origin, value.span().start);
    let body = match value {
        DeValue::Boolean(truth) => Body::Truth(*truth),
        DeValue::String(text) => Body::Text(text.clone().into_owned()),
        DeValue::Integer(number) => {
            Body::Number(i128::from_str_radix(number.as_str(), number.radix()).ok(), number.to_string())
        }
        DeValue::Array(values) => Body::List(values.iter().map(within).collect()),
        DeValue::Table(table) => Body::Table(
            table
                .iter()
                .map(|(key, value)| {
                    let name = key.get_ref().clone().into_owned();
                    (Key { name, origin: origin(key.span().start) }, within(value))
                })
                .collect(),
        ),
        DeValue::Float(_) => Body::Other("a number with a point"),
        DeValue::Datetime(_) => Body::Other("a date or time"),
    };
    Raw { body, origin: origin(at) }
}

/// Lays the variables of the environment over `tree`. One that is empty counts as not set.
pub(super) fn environment(tree: &mut Raw, variables: &[(String, String)], mistakes: &mut Mistakes) {
    let secrets = secret_variables(tree, variables);
    for (name, text) in variables {
        let is_other = OTHERS.contains(&name.as_str())
            || OTHERS_BEGIN.iter().any(|beginning| name.starts_with(beginning))
            || secrets.iter().any(|secret| secret == name);
        let Some(path) = name.strip_prefix(PREFIX).filter(|_| !is_other) else { continue };
        let origin = Origin::Environment(name.as_str().into());
        let lower = path.to_ascii_lowercase();
        let path: Vec<&str> = lower.split("__").collect();
        let Some(kind) = (path.join("__") == lower).then(|| find(&path)).flatten() else {
            mistakes.add(&origin, unknown(name, &path));
            continue;
        };
        if !text.is_empty() {
            tree.put(&path, variable(text, kind, &origin));
        }
    }
}

/// What is wrong with a variable of ours that is no option.
fn unknown(name: &str, path: &[&str]) -> String {
    let table = path.iter().try_fold(&ROOT, |section, name| section.section(name));
    if let Some(option) = table.and_then(|table| table.options.first()) {
        return format!(
            "a table is set option by option, as in {}",
            variable_name(&format!("{name}__"), option.name)
        );
    }
    let known = known();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("there is no such option; did you mean {meant}?"),
        None => "there is no such option; `tidewire config show` has all".to_owned(),
    }
}

/// The value of a variable: TOML where it is TOML of the right kind, else a string.
fn variable(text: &str, kind: Found, origin: &Origin) -> Raw {
    let as_text = || Raw { body: Body::Text(text.to_owned()), origin: origin.clone() };
    let Ok(value) = DeValue::parse(text) else { return as_text() };
    let is_text = matches!(value.get_ref(), DeValue::String(_));
    // A directory may be called 2026, and a key true.
    if matches!(kind, Found::Option(Kind::Text(_) | Kind::Choice(_))) && !is_text {
        return as_text();
    }
    raw(value.get_ref(), &|_| origin.clone(), 0)
}

/// What a variable's name stands for.
#[derive(Clone, Copy)]
enum Found {
    Option(Kind),
    /// Tables as a whole, such as `TIDEWIRE_CHANNELS='[{pattern = "a"}]'`.
    Tables,
}

fn find(path: &[&str]) -> Option<Found> {
    let mut section = &ROOT;
    let (last, before) = path.split_last()?;
    for name in before {
        section = section.section(name).filter(|section| !section.many)?;
    }
    let tables = || section.section(last).filter(|section| section.many).map(|_| Found::Tables);
    section.option(last).map(|entry| Found::Option(entry.kind)).or_else(tables)
}

/// The names of all variables that stand for something.
fn known() -> Vec<String> {
    fn add(section: &Section, prefix: &str, names: &mut Vec<String>) {
        names.extend(section.options.iter().map(|entry| variable_name(prefix, entry.name)));
        for inner in section.sections {
            let name = variable_name(prefix, inner.name);
            if inner.many { names.push(name) } else { add(inner, &format!("{name}__"), names) }
        }
    }
    let mut names = vec![ADMIN_KEY.to_owned(), CONFIG.to_owned()];
    add(&ROOT, PREFIX, &mut names);
    names
}

fn variable_name(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", name.to_ascii_uppercase())
}

/// The variables that the file or another variable names as holding a secret: they may have any name.
fn secret_variables(tree: &Raw, variables: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    named_in(tree, &mut found);
    for (name, text) in variables {
        if name.ends_with("__SECRET_ENV") {
            found.push(text.trim_matches('"').to_owned());
        } else if name == "TIDEWIRE_AUTH__ISSUERS"
            && let Ok(value) = DeValue::parse(text)
        {
            named_in(&raw(value.get_ref(), &|_| Origin::Default, 0), &mut found);
        }
    }
    found
}

fn named_in(tree: &Raw, found: &mut Vec<String>) {
    match &tree.body {
        Body::List(values) => values.iter().for_each(|value| named_in(value, found)),
        Body::Table(entries) => {
            for (key, value) in entries {
                match &value.body {
                    Body::Text(name) if key.name == "secret_env" => found.push(name.clone()),
                    _ => named_in(value, found),
                }
            }
        }
        _ => {}
    }
}
