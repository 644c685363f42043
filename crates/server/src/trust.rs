//! Whom this server trusts where it is a client over TLS: whom the machine trusts. Must not know what is asked for.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// The system's certificates, so that an authority of one's own is added where all programs find it. The
/// cryptography is the same library that checks tokens; there is no other in the binary.
pub(crate) fn of_the_machine() -> TlsConfig {
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .build()
}
