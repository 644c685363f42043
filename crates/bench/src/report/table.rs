//! A report as a text table that is also a Markdown table: median, and the range where it says more.

use super::stats::Summary;
use super::{Column, Report, Series};

pub(super) fn render(report: &Report) -> String {
    let columns: Vec<&Column> = report.columns.iter().filter(|column| is_used(report, column)).collect();
    let mut rows = vec![vec!["target".to_owned()]];
    rows[0].extend(columns.iter().map(|column| column.heading.to_owned()));
    for series in &report.series {
        let mut row = vec![label(series)];
        row.extend(columns.iter().map(|column| cell(series, column)));
        rows.push(row);
    }
    align(&rows)
}

/// A column that no row fills is left out.
fn is_used(report: &Report, column: &Column) -> bool {
    report.series.iter().any(|series| series.samples.contains_key(column.key))
}

fn label(series: &Series) -> String {
    match series.x {
        Some(x) => format!("{}, {x}", series.label),
        None => series.label.clone(),
    }
}

fn cell(series: &Series, column: &Column) -> String {
    let digits = column.digits;
    let Some(summary) = series.samples.get(column.key).and_then(|values| Summary::of(values)) else {
        return "-".to_owned();
    };
    let [low, median, high] =
        [summary.low, summary.median, summary.high].map(|value| format!("{value:.digits$}"));
    if low == high { median } else { format!("{median} ({low}..{high})") }
}

fn align(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, (text, &width)) in row.iter().zip(&widths).enumerate() {
            let padded = if column == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") };
            out.push_str(if column == 0 { "| " } else { " | " });
            out.push_str(&padded);
        }
        out.push_str(" |\n");
        if number == 0 {
            for (column, &width) in widths.iter().enumerate() {
                let rule = "-".repeat(width + 1);
                out.push_str(&if column == 0 { format!("|{rule}-|") } else { format!("{rule}:|") });
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Sample;
    use super::*;

    #[test]
    fn a_row_shows_median_and_range() {
        let columns =
            [Column::new("cpu", "CPU", 1), Column::new("lost", "lost", 0), Column::new("no", "no", 0)];
        let mut report = Report::new("test", &columns, "cpu");
        for cpu in [4.0, 6.0, 5.0] {
            report.add("a", None, &Sample::from([("cpu", cpu), ("lost", 0.0)]));
        }
        report.add("longer", None, &Sample::from([("cpu", 1.25)]));
        let expected = "\
| target |          CPU | lost |
|--------|-------------:|-----:|
| a      | 5.0 (4.0..6.0) |    0 |
";
        let table = render(&report);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2], expected.lines().nth(2).expect("three lines"));
        assert!(lines[3].contains("1.2 |    - |"), "{table}");
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{table}");
    }
}
