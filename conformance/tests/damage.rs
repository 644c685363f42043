//! Damaged files: a server does not start, or says that it cannot read; it never serves other data, and never hides
//! that something is missing. A write that a crash cut short is no damage.
//! `TIDEWIRE_DAMAGES` sets how many places are tried (40); the seed is printed, and `TIDEWIRE_SEED` repeats it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidewire_conformance::durable::body::Body;
use tidewire_conformance::durable::history::read_all;
use tidewire_conformance::durable::publish::{PATIENCE, post};
use tidewire_conformance::durable::sample::{CHANNELS, Sample, Verdict};
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::random::Random;
use tidewire_conformance::scratch;

type Outcome = Result<(), String>;

const EVENTS: usize = 240;

fn damages() -> usize {
    std::env::var("TIDEWIRE_DAMAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(40)
}

/// Where files are most delicate is tried most: at their beginning, and at their end.
fn place(length: usize, random: &mut Random) -> usize {
    match random.below(3) {
        0 => random.below(length.min(64)),
        1 => length - 1 - random.below(length.min(256)),
        _ => random.below(length),
    }
}

/// Damages copies of a sample, one after another; `allowed` says which verdicts are right for a file.
fn damage(
    stop: bool,
    what: &str,
    change: impl Fn(&mut Vec<u8>, &[usize], &mut Random) -> String,
    allowed: impl Fn(bool) -> &'static [Verdict],
) -> Outcome {
    let mut random = Random::from_environment(what);
    let sample = Sample::new(EVENTS, stop, &mut random)?;
    let (files, newest) = (sample.files()?, sample.newest()?);
    let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for number in 0..damages() {
        let file = &files[random.below(files.len())];
        let copy = sample.copy()?;
        let mut bytes = scratch::read(&copy.join(file))?;
        let ends = sample.ends.get(file).map(Vec::as_slice).unwrap_or_default();
        let done = change(&mut bytes, ends, &mut random);
        scratch::write(&copy.join(file), bytes)?;
        let verdict = sample.judge(&copy, file);
        match &verdict {
            Ok(verdict) if allowed(newest.contains(file)).contains(verdict) => {
                *verdicts.entry(format!("{verdict:?}")).or_default() += 1;
            }
            other => wrong.push(format!("damage {number}, {done} of {}: {other:?}", file.display())),
        }
    }
    println!("{what}: {verdicts:?} in {files:?}, newest {newest:?}");
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {} wrong:\n{}", wrong.len(), damages(), wrong.join("\n")))
    }
}

fn flip(bytes: &mut [u8], random: &mut Random) -> String {
    let (place, bit) = (place(bytes.len(), random), random.below(8));
    bytes[place] ^= 1 << bit;
    format!("bit {bit} of byte {place} in {}", bytes.len())
}

/// What a disk returns for a block that it has lost.
fn zero(bytes: &mut [u8], random: &mut Random) -> String {
    let start = place(bytes.len(), random) / 512 * 512;
    let end = (start + 512).min(bytes.len());
    bytes[start..end].fill(0);
    format!("zeros from {start} to {end} in {}", bytes.len())
}

/// Every second time where an event ends: nothing half is left that could give it away.
fn cut(bytes: &mut Vec<u8>, ends: &[usize], random: &mut Random) -> String {
    let length = bytes.len();
    let ends: Vec<_> = ends.iter().copied().filter(|end| *end < length).collect();
    let place = match ends.len() {
        0 => place(length, random),
        _ if random.below(2) == 0 => place(length, random),
        count => ends[random.below(count)],
    };
    bytes.truncate(place);
    format!("cut at {place} in {length}")
}

const LOUD: &[Verdict] = &[Verdict::Refused, Verdict::Error, Verdict::Whole];
/// The end of the newest journal may be missing as if it had never been written: nothing else could know of it.
const LOUD_OR_LESS: &[Verdict] = &[Verdict::Refused, Verdict::Error, Verdict::Whole, Verdict::Less];

#[test]
fn a_flipped_bit_after_a_stop_is_never_served() -> Outcome {
    damage(true, "flips after a stop", |bytes, _, random| flip(bytes, random), |_| LOUD)
}

#[test]
fn a_flipped_bit_after_a_kill_is_never_served() -> Outcome {
    damage(false, "flips after a kill", |bytes, _, random| flip(bytes, random), |_| LOUD)
}

#[test]
fn a_lost_block_is_never_served() -> Outcome {
    damage(
        false,
        "zeros",
        |bytes, _, random| zero(bytes, random),
        |newest| if newest { LOUD_OR_LESS } else { LOUD },
    )
}

#[test]
fn a_file_cut_short_hides_nothing_but_its_end() -> Outcome {
    damage(false, "cuts after a kill", cut, |newest| if newest { LOUD_OR_LESS } else { LOUD })?;
    damage(true, "cuts after a stop", cut, |newest| if newest { LOUD_OR_LESS } else { LOUD })
}

/// The newest journal before and after the last event, and where they begin to differ.
fn last_write(sample: &Sample) -> Result<(PathBuf, Vec<u8>, Vec<u8>, usize), String> {
    let newest = sample.newest()?;
    let [file] = &newest[..] else { return Err(format!("the last publish changed {newest:?}")) };
    let old = std::fs::read(sample.before().join(file)).unwrap_or_default();
    let new = scratch::read(&sample.data().join(file))?;
    let first = old.iter().zip(&new).position(|(old, new)| old != new).unwrap_or(old.len().min(new.len()));
    Ok((file.clone(), old, new, first))
}

/// Files as a crash within the last write leaves them: its beginning, and then what was there before.
#[test]
fn a_torn_tail_is_no_damage() -> Outcome {
    let mut random = Random::from_environment("torn tail");
    let sample = Sample::new(EVENTS, false, &mut random)?;
    let (file, old, new, first) = last_write(&sample)?;
    let places: Vec<_> = match new.len() - first {
        few @ 0..=60 => (0..few).map(|place| first + place).collect(),
        many => (0..60).map(|_| first + random.below(many)).collect(),
    };
    for (number, place) in places.into_iter().enumerate() {
        let mut torn = new[..place].to_vec();
        torn.extend_from_slice(old.get(place..).unwrap_or_default());
        torn_start(&sample, &file, &torn, number).map_err(|error| {
            format!("{} torn at {place} of {first}..{}: {error}", file.display(), new.len())
        })?;
    }
    Ok(())
}

/// A file system that had made a file longer and not yet written what belongs there shows zeros.
#[test]
fn a_tail_of_zeros_is_no_damage() -> Outcome {
    let mut random = Random::from_environment("tail of zeros");
    let sample = Sample::new(EVENTS, false, &mut random)?;
    let (file, old, new, first) = last_write(&sample)?;
    for (number, length) in [1, 3, 8, 100, 4096, new.len() - first].into_iter().enumerate() {
        let mut torn = new[..first].to_vec();
        torn.extend(vec![0; length]);
        torn.extend_from_slice(old.get(torn.len()..).unwrap_or_default());
        torn_start(&sample, &file, &torn, number)
            .map_err(|error| format!("{length} zeros in {} from {first}: {error}", file.display()))?;
    }
    Ok(())
}

fn torn_start(sample: &Sample, file: &Path, torn: &[u8], number: usize) -> Outcome {
    let copy: PathBuf = sample.copy()?;
    scratch::write(&copy.join(file), torn)?;
    let verdict = sample.judge(&copy, file)?;
    if !matches!(verdict, Verdict::Less | Verdict::Whole) {
        return Err(format!("{verdict:?}"));
    }
    let mut server = Launch::on(&copy).config(sample.config).serve()?;
    let total: usize = sample.logs.iter().map(Vec::len).sum();
    let count = |url: &str| -> Result<usize, String> {
        CHANNELS.iter().map(|channel| Ok(read_all(url, channel)?.len())).sum()
    };
    let there = count(&server.url)?;
    if there + 1 < total {
        return Err(format!("{there} events of {total}, where only the last was torn"));
    }
    // What is written behind a torn tail must be found behind it again.
    let body = Body::json(99, number, "");
    let id = post(&http::agent(PATIENCE), &server.url, CHANNELS[0], &body, None)?.fresh()?;
    server.kill();
    server = Launch::on(&copy).config(sample.config).serve()?;
    let log = read_all(&server.url, CHANNELS[0])?;
    let last = log.last().map(|logged| (&logged.id, &logged.mark));
    if last != Some((&id, &body.mark())) || count(&server.url)? != there + 1 {
        return Err(format!("published {id} after it, then the log ends with {last:?}"));
    }
    Ok(())
}

/// What cannot fail checks nothing: a directory that says something else must be found out.
#[test]
fn another_log_is_noticed() -> Outcome {
    let mut random = Random::from_environment("another log");
    let mut sample = Sample::new(40, true, &mut random)?;
    let (data, nothing) = (sample.data(), Path::new("nothing"));
    if sample.judge(&data, nothing)? != Verdict::Whole {
        return Err("an undamaged sample is not whole".to_owned());
    }
    let lost = sample.logs[0].pop().ok_or("no events")?;
    let more = sample.judge(&data, nothing);
    sample.logs[0].push(lost.clone());
    sample.logs[0].push(lost);
    sample.order.push(0);
    let less = sample.judge(&data, nothing);
    sample.logs[0].pop();
    sample.logs[0][1].mark.push('x');
    let other = sample.judge(&data, nothing);
    match (more, less, other) {
        (Err(_), Ok(Verdict::Less), Err(_)) => Ok(()),
        other => Err(format!("expected an error, less and an error, got {other:?}")),
    }
}
