//! How a server is asked to go away, and how it takes over the sockets of one before it. Must not know what going
//! away means to connections (`shard::timers`).

use std::net::TcpListener;
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Context;
use listenfd::ListenFd;

/// Asks a server to drain, or waits until somebody has.
#[derive(Debug, Default)]
pub struct Drain {
    asked: Mutex<bool>,
    wake: Condvar,
}

impl Drain {
    /// Asks the server to drain. It makes no difference who asks, or how often.
    pub fn ask(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Whether somebody has asked.
    pub fn is_asked(&self) -> bool {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until somebody asks.
    pub fn wait(&self) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.wake.wait_while(asked, |asked| !*asked));
    }
}

/// Listening sockets that whoever started this process holds open, so that no connection is refused between two
/// servers (systemd's `LISTEN_FDS`): the first is for `listen`, the next for `tls.listen` and `admin.listen`, as far
/// as those are configured.
pub(crate) struct Given {
    sockets: ListenFd,
    next: usize,
}

impl Given {
    pub(crate) fn take() -> Self {
        Self { sockets: ListenFd::from_env(), next: 0 }
    }

    /// # Errors
    /// If it is no listening socket of TCP.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<TcpListener>> {
        if self.next >= self.sockets.len() {
            return Ok(None);
        }
        let number = self.next;
        self.next += 1;
        let wrong =
            || format!("socket {number} that was passed on (LISTEN_FDS) is not a listening one of TCP");
        self.sockets.take_tcp_listener(number).with_context(wrong)
    }
}
