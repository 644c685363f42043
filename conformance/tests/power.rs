//! The power is cut: only what was synced is left, and of the rest whatever the kernel had written by itself. Each
//! acknowledged event, and each that a subscriber saw, must have been synced before. Kills alone cannot show
//! that, as the kernel keeps what a dead process has written.
//! `TIDEWIRE_KILLS` sets how often (12); the seed is printed, and `TIDEWIRE_SEED` repeats it.

use tidewire_conformance::durable::crew::{Crew, KEEP_ALL, kills};
use tidewire_conformance::durable::fault::{Disk, Fault};
use tidewire_conformance::random::Random;

type Outcome = Result<(), String>;

fn cut_again_and_again(name: &str, cuts: usize, fault: Option<Fault>, random: &mut Random) -> Outcome {
    let disk = Disk::with_platter(name)?;
    let mut crew = Crew::start("cut", random)?;
    let outcome = rounds(&mut crew, &disk, cuts, fault, random);
    crew.end(outcome)
}

fn rounds(crew: &mut Crew, disk: &Disk, cuts: usize, fault: Option<Fault>, random: &mut Random) -> Outcome {
    let launch = disk.launch(KEEP_ALL);
    let mut lost = 0;
    for number in 1..=cuts {
        let mut server = launch.serve().map_err(|error| format!("start {number}: {error}"))?;
        crew.place.up(&server.url);
        if let Some(fault) = fault {
            crew.wait_for_more(1)?;
            disk.fail(fault)?;
            crew.wait_for_more(20)?;
        }
        crew.live(random)?;
        crew.place.down();
        server.kill();
        if fault.is_some() {
            disk.recover()?;
        }
        lost += disk.cut_power(random)?;
    }
    let mut server = launch.serve()?;
    crew.place.up(&server.url);
    let log = crew.finish(&server)?;
    println!("{} events, {cuts} cuts, {lost} bytes lost", log.len());
    server.stop()?;
    if disk.has_recorded()? { Ok(()) } else { Err("no sync was seen, so nothing was tested".to_owned()) }
}

#[test]
fn what_was_acknowledged_or_seen_survives_power_cuts() -> Outcome {
    let mut random = Random::from_environment("power");
    cut_again_and_again("power", kills(), None, &mut random)
}

/// What cannot fail checks nothing: with a disk that only says that it synced, events must be missing.
#[test]
fn a_disk_that_lies_is_noticed() -> Outcome {
    let mut random = Random::from_environment("lies");
    match cut_again_and_again("lies", 6, Some(Fault::SyncLies), &mut random) {
        Err(error)
            if ["not in the log", "gap", "was ", "follows", "in the log as"]
                .iter()
                .any(|word| error.contains(word)) =>
        {
            Ok(())
        }
        other => Err(format!("expected loss to be noticed, got {other:?}")),
    }
}

/// After a failed sync the kernel counts as clean what it could not write, so a later sync says nothing of it.
/// Whatever is acknowledged later must not stand behind it in the same file.
#[test]
fn what_is_acknowledged_after_failed_syncs_survives_a_power_cut() -> Outcome {
    let mut random = Random::from_environment("failed syncs");
    let disk = Disk::with_platter("failed-syncs")?;
    let mut crew = Crew::start("failed", &mut random)?;
    let outcome = failing_rounds(&mut crew, &disk, &mut random);
    crew.end(outcome)
}

fn failing_rounds(crew: &mut Crew, disk: &Disk, random: &mut Random) -> Outcome {
    let launch = disk.launch(KEEP_ALL);
    for _ in 0..6 {
        let mut server = launch.serve()?;
        crew.place.up(&server.url);
        crew.wait_for_more(20)?;
        disk.fail(Fault::SyncFails)?;
        disk.wait_for_hit()?;
        let refused = |crew: &Crew| crew.ledger.refusals().values().sum::<usize>();
        let goal = refused(crew) + 1 + random.below(20);
        crew.wait_for("publishers are refused", || refused(crew) >= goal)?;
        disk.recover()?;
        crew.wait_for_more(20)?;
        crew.place.down();
        server.kill();
        disk.cut_power(random)?;
    }
    let server = launch.serve()?;
    crew.place.up(&server.url);
    crew.finish(&server).map(drop)
}
