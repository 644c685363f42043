//! The returns as an SVG plot: how many clients came back when, a line for each restart.
//! Knows only times.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const PLOT_WIDTH: f64 = WIDTH - LEFT - 20.0;
const PLOT_HEIGHT: f64 = HEIGHT - TOP - 60.0;
const BIN_S: f64 = 0.5;

pub(super) fn render(title: &str, returns: &[Vec<f64>], window_s: f64) -> String {
    let last_s = returns.iter().flatten().copied().fold(window_s, f64::max);
    let bins = (last_s / BIN_S).ceil() as usize + 1;
    let counts: Vec<Vec<u32>> = returns.iter().map(|times| histogram(times, bins)).collect();
    let highest = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
    let x = |time_s: f64| LEFT + time_s / (bins as f64 * BIN_S) * PLOT_WIDTH;
    let y = |count: f64| TOP + PLOT_HEIGHT * (1.0 - count / f64::from(highest));
    // Writing into a String cannot fail.
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"16\" y=\"30\" font-size=\"17\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"{:.1}\">clients back in each {BIN_S} s</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">seconds after SIGTERM</text>\n",
        TOP - 8.0,
        WIDTH - 20.0,
        HEIGHT - 14.0
    );
    for step in 0..=4 {
        let count = f64::from(highest) * f64::from(step) / 4.0;
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {0:.1}h{PLOT_WIDTH}\" stroke=\"#dee2e6\"/><text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{count:.0}</text>",
            y(count),
            LEFT - 8.0,
            y(count) + 4.0
        );
    }
    for second in 0..=(bins as f64 * BIN_S) as u32 {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second}</text>",
            x(f64::from(second)),
            TOP + PLOT_HEIGHT + 20.0
        );
    }
    for (number, counts) in counts.iter().enumerate() {
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        for (bin, &count) in counts.iter().enumerate() {
            let from = bin as f64 * BIN_S;
            let _ =
                write!(path, "L{:.1} {1:.1}L{2:.1} {1:.1}", x(from), y(f64::from(count)), x(from + BIN_S));
        }
        let hue = 190 + number * 17 % 170;
        let _ = writeln!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"hsl({hue} 70% 40%)\" stroke-opacity=\"0.7\" stroke-width=\"1.5\"/>"
        );
    }
    let _ = writeln!(
        out,
        "<path d=\"M{0:.1} {TOP}v{PLOT_HEIGHT}\" stroke=\"#c92a2a\" stroke-dasharray=\"4\"/><text x=\"{1:.1}\" y=\"{2:.1}\" fill=\"#c92a2a\" text-anchor=\"end\">end of the window</text>",
        x(window_s),
        x(window_s) - 6.0,
        TOP + 14.0
    );
    out.push_str("</svg>\n");
    out
}

fn histogram(times: &[f64], bins: usize) -> Vec<u32> {
    let mut counts = vec![0; bins];
    for &time in times {
        counts[((time / BIN_S) as usize).min(bins - 1)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_restart_has_its_line() {
        assert_eq!(histogram(&[0.1, 0.2, 0.6, 9.0], 3), [2, 1, 1]);
        let plot = render("title", &[vec![1.0, 2.0], vec![3.0]], 4.0);
        assert_eq!(plot.matches("stroke-opacity").count(), 2);
        assert!(plot.contains("end of the window"));
    }
}
