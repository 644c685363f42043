//! Random operations on a real server, out of a seed, compared with a small model of what must be true. Speaks
//! the wire only. [`reference`] is the model, [`world`] compares, [`story`] tells what happens.

pub mod flight;
pub mod reader;
pub mod reference;
pub mod story;
pub mod world;

/// How many rounds to play: `TIDEWIRE_MODEL_ROUNDS`, else 12.
pub fn rounds() -> usize {
    std::env::var("TIDEWIRE_MODEL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12)
}
