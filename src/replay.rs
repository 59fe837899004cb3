//! Sends records through one sink of a configuration, once, outside of a node: what `longshore dead-letters replay` does
//! with each sink's letters, and `longshore replay` with what the disk log keeps. The sink is opened as `run` would open it, and tries again as it does there; the ledger of the
//! node knows nothing of it.
//!
//! Limits: [`QUEUE_MAX`] shipments wait for the sink, paid for from a budget of `[node] memory`. When nothing has been
//! taken for [`Options::patience`], it gives up, and what has no end by then is not sent.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::batch::{Batch, Outcome, Receipt, Receipts, Shipment, Waiter};
use crate::budget::{Budget, Permit};
use crate::delivery::{self, SinkHandle, Stops};
use crate::metrics::{Metrics, shift};
use crate::sinks::Sink;
use crate::workers::{Stop, Workers};

/// Shipments that wait for the sink.
const QUEUE_MAX: usize = 16;
const LOOK: Duration = Duration::from_millis(5);
/// How long the sink's thread may take to let go.
const LET_GO: Duration = Duration::from_secs(2);

/// What is sent, and how.
pub struct Options<'a> {
    /// The sink's name.
    pub name: &'a str,
    /// Its type.
    pub kind: &'static str,
    /// Bytes of memory.
    pub memory: usize,
    /// How long to wait without anything being taken.
    pub patience: Duration,
}

/// Numbers of shipments, and what became of each.
type Ended = Arc<Mutex<Vec<(u64, Outcome)>>>;

struct Tell(u64, Ended);

impl Waiter for Tell {
    fn settled(&self, worst: Outcome) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).push((self.0, worst));
    }
}

/// A sink that is being sent to.
pub struct Replay {
    queue: Option<mpsc::Sender<Shipment>>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    handle: SinkHandle,
    give_up: Stop,
    workers: Workers,
    ended: Ended,
    patience: Duration,
    /// Records that have an end, and since when it was that many.
    progress: (u64, Instant),
}

impl Replay {
    /// Opens the sink.
    ///
    /// # Errors
    /// It can not be opened: its text says where and what to do.
    pub fn start(sink: Box<dyn Sink>, options: &Options<'_>) -> Result<Replay, String> {
        let metrics = Arc::new(Metrics::new(&[("replay", "replay")], &[(options.name, options.kind)]));
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let (give_up, workers) = (Stop::default(), Workers::default());
        let stops = Stops { read: Stop::default(), drain: Stop::default(), give_up: give_up.clone() };
        let opened = delivery::open(sink, receiver, Arc::clone(&metrics), 0, stops, None);
        let opened = opened.map_err(|error| error.to_string())?;
        let (handle, begin) = (opened.handle(), Stop::default());
        begin.set();
        opened.spawn(begin, &workers).map_err(|error| error.to_string())?;
        Ok(Replay {
            queue: Some(queue),
            metrics,
            budget: Budget::new(options.memory),
            handle,
            give_up,
            workers,
            ended: Ended::default(),
            patience: options.patience,
            progress: (0, Instant::now()),
        })
    }

    /// Pays for a batch that is about to be decoded; `None` when the sink has taken nothing for too long.
    pub fn permit(&mut self, bytes: usize) -> Option<Permit> {
        loop {
            if let Some(mut permit) = self.budget.try_acquire(bytes) {
                // A batch above a quarter of the budget overdraws it, alone.
                permit.resize(bytes);
                return Some(permit);
            }
            self.wait()?;
        }
    }

    /// Hands over a batch under a number; `false` when the sink has taken nothing for too long.
    pub fn send(&mut self, number: u64, mut batch: Batch) -> bool {
        let records = batch.len() as u64;
        batch.seal();
        let receipts = Receipts(vec![Receipt::new(Box::new(Tell(number, Arc::clone(&self.ended))))]);
        let pair = self.metrics.pair(0, 0);
        pair.routed.fetch_add(records, Relaxed);
        pair.held.fetch_add(records, Relaxed);
        let mut shipment = Shipment { batch: Arc::new(batch), receipts, tags: u64::MAX, logged: false };
        while let Some(queue) = &self.queue {
            match queue.try_send(shipment) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) => shipment = back,
                Err(TrySendError::Closed(_)) => break,
            }
            if self.wait().is_none() {
                break;
            }
        }
        let pair = self.metrics.pair(0, 0);
        shift(&pair.held, &pair.returned, records);
        false
    }

    /// What has ended since the last call: delivered or rejected. What the sink says it has is durable when this returns.
    ///
    /// # Errors
    /// The output could not be synced: nothing of it counts.
    pub fn take_ended(&mut self) -> Result<Vec<(u64, Outcome)>, String> {
        let ended = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        let synced = self.handle.durable().map_or(Ok(()), |durable| durable.sync());
        synced.map_err(|error| format!("the sink's output could not be synced: {error}"))?;
        Ok(ended.into_iter().filter(|(_, outcome)| outcome.is_final()).collect())
    }

    /// Records that were delivered, and that were refused.
    pub fn figures(&self) -> (u64, u64) {
        let pair = self.metrics.pair(0, 0);
        (pair.delivered.load(Relaxed), pair.rejected.iter().map(|counter| counter.load(Relaxed)).sum())
    }

    /// Waits until everything that was handed over has an end; `false` when the patience ended first.
    pub fn drain(&mut self) -> bool {
        self.queue = None;
        while !self.handle.has_ended() {
            if self.wait().is_none() {
                break;
            }
        }
        self.give_up.set();
        self.workers.join(Instant::now() + LET_GO);
        self.handle.undelivered() == 0
    }

    /// A moment; `None` when nothing was taken for too long.
    fn wait(&mut self) -> Option<()> {
        let ended = self.metrics.pair(0, 0).ended();
        if ended != self.progress.0 {
            self.progress = (ended, Instant::now());
        }
        if self.progress.1.elapsed() >= self.patience {
            return None;
        }
        std::thread::sleep(LOOK);
        Some(())
    }
}
