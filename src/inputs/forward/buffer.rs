//! The bytes of one connection that were read and not used yet. They are moved at most once for each byte that is read, and
//! all memory is paid for by permits of the budget.

use crate::budget::Permit;

/// Bytes read and not used yet, paid for by permits.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
    permits: Vec<Permit>,
}

impl Buffer {
    /// What is there.
    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    /// How much of it.
    pub(super) fn len(&self) -> usize {
        self.to - self.from
    }

    /// So many bytes of it are done with.
    pub(super) fn used(&mut self, bytes: usize) {
        self.from += bytes;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
    }

    /// Bytes of memory that it has.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// So many bytes of the room were read into.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.to += bytes;
    }

    /// Room to read into: moves the rest to the front only when that frees at least as much as it moves, or there is
    /// no other room, so that it costs O(1) a byte.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.from > 0 && (self.to == self.bytes.len() || self.from >= self.len()) {
            self.bytes.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        &mut self.bytes[self.to..]
    }

    /// Takes memory that `permit` pays for.
    pub(super) fn grow(&mut self, permit: Permit) {
        self.bytes.resize(self.bytes.len() + permit.bytes(), 0);
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
        (self.from, self.to) = (0, kept.len());
        self.bytes = kept;
    }
}
