//! The answer to a TLS-ALPN-01 challenge (RFC 8737): a certificate of its own that holds what only the account's owner
//! can know. Must not know orders, nor who asks.

use anyhow::{Context, ensure};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

/// The length of the digest that it holds, SHA-256.
const DIGEST_BYTES: usize = 32;

/// What is shown for `domain`; `digest` is that of the challenge's key authorization.
pub(super) fn answer(domain: &str, digest: &[u8], provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    ensure!(digest.len() == DIGEST_BYTES, "a key authorization has a digest of {DIGEST_BYTES} bytes");
    let mut parameters = CertificateParams::new(vec![domain.to_owned()])?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let pair = KeyPair::generate()?;
    let certificate = parameters.self_signed(&pair)?;
    let private = PrivateKeyDer::try_from(pair.serialize_der()).ok().context("a key of ours is no key")?;
    // Not checked as others are: it says that whoever does not know its extension must refuse it.
    let signer = provider.key_provider.load_private_key(private)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}
