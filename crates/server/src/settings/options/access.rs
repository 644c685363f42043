//! The options of access: whose tokens are taken, who may do what, whom to ask and whose word on addresses to take.
//! Must not know how options are read or what they do.

use super::SECONDS;
use crate::settings::definition::{Kind, Section, Standard, options};
use crate::settings::forms::Form;

/// The choices who may do something, from the least strict.
pub(in crate::settings) const ALLOWED: &[&str] = &["anyone", "authenticated", "granted", "nobody"];
/// The signature algorithms, in the order of `access::settings::Algorithm`.
pub(in crate::settings) const ALGORITHMS: &[&str] = &[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
    "EdDSA",
];
/// What the application can be asked about.
const QUESTIONS: &[&str] = &["connect", "subscribe", "publish"];

/// The choices of the header that says where a client is.
pub(in crate::settings) const FORWARDED_BY: &[&str] = &["none", "x-forwarded-for", "forwarded"];

const DAY: u64 = 86_400;

pub(super) const RIGHTS: Section = Section {
    name: "rights",
    many: false,
    needs: &[],
    text: "Who may do what on channels of which no `[[channels]]` says otherwise: `anyone`; `authenticated` (whoever \
           shows who they are, unless their token names channels and not this one); `granted` (whose token names \
           this channel); `nobody` (only the application itself, with the admin key). What the configuration and \
           what the token allow must both allow it.",
    options: options! {
        /// Who may get events as they come.
        /// Danger: `anyone` is everybody who reaches the port.
        subscribe: Kind::Choice(ALLOWED),
            Standard::Words("`granted` if authentication is configured, else `anyone`");
        /// Who may read what was published before, by polls, cursors and snapshots.
        /// Danger: as `subscribe`, also for what was published when nobody was there.
        history: Kind::Choice(ALLOWED),
            Standard::Words("as `subscribe`; in a rule of `[[channels]]` at least as strict as its `subscribe`");
        /// Who may publish. `nobody` closes channels to clients: only the admin key publishes.
        /// Danger: `anyone` lets everybody who reaches the port fill the log.
        publish: Kind::Choice(ALLOWED),
            Standard::Words("`granted` if authentication is configured, else `anyone`");
        /// Who may see who is present, and be present.
        /// Danger: who may is seen by all others who may, with the name in their token.
        presence: Kind::Choice(ALLOWED),
            Standard::Words("as `subscribe`; in a rule of `[[channels]]` at least as strict as its `subscribe`");
    },
    sections: &[],
};

pub(super) const AUTH: Section = Section {
    name: "auth",
    many: false,
    needs: &[],
    text: "How clients show who they are. Authentication is configured if there is an admin key, an issuer, or a \
           callback that is asked on `connect`.",
    options: options! {
        /// The file with the admin key, which opens everything, the admin API included. White space around it is
        /// not part of it; it has at least 16 bytes. The key itself may be in the environment instead, as
        /// `TIDEWIRE_ADMIN_KEY`.
        /// Danger: whoever has it may do everything. The file should be readable by its owner only.
        admin_key_file: Kind::Text(Form::Path), Standard::Words("not set: nobody is admin");
        /// The cookie in which a token may come. Cookies are only taken from pages of allowed `origins`.
        /// Danger: browsers send cookies without being asked; give this one `Secure`, `HttpOnly` and `SameSite`.
        cookie: Kind::Text(Form::Token), Standard::Words("not set: no cookie is taken");
        /// The claim of a token that holds its rights.
        rights_claim: Kind::Text(Form::Words), Standard::Text("tidewire");
        /// How far the clocks of issuers and of this machine may differ.
        /// Danger: tokens are good for that much longer than they say.
        leeway_seconds: Kind::Number { least: 0, most: 600 }, Standard::Number(30);
        /// The longest token; less than `limits.head_bytes`.
        /// Cost: longer ones take longer to check, also those that turn out wrong.
        token_bytes: Kind::Number { least: 64, most: 16_384 }, Standard::Number(8_192);
        /// How long a WebSocket whose token has expired may still send a new one. Then it is closed (resumable).
        /// Danger: a client gets events for that much longer than its token says.
        grace_seconds: Kind::Number { least: 0, most: 600 }, Standard::Number(10);
        /// How long a ticket is good; it can be used once.
        /// Danger: tickets stand in URLs, which proxies write to their logs: keep it short.
        ticket_seconds: Kind::Number { least: 1, most: 600 }, Standard::Number(30);
        /// The most tickets that are good at once. Beyond: 429.
        /// Cost: some 300 bytes and the rights of the token, for each.
        tickets: Kind::Number { least: 1, most: 100_000_000 }, Standard::Number(100_000);
        /// How long it is remembered that a user's tokens were revoked.
        /// Danger: it must be longer than any token lives; a revoked token that lives longer is good again.
        revocation_seconds: Kind::Number { least: 1, most: SECONDS }, Standard::Number(DAY);
        /// Of how many users that is remembered.
        /// Cost: some 100 bytes for each.
        revocations: Kind::Number { least: 1, most: 100_000_000 }, Standard::Number(100_000);
    },
    sections: &[ISSUERS],
};

const ISSUERS: Section = Section {
    name: "issuers",
    many: true,
    needs: &[],
    text: "Who issues tokens (JWT), and where their keys are: exactly one of `secret_file`, `secret_env`, \
           `public_key_file`, `key_set_file`, `key_set_url` and `discovery`.",
    options: options! {
        /// What `iss` of a token must be. Without it, this entry is for tokens whose `iss` no other entry names, or
        /// that have none. `discovery` needs it.
        issuer: Kind::Text(Form::Words), Standard::Words("not set");
        /// One of these must be in `aud`.
        /// Danger: without it, tokens that the issuer made for other applications are good here.
        audience: Kind::Texts { form: Form::Words, most: 100 }, Standard::Texts(&[]);
        /// The signature algorithms that are taken. A secret has `HS…`, all other keys the others.
        /// Danger: name only those that the issuer uses.
        algorithms: Kind::Choices(ALGORITHMS), Standard::Words("`[\"HS256\"]` with a secret; else it must be said");
        /// The file with the secret that is shared with the issuer. White space around it is not part of it.
        /// Danger: whoever has it makes tokens for everybody. It should be random and as long as the algorithm's hash
        /// (HS256: 32 bytes); less than 16 bytes are refused.
        secret_file: Kind::Text(Form::Path), Standard::Words("not set");
        /// The environment variable with the secret that is shared with the issuer.
        /// Danger: as `secret_file`; also, other programs started from the same place may have it.
        secret_env: Kind::Text(Form::Variable), Standard::Words("not set");
        /// The file with the issuer's public key in PEM.
        public_key_file: Kind::Text(Form::Path), Standard::Words("not set");
        /// The file with the issuer's JSON Web Key Set (RFC 7517).
        key_set_file: Kind::Text(Form::Path), Standard::Words("not set");
        /// The URL of the issuer's JSON Web Key Set.
        /// Danger: over `http`, whoever is on the way makes tokens for everybody.
        key_set_url: Kind::Text(Form::Url), Standard::Words("not set");
        /// Whether to find the key set by OpenID Connect Discovery, below the URL that `issuer` is.
        /// Danger: as `key_set_url`.
        discovery: Kind::Truth, Standard::Truth(false);
        /// How long fetched keys are good, unless a token with an unknown key asks for new ones. If the issuer cannot
        /// be reached, they stay good.
        /// Danger: a key that the issuer withdraws is good for that much longer.
        refresh_seconds: Kind::Number { least: 1, most: 30 * DAY }, Standard::Number(600);
        /// The least time between two fetches, whoever asks.
        /// Danger: short ones let anybody who invents keys send requests to the issuer; with long ones, tokens of a
        /// new key are refused for that long.
        fetch_pause_seconds: Kind::Number { least: 1, most: 3_600 }, Standard::Number(10);
    },
    sections: &[],
};

pub(super) const CALLBACK: Section = Section {
    name: "callback",
    many: false,
    needs: &["url"],
    text: "The application decides by itself: it is asked by POST. What the configuration and the token forbid \
           stays forbidden.",
    options: options! {
        /// Where it is asked. A query is sent, and never shown.
        /// Danger: over `http` to another machine, whoever is on the way decides.
        url: Kind::Text(Form::Url), Standard::Words("not set: nobody is asked");
        /// What it is asked about.
        /// Cost: each question waits for the application, unless an answer is in the cache.
        on: Kind::Choices(QUESTIONS), Standard::Texts(QUESTIONS);
        /// The file with a secret that is sent as a bearer token, so that the application knows who asks. White space
        /// around it is not part of it.
        secret_file: Kind::Text(Form::Path), Standard::Words("not set: nothing is sent");
        /// The environment variable with that secret.
        secret_env: Kind::Text(Form::Variable), Standard::Words("not set");
        /// How long an answer may take.
        /// Cost: while the application is silent, whoever comes waits this long.
        timeout_ms: Kind::Number { least: 10, most: 30_000 }, Standard::Number(1_000);
        /// How long an answer holds that does not say so itself; 0: it is not kept.
        /// Danger: what the application withdraws is still allowed for that long.
        cache_seconds: Kind::Number { least: 0, most: DAY }, Standard::Number(0);
        /// The most answers kept.
        /// Cost: some 300 bytes for each.
        cache_entries: Kind::Number { least: 1, most: 100_000_000 }, Standard::Number(100_000);
        /// How many questions are on their way at once; the others wait.
        /// Cost: one connection to the application for each.
        concurrency: Kind::Number { least: 1, most: 256 }, Standard::Number(16);
        /// Whether to `refuse` or `allow` when no answer comes.
        /// Danger: with `allow`, everybody is let in while the application is down, and whoever can slow it down can
        /// open the door.
        on_failure: Kind::Choice(&["refuse", "allow"]), Standard::Text("refuse");
        /// The request headers that are passed on.
        /// Danger: the application gets what clients send in them, credentials included.
        forward_headers: Kind::Texts { form: Form::Token, most: 16 }, Standard::Texts(&["cookie"]);
    },
    sections: &[],
};

pub(super) const PROXIES: Section = Section {
    name: "proxies",
    many: false,
    needs: &[],
    text: "Proxies in front of the server, and how they say where a client is.",
    options: options! {
        /// The addresses and networks in which they are.
        /// Danger: whoever is in one of them can claim to have any address.
        trusted: Kind::Texts { form: Form::Network, most: 1000 }, Standard::Texts(&[]);
        /// The header in which they say it. `none`: the socket's peer is the client.
        /// Danger: choose the one that the proxy sets or removes; the other one is the client's own word.
        header: Kind::Choice(FORWARDED_BY), Standard::Text("none");
        /// Whether connections from them begin with the PROXY protocol (version 1 or 2).
        /// Danger: a connection from them without it is refused.
        proxy_protocol: Kind::Truth, Standard::Truth(false);
    },
    sections: &[],
};

pub(super) const ADMIN: Section = Section {
    name: "admin",
    many: false,
    needs: &[],
    text: "The admin API, which needs the admin key.",
    options: options! {
        /// An address and port of its own. It is then served there and not on `listen`.
        /// Danger: whoever reaches it can try keys; there is no TLS on it.
        listen: Kind::Text(Form::Address), Standard::Words("not set: it is served on `listen`");
    },
    sections: &[],
};
