//! A report as an SVG plot: bars with their range, or lines over the steps of a sweep.
//! Written by hand; a plot of a dozen values needs no library.

use std::fmt::Write;

use super::stats::Summary;
use super::{Report, Series};

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 240.0;
const BAR_HEIGHT: f64 = 26.0;
const TOP: f64 = 56.0;
const PLOT_HEIGHT: f64 = 320.0;
const COLORS: [&str; 7] = ["#0b7285", "#e8590c", "#5c940d", "#862e9c", "#c92a2a", "#1864ab", "#e67700"];
const BASELINE_COLOR: &str = "#adb5bd";

pub(super) fn render(report: &Report) -> String {
    if report.series.iter().any(|series| series.x.is_some()) { lines(report) } else { bars(report) }
}

fn plotted(report: &Report, series: &Series) -> Option<Summary> {
    series.samples.get(report.plotted).and_then(|values| Summary::of(values))
}

fn is_baseline(label: &str) -> bool {
    label.starts_with("baseline")
}

fn heading(report: &Report) -> &'static str {
    report.columns.iter().find(|column| column.key == report.plotted).map_or("", |column| column.heading)
}

fn open(report: &Report, height: f64) -> String {
    let title = escape(&format!("{}: {}", report.scenario, heading(report)));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"30\" font-size=\"17\">{title}</text>\n"
    )
}

fn bars(report: &Report) -> String {
    let rows: Vec<(&Series, Summary)> =
        report.series.iter().filter_map(|series| Some((series, plotted(report, series)?))).collect();
    let high = rows.iter().map(|row| row.1.high).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABEL_WIDTH - 110.0) / high;
    let mut out = open(report, TOP + BAR_HEIGHT * rows.len() as f64 + 16.0);
    for (number, (series, summary)) in rows.iter().enumerate() {
        let top = TOP + BAR_HEIGHT * number as f64;
        let middle = top + BAR_HEIGHT / 2.0 - 2.0;
        let [low, median, high] =
            [summary.low, summary.median, summary.high].map(|value| LABEL_WIDTH + value * scale);
        let color = if is_baseline(&series.label) { BASELINE_COLOR } else { COLORS[0] };
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL_WIDTH}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{color}\"/>\
             <path d=\"M{low:.1} {middle:.1}H{high:.1}\" stroke=\"#000\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LABEL_WIDTH - 8.0,
            middle + 5.0,
            escape(&series.label),
            median - LABEL_WIDTH,
            BAR_HEIGHT - 5.0,
            high + 8.0,
            middle + 5.0,
            short(summary.median),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn lines(report: &Report) -> String {
    let points: Vec<(&str, f64, Summary)> = report
        .series
        .iter()
        .filter_map(|series| Some((series.label.as_str(), series.x?, plotted(report, series)?)))
        .collect();
    let mut labels: Vec<&str> = points.iter().map(|point| point.0).collect();
    labels.dedup();
    labels.sort_unstable();
    labels.dedup();
    let logs = points.iter().map(|point| point.1.max(1.0).log10());
    let (x_low, x_high) = logs.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    let y_high = points.iter().map(|point| point.2.high).fold(f64::MIN_POSITIVE, f64::max);
    let x_scale = (WIDTH - 320.0) / (x_high - x_low).max(0.1);
    let place = |x: f64, y: f64| {
        (60.0 + (x.max(1.0).log10() - x_low) * x_scale, TOP + PLOT_HEIGHT * (1.0 - y / y_high))
    };
    let mut out = open(report, TOP + PLOT_HEIGHT + 40.0);
    axes(&mut out, &points, place, y_high);
    for (number, label) in labels.iter().enumerate() {
        let color = if is_baseline(label) { BASELINE_COLOR } else { COLORS[number % COLORS.len()] };
        let own = points.iter().filter(|point| point.0 == *label);
        let path: Vec<String> =
            own.map(|point| place(point.1, point.2.median)).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(
            out,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{}</text>",
            path.join("L"),
            WIDTH - 250.0,
            TOP + 18.0 * number as f64,
            escape(label),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn axes(
    out: &mut String,
    points: &[(&str, f64, Summary)],
    place: impl Fn(f64, f64) -> (f64, f64),
    y_high: f64,
) {
    let bottom = TOP + PLOT_HEIGHT;
    for step in 0..=4 {
        let value = y_high * f64::from(step) / 4.0;
        let (_, y) = place(1.0, value);
        let _ = writeln!(
            out,
            "<path d=\"M60 {y:.1}H{:.1}\" stroke=\"#dee2e6\"/><text x=\"52\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - 260.0,
            y + 4.0,
            short(value),
        );
    }
    let mut xs: Vec<f64> = points.iter().map(|point| point.1).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    for x in xs {
        let (left, _) = place(x, 0.0);
        let _ = writeln!(
            out,
            "<text x=\"{left:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>",
            bottom + 20.0
        );
    }
}

/// About three digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 1000.0 => format!("{value:.0}"),
        large if large < 1e6 => format!("{:.0}k", value / 1e3),
        _ => format!("{:.2}M", value / 1e6),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::{Column, Sample};
    use super::*;

    #[test]
    fn both_kinds_of_plot_show_each_row() {
        let columns = [Column::new("cpu", "CPU µs", 1)];
        let mut report = Report::new("a & b", &columns, "cpu");
        report.add("tidewire/ws", None, &Sample::from([("cpu", 4.5)]));
        report.add("baseline", None, &Sample::from([("cpu", 4.1)]));
        let bars = render(&report);
        assert!(bars.contains("a &amp; b") && bars.contains(">4.50<") && bars.contains(">4.10<"));
        report.add("tidewire/ws", Some(10.0), &Sample::from([("cpu", 4.5)]));
        report.add("tidewire/ws", Some(1000.0), &Sample::from([("cpu", 4.0)]));
        assert!(render(&report).contains(">1000<"));
    }
}
