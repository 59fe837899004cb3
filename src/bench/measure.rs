//! One run of one shipper: the backlog (throughput, CPU time), then a paced trickle (latency), then the check.
//!
//! 1. The output folder is empty but for a file of zeros that the output takes the memory of (`ballast.rs`), and the file
//!    system has nothing to write back.
//! 2. The shipper starts and finds the whole backlog: files are written beforehand and have just been read, senders send as
//!    fast as it takes them. The clock runs from its start (from the first byte sent, for senders) until the last record is seen
//!    in the output for the first time; CPU time is all that the process has used by then, its start included. A line that was
//!    there before is no progress (`receive.rs`).
//! 3. Records follow at a fixed rate; each has the time from before it was written to when it was seen in the output,
//!    looked for every 0.3 ms.
//! 4. SIGTERM; when the process has ended, the whole output is checked. An end by another signal or with a status that is not 0
//!    is told, and fails the bench where it is ours.
//!
//! For `rotate` there is no backlog: all records come at the given rate into files that are rotated meanwhile.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::ballast::Ballast;
use super::child::{Cpu, Process};
use super::generate::Recipe;
use super::load::{Files, Parcel, Sender, connections_of, parcels};
use super::receive::{Endpoint, Watch};
use super::shipper::{self, Plan, Shipper};
use super::verify::{self, Verdict};
use super::work::{From, Work};
use crate::workers::Workers;

/// What is missing after so long without anything new is lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// Docker's `max-size` and `max-file` of `rotate`.
const ROTATE_BYTES: u64 = 1 << 20;
const ROTATE_FILES: usize = 3;
/// Who has had nothing new for so long is idle.
const IDLE: Duration = Duration::from_millis(200);
/// Between runs: the kernel frees what the last one has left.
const SETTLE: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(2);
const TICK: Duration = Duration::from_micros(300);
/// Bytes that the kernel maps at a time.
const PAGE: usize = 4096;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Task {
    /// What the shipper does.
    pub work: Work,
    /// What the records look like.
    pub recipe: Recipe,
    /// Records of the backlog.
    pub records: u64,
    /// Containers, for the works that have them.
    pub containers: usize,
    /// Connections, for the forward works.
    pub connections: usize,
    /// Outputs that each get every record.
    pub sinks: usize,
    /// Threads that read for longshore, for the works with Docker's files.
    pub readers: Option<u8>,
    /// Cores that the shipper may use; all without it.
    pub cores: Option<usize>,
    /// Records a second of the trickle, and how many.
    pub rate: f64,
    /// Records of the trickle.
    pub trickle: u64,
    /// Where everything is written, in folders that are made and removed.
    pub dir: PathBuf,
}

impl Task {
    /// Bytes of the whole input, from a sample of its records.
    pub fn input_bytes(&self) -> u64 {
        let step = (self.records / 1000).max(1);
        let (mut text, mut bytes, mut count) = (Vec::new(), 0u64, 0u64);
        for seq in (0..self.records).step_by(step as usize) {
            text.clear();
            self.work.input(&self.recipe, seq, &mut text);
            bytes += text.len() as u64;
            count += 1;
        }
        (bytes as f64 / count.max(1) as f64 * self.records as f64) as u64
    }

    /// Says of a record its container, file or connection, whose records have an order. None for what senders trickle: how
    /// many go over one connection at a time is left to the clock.
    pub fn sources(&self) -> Box<dyn Fn(u64) -> Option<u64>> {
        let (records, containers) = (self.records, self.containers as u64);
        match self.work.from() {
            From::Docker => Box::new(move |seq| Some(seq % containers)),
            From::Lines => Box::new(|_| Some(0)),
            From::Packed | From::Messages => {
                let of = connections_of(self.work, &self.recipe, records, self.connections);
                Box::new(move |seq| (seq < records).then(|| of(seq)))
            }
        }
    }
}

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Sample {
    /// From the start to the last record.
    pub seconds: f64,
    /// Records that were there by then, in the output that has the fewest, and are as they should be: each counts once.
    pub arrived: u64,
    /// User and system time up to then.
    pub cpu: Cpu,
    /// Bytes resident, at most.
    pub peak: u64,
    /// From written to delivered, ascending.
    pub latencies: Vec<Duration>,
    /// How the output looked.
    pub verdict: Verdict,
    /// A line that was wrong.
    pub example: Option<String>,
    /// How often a file was rotated under it, for the work that is about that.
    pub rotations: Option<u64>,
    /// How it ended at its stop, if not well.
    pub bad_end: Option<String>,
}

/// The load of a task, made once and used by all shippers in turn.
#[derive(Debug)]
pub enum Load {
    /// Files below a folder, or one file.
    Files(Files, PathBuf),
    /// Parcels for senders.
    Parcels(Arc<Vec<Parcel>>),
    /// Made anew for each run.
    Rotating,
}

impl Load {
    /// Makes it.
    pub fn make(task: &Task) -> Result<Load, String> {
        let (work, recipe) = (task.work, &task.recipe);
        match work.from() {
            _ if work == Work::Rotate => Ok(Load::Rotating),
            From::Docker | From::Lines => {
                let dir = task.dir.join("input");
                remake(&dir)?;
                let files = Files::make(work, recipe, task.records, task.containers, &dir).map_err(said(&dir))?;
                let input = if work.from() == From::Docker { dir } else { dir.join("input.log") };
                Ok(Load::Files(files, input))
            }
            From::Packed | From::Messages => {
                parcels(work, recipe, 0..task.records, task.connections).map(|all| Load::Parcels(Arc::new(all)))
            }
        }
    }

    /// Looks at each page of what is going to be read or sent, so that the next one finds it where that is cheap.
    ///
    /// A virtual machine's host may take back the way to memory that nobody has looked at for some seconds, and who looks at it
    /// next pays for each page, as for new memory (`ballast.rs`). After four seconds of another shipper, 170 MB that were in
    /// the page cache all along cost the next one 0.25 s of CPU time in the kernel, and 0.02 s if it came at once: of the 0.7 and
    /// 0.35 s that it needed in all. A sender would be held up, while the receiver waits for it.
    fn warm(&self) -> std::io::Result<()> {
        match self {
            Load::Files(files, _) => files.read_all()?,
            Load::Parcels(parcels) => {
                let pages = parcels.iter().flat_map(|parcel| parcel.bytes.iter().step_by(PAGE));
                std::hint::black_box(pages.fold(0_u8, |sum, byte| sum ^ byte));
            }
            Load::Rotating => {}
        }
        Ok(())
    }
}

fn said(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    |error| format!("{}: {error}", path.display())
}

fn remake(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(said(dir)(error)),
        _ => (),
    }
    fs::create_dir_all(dir).map_err(said(dir))
}

/// Runs `shipper` once.
pub fn measure(task: &Task, shipper: &Shipper, load: &mut Load) -> Result<Sample, String> {
    let run = task.dir.join("run");
    remake(&run)?;
    let result = Run::start(task, shipper, load, &run).and_then(Run::finish);
    if let Load::Files(files, _) = load {
        files.reset().map_err(said(&task.dir))?;
    }
    result
}

/// Where records of the trickle go.
enum Outlet<'l> {
    Files(&'l mut Files),
    Own(Files),
    Senders(Sender),
}

struct Run<'t, 'l> {
    task: &'t Task,
    plan: Plan,
    process: Process,
    outlet: Outlet<'l>,
    watches: Vec<Watch>,
    seconds: f64,
    cpu: Cpu,
    /// Held until the end of the run.
    _endpoint: Option<Endpoint>,
}

impl<'t, 'l> Run<'t, 'l> {
    /// Starts the shipper and sees the backlog through.
    fn start(task: &'t Task, shipper: &Shipper, load: &'l mut Load, run: &Path) -> Result<Run<'t, 'l>, String> {
        let workers = Arc::new(Workers::default());
        let own = run.join("input");
        let input = if let Load::Files(_, input) = &*load { input.clone() } else { own.clone() };
        let mut plan = Plan {
            work: task.work,
            dir: run.to_owned(),
            input,
            port: free_port()?,
            http_port: 0,
            sinks: task.sinks,
            readers: task.readers,
        };
        let outputs: Vec<PathBuf> = (0..task.sinks).map(|nth| plan.output(nth)).collect();
        let endpoint = task.work.to_http().then(|| Endpoint::start(&outputs, &workers)).transpose();
        let endpoint = endpoint.map_err(said(run))?;
        plan.http_port = endpoint.as_ref().map_or(0, |endpoint| endpoint.port);
        let setup = shipper::setup(shipper.kind, &plan);
        shipper::write(&setup, run)?;
        let watches = outputs.iter().map(|path| Watch::new(path, task.records + task.trickle)).collect();
        // An output is about as large as the input.
        let expected = if task.work == Work::Rotate { 0 } else { task.input_bytes() * task.sinks as u64 };
        let mut ballast = Ballast::make(&run.join("ballast"), expected).map_err(said(run))?;
        // Nothing of what was written before is to be paid for now.
        let settled = File::open(run).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        settled.map_err(said(run))?;
        thread::sleep(SETTLE);
        load.warm().map_err(said(run))?;
        let (parcels, files) = match load {
            Load::Files(files, _) => (None, Some(Outlet::Files(files))),
            Load::Parcels(parcels) => (Some(Arc::clone(parcels)), None),
            Load::Rotating => {
                remake(&own)?;
                let files = Files::make(task.work, &task.recipe, 0, task.containers, &own).map_err(said(&own))?;
                (None, Some(Outlet::Own(files)))
            }
        };
        ballast.shrink(0.0).map_err(said(run))?;
        let mut began = Instant::now();
        let mut process = Process::start(&shipper.program, &setup.args, run, task.cores)?;
        let mut watches: Vec<Watch> = watches;
        let outlet = match (parcels, files) {
            (Some(parcels), _) => {
                let sender = Sender::connect(plan.port, task.connections, || process.check())?;
                began = Instant::now();
                let sending = sender.start(&parcels, &workers)?;
                let (seconds, cpu) = backlog(&mut watches, task, &mut process, began, ballast)?;
                let sender = if arrived(&watches) >= task.records { sending.finish()? } else { Sender::default() };
                let outlet = Outlet::Senders(sender);
                return Ok(Run { task, plan, process, outlet, watches, seconds, cpu, _endpoint: endpoint });
            }
            (None, Some(outlet)) => outlet,
            (None, None) => return Err("there is no load".to_owned()),
        };
        let (seconds, cpu) = match task.work {
            Work::Rotate => (0.0, Cpu::default()),
            _ => backlog(&mut watches, task, &mut process, began, ballast)?,
        };
        Ok(Run { task, plan, process, outlet, watches, seconds, cpu, _endpoint: endpoint })
    }

    /// The trickle, the end of the shipper, the check.
    fn finish(mut self) -> Result<Sample, String> {
        let rotates = self.task.work == Work::Rotate;
        let backlog = if rotates { 0 } else { self.task.records };
        let trickle = if rotates { self.task.records } else { self.task.trickle };
        let mut latencies = Vec::new();
        let (mut records, mut clocked) = (backlog, arrived(&self.watches));
        // A shipper that has lost records can not be told from a slow one.
        if clocked >= backlog && trickle > 0 {
            let began = Instant::now();
            latencies = self.trickle(backlog..backlog + trickle)?;
            records += trickle;
            if rotates {
                (self.seconds, self.cpu) = (seconds_until_latest(&self.watches, began), self.process.cpu()?);
                clocked = arrived(&self.watches);
            }
        }
        let peak = self.process.peak_memory()?;
        let rotations = self.outlet.rotations();
        // Senders go first: who serves its connections to their end would wait for them.
        drop(self.outlet);
        let bad_end = self.process.stop()?;
        let (mut verdict, mut example) = (Verdict::default(), None);
        for nth in 0..self.task.sinks {
            let path = self.plan.output(nth);
            let found = verify::verify(&path, self.task, records).map_err(said(&path))?;
            verdict.add(found.verdict);
            clocked = clocked.min(found.arrived);
            example = example.or(found.example);
        }
        latencies.sort_unstable();
        let (seconds, cpu) = (self.seconds, self.cpu);
        Ok(Sample { seconds, arrived: clocked, cpu, peak, latencies, verdict, example, rotations, bad_end })
    }

    /// Writes `records` at the task's rate and takes the time of each.
    fn trickle(&mut self, records: std::ops::Range<u64>) -> Result<Vec<Duration>, String> {
        let (task, first) = (self.task, records.start);
        let mut written: Vec<Instant> = Vec::new();
        let mut latencies = Vec::new();
        let (began, mut news) = (Instant::now(), Instant::now());
        let (mut next, mut turn) = (records.start, 0);
        while latencies.len() < (records.end - first) as usize {
            let due = first + (began.elapsed().as_secs_f64() * task.rate) as u64 + 1;
            let to = due.min(records.end);
            if to > next {
                let now = Instant::now();
                written.resize((to - first) as usize, now);
                self.outlet.write(task, next..to, turn)?;
                (next, turn, news) = (to, turn + 1, now);
            }
            // The first output stands for all: they are written to side by side.
            let watch = &mut self.watches[0];
            let found = watch.look(|seq| {
                let at = seq.checked_sub(first);
                if let Some(written) = at.and_then(|at| written.get(at as usize)) {
                    latencies.push(written.elapsed());
                }
            });
            if found.map_err(|error| error.to_string())? > 0 {
                news = Instant::now();
            } else if news.elapsed() > PATIENCE {
                break;
            }
            self.process.check()?;
            thread::sleep(TICK);
        }
        for watch in &mut self.watches[1..] {
            let deadline = Instant::now() + PATIENCE;
            while watch.arrived < records.end && Instant::now() < deadline {
                watch.look(|_| ()).map_err(|error| error.to_string())?;
                thread::sleep(LOOK);
            }
        }
        Ok(latencies)
    }
}

impl Outlet<'_> {
    fn rotations(&self) -> Option<u64> {
        if let Outlet::Own(files) = self { Some(files.rotations) } else { None }
    }

    fn write(&mut self, task: &Task, records: std::ops::Range<u64>, turn: usize) -> Result<(), String> {
        match self {
            Outlet::Files(files) => files.append(task.work, &task.recipe, records).map_err(|error| error.to_string()),
            Outlet::Own(files) => files
                .append(task.work, &task.recipe, records)
                .and_then(|()| files.rotate(ROTATE_BYTES, ROTATE_FILES))
                .map_err(|error| error.to_string()),
            Outlet::Senders(sender) => {
                parcels(task.work, &task.recipe, records, 1)?.iter().try_for_each(|parcel| sender.send(turn, parcel))
            }
        }
    }
}

/// Records that are in every output.
fn arrived(watches: &[Watch]) -> u64 {
    watches.iter().map(|watch| watch.arrived).min().unwrap_or(0)
}

/// Lines that were counted in every output.
fn counted(watches: &[Watch]) -> u64 {
    watches.iter().map(|watch| watch.lines).min().unwrap_or(0)
}

/// From `began` to when the last record was there in the last output that got one.
fn seconds_until_latest(watches: &[Watch], began: Instant) -> f64 {
    let latest = watches.iter().filter_map(|watch| watch.latest).max();
    latest.map_or(0.0, |latest| latest.duration_since(began).as_secs_f64())
}

/// Records that are new, in all outputs together.
fn look(watches: &mut [Watch]) -> Result<u64, String> {
    let mut news = 0;
    for watch in watches {
        news += watch.look(|_| ()).map_err(|error| error.to_string())?;
    }
    Ok(news)
}

/// Waits until all outputs have the backlog, or nothing new comes any more. The seconds until the last news, and the CPU time
/// then.
fn backlog(
    watches: &mut [Watch],
    task: &Task,
    process: &mut Process,
    began: Instant,
    mut ballast: Ballast,
) -> Result<(f64, Cpu), String> {
    let mut last = Instant::now();
    // Of who has lost records, not what it takes to wait for them in vain.
    let mut idle = None;
    while counted(watches) < task.records && last.elapsed() < PATIENCE {
        let mut news = 0;
        for watch in &mut *watches {
            news += watch.count().map_err(|error| error.to_string())?;
        }
        if news > 0 {
            (last, idle) = (Instant::now(), None);
            let part = counted(watches) as f64 / task.records.max(1) as f64;
            ballast.shrink(part).map_err(|error| error.to_string())?;
        } else {
            process.check()?;
            if idle.is_none() && last.elapsed() > IDLE {
                idle = Some(process.cpu()?);
            }
            thread::sleep(LOOK);
        }
    }
    let mut cpu = idle.map_or_else(|| process.cpu(), Ok)?;
    // So many lines are so many records unless some came twice: then the rest is still to come.
    let mut news = look(watches)?;
    while arrived(watches) < task.records && last.elapsed() < PATIENCE {
        if news == 0 {
            process.check()?;
            thread::sleep(LOOK);
        }
        news = look(watches)?;
        if news > 0 {
            (last, cpu) = (Instant::now(), process.cpu()?);
        }
    }
    Ok((seconds_until_latest(watches, began), cpu))
}

/// A port that nobody listens on at the moment.
fn free_port() -> Result<u16, String> {
    let found = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(|error| format!("a free port: {error}"))
}
