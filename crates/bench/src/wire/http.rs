//! HTTP/1.1 as the generator needs it: heads checked, whole responses cut, requests written.
//! Refuses chunked bodies where it waits for whole responses, as no target answers so.

use anyhow::{Context, Result, bail};

const HEADERS_MAX: usize = 32;

/// The head of a response, as far as anyone here asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length: usize,
    pub(crate) content_length: Option<usize>,
    pub(crate) chunked: bool,
    pub(crate) accept: Option<String>,
    pub(crate) extensions: Option<String>,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// Reads a response head; `None` while it is incomplete.
pub(crate) fn head(input: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(input).context("not an HTTP response")? else {
        return Ok(None);
    };
    let mut head = Head { status: parsed.code.unwrap_or(0), length, ..Head::default() };
    for header in parsed.headers.iter() {
        let value = || String::from_utf8_lossy(header.value).trim().to_owned();
        if header.name.eq_ignore_ascii_case("content-length") {
            // Without an owned copy: this runs for every acknowledged publish.
            let digits = std::str::from_utf8(header.value)?.trim();
            head.content_length = Some(digits.parse().context("Content-Length is no number")?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value().eq_ignore_ascii_case("chunked");
        } else if header.name.eq_ignore_ascii_case("sec-websocket-accept") {
            head.accept = Some(value());
        } else if header.name.eq_ignore_ascii_case("sec-websocket-extensions") {
            head.extensions = Some(value());
        }
    }
    Ok(Some(head))
}

/// Cuts one whole response off `input`; `None` while it is incomplete.
pub(crate) fn cut_response(input: &[u8]) -> Result<Option<(Response<'_>, usize)>> {
    let Some(head) = head(input)? else { return Ok(None) };
    if head.chunked {
        bail!("the server answers in chunks where a length was expected");
    }
    let body_bytes = match (head.status, head.content_length) {
        (100..200 | 204 | 304, _) => 0,
        (_, Some(length)) => length,
        (status, None) => bail!("a response of status {status} has no Content-Length"),
    };
    let end = head.length + body_bytes;
    Ok(input.get(head.length..end).map(|body| (Response { status: head.status, body }, end)))
}

/// A `GET` with extra header lines (each ending in CRLF).
pub(crate) fn get(host: &str, path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").into_bytes()
}

/// The request that opens a WebSocket.
pub(crate) fn upgrade(host: &str, path: &str, deflate: bool) -> Vec<u8> {
    let extensions = if deflate {
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
    } else {
        ""
    };
    let key = super::websocket::KEY;
    get(
        host,
        path,
        &format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{extensions}"
        ),
    )
}

/// Appends a `POST` of JSON with extra header lines (each ending in CRLF).
pub(crate) fn write_post(out: &mut Vec<u8>, host: &str, path: &str, headers: &str, body: &[u8]) {
    use std::io::Write;
    // Writing into a Vec cannot fail.
    let _ = write!(
        out,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelined_responses_are_cut_one_by_one() {
        let wire = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab";
        let (first, used) = cut_response(wire).expect("valid").expect("complete");
        assert_eq!((first.status, first.body), (201, &b"{}"[..]));
        let rest = &wire[used..];
        let (second, used) = cut_response(rest).expect("valid").expect("complete");
        assert_eq!((second.status, second.body), (204, &b""[..]));
        assert!(cut_response(&rest[used..]).expect("valid").is_none());
    }

    #[test]
    fn a_handshake_head_gives_what_is_checked() {
        let wire = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: abc\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\nrest";
        let head = head(wire).expect("valid").expect("complete");
        assert_eq!(head.status, 101);
        assert_eq!(head.accept.as_deref(), Some("abc"));
        assert_eq!(head.extensions.as_deref(), Some("permessage-deflate"));
        assert_eq!(&wire[head.length..], b"rest");
    }

    #[test]
    fn chunked_and_endless_answers_are_refused() {
        assert!(cut_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(cut_response(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
