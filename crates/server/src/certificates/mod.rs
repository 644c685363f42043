//! The certificate that TLS clients are shown, and the answers to an authority's challenges. Who shows them: `files`,
//! where the configuration names them, or `acme`, which gets them from an authority. Must not know who connects.

mod acme;
mod files;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, ensure};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::settings::{CertificateSource, TlsSettings};
use acme::Acme;
use files::Files;

/// What an authority offers alone when it looks whether a domain's challenge is answered (RFC 8737).
pub(crate) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// What is shown at present, and what was counted.
#[derive(Debug)]
pub(crate) struct Certificates {
    provider: Arc<CryptoProvider>,
    source: Source,
    /// Nothing before an authority has given the first one.
    current: RwLock<Option<Arc<Shown>>>,
    /// What an authority is shown that asks for a domain.
    challenges: RwLock<Vec<(String, Arc<CertifiedKey>)>>,
    /// How often another certificate took the place of the one before, or was the first.
    pub(crate) changes: AtomicU64,
    /// How often one was there to be taken or to be got, and was not.
    pub(crate) failures: AtomicU64,
}

#[derive(Debug)]
enum Source {
    Files(Files),
    Acme(Acme),
}

/// A certificate with its key.
#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    life: Option<Life>,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    begins_at_ms: u64,
    ends_at_ms: u64,
    /// In lower case.
    domains: Vec<String>,
}

impl Certificates {
    /// What the settings name is read, and found sound or not; nothing is written.
    ///
    /// # Errors
    /// Says what is wrong with which file.
    pub(crate) fn check(settings: &TlsSettings) -> anyhow::Result<()> {
        let provider = aws_lc_rs::default_provider();
        match &settings.source {
            CertificateSource::Files(files) => read(files, &provider).map(drop),
            CertificateSource::Acme(acme) => Acme::check(acme, &provider),
        }
    }

    /// # Errors
    /// Says what is wrong with which file.
    pub(crate) fn load(settings: &TlsSettings) -> anyhow::Result<Arc<Self>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (source, current) = match &settings.source {
            CertificateSource::Files(files) => {
                (Source::Files(Files::new(files.clone())), Some(read(files, &provider)?))
            }
            CertificateSource::Acme(settings) => {
                let acme = Acme::open(settings)?;
                let kept = acme.kept(&provider)?;
                (Source::Acme(acme), kept)
            }
        };
        Ok(Arc::new(Self {
            provider,
            source,
            current: RwLock::new(current.map(Arc::new)),
            challenges: RwLock::default(),
            changes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }))
    }

    /// What TLS connections are made with.
    ///
    /// # Errors
    /// If the library refuses its own defaults.
    pub(crate) fn config(self: &Arc<Self>) -> anyhow::Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if self.answers_challenges() {
            config.alpn_protocols.push(CHALLENGE_PROTOCOL.to_vec());
        }
        // Clients that come back skip the costly half of the handshake, also after a storm larger than any table.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Looks after the certificate until the server stops: another takes its place in time.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn watch(
        self: Arc<Self>,
        stopping: Arc<AtomicBool>,
    ) -> anyhow::Result<Option<JoinHandle<()>>> {
        let is_acme = self.answers_challenges();
        let thread = crate::server::spawn("certificates", move || match &self.source {
            Source::Files(files) => files.watch(&self, &stopping),
            Source::Acme(acme) => acme.run(&self, &stopping),
        })?;
        // At the end, the authority may owe it an answer; nobody waits for that.
        Ok((!is_acme).then_some(thread))
    }

    /// Whether there is one to show.
    pub(crate) fn is_there(&self) -> bool {
        self.current().is_some()
    }

    /// When the one in use ends, by the wall clock.
    pub(crate) fn ends_at_ms(&self) -> Option<u64> {
        self.current()?.life.as_ref().map(|life| life.ends_at_ms)
    }

    fn current(&self) -> Option<Arc<Shown>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, shown: Shown) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shown));
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn answers_challenges(&self) -> bool {
        matches!(self.source, Source::Acme(_))
    }

    fn answer_challenge(&self, domain: &str, answer: Arc<CertifiedKey>) {
        let mut challenges = self.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.retain(|(known, _)| known != domain);
        challenges.push((domain.to_owned(), answer));
    }

    fn forget_challenges(&self) {
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn challenge(&self, domain: &str) -> Option<Arc<CertifiedKey>> {
        let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner);
        let found = challenges.iter().find(|(known, _)| known.eq_ignore_ascii_case(domain));
        found.map(|(_, answer)| Arc::clone(answer))
    }
}

impl ResolvesServerCert for Certificates {
    /// Where there is nothing to show, the handshake ends with the alert `access_denied`.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_challenge =
            self.answers_challenges() && hello.alpn().is_some_and(|offered| offered.eq([CHALLENGE_PROTOCOL]));
        if is_challenge {
            return self.challenge(hello.server_name()?);
        }
        self.current().map(|shown| Arc::clone(&shown.key))
    }
}

impl Life {
    /// Nothing where the certificate has another form than is usual, which is no reason not to show it.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let names = parsed.subject_alternative_name().ok()?.map(|found| &found.value.general_names);
        let domains = names
            .into_iter()
            .flatten()
            .filter_map(|name| match name {
                GeneralName::DNSName(domain) => Some(domain.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        let validity = parsed.validity();
        Some(Self {
            begins_at_ms: ms(validity.not_before.timestamp()),
            ends_at_ms: ms(validity.not_after.timestamp()),
            domains,
        })
    }
}

/// The files of a certificate and its key; they may be one.
#[derive(Debug, Clone)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: std::path::PathBuf,
    pub(crate) key: std::path::PathBuf,
}

fn read(files: &CertificateFiles, provider: &CryptoProvider) -> anyhow::Result<Shown> {
    let CertificateFiles { certificate, key } = files;
    let chain = read_chain(certificate)
        .with_context(|| format!("tls.certificate_file: cannot read {}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| anyhow!("{error}; it must hold a private key as PEM (PKCS #8, PKCS #1 or SEC 1)"))
        .with_context(|| format!("tls.key_file: cannot read {}", key.display()))?;
    pair(chain, private, provider).map_err(|error| {
        anyhow!("tls.key_file: {} does not go with {}: {error}", key.display(), certificate.display())
    })
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    ensure!(
        !chain.is_empty(),
        "it must hold the certificate as PEM, and behind it those that lead to the root"
    );
    Ok(chain)
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<Shown, rustls::Error> {
    let life = chain.first().and_then(Life::of);
    Ok(Shown { key: Arc::new(CertifiedKey::from_der(chain, private, provider)?), life })
}
