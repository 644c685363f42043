//! Where NATS is and how it knows who comes, as a URL says it. Must not know what is said to it.

use async_nats::ConnectOptions;

use crate::backplane::broker::BrokerError;
use crate::backplane::target::shown;

/// The prefix of all subjects and streams, unless the URL says another one.
const PREFIX: &str = "tidewire";
/// JetStream has no more.
const REPLICAS_MOST: usize = 5;

/// Where NATS is.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`, each.
    pub(super) hosts: Vec<String>,
    credentials: Credentials,
    /// With what all subjects and streams begin.
    pub(super) prefix: String,
    /// How many servers have what is stored.
    pub(super) replicas: usize,
}

#[derive(Debug, Clone, Default)]
enum Credentials {
    #[default]
    None,
    Password(String, String),
    Token(String),
    /// A file with a JWT and a seed.
    File(String),
    /// A file with a seed.
    Seed(String),
}

impl Address {
    /// Reads `nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][?NAME=VALUE&...]`, with `tls` for TLS.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let scheme = if matches!(scheme, "tls" | "nats+tls") { "tls" } else { "nats" };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() {
            anyhow::bail!(
                "{} has a path; NATS has none. Another name for the streams is ?prefix=NAME",
                shown(url)
            );
        }
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let hosts: Vec<String> = hosts.split(',').map(|host| format!("{scheme}://{host}")).collect();
        for host in &hosts {
            let wrong = |error| anyhow::anyhow!("{} is not the URL of a NATS: {host}: {error}", shown(url));
            host.parse::<async_nats::ServerAddr>().map_err(wrong)?;
        }
        let credentials = match user.split_once(':') {
            Some((user, password)) => Credentials::Password(decoded(user), decoded(password)),
            None if user.is_empty() => Credentials::None,
            None => Credentials::Token(decoded(user)),
        };
        let mut parsed = Self { hosts, credentials, prefix: PREFIX.to_owned(), replicas: 1 };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            parsed.take(url, &name, value.into_owned())?;
        }
        Ok(parsed)
    }

    fn take(&mut self, url: &str, name: &str, value: String) -> anyhow::Result<()> {
        match name {
            "prefix" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                self.prefix = value;
            }
            "prefix" => anyhow::bail!("the prefix in {} may have letters and digits only", shown(url)),
            "replicas" => {
                let count = value.parse().ok().filter(|count| (1..=REPLICAS_MOST).contains(count));
                let wrong = || anyhow::anyhow!("replicas in {} is 1 to {REPLICAS_MOST}", shown(url));
                self.replicas = count.ok_or_else(wrong)?;
            }
            "credentials" => self.credentials = Credentials::File(value),
            "seed" => self.credentials = Credentials::Seed(value),
            other => anyhow::bail!(
                "{} has the parameter {other}; there are prefix, replicas, credentials, seed",
                shown(url)
            ),
        }
        Ok(())
    }

    /// How to say who comes.
    pub(super) fn options(&self) -> Result<ConnectOptions, BrokerError> {
        let read = |file: &str| {
            std::fs::read_to_string(file).map_err(|error| BrokerError(format!("cannot read {file}: {error}")))
        };
        match &self.credentials {
            Credentials::None => Ok(ConnectOptions::new()),
            Credentials::Password(user, password) => {
                Ok(ConnectOptions::with_user_and_password(user.clone(), password.clone()))
            }
            Credentials::Token(token) => Ok(ConnectOptions::with_token(token.clone())),
            Credentials::File(file) => ConnectOptions::with_credentials(&read(file)?)
                .map_err(|error| BrokerError(format!("{file} has no credentials of NATS: {error}"))),
            Credentials::Seed(file) => Ok(ConnectOptions::with_nkey(read(file)?.trim().to_owned())),
        }
    }
}

/// A part of a URL without its percents.
fn decoded(text: &str) -> String {
    let text = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(text.as_bytes()).next().map(|(text, _)| text.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Address, Credentials};

    #[test]
    fn urls_say_where_it_is_and_who_comes() {
        let Ok(plain) = Address::parse("nats://a:1,b") else { panic!() };
        assert_eq!((plain.hosts, plain.replicas), (vec!["nats://a:1".to_owned(), "nats://b".to_owned()], 1));
        let Ok(all) = Address::parse("tls://u:p%40+@a?prefix=x1&replicas=3") else { panic!() };
        assert_eq!((&*all.hosts[0], &*all.prefix, all.replicas), ("tls://a", "x1", 3));
        assert!(
            matches!(all.credentials, Credentials::Password(user, password) if user == "u" && password == "p@+")
        );
        let Ok(token) = Address::parse("nats://t0ken@a") else { panic!() };
        assert!(matches!(token.credentials, Credentials::Token(token) if token == "t0ken"));
        let Ok(seed) = Address::parse("nats://a?seed=/etc/nats.nk") else { panic!() };
        assert!(matches!(seed.credentials, Credentials::Seed(file) if file == "/etc/nats.nk"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, why) in [
            ("nats://a:port", "is not the URL of a NATS"),
            ("nats://a/1", "has a path"),
            ("nats://a?prefix=a.b", "letters and digits"),
            ("nats://a?replicas=6", "is 1 to 5"),
            ("nats://a?stream=x", "there are prefix, replicas"),
        ] {
            let error = Address::parse(url).map(drop).expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
