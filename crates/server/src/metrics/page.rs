//! The text of an exposition: Prometheus' format, version 0.0.4. Must not know what is exposed.

use std::fmt::{Display, Write};

use super::histogram::{Histogram, Total};

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// A metric that is being written.
pub(super) struct Family<'p> {
    text: &'p mut String,
    name: &'static str,
}

impl Page {
    /// Begins a counter, whose name ends with `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.family(name, "counter", help)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(!name.ends_with("_total"), "{name}");
        self.family(name, "gauge", help)
    }

    /// Writes one histogram, the sum of those given.
    pub(super) fn histogram<'h>(
        &mut self,
        name: &'static str,
        help: &str,
        parts: impl Iterator<Item = &'h Histogram>,
    ) {
        let mut total = Total::default();
        parts.for_each(|part| total.add(part));
        let family = self.family(name, "histogram", help);
        for (end, count) in total.cumulative() {
            let _ = writeln!(family.text, "{name}_bucket{{le=\"{end}\"}} {count}");
        }
        let _ = writeln!(family.text, "{name}_sum {}\n{name}_count {}", total.sum_seconds(), total.count());
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// The value of a metric without labels.
    pub(super) fn is(self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// The value where a label has a value. Values of labels are the server's own words, which need no escapes.
    pub(super) fn at(&mut self, label: &str, label_value: impl Display, value: impl Display) -> &mut Self {
        let _ = writeln!(self.text, "{}{{{label}=\"{label_value}\"}} {value}", self.name);
        self
    }

    /// As [`Self::at`] for two labels.
    pub(super) fn at_both(&mut self, labels: [(&str, &dyn Display); 2], value: impl Display) {
        let [(first, first_value), (second, second_value)] = labels;
        let name = self.name;
        let _ =
            writeln!(self.text, "{name}{{{first}=\"{first_value}\",{second}=\"{second_value}\"}} {value}");
    }
}
