//! The certificate from files of the configuration, read again when they change. Must not know what it is shown to.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::{CertificateFiles, Certificates, read};

/// How often to look whether the files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What tells one version of the files from another.
type Stamp = [Option<(SystemTime, u64)>; 2];

#[derive(Debug)]
pub(super) struct Files {
    paths: CertificateFiles,
    /// As they were before they were first read.
    seen: Stamp,
}

impl Files {
    pub(super) fn new(paths: CertificateFiles) -> Self {
        let seen = stamp(&paths);
        Self { paths, seen }
    }

    /// Looks at the files from time to time, and has what they hold shown from then on if that is sound.
    pub(super) fn watch(&self, certificates: &Certificates, stopping: &AtomicBool) {
        let mut seen = self.seen;
        while !stopping.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK_INTERVAL);
            let now = stamp(&self.paths);
            if now != seen {
                seen = now;
                self.reload(certificates);
            }
        }
    }

    fn reload(&self, certificates: &Certificates) {
        match read(&self.paths, &certificates.provider) {
            Ok(shown) => {
                certificates.show(shown);
                tracing::info!("the certificate was read anew");
            }
            // The two files change one after the other; the next look finds them both.
            Err(error) => {
                certificates.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(reason = format!("{error:#}"), "the certificate stays as it was");
            }
        }
    }
}

fn stamp(paths: &CertificateFiles) -> Stamp {
    [&paths.certificate, &paths.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}
