//! Runs every case of `cases/` over every transport that it names, a line for each, on servers of its own with
//! the log in memory, on disk, and at each kind of broker that two of them share, or, with `TIDEWIRE_URL`, on one that runs already. An argument picks cases by
//! a part of their name.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use tidewire_conformance::broker::Kind;
use tidewire_conformance::case::{self, Case};
use tidewire_conformance::client::SPOILS;
use tidewire_conformance::runner;
use tidewire_conformance::server::{Log, Server, Servers};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cases mostly wait, each on channels of its own.
    arguments.test_threads.get_or_insert(8);
    let cases = match case::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")) {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let servers = Arc::new(Servers::default());
    let outside = Server::from_environment().is_some();
    let mut trials = Vec::new();
    for case in cases {
        let case = Arc::new(case);
        for route in case.routes().unwrap_or_default() {
            trials.push(trial(&case, route.clone(), &servers, Log::Memory, None, outside));
            if case.name.starts_with("faults/") {
                let spoilt = |spoil| trial(&case, route.clone(), &servers, Log::Memory, Some(spoil), outside);
                trials.extend(SPOILS.map(spoilt));
            } else if case.memory_only.is_none() && !outside {
                trials.push(trial(&case, route.clone(), &servers, Log::Disk, None, outside));
                for kind in Kind::ALL.into_iter().filter(|_| case.alone_only.is_none()) {
                    trials.push(trial(&case, route.clone(), &servers, Log::At(kind), None, outside));
                }
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// With a fault in between, the case must fail: what cannot fail checks nothing.
fn trial(
    case: &Arc<Case>,
    route: Vec<&'static str>,
    servers: &Arc<Servers>,
    log: Log,
    spoil: Option<&'static str>,
    outside: bool,
) -> Trial {
    let over = if route.is_empty() { "wire".to_owned() } else { route.join(">") };
    let fault = spoil.map(|fault| format!(" notices {fault}")).unwrap_or_default();
    let place = match log {
        Log::Memory => String::new(),
        Log::Disk => " on disk".to_owned(),
        Log::At(kind) => format!(" at a {} of two servers", kind.name()),
    };
    let name = format!("{} [{over}]{place}{fault}", case.name);
    let needs_own = outside && !case.config.is_empty();
    let (case, servers) = (Arc::clone(case), Arc::clone(servers));
    let play = move || {
        let url = servers.with(&case.config, log)?;
        match (runner::run(&url, &case, &route, spoil), spoil) {
            (outcome, None) => outcome.map_err(Failed::from),
            (Err(_), Some(_)) => Ok(()),
            (Ok(()), Some(fault)) => Err(Failed::from(format!("the case passes with the fault {fault}"))),
        }
    };
    Trial::test(name, play).with_ignored_flag(needs_own)
}
