//! A connection that waits for what it asks, and events that go out at fixed times on one server and are heard on the next.
//! For scenarios that measure what something else does to them. Knows no scenario.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use crate::report::Sample;
use crate::targets::{Server, channel_name};
use crate::wire::{Unit, http, websocket};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The channel of the events that are measured; no other has this number.
const PROBE: u32 = u32::MAX;
const PROBES_PER_S: f64 = 200.0;
pub(super) const LATENCY_US_MAX: u64 = 60_000_000;

/// One connection.
pub(super) struct Line {
    stream: TcpStream,
    input: Vec<u8>,
}

/// What publishes on one server and hears on the next.
pub(super) struct Probe {
    ear: Line,
    mouth: Line,
    message: String,
}

pub(super) fn enter(sample: &mut Sample, keys: [&'static str; 2], latency_us: &Histogram<u64>) {
    for (key, quantile) in keys.into_iter().zip([0.5, 0.99]) {
        sample.insert(key, latency_us.value_at_quantile(quantile) as f64 / 1e3);
    }
}

pub(super) fn subscribe(channel: u32) -> String {
    format!("{{\"type\":\"subscribe\",\"channel\":\"{}\"}}", channel_name(channel))
}

pub(super) fn publish(channel: u32, size: usize) -> String {
    let data = "x".repeat(size.saturating_sub(2));
    format!("{{\"type\":\"publish\",\"channel\":\"{}\",\"data\":\"{data}\"}}", channel_name(channel))
}

impl Probe {
    pub(super) fn open(server: &Server, size: usize) -> Result<Probe> {
        let mut ear = Line::open(server.subscribe_address(1))?;
        ear.say(&[subscribe(PROBE)])?;
        ear.hear(b"{\"type\":\"subscribed\"")?;
        Ok(Probe { ear, mouth: Line::open(server.publish_address(0))?, message: publish(PROBE, size) })
    }

    /// Publishes at fixed times until they are over or `ended` says so; gives how long each took.
    pub(super) fn run(&mut self, duration: Duration, ended: impl Fn() -> bool) -> Result<Histogram<u64>> {
        let mut latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
        let begin = Instant::now();
        for number in 0..(PROBES_PER_S * duration.as_secs_f64()) as u32 {
            let due = begin + Duration::from_secs_f64(f64::from(number) / PROBES_PER_S);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if ended() {
                break;
            }
            self.mouth.say(std::slice::from_ref(&self.message))?;
            self.ear.hear(b"{\"type\":\"event\"")?;
            latency_us.saturating_record(due.elapsed().as_micros() as u64);
            self.mouth.hear(b"{\"type\":\"published\"")?;
        }
        Ok(latency_us)
    }
}

impl Line {
    pub(super) fn open(address: SocketAddr) -> Result<Line> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(&http::upgrade(&address.to_string(), "/v1/ws", false))?;
        let mut line = Line { stream, input: Vec::new() };
        loop {
            if let Some(end) = line.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                line.input.drain(..end + 4);
                return Ok(line);
            }
            line.read()?;
        }
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 64 << 10];
        let count = self.stream.read(&mut buffer).context("no answer")?;
        if count == 0 {
            bail!("the server closed the connection");
        }
        self.input.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    pub(super) fn say(&mut self, messages: &[String]) -> Result<()> {
        let mut out = Vec::new();
        messages.iter().for_each(|message| websocket::write_text(&mut out, message.as_bytes()));
        Ok(self.stream.write_all(&out)?)
    }

    /// Waits for a message that begins like that; others are let go.
    pub(super) fn hear(&mut self, beginning: &[u8]) -> Result<()> {
        let mut at = 0;
        loop {
            match websocket::cut(&self.input[at..])? {
                Some((Unit::Message { data, .. }, length)) => {
                    at += length;
                    if data.starts_with(beginning) {
                        self.input.drain(..at);
                        return Ok(());
                    }
                    if data.starts_with(b"{\"type\":\"error\"") || data.starts_with(b"{\"type\":\"gap\"") {
                        bail!("the server said {}", String::from_utf8_lossy(data));
                    }
                }
                Some((Unit::Close(code), _)) => bail!("the server closed with {code}"),
                Some((Unit::Ping(payload), length)) => {
                    let mut out = Vec::new();
                    websocket::write_pong(&mut out, payload);
                    at += length;
                    self.stream.write_all(&out)?;
                }
                Some((_, length)) => at += length,
                None => {
                    self.input.drain(..at);
                    at = 0;
                    self.read()?;
                }
            }
        }
    }
}
