//! Inputs make batches; they know no step, buffer or sink. An input is one file and its row in [`INPUTS`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::runtime::Handle;

use crate::batch::{Batch, Outcome};
use crate::budget::{Budget, Permit};
use crate::metrics::{InputMetrics, Metrics};
use crate::pipeline::{JoinRule, Lane, join};
use crate::record::{Origin, Timestamp};
use crate::settings::Section;
use crate::workers::{Stop, Workers};

use follow::checkpoint::Checkpoints;
use gate::{Gate, Passage};

pub mod docker; // json-file logs of containers, with their names
pub mod file; // plain, NDJSON, CRI and json-file files
pub mod follow; // files through their generations: opener, chains, checkpoints
pub mod forward; // the forward protocol over sockets, with acks
pub mod gate; // what a reload shuts: the way from the inputs to steps and sinks
pub mod inherited; // listening sockets of systemd or of the process before
pub mod stdin; // standard input

/// When the origin of records learns that they are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// When they are in the disk log, on stable storage.
    Durable,
    /// When every matching sink has taken them, or has them in its disk log.
    Delivered,
    /// As soon as they are in memory: a crash loses what was not delivered.
    Accepted,
}

/// What an input needs of the node. One for each input, cloned into its threads and tasks.
#[derive(Clone, Debug)]
pub struct Outlet {
    /// The input's number in the metrics.
    pub input: u16,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// The memory budget.
    pub budget: Arc<Budget>,
    /// The way to the steps and the sinks.
    pub gate: Arc<Gate>,
    /// The word to stop reading.
    pub stop: Stop,
    /// The runtime, for tasks, and for threads that wait.
    pub runtime: Handle,
    /// End when everything that is there now was read, instead of waiting for more (`longshore tail --no-follow`).
    pub once: bool,
    /// Where followed files were left. `None`: nothing is remembered (`longshore tail`).
    pub checkpoints: Option<Arc<Checkpoints>>,
}

impl Outlet {
    /// This input's counters.
    pub fn counters(&self) -> &InputMetrics {
        &self.metrics.inputs[usize::from(self.input)]
    }

    /// State for one stream of records.
    pub fn lane(&self, rule: JoinRule) -> Lane {
        self.gate.pipeline().lane(rule)
    }

    /// What the `join` step lets wait, and for how long.
    pub fn join_limits(&self) -> join::Limits {
        self.gate.pipeline().join_limits()
    }

    /// An empty batch of this input that may hold `bytes`; waits for memory.
    pub async fn batch(&self, bytes: usize, origin: &Arc<Origin>) -> Batch {
        let permit = match self.budget.try_acquire(bytes) {
            Some(permit) => permit,
            None => self.paused(self.budget.acquire(bytes)).await,
        };
        Batch::new(permit, self.input, Arc::clone(origin))
    }

    /// The same for a thread. `None` when the word to stop came first.
    pub fn batch_blocking(&self, bytes: usize, origin: &Arc<Origin>) -> Option<Batch> {
        let permit: Option<Permit> = match self.budget.try_acquire(bytes) {
            Some(permit) => Some(permit),
            None => self.runtime.block_on(self.paused(async {
                tokio::select! {
                    permit = self.budget.acquire(bytes) => Some(permit),
                    () = self.stop.wait() => None,
                }
            })),
        };
        permit.map(|permit| Batch::new(permit, self.input, Arc::clone(origin)))
    }

    /// Runs the steps. Afterwards the caller adds its receipts and calls `send`.
    pub fn apply(&self, lane: &mut Lane, batch: &mut Batch) {
        self.gate.pipeline().apply(lane, batch, Timestamp::now());
    }

    /// Makes the pieces that wait in the lane records of an empty batch: no more will come.
    pub fn flush(&self, lane: &mut Lane, batch: &mut Batch) {
        self.gate.pipeline().flush(lane, batch, Timestamp::now());
    }

    /// The same where more is expected, and the sender waits for the ack of these.
    pub fn flush_unjoined(&self, lane: &mut Lane, batch: &mut Batch) {
        self.gate.pipeline().flush_unjoined(lane, batch, Timestamp::now());
    }

    /// Offers a batch to the sinks; waits for room in their queues, or in the disk log, and for the end of a reload.
    pub async fn send(&self, mut batch: Batch) {
        let passage = match self.gate.pass_now() {
            Some(passage) => Some(passage),
            None => self.paused(self.pass()).await,
        };
        let Some(passage) = passage else { return self.not_sent(&batch) };
        if !batch.scraps.is_empty() {
            self.keep_scraps(&passage, &mut batch).await;
        }
        let router = &passage.router;
        let Some(mut offer) = router.route(batch) else { return };
        if !router.outbox().try_send(&mut offer) {
            let place = self.counters().held.enter();
            self.paused(router.outbox().send(offer)).await;
            place.got();
        } else {
            self.counters().held.flows();
            offer.receipts.settle(Outcome::Delivered);
        }
    }

    /// The same for a thread.
    pub fn send_blocking(&self, mut batch: Batch) {
        let passage = match self.gate.pass_now() {
            Some(passage) => Some(passage),
            None => self.runtime.block_on(self.paused(self.pass())),
        };
        let Some(passage) = passage else { return self.not_sent(&batch) };
        if !batch.scraps.is_empty() {
            self.runtime.block_on(self.keep_scraps(&passage, &mut batch));
        }
        let router = &passage.router;
        let Some(mut offer) = router.route(batch) else { return };
        if !router.outbox().try_send(&mut offer) {
            let place = self.counters().held.enter();
            self.runtime.block_on(self.paused(router.outbox().send(offer)));
            place.got();
        } else {
            self.counters().held.flows();
            offer.receipts.settle(Outcome::Delivered);
        }
    }

    /// Hands what was refused to who keeps it, before its neighbours go on: it waits for no sink.
    async fn keep_scraps(&self, passage: &Passage, batch: &mut Batch) {
        let scraps = std::mem::take(&mut batch.scraps);
        match &passage.letters {
            Some(letters) => letters.keep_scraps(self.input, batch.origin.peer.as_deref(), scraps).await,
            None => scraps.kept.into_iter().for_each(|scrap| scrap.receipts.settle(Outcome::Rejected)),
        }
    }

    /// The way to the sinks, once there is one. `None`: there will be none, or this input is to leave while the gate is
    /// shut, which is opened only when it has left.
    async fn pass(&self) -> Option<Arc<Passage>> {
        tokio::select! {
            biased;
            passage = self.gate.pass() => passage,
            () = self.stop.wait() => None,
        }
    }

    /// A batch that was read and is dropped, which tells its origin.
    fn not_sent(&self, batch: &Batch) {
        if !batch.is_empty() {
            tracing::warn!(
                input = self.counters().name,
                records = batch.len(),
                "read and not taken before its input ended; files and senders that wait for acks give it again, others do not"
            );
        }
    }

    async fn paused<T>(&self, waiting: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let done = waiting.await;
        self.count_pause(started);
        done
    }

    fn count_pause(&self, started: Instant) {
        let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters().paused_ns.fetch_add(ns, Relaxed);
    }
}

/// A configured input. `start` opens what it needs (an error ends the start of the node), spawns its threads in
/// `workers` or tasks on the outlet's runtime, and returns. It ends when the word to stop was said, or when its input
/// is at an end: its threads and tasks end, and drop their outlets.
pub trait Input: Send {
    /// The tags that its records can have, as patterns ([`TagGlob`](crate::record::TagGlob)): to warn of a sink that
    /// nothing reaches.
    fn tags(&self) -> Vec<String>;

    /// Whether what was read and not delivered comes again at the next start: true for files whose checkpoint waits for
    /// delivery. Otherwise records that are left at the end are lost, but for senders that resend what was not acked.
    fn gives_again(&self) -> bool {
        false
    }

    /// Whether somebody sends to it who could send elsewhere: not where files are read, which wait by themselves.
    fn is_sent_to(&self) -> bool {
        true
    }

    /// Whether its origin is told that records are safe when they are in the disk log: then there has to be one.
    fn is_durable(&self) -> bool {
        false
    }

    /// Bytes of one record, at most, where its origin is told of the disk log.
    fn record_max(&self) -> Option<usize> {
        None
    }

    /// What `check` should say of what is there now, beside the configuration. Looks at files, changes nothing.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Starts reading.
    fn start(self: Box<Self>, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()>;
}

/// One kind of input: its `type` in the configuration, and how to make one from its section. `read` does no I/O; it
/// reports mistakes to the section's document and returns something even then.
pub struct InputKind {
    /// The `type`.
    pub name: &'static str,
    /// Reads the section of the input called by that name. `type` is read by the caller, `finish` is called by it.
    pub read: fn(&Section<'_, '_>, &str) -> Box<dyn Input>,
}

/// Every input of this build. A new one adds its file, its `mod` line and its row here.
pub const INPUTS: &[InputKind] = &[docker::KIND, file::KIND, forward::KIND, stdin::KIND];
