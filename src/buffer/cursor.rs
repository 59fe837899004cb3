//! A cursor: how far one reader is. Two slots of 4 KiB, written in turn and in place, so that a full disk can not keep a
//! reader from recording what would free it.
//!
//! ```text
//! slot  0 "lngshcur" | 8 version u32 | 12 CRC u32 (of the slot, with 0 here) | 16 log id | 32 generation u64
//!       40 settled lsn u64 | 48 entries u16 | 50 bit u8 | 51 name length u8 | 52 name (the first 255 bytes) | entries
//! ```
//!
//! An entry is source u16, records u64, bytes u64: what the reader had got when everything up to `settled` was settled.
//! The slot with the higher generation counts, if it is whole; an old cursor can only make frames come twice.
//!
//! Limit: [`ENTRIES_MAX`] sources; the sums of others are put on the last one.

use super::frame::LogId;
use super::totals::BySource;
use super::{Count, Lsn, VERSION};

/// Bytes of a slot.
pub const SLOT: usize = 4096;
const MAGIC: &[u8; 8] = b"lngshcur";
const FIXED: usize = 52;
const ENTRY: usize = 18;
const NAME_MAX: usize = 255;
/// Entries of a slot, at most.
pub const ENTRIES_MAX: usize = (SLOT - FIXED - NAME_MAX) / ENTRY;

/// What a slot says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Counts the saves.
    pub generation: u64,
    /// Everything up to here is settled.
    pub settled: Lsn,
    /// The reader's bit.
    pub bit: u8,
    /// Its name, or the first 255 bytes of it.
    pub name: String,
    /// What it had got by then.
    pub totals: BySource,
}

/// The name of a cursor file.
pub fn file_name(bit: u8) -> String {
    format!("{bit:02}.cursor")
}

/// The bit in the name of a cursor file.
pub fn parse_name(text: &str) -> Option<u8> {
    let bit = text.strip_suffix(".cursor")?.parse().ok()?;
    (bit < 64 && file_name(bit) == text).then_some(bit)
}

/// A reader's name as a cursor has it.
pub fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_MAX)]
}

impl Cursor {
    /// The bytes of a slot.
    pub fn encode(&self, id: &LogId) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT);
        let name = short(&self.name);
        let mut entries: Vec<(u16, Count)> = self.totals.0.iter().map(|(source, count)| (*source, *count)).collect();
        for (_, count) in entries.split_off(entries.len().min(ENTRIES_MAX)) {
            if let Some((_, last)) = entries.last_mut() {
                last.add(count);
            }
        }
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(id);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.settled.to_le_bytes());
        out.extend_from_slice(&(entries.len() as u16).to_le_bytes());
        out.extend_from_slice(&[self.bit, name.len() as u8]);
        out.extend_from_slice(name.as_bytes());
        for (source, count) in entries {
            out.extend_from_slice(&source.to_le_bytes());
            out.extend_from_slice(&count.records.to_le_bytes());
            out.extend_from_slice(&count.bytes.to_le_bytes());
        }
        out.resize(SLOT, 0);
        let crc = crc32c::crc32c(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads one slot of the log with that id.
    pub fn decode(id: &LogId, slot: &[u8]) -> Option<Cursor> {
        let slot: &[u8; SLOT] = slot.try_into().ok()?;
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&slot[..12]), &[0; 4]), &slot[16..]);
        let whole = slot.starts_with(MAGIC)
            && crc.to_le_bytes() == slot[12..16]
            && slot[8..12] == VERSION.to_le_bytes()
            && slot[16..32] == *id;
        if !whole {
            return None;
        }
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| slot[at + i]));
        let entries = usize::from(u16::from_le_bytes([slot[48], slot[49]]));
        let table_at = FIXED + usize::from(slot[51]);
        let table = slot.get(table_at..table_at + entries * ENTRY)?;
        let mut totals = BySource::default();
        for at in (0..entries).map(|entry| table_at + entry * ENTRY) {
            let source = u16::from_le_bytes([slot[at], slot[at + 1]]);
            totals.add(source, Count { records: long(at + 2), bytes: long(at + 10) });
        }
        debug_assert_eq!(table.len(), entries * ENTRY);
        Some(Cursor {
            generation: long(32),
            settled: long(40),
            bit: slot[50] & 63,
            name: String::from_utf8_lossy(&slot[FIXED..table_at]).into_owned(),
            totals,
        })
    }

    /// The cursor in the two slots of a file.
    pub fn latest(id: &LogId, file: &[u8]) -> Option<Cursor> {
        let slots = file.chunks(SLOT).take(2).filter_map(|slot| Cursor::decode(id, slot));
        slots.max_by_key(|cursor| cursor.generation)
    }

    /// Where the slot of a generation is in the file.
    pub fn place(generation: u64) -> u64 {
        generation % 2 * SLOT as u64
    }
}

/// Any bytes as a cursor file: what is read is written the same.
pub fn fuzz_one(bytes: &[u8]) {
    // A fuzzer does not find a CRC: the second try has the right one.
    let mut fixed = bytes.to_vec();
    fixed.resize(SLOT, 0);
    fixed[..8].copy_from_slice(MAGIC);
    fixed[8..12].copy_from_slice(&VERSION.to_le_bytes());
    fixed[12..16].fill(0);
    fixed[16..32].fill(7);
    let crc = crc32c::crc32c(&fixed);
    fixed[12..16].copy_from_slice(&crc.to_le_bytes());
    for file in [bytes, &fixed] {
        if let Some(cursor) = Cursor::latest(&[7; 16], file) {
            let again = cursor.encode(&[7; 16]);
            let read = Cursor::latest(&[7; 16], &again).expect("what was written can be read");
            assert_eq!((read.generation, read.settled, read.bit), (cursor.generation, cursor.settled, cursor.bit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(generation: u64) -> Cursor {
        let mut totals = BySource::default();
        totals.add(3, Count { records: 1, bytes: 2 });
        Cursor { generation, settled: 1 << 40, bit: 5, name: "central".to_owned(), totals }
    }

    #[test]
    fn the_later_whole_slot_counts() {
        let id = [1; 16];
        let mut file = [cursor(2).encode(&id), cursor(3).encode(&id)].concat();
        assert_eq!(Cursor::latest(&id, &file), Some(cursor(3)));
        file[SLOT + 100] ^= 1;
        assert_eq!(Cursor::latest(&id, &file), Some(cursor(2)));
        assert_eq!(Cursor::latest(&[2; 16], &file), None);
        assert_eq!(Cursor::latest(&id, &file[..100]), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = cursor(1).encode(&[1; 16]);
        for bit in 0..SLOT * 8 {
            let mut slot = whole.clone();
            slot[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Cursor::decode(&[1; 16], &slot), None, "bit {bit}");
        }
    }

    #[test]
    fn long_names_and_many_sources_fit_and_nothing_is_lost_from_the_sum() {
        let mut long = cursor(1);
        long.name = "ä".repeat(300);
        for source in 0..1000 {
            long.totals.add(source, Count { records: 1, bytes: 1 });
        }
        let read = Cursor::decode(&[1; 16], &long.encode(&[1; 16])).expect("whole");
        assert_eq!((read.name.as_str(), read.totals.sum()), (short(&long.name), long.totals.sum()));
        assert_eq!((parse_name("05.cursor"), parse_name("5.cursor"), parse_name("99.cursor")), (Some(5), None, None));
    }
}
