//! Short and long polling: one request after another, each with the cursor of the one before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use ureq::Agent;

use super::{Ask, Client, Connected, Item, form};
use crate::{Result, http, server};

pub(super) struct Poll {
    agent: Agent,
    server: String,
    ask: Ask,
    long: bool,
    many: bool,
    items: VecDeque<Item>,
    /// The id of the last event taken while others of the same answer wait.
    taken: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    cursor: String,
    more: bool,
    gap: Option<form::GapForm>,
}

/// A long poll is asked to be held so long, as often as it takes.
const WAIT_MAX: Duration = Duration::from_secs(5);

impl Poll {
    pub(super) fn connect_long(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, true, false)
    }

    pub(super) fn connect_short(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, false, false)
    }

    pub(super) fn connect_long_many(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, true, true)
    }

    pub(super) fn connect_short_many(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, false, true)
    }

    /// The first answer tells where the client stands. A long poll is not held for it.
    fn connect(server: &str, ask: &Ask, long: bool, many: bool) -> Result<Connected> {
        let mut client = Self {
            agent: http::agent(WAIT_MAX + http::READ_TIMEOUT),
            server: server.to_owned(),
            ask: ask.clone(),
            long,
            many,
            items: VecDeque::new(),
            taken: None,
        };
        match client.request(Duration::ZERO)? {
            None => Ok(Connected::Client(Box::new(client))),
            Some(refusal) => Ok(Connected::Refused(refusal)),
        }
    }

    fn request(&mut self, wait: Duration) -> Result<Option<super::Refusal>> {
        let mut more = Vec::new();
        if self.long {
            more.push(("wait", format!("{:.3}", wait.as_secs_f64())));
        }
        more.extend(self.ask.limit.map(|limit| ("limit", limit.to_string())));
        let url = format!("{}{}", self.server, super::events_path(&self.ask, self.many, &more));
        let answer = http::exchange(&self.agent, "GET", &url, &[], None)?;
        if answer.status != 200 {
            return super::refusal(answer.status, &answer.body).map(Some);
        }
        self.take_page(&answer).map_err(|error| format!("{error}: GET {url} gave {}", answer.text()))?;
        Ok(None)
    }

    fn take_page(&mut self, answer: &http::Answer) -> Result<()> {
        let page: Page<'_> = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let named = page.channels.unwrap_or_else(|| page.channel.into_iter().collect());
        if named != self.ask.channels {
            return Err(format!("expected the channels {:?}, got {named:?}", self.ask.channels));
        }
        let limit = self.ask.limit.unwrap_or(100) as usize;
        if page.events.len() > limit || (page.more && page.events.is_empty()) {
            return Err(format!("{} events of {limit} with more {}", page.events.len(), page.more));
        }
        for field in ["etag", "cache-control"] {
            answer.field(field).ok_or(format!("no field {field}"))?;
        }
        self.items.extend(page.gap.map(|gap| Item::Gap(gap.gap())));
        let first = if self.many { "channel" } else { "id" };
        for event in page.events {
            self.items.push_back(Item::Event(form::event(event.get(), first)?));
        }
        self.ask.since = Some(page.cursor);
        Ok(())
    }
}

impl Client for Poll {
    fn next(&mut self, deadline: Instant) -> Result<Item> {
        loop {
            if let Some(item) = self.items.pop_front() {
                self.taken = match &item {
                    Item::Event(seen) if !self.items.is_empty() => seen.id.clone(),
                    _ => None,
                };
                return Ok(item);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Item::Nothing);
            }
            if let Some(refusal) = self.request(left.min(WAIT_MAX))? {
                return Err(format!("a cursor of the server's own was refused: {refusal:?}"));
            }
            if !self.long && self.items.is_empty() {
                server::pause();
            }
        }
    }

    /// In the middle of a page, one id says where one channel stands; of several it cannot.
    fn position(&self) -> Option<String> {
        match &self.taken {
            Some(id) if self.ask.channels.len() == 1 => Some(id.clone()),
            Some(_) => None,
            None => self.ask.since.clone(),
        }
    }
}
