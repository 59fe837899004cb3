//! The bytes of one connection that were read and not used yet. However they come, each is moved a few times at most, and
//! all memory is paid for by permits of the budget.

use std::sync::Arc;

use super::session::READ;
use crate::budget::{Budget, Permit};

/// What is kept between two reads has a part of itself as room for more: a frame that comes in single bytes would else be
/// moved for each of them.
const SPARE: usize = 4;

/// Bytes read and not used yet, paid for by permits.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Never longer than [`size`](Self::capacity), which is what it is allocated for.
    bytes: Vec<u8>,
    from: usize,
    size: usize,
    permits: Vec<Permit>,
}

impl Buffer {
    /// What is there.
    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    /// What is still there of the bytes before them, and they.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        (&self.bytes[..self.from], self.data())
    }

    /// How much of it.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.from
    }

    /// So many bytes of it are done with.
    pub(super) fn used(&mut self, bytes: usize) {
        self.from += bytes;
        assert!(self.from <= self.bytes.len(), "used {bytes} bytes, more than there are");
        if self.from == self.bytes.len() {
            self.bytes.clear();
            self.from = 0;
        }
    }

    /// Bytes of memory that it has.
    pub(super) fn capacity(&self) -> usize {
        self.size
    }

    /// How many bytes it can take, and where they are to be appended: memory that was never written is not cleared
    /// first, which cost as much as a second copy of what is read. Moves the rest to the front only when that frees at
    /// least as much as it moves, or there is no other room, so that it costs O(1) a byte.
    pub(super) fn room(&mut self) -> (usize, &mut Vec<u8>) {
        if self.from > 0 && (self.bytes.len() == self.size || self.from >= self.len()) {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        (self.size - self.bytes.len(), &mut self.bytes)
    }

    /// Bytes that can be read without more memory.
    pub(super) fn spare(&self) -> usize {
        self.size - self.len()
    }

    /// Grows with memory that is free, to `awaited` bytes if nothing goes on before these are there: that is the sender's word, and
    /// not believed beyond as much again as there is. Fewer steps move fewer bytes. Else by how much it has to grow.
    pub(super) fn try_grow(&mut self, awaited: usize, budget: &Arc<Budget>) -> Result<(), usize> {
        let step = (self.size / SPARE).max(READ);
        let wanted = step.max(awaited.saturating_sub(self.size).min(self.size));
        let permit = budget.try_acquire(wanted).or_else(|| budget.try_acquire(step)).ok_or(step)?;
        self.grow(permit);
        Ok(())
    }

    /// Takes memory that `permit` pays for.
    pub(super) fn grow(&mut self, permit: Permit) {
        self.size += permit.bytes();
        self.bytes.reserve_exact(self.size - self.bytes.len());
        // One a packet would else outlive it.
        if permit.bytes() > 0 {
            self.permits.push(permit);
        }
    }

    /// Keeps the bytes that are there, with a quarter more, and gives the rest of the memory back.
    pub(super) fn shrink(&mut self) {
        let keep = self.len() + self.len() / SPARE;
        let Some(mut excess) = self.size.checked_sub(keep).filter(|excess| *excess > 0) else { return };
        self.bytes.drain(..self.from);
        self.bytes.shrink_to(keep);
        (self.from, self.size) = (0, keep);
        while let Some(last) = self.permits.last_mut().filter(|_| excess > 0) {
            let bytes = last.bytes();
            if bytes > excess {
                last.resize(bytes - excess);
                break;
            }
            excess -= bytes;
            self.permits.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    #[test]
    fn a_part_of_a_frame_that_grows_by_single_bytes_is_moved_a_few_times_and_is_paid_for() {
        let budget = Budget::new(64 << 20);
        let mut buffer = Buffer::default();
        buffer.grow(budget.try_acquire(16 << 10).expect("free"));
        buffer.room().1.resize(16 << 10, 0);
        let (mut moves, mut at) = (0, buffer.data().as_ptr());
        for _ in 0..1 << 20 {
            buffer.grow(budget.empty_permit());
            if buffer.room().0 == 0 {
                buffer.grow(budget.try_acquire(buffer.capacity() / 4).expect("free"));
            }
            buffer.room().1.push(0);
            buffer.shrink();
            moves += usize::from(std::mem::replace(&mut at, buffer.data().as_ptr()) != at);
            assert_eq!(budget.used(), buffer.capacity());
        }
        assert_eq!(buffer.len(), (1 << 20) + (16 << 10));
        assert!(moves <= 64 && buffer.permits.len() <= 64, "{moves} moves, {} permits", buffer.permits.len());
        buffer.used(buffer.len());
        buffer.shrink();
        assert_eq!(budget.used(), 0);
    }
}
