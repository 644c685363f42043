//! The server's certificate: read from its files, and read again when they change, while connections stay. Must not
//! know who connects.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, ensure};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::settings::TlsSettings;

/// How often to look whether the files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The certificate that is shown at present.
#[derive(Debug)]
pub(crate) struct Certificates {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

/// What tells one version of the files from another.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificates {
    /// # Errors
    /// Says what is wrong with which file.
    pub(crate) fn load(settings: &TlsSettings) -> anyhow::Result<Arc<Self>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = RwLock::new(Arc::new(read(settings, &provider)?));
        Ok(Arc::new(Self { settings: settings.clone(), provider, current }))
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
        // Clients that come back skip the costly half of the handshake, also after a storm larger than any table.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Looks at the files from time to time, and shows what they hold from then on if that is sound.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn watch(self: Arc<Self>, stopping: Arc<AtomicBool>) -> std::io::Result<JoinHandle<()>> {
        let mut seen = self.stamp();
        let run = move || {
            while !stopping.load(Ordering::Relaxed) {
                std::thread::park_timeout(LOOK_INTERVAL);
                let now = self.stamp();
                if now != seen {
                    seen = now;
                    self.reload();
                }
            }
        };
        std::thread::Builder::new().name("certificates".to_owned()).spawn(run)
    }

    fn reload(&self) {
        match read(&self.settings, &self.provider) {
            Ok(key) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                tracing::info!("the certificate was read anew");
            }
            // The two files change one after the other; the next look finds them both.
            Err(error) => {
                tracing::warn!(reason = format!("{error:#}"), "the certificate stays as it was");
            }
        }
    }

    fn stamp(&self) -> Stamp {
        [&self.settings.certificate, &self.settings.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(settings: &TlsSettings, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let TlsSettings { certificate, key, .. } = settings;
    let chain = read_chain(certificate)
        .with_context(|| format!("tls.certificate_file: cannot read {}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| anyhow!("{error}; it must hold a private key as PEM (PKCS #8, PKCS #1 or SEC 1)"))
        .with_context(|| format!("tls.key_file: cannot read {}", key.display()))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| {
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
