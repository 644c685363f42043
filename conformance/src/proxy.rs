//! The proxies of `deploy/`: real processes on the files that are shipped there, with only addresses, ports and
//! paths of their own. Stopped by their process id when dropped. Must not know what is asked through them.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::scratch::{self, Scratch};
use crate::server::wait_until;

/// Where proxies listen: an address of this machine on which nothing else does, so that a port that was free a
/// moment ago still is.
pub const ADDRESS: &str = "127.0.0.8";

/// What a server behind one is told: its word on where a client is counts. They all reach it from here.
pub const TRUSTING: &str = "proxies.trusted = [\"127.0.0.1\"]\nproxies.header = \"x-forwarded-for\"\n";

/// A proxy: one for which a configuration is shipped, or the one that speaks HTTP/2 to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `deploy/nginx.conf`.
    Nginx,
    /// `deploy/haproxy.cfg`.
    Haproxy,
    /// `deploy/Caddyfile`.
    Caddy,
    /// `conformance/nghttpx.conf`: what comes over HTTP/1.1 goes on over HTTP/2.
    Nghttpx,
}

impl Kind {
    /// Those for which a configuration is shipped.
    pub const SHIPPED: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Caddy];
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Caddy, Self::Nghttpx];

    /// The name of its program, which cases use too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Nghttpx => "nghttpx",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Nginx => "nginx.conf",
            Self::Haproxy => "haproxy.cfg",
            Self::Caddy => "Caddyfile",
            Self::Nghttpx => "nghttpx.conf",
        }
    }

    fn folder(self) -> &'static str {
        if self == Self::Nghttpx { "" } else { "../deploy" }
    }

    /// What must be another in a test: where it listens, and its files.
    fn places(self, port: u16, directory: &Path) -> Vec<(&'static str, String)> {
        let directory = directory.display();
        match self {
            Self::Nginx => vec![
                ("listen 80 default_server;", format!("listen {ADDRESS}:{port};")),
                ("listen [::]:80 default_server;", String::new()),
                ("/run/nginx.pid", format!("{directory}/nginx.pid")),
                ("/var/log/nginx/", format!("{directory}/")),
            ],
            Self::Haproxy => vec![
                ("bind :80", format!("bind {ADDRESS}:{port}")),
                ("/run/haproxy/admin.sock", format!("{directory}/admin.sock")),
                ("log /dev/log local0", "log stdout format raw local0".to_owned()),
            ],
            Self::Caddy => vec![
                (":80 {", format!(":{port} {{\n\tbind {ADDRESS}")),
                ("admin localhost:2019", "admin off".to_owned()),
                ("/var/log/caddy/", format!("{directory}/")),
            ],
            Self::Nghttpx => vec![("127.0.0.8,3000", format!("{ADDRESS},{port}"))],
        }
    }

    /// What makes it listen to two servers, where only the first is named.
    fn second(self, authority: &str) -> (&'static str, String) {
        match self {
            Self::Nginx => ("# server 127.0.0.1:8081", format!("server {authority}")),
            Self::Haproxy => ("# server two 127.0.0.1:8081", format!("server two {authority}")),
            Self::Caddy => ("# to 127.0.0.1:8081", format!("to {authority}")),
            Self::Nghttpx => {
                ("workers=1", format!("workers=1\nbackend={};;proto=h2", authority.replace(':', ",")))
            }
        }
    }

    /// What sends each client to one server always.
    fn sticky(self) -> [(&'static str, String); 2] {
        match self {
            Self::Nghttpx => [("", String::new()), ("", String::new())],
            Self::Nginx => {
                [("least_conn;", String::new()), ("# hash $remote_addr", "hash $remote_addr".to_owned())]
            }
            Self::Haproxy => [
                ("    balance leastconn\n", String::new()),
                ("# balance source", "balance source".to_owned()),
            ],
            Self::Caddy => [
                ("\tlb_policy least_conn\n", String::new()),
                ("# lb_policy ip_hash", "lb_policy ip_hash".to_owned()),
            ],
        }
    }

    fn command(self, config: &Path, directory: &Path) -> Command {
        let mut command = Command::new(self.name());
        // Debian has some of them where only root looks.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        match self {
            // It writes to its error log before it has read which one.
            Self::Nginx => {
                command.args(["-g", "daemon off;", "-e", "stderr", "-p"]).arg(directory).arg("-c").arg(config)
            }
            Self::Haproxy => command.args(["-db", "-f"]).arg(config),
            Self::Nghttpx => command.arg(format!("--conf={}", config.display())),
            Self::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(config)
                .env("XDG_CONFIG_HOME", directory)
                .env("XDG_DATA_HOME", directory),
        };
        command
    }
}

/// How a proxy is to be run, where it is not just as it is shipped.
#[derive(Debug, Clone, Default)]
pub struct Variant {
    /// `HOST:PORT` of a second server.
    pub second: Option<String>,
    /// Whether each client goes to one server always.
    pub sticky: bool,
    /// Whether connections go to the servers in turn, where the proxy is HAProxy.
    pub in_turn: bool,
    /// In place of each time of 90 s, so many seconds.
    pub patience_seconds: Option<u32>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// `http://HOST:PORT`, without a slash at the end.
    pub url: String,
    kind: Kind,
    child: Child,
    directory: Scratch,
}

impl Proxy {
    /// Starts one in front of the server at this `HOST:PORT`.
    ///
    /// # Errors
    /// When it does not listen within 10 s.
    pub fn start(kind: Kind, server: &str, variant: &Variant) -> Result<Self> {
        // Between finding a free port and taking it, another may.
        let mut outcome = Self::try_start(kind, server, variant);
        for _ in 0..2 {
            outcome = outcome.or_else(|_| Self::try_start(kind, server, variant));
        }
        outcome
    }

    fn try_start(kind: Kind, server: &str, variant: &Variant) -> Result<Self> {
        let free = TcpListener::bind((ADDRESS, 0)).and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| format!("no free port on {ADDRESS}: {error}"))?.port();
        let directory = Scratch::new(kind.name())?;
        let place = directory.join("");
        let config = directory.join(kind.file());
        scratch::write(&config, config_text(kind, server, variant, port, &place)?)?;
        let output = |name| File::create(directory.join(name)).map_err(|error| error.to_string());
        let spawned = kind
            .command(&config, &place)
            .stdin(Stdio::null())
            .stdout(output("output.log")?)
            .stderr(output("errors.log")?)
            .spawn();
        let child = spawned.map_err(|error| {
            format!("cannot run {} ({error}); `./test install` brings it on Debian", kind.name())
        })?;
        let mut proxy = Self { url: format!("http://{ADDRESS}:{port}"), kind, child, directory };
        let listening = wait_until("the proxy listens", Duration::from_secs(10), || {
            proxy.ended() || TcpStream::connect((ADDRESS, port)).is_ok()
        });
        if listening.is_err() || proxy.ended() {
            return Err(format!("{} does not listen: {}", kind.name(), proxy.log()));
        }
        Ok(proxy)
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Its children, which are other ones after a reload.
    ///
    /// # Errors
    /// When `/proc` does not say.
    pub fn children(&self) -> Result<String> {
        let pid = self.child.id();
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).map_err(|error| error.to_string())
    }

    /// All that it wrote so far, whatever the file.
    pub fn log(&self) -> String {
        let is_log = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "log");
        let files = scratch::files(&self.directory.join("")).unwrap_or_default();
        let read = |file: PathBuf| std::fs::read(self.directory.join("").join(file)).unwrap_or_default();
        files
            .into_iter()
            .filter(is_log)
            .map(|file| String::from_utf8_lossy(&read(file)).into_owned())
            .collect()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args([name, &pid]).status().map(drop).map_err(|error| error.to_string())
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().ok().flatten().is_some()
    }
}

impl Drop for Proxy {
    /// nginx has children, which only end well if it does. The others would wait for their clients.
    fn drop(&mut self) {
        if self.kind == Kind::Nginx && self.signal("-TERM").is_ok() {
            let _ = wait_until("nginx ends", Duration::from_secs(10), || self.ended());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shipped file with what is another here. Each of it must be there.
fn config_text(kind: Kind, server: &str, variant: &Variant, port: u16, directory: &Path) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind.folder()).join(kind.file());
    let mut text = String::from_utf8_lossy(&scratch::read(&path)?).into_owned();
    let mut changes = kind.places(port, directory);
    changes.extend(variant.second.as_ref().map(|second| kind.second(second)));
    match kind {
        Kind::Nghttpx => changes.push(("127.0.0.1,8080", server.replace(':', ","))),
        _ => changes.push(("127.0.0.1:8080", server.to_owned())),
    }
    if variant.sticky {
        changes.extend(kind.sticky());
    }
    if variant.in_turn {
        changes.push(("balance leastconn", "balance roundrobin".to_owned()));
    }
    changes.extend(variant.patience_seconds.map(|seconds| ("90s", format!("{seconds}s"))));
    for (from, to) in changes {
        if !text.contains(from) {
            return Err(format!("{} has no {from:?} any more", path.display()));
        }
        text = text.replace(from, &to);
    }
    Ok(text)
}
