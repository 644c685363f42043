//! The options of TLS: where it is spoken, and where the certificate comes from. Must not know how options are read or
//! what they do.

use crate::settings::definition::{Kind, Section, Standard, options};
use crate::settings::forms::Form;

/// The most domains of a certificate; the usual bound of authorities.
const DOMAINS_MAX: usize = 100;

pub(super) const TLS: Section = Section {
    name: "tls",
    many: false,
    needs: &["listen"],
    text: "TLS 1.2 and 1.3, on a port besides `listen`, with a certificate of yours (`certificate_file` and \
           `key_file`) or one that the server gets and renews itself (`[tls.acme]`); docs/tls.md has more. Files of \
           yours are read again when they change. New connections get the new certificate; those that are open stay.",
    options: options! {
        /// The address and port for TLS, such as `0.0.0.0:443`.
        listen: Kind::Text(Form::Address), Standard::Words("not set: there is no TLS");
        /// The file with the certificate and those that lead to its root, as PEM.
        certificate_file: Kind::Text(Form::Path), Standard::Words("not set");
        /// The file with the certificate's private key, as PEM.
        /// Danger: whoever has it can pretend to be this server. It should be readable by its owner only.
        key_file: Kind::Text(Form::Path), Standard::Words("not set");
    },
    sections: &[ACME],
};

const ACME: Section = Section {
    name: "acme",
    many: false,
    needs: &["domains"],
    text: "A certificate from an authority such as Let's Encrypt (ACME, RFC 8555): got at the start, kept, and renewed \
           before it ends. The authority looks for the server at port 443 of each domain (challenge TLS-ALPN-01), so \
           `tls.listen` has that port, or it is passed on to it as it is. Until there is a first certificate, TLS \
           clients are refused and `/readyz` says no.",
    options: options! {
        /// The domains of the certificate, such as `["live.example.com"]`. Each must lead here.
        domains: Kind::Texts { form: Form::Domain, most: DOMAINS_MAX },
            Standard::Words("none: `[tls.acme]` needs them");
        /// Whether you agree to the authority's terms of service. It gives certificates to those only who do, so this
        /// must be said.
        accept_terms: Kind::Truth, Standard::Truth(false);
        /// Where the authority may write to you, such as `mailto:ops@example.com`; it is told when the account is made.
        contact: Kind::Text(Form::Words), Standard::Words("not set");
        /// The URL of the authority's directory. To try things out, that of Let's Encrypt's staging environment:
        /// `https://acme-staging-v02.api.letsencrypt.org/directory`, whose certificates no client trusts.
        /// Danger: the authority bounds how many certificates it gives a week; it is shared with all that you have.
        directory: Kind::Text(Form::Url), Standard::Text("https://acme-v02.api.letsencrypt.org/directory");
        /// The file with the certificates, as PEM, by which the directory's own server is known. It is for an
        /// authority of your own, and these are trusted instead of the system's, for that only.
        authority_file: Kind::Text(Form::Path), Standard::Words("not set: as the system has it");
        /// The directory of the account's key, the certificate and its key; made if it is not there.
        /// Danger: whoever reads it can pretend to be this server. One that is lost at each start has a certificate
        /// ordered at each start, until the authority gives no more.
        state: Kind::Text(Form::Path), Standard::Words("`acme` in the directory `data`; with `--memory` it must be said");
    },
    sections: &[],
};
