//! The binary `tidewire`: reads the command line and runs what it asks for. Must hold no logic.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use signal_hook::iterator::Signals;
use tidewire::client::{
    self, BenchArguments, DoctorArguments, HistoryArguments, PublishArguments, SubscribeArguments,
};
use tidewire::{Flags, Server, Settings};

/// Real-time delivery: one ordered log per channel, over WebSocket, SSE, long polling and short polling.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve channels (the default).
    Serve(Serve),
    /// Publish events to a channel.
    Pub(PublishArguments),
    /// Print the events of channels.
    Sub(SubscribeArguments),
    /// List, export or import the events of a channel.
    History(HistoryArguments),
    /// Measure the four patterns side by side against a running server.
    Bench(BenchArguments),
    /// Find out what on the way to a server breaks which transport, and what mends it.
    Doctor(DoctorArguments),
    /// Check or show the configuration, and what can be in it.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Read everything in a data directory that no server uses, and say whether it is sound.
    Check {
        /// The data directory.
        #[arg(value_name = "DIR")]
        data: PathBuf,
    },
    /// Look into tokens.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Read a token from standard input and say what it claims, or why a server with this configuration refuses it.
    Check {
        /// The configuration; see docs/configuration.md.
        #[arg(long, value_name = "FILE", env = "TIDEWIRE_CONFIG")]
        config: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say `ok`, or all that is wrong with the configuration.
    Check(Serve),
    /// Print the effective values and where each comes from; secrets are not shown.
    Show(Serve),
    /// Print a JSON Schema (draft 2020-12) of tidewire.toml, for editors.
    Schema,
    /// Print the reference page of all options.
    Reference,
}

#[derive(Debug, Args)]
struct Serve {
    #[arg(long, value_name = "ADDRESS:PORT", help = Settings::help("listen"))]
    listen: Option<SocketAddr>,
    /// The configuration; see docs/configuration.md.
    #[arg(long, value_name = "FILE", env = "TIDEWIRE_CONFIG")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "DIR", help = Settings::help("data"), conflicts_with = "memory")]
    data: Option<PathBuf>,
    /// Keep everything in memory: gone with the process.
    #[arg(long)]
    memory: bool,
    /// Serve no demo page, and do not publish this machine's figures on the channel `host`.
    #[arg(long)]
    no_demo: bool,
    /// Listen on an address that others can reach although nobody is authenticated.
    #[arg(long)]
    insecure: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Serve(arguments)) => serve(&arguments),
        Some(Command::Pub(arguments)) => return client::publish(&arguments),
        Some(Command::Sub(arguments)) => return client::subscribe(&arguments),
        Some(Command::History(arguments)) => return client::history(&arguments),
        Some(Command::Bench(arguments)) => return client::bench(&arguments),
        Some(Command::Doctor(arguments)) => return client::doctor(&arguments),
        Some(Command::Config(command)) => config(&command),
        Some(Command::Check { data }) => check(&data),
        Some(Command::Token(TokenCommand::Check { config })) => check_token(&config),
        None => serve(&cli.serve),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("tidewire: {error:#}");
        ExitCode::FAILURE
    })
}

impl Serve {
    fn flags(&self) -> Flags {
        Flags {
            listen: self.listen,
            insecure: self.insecure,
            no_demo: self.no_demo,
            data: self.data.clone(),
            memory: self.memory,
        }
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let settings = Settings::load(self.config.as_deref(), &self.flags())?;
        for warning in &settings.warnings {
            eprintln!("tidewire: {warning}");
        }
        Ok(settings)
    }
}

fn serve(arguments: &Serve) -> anyhow::Result<ExitCode> {
    let settings = arguments.settings()?;
    let _log = settings.start_log()?;
    // Before the port is bound: whoever sees it bound may send the signal.
    let told_once = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        register_conditional_shutdown(signal, 1, Arc::clone(&told_once))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let server = Server::start(settings)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on http://{}", server.address())?;
    if let Some(address) = server.tls_address() {
        writeln!(stdout, "and on https://{address}")?;
    }
    if let Some(address) = server.admin_address() {
        writeln!(stdout, "the admin API is at http://{address}")?;
    }
    stdout.flush()?;
    let drain = server.drain();
    std::thread::spawn({
        let drain = Arc::clone(&drain);
        move || {
            for _ in signals.forever() {
                drain.ask();
                // Whoever says so twice does not want to wait.
                told_once.store(true, Ordering::SeqCst);
            }
        }
    });
    drain.wait();
    server.stop()?;
    Ok(ExitCode::SUCCESS)
}

fn config(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    let text = match command {
        ConfigCommand::Check(arguments) => {
            arguments.settings()?.check_keys()?;
            "ok\n".to_owned()
        }
        ConfigCommand::Show(arguments) => Settings::show(arguments.config.as_deref(), &arguments.flags())?,
        ConfigCommand::Schema => Settings::schema(),
        ConfigCommand::Reference => Settings::reference(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn check(data: &std::path::Path) -> anyhow::Result<ExitCode> {
    let checked = tidewire::check(data)?;
    writeln!(std::io::stdout(), "{}: {checked}", data.display())?;
    Ok(ExitCode::SUCCESS)
}

fn check_token(config: &std::path::Path) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(Some(config), &Flags::default())?;
    // Why keys cannot be fetched is in the log.
    let _log = settings.start_log()?;
    let claims = tidewire::check_token(&settings, std::io::stdin().lock())?;
    writeln!(std::io::stdout(), "{claims}")?;
    Ok(ExitCode::SUCCESS)
}
