//! How a record is shown: to a person, or as JSON to a program. Must not know how anything was found.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::faults::{Fault, Weight};
use super::record::{Record, State, Way};

/// What the visit was to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) url: &'a str,
    pub(super) channel: &'a str,
}

/// For a person.
pub(super) fn human(place: Place<'_>, record: &Record) -> String {
    let mut out = format!("{}, channel {}\n\n", place.url, place.channel);
    for way in Way::EACH {
        let state = match record.state(way) {
            State::Works => "works",
            State::Broken => "BROKEN",
            State::Unchecked => "not checked",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{:<24}{state:<13}{}", way.name(), record.details(way).join(", "));
    }
    for fault in found(record) {
        let kind = if fault.weight() == Weight::Note { "note: " } else { "" };
        let _ = writeln!(out, "\n{kind}{}", fault.code());
        for finding in record.findings.iter().filter(|finding| finding.fault == fault) {
            let _ = writeln!(out, "  {}: {}", finding.way.name(), finding.observed);
        }
        for (place, how) in fault.mends() {
            let _ = writeln!(out, "  what mends it, {place}: {how}");
        }
    }
    if !record.unchecked.is_empty() {
        out.push_str("\nnot checked\n");
    }
    for unchecked in &record.unchecked {
        let _ = writeln!(out, "  {}: {}", unchecked.what, unchecked.why);
    }
    let problems = found(record).into_iter().filter(|fault| fault.weight() == Weight::Problem).count();
    match problems {
        0 => out.push_str("\nnothing is wrong\n"),
        1 => out.push_str("\n1 thing is wrong\n"),
        count => drop(writeln!(out, "\n{count} things are wrong")),
    }
    out
}

/// For a program. Members may be added; those that are there stay.
pub(super) fn json(place: Place<'_>, record: &Record) -> Value {
    let transports = Way::EACH
        .map(|way| json!({"transport": way.name(), "state": record.state(way), "seen": record.details(way)}));
    let findings: Vec<Value> = record
        .findings
        .iter()
        .map(|finding| {
            let mends = finding.fault.mends().iter().map(|(place, how)| json!({"where": place, "how": how}));
            json!({
                "code": finding.fault.code(),
                "weight": if finding.fault.weight() == Weight::Note { "note" } else { "problem" },
                "transport": finding.way.name(),
                "observed": finding.observed,
                "mends": mends.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "url": place.url,
        "channel": place.channel,
        "result": if record.is_fine() { "fine" } else { "broken" },
        "transports": transports,
        "findings": findings,
        "unchecked": record.unchecked,
        "heartbeat_ms": record.heartbeat_ms,
    })
}

/// The faults that were found, each once.
fn found(record: &Record) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for finding in &record.findings {
        if !faults.contains(&finding.fault) {
            faults.push(finding.fault);
        }
    }
    faults
}
