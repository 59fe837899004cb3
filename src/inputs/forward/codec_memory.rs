//! Memory of decompression: what the decoders of all connections of an input hold together.
//!
//! A zstd frame asks for up to 9 MiB with its first bytes, and keeps them until its blob ends, which is up to the
//! sender. So decoders share a pool of a sixth of the budget, and entries that are larger than a decoder's window
//! share a few places of their own. Whoever gets no memory stops reading, and is not closed: what it waits for is
//! given back when a frame ends, and a frame that does not go on ends its connection.
//!
//! Nobody waits here while holding what another one waits for: between two frames of zstd the place in the pool is
//! given back before a larger one is asked for, and the owner of a large entry, which keeps its decoder, overdraws
//! where the others wait. A wish above the whole pool gets all of it, and overdraws the budget by the rest.
//! Limits: the pool, [`CodecMemory::new`]; [`HOLDER_WAIT`] for the budget, then it is overdrawn (by the pool at most).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Budget, Permit};
use crate::codec::forward::Need;

use super::session::HOLDER_WAIT;

/// Places for entries that are larger than a decoder's window, for each so many bytes of budget.
const BUDGET_AN_ENTRY: usize = 48 << 20;

/// What the decoders of one input share.
#[derive(Debug)]
pub(super) struct CodecMemory {
    pool: Arc<Semaphore>,
    max: usize,
    entries: Arc<Semaphore>,
}

/// A place in the pool, and the memory.
#[derive(Debug)]
struct Grant {
    _place: Option<OwnedSemaphorePermit>,
    permit: Permit,
}

/// What one connection has of it.
#[derive(Debug, Default)]
pub(super) struct Granted {
    codec: Option<Grant>,
    entry: Option<Grant>,
}

impl CodecMemory {
    pub(super) fn new(budget: usize) -> CodecMemory {
        // Semaphores count in u32 where several are taken at once.
        let max = (budget / 6).clamp(1, 1 << 30);
        let entries = (budget / BUDGET_AN_ENTRY).max(1);
        CodecMemory { pool: Arc::new(Semaphore::new(max)), max, entries: Arc::new(Semaphore::new(entries)) }
    }

    fn places(&self, need: Need) -> (&Arc<Semaphore>, u32) {
        match need {
            // `max` is far below u32::MAX.
            Need::Codec(bytes) => (&self.pool, bytes.min(self.max) as u32),
            Need::Entry(_) => (&self.entries, 1),
        }
    }
}

impl Granted {
    /// Gets what is needed if it is there already, or free now.
    pub(super) fn try_get(&mut self, need: Need, memory: &CodecMemory, budget: &Arc<Budget>) -> bool {
        if let (Need::Codec(bytes), Some(grant)) = (need, &self.codec)
            && grant.permit.bytes() >= bytes
        {
            return true;
        }
        self.make_way(need);
        let (semaphore, places) = memory.places(need);
        let place = match Arc::clone(semaphore).try_acquire_many_owned(places) {
            Ok(place) => Some(place),
            Err(_) if self.entry.is_some() => None,
            Err(_) => return false,
        };
        let (Need::Codec(bytes) | Need::Entry(bytes)) = need;
        let Some(permit) = budget.try_acquire(bytes) else { return false };
        self.set(need, place, permit);
        true
    }

    /// The same, waiting for it. May be given up at any time.
    pub(super) async fn get(&mut self, need: Need, memory: &CodecMemory, budget: &Arc<Budget>) {
        self.make_way(need);
        let (semaphore, places) = memory.places(need);
        let place = match self.entry.is_some() {
            true => None,
            // Fails only when the semaphore is closed, which nobody does.
            false => Arc::clone(semaphore).acquire_many_owned(places).await.ok(),
        };
        let (Need::Codec(bytes) | Need::Entry(bytes)) = need;
        let permit = match tokio::time::timeout(HOLDER_WAIT, budget.acquire(bytes)).await {
            Ok(permit) => permit,
            Err(_) => budget.empty_permit(),
        };
        self.set(need, place, permit);
    }

    /// Between two frames there is no decoder: what it held goes back before more is asked for.
    fn make_way(&mut self, need: Need) {
        if matches!(need, Need::Codec(_)) {
            self.codec = None;
        }
    }

    fn set(&mut self, need: Need, place: Option<OwnedSemaphorePermit>, mut permit: Permit) {
        let (Need::Codec(bytes) | Need::Entry(bytes)) = need;
        permit.resize(bytes);
        let grant = Some(Grant { _place: place, permit });
        match need {
            Need::Codec(_) => self.codec = grant,
            Need::Entry(_) => self.entry = grant,
        }
    }

    /// Gives back what a decoder that holds this ([`Decoder::memory`](crate::codec::forward::Decoder::memory)) no
    /// longer needs.
    pub(super) fn release(&mut self, (codec, entry): (usize, usize)) {
        if codec == 0 {
            self.codec = None;
        }
        if entry == 0 {
            self.entry = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn decoders_share_a_pool_and_large_entries_their_places() {
        let budget = Budget::new(48 << 20);
        let memory = CodecMemory::new(budget.total());
        let (mut first, mut second) = (Granted::default(), Granted::default());
        assert!(first.try_get(Need::Codec(5 << 20), &memory, &budget));
        assert!(!second.try_get(Need::Codec(5 << 20), &memory, &budget));
        assert!(first.try_get(Need::Codec(4 << 20), &memory, &budget), "it has that already");
        assert!(first.try_get(Need::Entry(4 << 20), &memory, &budget));
        assert!(second.try_get(Need::Codec(2 << 20), &memory, &budget));
        assert!(!second.try_get(Need::Entry(4 << 20), &memory, &budget));
        assert!(first.try_get(Need::Codec(9 << 20), &memory, &budget), "the owner of a large entry overdraws the pool");
        assert_eq!(budget.used(), 15 << 20);
        first.release((1, 0));
        assert!(second.try_get(Need::Entry(4 << 20), &memory, &budget));
        first.release((0, 0));
        second.release((0, 0));
        assert_eq!(budget.used(), 0);
        // More than the pool has gets all of it; more than the budget has is overdrawn.
        let small = Budget::new(6 << 20);
        let memory = CodecMemory::new(small.total());
        first.get(Need::Codec(9 << 20), &memory, &small).await;
        assert_eq!(small.used(), 9 << 20);
        assert!(!second.try_get(Need::Codec(1), &memory, &small));
    }
}
