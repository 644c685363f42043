//! The server as a whole: binds, starts its threads, stops them. The caller owns the settings and the
//! moment to stop, so tests run servers side by side on port 0. Must not read flags or signals.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tidewire_core::Timestamp;
use tidewire_core::limits::Limits;

use crate::access::Access;
use crate::access::sealed::Secret;
use crate::backplane::{Backplane, Herald, Opened};
use crate::certificates::Certificates;
use crate::clock::{Clock, wall_clock};
use crate::drain::{Drain, Given};
use crate::hub::{Hub, Keeper, Kept};
use crate::listener::{Listener, Port, REFUSALS, REFUSALS_MAX};
use crate::metrics::ShardCounters;
use crate::operators::{self, Operators};
use crate::peers::{self, Parties, Peers};
use crate::presence::Presence;
use crate::settings::Settings;
use crate::shard::{self, Message, Shard, Shared};
use crate::sources::host;
use crate::store::commit::Committer;
use crate::store::forgotten::Forgotten;
use crate::store::{Disk, Store, Totals, load, remains, retention};
use crate::traces::Tracer;

/// How many connections may wait to be accepted; the system may allow less (`net.core.somaxconn`).
const LISTEN_BACKLOG: i32 = 16_384;
/// Descriptors that are not for connections: polls, the listener, files, and refusals under way.
const DESCRIPTORS_RESERVED: usize = 64 + REFUSALS_MAX;
/// How many threads read history from disk.
const LOADERS: usize = 2;
/// The longest that the kernel waits before it probes a silent connection, or probes it again.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// How often a part of the expired history is dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What the threads count together.
#[derive(Debug)]
pub(crate) struct Gauges {
    pub(crate) shards: Vec<Arc<ShardCounters>>,
    /// Connections that are open or on their way to a shard.
    pub(crate) connections: AtomicUsize,
    /// Connections refused, by [`REFUSALS`].
    pub(crate) refused: [AtomicU64; REFUSALS.len()],
    /// Connections that are being told why they cannot stay.
    pub(crate) refusals: AtomicUsize,
    /// Those of them that watch the server drain.
    pub(crate) watchers: AtomicUsize,
    /// Members of channels: who is present, once for each channel.
    pub(crate) members: AtomicUsize,
    pub(crate) drain: Arc<Drain>,
    /// The most connections: `limits.connections`, or what the system's file descriptors allow.
    pub(crate) connections_max: usize,
    /// What TLS clients are shown, if TLS is spoken.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) started: Timestamp,
    /// Host and port, for those who run several.
    pub(crate) name: String,
    /// The servers that share the backplane, if there is one.
    pub(crate) peers: Option<Arc<Peers>>,
    /// Set if anything is traced.
    pub(crate) tracer: Option<Arc<Tracer>>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    hub: Arc<Hub>,
    access: Arc<Access>,
    stopping: Arc<AtomicBool>,
    drain: Arc<Drain>,
    operators: Arc<Operators>,
    notice: Duration,
    shards: Vec<JoinHandle<std::io::Result<()>>>,
    helpers: Vec<JoinHandle<()>>,
    /// What tells other servers how this one stands.
    peers: Option<(Arc<Peers>, JoinHandle<()>)>,
    /// Those who write to the log on disk and read from it.
    durable: Vec<JoinHandle<()>>,
    /// What sends traces.
    traces: Option<(Arc<Tracer>, JoinHandle<()>)>,
}

impl Server {
    /// Binds and starts serving. When this returns, connections are accepted.
    ///
    /// # Errors
    /// If the address cannot be bound, or the system refuses threads or polls.
    pub fn start(settings: Settings) -> anyhow::Result<Self> {
        let log = Log::open(&settings)?;
        let clock = Clock::start();
        let access = Arc::new(Access::new(&settings, log.secret(), clock)?);
        let certificates = settings.tls.as_ref().map(Certificates::load).transpose()?;
        let mut given = Given::take();
        let socket = listen_at(settings.listen, given.next()?, &settings)?;
        let address = socket.local_addr()?;
        let tls_socket = match &settings.tls {
            Some(tls) => Some(listen_at(tls.listen, given.next()?, &settings)?),
            None => None,
        };
        let tls_address = tls_socket.as_ref().map(TcpListener::local_addr).transpose()?;
        let admin_socket = match settings.access.admin_listen {
            Some(listen) => Some(listen_at(listen, given.next()?, &settings)?),
            None => None,
        };
        let admin_address = admin_socket.as_ref().map(TcpListener::local_addr).transpose()?;
        let settings = Arc::new(settings);
        let polls: Vec<_> = (0..settings.shards).map(|_| shard::prepare()).collect::<Result<_, _>>()?;
        let (polls, inboxes): (Vec<_>, Vec<_>) = polls.into_iter().unzip();
        let hub = Arc::new(Hub::new(Arc::clone(&settings), inboxes.clone(), log.keeper(), clock));
        let (tracer, exporter) = match &settings.traces {
            Some(traces) => {
                Tracer::start(traces, clock).map(|(tracer, thread)| (Some(tracer), Some(thread)))?
            }
            None => (None, None),
        };
        let peers = settings.backplane.is_some().then(|| peers::prepare(clock));
        let gauges = Arc::new(Gauges {
            shards: inboxes.iter().map(|_| Arc::default()).collect(),
            connections: AtomicUsize::new(0),
            refused: Default::default(),
            refusals: AtomicUsize::new(0),
            watchers: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            drain: Arc::default(),
            connections_max: settings.limits.connections.min(descriptors_for_connections()),
            certificates: certificates.clone(),
            started: wall_clock(),
            name: name_of(address),
            peers: peers.as_ref().map(|(peers, _)| Arc::clone(peers)),
            tracer: tracer.clone(),
        });
        let (drain, notice) =
            (Arc::clone(&gauges.drain), Duration::from_millis(settings.limits.drain_notice_ms));
        let presence = Arc::new(Presence::new(Arc::clone(&hub), Arc::clone(&gauges)));
        let (operators, jobs) = operators::prepare();
        let operators = Arc::new(operators);
        let shared = Arc::new(Shared {
            hub: Arc::clone(&hub),
            settings: Arc::clone(&settings),
            access: Arc::clone(&access),
            gauges: Arc::clone(&gauges),
            operators: Arc::clone(&operators),
            presence: Arc::clone(&presence),
            clock,
        });
        // Before anybody is served: what was revoked on other servers holds.
        let durable = log.start(&hub, &access, peers.as_ref().map(|(peers, _)| Arc::clone(peers)))?;
        let peers = match (peers, hub.keeper()) {
            (Some((peers, orders)), Some(Keeper::Backplane(backplane))) => {
                let parties = Parties {
                    hub: Arc::clone(&hub),
                    backplane: Arc::clone(backplane),
                    gauges: Arc::clone(&gauges),
                    access: Arc::clone(&access),
                    presence: Arc::clone(&presence),
                    grace_ms: settings.limits.presence_grace_ms,
                };
                let thread = peers::start(&peers, orders, parties)?;
                Some((peers, thread))
            }
            _ => None,
        };
        let mut shards = Vec::new();
        let mut listeners = vec![Listener::new(socket, Arc::clone(&shared), Port::Plain)?];
        if let (Some(socket), Some(certificates)) = (tls_socket, &certificates) {
            let port = Port::Tls(certificates.config()?);
            listeners.push(Listener::new(socket, Arc::clone(&shared), port)?);
        }
        if let Some(socket) = admin_socket {
            listeners.push(Listener::new(socket, Arc::clone(&shared), Port::Admin)?);
        }
        for (index, (poll, inbox)) in polls.into_iter().zip(inboxes).enumerate() {
            let shared = Arc::clone(&shared);
            let listeners = std::mem::take(&mut listeners);
            let run = move || {
                let _guard = AbortOnPanic;
                let mut shard = Shard::new(index as u16, poll, inbox, &shared);
                for listener in listeners {
                    shard.listen(listener)?;
                }
                shard.run()
            };
            shards.push(spawn(&format!("shard-{index}"), run)?);
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let mut helpers = vec![sweeper(Arc::clone(&hub), presence, Arc::clone(&stopping))?];
        helpers.push(operators::start(jobs, Arc::clone(&hub), gauges, Arc::clone(&access))?);
        if let Some(certificates) = certificates {
            helpers.extend(certificates.watch(Arc::clone(&stopping))?);
        }
        if settings.demo {
            helpers.push(host::start(Arc::clone(&hub), Arc::clone(&stopping))?);
        }
        Ok(Self {
            address,
            tls_address,
            admin_address,
            hub,
            access,
            stopping,
            drain,
            operators,
            notice,
            shards,
            helpers,
            peers,
            durable,
            traces: tracer.zip(exporter),
        })
    }

    /// Where the server listens; the port that the system chose if it was asked to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the server listens for TLS, if it does.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Where the admin API is, if it has a port of its own.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// What asks the server to drain, from any thread.
    pub fn drain(&self) -> Arc<Drain> {
        Arc::clone(&self.drain)
    }

    /// Drains: says by `/readyz` that it goes away, stops accepting, tells all clients when to come back, and waits
    /// until they are gone or out of time.
    ///
    /// # Errors
    /// If a shard had failed.
    pub fn stop(self) -> anyhow::Result<()> {
        self.drain.ask();
        std::thread::sleep(self.notice);
        self.stopping.store(true, Ordering::Relaxed);
        // The shard that listens closes the port, and then tells the others.
        self.hub.inboxes()[0].push(Message::Stop);
        for shard in self.shards {
            if let Ok(outcome) = shard.join() {
                outcome.context("a shard failed")?;
            }
        }
        if let Some(callback) = &self.access.callback {
            callback.stop();
        }
        self.operators.stop();
        for helper in self.helpers {
            helper.thread().unpark();
            let _ = helper.join();
        }
        if let Some((peers, thread)) = self.peers {
            peers.stop();
            let _ = thread.join();
        }
        // Last, as the shards wait for it: whoever was told of an event has been told the truth.
        if let Some(keeper) = self.hub.keeper() {
            keeper.stop();
        }
        self.durable.into_iter().for_each(|thread| drop(thread.join()));
        if let Some((tracer, exporter)) = self.traces {
            tracer.stop();
            let _ = exporter.join();
        }
        Ok(())
    }
}

/// The log, where it outlives the process: open, and not served yet.
enum Log {
    None,
    Disk(Arc<Disk>, Totals),
    Backplane(Arc<Backplane>, Box<Opened>),
}

impl Log {
    /// Opens it before the port is bound: a server without its log must not look alive.
    fn open(settings: &Settings) -> anyhow::Result<Self> {
        if let Some(backplane) = &settings.backplane {
            let (backplane, opened) = Backplane::open(backplane, &settings.limits)?;
            return Ok(Self::Backplane(backplane, Box::new(opened)));
        }
        let Some(data) = &settings.data else { return Ok(Self::None) };
        let store = Store::open(data, Forgotten::after(settings.idempotency_ms()))?;
        let totals =
            store.totals().map_err(|error| anyhow::anyhow!("cannot read {}: {error}", data.display()))?;
        Ok(Self::Disk(Arc::new(Disk::new(store)), totals))
    }

    /// What keeps it, and what its channels' epochs are made from.
    fn keeper(&self) -> Option<Kept> {
        match self {
            Self::None => None,
            Self::Disk(disk, totals) => Some(Kept {
                keeper: Keeper::Disk(Arc::clone(disk)),
                number: totals.log_number,
                floor: totals.floor,
            }),
            Self::Backplane(backplane, opened) => Some(Kept {
                keeper: Keeper::Backplane(Arc::clone(backplane)),
                number: opened.known.number,
                floor: 0,
            }),
        }
    }

    /// What all servers of a backplane know, and nobody else.
    fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Backplane(_, opened) => Some(&opened.known.secret),
            _ => None,
        }
    }

    /// Starts the threads that write and read it.
    fn start(
        self,
        hub: &Arc<Hub>,
        access: &Arc<Access>,
        peers: Option<Arc<Peers>>,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Backplane(backplane, opened) => {
                let (to, by) = (Arc::clone(hub), Arc::clone(access));
                let herald = move |subject: &str, what: &str| match &peers {
                    Some(peers) if subject == peers::SUBJECT => {
                        peers.hear(what);
                        true
                    }
                    _ => shard::heed(&to, &by, subject, what),
                };
                backplane.start(hub, Herald(Box::new(herald)), *opened)
            }
            Self::Disk(disk, totals) => {
                let committer = Committer::new(Arc::clone(hub), Arc::clone(&disk), totals);
                let run = move || {
                    let _guard = AbortOnPanic;
                    committer.run()
                };
                let mut threads = vec![spawn("committer", run)?];
                for index in 0..LOADERS {
                    let (hub, disk) = (Arc::clone(hub), Arc::clone(&disk));
                    threads.push(spawn(&format!("loader-{index}"), move || load::run(&hub, &disk))?);
                }
                Ok(threads)
            }
        }
    }
}

/// What a server is called among those that share its backplane.
fn name_of(address: SocketAddr) -> String {
    let host = sysinfo::System::host_name().unwrap_or_else(|_| address.ip().to_string());
    format!("{host}:{}", address.port())
}

fn listen_at(
    address: SocketAddr,
    given: Option<TcpListener>,
    settings: &Settings,
) -> anyhow::Result<TcpListener> {
    let listener = match given {
        Some(listener) => {
            let address = listener.local_addr().context("the socket that was passed on is not of TCP")?;
            ensure!(
                address.ip().is_loopback() || settings.may_leave_loopback,
                "the socket that was passed on listens on {address}, and would let anybody in, as no authentication is \
                 configured: configure auth.issuers or auth.admin_key_file, or pass --insecure"
            );
            Ok(listener)
        }
        None => bind(address, settings.reuse_port),
    };
    let listener =
        listener.with_context(|| format!("cannot listen on {address}; is another program there?"))?;
    tune(&listener, &settings.limits).with_context(|| format!("cannot listen on {address} as is needed"))?;
    Ok(listener)
}

/// Binds with a queue that holds a storm of reconnecting clients: what does not fit is retried by the
/// client's kernel a full second later.
fn bind(address: SocketAddr, reuse_port: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// What connections inherit from the socket that accepts them: no waiting for more to send; and a kernel that finds
/// out that a peer is gone, also where nothing is sent.
fn tune(listener: &TcpListener, limits: &Limits) -> std::io::Result<()> {
    let socket = SockRef::from(listener);
    let second = Duration::from_secs(1);
    // Only where nothing of ours is said for longer than it should be. Kernels probe connections that came together
    // at the same moment: of 15,000 held polls, most probes were dropped on their way out, and then the connections.
    let silence_ms = limits.heartbeat_ms.max(limits.wait_ms) + limits.stall_timeout_ms;
    let silence = Duration::from_millis(silence_ms).clamp(second, KEEPALIVE_MAX);
    let again = (Duration::from_millis(limits.heartbeat_ms) / 4).clamp(second, KEEPALIVE_MAX);
    let keepalive = TcpKeepalive::new().with_time(silence).with_interval(again);
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_tcp_keepalive(&keepalive.with_retries(3))?;
    // Later than our own say, which is a better one: a slow reader gets a close from which it resumes.
    let patience_ms = limits.stall_timeout_ms + limits.close_timeout_ms;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(patience_ms)))
}

/// Raises the limit on file descriptors as far as the system lets us, and says how many connections that
/// is good for. Running out of descriptors would leave clients waiting without an answer.
fn descriptors_for_connections() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let descriptors = limit.current.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(1)
}

/// Without one of its shards the server would look alive while half of its clients hang. It is better
/// started anew, by whatever keeps it running.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("tidewire: a thread panicked (a fault of ours; the message is above); the server ends");
            std::process::abort();
        }
    }
}

/// Starts a named thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .with_context(|| format!("cannot start the thread {name}"))
}

/// Runs `tick` at an interval until the server stops, on a thread that stopping wakes.
pub(crate) fn every(
    name: &str,
    interval: Duration,
    stopping: Arc<AtomicBool>,
    mut tick: impl FnMut() + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    spawn(name, move || {
        while !stopping.load(Ordering::Relaxed) {
            tick();
            std::thread::park_timeout(interval);
        }
    })
}

fn sweeper(
    hub: Arc<Hub>,
    presence: Arc<Presence>,
    stopping: Arc<AtomicBool>,
) -> anyhow::Result<JoinHandle<()>> {
    let mut looked_through = String::new();
    every("sweeper", SWEEP_INTERVAL, stopping, move || {
        presence.tick();
        hub.sweep(wall_clock());
        if let Some(disk) = hub.disk() {
            retention::sweep_store(&hub, disk, wall_clock(), &mut looked_through);
            disk.note_size();
            remains::sweep(disk);
        }
    })
}
