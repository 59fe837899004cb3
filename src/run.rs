//! The wiring: a [`Config`] becomes queues and workers. Start order, stop order, signals, exit codes: all here.
//!
//! Start: the data folder and its lock, sinks, the router, inputs, the admin server. An error of any of them ends the
//! start with exit code 1.
//!
//! The disk log is opened when an input asks for it (`ack = "durable"`), when there are several sinks (so that one that is
//! dead does not stop the others), or when there is one from before.
//!
//! Stop (SIGTERM, SIGINT, the end of all inputs, a closed pipe, or a worker that panicked), with one deadline for all:
//!
//! 1. inputs stop reading and let go of their outlets; what was read goes on through the steps
//! 2. so the queues end, and each sink sends what it has, tries again, and ends
//! 3. receipts are settled: acks are written, watermarks move
//! 4. what the checkpoints and cursors rest on is synced, and they are saved a last time, the ledger with them
//!
//! At the deadline, or at a second signal, the sinks give up: what they hold is "not delivered", so files are read
//! again next time, unacked chunks are sent again, and what is in the disk log is delivered after the
//! next start. A longshore whose listening sockets were taken ([`handover`]) stops in the same way. SIGHUP has the
//! sinks reopen their files.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Phase};
use crate::banner::{self, Resumed, View};
use crate::budget::Budget;
use crate::buffer::Log;
use crate::config::Config;
use crate::dead_letters::DeadLetters;
use crate::delivery::{self, SinkHandle, Stops};
use crate::disk_log::{self, with_way_out};
use crate::handover;
use crate::inputs::follow::checkpoint::Checkpoints;
use crate::inputs::{Outlet, inherited};
use crate::ledger::Ledger;
use crate::log;
use crate::metrics::{DropReason, Health, Metrics, shift};
use crate::outbox::{Behind, Outbox, QUEUE_MAX, Settled, Watch, Way};
use crate::pipeline::route::Router;
use crate::record::TagGlob;
use crate::service;
use crate::workers::{Stop, Workers};

/// Everything that was there was delivered, or is at rest in files.
pub const DRAINED: u8 = 0;
/// The configuration is wrong, the start failed, or a worker panicked.
pub const FAILED: u8 = 1;
/// The time to stop was over before everything was delivered: a backlog stays in the disk log, or the input can not give
/// the records again.
pub const BACKLOG: u8 = 3;

/// How long everything may take after the deadline (or a second signal): half of it for the workers to let go, half to
/// save the checkpoints. What still blocks then, in a write to a dead disk, ends with the process.
const LET_GO: Duration = Duration::from_secs(2);
/// Signals that come closer together are one: `timeout`, a shell and a container's init each signal the process and
/// then its group, and that must not cost what is still under way.
const ONE_SIGNAL: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(20);
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
}

/// Runs until told to stop, or until all inputs are at an end. Returns the exit code.
pub fn run(config: Config, options: Options) -> u8 {
    match Node::start(config, &options) {
        Ok((node, signals)) => node.run_and_stop(signals),
        Err(error) => {
            log::tell(&format!("longshore: {}\n", log::Escaped(&error.to_string())));
            FAILED
        }
    }
}

/// A running node.
struct Node {
    runtime: Runtime,
    metrics: Arc<Metrics>,
    state: Arc<admin::State>,
    checkpoints: Arc<Checkpoints>,
    handles: Arc<OnceLock<Vec<SinkHandle>>>,
    /// The disk log, if there is one.
    log: Option<Arc<Log>>,
    /// What looks at it.
    watch: OnceLock<Watch>,
    /// What sinks refused for good.
    letters: Arc<DeadLetters>,
    /// The ledger that is saved from now on is that of an orderly stop.
    stopped: Arc<AtomicBool>,
    /// "Stop reading".
    stop: Stop,
    /// "Give up", for the sinks.
    give_up: Stop,
    /// "Another longshore has our listening sockets."
    handed: Stop,
    inputs: Arc<Workers>,
    sinks: Workers,
    saver: Workers,
    timeout: Duration,
    /// By input: whether what was not delivered comes again at the next start.
    give_again: Vec<bool>,
    /// Records that were given up at the end and that nobody may give again.
    lost: AtomicU64,
}

fn said(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

impl Node {
    fn start(config: Config, options: &Options) -> io::Result<(Node, Signals)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.node.workers)
            .thread_name("runtime")
            .enable_all()
            .build()
            .map_err(|error| said("the runtime's threads can not be started", error))?;
        // Before anything is read: a signal from now on means an orderly stop.
        let signals = runtime.block_on(async { Signals::new() }).map_err(|error| said("signals", error))?;
        // The lock comes first: nothing else may be touched while another longshore works here.
        let handles: Arc<OnceLock<Vec<SinkHandle>>> = Arc::default();
        let settled: Arc<OnceLock<Settled>> = Arc::default();
        let (to_sync, to_settle) = (Arc::clone(&handles), Arc::clone(&settled));
        let sync = move || {
            let before = to_settle.get().map(Settled::before);
            let synced = to_sync.get().map_or(Ok(()), |handles| handles.iter().try_for_each(SinkHandle::sync));
            if let (Some(settled), Some(before)) = (to_settle.get(), before) {
                settled.after(before, synced.is_ok());
            }
            synced
        };
        inherited::read_environment();
        if options.take_over {
            handover::take_over(&config.node.data_dir, config.node.shutdown_timeout + 2 * LET_GO)?;
        }
        let checkpoints = Checkpoints::open(&config.node.data_dir, Box::new(sync))
            .map_err(|error| with_way_out(&config.node.data_dir, error))?;
        let resumed = Resumed { files: checkpoints.resumed() };
        // For people: a log that programs read stays one object a line.
        let for_people = config.telemetry.log.format == log::Format::Text;
        let banner = options
            .program
            .as_deref()
            .filter(|_| for_people)
            .map(|program| banner::text(&View::of(&config, program, resumed)));

        let input_names: Vec<_> = config.inputs.iter().map(|input| (input.name.as_str(), input.kind)).collect();
        let sink_names: Vec<_> = config.sinks.iter().map(|sink| (sink.name.as_str(), sink.kind)).collect();
        let metrics = Arc::new(Metrics::new(&input_names, &sink_names));
        metrics.check(admin::WORKERS_CHECK, Health::Pass, "");
        let budget = Budget::new(config.node.memory);
        let (log, backlog) = disk_log::open(&config, &metrics, true)?;
        let saved = checkpoints.take_ledger().map(|saved| Ledger::from_json(&saved)).unwrap_or_default();
        for wrong in saved.resume(&metrics, &backlog) {
            tracing::error!("the ledger of the last stop and the disk log differ: {wrong}");
        }
        let stopped = Arc::<AtomicBool>::default();
        let (counted, is_stopped) = (Arc::clone(&metrics), Arc::clone(&stopped));
        checkpoints
            .carry(Box::new(move || Ledger { stopped: is_stopped.load(Relaxed), ..Ledger::of(&counted) }.to_json()));
        let node = Node {
            log,
            watch: OnceLock::new(),
            letters: DeadLetters::new(&config.node.data_dir, config.dead_letters, &metrics),
            stopped,
            state: admin::State::new(Arc::clone(&metrics), Arc::clone(&budget)),
            runtime,
            metrics,
            checkpoints,
            handles,
            stop: Stop::default(),
            give_up: Stop::default(),
            handed: Stop::default(),
            inputs: Arc::default(),
            sinks: Workers::default(),
            saver: Workers::default(),
            timeout: config.node.shutdown_timeout,
            give_again: config.inputs.iter().map(|input| input.part.gives_again()).collect(),
            lost: AtomicU64::new(0),
        };
        let data_dir = config.node.data_dir.clone();
        // Whatever was started before an error is stopped again.
        match node.start_parts(config, options, budget, &settled) {
            Ok(()) => {
                for address in inherited::close_rest() {
                    tracing::warn!(address, "a listening socket that was given to us is in no `listen`; it was closed");
                }
                if let Err(error) = handover::offer(&data_dir, node.runtime.handle(), node.handed.clone()) {
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
                node.stop.set();
                node.give_up.set();
                node.end(Instant::now() + LET_GO);
                Err(error)
            }
        }
    }

    fn start_parts(
        &self,
        config: Config,
        options: &Options,
        budget: Arc<Budget>,
        settled: &OnceLock<Settled>,
    ) -> io::Result<()> {
        let admin = config.telemetry.listen.map(|address| {
            let listener = handover::bind(address, options.take_over).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            let hint = "is another longshore running? [telemetry] listen = \"off\" or another port";
            listener.map_err(|error| said(&format!("[telemetry] listen = \"{address}\" ({hint})"), error))
        });
        let admin = admin.transpose()?;

        let (mut ways, mut receivers, mut globs) = (Vec::new(), Vec::new(), Vec::new());
        for (number, named) in config.sinks.iter().enumerate() {
            let (queue, receiver) = mpsc::channel(QUEUE_MAX);
            ways.push(Way { sink: number, queue, required: named.required });
            receivers.push(receiver);
            globs.push((number, named.tags.iter().map(|pattern| TagGlob::new(pattern)).collect()));
        }
        let outbox = Outbox::new(ways, Arc::clone(&self.metrics), self.behind(&budget));
        // Set once each, here; the hook of the checkpoints and the loop of `wait_for_a_reason` read them.
        let _ = self.watch.set(outbox.watch());
        if let Some(found) = outbox.settled() {
            let checkpoints = Arc::clone(&self.checkpoints);
            found.on_first(move || checkpoints.touch(1, false));
            let _ = settled.set(found);
        }
        let mut handles = Vec::new();
        for ((number, named), receiver) in config.sinks.into_iter().enumerate().zip(receivers) {
            let stops = Stops { read: self.stop.clone(), give_up: self.give_up.clone() };
            let feed = outbox.feed(number, receiver);
            let letters = Some(Arc::clone(&self.letters));
            let handle =
                delivery::spawn(named.part, feed, Arc::clone(&self.metrics), number, stops, letters, &self.sinks)?;
            if let Some(settled) = settled.get().filter(|_| handle.needs_sync()) {
                settled.defer(number);
            }
            handles.push(handle);
        }
        let _ = self.handles.set(handles);
        self.checkpoints.report_to(Arc::clone(&self.metrics));
        self.checkpoints.start_saver(&self.saver)?;

        let router = Arc::new(Router::to(outbox, globs, Arc::clone(&self.metrics)));
        let pipeline = Arc::new(config.pipeline);
        for (number, named) in config.inputs.into_iter().enumerate() {
            let outlet = Outlet {
                input: u16::try_from(number).map_err(io::Error::other)?,
                metrics: Arc::clone(&self.metrics),
                budget: Arc::clone(&budget),
                pipeline: Arc::clone(&pipeline),
                router: Arc::clone(&router),
                stop: self.stop.clone(),
                runtime: self.runtime.handle().clone(),
                checkpoints: Some(Arc::clone(&self.checkpoints)),
                once: options.once,
            };
            named.part.start(outlet, &self.inputs).map_err(|error| said(&format!("inputs.{}", named.name), error))?;
        }
        if let Some(listener) = admin {
            let _inside = self.runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            self.runtime.spawn(admin::serve(listener, Arc::clone(&self.state)));
        }
        Ok(())
    }

    /// What is behind the queues of the sinks.
    fn behind(&self, budget: &Arc<Budget>) -> Option<Behind> {
        let log = self.log.as_ref()?;
        let backlog = self.metrics.sinks.iter().map(|sink| sink.pairs.iter().any(|p| p.buffered.load(Relaxed) > 0));
        Some(Behind {
            log: Arc::clone(log),
            budget: Arc::clone(budget),
            backlog: backlog.collect(),
            give_up: self.give_up.clone(),
        })
    }

    /// Waits for a reason to stop, then stops.
    fn run_and_stop(self, mut signals: Signals) -> u8 {
        let why = self.runtime.block_on(self.wait_for_a_reason(&mut signals));
        self.state.set(Phase::Stopping);
        service::stopping();
        self.stop.set();
        let deadline = Instant::now() + self.timeout;
        let in_flight = self.in_flight();
        if in_flight > 0 && why != Why::Closed {
            tracing::info!(in_flight, timeout = ?self.timeout, "{}: delivering what was read", why.text());
        }
        let patient = self.runtime.block_on(self.drain(&mut signals, deadline));
        self.watch.get().into_iter().for_each(|watch| watch.keep(Duration::ZERO));
        self.give_up.set();
        self.end(if patient { deadline } else { Instant::now() });
        let code = self.exit_code();
        // To drop it would wait for tasks that are in the middle of something.
        self.runtime.shutdown_background();
        code
    }

    async fn wait_for_a_reason(&self, signals: &mut Signals) -> Why {
        let mut look = tokio::time::interval(LOOK);
        let mut look_at_log = tokio::time::interval(LOOK_AT_LOG);
        let mut save_ledger = tokio::time::interval(SAVE_LEDGER);
        let mut counted = 0;
        // A sign of life from where a worker that died is seen: a node that can not see that is not alive.
        let watchdog = service::watchdog();
        let mut alive = tokio::time::interval(watchdog.unwrap_or(NEVER));
        loop {
            tokio::select! {
                told = signals.next() => match told {
                    Told::Stop(name) => return Why::Signal(name),
                    Told::Reopen => {
                        service::reloading();
                        tracing::info!("SIGHUP: sinks reopen their files");
                        self.handles.get().into_iter().flatten().for_each(SinkHandle::reopen);
                        service::ready();
                    }
                },
                () = self.stop.wait() => return Why::Closed,
                () = self.handed.wait() => return Why::HandedOver,
                _ = look_at_log.tick() => {
                    self.watch.get().into_iter().for_each(Watch::look);
                    self.letters.look();
                }
                _ = save_ledger.tick() => {
                    let now = self.counted();
                    if std::mem::replace(&mut counted, now) != now {
                        self.checkpoints.touch(0, false);
                    }
                }
                _ = alive.tick(), if watchdog.is_some() => service::alive(),
                _ = look.tick() => {
                    if self.has_failed() {
                        self.metrics.check(admin::WORKERS_CHECK, Health::Fail, "a worker panicked; see the log");
                        return Why::Panic;
                    }
                    if self.sinks.running() == 0 {
                        return Why::EndOfInput;
                    }
                }
            }
        }
    }

    /// Until all sinks have ended, the deadline, or a second signal, of which it says `false`.
    async fn drain(&self, signals: &mut Signals, deadline: Instant) -> bool {
        let told_first = Instant::now();
        while self.sinks.running() > 0 && Instant::now() < deadline {
            tokio::select! {
                told = signals.next() => match told {
                    Told::Stop(name) if told_first.elapsed() >= ONE_SIGNAL => {
                        tracing::warn!("{name} again: not waiting for what is not delivered");
                        return false;
                    }
                    Told::Stop(_) | Told::Reopen => {}
                },
                () = tokio::time::sleep(LOOK / 4) => {}
            }
        }
        true
    }

    /// Waits for all workers and saves the checkpoints a last time: until `deadline`, and [`LET_GO`] beyond it at most.
    fn end(&self, deadline: Instant) {
        let let_go = Instant::now() + LET_GO / 2;
        let sinks_ended = self.sinks.join(let_go);
        let inputs_ended = self.inputs.join(deadline.min(Instant::now() + LET_GO).max(let_go));
        if !sinks_ended || !inputs_ended {
            tracing::warn!(sinks_ended, inputs_ended, "some workers did not end in time; they end with the process");
        }
        // In a thread of its own: a sync waits for as long as the disk takes, and a dead disk takes for ever.
        let checkpoints = Arc::clone(&self.checkpoints);
        let (log, until) = (self.log.clone(), deadline.max(Instant::now() + LET_GO / 2));
        let letters = Arc::clone(&self.letters);
        let closed = Arc::<AtomicBool>::default();
        let is_closed = Arc::clone(&closed);
        let save = move || {
            // Receipts of rejected records wait for their letters.
            letters.close(until);
            // Syncs what was delivered, and so settles it in the log; the cursors say so when it is closed.
            if let Err(error) = checkpoints.save() {
                tracing::error!(
                    "checkpoints could not be saved ({error}); what was delivered since the last save comes again"
                );
            }
            match log.map_or(Ok(()), |log| log.close(until)) {
                Ok(()) => is_closed.store(true, Relaxed),
                Err(error) => tracing::error!(
                    "the disk log could not be closed in order ({error}); some of what was delivered comes again"
                ),
            }
        };
        let started = self.saver.spawn("last-save", save);
        // Not `join`: the saver itself ends only with the last save.
        while started.is_ok() && !closed.load(Relaxed) && self.saver.running() > 1 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.give_back();
        self.recount();
        self.stopped.store(closed.load(Relaxed), Relaxed);
        let checkpoints = Arc::clone(&self.checkpoints);
        let save = move || {
            if let Err(error) = checkpoints.final_save() {
                tracing::error!("the ledger of this stop could not be saved: {error}");
            }
        };
        let started = self.saver.spawn("last-ledger", save);
        if started.is_err() || !self.saver.join(deadline.max(Instant::now() + LET_GO / 2)) {
            tracing::error!("checkpoints were not saved in time; what was delivered since the last save comes again");
        }
    }

    /// The disk log keeps whole frames: of one that was delivered in part, all records come again, and count again.
    fn recount(&self) {
        let Some(log) = &self.log else { return };
        let there = disk_log::by_input(&log.status().readers, self.metrics.inputs.len());
        // Not an orderly stop's ledger yet, so nothing of it can be called wrong.
        Ledger::of(&self.metrics).resume(&self.metrics, &there);
    }

    /// Nothing is in flight any more: what the disk log has stays there, the rest is given back or lost.
    fn give_back(&self) {
        let handles = self.handles.get().map_or(&[][..], Vec::as_slice);
        for (number, sink) in self.metrics.sinks.iter().enumerate() {
            // Nobody reads there any more: nothing is lost that somebody wanted.
            let closed = handles.get(number).is_some_and(SinkHandle::is_closed);
            for (at, (input, pair)) in self.metrics.inputs.iter().zip(&sink.pairs).enumerate() {
                let _turn = self.metrics.turn();
                shift(&pair.logged, &pair.buffered, pair.logged.load(Relaxed));
                let left = pair.held.load(Relaxed);
                if left > u64::MAX / 2 {
                    // Of frames that got into the log late, these were delivered.
                    shift(&pair.held, &pair.buffered, left);
                    continue;
                }
                if left == 0 {
                    continue;
                }
                if self.give_again[at] {
                    shift(&pair.held, &pair.returned, left);
                    tracing::warn!(
                        input = input.name,
                        sink = sink.name,
                        records = left,
                        "not delivered; they are in the files and are read again at the next start"
                    );
                } else {
                    shift(&pair.held, &pair.dropped[DropReason::Shutdown as usize], left);
                    if closed {
                        continue;
                    }
                    self.lost.fetch_add(left, Relaxed);
                    tracing::error!(
                        input = input.name,
                        sink = sink.name,
                        records = left,
                        "not delivered; a sender that asked for acks sends them again, others are lost"
                    );
                }
            }
        }
    }

    fn has_failed(&self) -> bool {
        self.inputs.failed().is_set() || self.sinks.failed().is_set() || self.saver.failed().is_set()
    }

    fn in_flight(&self) -> u64 {
        self.metrics.sinks.iter().flat_map(|sink| &sink.pairs).map(|pair| pair.in_flight()).sum()
    }

    /// A figure that changes when the ledger does.
    fn counted(&self) -> u64 {
        let received: u64 = self.metrics.inputs.iter().map(|input| input.received.load(Relaxed)).sum();
        let pairs = self.metrics.sinks.iter().flat_map(|sink| &sink.pairs);
        pairs.fold(received, |sum, pair| sum.wrapping_add(pair.ended()).wrapping_add(pair.routed.load(Relaxed)))
    }

    /// Chooses the exit code; says last of all what stays on the disk.
    fn exit_code(&self) -> u8 {
        let ledger = Ledger::of(&self.metrics);
        let (buffered, sinks) = ledger.buffered();
        if buffered > 0 {
            tracing::warn!(
                records = buffered,
                sinks = sinks.join(", "),
                "a backlog stays in the disk log; it is delivered after the next start (exit code 3)"
            );
        }
        match (self.has_failed(), buffered + self.lost.load(Relaxed)) {
            (true, _) => FAILED,
            (false, 0) => DRAINED,
            _ => BACKLOG,
        }
    }
}

/// Why the node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Signal(&'static str),
    EndOfInput,
    /// A sink said that nobody reads its output any more.
    Closed,
    HandedOver,
    Panic,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Why::Signal(name) => name,
            Why::EndOfInput => "the inputs are at their end",
            Why::Closed => "the output was closed",
            Why::HandedOver => "another longshore took over",
            Why::Panic => "a worker panicked",
        }
    }
}

/// The signals that the node listens to. As PID 1 too: a handler makes the kernel deliver them.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::Stop("SIGTERM"),
            _ = self.int.recv() => Told::Stop("SIGINT"),
            _ = self.hup.recv() => Told::Reopen,
        }
    }
}

/// What a signal says.
enum Told {
    Stop(&'static str),
    Reopen,
}
