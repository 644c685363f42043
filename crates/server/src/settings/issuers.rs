//! Those who issue tokens, put together from checked values: where their keys are, and what these may be used for.
//! Must not know tokens, nor read any key but a secret.

use super::access::{SECRET_BYTES_MIN, warn_of_public_http};
use super::definition::one_of;
use super::forms;
use super::load::Checks;
use super::mistakes::Origin;
use super::options::ALGORITHMS;
use super::values::Table;
use crate::access::settings::{Algorithm, IssuerSettings, KeySource, Secret};

/// Where the keys of an issuer may be.
const KEY_SOURCES: &[&str] =
    &["secret_file", "secret_env", "public_key_file", "key_set_file", "key_set_url", "discovery"];
/// In the order of `options::ALGORITHMS`.
const ALGORITHM_VALUES: [Algorithm; ALGORITHMS.len()] = [
    Algorithm::Hs256,
    Algorithm::Hs384,
    Algorithm::Hs512,
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
];

/// All of them.
pub(super) fn issuers(auth: &Table, checks: &mut Checks<'_>) -> Vec<IssuerSettings> {
    repeated(auth, checks);
    auth.many("issuers").filter_map(|table| issuer(table, checks)).collect()
}

fn issuer(table: &Table, checks: &mut Checks<'_>) -> Option<IssuerSettings> {
    let is_chosen = |name: &&str| if *name == "discovery" { table.truth(name) } else { table.is_said(name) };
    let chosen: Vec<&str> = KEY_SOURCES.iter().copied().filter(is_chosen).collect();
    let source = match chosen[..] {
        [source] => source,
        [] => {
            let what = format!("auth.issuers needs one of {} to have keys", one_of(KEY_SOURCES));
            checks.mistakes.add(&table.origin, what);
            return None;
        }
        [_, second, ..] => {
            let what =
                format!("and auth.issuers.{} are two places of keys; choose one for each issuer", chosen[0]);
            checks.wrong(table, second, what);
            return None;
        }
    };
    let algorithms = algorithms(table, source, checks);
    let keys = keys(table, source, &algorithms, checks)?;
    Some(IssuerSettings {
        issuer: table.text("issuer").map(str::to_owned),
        audience: table.texts("audience").iter().map(|(audience, _)| audience.clone()).collect(),
        algorithms,
        keys,
        refresh_seconds: table.number("refresh_seconds")?,
        fetch_pause_seconds: table.number("fetch_pause_seconds")?,
    })
}

/// The algorithms, of which each fits the kind of key: a public key that is taken for a secret is the oldest forgery.
fn algorithms(table: &Table, source: &str, checks: &mut Checks<'_>) -> Vec<Algorithm> {
    let is_secret = source.starts_with("secret_");
    let mut algorithms = Vec::new();
    for (name, origin) in table.texts("algorithms") {
        let Some(at) = ALGORITHMS.iter().position(|known| known == name) else { continue };
        if name.starts_with("HS") != is_secret {
            let right = if is_secret { "HS256, HS384 and HS512" } else { "all but HS…" };
            let what = format!("auth.issuers.algorithms = {name:?} cannot be with {source}; {right} can");
            checks.mistakes.add(origin, what);
        }
        if !algorithms.contains(&ALGORITHM_VALUES[at]) {
            algorithms.push(ALGORITHM_VALUES[at]);
        }
    }
    if algorithms.is_empty() && is_secret && !table.is_said("algorithms") {
        algorithms.push(Algorithm::Hs256);
    }
    if algorithms.is_empty() && !table.is_wrong("algorithms") {
        let what = format!("needs at least one with {source}, such as algorithms = [\"RS256\"]");
        checks.wrong(table, "algorithms", what);
    }
    algorithms
}

fn keys(table: &Table, source: &str, algorithms: &[Algorithm], checks: &mut Checks<'_>) -> Option<KeySource> {
    match source {
        "secret_file" => {
            let secret = checks.secret_of_file(table, source, SECRET_BYTES_MIN)?;
            weak_secret(table, source, &secret, algorithms, checks);
            Some(KeySource::Secret(secret))
        }
        "secret_env" => {
            let secret = checks.secret_of_variable(table, source, SECRET_BYTES_MIN)?;
            weak_secret(table, source, &secret, algorithms, checks);
            Some(KeySource::Secret(secret))
        }
        "public_key_file" => checks.readable(table, source).map(KeySource::PublicKey),
        "key_set_file" => checks.readable(table, source).map(KeySource::KeySetFile),
        "key_set_url" => {
            let url = table.text(source)?;
            warn_of_public_http(table, source, url, "makes tokens for everybody", checks);
            Some(KeySource::KeySet(url.to_owned()))
        }
        _ => {
            let Some(issuer) = table.text("issuer") else {
                checks.wrong(table, source, "needs an issuer: its URL is where to look");
                return None;
            };
            match forms::url(issuer) {
                Ok(_) => warn_of_public_http(table, "issuer", issuer, "makes tokens for everybody", checks),
                Err(why) => checks.wrong(table, "issuer", format!("must be a URL with discovery: {why}")),
            }
            Some(KeySource::Discovery)
        }
    }
}

/// RFC 7518 (3.2) wants a secret as long as the hash.
fn weak_secret(
    table: &Table,
    name: &str,
    secret: &Secret,
    algorithms: &[Algorithm],
    checks: &mut Checks<'_>,
) {
    let bytes = |algorithm: &Algorithm| match algorithm {
        Algorithm::Hs512 => 64,
        Algorithm::Hs384 => 48,
        _ => 32,
    };
    let wanted = algorithms.iter().map(bytes).max().unwrap_or(32);
    if secret.0.len() < wanted {
        let what =
            format!("the secret has {} bytes; its algorithms want {wanted} random ones", secret.0.len());
        checks.mistakes.warn(table.origin(name), what);
    }
}

/// Two entries for the same tokens: the second would never be asked.
fn repeated(auth: &Table, checks: &mut Checks<'_>) {
    let mut seen: Vec<(Option<&str>, &Origin)> = Vec::new();
    for table in auth.many("issuers") {
        let issuer = table.text("issuer");
        match seen.iter().find(|(other, _)| *other == issuer) {
            Some((_, first)) => {
                let named =
                    issuer.map_or("without issuer".to_owned(), |issuer| format!("with issuer = {issuer:?}"));
                let what = format!(
                    "there is another [[auth.issuers]] {named} ({first}); its keys may be in one set"
                );
                checks.mistakes.add(table.origin("issuer"), what);
            }
            None => seen.push((issuer, table.origin("issuer"))),
        }
    }
}
