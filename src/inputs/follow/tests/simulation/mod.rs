//! The deterministic simulation: opener, reader and saver stepped by one thread on real files, with a clock of its own.
//! Before every call that they make to the kernel a seeded scheduler lets the writer (`writer.rs`) take steps; it
//! crashes the engine at any call (a save is torn in the middle of its write), stops and starts it, and has a sink that
//! settles late, in any order, or not at all.
//!
//! The oracle. A line is reachable unless its generation lost its last name before the opener opened it or had one whole
//! turn, or was held by an engine that ended. Then:
//! - every reachable line arrives, and none that was never written;
//! - the first arrivals are in the order of writing;
//! - each generation that came and went before it could be opened is counted as lost, and nothing else is;
//! - where lines are gone at a start that knows a place, that is counted, and a container's have a record of the gap where they
//!   were (but for files that are cut off in place: nobody can say how much of those had been read);
//! - where lines went with a copy of a truncated file that the rotation removed, a truncation is counted after it was made;
//! - without a sink that fails, a line arrives twice only after a crash, and then only if it was not settled, or not
//!   followed by a save that came to its end: what that covers never comes again.
//!
//! `LONGSHORE_SEED=n` runs one seed, `LONGSHORE_SEEDS=n` so many, from `LONGSHORE_SEED_FROM` on, `LONGSHORE_THREADS` at a
//! time: most of a seed's time is spent waiting for the kernel to let go of an inotify instance. Its negative controls
//! break the engine on purpose ([`Break`]) and must be seen by the oracle.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use tokio::runtime::Handle;

use super::*;
use crate::inputs::Ack;
use crate::inputs::follow::chain::{self, About, First, Rules};
use crate::inputs::follow::disk::{self, Call};
use crate::inputs::follow::generations::{self, Family};
use crate::inputs::follow::keeper::Keeper;
use crate::inputs::follow::layout::{Folders, Known, Layout, Meaning};
use crate::inputs::follow::{checkpoint::Saver, clock, decode::Format, inotify::Bell, startup::Startup};
use crate::inputs::follow::{opener::Opener, opener::Setup, reader::Line, reader::Reader, reader::Step};
use crate::inputs::gate::Gate;
use crate::metrics::followed::Generation;
use crate::record::Tag;

mod cases;
mod judge;
mod names;
mod one_file;
mod seeds;
mod writer;

use one_file::OneFile;
use writer::{BASE, CALL, Rotation, Writer};

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Nothing,
    /// The opener does nothing after the start.
    Opener,
    /// The files of a folder are opened from the oldest to the newest.
    Scan,
    /// A checkpoint before delivery: receipts are settled when records are on their way, not when the sink has them.
    Checkpoint,
    /// A start that finds the file of its place gone says nothing of it.
    Silence,
}

/// Who rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Docker,
    Logrotate,
    CopyTruncate,
    Kubelet,
}

/// What the hook and the scheduler share.
struct World {
    writer: Writer,
    /// Calls until the crash.
    crash_in: Option<u32>,
    crashed: bool,
    /// The writer takes steps between calls.
    writing: bool,
    /// A save writes to this file.
    written: PathBuf,
    /// The last line that was settled with all before it, now; when the save at hand began; at the last one that came to its end.
    settled: Option<u64>,
    saving: Option<u64>,
    floor: Option<u64>,
}

impl World {
    fn before(&mut self, call: Call<'_>) -> std::io::Result<()> {
        if !self.crashed
            && self.crash_in.as_mut().is_some_and(|left| std::mem::replace(left, left.saturating_sub(1)) == 0)
        {
            self.crashed = true;
            if let Call::Write(bytes) = call {
                let torn = self.writer.rng.usize(0..bytes.len() + 1);
                let file = OpenOptions::new().append(true).create(true).open(&self.written);
                file.and_then(|mut file| file.write_all(&bytes[..torn])).expect("written");
            }
        }
        if self.crashed {
            return Err(std::io::Error::other("crashed"));
        }
        if self.writing && self.writer.rng.u8(0..4) == 0 {
            for _ in 0..self.writer.rng.u8(1..6) {
                self.writer.step();
            }
        }
        if self.writer.rotation.is_served() {
            self.writer.now += CALL;
            let (now, wall) = (self.writer.now, self.writer.wall);
            clock::set(Some((*START + now, wall + now)));
        }
        match call {
            Call::Open(path) => {
                if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                    self.writer.opens(name);
                }
            }
            Call::Create(path) => path.clone_into(&mut self.written),
            Call::Write(_) => self.saving = self.settled,
            // Of the whole, the folder's fsync is the only one that comes after the rename.
            Call::Rename(_) => self.floor = self.floor.max(self.saving),
            Call::Sync if self.written.ends_with("checkpoints.changes") => self.floor = self.floor.max(self.saving),
            _ => {}
        }
        Ok(())
    }
}

/// One life of the engine.
struct Life {
    metrics: Arc<Metrics>,
    /// Generations that were made before it began, and before it had begun; those that it had opened by then.
    made: (usize, usize),
    found: usize,
    /// Lines that had arrived before.
    from: usize,
    /// The last line that a save covers, with all before it.
    floor: Option<u64>,
    opener: Opener,
    reader: Reader,
    keeper: Keeper,
    checkpoints: Arc<Checkpoints>,
    saver: Saver,
    queue: mpsc::Receiver<Shipment>,
    /// With [`Break::Checkpoint`]: settled, and still on its way.
    early: Vec<Shipment>,
    /// What arrived and is not settled, and its last line.
    held: Vec<(usize, Shipment)>,
    /// By arrival: the last line of each batch, and whether it was settled.
    batches: Vec<(Option<u64>, bool)>,
}

/// Bytes of deleted files, where somebody lets the keeper look: two blocks.
const DELETED_MAX: u64 = 2 << 12;

fn docker_rules() -> Rules {
    Rules { input: "in".to_owned(), format: Format::Docker, line_max: 1 << 20, docker: true, ack: Ack::Delivered }
}

fn begin(folder: &Path, data: &Path, runtime: &Handle, rules: Rules) -> std::io::Result<Life> {
    let docker = rules.docker;
    let file = |known: &Checkpoints| OneFile { folder: folder.to_owned(), docker, is_new: known.keys("in").is_empty() };
    begin_with(&mut |known| Box::new(file(known)), data, runtime, rules, How::default())
}

/// What an input may have otherwise.
#[derive(Clone, Copy, Default)]
struct How {
    /// Its folders make no events.
    polled: bool,
    /// `start = "tail"`, at its first start.
    tail: bool,
    /// What is there is read, and no more.
    once: bool,
}

/// The same for any folders and names.
fn begin_with(
    layout: &mut dyn FnMut(&Checkpoints) -> Box<dyn Layout>,
    data: &Path,
    runtime: &Handle,
    rules: Rules,
    how: How,
) -> std::io::Result<Life> {
    let checkpoints = Checkpoints::open(data, Box::new(std::collections::BTreeMap::new))?;
    let metrics = Arc::new(Metrics::new(&[("in", "test")], &[("out", "test")]));
    let (sender, queue) = mpsc::channel(100_000);
    let port = Port { sink: 0, globs: vec![TagGlob::new("**")], queue: sender };
    let outlet = Outlet {
        input: 0,
        metrics: Arc::clone(&metrics),
        budget: Budget::new(1 << 40),
        gate: Gate::new(Pipeline::default(), Router::new(vec![port], Arc::clone(&metrics))),
        stop: Stop::default(),
        runtime: runtime.clone(),
        once: how.once,
        checkpoints: Some(Arc::clone(&checkpoints)),
    };
    let startup = Arc::new(Startup::new("in", "containers"));
    let chains = Arc::default();
    let keeper = Keeper::new(outlet.clone(), "in", Arc::clone(&chains), Some(DELETED_MAX));
    let (news, heard) = std::sync::mpsc::channel();
    let line = Line { news, park: Arc::default(), bell: Arc::new(Bell::new()?), ended: Arc::default() };
    let reader = Reader::new(outlet.clone(), Arc::new(rules), heard, line.clone(), Arc::clone(&startup));
    let setup = Setup {
        outlet,
        input: "in".to_owned(),
        layout: layout(&checkpoints),
        lines: vec![line],
        bell: Arc::new(Bell::new()?),
        tail: how.tail,
        startup,
        chains,
        hurry: false,
    };
    let mut opener = Opener::new(setup, !how.polled);
    opener.begin();
    let (saver, early, held, batches) = (Saver::default(), Vec::new(), Vec::new(), Vec::new());
    Ok(Life {
        metrics,
        made: (0, 0),
        found: 0,
        from: 0,
        floor: None,
        opener,
        reader,
        keeper,
        checkpoints,
        saver,
        queue,
        early,
        held,
        batches,
    })
}

/// A run of one seed.
struct Run {
    world: Rc<RefCell<World>>,
    rng: fastrand::Rng,
    life: Option<Life>,
    arrived: Vec<u64>,
    /// Where the word came that lines are gone: after so many arrivals.
    gaps: Vec<usize>,
    /// What is gone and was known to be at a start, and what has to be told of it.
    missing: BTreeSet<u64>,
    debts: Vec<judge::Debt>,
    /// What the engine counted in the lives before, and before the last of these.
    counted: judge::Counted,
    counted_before: judge::Counted,
    /// For each truncation that there was, how many it had counted before.
    rewritten_before: Vec<u64>,
    /// A sink that fails now and then.
    fails: bool,
    program: Program,
    format: Format,
    broken: Break,
    wrong: Option<String>,
}

impl Run {
    fn pass(&self, time: Duration) {
        let mut world = self.world.borrow_mut();
        world.writer.now += time;
        let (now, wall) = (world.writer.now, world.writer.wall);
        clock::set(Some((*START + now, wall + now)));
    }

    /// The opener's turn. What had a name all the time was within its reach.
    fn open(&mut self) {
        let Some(life) = &mut self.life else { return };
        let named = self.world.borrow().writer.named();
        if self.broken != Break::Opener {
            life.opener.step();
        }
        let mut world = self.world.borrow_mut();
        if !world.crashed {
            world.writer.offered(&named);
        }
    }

    fn deliver(&mut self) {
        let Some(life) = &mut self.life else { return };
        if self.world.borrow().crashed {
            return;
        }
        let waiting: Vec<Shipment> =
            life.early.drain(..).chain(std::iter::from_fn(|| life.queue.try_recv().ok())).collect();
        for shipment in waiting {
            let mut last = None;
            for at in 0..shipment.batch.len() {
                if shipment.batch.find(at, b"longshore_gap").is_some() {
                    self.gaps.push(self.arrived.len());
                    continue;
                }
                let field = shipment.batch.find(at, b"log").copied();
                let text = field.and_then(|field| crate::codec::json::text(shipment.batch.value(&field)));
                let text = text.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
                let text = text.trim_end_matches('\n');
                // A piece of a line may have the text of another line; its time says which line it is of.
                let time = crate::codec::time::of(&shipment.batch, at).map_or(0, |time| time.0);
                let line = time.rem_euclid(1_000_000_000).unsigned_abs();
                if self.program == Program::Kubelet && text != line.to_string() {
                    if !self.world.borrow().writer.is_left_of(line, text) {
                        self.wrong = Some(format!("a piece of line {line}, which was reachable: {text:?}"));
                    }
                    continue;
                }
                match text.parse() {
                    Ok(number) if !self.fails && self.arrived[life.from..].contains(&number) => {
                        self.wrong = Some(format!("line {number} came twice in one life"));
                    }
                    Ok(number) if !self.fails && life.floor.is_some_and(|floor| number <= floor) => {
                        self.wrong = Some(format!("line {number} came again, but a save covers it"));
                    }
                    Ok(number) => self.arrived.push(number),
                    Err(_) if self.world.borrow().writer.copies.fragments.contains(text.trim_start_matches('\0')) => {}
                    Err(_) => self.wrong = Some(format!("a record that was never written: {text:?}")),
                }
                // Of this life: a row may be the rest of a line that is gone.
                last = self.arrived[life.from..].last().copied();
            }
            let number = life.batches.len();
            life.batches.push((last, false));
            life.held.push((number, shipment));
        }
    }

    fn settle(&mut self) {
        let Some(life) = &mut self.life else { return };
        if life.held.is_empty() || self.world.borrow().crashed {
            return;
        }
        let (number, shipment) = life.held.swap_remove(self.rng.usize(0..life.held.len()));
        if self.fails && self.rng.u8(0..8) == 0 {
            // It came, but nobody said so.
            return;
        }
        shipment.receipts.settle(Outcome::Delivered);
        life.batches[number].1 = true;
        let whole = life.batches.iter().take_while(|(_, settled)| *settled).filter_map(|(last, _)| *last).max();
        let mut world = self.world.borrow_mut();
        world.settled = world.settled.max(whole);
    }

    fn read(&mut self, steps: usize) {
        let Some(life) = &mut self.life else { return };
        life.reader.woken();
        for _ in 0..steps {
            if !matches!(life.reader.step(), Step::Again) {
                break;
            }
        }
        if self.broken == Break::Checkpoint {
            while let Ok(mut shipment) = life.queue.try_recv() {
                std::mem::take(&mut shipment.receipts).settle(Outcome::Delivered);
                life.early.push(shipment);
            }
        }
    }

    /// Ends the engine, and starts it again. A clean stop settles and saves first.
    fn restart(&mut self, clean: bool, folder: &Path, data: &Path, runtime: &Handle) {
        if clean && !self.world.borrow().crashed {
            self.deliver();
            while self.life.as_ref().is_some_and(|life| !life.held.is_empty()) {
                self.settle();
            }
            if let Some(life) = &self.life {
                let _ = life.checkpoints.final_save();
            }
        }
        let missed = self.world.borrow().writer.missed_lines();
        let hidden = self.life.as_ref().is_none_or(|life| judge::at_least(life, &self.world.borrow().writer) == 0);
        // After a crash each call fails, and what can not be opened then counts as lost: nobody is left who would.
        if !self.world.borrow().crashed {
            let said = judge::counts(self, &self.world.borrow().writer, false);
            self.wrong = self.wrong.take().or(said.err());
        }
        (self.counted_before, self.counted) = (self.counted, judge::counted(self));
        judge::pay(&mut self.debts, self.counted);
        let began = self.life.take().map_or(0, |life| life.from);
        {
            let mut world = self.world.borrow_mut();
            (world.crashed, world.crash_in, world.settled) = (false, None, None);
            world.writer.reader_ended();
            for _ in 0..self.rng.usize(0..12) {
                if world.writing {
                    world.writer.step();
                }
            }
        }
        let debts = judge::debts(self, &missed, began, hidden);
        let from = self.arrived.len();
        let made = self.world.borrow().writer.made();
        let rules = Rules { docker: self.program == Program::Docker, format: self.format, ..docker_rules() };
        match begin(folder, data, runtime, rules) {
            Ok(mut life) => {
                let world = self.world.borrow();
                (life.from, life.floor) = (from, world.floor);
                (life.made, life.found) = ((made, world.writer.made()), world.writer.opened());
                drop(world);
                self.debts.extend(debts.into_iter().filter(|_| life.checkpoints.knows("in")));
                self.life = Some(life);
            }
            Err(error) => self.wrong = Some(format!("no start: {error}")),
        }
        self.read(3);
        self.deliver();
    }
}

static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

/// Of a seed: the same with the other format.
const OTHER_FORMAT: u64 = 1 << 32;

/// Runs one seed. What the oracle says against it.
fn run(seed: u64, program: Program, broken: Break, runtime: &Handle) -> Result<usize, String> {
    let (whole, seed, other) = (seed, seed & !OTHER_FORMAT, seed & OTHER_FORMAT != 0);
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() && !seed.is_multiple_of(8) {
        tempfile::tempdir_in(shm)
    } else {
        // ext4 gives an inode to the next file at once.
        tempfile::tempdir()
    };
    let dir = dir.expect("a temp dir");
    let (folder, data) = (dir.path().join("logs"), dir.path().join("data"));
    fs::create_dir(&folder).expect("made");
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let rotation = match program {
        Program::Docker => Rotation::of_docker,
        Program::Logrotate => Rotation::of_logrotate,
        Program::CopyTruncate => Rotation::of_copytruncate,
        Program::Kubelet => Rotation::of_kubelet,
    };
    disk::set_births(program != Program::Docker);
    let mut writer = Writer::new(seed, &folder, rotation);
    writer.step();
    let world = World {
        writer,
        crash_in: None,
        crashed: false,
        writing: true,
        settled: None,
        written: PathBuf::new(),
        saving: None,
        floor: None,
    };
    let world = Rc::new(RefCell::new(world));
    // Only a crash shows what a checkpoint before delivery costs.
    let early = broken == Break::Checkpoint;
    let fails = rng.u8(0..4) == 0 && !early;
    let crashes = rng.u8(0..3) > 0 || early;
    let mut run = Run {
        world: Rc::clone(&world),
        rng,
        life: None,
        arrived: Vec::new(),
        gaps: Vec::new(),
        missing: BTreeSet::new(),
        debts: Vec::new(),
        counted: judge::Counted::default(),
        counted_before: judge::Counted::default(),
        rewritten_before: Vec::new(),
        fails,
        program,
        format: match program {
            Program::Kubelet => Format::Cri,
            // What has no times is not remembered.
            Program::Logrotate | Program::CopyTruncate if (seed / 8) % 2 != u64::from(other) => Format::Json,
            _ => Format::Docker,
        },
        broken,
        wrong: None,
    };
    run.pass(Duration::ZERO);
    let hooked = Rc::clone(&world);
    generations::set_reversed(broken == Break::Scan);
    chain::set_silent(broken == Break::Silence);
    disk::set_hook(Some(Box::new(move |call| hooked.borrow_mut().before(call))));
    run.restart(false, &folder, &data, runtime);
    let mut restarts = 0;
    for _ in 0..run.rng.usize(40..250) {
        let rewritten = judge::counted(&run).rewritten;
        match run.rng.u8(0..20) {
            0..5 => run.open(),
            5..9 => {
                let steps = run.rng.usize(1..4);
                run.read(steps);
            }
            // What is on its way takes its time, so that a crash can come in between.
            9..11 if early && run.rng.u8(0..8) > 0 => {}
            9..11 => run.deliver(),
            11..14 => run.settle(),
            14 => {
                if let Some(life) = &mut run.life {
                    life.checkpoints.step(&mut life.saver);
                }
            }
            15..17 => {
                let time = [20, 1_000, 20_000, 300_000, 2_000_000][run.rng.usize(0..5)];
                run.pass(Duration::from_micros(time));
            }
            17 if restarts < 4 && (early || run.rng.u8(0..4) == 0) => {
                let clean = run.rng.bool() && !early;
                if clean {
                    run.restart(true, &folder, &data, runtime);
                    restarts += 1;
                } else if crashes && !run.fails {
                    world.borrow_mut().crash_in = Some(run.rng.u32(0..60));
                }
            }
            _ => world.borrow_mut().writer.step(),
        }
        if world.borrow().crashed {
            run.restart(false, &folder, &data, runtime);
            restarts += 1;
        }
        run.rewritten_before.resize(world.borrow().writer.copies.truncations, rewritten);
    }
    finish(&mut run);
    disk::set_hook(None);
    disk::set_births(false);
    generations::set_reversed(false);
    chain::set_silent(false);
    let counted = judge::counted(&run);
    judge::pay(&mut run.debts, counted);
    let said = judge::judge(&run);
    run.life = None;
    clock::set(None);
    said.map_err(|wrong| {
        let world = world.borrow();
        format!("seed {whole}, {:?}, {restarts} restarts, fails {}: {wrong}", world.writer.rotation, run.fails)
    })
}

/// The writer ends; the engine gets all the time that it wants.
fn finish(run: &mut Run) {
    {
        let mut world = run.world.borrow_mut();
        (world.crash_in, world.writing) = (None, false);
        while world.writer.is_busy() {
            world.writer.step();
        }
    }
    let mut quiet = 0;
    for _ in 0..600 {
        run.pass(Duration::from_millis(300));
        run.open();
        let before = run.arrived.len();
        run.read(50);
        run.deliver();
        while run.life.as_ref().is_some_and(|life| !life.held.is_empty()) {
            run.settle();
        }
        if let Some(life) = &mut run.life {
            life.checkpoints.step(&mut life.saver);
        }
        quiet = if run.arrived.len() == before { quiet + 1 } else { 0 };
        // A rescan is due every 10 s.
        if quiet > 45 {
            return;
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("runs")
}
