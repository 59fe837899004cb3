//! Delivery: one loop a sink, in the sink's own thread, that takes shipments from its [`Feed`] (a bounded queue, and the
//! disk log behind it), makes requests of them, has the sink send them, tries again, and settles and counts what came of it. The decisions are in `plan.rs`.
//!
//! - Every receipt is settled once all rows of its shipment ended; what is dropped unsettled counts as not delivered.
//! - The loop ends when the queue has ended and everything is delivered or rejected, or when it is told to give up.
//! - A failing sink is seen in the health check `sink.NAME`: warn at the first failure, fail after 8 s (at once for
//!   faults of configuration, and when nothing that is under way was answered for 8 s), pass at the next success, but warn
//!   while it fails again and again with successes in between. Failures are logged once in 30 s, however often it works in
//!   between, refused records once a second.
//!
//! Counters: delivered, rejected by pair; requests, retries, bytes, last_success, failing_since, queued by sink.

mod pace;
mod plan;

use std::io;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::batch::{Outcome, Shipment};
use crate::dead_letters::{DeadLetters, Refused};
use crate::metrics::{Health, Metrics, SinkMetrics, shift};
use crate::outbox::Feed;
use crate::record::Timestamp;
use crate::sinks::request::{Part, Request};
use crate::sinks::{Durable, Reach, Reply, SendError, Sink};
use crate::workers::{Stop, Workers};
use plan::{End, Meaning, Next, Plan, State};

/// How long a sink may fail before its health check does: a dead destination is to make `/health` 503 within 10 s, and a
/// batch may have waited for a second before it was tried.
const FAIL_AFTER: Duration = Duration::from_secs(8);
/// The same failure is logged this often at most.
const SAY_FAILURE: Duration = Duration::from_secs(30);
/// It fails now and then: so many times, each within [`LAPSE_WITHIN`] of the one before.
const LAPSES_WARN: u32 = 3;
const LAPSE_WITHIN: Duration = Duration::from_secs(30);
/// How soon the end of all senders is seen while nothing is taken from them.
const LOOK_AT_SENDERS: Duration = Duration::from_millis(250);
/// Refused records are logged this often at most.
const SAY_REFUSED: Duration = Duration::from_secs(1);
/// Records refused in a row, with nothing taken in between, that make the health check warn.
const REFUSED_WARN: u64 = 100;

/// What ends a sink's work.
#[derive(Clone, Debug)]
pub struct Stops {
    /// "Stop reading", for the whole node: said by a sink whose destination is gone for good, such as a closed pipe.
    pub read: Stop,
    /// "Drain": the node stops, or this sink is replaced. What waits for a time is tried at once. The end of the queue says
    /// the same, but is not there as long as an input waits for room in it.
    pub drain: Stop,
    /// "Give up": the time for draining is over. What is not delivered by then is dropped unsettled.
    pub give_up: Stop,
}

/// The way to a running sink from other threads. Clones are the same sink.
#[derive(Clone)]
pub struct SinkHandle {
    shared: Arc<Shared>,
    durable: Option<Arc<dyn Durable>>,
    metrics: Arc<Metrics>,
    number: usize,
}

#[derive(Default)]
struct Shared {
    reopen: Notify,
    closed: AtomicBool,
    ended: AtomicBool,
}

impl SinkHandle {
    /// What makes that which was delivered survive a loss of power: to be called before a checkpoint that rests on it is
    /// saved. `None` where "taken" says it all.
    pub fn durable(&self) -> Option<Arc<dyn Durable>> {
        self.durable.clone()
    }

    /// Has the sink close and open its files again, soon.
    pub fn reopen(&self) {
        self.shared.reopen.notify_one();
    }

    /// Whether the destination is gone for good (a closed pipe): the sink has said the word to stop, and the program
    /// ends quietly with exit code 0.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Acquire)
    }

    /// Whether the loop has ended.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.load(Acquire)
    }

    /// Records that were offered to the sink and have no end yet: after the loop has ended, those it gave up.
    pub fn undelivered(&self) -> u64 {
        self.metrics.sinks[self.number].pairs.iter().map(|pair| pair.in_flight()).sum()
    }
}

/// A sink that is open and takes nothing yet.
pub struct Opened {
    delivery: Delivery,
    runtime: Own,
}

/// A runtime that may be dropped wherever a start fails, also within another one.
struct Own(Option<Runtime>);

impl Drop for Own {
    fn drop(&mut self) {
        // Name look-ups run in threads that can not be stopped; nobody waits for them.
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// Opens a sink. `number` is the sink's index in the metrics. An error means that it could not be opened; its text says
/// where and what to do. What is refused for good goes to `letters`.
pub fn open(
    mut sink: Box<dyn Sink>,
    queue: impl Into<Feed>,
    metrics: Arc<Metrics>,
    number: usize,
    stops: Stops,
    letters: Option<Arc<DeadLetters>>,
) -> io::Result<Opened> {
    let name = metrics.sinks[number].name.clone();
    sink.start().map_err(|error| io::Error::new(error.kind(), format!("sinks.{name}: {error}")))?;
    let plan = Plan::new(sink.limits(), fastrand::u64(..));
    let handle = SinkHandle { shared: Arc::default(), durable: sink.durable(), metrics: Arc::clone(&metrics), number };
    let check = format!("sink.{name}");
    metrics.check(&check, Health::Pass, "");
    let delivery = Delivery {
        sink,
        plan,
        queue: queue.into(),
        metrics,
        number,
        stops,
        letters,
        check,
        handle,
        failing: None,
        lapses: Lapses::default(),
        unanswered: None,
        said_failure: None,
        said_refused: None,
        refused_unsaid: 0,
        refused_in_a_row: 0,
        closed: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(Opened { delivery, runtime: Own(Some(runtime)) })
}

impl Opened {
    /// The way to it.
    pub fn handle(&self) -> SinkHandle {
        self.delivery.handle.clone()
    }

    /// Starts its loop in a thread of its own, which begins when it is told to.
    pub fn spawn(self, begin: Stop, workers: &Workers) -> io::Result<()> {
        let Opened { mut delivery, runtime } = self;
        let name = format!("sink-{}", delivery.counters().name);
        workers.spawn(&name, move || {
            let _ending = Ending {
                shared: Arc::clone(&delivery.handle.shared),
                metrics: Arc::clone(&delivery.metrics),
                check: delivery.check.clone(),
                read: delivery.stops.read.clone(),
            };
            let give_up = delivery.stops.give_up.clone();
            let work = async {
                tokio::select! {
                    biased;
                    () = begin.wait() => delivery.run().await,
                    () = give_up.wait() => {}
                }
            };
            if let Some(runtime) = &runtime.0 {
                runtime.block_on(work);
            }
            drop(runtime);
        })
    }
}

/// Marks the end of the loop, however it comes. A sink that died of a bug stops the node: to go on reading for a sink
/// that takes nothing would only look like work.
struct Ending {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    check: String,
    read: Stop,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.metrics.check(
                &self.check,
                Health::Fail,
                "the sink stopped because of a bug in longshore; see its log",
            );
            self.read.set();
        }
        self.shared.ended.store(true, Release);
    }
}

struct Failing {
    since: Instant,
    cause: String,
    /// The health check says "fail" already.
    told: bool,
    /// The log has it.
    said: bool,
}

/// Failures with successes in between.
#[derive(Default)]
struct Lapses {
    count: u32,
    /// The latest failure.
    last: Option<Instant>,
    cause: String,
}

impl Lapses {
    /// A try failed; `again`: the one before was a success.
    fn note(&mut self, now: Instant, again: bool, cause: &str) {
        let soon = self.last.is_some_and(|last| now.duration_since(last) < LAPSE_WITHIN);
        if again {
            self.count = if soon { self.count.saturating_add(1) } else { 1 };
        }
        self.last = Some(now);
        cause.clone_into(&mut self.cause);
    }

    /// Until when it is worth a warning that it works.
    fn until(&self) -> Option<Instant> {
        self.last.filter(|_| self.count >= LAPSES_WARN).map(|last| last + LAPSE_WITHIN)
    }
}

struct Delivery {
    sink: Box<dyn Sink>,
    plan: Plan,
    queue: Feed,
    metrics: Arc<Metrics>,
    number: usize,
    stops: Stops,
    /// Where refused records are kept.
    letters: Option<Arc<DeadLetters>>,
    /// Name of the health check.
    check: String,
    handle: SinkHandle,
    failing: Option<Failing>,
    lapses: Lapses,
    /// Since when something has been under way without any answer.
    unanswered: Option<Instant>,
    said_failure: Option<Instant>,
    said_refused: Option<Instant>,
    refused_unsaid: u64,
    refused_in_a_row: u64,
    closed: bool,
}

type Tried = (Request, Result<Reply, SendError>);

impl Delivery {
    async fn run(&mut self) {
        let give_up = self.stops.give_up.clone();
        let mut give_up = pin!(give_up.wait());
        let drain = self.stops.drain.clone();
        let (mut drain, mut drains) = (pin!(drain.wait()), false);
        let mut tries: JoinSet<Tried> = JoinSet::new();
        let mut ended = false;
        loop {
            if drains || self.queue.is_closed() {
                // Whatever waits, for room or for a time, is tried once more: the node has little time to stop.
                self.plan.close(Instant::now());
            }
            self.counters().queued.store(self.queue.len() as u64, Relaxed);
            let wake = self.send_all(&mut tries);
            if self.closed {
                break;
            }
            self.unanswered = match self.unanswered {
                _ if tries.is_empty() => None,
                since => since.or_else(|| Some(Instant::now())),
            };
            if ended && self.plan.is_empty() {
                break;
            }
            let upkeep = self.inside(|sink| sink.tick()).map(|wait| Instant::now() + wait);
            let fails = match &self.failing {
                Some(failing) => (!failing.told).then_some(failing.since),
                None => self.unanswered,
            };
            let fails = fails.map(|since| since + FAIL_AFTER);
            let lapses = self.lapses.until().filter(|_| self.failing.is_none());
            let senders = (!ended && !self.plan.has_room()).then(|| Instant::now() + LOOK_AT_SENDERS);
            let wake = [wake, upkeep, fails, lapses, senders].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = &mut give_up => break,
                () = &mut drain, if !drains => drains = true,
                Some(tried) = tries.join_next(), if !tries.is_empty() => match tried {
                    Ok((request, outcome)) => self.finish(request, outcome),
                    // A bug in a sink: the thread ends as if the panic had been its own.
                    Err(error) => resume_unwind(error.into_panic()),
                },
                // Before the queue, which may never be empty.
                () = self.handle.shared.reopen.notified() => self.inside(|sink| sink.reopen()),
                shipment = self.queue.recv(), if !ended && self.plan.has_room() => match shipment {
                    Some(shipment) => self.take_all(shipment),
                    None => {
                        ended = true;
                        self.plan.close(Instant::now());
                    }
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
            }
            self.check_failing();
        }
        self.end(tries).await;
    }

    /// Takes a shipment and all that wait behind it, as far as one request goes.
    fn take_all(&mut self, first: Shipment) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(shipment) = next {
            if let Err(receipts) = self.plan.take(shipment, now) {
                receipts.settle(Outcome::Delivered);
            }
            next = if self.plan.has_room() { self.queue.try_recv() } else { None };
        }
    }

    /// Starts everything that may be sent now. Returns when there will be more.
    fn send_all(&mut self, tries: &mut JoinSet<Tried>) -> Option<Instant> {
        while !self.closed {
            let mut request = match self.plan.next(Instant::now()) {
                Next::Send(request) => request,
                Next::Wait(until) => return until,
            };
            if request.body().is_none() {
                let bytes_max = self.plan.bytes_max();
                let rest = self.inside(|sink| sink.prepare(&mut request, bytes_max));
                if !rest.is_empty() {
                    self.plan.take_back(rest, &request, Instant::now());
                }
            }
            if request.tries > 0 {
                self.counters().retries.fetch_add(1, Relaxed);
            }
            let mut sending = self.inside(|sink| sink.send(&mut request));
            for (input, tally) in request.tallies.drain(..) {
                self.metrics.add(input, &tally);
            }
            request.tallied = true;
            if self.sink.limits().reach == Reach::Local
                && let Poll::Ready(outcome) = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                // Done at once, as writing to a file is: that needs no task, whose end would wake this loop by a write to
                // its own selector. (Sinks on the network begin with a look at their sockets, which only a task gets.)
                self.finish(request, outcome);
            } else {
                tries.spawn(async move { (request, sending.await) });
            }
        }
        None
    }

    fn finish(&mut self, request: Request, outcome: Result<Reply, SendError>) {
        self.unanswered = None;
        if let Ok(reply) = &outcome {
            let counters = self.counters();
            counters.requests.fetch_add(1, Relaxed);
            counters.bytes.fetch_add(reply.bytes, Relaxed);
        }
        let Meaning { ended, state, shrunk } = self.plan.finish(request, outcome, Instant::now());
        let mut refused = 0;
        for (part, end) in ended {
            refused += if end == End::Delivered { 0 } else { part.rows.len() as u64 };
            self.settle(part, end, &state);
        }
        if let Some(bytes) = shrunk {
            let sink = &self.counters().name;
            tracing::warn!(
                sink,
                bytes,
                "the destination calls requests of this size too large; batch.size is now less"
            );
        }
        match state {
            State::Works => self.works(),
            State::Refused(cause) => {
                self.answers();
                self.refused(refused, &cause);
            }
            State::Fails { cause, fault, again } => {
                if refused > 0 {
                    self.refused(refused, &cause);
                }
                self.fails(cause, fault, again);
            }
            State::Closed => {
                self.closed = true;
                self.handle.shared.closed.store(true, Release);
                self.stops.read.set();
            }
        }
    }

    fn settle(&self, part: Part, end: End, state: &State) {
        let pair = self.metrics.pair(part.batch.input, self.number);
        let counter = match end {
            End::Delivered => &pair.delivered,
            End::Rejected(reason) => &pair.rejected[reason as usize],
        };
        let from = if part.logged { &pair.logged } else { &pair.held };
        let turn = self.metrics.turn();
        shift(from, counter, part.rows.len() as u64);
        drop(turn);
        match (end, &self.letters) {
            (End::Rejected(reason), Some(letters)) => {
                let Part { batch, rows, receipts, .. } = part;
                let cause = state.cause().to_owned();
                letters.keep(self.number, Refused { batch, rows, receipts, reason, cause });
            }
            _ => part.receipts.settle(end.outcome()),
        }
    }

    /// Calls the sink, which may block for as long as a dead mount likes: others see since when (`admin.rs`), since
    /// this thread can not tell them.
    fn inside<T>(&mut self, call: impl FnOnce(&mut dyn Sink) -> T) -> T {
        let now = u64::try_from(Timestamp::now().0).unwrap_or(0);
        self.counters().inside_since.store(now, Relaxed);
        let got = call(self.sink.as_mut());
        self.counters().inside_since.store(0, Relaxed);
        got
    }

    fn counters(&self) -> &SinkMetrics {
        &self.metrics.sinks[self.number]
    }

    fn works(&mut self) {
        let now = u64::try_from(Timestamp::now().0).unwrap_or(0);
        self.counters().last_success.store(now, Relaxed);
        let was_refusing = self.refused_in_a_row >= REFUSED_WARN;
        self.refused_in_a_row = 0;
        if was_refusing {
            self.is_well();
        }
        self.answers();
    }

    /// Sets the check of a sink that works, as its latest failures have it.
    fn is_well(&self) {
        let Lapses { count, cause, .. } = &self.lapses;
        let text = self.lapses.until().map(|_| format!("it fails now and then, {count} times so far; last: {cause}"));
        let health = if text.is_some() { Health::Warn } else { Health::Pass };
        self.metrics.check(&self.check, health, text.unwrap_or_default());
    }

    /// The destination answered: whatever failed before works again.
    fn answers(&mut self) {
        if let Some(failing) = self.failing.take() {
            self.counters().failing_since.store(0, Relaxed);
            self.is_well();
            if failing.said {
                let seconds = failing.since.elapsed().as_secs();
                tracing::info!(sink = self.counters().name, seconds, "the sink works again");
            }
        }
    }

    fn refused(&mut self, records: u64, cause: &str) {
        self.refused_in_a_row += records;
        self.refused_unsaid += records;
        let quiet = self.said_refused.is_some_and(|said| said.elapsed() < SAY_REFUSED);
        if records > 0 && !quiet {
            let records = std::mem::take(&mut self.refused_unsaid);
            self.said_refused = Some(Instant::now());
            tracing::warn!(sink = self.counters().name, records, cause, "records were rejected for good");
        }
        if self.refused_in_a_row >= REFUSED_WARN {
            let text = format!("{} records in a row were rejected; last: {cause}", self.refused_in_a_row);
            self.metrics.check(&self.check, Health::Warn, text);
        }
    }

    fn fails(&mut self, cause: String, fault: bool, again: Instant) {
        let now = Instant::now();
        let quiet = self.said_failure.is_some_and(|said| now.duration_since(said) < SAY_FAILURE);
        if !quiet {
            self.said_failure = Some(now);
            let sink = &self.counters().name;
            let next_try = format!("{:.1}s", again.saturating_duration_since(now).as_secs_f32());
            if fault {
                tracing::error!(
                    sink,
                    cause,
                    next_try,
                    "the sink is paused until somebody puts this right; nothing is lost"
                );
            } else {
                tracing::warn!(sink, cause, next_try, "the sink fails and tries again; nothing is lost");
            }
        }
        if self.failing.is_none() {
            let stamp = u64::try_from(Timestamp::now().0).unwrap_or(0);
            self.counters().failing_since.store(stamp, Relaxed);
        }
        self.lapses.note(now, self.failing.is_none(), &cause);
        let since = self.failing.as_ref().map_or(now, |failing| failing.since);
        let told = fault || self.failing.as_ref().is_some_and(|failing| failing.told);
        let said = !quiet || self.failing.as_ref().is_some_and(|failing| failing.said);
        self.metrics.check(&self.check, if told { Health::Fail } else { Health::Warn }, cause.clone());
        self.failing = Some(Failing { since, cause, told, said });
    }

    /// A warning that lasts becomes a failure, and so does silence: a destination that takes connections and never
    /// answers would else look well until the first try runs out of time.
    fn check_failing(&mut self) {
        let silent = self.unanswered.filter(|since| self.failing.is_none() && since.elapsed() >= FAIL_AFTER);
        if let Some(since) = silent {
            let cause = format!("no answer for {FAIL_AFTER:?}");
            let ago = u64::try_from(since.elapsed().as_nanos()).unwrap_or(0);
            let stamp = u64::try_from(Timestamp::now().0).unwrap_or(0).saturating_sub(ago);
            self.counters().failing_since.store(stamp, Relaxed);
            self.metrics.check(&self.check, Health::Fail, cause.clone());
            tracing::warn!(sink = self.counters().name, cause, "the sink still waits for its destination");
            self.failing = Some(Failing { since, cause, told: true, said: true });
        }
        if self.failing.is_none() && self.lapses.until().is_some_and(|until| Instant::now() >= until) {
            self.lapses = Lapses::default();
            if self.refused_in_a_row < REFUSED_WARN {
                self.metrics.check(&self.check, Health::Pass, "");
            }
        }
        if let Some(failing) = self.failing.as_mut().filter(|f| !f.told && f.since.elapsed() >= FAIL_AFTER) {
            failing.told = true;
            self.metrics.check(&self.check, Health::Fail, failing.cause.clone());
        }
    }

    /// Drops what is left, unsettled: its origin hears "not delivered".
    async fn end(&mut self, mut tries: JoinSet<Tried>) {
        // What has just come back counts; the rest is cut off.
        while let Some(Ok((request, outcome))) = tries.try_join_next() {
            self.finish(request, outcome);
        }
        tries.shutdown().await;
        self.queue.close();
        self.counters().queued.store(0, Relaxed);
        // Frees what is gathered, waiting and halved.
        self.plan = Plan::new(self.sink.limits(), 0);
        self.inside(|sink| sink.reopen());
        let records = self.handle.undelivered();
        if records > 0 && !self.closed {
            let cause = self.failing.as_ref().map_or("", |failing| failing.cause.as_str());
            let sink = &self.counters().name;
            tracing::warn!(
                sink,
                records,
                cause,
                "stopped before these records were delivered; they are not acknowledged"
            );
        }
    }
}

#[cfg(test)]
mod tests;
