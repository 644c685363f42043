//! Directories for a test's data, below the target directory: on a disk rather than in memory, and gone
//! afterwards unless `TIDEWIRE_KEEP` is set. Must not know what is in them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Result, server};

/// A directory that goes when this does.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = server::target()?.join("scratch").join(format!("{name}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(|error| wrong(&path, &error))?;
        Ok(Self(path))
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("TIDEWIRE_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.0);
        } else {
            println!("kept: {}", self.0.display());
        }
    }
}

/// Copies a directory with all that is in it; what was at the target before is gone.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).map_err(|error| wrong(to, &error))?;
    for file in files(from)? {
        let target = to.join(&file);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|error| wrong(parent, &error))?;
        }
        std::fs::copy(from.join(&file), &target).map_err(|error| wrong(&target, &error))?;
    }
    Ok(())
}

/// The files in a directory and those below it, by their paths from there, in order.
///
/// # Errors
/// When it cannot be read.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let place = directory.join(&below);
        for entry in std::fs::read_dir(&place).map_err(|error| wrong(&place, &error))? {
            let entry = entry.map_err(|error| wrong(&place, &error))?;
            let path = below.join(entry.file_name());
            match entry.file_type().map_err(|error| wrong(&place, &error))? {
                kind if kind.is_dir() => open.push(path),
                kind if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A file's bytes.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| wrong(path, &error))
}

/// Replaces a file's bytes.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
