//! A plot as SVG, without a library: one line a series, one place on the x axis a point.
//!
//! Limit: [`COLOURS`] have to do; beyond them they come again.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 20.0;
/// Above the plot, with one row of the legend.
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// A row of the legend, of two entries.
const LEGEND_ROW: f64 = 18.0;
const LEGEND_ENTRY: f64 = (WIDTH - LEFT - RIGHT) / 2.0;
/// The piece of line before an entry's name.
const LEGEND_LINE: f64 = 26.0;
/// One for each shipper.
const COLOURS: [&str; 4] = ["#0b6e8f", "#c2571a", "#4c8c2b", "#7a4fa3"];

/// A line of the plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it shows.
    pub name: String,
    /// Whose it is: the same colour for the same number.
    pub colour: usize,
    /// Tells it from another one of that colour.
    pub dashed: bool,
    /// One value a point of the x axis; NaN where there is none.
    pub values: Vec<f64>,
}

/// Draws `series` over `points`, from zero to a round number above the highest value.
pub fn svg(title: &str, x: &str, y: &str, points: &[String], series: &[Series]) -> String {
    let highest = series.iter().flat_map(|line| &line.values).copied().fold(0.0, f64::max);
    let top = round_up(highest);
    // The legend makes the picture higher, not the plot lower.
    let legend = LEGEND_ROW * (series.len().div_ceil(2).max(1) - 1) as f64;
    let (height, plot_top) = (HEIGHT + legend, TOP + legend);
    let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |nth: usize| LEFT + inner_width * (nth as f64 + 0.5) / points.len().max(1) as f64;
    let at_y = |value: f64| plot_top + inner_height * (1.0 - value / top);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
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
            height - BOTTOM + 18.0,
            escaped(point)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n<text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        LEFT + inner_width / 2.0,
        height - 12.0,
        escaped(x),
        plot_top + inner_height / 2.0,
        escaped(y)
    );
    for (number, line) in series.iter().enumerate() {
        let colour = COLOURS[line.colour % COLOURS.len()];
        let dashes = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let stroke = format!("stroke=\"{colour}\" stroke-width=\"2\"{dashes}");
        let values = line.values.iter().enumerate().filter(|(_, value)| value.is_finite());
        let places: Vec<(f64, f64)> = values.map(|(nth, value)| (at_x(nth), at_y(*value))).collect();
        let joined: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" {stroke}/>", joined.join(" "));
        for (x, y) in places {
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
        let (x, y) = (LEFT + LEGEND_ENTRY * (number % 2) as f64, 36.0 + LEGEND_ROW * (number / 2) as f64);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {stroke}/>\n<text x=\"{:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{}</text>",
            y - 4.0,
            x + LEGEND_LINE,
            y - 4.0,
            x + LEGEND_LINE + 6.0,
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
        let values = vec![1.0, f64::NAN, 4.0];
        let series = [Series { name: "a & b".into(), colour: 0, dashed: false, values }];
        let text = svg("t<1>", "x", "y", &["1", "2", "3"].map(str::to_owned), &series);
        assert_eq!(text.matches("<circle").count(), 2);
        assert!(text.contains("a &amp; b") && text.contains("t&lt;1&gt;") && text.ends_with("</svg>\n"));
        assert!(text.contains("cy=\"44.0\""), "the highest value is at the top: {text}");
        assert!(!text.contains("NaN"), "what is not there is left out: {text}");
    }

    /// The number behind `name="`.
    fn number(element: &str, name: &str) -> f64 {
        let value = element.split_once(&format!(" {name}=\"")).expect("it has it").1;
        value.split('"').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    #[test]
    fn the_lines_of_three_shippers_differ_and_their_legend_is_within_the_picture_and_above_the_plot() {
        let names = ["longshore (other)", "fluent-bit", "vector"];
        let of = |nth: usize| {
            [("by the clock", false), ("a CPU second", true)].map(|(what, dashed)| {
                let name = format!("{}, {what}", names[nth]);
                Series { name, colour: nth, dashed, values: vec![10.0, 20.0] }
            })
        };
        let series: Vec<Series> = (0..3).flat_map(of).collect();
        let text = svg("t", "x", "y", &["1".into(), "2".into()], &series);
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("<polyline"))
            .filter_map(|line| Some(line.split_once(" stroke=")?.1))
            .collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 6, "{text}");
        let mut places = Vec::new();
        for line in &series {
            let entry =
                text.lines().find(|element| element.ends_with(&format!(">{}</text>", line.name))).expect("there");
            let (x, y) = (number(entry, "x"), number(entry, "y"));
            // A letter is about half as wide as high.
            let end = x + 7.0 * line.name.len() as f64;
            assert!(end < WIDTH, "{entry}");
            places.push((x, end, y));
        }
        for (nth, (x, end, y)) in places.iter().enumerate() {
            for (other_x, other_end, other_y) in &places[..nth] {
                assert!((y - other_y).abs() > 12.0 || *other_end < *x || *end < *other_x, "two in one place: {text}");
            }
        }
        let lowest = places.iter().map(|(_, _, y)| *y).fold(0.0, f64::max);
        let highest = text.lines().filter(|line| line.starts_with("<circle")).map(|line| number(line, "cy"));
        assert!(lowest + 4.0 < highest.fold(f64::MAX, f64::min), "{text}");
    }
}
