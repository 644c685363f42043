//! Where an issuer publishes its keys, and how they are got from there. Must not know what keys are, nor when they
//! are wanted. What comes from an issuer is not trusted with more than its own keys: no redirects, bounded in
//! size and time, and over TLS unless it is on this machine.

use std::time::Duration;

use anyhow::{Context, anyhow};
use ureq::Agent;
use ureq::http::Uri;

use super::json;
use crate::access::settings::{IssuerSettings, KeySource};
use crate::clock::Clock;

/// The largest answer. Beyond: the fetch fails.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How long a fetch may take, in all. Beyond: it fails.
const FETCH_MS_MAX: u64 = 5000;

/// Where the keys of one issuer are.
pub(super) struct Remote {
    place: Place,
    agent: Agent,
}

enum Place {
    KeySet(String),
    /// The document of OpenID Connect Discovery, and the issuer that it must be about.
    Discovery {
        url: String,
        issuer: String,
    },
}

impl Remote {
    /// Where the keys are, if they are to be fetched.
    pub(super) fn new(settings: &IssuerSettings) -> anyhow::Result<Option<Self>> {
        let place = match &settings.keys {
            KeySource::KeySet(url) => {
                let checked = check_url(url, Trust::Anywhere);
                checked.map_err(|problem| anyhow!("the URL of the keys of {} {problem}", name(settings)))?;
                Place::KeySet(url.clone())
            }
            KeySource::Discovery => {
                let issuer = settings.issuer.clone();
                let issuer = issuer.context("an issuer that is discovered needs its URL as its name")?;
                let checked = check_url(&issuer, Trust::Anywhere);
                checked.map_err(|problem| anyhow!("the URL of the issuer {issuer} {problem}"))?;
                let base = issuer.trim_end_matches('/');
                Place::Discovery { url: format!("{base}/.well-known/openid-configuration"), issuer }
            }
            KeySource::Secret(_) | KeySource::PublicKey(_) | KeySource::KeySetFile(_) => return Ok(None),
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(crate::trust::of_the_machine())
            .proxy(None)
            .user_agent(concat!("tidewire/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .build()
            .new_agent();
        Ok(Some(Self { place, agent }))
    }

    /// The key set as it is now.
    ///
    /// # Errors
    /// Says what the issuer does wrong, without any of what it sent.
    pub(super) fn get(&self, clock: Clock) -> Result<Vec<u8>, String> {
        let deadline_ms = clock.now_ms() + FETCH_MS_MAX;
        let (url, issuer) = match &self.place {
            Place::KeySet(url) => return self.get_document(url, clock, deadline_ms),
            Place::Discovery { url, issuer } => (url, issuer),
        };
        let document = self.get_document(url, clock, deadline_ms)?;
        let document = json::object(&document)
            .ok_or_else(|| format!("{url} must answer with a JSON object that names no member twice"))?;
        let member = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
        if member("issuer") != Some(issuer) {
            return Err(format!("{url} is not about {issuer}: its member issuer must be exactly that"));
        }
        let keys = member("jwks_uri").ok_or_else(|| format!("{url} must name its jwks_uri"))?;
        let trust = if is_plain(issuer) { Trust::Anywhere } else { Trust::Encrypted };
        check_url(keys, trust).map_err(|problem| format!("the jwks_uri in {url} {problem}"))?;
        self.get_document(keys, clock, deadline_ms)
    }

    fn get_document(&self, url: &str, clock: Clock, deadline_ms: u64) -> Result<Vec<u8>, String> {
        let left_ms = deadline_ms.saturating_sub(clock.now_ms()).max(1);
        let request = self.agent.get(url).config().timeout_global(Some(Duration::from_millis(left_ms)));
        // What follows may be secret, and this is logged.
        let shown = url.split('?').next().unwrap_or_default();
        let mut answer = request.build().call().map_err(|error| format!("{shown}: {error}"))?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(match status {
                300..=399 => format!("{shown} answers with a redirect ({status}), which is not followed"),
                _ => format!("{shown} answers with status {status} instead of 200"),
            });
        }
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        body.map_err(|error| format!("{shown}: {error}"))
    }
}

/// Which URLs are fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// https, and http on this machine.
    Anywhere,
    /// https only: an issuer elsewhere must not have this server ask around on its own machine.
    Encrypted,
}

/// Whether keys may be got from there; if not, what is wrong, to be put after a subject.
fn check_url(url: &str, trust: Trust) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is no URL")?;
    let (Some(_), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err("must be absolute: https://...");
    };
    if authority.as_str().contains('@') || url.contains('#') {
        return Err("must have neither user nor fragment");
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if trust == Trust::Anywhere && is_loopback(authority.host()) => Ok(()),
        _ => Err("must be https (http only where it is on this machine)"),
    }
}

fn name(settings: &IssuerSettings) -> &str {
    settings.issuer.as_deref().unwrap_or("the issuer without a name")
}

fn is_plain(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("http"))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_safe_places() {
        for (url, here, elsewhere) in [
            ("https://id.example/keys", true, true),
            ("https://id.example:8443/a?b=c", true, true),
            ("http://localhost:1/keys", true, false),
            ("http://127.0.0.1:1/keys", true, false),
            ("http://127.9.9.9/keys", true, false),
            ("http://[::1]:1/keys", true, false),
            ("http://id.example/keys", false, false),
            ("http://localhost.example/keys", false, false),
            ("http://127.0.0.1.example/keys", false, false),
            ("http://10.0.0.1/keys", false, false),
            ("http://127.0.0.1@id.example/keys", false, false),
            ("https://u:p@id.example/keys", false, false),
            ("https://id.example/keys#a", false, false),
            ("ftp://localhost/keys", false, false),
            ("file:///etc/passwd", false, false),
            ("/keys", false, false),
            ("id.example", false, false),
            ("", false, false),
        ] {
            assert_eq!(check_url(url, Trust::Anywhere).is_ok(), here, "{url}");
            assert_eq!(check_url(url, Trust::Encrypted).is_ok(), elsewhere, "{url}");
        }
    }
}
