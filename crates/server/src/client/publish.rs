//! `tidewire pub`: publishes one event after the other over one connection that is kept alive.
//! Must not know how lines are read, nor how an event gets to the server.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::Failure;
use super::arguments::PublishArguments;
use super::endpoint::Endpoint;
use super::lines::{self, LineError};
use super::report::{self, Progress, Reporter};
use super::sender::{Outgoing, Sender};

/// Runs the command.
pub(super) fn run(arguments: &PublishArguments) -> Result<ExitCode, Failure> {
    let endpoint = Endpoint::of(&arguments.server).map_err(Failure::Usage)?;
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
    read.map_err(|error| Failure::Failed(error.describe(&path.display().to_string())))
}

/// What is the same for all events of a run.
struct Publisher<'a> {
    arguments: &'a PublishArguments,
    sender: Sender,
    /// Makes the idempotency keys of this run differ from those of every other run.
    run: String,
    /// None once nobody reads the ids any more. The events are still published: they are the purpose.
    ids: Option<io::Stdout>,
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
        let retry_for = Duration::from_secs(arguments.retry_for.into());
        Ok(Self {
            arguments,
            sender: Sender::new(endpoint, &arguments.channel, retry_for, Reporter::new(true)),
            run: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
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
                Err(error) => return Err(Failure::Failed(error.describe(&format!("line {number}")))),
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

    /// Publishes one event, and gives its id.
    fn publish(&self, data: &[u8], idempotency_key: &str) -> Result<String, String> {
        let outgoing = Outgoing {
            data,
            event: self.arguments.event.as_deref(),
            key: self.arguments.key.as_deref(),
            content_type: self.arguments.content_type.as_deref(),
            idempotency_key,
        };
        self.sender.publish(outgoing).map(|published| published.id)
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
