//! Looks through the store's journals before the store opens them. The store takes whatever it cannot read at
//! a journal's end for a torn write and cuts it off, which is right only if no commit was acknowledged after
//! that point. Must not change anything.
//!
//! The journal's form is that of fjall 3: batches of a start (tag 1, count, number), items (tag 2) and an end
//! (tag 3, xxh3 of the items, trailer). Each of our commits ends with an item that holds the directory's
//! random mark, so that a whole commit is known even where what is before it cannot be read; and the number
//! that the batch has to have, as no checksum covers that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use memchr::memmem;
use xxhash_rust::xxh3::Xxh3;

/// Sixteen random bytes that no event can hold but by knowing them.
pub(super) type Mark = [u8; 16];

const TRAILER: &[u8] = &[b'F', b'J', b'L', 3];
/// What follows the mark: the commit's number, and the store's own before it.
const NUMBERS_BYTES: usize = 8 + 8;
/// How much further the store's number may be than it was just before: it numbers its own work too. What is
/// within that, and still between its neighbours', does no harm.
const NUMBER_STEP: u64 = 1024;
/// The end of a batch: tag, checksum, trailer.
const END_BYTES: usize = 1 + 8 + TRAILER.len();

/// A journal holds whole commits that the store would cut off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) file: PathBuf,
    /// Where the batch begins that cannot be read.
    pub(super) position: usize,
}

/// The value of the last item of a commit.
pub(super) fn seal(mark: &Mark, commit: u64, number_before: u64) -> Vec<u8> {
    [&mark[..], &commit.to_le_bytes(), &number_before.to_le_bytes()].concat()
}

/// The commit's number in a seal.
pub(super) fn commit_of(seal: &[u8]) -> Option<u64> {
    seal.get(size_of::<Mark>()..)?.get(..8)?.try_into().ok().map(u64::from_le_bytes)
}

/// Checks all journals in the store's directory.
///
/// # Errors
/// If a file cannot be read at all.
pub(super) fn check(directory: &Path, mark: &Mark) -> io::Result<Option<Damage>> {
    if !directory.exists() {
        return Ok(None);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(|file| file.as_ref().is_ok_and(|file| file.extension().is_some_and(|ext| ext == "jnl")))
        .collect::<io::Result<_>>()?;
    // They are numbered.
    files.sort_by_key(|file| file.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()));
    let mut newest = 0;
    for file in files {
        if let Some(position) = damage(&fs::read(&file)?, mark, &mut newest) {
            return Ok(Some(Damage { file, position }));
        }
    }
    Ok(None)
}

/// Where the first unreadable batch begins, if whole commits are in or after it. `newest` is the store's number
/// of the batch before.
fn damage(journal: &[u8], mark: &Mark, newest: &mut u64) -> Option<usize> {
    let mut position = 0;
    while let Some(length) = batch_length(&journal[position..], mark, newest) {
        position += length;
    }
    let rest = &journal[position..];
    let is_whole = |at: usize| {
        // The batch's end follows. A torn one has zeros there, or nothing.
        rest.get(at + mark.len() + NUMBERS_BYTES + END_BYTES - 1).is_some_and(|last| *last != 0)
    };
    memmem::find_iter(rest, mark).any(is_whole).then_some(position)
}

/// The length of the whole and sound batch at the beginning of `bytes`.
fn batch_length(bytes: &[u8], mark: &Mark, newest: &mut u64) -> Option<usize> {
    let mut rest = bytes;
    if take(&mut rest, 1)? != [1] {
        return None;
    }
    let items = number(take(&mut rest, 4)?);
    let batch_number = number(take(&mut rest, 8)?) as u64;
    let mut checksum = Xxh3::new();
    let mut last: &[u8] = &[];
    for _ in 0..items {
        let item = rest;
        match take(&mut rest, 1)? {
            [2] => last = take_item(&mut rest)?,
            [4] => take(&mut rest, 8).map(|_| ())?,
            _ => return None,
        }
        checksum.update(&item[..item.len() - rest.len()]);
    }
    let is_end = take(&mut rest, 1)? == [3]
        && take(&mut rest, 8)? == checksum.digest().to_le_bytes()
        && take(&mut rest, TRAILER.len())? == TRAILER;
    // Batches that are not ours have no seal.
    let is_in_step = last.strip_prefix(mark).is_none_or(|numbers| {
        let before = number(numbers.get(8..).unwrap_or_default()) as u64;
        (before..before + NUMBER_STEP).contains(&batch_number)
    });
    if !is_end || !is_in_step || (batch_number <= *newest && *newest != 0) {
        return None;
    }
    *newest = batch_number;
    Some(bytes.len() - rest.len())
}

/// An item after its tag: kind, compression, keyspace, the lengths of key, value and stored value, and both.
/// Gives the value.
fn take_item<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    take(rest, 1 + 1 + 8)?;
    let key = number(take(rest, 2)?);
    take(rest, 4)?;
    let value = number(take(rest, 4)?);
    take(rest, key)?;
    take(rest, value)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    use super::*;

    const MARK: Mark = *b"sixteen  letters";

    /// The journal of a store with three commits of ours, and where each ends.
    fn journal() -> (Vec<u8>, Vec<usize>) {
        let home = tempfile::tempdir().expect("a directory");
        let database = Database::builder(home.path()).open().expect("a store");
        let keyspace = database.keyspace("a", KeyspaceCreateOptions::default).expect("a keyspace");
        for number in 0_u64..3 {
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            batch.insert(&keyspace, number.to_be_bytes(), vec![b'x'; 40 + number as usize]);
            batch.remove(&keyspace, "gone");
            batch.insert(&keyspace, "commit", seal(&MARK, number, database.snapshot().seqno()));
            batch.commit().expect("committed");
        }
        let mut bytes = std::fs::read(home.path().join("0.jnl")).expect("a journal");
        let (mut ends, mut position, mut newest) = (Vec::new(), 0, 0);
        while let Some(length) = batch_length(&bytes[position..], &MARK, &mut newest) {
            position += length;
            ends.push(position);
        }
        bytes.truncate(position + 4096);
        (bytes, ends)
    }

    #[test]
    fn a_sound_journal_is_read_to_its_end() {
        let (bytes, ends) = journal();
        assert_eq!(ends.len(), 3, "the store writes its journal in another form than is read here");
        assert!(bytes[ends[2]..].iter().all(|byte| *byte == 0), "something is left over");
        assert_eq!(damage(&bytes, &MARK, &mut 0), None);
    }

    #[test]
    fn every_flipped_bit_of_a_commit_is_found() {
        let (mut bytes, ends) = journal();
        let last_mark = ends[2] - END_BYTES - NUMBERS_BYTES - MARK.len();
        for bit in 0..ends[2] * 8 {
            let position = bit / 8;
            bytes[position] ^= 1 << (bit % 8);
            let begin = ends.iter().rev().find(|end| **end <= position).copied().unwrap_or(0);
            match damage(&bytes, &MARK, &mut 0) {
                // A number that is too high is found out by the next one.
                Some(found) => assert!(found == begin || ends.contains(&found), "bit {bit}: {found}"),
                None => {
                    // The store itself refuses the last commit for its checksum; and a number that is somewhat
                    // higher than it was, with none after it, changes nothing.
                    let in_mark = (last_mark..last_mark + MARK.len()).contains(&position);
                    let in_number = (ends[1] + 5..ends[1] + 7).contains(&position);
                    assert!(in_mark || in_number, "bit {bit} was not found");
                }
            }
            bytes[position] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_torn_end_is_no_damage() {
        let (bytes, ends) = journal();
        for length in ends[1]..ends[2] {
            assert_eq!(damage(&bytes[..length], &MARK, &mut 0), None, "cut at {length}");
            // The file's room is reserved ahead, so that what was not written reads as zeros.
            let mut torn = bytes.clone();
            torn[length..ends[2]].fill(0);
            if torn != bytes {
                assert_eq!(damage(&torn, &MARK, &mut 0), None, "zeros from {length}");
            }
        }
    }
}
