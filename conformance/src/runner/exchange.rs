//! The steps that speak by hand: plain requests, and messages on a WebSocket.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use super::{PATIENCE, Run, check_close};
use crate::case::{Closed, Expected, Finish, Open, Request};
use crate::http::Answer;
use crate::{Result, client, http, pattern};

impl Run<'_> {
    pub(super) fn request(&mut self, request: &Request) -> Result<()> {
        let url = format!("{}{}", self.server, self.fill(&request.path)?);
        let method = request.method.clone().unwrap_or("GET".to_owned());
        let body = request.body.as_ref().map(|body| self.fill(body)).transpose()?.map(String::into_bytes);
        let filled = request.head.iter().map(|(name, value)| Ok((name.clone(), self.fill(value)?)));
        let head: Vec<_> = filled.collect::<Result<_>>()?;
        let agent = self.agent.clone();
        let once = move || http::exchange(&agent, &method, &url, &head, body.as_deref());
        if let Some(name) = &request.background {
            self.background.insert(name.clone(), std::thread::spawn(once));
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_millis(request.within_ms.unwrap_or(0));
        loop {
            let outcome = once().and_then(|answer| self.check_answer(&request.answer, &answer));
            if outcome.is_ok() || Instant::now() >= deadline {
                return outcome;
            }
            crate::server::pause();
        }
    }

    pub(super) fn finish(&mut self, finish: &Finish) -> Result<()> {
        let request = self.background.remove(&finish.background);
        let request = request.ok_or(format!("no request {} is under way", finish.background))?;
        let answer = request.join().map_err(|_| "the request panicked")??;
        self.check_answer(&finish.answer, &answer)
    }

    fn check_answer(&mut self, expected: &Expected, answer: &Answer) -> Result<()> {
        let status = match (&expected.code, expected.status) {
            (Some(code), None) => status_of(code),
            (_, status) => status.unwrap_or(200),
        };
        let got = || format!("{} {:?} {}", answer.status, answer.head, crate::event::shorten(&answer.text()));
        if answer.status != status {
            return Err(format!("expected status {status}, got {}", got()));
        }
        if let Some(code) = &expected.code {
            check_problem(answer)?;
            pattern::check(&json!({"code": code}), Some(&answer.json()?), &mut self.values)?;
        }
        for (name, wanted) in &expected.fields {
            let wanted = Value::String(self.fill(wanted)?);
            let value = answer.field(name).map(|value| Value::String(value.to_owned()));
            pattern::check(&wanted, value.as_ref(), &mut self.values)
                .map_err(|error| format!("field {name} {error}; got {}", got()))?;
        }
        if let Some(wanted) = &expected.json {
            let wanted = self.pattern(wanted)?;
            pattern::check(&wanted, Some(&answer.json()?), &mut self.values)
                .map_err(|error| format!("{error}; got {}", got()))?;
        }
        match &expected.exact {
            Some(exact) if self.fill(exact)?.as_bytes() != answer.body => {
                Err(format!("expected the body {exact:?}, got {}", got()))
            }
            _ => Ok(()),
        }
    }

    fn pattern(&self, text: &str) -> Result<Value> {
        let text = self.fill(text)?;
        serde_json::from_str(&text).map_err(|error| format!("the pattern {text} is no JSON: {error}"))
    }

    pub(super) fn open(&mut self, open: &Open) -> Result<()> {
        let path = self.fill(&open.path)?;
        match (client::open_socket(self.server, &path, open.protocol.as_deref())?, &open.refused) {
            (Ok(socket), None) => {
                self.socket = Some(socket);
                Ok(())
            }
            (Ok(_), Some(code)) => Err(format!("expected the refusal {code}, but was let in")),
            (Err(refusal), Some(code)) => self.check_refusal(code, &refusal),
            (Err(refusal), None) => Err(format!("refused: {refusal:?}")),
        }
    }

    pub(super) fn send(&mut self, text: &str) -> Result<()> {
        let message = Message::text(self.fill(text)?);
        self.socket()?.send(message).map_err(|error| error.to_string())
    }

    pub(super) fn send_hex(&mut self, hex: &str) -> Result<()> {
        let message = Message::binary(super::publish::bytes_of(&self.fill(hex)?)?);
        self.socket()?.send(message).map_err(|error| error.to_string())
    }

    pub(super) fn receive(&mut self, wanted: &str) -> Result<()> {
        let wanted = self.pattern(wanted)?;
        match self.read_socket()? {
            Message::Text(text) if text.starts_with("{\"type\":") => {
                let got: Value = serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))?;
                pattern::check(&wanted, Some(&got), &mut self.values)
                    .map_err(|error| format!("{error}; got {}", crate::event::shorten(&text)))
            }
            other => Err(format!("expected {wanted}, got {other:?}")),
        }
    }

    pub(super) fn shut(&mut self, closed: &Closed) -> Result<()> {
        match self.read_socket()? {
            Message::Close(Some(frame)) => check_close(closed, Some(frame.code.into()), &frame.reason),
            other => Err(format!("expected {closed:?}, got {other:?}")),
        }
    }

    fn socket(&mut self) -> Result<&mut client::Socket> {
        self.socket.as_mut().ok_or("no socket was opened".to_owned())
    }

    fn read_socket(&mut self) -> Result<Message> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client::read_socket(self.socket()?, deadline)? {
                None => return Err(format!("nothing came for {PATIENCE:?}")),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(message) => return Ok(message),
            }
        }
    }
}

/// Every error is RFC 9457 with exactly the five members that PROTOCOL.md names.
pub(super) fn check_problem(answer: &Answer) -> Result<()> {
    let wrong = |why: &str| Err(format!("{why}: {} {:?} {}", answer.status, answer.head, answer.text()));
    if answer.field("content-type").map(|value| value.split(';').next())
        != Some(Some("application/problem+json"))
    {
        return wrong("not application/problem+json");
    }
    let problem = answer.json()?;
    let texts = ["type", "title", "code", "detail"]
        .iter()
        .all(|name| problem[name].as_str().is_some_and(|t| !t.is_empty()));
    if !texts || problem["status"] != answer.status {
        return wrong("a problem without one of its members");
    }
    Ok(())
}

/// The status of an error code: the table of PROTOCOL.md section 6.
pub(super) fn status_of(code: &str) -> u16 {
    match code {
        "not_found" => 404,
        "method_not_allowed" => 405,
        "request_timeout" => 408,
        "already_subscribed" => 409,
        "payload_too_large" => 413,
        "unsupported_media_type" => 415,
        "idempotency_conflict" => 422,
        "upgrade_required" => 426,
        "headers_too_large" => 431,
        "internal" => 500,
        "not_implemented" => 501,
        "unavailable" => 503,
        "http_version" => 505,
        "history_full" => 507,
        "state_full" => 507,
        _ => 400,
    }
}
