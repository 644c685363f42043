//! The words of a case file. A case is data: steps that publish, connect and expect, over named transports.
//! Must not know how a step is carried out. An unknown word is an error, so a typo cannot pass for a check.
//!
//! ```toml
//! [[case]]
//! name = "order"
//! over = ["every"]                  # transports, or the groups every, ids, many, one; none: run once
//! steps = [
//!     { publish = { save = "e", count = 3 } },       # e1, e2, e3
//!     { connect = { since = "{e1}" } },
//!     { expect = ["e2..e3"] },
//! ]
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::Result;
use crate::client::TRANSPORTS;
use crate::event;
use crate::proxy::Kind;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Case {
    /// Unique within its file.
    pub name: String,
    /// Transports or groups of them, each of which runs the case.
    #[serde(default)]
    pub over: Vec<String>,
    /// Transports to leave out of `over`.
    #[serde(default)]
    pub except: Vec<String>,
    /// Runs the case once for each order of these transports; each `resume` goes on to the next.
    #[serde(default)]
    pub permute: Vec<String>,
    /// Names that stand for channels; each run gives them fresh real names.
    #[serde(default = "one_channel")]
    pub channels: Vec<String>,
    /// The server's configuration; a case with one runs on a server of its own.
    #[serde(default)]
    pub config: String,
    /// Why the case is not for logs on disk, if it is not.
    #[serde(default)]
    pub memory_only: Option<String>,
    /// Why the case is not for servers that share their log, if it is not.
    #[serde(default)]
    pub alone_only: Option<String>,
    /// Proxies through which the case cannot hold, each with why.
    #[serde(default)]
    pub not_through: BTreeMap<String, String>,
    /// What happens.
    pub steps: Vec<Step>,
}

fn one_channel() -> Vec<String> {
    vec!["a".to_owned()]
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Publish.
    Publish(Box<Publish>),
    /// Connect the client.
    Connect(Connect),
    /// These saved events come, in this order within each channel, and nothing else before the last.
    Expect(Vec<String>),
    /// A gap comes. On the raw WebSocket: close 4003, and the client connects again with `since=earliest`.
    Gap(Gap),
    /// Nothing comes for so many milliseconds.
    Nothing(u64),
    /// Leave, and connect with the client's position, over the next transport of `permute`.
    Resume(Resume),
    /// Leave.
    Leave {},
    /// The stream ends.
    Closed(Closed),
    /// A plain request.
    Request(Box<Request>),
    /// The answer to a request with `background` comes.
    Finish(Finish),
    /// Open a WebSocket by hand.
    Open(Open),
    /// Send text on it.
    Send(String),
    /// Send a binary message on it, in hexadecimal.
    SendHex(String),
    /// The next message on it is JSON that matches this pattern.
    Receive(String),
    /// The server closes it.
    Shut(Closed),
}

/// See [`Step::Publish`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Publish {
    /// What the event is called later.
    pub save: Option<String>,
    /// So many events `{"n":1}`, `{"n":2}`..., called SAVE1, SAVE2...
    pub count: Option<usize>,
    /// The channel; default: the first.
    pub channel: Option<String>,
    /// Data of that kind, with that kind's content type.
    pub json: Option<String>,
    /// Likewise.
    pub text: Option<String>,
    /// Likewise, bytes in hexadecimal.
    pub hex: Option<String>,
    /// What kind readers must see, if not the one that the data was given as.
    pub kind: Option<event::Kind>,
    /// The content type to send; empty: none.
    pub content_type: Option<String>,
    /// The content type that readers must see; empty: none.
    pub carried: Option<String>,
    /// The event name.
    pub event: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The idempotency key.
    pub idempotency: Option<String>,
    /// `http`, `ws`, `ws-binary` or `raw`.
    pub via: Option<String>,
    /// It repeats this event: same id, no other event.
    pub duplicate_of: Option<String>,
    /// It is refused with this code.
    pub refused: Option<String>,
}

/// See [`Step::Connect`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Connect {
    /// Where to begin.
    pub since: Option<String>,
    /// Channels; default: all of the case.
    pub channels: Option<Vec<String>>,
    /// Events in a page, where there are pages.
    pub limit: Option<u32>,
    /// Refused with this code.
    pub refused: Option<String>,
}

/// See [`Step::Gap`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gap {
    /// The channels that have one; default: all that were asked for.
    pub channels: Option<Vec<String>>,
    /// The cursor as given.
    pub requested: String,
    /// Where it goes on.
    pub resumed_from: String,
}

/// See [`Step::Resume`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Resume {
    /// Events in a page, where there are pages.
    pub limit: Option<u32>,
}

/// See [`Step::Closed`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Closed {
    /// The close code, where the transport has one.
    pub code: u16,
    /// The reason, unless it does not matter.
    pub reason: Option<String>,
}

/// See [`Step::Request`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Request {
    /// The method; default: GET.
    pub method: Option<String>,
    /// Path and query.
    pub path: String,
    /// Fields to send.
    #[serde(default)]
    pub head: BTreeMap<String, String>,
    /// Body to send.
    pub body: Option<String>,
    /// Repeat it until it is answered as expected, or so many milliseconds are over.
    pub within_ms: Option<u64>,
    /// Do not wait; [`Step::Finish`] does.
    pub background: Option<String>,
    /// What must come.
    #[serde(flatten)]
    pub answer: Expected,
}

/// What an answer must be.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Expected {
    /// The status; default: 200, or that of `code`'s row.
    pub status: Option<u16>,
    /// The answer is `problem+json` with this code.
    pub code: Option<String>,
    /// Fields of the answer: patterns.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// The body: a pattern.
    pub json: Option<String>,
    /// The body, as it is.
    pub exact: Option<String>,
}

/// See [`Step::Finish`].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finish {
    /// Which request.
    pub background: String,
    /// What must come.
    #[serde(flatten)]
    pub answer: Expected,
}

/// See [`Step::Open`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Open {
    /// Path and query.
    pub path: String,
    /// The subprotocols to offer.
    pub protocol: Option<String>,
    /// Refused with this code.
    pub refused: Option<String>,
}

impl Case {
    /// The lists of transports over which the case runs.
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn routes(&self) -> Result<Vec<Vec<&'static str>>> {
        let mut names = Vec::new();
        for word in &self.over {
            names.extend(group(word)?);
        }
        for word in &self.except {
            group(word)?;
        }
        names.retain(|name| !self.except.iter().any(|except| except == name));
        let mut routes: Vec<_> = names.into_iter().map(|name| vec![name]).collect();
        if !self.permute.is_empty() {
            let names: Result<Vec<_>> = self.permute.iter().map(|word| Ok(group(word)?[0])).collect();
            permutations(&mut names?, 0, &mut routes);
        }
        if routes.is_empty() {
            routes.push(Vec::new());
        }
        Ok(routes)
    }
}

fn group(word: &str) -> Result<Vec<&'static str>> {
    let names: Vec<_> = TRANSPORTS
        .iter()
        .filter(|transport| match word {
            "every" => true,
            "ids" => transport.sees.id,
            "many" => transport.many,
            name => transport.name == name,
        })
        .map(|transport| transport.name)
        .collect();
    if names.is_empty() { Err(format!("no transport or group {word:?}")) } else { Ok(names) }
}

fn permutations(names: &mut Vec<&'static str>, from: usize, out: &mut Vec<Vec<&'static str>>) {
    if from == names.len() {
        out.push(names.clone());
    }
    for other in from..names.len() {
        names.swap(from, other);
        permutations(names, from + 1, out);
        names.swap(from, other);
    }
}

/// All cases of a directory, each with its file's name before its own.
///
/// # Errors
/// When a file does not parse or names a transport that is not there.
pub fn load(directory: &Path) -> Result<Vec<Case>> {
    let wrong = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let entries = std::fs::read_dir(directory).map_err(|error| wrong(directory, &error))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(&path, &error))?;
        let file: File = toml::from_str(&text).map_err(|error| wrong(&path, &error))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for mut case in file.case {
            case.routes().map_err(|error| wrong(&path, &error))?;
            if let Some(name) =
                case.not_through.keys().find(|name| !Kind::ALL.iter().any(|kind| kind.name() == *name))
            {
                return Err(wrong(&path, &format!("no proxy {name:?}")));
            }
            case.name = format!("{stem}/{}", case.name);
            cases.push(case);
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_not_known_is_an_error() {
        for steps in ["{ publich = { text = 'x' } }", "{ publish = { txt = 'x' } }", "{ nothing = 'x' }"] {
            let text = format!("[[case]]\nname = 'x'\nsteps = [{steps}]");
            assert!(toml::from_str::<File>(&text).is_err(), "{steps}");
        }
    }

    #[test]
    fn four_transports_have_24_orders() {
        let text = "[[case]]\nname = 'x'\npermute = ['ws', 'sse', 'poll', 'long-poll']\nsteps = []";
        let file: File = toml::from_str(text).expect("right");
        let mut routes = file.case[0].routes().expect("known");
        routes.sort();
        routes.dedup();
        assert_eq!(routes.len(), 24);
    }
}
