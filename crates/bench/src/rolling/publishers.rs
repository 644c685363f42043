//! Publishers that never stop: each has one request under way, and repeats it under the same key until it is taken.
//! Threads of their own, so that waiting for an answer holds up nobody else. Know no subscriber.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::clock::Clock;
use crate::payload::{Payload, Stamp};
use crate::targets::channel_name;
use crate::wire::http;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Between two attempts at the same event.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// With [`AGAIN_AFTER`] and answers at once, more than a minute.
const ATTEMPTS_MAX: u32 = 2_000;

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    accepted: AtomicU64,
    longest_ns: AtomicU64,
}

pub(super) struct Publishers {
    counts: Arc<Counts>,
    /// Each gives how many events its channels have, in the order of its channels.
    threads: Vec<JoinHandle<Result<Vec<u32>>>>,
    channels: u32,
}

impl Publishers {
    pub(super) fn start(
        channels: u32,
        count: u32,
        size: usize,
        address: SocketAddr,
        clock: Clock,
    ) -> Result<Publishers> {
        let count = count.clamp(1, channels);
        let counts = Arc::new(Counts::default());
        let mut threads = Vec::new();
        for first in 0..count {
            let mut publisher = Publisher {
                address,
                clock,
                counts: Arc::clone(&counts),
                payload: Payload::new(size)?,
                stream: None,
                received: Vec::new(),
            };
            let own: Vec<u32> = (first..channels).step_by(count as usize).collect();
            threads.push(thread::spawn(move || publisher.run(&own)));
        }
        Ok(Publishers { counts, threads, channels })
    }

    /// Events taken so far.
    pub(super) fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn begin_count(&self) {
        self.counts.longest_ns.store(0, Ordering::Relaxed);
    }

    /// How long the slowest event since [`Publishers::begin_count`] took until it was acknowledged.
    pub(super) fn longest_ms(&self) -> f64 {
        self.counts.longest_ns.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// Ends them; how many events each channel has.
    pub(super) fn end(self) -> Result<Vec<u32>> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let step = self.threads.len();
        let mut published = vec![0; self.channels as usize];
        for (first, thread) in self.threads.into_iter().enumerate() {
            let own = thread.join().map_err(|_| anyhow!("a publisher panicked"))??;
            for (place, count) in published[first..].iter_mut().step_by(step).zip(own) {
                *place = count;
            }
        }
        Ok(published)
    }
}

struct Publisher {
    address: SocketAddr,
    clock: Clock,
    counts: Arc<Counts>,
    payload: Payload,
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

impl Publisher {
    fn run(&mut self, channels: &[u32]) -> Result<Vec<u32>> {
        let mut sequences = vec![0_u32; channels.len()];
        for place in (0..channels.len()).cycle() {
            if self.counts.stop.load(Ordering::Relaxed) {
                break;
            }
            self.publish(channels[place], sequences[place])?;
            sequences[place] += 1;
        }
        Ok(sequences)
    }

    fn publish(&mut self, channel: u32, sequence: u32) -> Result<()> {
        let due_ns = self.clock.now_ns();
        let body = self.payload.stamped(Stamp { channel, sequence, due_ns });
        let mut request = Vec::new();
        let path = format!("/v1/channels/{}/events", channel_name(channel));
        let key = format!("Idempotency-Key: {channel}-{sequence}\r\n");
        http::write_post(&mut request, "bench", &path, &key, body);
        for _ in 0..ATTEMPTS_MAX {
            match self.ask(&request) {
                Ok(200 | 201) => {
                    self.counts.accepted.fetch_add(1, Ordering::Relaxed);
                    self.counts.longest_ns.fetch_max(self.clock.now_ns() - due_ns, Ordering::Relaxed);
                    return Ok(());
                }
                // The proxy without a server, or a server that goes: the same again, on a new connection.
                Ok(502..=504) | Err(_) => self.stream = None,
                Ok(status) => bail!("a publish got {status}: {}", String::from_utf8_lossy(&self.received)),
            }
            thread::sleep(AGAIN_AFTER);
        }
        bail!("event {sequence} of channel {channel} was not taken in {ATTEMPTS_MAX} attempts")
    }

    /// Sends one request and waits for its answer.
    fn ask(&mut self, request: &[u8]) -> Result<u16> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, ANSWER_WITHIN)?;
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        let stream = self.stream.as_mut().context("just connected")?;
        stream.write_all(request)?;
        self.received.clear();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                bail!("the connection ended before the answer");
            }
            self.received.extend_from_slice(&buffer[..count]);
            if let Some((response, _)) = http::cut_response(&self.received)? {
                return Ok(response.status);
            }
        }
    }
}
