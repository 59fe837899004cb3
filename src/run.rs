//! The wiring: a [`Config`] becomes queues and workers. Start order, stop order, exit codes: all here. What is between the
//! inputs and the destinations is in `run/middle.rs`, the replacement of a running configuration in `run/reload.rs`.
//!
//! Start: the data folder and its lock, the disk log, sinks, the router, inputs, the admin server. An error of any of them
//! ends the start with exit code 1.
//!
//! The disk log is opened when an input asks for it (`ack = "durable"`), when there are several sinks (so that one that is
//! dead does not stop the others), or when there is one from before.
//!
//! Stop (SIGTERM, SIGINT, the end of all inputs, a closed pipe, or a worker that panicked), with one deadline for all:
//!
//! 1. inputs stop reading and let go of their outlets; what was read goes on through the steps
//! 2. so the queues end, and each sink, which is told to drain meanwhile, sends what it has, tries again, and ends
//! 3. receipts are settled: acks are written, watermarks move
//! 4. what the checkpoints and cursors rest on is synced, and they are saved a last time, the ledger with them
//!
//! At the deadline, or at a second signal, the sinks give up: what they hold is "not delivered", so files are read
//! again next time, unacked chunks are sent again, and what is in the disk log is delivered after the
//! next start. A longshore whose listening sockets were taken ([`handover`]) stops in the same way. SIGHUP is a reload.

mod ending;
mod middle;
mod reload;
mod signals;
mod telemetry;
mod to_sync;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::admin::{self, Phase};
use crate::banner::{self, Resumed, View};
use crate::budget::Budget;
use crate::buffer::Log;
use crate::config::{self, Config};
use crate::dead_letters::DeadLetters;
use crate::delivery::SinkHandle;
use crate::disk_log::{self, Opened, with_way_out};
use crate::handover;
use crate::inputs::follow::checkpoint::Checkpoints;
use crate::inputs::gate::{Gate, Passage};
use crate::inputs::{Outlet, inherited};
use crate::ledger::Ledger;
use crate::log;
use crate::metrics::{Health, Metrics};
use crate::profile;
use crate::service;
use crate::workers::{Stop, Workers};
use middle::{Ground, Middle};
pub use reload::Origin;
use signals::{Signals, Told, Why};
use to_sync::ToSync;

/// Everything that was there was delivered, or is at rest in files.
pub const DRAINED: u8 = 0;
/// The configuration is wrong, the start failed, or a worker panicked.
pub const FAILED: u8 = 1;
/// The time to stop was over before everything was delivered: a backlog stays in the disk log, or the input can not give
/// the records again.
pub const BACKLOG: u8 = 3;

/// After the deadline (or a second signal) the workers have half of this to let go, checkpoints and cursors half of it to be
/// saved, and the ledger another half: 3 s at most. What still blocks then, in a write to a dead disk, ends with the process.
const LET_GO: Duration = Duration::from_secs(2);
/// Signals that come closer together are one: `timeout`, a shell and a container's init each signal the process and
/// then its group, and that must not cost what is still under way.
const ONE_SIGNAL: Duration = Duration::from_millis(200);
/// Between two looks at the disk log.
const LOOK_AT_LOG: Duration = Duration::from_millis(250);
/// The ledger is saved so often while it changes.
const SAVE_LEDGER: Duration = Duration::from_secs(1);
/// The interval of what is switched off.
const NEVER: Duration = Duration::from_secs(86_400);

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// End when everything that is there was read.
    pub once: bool,
    /// How the program was called, for the text of the start; none without that text.
    pub program: Option<String>,
    /// Take the sockets and the place of the longshore that runs with the same data folder.
    pub take_over: bool,
    /// Where the configuration was read from, to read it again at SIGHUP.
    pub origin: Option<Origin>,
}

/// Runs until told to stop, or until all inputs are at an end. Returns the exit code.
pub fn run(config: Config, options: Options) -> u8 {
    without_core_dumps();
    match Node::start(config, options) {
        Ok((node, signals)) => node.run_and_stop(signals),
        Err(error) => {
            log::tell(&format!("longshore: {}\n", log::Escaped(&profile::named(&error))));
            FAILED
        }
    }
}

/// Keys, tokens and other people's records are in memory, and a core dump would write them to a disk. One byte, since the
/// kernel takes a limit of 0 for no limit where dumps go to a program, and refuses at 1 (core(5), `do_coredump`).
fn without_core_dumps() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Core).maximum;
    let current = Some(maximum.map_or(1, |maximum| maximum.min(1)));
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current, maximum }) {
        tracing::warn!(%error, "core dumps can not be switched off; one would hold secrets");
    }
}

/// A running node.
struct Node {
    runtime: Runtime,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    state: Arc<admin::State>,
    checkpoints: Arc<Checkpoints>,
    to_sync: Arc<ToSync>,
    /// Sinks and disk log; none while a reload is at it.
    middle: Option<Middle>,
    /// The disk log again, for the ledger that is saved.
    log: Arc<Mutex<Weak<Log>>>,
    /// Held by the outlets: when the last of them is gone, the sinks drain.
    gate: Weak<Gate>,
    inputs: Vec<Running>,
    /// Where health and metrics are answered.
    admin: Option<(SocketAddr, AbortHandle)>,
    /// The ledger that is saved from now on is that of an orderly stop.
    stopped: Arc<AtomicBool>,
    /// "Stop reading": said by a sink whose destination is gone for good.
    stop: Stop,
    /// "Another longshore has our listening sockets."
    handed: Stop,
    /// A thread of the inputs, the sinks or the saver has ended: by a panic, or since nothing is left to do.
    ended: Arc<Notify>,
    saver: Workers,
    options: Options,
    /// What is in force of `[node]`.
    node: config::Node,
    /// The format of the own log.
    log_format: log::Format,
    /// By number of the input: whether what was not delivered comes again.
    give_again: Vec<bool>,
    /// Records that were given up at the end and that nobody may give again.
    lost: AtomicU64,
    /// The saved ledger is gone on with, by sinks that run. Before that nothing is saved: what is stored is what is true.
    resumed: bool,
    /// A reload left nothing that could run.
    broken: bool,
}

/// An input that was started.
struct Running {
    name: String,
    kind: &'static str,
    /// Its section.
    written: String,
    /// "Stop reading", for this one.
    stop: Stop,
    workers: Arc<Workers>,
}

fn said(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

impl Node {
    fn start(config: Config, options: Options) -> io::Result<(Node, Signals)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.node.workers)
            .thread_name("runtime")
            .enable_all()
            .build()
            .map_err(|error| said("the runtime's threads can not be started", error))?;
        // Before anything is read: a signal from now on means an orderly stop.
        let signals = runtime.block_on(async { Signals::new() }).map_err(|error| said("signals", error))?;
        inherited::read_environment();
        if options.take_over {
            handover::take_over(&config.node.data_dir, config.node.shutdown_timeout + 2 * LET_GO)?;
        }
        // The lock comes first: nothing else may be touched while another longshore works here.
        let to_sync = Arc::<ToSync>::default();
        let hook = Arc::clone(&to_sync);
        let checkpoints = Checkpoints::open(&config.node.data_dir, Box::new(move || hook.sync()))
            .map_err(|error| with_way_out(&config.node.data_dir, error))?;
        let resumed = Resumed { files: checkpoints.resumed() };
        // For people: a log that programs read stays one object a line.
        let for_people = config.telemetry.log.format == log::Format::Text;
        let program = options.program.as_deref().filter(|_| for_people);
        let banner = program.map(|program| banner::text(&View::of(&config, program, resumed)));

        let input_names: Vec<_> = config.inputs.iter().map(|input| (input.name.as_str(), input.kind)).collect();
        let sink_names: Vec<_> = config.sinks.iter().map(|sink| (sink.name.as_str(), sink.kind)).collect();
        let metrics = Arc::new(Metrics::new(&input_names, &sink_names));
        metrics.check(admin::WORKERS_CHECK, Health::Pass, "");
        let budget = Budget::new(config.node.memory);
        let saved = checkpoints.take_ledger().map(|saved| Ledger::from_json(&saved)).unwrap_or_default();
        let (stopped, ended) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let (counted, is_stopped) = (Arc::clone(&metrics), Arc::clone(&stopped));
        let log = Arc::new(Mutex::new(Weak::<Log>::new()));
        let carried = Arc::clone(&log);
        checkpoints.carry(Box::new(move || {
            let log = carried.lock().unwrap_or_else(PoisonError::into_inner).upgrade().and_then(|log| log.id());
            Ledger { stopped: is_stopped.load(Relaxed), log, ..Ledger::of(&counted) }.to_json()
        }));
        let mut node = Node {
            stopped,
            state: admin::State::new(Arc::clone(&metrics), Arc::clone(&budget), &config.node.data_dir),
            runtime,
            metrics,
            budget,
            checkpoints,
            to_sync,
            middle: None,
            log,
            gate: Weak::new(),
            inputs: Vec::new(),
            admin: None,
            stop: Stop::default(),
            handed: Stop::default(),
            saver: Workers::telling(&ended),
            ended,
            options,
            node: config.node.clone(),
            log_format: config.telemetry.log.format,
            give_again: Vec::new(),
            lost: AtomicU64::new(0),
            resumed: false,
            broken: false,
        };
        // Whatever was started before an error is stopped again.
        match node.start_all(config, &saved) {
            Ok(()) => {
                for address in inherited::close_rest() {
                    tracing::warn!(address, "a listening socket that was given to us is in no `listen`; it was closed");
                }
                let (data_dir, handed) = (&node.node.data_dir, node.handed.clone());
                if let Err(error) = handover::offer(data_dir, node.runtime.handle(), handed) {
                    tracing::warn!(%error, "`longshore run --take-over` can not take our listening sockets");
                }
                node.state.set(Phase::Running);
                service::ready();
                if let Some(banner) = banner {
                    log::tell(&banner);
                }
                Ok((node, signals))
            }
            Err(error) => {
                node.stop_inputs();
                node.give_up();
                node.end(Instant::now() + LET_GO);
                Err(error)
            }
        }
    }

    fn start_all(&mut self, config: Config, saved: &Ledger) -> io::Result<()> {
        let bound = self.bind(config.telemetry.listen)?;
        self.checkpoints.report_to(Arc::clone(&self.metrics));
        self.checkpoints.start_saver(&self.saver)?;
        self.build(config, saved)?;
        self.serve(bound);
        Ok(())
    }

    /// Makes what a configuration says, but for what runs already: the disk log, the sinks, the way to them, the inputs.
    /// `saved` is the ledger of before.
    fn build(&mut self, config: Config, saved: &Ledger) -> io::Result<()> {
        let metrics = Arc::clone(&self.metrics);
        let too_many = || {
            let most = crate::metrics::NAMES_MAX;
            io::Error::other(format!(
                "more than {most} names of inputs or of sinks since the start; a restart forgets them"
            ))
        };
        let mut numbers = Vec::new();
        for input in &config.inputs {
            let number = metrics.input(&input.name, input.kind).ok_or_else(too_many)?;
            self.give_again.resize(metrics.inputs.len(), false);
            self.give_again[number] = input.part.gives_again();
            metrics.inputs[number].sent_to.store(input.part.is_sent_to(), Relaxed);
            numbers.push(number);
        }
        let sinks: Option<Vec<usize>> = config.sinks.iter().map(|sink| metrics.sink(&sink.name, sink.kind)).collect();
        let sinks = sinks.ok_or_else(too_many)?;
        let Opened { log, id, backlog } = disk_log::open(&config, &metrics, &sinks)?;
        for wrong in saved.clone().held_against(id).resume(&metrics, &backlog, &sinks) {
            tracing::error!("the ledger of the last stop and the disk log differ: {wrong}");
        }
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log.as_ref().map_or_else(Weak::new, Arc::downgrade);
        let letters = DeadLetters::new(&config.node.data_dir, config.dead_letters, &metrics);
        let ground = Ground {
            metrics: &metrics,
            budget: &self.budget,
            checkpoints: &self.checkpoints,
            to_sync: &self.to_sync,
            stop: &self.stop,
            ended: &self.ended,
        };
        let started = Middle::start(config.sinks, sinks.clone(), log.clone(), Arc::clone(&letters), &ground);
        let (middle, router) = started.inspect_err(|_| {
            let until = Instant::now() + LET_GO;
            letters.close(until);
            if let Some(Err(error)) = log.map(|log| log.close(until)) {
                tracing::error!("the disk log could not be closed in order: {error}");
            }
        })?;
        self.middle = Some(middle);
        self.resumed = true;
        let passage = Passage { router, letters: Some(letters) };
        let gate = match self.gate.upgrade() {
            Some(gate) => {
                gate.open(config.pipeline, passage);
                gate
            }
            None => Gate::new(config.pipeline, passage),
        };
        self.gate = Arc::downgrade(&gate);
        for (named, number) in config.inputs.into_iter().zip(numbers) {
            if self.inputs.iter().any(|running| running.name == named.name) {
                continue;
            }
            let (stop, workers) = (Stop::default(), Arc::new(Workers::telling(&self.ended)));
            let outlet = Outlet {
                input: u16::try_from(number).map_err(io::Error::other)?,
                metrics: Arc::clone(&metrics),
                budget: Arc::clone(&self.budget),
                gate: Arc::clone(&gate),
                stop: stop.clone(),
                runtime: self.runtime.handle().clone(),
                checkpoints: Some(Arc::clone(&self.checkpoints)),
                once: self.options.once,
            };
            let (kind, written) = (named.kind, named.written);
            let running = Running { name: named.name, kind, written, stop, workers: Arc::clone(&workers) };
            let path = format!("inputs.{}", running.name);
            // What was started of it is stopped with the others.
            self.inputs.push(running);
            named.part.start(outlet, &workers).map_err(|error| said(&path, error))?;
        }
        // Until here nothing is given up: after an error the configuration of before has these sinks again.
        metrics.keep_sinks(&sinks);
        if let Some(Middle { log: Some(log), .. }) = &self.middle {
            log.let_go_of_removed();
        }
        Ok(())
    }

    fn stop_inputs(&self) {
        self.inputs.iter().for_each(|input| input.stop.set());
    }

    fn give_up(&self) {
        match &self.middle {
            Some(middle) => {
                middle.watch.keep(Duration::ZERO);
                middle.give_up.set();
            }
            // Nothing will be behind it.
            None => self.gate.upgrade().iter().for_each(|gate| gate.close()),
        }
    }

    /// Has the sinks try what waits for a time: they are to end, and an input may wait at a full queue for as long as they
    /// do.
    fn drain_sinks(&self) {
        self.middle.iter().for_each(|middle| middle.drain.set());
    }

    fn handles(&self) -> &[SinkHandle] {
        self.middle.as_ref().map_or(&[], |middle| &middle.handles)
    }

    fn sinks_running(&self) -> usize {
        self.middle.as_ref().map_or(0, |middle| middle.sinks.running())
    }

    /// Waits for a reason to stop, then stops.
    fn run_and_stop(mut self, mut signals: Signals) -> u8 {
        let runtime = self.runtime.handle().clone();
        let why = runtime.block_on(self.wait_for_a_reason(&mut signals));
        self.state.set(Phase::Stopping);
        service::stopping();
        self.stop_inputs();
        self.drain_sinks();
        let deadline = Instant::now() + self.node.shutdown_timeout;
        let in_flight = self.in_flight();
        if in_flight > 0 && why != Why::Closed {
            tracing::info!(in_flight, timeout = ?self.node.shutdown_timeout, "{}: delivering what was read", why.text());
        }
        let patient = runtime.block_on(self.drain(&mut signals, deadline));
        self.give_up();
        self.end(if patient { deadline } else { Instant::now() });
        let code = self.exit_code();
        // To drop it would wait for tasks that are in the middle of something.
        self.runtime.shutdown_background();
        code
    }

    async fn wait_for_a_reason(&mut self, signals: &mut Signals) -> Why {
        let mut look_at_log = tokio::time::interval(LOOK_AT_LOG);
        let mut save_ledger = tokio::time::interval(SAVE_LEDGER);
        let mut counted = 0;
        // A sign of life from where a worker that died is seen: a node that can not see that is not alive.
        let watchdog = service::watchdog();
        let mut alive = tokio::time::interval(watchdog.unwrap_or(NEVER));
        loop {
            if self.has_failed() {
                self.metrics.check(admin::WORKERS_CHECK, Health::Fail, "a worker panicked; see the log");
                return Why::Panic;
            }
            if self.sinks_running() == 0 {
                return if self.stop.is_set() { Why::Closed } else { Why::EndOfInput };
            }
            tokio::select! {
                told = signals.next() => match told {
                    Told::Stop(name) => return Why::Signal(name),
                    Told::Reload => {
                        if let Some(why) = self.reload(signals).await {
                            return why;
                        }
                    }
                },
                () = self.stop.wait() => return Why::Closed,
                () = self.handed.wait() => return Why::HandedOver,
                _ = look_at_log.tick() => {
                    self.look();
                    self.state.look();
                }
                _ = save_ledger.tick() => {
                    let now = self.counted();
                    if std::mem::replace(&mut counted, now) != now {
                        self.checkpoints.touch(0, false);
                    }
                }
                _ = alive.tick(), if watchdog.is_some() => service::alive(),
                () = self.ended.notified() => {}
            }
        }
    }

    /// Looks at the logs, as is due each [`LOOK_AT_LOG`] for as long as sinks run: what they have had in memory for long is
    /// kept, and who waits for a log that is no longer half full goes on.
    fn look(&self) {
        if let Some(middle) = &self.middle {
            middle.watch.look();
            middle.letters.look();
        }
    }

    /// Until all sinks have ended, the deadline, or a second signal, of which it says `false`.
    async fn drain(&self, signals: &mut Signals, deadline: Instant) -> bool {
        let told_first = Instant::now();
        let mut look_at_log = tokio::time::interval(LOOK_AT_LOG);
        while self.sinks_running() > 0 && Instant::now() < deadline {
            tokio::select! {
                told = signals.next() => match told {
                    Told::Stop(name) if told_first.elapsed() >= ONE_SIGNAL => {
                        tracing::warn!("{name} again: not waiting for what is not delivered");
                        return false;
                    }
                    Told::Stop(_) | Told::Reload => {}
                },
                () = self.ended.notified() => {}
                _ = look_at_log.tick() => self.look(),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
        true
    }

    fn has_failed(&self) -> bool {
        let middle = self.middle.as_ref().is_some_and(Middle::has_failed);
        let inputs = self.inputs.iter().any(|input| input.workers.failed().is_set());
        inputs || middle || self.saver.failed().is_set() || self.to_sync.has_failed()
    }

    fn in_flight(&self) -> u64 {
        self.metrics.sinks.iter().flat_map(|sink| &sink.pairs).map(|pair| pair.in_flight()).sum()
    }

    /// A figure that changes when the ledger does.
    fn counted(&self) -> u64 {
        let of_inputs = self.metrics.inputs.iter().map(|input| {
            let (generations, bytes) = input.followed.all_lost();
            let rejected: u64 = input.rejected.iter().map(|count| count.load(Relaxed)).sum();
            input.received.load(Relaxed).wrapping_add(rejected).wrapping_add(generations).wrapping_add(bytes)
        });
        let of_inputs = of_inputs.fold(0, u64::wrapping_add);
        let pairs = self.metrics.sinks.iter().flat_map(|sink| &sink.pairs);
        pairs.fold(of_inputs, |sum, pair| sum.wrapping_add(pair.ended()).wrapping_add(pair.routed.load(Relaxed)))
    }
}
