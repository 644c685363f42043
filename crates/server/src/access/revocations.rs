//! Which users' tokens are no longer good although they have not expired. It outlives a restart where there is a
//! data directory. Must not know what a token looks like.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tidewire_core::{Code, Problem};

use super::identity::Identity;

/// Where they are kept, in the data directory.
const FILE: &str = "tidewire.revoked";

/// The users whose tokens were revoked, with when.
#[derive(Debug)]
pub(crate) struct Revocations {
    keep_ms: u64,
    users_max: usize,
    path: Option<PathBuf>,
    /// There is none, as nearly always: nobody needs to look.
    is_empty: AtomicBool,
    by_user: Mutex<HashMap<Box<str>, u64>>,
    /// Held while the file is written, so that the newest is written last and nobody who only looks waits for it.
    writing: Mutex<()>,
}

/// What became of what another server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It holds from now on.
    New,
    /// It held already.
    Known,
    /// No token is that old.
    Outdated,
}

#[derive(Serialize, Deserialize)]
struct Line {
    user: Box<str>,
    revoked_at_ms: u64,
}

impl Revocations {
    /// Reads what is kept in the directory, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read: a server that forgot whom it must refuse would let them in.
    pub(crate) fn open(directory: Option<&Path>, keep_ms: u64, users_max: usize) -> anyhow::Result<Self> {
        let path = directory.map(|directory| directory.join(FILE));
        let by_user = match &path {
            Some(path) => read(path)?,
            None => HashMap::new(),
        };
        let is_empty = AtomicBool::new(by_user.is_empty());
        Ok(Self { keep_ms, users_max, path, is_empty, by_user: Mutex::new(by_user), writing: Mutex::new(()) })
    }

    /// From now on, tokens of `user` that were issued up to now are not good.
    ///
    /// # Errors
    /// `unavailable` if there are as many as may be, `storage_failed` if it cannot be written down; then it holds
    /// all the same until this server ends.
    pub(crate) fn revoke(&self, user: &str, now_ms: u64) -> Result<(), Problem> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_user = self.lock();
        by_user.retain(|_, revoked_at_ms| revoked_at_ms.saturating_add(self.keep_ms) > now_ms);
        if by_user.len() >= self.users_max && !by_user.contains_key(user) {
            let detail = format!("the tokens of {} users are revoked; no more are remembered", by_user.len());
            return Err(Problem::new(Code::Unavailable, detail));
        }
        by_user.insert(user.into(), now_ms);
        self.is_empty.store(false, Ordering::SeqCst);
        let Some(path) = &self.path else { return Ok(()) };
        let text = to_text(&by_user);
        drop(by_user);
        text.and_then(|text| write(path, &text)).map_err(|error| {
            let detail = format!("revoked until this server ends, as it cannot be written down: {error}");
            Problem::new(Code::StorageFailed, detail)
        })
    }

    /// As [`Self::revoke`] for what another server said. It is not written down, as that server saw to it that it is
    /// kept; and it holds however many there are.
    pub(crate) fn note(&self, user: &str, at_ms: u64, now_ms: u64) -> Noted {
        if at_ms.saturating_add(self.keep_ms) <= now_ms {
            return Noted::Outdated;
        }
        let mut by_user = self.lock();
        if by_user.get(user).is_some_and(|known| *known >= at_ms) {
            return Noted::Known;
        }
        by_user.insert(user.into(), at_ms);
        self.is_empty.store(false, Ordering::SeqCst);
        Noted::New
    }

    /// Whether somebody's token is good as far as this goes.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub(crate) fn check(&self, who: &Identity) -> Result<(), Problem> {
        if self.is_empty.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Some(user) = &who.user else { return Ok(()) };
        let revoked_at_ms = self.lock().get(&**user).copied();
        // Tokens say the second only, so one from that very second may be from after it; it is refused to be safe.
        let is_later = |at_ms: u64| who.issued_at_ms > at_ms;
        match revoked_at_ms {
            Some(at_ms) if !is_later(at_ms) => {
                Err(Problem::new(Code::Unauthenticated, "the user's tokens were revoked; get a new one"))
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, u64>> {
        // Nothing in here panics half-way.
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> anyhow::Result<HashMap<Box<str>, u64>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => anyhow::bail!("cannot read {}: {error}", path.display()),
    };
    let read = |(number, line): (usize, &str)| {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            anyhow::anyhow!("{} is damaged in line {}: {error}", path.display(), number + 1)
        })?;
        Ok((line.user, line.revoked_at_ms))
    };
    text.lines().enumerate().map(read).collect()
}

fn to_text(by_user: &HashMap<Box<str>, u64>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for (user, revoked_at_ms) in by_user {
        serde_json::to_writer(&mut text, &Line { user: user.clone(), revoked_at_ms: *revoked_at_ms })?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Written beside it and then put in its place, so that it is whole at any moment.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("revoked.new");
    let mut file = File::create(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(user: &str, issued_at_ms: Option<u64>) -> Identity {
        let issued_at_ms = issued_at_ms.unwrap_or(0);
        Identity { user: Some(user.into()), issued_at_ms, ..Identity::default() }
    }

    #[test]
    fn tokens_from_before_are_refused() {
        let revocations = Revocations::open(None, 1000, 10).expect("nothing to read");
        assert!(revocations.check(&token("a", Some(1))).is_ok());
        revocations.revoke("a", 5000).expect("room");
        for (token, good) in [
            (token("a", Some(5000)), false),
            (token("a", Some(4000)), false),
            (token("a", None), false),
            (token("a", Some(6000)), true),
            (token("b", Some(1)), true),
            (Identity::admin(), true),
        ] {
            assert_eq!(revocations.check(&token).is_ok(), good, "{token:?}");
        }
    }

    #[test]
    fn they_outlive_a_restart_and_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || Revocations::open(Some(directory.path()), 1000, 2).expect("a right file");
        open().revoke("a \"quoted\"\nuser", 5000).expect("room");
        open().revoke("b", 5500).expect("room");
        assert!(open().check(&token("a \"quoted\"\nuser", Some(1))).is_err());
        assert_eq!(open().revoke("c", 5600).expect_err("full").code, Code::Unavailable);
        open().revoke("c", 6000).expect("the first has ended");
        assert!(open().check(&token("a \"quoted\"\nuser", Some(1))).is_ok());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join(FILE), "{\"user\":1}\n").expect("written");
        let error = Revocations::open(Some(directory.path()), 1000, 2).expect_err("damaged").to_string();
        assert!(error.contains(FILE) && error.contains("line 1"), "{error}");
    }
}
