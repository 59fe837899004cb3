//! The memory of a batch: an arena and two tables, and what a key in them means for the values that sinks add.

use crate::record::{Field, OWN_CONTAINER, OWN_FILE, OWN_STREAM, OWN_TAG, OWN_TIME, Row};

/// The memory of a batch, apart from what it says: recycled by the [`Budget`](crate::budget::Budget).
#[derive(Debug, Default)]
pub struct Tables {
    /// Every byte up to `arena.len()` is initialised; only the first `used` mean anything. So writing a block is a
    /// plain slice copy, without `unsafe` and without zeroing again.
    pub(super) arena: Vec<u8>,
    pub(super) used: usize,
    pub(super) rows: Vec<Row>,
    pub(super) fields: Vec<Field>,
    /// A codec's notes on the record at hand.
    pub(super) marks: Vec<u32>,
}

/// Entries that new tables have room for, so that each is larger than the 1,032 bytes up to which glibc gives a thread
/// what it freed last, whoever had allocated it. What began in such a scrap of another thread would grow in that thread's
/// arena, under its lock: the opener of files, which has no time to lose, waited for it up to 4 ms.
const ENTRIES: usize = 64;

impl Tables {
    /// New ones.
    pub(crate) fn new() -> Tables {
        Tables {
            arena: Vec::with_capacity(ENTRIES * size_of::<Row>()),
            rows: Vec::with_capacity(ENTRIES),
            fields: Vec::with_capacity(ENTRIES),
            marks: Vec::with_capacity(ENTRIES * 5),
            used: 0,
        }
    }

    /// Bytes that the tables hold from the allocator.
    pub(crate) fn memory(&self) -> usize {
        let tables = self.rows.capacity() * size_of::<Row>() + self.fields.capacity() * size_of::<Field>();
        self.arena.capacity() + tables + self.marks.capacity() * size_of::<u32>()
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.rows.clear();
        self.fields.clear();
    }
}

/// Which added value a field stands in the way of. Runs for every field, so the length decides first.
#[inline(always)]
pub(super) fn own_flag(arena: &[u8], field: &Field) -> u16 {
    own_flag_of(&arena[field.key.at as usize..field.key.at as usize + field.key.len as usize])
}

/// The same for its key.
#[inline(always)]
pub(crate) fn own_flag_of(key: &[u8]) -> u16 {
    match key.len() {
        3 if key == b"tag" => OWN_TAG,
        4 => match key {
            b"time" => OWN_TIME,
            b"file" => OWN_FILE,
            _ => 0,
        },
        6 if key == b"stream" => OWN_STREAM,
        9 if key == b"container" => OWN_CONTAINER,
        _ => 0,
    }
}
