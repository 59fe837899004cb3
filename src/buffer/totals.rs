//! [`Totals`]: records and bytes ever appended for each reader and source. A segment's header has them as they were at
//! its start, a cursor has those of its reader as they were at its place. So a backlog is a difference of two sums,
//! however many segments lie between, and what damage cost a reader is what a header says more than the reader saw.

use std::collections::BTreeMap;

use super::Count;

impl Count {
    /// Adds.
    pub fn add(&mut self, other: Count) {
        self.records = self.records.saturating_add(other.records);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// The difference, 0 at least.
    pub fn less(self, other: Count) -> Count {
        Count { records: self.records.saturating_sub(other.records), bytes: self.bytes.saturating_sub(other.bytes) }
    }

    /// Whether there is nothing.
    pub fn is_zero(self) -> bool {
        self == Count::default()
    }
}

/// Sums of one reader, by the source's number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BySource(pub BTreeMap<u16, Count>);

impl BySource {
    /// Adds to one.
    pub fn add(&mut self, source: u16, count: Count) {
        self.0.entry(source).or_default().add(count);
    }

    /// Takes from one, to 0 at least.
    pub fn take(&mut self, source: u16, count: Count) {
        let sum = self.0.entry(source).or_default();
        *sum = sum.less(count);
    }

    /// The sum of one.
    pub fn of(&self, source: u16) -> Count {
        self.0.get(&source).copied().unwrap_or_default()
    }

    /// By source, what these sums are above others.
    pub fn above(&self, other: &BySource) -> BySource {
        let more = self.0.iter().map(|(source, count)| (*source, count.less(other.of(*source))));
        BySource(more.filter(|(_, count)| !count.is_zero()).collect())
    }

    /// Raises each sum to that of others, where that is more.
    pub fn raise(&mut self, other: &BySource) {
        for (source, count) in &other.0 {
            let sum = self.0.entry(*source).or_default();
            *sum = Count { records: sum.records.max(count.records), bytes: sum.bytes.max(count.bytes) };
        }
    }

    /// Over all sources.
    pub fn sum(&self) -> Count {
        self.0.values().fold(Count::default(), |mut sum, count| {
            sum.add(*count);
            sum
        })
    }
}

/// Sums of all readers, by the reader's bit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(pub BTreeMap<u8, BySource>);

/// One entry as stored: bit, zero, source u16, zero u32, records u64, bytes u64.
pub const ENTRY: usize = 24;

impl Totals {
    /// Adds a frame to each reader of its mask.
    pub fn add(&mut self, readers: u64, source: u16, count: Count) {
        let mut left = readers;
        while left != 0 {
            // At most 63.
            let bit = left.trailing_zeros() as u8;
            left &= left - 1;
            self.0.entry(bit).or_default().add(source, count);
        }
    }

    /// The sums of one reader.
    pub fn of(&self, bit: u8) -> BySource {
        self.0.get(&bit).cloned().unwrap_or_default()
    }

    /// How many entries [`encode`](Self::encode) writes.
    pub fn entries(&self) -> usize {
        self.0.values().map(|sums| sums.0.len()).sum()
    }

    /// Appends the entries.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (bit, sums) in &self.0 {
            for (source, count) in &sums.0 {
                out.extend_from_slice(&[*bit, 0]);
                out.extend_from_slice(&source.to_le_bytes());
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&count.records.to_le_bytes());
                out.extend_from_slice(&count.bytes.to_le_bytes());
            }
        }
    }

    /// Reads entries.
    pub fn decode(bytes: &[u8]) -> Totals {
        let mut totals = Totals::default();
        for entry in bytes.chunks_exact(ENTRY) {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| entry[at + i]));
            let count = Count { records: word(8), bytes: word(16) };
            totals.0.entry(entry[0] & 63).or_default().add(u16::from_le_bytes([entry[2], entry[3]]), count);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_read_as_they_were_written() {
        let mut totals = Totals::default();
        totals.add(0b1001, 7, Count { records: 2, bytes: 30 });
        totals.add(0b1000, 1, Count { records: 1, bytes: 10 });
        let mut bytes = Vec::new();
        totals.encode(&mut bytes);
        assert_eq!((bytes.len(), totals.entries()), (3 * ENTRY, 3));
        assert_eq!(Totals::decode(&bytes), totals);
        assert_eq!(totals.of(3).above(&totals.of(0)).sum(), Count { records: 1, bytes: 10 });
    }
}
