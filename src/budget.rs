//! The one memory budget: byte permits, taken before anything is read and given back when what was read is settled.
//!
//! Every batch, request body and buffer that grows with the input is paid for from here, so the sum of all of them
//! stays below `[node] memory`. Waiting is first come first served: a large request is not starved by small ones.
//! Work that already holds a permit never waits for more (it would wait for itself): it calls [`Permit::grow`], which
//! overdraws, and new reading waits until the overdraft is paid back.
//!
//! The budget also recycles the arenas of finished batches and the bodies of finished requests, since it is the owner of
//! memory: a fresh 512 KiB buffer costs 128 page faults, a recycled one none, and bodies of a megabyte that are freed and made
//! anew leave holes between them (`longshore bench docker-http -n 500000` took 63 MB so, and 30 with recycled ones). At most [`RECYCLED_MAX`] arenas are kept, in at most a sixteenth of the budget, and
//! [`BODIES_MAX`] bodies, in half as much.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::sync::{Mutex, MutexGuard, Semaphore};
use crate::batch::Tables;
use crate::waits::Waits;

/// Arenas kept for reuse, at most: those of a sink's full queue, of what it is at, and some spare.
const RECYCLED_MAX: usize = 24;
/// Bodies kept for reuse, at most: those of one sink's requests under way, and one that is encoded.
const BODIES_MAX: usize = 5;
/// A smaller one of either is freed instead of kept: it is cheaper to make than to grow, and would take a large one's place.
const RECYCLED_BYTES_MIN: usize = 192 << 10;

/// The node's memory budget. Shared by every input and sink.
#[derive(Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
    total: usize,
    /// Bytes overdrawn by [`Permit::grow`]; paid back before `permits` gets anything back.
    debt: Mutex<usize>,
    used_peak: AtomicUsize,
    recycled: Mutex<Recycled>,
    waits: Waits,
}

/// What is kept for reuse, and the bytes that the tables hold.
#[derive(Debug, Default)]
struct Recycled {
    tables: Vec<Tables>,
    bytes: usize,
    /// The oldest first.
    bodies: VecDeque<Vec<u8>>,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Arc<Budget> {
        Arc::new(Budget {
            permits: Arc::new(Semaphore::new(total)),
            total,
            debt: Mutex::new(0),
            used_peak: AtomicUsize::new(0),
            recycled: Mutex::default(),
            waits: Waits::default(),
        })
    }

    /// Bytes of the whole budget.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes in use now; above `total` while overdrawn.
    pub fn used(&self) -> usize {
        let debt = *self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        self.total - self.permits.available_permits().min(self.total) + debt
    }

    /// The most bytes that were in use at once.
    pub fn used_peak(&self) -> usize {
        self.used_peak.load(Ordering::Relaxed)
    }

    /// How long those who want memory have got none; zero while they do. Long, it means that whoever holds it (a sink that
    /// delivers nothing) does not let go of it.
    pub fn stuck_for(&self) -> Duration {
        self.waits.held_for()
    }

    /// Looks whether bytes are free that nobody waits for: some come back without a word, from one who gave up in the moment
    /// that they were its.
    pub fn look(&self) {
        if self.permits.available_permits() > 0 {
            self.waits.flows();
        }
    }

    /// Takes `bytes`, waiting for them. A wish above a quarter of the budget is cut to that, so that one taker can not
    /// hold everything; the permit says how much it got.
    pub async fn acquire(self: &Arc<Self>, bytes: usize) -> Permit {
        let bytes = bytes.clamp(1, (self.total / 4).max(1));
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        let place = self.waits.enter();
        if let Ok(permit) = self.permits.acquire_many(wanted).await {
            permit.forget();
        }
        place.got();
        self.note_use();
        Permit { budget: Arc::clone(self), bytes: wanted as usize }
    }

    /// Takes `bytes` if they are free now and nobody waits.
    pub fn try_acquire(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let bytes = bytes.clamp(1, (self.total / 4).max(1));
        let wanted = u32::try_from(bytes).ok()?;
        self.permits.try_acquire_many(wanted).ok()?.forget();
        self.waits.flows();
        self.note_use();
        Some(Permit { budget: Arc::clone(self), bytes })
    }

    /// A permit of nothing, to be grown: for memory that exists already, as in tests and tools.
    pub fn empty_permit(self: &Arc<Self>) -> Permit {
        Permit { budget: Arc::clone(self), bytes: 0 }
    }

    fn note_use(&self) {
        self.used_peak.fetch_max(self.used(), Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = bytes.min(*debt);
        *debt -= paid;
        // Under the lock: an overdraft in between would find nothing free, and what comes back would go to others first.
        self.permits.add_permits(bytes - paid);
        drop(debt);
        if bytes > paid {
            self.waits.flows();
        }
    }

    fn overdraw(&self, bytes: usize) {
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.permits.forget_permits(bytes);
        *debt += bytes - free;
        drop(debt);
        self.note_use();
    }

    /// Tables of an earlier batch, to be emptied, or new ones.
    pub(crate) fn take_tables(&self) -> Tables {
        let mut recycled = self.recycled();
        let Some(tables) = recycled.tables.pop() else { return Tables::new() };
        recycled.bytes -= tables.memory();
        tables
    }

    /// Keeps the tables of a finished batch for the next one, within the limits above.
    pub(crate) fn recycle(&self, tables: Tables) {
        let memory = tables.memory();
        if memory < RECYCLED_BYTES_MIN {
            return;
        }
        let mut recycled = self.recycled();
        if recycled.tables.len() < RECYCLED_MAX && recycled.bytes + memory <= self.total / 16 {
            recycled.bytes += memory;
            recycled.tables.push(tables);
        }
    }

    /// An empty body with room for `wanted` bytes: that of an earlier request, or a new one.
    pub(crate) fn take_body(&self, wanted: usize) -> Vec<u8> {
        let fits = |body: &Vec<u8>| (wanted..=wanted.saturating_mul(2)).contains(&body.capacity());
        let kept = {
            let bodies = &mut self.recycled().bodies;
            bodies.iter().rposition(fits).and_then(|at| bodies.remove(at))
        };
        kept.unwrap_or_else(|| Vec::with_capacity(wanted))
    }

    /// Keeps the body of a finished request for the next one, within the limits above.
    pub(crate) fn recycle_body(&self, mut body: Vec<u8>) {
        let share = self.total / 32;
        if !(RECYCLED_BYTES_MIN..=share).contains(&body.capacity()) {
            return;
        }
        body.clear();
        let mut recycled = self.recycled();
        recycled.bodies.push_back(body);
        // Nobody may ask for the size of the oldest any more.
        let held = |bodies: &VecDeque<Vec<u8>>| bodies.iter().map(Vec::capacity).sum::<usize>();
        while recycled.bodies.len() > BODIES_MAX || held(&recycled.bodies) > share {
            recycled.bodies.pop_front();
        }
    }

    fn recycled(&self) -> MutexGuard<'_, Recycled> {
        self.recycled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes taken from the budget; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Permit {
    /// Bytes that this permit covers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The budget that this permit came from.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Covers `bytes` more, at once: overdraws where nothing is free (see the header).
    pub fn grow(&mut self, bytes: usize) {
        self.budget.overdraw(bytes);
        self.bytes += bytes;
    }

    /// Makes the permit cover exactly `bytes`.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.grow(bytes - self.bytes);
        } else {
            self.budget.give_back(self.bytes - bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
