//! How events and answers look on each wire: PROTOCOL.md as code, framing only.
//! Must not know who reads, how far they are, or what a socket is.

pub mod binary;
mod frames;
pub mod json;
pub mod message;
pub mod poll;
pub mod sse;

pub use frames::{Form, Frames};
