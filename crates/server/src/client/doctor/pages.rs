//! Probe: what a browser asks on behalf of a page: origins, the headers of CORS, cookies.
//! Must not know events.

use super::faults::Fault;
use super::line::{Answer, Head, Request};
use super::record::Way;
use super::socket::{Refusal, handshake};
use super::visit::{Visit, describe, problem};

const ALLOW_ORIGIN: &str = "access-control-allow-origin";

/// A page that nobody can have named.
fn stranger() -> String {
    format!("https://doctor-{:016x}.invalid", fastrand::u64(..))
}

/// Origins: is a page that may come let in, told so, and one that may not kept out?
pub(super) fn examine_origins(visit: &mut Visit, page: Option<&str>) {
    let arrives = examine_stranger(visit);
    let Some(page) = page else {
        return visit.record.skip("whether your pages may use the server", "name one with --origin");
    };
    let fields = format!("Origin: {page}\r\n");
    let Some(answer) = get(visit, &fields) else {
        return visit.record.skip("whether your pages may use the server", "there was no answer");
    };
    if is_refusal(&answer, "origin_not_allowed") || (answer.head.status == 403 && problem(&answer).is_none())
    {
        let observed = format!("a request with Origin: {page} was refused ({})", describe(&answer));
        visit.record.find(Fault::OriginRefused, Way::All, observed);
    } else if arrives {
        examine_words(visit, page, &answer.head, "an answer");
        examine_preflight(visit, page);
    }
    if let Err(Refusal::Answer(answer)) = handshake(visit, &fields, false)
        && is_refusal(&answer, "origin_not_allowed")
    {
        let observed = format!("a handshake with Origin: {page} was refused ({})", describe(&answer));
        visit.record.find(Fault::OriginRefused, Way::WebSocket, observed);
    }
}

/// Asks as a page that nobody knows. False if `Origin` does not arrive.
fn examine_stranger(visit: &mut Visit) -> bool {
    let origin = stranger();
    let Some(answer) = get(visit, &format!("Origin: {origin}\r\n")) else { return true };
    if is_refusal(&answer, "origin_not_allowed") {
        return true;
    }
    if answer.head.status != 200 {
        visit.record.skip("whether pages that may not are kept out", describe(&answer));
        return true;
    }
    let allowed: Vec<&str> = answer.head.fields(ALLOW_ORIGIN).collect();
    let (fault, observed, arrives) = match allowed.as_slice() {
        ["*"] => return true,
        [] if answer.head.field("access-control-expose-headers").is_some() => {
            // The server lets in all pages, and says so; a part of what it says has arrived.
            let observed = format!(
                "a request with Origin: {origin} was served, and the answer has Access-Control-Expose-Headers and no \
                 Access-Control-Allow-Origin"
            );
            (Fault::CorsMissing, observed, false)
        }
        [] => {
            let observed = format!(
                "a request with Origin: {origin}, which nobody can have allowed, was served with status 200 and \
                 without a word on pages"
            );
            (Fault::OriginLost, observed, false)
        }
        _ => {
            let observed = format!(
                "a request with Origin: {origin}, which nobody can have allowed, was answered with \
                 Access-Control-Allow-Origin: {}",
                allowed.join(" and ")
            );
            (Fault::CorsWrong, observed, false)
        }
    };
    visit.record.find(fault, Way::All, observed);
    arrives
}

/// Does the head let the page read the answer?
fn examine_words(visit: &mut Visit, page: &str, head: &Head, what: &str) -> bool {
    let allowed: Vec<&str> = head.fields(ALLOW_ORIGIN).collect();
    let observed = match allowed.as_slice() {
        ["*"] => return true,
        [one] if *one == page => {
            if head.field("access-control-allow-credentials") == Some("true") {
                return true;
            }
            let observed = format!("{what} to {page} lacks Access-Control-Allow-Credentials: true");
            visit.record.find(Fault::CorsMissing, Way::All, observed);
            return false;
        }
        [] => {
            let observed =
                format!("{what} to {page} (status {}) has no Access-Control-Allow-Origin", head.status);
            visit.record.find(Fault::CorsMissing, Way::All, observed);
            return false;
        }
        several => several.join(" and "),
    };
    let observed = format!(
        "{what} to {page} has Access-Control-Allow-Origin: {observed}; a browser takes only {page}, or * alone"
    );
    visit.record.find(Fault::CorsWrong, Way::All, observed);
    false
}

/// What a browser asks before a page may publish.
fn examine_preflight(visit: &mut Visit, page: &str) {
    let fields = format!(
        "Origin: {page}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n"
    );
    let path = visit.events("");
    let request = Request { method: "OPTIONS", path: &path, fields: &fields, body: None, anonymous: true };
    let answer = match visit.exchange(&request) {
        Ok(answer) => answer,
        Err(trouble) => return visit.record.skip("preflights", trouble.to_string()),
    };
    if !(200..300).contains(&answer.head.status) {
        let observed = format!("the preflight of a page of {page} was answered with {}", describe(&answer));
        return visit.record.find(Fault::CorsMissing, Way::All, observed);
    }
    if !examine_words(visit, page, &answer.head, "the preflight's answer") {
        return;
    }
    for (field, wanted) in [
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization"),
        ("access-control-allow-headers", "content-type"),
    ] {
        if !answer.head.names(field, wanted) {
            let observed = format!("the preflight's answer to {page} has no {wanted} in {field}");
            visit.record.find(Fault::CorsMissing, Way::All, observed);
        }
    }
}

/// Cookies: a request with the cookie, good or not, must not be answered as one without.
pub(super) fn examine_cookie(visit: &mut Visit, name: &str, page: Option<&str>) {
    let origin = page.map(|page| format!("Origin: {page}\r\n")).unwrap_or_default();
    let wrong = format!("{origin}Cookie: {name}=not-a-token\r\n");
    let good = visit.endpoint.token().map(|token| format!("{origin}Cookie: {name}={token}\r\n"));
    let mut ask =
        |fields: &str| anonymous(visit, fields).map(|answer| (answer.head.status, describe(&answer)));
    let (without, with_wrong) = (ask(&origin), ask(&wrong));
    let with_good = good.as_deref().map(&mut ask);
    let (Some(without), Some(with_wrong)) = (without, with_wrong) else {
        return visit.record.skip("cookies", "there was no answer");
    };
    // Any difference is the cookie's doing.
    if without != with_wrong || with_good.is_some_and(|with_good| with_good.as_ref() != Some(&without)) {
        return;
    }
    let token = if good.is_some() { ", or with the token" } else { "" };
    let observed = format!(
        "a request with Cookie: {name}=not-a-token{token} is answered as one without the cookie ({})",
        without.1
    );
    visit.record.find(Fault::CookiesDropped, Way::All, observed);
}

fn get(visit: &mut Visit, fields: &str) -> Option<Answer> {
    let path = poll_path(visit);
    visit.get(&path, fields).ok()
}

fn anonymous(visit: &mut Visit, fields: &str) -> Option<Answer> {
    let path = poll_path(visit);
    visit.exchange(&Request { method: "GET", path: &path, fields, body: None, anonymous: true }).ok()
}

fn poll_path(visit: &mut Visit) -> String {
    let limit = visit.fresh_limit();
    visit.events(&format!("since=latest&limit={limit}"))
}

fn is_refusal(answer: &Answer, code: &str) -> bool {
    problem(answer).is_some_and(|problem| problem.code == code)
}
