//! The file in which `sub --cursor-file` keeps its place.
//! Must not know what a cursor means, only what characters it may have.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the file is written at most while events come.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A cursor over a thousand channels has 32,000 bytes; anything larger is another file given by mistake.
const BYTES_MAX: u64 = 64 << 10;

/// A cursor on disk, and what has been written of it.
#[derive(Debug)]
pub(super) struct CursorFile {
    path: PathBuf,
    stored: Option<String>,
    written: Option<Instant>,
}

impl CursorFile {
    /// Opens the file, which need not exist, and reads its cursor.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("cannot read the cursor file {}: {error}", path.display()));
            }
            _ => {}
        }
        let cursor = text.trim();
        let is_cursor = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if text.len() as u64 > BYTES_MAX || !cursor.bytes().all(is_cursor) {
            return Err(format!("{} holds no cursor; remove it to begin anew", path.display()));
        }
        let stored = (!cursor.is_empty()).then(|| cursor.to_owned());
        Ok(Self { path, stored, written: None })
    }

    /// The cursor that was found in the file, or written to it last.
    pub(super) fn cursor(&self) -> Option<&str> {
        self.stored.as_deref()
    }

    /// Whether enough time has passed since the last write.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.written.is_none_or(|written| now.saturating_duration_since(written) >= WRITE_EVERY)
    }

    /// Replaces the file by one with `cursor`, so that a reader sees the old or the new one, whole.
    pub(super) fn write(&mut self, cursor: &str, now: Instant) -> Result<(), String> {
        if self.stored.as_deref() == Some(cursor) {
            return Ok(());
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".tmp");
        let replace = || {
            let mut file = File::create(&temporary)?;
            file.write_all(format!("{cursor}\n").as_bytes())?;
            // Without it a crash of the machine may leave an empty file under the new name.
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        replace().map_err(|error: io::Error| format!("cannot write {}: {error}", self.path.display()))?;
        self.stored = Some(cursor.to_owned());
        self.written = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("tidewire-cursor-{}-{name}", std::process::id()))
    }

    #[test]
    fn keeps_a_cursor_from_run_to_run() {
        let path = path("kept");
        let mut file = CursorFile::open(path.clone()).expect("no file yet");
        assert_eq!(file.cursor(), None);
        let now = Instant::now();
        assert!(file.is_due(now));
        file.write("e-1.f-2", now).expect("writable");
        assert!(!file.is_due(now + WRITE_EVERY / 2));
        assert!(file.is_due(now + WRITE_EVERY));
        assert_eq!(CursorFile::open(path.clone()).expect("a cursor").cursor(), Some("e-1.f-2"));
        fs::remove_file(path).expect("was written");
    }

    #[test]
    fn refuses_a_file_that_holds_something_else() {
        let path = path("other");
        fs::write(&path, "not a cursor").expect("writable");
        assert!(CursorFile::open(path.clone()).expect_err("no cursor").contains("holds no cursor"));
        fs::write(&path, "").expect("writable");
        assert_eq!(CursorFile::open(path.clone()).expect("empty").cursor(), None);
        fs::remove_file(path).expect("was written");
    }
}
