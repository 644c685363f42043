//! What a configuration says, as settings.

use tidewire_core::limits::Durability;

use super::load::{Sources, read};
use super::*;

fn with(text: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Settings, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let sources = Sources {
        file: Some(("tidewire.toml".into(), text.to_owned())),
        variables: variables.iter().map(owned).collect(),
        ..Sources::of_flags(flags)
    };
    read(&sources).map(|configuration| configuration.settings).map_err(|error| format!("{error:#}"))
}

fn settings(text: &str) -> Result<Settings, String> {
    with(text, &[], &Flags::default())
}

#[test]
fn the_first_fitting_pattern_decides() {
    let text = "[history]\nevents = 5\n[[channels]]\npattern = \"chat:*\"\nhistory.events = 7\n\
                [[channels]]\npattern = \"chat:1\"\nhistory.events = 9";
    let settings = settings(text).expect("right");
    for (channel, events) in [("chat:1", 7), ("chat", 5), ("x", 5)] {
        assert_eq!(settings.policy_of(channel).retention.events, events, "{channel}");
    }
}

#[test]
fn durability_goes_by_pattern() {
    let text = "durability = \"memory\"\n[[channels]]\npattern = \"a:*\"\ndurability = \"disk\"\n\
                [[channels]]\npattern = \"b\"\ndurability = \"none\"";
    let of = |settings: &Settings, channel: &str| settings.policy_of(channel).durability;
    let on_disk = settings(text).expect("right");
    assert_eq!(of(&on_disk, "a:1"), Durability::Disk);
    assert_eq!(of(&on_disk, "b"), Durability::None);
    assert_eq!(of(&on_disk, "c"), Durability::Memory);
    let all = settings("").expect("right");
    assert_eq!((of(&all, "c"), of(&all, "host")), (Durability::Disk, Durability::Memory));
    let flags = Flags { memory: true, ..Flags::default() };
    let in_memory = with("", &[], &flags).expect("right");
    assert_eq!((of(&in_memory, "c"), in_memory.data), (Durability::Memory, None));
    let error = with(text, &[], &flags).expect_err("a contradiction");
    assert!(error.contains("--memory"), "{error}");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, part) in [
        ("colour = 1", "colour"),
        ("[limits]\nevent_bites = 1", "event_bytes"),
        ("[limits]\nevent_bytes = 0", "limits.event_bytes = 0"),
        ("[history]\nevents = 0", "history.events = 0"),
        ("listen = \"0.0.0.0:80\"", "--insecure"),
        ("[[channels]]\npattern = \"a*b\"", "a*b"),
        ("shards = 0", "shards"),
        ("durability = \"paper\"", "paper"),
        ("state = \"all\"", "all"),
        ("[[channels]]\npattern = \"a\"\ndurability = \"\"", "durability"),
        ("[history]\nbytes = 5", "limits.event_bytes"),
    ] {
        let error = settings(text).expect_err(text);
        assert!(error.contains(part), "{text:?} gave {error:?}");
    }
}
