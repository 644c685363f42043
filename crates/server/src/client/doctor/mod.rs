//! `tidewire doctor`: walks the path that users take, and says what is wrong with it and what mends it.
//! Must not look into the server: what a client can see is what its users get. Each probe is a file.

mod clocks;
mod connections;
mod faults;
mod framing;
mod idle;
mod line;
mod pages;
mod polls;
mod record;
mod report;
mod socket;
mod stream;
mod visit;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::Failure;
use super::endpoint::Endpoint;
use super::report::Reporter;
use super::stream::{HTTP_1_1, negotiated};
use faults::Fault;
use line::Answer;
use record::Way;
use report::Place;
use socket::{Refusal, handshake};
use visit::{PATIENCE, Unsent, Visit, by, describe, page, problem};

/// Find out what on the way to a server breaks which transport, and which setting mends it. Exit status 0: nothing
/// is wrong; 1: something is; 2: the server cannot be reached, or the command line is wrong.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Where the server is, as its users reach it: through their proxies.
    #[arg(env = "TIDEWIRE_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The channel to publish to and read; by default one of its own, which it deletes if it may.
    #[arg(long)]
    channel: Option<String>,
    /// Where pages that use the server come from, as in https://app.example.com.
    #[arg(long)]
    origin: Option<String>,
    /// The cookie that shall bring the token (`auth.cookie`).
    #[arg(long, value_name = "NAME")]
    cookie: Option<String>,
    /// The token is in this file; without it, the environment variable TIDEWIRE_TOKEN is used if it is set.
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// For how long connections are left idle at most, to see whether they are cut before a heartbeat comes. It ends
    /// sooner where the second heartbeat does.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle: u64,
    /// Leave no connection idle.
    #[arg(long, conflicts_with = "idle")]
    quick: bool,
    /// How many requests are held at once, to see whether the path has room for them.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=500))]
    connections: u16,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &DoctorArguments) -> Result<ExitCode, Failure> {
    let endpoint =
        Endpoint::with_token(&arguments.url, arguments.token_file.as_deref()).map_err(Failure::Usage)?;
    for value in arguments.origin.iter().chain(&arguments.cookie) {
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::Usage(format!("{value:?} is neither an origin nor a cookie's name")));
        }
    }
    let channel = arguments.channel.clone().unwrap_or_else(|| format!("doctor:{:016x}", fastrand::u64(..)));
    let mut visit = Visit::new(endpoint, channel);
    if let Err(why) = reach(&mut visit) {
        if arguments.json {
            print(&format!("{:#}\n", json!({"url": arguments.url, "result": "unreachable", "error": why})))?;
        }
        return Err(Failure::Usage(format!("{}: {why}", arguments.url)));
    }
    examine(&mut visit, arguments);
    if arguments.channel.is_none() {
        visit.tidy();
    }
    let place = Place { url: &arguments.url, channel: &visit.channel };
    if arguments.json {
        print(&format!("{:#}\n", report::json(place, &visit.record)))?;
    } else {
        print(&report::human(place, &visit.record))?;
    }
    Ok(if visit.record.is_fine() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(text: &str) -> Result<(), Failure> {
    let printed = std::io::stdout().write_all(text.as_bytes());
    printed.map_err(|error| Failure::Failed(format!("cannot print the report: {error}")))
}

/// Asks for the channel's place. An error if no Tidewire answers.
fn reach(visit: &mut Visit) -> Result<(), String> {
    let path = visit.events("since=latest");
    let answer = visit.get(&path, "").map_err(|trouble| trouble.to_string())?;
    if answer.head.version == "HTTP/1.0" {
        let observed = format!("requests of HTTP/1.1 are answered as HTTP/1.0{}", by(&answer.head));
        visit.record.find(Fault::HttpVersion, Way::All, observed);
    }
    if let Some(target) = answer.head.field("location").filter(|_| answer.head.status / 100 == 3) {
        return Err(format!("it points to {target}, where clients do not follow; use that address"));
    }
    match page(&answer) {
        Ok(page) => visit.start = Some(page.cursor),
        Err(_) if is_unauthenticated(&answer) && loses_authorization(visit) => {}
        Err(why) if problem(&answer).is_some() => visit.record.find(Fault::Refused, Way::Poll, why),
        Err(_) if matches!(answer.head.status, 502..=504) => {
            return Err(format!("{}: what is in front does not reach the server", describe(&answer)));
        }
        Err(why) => return Err(format!("no Tidewire answers there: {why}")),
    }
    Ok(())
}

fn is_unauthenticated(answer: &Answer) -> bool {
    problem(answer).is_some_and(|problem| problem.code == "unauthenticated")
}

/// Whether the token that is refused in `Authorization` is good where proxies do not look; puts it into the record.
fn loses_authorization(visit: &mut Visit) -> bool {
    let Some(token) = visit.endpoint.token() else { return false };
    let fields = format!("Sec-WebSocket-Protocol: tidewire.v1, bearer.{token}\r\n");
    let Err(Refusal::Answer(refused)) = handshake(visit, "", false) else { return false };
    if !is_unauthenticated(&refused) || handshake(visit, &fields, true).is_err() {
        return false;
    }
    let observed = format!(
        "a WebSocket opens with the token as a subprotocol, and with the same token in Authorization the answer is {}",
        describe(&refused)
    );
    visit.record.find(Fault::AuthorizationLost, Way::All, observed);
    true
}

/// The probes, each after those whose findings it must know.
fn examine(visit: &mut Visit, arguments: &DoctorArguments) {
    if visit.record.has_found(Fault::AuthorizationLost) {
        socket::examine(visit, Way::WebSocketSubprotocol);
        return visit.record.skip("all else", "the token does not arrive");
    }
    connections::examine(visit, usize::from(arguments.connections));
    match visit.publish() {
        Ok(sent) => {
            visit.publishes = true;
            let now_ms = i64::try_from(crate::clock::wall_clock().0).unwrap_or(i64::MAX);
            clocks::examine(&mut visit.record, &sent, now_ms);
        }
        Err(Unsent::Refused(why)) => {
            visit.record.find(Fault::Refused, Way::All, format!("publishing to {}: {why}", visit.channel));
        }
        Err(Unsent::Failed(why)) => {
            visit.record.find(Fault::TransportFailed, Way::All, format!("publishing: {why}"));
        }
    }
    polls::examine_poll(visit);
    polls::examine_long_poll(visit);
    stream::examine(visit);
    socket::examine(visit, Way::WebSocket);
    socket::examine(visit, Way::WebSocketSubprotocol);
    pages::examine_origins(visit, arguments.origin.as_deref());
    match &arguments.cookie {
        Some(name) => pages::examine_cookie(visit, name, arguments.origin.as_deref()),
        None => visit.record.skip("whether cookies arrive", "name the one with the token with --cookie"),
    }
    examine_version(visit);
    if arguments.quick {
        visit.record.skip("idle timeouts", "--quick");
    } else {
        let idle = arguments.idle;
        let quiet = arguments.json;
        Reporter::new(quiet)
            .say(&format!("leaving connections idle, until the second heartbeat or for {idle} s"));
        idle::examine(visit, Duration::from_secs(idle));
    }
}

/// What browsers get over TLS.
fn examine_version(visit: &mut Visit) {
    if !visit.endpoint.is_secure() {
        return;
    }
    match negotiated(&visit.endpoint, &[b"h2", HTTP_1_1], PATIENCE) {
        Ok(Some(chosen)) if chosen == b"h2" => {}
        Ok(_) => {
            let observed = "offered HTTP/2 and HTTP/1.1 (ALPN), and HTTP/2 was not chosen";
            visit.record.find(Fault::OnlyHttp1, Way::All, observed);
        }
        Err(error) => visit.record.skip("HTTP/2", error.to_string()),
    }
}
