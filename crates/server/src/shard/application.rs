//! Asking the application what it decides by itself. Must not know how it is asked (`access::callback`).

use std::sync::Arc;

use tidewire_core::ChannelName;
use tidewire_core::http1::{Method, Request};

use super::visitors::Held;
use super::{Message, Shard};
use crate::access::callback::{Question, Verdict};
use crate::access::identity::{Action, Identity};
use crate::access::origin::Origin;
use crate::access::{Identified, Who};
use crate::http::route::{ReadRequest, Route};

impl Shard {
    /// Asks who sent a request, and whether they may do what it asks for, as far as the application wants to know.
    pub(super) fn ask_about_request(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        origin: &Origin,
        route: &Route,
        identified: &Identified,
    ) -> Result<Who, Held> {
        if identified.who.as_ref().is_some_and(|who| who.is_admin) {
            return Ok(identified.who.clone());
        }
        let who = match identified.by_ticket {
            true => identified.who.clone(),
            false => self.ask_who(id, request, origin, &identified.who)?,
        };
        let (action, channels) = match route {
            Route::ChannelEvents(channel) if request.method == Method::Post => {
                (Action::Publish, vec![channel.clone()])
            }
            Route::ChannelEvents(channel) | Route::Channel(channel) | Route::ChannelWebSocket(channel)
                if request.method != Method::Delete =>
            {
                (Action::Subscribe, vec![channel.clone()])
            }
            // Who may see who is there may be seen.
            Route::Presence(channel) => (Action::Subscribe, vec![channel.presence()?]),
            Route::Events => {
                (Action::Subscribe, ReadRequest::parse(request, None, &self.settings.limits)?.channels)
            }
            _ => return Ok(who),
        };
        self.ask_whether(id, who.as_deref(), action, &channels)?;
        Ok(who)
    }

    /// Whether somebody may do something on channels, as far as the application wants to decide. Where the
    /// configuration and the token say no already, it is not asked.
    pub(super) fn ask_whether(
        &mut self,
        id: u32,
        who: Option<&Identity>,
        action: Action,
        channels: &[ChannelName],
    ) -> Result<(), Held> {
        let Some(callback) = &self.access.callback else { return Ok(()) };
        let about = callback.settings().asks_about;
        let is_asked = match action {
            Action::Subscribe => about.subscribe,
            Action::Publish => about.publish,
            Action::History | Action::Presence | Action::Delete => false,
        };
        if !is_asked || who.is_some_and(|who| who.is_admin || who.is_minted) {
            return Ok(());
        }
        let user = who.and_then(|who| who.user.as_deref());
        let address = Some(self.connections[id as usize].client());
        let mut questions = Vec::new();
        for channel in channels {
            self.check(who, action, channel)?;
            let (action, channel) = (action.as_str(), Some(channel.as_str()));
            questions.push(Question { action, user, channel, address, headers: Vec::new() });
        }
        self.consult(id, &questions).map(drop)
    }

    /// As [`Self::ask_whether`] for a WebSocket's message.
    pub(super) fn ask_about_message(
        &mut self,
        id: u32,
        action: Action,
        channel: &ChannelName,
    ) -> Result<(), Held> {
        if self.access.callback.is_none() {
            return Ok(());
        }
        let lease = self.connections[id as usize].lease.as_ref();
        let who = lease.map(|lease| Arc::clone(&lease.who));
        self.ask_whether(id, who.as_deref(), action, std::slice::from_ref(channel))
    }

    fn ask_who(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        origin: &Origin,
        known: &Who,
    ) -> Result<Who, Held> {
        let Some(callback) = &self.access.callback else { return Ok(known.clone()) };
        if !callback.settings().asks_about.connect {
            return Ok(known.clone());
        }
        let mut headers = Vec::new();
        for name in &callback.settings().forward_headers {
            // Cookies count only where the page that sent them may.
            if name != "cookie" || origin.takes_cookies(request) {
                headers.extend(request.headers(name).map(|value| (name.clone(), value)));
            }
        }
        let headers = headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let user = known.as_ref().and_then(|who| who.user.as_deref());
        let question = Question {
            action: "connect",
            user,
            channel: None,
            address: Some(self.connections[id as usize].client()),
            headers,
        };
        let said = self.consult(id, &[question])?;
        Ok(said.or_else(|| known.clone()))
    }

    /// Gets the application's answers, out of those that are known or by asking.
    fn consult(&mut self, id: u32, questions: &[Question<'_>]) -> Result<Who, Held> {
        let Some(callback) = &self.access.callback else { return Ok(None) };
        let connection = &self.connections[id as usize];
        let (mut said, mut missing) = (None, Vec::new());
        for question in questions {
            let (body, key) = callback.put(question);
            let mut verdicts = connection.decisions.iter().flat_map(|decisions| &decisions.verdicts);
            let verdict = verdicts.find(|(about, _)| *about == key).map(|(_, verdict)| verdict.clone());
            match verdict.or_else(|| callback.known(&key, self.now_ms)) {
                Some(Verdict::Allowed(who)) => said = who.or(said),
                Some(Verdict::Refused(problem)) => return Err(problem.into()),
                None => missing.push((body, key)),
            }
        }
        if missing.is_empty() {
            return Ok(said);
        }
        let serial = connection.serial;
        self.await_decisions(id, missing.len() as u32);
        let Some(callback) = &self.access.callback else { return Ok(None) };
        for (body, key) in missing {
            let inbox = Arc::clone(&self.inbox);
            let tell = move |key, verdict| {
                inbox.push(Message::Decided { connection: id, serial, verdict: Some((key, verdict)) });
            };
            callback.ask(body, key, Box::new(tell));
        }
        Err(Held::Waits)
    }
}
