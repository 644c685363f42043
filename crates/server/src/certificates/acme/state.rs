//! What is kept of an authority, in a directory for each: the account, the certificate with its key, and when it was
//! asked for what. Each file is for its owner only, and is there as a whole or not at all. Must not ask anybody.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use instant_acme::AccountCredentials;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::certificates::{Shown, pair};

const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.pem";
const ASKED: &str = "asked.json";
/// The last line of a certificate.
const END: &[u8] = b"-----END CERTIFICATE-----";
/// What a damaged file is to be met with.
const MEND_ACCOUNT: &str = "put back a copy, or remove it to have a new account made";
const MEND_CERTIFICATE: &str = "put back a copy, or remove it to have another certificate got";
const MEND_ASKED: &str = "remove it";

/// Where it is kept.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
}

/// When the authority was asked, by the wall clock, for as far back as it matters.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// For a certificate.
    pub(super) orders_ms: Vec<u64>,
    /// When to renew one.
    pub(super) looks_ms: Vec<u64>,
}

impl State {
    /// What is below `folder` of the authority at `directory`. Nothing is made.
    pub(super) fn of(folder: &Path, directory: &str) -> Self {
        let host = directory.split("://").last().and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let plain = |byte: char| if byte.is_ascii_alphanumeric() || byte == '.' { byte } else { '-' };
        let host: String = host.chars().map(plain).collect();
        // One host may have several directories, such as that for tries.
        let digest = Sha256::digest(directory.as_bytes());
        let mark = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        Self { folder: folder.join(format!("{host}-{mark:08x}")) }
    }

    /// Makes the directory, and finds out whether it can be written before an authority is asked for what would be
    /// lost then.
    pub(super) fn make(&self) -> anyhow::Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        let tried =
            made.and_then(|()| self.write("tried", b"").and_then(|()| fs::remove_file(self.path("tried"))));
        tried.with_context(|| {
            let folder = self.folder.display();
            format!(
                "tls.acme.state: cannot write in {folder}, where the account and the certificate are kept"
            )
        })
    }

    /// The account, if there is one.
    ///
    /// # Errors
    /// If its file is not readable.
    pub(super) fn account(&self) -> anyhow::Result<Option<AccountCredentials>> {
        let Some(text) = self.read(ACCOUNT)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&text).map_err(|_| anyhow!("it is no account"));
        parsed.map(Some).with_context(|| self.damaged(ACCOUNT, MEND_ACCOUNT))
    }

    pub(super) fn put_account(&self, account: &AccountCredentials) -> anyhow::Result<()> {
        self.put(ACCOUNT, &serde_json::to_vec(account)?)
    }

    /// The authority does not know it any more.
    pub(super) fn forget_account(&self) -> anyhow::Result<()> {
        let path = self.path(ACCOUNT);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The certificate with its key, if there is one.
    ///
    /// # Errors
    /// If their file is not readable.
    pub(super) fn certificate(&self, provider: &CryptoProvider) -> anyhow::Result<Option<Shown>> {
        let Some(text) = self.read(CERTIFICATE)? else { return Ok(None) };
        parse(&text, provider).map(Some).with_context(|| self.damaged(CERTIFICATE, MEND_CERTIFICATE))
    }

    /// Keeps a certificate and its key, in one file: there is no moment at which they do not go together.
    pub(super) fn put_certificate(&self, key: &str, chain: &str) -> anyhow::Result<()> {
        self.put(CERTIFICATE, format!("{}\n{}\n", key.trim(), chain.trim()).as_bytes())
    }

    pub(super) fn asked(&self) -> anyhow::Result<Asked> {
        let Some(text) = self.read(ASKED)? else { return Ok(Asked::default()) };
        serde_json::from_slice(&text).with_context(|| self.damaged(ASKED, MEND_ASKED))
    }

    pub(super) fn put_asked(&self, asked: &Asked) -> anyhow::Result<()> {
        self.put(ASKED, &serde_json::to_vec(asked)?)
    }

    fn damaged(&self, name: &str, remedy: &str) -> String {
        format!("{} is damaged; {remedy}", self.path(name).display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.path(name).display())),
        }
    }

    fn put(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        self.write(name, content).with_context(|| format!("cannot write {}", self.path(name).display()))
    }

    /// The file's old content stays until all of the new one is on the disk.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = self.path(&format!("{name}.new"));
        // One that was left behind may have been made by somebody else, for others to read.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, self.path(name))?;
        File::open(&self.folder)?.sync_all()
    }
}

/// A certificate, those that lead to its root, and its key, all as PEM.
pub(super) fn parse(text: &[u8], provider: &CryptoProvider) -> anyhow::Result<Shown> {
    // What is cut off would be passed over.
    anyhow::ensure!(text.trim_ascii_end().ends_with(END), "it does not end with a certificate");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("its certificates cannot be read: {error}"))?;
    let private = PrivateKeyDer::from_pem_slice(text).map_err(|error| anyhow!("it has no key: {error}"))?;
    let shown = pair(chain, private, provider).context("its key and its certificate do not go together")?;
    anyhow::ensure!(shown.life.is_some(), "what its certificate says of itself cannot be understood");
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_one_host_are_kept_apart() {
        let of = |url: &str| State::of(Path::new("/s"), url).folder;
        let (real, tries) = (of("https://ca.example:8443/a"), of("https://ca.example:8443/b"));
        assert_ne!(real, tries);
        for folder in [real, tries] {
            let name = folder.strip_prefix("/s").expect("below it").to_string_lossy().into_owned();
            assert!(
                name.starts_with("ca.example-8443-") && name.len() == "ca.example-8443-".len() + 8,
                "{name}"
            );
        }
        assert_eq!(of("https://../../etc/passwd").parent(), Some(Path::new("/s")));
    }

    #[test]
    fn files_are_for_their_owner_only_and_damage_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let state = State::of(directory.path(), "https://ca.example/a");
        state.make().expect("it can be made");
        assert_eq!(state.asked().expect("none is none"), Asked::default());
        let asked = Asked { orders_ms: vec![1, 2], looks_ms: vec![3] };
        state.put_asked(&asked).expect("it can be written");
        assert_eq!(state.asked().expect("it can be read"), asked);
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&state.folder), mode(&state.path(ASKED))), (0o700, 0o600));
        fs::write(state.path(ASKED), "[").expect("written");
        let error = state.asked().expect_err("it is damaged").to_string();
        assert!(error.contains("asked.json is damaged"), "{error}");
    }
}
