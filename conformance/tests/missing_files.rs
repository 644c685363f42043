//! Each file of a data directory is removed in turn, as a copy that was not made whole lacks it: a server does not
//! start without it, or says that it cannot read, or needed it not. Must not know what the files are for.
//! The seed is printed, and `TIDEWIRE_SEED` repeats it.

use tidewire_conformance::durable::sample::{Sample, Verdict};
use tidewire_conformance::random::Random;

const EVENTS: usize = 240;

#[test]
fn a_missing_file_is_noticed() -> Result<(), String> {
    let mut random = Random::from_environment("missing files");
    let sample = Sample::new(EVENTS, false, &mut random)?;
    let mut wrong = Vec::new();
    for file in sample.files()? {
        let copy = sample.copy()?;
        std::fs::remove_file(copy.join(&file)).map_err(|error| error.to_string())?;
        match sample.judge(&copy, &file) {
            Ok(Verdict::Refused | Verdict::Error | Verdict::Whole) => {}
            other => wrong.push(format!("{}: {other:?}", file.display())),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("without\n{}", wrong.join("\n"))) }
}
