//! Any text as an id or cursor: one spelling for each, and positions only for what it names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewire_core::{Epoch, EventId, Since};

fuzz_target!(|text: &str| {
    if let Some(id) = EventId::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(Since::Cursor(cursor)) = Since::parse(text) {
        let ids: Vec<EventId> =
            text.split('.').map(|token| EventId::parse(token).expect("a part is an id")).collect();
        assert!(ids.len() <= 100);
        let epochs: Vec<Epoch> = ids.iter().map(|id| id.epoch).collect();
        assert!(cursor.is_within(&epochs));
        for id in ids {
            assert_eq!(cursor.offset_in(id.epoch), Some(id.offset));
        }
    }
});
