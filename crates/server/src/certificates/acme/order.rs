//! What is said to an authority (RFC 8555, RFC 9773): an account, an order with its challenges answered, a look at when
//! to renew. Must not know when that is done, nor keep anything but the account.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, Order, OrderStatus,
};
use rustls::pki_types::CertificateDer;

use super::challenge;
use super::http::{Http, wait_for};
use super::state::State;
use crate::certificates::Certificates;
use crate::settings::AcmeSettings;

/// How often an order is looked at until it is decided on, the pauses becoming longer. Beyond: it has failed.
const LOOKS_MAX: u32 = 25;
/// The first and the longest pause between two looks; two minutes in all.
const LOOK_PAUSE_MS: (u64, u64) = (250, 6000);
/// The kind of problem of an authority that has forgotten an account.
const ACCOUNT_UNKNOWN: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Waits for so long; false if the server stops meanwhile.
pub(super) type Pause<'p> = &'p dyn Fn(Duration) -> bool;

/// A certificate, and those that lead to its root, as PEM; with its key.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// When the authority suggests to renew, by the wall clock.
pub(super) struct Window {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    /// How long that holds.
    pub(super) for_ms: u64,
}

/// The account of the state, or a new one, which is kept at once.
pub(super) fn account(settings: &AcmeSettings, state: &State, http: &Http) -> anyhow::Result<Account> {
    let builder = Account::builder_with_http(Box::new(http.clone()));
    if let Some(known) = state.account()? {
        return Ok(wait_for(builder.from_credentials(known))?);
    }
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    // The settings are not there without the terms being agreed to.
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let made = wait_for(builder.create(&new, settings.directory.clone(), None));
    let (account, credentials) = made.context("no account could be made")?;
    state.put_account(&credentials)?;
    tracing::info!(directory = settings.directory, "an account was made at the certificate authority");
    Ok(account)
}

/// Whether the authority said that it does not know the account.
pub(super) fn is_account_unknown(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<Error>() {
        Some(Error::Api(problem)) => problem.r#type.as_deref() == Some(ACCOUNT_UNKNOWN),
        _ => false,
    })
}

/// Gets a certificate for all `domains`. With `replaced`, the authority is told which one it takes the place of.
pub(super) fn obtain(
    account: &Account,
    domains: &[String],
    replaced: Option<&CertificateDer<'_>>,
    certificates: &Certificates,
    pause: Pause<'_>,
) -> anyhow::Result<Issued> {
    let issued = wait_for(fulfil(account, domains, replaced, certificates, pause));
    certificates.forget_challenges();
    issued
}

/// When to renew a certificate, if the authority says so.
pub(super) fn window(account: &Account, certificate: &CertificateDer<'_>) -> anyhow::Result<Option<Window>> {
    let name = CertificateIdentifier::try_from(certificate).map_err(|why| anyhow!("{why}"))?;
    let (info, holds) = match wait_for(account.renewal_info(&name)) {
        Ok(told) => told,
        Err(Error::Unsupported(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let ms = |time: i64| u64::try_from(time).unwrap_or(0).saturating_mul(1000);
    Ok(Some(Window {
        from_ms: ms(info.suggested_window.start.unix_timestamp()),
        to_ms: ms(info.suggested_window.end.unix_timestamp()),
        for_ms: u64::try_from(holds.as_millis()).unwrap_or(u64::MAX),
    }))
}

async fn fulfil(
    account: &Account,
    domains: &[String],
    replaced: Option<&CertificateDer<'_>>,
    certificates: &Certificates,
    pause: Pause<'_>,
) -> anyhow::Result<Issued> {
    let identifiers: Vec<_> = domains.iter().cloned().map(Identifier::Dns).collect();
    let new = NewOrder::new(&identifiers);
    let new = match replaced.and_then(|old| CertificateIdentifier::try_from(old).ok()) {
        Some(old) => new.replaces(old),
        None => new,
    };
    let mut order = account.new_order(&new).await.context("the order is refused")?;
    answer_challenges(&mut order, certificates).await?;
    let status = settle(&mut order, pause, |status| status == OrderStatus::Pending).await?;
    if status == OrderStatus::Invalid {
        bail!("{}", why_invalid(&mut order).await);
    }
    let key = order.finalize().await.context("the request for the certificate is refused")?;
    let status = settle(&mut order, pause, |status| status != OrderStatus::Valid).await?;
    if status == OrderStatus::Invalid {
        bail!("{}", why_invalid(&mut order).await);
    }
    let chain = order.certificate().await.context("the certificate cannot be fetched")?;
    Ok(Issued { chain: chain.context("the authority has no certificate for an order that is valid")?, key })
}

/// Puts up the answers before the authority is told to look.
async fn answer_challenges(order: &mut Order, certificates: &Certificates) -> anyhow::Result<()> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            // It has proved that before.
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => bail!("{}: the authorization is {status:?}", authorization.identifier()),
        }
        let domain = authorization.identifier().to_string();
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge =
            challenge.with_context(|| format!("{domain}: the authority offers no challenge tls-alpn-01"))?;
        let digest = challenge.key_authorization().digest();
        let answer = challenge::answer(&domain, digest.as_ref(), &certificates.provider)?;
        certificates.answer_challenge(&domain, Arc::new(answer));
        challenge.set_ready().await.with_context(|| domain.clone())?;
    }
    Ok(())
}

/// Waits while the order is as `waits` says, and is not invalid.
async fn settle(
    order: &mut Order,
    pause: Pause<'_>,
    waits: impl Fn(OrderStatus) -> bool,
) -> anyhow::Result<OrderStatus> {
    let (mut pause_ms, longest_ms) = LOOK_PAUSE_MS;
    let mut status = order.state().status;
    for _ in 0..LOOKS_MAX {
        if status == OrderStatus::Invalid || !waits(status) {
            return Ok(status);
        }
        if !pause(Duration::from_millis(pause_ms)) {
            bail!("the server stops");
        }
        pause_ms = (pause_ms * 2).min(longest_ms);
        status = order.refresh().await.context("the order cannot be looked at")?.status;
    }
    bail!("the authority has not decided in time; the order is {status:?}")
}

/// What the authority says it found where it looked for the answers.
async fn why_invalid(order: &mut Order) -> String {
    let mut reasons: Vec<String> = order.state().error.iter().map(ToString::to_string).collect();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let domain = authorization.identifier().to_string();
        let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(|error| format!("{domain}: {error}")));
    }
    if reasons.is_empty() {
        return "the authority says that the order is invalid, and not why".to_owned();
    }
    reasons.join("; ")
}
