//! `tidewire token check`: what the server would say to a token, for whoever wonders why it is refused.
//! Must not know the command line.

use std::io::Read;
use std::sync::mpsc;

use anyhow::{Context, anyhow, ensure};
use serde_json::json;
use tidewire_core::Timestamp;

use super::{Claims, Refusal, Verifier};
use crate::access::identity::Grants;
use crate::clock::wall_clock;
use crate::settings::Settings;

/// The most that is read. A token that is too long is told so by the verifier.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// Reads a token and judges it as the server does, keys that must be fetched included. Gives what it claims, as JSON.
///
/// # Errors
/// Says why the token is refused, or what is wrong with the configuration. Nothing of the token is in it.
pub fn check_token(settings: &Settings, input: impl Read) -> anyhow::Result<String> {
    let mut token = String::new();
    input.take(INPUT_BYTES_MAX).read_to_string(&mut token).context("the token cannot be read")?;
    let issuers = &settings.access.issuers;
    ensure!(
        !issuers.is_empty(),
        "no issuer is configured, so that no token is taken; add one: [[auth.issuers]]"
    );
    let verifier = Verifier::new(&settings.access)?;
    let claims = verify(&verifier, token.trim()).map_err(|refusal| anyhow!("{refusal}"))?;
    Grants::of_claim(claims.rights.as_ref())
        .map_err(|wrong| anyhow!("the token's rights cannot be read: {wrong}"))?;
    Ok(show(&claims))
}

fn verify(verifier: &Verifier, token: &str) -> Result<Claims, Refusal> {
    match verifier.verify(token, wall_clock().0) {
        Err(Refusal::KeysWanted(issuer)) => {
            let (done, told) = mpsc::channel::<()>();
            verifier.fetch(issuer, Box::new(move || drop(done)));
            // Nothing is ever sent: the wait ends when the other end is dropped.
            let _ = told.recv();
            verifier.verify_after_fetch(token, wall_clock().0)
        }
        verdict => verdict,
    }
}

fn show(claims: &Claims) -> String {
    let time = |ms: u64| Timestamp(ms).to_string();
    let shown = json!({
        "user": claims.user,
        "issued_at": claims.issued_at_ms.map(time),
        "taken_until": time(claims.expires_at_ms),
        "token_id": claims.token_id,
        "rights": claims.rights,
    });
    format!("{shown:#}")
}
