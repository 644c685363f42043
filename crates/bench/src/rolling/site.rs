//! The servers of the show: one listening socket that outlives each server, as under systemd, HAProxy in front on
//! the configuration that is shipped, and a server that is ended and replaced. Knows no client.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::targets::process::{Process, Scratch, accepts, answers_ok, free_address};

/// Passes the listening socket on as systemd does: as descriptor 3, told by the environment.
const PASS_ON: &str = "exec 3<&\"$1\"; shift; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

pub(super) struct SitePlan<'a> {
    pub(super) tidewire: &'a Path,
    pub(super) haproxy: &'a Path,
    pub(super) window: Duration,
}

pub(super) struct Site {
    command: Vec<String>,
    /// Held open so that no connection is refused while one server follows another.
    listener: TcpListener,
    server: Option<Process>,
    haproxy_address: SocketAddr,
    signalled: Instant,
    drain: Duration,
    away: Duration,
    /// Ends before the folder goes.
    _haproxy: Process,
    _folder: Scratch,
}

impl Site {
    pub(super) fn start(plan: &SitePlan<'_>) -> Result<Site> {
        let folder = Scratch::new()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let settings = format!(
            "limits.drain_notice_ms = 0\nlimits.drain_window_ms = {}\nproxies.trusted = [\"127.0.0.1\"]\n\
             proxies.header = \"x-forwarded-for\"\n",
            plan.window.as_millis()
        );
        fs::write(path("tidewire.toml"), settings)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        rustix::net::listen(&listener, 4096)?;
        fcntl_setfd(&listener, FdFlags::empty())?;
        let descriptor = listener.as_raw_fd().to_string();
        let program = plan.tidewire.display().to_string();
        let (config, data) = (path("tidewire.toml"), path("data"));
        let command =
            ["-c", PASS_ON, "bash", &descriptor, &program, "serve", "--config", &config, "--data", &data];
        let command: Vec<String> = command.map(str::to_owned).to_vec();
        let mut server = launch(&command)?;
        let address = listener.local_addr()?;
        server.wait_until("200 from /readyz", || answers_ok(address, "/readyz"))?;
        let (haproxy, haproxy_address) = start_haproxy(plan.haproxy, address)?;
        Ok(Site {
            command,
            listener,
            server: Some(server),
            haproxy_address,
            signalled: Instant::now(),
            drain: Duration::ZERO,
            away: Duration::ZERO,
            _haproxy: haproxy,
            _folder: folder,
        })
    }

    /// Where clients connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.haproxy_address
    }

    /// Tells the server to go.
    pub(super) fn end_server(&mut self) -> Result<()> {
        self.signalled = Instant::now();
        self.drain = Duration::ZERO;
        self.server.as_ref().context("a server is up")?.terminate()
    }

    /// Starts the next server as soon as the old one has ended; to be called again and again.
    pub(super) fn replace_when_ended(&mut self) -> Result<()> {
        if self.is_replaced() {
            return Ok(());
        }
        let server = self.server.as_mut().context("a server is up")?;
        let Some(status) = server.try_end()? else { return Ok(()) };
        ensure!(status.success(), "the server ended with {status}");
        self.drain = self.signalled.elapsed();
        let mut next = launch(&self.command)?;
        let address = self.listener.local_addr()?;
        next.wait_until("200 from /readyz", || answers_ok(address, "/readyz"))?;
        self.away = self.signalled.elapsed() - self.drain;
        self.server = Some(next);
        Ok(())
    }

    pub(super) fn is_replaced(&self) -> bool {
        !self.drain.is_zero()
    }

    /// Seconds from the signal to the end, and from there until the next server answered.
    pub(super) fn took(&self) -> (f64, f64) {
        (self.drain.as_secs_f64(), self.away.as_secs_f64())
    }
}

fn launch(command: &[String]) -> Result<Process> {
    let mut command_line = Command::new("bash");
    Process::start(command_line.args(command).env("TIDEWIRE_LOG__LEVEL", "warn"), Scratch::new()?)
}

/// HAProxy on the shipped file with addresses and paths of its own. The server's socket never closes, so it is not
/// checked: HAProxy would turn clients away that the next server takes in a moment.
fn start_haproxy(config: &Path, server: SocketAddr) -> Result<(Process, SocketAddr)> {
    let folder = Scratch::new()?;
    let address = free_address()?;
    let mut text = fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
    let socket = folder.path().join("admin.sock").display().to_string();
    for (from, to) in [
        ("    log /dev/log local0\n", String::new()),
        ("    log global\n", String::new()),
        ("    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n", String::new()),
        ("/run/haproxy/admin.sock", socket),
        ("fd-hard-limit 65536", "fd-hard-limit 20000".to_owned()),
        ("bind :80\n", format!("bind {address}\n")),
        ("    default-server check inter 2s fall 2 rise 1\n", String::new()),
        ("server one 127.0.0.1:8080", format!("server one {server}")),
    ] {
        ensure!(text.contains(from), "{} has no {from:?} any more", config.display());
        text = text.replace(from, &to);
    }
    let path = folder.path().join("haproxy.cfg");
    fs::write(&path, text)?;
    let mut process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(&path), folder)?;
    process.wait_until("a connection", || accepts(address))?;
    Ok((process, address))
}
