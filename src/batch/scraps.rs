//! [`Scrap`]: data that an input refused for good, so that it never was a record. It rides in the batch of its time to
//! whoever keeps it, as dead letters do.
//!
//! Limits: [`SCRAP_MAX`] bytes are kept of one, paid for by a permit of its own; [`SCRAPS_MAX`] ride in one batch, with
//! [`SCRAPS_BYTES_MAX`] bytes in all. What is beyond that is counted as left out.

use std::fmt;

use super::{Batch, Receipts};
use crate::budget::Permit;
use crate::metrics::RejectReason;
use crate::record::Tag;

/// Bytes that are kept of one.
pub const SCRAP_MAX: usize = 64 << 10;
/// Scraps of one batch.
pub const SCRAPS_MAX: usize = 64;
/// Their bytes in all.
pub const SCRAPS_BYTES_MAX: usize = 4 * SCRAP_MAX;

/// Bytes that were framed well and are no record.
pub struct Scrap {
    /// Why it was refused, as it is counted.
    pub reason: RejectReason,
    /// What the bytes are: `frame` or `entry`.
    pub what: &'static str,
    /// The tag, if it is known.
    pub tag: Option<Tag>,
    /// The first of its bytes that are still there, [`SCRAP_MAX`] at most.
    pub bytes: Vec<u8>,
    /// Bytes before them that are not: they had been used when it turned out to be bad.
    pub from: u64,
    /// How long it is in all.
    pub whole: u64,
    /// Who waits until it is kept.
    pub receipts: Receipts,
    permit: Permit,
    let_go: bool,
}

impl Scrap {
    /// One without bytes yet, which is to ride in `batch` or a later one, and whose memory that batch's budget has. `None`,
    /// and counted as left out, where the batch has no room for more: a flood is to cost a counter each.
    pub fn begin(reason: RejectReason, what: &'static str, tag: Option<&Tag>, batch: &mut Batch) -> Option<Scrap> {
        if !batch.scraps.has_room() {
            batch.scraps.left_out += 1;
            return None;
        }
        let (tag, permit) = (tag.cloned(), batch.permit().budget().empty_permit());
        let (bytes, receipts) = (Vec::new(), Receipts::default());
        Some(Scrap { reason, what, tag, bytes, from: 0, whole: 0, receipts, permit, let_go: false })
    }

    /// The next of its bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.whole += bytes.len() as u64;
        let room = if self.let_go { 0 } else { SCRAP_MAX.saturating_sub(self.bytes.len()) };
        let kept = &bytes[..bytes.len().min(room)];
        if !kept.is_empty() {
            self.permit.grow(kept.len());
            self.bytes.extend_from_slice(kept);
        }
    }

    /// Keeps no bytes, now or later: their memory is needed.
    pub fn let_go(&mut self) {
        self.bytes = Vec::new();
        self.permit.resize(0);
        self.let_go = true;
    }
}

impl fmt::Debug for Scrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrap({} {}, {} of {} bytes)", self.what, self.reason.name(), self.bytes.len(), self.whole)
    }
}

/// Those of one batch.
#[derive(Debug, Default)]
pub struct Scraps {
    /// In their order.
    pub kept: Vec<Scrap>,
    /// Beyond the limits.
    pub left_out: u64,
    bytes: usize,
}

impl Scraps {
    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.left_out == 0
    }

    fn has_room(&self) -> bool {
        self.kept.len() < SCRAPS_MAX && self.bytes < SCRAPS_BYTES_MAX
    }

    /// Adds one, or counts it as left out.
    pub fn add(&mut self, scrap: Scrap) {
        if !self.has_room() || self.bytes + scrap.bytes.len() > SCRAPS_BYTES_MAX {
            self.left_out += 1;
        } else {
            self.bytes += scrap.bytes.len();
            self.kept.push(scrap);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::budget::Budget;

    #[test]
    fn scraps_keep_their_first_bytes_pay_for_them_and_are_few() {
        let budget = Budget::new(8 << 20);
        let mut batch = Batch::new(budget.empty_permit(), 0, Arc::default());
        let begin = |batch: &mut Batch| Scrap::begin(RejectReason::BadTag, "frame", None, batch);
        let mut scrap = begin(&mut batch).expect("room");
        scrap.add(&[1; SCRAP_MAX - 1]);
        scrap.add(&[2; 5]);
        assert_eq!((scrap.bytes.len(), scrap.whole, budget.used()), (SCRAP_MAX, SCRAP_MAX as u64 + 4, SCRAP_MAX));
        assert_eq!(scrap.bytes[SCRAP_MAX - 2..], [1, 2]);
        let mut gone = begin(&mut batch).expect("room");
        gone.add(b"abc");
        gone.let_go();
        gone.add(b"d");
        assert_eq!((gone.bytes.len(), gone.whole, budget.used()), (0, 4, SCRAP_MAX));
        batch.scraps.add(scrap);
        // A byte is left, which is too little for the last one.
        for less in [0, 0, 1, 0] {
            let mut scrap = begin(&mut batch).expect("room");
            scrap.add(&[3; SCRAP_MAX][less..]);
            batch.scraps.add(scrap);
        }
        assert_eq!((batch.scraps.kept.len(), batch.scraps.left_out, budget.used()), (4, 1, SCRAPS_BYTES_MAX - 1));
        batch.scraps = Scraps::default();
        assert_eq!(budget.used(), 0);
        let made = (0..SCRAPS_MAX + 5).filter_map(|_| begin(&mut batch).map(|scrap| batch.scraps.add(scrap))).count();
        assert_eq!((made, batch.scraps.kept.len(), batch.scraps.left_out), (SCRAPS_MAX, SCRAPS_MAX, 5));
    }
}
