//! What is logged and how, once it is checked. Must not know how the file spells it.

/// What is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogSettings {
    /// What is worth a line.
    pub(crate) level: LogLevel,
    /// How a line looks.
    pub(crate) format: LogFormat,
}

/// What is worth a line; each level has those before it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum LogLevel {
    /// Nothing.
    Off,
    /// What failed for a reason of ours.
    Error,
    /// What should be looked at.
    Warn,
    /// The steps of each connection's life.
    #[default]
    Info,
    /// What helps to find a fault.
    Debug,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// A JSON object.
    Json,
}
