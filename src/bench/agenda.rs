//! What is going to be run: works, or the rows of `--scale`, all checked before anything starts.
//!
//! Limits: what is sent to a forward port has to fit in memory ([`LOAD_MAX`]), and containers and connections in the
//! system's limit of open files.

use std::path::PathBuf;

use clap::ValueEnum as _;
use rustix::process::{Resource, getrlimit};

use super::Options;
use super::generate::Shape;
use super::load::LOAD_MAX;
use super::measure::Task;
use super::scale::Axis;
use super::work::{From, Work};
use crate::inputs::follow::held;

/// Docker splits what is longer.
const DOCKER_LINE_MAX: usize = 16 << 10;
/// Records a second of `rotate`: some 35 MB/s, so a file of 1 MiB lasts for 30 ms.
const ROTATE_RATE: f64 = 100_000.0;
/// Records a second of the other works' trickle.
const TRICKLE_RATE: f64 = 5000.0;
/// Open files beside those of containers and connections: ours, and what a shipper needs for itself.
const OTHER_FILES: u64 = 256;

/// See the header.
#[derive(Debug, Default)]
pub struct Agenda {
    /// A task for each work.
    pub works: Vec<Task>,
    /// An axis, its points and their tasks.
    pub rows: Vec<(Axis, Vec<(String, Task)>)>,
    /// Works that nobody has named and that can not be done so, each with the reason.
    pub left_out: Vec<String>,
}

impl Agenda {
    /// What `options` ask for, to be written below `dir`.
    pub fn of(options: &Options, dir: PathBuf) -> Result<Agenda, String> {
        let base = Task {
            work: Work::DockerFile,
            recipe: options.recipe,
            records: options.records,
            containers: options.containers,
            connections: options.connections,
            sinks: 1,
            readers: options.readers,
            cores: None,
            rate: options.rate.unwrap_or(TRICKLE_RATE),
            trickle: 0,
            dir,
        };
        let named = options.works.iter().copied().chain(options.scale.iter().map(|axis| axis.work()));
        if options.readers.is_some()
            && let Some(work) = named.into_iter().find(|work| work.from() != From::Docker)
        {
            let name = work.name();
            return Err(format!(
                "{name}: --readers is for Docker's files; leave it out, or take docker-file, docker-http or rotate"
            ));
        }
        let mut agenda = Agenda::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for axis in &options.scale {
            let points = axis.points(&base, cores);
            let refused = points.iter().find_map(|(_, task)| unfit(task));
            if let Some(why) = refused {
                return Err(format!("--scale {}: {why}", axis.name()));
            }
            agenda.rows.push((*axis, points));
        }
        let all = options.scale.is_empty() && options.works.is_empty();
        for work in if all { Work::value_variants() } else { &options.works } {
            let task = task_of(*work, &base, options);
            match unfit(&task) {
                None => agenda.works.push(task),
                Some(why) if all => agenda.left_out.push(format!("{}: {why}", work.name())),
                Some(why) => return Err(format!("{}: {why}", work.name())),
            }
        }
        agenda.tasks().try_for_each(fits_in_memory)?;
        Ok(agenda)
    }

    fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.works.iter().chain(self.rows.iter().flat_map(|(_, points)| points.iter().map(|(_, task)| task)))
    }

    /// Raises the limit of open files, which shippers inherit, and says if it is too low all the same.
    pub fn make_room(&self) -> Result<(), String> {
        held::raise_limit();
        self.fits_in(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn fits_in(&self, limit: u64) -> Result<(), String> {
        let needs = self.tasks().map(|task| match task.work.from() {
            From::Docker => (task.containers, "containers"),
            From::Lines => (1, "file"),
            From::Packed | From::Messages => (task.connections, "connections"),
        });
        let (count, what) = needs.max().unwrap_or_default();
        let needed = count as u64 + OTHER_FILES;
        if needed <= limit {
            return Ok(());
        }
        Err(format!(
            "{count} {what} need {needed} open files, and the system's hard limit is {limit}; raise it (`ulimit -n` as root, LimitNOFILE of systemd, --ulimit nofile of Docker), or take fewer {what}"
        ))
    }
}

fn task_of(work: Work, base: &Task, options: &Options) -> Task {
    let rate = options.rate.unwrap_or(if work == Work::Rotate { ROTATE_RATE } else { base.rate });
    Task { work, rate, trickle: (rate * options.seconds) as u64, ..base.clone() }
}

/// Why nobody can do this work with these records.
fn unfit(task: &Task) -> Option<String> {
    let long = task.recipe.line_size.is_some_and(|size| size > DOCKER_LINE_MAX);
    if task.work.parses_json() && long {
        return Some(format!(
            "Docker splits lines above {DOCKER_LINE_MAX} bytes; take a smaller --line-size, or line-file"
        ));
    }
    let fits = task.work != Work::RegexFile || task.recipe.shape == Shape::Normal;
    (!fits).then(|| "its pattern fits lines of --shape normal only".to_owned())
}

fn fits_in_memory(task: &Task) -> Result<(), String> {
    let is_held = matches!(task.work.from(), From::Packed | From::Messages);
    let bytes = if is_held { task.input_bytes() } else { 0 };
    if bytes <= LOAD_MAX {
        return Ok(());
    }
    let name = task.work.name();
    Err(format!(
        "{name}: {bytes} bytes to send are more than the {LOAD_MAX} that are held in memory; take fewer --records"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::generate::Recipe;
    use super::*;

    fn options(works: &[Work], line_size: Option<usize>) -> Options {
        Options {
            works: works.to_vec(),
            recipe: Recipe { shape: Shape::Normal, line_size },
            records: 1000,
            repeats: 1,
            containers: 3,
            connections: 5,
            readers: None,
            rate: None,
            seconds: 2.0,
            peers: Vec::new(),
            dir: None,
            scale: Vec::new(),
            svg: "DIR".into(),
        }
    }

    fn names(agenda: &Agenda) -> Vec<&str> {
        agenda.works.iter().map(|task| task.work.name()).collect()
    }

    #[test]
    fn works_that_can_not_be_done_are_left_out_unless_they_are_named() {
        let all = Agenda::of(&options(&[], None), "DIR".into()).expect("all can be done");
        assert_eq!((all.works.len(), all.left_out.len()), (Work::value_variants().len(), 0));
        assert!(all.works.iter().all(|task| task.trickle == (task.rate * 2.0) as u64));

        let long = Agenda::of(&options(&[], Some(64 << 10)), "DIR".into()).expect("some can be done");
        assert_eq!(names(&long), ["forward-file", "line-file", "line-http", "regex-file", "durable"]);
        assert_eq!(long.left_out.len(), 4, "{:?}", long.left_out);
        assert!(long.left_out[0].starts_with("docker-file: Docker splits lines"), "{:?}", long.left_out);

        let mut small = options(&[], None);
        small.recipe.shape = Shape::Small;
        let small = Agenda::of(&small, "DIR".into()).expect("most can be done");
        assert_eq!((small.works.len(), small.left_out.len()), (8, 1), "{:?}", small.left_out);

        let named = [Work::LineFile, Work::DockerFile];
        let refused = Agenda::of(&options(&named, Some(64 << 10)), "DIR".into()).expect_err("it is named");
        assert!(refused.starts_with("docker-file: Docker splits lines above 16384 bytes"), "{refused}");
    }

    #[test]
    fn readers_are_for_docker_s_files_alone() {
        let with = |works: &[Work], scale: &[Axis]| {
            let mut many = options(works, None);
            (many.readers, many.scale) = (Some(4), scale.to_vec());
            Agenda::of(&many, "DIR".into())
        };
        let all = with(&[], &[]).expect("works without a name are none that was asked for");
        assert!(all.left_out.is_empty() && all.works[0].readers == Some(4));
        assert!(with(&[Work::DockerHttp, Work::Rotate], &[]).is_ok() && with(&[], &[Axis::Containers]).is_ok());
        let refused = with(&[Work::DockerFile, Work::LineFile], &[]).expect_err("a line has one reader");
        assert!(refused.starts_with("line-file: --readers is for Docker's files; leave it out"), "{refused}");
        assert!(with(&[], &[Axis::Cores, Axis::Connections]).is_err());
    }

    #[test]
    fn a_row_of_points_is_checked_as_its_work_is() {
        let mut long = options(&[], Some(64 << 10));
        long.scale = vec![Axis::LineSize, Axis::Cores];
        let refused = Agenda::of(&long, "DIR".into()).expect_err("Docker splits them");
        assert!(refused.starts_with("--scale cores: Docker splits"), "{refused}");
        long.scale = vec![Axis::LineSize];
        let row = Agenda::of(&long, "DIR".into()).expect("lines may be long");
        assert!(row.works.is_empty() && row.rows.len() == 1, "no work beside a row");
    }

    #[test]
    fn a_load_that_does_not_fit_in_memory_is_refused_before_anything_runs() {
        let mut large = options(&[Work::LineFile, Work::ForwardFile], Some(64 << 10));
        large.records = 200_000;
        let refused = Agenda::of(&large, "DIR".into()).expect_err("13 GB");
        assert!(refused.starts_with("forward-file: ") && refused.contains("fewer --records"), "{refused}");
        large.works = vec![Work::LineFile];
        assert!(Agenda::of(&large, "DIR".into()).is_ok(), "that is on disk");
    }

    #[test]
    fn containers_and_connections_have_to_fit_in_the_limit_of_open_files() {
        let mut many = options(&[], None);
        many.scale = vec![Axis::Containers, Axis::Connections];
        let agenda = Agenda::of(&many, "DIR".into()).expect("it can be done");
        assert_eq!(agenda.fits_in(5256), Ok(()));
        let refused = agenda.fits_in(5255).expect_err("one less");
        assert!(refused.starts_with("5000 connections need 5256 open files, and the system's hard limit is 5255"));
        many.scale.clear();
        many.works = vec![Work::Rotate];
        let agenda = Agenda::of(&many, "DIR".into()).expect("it can be done");
        assert_eq!((agenda.fits_in(258).is_err(), agenda.fits_in(259)), (true, Ok(())));
    }
}
