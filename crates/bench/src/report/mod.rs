//! What a run found: samples by target and round, shown as a table, JSON and a plot.
//! Knows no target and no scenario beyond their names.

mod machine;
pub(crate) mod stats;
mod svg;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use machine::Machine;

/// What one measurement gave, by the key of its column.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// Where a report goes besides standard output.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReportOptions {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a plot as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// One column of the table.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Column {
    pub(crate) key: &'static str,
    pub(crate) heading: &'static str,
    /// Digits behind the point.
    pub(crate) digits: usize,
}

impl Column {
    pub(crate) const fn new(key: &'static str, heading: &'static str, digits: usize) -> Column {
        Column { key, heading, digits }
    }
}

/// The samples of one row.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) label: String,
    /// Where it stands on the plot of a sweep.
    pub(crate) x: Option<f64>,
    pub(crate) samples: BTreeMap<&'static str, Vec<f64>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    command: String,
    machine: Machine,
    parameters: Vec<(String, String)>,
    pub(crate) columns: Vec<Column>,
    /// The column that the plot shows.
    pub(crate) plotted: &'static str,
    pub(crate) series: Vec<Series>,
}

impl Report {
    pub(crate) fn new(scenario: &str, columns: &[Column], plotted: &'static str) -> Report {
        Report {
            scenario: scenario.to_owned(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            machine: Machine::this(),
            parameters: Vec::new(),
            columns: columns.to_vec(),
            plotted,
            series: Vec::new(),
        }
    }

    /// Notes a parameter of the run.
    pub(crate) fn parameter(&mut self, name: &str, value: impl ToString) {
        self.parameters.push((name.to_owned(), value.to_string()));
    }

    /// Adds one round's sample to the row of that label (and place in a sweep).
    pub(crate) fn add(&mut self, label: &str, x: Option<f64>, sample: &Sample) {
        let found = self.series.iter().position(|series| series.label == label && series.x == x);
        let at = found.unwrap_or_else(|| {
            self.series.push(Series { label: label.to_owned(), x, samples: BTreeMap::new() });
            self.series.len() - 1
        });
        for (&key, &value) in sample {
            self.series[at].samples.entry(key).or_default().push(value);
        }
    }

    /// The sum of a column over all rows and rounds.
    fn total(&self, key: &str) -> f64 {
        self.series.iter().filter_map(|series| series.samples.get(key)).flatten().sum()
    }

    /// Prints the table and writes what was asked for.
    pub(crate) fn publish(&self, options: &ReportOptions) -> Result<()> {
        println!("{}", self.heading());
        println!("{}", table::render(self));
        for key in ["lost", "repeated", "reordered"] {
            if self.total(key) > 0.0 {
                println!("Attention: {} events were {key}.", self.total(key));
            }
        }
        if let Some(path) = &options.json {
            fs::write(path, serde_json::to_string_pretty(self)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(path) = &options.svg {
            fs::write(path, svg::render(self)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn heading(&self) -> String {
        let parameters: Vec<String> =
            self.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
        format!("{}: {}\n{}\n", self.scenario, parameters.join(", "), self.machine)
    }
}
