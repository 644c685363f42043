//! The table, and which pattern to choose for which need, with the figures that say so.
//! Must not measure.

use super::patterns::{Pattern, Tally};

/// A stream counts as equally quick up to this factor.
const ALIKE: f64 = 1.5;

/// What a pattern did, in the figures that decide.
struct Figures {
    pattern: Pattern,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    down_bytes: f64,
    up_bytes: f64,
    requests: f64,
}

pub(super) fn print(tallies: &[Tally], published: u64, rate: f64, interval_s: f64) {
    println!("{published} events published, {rate}/s");
    println!(
        "{:<11} {:>7} {:>5} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>10}",
        "pattern", "events", "lost", "p50 ms", "p90 ms", "p99 ms", "max ms", "bytes down", "up", "requests"
    );
    println!("{:>72} {:>9} {:>10}", "/event", "/event", "/event");
    let mut all = Vec::new();
    for tally in tallies {
        let name = tally.pattern.name();
        match (figures(tally), &tally.failure) {
            (_, Some(failure)) => println!("{name:<11} does not work here: {failure}"),
            (None, None) => println!("{name:<11} saw no event"),
            (Some(f), None) => {
                let lost = published.saturating_sub(tally.latencies_us.len() as u64);
                println!(
                    "{name:<11} {:>7} {lost:>5} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>11.0} {:>9.0} {:>10.2}",
                    tally.latencies_us.len(),
                    f.p50_ms,
                    f.p90_ms,
                    f.p99_ms,
                    f.max_ms,
                    f.down_bytes,
                    f.up_bytes,
                    f.requests
                );
                if tally.out_of_order > u64::from(lost > 0) * lost {
                    println!("{:<11} {} events came out of order or twice", "", tally.out_of_order);
                }
                all.push(f);
            }
        }
    }
    println!();
    advice(&all, interval_s).iter().for_each(|line| println!("{line}"));
}

fn figures(tally: &Tally) -> Option<Figures> {
    let mut sorted = tally.latencies_us.clone();
    sorted.sort_unstable();
    let count = sorted.len();
    let at =
        |share: f64| sorted[((count as f64 * share).ceil() as usize).clamp(1, count) - 1] as f64 / 1000.0;
    let per_event = |total: u64| total as f64 / count as f64;
    (count > 0).then(|| Figures {
        pattern: tally.pattern,
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        down_bytes: per_event(tally.received_bytes),
        up_bytes: per_event(tally.sent_bytes),
        requests: per_event(tally.requests),
    })
}

/// One line for each need.
fn advice(all: &[Figures], interval_s: f64) -> Vec<String> {
    let of = |pattern| all.iter().find(|figures| figures.pattern == pattern);
    let (websocket, stream) = (of(Pattern::WebSocket), of(Pattern::EventStream));
    let (long, short) = (of(Pattern::LongPoll), of(Pattern::ShortPoll));
    let mut lines = Vec::new();
    match websocket {
        Some(w) => lines.push(format!(
            "both ways (chat, presence, editing, games): WebSocket, p99 {:.1} ms and {:.0} bytes per event",
            w.p99_ms, w.down_bytes
        )),
        None => lines
            .push("both ways: WebSocket does not get through here; publish by POST and read as below".into()),
    }
    let one_way = match (stream, websocket) {
        (Some(s), Some(w)) if s.p99_ms <= w.p99_ms * ALIKE => Some((s, "as quick as WebSocket")),
        (Some(s), None) => Some((s, "the only stream that gets through")),
        (Some(s), Some(_)) => Some((s, "slower than WebSocket, but plain HTTP")),
        (None, _) => None,
    };
    match one_way {
        Some((s, why)) => lines.push(format!(
            "to the client only (notifications, tickers, logs): SSE, {why} (p99 {:.1} ms, {:.0} bytes per event), \
             and browsers resume it by themselves",
            s.p99_ms, s.down_bytes
        )),
        None => lines.push("to the client only: SSE does not get through here; see why above".into()),
    }
    if let Some(l) = long {
        let base = stream
            .or(websocket)
            .map_or(String::new(), |s| format!(", {:.1} times a stream's", l.down_bytes / s.down_bytes));
        lines.push(format!(
            "where proxies break streams: long poll, p99 {:.1} ms, but {:.2} requests and {:.0} bytes per event{base}",
            l.p99_ms, l.requests, l.down_bytes
        ));
    }
    if let Some(s) = short {
        lines.push(format!(
            "where {interval_s} s late is early enough, or a cache should carry the load: short poll, p50 {:.0} ms, \
             {:.2} requests per event, and as many when nothing happens",
            s.p50_ms, s.requests
        ));
    }
    lines
}
