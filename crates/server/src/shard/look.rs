//! Who the connections of a shard belong to, for the statistics: counted a slice at a time, so that nobody waits
//! for it. Must not know what is made of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use tidewire_core::limits::{LOOK_ADDRESSES, LOOK_CONNECTIONS};

use super::{Message, Shard};

/// What those do together who have one address, or are one user.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Talker {
    pub(crate) connections: u32,
    /// Events that the connections which are open sent so far.
    pub(crate) published: u64,
    pub(crate) delivered: u64,
}

/// A look at all connections of a shard, as far as it has come.
#[derive(Debug)]
pub(crate) struct Look {
    next: usize,
    reply: Sender<Look>,
    pub(crate) users: HashMap<Arc<str>, Talker>,
    pub(crate) addresses: HashMap<IpAddr, Talker>,
}

impl Look {
    pub(crate) fn new(reply: Sender<Look>) -> Self {
        Self { next: 0, reply, users: HashMap::new(), addresses: HashMap::new() }
    }
}

impl Shard {
    /// Looks at some connections, and then at the next ones once others had their turn.
    pub(super) fn handle_look(&mut self, mut look: Box<Look>) {
        let end = (look.next + LOOK_CONNECTIONS).min(self.connections.capacity());
        for id in look.next..end {
            let Some(connection) = self.connections.get(id) else { continue };
            if connection.carries_streams() {
                continue; // its streams are connections, and have its address
            }
            let record = &connection.record;
            let (published, delivered) = (u64::from(record.published), u64::from(record.delivered));
            let talker = Talker { connections: 1, published, delivered };
            count(&mut look.addresses, &connection.client(), talker);
            if let Some(user) = connection.lease.as_ref().and_then(|lease| lease.who.user.as_ref()) {
                count(&mut look.users, user, talker);
            }
        }
        look.next = end;
        if end < self.connections.capacity() {
            return self.inbox.push(Message::Look(look));
        }
        if self.now_ms >= self.counters.survey.fresh_until_ms.get() {
            self.survey_timed();
        }
        // Whoever asked may not wait any more.
        let reply = look.reply.clone();
        let _ = reply.send(*look);
    }
}

fn count<K: Hash + Eq + Clone>(all: &mut HashMap<K, Talker>, key: &K, talker: Talker) {
    if let Some(sum) = all.get_mut(key) {
        sum.connections += talker.connections;
        sum.published += talker.published;
        sum.delivered += talker.delivered;
    } else if all.len() < LOOK_ADDRESSES {
        all.insert(key.clone(), talker);
    }
}
