//! Hears from the disk log, which writes both to the own log: records that it lost go to the ledger, its state to the health
//! checks.

use std::sync::Arc;

use crate::buffer::{Loss, LossReason, State, Watcher};
use crate::metrics::{DropReason, Health, Metrics};

/// The health check of the disk log: while it fails, `/ready` does.
pub const CHECK: &str = "buffer";

/// Told by the log, from any of its threads.
pub struct LogWatcher {
    /// What counts.
    pub metrics: Arc<Metrics>,
    /// By reader: its sink's number in the metrics.
    pub sinks: Vec<usize>,
}

impl Watcher for LogWatcher {
    fn lost(&self, loss: &Loss) {
        let why = match loss.why {
            LossReason::DroppedOldest => DropReason::BufferFull,
            LossReason::Damaged => DropReason::BufferDamaged,
            // Nobody counts for a sink that is configured no longer.
            LossReason::ReaderRemoved => return,
        };
        let Some(sink) = loss.reader.and_then(|reader| self.sinks.get(reader)) else { return };
        // As `feed.rs` does it: records of an input that is gone count for the first one.
        let input = u16::try_from(loss.source.unwrap_or(0)).unwrap_or(0);
        let pair = self.metrics.pair(input, *sink);
        let turn = self.metrics.turn();
        pair.give_up(&pair.buffered, why, loss.count.records, loss.count.bytes);
        drop(turn);
    }

    fn state(&self, state: &State) {
        match state {
            State::Healthy => self.metrics.check(CHECK, Health::Pass, ""),
            State::Full => self.metrics.check(CHECK, Health::Warn, "the disk log is full"),
            State::Degraded { cause } => {
                self.metrics.check(CHECK, Health::Fail, format!("the disk log can not be written: {cause}"));
            }
            State::Closed => {}
        }
    }
}
