//! `tidewire history`: reads what a channel holds page by page, for people or as an export.
//! Must not know how events are printed, nor how an import publishes them.

use std::io::{self, Stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ureq::Agent;

use super::arguments::{Format, HistoryArguments, SubscribeArguments, TransportName};
use super::endpoint::Endpoint;
use super::position::Position;
use super::report::Reporter;
use super::sender::retried;
use super::session::{Ending, Session};
use super::transport::{self, SILENCE_MAX};
use super::{Failure, http, import, subscribe};

/// How many events a server gives that is not told. Only a smaller number is asked for, so that a server
/// whose own bound is lower is not asked for more than it grants.
const PAGE_EVENTS: u64 = 100;

/// Runs the command.
pub(super) fn run(arguments: &HistoryArguments) -> Result<ExitCode, Failure> {
    if let Some(path) = &arguments.import {
        return import::run(arguments, path);
    }
    if arguments.follow {
        return subscribe::run(&following(arguments));
    }
    let endpoint = Endpoint::of(&arguments.server).map_err(Failure::Usage)?;
    let mut pages = Pages {
        arguments,
        agent: http::agent(SILENCE_MAX, &endpoint),
        endpoint,
        reporter: Reporter::new(arguments.quiet),
    };
    let position = Position::new(vec![arguments.channel.clone()], Some(arguments.since.clone()));
    let (limit, format) = (arguments.limit, format(arguments));
    let mut session = Session::new(position, format, limit, None, pages.reporter, io::stdout());
    let outcome = pages.read(&mut session);
    match outcome {
        Ok(Ending::ReaderGone) if arguments.export => {
            Err(Failure::Failed("the export is not complete: nobody takes the output any more".to_owned()))
        }
        Ok(ending) => Ok(session.finish(ending, Instant::now())),
        Err(failure) => {
            session.abandon(Instant::now());
            Err(failure)
        }
    }
}

fn format(arguments: &HistoryArguments) -> Format {
    if arguments.json || arguments.export { Format::Exact } else { Format::Line }
}

/// What `tidewire sub` is to do so that nothing is missed between the events that are there and those to come.
fn following(arguments: &HistoryArguments) -> SubscribeArguments {
    SubscribeArguments {
        channels: vec![arguments.channel.clone()],
        server: arguments.server.clone(),
        transport: TransportName::Ws,
        since: Some(arguments.since.clone()),
        format: format(arguments),
        count: arguments.limit,
        timeout: None,
        interval: 1.0,
        cursor_file: None,
        quiet: arguments.quiet,
    }
}

/// The pages of one channel, one after the other.
struct Pages<'a> {
    arguments: &'a HistoryArguments,
    endpoint: Endpoint,
    agent: Agent,
    reporter: Reporter,
}

impl Pages<'_> {
    /// Hands page after page to the session, until there is no more.
    fn read(&mut self, session: &mut Session<Stdout>) -> Result<Ending, Failure> {
        let retry_for = Duration::from_secs(self.arguments.retry_for.into());
        let mut since = self.arguments.since.clone();
        loop {
            let limit = session.wanted().filter(|wanted| *wanted < PAGE_EVENTS);
            let channel = &self.arguments.channel;
            let ask = |_| transport::page(&self.agent, &self.endpoint, channel, &since, limit);
            let answer = retried(retry_for, self.reporter, ask).map_err(Failure::Failed)?;
            // What comes after a gap is not printed, so that an export never looks whole where it is not.
            if let Some(gap) =
                answer.gap.as_ref().filter(|_| self.arguments.export && !self.arguments.allow_gaps)
            {
                let message = format!("{}; --allow-gaps exports what is left", gap.describe());
                return Err(Failure::Failed(message));
            }
            if answer.more && answer.cursor == since {
                return Err(Failure::Failed("the server's answers do not get on".to_owned()));
            }
            let more = answer.more;
            since.clone_from(&answer.cursor);
            if let Some(ending) = session.handle_signals(transport::signals(answer))? {
                return Ok(ending);
            }
            if !more {
                return Ok(Ending::Complete);
            }
        }
    }
}
