//! The raw WebSocket: messages are data and nothing else, so a client knows no ids.

use std::time::Instant;

use tungstenite::Message;

use super::websocket::{self, Socket};
use super::{Ask, Client, Connected, Item};
use crate::Result;
use crate::event::{Data, Seen};

pub(super) struct Raw(Socket);

impl Raw {
    pub(super) fn connect(server: &str, ask: &Ask) -> Result<Connected> {
        let since = ask.since.as_ref().map(|since| format!("?since={since}")).unwrap_or_default();
        let path = format!("/v1/channels/{}/ws{since}", ask.channels[0]);
        match websocket::connect(server, &path, None)? {
            Ok(socket) => Ok(Connected::Client(Box::new(Self(socket)))),
            Err(refusal) => Ok(Connected::Refused(refusal)),
        }
    }
}

impl Client for Raw {
    fn next(&mut self, deadline: Instant) -> Result<Item> {
        loop {
            let data = match websocket::read(&mut self.0, deadline)? {
                None => return Ok(Item::Nothing),
                Some(Message::Close(frame)) => return Ok(websocket::closed(frame)),
                Some(Message::Text(text)) => Data::Either(text.to_string()),
                Some(Message::Binary(bytes)) => Data::Bytes(bytes.to_vec()),
                Some(_) => continue,
            };
            let (channel, id, event, key, content_type, time) = (None, None, None, None, None, None);
            return Ok(Item::Event(Seen { channel, id, event, key, content_type, time, data }));
        }
    }

    fn position(&self) -> Option<String> {
        None
    }
}
