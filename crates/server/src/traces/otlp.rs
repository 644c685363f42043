//! Spans in the JSON form of OTLP 1.x, as a collector takes them over HTTP. Must not send anything.

use serde_json::{Value as Json, json};
use tidewire_core::trace_context::Hex;

use super::{Span, Value};

/// OTLP's `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// Who made the spans.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) service: String,
    /// Tells this process from others of the service.
    pub(super) instance: String,
}

/// An `ExportTraceServiceRequest`. `ahead_us`: by how much the wall clock, since 1970, is ahead of the spans' clock.
pub(super) fn request(resource: &Resource, spans: &[Span], ahead_us: u64) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let own = [
        ("service.name", Value::Text(resource.service.clone())),
        ("service.version", Value::Text(version.to_owned())),
        ("service.instance.id", Value::Text(resource.instance.clone())),
    ];
    let spans: Vec<Json> = spans.iter().map(|span| one(span, ahead_us)).collect();
    let scope = json!({ "name": "tidewire", "version": version });
    let request = json!({
        "resourceSpans": [{
            "resource": { "attributes": attributes(&own) },
            "scopeSpans": [{ "scope": scope, "spans": spans }],
        }],
    });
    request.to_string().into_bytes()
}

fn one(span: &Span, ahead_us: u64) -> Json {
    // OTLP has 64-bit numbers as strings.
    let time = |us: u64| ((us + ahead_us) * 1000).to_string();
    let mut json = json!({
        "traceId": Hex(&span.trace_id).to_string(),
        "spanId": Hex(&span.span_id).to_string(),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": time(span.begin_us),
        "endTimeUnixNano": time(span.end_us),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent) = &span.parent {
        json["parentSpanId"] = Hex(parent).to_string().into();
    }
    if let Some(state) = &span.state {
        json["traceState"] = (**state).into();
    }
    if let Some(error) = span.error {
        json["status"] = json!({ "code": ERROR, "message": error });
    }
    json
}

fn attributes(attributes: &[(&'static str, Value)]) -> Vec<Json> {
    let one = |(key, value): &(&str, Value)| {
        let value = match value {
            Value::Text(text) => json!({ "stringValue": text }),
            Value::Number(number) => json!({ "intValue": number.to_string() }),
        };
        json!({ "key": key, "value": value })
    };
    attributes.iter().map(one).collect()
}
