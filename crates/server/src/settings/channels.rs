//! The rules of channels: what is kept, who may do what, which schema holds, by pattern.
//! Must not know where the values come from, nor who acts on the rules.

use std::sync::Arc;

use tidewire_core::limits::{
    Durability, Limits, PRESENCE_AGE_MS, PRESENCE_BYTES, PRESENCE_EVENTS, Policy, Retention,
    STATISTICS_AGE_MS, STATISTICS_BYTES, STATISTICS_EVENTS, StateKind,
};

use super::Rule;
use super::load::{Checks, choice};
use super::options::{ALLOWED, DURABILITY, STATE};
use super::values::{Data, Table};
use crate::access::pattern::{Fit, Pattern};
use crate::access::settings::{Allowed, ChannelRights};
use crate::schema::Schema;

/// The demo's channel.
const HOST: &str = "host";

/// All rules.
pub(super) struct Channels {
    pub(super) by_pattern: Vec<(Pattern, Arc<Rule>)>,
    pub(super) otherwise: Arc<Rule>,
    pub(super) own: Arc<Rule>,
    pub(super) presence: Arc<Rule>,
}

/// What all rules are read with.
struct Base<'b> {
    limits: &'b Limits,
    has_disk: bool,
    has_backplane: bool,
    authenticates: bool,
    /// What is said for all channels.
    idempotency_keys: Option<usize>,
}

impl Channels {
    pub(super) fn read(
        root: &Table,
        limits: &Limits,
        demo: bool,
        authenticates: bool,
        checks: &mut Checks<'_>,
    ) -> Self {
        let has_backplane = root.text("backplane").is_some();
        let has_disk = !checks.sources.flags.memory && !has_backplane;
        let idempotency_keys = said_count(root.table("history"), "idempotency_keys");
        let base = Base { limits, has_disk, has_backplane, authenticates, idempotency_keys };
        let otherwise = base.otherwise(root, checks);
        let mut by_pattern: Vec<(Pattern, Arc<Rule>)> = Vec::new();
        for table in root.many("channels") {
            let number = by_pattern.len();
            by_pattern.extend(base.rule(table, &otherwise, number, checks));
        }
        warn_of_shadows(root, checks);
        let of_host =
            Pattern::parse(HOST).ok().filter(|host| demo && by_pattern.iter().all(|(of, _)| of != host));
        if let Some(host) = of_host {
            // This machine's figures, every second: of no use after a restart. All else is as it would be.
            let fits = by_pattern.iter().find(|(pattern, _)| pattern.fit(HOST) != Fit::No);
            let rule = fits.map_or(&otherwise, |(_, rule)| &**rule);
            let retention = rule.policy.retention.clone();
            let policy = Arc::new(Policy::new(Durability::Memory, StateKind::Last, retention));
            by_pattern.insert(0, (host, Arc::new(Rule { policy, ..rule.clone() })));
        }
        for (number, (_, rule)) in by_pattern.iter_mut().enumerate() {
            Arc::make_mut(rule).number = number;
        }
        let otherwise = Arc::new(Rule { number: by_pattern.len(), ..otherwise });
        let (own, presence) = (Arc::new(own(&otherwise)), Arc::new(presence(&otherwise)));
        Self { by_pattern, otherwise, own, presence }
    }

    /// Puts what follows from other values among them, for those who want to see all.
    pub(super) fn settle(&self, root: &mut Table) {
        let Policy { durability, retention, .. } = &*self.otherwise.policy;
        let durability = match durability {
            Durability::Disk => "disk",
            Durability::Memory => "memory",
            Durability::None => "none",
            Durability::Backplane => "backplane",
        };
        root.settle("durability", Data::Text(durability.to_owned()));
        for (name, value) in [("bytes", retention.bytes), ("idempotency_keys", retention.idempotency_keys)] {
            root.table_mut("history").settle(name, Data::Number(value as u64));
        }
        let ChannelRights { subscribe, history, publish, presence } = self.otherwise.rights;
        let all =
            [("subscribe", subscribe), ("history", history), ("publish", publish), ("presence", presence)];
        for (name, allowed) in all {
            root.table_mut("rights").settle(name, Data::Text(ALLOWED[allowed as usize].to_owned()));
        }
    }
}

/// What holds for the server's own channels: some minutes of what it says of itself, in memory, for nobody but
/// whoever has the admin key.
fn own(otherwise: &Rule) -> Rule {
    let retention = Retention {
        events: STATISTICS_EVENTS,
        bytes: STATISTICS_BYTES,
        age_ms: STATISTICS_AGE_MS,
        ..Retention::default()
    };
    let policy = Arc::new(Policy::new(Durability::Memory, StateKind::Last, retention));
    Rule { number: otherwise.number, policy, rights: ChannelRights::all(Allowed::Nobody), schema: None }
}

/// What holds for the channels that say who is present: the state is who is there now. Who may read them goes by the
/// channel whose presence it is.
fn presence(otherwise: &Rule) -> Rule {
    let retention = Retention {
        events: PRESENCE_EVENTS,
        bytes: PRESENCE_BYTES,
        age_ms: PRESENCE_AGE_MS,
        ..Retention::default()
    };
    let policy = Arc::new(Policy::new(Durability::Memory, StateKind::Keyed, retention));
    Rule { number: otherwise.number, policy, rights: ChannelRights::all(Allowed::Nobody), schema: None }
}

/// A count that somebody wrote.
fn said_count(table: &Table, name: &str) -> Option<usize> {
    let said = table.number(name).filter(|_| table.is_said(name));
    said.map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

impl Base<'_> {
    /// What holds where no pattern fits.
    fn otherwise(&self, root: &Table, checks: &mut Checks<'_>) -> Rule {
        let by_default = match (self.has_backplane, self.has_disk) {
            (true, _) => Durability::Backplane,
            (false, true) => Durability::Disk,
            (false, false) => Durability::Memory,
        };
        let durability = self.durability(root, checks).unwrap_or(by_default);
        let state = state(root).unwrap_or_default();
        let retention = self.retention(root.table("history"), &Retention::default(), durability, checks);
        let by_default = if self.authenticates { Allowed::Granted } else { Allowed::Anyone };
        let rights = root.table("rights");
        let subscribe = self.allowed(rights, "subscribe", checks).unwrap_or(by_default);
        let rights = ChannelRights {
            subscribe,
            history: self.allowed(rights, "history", checks).unwrap_or(subscribe),
            publish: self.allowed(rights, "publish", checks).unwrap_or(by_default),
            presence: self.allowed(rights, "presence", checks).unwrap_or(subscribe),
        };
        Rule { number: 0, policy: Arc::new(Policy::new(durability, state, retention)), rights, schema: None }
    }

    fn rule(
        &self,
        table: &Table,
        otherwise: &Rule,
        number: usize,
        checks: &mut Checks<'_>,
    ) -> Option<(Pattern, Arc<Rule>)> {
        let all = &otherwise.policy;
        let durability = self.durability(table, checks).unwrap_or(all.durability);
        let state = state(table).unwrap_or(all.state);
        let retention = self.retention(table.table("history"), &all.retention, durability, checks);
        let said = table.table("rights");
        let subscribe = self.allowed(said, "subscribe", checks);
        // Who closes a channel to subscribers does not mean to leave its past open, nor who they are.
        let as_subscribe = |other: Allowed| subscribe.map_or(other, |allowed| allowed.max(other));
        let rights = ChannelRights {
            subscribe: subscribe.unwrap_or(otherwise.rights.subscribe),
            history: self.allowed(said, "history", checks).unwrap_or(as_subscribe(otherwise.rights.history)),
            publish: self.allowed(said, "publish", checks).unwrap_or(otherwise.rights.publish),
            presence: self
                .allowed(said, "presence", checks)
                .unwrap_or(as_subscribe(otherwise.rights.presence)),
        };
        let schema = schema(table, checks);
        let pattern = Pattern::parse(table.text("pattern")?).ok()?;
        let policy = Arc::new(Policy::new(durability, state, retention));
        Some((pattern, Arc::new(Rule { number, policy, rights, schema })))
    }

    fn durability(&self, table: &Table, checks: &mut Checks<'_>) -> Option<Durability> {
        let values = [Durability::Disk, Durability::Memory, Durability::None, Durability::Backplane];
        let chosen = choice(table, "durability", DURABILITY, &values)?;
        if self.has_backplane && matches!(chosen, Durability::Disk | Durability::Memory) {
            checks.wrong(
                table,
                "durability",
                "must be \"backplane\" or \"none\" where there is a backplane: all servers share each channel",
            );
        } else if chosen == Durability::Backplane && !self.has_backplane {
            checks.wrong(
                table,
                "durability",
                "= \"backplane\" cannot be without one; say where it is: backplane = \"redis://HOST:PORT\"",
            );
        } else if chosen == Durability::Disk && !self.has_disk {
            checks.wrong(
                table,
                "durability",
                "= \"disk\" cannot be with --memory; pass --data DIR, or choose \"memory\"",
            );
        }
        Some(chosen)
    }

    fn retention(
        &self,
        table: &Table,
        base: &Retention,
        durability: Durability,
        checks: &mut Checks<'_>,
    ) -> Retention {
        let said = |name: &str| table.number(name).filter(|_| table.is_said(name));
        let count = |name: &str, base: usize| said_count(table, name).unwrap_or(base);
        let keys = self.idempotency_keys;
        let keys = keys.unwrap_or_else(|| Retention::idempotency_keys_by_default(durability));
        let milliseconds =
            |name: &str, base: u64| said(name).map_or(base, |seconds| seconds.saturating_mul(1000));
        let event_bytes = self.limits.event_bytes;
        let retention = Retention {
            events: count("events", base.events),
            // A larger event limit makes room for itself, unless somebody says otherwise.
            bytes: count("bytes", base.bytes.max(event_bytes)),
            age_ms: milliseconds("age_seconds", base.age_ms),
            idempotency_ms: milliseconds("idempotency_seconds", base.idempotency_ms),
            idempotency_keys: count("idempotency_keys", keys),
        };
        if retention.bytes < event_bytes && said("bytes").is_some() {
            checks.wrong(
                table,
                "bytes",
                format!(
                    "= {} is less than limits.event_bytes = {event_bytes}, so the largest events would be dropped \
                     before they are delivered",
                    retention.bytes
                ),
            );
        }
        retention
    }

    fn allowed(&self, table: &Table, name: &str, checks: &mut Checks<'_>) -> Option<Allowed> {
        let values = [Allowed::Anyone, Allowed::Authenticated, Allowed::Granted, Allowed::Nobody];
        let allowed = choice(table, name, ALLOWED, &values)?;
        if !self.authenticates && matches!(allowed, Allowed::Authenticated | Allowed::Granted) {
            checks.wrong(
                table,
                name,
                format!(
                    "= {:?}, and no authentication is configured, so nobody ever could: configure auth.issuers, or \
                     write \"anyone\" or \"nobody\"",
                    ALLOWED[allowed as usize]
                ),
            );
        }
        Some(allowed)
    }
}

/// A rule behind one that fits all its channels never decides, which its author may not know.
fn warn_of_shadows(root: &Table, checks: &mut Checks<'_>) {
    let tables: Vec<&Table> = root.many("channels").collect();
    for (at, table) in tables.iter().enumerate() {
        let Some(pattern) = table.text("pattern") else { continue };
        let covers = |before: &&&Table| before.text("pattern").is_some_and(|before| covers(before, pattern));
        if let Some(before) = tables[..at].iter().find(covers) {
            let (first, place) = (before.text("pattern").unwrap_or_default(), before.origin("pattern"));
            let what =
                format!("the rule for {pattern:?} never decides: {first:?} ({place}) fits all its channels");
            checks.mistakes.warn(table.origin("pattern"), what);
        }
    }
}

/// Whether one pattern fits all channels of another.
fn covers(pattern: &str, other: &str) -> bool {
    let stem = pattern.strip_suffix('*').filter(|stem| !stem.contains('{'));
    pattern == other || stem.is_some_and(|stem| other.strip_suffix('*').unwrap_or(other).starts_with(stem))
}

fn state(table: &Table) -> Option<StateKind> {
    choice(table, "state", STATE, &[StateKind::None, StateKind::Last, StateKind::Keyed])
}

fn schema(table: &Table, checks: &mut Checks<'_>) -> Option<Arc<Schema>> {
    let path = checks.path(table, "schema")?;
    let content = checks.content(table, "schema", &path)?;
    let value = serde_json::from_slice(&content).map_err(|error| format!("is not JSON: {error}"));
    match value.and_then(|value| Schema::compile(&value)) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(wrong) => {
            checks.wrong(table, "schema", format!("= {:?} {wrong}", path.display().to_string()));
            None
        }
    }
}
