//! What a sink holds in memory only, while other sinks go on: it gets into the disk log late, when the sink has no room for
//! more or has kept it for [`LATE_AFTER`]. Otherwise the first few batches that a dead sink holds would keep the
//! checkpoint of a file where it is, and a restart would send everything since then to the live sinks again.
//!
//! Limit: one entry a shipment in memory (the queue and what the sink's requests hold); ended ones are let go when there
//! are more than [`SWEEP`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Refused;
use super::settle::Settler;
use super::stored::{AtCommit, Stored};
use crate::batch::{Batch, Outcome, Receipt, Receipts, Waiter};
use crate::buffer::{Log, Lsn, Payload as _, Refusal};
use crate::metrics::{Metrics, shift};

/// A sink that has a batch for so long has it on the disk.
pub const LATE_AFTER: Duration = Duration::from_secs(2);
const SWEEP: usize = 4 * super::LOGGED_QUEUE_MAX;

/// One shipment in memory.
struct Entry {
    port: usize,
    sink: usize,
    tags: u64,
    records: u64,
    since: Instant,
    metrics: Arc<Metrics>,
    settler: Arc<Settler>,
    state: Mutex<State>,
}

enum State {
    /// In memory only; these wait for the sink.
    Memory(Receipts, Arc<Batch>),
    /// In the log too, as this frame; its origin is told by the commit.
    Logged(Lsn, u16),
    /// The sink is done with it.
    Done,
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self) -> bool {
        matches!(*self.state(), State::Done)
    }

    /// Appends it; `Some` when the log refused.
    fn log(&self, log: &Log) -> Option<Refused> {
        let mut state = self.state();
        let State::Memory(receipts, batch) = &*state else { return None };
        let payload = Arc::new(Stored::new(batch, self.tags, &self.metrics));
        let waiting = AtCommit::new(receipts.clone(), Vec::new(), &payload);
        let (records, bytes) = (u32::try_from(self.records).unwrap_or(u32::MAX), payload.size_hint());
        let port = 1 << self.port;
        match log.append_handed(port, port, records, payload, waiting.handle()) {
            Ok(lsn) => {
                let input = batch.input;
                let pair = self.metrics.pair(input, self.sink);
                let turn = self.metrics.turn();
                shift(&pair.held, &pair.logged, self.records);
                drop(turn);
                if let State::Memory(receipts, _) = std::mem::replace(&mut *state, State::Logged(lsn, input)) {
                    // The commit has clones of its own.
                    receipts.settle(Outcome::Delivered);
                }
                None
            }
            Err(refused) => {
                waiting.dismiss();
                Some(Refused { why: refused.why, bytes })
            }
        }
    }
}

struct Ended(Arc<Entry>);

impl Waiter for Ended {
    fn settled(&self, worst: Outcome) {
        let entry = &self.0;
        match std::mem::replace(&mut *entry.state(), State::Done) {
            State::Memory(receipts, _) if worst.is_final() => receipts.settle(worst),
            State::Logged(lsn, input) if worst.is_final() => {
                entry.settler.settle(entry.port, lsn);
                // The sink took it for one that is in memory only, and counted it so.
                let pair = entry.metrics.pair(input, entry.sink);
                let _turn = entry.metrics.turn();
                shift(&pair.logged, &pair.held, entry.records);
            }
            // Dropped unsettled: the origin, or the log, gives it again.
            State::Memory(..) | State::Logged(..) | State::Done => {}
        }
    }
}

/// What is in memory for one port.
#[derive(Default)]
pub struct Late(Mutex<VecDeque<Arc<Entry>>>);

/// What is known of a shipment that is handed to a port.
pub struct Handed<'a> {
    /// The port.
    pub port: usize,
    /// The sink's number in the metrics.
    pub sink: usize,
    /// One bit a tag of the batch.
    pub tags: u64,
    /// Records of them.
    pub records: u64,
    /// The batch.
    pub batch: &'a Arc<Batch>,
}

impl Late {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a shipment, in the order in which they are handed out; what its sink is to settle.
    pub fn note(&self, handed: &Handed<'_>, receipts: Receipts, metrics: &Arc<Metrics>, to: &Arc<Settler>) -> Receipts {
        let entry = Arc::new(Entry {
            port: handed.port,
            sink: handed.sink,
            tags: handed.tags,
            records: handed.records,
            since: Instant::now(),
            metrics: Arc::clone(metrics),
            settler: Arc::clone(to),
            state: Mutex::new(State::Memory(receipts, Arc::clone(handed.batch))),
        });
        let mut entries = self.entries();
        while entries.front().is_some_and(|entry| entry.is_done()) {
            entries.pop_front();
        }
        if entries.len() >= SWEEP {
            entries.retain(|entry| !entry.is_done());
        }
        entries.push_back(Arc::clone(&entry));
        drop(entries);
        Receipts(vec![Receipt::new(Box::new(Ended(entry)))])
    }

    /// Logs what is in memory only, if its oldest is older than `after`. `Some` when the log refused; the rest is tried
    /// another time. Called under the lock of the ports, so that nothing comes in between.
    pub(super) fn log(&self, log: &Log, after: Duration) -> Option<Refused> {
        let mut entries = self.entries();
        while entries.front().is_some_and(|entry| !matches!(*entry.state(), State::Memory(..))) {
            entries.pop_front();
        }
        if entries.front().is_none_or(|entry| entry.since.elapsed() < after) {
            return None;
        }
        // What no frame can hold stays in memory, and is in nobody's way.
        entries.iter().find_map(|entry| entry.log(log).filter(|refused| refused.why != Refusal::TooLarge))
    }
}
