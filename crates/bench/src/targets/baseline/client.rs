//! The generator's side of the baseline: starts it as a child and speaks its few bytes.

use std::process::Command;

use anyhow::{Context, Result};

use super::super::process::{Process, Scratch, accepts, free_address};
use super::super::{Dialect, Event, Heard, Seat, Server, Via};
use super::{CONTROL, tick_header};
use crate::wire::{Framing, websocket};

pub(crate) fn start() -> Result<Server> {
    let address = free_address()?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["baseline", "--listen", &address.to_string()]);
    let mut process = Process::start(&mut command, Scratch::new()?)?;
    process.wait_until("accepting", || accepts(address))?;
    Ok(Server::owned(address, Box::new(Baseline), process))
}

struct Baseline;

impl Dialect for Baseline {
    fn framing(&self, _seat: &Seat<'_>) -> Framing {
        Framing::BareWebSocket
    }

    fn opening(&self, seat: &Seat<'_>) -> Vec<u8> {
        seat.index.to_be_bytes().to_vec()
    }

    fn greet(&self, _seat: &Seat<'_>, _out: &mut Vec<u8>) -> u32 {
        1
    }

    fn hear(&self, _seat: &Seat<'_>, message: &[u8], _out: &mut Vec<u8>) -> Result<Heard> {
        Ok(if message == b"ok" { Heard::Reply } else { Heard::Nothing })
    }

    fn publish_opening(&self, _via: Via) -> Result<Vec<u8>> {
        Ok(CONTROL.to_be_bytes().to_vec())
    }

    fn write_publish(&self, _via: Via, event: &Event<'_>, out: &mut Vec<u8>) {
        let length = websocket::server_header_bytes(event.data.len()) + event.data.len();
        let count = event.audience.end - event.audience.start;
        out.extend_from_slice(&tick_header(event.audience.start, count, length as u32));
        websocket::write_server_text(out, event.data);
    }

    fn acknowledges_by_byte(&self) -> bool {
        true
    }
}
