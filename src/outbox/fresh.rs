//! What a sink that is behind would read from the log, but the log has not committed yet: it is still in memory, and taken
//! from there. A sink that is as fast as the disk would else read back, check and decode everything that comes, though it
//! has caught up but for the commit that is under way.
//!
//! Limit: what is queued before the log's thread, which the log bounds; entries of committed frames hold no batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::stored::AtCommit;
use crate::batch::Batch;
use crate::buffer::Lsn;

/// Of one port: its frames that may not be committed yet, in their order.
#[derive(Default)]
pub struct Fresh(Mutex<VecDeque<(Lsn, AtCommit)>>);

/// A part of a batch that was to be read from the log.
pub struct Taken {
    /// The records.
    pub batch: Arc<Batch>,
    /// One bit a tag of the batch.
    pub tags: u64,
}

impl Fresh {
    /// A frame that the port is to read from the log.
    pub fn note(&self, lsn: Lsn, waiting: &AtCommit) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while entries.front().is_some_and(|(_, waiting)| waiting.is_told()) {
            entries.pop_front();
        }
        entries.push_back((lsn, waiting.clone()));
    }

    /// Frame `lsn` for that sink, if it is not committed and the log agrees ([`AtCommit::hand_to`]).
    pub fn take(&self, lsn: Lsn, sink: usize, noted: impl FnOnce() -> bool) -> Option<Taken> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while entries.front().is_some_and(|(front, _)| *front < lsn) {
            entries.pop_front();
        }
        let (_, waiting) = entries.pop_front_if(|(front, _)| *front == lsn)?;
        drop(entries);
        waiting.hand_to(sink, noted)
    }
}
