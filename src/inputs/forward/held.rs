//! What the connections of one input share of the memory budget.
//!
//! Limits: buffers of unfinished frames of idle connections share a quarter of the budget; as many connections read at once
//! as a sixteenth of it has read buffers; acks that are not written share an eighth ([`AckMemory`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::budget::{Budget, Permit};

use super::codec_memory::CodecMemory;
use super::session::READ;

/// What the connections of one input share of the budget: bytes that idle ones hold of unfinished frames, turns to
/// read, memory of decompression and of acks.
#[derive(Debug)]
pub(super) struct Held {
    bytes: AtomicUsize,
    max: usize,
    turns: Semaphore,
    pub(super) codecs: CodecMemory,
    pub(super) acks: Arc<AckMemory>,
}

impl Held {
    pub(super) fn new(budget: &Arc<Budget>) -> Held {
        let total = budget.total();
        let turns = Semaphore::new((total / 16 / READ).max(2));
        let (codecs, acks) = (CodecMemory::new(total), AckMemory::new(budget));
        Held { bytes: AtomicUsize::new(0), max: total / 4, turns, codecs, acks }
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

/// Bytes of acks that each connection may have outstanding without being counted, and goes on with while all others have
/// used up what they share: those of a sender that waits for one ack at a time.
pub(super) const ACKS_FREE: usize = 512;
/// What is beyond is counted in such steps, so that not every ack costs a look at the budget.
const ACKS_STEP: usize = 4 << 10;

/// What acks that are not written take of the budget, for all connections of an input. It is counted after the fact, since
/// a chunk id comes at the end of its frame, and may so be overdrawn by what is being read at that moment.
#[derive(Debug)]
pub(super) struct AckMemory {
    budget: Arc<Budget>,
    used: AtomicUsize,
    max: usize,
}

impl AckMemory {
    pub(super) fn new(budget: &Arc<Budget>) -> Arc<AckMemory> {
        Arc::new(AckMemory { budget: Arc::clone(budget), used: AtomicUsize::new(0), max: budget.total() / 8 })
    }

    /// Whether it is used up: who has acks outstanding reads no more, and who takes none is closed sooner.
    pub(super) fn is_short(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.max
    }
}

/// What one connection has of it.
#[derive(Debug)]
pub(super) struct AckShare {
    memory: Arc<AckMemory>,
    permit: Option<Permit>,
}

impl AckShare {
    pub(super) fn new(memory: &Arc<AckMemory>) -> AckShare {
        AckShare { memory: Arc::clone(memory), permit: None }
    }

    pub(super) fn is_short(&self) -> bool {
        self.memory.is_short()
    }

    /// Counts `bytes` of acks.
    pub(super) fn cover(&mut self, bytes: usize) {
        let (needed, has) = (bytes.saturating_sub(ACKS_FREE), self.permit.as_ref().map_or(0, Permit::bytes));
        if needed <= has && has <= needed + 2 * ACKS_STEP && needed > 0 {
            return;
        }
        let wanted = needed.next_multiple_of(ACKS_STEP);
        if wanted == has {
            return;
        }
        self.memory.used.fetch_add(wanted, Ordering::Relaxed);
        self.memory.used.fetch_sub(has, Ordering::Relaxed);
        match &mut self.permit {
            _ if wanted == 0 => self.permit = None,
            Some(permit) => permit.resize(wanted),
            permit @ None => permit.insert(self.memory.budget.empty_permit()).grow(wanted),
        }
    }
}

impl Drop for AckShare {
    fn drop(&mut self) {
        self.cover(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_are_counted_in_steps_beyond_the_first_and_given_back() {
        let budget = Budget::new(1 << 20);
        let memory = AckMemory::new(&budget);
        let (mut one, mut other) = (AckShare::new(&memory), AckShare::new(&memory));
        one.cover(ACKS_FREE);
        assert_eq!(budget.used(), 0);
        one.cover(ACKS_FREE + 1);
        assert_eq!(budget.used(), ACKS_STEP);
        other.cover(memory.max);
        assert_eq!(budget.used(), memory.max + ACKS_STEP);
        assert!(memory.is_short());
        other.cover(ACKS_STEP);
        assert!(!memory.is_short());
        assert_eq!(budget.used(), 2 * ACKS_STEP);
        one.cover(0);
        assert_eq!(budget.used(), ACKS_STEP);
        drop(other);
        assert_eq!((budget.used(), memory.used.load(Ordering::Relaxed)), (0, 0));
    }
}
