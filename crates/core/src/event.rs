//! Events: what a publisher hands in and what the log keeps, with their checks.
//! Must not know how an event looks on any wire; `wire` frames it, once per form.

use bytes::Bytes;

use crate::channel::ChannelName;
use crate::error::{Code, Problem};
use crate::id::EventId;
use crate::time::Timestamp;
use crate::wire::Frames;

/// What an event carries. The bytes are as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A valid JSON text.
    Json,
    /// UTF-8 text.
    Text,
    /// Anything.
    Bytes,
}

impl Kind {
    /// The content type that the kind implies, so that events need not carry it.
    pub fn implied_content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain",
            Self::Bytes => "application/octet-stream",
        }
    }
}

/// Checked data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    kind: Kind,
    /// Set only where the kind does not imply it.
    content_type: Option<Box<str>>,
    data: Bytes,
}

impl Payload {
    /// How deep JSON may be nested; the default of widespread parsers.
    pub const JSON_DEPTH_MAX: usize = 128;
    /// The longest content type, in bytes.
    pub const CONTENT_TYPE_BYTES_MAX: usize = 128;

    /// Data with a declared content type; `None`, or a form's type as `curl -d` sends it, means undeclared.
    ///
    /// # Errors
    /// `invalid_json` and `invalid_utf8` if the data is not what it is declared to be,
    /// `unsupported_media_type` for text in another charset, `invalid_parameter` for a broken content type.
    pub fn declared(content_type: Option<&str>, data: Bytes) -> Result<Self, Problem> {
        let Some(declared) = content_type.map(str::trim).filter(|declared| !declared.is_empty()) else {
            return Ok(Self::sniffed(data));
        };
        let (essence, parameters) = declared.split_once(';').unwrap_or((declared, ""));
        let essence = essence.trim_end().to_ascii_lowercase();
        if essence == "application/x-www-form-urlencoded" {
            return Ok(Self::sniffed(data));
        }
        check_content_type(declared, &essence)?;
        let kind = kind_of(&essence);
        if kind != Kind::Bytes {
            check_charset(parameters)?;
        }
        check_data(kind, &data)?;
        let implied =
            essence == kind.implied_content_type() && (kind != Kind::Bytes || parameters.is_empty());
        Ok(Self { kind, content_type: (!implied).then(|| declared.into()), data })
    }

    /// Data of no declared type: JSON if it parses as JSON, else text if it is UTF-8, else bytes.
    pub fn sniffed(data: Bytes) -> Self {
        let kind = if check_data(Kind::Json, &data).is_ok() {
            Kind::Json
        } else if check_data(Kind::Text, &data).is_ok() {
            Kind::Text
        } else {
            Kind::Bytes
        };
        Self { kind, content_type: None, data }
    }

    /// Data that its source already has parsed as JSON.
    ///
    /// # Errors
    /// `invalid_json` if it is nested too deep.
    pub fn json(value: &serde_json::value::RawValue) -> Result<Self, Problem> {
        check_depth(value.get())?;
        Ok(Self {
            kind: Kind::Json,
            content_type: None,
            data: Bytes::copy_from_slice(value.get().as_bytes()),
        })
    }

    /// Bytes of no particular type.
    pub fn bytes(data: Bytes) -> Self {
        Self { kind: Kind::Bytes, content_type: None, data }
    }

    /// Bytes of a declared type. They are bytes to everybody, even if the type says JSON or text.
    ///
    /// # Errors
    /// `invalid_parameter` for a broken content type.
    pub fn declared_bytes(content_type: &str, data: Bytes) -> Result<Self, Problem> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        check_content_type(content_type, &essence)?;
        let implied = content_type == Kind::Bytes.implied_content_type();
        Ok(Self { kind: Kind::Bytes, content_type: (!implied).then(|| content_type.into()), data })
    }

    /// Data that was checked before it was stored.
    pub(crate) fn stored(kind: Kind, content_type: Option<Box<str>>, data: Bytes) -> Self {
        Self { kind, content_type, data }
    }

    /// What the data is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The content type where it is not the one that the kind implies.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The data as published.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The data as text, for the two kinds that are checked to be UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self.kind {
            Kind::Json | Kind::Text => std::str::from_utf8(&self.data).ok(),
            Kind::Bytes => None,
        }
    }
}

fn kind_of(essence: &str) -> Kind {
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        Kind::Json
    } else if essence.starts_with("text/") {
        Kind::Text
    } else {
        Kind::Bytes
    }
}

fn check_content_type(declared: &str, essence: &str) -> Result<(), Problem> {
    let well_formed = essence.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
    let printable = declared.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if well_formed && printable && declared.len() <= Payload::CONTENT_TYPE_BYTES_MAX {
        return Ok(());
    }
    let detail = "the content type is not of the form type/subtype in at most 128 ASCII characters";
    Err(Problem::new(Code::InvalidParameter, detail))
}

/// A token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let extra = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
}

fn check_charset(parameters: &str) -> Result<(), Problem> {
    for parameter in parameters.split(';') {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim().trim_matches('"').to_ascii_lowercase();
        if name.trim().eq_ignore_ascii_case("charset")
            && !matches!(value.as_str(), "utf-8" | "utf8" | "us-ascii")
        {
            let detail =
                "text and JSON must be UTF-8; convert the body, or send it as application/octet-stream";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
    }
    Ok(())
}

fn check_data(kind: Kind, data: &[u8]) -> Result<(), Problem> {
    if kind == Kind::Bytes {
        return Ok(());
    }
    let Ok(text) = simdutf8::basic::from_utf8(data) else {
        let detail = "the data is not UTF-8; send bytes as application/octet-stream";
        let code = if kind == Kind::Json { Code::InvalidJson } else { Code::InvalidUtf8 };
        return Err(Problem::new(code, detail));
    };
    if kind == Kind::Json {
        serde_json::from_str::<&serde_json::value::RawValue>(text)
            .map_err(|error| Problem::new(Code::InvalidJson, format!("the data is not JSON: {error}")))?;
        check_depth(text)?;
    }
    Ok(())
}

/// Many parsers recurse: what is nested too deep would be passed on only to break the subscribers.
fn check_depth(json: &str) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > Payload::JSON_DEPTH_MAX {
            let detail = "the data is nested deeper than 128 levels; flatten it, or send it as text";
            return Err(Problem::new(Code::InvalidJson, detail));
        }
    }
    Ok(())
}

/// An event as a publisher hands it in, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The data.
    pub payload: Payload,
    /// The event's name.
    pub name: Option<Box<str>>,
    /// The key that keyed state goes by.
    pub key: Option<Box<str>>,
    /// Makes a retry of the same publish harmless.
    pub idempotency_key: Option<Box<str>>,
}

impl NewEvent {
    /// The longest event name, in bytes.
    pub const NAME_BYTES_MAX: usize = 128;
    /// The longest key or idempotency key, in bytes.
    pub const KEY_BYTES_MAX: usize = 256;

    /// An event that is nothing but data.
    pub fn new(payload: Payload) -> Self {
        Self { payload, name: None, key: None, idempotency_key: None }
    }

    /// Sets name, key and idempotency key; an empty text means none.
    ///
    /// # Errors
    /// `invalid_parameter` for one that is too long, has control characters, or for a reserved name.
    pub fn with(
        mut self,
        name: Option<&str>,
        key: Option<&str>,
        idempotency_key: Option<&str>,
    ) -> Result<Self, Problem> {
        if name.is_some_and(|name| name.starts_with("tidewire.")) {
            let detail = "event names that start with \"tidewire.\" are the server's own; choose another";
            return Err(Problem::new(Code::InvalidParameter, detail));
        }
        self.name = checked(name, "an event name", Self::NAME_BYTES_MAX)?;
        self.key = checked(key, "a key", Self::KEY_BYTES_MAX)?;
        self.idempotency_key = checked(idempotency_key, "an idempotency key", Self::KEY_BYTES_MAX)?;
        if self.idempotency_key.as_ref().is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            let detail = "an idempotency key must be visible ASCII without spaces";
            return Err(Problem::new(Code::InvalidParameter, detail));
        }
        Ok(self)
    }
}

fn checked(text: Option<&str>, what: &str, bytes_max: usize) -> Result<Option<Box<str>>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let fault = if text.len() > bytes_max {
        format!("{what} has {} bytes; at most {bytes_max} are allowed", text.len())
    } else if text.chars().any(char::is_control) {
        format!("{what} must not have control characters")
    } else {
        return Ok(Some(text.into()));
    };
    Err(Problem::new(Code::InvalidParameter, fault))
}

/// An event in the log. Immutable; shared by all its readers together with its encoded frames.
#[derive(Debug)]
pub struct Event {
    /// Its id: the channel's epoch and the event's offset.
    pub id: EventId,
    /// When the log took it.
    pub time: Timestamp,
    /// The channel it belongs to.
    pub channel: ChannelName,
    /// Its name, if any.
    pub name: Option<Box<str>>,
    /// Its key, if any.
    pub key: Option<Box<str>>,
    /// Its data.
    pub payload: Payload,
    /// Its wire forms, each made when first asked for.
    pub frames: Frames,
}

impl Event {
    /// The event that a log makes of what a publisher handed in.
    pub fn new(id: EventId, time: Timestamp, channel: ChannelName, new: NewEvent) -> Self {
        let NewEvent { payload, name, key, .. } = new;
        Self { id, time, channel, name, key, payload, frames: Frames::default() }
    }

    /// What the event counts against limits in bytes: data, name, key and content type.
    pub fn size_bytes(&self) -> usize {
        let optional = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        self.payload.data.len()
            + optional(&self.name)
            + optional(&self.key)
            + self.payload.content_type.as_ref().map_or(0, |text| text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(content_type: &str, data: &'static [u8]) -> Result<Payload, Code> {
        Payload::declared(Some(content_type), Bytes::from_static(data)).map_err(|problem| problem.code)
    }

    #[test]
    fn the_content_type_decides() {
        for (content_type, kind, carried) in [
            ("application/json", Kind::Json, false),
            ("Application/JSON; charset=utf-8", Kind::Json, false),
            ("application/geo+json", Kind::Json, true),
            ("text/plain; charset=UTF-8", Kind::Text, false),
            ("text/html", Kind::Text, true),
            ("application/octet-stream", Kind::Bytes, false),
            ("image/png", Kind::Bytes, true),
        ] {
            let payload = declared(content_type, b"{}").expect(content_type);
            assert_eq!((payload.kind(), payload.content_type().is_some()), (kind, carried), "{content_type}");
        }
    }

    #[test]
    fn data_must_be_what_it_is_declared_to_be() {
        assert_eq!(declared("application/json", b"{"), Err(Code::InvalidJson));
        assert_eq!(declared("application/json", b""), Err(Code::InvalidJson));
        assert_eq!(declared("application/json", b"\"\xff\""), Err(Code::InvalidJson));
        assert_eq!(declared("text/plain", b"\xc3"), Err(Code::InvalidUtf8));
        assert_eq!(declared("text/plain; charset=latin1", b"x"), Err(Code::UnsupportedMediaType));
        let nested = |depth: usize| Bytes::from("[".repeat(depth) + "\"[\\\"[\"" + &"]".repeat(depth));
        assert!(Payload::declared(Some("application/json"), nested(128)).is_ok());
        assert!(Payload::declared(Some("application/json"), nested(129)).is_err());
        assert_eq!(Payload::sniffed(nested(129)).kind(), Kind::Text);
        for broken in ["json", "a/b/c", "/json", "text/", "text/pl\u{e4}in"] {
            assert_eq!(declared(broken, b"x"), Err(Code::InvalidParameter), "{broken}");
        }
    }

    #[test]
    fn undeclared_data_is_taken_for_what_it_is() {
        for (data, kind) in [
            (&b"{\"a\":1}"[..], Kind::Json),
            (b"42", Kind::Json),
            (b"hi", Kind::Text),
            (b"", Kind::Text),
            (b"\xff", Kind::Bytes),
        ] {
            assert_eq!(Payload::sniffed(Bytes::from_static(data)).kind(), kind, "{data:?}");
            let form = Payload::declared(Some("application/x-www-form-urlencoded"), Bytes::from_static(data));
            assert_eq!(form.map(|payload| payload.kind()), Ok(kind));
        }
    }

    #[test]
    fn names_and_keys_are_checked() {
        let with = |name, key, idempotency| {
            NewEvent::new(Payload::bytes(Bytes::new()))
                .with(name, key, idempotency)
                .map_err(|problem| problem.code)
        };
        assert!(with(Some("tick"), Some("k\u{e4}y"), Some("a-1")).is_ok());
        assert_eq!(with(Some(""), None, None).expect("no name").name, None);
        let long = "x".repeat(257);
        for (name, key, idempotency) in [
            (Some("a\nb"), None, None),
            (Some("tidewire.gap"), None, None),
            (Some(&long[..129]), None, None),
            (None, Some(long.as_str()), None),
            (None, None, Some("a b")),
            (None, None, Some("\u{e4}")),
        ] {
            assert_eq!(
                with(name, key, idempotency),
                Err(Code::InvalidParameter),
                "{name:?} {key:?} {idempotency:?}"
            );
        }
    }
}
