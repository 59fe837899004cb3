//! A [`Shipment`]: a batch on its way to one sink.

use std::sync::Arc;

use super::{Batch, Receipts};

/// A batch on its way to one sink: the shared batch, this sink's handles, and which of the batch's tags it wants.
#[derive(Debug)]
pub struct Shipment {
    /// The records, shared with the other sinks.
    pub batch: Arc<Batch>,
    /// To be settled by this sink.
    pub receipts: Receipts,
    /// One bit a tag of the batch: the rows of the others are not for this sink.
    pub tags: u64,
    /// The records are in the disk log too: what the sink gives up is not lost.
    pub logged: bool,
}

impl Shipment {
    /// Whether all rows are: their tags are all wanted.
    pub fn wants_all(&self) -> bool {
        // Sixty-four tags at most.
        self.tags.trailing_ones() as usize >= self.batch.tags().len()
    }

    /// Whether row `at` is for this sink.
    pub fn wants(&self, at: usize) -> bool {
        self.tags >> self.batch.row(at).tag & 1 == 1
    }
}
