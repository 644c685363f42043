//! The baseline's process: accepts, keeps descriptors in slots, and sends in a bare loop.
//! Does nothing a server needs: no parsing of requests, no queue, no timer.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};
use socket2::{Domain, Socket, Type};

use super::{CONTROL, SLOTS_MAX, TICK_BYTES_MAX, TICK_HEADER_BYTES, parse_tick_header};

const LISTENER: Token = Token(0);
const TICKS: Token = Token(1);
const BACKLOG: i32 = 4096;
/// A baseline that nobody uses goes by itself, should its parent have been killed.
const IDLE_MAX: Duration = Duration::from_secs(120);
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How long one full socket may hold up the loop.
const SEND_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Serves until the control connection ends.
pub(crate) fn run(listen: SocketAddr) -> Result<()> {
    let listener = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.set_nonblocking(true)?;
    listener.bind(&listen.into()).with_context(|| format!("cannot listen on {listen}"))?;
    listener.listen(BACKLOG)?;
    let mut listener = TcpListener::from_std(listener.into());
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut state = State { slots: Vec::new(), ticks: None, input: Vec::new() };
    let mut events = Events::with_capacity(16);
    loop {
        match poll.poll(&mut events, Some(IDLE_MAX)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        ensure!(!events.is_empty(), "idle for {IDLE_MAX:?}");
        for event in &events {
            match event.token() {
                LISTENER => state.accept_all(&listener, &poll)?,
                _ => {
                    if !state.read_ticks()? {
                        return Ok(());
                    }
                }
            }
        }
    }
}

struct State {
    slots: Vec<Option<std::net::TcpStream>>,
    ticks: Option<mio::net::TcpStream>,
    input: Vec<u8>,
}

impl State {
    fn accept_all(&mut self, listener: &TcpListener, poll: &Poll) -> Result<()> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.seat(stream.into(), poll)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            }
        }
    }

    /// Hears a connection's number; one that says none (a look whether we listen) is dropped.
    fn seat(&mut self, mut stream: std::net::TcpStream, poll: &Poll) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HELLO_WITHIN))?;
        let mut hello = [0; 4];
        if stream.read_exact(&mut hello).is_err() {
            return Ok(());
        }
        let number = u32::from_be_bytes(hello);
        stream.set_nonblocking(true)?;
        if number == CONTROL {
            let mut stream = mio::net::TcpStream::from_std(stream);
            poll.registry().register(&mut stream, TICKS, Interest::READABLE)?;
            self.ticks = Some(stream);
            return Ok(());
        }
        ensure!(number < SLOTS_MAX, "connection number {number} is out of range");
        let slot = number as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        stream.write_all(&[0x81, 2, b'o', b'k'])?;
        self.slots[slot] = Some(stream);
        Ok(())
    }

    /// Reads and carries out ticks; false when the control connection has ended.
    fn read_ticks(&mut self) -> Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Some(ticks) = &mut self.ticks else { return Ok(true) };
            match ticks.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(_) => return Ok(false),
            }
            self.carry_out()?;
        }
    }

    fn carry_out(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some(header) = self.input.get(at..at + TICK_HEADER_BYTES) {
            let [first, count, length] = parse_tick_header(header.try_into().context("a tick header")?);
            ensure!(length <= TICK_BYTES_MAX, "a tick of {length} bytes");
            let start = at + TICK_HEADER_BYTES;
            let Some(block) = self.input.get(start..start + length) else { break };
            for slot in self.slots.iter().skip(first).take(count).flatten() {
                send_all(slot, block)?;
            }
            if let Some(ticks) = &mut self.ticks {
                ticks.write_all(b"+").context("cannot acknowledge a tick")?;
            }
            at = start + length;
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// One `send`, and what a full socket makes necessary.
fn send_all(socket: &std::net::TcpStream, mut block: &[u8]) -> Result<()> {
    loop {
        match send(socket, block, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) if count == block.len() => return Ok(()),
            Ok(count) => block = &block[count..],
            Err(rustix::io::Errno::AGAIN) => {
                let mut wanted = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
                if poll(&mut wanted, Some(&SEND_WITHIN)).context("poll")? == 0 {
                    bail!("a subscriber took nothing for {} s", SEND_WITHIN.tv_sec);
                }
            }
            // A subscriber that went away is no concern of a bare loop.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Ok(()),
            Err(error) => return Err(error).context("send"),
        }
    }
}
