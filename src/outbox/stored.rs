//! A batch as the disk log sees it: bytes to be written, and who is told when they are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fresh::Taken;
use crate::batch::{Batch, Outcome, Receipts};
use crate::buffer::{Committed, Lost, Lsn, Payload};
use crate::codec::stored_batch;
use crate::metrics::{Metrics, RejectReason, shift};

/// The rows of some tags of a batch, to be encoded by the log's thread.
pub struct Stored {
    batch: Arc<Batch>,
    tags: u64,
    metrics: Arc<Metrics>,
}

impl Stored {
    /// Those of the tags whose bit is set.
    pub fn new(batch: &Arc<Batch>, tags: u64, metrics: &Arc<Metrics>) -> Stored {
        Stored { batch: Arc::clone(batch), tags, metrics: Arc::clone(metrics) }
    }
}

impl Payload for Stored {
    fn encode(&self, out: &mut Vec<u8>) {
        let input = &self.metrics.inputs[self.source()].name;
        stored_batch::encode(&self.batch, input, self.tags, out);
    }

    fn size_hint(&self) -> usize {
        stored_batch::size_hint(&self.batch)
    }

    fn source(&self) -> usize {
        usize::from(self.batch.input)
    }
}

/// What waits for one commit: the origin's handles, and what the ledger says of ports that read it from the log.
struct Waiting {
    receipts: Receipts,
    /// (sink, records) that are nowhere but in the log.
    buffered: Vec<(usize, u64)>,
    batch: Arc<Batch>,
    tags: u64,
    metrics: Arc<Metrics>,
}

/// Keeps what waits, so that a refused frame can be offered again without telling its origin anything.
#[derive(Clone)]
pub struct AtCommit(Arc<Mutex<Option<Waiting>>>);

impl AtCommit {
    /// Of a frame of these tags of a batch.
    pub fn new(receipts: Receipts, buffered: Vec<(usize, u64)>, frame: &Stored) -> AtCommit {
        let (batch, metrics) = (Arc::clone(&frame.batch), Arc::clone(&frame.metrics));
        AtCommit(Arc::new(Mutex::new(Some(Waiting { receipts, buffered, batch, tags: frame.tags, metrics }))))
    }

    /// For the log.
    pub fn handle(&self) -> Box<dyn Committed> {
        Box::new(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Waiting> {
        self.lock().take()
    }

    /// Whether the commit has come, or never will.
    pub fn is_told(&self) -> bool {
        self.lock().is_none()
    }

    /// The frame for a sink that was to read it from the log; `None` once the commit has come. `noted` tells the log, and
    /// says whether it agrees: while this is locked the log goes no further, and so can not drop the frame in between.
    pub fn hand_to(&self, sink: usize, noted: impl FnOnce() -> bool) -> Option<Taken> {
        let mut waiting = self.lock();
        let waiting = waiting.as_mut()?;
        let at = waiting.buffered.iter().position(|(buffered, _)| *buffered == sink)?;
        if !noted() {
            return None;
        }
        let (_, records) = waiting.buffered.swap_remove(at);
        let pair = waiting.metrics.pair(waiting.batch.input, sink);
        let turn = waiting.metrics.turn();
        shift(&pair.buffered, &pair.logged, records);
        drop(turn);
        Some(Taken { batch: Arc::clone(&waiting.batch), tags: waiting.tags })
    }

    /// The frame was not taken: its clones of the handles say nothing.
    pub fn dismiss(&self) {
        if let Some(waiting) = self.take() {
            waiting.receipts.settle(Outcome::Delivered);
        }
    }
}

impl Committed for AtCommit {
    fn committed(self: Box<Self>, outcome: Result<Lsn, Lost>) {
        let Some(waiting) = self.take() else { return };
        match outcome {
            Ok(_) => waiting.receipts.settle(Outcome::Delivered),
            Err(Lost::TooLarge) => {
                waiting.end(Some(RejectReason::TooLarge));
                waiting.receipts.settle(Outcome::Rejected);
            }
            // Dropped unsettled: the origin hears "not delivered" and gives it again.
            Err(Lost::Closed) => waiting.end(None),
        }
    }
}

impl Waiting {
    fn end(&self, rejected: Option<RejectReason>) {
        let _turn = self.metrics.turn();
        for (sink, records) in &self.buffered {
            let pair = self.metrics.pair(self.batch.input, *sink);
            let to = rejected.map_or(&pair.held, |reason| &pair.rejected[reason as usize]);
            shift(&pair.buffered, to, *records);
        }
    }
}
