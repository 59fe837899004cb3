//! Stable names of records: the same record has the same id each time it is read, sent or replayed, so that a store can
//! tell a repetition.
//!
//! An id is a prefix of 64 bits, which names where the record came from (the identity of a file, the chunk of a forward
//! sender, a batch that has neither), and a number within it (the offset of the line, the index in the chunk). A batch
//! holds a few runs; a row's position says which number of which run it has. Nothing is stored for a single record.

use std::fmt;

/// Positions of a batch from `from` on have ids of this prefix, counted from `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRun {
    /// The first position ([`Row::pos`](crate::record::Row::pos)) of the run.
    pub from: u32,
    /// Names the origin.
    pub prefix: u64,
    /// The number of that first position.
    pub first: u64,
}

/// The id of one record: 16 hex digits, a dash, and the number in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    /// Names the origin.
    pub prefix: u64,
    /// The number within it.
    pub number: u64,
}

impl RecordId {
    /// Appends the text of the id.
    pub fn write(self, out: &mut Vec<u8>) {
        let digit = |number: u64, at: u32| b"0123456789abcdef"[(number >> (4 * at) & 15) as usize];
        out.extend((0..16).rev().map(|at| digit(self.prefix, at)));
        out.push(b'-');
        let digits = (u64::BITS - self.number.leading_zeros()).div_ceil(4).max(1);
        out.extend((0..digits).rev().map(|at| digit(self.number, at)));
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.prefix, self.number)
    }
}

/// The id of the row at `pos`. A position before the first run (a line whose first piece came with an earlier batch) is
/// counted backwards from it.
pub fn id_at(runs: &[IdRun], pos: u32) -> RecordId {
    let run = match runs.partition_point(|run| run.from <= pos) {
        0 => runs.first(),
        after => runs.get(after - 1),
    };
    run.map_or(RecordId { prefix: 0, number: u64::from(pos) }, |run| {
        let offset = i64::from(pos) - i64::from(run.from);
        RecordId { prefix: run.prefix, number: run.first.wrapping_add_signed(offset) }
    })
}

/// A prefix made of the parts that name an origin: FNV-1a of them, each with its length, and one round of mixing.
pub fn prefix_of(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for part in parts {
        (part.len() as u64).to_le_bytes().into_iter().chain(part.iter().copied()).for_each(&mut eat);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_the_number_of_its_run() {
        let runs = [IdRun { from: 0, prefix: 1, first: 100 }, IdRun { from: 10, prefix: 2, first: 0 }];
        assert_eq!(id_at(&runs, 9), RecordId { prefix: 1, number: 109 });
        assert_eq!(id_at(&runs, 12), RecordId { prefix: 2, number: 2 });
        let later = [IdRun { from: 50, prefix: 3, first: 1000 }];
        assert_eq!(id_at(&later, 40), RecordId { prefix: 3, number: 990 });
        assert_eq!(id_at(&later, 50).to_string(), "0000000000000003-3e8");
        for number in [0, 1, 15, 16, u64::MAX] {
            let (id, mut text) = (RecordId { prefix: u64::MAX / 3, number }, Vec::new());
            id.write(&mut text);
            assert_eq!(text, id.to_string().into_bytes());
        }
    }

    #[test]
    fn parts_that_join_to_the_same_text_are_different_origins() {
        assert_ne!(prefix_of(&[b"ab", b"c"]), prefix_of(&[b"a", b"bc"]));
        assert_eq!(prefix_of(&[b"ab", b"c"]), prefix_of(&[b"ab", b"c"]));
    }
}
