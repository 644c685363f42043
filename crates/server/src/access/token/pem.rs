//! A public key in PEM (RFC 7468), as `openssl pkey -pubout` and `openssl rsa -RSAPublicKey_out` write it.
//! Must not know files or algorithms.

use aws_lc_rs::rsa;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::key::Material;

/// How a SubjectPublicKeyInfo of each kind begins, up to the key itself.
const P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const P384: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// Reads the one public key that the text holds.
///
/// # Errors
/// Says what it holds instead.
pub(super) fn public_key(text: &str) -> Result<Material, String> {
    let (label, der) = block(text)?;
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        _ if label.ends_with("PRIVATE KEY") => {
            return Err("this is a private key, which a server that only checks tokens must not have; \
                        give the public one (openssl pkey -in PRIVATE.pem -pubout)"
                .to_owned());
        }
        "CERTIFICATE" => {
            return Err("this is a certificate; give the public key in it \
                        (openssl x509 -in CERTIFICATE.pem -noout -pubkey)"
                .to_owned());
        }
        _ => return Err(format!("this is PEM, but {label:?} is no public key")),
    }
    let point = |prefix| der.strip_prefix(prefix).map(<[u8]>::to_vec);
    if let Some(point) = point(P256) {
        return Ok(Material::P256(point));
    }
    if let Some(point) = point(P384) {
        return Ok(Material::P384(point));
    }
    if let Some(point) = point(ED25519) {
        return Ok(Material::Ed25519(point));
    }
    let key = rsa::PublicKey::from_der(&der).map_err(|_| {
        "this is a public key of a kind that is not supported; RSA, P-256, P-384 and Ed25519 are".to_owned()
    })?;
    let number = |number: &[u8]| number.to_vec();
    Ok(Material::Rsa(
        number(key.modulus().big_endian_without_leading_zero()),
        number(key.exponent().big_endian_without_leading_zero()),
    ))
}

/// The label and the content of the only block. Text around it is allowed, as RFC 7468 does.
fn block(text: &str) -> Result<(&str, Vec<u8>), String> {
    const BEGIN: &str = "-----BEGIN ";
    let none = || "this is no PEM; a public key begins with -----BEGIN PUBLIC KEY-----".to_owned();
    let (_, rest) = text.split_once(BEGIN).ok_or_else(none)?;
    let (label, rest) = rest.split_once("-----").ok_or_else(none)?;
    // An encrypted private key has headers, which are no base64: say what it is, not how it is spelled.
    if label.ends_with("PRIVATE KEY") {
        return Ok((label, Vec::new()));
    }
    let (body, rest) = rest.split_once(&format!("-----END {label}-----")).ok_or_else(none)?;
    if rest.contains(BEGIN) {
        return Err(
            "this holds more than one key; give one, or a JSON Web Key Set with all of them".to_owned()
        );
    }
    let body: String = body.split_whitespace().collect();
    let content = STANDARD.decode(body).map_err(|_| format!("this is broken: {label:?} holds no base64"))?;
    Ok((label, content))
}
