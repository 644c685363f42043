//! The servers of the show, with HAProxy in front on the configuration that is shipped, of which one is ended and
//! replaced. One alone keeps its log on disk and has a listening socket that outlives it, as under systemd; several share
//! a backplane, and HAProxy sends connections to those that are ready. Knows no client.

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
    pub(super) nodes: usize,
    /// What they share, if there are several.
    pub(super) backplane: Option<&'a str>,
}

pub(super) struct Site {
    nodes: Vec<Node>,
    /// Which one is ended and replaced.
    current: usize,
    haproxy_address: SocketAddr,
    signalled: Instant,
    drain: Duration,
    away: Duration,
    /// Ends before the folder goes.
    _haproxy: Process,
    _folder: Scratch,
}

struct Node {
    command: Vec<String>,
    address: SocketAddr,
    server: Option<Process>,
    /// Held open so that no connection is refused while one server follows another.
    _listener: Option<TcpListener>,
}

impl Site {
    pub(super) fn start(plan: &SitePlan<'_>) -> Result<Site> {
        let folder = Scratch::new()?;
        let config = folder.path().join("tidewire.toml");
        let mut settings = format!(
            "limits.drain_notice_ms = 0\nlimits.drain_window_ms = {}\nproxies.trusted = [\"127.0.0.1\"]\n\
             proxies.header = \"x-forwarded-for\"\n",
            plan.window.as_millis()
        );
        if let Some(backplane) = plan.backplane {
            settings.insert_str(0, &format!("backplane = \"{backplane}\"\n"));
        }
        fs::write(&config, settings)?;
        let mut nodes = Vec::new();
        for _ in 0..plan.nodes {
            let data = plan.backplane.is_none().then(|| folder.path().join("data"));
            let mut node = Node::new(plan.tidewire, &config, data.as_deref())?;
            node.launch()?;
            nodes.push(node);
        }
        let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
        let (haproxy, haproxy_address) = start_haproxy(plan.haproxy, &addresses)?;
        Ok(Site {
            nodes,
            current: 0,
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

    /// Whether there is but one.
    pub(super) fn is_alone(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Tells a server to go: the first, and then in turn.
    pub(super) fn end_server(&mut self, turn: usize) -> Result<()> {
        self.current = turn % self.nodes.len();
        self.signalled = Instant::now();
        self.drain = Duration::ZERO;
        self.nodes[self.current].server.as_ref().context("a server is up")?.terminate()
    }

    /// Starts the next server as soon as the old one has ended; to be called again and again.
    pub(super) fn replace_when_ended(&mut self) -> Result<()> {
        if self.is_replaced() {
            return Ok(());
        }
        let node = &mut self.nodes[self.current];
        let server = node.server.as_mut().context("a server is up")?;
        let Some(status) = server.try_end()? else { return Ok(()) };
        ensure!(status.success(), "the server ended with {status}");
        self.drain = self.signalled.elapsed();
        node.launch()?;
        self.away = self.signalled.elapsed() - self.drain;
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

impl Node {
    /// One that has yet to be launched: with a log in this directory and a socket that is passed on, or neither.
    fn new(program: &Path, config: &Path, data: Option<&Path>) -> Result<Node> {
        let serve = [program.display().to_string(), "serve".to_owned(), "--config".to_owned()];
        let mut serve: Vec<String> = serve.into_iter().chain([config.display().to_string()]).collect();
        let Some(data) = data else {
            let address = free_address()?;
            serve.extend(["--listen".to_owned(), address.to_string()]);
            return Ok(Node { command: serve, address, server: None, _listener: None });
        };
        serve.extend(["--data".to_owned(), data.display().to_string()]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        rustix::net::listen(&listener, 4096)?;
        fcntl_setfd(&listener, FdFlags::empty())?;
        let pass_on = ["bash", "-c", PASS_ON, "bash", &listener.as_raw_fd().to_string()].map(str::to_owned);
        let command = pass_on.into_iter().chain(serve).collect();
        let address = listener.local_addr()?;
        Ok(Node { command, address, server: None, _listener: Some(listener) })
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env("TIDEWIRE_LOG__LEVEL", "warn");
        let (mut server, address) = (Process::start(&mut command, Scratch::new()?)?, self.address);
        server.wait_until("200 from /readyz", || answers_ok(address, "/readyz"))?;
        self.server = Some(server);
        Ok(())
    }
}

/// HAProxy on the shipped file with addresses and paths of its own. Where there is one server its socket never closes, so
/// it is not checked: HAProxy would turn clients away that the next server takes in a moment. Several get connections in
/// turn.
fn start_haproxy(config: &Path, servers: &[SocketAddr]) -> Result<(Process, SocketAddr)> {
    let folder = Scratch::new()?;
    let address = free_address()?;
    let mut text = fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
    let socket = folder.path().join("admin.sock").display().to_string();
    let lines: Vec<String> =
        servers.iter().enumerate().map(|(index, server)| format!("    server s{index} {server}\n")).collect();
    let check = "    default-server check inter 2s fall 2 rise 1\n";
    let (checked, balance) =
        if servers.len() > 1 { (check, "balance roundrobin") } else { ("", "balance leastconn") };
    for (from, to) in [
        ("    log /dev/log local0\n", String::new()),
        ("    log global\n", String::new()),
        ("    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n", String::new()),
        ("/run/haproxy/admin.sock", socket),
        ("fd-hard-limit 65536", "fd-hard-limit 20000".to_owned()),
        ("bind :80\n", format!("bind {address}\n")),
        (check, checked.to_owned()),
        ("balance leastconn", balance.to_owned()),
        ("    server one 127.0.0.1:8080\n", lines.concat()),
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
