//! The figures of a bench: medians over the repeats, a table for people, an object for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::measure::Sample;
use super::shipper::Config;
use super::verify::Verdict;

/// The figures of one shipper at one work.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Whose.
    pub name: String,
    /// How it was told to do the work.
    pub config: Config,
    /// Records a second by the clock.
    pub per_second: f64,
    /// Megabytes of input a second by the clock.
    pub megabytes: f64,
    /// Records a CPU second.
    pub per_cpu_second: f64,
    /// CPU seconds for a gigabyte of input.
    pub cpu_per_gigabyte: f64,
    /// Megabytes resident, at most.
    pub peak: f64,
    /// From written to delivered, in milliseconds: p50, p99, max. None where nothing was measured.
    pub latency: Option<[f64; 3]>,
    /// Lowest and highest of the records a CPU second: how noisy the machine is.
    pub spread: (f64, f64),
    /// Whether it has to keep the order of each container, file or connection.
    pub keeps_order: bool,
    /// The sum over all repeats.
    pub verdict: Verdict,
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
    /// The medians of `samples`, each of `records` records of `bytes` bytes together.
    pub fn of(name: &str, config: Config, samples: &[Sample], records: u64, bytes: u64) -> Figures {
        let records = records as f64;
        let over = |of: &dyn Fn(&Sample) -> f64| median(samples.iter().map(of).collect());
        // CPU time comes in ticks; a run shorter than one is said to have taken one.
        let cpu = |sample: &Sample| sample.cpu.seconds.max(0.01);
        let mut verdict = Verdict::default();
        samples.iter().for_each(|sample| verdict.add(sample.verdict));
        let timed: Vec<_> = samples.iter().filter(|sample| !sample.latencies.is_empty()).collect();
        let latency = (!timed.is_empty())
            .then(|| [0.5, 0.99, 1.0].map(|part| median(timed.iter().map(|s| quantile(&s.latencies, part)).collect())));
        let per_cpu: Vec<f64> = samples.iter().map(|sample| records / cpu(sample)).collect();
        Figures {
            name: name.to_owned(),
            config,
            per_second: over(&|sample| records / sample.seconds.max(1e-6)),
            megabytes: over(&|sample| bytes as f64 / 1e6 / sample.seconds.max(1e-6)),
            per_cpu_second: median(per_cpu.clone()),
            cpu_per_gigabyte: over(&|sample| cpu(sample) / (bytes.max(1) as f64 / 1e9)),
            peak: over(&|sample| sample.peak as f64 / 1e6),
            latency,
            spread: per_cpu.iter().fold((f64::MAX, 0.0), |(low, high), x| (f64::min(low, *x), f64::max(high, *x))),
            keeps_order: false,
            verdict,
        }
    }

    /// Whether nothing is missing or wrong, nor out of an order that it has to keep.
    fn is_whole(&self) -> bool {
        let Verdict { missing, twice: _, wrong, disordered } = self.verdict;
        missing == 0 && wrong == 0 && (disordered == 0 || !self.keeps_order)
    }

    /// For programs. `first` is whom it is compared with; none for the first itself.
    fn json(&self, first: Option<&Figures>) -> Value {
        let ratio = first.and_then(|first| Ratio::of(first, self));
        json!({
            "shipper": self.name,
            "config": Map::from_iter(self.config.iter().map(|(name, text)| ((*name).to_owned(), json!(text)))),
            "ratio": ratio.as_ref().map(Ratio::json),
            "records_per_second": self.per_second.round(),
            "mb_per_second": (self.megabytes * 10.0).round() / 10.0,
            "records_per_cpu_second": self.per_cpu_second.round(),
            "records_per_cpu_second_range": [self.spread.0.round(), self.spread.1.round()],
            "cpu_seconds_per_gb": (self.cpu_per_gigabyte * 1000.0).round() / 1000.0,
            "peak_memory_mb": (self.peak * 10.0).round() / 10.0,
            "latency_ms": self.latency.map(|[p50, p99, max]| json!({ "p50": p50, "p99": p99, "max": max })),
            "missing": self.verdict.missing,
            "duplicated": self.verdict.twice,
            "wrong": self.verdict.wrong,
            "disordered": self.verdict.disordered,
        })
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
    pub figures: Vec<Figures>,
    /// Wrong lines, with their shipper.
    pub examples: Vec<String>,
}

impl Outcome {
    /// Whether nothing is missing, wrong, or out of an order that is to be kept, of anybody.
    pub fn is_whole(&self) -> bool {
        self.figures.iter().all(Figures::is_whole)
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
        for figures in &self.figures {
            let _ = write!(
                out,
                "  {:<18} {:>10.0} {:>7.1} {:>14.0} {:>8.2} {:>8.1}",
                figures.name,
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
        if let Some((first, others)) = self.figures.split_first() {
            for other in others {
                let Some(ratio) = Ratio::of(first, other) else {
                    let _ =
                        writeln!(out, "  {} against {}: no ratio, since records are missing", first.name, other.name);
                    continue;
                };
                let _ = writeln!(
                    out,
                    "  {} against {}: {:.1}x the records per CPU second ({:.1}x to {:.1}x over the runs), {:.1}x by the clock, {:.2}x the memory",
                    first.name,
                    other.name,
                    ratio.per_cpu_second,
                    ratio.range.0,
                    ratio.range.1,
                    ratio.clock,
                    ratio.memory
                );
            }
        }
        for figures in self.figures.iter().filter(|figures| figures.verdict.disordered > 0) {
            let _ = writeln!(
                out,
                "  order: {}: {} records behind a later one of the same container, file or connection",
                figures.name, figures.verdict.disordered
            );
        }
        for example in &self.examples {
            let _ = writeln!(out, "  wrong: {example}");
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let first = self.figures.first();
        let shippers = self.figures.iter().enumerate().map(|(nth, figures)| figures.json(first.filter(|_| nth > 0)));
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

    fn sample(seconds: f64, cpu: f64, missing: u64) -> Sample {
        Sample {
            seconds,
            cpu: Cpu { seconds: cpu, system: 0.0 },
            peak: 20_000_000,
            latencies: (1..=100).map(Duration::from_millis).collect(),
            verdict: Verdict { missing, ..Verdict::default() },
            example: None,
        }
    }

    #[test]
    fn the_figures_are_medians_and_what_is_missing_adds_up() {
        let samples = [sample(1.0, 0.5, 0), sample(9.0, 5.0, 2), sample(2.0, 1.0, 1)];
        let figures = Figures::of("x", vec![("x.conf", "[x]".to_owned())], &samples, 1000, 1_000_000);
        assert_eq!((figures.per_second, figures.per_cpu_second), (500.0, 1000.0));
        assert_eq!(figures.cpu_per_gigabyte, 1000.0);
        assert_eq!(figures.latency, Some([50.0, 99.0, 100.0]));
        assert_eq!(figures.spread, (200.0, 2000.0));
        assert_eq!(figures.verdict.missing, 3);
        let outcome = Outcome {
            work: "line-file",
            about: String::new(),
            repeats: 3,
            figures: vec![figures.clone(), Figures { per_cpu_second: 100.0, ..figures }],
            examples: vec![],
        };
        assert!(!outcome.is_whole());
        assert!(outcome.text().contains("no ratio, since records are missing"), "{}", outcome.text());
        assert_eq!(outcome.json()["shippers"][1]["ratio"], Value::Null, "nor for programs");
        let mut whole = outcome;
        whole.figures.iter_mut().for_each(|figures| figures.verdict = Verdict::default());
        assert!(whole.is_whole());
        let said =
            "10.0x the records per CPU second (0.1x to 10.0x over the runs), 1.0x by the clock, 1.00x the memory";
        assert!(whole.text().contains(said), "{}", whole.text());
        let ratio = json!({ "median": 10.0, "min": 0.1, "max": 10.0, "by_the_clock": 1.0, "memory": 1.0 });
        let report = whole.json();
        assert_eq!((&report["shippers"][0]["ratio"], &report["shippers"][1]["ratio"]), (&Value::Null, &ratio));
        assert_eq!(report["shippers"][1]["config"], json!({ "x.conf": "[x]" }));
    }

    #[test]
    fn an_order_that_is_not_kept_is_told_and_counts_for_those_that_have_to() {
        let figures = Figures::of("x", vec![], &[sample(1.0, 0.5, 0)], 1000, 1_000_000);
        let mut outcome =
            Outcome { work: "line-file", about: String::new(), repeats: 1, figures: vec![figures], examples: vec![] };
        assert!(!outcome.text().contains("order:"), "{}", outcome.text());
        assert_eq!(outcome.json()["shippers"][0]["disordered"], 0);
        outcome.figures[0].verdict.disordered = 7;
        assert!(outcome.is_whole(), "nobody has to keep it");
        assert!(outcome.text().contains("  order: x: 7 records behind a later one"), "{}", outcome.text());
        assert_eq!(outcome.json()["shippers"][0]["disordered"], 7);
        outcome.figures[0].keeps_order = true;
        assert!(!outcome.is_whole());
    }
}
