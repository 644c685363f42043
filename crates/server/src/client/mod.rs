//! The command-line clients: `tidewire pub`, `sub`, `history`, `bench` and `doctor`.
//! They speak only the wire of PROTOCOL.md and must not know the hub, the shards or their settings.

mod arguments;
mod backoff;
mod compare;
mod cursor_file;
mod doctor;
mod endpoint;
mod event;
mod history;
mod http;
mod import;
mod lines;
mod position;
mod publish;
mod report;
mod sender;
mod session;
mod socket_sender;
mod sse_parser;
mod stream;
mod subscribe;
mod transport;
mod watcher;

use std::process::ExitCode;

pub use arguments::{Format, HistoryArguments, PublishArguments, SubscribeArguments, TransportName};
pub use compare::BenchArguments;
pub use doctor::DoctorArguments;

/// Why a command ends without having done what it was asked to.
#[derive(Debug)]
enum Failure {
    /// The command line asks for something that cannot be: exit code 2, as clap's own errors.
    Usage(String),
    /// The server refused, or could not be reached for long enough: exit code 1.
    Failed(String),
}

/// Runs `tidewire pub`. Exit code 0: all published, 1: refused or failed, 2: wrong usage.
pub fn publish(arguments: &PublishArguments) -> ExitCode {
    exit_code(publish::run(arguments))
}

/// Runs `tidewire sub`. Exit code 0: ended as asked, 1: refused or failed, 2: wrong usage.
pub fn subscribe(arguments: &SubscribeArguments) -> ExitCode {
    exit_code(subscribe::run(arguments))
}

/// Runs `tidewire history`. Exit code 0: all done, 1: refused, failed or incomplete, 2: wrong usage.
pub fn history(arguments: &HistoryArguments) -> ExitCode {
    exit_code(history::run(arguments))
}

/// Runs `tidewire bench`. Exit code 0: measured, 1: nothing could be published, 2: wrong usage.
pub fn bench(arguments: &BenchArguments) -> ExitCode {
    exit_code(compare::run(arguments))
}

/// Runs `tidewire doctor`. Exit code 0: nothing is wrong, 1: something is, 2: not reached, or wrong usage.
pub fn doctor(arguments: &DoctorArguments) -> ExitCode {
    exit_code(doctor::run(arguments))
}

fn exit_code(outcome: Result<ExitCode, Failure>) -> ExitCode {
    let (message, code) = match outcome {
        Ok(code) => return code,
        Err(Failure::Usage(message)) => (message, ExitCode::from(2)),
        Err(Failure::Failed(message)) => (message, ExitCode::FAILURE),
    };
    report::error(&message);
    code
}
