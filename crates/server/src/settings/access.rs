//! The settings of access, put together from checked values: keys, tokens, origins, the callback, proxies.
//! Must not know where the values come from, nor what is done with the settings.

use super::load::{Checks, Sources, address, choice, too_short};
use super::mistakes::Origin;
use super::options::{ALGORITHMS, FORWARDED_BY};
use super::source::ADMIN_KEY;
use super::values::{Data, Table};
use super::{forms, issuers};
use crate::access::settings::{
    AccessSettings, AsksAbout, CallbackSettings, ForwardedBy, ProxySettings, Secret, TokenSettings,
};

/// The shortest admin key and shared secret. One that can be guessed opens everything.
pub(super) const SECRET_BYTES_MIN: usize = 16;
/// Whether authentication is meant to be configured, also where there are mistakes in it.
pub(super) fn authenticates(root: &Table, sources: &Sources) -> bool {
    let (auth, callback) = (root.table("auth"), root.table("callback"));
    let asks =
        callback.is_said("url") && callback.texts("on").iter().any(|(question, _)| question == "connect");
    let has_key = auth.is_said("admin_key_file") || sources.variable(ADMIN_KEY).is_some();
    has_key || asks || auth.many("issuers").next().is_some()
}

pub(super) fn access(root: &mut Table, checks: &mut Checks<'_>) -> AccessSettings {
    let auth = root.table("auth");
    let issuers = issuers::issuers(auth, checks);
    let admin_key = admin_key(auth, checks);
    let settings = AccessSettings {
        issuers,
        admin_listen: admin_listen(root, admin_key.is_some() || auth.is_said("admin_key_file"), checks),
        admin_key,
        tokens: tokens(root, checks),
        origins: origins(root, checks),
        callback: callback(root.table("callback"), checks),
        proxies: proxies(root.table("proxies"), checks),
    };
    for table in root.table_mut("auth").many_mut("issuers") {
        if table.is_said("secret_file") || table.is_said("secret_env") {
            let algorithm = (ALGORITHMS[0].to_owned(), Origin::Default);
            table.settle("algorithms", Data::Texts(vec![algorithm]));
        }
    }
    settings
}

fn admin_key(auth: &Table, checks: &mut Checks<'_>) -> Option<Secret> {
    let of_file = checks.secret_of_file(auth, "admin_key_file", SECRET_BYTES_MIN);
    let Some(key) = checks.sources.variable(ADMIN_KEY).map(str::trim_ascii) else { return of_file };
    let origin = Origin::Environment(ADMIN_KEY.into());
    if auth.is_said("admin_key_file") {
        let other = auth.origin("admin_key_file");
        let what =
            format!("there is an admin key here, and auth.admin_key_file names another ({other}); use one");
        checks.mistakes.add(&origin, what);
    }
    if key.len() < SECRET_BYTES_MIN {
        checks.mistakes.add(&origin, too_short("the key", key.len(), SECRET_BYTES_MIN));
        return None;
    }
    Some(Secret(key.as_bytes().to_vec()))
}

fn admin_listen(root: &Table, has_key: bool, checks: &mut Checks<'_>) -> Option<std::net::SocketAddr> {
    let admin = root.table("admin");
    let listen = address(admin, "listen")?;
    if !has_key {
        checks.wrong(admin, "listen", "needs auth.admin_key_file: nobody could use the admin API");
    }
    if listen.port() != 0 && address(root, "listen") == Some(listen) {
        checks.wrong(admin, "listen", "is the same as listen; leave it out to serve both there");
    }
    Some(listen)
}

fn tokens(root: &Table, checks: &mut Checks<'_>) -> TokenSettings {
    let auth = root.table("auth");
    let number = |name: &str| auth.number(name).unwrap_or_default();
    let count = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
    let limits = root.table("limits");
    if let Some(head_bytes) =
        limits.number("head_bytes").filter(|head_bytes| number("token_bytes") >= *head_bytes)
    {
        let (table, name) =
            if auth.is_said("token_bytes") { (auth, "token_bytes") } else { (limits, "head_bytes") };
        let what = format!(
            "is not right: auth.token_bytes = {} must be less than limits.head_bytes = {head_bytes}, as \
                            tokens come in request heads",
            number("token_bytes")
        );
        checks.wrong(table, name, what);
    }
    TokenSettings {
        cookie: auth.text("cookie").map(str::to_owned),
        rights_claim: auth.text("rights_claim").unwrap_or_default().to_owned(),
        leeway_seconds: number("leeway_seconds"),
        token_bytes: count("token_bytes"),
        grace_ms: number("grace_seconds") * 1000,
        ticket_ms: number("ticket_seconds") * 1000,
        tickets: count("tickets"),
        revocation_ms: number("revocation_seconds").saturating_mul(1000),
        revocations: count("revocations"),
    }
}

pub(super) fn warn_of_public_http(table: &Table, name: &str, url: &str, what: &str, checks: &mut Checks<'_>) {
    if forms::url(url).is_ok_and(|url| !url.is_private()) {
        let path = table.path(name);
        checks
            .mistakes
            .warn(table.origin(name), format!("{path} is not https: whoever is on the way {what}"));
    }
}

fn origins(root: &Table, checks: &mut Checks<'_>) -> Vec<String> {
    let mut origins = Vec::new();
    for (written, origin) in root.texts("origins") {
        if written == "*" {
            let what = "origins has \"*\": every web page may act with the rights of whoever looks at it";
            checks.mistakes.warn(origin, what);
        }
        let Ok(sent) = forms::origin(written) else { continue };
        if !origins.contains(&sent) {
            origins.push(sent);
        }
    }
    origins
}

fn callback(table: &Table, checks: &mut Checks<'_>) -> Option<CallbackSettings> {
    if !table.is_said("url") {
        return None;
    }
    if table.texts("on").is_empty() && table.value("on").is_some_and(|on| on.origin != Origin::Default) {
        checks.wrong(
            table,
            "on",
            "is empty, so nothing would be asked; leave out [callback], or name something",
        );
    }
    let secret = match (table.is_said("secret_file"), table.is_said("secret_env")) {
        (true, true) => {
            checks.wrong(table, "secret_env", "and callback.secret_file are two secrets; choose one");
            None
        }
        (true, _) => checks.secret_of_file(table, "secret_file", SECRET_BYTES_MIN),
        _ => checks.secret_of_variable(table, "secret_env", SECRET_BYTES_MIN),
    };
    let url = table.text("url")?;
    warn_of_public_http(table, "url", url, "decides", checks);
    let asks = |question: &str| table.texts("on").iter().any(|(asked, _)| asked == question);
    let count = |name: &str| table.number(name).and_then(|count| usize::try_from(count).ok());
    Some(CallbackSettings {
        url: url.to_owned(),
        asks_about: AsksAbout {
            connect: asks("connect"),
            subscribe: asks("subscribe"),
            publish: asks("publish"),
        },
        secret,
        timeout_ms: table.number("timeout_ms")?,
        cache_ms: table.number("cache_seconds")? * 1000,
        cache_entries: count("cache_entries")?,
        concurrency: count("concurrency")?,
        allow_on_failure: table.text("on_failure") == Some("allow"),
        forward_headers: table
            .texts("forward_headers")
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect(),
    })
}

fn proxies(table: &Table, checks: &mut Checks<'_>) -> ProxySettings {
    let networks = table.texts("trusted").iter();
    let trusted: Vec<_> = networks.filter_map(|(network, _)| forms::network(network).ok()).collect();
    let values = [ForwardedBy::None, ForwardedBy::XForwardedFor, ForwardedBy::Forwarded];
    let header = choice(table, "header", FORWARDED_BY, &values).unwrap_or_default();
    let proxy_protocol = table.truth("proxy_protocol");
    let none_trusted = trusted.is_empty() && !table.is_wrong("trusted");
    for name in ["header", "proxy_protocol"] {
        let is_on = if name == "header" { header != ForwardedBy::None } else { proxy_protocol };
        if is_on && none_trusted {
            checks.wrong(
                table,
                name,
                "needs proxies.trusted: without it, nobody's word on addresses is taken",
            );
        }
    }
    if !trusted.is_empty() && header == ForwardedBy::None && !proxy_protocol {
        let what = "proxies.trusted does nothing without proxies.header or proxies.proxy_protocol";
        checks.mistakes.warn(table.origin("trusted"), what);
    }
    ProxySettings { trusted, header, proxy_protocol }
}
