//! A client that spoils what another one sees, to show that the cases notice: each [`SPOILS`] is a fault
//! that a server could have.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Client, Item};
use crate::Result;
use crate::event::Data;

/// The faults.
pub const SPOILS: [&str; 5] = ["drop", "repeat", "swap", "alter", "hide-gap"];

/// Wraps a client and applies one fault to the third event, or to each gap.
pub struct Spoiled {
    inner: Box<dyn Client>,
    fault: &'static str,
    events: usize,
    held: VecDeque<Item>,
}

impl Spoiled {
    /// Wraps `inner`.
    pub fn new(inner: Box<dyn Client>, fault: &'static str) -> Self {
        Self { inner, fault, events: 0, held: VecDeque::new() }
    }
}

impl Client for Spoiled {
    fn next(&mut self, deadline: Instant) -> Result<Item> {
        if let Some(item) = self.held.pop_front() {
            return Ok(item);
        }
        match self.inner.next(deadline)? {
            Item::Gap(_) if self.fault == "hide-gap" => self.next(deadline),
            Item::Event(mut seen) => {
                self.events += 1;
                match (self.events, self.fault) {
                    (3, "drop") => return self.next(deadline),
                    (3, "repeat") => self.held.push_back(Item::Event(seen.clone())),
                    (3, "swap") => {
                        let following = self.inner.next(deadline)?;
                        self.held.push_back(Item::Event(seen));
                        return Ok(following);
                    }
                    (3, "alter") => match &mut seen.data {
                        Data::Json(text) | Data::Either(text) => text.push(' '),
                        Data::Bytes(bytes) => bytes.push(0),
                    },
                    _ => {}
                }
                Ok(Item::Event(seen))
            }
            item => Ok(item),
        }
    }

    fn position(&self) -> Option<String> {
        self.inner.position()
    }
}
