//! Who this is, said to a Kafka: the strongest of SCRAM-SHA-512, SCRAM-SHA-256 (RFC 5802) and PLAIN (RFC 4616) that it
//! knows. Must not know what for.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kafka_protocol::messages::{
    ApiKey, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Ask, Connection};
use super::requests::{problem, worded};
use crate::backplane::broker::BrokerError;

/// More rounds than anybody asks for would keep this node busy.
const ROUNDS_MAX: u32 = 1_000_000;

impl Ask for SaslHandshakeRequest {
    const KEY: ApiKey = ApiKey::SaslHandshake;
    const VERSION: i16 = 1;
    type Answer = SaslHandshakeResponse;
}

impl Ask for SaslAuthenticateRequest {
    const KEY: ApiKey = ApiKey::SaslAuthenticate;
    const VERSION: i16 = 0;
    type Answer = SaslAuthenticateResponse;
}

/// A SCRAM with one hash or the other.
struct Scram {
    pbkdf2: &'static pbkdf2::Algorithm,
    hmac: &'static hmac::Algorithm,
    digest: &'static digest::Algorithm,
}

static SHA_512: Scram =
    Scram { pbkdf2: &pbkdf2::PBKDF2_HMAC_SHA512, hmac: &hmac::HMAC_SHA512, digest: &digest::SHA512 };
static SHA_256: Scram =
    Scram { pbkdf2: &pbkdf2::PBKDF2_HMAC_SHA256, hmac: &hmac::HMAC_SHA256, digest: &digest::SHA256 };

/// Which mechanism is tried first; a Kafka that does not know it says which it does know.
pub(super) const FIRST: &str = "SCRAM-SHA-512";

/// The best of these, of which a server says that it knows them. Without TLS a password is not sent as it is.
pub(super) fn best(known: &[String], is_tls: bool) -> Result<&'static str, BrokerError> {
    match ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"].into_iter().find(|name| known.iter().any(|k| k == name))
    {
        Some("PLAIN") if !is_tls => {
            Err(problem("it wants the password as it is (PLAIN), which is sent over TLS only: kafka+tls://"))
        }
        Some(name) => Ok(name),
        None => Err(problem(&format!("it knows none of SCRAM and PLAIN, but {}", known.join(", ")))),
    }
}

/// Says who this is. Gives what the server knows if this mechanism is not among it; the connection is of no use then.
pub(super) async fn authenticate(
    connection: &mut Connection,
    mechanism: &'static str,
    user: &str,
    password: &str,
) -> Result<Option<Vec<String>>, BrokerError> {
    let ask = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
    let answer = connection.ask(&ask).await?;
    if answer.error_code != 0 {
        return Ok(Some(answer.mechanisms.iter().map(|name| name.to_string()).collect()));
    }
    match mechanism {
        "SCRAM-SHA-512" => SHA_512.authenticate(connection, user, password).await?,
        "SCRAM-SHA-256" => SHA_256.authenticate(connection, user, password).await?,
        _ => say(connection, format!("\0{user}\0{password}")).await.map(drop)?,
    }
    Ok(None)
}

async fn say(connection: &mut Connection, what: String) -> Result<String, BrokerError> {
    let ask = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(what));
    let answer = connection.ask(&ask).await?;
    if answer.error_code != 0 {
        let more = answer.error_message.map(|message| message.to_string());
        return Err(worded("it does not let this user in", answer.error_code, more.as_deref()));
    }
    String::from_utf8(answer.auth_bytes.to_vec()).map_err(|_| problem("its word on the user is no text"))
}

impl Scram {
    async fn authenticate(
        &self,
        connection: &mut Connection,
        user: &str,
        password: &str,
    ) -> Result<(), BrokerError> {
        let odd = || problem("its word on the user is odd");
        let mut random = [0; 18];
        getrandom::fill(&mut random).map_err(|_| problem("the system gives no random numbers"))?;
        let nonce = STANDARD.encode(random);
        let first = format!("n={},r={nonce}", user.replace('=', "=3D").replace(',', "=2C"));
        let challenge = say(connection, format!("n,,{first}")).await?;
        let part = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name));
        let both = part("r=").filter(|both| both.starts_with(&nonce)).ok_or_else(odd)?;
        let salt = STANDARD.decode(part("s=").ok_or_else(odd)?).map_err(|_| odd())?;
        let rounds = part("i=").and_then(|rounds| rounds.parse::<u32>().ok());
        let rounds =
            rounds.filter(|rounds| *rounds <= ROUNDS_MAX).and_then(NonZeroU32::new).ok_or_else(odd)?;
        let last = format!("c=biws,r={both}");
        let (proof, expected) =
            self.proof(password, &salt, rounds, format!("{first},{challenge},{last}").as_bytes());
        let verdict = say(connection, format!("{last},p={}", STANDARD.encode(proof))).await?;
        let shown =
            verdict.strip_prefix("v=").and_then(|shown| STANDARD.decode(shown).ok()).ok_or_else(odd)?;
        constant_time::verify_slices_are_equal(&shown, &expected)
            .map_err(|_| problem("it does not know the password itself: it is not who it seems"))
    }

    /// What proves to the server that this node knows the password, and what the server must answer.
    fn proof(&self, password: &str, salt: &[u8], rounds: NonZeroU32, said: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut salted = vec![0; self.digest.output_len()];
        pbkdf2::derive(*self.pbkdf2, rounds, salt, password.as_bytes(), &mut salted);
        let sign = |key: &[u8], what: &[u8]| hmac::sign(&hmac::Key::new(*self.hmac, key), what);
        let client = sign(&salted, b"Client Key");
        let stored = digest::digest(self.digest, client.as_ref());
        let signature = sign(stored.as_ref(), said);
        let proof = client.as_ref().iter().zip(signature.as_ref()).map(|(one, two)| one ^ two).collect();
        let server = sign(&salted, b"Server Key");
        (proof, sign(server.as_ref(), said).as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn the_proof_is_the_one_that_is_published() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("right");
        let both = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let said = format!(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,r={both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={both}"
        );
        let rounds = NonZeroU32::new(4096).expect("not zero");
        let (proof, server) = SHA_256.proof("pencil", &salt, rounds, said.as_bytes());
        assert_eq!(STANDARD.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(STANDARD.encode(server), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }
}
