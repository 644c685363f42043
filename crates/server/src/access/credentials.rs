//! Where in a request somebody shows who they are. Must not know whether it is true.

use tidewire_core::http1::Request;
use tidewire_core::{Code, Problem};

use super::origin::Origin;

/// What a bearer token follows among the WebSocket subprotocols, the only thing that a browser's socket can say.
const SUBPROTOCOL_PREFIX: &str = "bearer.";
/// What people put in URLs, where it ends up in logs.
const TOKENS_IN_URLS: [&str; 6] = ["token", "access_token", "auth_token", "id_token", "jwt", "authorization"];

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credentials<'r> {
    /// Nothing.
    None,
    /// A token, or the admin key.
    Bearer(&'r str),
    /// A token in a cookie, which comes along whoever makes the browser send the request.
    Cookie(&'r str),
    /// A ticket.
    Ticket(&'r str),
}

impl<'r> Credentials<'r> {
    /// Finds what a request shows. What was sent on purpose counts before a cookie.
    ///
    /// # Errors
    /// `invalid_parameter` for several at once or a token in the URL, `unauthenticated` for what cannot be read.
    pub(crate) fn find(
        request: &Request<'_, 'r>,
        cookie: Option<&str>,
        origin: &Origin,
    ) -> Result<Self, Problem> {
        let ticket = in_query(request.query)?;
        let sent = [
            in_header(request)?.map(Self::Bearer),
            in_subprotocols(request)?.map(Self::Bearer),
            ticket.map(Self::Ticket),
        ];
        let mut sent = sent.into_iter().flatten();
        match (sent.next(), sent.next(), cookie) {
            (Some(_), Some(_), _) => {
                let detail = "send one of Authorization, a bearer. subprotocol and a ticket, not several";
                Err(Problem::new(Code::InvalidParameter, detail))
            }
            (Some(only), None, _) => Ok(only),
            (None, _, Some(name)) => match in_cookie(request, name)? {
                Some(_) if !origin.takes_cookies(request) => {
                    let detail = "cookies are not taken from this page or program: name the page in origins, \
                                  or send the token in Authorization";
                    Err(Problem::new(Code::OriginNotAllowed, detail))
                }
                found => Ok(found.map_or(Self::None, Self::Cookie)),
            },
            (None, _, None) => Ok(Self::None),
        }
    }
}

fn in_header<'r>(request: &Request<'_, 'r>) -> Result<Option<&'r str>, Problem> {
    let mut values = request.headers("authorization");
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match (token, values.next()) {
        (Some((_, token)), None) if !token.trim().is_empty() => Ok(Some(token.trim())),
        (_, Some(_)) => Err(unreadable("a request has one Authorization header at most")),
        _ => Err(unreadable("Authorization must be: Bearer, a space, and the token")),
    }
}

fn in_subprotocols<'r>(request: &Request<'_, 'r>) -> Result<Option<&'r str>, Problem> {
    let items = request.headers("sec-websocket-protocol").flat_map(|value| value.split(','));
    let mut tokens = items.filter_map(|item| item.trim().strip_prefix(SUBPROTOCOL_PREFIX));
    match (tokens.next(), tokens.next()) {
        (_, Some(_)) => Err(unreadable("one subprotocol at most may be a bearer. with a token")),
        (token, None) => Ok(token),
    }
}

fn in_cookie<'r>(request: &Request<'_, 'r>, name: &str) -> Result<Option<&'r str>, Problem> {
    let pairs = request.headers("cookie").flat_map(|value| value.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(key, _)| *key == name);
    match (values.next(), values.next()) {
        // One of them may have been set by another site of the same domain.
        (Some(_), Some(_)) => Err(unreadable("the cookie with the token is there twice")),
        (found, _) => Ok(found.map(|(_, value)| value.trim_matches('"'))),
    }
}

fn in_query(query: Option<&str>) -> Result<Option<&str>, Problem> {
    let mut ticket = None;
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if TOKENS_IN_URLS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            let detail = "a token in a URL ends up in logs; POST /v1/tickets with the token in Authorization, \
                          and put the ticket into the URL";
            return Err(Problem::new(Code::InvalidParameter, detail));
        }
        if name == "ticket" && ticket.replace(value).is_some() {
            return Err(Problem::new(Code::InvalidParameter, "the query parameter ticket is given twice"));
        }
    }
    Ok(ticket)
}

fn unreadable(detail: &'static str) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewire_core::http1::{HeadLimits, Parsed, header_space, parse_request};

    fn found(target: &str, fields: &str, origin: &Origin) -> Result<String, Code> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        let mut space = header_space();
        let limits = HeadLimits { head_bytes: 4096, fields: 16 };
        let Ok(Parsed::Complete(request, _)) = parse_request(head.as_bytes(), limits, &mut space) else {
            panic!("{head:?}")
        };
        let found = Credentials::find(&request, Some("sid"), origin).map_err(|problem| problem.code)?;
        Ok(format!("{found:?}"))
    }

    #[test]
    fn there_are_four_places() {
        for (target, fields, expected) in [
            ("/", "X: y", "None"),
            ("/", "Authorization: Bearer a.b.c", "Bearer(\"a.b.c\")"),
            ("/", "authorization: bearer  abc", "Bearer(\"abc\")"),
            ("/", "Sec-WebSocket-Protocol: tidewire.v1, bearer.a.b.c", "Bearer(\"a.b.c\")"),
            ("/?since=x&ticket=abc", "X: y", "Ticket(\"abc\")"),
            ("/", "Cookie: a=b; sid=a.b.c; c=d", "Cookie(\"a.b.c\")"),
            ("/", "Cookie: sid=\"abc\"", "Cookie(\"abc\")"),
            ("/", "Cookie: xsid=abc; sid2=abc", "None"),
            ("/", "Cookie: sid=abc\r\nAuthorization: Bearer x", "Bearer(\"x\")"),
        ] {
            assert_eq!(found(target, fields, &Origin::Own).as_deref(), Ok(expected), "{target} {fields}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        for (target, fields, code) in [
            ("/", "Authorization: Basic abc", Code::Unauthenticated),
            ("/", "Authorization: Bearer", Code::Unauthenticated),
            ("/", "Authorization: Bearer a\r\nAuthorization: Bearer a", Code::Unauthenticated),
            ("/", "Sec-WebSocket-Protocol: bearer.a, bearer.b", Code::Unauthenticated),
            ("/", "Cookie: sid=a; sid=b", Code::Unauthenticated),
            ("/?ticket=a", "Authorization: Bearer b", Code::InvalidParameter),
            ("/?ticket=a&ticket=b", "X: y", Code::InvalidParameter),
            ("/?token=a", "X: y", Code::InvalidParameter),
            ("/?Access_Token=a", "X: y", Code::InvalidParameter),
        ] {
            assert_eq!(found(target, fields, &Origin::Own), Err(code), "{target} {fields}");
        }
    }

    #[test]
    fn cookies_come_from_pages_that_may() {
        let cookie = "Cookie: sid=abc";
        assert_eq!(found("/", cookie, &Origin::All), Err(Code::OriginNotAllowed));
        assert!(found("/", cookie, &Origin::Listed("https://a.net".into())).is_ok());
        assert_eq!(found("/", "Cookie: other=1", &Origin::All).as_deref(), Ok("None"));
    }
}
