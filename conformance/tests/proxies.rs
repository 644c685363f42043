//! Runs every case of `cases/` over every transport that it names through each proxy with a configuration in
//! `deploy/`, a line for each. An argument picks cases by a part of their name.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use tidewire_conformance::Result;
use tidewire_conformance::case::{self, Case};
use tidewire_conformance::proxy::{Kind, Proxy, TRUSTING, Variant};
use tidewire_conformance::runner;
use tidewire_conformance::server::{Log, Servers};

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
    let fronts = Arc::new(Fronts::default());
    let mut trials = Vec::new();
    for case in cases.into_iter().map(Arc::new) {
        for kind in Kind::ALL.into_iter().filter(|kind| !case.not_through.contains_key(kind.name())) {
            let routes = case.routes().unwrap_or_default();
            trials.extend(routes.into_iter().map(|route| trial(&case, route, kind, &fronts)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(case: &Arc<Case>, route: Vec<&'static str>, kind: Kind, fronts: &Arc<Fronts>) -> Trial {
    let over = if route.is_empty() { "wire".to_owned() } else { route.join(">") };
    let name = format!("{} [{over}] through {}", case.name, kind.name());
    let (case, fronts) = (Arc::clone(case), Arc::clone(fronts));
    Trial::test(name, move || {
        let proxy = fronts.of(kind, &case.config)?;
        runner::run(&proxy.url, &case, &route, None).map_err(Failed::from)
    })
}

/// The proxies of a run: one of each kind for each configuration of the server behind it, started when first needed.
#[derive(Debug, Default)]
struct Fronts {
    /// Dropped before the servers.
    running: Mutex<HashMap<(Kind, String), Arc<Proxy>>>,
    servers: Servers,
}

impl Fronts {
    fn of(&self, kind: Kind, config: &str) -> Result<Arc<Proxy>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(proxy) = running.get(&(kind, config.to_owned())) {
            return Ok(Arc::clone(proxy));
        }
        // A server of its own: some cases fill theirs.
        let own = format!("# behind {}\nh2c = {}\n{TRUSTING}{config}", kind.name(), kind == Kind::Nghttpx);
        let url = self.servers.with(&own, Log::Memory)?;
        let authority = url.trim_start_matches("http://");
        let proxy = Arc::new(Proxy::start(kind, authority, &Variant::default())?);
        running.insert((kind, config.to_owned()), Arc::clone(&proxy));
        Ok(proxy)
    }
}
