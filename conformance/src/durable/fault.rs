//! A disk that fails on demand, for one server: the shim `faults/fault.c`, compiled once, and its control file.
//! Must not know what the server does about it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::launch::Launch;
use crate::random::Random;
use crate::scratch::{self, Scratch};
use crate::{Result, server};

/// What the disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It takes nothing more.
    Full,
    /// It takes a part of what is written, then nothing.
    Short,
    /// Writing fails.
    WriteFails,
    /// Syncing fails, and forgets what it was to sync.
    SyncFails,
    /// Syncing does not end.
    SyncHangs,
    /// Syncing does nothing and says that all is well.
    SyncLies,
}

/// A directory for data, and the power over its disk.
#[derive(Debug)]
pub struct Disk {
    scratch: Scratch,
    library: PathBuf,
    /// With a record of what was synced.
    platter: bool,
}

impl Disk {
    /// A disk that is well.
    ///
    /// # Errors
    /// When the shim cannot be compiled.
    pub fn new(name: &str) -> Result<Self> {
        static LIBRARY: OnceLock<Result<PathBuf>> = OnceLock::new();
        let library = LIBRARY.get_or_init(compile).clone()?;
        Ok(Self { scratch: Scratch::new(name)?, library, platter: false })
    }

    /// A disk that can lose its power.
    ///
    /// # Errors
    /// When the shim cannot be compiled.
    pub fn with_platter(name: &str) -> Result<Self> {
        let disk = Self { platter: true, ..Self::new(name)? };
        std::fs::create_dir_all(disk.platter()).map_err(|error| error.to_string())?;
        Ok(disk)
    }

    /// The directory for data.
    pub fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    fn platter(&self) -> PathBuf {
        self.scratch.join("platter")
    }

    fn control(&self) -> PathBuf {
        self.scratch.join("control")
    }

    fn hit(&self) -> PathBuf {
        self.scratch.join("control.hit")
    }

    /// Starts servers on this disk.
    pub fn launch(&self, config: &str) -> Launch {
        let launch = Launch::on(&self.data())
            .config(config)
            .environment("LD_PRELOAD", &self.library)
            .environment("TIDEWIRE_FAULT_DIR", self.data())
            .environment("TIDEWIRE_FAULT_CONTROL", self.control());
        if self.platter { launch.environment("TIDEWIRE_FAULT_PLATTER", self.platter()) } else { launch }
    }

    /// From now on it fails.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn fail(&self, fault: Fault) -> Result<()> {
        let word = match fault {
            Fault::Full => "full",
            Fault::Short => "short",
            Fault::WriteFails => "write-fails",
            Fault::SyncFails => "sync-fails",
            Fault::SyncHangs => "sync-hangs",
            Fault::SyncLies => "sync-lies",
        };
        let _ = std::fs::remove_file(self.hit());
        // In one step: a shim that finds the file must find the whole word.
        let whole = self.scratch.join("control.new");
        scratch::write(&whole, word)?;
        std::fs::rename(whole, self.control()).map_err(|error| error.to_string())
    }

    /// It is well again.
    ///
    /// # Errors
    /// When the control file cannot be removed.
    pub fn recover(&self) -> Result<()> {
        std::fs::remove_file(self.control()).map_err(|error| error.to_string())
    }

    /// Waits until the server has met the fault. If it never does, the test would test nothing.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_hit(&self) -> Result<()> {
        server::wait_until("the server meets the fault", Duration::from_secs(20), || self.hit().exists())
    }

    /// Whether any sync was seen.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn has_recorded(&self) -> Result<bool> {
        let files = scratch::files(&self.platter())?;
        Ok(files
            .iter()
            .any(|file| std::fs::metadata(self.platter().join(file)).is_ok_and(|meta| meta.len() > 0)))
    }

    /// What a power cut leaves, now that the server is dead: what was synced, and of the rest of each file a
    /// random beginning, as a kernel writes by itself whenever it likes. New files whose directory was not synced
    /// may be gone. Returns how many bytes are.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn cut_power(&self, random: &mut Random) -> Result<usize> {
        let data = self.data();
        let mut lost = 0;
        for file in scratch::files(&data)? {
            let path = data.join(&file);
            let cached = scratch::read(&path)?;
            if !self.is_named(&path)? && random.below(2) == 0 {
                lost += cached.len();
                std::fs::remove_file(&path).map_err(|error| error.to_string())?;
                continue;
            }
            let mut bytes = std::fs::read(self.shadow(&path)?).unwrap_or_default();
            if cached.len() > bytes.len() && random.below(2) == 0 {
                let end = bytes.len() + random.below(cached.len() - bytes.len() + 1);
                bytes.extend_from_slice(&cached[bytes.len()..end]);
            }
            lost += cached.len().saturating_sub(bytes.len());
            scratch::write(&path, &bytes)?;
        }
        self.begin_anew()?;
        Ok(lost)
    }

    /// All that is there now is on the disk.
    fn begin_anew(&self) -> Result<()> {
        let (data, platter) = (self.data(), self.platter());
        let _ = std::fs::remove_dir_all(&platter);
        std::fs::create_dir_all(&platter).map_err(|error| error.to_string())?;
        let mut names: BTreeMap<PathBuf, String> = BTreeMap::new();
        for file in scratch::files(&data)? {
            let path = data.join(&file);
            scratch::write(&self.shadow(&path)?, scratch::read(&path)?)?;
            let (directory, name) = parts(&path);
            names.entry(directory).or_default().push_str(&format!("{name}\n"));
        }
        names.iter().try_for_each(|(directory, names)| scratch::write(&self.shadow(directory)?, names))
    }

    fn is_named(&self, path: &Path) -> Result<bool> {
        let (directory, name) = parts(path);
        let names = std::fs::read_to_string(self.shadow(&directory)?).unwrap_or_default();
        Ok(names.lines().any(|other| other == name))
    }

    /// Where the platter has a file or directory.
    fn shadow(&self, path: &Path) -> Result<PathBuf> {
        let inode = std::fs::metadata(path).map_err(|error| error.to_string())?.ino();
        Ok(self.platter().join(inode.to_string()))
    }
}

fn parts(path: &Path) -> (PathBuf, String) {
    let directory = path.parent().unwrap_or(path).to_owned();
    (directory, path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn compile() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/fault.c");
    let library = server::target()?.join("fault.so");
    // Another test may have it loaded: it keeps its own.
    let fresh = library.with_extension(format!("{}", std::process::id()));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&fresh, &source])
        .args(["-ldl", "-lpthread"])
        .output()
        .map_err(|error| format!("cannot run cc: {error}"))?;
    if !compiled.status.success() {
        return Err(format!("cc: {}", String::from_utf8_lossy(&compiled.stderr)));
    }
    std::fs::rename(fresh, &library).map_err(|error| error.to_string())?;
    Ok(library)
}
