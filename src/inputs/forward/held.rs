//! What the connections of one input share of the memory budget.
//!
//! Limits: buffers of unfinished frames of idle connections share a quarter of the budget; as many connections read at once
//! as a sixteenth of it has read buffers.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::codec_memory::CodecMemory;
use super::session::READ;

/// What the connections of one input share of the budget: bytes that idle ones hold of unfinished frames, turns to
/// read, and memory of decompression.
#[derive(Debug)]
pub(super) struct Held {
    bytes: AtomicUsize,
    max: usize,
    turns: Semaphore,
    pub(super) codecs: CodecMemory,
}

impl Held {
    pub(super) fn new(budget: usize) -> Held {
        let turns = Semaphore::new((budget / 16 / READ).max(2));
        Held { bytes: AtomicUsize::new(0), max: budget / 4, turns, codecs: CodecMemory::new(budget) }
    }

    /// A turn to read, first come first served; it ends when it is dropped.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Fails only when the semaphore is closed, which nobody does.
        self.turns.acquire().await.ok()
    }

    /// Whether no turn is left: others may wait for one.
    pub(super) fn is_busy(&self) -> bool {
        self.turns.available_permits() == 0
    }
}

/// A share of [`Held`].
pub(super) struct Share<'h>(&'h Held, usize);

impl Held {
    /// A share of the bytes for an idle one, if they are not used up.
    pub(super) fn take(&self, bytes: usize) -> Option<Share<'_>> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let share = Share(self, bytes);
        (before + bytes <= self.max).then_some(share)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.0.bytes.fetch_sub(self.1, Ordering::Relaxed);
    }
}
