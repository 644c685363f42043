//! A Redis Cluster as one broker: each channel is at the master that has its slot. Must not know how a Redis is spoken to.
//!
//! Redirections are not followed: a master that took over may have lost what the one before acknowledged, and each append
//! says which reign it believes in. So once slots have moved, all of it is connected anew.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crc::{CRC_16_XMODEM, Crc};
use futures_util::future::{try_join, try_join_all};
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisError, RedisResult, Value};
use tidewire_core::ChannelName;
use tidewire_core::limits::{Limits, Policy};

use super::broker::RedisBroker;
use super::connect::Target;
use crate::backplane::broker::{
    Answer, Append, Appended, Arrival, Broker, BrokerError, Known, Notice, Standing, StateAt,
};

/// How many slots a cluster has (Redis Cluster specification, "Key distribution model").
const SLOTS: usize = 16_384;
const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The masters, and which of them each slot is at.
#[derive(Debug, Clone)]
struct Layout {
    masters: Vec<Master>,
    slots: Vec<u16>,
}

#[derive(Debug, Clone)]
struct Master {
    /// Its name in the cluster, which is the same whoever is asked.
    id: String,
    host: String,
    port: u16,
}

/// A cluster.
pub(super) struct ClusterBroker {
    prefix: String,
    parts: Vec<RedisBroker>,
    layout: Layout,
    known: Known,
    /// Which part is asked next whether slots have moved.
    turn: Cell<usize>,
    /// Which part's notices come first.
    first: RefCell<usize>,
}

impl Layout {
    /// Whether each slot is at the same master.
    fn is_as(&self, other: &Self) -> bool {
        let ids =
            |layout: &'_ Self| layout.masters.iter().map(|master| master.id.clone()).collect::<Vec<_>>();
        self.slots == other.slots && ids(self) == ids(other)
    }
}

impl ClusterBroker {
    /// Connects to all masters, as the first of the seeds says that answers.
    pub(super) async fn connect(
        target: &Target,
        seeds: &[ConnectionInfo],
        known: Option<Known>,
    ) -> RedisResult<Self> {
        let (layout, seed) = ask_seeds(seeds).await?;
        let clients = layout.masters.iter().map(|master| Client::open(at(seed, master)));
        let clients = clients.collect::<RedisResult<Vec<_>>>()?;
        let mut parts = try_join_all(clients.iter().map(|client| target.open(client, true))).await?;
        let prefix = target.parameters.prefix.clone();
        let number_at = usize::from(layout.slots[slot(&format!("{prefix}:log"))]);
        let number = target.number(parts[number_at].writer(), known.map(|known| known.number)).await?;
        let secret_at = usize::from(layout.slots[slot(&format!("{prefix}:secret"))]);
        let secret = target.secret(parts[secret_at].writer(), known.map(|known| known.secret)).await?;
        let board_at = usize::from(layout.slots[slot(&format!("{prefix}:board"))]);
        parts[board_at].hear_board().await?;
        let known = Known { number, secret };
        parts.iter_mut().for_each(|part| part.know(known));
        Ok(Self { prefix, parts, layout, known, turn: Cell::new(0), first: RefCell::new(0) })
    }

    /// Where a key of the log as a whole is.
    fn part_with(&self, key: &str) -> &RedisBroker {
        &self.parts[usize::from(self.layout.slots[slot(key)])]
    }

    fn index_of(&self, name: &ChannelName) -> usize {
        usize::from(self.layout.slots[usize::from(CRC.checksum(name.as_str().as_bytes())) % SLOTS])
    }

    fn part_of(&self, name: &ChannelName) -> &RedisBroker {
        &self.parts[self.index_of(name)]
    }

    /// Asks each part for its share of a list; gives all answers in the list's order.
    fn share<Item, Told: 'static>(
        &self,
        items: Vec<Item>,
        name: impl Fn(&Item) -> &ChannelName,
        ask: impl Fn(&RedisBroker, Vec<Item>) -> Answer<Vec<Told>>,
    ) -> Answer<Vec<Told>> {
        let count = items.len();
        let mut shares: Vec<(Vec<usize>, Vec<Item>)> =
            self.parts.iter().map(|_| Default::default()).collect();
        for (place, item) in items.into_iter().enumerate() {
            let share = &mut shares[self.index_of(name(&item))];
            share.0.push(place);
            share.1.push(item);
        }
        let asked: Vec<_> = shares
            .into_iter()
            .zip(&self.parts)
            .filter(|((places, _), _)| !places.is_empty())
            .map(|((places, items), part)| {
                let answer = ask(part, items);
                async move { Ok::<_, BrokerError>((places, answer.await?)) }
            })
            .collect();
        Box::pin(async move {
            let mut told: Vec<Option<Told>> = (0..count).map(|_| None).collect();
            for (places, answers) in try_join_all(asked).await? {
                places.into_iter().zip(answers).for_each(|(place, answer)| told[place] = Some(answer));
            }
            let told: Option<Vec<Told>> = told.into_iter().collect();
            told.ok_or_else(|| BrokerError("it answered less than it was asked".to_owned()))
        })
    }

    /// Tells each part its share of names.
    fn tell(
        &self,
        names: &[ChannelName],
        tell: impl Fn(&RedisBroker, &[ChannelName]) -> Answer<()>,
    ) -> Answer<()> {
        let mut shares: HashMap<usize, Vec<ChannelName>> = HashMap::new();
        for name in names {
            shares.entry(self.index_of(name)).or_default().push(name.clone());
        }
        let told: Vec<_> =
            shares.into_iter().map(|(index, names)| tell(&self.parts[index], &names)).collect();
        Box::pin(async move { try_join_all(told).await.map(drop) })
    }

    fn poll_notice(&self, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        let mut first = self.first.borrow_mut();
        for step in 0..self.parts.len() {
            let index = (*first + step) % self.parts.len();
            if let Poll::Ready(notice) = self.parts[index].poll_notice(context) {
                // One that has much to say does not keep the others from it.
                *first = index + 1;
                return Poll::Ready(notice);
            }
        }
        Poll::Pending
    }
}

impl Broker for ClusterBroker {
    fn known(&self) -> Known {
        self.known
    }

    fn say_once(&self, what: &str, keep_ms: u64) -> Answer<bool> {
        self.part_with(&format!("{}:once:{what}", self.prefix)).say_once(what, keep_ms)
    }

    fn announce(&self, subject: &str, what: &str, is_kept: bool) -> Answer<()> {
        self.part_with(&format!("{}:board", self.prefix)).announce(subject, what, is_kept)
    }

    fn announced(&self) -> Answer<Vec<(String, String)>> {
        self.part_with(&format!("{}:board", self.prefix)).announced()
    }

    fn forget(&self, announced: &[(String, String)]) -> Answer<()> {
        self.part_with(&format!("{}:board", self.prefix)).forget(announced)
    }

    fn append(&self, appends: Vec<Append>, limits: &Limits) -> Answer<Vec<Appended>> {
        self.share(appends, |append| &append.name, |part, appends| part.append(appends, limits))
    }

    fn follow(&self, names: &[ChannelName]) -> Answer<()> {
        self.tell(names, |part, names| part.follow(names))
    }

    fn unfollow(&self, names: &[ChannelName]) -> Answer<()> {
        self.tell(names, |part, names| part.unfollow(names))
    }

    fn look(&self, channels: &[(ChannelName, Arc<Policy>)]) -> Answer<Vec<Standing>> {
        self.share(channels.to_vec(), |(name, _)| name, |part, channels| part.look(&channels))
    }

    fn read(
        &self,
        name: &ChannelName,
        after: u64,
        last: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Answer<Vec<Arrival>> {
        self.part_of(name).read(name, after, last, events_max, bytes_max)
    }

    fn state(&self, name: &ChannelName, policy: &Arc<Policy>) -> Answer<StateAt> {
        self.part_of(name).state(name, policy)
    }

    fn delete(&self, name: &ChannelName) -> Answer<u64> {
        self.part_of(name).delete(name)
    }

    /// Also whether slots have moved since, of one part after the other.
    fn ping(&self) -> Answer<()> {
        let pings: Vec<_> = self.parts.iter().map(RedisBroker::ping).collect();
        let turn = self.turn.replace(self.turn.get().wrapping_add(1)) % self.parts.len();
        let (mut connection, host) = (self.parts[turn].reader(), self.layout.masters[turn].host.clone());
        let before = self.layout.clone();
        Box::pin(async move {
            let asked = async {
                let said = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await;
                said.and_then(|said| layout(&said, &host)).map_err(|error| BrokerError(error.to_string()))
            };
            let (_, now) = try_join(try_join_all(pings), asked).await?;
            if now.is_as(&before) { Ok(()) } else { Err(BrokerError("its slots have moved".to_owned())) }
        })
    }

    fn notice(&self) -> Pin<Box<dyn Future<Output = Option<Notice>> + '_>> {
        Box::pin(std::future::poll_fn(|context| self.poll_notice(context)))
    }
}

/// The slot of a key without a hash tag.
fn slot(key: &str) -> usize {
    usize::from(CRC.checksum(key.as_bytes())) % SLOTS
}

/// The layout as the first seed knows it that answers, and that seed.
async fn ask_seeds(seeds: &[ConnectionInfo]) -> RedisResult<(Layout, &ConnectionInfo)> {
    let mut why = odd("no node is named");
    for seed in seeds {
        let (ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) = seed.addr() else {
            continue;
        };
        let asked = async {
            let mut connection = Client::open(seed.clone())?.get_multiplexed_async_connection().await?;
            let said = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
            layout(&said, host)
        };
        match asked.await {
            Ok(layout) => return Ok((layout, seed)),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// What `CLUSTER SLOTS` says: ranges, each with its master first. Where it does not say a host, it is the one that was
/// asked.
fn layout(said: &Value, asked: &str) -> RedisResult<Layout> {
    type Range = (usize, usize, Vec<Value>);
    let mut ranges: Vec<Range> = Vec::new();
    let Value::Array(entries) = said else { return Err(odd("no list of slots")) };
    for entry in entries {
        let Value::Array(fields) = entry else { return Err(odd("no range of slots")) };
        let [Value::Int(from), Value::Int(to), Value::Array(master), ..] = &fields[..] else {
            return Err(odd("no range of slots"));
        };
        let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
        let (from, to) = range.filter(|(from, to)| from <= to && *to < SLOTS).ok_or_else(|| odd("slots"))?;
        ranges.push((from, to, master.clone()));
    }
    let mut masters: Vec<Master> = Vec::new();
    let mut slots = vec![None; SLOTS];
    ranges.sort_by_key(|(from, ..)| *from);
    for (from, to, fields) in ranges {
        let master = master(&fields, asked)?;
        let index = masters.iter().position(|known| known.id == master.id).unwrap_or_else(|| {
            masters.push(master);
            masters.len() - 1
        });
        slots[from..=to].fill(Some(index as u16));
    }
    let slots: Option<Vec<u16>> = slots.into_iter().collect();
    let slots =
        slots.ok_or_else(|| odd("not all slots have a master: the cluster is down, or not complete yet"))?;
    Ok(Layout { masters, slots })
}

/// An address, a port and a name.
fn master(fields: &[Value], asked: &str) -> RedisResult<Master> {
    let text = |value: Option<&Value>| match value {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(Value::SimpleString(text)) => text.clone(),
        _ => String::new(),
    };
    let host = Some(text(fields.first())).filter(|host| !host.is_empty() && host != "?");
    let Some(Value::Int(port)) = fields.get(1) else { return Err(odd("no port")) };
    let port = u16::try_from(*port).map_err(|_| odd("a port"))?;
    Ok(Master { id: text(fields.get(2)), host: host.unwrap_or_else(|| asked.to_owned()), port })
}

fn odd(why: &'static str) -> RedisError {
    RedisError::from((redis::ErrorKind::Client, why))
}

/// Another node, spoken to as to the seed.
fn at(seed: &ConnectionInfo, master: &Master) -> ConnectionInfo {
    let (host, port) = (master.host.clone(), master.port);
    let address = match seed.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    seed.clone().set_addr(address)
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::{SLOTS, layout, slot};

    fn range(from: i64, to: i64, host: &str, port: i64) -> Value {
        let id = Value::BulkString(format!("id{port}").into());
        let master = Value::Array(vec![Value::BulkString(host.into()), Value::Int(port), id]);
        Value::Array(vec![Value::Int(from), Value::Int(to), master.clone(), master])
    }

    #[test]
    fn keys_have_the_slots_that_the_specification_says() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo"), 12_182);
    }

    #[test]
    fn each_slot_has_its_master() {
        let said = Value::Array(vec![range(8_000, SLOTS as i64 - 1, "b", 2), range(0, 7_999, "", 1)]);
        let layout = layout(&said, "a").expect("a layout");
        let places: Vec<_> = layout.masters.iter().map(|master| (&*master.host, master.port)).collect();
        assert_eq!(places, [("a", 1), ("b", 2)]);
        assert_eq!((layout.slots[7_999], layout.slots[8_000]), (0, 1));
    }

    #[test]
    fn a_slot_without_a_master_is_an_error() {
        for said in [
            Value::Array(vec![range(0, 100, "a", 1)]),
            Value::Array(vec![range(0, SLOTS as i64, "a", 1)]),
            Value::Nil,
        ] {
            assert!(layout(&said, "a").is_err(), "{said:?}");
        }
    }
}
