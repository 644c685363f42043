//! What the configuration says of who may do what, once it is checked. Must not know how the file spells it
//! (`settings`), nor what is done with it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::pattern::Pattern;

/// Everything about access. The default lets anybody do anything, which is for loopback only.
#[derive(Debug, Default)]
pub(crate) struct AccessSettings {
    /// Whose tokens are taken.
    pub(crate) issuers: Vec<IssuerSettings>,
    /// Opens everything, the admin API included.
    pub(crate) admin_key: Option<Secret>,
    /// Where the admin API is served, if not where everything is.
    pub(crate) admin_listen: Option<SocketAddr>,
    /// What holds for all tokens.
    pub(crate) tokens: TokenSettings,
    /// The pages that may use this server, as `scheme://host[:port]`, `scheme://*.domain[:port]`, `null` or `*`.
    pub(crate) origins: Vec<String>,
    /// Whom to ask.
    pub(crate) callback: Option<CallbackSettings>,
    /// Whose word on a client's address is taken.
    pub(crate) proxies: ProxySettings,
}

impl AccessSettings {
    /// Whether anybody can show who they are.
    pub(crate) fn authenticates(&self) -> bool {
        let asks = |callback: &CallbackSettings| callback.asks_about.connect;
        !self.issuers.is_empty() || self.admin_key.is_some() || self.callback.as_ref().is_some_and(asks)
    }
}

/// Bytes that must never be shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

/// One who issues tokens.
#[derive(Debug, Clone)]
pub(crate) struct IssuerSettings {
    /// What `iss` must be. Without it, this entry is for tokens whose `iss` no other entry names.
    pub(crate) issuer: Option<String>,
    /// One of these must be in `aud`; empty: not looked at.
    pub(crate) audience: Vec<String>,
    /// The algorithms that its keys are used with: never empty, and all fit the kind of its keys.
    pub(crate) algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub(crate) keys: KeySource,
    /// How long fetched keys are good, unless an unknown key id asks for new ones.
    pub(crate) refresh_seconds: u64,
    /// The least time between two fetches, whoever asks.
    pub(crate) fetch_pause_seconds: u64,
}

/// Where the keys of an issuer come from.
#[derive(Debug, Clone)]
pub(crate) enum KeySource {
    /// A shared secret (HS256, HS384, HS512).
    Secret(Secret),
    /// A public key in PEM, read from this file when the server starts.
    PublicKey(PathBuf),
    /// A JSON Web Key Set (RFC 7517), read from this file when the server starts.
    KeySetFile(PathBuf),
    /// A JSON Web Key Set at this URL.
    KeySet(String),
    /// OpenID Connect Discovery below the issuer's URL.
    Discovery,
}

/// A signature algorithm of RFC 7518 and RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// What holds for all tokens and tickets.
#[derive(Debug, Clone)]
pub(crate) struct TokenSettings {
    /// The cookie in which a token may come.
    pub(crate) cookie: Option<String>,
    /// The claim that holds the rights.
    pub(crate) rights_claim: String,
    /// How far clocks may differ.
    pub(crate) leeway_seconds: u64,
    /// The longest token.
    pub(crate) token_bytes: usize,
    /// How long a WebSocket whose token has expired may still send a new one.
    pub(crate) grace_ms: u64,
    /// How long a ticket is good.
    pub(crate) ticket_ms: u64,
    /// The most tickets that are good at once.
    pub(crate) tickets: usize,
    /// How long it is remembered that a user's tokens were revoked: longer than any token lives.
    pub(crate) revocation_ms: u64,
    /// Of how many users that is remembered.
    pub(crate) revocations: usize,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            cookie: None,
            rights_claim: "tidewire".to_owned(),
            leeway_seconds: 30,
            token_bytes: 8192,
            grace_ms: 10_000,
            ticket_ms: 30_000,
            tickets: 100_000,
            revocation_ms: 86_400_000,
            revocations: 100_000,
        }
    }
}

/// Who may do one thing on a channel, at most. Each is stricter than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Allowed {
    /// Everybody, also those who do not say who they are.
    Anyone,
    /// Everybody who shows who they are, unless their token names channels and not this one.
    Authenticated,
    /// Those whose token names this channel.
    Granted,
    /// Only the application itself, with the admin key.
    Nobody,
}

/// What may be done on a channel, by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelRights {
    /// Getting events as they come.
    pub(crate) subscribe: Allowed,
    /// Reading what was published before: polls, cursors, snapshots.
    pub(crate) history: Allowed,
    /// Publishing.
    pub(crate) publish: Allowed,
    /// Seeing who is there, and being seen.
    pub(crate) presence: Allowed,
}

impl ChannelRights {
    /// The same for everything.
    pub(crate) const fn all(allowed: Allowed) -> Self {
        Self { subscribe: allowed, history: allowed, publish: allowed, presence: allowed }
    }
}

/// The rights on channels of a pattern.
#[derive(Debug, Clone)]
pub(crate) struct RightsRule {
    /// Which channels; a `{sub}` in it must be the user.
    pub(crate) pattern: Pattern,
    /// Who may do what there.
    pub(crate) rights: ChannelRights,
}

/// The application that decides by itself.
#[derive(Debug, Clone)]
pub(crate) struct CallbackSettings {
    /// Where it is asked, by POST.
    pub(crate) url: String,
    /// About what.
    pub(crate) asks_about: AsksAbout,
    /// Sent as a bearer token, so that the application knows who asks.
    pub(crate) secret: Option<Secret>,
    /// How long an answer may take.
    pub(crate) timeout_ms: u64,
    /// How long an answer holds that does not say so itself.
    pub(crate) cache_ms: u64,
    /// The most answers kept.
    pub(crate) cache_entries: usize,
    /// How many questions are on their way at once; the others wait.
    pub(crate) concurrency: usize,
    /// Whether to let them in when no answer comes.
    pub(crate) allow_on_failure: bool,
    /// Request headers that are passed on, in lower case.
    pub(crate) forward_headers: Vec<String>,
}

/// What the application is asked about.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AsksAbout {
    /// Who somebody is, when they come.
    pub(crate) connect: bool,
    /// Whether they may subscribe to a channel.
    pub(crate) subscribe: bool,
    /// Whether they may publish to a channel.
    pub(crate) publish: bool,
}

/// Proxies in front of the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProxySettings {
    /// The networks in which they are: address and prefix length.
    pub(crate) trusted: Vec<(IpAddr, u8)>,
    /// What they say the client's address in.
    pub(crate) header: ForwardedBy,
    /// Whether connections from them begin with the PROXY protocol (version 1 or 2).
    pub(crate) proxy_protocol: bool,
}

/// The header that says where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ForwardedBy {
    /// None: the socket's peer is the client.
    #[default]
    None,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}
