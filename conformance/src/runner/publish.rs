//! The step `publish`, over each of the four ways to publish.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tungstenite::Message;

use super::{PATIENCE, Run};
use crate::case::Publish;
use crate::client::{self, BinaryPublish};
use crate::event::{Kind, Published};
use crate::{Result, http};

/// What the server said.
enum Said {
    Done { id: String, time: Option<String>, duplicate: bool },
    Refused(client::Refusal),
}

impl Run<'_> {
    pub(super) fn publish(&mut self, step: &Publish) -> Result<()> {
        let Some(count) = step.count else {
            return self.publish_one(step);
        };
        for number in 1..=count {
            let save = step.save.as_ref().map(|save| format!("{save}{number}"));
            let json = Some(format!("{{\"n\":{number}}}"));
            self.publish_one(&Publish { save, json, count: None, ..step.clone() })?;
        }
        Ok(())
    }

    fn publish_one(&mut self, step: &Publish) -> Result<()> {
        let filled = |text: &Option<String>| text.as_ref().map(|text| self.fill(text)).transpose();
        let (event, key, idempotency) =
            (filled(&step.event)?, filled(&step.key)?, filled(&step.idempotency)?);
        let step = &Publish { event, key, idempotency, ..step.clone() };
        let channel = self.channel(step.channel.as_ref().unwrap_or(&self.case.channels[0]))?;
        let (kind, body) = self.data(step)?;
        let said = match step.via.as_deref().unwrap_or("http") {
            "http" => self.over_http(step, &channel, kind, &body)?,
            "ws" => self.over_socket(step, &channel, kind, &body)?,
            "ws-binary" => self.over_binary(step, &channel, &body)?,
            "raw" => self.over_raw(&channel, kind, &body)?,
            other => return Err(format!("no way to publish {other:?}")),
        };
        let (id, time) = match (said, &step.refused) {
            (Said::Refused(refusal), Some(code)) => return self.check_refusal(code, &refusal),
            (Said::Refused(refusal), None) => return Err(format!("refused: {refusal:?}")),
            (Said::Done { .. }, Some(code)) => return Err(format!("expected the refusal {code}, was taken")),
            (Said::Done { id, time, duplicate }, None) if duplicate == step.duplicate_of.is_some() => {
                (id, time)
            }
            (Said::Done { duplicate, .. }, None) => return Err(format!("got \"duplicate\":{duplicate}")),
        };
        if let Some(first) = &step.duplicate_of {
            let first = self.published.get(first).ok_or(format!("no event was saved as {first}"))?;
            if id != first.id || (time.is_some() && first.time.is_some() && time != first.time) {
                return Err(format!("expected {} {:?} again, got {id} {time:?}", first.id, first.time));
            }
        }
        if let Some(save) = &step.save {
            self.values.insert(save.clone(), id.clone());
            let (event, key) = (step.event.clone(), step.key.clone());
            let kind = step.kind.unwrap_or(kind);
            let content_type = carried(step, kind, &body);
            let published = Published { channel, id, time, kind, body, event, key, content_type };
            self.published.insert(save.clone(), published);
        }
        Ok(())
    }

    fn data(&self, step: &Publish) -> Result<(Kind, Vec<u8>)> {
        match (&step.json, &step.text, &step.hex) {
            (Some(json), None, None) => Ok((Kind::Json, self.fill(json)?.into_bytes())),
            (None, Some(text), None) => Ok((Kind::Text, self.fill(text)?.into_bytes())),
            (None, None, Some(hex)) => Ok((Kind::Bytes, bytes_of(&self.fill(hex)?)?)),
            _ => Err("a publish needs one of json, text, hex and count".to_owned()),
        }
    }

    fn over_http(&mut self, step: &Publish, channel: &str, kind: Kind, body: &[u8]) -> Result<Said> {
        let kinds_own = match kind {
            Kind::Json => "application/json",
            Kind::Text => "text/plain",
            Kind::Bytes => "application/octet-stream",
        };
        let content_type = step.content_type.as_deref().unwrap_or(kinds_own);
        let mut head = Vec::new();
        for (name, value) in [
            ("content-type", Some(content_type).filter(|value| !value.is_empty())),
            ("tidewire-event", step.event.as_deref()),
            ("tidewire-key", step.key.as_deref()),
            ("idempotency-key", step.idempotency.as_deref()),
        ] {
            head.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        let url = format!("{}/v1/channels/{channel}/events", self.server);
        let answer = http::exchange(&self.agent, "POST", &url, &head, Some(body))?;
        if answer.status >= 300 {
            super::exchange::check_problem(&answer)?;
            let code = answer.json()?["code"].as_str().unwrap_or_default().to_owned();
            return Ok(Said::Refused(client::Refusal { status: Some(answer.status), code }));
        }
        let status = if step.duplicate_of.is_some() { 200 } else { 201 };
        let duplicate = step.duplicate_of.is_some();
        let pattern = json!({"channel": channel, "id": "<id>", "time": "<time>", "duplicate": duplicate});
        let got = answer.json()?;
        crate::pattern::check(&pattern, Some(&got), &mut self.values)?;
        if answer.status != status || got.as_object().map(serde_json::Map::len) != Some(4) {
            return Err(format!("expected {status} with {pattern}, got {} with {got}", answer.status));
        }
        Ok(Said::Done { id: text(&got["id"]), time: Some(text(&got["time"])), duplicate })
    }

    fn over_socket(&mut self, step: &Publish, channel: &str, kind: Kind, body: &[u8]) -> Result<Said> {
        let mut message = json!({"type": "publish", "channel": channel, "id": "p"});
        match kind {
            Kind::Json => {
                message["data"] = serde_json::from_slice(body).map_err(|error| error.to_string())?
            }
            Kind::Text => message["data"] = json!(String::from_utf8_lossy(body)),
            Kind::Bytes => message["data_base64"] = json!(STANDARD.encode(body)),
        }
        for (name, value) in [
            ("event", &step.event),
            ("key", &step.key),
            ("content_type", &step.content_type),
            ("idempotency_key", &step.idempotency),
        ] {
            if let Some(value) = value {
                message[name] = json!(value);
            }
        }
        self.ask_publisher(Message::text(message.to_string()), channel)
    }

    fn over_binary(&mut self, step: &Publish, channel: &str, body: &[u8]) -> Result<Said> {
        let frame = BinaryPublish {
            channel,
            id: "p",
            event: step.event.as_deref().unwrap_or_default(),
            key: step.key.as_deref().unwrap_or_default(),
            content_type: step.content_type.as_deref().unwrap_or_default(),
            idempotency_key: step.idempotency.as_deref().unwrap_or_default(),
            data: body,
        };
        self.ask_publisher(Message::binary(frame.frame()), channel)
    }

    fn ask_publisher(&mut self, message: Message, channel: &str) -> Result<Said> {
        if self.publisher.is_none() {
            let opened = client::open_socket(self.server, "/v1/ws", None)?;
            self.publisher = Some(opened.map_err(|refusal| format!("refused: {refusal:?}"))?);
        }
        let socket = self.publisher.as_mut().ok_or("no publisher")?;
        socket.send(message).map_err(|error| error.to_string())?;
        let reply = match client::read_socket(socket, Instant::now() + PATIENCE)? {
            Some(Message::Text(reply)) => reply,
            other => return Err(format!("expected a reply to publish, got {other:?}")),
        };
        let got: Value = serde_json::from_str(&reply).map_err(|error| format!("{error} in {reply}"))?;
        if got["type"] == "error" && got["id"] == "p" {
            return Ok(Said::Refused(client::Refusal { status: None, code: text(&got["code"]) }));
        }
        let pattern = json!({"type": "published", "channel": channel, "event_id": "<id>", "id": "p"});
        crate::pattern::check(&pattern, Some(&got), &mut self.values)?;
        let duplicate = got["duplicate"].as_bool().ok_or(format!("no duplicate in {reply}"))?;
        Ok(Said::Done { id: text(&got["event_id"]), time: None, duplicate })
    }

    /// The raw WebSocket gives no ids; the snapshot tells the one of the event just published.
    fn over_raw(&mut self, channel: &str, kind: Kind, body: &[u8]) -> Result<Said> {
        let path = format!("/v1/channels/{channel}/ws");
        let mut socket =
            client::open_socket(self.server, &path, None)?.map_err(|no| format!("refused: {no:?}"))?;
        let message = match kind {
            Kind::Bytes => Message::binary(body.to_vec()),
            _ => Message::text(String::from_utf8_lossy(body).into_owned()),
        };
        socket.send(message.clone()).map_err(|error| error.to_string())?;
        match client::read_socket(&mut socket, Instant::now() + PATIENCE)? {
            Some(got) if got == message => {}
            other => return Err(format!("expected the own message back, got {other:?}")),
        }
        let url = format!("{}/v1/channels/{channel}", self.server);
        let snapshot = http::exchange(&self.agent, "GET", &url, &[], None)?.json()?;
        let state = &snapshot["state"];
        Ok(Said::Done { id: text(&state["id"]), time: Some(text(&state["time"])), duplicate: false })
    }
}

/// The content type that readers see: one that the kind does not imply, or that tells a JSON string from text.
fn carried(step: &Publish, kind: Kind, body: &[u8]) -> Option<String> {
    let implied = [
        "",
        "application/json",
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ];
    let is_string = kind == Kind::Json && body.trim_ascii_start().starts_with(b"\"");
    let carried = step.carried.as_ref().or(step.content_type.as_ref());
    carried
        .filter(|carried| !implied.contains(&carried.as_str()))
        .cloned()
        .or_else(|| is_string.then(|| "application/json".to_owned()))
}

pub(super) fn bytes_of(hex: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits
        .chunks(2)
        .map(|two| pair(two).ok_or_else(|| format!("{:?} is not hexadecimal", crate::event::shorten(hex))))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
