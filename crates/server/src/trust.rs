//! Whom this server trusts where it is a client over TLS: whom the machine trusts, or those of a file. Must not know
//! what is asked for.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

/// The system's certificates, so that an authority of one's own is added where all programs find it. The
/// cryptography is the same library that checks tokens; there is no other in the binary.
pub(crate) fn of_the_machine() -> TlsConfig {
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider())
        .build()
}

/// Only those whose certificates are in a file, as PEM.
///
/// # Errors
/// If there are none in it.
pub(crate) fn of_file(path: &Path) -> anyhow::Result<TlsConfig> {
    let content = std::fs::read(path)?;
    let mut roots = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&content) {
        roots.push(Certificate::from_der(&certificate?).to_owned());
    }
    anyhow::ensure!(!roots.is_empty(), "it must hold certificates of authorities as PEM");
    let roots = RootCerts::Specific(Arc::new(roots));
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(provider())
        .build())
}

/// Whom the machine trusts, for a connection without the HTTP library. `protocols` are offered by ALPN, the best first.
pub(crate) fn client(protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
