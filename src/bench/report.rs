//! The figures of a bench: medians over the repeats, a table for people, an object for programs.
//!
//! Rates, and CPU time a gigabyte, are of the records that arrived, each once, not of those that were sent: what a shipper loses,
//! changes or repeats was not done, however fast. What is missing is told beside them.
//!
//! CPU time is cut to ticks, so what is said by it is too good by a share that is told ([`Figures::cut`]). It is greatest for who
//! needs least.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::child::CUT_SECONDS;
use super::measure::Sample;
use super::shipper::Config;
use super::verify::Verdict;

/// One shipper at one work.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// How it was told to do the work.
    pub config: Config,
    /// Whether it has to keep the order of each container, file or connection.
    pub keeps_order: bool,
    /// Whether it has to deliver each record once.
    pub delivers_once: bool,
    /// Whether it has to end well when it is told to stop.
    pub ends_well: bool,
    /// What it came to, or why it did not get to the end: then none of its runs counts.
    pub figures: Result<Figures, String>,
}

/// The figures of one shipper at one work.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Records that arrived, a second by the clock.
    pub per_second: f64,
    /// Megabytes of input that arrived, a second by the clock.
    pub megabytes: f64,
    /// Records that arrived, a CPU second.
    pub per_cpu_second: f64,
    /// CPU seconds for a gigabyte of input that arrived; infinite where nothing did.
    pub cpu_per_gigabyte: f64,
    /// CPU time that is not in the figures by it since the kernel cuts it, at most, as a share of what is.
    pub cut: f64,
    /// Megabytes resident, at most.
    pub peak: f64,
    /// From written to delivered, in milliseconds: p50, p99, max. None where nothing was measured.
    pub latency: Option<[f64; 3]>,
    /// Lowest and highest of the records a CPU second: how noisy the machine is.
    pub spread: (f64, f64),
    /// The sum over all repeats.
    pub verdict: Verdict,
    /// How often a file was rotated under it, in the run with the fewest; none where that is not the work.
    pub rotations: Option<u64>,
    /// How it ended when it was told to stop, of each run in which that was not well.
    pub bad_ends: Vec<String>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

fn quantile(sorted: &[Duration], part: f64) -> f64 {
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len());
    sorted[at - 1].as_secs_f64() * 1000.0
}

impl Figures {
    /// The medians of `samples`, in each of which `records` records of `bytes` bytes together were to arrive.
    pub fn of(samples: &[Sample], records: u64, bytes: u64) -> Figures {
        let each = bytes.max(1) as f64 / records.max(1) as f64;
        let arrived = |sample: &Sample| sample.arrived.min(records) as f64;
        let over = |of: &dyn Fn(&Sample) -> f64| median(samples.iter().map(of).collect());
        // CPU time comes in ticks; a run shorter than one is said to have taken one.
        let cpu = |sample: &Sample| sample.cpu.seconds.max(0.01);
        let mut verdict = Verdict::default();
        samples.iter().for_each(|sample| verdict.add(sample.verdict));
        let timed: Vec<_> = samples.iter().filter(|sample| !sample.latencies.is_empty()).collect();
        let latency = (!timed.is_empty())
            .then(|| [0.5, 0.99, 1.0].map(|part| median(timed.iter().map(|s| quantile(&s.latencies, part)).collect())));
        let per_cpu: Vec<f64> = samples.iter().map(|sample| arrived(sample) / cpu(sample)).collect();
        Figures {
            per_second: over(&|sample| arrived(sample) / sample.seconds.max(1e-6)),
            megabytes: over(&|sample| arrived(sample) * each / 1e6 / sample.seconds.max(1e-6)),
            per_cpu_second: median(per_cpu.clone()),
            cpu_per_gigabyte: over(&|sample| cpu(sample) / (arrived(sample) * each / 1e9)),
            cut: over(&|sample| CUT_SECONDS / cpu(sample)),
            peak: over(&|sample| sample.peak as f64 / 1e6),
            latency,
            spread: per_cpu.iter().fold((f64::MAX, 0.0), |(low, high), x| (f64::min(low, *x), f64::max(high, *x))),
            verdict,
            rotations: samples.iter().filter_map(|sample| sample.rotations).min(),
            bad_ends: samples.iter().filter_map(|sample| sample.bad_end.clone()).collect(),
        }
    }

    /// For programs. `first` is whom it is compared with; none for the first itself.
    fn json(&self, first: Option<&Figures>) -> Value {
        let ratio = first.and_then(|first| Ratio::of(first, self));
        json!({
            "ratio": ratio.as_ref().map(Ratio::json),
            "records_per_second": self.per_second.round(),
            "mb_per_second": (self.megabytes * 10.0).round() / 10.0,
            "records_per_cpu_second": self.per_cpu_second.round(),
            "records_per_cpu_second_range": [self.spread.0.round(), self.spread.1.round()],
            "cpu_seconds_per_gb": (self.cpu_per_gigabyte * 1000.0).round() / 1000.0,
            "cpu_cut_share": (self.cut * 10_000.0).round() / 10_000.0,
            "peak_memory_mb": (self.peak * 10.0).round() / 10.0,
            "latency_ms": self.latency.map(|[p50, p99, max]| json!({ "p50": p50, "p99": p99, "max": max })),
            "missing": self.verdict.missing,
            "duplicated": self.verdict.twice,
            "wrong": self.verdict.wrong,
            "disordered": self.verdict.disordered,
            "rotations": self.rotations,
            "bad_ends": self.bad_ends,
        })
    }
}

impl Row {
    /// Whether it got to the end, nothing is missing or wrong, nor out of an order that it has to keep, nor there twice
    /// where that may not be, and it has ended well if it has to.
    fn is_whole(&self) -> bool {
        self.figures.as_ref().is_ok_and(|figures| {
            let Verdict { missing, twice, wrong, disordered } = figures.verdict;
            let kept = !(disordered > 0 && self.keeps_order || twice > 0 && self.delivers_once);
            missing == 0 && wrong == 0 && kept && (figures.bad_ends.is_empty() || !self.ends_well)
        })
    }

    /// For programs. `first` is whom it is compared with; none for the first itself.
    fn json(&self, first: Option<&Figures>) -> Value {
        let mut out = json!({
            "shipper": self.name,
            "config": Map::from_iter(self.config.iter().map(|(name, text)| ((*name).to_owned(), json!(text)))),
        });
        let more = match &self.figures {
            Ok(figures) => figures.json(first),
            Err(error) => json!({ "error": error }),
        };
        if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
            out.extend(more);
        }
        out
    }
}

/// How many times another one's figures the first shipper's are.
struct Ratio {
    /// Records a CPU second.
    per_cpu_second: f64,
    /// The same of the first's worst run and the other's best, and the other way round.
    range: (f64, f64),
    /// Records a second.
    clock: f64,
    /// Peak memory.
    memory: f64,
}

impl Ratio {
    /// None where records are missing: less work in another time would flatter one of them.
    fn of(first: &Figures, other: &Figures) -> Option<Ratio> {
        let whole = other.verdict.missing == 0 && first.verdict.missing == 0;
        whole.then(|| Ratio {
            per_cpu_second: first.per_cpu_second / other.per_cpu_second,
            range: (first.spread.0 / other.spread.1, first.spread.1 / other.spread.0),
            clock: first.per_second / other.per_second,
            memory: first.peak / other.peak,
        })
    }

    fn json(&self) -> Value {
        let [median, min, max, clock, memory] =
            [self.per_cpu_second, self.range.0, self.range.1, self.clock, self.memory]
                .map(|value| (value * 100.0).round() / 100.0);
        json!({ "median": median, "min": min, "max": max, "by_the_clock": clock, "memory": memory })
    }
}

/// All figures of one work; the first shipper is the one that the others are compared with.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The work's name.
    pub work: &'static str,
    /// Records, bytes and more, in words.
    pub about: String,
    /// Repeats.
    pub repeats: usize,
    /// By shipper.
    pub rows: Vec<Row>,
    /// Wrong lines, with their shipper.
    pub examples: Vec<String>,
}

impl Outcome {
    /// Whether all got to the end, nothing is missing, wrong, out of an order that is to be kept, or there twice where
    /// that may not be, and who has to has ended well.
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(Row::is_whole)
    }

    /// Those that have figures, with their names.
    fn figures(&self) -> impl Iterator<Item = (&str, &Figures)> {
        self.rows.iter().filter_map(|row| Some((row.name.as_str(), row.figures.as_ref().ok()?)))
    }

    /// The figures that others are compared with.
    fn first(&self) -> Option<&Figures> {
        self.rows.first()?.figures.as_ref().ok()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!("{}: {}, median of {}\n", self.work, self.about, self.repeats);
        let _ = writeln!(
            out,
            "  {:<18} {:>10} {:>7} {:>14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>7} {:>6}",
            "",
            "records/s",
            "MB/s",
            "rec./CPU s",
            "CPU s/GB",
            "peak MB",
            "p50 ms",
            "p99 ms",
            "max ms",
            "missing",
            "twice",
            "wrong"
        );
        for row in &self.rows {
            let figures = match &row.figures {
                Ok(figures) => figures,
                Err(error) => {
                    // What it has said comes along.
                    let error = error.trim_end().replace('\n', "\n    ");
                    let _ = writeln!(out, "  {:<18} failed: {error}", row.name);
                    continue;
                }
            };
            let _ = write!(
                out,
                "  {:<18} {:>10.0} {:>7.1} {:>14.0} {:>8.2} {:>8.1}",
                row.name,
                figures.per_second,
                figures.megabytes,
                figures.per_cpu_second,
                figures.cpu_per_gigabyte,
                figures.peak
            );
            for nth in 0..3 {
                let _ = match figures.latency {
                    Some(latency) => write!(out, " {:>8.1}", latency[nth]),
                    None => write!(out, " {:>8}", "-"),
                };
            }
            let Verdict { missing, twice, wrong, .. } = figures.verdict;
            let _ = writeln!(out, " {missing:>9} {twice:>7} {wrong:>6}");
        }
        // Who failed has no figures to compare; nor has anybody, where the first did.
        if let Some(first) = self.first() {
            let name = &self.rows[0].name;
            for (other, figures) in self.figures().skip(1) {
                let Some(ratio) = Ratio::of(first, figures) else {
                    let _ = writeln!(out, "  {name} against {other}: no ratio, since records are missing");
                    continue;
                };
                let _ = writeln!(
                    out,
                    "  {name} against {other}: {:.1}x the records per CPU second ({:.1}x to {:.1}x over the runs), {:.1}x by the clock, {:.2}x the memory",
                    ratio.per_cpu_second, ratio.range.0, ratio.range.1, ratio.clock, ratio.memory
                );
            }
        }
        let cuts = self.figures().map(|(name, figures)| format!("{name} {:.1} %", figures.cut * 100.0));
        let cuts = cuts.collect::<Vec<_>>().join(", ");
        if !cuts.is_empty() {
            let _ = writeln!(out, "  CPU time is in ticks of 10 ms; what is cut off is at most: {cuts}");
        }
        if self.figures().any(|(_, figures)| figures.verdict.missing > 0) {
            out.push_str("  rates: of the records that arrived, each once\n");
        }
        for (name, figures) in self.figures().filter(|(_, figures)| figures.verdict.disordered > 0) {
            let _ = writeln!(
                out,
                "  order: {name}: {} records behind a later one of the same container, file or connection",
                figures.verdict.disordered
            );
        }
        for (name, figures) in self.figures() {
            if let Some(rotations) = figures.rotations {
                let _ = writeln!(out, "  rotations: {name}: {rotations} in the run with the fewest");
            }
        }
        for (name, figures) in self.figures() {
            if let Some(end) = figures.bad_ends.first() {
                // What it has said comes along.
                let (runs, end) = (figures.bad_ends.len(), end.trim_end().replace('\n', "\n    "));
                let _ =
                    writeln!(out, "  end: {name}: told to stop, {runs} of {} runs ended badly: {end}", self.repeats);
            }
        }
        for example in &self.examples {
            let _ = writeln!(out, "  wrong: {example}");
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let first = self.first();
        let shippers = self.rows.iter().enumerate().map(|(nth, row)| row.json(first.filter(|_| nth > 0)));
        json!({
            "work": self.work,
            "about": self.about,
            "repeats": self.repeats,
            "shippers": shippers.collect::<Vec<_>>(),
            "wrong_examples": self.examples,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::child::Cpu;
    use super::*;

    /// A run of a thousand records, all of which were there when the clock stopped.
    fn sample(seconds: f64, cpu: f64, missing: u64) -> Sample {
        Sample {
            seconds,
            arrived: 1000,
            cpu: Cpu { seconds: cpu, system: 0.0 },
            peak: 20_000_000,
            latencies: (1..=100).map(Duration::from_millis).collect(),
            verdict: Verdict { missing, ..Verdict::default() },
            example: None,
            rotations: None,
            bad_end: None,
        }
    }

    fn row(name: &str, figures: Result<Figures, String>) -> Row {
        let config = vec![("x.conf", "[x]".to_owned())];
        Row { name: name.to_owned(), config, keeps_order: false, delivers_once: false, ends_well: false, figures }
    }

    fn outcome(rows: Vec<Row>) -> Outcome {
        Outcome { work: "line-file", about: String::new(), repeats: 3, rows, examples: vec![] }
    }

    #[test]
    fn the_figures_are_medians_and_what_is_missing_adds_up() {
        let samples = [sample(1.0, 0.5, 0), sample(9.0, 5.0, 2), sample(2.0, 1.0, 1)];
        let mut figures = Figures::of(&samples, 1000, 1_000_000);
        assert_eq!((figures.per_second, figures.per_cpu_second), (500.0, 1000.0));
        assert_eq!(figures.cpu_per_gigabyte, 1000.0);
        assert_eq!(figures.cut, 0.02, "of the second that is the median");
        assert_eq!(figures.latency, Some([50.0, 99.0, 100.0]));
        assert_eq!(figures.spread, (200.0, 2000.0));
        assert_eq!(figures.verdict.missing, 3);
        let both = |figures: &Figures| {
            let slow = Figures { per_cpu_second: 100.0, ..figures.clone() };
            outcome(vec![row("x", Ok(figures.clone())), row("y", Ok(slow))])
        };
        let torn = both(&figures);
        assert!(!torn.is_whole());
        assert!(torn.text().contains("no ratio, since records are missing"), "{}", torn.text());
        assert!(torn.text().contains("\n  rates: of the records that arrived, each once\n"), "{}", torn.text());
        assert_eq!(torn.json()["shippers"][1]["ratio"], Value::Null, "nor for programs");
        figures.verdict = Verdict::default();
        let whole = both(&figures);
        assert!(whole.is_whole());
        let said = "x against y: 10.0x the records per CPU second (0.1x to 10.0x over the runs), 1.0x by the clock, 1.00x the memory";
        assert!(whole.text().contains(said) && !whole.text().contains("rates:"), "{}", whole.text());
        let ratio = json!({ "median": 10.0, "min": 0.1, "max": 10.0, "by_the_clock": 1.0, "memory": 1.0 });
        let said = "  CPU time is in ticks of 10 ms; what is cut off is at most: x 2.0 %, y 2.0 %\n";
        assert!(whole.text().contains(said), "{}", whole.text());
        let report = whole.json();
        assert_eq!(report["shippers"][0]["cpu_cut_share"], 0.02);
        assert_eq!((&report["shippers"][0]["ratio"], &report["shippers"][1]["ratio"]), (&Value::Null, &ratio));
        assert_eq!(report["shippers"][1]["config"], json!({ "x.conf": "[x]" }));
    }

    #[test]
    fn what_did_not_arrive_is_in_no_rate() {
        let lossy = Sample { arrived: 200, ..sample(1.0, 0.5, 800) };
        let figures = Figures::of(&[lossy], 1000, 1_000_000);
        assert_eq!((figures.per_second, figures.megabytes), (200.0, 0.2));
        assert_eq!((figures.per_cpu_second, figures.spread), (400.0, (400.0, 400.0)));
        assert_eq!(figures.cpu_per_gigabyte, 2500.0);
        let none = Sample { arrived: 0, ..sample(0.0, 0.5, 1000) };
        let figures = Figures::of(&[none], 1000, 1_000_000);
        assert_eq!((figures.per_second, figures.megabytes, figures.per_cpu_second), (0.0, 0.0, 0.0));
        let report = outcome(vec![row("x", Ok(figures))]);
        assert_eq!(report.json()["shippers"][0]["cpu_seconds_per_gb"], Value::Null, "there is none");
        assert!(report.text().contains(" inf "), "{}", report.text());
    }

    #[test]
    fn an_order_that_is_not_kept_is_told_and_counts_for_those_that_have_to() {
        let with = |disordered, keeps_order| {
            let mut figures = Figures::of(&[sample(1.0, 0.5, 0)], 1000, 1_000_000);
            figures.verdict.disordered = disordered;
            outcome(vec![Row { keeps_order, ..row("x", Ok(figures)) }])
        };
        let kept = with(0, true);
        assert!(kept.is_whole() && !kept.text().contains("order:"), "{}", kept.text());
        assert_eq!(kept.json()["shippers"][0]["disordered"], 0);
        let lost = with(7, false);
        assert!(lost.is_whole(), "nobody has to keep it");
        assert!(lost.text().contains("  order: x: 7 records behind a later one"), "{}", lost.text());
        assert_eq!(lost.json()["shippers"][0]["disordered"], 7);
        assert!(!with(7, true).is_whole());
    }

    #[test]
    fn what_comes_twice_counts_for_those_that_have_to_deliver_once() {
        let with = |twice, delivers_once| {
            let mut figures = Figures::of(&[sample(1.0, 0.5, 0)], 1000, 1_000_000);
            figures.verdict.twice = twice;
            outcome(vec![Row { delivers_once, ..row("x", Ok(figures)) }]).is_whole()
        };
        assert_eq!([with(0, true), with(1, true), with(1, false)], [true, false, true]);
    }

    #[test]
    fn rotations_are_told_where_they_are_the_work() {
        let with = |rotations: Option<u64>| {
            let few = Sample { rotations, ..sample(1.0, 0.5, 0) };
            let many = Sample { rotations: rotations.map(|few| few + 3), ..few.clone() };
            outcome(vec![row("x", Ok(Figures::of(&[many, few], 1000, 1_000_000)))])
        };
        let rotated = with(Some(2));
        assert!(rotated.text().contains("\n  rotations: x: 2 in the run with the fewest\n"), "{}", rotated.text());
        assert_eq!(rotated.json()["shippers"][0]["rotations"], 2);
        let other = with(None);
        assert!(!other.text().contains("rotations"), "{}", other.text());
        assert_eq!(other.json()["shippers"][0]["rotations"], Value::Null);
    }

    #[test]
    fn a_bad_end_is_told_and_counts_for_those_that_have_to_end_well() {
        let with = |bad_end: Option<&str>, ends_well| {
            let good = sample(1.0, 0.5, 0);
            let other = Sample { bad_end: bad_end.map(str::to_owned), ..good.clone() };
            let figures = Figures::of(&[good, other], 1000, 1_000_000);
            outcome(vec![Row { ends_well, ..row("x", Ok(figures)) }])
        };
        let well = with(None, true);
        assert!(well.is_whole() && !well.text().contains("end:"), "{}", well.text());
        assert_eq!(well.json()["shippers"][0]["bad_ends"], json!([]));
        let badly = with(Some("exit status: 101; it said:\na panic\n"), true);
        assert!(!badly.is_whole());
        let said = "  end: x: told to stop, 1 of 3 runs ended badly: exit status: 101; it said:\n    a panic\n";
        assert!(badly.text().contains(said), "{}", badly.text());
        assert_eq!(badly.json()["shippers"][0]["bad_ends"], json!(["exit status: 101; it said:\na panic\n"]));
        assert!(with(Some("signal: 9 (SIGKILL)"), false).is_whole(), "it need not");
    }

    #[test]
    fn who_fails_is_told_and_the_others_keep_their_figures() {
        let good = || Ok(Figures::of(&[sample(1.0, 0.5, 0)], 1000, 1_000_000));
        let torn = outcome(vec![
            row("x", good()),
            row("y", Err("it ended; it said:\nno such key\n".into())),
            row("z", good()),
        ]);
        assert!(!torn.is_whole());
        let text = torn.text();
        assert!(text.contains("  y                  failed: it ended; it said:\n    no such key\n  z "), "{text}");
        assert!(text.contains("x against z: 1.0x") && !text.contains("against y"), "{text}");
        let shippers = &torn.json()["shippers"];
        assert!(shippers[0]["records_per_second"] == 1000.0 && shippers[0]["error"].is_null(), "{shippers}");
        assert_eq!(shippers[1]["error"], "it ended; it said:\nno such key\n");
        assert_eq!(
            (&shippers[1]["records_per_second"], &shippers[1]["config"]["x.conf"]),
            (&Value::Null, &json!("[x]"))
        );
        let none = outcome(vec![row("x", Err("no".into()))]);
        assert!(!none.text().contains("ticks"), "{}", none.text());
        let first = outcome(vec![row("x", Err("no".into())), row("y", good()), row("z", good())]);
        assert!(!first.text().contains("against"), "{}", first.text());
        assert_eq!(first.json()["shippers"][2]["ratio"], Value::Null);
    }
}
