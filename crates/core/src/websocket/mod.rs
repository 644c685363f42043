//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692), sans I/O: bytes in, messages out, and back.
//! Must not know sockets, channels, or what messages mean.

mod close;
mod decoder;
mod deflate;
mod frame;
mod handshake;
#[cfg(test)]
mod tests;
mod utf8;

pub use close::{CloseCode, CloseFrame, Violation};
pub use decoder::{Decoder, Input, Message, Role};
pub use deflate::{Deflater, Inflater, Window};
pub use frame::{OpCode, encode_close, encode_frame, encode_masked, push_header};
pub use handshake::{Deflate, accept_key, is_valid_key, negotiate_deflate};
