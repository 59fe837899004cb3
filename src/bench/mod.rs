//! `longshore bench`: generator, the real program, and a sink that checks every record, in one command.
//!
//! What is measured is a process of its own (this program's `run` with a configuration made for the work, or a peer), so
//! that CPU time and memory are the shipper's alone. Shippers take turns, repeat by repeat, on the same input.
//! [`measure`] says what a run is, [`shipper`] how each is configured, [`verify`] what is checked.
//!
//! Everything is written below one folder, which is removed at the end. Limits: [`RECORDS_MAX`] records of
//! [`LINE_MAX`] bytes.

pub mod agenda;
pub mod ballast;
pub mod child;
pub mod generate;
pub mod header;
pub mod load;
pub mod measure;
pub mod plot;
pub mod receive;
pub mod report;
pub mod scale;
pub mod shipper;
pub mod verify;
pub mod work;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;

use agenda::Agenda;
use generate::Recipe;
use header::Header;
use measure::{Load, Sample, Task};
use plot::Series;
use report::{Figures, Outcome, Row};
use scale::Axis;
use shipper::{Config, Kind, Plan, Shipper};
use work::{From, Work};

/// Records of one run, at most.
pub const RECORDS_MAX: u64 = 100_000_000;
/// Bytes of a line, at most: what a file input keeps by default.
pub const LINE_MAX: usize = 1 << 20;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// All without one.
    pub works: Vec<Work>,
    /// What the records look like.
    pub recipe: Recipe,
    /// Records of the backlog.
    pub records: u64,
    /// Runs of each shipper at each work.
    pub repeats: usize,
    /// Containers.
    pub containers: usize,
    /// Connections of senders.
    pub connections: usize,
    /// Threads that read for longshore, where that is a setting; its default without it.
    pub readers: Option<u8>,
    /// Records a second while latency is taken; a default of each work without it.
    pub rate: Option<f64>,
    /// Seconds for which latency is taken.
    pub seconds: f64,
    /// `KIND=PATH` each.
    pub peers: Vec<String>,
    /// Where everything is written; the folder for temporary files without it.
    pub dir: Option<PathBuf>,
    /// Instead of works: what is varied, and the folder of the plots.
    pub scale: Vec<Axis>,
    /// Where plots go.
    pub svg: PathBuf,
}

/// What came of it: the report, and whether the output is whole.
#[derive(Clone, Debug)]
pub struct Done {
    /// Where, and who.
    pub header: Header,
    /// By work.
    pub outcomes: Vec<Outcome>,
    /// Files of plots.
    pub plots: Vec<PathBuf>,
    /// Falls between neighbours of a row that want a reason.
    pub falls: Vec<String>,
    /// Works that nobody has named and that can not be done so, each with the reason.
    pub left_out: Vec<String>,
}

impl Done {
    /// Whether nobody failed, nothing is missing, wrong, out of an order that is to be kept, or there twice where that may
    /// not be, and who has to has ended well.
    pub fn is_whole(&self) -> bool {
        self.outcomes.iter().all(Outcome::is_whole)
    }

    /// The report for programs.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "version": env!("LONGSHORE_VERSION"),
            "machine": self.header.machine,
            "load_average": self.header.load_average,
            "peers": self.header.peers_json(),
            "works": self.outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
            "plots": self.plots,
            "falls": self.falls,
            "left_out": self.left_out,
        })
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = self.header.text();
        self.outcomes.iter().for_each(|outcome| out.push_str(&outcome.text()));
        let plots = self.plots.iter().map(|plot| ("plot", plot.display().to_string()));
        let falls = self.falls.iter().map(|fall| ("fall", fall.clone()));
        let left_out = self.left_out.iter().map(|work| ("left out", work.clone()));
        for (what, text) in plots.chain(falls).chain(left_out) {
            let _ = writeln!(out, "{what}: {text}");
        }
        out
    }
}

/// A folder that goes with the bench.
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: Option<&Path>) -> Result<Scratch, String> {
        let parent = dir.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("longshore-bench-{}", std::process::id()));
        fs::create_dir_all(&parent).and_then(|()| fs::create_dir(&path)).map_err(|error| {
            format!(
                "{}: {error}; choose another folder with --dir, or remove what an earlier bench left",
                path.display()
            )
        })?;
        // Configurations name paths from the root: shippers run in folders of their own.
        path.canonicalize().map(Scratch).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays lies under the temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs it. `tell` gets progress, the machine and everybody's configuration, a line or more at a time.
pub fn run(options: &Options, tell: &dyn Fn(&str)) -> Result<Done, String> {
    if options.records > RECORDS_MAX || options.recipe.line_size.is_some_and(|size| size > LINE_MAX) {
        return Err(format!("at most {RECORDS_MAX} records of {LINE_MAX} bytes"));
    }
    let own = std::env::current_exe().map_err(|error| format!("the path of this program: {error}"))?;
    let mut shippers = vec![Shipper { name: "longshore".to_owned(), kind: Kind::Longshore, program: own }];
    for peer in &options.peers {
        shippers.push(Shipper::peer(peer)?);
    }
    let scratch = Scratch::new(options.dir.as_deref())?;
    let header = Header::of(&shippers[1..], &scratch.0);
    tell(header.text().trim_end());
    let agenda = Agenda::of(options, scratch.0.clone())?;
    agenda.make_room()?;
    agenda.left_out.iter().for_each(|work| tell(&format!("left out: {work}")));
    if !agenda.rows.is_empty() {
        fs::create_dir_all(&options.svg).map_err(|error| format!("{}: {error}", options.svg.display()))?;
    }
    let left_out = agenda.left_out;
    let mut done = Done { header, outcomes: Vec::new(), plots: Vec::new(), falls: Vec::new(), left_out };
    for (axis, points) in agenda.rows {
        run_row(axis, points, options, &shippers, &mut done, tell)?;
    }
    for task in agenda.works {
        done.outcomes.push(compare(&task, options.repeats, &shippers, tell));
    }
    Ok(done)
}

/// Runs all shippers in turn, as often as asked. What fails is in the outcome: a bench takes minutes, and what the others
/// came to is worth having.
fn compare(task: &Task, repeats: usize, shippers: &[Shipper], tell: &dyn Fn(&str)) -> Outcome {
    let bytes = task.input_bytes();
    // The same for each run but for folders and ports: enough to judge whether it is fair.
    let plan = Plan {
        work: task.work,
        dir: "DIR".into(),
        input: if task.work.from() == From::Docker { "INPUT".into() } else { "INPUT/input.log".into() },
        port: 24224,
        http_port: 8080,
        sinks: task.sinks,
        readers: task.readers,
    };
    let configs: Vec<Config> = shippers.iter().map(|shipper| shipper::setup(shipper.kind, &plan).files).collect();
    for (shipper, config) in shippers.iter().zip(&configs) {
        for (name, text) in config {
            tell(&format!("--- {} {name} for {}\n{text}---", shipper.name, task.work.name()));
        }
    }
    let runs = match Load::make(task) {
        Ok(mut load) => take_turns(task, repeats, shippers, &mut load, tell),
        Err(error) => vec![Err(error); shippers.len()],
    };
    let examples = shippers.iter().zip(&runs).filter_map(|(shipper, samples)| {
        let example = samples.as_ref().ok()?.iter().find_map(|sample| sample.example.clone())?;
        Some(format!("{}: {example}", shipper.name))
    });
    let examples = examples.collect();
    let rows = shippers.iter().zip(configs).zip(runs).map(|((shipper, config), samples)| Row {
        name: shipper.name.clone(),
        config,
        keeps_order: shipper.kind.keeps_order(task.work),
        delivers_once: shipper.kind.delivers_once(),
        ends_well: shipper.kind.ends_well(),
        figures: samples.map(|samples| Figures::of(&samples, task.records, bytes)),
    });
    Outcome { work: task.work.name(), about: about(task, bytes), repeats, rows: rows.collect(), examples }
}

/// Who runs when, as repeat and number: all of them once in each repeat. Each goes first in its turn: who comes after a shipper
/// that has left many pages to be freed pays for them.
fn turns(repeats: usize, shippers: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..repeats).flat_map(move |repeat| (0..shippers).map(move |turn| (repeat, (repeat + turn) % shippers)))
}

/// The runs of each shipper. One that has failed has no more turns.
fn take_turns(
    task: &Task,
    repeats: usize,
    shippers: &[Shipper],
    load: &mut Load,
    tell: &dyn Fn(&str),
) -> Vec<Result<Vec<Sample>, String>> {
    let mut runs = vec![Ok(Vec::new()); shippers.len()];
    for (repeat, nth) in turns(repeats, shippers.len()) {
        let Ok(samples) = &mut runs[nth] else { continue };
        let head = format!("{} {}/{repeats} {}", task.work.name(), repeat + 1, shippers[nth].name);
        match measure::measure(task, &shippers[nth], load) {
            Ok(sample) => {
                tell(&format!(
                    "{head}: {:.2} s, {:.2} CPU s ({:.2} of them the kernel's), {:.1} MB",
                    sample.seconds,
                    sample.cpu.seconds,
                    sample.cpu.system,
                    sample.peak as f64 / 1e6
                ));
                samples.push(sample);
            }
            Err(error) => {
                tell(&format!("{head}: failed: {error}"));
                runs[nth] = Err(error);
            }
        }
    }
    runs
}

fn about(task: &Task, bytes: u64) -> String {
    let each = bytes / task.records.max(1);
    let whence = match task.work.from() {
        From::Docker => {
            let readers = task.readers.map_or(String::new(), |readers| format!(", {readers} readers"));
            format!("{} containers{readers}", task.containers)
        }
        From::Lines => "one file".to_owned(),
        From::Packed | From::Messages => format!("{} connections", task.connections),
    };
    let sinks = if task.sinks > 1 { format!(", {} sinks", task.sinks) } else { String::new() };
    let cores = task.cores.map_or(String::new(), |cores| format!(", {cores} cores"));
    let shape = task.recipe.shape.to_possible_value().map_or(String::new(), |known| known.get_name().to_owned());
    format!(
        "{} records of {each} B ({:.1} MB), shape {shape}, {whence}{sinks}{cores}",
        task.records,
        bytes as f64 / 1e6
    )
}

/// Runs one axis and draws it.
fn run_row(
    axis: Axis,
    points: Vec<(String, Task)>,
    options: &Options,
    shippers: &[Shipper],
    done: &mut Done,
    tell: &dyn Fn(&str),
) -> Result<(), String> {
    let (mut outcomes, mut names, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
    for (name, task) in points {
        outcomes.push(compare(&task, options.repeats, shippers, tell));
        names.push(name);
        sinks.push(if axis == Axis::Sinks { task.sinks as f64 } else { 1.0 });
    }
    let of = |figures: &Figures| if axis.counts_bytes() { figures.megabytes } else { figures.per_second };
    let of_cpu = |figures: &Figures| {
        if axis.counts_bytes() { 1000.0 / figures.cpu_per_gigabyte } else { figures.per_cpu_second }
    };
    let mut series = Vec::new();
    for (nth, shipper) in shippers.iter().enumerate() {
        // What each of two sinks has written is twice the work, so it counts twice.
        let by = |of: &dyn Fn(&Figures) -> f64| -> Vec<f64> {
            let figures = outcomes.iter().map(|outcome: &Outcome| &outcome.rows[nth].figures);
            figures.zip(&sinks).map(|(figures, sinks)| figures.as_ref().map_or(f64::NAN, of) * sinks).collect()
        };
        for (what, values, dashed) in [("by the clock", by(&of), false), ("a CPU second", by(&of_cpu), true)] {
            series.push(Series { name: format!("{}, {what}", shipper.name), colour: nth, dashed, values });
        }
    }
    done.falls.extend(scale::falls(axis, &names, &series));
    let unit = match axis {
        _ if axis.counts_bytes() => "MB",
        Axis::Sinks => "records, one for each sink",
        _ => "records",
    };
    let title = format!("{} by {}", axis.work().name(), axis.name());
    let text = plot::svg(&title, axis.name(), unit, &names, &series);
    let path = options.svg.join(format!("{}.svg", axis.name()));
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    done.outcomes.extend(outcomes);
    done.plots.push(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_run_once_in_each_repeat_and_each_goes_first_in_its_turn() {
        let order: Vec<(usize, usize)> = turns(4, 3).collect();
        let expected = [(0_usize, [0_usize, 1, 2]), (1, [1, 2, 0]), (2, [2, 0, 1]), (3, [0, 1, 2])];
        let expected = expected.into_iter().flat_map(|(repeat, all)| all.map(|nth| (repeat, nth)));
        assert_eq!(order, expected.collect::<Vec<_>>());
        assert_eq!(turns(3, 1).map(|(_, nth)| nth).collect::<Vec<_>>(), [0, 0, 0]);
    }

    #[test]
    fn both_reports_name_the_plots_the_falls_and_what_was_left_out() {
        let header = Header { machine: "a machine".into(), load_average: None, peers: Vec::new() };
        let (falls, left_out) = (vec!["sinks 1 to 2: 30 % less".into()], vec!["rotate: no".into()]);
        let done = Done { header, outcomes: Vec::new(), plots: vec!["DIR/sinks.svg".into()], falls, left_out };
        let text = "a machine\nplot: DIR/sinks.svg\nfall: sinks 1 to 2: 30 % less\nleft out: rotate: no\n";
        assert_eq!(done.text(), text);
        let report = done.json();
        assert_eq!(report["plots"], serde_json::json!(["DIR/sinks.svg"]));
        assert_eq!(report["falls"], serde_json::json!(["sinks 1 to 2: 30 % less"]));
        assert_eq!(report["left_out"], serde_json::json!(["rotate: no"]));
        assert!(done.is_whole(), "none of that is a loss");
    }
}
