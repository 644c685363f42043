//! The tree of raw values held against the options: unknown names, wrong kinds and what is out of range are found
//! here, and what remains has the kind that its option says. Must not know what any option means.

use super::definition::{Section, Standard, nearest};
use super::kinds::{checked, name_of};
use super::mistakes::{Mistakes, Origin};
use super::options::ROOT;
use super::source::{Body, Key, Raw};

/// A checked table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) section: &'static Section,
    /// Where it begins.
    pub(super) origin: Origin,
    values: Vec<(&'static str, Value)>,
    tables: Vec<(&'static str, Table)>,
    /// Options that somebody gave a wrong value: not to be missed as well.
    wrong: Vec<&'static str>,
    /// Its name from the root, with a point at its end.
    path: String,
}

#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) data: Data,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Truth(bool),
    Number(u64),
    Text(String),
    Texts(Vec<(String, Origin)>),
}

impl Table {
    /// Holds a raw tree against all options.
    pub(super) fn root(tree: Raw, mistakes: &mut Mistakes) -> Self {
        Self::read(&ROOT, String::new(), tree, mistakes)
    }

    fn read(section: &'static Section, path: String, tree: Raw, mistakes: &mut Mistakes) -> Self {
        let mut table = Self {
            section,
            origin: tree.origin,
            values: Vec::new(),
            tables: Vec::new(),
            wrong: Vec::new(),
            path,
        };
        let mut needs = section.needs.iter();
        let entries = match tree.body {
            Body::Table(entries) => entries,
            body => {
                let path = table.path.trim_end_matches('.');
                mistakes.add(&table.origin, format!("{path} must be a table, not {}", name_of(&body)));
                needs = [].iter();
                Vec::new()
            }
        };
        for (key, raw) in entries {
            if let Some(entry) = section.option(&key.name) {
                match checked(entry, &format!("{}{}", table.path, entry.name), raw, mistakes) {
                    Some(value) => table.values.push((entry.name, value)),
                    None => table.wrong.push(entry.name),
                }
            } else if let Some(inner) = section.section(&key.name) {
                table.enter(inner, raw, mistakes);
            } else {
                mistakes.add(&key.origin, table.unknown(&key));
            }
        }
        for name in needs.filter(|name| !table.is_said(name)) {
            let path = table.path.trim_end_matches('.');
            mistakes.add(&table.origin, format!("{path} needs {name}"));
        }
        table.fill();
        table
    }

    fn enter(&mut self, inner: &'static Section, raw: Raw, mistakes: &mut Mistakes) {
        let path = format!("{}{}.", self.path, inner.name);
        match raw {
            Raw { body: Body::List(items), .. } if inner.many => {
                for item in items {
                    let table = Self::read(inner, path.clone(), item, mistakes);
                    self.tables.push((inner.name, table));
                }
            }
            raw if inner.many => {
                let path = path.trim_end_matches('.');
                mistakes.add(&raw.origin, format!("there may be several of {path}; write [[{path}]]"));
            }
            raw => {
                let table = Self::read(inner, path, raw, mistakes);
                self.tables.push((inner.name, table));
            }
        }
    }

    fn unknown(&self, key: &Key) -> String {
        let name = &key.name;
        let what = format!("{}{name} is unknown", self.path);
        if let Some(meant) = nearest(name, self.section.names()) {
            return format!("{what}; did you mean {meant}?");
        }
        match home_of(&ROOT, "", name) {
            Some(home) => format!("{what} here; did you mean {home}?"),
            None => {
                let names: Vec<_> = self.section.names().collect();
                let table = if self.path.is_empty() { "outside of tables" } else { "here" };
                format!("{what}; possible {table} are {}", names.join(", "))
            }
        }
    }

    /// Puts in what holds where nobody said anything.
    fn fill(&mut self) {
        for entry in self.section.options {
            let data = match entry.standard {
                Standard::Words(_) => continue,
                Standard::Truth(truth) => Data::Truth(truth),
                Standard::Number(number) => Data::Number(number),
                Standard::Text(text) => Data::Text(text.to_owned()),
                Standard::Texts(texts) => {
                    Data::Texts(texts.iter().map(|text| ((*text).to_owned(), Origin::Default)).collect())
                }
            };
            self.settle(entry.name, data);
        }
        for section in self.section.sections.iter().filter(|section| !section.many) {
            if !self.tables.iter().any(|(name, _)| *name == section.name) {
                let mut empty = Self {
                    section,
                    origin: Origin::Default,
                    values: Vec::new(),
                    tables: Vec::new(),
                    wrong: Vec::new(),
                    path: format!("{}{}.", self.path, section.name),
                };
                empty.fill();
                self.tables.push((section.name, empty));
            }
        }
    }

    /// Puts in a value that follows from others, unless somebody said one.
    pub(super) fn settle(&mut self, name: &'static str, data: Data) {
        if self.value(name).is_none() {
            self.values.push((name, Value { data, origin: Origin::Default }));
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        debug_assert!(self.section.option(name).is_some(), "{name} is an option of {:?}", self.path);
        self.values.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Whether somebody began it, or said anything that is in it.
    pub(super) fn is_there(&self) -> bool {
        self.origin != Origin::Default || self.section.options.iter().any(|entry| self.is_said(entry.name))
    }

    /// Whether somebody said something, right or wrong.
    pub(super) fn is_said(&self, name: &str) -> bool {
        self.is_wrong(name) || self.value(name).is_some_and(|value| value.origin != Origin::Default)
    }

    /// Whether somebody said something that is not right, so that another value stands for it.
    pub(super) fn is_wrong(&self, name: &str) -> bool {
        self.wrong.contains(&name)
    }

    /// Where the value comes from; for messages about it.
    pub(super) fn origin(&self, name: &str) -> &Origin {
        self.value(name).map_or(&self.origin, |value| &value.origin)
    }

    /// The name from the root, as `limits.event_bytes`.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    pub(super) fn truth(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value { data: Data::Truth(true), .. }))
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)?.data {
            Data::Number(number) => Some(number),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.value(name)?.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn texts(&self, name: &str) -> &[(String, Origin)] {
        match self.value(name) {
            Some(Value { data: Data::Texts(texts), .. }) => texts,
            _ => &[],
        }
    }

    /// The table of a name that there is only one of.
    pub(super) fn table(&self, name: &str) -> &Table {
        self.many(name).next().expect("a table that there is only one of is filled in where it is missing")
    }

    pub(super) fn table_mut(&mut self, name: &str) -> &mut Table {
        let found = self.tables.iter_mut().find(|(key, _)| *key == name);
        &mut found.expect("a table that there is only one of is filled in where it is missing").1
    }

    pub(super) fn many<'t>(&'t self, name: &str) -> impl Iterator<Item = &'t Table> {
        self.tables.iter().filter(move |(key, _)| *key == name).map(|(_, table)| table)
    }

    pub(super) fn many_mut<'t>(&'t mut self, name: &str) -> impl Iterator<Item = &'t mut Table> {
        self.tables.iter_mut().filter(move |(key, _)| *key == name).map(|(_, table)| table)
    }
}

/// Where an option of that name is.
fn home_of(section: &Section, path: &str, name: &str) -> Option<String> {
    let here = section.option(name).map(|_| format!("{path}{name}"));
    let further =
        || section.sections.iter().find_map(|inner| home_of(inner, &format!("{path}{}.", inner.name), name));
    here.or_else(further)
}
