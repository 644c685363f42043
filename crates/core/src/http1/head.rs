//! Request heads: what a request is, how long its body is, whether the connection stays.
//! Strict where leniency lets two parsers disagree (RFC 9112 section 11.2). Must not know routes.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Status};

use crate::error::{Code, Problem};

/// Bounds on a request head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// The most bytes, from the request line to the empty line.
    pub head_bytes: usize,
    /// The most header fields; at most 64.
    pub fields: usize,
}

/// No head may have more fields than this.
pub(crate) const FIELDS_MAX: usize = 64;

/// Room for the header fields of one request, on the caller's stack.
pub type HeaderSpace<'b> = [MaybeUninit<Header<'b>>; FIELDS_MAX];

/// Fresh room for header fields.
pub fn header_space<'b>() -> HeaderSpace<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// The outcome of looking for a head.
#[derive(Debug)]
pub enum Parsed<'h, 'b> {
    /// More bytes are needed.
    Partial,
    /// A head, and how many bytes it takes up.
    Complete(Request<'h, 'b>, usize),
}

/// A request method; those that Tidewire has no use for are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Delete,
    Options,
    Other,
}

/// A version that Tidewire speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of the body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes; 0 without a body.
    Known(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// A request head, borrowed from the input.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// The method.
    pub method: Method,
    /// The path, still percent-encoded.
    pub path: &'b str,
    /// What follows the `?`, if there is one.
    pub query: Option<&'b str>,
    /// The version.
    pub version: Version,
    /// The body's framing.
    pub body: BodyLength,
    /// Whether the connection may serve another request.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    headers: &'h [Header<'b>],
}

const END: &[u8] = b"\r\n\r\n";
/// A head without an end is looked at in full only up to this size, so that a client that sends byte by
/// byte costs one search for the end per byte and not one parse.
const EAGER_BYTES: usize = 512;

/// Looks for a request head at the beginning of `buffer`.
///
/// # Errors
/// `headers_too_large` over the limits, `http_version` and `not_implemented` for what we do not speak,
/// `invalid_request` for what breaks the rules, each as soon as it shows. Then the connection must be
/// closed, as nobody knows where the next request begins.
pub fn parse_request<'h, 'b>(
    buffer: &'b [u8],
    limits: HeadLimits,
    space: &'h mut HeaderSpace<'b>,
) -> Result<Parsed<'h, 'b>, Problem> {
    // RFC 9112 section 2.2 asks servers to pass over an empty line before a request.
    let skipped = if buffer.starts_with(b"\r\n") { 2 } else { 0 };
    let buffer = &buffer[skipped..];
    let end = memchr::memmem::find(buffer, END).map(|at| at + END.len());
    if end.unwrap_or(buffer.len()) > limits.head_bytes {
        return Err(too_large(format!("the request head has more than {} bytes", limits.head_bytes)));
    }
    refuse_other_protocols(buffer)?;
    if end.is_none() && buffer.len() > EAGER_BYTES {
        return Ok(Parsed::Partial);
    }
    refuse_bare_line_feeds(&buffer[..end.unwrap_or(buffer.len())])?;
    let fields = limits.fields.min(FIELDS_MAX);
    let mut raw = httparse::Request::new(&mut []);
    let length = match raw.parse_with_uninit_headers(buffer, &mut space[..fields]) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(explained(error, fields)),
    };
    let request = checked(raw)?;
    Ok(Parsed::Complete(request, skipped + length))
}

fn checked<'h, 'b>(raw: httparse::Request<'h, 'b>) -> Result<Request<'h, 'b>, Problem> {
    let incomplete = || invalid("the request line is not METHOD TARGET HTTP/1.1");
    let (method, target) = (raw.method.ok_or_else(incomplete)?, raw.path.ok_or_else(incomplete)?);
    let version = if raw.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    };
    let (path, query) = split_target(target, method)?;
    let mut request = Request {
        method,
        path,
        query,
        version,
        body: BodyLength::Known(0),
        keep_alive: version == Version::Http11,
        expects_continue: false,
        headers: raw.headers,
    };
    request.check_host()?;
    request.body = request.body_length()?;
    if request.has_token("connection", "close") {
        request.keep_alive = false;
    } else if request.has_token("connection", "keep-alive") {
        request.keep_alive = true;
    }
    if let Some(expectation) = request.header("expect")? {
        if !expectation.eq_ignore_ascii_case("100-continue") {
            return Err(invalid("the only expectation that can be met is 100-continue"));
        }
        request.expects_continue = version == Version::Http11;
    }
    Ok(request)
}

/// The path and query of a target in origin form, absolute form, or `*` (RFC 9112 section 3.2).
fn split_target(target: &str, method: Method) -> Result<(&str, Option<&str>), Problem> {
    if target.contains('#') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("the request target must be percent-encoded ASCII without a fragment"));
    }
    let (origin, is_absolute) = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            let rest = &target[7..];
            let (host, origin) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if host.is_empty() || !is_host(host.as_bytes()) {
                return Err(invalid("a request target that begins with http:// must go on with a host"));
            }
            (origin, true)
        }
        _ => (target, false),
    };
    let (path, query) = match origin.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (origin, None),
    };
    let path = if is_absolute && path.is_empty() { "/" } else { path };
    if !(path.starts_with('/') || (origin == "*" && method == Method::Options)) {
        return Err(invalid("the request target must begin with /"));
    }
    Ok((path, query))
}

/// Whether all of this may stand in a host with its port (RFC 3986 section 3.2.2). It may be empty.
fn is_host(text: &[u8]) -> bool {
    let extra = b"-._~%!$&'()*+,;=:[]";
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(byte))
}

impl<'b> Request<'_, 'b> {
    /// The value of a header that may be given once.
    ///
    /// # Errors
    /// `invalid_parameter` if it is given more than once with different values, or is not UTF-8.
    pub fn header(&self, name: &str) -> Result<Option<&'b str>, Problem> {
        let mut values = self.values(name);
        let Some(first) = values.next() else { return Ok(None) };
        if values.any(|other| other != first) {
            let detail = format!("the header {name} is given more than once");
            return Err(Problem::new(Code::InvalidParameter, detail));
        }
        let text = std::str::from_utf8(first)
            .map_err(|_| Problem::new(Code::InvalidParameter, format!("the header {name} is not UTF-8")))?;
        Ok(Some(text.trim()))
    }

    /// All values of a header, in order; those that are not UTF-8 are left out.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.values(name).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a comma-separated header names a token, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.headers(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// Whether `Accept` names `text/event-stream`, and not to refuse it.
    pub fn accepts_event_stream(&self) -> bool {
        self.headers("accept").flat_map(|value| value.split(',')).any(|item| {
            let mut parts = item.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"));
            is_it && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// RFC 9112 section 3.2.
    fn check_host(&self) -> Result<(), Problem> {
        let mut hosts = self.values("host");
        let host = hosts.next();
        if hosts.next().is_some() || (host.is_none() && self.version == Version::Http11) {
            return Err(invalid("an HTTP/1.1 request needs exactly one Host header"));
        }
        if host.is_none_or(is_host) {
            Ok(())
        } else {
            Err(invalid("the Host header must be a host, or a host and a port"))
        }
    }

    /// RFC 9112 section 6.3, without its leniencies.
    fn body_length(&self) -> Result<BodyLength, Problem> {
        let mut lengths = self.values("content-length");
        let mut codings = self.values("transfer-encoding");
        match (lengths.next(), codings.next()) {
            (None, None) => Ok(BodyLength::Known(0)),
            (Some(_), Some(_)) => {
                Err(invalid("a request has either Content-Length or Transfer-Encoding, not both"))
            }
            (Some(length), None) => {
                let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
                match number {
                    Some(number) if digits && lengths.next().is_none() => Ok(BodyLength::Known(number)),
                    _ => Err(invalid("Content-Length must be one decimal number")),
                }
            }
            (None, Some(_)) if self.version == Version::Http10 => {
                Err(invalid("HTTP/1.0 has no Transfer-Encoding; send Content-Length"))
            }
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() => {
                Ok(BodyLength::Chunked)
            }
            (None, Some(_)) => {
                Err(Problem::new(Code::NotImplemented, "the only transfer coding spoken here is chunked"))
            }
        }
    }
}

/// Names what is no HTTP/1 at all, since a parser's complaint would help nobody.
fn refuse_other_protocols(buffer: &[u8]) -> Result<(), Problem> {
    if buffer.starts_with(b"PRI * HTTP/2") {
        return Err(Problem::new(Code::HttpVersion, "this port speaks HTTP/1.1, not HTTP/2"));
    }
    if buffer.starts_with(&[0x16, 0x03]) {
        return Err(invalid("this port speaks plain HTTP, not TLS; use http:// or ws://"));
    }
    let Some(line_end) = memchr::memmem::find(buffer, b"\r\n") else { return Ok(()) };
    let line = &buffer[..line_end];
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let well_known = matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
    let words = line.split(|byte| *byte == b' ').count();
    if !well_known && (words == 2 || (words == 3 && version.starts_with(b"HTTP/"))) {
        return Err(Problem::new(Code::HttpVersion, "the request line must end with HTTP/1.1 or HTTP/1.0"));
    }
    Ok(())
}

/// The library takes a bare LF for a line end; a proxy in front might not.
fn refuse_bare_line_feeds(head: &[u8]) -> Result<(), Problem> {
    let bare = memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r');
    if bare { Err(invalid("lines must end with CR LF")) } else { Ok(()) }
}

fn explained(error: Error, fields: usize) -> Problem {
    match error {
        Error::TooManyHeaders => too_large(format!("the request has more than {fields} header fields")),
        Error::Version => {
            Problem::new(Code::HttpVersion, "the request line must end with HTTP/1.1 or HTTP/1.0")
        }
        Error::HeaderName | Error::HeaderValue => invalid("a header field is malformed"),
        Error::NewLine => invalid("lines must end with CR LF"),
        Error::Token | Error::Status => invalid("the request line is not METHOD TARGET HTTP/1.1"),
    }
}

fn invalid(detail: &'static str) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

fn too_large(detail: String) -> Problem {
    Problem::new(Code::HeadersTooLarge, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 1000, fields: 8 };

    fn outcome(bytes: &[u8]) -> Result<Option<(String, BodyLength, bool, usize)>, Code> {
        let mut space = header_space();
        match parse_request(bytes, LIMITS, &mut space) {
            Ok(Parsed::Partial) => Ok(None),
            Ok(Parsed::Complete(request, length)) => {
                Ok(Some((request.path.to_owned(), request.body, request.keep_alive, length)))
            }
            Err(problem) => Err(problem.code),
        }
    }

    fn with(fields: &str) -> Result<BodyLength, Code> {
        let head = format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        outcome(head.as_bytes()).map(|found| found.expect("complete").1)
    }

    #[test]
    fn bodies_have_one_length_or_none() {
        assert_eq!(with("X: y"), Ok(BodyLength::Known(0)));
        assert_eq!(with("Content-Length: 42"), Ok(BodyLength::Known(42)));
        assert_eq!(with("transfer-encoding: Chunked"), Ok(BodyLength::Chunked));
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1 1",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding : chunked",
            "X: a\r\n folded",
            "X: a\nContent-Length: 1",
            "X: a\rb",
            "Host: b",
            "Expect: a-miracle",
            ": empty",
            "no colon",
        ] {
            assert_eq!(with(fields), Err(Code::InvalidRequest), "{fields:?}");
        }
        for fields in [
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: identity",
        ] {
            assert!(with(fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn request_lines() {
        for (line, expected) in [
            ("GET / HTTP/1.1", Ok("/")),
            ("GET /a%20b?c=d HTTP/1.0", Ok("/a%20b")),
            ("GET http://host/p?q HTTP/1.1", Ok("/p")),
            ("GET http://host HTTP/1.1", Ok("/")),
            ("GET http://host?q=/p HTTP/1.1", Ok("/")),
            ("GET http:///p HTTP/1.1", Err(Code::InvalidRequest)),
            ("GET http://?q=/p HTTP/1.1", Err(Code::InvalidRequest)),
            ("GET http://user@host/p HTTP/1.1", Err(Code::InvalidRequest)),
            ("OPTIONS * HTTP/1.1", Ok("*")),
            ("GET * HTTP/1.1", Err(Code::InvalidRequest)),
            ("GET a HTTP/1.1", Err(Code::InvalidRequest)),
            ("GET /#x HTTP/1.1", Err(Code::InvalidRequest)),
            ("GET /\u{e4} HTTP/1.1", Err(Code::InvalidRequest)),
            ("GE(T / HTTP/1.1", Err(Code::InvalidRequest)),
            ("GET /", Err(Code::HttpVersion)),
            ("GET / HTTP/2.0", Err(Code::HttpVersion)),
            ("GET / HTTP/1.2", Err(Code::HttpVersion)),
            ("PRI * HTTP/2.0", Err(Code::HttpVersion)),
        ] {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            let found = outcome(head.as_bytes()).map(|found| found.expect("complete").0);
            assert_eq!(found, expected.map(str::to_owned), "{line:?}");
        }
    }

    #[test]
    fn what_cannot_become_a_request_is_refused_at_once() {
        for bytes in [&b"\x16\x03\x01"[..], b"\0", b"{\"a\"", b"GET /\n", b"\xff\xfe", b"PRI * HTTP/2"] {
            assert!(outcome(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(outcome(b"GET / HTTP/1.1\r\nA: b"), Ok(None));
        assert_eq!(outcome(&[b'A'; 1001]), Err(Code::HeadersTooLarge));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(9));
        assert_eq!(outcome(many.as_bytes()), Err(Code::HeadersTooLarge));
    }

    #[test]
    fn the_connection_stays_by_version_and_header() {
        for (version, header, stays) in [
            ("1.1", "", true),
            ("1.0", "", false),
            ("1.1", "Connection: Close\r\n", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: x, close\r\n", false),
        ] {
            let head = format!("\r\nGET / HTTP/{version}\r\nHost: a\r\n{header}\r\nrest");
            let (_, _, keep_alive, length) = outcome(head.as_bytes()).expect("valid").expect("complete");
            assert_eq!((keep_alive, length), (stays, head.len() - 4), "{version} {header}");
        }
    }

    #[test]
    fn event_streams_are_asked_for_by_name() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("text/event-stream;q=0", false),
            ("*/*", false),
            ("text/html", false),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
            let mut space = header_space();
            let Ok(Parsed::Complete(request, _)) = parse_request(head.as_bytes(), LIMITS, &mut space) else {
                panic!("{accept}")
            };
            assert_eq!(request.accepts_event_stream(), expected, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_a_prefix_never_says_more(
            bytes in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), any::<u8>()], 0..300),
        ) {
            let head = [b"GET /a HTTP/1.1\r\nHost: a\r\n", &bytes[..], b"\r\n\r\n"].concat();
            for input in [&bytes[..], &head[..]] {
                if let Ok(Some((.., length))) = outcome(input) {
                    prop_assert!(length <= input.len());
                    prop_assert!(matches!(outcome(&input[..length - 1]), Ok(None)));
                    prop_assert!(outcome(&input[..length]).is_ok());
                }
            }
        }
    }
}
