//! Probe: how many requests the path serves at once. Must come first, as it says what the others may do.

use std::thread;
use std::time::{Duration, Instant};

use super::faults::Fault;
use super::line::{Answer, Line, Request, Trouble};
use super::record::Way;
use super::visit::{Visit, describe, page};

/// How long each request is held.
const HOLD: Duration = Duration::from_secs(1);
/// An answer that took so much longer than the quickest waited for another's.
const QUEUED: Duration = Duration::from_millis(800);
/// The most answers that are waited for, one after the other.
const QUEUE_MAX: usize = 10;

/// What became of requests that were held at once.
#[derive(Debug, Default)]
struct Outcome {
    served: usize,
    queued: usize,
    refused: usize,
    /// What one that was refused was told.
    told: Option<String>,
    slowest: Duration,
}

/// Holds `count` long polls at the same time.
pub(super) fn examine(visit: &mut Visit, count: usize) {
    if visit.start.is_none() {
        return visit.record.skip("connection limits", "long polls of the channel are not allowed");
    }
    let first = hold(visit, count);
    if first.served == count {
        return;
    }
    // Once more, as a busy machine may have been slow for a moment.
    let second = hold(visit, count);
    let outcome = if second.served > first.served { second } else { first };
    let Outcome { served, queued, refused, told, slowest } = outcome;
    if served == count {
        return;
    }
    if served == 0 {
        let why = format!("not one of {count} long polls was answered ({})", told.unwrap_or_default());
        return visit.record.skip("connection limits", why);
    }
    visit.room = Some(served);
    let mut observed = format!(
        "of {count} long polls that asked to be held for {} s at once, {served} had their answer in time",
        HOLD.as_secs()
    );
    if refused > 0 {
        observed.push_str(&format!(", {refused} had none ({})", told.unwrap_or_default()));
    }
    if queued > 0 {
        let slowest = slowest.as_secs_f64();
        observed.push_str(&format!(", {queued} waited for others (the last took {slowest:.1} s)"));
    }
    visit.record.find(Fault::ConnectionLimit, Way::All, observed);
}

fn hold(visit: &mut Visit, count: usize) -> Outcome {
    let paths: Vec<String> = (0..count)
        .map(|_| {
            let limit = visit.fresh_limit();
            visit.events(&format!("since=latest&wait={}&limit={limit}", HOLD.as_secs()))
        })
        .collect();
    let endpoint = &visit.endpoint;
    let began = Instant::now();
    let deadline = began + HOLD.mul_f64(count.min(QUEUE_MAX) as f64) + Duration::from_secs(2);
    let ask = |path: &str| {
        let request = Request { method: "GET", path, ..Request::default() };
        let answer = Line::ask(endpoint, &request).and_then(|mut line| line.answer(deadline));
        (answer, began.elapsed())
    };
    let answers: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = paths.iter().map(|path| scope.spawn(|| ask(path))).collect();
        asking.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    judge(answers)
}

/// Sorts the answers, each with how long it took.
fn judge(answers: Vec<(Result<Answer, Trouble>, Duration)>) -> Outcome {
    let quickest = answers.iter().filter(|(answer, _)| answer.is_ok()).map(|(_, took)| *took);
    // What was refused came sooner, and what was held took its time at least.
    let queued = quickest.filter(|took| *took >= HOLD).min().unwrap_or(HOLD) + QUEUED;
    let mut outcome = Outcome::default();
    for (answer, took) in answers {
        let failure = match &answer {
            Ok(answer) => page(answer).err().map(|_| describe(answer)),
            Err(trouble) => Some(trouble.to_string()),
        };
        match failure {
            None if took < queued => outcome.served += 1,
            None => outcome.queued += 1,
            Some(told) => {
                outcome.refused += 1;
                outcome.told = Some(told);
            }
        }
        outcome.slowest = outcome.slowest.max(took);
    }
    outcome
}
