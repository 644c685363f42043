//! The head of an HTTP/2 request as HTTP/1.1 says it, and the head of the answer back (RFC 9113 section 8, RFC 8441).
//! Strict in both directions: what could be read in two ways is refused. Must not know streams.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};

/// The key of every handshake that is made here: over HTTP/2 nobody looks at what becomes of it.
const WEBSOCKET_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
/// The most fields that our own answers have.
const FIELDS_MAX: usize = 64;

/// How what follows a request's head is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing follows, or as much as the head says.
    AsSaid,
    /// As chunks.
    Chunked,
    /// As it is, in both directions, until the end.
    Tunnel,
}

/// What makes the head of one request.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) head: Vec<u8>,
    pub(super) framing: Framing,
}

/// What follows the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Known(u64),
    /// Whatever comes until the end.
    Open,
}

/// A request as text. `is_whole` says that no body follows. The error says what is wrong with it.
pub(super) fn request(request: &Request<()>, is_whole: bool) -> Result<Translated, &'static str> {
    let websocket = request.extensions().get::<h2::ext::Protocol>();
    let is_connect = request.method() == Method::CONNECT;
    let is_tunnel = match websocket.map(h2::ext::Protocol::as_str) {
        Some("websocket") if is_connect => true,
        None if !is_connect => false,
        _ => return Err("CONNECT is for WebSockets only (RFC 8441), with :protocol websocket"),
    };
    let host = host(request)?;
    let target = request.uri().path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
    let method = if is_tunnel { "GET" } else { request.method().as_str() };
    let mut head = Vec::with_capacity(512);
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| head.extend_from_slice(part));
    put(&[method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\nHost: ", host.as_bytes(), b"\r\n"]);
    for (name, value) in request.headers() {
        let is_of_handshake = is_tunnel && name == "sec-websocket-key";
        if name == HOST || name == COOKIE || name == EXPECT || is_of_handshake {
            continue;
        }
        put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    // A browser sends cookies in as many fields as it likes (RFC 9113 section 8.2.3).
    for (number, cookie) in request.headers().get_all(COOKIE).iter().enumerate() {
        put(&[if number == 0 { b"Cookie: " } else { b"; " }, cookie.as_bytes()]);
    }
    if request.headers().contains_key(COOKIE) {
        put(&[b"\r\n"]);
    }
    let is_chunked = !is_whole && !is_tunnel && !request.headers().contains_key(CONTENT_LENGTH);
    if is_tunnel {
        put(&[
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ",
            WEBSOCKET_KEY.as_bytes(),
            b"\r\n",
        ]);
    } else {
        put(&[b"Connection: close\r\n"]);
    }
    if is_chunked {
        put(&[b"Transfer-Encoding: chunked\r\n"]);
    }
    put(&[b"\r\n"]);
    let framing = match (is_tunnel, is_chunked) {
        (true, _) => Framing::Tunnel,
        (false, true) => Framing::Chunked,
        (false, false) => Framing::AsSaid,
    };
    Ok(Translated { head, framing })
}

/// Where the request goes: `:authority`, or `Host` if that is all there is.
fn host(request: &Request<()>) -> Result<&str, &'static str> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = fields.next().map(HeaderValue::to_str).transpose().map_err(|_| "Host is not readable")?;
    if fields.next().is_some() {
        return Err("a request has one Host");
    }
    match (request.uri().authority().map(http::uri::Authority::as_str), field) {
        (Some(authority), Some(host)) if authority != host => Err(":authority and Host differ"),
        (Some(authority), _) => Ok(authority),
        (None, Some(host)) => Ok(host),
        (None, None) => Err("a request has :authority or Host"),
    }
}

/// An answer's head out of its text. The error says that it is not one of ours.
pub(super) fn answer(head: &[u8], is_bodiless: bool) -> Result<(Response<()>, Body), &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let wrong = "an answer's head is not readable";
    let is_complete = parsed.parse(head).is_ok_and(|status| status.is_complete());
    let status = parsed.code.filter(|_| is_complete).ok_or(wrong)?;
    // Over HTTP/2 a handshake ends with 200, and there is nothing to switch to.
    let status = if status == 101 { 200 } else { status };
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(status).map_err(|_| wrong)?;
    let mut body = Body::Open;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| wrong)?;
        if ["connection", "upgrade", "sec-websocket-accept", "transfer-encoding"].contains(&name.as_str()) {
            continue;
        }
        if name == CONTENT_LENGTH {
            let length = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
            body = Body::Known(length.ok_or(wrong)?);
        }
        answer.headers_mut().append(name, HeaderValue::from_bytes(field.value).map_err(|_| wrong)?);
    }
    if is_bodiless || [204, 304].contains(&status) {
        body = Body::Known(0);
    }
    Ok((answer, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewire_core::http1::{HeadLimits, Parsed, header_space, parse_request};

    use super::*;

    fn of(request: Request<()>, is_whole: bool) -> Result<(String, Framing), &'static str> {
        let translated = super::request(&request, is_whole)?;
        Ok((String::from_utf8(translated.head).expect("text"), translated.framing))
    }

    fn builder(method: &str, uri: &str) -> http::request::Builder {
        Request::builder().method(method).uri(uri)
    }

    #[test]
    fn requests() {
        let get = builder("GET", "https://a.example/v1/events?channel=a")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        let (head, framing) = of(get.body(()).expect("right"), true).expect("right");
        assert_eq!(framing, Framing::AsSaid);
        assert_eq!(
            head,
            "GET /v1/events?channel=a HTTP/1.1\r\nHost: a.example\r\nCookie: a=1; b=2\r\nConnection: close\r\n\r\n"
        );
        let post =
            builder("POST", "https://a/x").header("content-length", "3").header("expect", "100-continue");
        let (head, framing) = of(post.body(()).expect("right"), false).expect("right");
        assert!(
            framing == Framing::AsSaid && head.contains("content-length: 3\r\n") && !head.contains("expect")
        );
        let (head, framing) =
            of(builder("POST", "https://a/x").body(()).expect("right"), false).expect("right");
        assert!(framing == Framing::Chunked && head.contains("Transfer-Encoding: chunked\r\n"));
        let mut socket = builder("CONNECT", "https://a/v1/ws")
            .header("sec-websocket-version", "13")
            .body(())
            .expect("right");
        assert!(of(socket, false).is_err(), "a proxy is what we are not");
        socket = builder("CONNECT", "https://a/v1/ws")
            .header("sec-websocket-version", "13")
            .body(())
            .expect("right");
        socket.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (head, framing) = of(socket, false).expect("right");
        assert!(framing == Framing::Tunnel && head.starts_with("GET /v1/ws HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("Upgrade: websocket\r\n") && head.contains("sec-websocket-version: 13\r\n"));
        let twice = builder("GET", "https://a/x").header("host", "b").body(()).expect("right");
        assert_eq!(of(twice, true), Err(":authority and Host differ"));
        assert!(of(builder("GET", "/x").body(()).expect("right"), true).is_err());
    }

    #[test]
    fn answers() {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: x\r\n\r\n";
        let (response, body) = answer(head, false).expect("right");
        assert_eq!((response.status().as_u16(), body, response.headers().len()), (200, Body::Open, 1));
        let head = b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
        assert_eq!(answer(head, false).expect("right").1, Body::Known(3));
        assert_eq!(answer(head, true).expect("right").1, Body::Known(0));
        assert_eq!(answer(b"HTTP/1.1 304 Not Modified\r\n\r\n", false).expect("right").1, Body::Known(0));
        assert!(answer(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", false).is_err());
        assert!(answer(b"nothing", false).is_err());
    }

    proptest! {
        /// Whatever a client sends, our parser sees one request: the same method, target and fields.
        #[test]
        fn one_request_stays_one(
            method in "[A-Z]{1,8}",
            path in "/[ -~]{0,30}",
            name in "[a-z0-9!#$%&'*+.^_`|~-]{1,12}",
            value in prop::collection::vec(any::<u8>(), 0..30),
            is_whole: bool,
        ) {
            let uri = http::Uri::builder().scheme("https").authority("a").path_and_query(path.as_str()).build();
            let header = HeaderValue::from_bytes(&value);
            let (Ok(uri), Ok(header)) = (uri, header) else { return Ok(()) };
            let reserved = ["content-length", "transfer-encoding", "connection", "host", "cookie", "expect", "upgrade"];
            prop_assume!(!reserved.contains(&name.as_str()) && method != "CONNECT");
            let made = Request::builder().method(method.as_str()).uri(uri.clone()).header(name.as_str(), header).body(());
            let Ok(made) = made else { return Ok(()) };
            let Ok(translated) = super::request(&made, is_whole) else { return Ok(()) };
            let mut space = header_space();
            let limits = HeadLimits { head_bytes: 16_384, fields: 100 };
            match parse_request(&translated.head, limits, &mut space) {
                Ok(Parsed::Complete(seen, length)) => {
                    prop_assert_eq!(length, translated.head.len());
                    let target = uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
                    prop_assert_eq!(seen.path, target.split('?').next().unwrap_or_default());
                }
                Ok(Parsed::Partial) => prop_assert!(false, "a part of a request: {:?}", translated.head.escape_ascii().to_string()),
                // Our parser is stricter than the library.
                Err(_) => {}
            }
        }
    }
}
