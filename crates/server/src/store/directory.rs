//! The data directory: whose it is, of which version, and who has it open. Must not know what is stored.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::journal::Mark;

/// The version of everything below the directory. Raised when an older server could not read it.
const VERSION: u32 = 1;
const VERSION_FILE: &str = "tidewire.version";
const BEGUN_FILE: &str = "tidewire.begun";

/// A data directory that is ours.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) mark: Mark,
}

impl Directory {
    /// Makes the directory if need be, and checks that it is one of this version.
    ///
    /// # Errors
    /// Says what is there instead, or what the system refuses.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let version = path.join(VERSION_FILE);
        match fs::read_to_string(&version) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::begin(path, &version),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", version.display())),
        }
    }

    /// An existing directory, for a look at it.
    ///
    /// # Errors
    /// If it is no data directory of this version.
    pub(super) fn existing(path: &Path) -> anyhow::Result<Self> {
        let version = path.join(VERSION_FILE);
        let text = fs::read_to_string(&version).with_context(|| {
            format!("{} is no data directory: cannot read {VERSION_FILE} in it", path.display())
        })?;
        Self::parse(path, &text)
    }

    /// Whether there was a store once: then what is missing now is lost.
    pub(super) fn is_begun(&self) -> bool {
        self.path.join(BEGUN_FILE).exists()
    }

    /// There is a store now, with all that belongs to it.
    pub(super) fn note_begun(&self) -> io::Result<()> {
        fs::File::create(self.path.join(BEGUN_FILE))?.sync_all()?;
        fs::File::open(&self.path)?.sync_all()
    }

    /// Where the store is.
    pub(super) fn store(&self) -> PathBuf {
        self.path.join("log")
    }

    fn parse(path: &Path, text: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["tidewire", version, mark] = words[..] else {
            bail!("{} in {} is not readable; the directory is damaged", VERSION_FILE, path.display());
        };
        if version != VERSION.to_string() {
            bail!(
                "{} has data of version {version}, and this server knows version {VERSION} only: run the server that \
                 wrote it, or choose another directory with --data",
                path.display()
            );
        }
        let mark = u128::from_str_radix(mark, 16).ok().filter(|_| mark.len() == 32).with_context(|| {
            format!("{VERSION_FILE} in {} is not readable; the directory is damaged", path.display())
        })?;
        Ok(Self { path: path.to_owned(), mark: mark.to_be_bytes() })
    }

    fn begin(path: &Path, version: &Path) -> anyhow::Result<Self> {
        let is_foreign = fs::read_dir(path)?.next().is_some();
        if is_foreign {
            bail!(
                "{} has files in it that are not Tidewire's; choose an empty or a new directory with --data, or \
                 --memory to keep nothing on disk",
                path.display()
            );
        }
        // The keys of a RandomState are random; what they make of a constant is too.
        let half = || u128::from(RandomState::new().hash_one("the mark of this directory"));
        let mark = half() << 64 | half();
        // Renamed into place, so that there never is half a file.
        let draft = path.join("tidewire.draft");
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&draft)?;
            writeln!(file, "tidewire {VERSION} {mark:032x}")?;
            file.sync_all()?;
            fs::rename(&draft, version)?;
            fs::File::open(path)?.sync_all()
        };
        write().with_context(|| format!("cannot write to the data directory {}", path.display()))?;
        Ok(Self { path: path.to_owned(), mark: mark.to_be_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_says_whose_it_is() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("a/b");
        let made = Directory::open(&path).expect("made");
        assert_eq!(Directory::open(&path).expect("opened").mark, made.mark);
        assert_eq!(Directory::existing(&path).expect("opened").mark, made.mark);
        let text = fs::read_to_string(path.join(VERSION_FILE)).expect("a file");
        let refuse = |text: &str, part: &str| {
            fs::write(path.join(VERSION_FILE), text).expect("written");
            let error = Directory::open(&path).expect_err(text).to_string();
            assert!(error.contains(part), "{text:?} gave {error:?}");
        };
        refuse(&text.replacen('1', "2", 1), "version 2");
        refuse("", "damaged");
        refuse(&text[..20], "damaged");
    }

    #[test]
    fn nothing_of_others_is_touched() {
        let home = tempfile::tempdir().expect("a directory");
        fs::write(home.path().join("thesis.txt"), "x").expect("written");
        let error = Directory::open(home.path()).expect_err("foreign").to_string();
        assert!(error.contains("not Tidewire's"), "{error}");
        assert!(Directory::open(&home.path().join("thesis.txt")).is_err(), "a file is no directory");
        assert!(Directory::existing(home.path()).is_err());
    }
}
