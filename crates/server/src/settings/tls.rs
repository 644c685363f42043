//! TLS put together from checked values: where it is spoken, and exactly one way to a certificate. Must not read a
//! certificate or key, nor ask an authority.

use std::net::SocketAddr;
use std::path::Path;

use super::load::{Checks, address};
use super::values::Table;
use super::{AcmeSettings, CertificateSource, TlsSettings, forms};
use crate::certificates::CertificateFiles;

const FILES: [&str; 2] = ["certificate_file", "key_file"];

/// What `[tls]` says; `plain` is where there is none, `data` the directory of the log.
pub(super) fn tls(
    table: &Table,
    plain: SocketAddr,
    data: Option<&Path>,
    checks: &mut Checks<'_>,
) -> Option<TlsSettings> {
    let acme = table.table("acme");
    let wants_acme = acme.is_there();
    if !table.is_there() && !wants_acme {
        return None;
    }
    let source = match FILES.iter().find(|name| table.is_said(name)) {
        Some(file) if wants_acme => {
            let what = "and tls.acme are two ways to a certificate; choose one";
            checks.wrong(table, file, what);
            None
        }
        _ if wants_acme => self::acme(acme, data, checks).map(CertificateSource::Acme),
        None => {
            let what =
                "tls needs a certificate: certificate_file and key_file, or [tls.acme] to have one got";
            checks.mistakes.add(&table.origin, what);
            None
        }
        Some(_) => files(table, checks).map(CertificateSource::Files),
    };
    let listen = address(table, "listen")?;
    if listen.port() != 0 && listen == plain {
        checks.wrong(table, "listen", "is the same as listen, where there is no TLS; choose another port");
    }
    Some(TlsSettings { listen, source: source? })
}

fn files(table: &Table, checks: &mut Checks<'_>) -> Option<CertificateFiles> {
    for name in FILES.iter().filter(|name| !table.is_said(name)) {
        checks.mistakes.add(&table.origin, format!("tls needs {name}"));
    }
    let certificate = checks.readable(table, "certificate_file");
    let key = checks.readable(table, "key_file");
    Some(CertificateFiles { certificate: certificate?, key: key? })
}

fn acme(table: &Table, data: Option<&Path>, checks: &mut Checks<'_>) -> Option<AcmeSettings> {
    let directory = table.text("directory").unwrap_or_default();
    if !forms::url(directory).is_ok_and(|url| url.https) && !table.is_wrong("directory") {
        checks.wrong(table, "directory", "must be https: by it the account is used");
    }
    if !table.truth("accept_terms") && !table.is_wrong("accept_terms") {
        let what = "must be true, by which you agree to the terms of service that the authority has at its directory";
        let origin = if table.is_said("accept_terms") { table.origin("accept_terms") } else { &table.origin };
        checks.mistakes.add(origin, format!("{} {what} ({directory})", table.path("accept_terms")));
    }
    let contact = table.text("contact");
    if contact.is_some_and(|contact| !contact.strip_prefix("mailto:").is_some_and(|to| to.contains('@'))) {
        checks.wrong(table, "contact", "must be an address as in \"mailto:ops@example.com\"");
    }
    let state = checks.path(table, "state").or_else(|| data.map(|data| data.join("acme")));
    if state.is_none() && !table.is_wrong("state") {
        let what = "is needed with --memory, as there is no directory of data to keep the certificate in";
        checks.wrong(table, "state", what);
    }
    let authority = table.text("authority_file").map(|_| checks.readable(table, "authority_file"));
    Some(AcmeSettings {
        domains: domains(table, checks),
        contact: contact.map(str::to_owned),
        directory: directory.to_owned(),
        authority: match authority {
            Some(path) => Some(path?),
            None => None,
        },
        state: state?,
    })
}

fn domains(table: &Table, checks: &mut Checks<'_>) -> Vec<String> {
    let mut domains = Vec::new();
    for (domain, origin) in table.texts("domains") {
        let domain = domain.to_ascii_lowercase();
        if domains.contains(&domain) {
            checks.mistakes.add(origin, format!("tls.acme.domains = {domain:?} is there twice"));
        } else {
            domains.push(domain);
        }
    }
    if domains.is_empty() && table.is_said("domains") && !table.is_wrong("domains") {
        checks.wrong(table, "domains", "needs at least one, such as domains = [\"live.example.com\"]");
    }
    domains
}
