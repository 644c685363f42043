//! What an option is: its name, kind, default and text. The parser, `config show`, the JSON Schema, the reference
//! page and the flags' help all walk these. Must not know any option (`options`), nor a file.

use tidewire_core::limits::Bound;

use super::forms::Form;

/// A table of the configuration.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name in the table around it; that of the root is empty.
    pub(super) name: &'static str,
    /// Whether there may be several, as in `[[channels]]`.
    pub(super) many: bool,
    /// Options without which it says nothing.
    pub(super) needs: &'static [&'static str],
    /// What it is for.
    pub(super) text: &'static str,
    pub(super) options: &'static [Entry],
    pub(super) sections: &'static [Section],
}

/// An option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) standard: Standard,
    /// In lines; those that begin with `Cost:` or `Danger:` say so.
    pub(super) text: &'static str,
}

/// What an option may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Truth,
    Number { least: u64, most: u64 },
    Text(Form),
    Choice(&'static [&'static str]),
    Texts { form: Form, most: usize },
    Choices(&'static [&'static str]),
}

/// What holds if nobody says otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standard {
    /// It depends; in words.
    Words(&'static str),
    Truth(bool),
    Number(u64),
    Text(&'static str),
    Texts(&'static [&'static str]),
}

/// What a text says, taken apart.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) meaning: String,
    pub(super) cost: Option<String>,
    pub(super) danger: Option<String>,
}

/// A table of options from their doc comments: `name: kind, default;`.
macro_rules! options {
    ($($(#[doc = $text:literal])+ $name:ident: $kind:expr, $standard:expr;)*) => {
        &[$($crate::settings::definition::Entry {
            name: stringify!($name),
            kind: $kind,
            standard: $standard,
            text: concat!($($text, "\n"),+),
        }),*]
    };
}
pub(super) use options;

impl Section {
    pub(super) fn option(&self, name: &str) -> Option<&'static Entry> {
        self.options.iter().find(|entry| entry.name == name)
    }

    pub(super) fn section(&self, name: &str) -> Option<&'static Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// All that may stand in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        let options = self.options.iter().map(|entry| entry.name);
        options.chain(self.sections.iter().map(|section| section.name))
    }
}

impl Entry {
    pub(super) const fn of_bound(bound: &Bound) -> Self {
        Self {
            name: bound.name,
            kind: Kind::Number { least: bound.least, most: bound.most },
            standard: Standard::Number(bound.default),
            text: bound.text,
        }
    }

    pub(super) fn told(&self) -> Told {
        let mut told = Told::default();
        let mut part = &mut told.meaning;
        for line in self.text.lines().map(str::trim) {
            let line = if let Some(cost) = line.strip_prefix("Cost:") {
                part = told.cost.get_or_insert_default();
                cost
            } else if let Some(danger) = line.strip_prefix("Danger:") {
                part = told.danger.get_or_insert_default();
                danger
            } else {
                line
            };
            if !part.is_empty() {
                part.push(' ');
            }
            part.push_str(line.trim());
        }
        told
    }
}

impl Kind {
    /// What is expected, in words that follow "must be".
    pub(super) fn noun(&self) -> String {
        match self {
            Self::Truth => "true or false".to_owned(),
            Self::Number { .. } => "a whole number".to_owned(),
            Self::Text(form) => form.noun().to_owned(),
            Self::Choice(choices) => one_of(choices),
            Self::Texts { form, most } => format!("a list of at most {most}, each {}", form.noun()),
            Self::Choices(choices) => format!("a list, each {}", one_of(choices)),
        }
    }
}

impl Standard {
    /// As it is written in the file, or in words.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Words(words) => (*words).to_owned(),
            Self::Truth(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Texts(texts) => format!("{texts:?}"),
        }
    }
}

/// The choices as they are written, in a row.
pub(super) fn one_of(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("{choice:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Longer ones are no slip of the pen, and comparing them takes memory with the square of their length.
const WRITTEN_BYTES_MAX: usize = 100;

/// What was probably meant, if anything is near.
pub(super) fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if written.len() > WRITTEN_BYTES_MAX {
        return None;
    }
    let distance = |name: &str| strsim::damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase());
    let (name, distance) = names.map(|name| (name, distance(name))).min_by_key(|(_, distance)| *distance)?;
    (distance <= (name.len() / 3).max(1)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_none_is_made_up() {
        let names = || ["event_bytes", "head_bytes", "channels", "on"].into_iter();
        for (written, meant) in [
            ("event_bites", Some("event_bytes")),
            ("eventbytes", Some("event_bytes")),
            ("EVENT_BYTES", Some("event_bytes")),
            ("chanels", Some("channels")),
            ("colour", None),
            ("", None),
            (&"event_bytes".repeat(10), None),
        ] {
            assert_eq!(nearest(written, names()), meant, "{written}");
        }
    }

    #[test]
    fn a_text_is_taken_apart() {
        let entry = Entry {
            name: "x",
            kind: Kind::Truth,
            standard: Standard::Truth(true),
            text: " One.\n Two.\n Cost: much.\n Danger: more\n still.\n",
        };
        let told = entry.told();
        assert_eq!(told.meaning, "One. Two.");
        assert_eq!((told.cost.as_deref(), told.danger.as_deref()), (Some("much."), Some("more still.")));
    }
}
