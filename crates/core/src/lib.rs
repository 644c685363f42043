//! The pure half of Tidewire: what a channel log, an id, a cursor and each wire form *are*.
//!
//! Knows no socket, clock, thread, environment or runtime: bytes and time come in as arguments,
//! bytes and decisions go out. Everything here can be tested without waiting.
#![forbid(unsafe_code)]

pub mod channel;
pub mod cursor;
pub mod error;
pub mod event;
pub mod http1;
pub mod id;
pub mod limits;
pub mod liveness;
pub mod log;
pub mod proxy_protocol;
pub mod rate;
pub mod record;
pub mod time;
pub mod trace_context;
pub mod websocket;
pub mod wire;

pub use channel::ChannelName;
pub use cursor::{Cursor, Since};
pub use error::{Code, Problem};
pub use event::{Event, NewEvent, Payload};
pub use id::{Epoch, EventId};
pub use limits::Limits;
pub use time::Timestamp;
