//! Scaling: one work over a row of points (cores, containers, line sizes, connections, sinks), as a plot.
//!
//! Each point moves about the same number of bytes or records, so that a whole row takes a few minutes.

use clap::ValueEnum;

use super::generate::{Recipe, Shape};
use super::measure::Task;
use super::plot::Series;
use super::work::Work;

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    /// Cores that the shipper may use: 1, 2, ... all
    Cores,
    /// Containers: 1, 10, 100, 1000
    Containers,
    /// Bytes of a line: just under 64 to 1 MiB, so that what is read at a time ends within lines
    LineSize,
    /// Connections of forward senders: 1, 10, 100, 1000, 5000
    Connections,
    /// File sinks that each get every record, which counts once for each: 1, 2, 4
    Sinks,
}

/// A fall between two neighbouring points that wants a reason: more than this share of the first.
const CLIFF: f64 = 0.2;
/// Bytes that a point of `line-size` moves, at most.
const POINT_BYTES: u64 = 256 << 20;

impl Axis {
    /// Its name in files and titles.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Cores => "cores",
            Axis::Containers => "containers",
            Axis::LineSize => "line-size",
            Axis::Connections => "connections",
            Axis::Sinks => "sinks",
        }
    }

    /// The work that shows it.
    pub fn work(self) -> Work {
        match self {
            Axis::Cores | Axis::Containers | Axis::Sinks => Work::DockerFile,
            Axis::LineSize => Work::LineFile,
            Axis::Connections => Work::ForwardFile,
        }
    }

    /// Whether the plot counts bytes; else records.
    pub fn counts_bytes(self) -> bool {
        self == Axis::LineSize
    }

    /// The points of the row: what stands at the axis, and the task there.
    pub fn points(self, base: &Task, cores: usize) -> Vec<(String, Task)> {
        let base = Task { work: self.work(), trickle: 0, ..base.clone() };
        let task = |change: &dyn Fn(&mut Task)| {
            let mut task = base.clone();
            change(&mut task);
            task
        };
        let counts = |counts: &[usize], change: fn(&mut Task, usize)| {
            counts.iter().map(|count| (count.to_string(), task(&|task| change(task, *count)))).collect()
        };
        match self {
            Axis::Cores => {
                let all: Vec<usize> = (0..).map(|n| 1 << n).take_while(|count| *count <= cores).collect();
                counts(&all, |task, count| {
                    task.cores = Some(count);
                    task.containers = task.containers.max(4);
                })
            }
            Axis::Containers => counts(&[1, 10, 100, 1000], |task, count| task.containers = count),
            Axis::Connections => counts(&[1, 10, 100, 1000, 5000], |task, count| task.connections = count),
            Axis::Sinks => counts(&[1, 2, 4], |task, count| task.sinks = count),
            Axis::LineSize => [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20]
                .into_iter()
                .map(|size| {
                    let name = if size < 1 << 10 { format!("{size} B") } else { format!("{} KiB", size >> 10) };
                    let bytes = just_under(size);
                    let records = (base.records * 500).min(POINT_BYTES) / bytes as u64;
                    (
                        name,
                        task(&|task| {
                            // A text has its size to the byte.
                            task.recipe = Recipe { shape: Shape::Text, line_size: Some(bytes) };
                            task.records = records.max(50);
                        }),
                    )
                })
                .collect(),
        }
    }
}

/// Bytes of the lines at a point of `line-size`. Whoever reads in blocks of a power of two meets the end of a line at the end of each
/// where lines are as long as one, which real lines are not: at 15/16 of it, blocks end anywhere in a line, in the middle on average.
fn just_under(size: usize) -> usize {
    size / 16 * 15
}

/// The cliffs of all series over `points`, in words: by the clock and by CPU time are series of their own, and either may
/// fall while the other does not.
pub fn falls(axis: Axis, points: &[String], series: &[Series]) -> Vec<String> {
    let of = |line: &Series| {
        let say = |(from, share): (usize, f64)| {
            let (before, behind) = (&points[from], &points[from + 1]);
            format!("{} {before} to {behind}: {}: {:.0} % less", axis.name(), line.name, share * 100.0)
        };
        cliffs(&line.values).into_iter().map(say).collect::<Vec<_>>()
    };
    series.iter().flat_map(of).collect()
}

/// The cliffs of a row of values: the place before each, and the share that is lost there.
fn cliffs(values: &[f64]) -> Vec<(usize, f64)> {
    let falls = values.windows(2).map(|pair| 1.0 - pair[1] / pair[0]);
    falls.enumerate().filter(|(_, share)| *share > CLIFF).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_of_more_than_a_fifth_is_a_cliff() {
        assert_eq!(cliffs(&[100.0, 81.0, 40.5, 90.0]), [(1, 0.5)]);
        assert_eq!(cliffs(&[100.0, f64::NAN, 50.0]), [], "one that failed is told as that");
        assert_eq!(cliffs(&[100.0]), []);
        assert_eq!(cliffs(&[]), []);
    }

    #[test]
    fn the_lines_of_a_point_are_just_under_what_it_says_and_blocks_end_within_them() {
        let recipe = Recipe { shape: Shape::Normal, line_size: None };
        let base = Task {
            work: Work::DockerFile,
            recipe,
            records: 1_000_000,
            containers: 1,
            connections: 1,
            sinks: 1,
            readers: None,
            cores: None,
            rate: 1.0,
            trickle: 0,
            dir: "DIR".into(),
        };
        let points = Axis::LineSize.points(&base, 1);
        assert_eq!(points.len(), 8);
        for (name, task) in points {
            let (number, unit) = name.split_once(' ').expect("a number and its unit");
            let size = number.parse::<usize>().expect("a number") << if unit == "KiB" { 10 } else { 0 };
            for seq in [0, 3, task.records - 1] {
                let mut line = Vec::new();
                task.work.input(&task.recipe, seq, &mut line);
                assert_eq!(line.len(), just_under(size), "{name}, {seq}");
            }
            let ends: Vec<usize> = (1..=15).map(|blocks| (blocks << 18) % just_under(size)).collect();
            assert_eq!(ends.iter().filter(|end| **end == 0).count(), 1, "at one of fifteen: {name}, {ends:?}");
            assert!(just_under(size) < size && just_under(size) * 10 > size * 9, "{name}");
        }
    }

    #[test]
    fn a_fall_by_the_clock_alone_is_named_and_so_is_one_of_cpu_time_alone() {
        let series = |name: &str, values: [f64; 3]| Series {
            name: name.into(),
            colour: 0,
            dashed: false,
            values: values.into(),
        };
        let points = ["1", "10", "100"].map(str::to_owned);
        let rows = [series("x, by the clock", [100.0, 60.0, 60.0]), series("x, a CPU second", [90.0, 90.0, 45.0])];
        let told = falls(Axis::Containers, &points, &rows);
        assert_eq!(
            told,
            ["containers 1 to 10: x, by the clock: 40 % less", "containers 10 to 100: x, a CPU second: 50 % less"]
        );
    }
}
