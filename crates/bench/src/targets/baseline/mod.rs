//! The baseline: a process that sends one prepared frame to every descriptor by plain `send()`.
//! It is what delivery costs at least; every ratio in a report is a ratio to it.
//!
//! A connection says its number (4 bytes, big-endian) and hears `ok` as a frame. The connection that
//! says [`CONTROL`] then sends ticks: first slot, slot count and length (4 bytes each), then the bytes
//! that go to each of those slots; one byte comes back when all are sent.

pub(crate) mod client;
pub(crate) mod server;

/// The number of the connection that gives the ticks.
const CONTROL: u32 = u32::MAX;
/// First slot, slot count, length.
const TICK_HEADER_BYTES: usize = 12;
/// Largest block that one tick can send to a connection.
const TICK_BYTES_MAX: usize = 4 << 20;
/// Slots there can be; a descriptor limit comes first.
const SLOTS_MAX: u32 = 1 << 20;

/// The header of a tick that goes to `count` slots from `first` on.
pub(crate) fn tick_header(first: u32, count: u32, length: u32) -> [u8; TICK_HEADER_BYTES] {
    let mut header = [0; TICK_HEADER_BYTES];
    for (field, value) in header.chunks_exact_mut(4).zip([first, count, length]) {
        field.copy_from_slice(&value.to_be_bytes());
    }
    header
}

fn parse_tick_header(header: [u8; TICK_HEADER_BYTES]) -> [usize; 3] {
    [0, 4, 8]
        .map(|at| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_tick_header_reads_as_it_is_written() {
        assert_eq!(
            super::parse_tick_header(super::tick_header(7, 10_000, 4_000_000)),
            [7, 10_000, 4_000_000]
        );
    }
}
