//! Looks at the store's lists of its files before the store does: it believes whatever they say, up to reserving
//! memory for billions of files, and begins anew where they are missing. Each list's checksum is beside it. Must
//! not change anything.
//!
//! The form is that of lsm-tree 3: `keyspaces/N/current` holds the number of the list (8), its xxh3 of 128 bits
//! (16) and a zero; the list is `keyspaces/N/vNUMBER`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

/// The first file that is not what its checksum says.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn check(store: &Path) -> io::Result<Option<PathBuf>> {
    let keyspaces = store.join("keyspaces");
    if !keyspaces.exists() {
        return Ok(None);
    }
    for entry in fs::read_dir(keyspaces)? {
        let keyspace = entry?.path();
        let current = keyspace.join("current");
        let pointer = match fs::read(&current) {
            Ok(pointer) => pointer,
            // A keyspace in the making has none yet; the store knows which must have one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let Some((number, checksum)) = parse(&pointer) else { return Ok(Some(current)) };
        let list = keyspace.join(format!("v{number}"));
        match fs::read(&list) {
            Ok(bytes) if xxh3_128(&bytes) == checksum => {}
            Ok(_) => return Ok(Some(list)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(current)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A file without which the store, which has so many keyspaces besides its own, would quietly begin anew.
///
/// # Errors
/// If a directory cannot be read.
pub(super) fn missing(store: &Path, keyspaces: usize) -> io::Result<Option<PathBuf>> {
    for number in 0..=keyspaces {
        let current = store.join("keyspaces").join(number.to_string()).join("current");
        if !current.exists() {
            return Ok(Some(current));
        }
    }
    // Old journals go, oldest first; between those that are there is no hole.
    let mut journals: Vec<u64> = fs::read_dir(store)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".jnl")?.parse().ok())
        .collect();
    journals.sort_unstable();
    let hole = journals.windows(2).find(|pair| pair[1] != pair[0] + 1).map(|pair| pair[0] + 1);
    let lost = if journals.is_empty() { Some(0) } else { hole };
    Ok(lost.map(|number| store.join(format!("{number}.jnl"))))
}

fn parse(pointer: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = pointer.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<16>()?;
    (rest == [0]).then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*checksum)))
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions};

    use super::*;

    #[test]
    fn every_flipped_bit_of_a_list_is_found() {
        let home = tempfile::tempdir().expect("a directory");
        let database = Database::builder(home.path()).open().expect("a store");
        let keyspace = database.keyspace("a", KeyspaceCreateOptions::default).expect("a keyspace");
        keyspace.insert("a", "b").expect("written");
        keyspace.rotate_memtable_and_wait().expect("a file");
        drop((keyspace, database));
        assert_eq!(check(home.path()).expect("readable"), None, "the store's lists have another form");
        let folder = home.path().join("keyspaces/1");
        let pointer = fs::read(folder.join("current")).expect("a pointer");
        let (number, _) = parse(&pointer).expect("a pointer");
        for file in ["current".to_owned(), format!("v{number}")] {
            let path = folder.join(file);
            let sound = fs::read(&path).expect("a file");
            for bit in 0..sound.len() * 8 {
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &bytes).expect("written");
                assert!(check(home.path()).expect("readable").is_some(), "{}: bit {bit}", path.display());
            }
            fs::write(&path, &sound).expect("written");
        }
    }
}
