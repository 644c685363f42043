//! A crowd of thin subscribers on one thread, over non-blocking sockets and every held transport.
//!
//! Events are `{"n":1}`, `{"n":2}`...: whatever the transport, the numbers come by in the bytes, and each member
//! must see the one after its last. That is cheap enough to watch thousands at full speed.

mod member;
mod publisher;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::Result;
use crate::random::Random;
pub use member::{End, Member, Over};
pub use publisher::Publisher;

/// The ids of the events so far: that of event `n` at `n - 1`.
#[derive(Debug, Clone, Default)]
pub struct Ids(Arc<Mutex<Vec<String>>>);

impl Ids {
    /// Adds the next.
    pub fn push(&self, id: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What `since` stands right after event `n`. A subscriber may see an event before its publisher hears that
    /// it was taken, so this may have to wait for the id.
    pub fn since(&self, n: usize) -> String {
        if n == 0 {
            return "earliest".to_owned();
        }
        loop {
            if let Some(id) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(n - 1) {
                return id.clone();
            }
            crate::server::pause();
        }
    }
}

/// Many members on one channel of one server.
pub struct Crowd {
    poll: Poll,
    events: Events,
    server: String,
    channel: String,
    ids: Ids,
    members: Vec<Member>,
    /// Who has more to read, of which the system tells only once.
    unread: Vec<usize>,
}

impl Crowd {
    /// An empty crowd.
    ///
    /// # Errors
    /// When the system has no more file descriptors.
    pub fn new(authority: &str, channel: &str, ids: Ids) -> Result<Self> {
        Ok(Self {
            poll: Poll::new().map_err(|error| error.to_string())?,
            events: Events::with_capacity(1024),
            server: authority.to_owned(),
            channel: channel.to_owned(),
            ids,
            members: Vec::new(),
            unread: Vec::new(),
        })
    }

    /// A member that has seen everything up to `n` joins.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn join(&mut self, over: Over, n: usize) -> Result<()> {
        let number = self.members.len();
        self.members.push(Member::connect(&self.server, &self.channel, over, n, &self.ids)?);
        self.register(number)
    }

    /// Everybody leaves and comes back over a random transport, with only the number of the last event seen.
    ///
    /// # Errors
    /// When one cannot connect.
    pub fn move_some(&mut self, share: usize, random: &mut Random) -> Result<()> {
        for number in 0..self.members.len() {
            if random.below(share) == 0 {
                self.move_one(number, random)?;
            }
        }
        Ok(())
    }

    fn move_one(&mut self, number: usize, random: &mut Random) -> Result<()> {
        let seen = self.members[number].seen;
        let over = Over::any(random);
        self.members[number] = Member::connect(&self.server, &self.channel, over, seen, &self.ids)?;
        self.register(number)
    }

    fn register(&mut self, number: usize) -> Result<()> {
        let stream = self.members[number].stream();
        let registered = self.poll.registry().register(stream, Token(number), Interest::READABLE);
        registered.map_err(|error| error.to_string())
    }

    /// Reads what is there, waiting for it a moment at most.
    ///
    /// # Errors
    /// When a member saw an event twice, out of order, not at all, or anything that it should not.
    pub fn turn(&mut self, wait: Duration) -> Result<()> {
        let wait = if self.unread.is_empty() { wait } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            other => other.map_err(|error| error.to_string())?,
        }
        let mut ready = std::mem::take(&mut self.unread);
        ready.extend(self.events.iter().map(|event| event.token().0));
        ready.sort_unstable();
        ready.dedup();
        for number in ready {
            let member = &mut self.members[number];
            let more = member
                .read(&self.channel, &self.ids)
                .map_err(|error| format!("member {number} {member:?}: {error}"))?;
            if let Some(end) = &member.end {
                return Err(format!("member {number} {member:?} was cut off: {end:?}"));
            }
            if more {
                self.unread.push(number);
            }
        }
        Ok(())
    }

    /// Reads until every member has seen every event that there is by now.
    ///
    /// # Errors
    /// When one does not in time, and whatever [`Crowd::turn`] says.
    pub fn catch_up(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let end = self.ids.count();
        let mut behind: HashSet<usize> = (0..self.members.len()).collect();
        loop {
            behind.retain(|number| self.members[*number].seen < end);
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let some: Vec<_> = behind.iter().take(5).map(|number| &self.members[*number]).collect();
                return Err(format!(
                    "{} members did not see event {end} in time, such as {some:?}",
                    behind.len()
                ));
            }
            self.turn(Duration::from_millis(20))?;
        }
    }

    /// How many members there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }
}
