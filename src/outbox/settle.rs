//! How frames of the disk log are settled: at once for sinks whose "taken" says it all, and for files only after they
//! were synced, so that a cursor never runs ahead of what survives a loss of power.
//!
//! Limit: what waits for a sync is kept as runs of frames; beyond [`RUNS_MAX`] of them nothing more is noted, and those
//! frames come again after a restart. There are three such lists: of what was delivered, of all ports (here); and of what
//! waits while a sync is under way, and of what that one is for, of each output (`run/to_sync.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::batch::{Outcome, Receipt, Receipts, Waiter};
use crate::buffer::{Log, Lsn};

/// Runs of settled frames in one list, at most: 24 MiB.
const RUNS_MAX: usize = 1 << 20;

/// A run of settled frames of one port, both ends included.
type Run = (usize, Lsn, Lsn);

/// Shared by all receipts of logged shipments.
pub struct Settler {
    log: Arc<Log>,
    /// One bit a port: its frames wait for a sync.
    deferred: AtomicU64,
    waiting: Mutex<Vec<Run>>,
    /// Asks for a sync soon.
    ask: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Settler {
    /// A settler of this log.
    pub fn new(log: &Arc<Log>) -> Settler {
        Settler { log: Arc::clone(log), deferred: AtomicU64::new(0), waiting: Mutex::default(), ask: OnceLock::new() }
    }

    /// A port is done with a frame.
    pub fn settle(&self, port: usize, lsn: Lsn) {
        let is_deferred = || self.deferred.load(Ordering::Acquire) >> port & 1 == 1;
        if !is_deferred() {
            self.log.settle(port, lsn);
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked again under the lock: what waits when the port stops deferring is settled by whoever says so.
        if !is_deferred() {
            drop(waiting);
            self.log.settle(port, lsn);
            return;
        }
        let (first, has_room) = (waiting.is_empty(), waiting.len() < RUNS_MAX);
        match waiting.iter_mut().rev().take(8).find(|(of, _, to)| *of == port && *to + 1 == lsn) {
            Some((_, _, to)) => *to = lsn,
            None if has_room => waiting.push((port, lsn, lsn)),
            None => {}
        }
        drop(waiting);
        if first && let Some(ask) = self.ask.get() {
            ask();
        }
    }
}

/// The side of whoever syncs.
#[derive(Clone)]
pub struct Settled(pub(super) Arc<Settler>);

/// Frames of one port that were delivered before a sync began.
#[derive(Debug, Default)]
#[must_use]
pub struct Before(Vec<Run>);

impl Before {
    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those as well, within the limit.
    pub fn add(&mut self, more: Before) {
        self.0.extend(more.0);
        self.0.truncate(RUNS_MAX);
    }
}

impl Settled {
    /// Frames of all ports count as settled only after a sync: said before any sink runs, when nobody knows yet which of
    /// them need it.
    pub fn defer_all(&self) {
        self.0.deferred.store(u64::MAX, Ordering::Release);
    }

    /// Frames of this port are settled as soon as it is done with them.
    pub fn at_once(&self, port: usize) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.deferred.fetch_and(!(1 << port), Ordering::AcqRel);
        let before = take_of(&mut waiting, port);
        drop(waiting);
        self.done(before);
    }

    /// What is called when the first frame waits for a sync.
    pub fn on_first(&self, ask: impl Fn() + Send + Sync + 'static) {
        // Set once, by the wiring.
        let _ = self.0.ask.set(Box::new(ask));
    }

    /// To be called before a sync of this port's output: what it has delivered by now.
    pub fn before(&self, port: usize) -> Before {
        take_of(&mut self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner), port)
    }

    /// The sync was good: those frames are settled.
    pub fn done(&self, before: Before) {
        let some = !before.is_empty();
        for (port, from, to) in before.0 {
            (from..=to).for_each(|lsn| self.0.log.settle(port, lsn));
        }
        if some {
            self.0.log.save_soon();
        }
    }
}

fn take_of(waiting: &mut Vec<Run>, port: usize) -> Before {
    let (of_port, others) = std::mem::take(waiting).into_iter().partition(|(of, ..)| *of == port);
    *waiting = others;
    Before(of_port)
}

/// Settles one frame of one port when the sink is done with it.
pub struct LogWaiter {
    settler: Arc<Settler>,
    port: usize,
    lsn: Lsn,
}

impl LogWaiter {
    /// The receipts of a logged shipment: the log is who waits.
    pub fn receipts(settler: &Arc<Settler>, port: usize, lsn: Lsn) -> Receipts {
        let waiter = LogWaiter { settler: Arc::clone(settler), port, lsn };
        Receipts(vec![Receipt::new(Box::new(waiter))])
    }
}

impl Waiter for LogWaiter {
    fn settled(&self, worst: Outcome) {
        // Not delivered: it stays in the log, and comes again at the next start.
        if worst.is_final() {
            self.settler.settle(self.port, self.lsn);
        }
    }
}
