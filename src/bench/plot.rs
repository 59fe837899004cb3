//! A plot as SVG, without a library: one line a series, one place on the x axis a point.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
const COLOURS: [&str; 4] = ["#0b6e8f", "#c2571a", "#4c8c2b", "#7a4fa3"];

/// A line of the plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it shows.
    pub name: String,
    /// One value a point of the x axis.
    pub values: Vec<f64>,
}

/// Draws `series` over `points`, from zero to a round number above the highest value.
pub fn svg(title: &str, x: &str, y: &str, points: &[String], series: &[Series]) -> String {
    let highest = series.iter().flat_map(|line| &line.values).copied().fold(0.0, f64::max);
    let top = round_up(highest);
    let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |nth: usize| LEFT + inner_width * (nth as f64 + 0.5) / points.len().max(1) as f64;
    let at_y = |value: f64| TOP + inner_height * (1.0 - value / top);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (line, right) = (at_y(value), WIDTH - RIGHT);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{line:.1}\" x2=\"{right}\" y2=\"{line:.1}\" stroke=\"#dddddd\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            line + 4.0,
            short(value)
        );
    }
    for (nth, point) in points.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            at_x(nth),
            HEIGHT - BOTTOM + 18.0,
            escaped(point)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n<text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        LEFT + inner_width / 2.0,
        HEIGHT - 12.0,
        escaped(x),
        TOP + inner_height / 2.0,
        escaped(y)
    );
    for (number, (line, colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let places: Vec<(f64, f64)> =
            line.values.iter().enumerate().map(|(nth, value)| (at_x(nth), at_y(*value))).collect();
        let joined: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            joined.join(" ")
        );
        for (x, y) in places {
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"36\" fill=\"{colour}\">{}</text>",
            LEFT + 150.0 * number as f64,
            escaped(&line.name)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// The next of 1, 2, 4, 5, 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    power * steps.into_iter().find(|step| power * step >= value).unwrap_or(10.0)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{} k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number_above_all_values() {
        for (value, top) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (390_000.0, 400_000.0), (401_000.0, 500_000.0), (9.0, 10.0)]
        {
            assert_eq!(round_up(value), top, "{value}");
        }
        assert_eq!([short(1_250_000.0), short(400_000.0), short(0.5)], ["1.25 M", "400 k", "0.5"]);
    }

    #[test]
    fn each_value_is_a_point_within_the_picture() {
        let series = [Series { name: "a & b".into(), values: vec![1.0, 4.0] }];
        let text = svg("t<1>", "x", "y", &["1".into(), "2".into()], &series);
        assert_eq!(text.matches("<circle").count(), 2);
        assert!(text.contains("a &amp; b") && text.contains("t&lt;1&gt;") && text.ends_with("</svg>\n"));
        assert!(text.contains("cy=\"44.0\""), "the highest value is at the top: {text}");
    }
}
