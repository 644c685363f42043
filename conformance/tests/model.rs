//! Random publishes, retries, subscribers, snapshots, deletions, restarts and kills, compared with a model that
//! fits on a page. `TIDEWIRE_MODEL_ROUNDS` sets how many rounds; the seed is printed, and `TIDEWIRE_SEED` repeats
//! the first.

use std::time::Instant;

use tidewire_conformance::model::{rounds, story};
use tidewire_conformance::random::{self, Random};

#[test]
fn whatever_happens_is_what_the_model_says() {
    let mut seed = random::seed();
    for round in 1..=rounds() {
        let begun = Instant::now();
        println!("round {round}: TIDEWIRE_SEED={seed}");
        story::play(seed).unwrap_or_else(|error| panic!("{error}"));
        println!("round {round} took {:?}", begun.elapsed());
        seed = Random::new(seed).bits();
    }
}
