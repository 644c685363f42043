//! `tidewire pub`: publishes one event after the other over one connection that is kept alive.
//! Must not know how lines are read, nor how long to wait between attempts.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::Agent;

use super::Failure;
use super::arguments::PublishArguments;
use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::lines::{self, LineError};
use super::report::Progress;
use super::transport::Interruption;
use super::{http, report};

/// The first wait before another attempt is at most this.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// No wait before another attempt is longer, unless the server asks for it.
const BACKOFF_CAP: Duration = Duration::from_secs(5);

/// The bounds of one attempt: it ends with the time for all attempts, but is given a fair chance.
const ATTEMPT_MIN: Duration = Duration::from_secs(5);
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// Runs the command.
pub(super) fn run(arguments: &PublishArguments) -> Result<ExitCode, Failure> {
    let endpoint = Endpoint::parse(&arguments.url).map_err(Failure::Usage)?;
    let mut publisher = Publisher::new(arguments, &endpoint)?;
    if let Some(path) = &arguments.file {
        publisher.publish_one(&read_file(path)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    match arguments.data.as_deref() {
        Some("-") => publisher.publish_lines(&mut io::stdin().lock())?,
        Some(data) => publisher.publish_one(data.as_bytes())?,
        None if io::stdin().is_terminal() => {
            let message =
                "no data: give it as an argument, or pipe it in (`-` reads lines from the terminal)";
            return Err(Failure::Usage(message.to_owned()));
        }
        None => publisher.publish_lines(&mut io::stdin().lock())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path == Path::new("-") {
        lines::whole(io::stdin().lock())
    } else {
        File::open(path).map_err(LineError::Io).and_then(lines::whole)
    };
    read.map_err(|error| failed_input(&path.display().to_string(), &error))
}

fn failed_input(what: &str, error: &LineError) -> Failure {
    Failure::Failed(match error {
        LineError::TooLong => format!("{what} is longer than {} bytes", lines::BYTES_MAX),
        LineError::Io(error) => format!("cannot read {what}: {error}"),
    })
}

/// What is the same for all events of a run.
struct Publisher<'a> {
    arguments: &'a PublishArguments,
    agent: Agent,
    url: String,
    /// Makes the idempotency keys of this run differ from those of every other run.
    run: String,
    retry_for: Duration,
    /// None once nobody reads the ids any more. The events are still published: they are the purpose.
    ids: Option<io::Stdout>,
}

#[derive(Deserialize)]
struct Published {
    id: String,
}

impl<'a> Publisher<'a> {
    fn new(arguments: &'a PublishArguments, endpoint: &Endpoint) -> Result<Self, Failure> {
        let options = [
            ("--event", &arguments.event),
            ("--key", &arguments.key),
            ("--idempotency-key", &arguments.idempotency_key),
            ("--content-type", &arguments.content_type),
        ];
        for (option, value) in options {
            if value.as_ref().is_some_and(|value| value.chars().any(char::is_control)) {
                return Err(Failure::Usage(format!("{option} must have no control characters")));
            }
        }
        Ok(Self {
            arguments,
            agent: http::agent(ATTEMPT_MAX),
            url: endpoint.publish(&arguments.channel),
            run: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
            retry_for: Duration::from_secs(arguments.retry_for.into()),
            ids: (!arguments.quiet).then(io::stdout),
        })
    }

    fn publish_one(&mut self, data: &[u8]) -> Result<(), Failure> {
        let key = self.arguments.idempotency_key.clone().unwrap_or_else(|| self.run.clone());
        let id = self.publish(data, &key).map_err(Failure::Failed)?;
        self.print_id(&id);
        Ok(())
    }

    fn publish_lines(&mut self, input: &mut impl BufRead) -> Result<(), Failure> {
        if self.arguments.idempotency_key.is_some() {
            let message = "--idempotency-key is for one event; lines get keys of their own";
            return Err(Failure::Usage(message.to_owned()));
        }
        let mut progress = Progress::new(self.arguments.quiet);
        let mut published = 0;
        let outcome = self.publish_each_line(input, &mut published, &mut progress);
        progress.finish(published);
        outcome
    }

    fn publish_each_line(
        &mut self,
        input: &mut impl BufRead,
        published: &mut u64,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut line = Vec::new();
        loop {
            let number = *published + 1;
            match lines::next(input, &mut line) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(failed_input(&format!("line {number}"), &error)),
            }
            let key = format!("{}-{number}", self.run);
            let id = self
                .publish(&line, &key)
                .map_err(|why| Failure::Failed(format!("line {number}: {why} ({published} published)")))?;
            self.print_id(&id);
            *published = number;
            progress.update(number);
        }
    }

    /// Publishes one event, with as many attempts as the time allows, and gives its id.
    fn publish(&self, data: &[u8], idempotency_key: &str) -> Result<String, String> {
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
        let deadline = Instant::now() + self.retry_for;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = self.attempt(data, idempotency_key, left.clamp(ATTEMPT_MIN, ATTEMPT_MAX));
            let (reason, after) = match attempt {
                Ok(id) => return Ok(id),
                Err(Interruption::Refused(message)) => return Err(message),
                Err(Interruption::Lost { reason, after }) => (reason, after),
            };
            let wait = backoff.next(after, fastrand::f64());
            let left = deadline.saturating_duration_since(Instant::now());
            if wait >= left {
                return Err(format!("{reason}; given up after {} s", self.retry_for.as_secs()));
            }
            thread::sleep(wait);
        }
    }

    fn attempt(&self, data: &[u8], idempotency_key: &str, time: Duration) -> Result<String, Interruption> {
        let mut request = self.agent.post(&self.url).header("idempotency-key", idempotency_key);
        let headers = [
            ("tidewire-event", &self.arguments.event),
            ("tidewire-key", &self.arguments.key),
            ("content-type", &self.arguments.content_type),
        ];
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(name, value.as_bytes());
            }
        }
        let request = request.config().timeout_global(Some(time)).build();
        let mut response = request.send(data).map_err(|error| http::interruption(&error))?;
        let body = response.body_mut().with_config().limit(http::BODY_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| http::interruption(&error))?;
        if !response.status().is_success() {
            return Err(http::refusal(response.status(), response.headers(), &body));
        }
        let published: Published = serde_json::from_slice(&body).map_err(|error| {
            Interruption::Refused(format!("not the answer of a Tidewire server: {error}"))
        })?;
        Ok(published.id)
    }

    fn print_id(&mut self, id: &str) {
        if let Some(out) = &mut self.ids
            && let Err(error) = writeln!(out, "{id}").and_then(|()| out.flush())
        {
            self.ids = None;
            if error.kind() != io::ErrorKind::BrokenPipe {
                report::error(&format!("cannot print ids: {error}"));
            }
        }
    }
}
