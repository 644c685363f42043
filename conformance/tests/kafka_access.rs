//! A Kafka that wants to know who comes, by SCRAM and by PLAIN over TLS: who knows the password is let in, and whoever does
//! not is told so.

use std::time::Duration;

use tidewire_conformance::broker::Broker;
use tidewire_conformance::http;
use tidewire_conformance::kafka::Kafka;
use tidewire_conformance::launch::Launch;

type Outcome = Result<(), String>;

fn is_guarded(is_tls: bool) -> Outcome {
    let (kafka, certificate) = Kafka::guarded(is_tls)?;
    let (way, _) = kafka.way("test")?;
    let scheme = if is_tls { "kafka+tls" } else { "kafka" };
    let launch = |user: &str| {
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let url = format!("{scheme}://{user}{}?prefix=test&partitions=2", way.authority());
        Launch::sharing(&url).environment("SSL_CERT_FILE", certificate.clone())
    };
    let server = launch("alice:alice's").serve()?;
    let agent = http::agent(Duration::from_secs(20));
    let url = format!("{}/v1/channels/a/events", server.url);
    let answer = http::exchange(&agent, "POST", &url, &[], Some(b"1"))?;
    if answer.status != 201 {
        return Err(format!("{} {}", answer.status, answer.text()));
    }
    let said = launch("alice:other").refuse()?;
    if !said.contains("it does not let this user in") || said.contains("other") {
        return Err(format!("the refusal says {said}"));
    }
    launch("").refuse().map(drop)
}

#[test]
fn a_kafka_lets_in_by_scram_who_knows_the_password() -> Outcome {
    is_guarded(false)
}

#[test]
fn a_kafka_lets_in_by_plain_over_tls_who_knows_the_password() -> Outcome {
    is_guarded(true)
}
