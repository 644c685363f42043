//! The raw WebSocket route: one channel, messages are payloads. Must not know the envelope.

use tidewire_core::cursor::Start;
use tidewire_core::websocket::CloseCode;
use tidewire_core::{ChannelName, NewEvent, Payload, Problem, Since};

use super::Shard;
use super::commits::Answer;
use super::connection::Goodbye;
use super::visitors::Held;
use crate::access::identity::Action;
use crate::traces::Said;

impl Shard {
    /// Sets a raw WebSocket to where it begins. Its messages have no place for a gap, so a gap closes it.
    pub(super) fn begin_raw(&mut self, id: u32, since: Option<Since>, may_read_back: bool) {
        let Some(subscription) = self.connections[id as usize].subscriptions.first_mut() else { return };
        let channel = &self.channels[subscription.channel as usize].channel;
        let epoch = channel.epoch();
        let start = since.map_or(Start::Latest, |since| since.in_channel(epoch, &[epoch], Start::Latest));
        let position = channel.locate_for(start, may_read_back).position;
        if !position.gap {
            subscription.cursor = position.after;
            return;
        }
        subscription.cursor = channel.head();
        self.counters.gaps.add(1);
        self.finish_turn(id);
        self.start_closing(id, Goodbye::frame(CloseCode::GAP, "gap"));
    }

    /// Publishes a message of a raw WebSocket. False if it must wait until something is decided.
    pub(super) fn publish_raw(
        &mut self,
        id: u32,
        channel: &ChannelName,
        payload: Payload,
    ) -> Result<bool, (CloseCode, String)> {
        let outcome = match self.check(self.holder(id), Action::Publish, channel) {
            Ok(()) => self.ask_about_message(id, Action::Publish, channel),
            Err(problem) => Err(problem.into()),
        };
        let trace = self.begin_trace(self.holder(id), "websocket", Said::default);
        let publish = |()| Ok(self.publish(id, channel, NewEvent::new(payload), Answer::Raw, trace)?);
        match outcome.and_then(publish) {
            Ok(_) => Ok(true),
            Err(Held::Waits) => Ok(false),
            Err(Held::Refused(problem)) => {
                self.counters.note_refused(&problem);
                Err((close_code(&problem), problem.code.as_str().to_owned()))
            }
        }
    }
}

/// How a raw WebSocket is closed over a problem: by whose fault it is.
pub(super) fn close_code(problem: &Problem) -> CloseCode {
    if problem.code.status() < 500 { CloseCode::POLICY } else { CloseCode::INTERNAL }
}
