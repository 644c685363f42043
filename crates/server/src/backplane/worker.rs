//! The thread of one broker: sends what is ordered, hands what comes to the channels, and tells who waits. When the
//! broker is away it says so at once to whoever orders, and when it is back it goes on where each channel was. Must
//! not know what kind of broker it is.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tidewire_core::limits::{
    BACKPLANE_BATCH, BACKPLANE_BATCHES, BACKPLANE_PING_MS, BACKPLANE_RETRY_MS, Policy,
};
use tidewire_core::log::receipts;
use tidewire_core::{ChannelName, Code, Problem};

use super::broker::{Append, Appended, Arrival, Broker, BrokerError, Known, Notice, Standing, StateAt};
use super::follow::Follow;
use super::link::{Link, Order, Publication, Visitor};
use super::{Backplane, Target, replies};
use crate::clock::wall_clock;
use crate::hub::{Adoption, Channel, Hub, Told};
use crate::shard::Message;
use crate::store::commit::Waiter;
use crate::store::load::{Amount, Chunk, Load, What};

/// How many channels are looked at in one order, and in how many such orders at a time: what others do meanwhile goes
/// in between.
const LOOKS: usize = 256;
const LOOKS_UNDER_WAY: usize = 4;
/// How many reads for readers that are behind are under way at a time.
const LOADS_UNDER_WAY: usize = 32;
/// How much is read at once of what a channel missed.
const MISSED_EVENTS: usize = 1_000;
const MISSED_BYTES: usize = 1 << 20;
/// At how many pings it is asked once what is announced, to have forgotten what is outdated.
const PINGS_PER_ROUND: u32 = 600;
/// How much comes of the feed before others have their turn.
const NOTICES: usize = 256;

/// A broker to which there are connections, and the runtime that they live in.
pub(super) struct Connected {
    runtime: tokio::runtime::Runtime,
    target: Target,
    broker: Box<dyn Broker + Send>,
}

impl Connected {
    /// Connects, also where it is known already what all brokers share.
    pub(super) fn open(target: Target, known: Option<Known>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let broker = runtime.block_on(target.connect(known));
        let broker = broker
            .map_err(|error| anyhow::anyhow!("cannot use the backplane at {}: {error}", target.shown()))?;
        Ok(Self { runtime, target, broker })
    }

    pub(super) fn known(&self) -> Known {
        self.broker.known()
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.broker.is_sparse()
    }

    /// What was announced before this server came.
    pub(super) fn announced(&self) -> anyhow::Result<Vec<(String, String)>> {
        let announced = self.runtime.block_on(self.broker.announced());
        announced
            .map_err(|error| anyhow::anyhow!("cannot use the backplane at {}: {error}", self.target.shown()))
    }
}

/// Serves a broker's orders until the link is stopped and nothing waits.
pub(super) fn run(
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    link: Arc<Link>,
    connected: Connected,
    hears: bool,
) {
    let Connected { runtime, target, broker } = connected;
    let known = broker.known();
    let mut worker = Worker {
        hub,
        backplane,
        link,
        followed: HashMap::new(),
        attaching: HashMap::new(),
        looking: VecDeque::new(),
        looks: 0,
        writes: VecDeque::new(),
        sent: HashMap::new(),
        batches: 0,
        missing: Vec::new(),
        loads: VecDeque::new(),
        loading: HashMap::new(),
        spending: VecDeque::new(),
        spent: HashMap::new(),
        next: 0,
        deaf: false,
        hears,
        pings: 0,
        announcements: VecDeque::new(),
        outdated: Vec::new(),
        announcing: HashMap::new(),
        tells: VecDeque::new(),
        telling: 0,
    };
    runtime.block_on(async move {
        let mut broker = broker;
        loop {
            let Err(error) = worker.serve(&*broker).await else { return };
            worker.fail(&error);
            drop(broker);
            match worker.reconnect(&target, known).await {
                Some(anew) => broker = anew,
                None => return,
            }
            worker.begin_anew();
        }
    });
}

/// A channel that is followed.
struct Followed {
    channel: Arc<Channel>,
    follow: Follow,
    /// Connections that wait until the channel is as far as that.
    visitors: Vec<(u64, Visitor)>,
    /// Connections that wait for how the channel stands: for the look that is under way, and for the next one. What
    /// was acknowledged before they asked, they see.
    asking: Vec<Visitor>,
    next_asking: Vec<Visitor>,
    is_asked: bool,
    /// How far it was when the look that is under way began.
    asked_at: u64,
}

impl Followed {
    /// All who wait; nobody does after this.
    fn take_visitors(&mut self) -> Vec<Visitor> {
        self.is_asked = false;
        let asking = self.asking.drain(..).chain(self.next_asking.drain(..));
        asking.chain(self.visitors.drain(..).map(|(_, visitor)| visitor)).collect()
    }
}

/// A channel that is about to be followed.
#[derive(Default)]
struct Attaching {
    visitors: Vec<Visitor>,
    follow: Follow,
}

/// What must go to the broker in its order.
enum Write {
    Publish(Publication),
    Delete { name: ChannelName, waiter: Waiter },
}

/// What is under way, and since when.
struct Sent {
    writes: Vec<Write>,
    since_us: u64,
}

/// What became of something.
enum Done {
    Appended(u64, Result<Vec<Appended>, BrokerError>),
    Deleted(u64, Result<u64, BrokerError>),
    Looked(Vec<ChannelName>, Result<Vec<Standing>, BrokerError>),
    Missed(ChannelName, Result<Vec<Arrival>, BrokerError>),
    Events(u64, Result<Vec<Arrival>, BrokerError>),
    State(u64, Result<StateAt, BrokerError>),
    Spent(u64, Result<bool, BrokerError>),
    Announced(u64, Result<(), BrokerError>),
    Heard(Result<Vec<(String, String)>, BrokerError>),
    Unfollowed(Result<(), BrokerError>),
    Told(Result<(), BrokerError>),
    Pinged(Result<(), BrokerError>),
}

type UnderWay = FuturesUnordered<Pin<Box<dyn Future<Output = Done>>>>;

struct Worker {
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    link: Arc<Link>,
    followed: HashMap<ChannelName, Followed>,
    attaching: HashMap<ChannelName, Attaching>,
    /// Channels to look at, and how many orders to do so are under way.
    looking: VecDeque<ChannelName>,
    looks: usize,
    /// What waits to be sent, and what was sent and is not answered.
    writes: VecDeque<Write>,
    sent: HashMap<u64, Sent>,
    batches: usize,
    /// Channels that may miss something.
    missing: Vec<ChannelName>,
    /// As what waits and was sent, for reads of those who are behind.
    loads: VecDeque<Load>,
    loading: HashMap<u64, Load>,
    /// And for tickets.
    spending: VecDeque<(String, u64, Visitor)>,
    spent: HashMap<u64, Visitor>,
    next: u64,
    /// A ping is under way.
    deaf: bool,
    /// It is the broker by which things are announced.
    hears: bool,
    /// How many pings there were since it was asked what is announced.
    pings: u32,
    announcements: VecDeque<(String, String, bool, Visitor)>,
    /// What was announced and needs to be kept no more.
    outdated: Vec<(String, String)>,
    announcing: HashMap<u64, Visitor>,
    /// What other servers are told, and how much of that is not answered.
    tells: VecDeque<(&'static str, String)>,
    telling: usize,
}

impl Worker {
    /// Ends well once stopped, with all that was ordered done.
    async fn serve(&mut self, broker: &dyn Broker) -> Result<(), BrokerError> {
        let mut under_way = UnderWay::new();
        let mut ping = tokio::time::interval(Duration::from_millis(BACKPLANE_PING_MS));
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let link = Arc::clone(&self.link);
        loop {
            self.take_orders();
            self.send(broker, &mut under_way);
            if link.is_stopping() && self.writes.is_empty() && self.sent.is_empty() && self.telling == 0 {
                return Ok(());
            }
            tokio::select! {
                Some(done) = under_way.next(), if !under_way.is_empty() => self.handle(done)?,
                notice = broker.notice() => self.take_notices(broker, notice).await?,
                () = link.arrived.notified() => {}
                _ = ping.tick() => {
                    if !std::mem::replace(&mut self.deaf, true) {
                        let ping = broker.ping();
                        under_way.push(Box::pin(async move { Done::Pinged(ping.await) }));
                        self.ask_for_announced(broker, &mut under_way);
                    }
                }
            }
        }
    }

    /// Asks what was announced: whoever was away may have missed something, and what is outdated is to be forgotten.
    fn ask_for_announced(&mut self, broker: &dyn Broker, under_way: &mut UnderWay) {
        if self.hears && self.pings.is_multiple_of(PINGS_PER_ROUND) {
            let announced = broker.announced();
            under_way.push(Box::pin(async move { Done::Heard(announced.await) }));
        }
        self.pings = self.pings.wrapping_add(1);
    }

    fn take_orders(&mut self) {
        for order in self.link.take() {
            let bytes = order.bytes();
            match order {
                // Its bytes count until it is answered.
                Order::Publish(publication) => {
                    self.writes.push_back(Write::Publish(publication));
                    continue;
                }
                Order::Delete { name, waiter } => self.writes.push_back(Write::Delete { name, waiter }),
                Order::Visit { name, visitor } => self.visit(name, visitor),
                Order::Look { name } if self.followed.contains_key(&name) => self.looking.push_back(name),
                Order::Look { .. } => {}
                Order::Leave { name } => {
                    // Somebody may have come back meanwhile.
                    if self.hub.followed(&name).is_none() && self.followed.remove(&name).is_some() {
                        self.looking.push_back(name);
                    }
                }
                Order::Load(load) => self.loads.push_back(load),
                Order::Announce { subject, what, is_kept, visitor } => {
                    self.announcements.push_back((subject, what, is_kept, visitor));
                }
                Order::Tell { subject, what } => self.tells.push_back((subject, what)),
                Order::Spend { what, keep_ms, visitor } => self.spending.push_back((what, keep_ms, visitor)),
                Order::Refuse { waiter, problem } => {
                    replies::refuse(&self.hub, vec![(waiter, None, problem)])
                }
            }
            self.link.note_done(bytes);
        }
    }

    fn visit(&mut self, name: ChannelName, visitor: Visitor) {
        match self.followed.get_mut(&name) {
            Some(followed) if self.hub.followed(&name).is_some() => {
                followed.next_asking.push(visitor);
                if followed.next_asking.len() == 1 && !followed.is_asked {
                    self.looking.push_back(name);
                }
            }
            _ => {
                // What the hub let go of is followed anew, with a channel of its own.
                self.followed.remove(&name);
                let attaching = self.attaching.entry(name.clone()).or_default();
                attaching.visitors.push(visitor);
                if attaching.visitors.len() == 1 {
                    self.looking.push_back(name);
                }
            }
        }
    }

    /// Sends as much of what waits as may be under way.
    fn send(&mut self, broker: &dyn Broker, under_way: &mut UnderWay) {
        while self.batches < BACKPLANE_BATCHES && !self.writes.is_empty() {
            self.batches += 1;
            self.send_writes(broker, under_way);
        }
        while self.looks < LOOKS_UNDER_WAY && !self.looking.is_empty() {
            self.send_looks(broker, under_way);
        }
        while self.loading.len() < LOADS_UNDER_WAY
            && let Some(load) = self.loads.pop_front()
        {
            self.send_load(broker, load, under_way);
        }
        while let Some((what, keep_ms, visitor)) = self.spending.pop_front() {
            let (id, say) = (self.number(), broker.say_once(&what, keep_ms));
            under_way.push(Box::pin(async move { Done::Spent(id, say.await) }));
            self.spent.insert(id, visitor);
        }
        if !self.outdated.is_empty() {
            let forget = broker.forget(&std::mem::take(&mut self.outdated));
            under_way.push(Box::pin(async move { Done::Unfollowed(forget.await) }));
        }
        while let Some((subject, what, is_kept, visitor)) = self.announcements.pop_front() {
            let (id, announce) = (self.number(), broker.announce(&subject, &what, is_kept));
            under_way.push(begun(Box::pin(async move { Done::Announced(id, announce.await) })));
            self.announcing.insert(id, visitor);
        }
        while let Some((subject, what)) = self.tells.pop_front() {
            let tell = broker.announce(subject, &what, false);
            under_way.push(begun(Box::pin(async move { Done::Told(tell.await) })));
            self.telling += 1;
        }
        for name in std::mem::take(&mut self.missing) {
            let Some(followed) = self.followed.get_mut(&name) else { continue };
            if followed.follow.begin_reading() {
                let head = followed.channel.head();
                let read = broker.read(&name, head, u64::MAX, MISSED_EVENTS, MISSED_BYTES);
                under_way.push(Box::pin(async move { Done::Missed(name, read.await) }));
            }
        }
    }

    fn send_writes(&mut self, broker: &dyn Broker, under_way: &mut UnderWay) {
        let id = self.number();
        if let Some(Write::Delete { name, .. }) = self.writes.front() {
            let delete = broker.delete(name);
            under_way.push(begun(Box::pin(async move { Done::Deleted(id, delete.await) })));
            let writes = self.writes.pop_front().into_iter().collect();
            self.sent.insert(id, Sent { writes, since_us: self.hub.clock().now_us() });
            return;
        }
        let mut appends = Vec::new();
        let mut batch = Vec::new();
        while let Some(Write::Publish(publication)) = self.writes.front() {
            let Publication { name, policy, new, .. } = publication;
            if let Some(followed) = self.followed.get_mut(name) {
                followed.follow.note_sent();
            }
            appends.push(Append {
                name: name.clone(),
                policy: Arc::clone(policy),
                new: new.clone(),
                digest: new.idempotency_key.as_ref().map(|_| receipts::digest(new)),
            });
            batch.extend(self.writes.pop_front());
            if batch.len() == BACKPLANE_BATCH {
                break;
            }
        }
        let append = broker.append(appends, self.hub.limits());
        under_way.push(begun(Box::pin(async move { Done::Appended(id, append.await) })));
        self.sent.insert(id, Sent { writes: batch, since_us: self.hub.clock().now_us() });
    }

    /// Follows channels that are to be followed, looks at those that are, and leaves the others.
    fn send_looks(&mut self, broker: &dyn Broker, under_way: &mut UnderWay) {
        let count = self.looking.len().min(LOOKS);
        let (mut names, mut policies, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for name in self.looking.drain(..count) {
            let followed = self.followed.get_mut(&name);
            if followed.as_ref().is_some_and(|followed| followed.is_asked) {
                continue; // whoever asks is served by the next look
            }
            if self.attaching.contains_key(&name) || followed.is_some() {
                if let Some(followed) = followed {
                    followed.is_asked = true;
                    followed.asked_at = followed.channel.head();
                    followed.asking = std::mem::take(&mut followed.next_asking);
                }
                policies.push((name.clone(), Arc::clone(self.hub.policy_of(name.as_str()))));
                names.push(name);
            } else {
                left.push(name);
            }
        }
        if !left.is_empty() {
            let unfollow = broker.unfollow(&left);
            under_way.push(begun(Box::pin(async move { Done::Unfollowed(unfollow.await) })));
        }
        if !names.is_empty() {
            self.looks += 1;
            let (follow, look) = (broker.follow(&names), broker.look(&policies));
            let looked = async move {
                let standings = match follow.await {
                    Ok(()) => look.await,
                    Err(error) => Err(error),
                };
                Done::Looked(names, standings)
            };
            under_way.push(begun(Box::pin(looked)));
        }
    }

    fn send_load(&mut self, broker: &dyn Broker, load: Load, under_way: &mut UnderWay) {
        let channel = Arc::clone(&load.channel);
        let id = self.number();
        match &load.what {
            What::Events { after, amount } => {
                let number = channel.chunk_number().unwrap_or(0);
                if let Some(chunk) = self.backplane.chunks.find(number, *after) {
                    return replies::events(&self.hub, load, Ok(Some(chunk)));
                }
                let (events, bytes) = Chunk::room(*after, *amount, self.link.is_sparse);
                let read = broker.read(channel.name(), *after, u64::MAX, events, bytes);
                under_way.push(Box::pin(async move { Done::Events(id, read.await) }));
            }
            What::State { .. } => {
                let policy: &Arc<Policy> = self.hub.policy_of(channel.name().as_str());
                let state = broker.state(channel.name(), policy);
                under_way.push(Box::pin(async move { Done::State(id, state.await) }));
            }
        }
        self.loading.insert(id, load);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn handle(&mut self, done: Done) -> Result<(), BrokerError> {
        let mut told = Told::new();
        match done {
            Done::Appended(id, outcome) => self.handle_appended(id, outcome?, &mut told),
            Done::Deleted(id, outcome) => self.handle_deleted(id, outcome?, &mut told),
            Done::Looked(names, standings) => {
                self.looks -= 1;
                for (name, standing) in names.into_iter().zip(standings?) {
                    self.handle_standing(name, standing, &mut told);
                }
            }
            Done::Missed(name, arrivals) => self.handle_missed(&name, arrivals?, &mut told),
            Done::Events(id, arrivals) => {
                let arrivals = arrivals?;
                if let Some(load) = self.loading.remove(&id) {
                    replies::loaded(&self.hub, &self.backplane, load, arrivals);
                }
            }
            Done::State(id, state) => {
                let state = state?;
                if let Some(load) = self.loading.remove(&id) {
                    replies::state(&self.hub, load, Ok(state));
                }
            }
            Done::Spent(id, outcome) => {
                let is_first = outcome?;
                if let Some(visitor) = self.spent.remove(&id) {
                    self.tell_spent(visitor, Ok(is_first));
                }
            }
            Done::Announced(id, outcome) => {
                outcome?;
                if let Some(visitor) = self.announcing.remove(&id) {
                    self.tell_announced(visitor, Ok(()));
                }
            }
            Done::Heard(announced) => {
                for (subject, what) in announced? {
                    if !self.backplane.hear(&subject, &what) {
                        self.outdated.push((subject, what));
                    }
                }
            }
            Done::Unfollowed(outcome) => outcome?,
            Done::Told(outcome) => {
                self.telling -= 1;
                self.link.note_told(1);
                outcome?;
            }
            Done::Pinged(outcome) => {
                self.deaf = false;
                outcome?;
                self.link.note_answered(self.hub.clock().now_ms());
            }
        }
        self.tell(told);
        Ok(())
    }

    fn handle_appended(&mut self, id: u64, answers: Vec<Appended>, told: &mut Told) {
        self.batches -= 1;
        let mut completions = replies::Completions::new(&self.hub);
        let mut bytes = 0;
        let Some(Sent { writes, since_us }) = self.sent.remove(&id) else { return };
        self.link.durations.observe_us(self.hub.clock().now_us().saturating_sub(since_us));
        for (write, answer) in writes.into_iter().zip(answers) {
            let Write::Publish(publication) = write else { continue };
            let order = Order::Publish(publication);
            bytes += order.bytes();
            let Order::Publish(publication) = order else { continue };
            let name = publication.name.clone();
            if let Some(followed) = self.followed.get_mut(&name)
                && followed.follow.note_answered()
            {
                self.missing.push(name.clone());
            }
            if let Appended::Stored(arrival) = &answer {
                self.arrive(&name, arrival.clone(), told);
            }
            let backlog = self.followed.get(&name).map_or(0, |followed| followed.channel.backlog());
            completions.add_publish(&self.hub, publication, answer, backlog);
        }
        self.link.note_done(bytes);
        // Publishers first: their answer comes before their own event.
        completions.send(&self.hub);
    }

    fn handle_deleted(&mut self, id: u64, head: u64, told: &mut Told) {
        self.batches -= 1;
        let mut completions = replies::Completions::new(&self.hub);
        for write in self.sent.remove(&id).into_iter().flat_map(|sent| sent.writes) {
            let Write::Delete { name, waiter } = write else { continue };
            if let Some(followed) = self.followed.get(&name) {
                self.hub.clear_shared(&followed.channel, head, told);
            }
            completions.add_deleted(name, waiter);
        }
        completions.send(&self.hub);
    }

    /// A channel is followed, or was looked at.
    fn handle_standing(&mut self, name: ChannelName, standing: Standing, told: &mut Told) {
        let head = standing.head;
        if let Some(Attaching { visitors, follow }) = self.attaching.remove(&name) {
            match self.hub.insert_shared(&name, standing) {
                Ok(channel) => {
                    let visitors = visitors.into_iter().map(|visitor| (head, visitor)).collect();
                    let (asking, next_asking) = (Vec::new(), Vec::new());
                    let followed = Followed {
                        channel,
                        follow,
                        visitors,
                        asking,
                        next_asking,
                        is_asked: false,
                        asked_at: 0,
                    };
                    self.followed.insert(name.clone(), followed);
                }
                Err(problem) => {
                    visitors.iter().for_each(|visitor| self.welcome(*visitor, Err(problem.clone())));
                    self.looking.push_back(name);
                    return;
                }
            }
        } else if let Some(followed) = self.followed.get_mut(&name) {
            if !self.hub.resettle(&followed.channel, standing, followed.asked_at, told) {
                followed.follow.want();
                self.missing.push(name.clone());
            }
            followed.visitors.extend(followed.asking.drain(..).map(|visitor| (head, visitor)));
            followed.is_asked = false;
            if !followed.next_asking.is_empty() {
                self.looking.push_back(name.clone());
            }
        }
        self.go_on(&name, told);
    }

    /// Takes a notice, and in the same turn whatever is there already.
    async fn take_notices(&mut self, broker: &dyn Broker, first: Option<Notice>) -> Result<(), BrokerError> {
        let (mut told, mut notice, mut outcome) = (Told::new(), Some(first), Ok(()));
        for _ in 0..NOTICES {
            match notice {
                Some(Some(Notice::Lost(why))) => outcome = Err(BrokerError(why)),
                Some(Some(notice)) => self.take_notice(notice, &mut told),
                Some(None) => outcome = Err(BrokerError("its connection has ended".to_owned())),
                None => break,
            }
            if outcome.is_err() {
                break;
            }
            notice = poll_once(broker.notice()).await;
        }
        // Also if it ends with this: who was told of is told.
        self.tell(told);
        outcome
    }

    fn take_notice(&mut self, notice: Notice, told: &mut Told) {
        match notice {
            Notice::Event(name, arrival) => self.arrive(&name, arrival, told),
            Notice::Deleted(name, floor) => {
                if let Some(followed) = self.followed.get(&name) {
                    self.hub.clear_shared(&followed.channel, floor, told);
                }
            }
            Notice::Announced(subject, what) => {
                self.backplane.hear(&subject, &what);
            }
            Notice::Lost(_) => {}
        }
    }

    /// An event of a channel is here, whichever way it came.
    fn arrive(&mut self, name: &ChannelName, arrival: Arrival, told: &mut Told) {
        if let Some(attaching) = self.attaching.get_mut(name) {
            attaching.follow.keep(arrival);
        } else if let Some(followed) = self.followed.get_mut(name) {
            match self.hub.adopt_shared(&followed.channel, &arrival, wall_clock(), told) {
                Adoption::Taken => self.go_on(name, told),
                Adoption::Known => {}
                Adoption::Early => {
                    followed.follow.keep(arrival);
                    self.missing.push(name.clone());
                }
            }
        }
    }

    /// A channel has come further: so may what waited for that.
    fn go_on(&mut self, name: &ChannelName, told: &mut Told) {
        let Some(followed) = self.followed.get_mut(name) else { return };
        while let Some(arrival) = followed.follow.next(followed.channel.head()) {
            self.hub.adopt_shared(&followed.channel, &arrival, wall_clock(), told);
        }
        if followed.visitors.is_empty() {
            return;
        }
        let head = followed.channel.head();
        let there = |(to, _): &(u64, Visitor)| *to <= head;
        let here: Vec<Visitor> = followed.visitors.iter().filter(|v| there(v)).map(|(_, v)| *v).collect();
        followed.visitors.retain(|visitor| !there(visitor));
        here.into_iter().for_each(|visitor| self.welcome(visitor, Ok(())));
    }

    /// What a channel missed was read.
    fn handle_missed(&mut self, name: &ChannelName, arrivals: Vec<Arrival>, told: &mut Told) {
        let Some(followed) = self.followed.get_mut(name) else { return };
        followed.follow.reading = false;
        let (count, is_empty) = (arrivals.len(), arrivals.is_empty());
        let bytes: usize = arrivals.iter().map(|arrival| arrival.event.size_bytes()).sum();
        for arrival in arrivals {
            let adopted = self.hub.adopt_shared(&followed.channel, &arrival, wall_clock(), told);
            if adopted == Adoption::Early {
                // What was between is not retained any more.
                self.hub.give_up(&followed.channel, arrival.prev, told);
                self.hub.adopt_shared(&followed.channel, &arrival, wall_clock(), told);
            }
        }
        if count == MISSED_EVENTS || bytes >= MISSED_BYTES {
            followed.follow.want();
            self.missing.push(name.clone());
        } else if is_empty {
            let head = followed.channel.head();
            if let Some(prev) = followed.follow.oldest_gap(head) {
                self.hub.give_up(&followed.channel, prev, told);
            }
            // There is nothing that they could wait for.
            followed.visitors.iter_mut().for_each(|(to, _)| *to = 0);
        }
        self.go_on(name, told);
    }

    fn tell(&self, told: Told) {
        let inboxes = self.hub.inboxes();
        for (shard, slot) in told {
            inboxes[usize::from(shard)].push(Message::Dirty(slot));
        }
    }

    fn welcome(&self, visitor: Visitor, outcome: Result<(), Problem>) {
        let Visitor { shard, connection, serial } = visitor;
        self.hub.inboxes()[usize::from(shard)].push(Message::Followed { connection, serial, outcome });
    }

    fn tell_spent(&self, visitor: Visitor, outcome: Result<bool, Problem>) {
        let Visitor { shard, connection, serial } = visitor;
        self.hub.inboxes()[usize::from(shard)].push(Message::Spent { connection, serial, outcome });
    }

    fn tell_announced(&self, visitor: Visitor, outcome: Result<(), Problem>) {
        let Visitor { shard, connection, serial } = visitor;
        self.hub.inboxes()[usize::from(shard)].push(Message::Announced { connection, serial, outcome });
    }

    /// Nobody knows whether a ticket was good, or who was told what.
    fn refuse_questions(&mut self, problem: &Problem) {
        self.link.note_told(self.tells.len() + std::mem::take(&mut self.telling));
        self.tells.clear();
        let waiting = self.spending.drain(..).map(|(_, _, visitor)| visitor);
        let visitors: Vec<Visitor> = waiting.chain(self.spent.drain().map(|(_, visitor)| visitor)).collect();
        visitors.into_iter().for_each(|visitor| self.tell_spent(visitor, Err(problem.clone())));
        let waiting = self.announcements.drain(..).map(|(_, _, _, visitor)| visitor);
        let visitors: Vec<Visitor> =
            waiting.chain(self.announcing.drain().map(|(_, visitor)| visitor)).collect();
        visitors.into_iter().for_each(|visitor| self.tell_announced(visitor, Err(problem.clone())));
    }

    /// The broker is away: whoever waits for it is told.
    fn fail(&mut self, error: &BrokerError) {
        self.link.set_away(true);
        eprintln!("tidewire: the backplane at {} is away: {error}", self.link.name());
        let unknown = Problem::new(
            Code::BackplaneUnavailable,
            "the backplane went away; it is not known whether the event was stored, so try again with the same \
             idempotency key",
        );
        let nothing =
            Problem::new(Code::BackplaneUnavailable, "the backplane is away; nothing was stored. Try again");
        let sent: Vec<Write> = self.sent.drain().flat_map(|(_, sent)| sent.writes).collect();
        self.refuse(sent, &unknown);
        let waiting = std::mem::take(&mut self.writes).into();
        self.refuse(waiting, &nothing);
        self.loads.extend(self.loading.drain().map(|(_, load)| load));
        self.refuse_loads(&nothing);
        self.refuse_questions(&nothing);
        let attaching = std::mem::take(&mut self.attaching);
        for visitor in attaching.into_values().flat_map(|attaching| attaching.visitors) {
            self.welcome(visitor, Err(nothing.clone()));
        }
        let mut visitors = Vec::new();
        for followed in self.followed.values_mut() {
            visitors.append(&mut followed.take_visitors());
            followed.follow.reset();
        }
        visitors.into_iter().for_each(|visitor| self.welcome(visitor, Err(nothing.clone())));
        (self.looks, self.batches, self.deaf) = (0, 0, false);
        self.looking.clear();
        self.missing.clear();
    }

    fn refuse(&mut self, writes: Vec<Write>, problem: &Problem) {
        let mut refusals = Vec::new();
        let mut bytes = 0;
        for write in writes {
            match write {
                Write::Publish(publication) => {
                    bytes += publication.new.payload.data().len() + 64;
                    let name = Some(publication.name);
                    refusals.extend(publication.waiter.map(|waiter| (waiter, name, problem.clone())));
                }
                Write::Delete { name, waiter } => refusals.push((waiter, Some(name), problem.clone())),
            }
        }
        self.link.note_done(bytes);
        replies::refuse(&self.hub, refusals);
    }

    /// Tries until the broker is there again. `None` once stopped.
    async fn reconnect(&mut self, target: &Target, known: Known) -> Option<Box<dyn Broker + Send>> {
        let mut pause_ms = 50;
        loop {
            // Not all nodes at once.
            let pause = Duration::from_millis(fastrand::u64(pause_ms / 2..=pause_ms));
            let attempt = async {
                tokio::time::sleep(pause).await;
                target.connect(Some(known)).await
            };
            let mut attempt = pin!(attempt);
            let link = Arc::clone(&self.link);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut attempt => break outcome,
                    () = link.arrived.notified() => self.refuse_orders(),
                }
                if link.is_stopping() {
                    self.refuse_orders();
                    return None;
                }
            };
            match outcome {
                Ok(broker) => return Some(broker),
                Err(error) => {
                    pause_ms = (pause_ms * 2).min(BACKPLANE_RETRY_MS);
                    tracing::debug!(target: "tidewire", server = link.name(), %error, "the backplane is still away");
                }
            }
        }
    }

    fn refuse_orders(&mut self) {
        self.take_orders();
        let nothing =
            Problem::new(Code::BackplaneUnavailable, "the backplane is away; nothing was stored. Try again");
        let writes = std::mem::take(&mut self.writes).into();
        self.refuse(writes, &nothing);
        self.refuse_loads(&nothing);
        self.refuse_questions(&nothing);
        let attaching = std::mem::take(&mut self.attaching);
        let mut visitors: Vec<Visitor> =
            attaching.into_values().flat_map(|attaching| attaching.visitors).collect();
        for name in self.looking.drain(..) {
            if let Some(followed) = self.followed.get_mut(&name) {
                visitors.append(&mut followed.take_visitors());
            }
        }
        visitors.into_iter().for_each(|visitor| self.welcome(visitor, Err(nothing.clone())));
    }

    /// Requests are told; streams wait, as they do for events.
    fn refuse_loads(&mut self, problem: &Problem) {
        for load in std::mem::take(&mut self.loads) {
            match &load.what {
                What::Events { amount: Amount::Stream, .. } | What::State { may_wait: true, .. } => {
                    self.loads.push_back(load);
                }
                What::Events { .. } => replies::events(&self.hub, load, Err(problem.clone())),
                What::State { .. } => replies::state(&self.hub, load, Err(problem.clone())),
            }
        }
    }

    /// The broker is back: each channel goes on from where it was.
    fn begin_anew(&mut self) {
        self.link.set_away(false);
        self.pings = 0;
        eprintln!("tidewire: the backplane at {} is back", self.link.name());
        self.looking.extend(self.followed.keys().cloned());
    }
}

/// Has a future begin, so that what it sends goes out before what is sent later.
fn begun(mut future: Pin<Box<dyn Future<Output = Done>>>) -> Pin<Box<dyn Future<Output = Done>>> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        Poll::Ready(done) => Box::pin(std::future::ready(done)),
        Poll::Pending => future,
    }
}

/// What a future has to say at once, if it has.
async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
