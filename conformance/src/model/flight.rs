//! Publishes under way: over WebSockets with several on each, and over HTTP each on a thread of its own. Knows
//! what was answered to what; must not know what the answers should have been.

use std::thread::JoinHandle;

use serde_json::json;
use tungstenite::Message;

use super::reference::Draft;
use crate::client::{BinaryPublish, Socket};
use crate::durable::body::Body;
use crate::durable::publish::{self, PATIENCE, Said};
use crate::random::Random;
use crate::{Result, http};

/// One attempt to publish.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The channel, by its number.
    pub channel: usize,
    /// What.
    pub draft: Draft,
    /// The answer, once there is one. Without one, it may have been taken.
    pub said: Option<Said>,
}

/// All attempts, and where answers are awaited.
#[derive(Default)]
pub struct Flights {
    /// By number; those that are settled are gone.
    pub open: Vec<(usize, Attempt)>,
    sockets: Vec<(Socket, Vec<usize>)>,
    posts: Vec<(usize, JoinHandle<Result<Said>>)>,
    count: usize,
}

const SOCKETS_MAX: usize = 3;

impl Flights {
    /// Sends an event, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(
        &mut self,
        url: &str,
        names: &[&str],
        channel: usize,
        draft: &Draft,
        random: &mut Random,
    ) -> Result<()> {
        self.count += 1;
        let number = self.count;
        self.open.push((number, Attempt { channel, draft: draft.clone(), said: None }));
        let name = names[channel].to_owned();
        let at = random.below(SOCKETS_MAX + 1);
        // A WebSocket takes JSON and bytes only.
        if at == SOCKETS_MAX || matches!(draft.body, Body::Text(_)) {
            let (url, draft) = (url.to_owned(), draft.clone());
            self.posts.push((number, std::thread::spawn(move || post(&url, &name, &draft))));
            return Ok(());
        }
        if self.sockets.len() <= at {
            self.sockets.push((publish::open(url)?, Vec::new()));
        }
        let at = at.min(self.sockets.len() - 1);
        let (socket, waiting) = &mut self.sockets[at];
        waiting.push(number);
        let sent = socket.send(message(&name, &number.to_string(), draft));
        sent.map_err(|error| format!("cannot publish: {error}"))
    }

    /// Waits for all answers. With the server gone, for those that it still gave.
    ///
    /// # Errors
    /// When one does not come, or is to something else.
    pub fn collect(&mut self, is_gone: bool) -> Result<()> {
        let mut answers = Vec::new();
        for (socket, waiting) in &mut self.sockets {
            while !waiting.is_empty() {
                match publish::reply(socket) {
                    // A channel on disk may answer later than one in memory.
                    Ok((id, said)) => match waiting.iter().position(|number| id == number.to_string()) {
                        Some(at) => answers.push((waiting.swap_remove(at), said)),
                        None => return Err(format!("a reply to {id}, which nobody sent: {said:?}")),
                    },
                    Err(_) if is_gone => break,
                    Err(error) => return Err(format!("no answer to {waiting:?}: {error}")),
                }
            }
        }
        answers.into_iter().for_each(|(number, said)| self.answer(number, said));
        for (number, thread) in std::mem::take(&mut self.posts) {
            match thread.join().map_err(|_| "a publisher panicked")? {
                Ok(said) => self.answer(number, said),
                Err(_) if is_gone => {}
                Err(error) => return Err(format!("publish {number}: {error}")),
            }
        }
        if is_gone {
            self.sockets.clear();
        }
        Ok(())
    }

    /// Cuts a connection with all answers that it owes.
    pub fn lose_one(&mut self, random: &mut Random) -> usize {
        if self.sockets.is_empty() {
            return 0;
        }
        let at = random.below(self.sockets.len());
        self.sockets.swap_remove(at).1.len()
    }

    /// Takes the attempts of a channel out; those without an answer may still be on their way.
    pub fn take(&mut self, channel: usize) -> Vec<Attempt> {
        let all = std::mem::take(&mut self.open);
        let (taken, open): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, attempt)| attempt.channel == channel);
        self.open = open;
        taken.into_iter().map(|(_, attempt)| attempt).collect()
    }

    /// Puts an attempt back that may still become an event.
    pub fn put_back(&mut self, attempt: Attempt) {
        self.open.push((0, attempt));
    }

    /// The attempts of a channel.
    pub fn of(&self, channel: usize) -> impl Iterator<Item = &Attempt> {
        self.open.iter().map(|(_, attempt)| attempt).filter(move |attempt| attempt.channel == channel)
    }

    fn answer(&mut self, number: usize, said: Said) {
        if let Some((_, attempt)) = self.open.iter_mut().find(|(other, _)| *other == number) {
            attempt.said = Some(said);
        }
    }
}

fn post(url: &str, channel: &str, draft: &Draft) -> Result<Said> {
    let Draft { name, key, once, body } = draft;
    let fields = [("tidewire-event", name), ("tidewire-key", key), ("idempotency-key", once)]
        .map(|(field, value)| (field, value.as_deref()));
    publish::post_with(&http::agent(PATIENCE), url, channel, body, &fields)
}

fn message(channel: &str, id: &str, draft: &Draft) -> Message {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (event, key, once) = (text(&draft.name), text(&draft.key), text(&draft.once));
    let (idempotency_key, data) = (once.as_str(), draft.body.bytes());
    let Body::Json(json) = &draft.body else {
        let content_type = "";
        let (event, key) = (event.as_str(), key.as_str());
        return Message::binary(
            BinaryPublish { channel, id, event, key, content_type, idempotency_key, data }.frame(),
        );
    };
    let mut message = json!({"type": "publish", "channel": channel, "id": id});
    for (member, value) in [("event", &event), ("key", &key), ("idempotency_key", &once)] {
        if !value.is_empty() {
            message[member] = json!(value);
        }
    }
    let mut message = message.to_string();
    message.pop();
    // As it is, so that the server gets the very bytes that readers must see.
    Message::text(format!("{message},\"data\":{json}}}"))
}
