//! Hears from the disk log: records that it lost go to the ledger, its state to the health checks.

use std::sync::Arc;

use crate::buffer::{Loss, LossReason, State, Watcher};
use crate::log::Limited;
use crate::metrics::{DropReason, Health, Metrics, shift};

/// The health check of the disk log: while it fails, `/ready` does.
pub const CHECK: &str = "buffer";

static SAID: Limited = Limited::new(6);

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
        shift(&pair.buffered, &pair.dropped[why as usize], loss.count.records);
        drop(turn);
        let sink = &self.metrics.sinks[*sink].name;
        if let Some(left_out) = SAID.allow(sink) {
            let (records, bytes, reason) = (loss.count.records, loss.count.bytes, why.name());
            tracing::error!(sink, records, bytes, reason, left_out, "records of the disk log are lost to this sink");
        }
    }

    fn state(&self, state: &State) {
        match state {
            State::Healthy => {
                self.metrics.check(CHECK, Health::Pass, "");
                tracing::info!("the disk log takes records");
            }
            State::Full => {
                self.metrics.check(CHECK, Health::Warn, "the disk log is full");
                tracing::warn!("the disk log is full; what happens now is [buffer] full");
            }
            State::Degraded { cause } => {
                self.metrics.check(CHECK, Health::Fail, format!("the disk log can not be written: {cause}"));
                tracing::error!(
                    cause,
                    "the disk log can not be written; nothing is acknowledged, it is tried again after 1 to 30 s"
                );
            }
            State::Closed => {}
        }
    }
}
