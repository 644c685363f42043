//! Pure logic of Tidewire.
#![forbid(unsafe_code)]

pub mod websocket;
