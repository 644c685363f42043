//! What a connection may at most: whether it was let in at all, how much it sends, how many streams its user has.
//! Must not know how rates and addresses are counted (`access`), nor how a refusal looks.

use std::net::IpAddr;

use tidewire_core::http1::{BodyLength, Request};
use tidewire_core::proxy_protocol::{self, Said};
use tidewire_core::rate::{Bucket, Rate};
use tidewire_core::{Code, Problem};

use super::Shard;
use super::connection::{Connection, Protocol};
use crate::access::addresses::Admission;
use crate::access::identity::Identity;
use crate::access::users::{Membership, Place, take};
use crate::clock::wall_clock;
use crate::listener::{Refusal, Refused};
use crate::metrics::Transport;

/// So many refused messages in a row, and a WebSocket is closed: its client does not listen to what it is told.
const REFUSED_IN_A_ROW_MAX: u32 = 100;

/// What is watched of a connection. Most have nothing to watch.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Counts it among those of its address.
    admission: Option<Admission>,
    /// Whom its last request came from, where a proxy that is trusted says that it was another.
    client: Option<IpAddr>,
    /// It was let in only to be told why not.
    refused: Option<Refused>,
    messages: Bucket,
    bytes: Bucket,
    refused_in_a_row: u32,
}

/// The rates of each connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    messages: Option<Rate>,
    bytes: Option<Rate>,
    /// Whether anything is counted, of connections or users.
    any: bool,
}

impl Rates {
    pub(super) fn new(limits: &tidewire_core::limits::Limits) -> Self {
        let (messages, bytes) = (limits.messages_per_second, limits.message_bytes_per_second);
        let of_users = limits.user_messages_per_second + limits.user_message_bytes_per_second.min(1);
        Self {
            messages: Rate::new(messages, 1000),
            bytes: Rate::new(bytes, 1000),
            any: messages > 0 || bytes > 0 || of_users > 0,
        }
    }
}

impl Shard {
    /// A connection was accepted, with what its address has to say about it.
    pub(super) fn watch(&mut self, id: u32, admission: Option<Admission>, refused: Option<Refused>) {
        if admission.is_some() || refused.is_some() {
            let watch = self.connections[id as usize].watch.get_or_insert_default();
            (watch.admission, watch.refused) = (admission, refused);
        }
    }

    /// Whether the connection may send another request after this one.
    pub(super) fn may_stay(&self, id: u32) -> bool {
        let watch = self.connections[id as usize].watch.as_ref();
        !self.stopping && watch.is_none_or(|watch| watch.refused.is_none())
    }

    /// Why the connection was let in only to be told why not.
    pub(super) fn refusal(&self, id: u32) -> Option<Problem> {
        if self.stopping {
            return Some(no_room());
        }
        let refused = self.connections[id as usize].watch.as_ref()?.refused.as_ref()?;
        Some(match refused.why {
            Refusal::Full => no_room(),
            Refusal::Limited(limited) => Problem::limited(limited),
        })
    }

    /// Takes what a proxy says of its client off the front of a connection. False if more must come first.
    ///
    /// # Errors
    /// It is not as it should be.
    pub(super) fn handle_proxy_header(&mut self, id: u32, rest: &mut &[u8]) -> Result<bool, Problem> {
        if !self.connections[id as usize].expects_proxy {
            return Ok(true);
        }
        let Said::Complete { client, length } = proxy_protocol::parse(rest)? else { return Ok(false) };
        *rest = &rest[length..];
        let connection = &mut self.connections[id as usize];
        connection.expects_proxy = false;
        if let Some(client) = client {
            connection.address = client;
            let admission = self.access.addresses.admit(client, self.now_ms).map_err(Problem::limited)?;
            if admission.is_some() {
                self.connections[id as usize].watch.get_or_insert_default().admission = admission;
            }
        }
        Ok(true)
    }

    /// As [`Self::handle_proxy_header`] where TLS begins only behind it. False if there is nothing to read yet, or
    /// never will be.
    pub(super) fn take_proxy_header(&mut self, id: u32, scratch: &mut [u8]) -> bool {
        let connection = &mut self.connections[id as usize];
        let seen = match connection.socket.peek(scratch) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                connection.unread = false;
                return false;
            }
            Ok(seen) if seen > 0 => seen,
            _ => {
                self.close(id);
                return false;
            }
        };
        let mut rest = &scratch[..seen];
        match self.handle_proxy_header(id, &mut rest) {
            Ok(true) => {
                let length = seen - rest.len();
                let connection = &mut self.connections[id as usize];
                matches!(connection.socket.read_below(&mut scratch[..length]), Ok(taken) if taken == length)
            }
            // The rest of it is announced when it comes.
            Ok(false) => {
                self.connections[id as usize].unread = false;
                false
            }
            Err(_) => {
                self.close(id);
                false
            }
        }
    }

    /// Finds out which client a request comes from.
    pub(super) fn find_client(&mut self, id: u32, request: &Request<'_, '_>) -> Result<IpAddr, Problem> {
        let connection = &mut self.connections[id as usize];
        let client = self.settings.access.proxies.client(connection.address, request)?;
        connection.set_client(client);
        Ok(client)
    }

    /// Counts a stream among those of its client, where a proxy brings those of many, and of its user.
    ///
    /// # Errors
    /// They have as many as they may.
    pub(super) fn admit_stream(
        &mut self,
        id: u32,
        who: Option<&Identity>,
        transport: Transport,
    ) -> Result<Option<Membership>, Problem> {
        let connection = &self.connections[id as usize];
        let (client, serial) = (connection.client(), connection.serial);
        if client != connection.address {
            let admission = self.access.addresses.admit(client, self.now_ms).map_err(Problem::limited)?;
            if admission.is_some() {
                self.connections[id as usize].watch.get_or_insert_default().admission = admission;
            }
        }
        let Some(user) = who.and_then(|who| who.user.as_ref()) else { return Ok(None) };
        let since_seconds = (wall_clock().0 / 1000) as u32;
        let place = Place { shard: self.index, connection: id, serial, transport, since_seconds };
        self.access.users.join(user, place).map(Some).map_err(Problem::limited)
    }

    /// A client sends a message of so many bytes.
    ///
    /// # Errors
    /// It, or its user, sends too much.
    pub(super) fn take_message(
        &mut self,
        id: u32,
        who: Option<&Identity>,
        bytes: usize,
    ) -> Result<(), Problem> {
        let rates = self.rates;
        if !rates.any || who.is_some_and(|who| who.is_admin) {
            return Ok(());
        }
        let now_ms = self.now_ms;
        let watch = self.connections[id as usize].watch.get_or_insert_default();
        take(&mut watch.messages, rates.messages, 1, now_ms, "messages_per_second")
            .and_then(|()| take(&mut watch.bytes, rates.bytes, bytes, now_ms, "message_bytes_per_second"))
            .map_err(Problem::limited)?;
        match who.and_then(|who| who.user.as_ref()) {
            Some(user) => self.access.users.take_message(user, bytes, now_ms).map_err(Problem::limited),
            None => Ok(()),
        }
    }

    /// As [`Self::take_message`] for a WebSocket's message. The second error says that it is enough.
    pub(super) fn take_socket_message(&mut self, id: u32, bytes: usize) -> Result<(), (Problem, bool)> {
        if !self.rates.any {
            return Ok(());
        }
        let who = self.connections[id as usize].lease.as_ref().map(|lease| lease.who.clone());
        let outcome = self.take_message(id, who.as_deref(), bytes);
        let watch = self.connections[id as usize].watch.get_or_insert_default();
        match outcome {
            Ok(()) => {
                watch.refused_in_a_row = 0;
                Ok(())
            }
            Err(problem) => {
                watch.refused_in_a_row += 1;
                let is_enough = watch.refused_in_a_row >= REFUSED_IN_A_ROW_MAX;
                Err((problem, is_enough))
            }
        }
    }
}

/// How many bytes of a body were announced.
pub(super) fn announced(request: &Request<'_, '_>) -> usize {
    match request.body {
        BodyLength::Known(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        BodyLength::Chunked => 0,
    }
}

impl Connection {
    /// Whom its last request came from.
    pub(super) fn client(&self) -> IpAddr {
        self.watch.as_ref().and_then(|watch| watch.client).unwrap_or(self.address)
    }

    fn set_client(&mut self, client: IpAddr) {
        if client != self.client() {
            self.watch.get_or_insert_default().client = Some(client).filter(|client| *client != self.address);
        }
    }

    /// It is no stream any more, and waits for its next request.
    pub(super) fn end_stream(&mut self) {
        self.lease = None;
        if self.client() != self.address
            && let Some(watch) = &mut self.watch
        {
            watch.admission = None;
        }
        debug_assert!(matches!(self.protocol, Protocol::Http { .. }));
    }
}

fn no_room() -> Problem {
    let detail = "the server has as many connections as it may, or is going away; try again in a moment";
    Problem::new(Code::Unavailable, detail)
}
