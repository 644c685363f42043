//! What one of anything costs: measured on the machine of BENCHMARKS.md, but for what says that it is a guess. Must not
//! know what is planned.

/// Unit costs.
#[derive(Debug, Clone)]
pub(super) struct Costs {
    /// Bytes of an idle connection: the process, the kernel, and TLS in the binary (docs/deploying.md, "Memory").
    pub(super) connection_bytes: u64,
    pub(super) kernel_bytes: u64,
    pub(super) tls_bytes: u64,
    /// Bytes of a channel that is followed (docs/deploying.md, with room for what a backplane adds: a guess).
    pub(super) channel_bytes: u64,
    /// Core time of an accepted connection with its subscriptions, and of a TLS handshake (docs/deploying.md, "CPU").
    pub(super) connect_us: f64,
    pub(super) handshake_us: f64,
    /// Core time of a delivery, of a publish over HTTP, and of an event that comes from the backplane (a guess).
    pub(super) delivery_us: f64,
    pub(super) publish_us: f64,
    pub(super) arrival_us: f64,
    /// Core time of a heartbeat for a connection, a second.
    pub(super) idle_us: f64,
    /// A broker's time for a publish (docs/scaling.md: 30,000 a second), and, both guesses that are to be measured yet, for
    /// each server that is told of it and for a channel that a server begins to follow.
    pub(super) broker_publish_us: f64,
    pub(super) broker_told_us: f64,
    pub(super) broker_follow_us: f64,
}

impl Costs {
    pub(super) fn known() -> Self {
        Self {
            connection_bytes: 750,
            kernel_bytes: 4_700,
            tls_bytes: 8_192,
            channel_bytes: 2_048,
            connect_us: 30.0,
            handshake_us: 300.0,
            delivery_us: 5.0,
            publish_us: 20.0,
            arrival_us: 10.0,
            idle_us: 0.8,
            broker_publish_us: 33.0,
            broker_told_us: 3.0,
            broker_follow_us: 20.0,
        }
    }
}
