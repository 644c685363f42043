//! What is wrong with a configuration: all of it at once, each mistake with the place that it was made in.
//! Must not know what makes a mistake.

use std::fmt;
use std::sync::Arc;

/// As many mistakes are shown.
const SHOWN_MAX: usize = 20;

/// Where a value comes from. The order is that in which mistakes are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A place in the file; both count from one.
    File { name: Arc<str>, line: usize, column: usize },
    /// An environment variable.
    Environment(Arc<str>),
    /// A flag.
    Flag(&'static str),
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// A short form for `config show`: the column would only be in the way.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::File { name, line, .. } => format!("{name}:{line}"),
            Self::Environment(name) => format!("environment, {name}"),
            Self::Flag(name) => format!("flag, {name}"),
            Self::Default => "default".to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line, column } => write!(formatter, "{name}:{line}:{column}"),
            Self::Environment(name) => formatter.write_str(name),
            Self::Flag(name) => formatter.write_str(name),
            Self::Default => formatter.write_str("by default"),
        }
    }
}

/// What is wrong, and what is only doubtful.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    made: Vec<(Origin, String)>,
    /// What starts all the same, and should be known.
    pub(super) warnings: Vec<String>,
}

impl Mistakes {
    pub(super) fn add(&mut self, origin: &Origin, what: impl Into<String>) {
        self.made.push((origin.clone(), what.into()));
    }

    pub(super) fn warn(&mut self, origin: &Origin, what: impl fmt::Display) {
        self.warnings.push(format!("{origin}: {what}"));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// All of them as one error.
    pub(super) fn into_error(mut self) -> anyhow::Error {
        self.made.sort();
        self.made.dedup();
        let lines = self.made.iter().take(SHOWN_MAX).map(|(origin, what)| match origin {
            Origin::Default => format!("\n  {what}"),
            _ => format!("\n  {origin}: {what}"),
        });
        let lines: String = lines.collect();
        let more = match self.made.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            more => format!("\n  and {more} more"),
        };
        anyhow::anyhow!("the configuration is not right:{lines}{more}")
    }
}
