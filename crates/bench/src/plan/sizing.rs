//! What each server and broker has to carry while nothing happens. Must not know what happens.

use super::PlanArgs;
use super::costs::Costs;

/// No core is planned to be busier than this: storms need the rest.
const BUSY_MOST: f64 = 0.6;
/// A connection's descriptor, and those for everything else (docs/deploying.md).
const OTHER_DESCRIPTORS: u64 = 320;
/// Memory that is left to the system and to buffers of busy connections.
const MEMORY_MOST: f64 = 0.7;

/// What each carries.
#[derive(Debug, Clone)]
pub(super) struct Sizing {
    pub(super) servers: u64,
    pub(super) connections_each: u64,
    channels_each: u64,
    publishes: u64,
    /// Events that reach a server from the backplane, a second.
    arrivals_each: u64,
    /// Servers to which an event goes.
    told: f64,
    bytes_each: u64,
    /// Of all cores of a server, and of a broker's one.
    pub(super) server_busy: f64,
    pub(super) broker_busy: f64,
    network_each: u64,
}

/// A line of the table.
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) value: String,
    pub(super) bound: String,
}

impl Sizing {
    pub(super) fn of(plan: &PlanArgs, costs: &Costs, zones: u64) -> Self {
        let servers = plan.servers * zones;
        let connections_each = plan.connections.div_ceil(servers.max(1));
        let publishes = plan.deliveries / plan.audience.max(1);
        let reach = share_with(servers, plan.audience);
        let told = reach * servers as f64;
        let arrivals_each = (publishes as f64 * reach) as u64;
        let common_each = share_with_channels(plan, connections_each);
        let channels_each = connections_each * plan.own_channels + common_each;
        let tls = if plan.tls { costs.tls_bytes } else { 0 };
        let each = costs.connection_bytes + costs.kernel_bytes + tls;
        let deliveries_each = plan.deliveries as f64 / servers as f64;
        let server_us = deliveries_each * costs.delivery_us
            + publishes as f64 / servers as f64 * costs.publish_us
            + arrivals_each as f64 * costs.arrival_us
            + connections_each as f64 * costs.idle_us;
        let broker_us =
            publishes as f64 / plan.brokers as f64 * (costs.broker_publish_us + told * costs.broker_told_us);
        Self {
            servers,
            connections_each,
            channels_each,
            publishes,
            arrivals_each,
            told,
            bytes_each: connections_each * each + channels_each * costs.channel_bytes,
            server_busy: server_us / 1e6 / plan.cores as f64,
            broker_busy: broker_us / 1e6,
            network_each: (deliveries_each * plan.event_bytes as f64) as u64,
        }
    }

    pub(super) fn rows(&self, plan: &PlanArgs) -> Vec<Row> {
        let memory = plan.memory_gib as f64 * MEMORY_MOST;
        let gib = self.bytes_each as f64 / f64::from(1 << 30);
        let row = |what, value, bound| Row { what, value, bound };
        vec![
            row(
                "servers",
                self.servers.to_string(),
                format!("{} cores, {} GiB each", plan.cores, plan.memory_gib),
            ),
            row("connections on each", thousands(self.connections_each), String::new()),
            row(
                "file descriptors on each",
                thousands(self.connections_each + OTHER_DESCRIPTORS),
                "`LimitNOFILE`, `limits.connections`".to_owned(),
            ),
            row("channels that each follows", thousands(self.channels_each), String::new()),
            row("memory of each", format!("{gib:.1} GiB{}", too(gib > memory)), format!("{memory:.1} GiB")),
            row("of its cores, each is busy with", percent(self.server_busy), percent_bound()),
            row(
                "network out of each",
                format!("{:.0} Mbit/s", self.network_each as f64 * 8.0 / 1e6),
                String::new(),
            ),
            row("publishes per second", thousands(self.publishes), String::new()),
            row("servers that hear of an event", format!("{:.1}", self.told), String::new()),
            row("events a second that reach each server", thousands(self.arrivals_each), String::new()),
            row("brokers", plan.brokers.to_string(), "one core each".to_owned()),
            row("each broker is busy with", percent(self.broker_busy), percent_bound()),
        ]
    }
}

/// The part of all servers on which at least one of so many clients is.
fn share_with(servers: u64, clients: u64) -> f64 {
    1.0 - (1.0 - 1.0 / servers.max(1) as f64).powf(clients as f64)
}

/// How many of the common channels somebody on a server holds.
fn share_with_channels(plan: &PlanArgs, connections: u64) -> u64 {
    if plan.common == 0 {
        return 0;
    }
    let held = connections as f64 * plan.common_channels as f64 / plan.common as f64;
    (plan.common as f64 * (1.0 - (-held).exp())) as u64
}

fn too(is_so: bool) -> &'static str {
    if is_so { ", too much" } else { "" }
}

fn percent(part: f64) -> String {
    format!("{:.0} %{}", part * 100.0, too(part > BUSY_MOST))
}

fn percent_bound() -> String {
    format!("{:.0} %, to have room for storms", BUSY_MOST * 100.0)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{share_with, thousands};

    #[test]
    fn an_event_for_one_goes_to_one_and_for_many_to_all() {
        assert!((share_with(60, 1) * 60.0 - 1.0).abs() < 1e-9);
        assert!(share_with(60, 100_000) > 0.999);
    }

    #[test]
    fn numbers_are_read_by_thousands() {
        assert_eq!(
            (&*thousands(999), &*thousands(1_000), &*thousands(12_345_678)),
            ("999", "1,000", "12,345,678")
        );
    }
}
