//! The generator and the baseline against each other, as processes: counts, never times.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn run(scenario: &[&str], json: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tidewire-bench"))
        .arg("run")
        .args(scenario)
        .args(["--targets", "baseline", "--rounds", "1", "--json"])
        .arg(json)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read_to_string(json).expect("the report was written");
    serde_json::from_str(&report).expect("the report is JSON")
}

fn sample(report: &Value, key: &str) -> f64 {
    report["series"][0]["samples"][key][0].as_f64().expect("the report has this figure")
}

fn assert_no_faults(report: &Value) {
    for key in ["lost", "repeated", "reordered", "closed"] {
        assert_eq!(sample(report, key), 0.0, "{key}");
    }
}

#[test]
fn fifty_subscribers_get_every_event_once_and_in_order() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = [
        "fanout",
        "--subscribers",
        "50",
        "--rate",
        "100",
        "--duration",
        "1",
        "--warm-up",
        "0.1",
        "--size",
        "200",
    ];
    let report = run(&scenario, &folder.path().join("report.json"));
    assert_no_faults(&report);
    assert_eq!(sample(&report, "deliveries"), 50.0 * 100.0);
    assert_eq!(sample(&report, "wire_bytes"), 204.0, "200 bytes of data and a frame's header");
}

#[test]
fn each_channel_reaches_its_own_subscriber() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario =
        ["many-channels", "--channels", "50", "--rate", "500", "--duration", "0.5", "--warm-up", "0.1"];
    let report = run(&scenario, &folder.path().join("report.json"));
    assert_no_faults(&report);
    assert_eq!(sample(&report, "deliveries"), 250.0);
}

#[test]
fn a_flood_loses_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = ["saturation", "--subscribers", "20", "--duration", "0.5", "--warm-up", "0.1"];
    let report = run(&scenario, &folder.path().join("report.json"));
    assert_no_faults(&report);
    assert!(sample(&report, "deliveries") > 1000.0);
}
