//! Which route a path is, which methods it has, and what its parameters say.
//! Must not answer anything.

use tidewire_core::http1::{Method, Query, Request, decode_path_segment};
use tidewire_core::limits::Limits;
use tidewire_core::{ChannelName, Code, Problem};

use crate::hub::Listed;

/// How many events a poll gets that does not say.
pub(crate) const LIMIT_DEFAULT: usize = 100;

/// A route with what its path names.
#[derive(Debug)]
pub(crate) enum Route {
    /// `/v1/channels/{channel}/events`
    ChannelEvents(ChannelName),
    /// `/v1/channels/{channel}/ws`
    ChannelWebSocket(ChannelName),
    /// `/v1/channels/{channel}/presence`
    Presence(ChannelName),
    /// `/v1/channels/{channel}`
    Channel(ChannelName),
    /// `/v1/events`
    Events,
    /// `/v1/ws`
    WebSocket,
    /// `/v1/tickets`
    Tickets,
    /// `/v1/admin/...`
    Admin(AdminRoute),
    /// `/admin` and the files of its page.
    AdminPage,
    /// `/healthz`
    Health,
    /// `/readyz`
    Ready,
    /// `/metrics`
    Metrics,
    /// Anything else, which may be a page.
    Other,
}

/// A route of the admin API, with the user that its path names.
#[derive(Debug)]
pub(crate) enum AdminRoute {
    /// `/v1/admin`
    Start,
    /// `/v1/admin/statistics`
    Statistics,
    /// `/v1/admin/channels`, with the page once it is made.
    Channels(Option<Result<Listed, Problem>>),
    /// `/v1/admin/tickets`
    Tickets,
    /// `/v1/admin/servers`
    Servers,
    /// `/v1/admin/drain`
    Drain,
    /// `/v1/admin/users`
    Users,
    /// `/v1/admin/users/{user}`
    User(String),
    /// `/v1/admin/users/{user}/disconnect`
    Disconnect(String),
    /// `/v1/admin/users/{user}/revoke`
    Revoke(String),
}

impl Route {
    /// Finds the route of a path.
    ///
    /// # Errors
    /// `invalid_channel` and `invalid_request` for a path that names a channel wrongly.
    pub(crate) fn of(path: &str) -> Result<Self, Problem> {
        let mut segments = path.split('/').skip(1);
        let parts = (segments.next(), segments.next(), segments.next(), segments.next(), segments.next());
        let channel = |segment| ChannelName::new(&decode_path_segment(segment)?);
        Ok(match parts {
            (Some("v1"), Some("channels"), Some(name), Some("events"), None) => {
                Self::ChannelEvents(channel(name)?)
            }
            (Some("v1"), Some("channels"), Some(name), Some("ws"), None) => {
                Self::ChannelWebSocket(channel(name)?)
            }
            (Some("v1"), Some("channels"), Some(name), Some("presence"), None) => {
                Self::Presence(channel(name)?)
            }
            (Some("v1"), Some("channels"), Some(name), None, None) => Self::Channel(channel(name)?),
            (Some("v1"), Some("events"), None, None, None) => Self::Events,
            (Some("v1"), Some("ws"), None, None, None) => Self::WebSocket,
            (Some("v1"), Some("tickets"), None, None, None) => Self::Tickets,
            (Some("admin"), _, None, None, None) => Self::AdminPage,
            (Some("v1"), Some("admin"), None, None, None) => Self::Admin(AdminRoute::Start),
            (Some("v1"), Some("admin"), Some("statistics"), None, None) => {
                Self::Admin(AdminRoute::Statistics)
            }
            (Some("v1"), Some("admin"), Some("channels"), None, None) => {
                Self::Admin(AdminRoute::Channels(None))
            }
            (Some("v1"), Some("admin"), Some("tickets"), None, None) => Self::Admin(AdminRoute::Tickets),
            (Some("v1"), Some("admin"), Some("servers"), None, None) => Self::Admin(AdminRoute::Servers),
            (Some("v1"), Some("admin"), Some("drain"), None, None) => Self::Admin(AdminRoute::Drain),
            (Some("v1"), Some("admin"), Some("users"), None, None) => Self::Admin(AdminRoute::Users),
            (Some("v1"), Some("admin"), Some("users"), Some(user), None) => {
                Self::Admin(AdminRoute::User(decode_path_segment(user)?.into_owned()))
            }
            (
                Some("v1"),
                Some("admin"),
                Some("users"),
                Some(user),
                Some(verb @ ("disconnect" | "revoke")),
            ) if segments.next().is_none() => {
                let user = decode_path_segment(user)?.into_owned();
                Self::Admin(match verb {
                    "revoke" => AdminRoute::Revoke(user),
                    _ => AdminRoute::Disconnect(user),
                })
            }
            (Some("healthz"), None, None, None, None) => Self::Health,
            (Some("readyz"), None, None, None, None) => Self::Ready,
            (Some("metrics"), None, None, None, None) => Self::Metrics,
            _ => Self::Other,
        })
    }

    /// Whether the route is on this port: where the admin API has one of its own, it is there alone, with what
    /// those need who run the server.
    pub(crate) fn is_here(&self, on_admin_port: bool, has_admin_port: bool) -> bool {
        match self {
            Self::Health | Self::Ready => true,
            Self::Admin(_) | Self::AdminPage | Self::Metrics => on_admin_port || !has_admin_port,
            _ => !on_admin_port,
        }
    }

    /// Whether the route is about channels' events, which the admin page reaches on its own port too.
    pub(crate) fn is_of_channels(&self) -> bool {
        matches!(
            self,
            Self::ChannelEvents(_)
                | Self::ChannelWebSocket(_)
                | Self::Presence(_)
                | Self::Channel(_)
                | Self::Events
                | Self::WebSocket
        )
    }

    /// Whether who asks makes a difference.
    pub(crate) fn asks_who(&self) -> bool {
        !matches!(self, Self::AdminPage | Self::Health | Self::Ready | Self::Metrics | Self::Other)
    }

    /// The methods of the route, as `Allow` lists them.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Self::ChannelEvents(_) => "GET, HEAD, POST, OPTIONS",
            Self::Presence(_) => "GET, HEAD, POST, DELETE, OPTIONS",
            Self::Channel(_) => "GET, HEAD, DELETE, OPTIONS",
            Self::Tickets => "POST, OPTIONS",
            Self::Admin(route) if route.method() == Method::Post => "POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// Whether the route has the method.
    pub(crate) fn has(&self, method: Method) -> bool {
        match method {
            Method::Options => true,
            Method::Get | Method::Head => match self {
                Self::Tickets => false,
                Self::Admin(route) => route.method() == Method::Get,
                _ => true,
            },
            Method::Post => match self {
                Self::ChannelEvents(_) | Self::Presence(_) | Self::Tickets => true,
                Self::Admin(route) => route.method() == Method::Post,
                _ => false,
            },
            Method::Delete => matches!(self, Self::Channel(_) | Self::Presence(_)),
            Method::Other => false,
        }
    }
}

/// A request to read events.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    /// The channels, in the request's order.
    pub(crate) channels: Vec<ChannelName>,
    /// Whether it came to `/v1/events`.
    pub(crate) several: bool,
    /// `since`, unread.
    pub(crate) since: Option<String>,
    /// The state comes first.
    pub(crate) snapshot: bool,
    /// The most events of an answer.
    pub(crate) limit: usize,
    /// How long to hold the answer.
    pub(crate) wait_ms: Option<u64>,
}

impl ReadRequest {
    /// Reads the parameters of `/v1/events` (`channel` is `None`) or a channel's events.
    ///
    /// # Errors
    /// `invalid_parameter`, `invalid_channel`, `too_many_channels`.
    pub(crate) fn parse(
        request: &Request<'_, '_>,
        channel: Option<ChannelName>,
        limits: &Limits,
    ) -> Result<Self, Problem> {
        let streams = request.accepts_event_stream();
        let known: &[&str] = match (&channel, streams) {
            (Some(_), true) => &["since", "snapshot", "ticket"],
            (Some(_), false) => &["since", "limit", "wait", "ticket"],
            (None, true) => &["channel", "since", "ticket"],
            (None, false) => &["channel", "since", "limit", "wait", "ticket"],
        };
        let query = Query::parse(request.query, known)?;
        let several = channel.is_none();
        let channels = match channel {
            Some(channel) => vec![channel],
            None => channels(&query, limits.channels_per_request)?,
        };
        let since = query.one("since")?.map(str::to_owned);
        let snapshot = match query.one("snapshot")? {
            None | Some("0") => false,
            Some("1") => true,
            Some(_) => return Err(invalid("snapshot must be 1 or 0".to_owned())),
        };
        if snapshot && since.is_some() {
            let detail = "pass either since or snapshot; a snapshot says where to go on by itself";
            return Err(invalid(detail.to_owned()));
        }
        let limit = number(query.one("limit")?, "limit", 1.0, limits.page_events as f64)?;
        let wait = query.one("wait")?;
        let wait_ms = match wait {
            Some(_) => number(wait, "wait", 0.0, limits.wait_ms as f64 / 1000.0)?
                .map(|seconds| (seconds * 1000.0) as u64),
            None => None,
        };
        if limit.is_some_and(|limit| limit.fract() != 0.0) {
            return Err(invalid("limit must be a whole number".to_owned()));
        }
        let limit = limit.map_or(LIMIT_DEFAULT.min(limits.page_events), |limit| limit as usize);
        Ok(Self { channels, several, since, snapshot, limit, wait_ms })
    }

    /// The channels' names.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.channels.iter().map(ChannelName::as_str).collect()
    }
}

fn channels(query: &Query<'_>, most: usize) -> Result<Vec<ChannelName>, Problem> {
    let mut channels: Vec<ChannelName> = Vec::new();
    for name in query.all("channel") {
        let channel = ChannelName::new(name)?;
        if channels.contains(&channel) {
            return Err(invalid(format!("the channel {channel} is named twice")));
        }
        if channels.len() == most {
            let detail = format!("a request may name {most} channels; use several requests, or a WebSocket");
            return Err(Problem::new(Code::TooManyChannels, detail));
        }
        channels.push(channel);
    }
    if channels.is_empty() {
        return Err(invalid("name at least one channel: /v1/events?channel=a&channel=b".to_owned()));
    }
    Ok(channels)
}

/// A number out of a range, if there is one.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn number(text: Option<&str>, name: &str, least: f64, most: f64) -> Result<Option<f64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let plain = !text.is_empty()
        && text.len() <= 16
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse::<f64>() {
        Ok(number) if plain && (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(invalid(format!("{name} must be a number from {least} to {most}"))),
    }
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidParameter, detail)
}
