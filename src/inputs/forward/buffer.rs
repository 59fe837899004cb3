//! The bytes of one connection that were read and not used yet. They are moved at most once for each byte that is read, and
//! all memory is paid for by permits of the budget.

use crate::budget::Permit;

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

    /// Takes memory that `permit` pays for.
    pub(super) fn grow(&mut self, permit: Permit) {
        self.size += permit.bytes();
        self.bytes.reserve_exact(self.size - self.bytes.len());
        self.permits.push(permit);
    }

    /// Keeps the bytes that are there and gives the rest of the memory back.
    pub(super) fn shrink(&mut self) {
        let kept = self.data().to_vec();
        if let Some(mut permit) = self.permits.pop().filter(|_| !kept.is_empty()) {
            self.permits.clear();
            permit.resize(kept.len());
            self.permits.push(permit);
        } else {
            self.permits.clear();
        }
        (self.from, self.size) = (0, kept.len());
        self.bytes = kept;
    }
}
