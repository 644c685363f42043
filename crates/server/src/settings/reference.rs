//! The options as the reference page `docs/configuration.md`. Must not say what an option means: each says so itself
//! (`options`), and `reference.md` has what is said around them.

use std::fmt::Write;

use super::definition::{Entry, Kind, Section, one_of};
use super::options::ROOT;

/// What stands around the options; they take the place of [`OPTIONS`].
const PAGE: &str = include_str!("reference.md");
const OPTIONS: &str = "{{options}}\n";

/// The whole page.
pub(super) fn reference() -> String {
    let mut options = String::new();
    entries(&mut options, &ROOT);
    for section in ROOT.sections {
        tables(&mut options, section, "");
    }
    PAGE.replace(OPTIONS, &options)
}

fn tables(page: &mut String, section: &Section, prefix: &str) {
    let name = format!("{prefix}{}", section.name);
    let (open, close) = if section.many { ("[[", "]]") } else { ("[", "]") };
    let _ = write!(page, "\n## `{open}{name}{close}`\n\n{}\n\n", section.text);
    entries(page, section);
    for inner in section.sections {
        // Those that take the options of a table that the page has anyway.
        let is_known = ROOT.sections.iter().any(|known| known.name == inner.name);
        if !is_known {
            tables(page, inner, &format!("{name}."));
        }
    }
}

fn entries(page: &mut String, section: &Section) {
    for entry in section.options {
        let told = entry.told();
        let _ = write!(
            page,
            "- **`{}`**: {}. Default: {}. {}",
            entry.name,
            kind(entry),
            default(entry),
            told.meaning
        );
        for (title, more) in [("Cost", told.cost), ("Danger", told.danger)] {
            if let Some(more) = more {
                let _ = write!(page, " **{title}:** {more}");
            }
        }
        page.push('\n');
    }
}

fn kind(entry: &Entry) -> String {
    match entry.kind {
        Kind::Number { least, most } if most >= i64::MAX as u64 / 1000 => {
            format!("a whole number from {least}")
        }
        Kind::Number { least, most } => format!("{least} to {most}"),
        Kind::Choice(choices) => one_of(choices),
        kind => kind.noun(),
    }
}

fn default(entry: &Entry) -> String {
    match entry.standard {
        super::definition::Standard::Words(words) => words.to_owned(),
        standard => format!("`{}`", standard.shown()),
    }
}
