//! Publishes numbered events over one WebSocket at full speed, several on the way at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tungstenite::Message;

use super::Ids;
use crate::{Result, client};

/// A publisher on a thread of its own.
pub struct Publisher {
    allowed: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<()>>>,
    ids: Ids,
}

const ON_THE_WAY_MAX: usize = 64;
const STOP: usize = usize::MAX;

impl Publisher {
    /// Connects; `padding` bytes make each event larger.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn start(server: &str, channel: &str, padding: usize, ids: &Ids) -> Result<Self> {
        let socket = client::open_socket(server, "/v1/ws", None)?;
        let socket = socket.map_err(|refusal| format!("refused: {refusal:?}"))?;
        let allowed = Arc::new(AtomicUsize::new(0));
        let (channel, padding) = (channel.to_owned(), "x".repeat(padding));
        let (for_thread, kept) = (Arc::clone(&allowed), ids.clone());
        let thread = std::thread::spawn(move || publish(socket, &channel, &padding, &for_thread, &kept));
        Ok(Self { allowed, thread: Some(thread), ids: ids.clone() })
    }

    /// Lets it publish up to event `n`.
    pub fn allow(&self, n: usize) {
        self.allowed.store(n, Ordering::Release);
    }

    /// Waits until everything that is allowed is published.
    ///
    /// # Errors
    /// When it takes too long, or the publisher failed.
    pub fn wait(&mut self, within: Duration) -> Result<()> {
        let goal = self.allowed.load(Ordering::Acquire);
        let published = crate::server::wait_until("all is published", within, || {
            self.ids.count() >= goal || self.failed()
        });
        if self.failed() {
            return self.finish();
        }
        published
    }

    /// Whether it stopped by itself.
    pub fn failed(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Stops it.
    ///
    /// # Errors
    /// What went wrong on its thread.
    pub fn finish(&mut self) -> Result<()> {
        self.allow(STOP);
        let joined = self.thread.take().map(|thread| thread.join().map_err(|_| "the publisher panicked"));
        joined.transpose()?.unwrap_or(Ok(()))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

fn publish(
    mut socket: client::Socket,
    channel: &str,
    padding: &str,
    allowed: &AtomicUsize,
    ids: &Ids,
) -> Result<()> {
    let mut sent = 0;
    loop {
        let allowed = allowed.load(Ordering::Acquire);
        if allowed == STOP {
            return Ok(());
        }
        let acknowledged = ids.count();
        if sent < allowed && sent - acknowledged < ON_THE_WAY_MAX {
            sent += 1;
            let data = format!(r#"{{"n":{sent},"padding":"{padding}"}}"#);
            let message = format!(r#"{{"type":"publish","channel":"{channel}","data":{data}}}"#);
            socket.send(Message::text(message)).map_err(|error| format!("cannot publish: {error}"))?;
        } else if acknowledged < sent {
            let deadline = Instant::now() + Duration::from_secs(20);
            match client::read_socket(&mut socket, deadline)? {
                Some(Message::Text(reply)) => ids.push(event_id(&reply)?),
                Some(Message::Ping(_)) => {}
                other => {
                    return Err(format!(
                        "expected event {} to be published, got {other:?}",
                        acknowledged + 1
                    ));
                }
            }
        } else {
            crate::server::pause();
        }
    }
}

fn event_id(reply: &str) -> Result<String> {
    let reply: serde_json::Value = serde_json::from_str(reply).map_err(|error| error.to_string())?;
    reply["event_id"].as_str().map(str::to_owned).ok_or(format!("not published: {reply}"))
}
