//! A [`Batch`]: the unit that moves; who waits for its outcome is in `receipt.rs`.
//!
//! A batch is one arena of bytes and two flat tables of spans into it:
//!
//! ```text
//! rows    time | time text | fields from..to | tag | stream | flags | position       32 bytes a record
//! fields  key span | value span | forms                                              20 bytes a field
//! arena   the bytes, still encoded as they came (JSON text, MessagePack, plain)
//! ```
//!
//! It is filled by one codec, changed in place by the pipeline, then shared read-only by the sinks (`Arc<Batch>`).
//! Nothing is allocated, locked or sent for a single record. Steps that change a value append the new bytes to the
//! arena and repoint the span; old bytes stay until the batch ends.
//!
//! Limits: an input closes a batch when [`Batch::is_full`] says so (its permit is used up, or [`TAGS_MAX`] tags);
//! offsets are `u32`, so an arena never passes 4 GiB (asserted).

mod change; // rows get other fields
mod scraps; // what an input refused
mod shipment; // a batch for one sink
mod tables; // its memory

use std::fmt;
use std::sync::Arc;

use crate::budget::Permit;
use crate::metrics::Tally;
pub use crate::receipt::{Outcome, Receipt, Receipts, Waiter};
pub use crate::record::{
    Added, NO_CONTAINER, NO_FILE, NO_TAG, NO_TIME, OWN_CONTAINER, OWN_FILE, OWN_STREAM, OWN_TAG, OWN_TIME, PARTIAL,
    Row, RowHead,
};
use crate::record::{Field, OWN_ALL, Origin, PLACES_MAX, Span, Tag, Value};
use crate::record_id::{IdRun, RecordId, id_at};
pub use scraps::{SCRAP_MAX, Scrap, Scraps};
pub use shipment::Shipment;
pub use tables::Tables;
use tables::own_flag;
pub(crate) use tables::own_flag_of;

/// Tags in one batch, at most: the route of a batch is one bit a tag.
pub const TAGS_MAX: usize = 64;

/// Readable bytes after those in use, where a codec asks for them: one block of 16 read at the last byte stays inside.
pub(crate) const TAIL_MIN: usize = 16;

/// Many records on their way (see the header).
///
/// Invariants: `used <= arena.len() <= u32::MAX`; every span of a row or field ends within `used`; each row's fields
/// lie within the field table; `tags` holds at least one tag once a row exists.
pub struct Batch {
    /// Where the records came from.
    pub origin: Arc<Origin>,
    /// Position that the rows' `pos` count from (bytes of the followed chain, after decompression).
    pub base: u64,
    /// Who waits for the outcome. Moved out before the batch is shared.
    pub receipts: Receipts,
    /// Oddities met while it was filled and changed; added to the input's counters when it is routed.
    pub tally: Tally,
    /// What was refused while it was filled. Moved out before the batch is shared.
    pub scraps: Scraps,
    /// Which input it came from: index into the metrics.
    pub input: u16,
    /// What names its records, by their position; in the order of the positions.
    pub ids: Vec<IdRun>,
    /// Its origin is told that it is safe once it is in the disk log (`ack = "durable"`).
    pub durable: bool,
    tags: Vec<Tag>,
    /// Origins of rows that came from elsewhere than `origin`: containers behind one connection.
    places: Vec<Arc<Origin>>,
    /// The key `log`, once it is in the arena.
    log_key: Option<Span>,
    /// Rows whose `log` the codec has taken apart already, as the first step would have.
    taken_apart: usize,
    /// Whether a row was pushed whose text goes on in a later one.
    has_pieces: bool,
    /// See [`is_whole`](Self::is_whole).
    whole: bool,
    /// How many rows, from the first on, are objects beside each other from the arena's first byte on, and where the last
    /// of them ends.
    packed: (usize, u32),
    tables: Tables,
    permit: Permit,
}

impl Batch {
    /// An empty batch that may use as much memory as `permit` covers.
    pub fn new(permit: Permit, input: u16, origin: Arc<Origin>) -> Batch {
        let mut tables = permit.budget().take_tables();
        tables.clear();
        Batch {
            origin,
            base: 0,
            receipts: Receipts::default(),
            tally: Tally::default(),
            scraps: Scraps::default(),
            input,
            ids: Vec::new(),
            durable: false,
            tags: Vec::new(),
            places: Vec::new(),
            log_key: None,
            taken_apart: 0,
            has_pieces: false,
            whole: true,
            packed: (0, 0),
            tables,
            permit,
        }
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.tables.rows.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.tables.rows.is_empty()
    }

    /// Bytes of arena and tables in use: what the records cost in memory, not on the wire.
    pub fn cost(&self) -> usize {
        self.tables.used + self.len() * size_of::<Row>() + self.tables.fields.len() * size_of::<Field>()
    }

    /// Whether the next record belongs in a new batch: the permit is used up (by less than one record over), or the
    /// tags are.
    pub fn is_full(&self) -> bool {
        self.cost() >= self.permit.bytes() || self.tags.len() >= TAGS_MAX || self.places.len() > PLACES_MAX / 2
    }

    // --- Origins.

    /// Where row `at` came from.
    pub fn origin_at(&self, at: usize) -> &Arc<Origin> {
        self.origin_in(self.tables.rows[at].place())
    }

    /// The origin that a row's [`place`](Row::place) stands for.
    pub fn origin_in(&self, place: u8) -> &Arc<Origin> {
        usize::from(place).checked_sub(1).map_or(&self.origin, |at| &self.places[at])
    }

    /// What a row of that origin has as its place. `None` when as many others are there as fit; [`is_full`](Self::is_full)
    /// says so when half of them are, so that records and joined lines that are due still find room.
    pub fn place_of(&mut self, origin: &Arc<Origin>) -> Option<u8> {
        if Arc::ptr_eq(origin, &self.origin) {
            return Some(0);
        }
        if let Some(at) = self.places.iter().rposition(|known| Arc::ptr_eq(known, origin)) {
            return u8::try_from(at + 1).ok();
        }
        if self.places.len() >= PLACES_MAX {
            return None;
        }
        self.places.push(Arc::clone(origin));
        u8::try_from(self.places.len()).ok()
    }

    /// The other origins, by their place less one.
    pub(crate) fn places(&self) -> &[Arc<Origin>] {
        &self.places
    }

    /// Adds the next of the other origins of a stored batch.
    pub(crate) fn restore_place(&mut self, origin: Arc<Origin>) {
        self.places.push(origin);
    }

    /// Gives each row its index as position: for records that have none.
    pub(crate) fn number_rows(&mut self) {
        for (at, row) in (0u32..).zip(&mut self.tables.rows) {
            row.pos = at;
        }
    }

    /// What names row `at`, the same each time the record is read or sent.
    pub fn id_of(&self, at: usize) -> RecordId {
        id_at(&self.ids, self.tables.rows[at].pos)
    }

    // --- Tags.

    /// The batch's tags; a row's `tag` is an index into them.
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// The index of `tag`, added if it is new. `None` when [`TAGS_MAX`] others are there.
    pub fn tag_index(&mut self, tag: &str) -> Option<u8> {
        if let Some(at) = self.tags.iter().rposition(|known| known.as_str() == tag) {
            return u8::try_from(at).ok();
        }
        if self.tags.len() >= TAGS_MAX {
            return None;
        }
        self.tags.push(Tag::from(tag));
        u8::try_from(self.tags.len() - 1).ok()
    }

    /// The same for a tag that the caller holds already: no new text is allocated.
    pub fn shared_tag_index(&mut self, tag: &Tag) -> Option<u8> {
        if let Some(at) = self.tags.iter().rposition(|known| known.is(tag)) {
            return u8::try_from(at).ok();
        }
        if self.tags.len() >= TAGS_MAX {
            return None;
        }
        self.tags.push(tag.clone());
        u8::try_from(self.tags.len() - 1).ok()
    }

    /// The tag of row `at`.
    pub fn tag_of(&self, at: usize) -> &Tag {
        &self.tags[usize::from(self.tables.rows[at].tag)]
    }

    // --- Arena.

    /// The bytes in use.
    pub fn arena(&self) -> &[u8] {
        &self.tables.arena[..self.tables.used]
    }

    /// The same with what happens to lie behind, so that a span's last block can be read whole.
    pub(crate) fn padded_arena(&self) -> &[u8] {
        &self.tables.arena
    }

    /// The bytes in use, to change in place (decoding that never grows).
    pub fn arena_mut(&mut self) -> &mut [u8] {
        self.whole = false;
        &mut self.tables.arena[..self.tables.used]
    }

    /// The bytes of a span.
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.tables.arena[span.at as usize..span.at as usize + span.len as usize]
    }

    /// Appends bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Span {
        self.tail(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len())
    }

    /// At least `room` writable bytes after those in use; [`commit`](Self::commit) makes the first of them part of
    /// the arena. What they hold before they are written is arbitrary.
    pub fn tail(&mut self, room: usize) -> &mut [u8] {
        let wanted = self.tables.used + room;
        assert!(u32::try_from(wanted).is_ok(), "a batch never passes 4 GiB: {wanted}");
        if self.tables.arena.len() < wanted {
            self.grow(wanted);
        }
        &mut self.tables.arena[self.tables.used..]
    }

    /// Small at first, then at once what is paid for: to double step by step copies and clears all of it once more, 3 to 7 % of the
    /// CPU time of works whose batches are large.
    #[cold]
    fn grow(&mut self, wanted: usize) {
        const FIRST: usize = 16 << 10;
        let had = self.tables.arena.len();
        let next = if had == 0 { FIRST } else { (had * 2).max(self.permit.bytes()) };
        self.tables.arena.resize(wanted.max(next), 0);
    }

    /// The used part and the tail of the arena at once: for decoding from the one into the other.
    pub fn split_tail(&mut self, room: usize) -> (&[u8], &mut [u8]) {
        self.tail(room);
        let (used, tail) = self.tables.arena.split_at_mut(self.tables.used);
        (used, tail)
    }

    /// Makes the first `len` bytes of the tail part of the arena.
    pub fn commit(&mut self, len: usize) -> Span {
        let at = self.tables.used;
        assert!(at + len <= self.tables.arena.len(), "commit of {len} bytes past the tail");
        self.tables.used += len;
        // Both fit: `tail` keeps the arena below 4 GiB.
        Span { at: at as u32, len: len as u32 }
    }

    /// Takes back the bytes from `span` on (a record that turned out to be broken).
    pub fn rewind_bytes(&mut self, span: Span) {
        self.tables.used = self.tables.used.min(span.at as usize);
    }

    /// The key `log`, which every line of text needs: one copy a batch.
    pub fn log_key(&mut self) -> Span {
        match self.log_key {
            Some(key) => key,
            None => {
                let key = self.push_bytes(b"log");
                self.log_key = Some(key);
                key
            }
        }
    }

    /// The arena, as far as it is initialised (the bytes in use, then arbitrary ones, [`TAIL_MIN`] at least), and the
    /// field table: for a codec that indexes what is in the arena already.
    pub(crate) fn padded_arena_and_fields(&mut self) -> (&[u8], &mut Vec<Field>) {
        self.tail(TAIL_MIN);
        (&self.tables.arena, &mut self.tables.fields)
    }

    /// The same with the tail, which has `room` at least: for a codec that finds fields in what it writes there, and takes
    /// notes. The first number is where the tail begins.
    pub(crate) fn tail_and_tables(&mut self, room: usize) -> (u32, &mut [u8], &mut Vec<Field>, &mut Vec<u32>) {
        self.tail(room);
        let Tables { arena, used, fields, marks, .. } = &mut self.tables;
        // `tail` keeps the arena below 4 GiB.
        (*used as u32, &mut arena[*used..], fields, marks)
    }

    // --- Filling: fields first, then the row that owns them.

    /// Appends a field to the record that the next [`push_row`](Self::push_row) closes.
    pub fn push_field(&mut self, field: Field) {
        self.tables.fields.push(field);
    }

    /// The number of fields in the table: take it before the first field of a record, hand it to `push_row`.
    pub fn fields_mark(&self) -> usize {
        self.tables.fields.len()
    }

    /// The fields after `mark`.
    pub fn fields_after(&self, mark: usize) -> &[Field] {
        &self.tables.fields[mark..]
    }

    /// The fields after `mark` that no row owns yet, to change before `push_row`.
    pub fn open_fields(&mut self, mark: usize) -> &mut [Field] {
        &mut self.tables.fields[mark..]
    }

    /// Whether a row was pushed whose text goes on in a later one.
    pub(crate) fn has_pieces(&self) -> bool {
        self.has_pieces
    }

    /// Whether the codec has taken `log` apart in all rows. (Such rows never leave a batch before the first step.)
    pub(crate) fn is_taken_apart(&self) -> bool {
        self.taken_apart == self.len()
    }

    /// Whether the fields of every row are all the members, in order, of one object, not empty, that stands in the arena,
    /// valid and on one line: then a sink copies the members in one piece. Whatever changes a field, or pushes a row that
    /// is no such object, ends it.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Forgets the fields after `mark` (a record that turned out to be broken).
    pub fn rewind_fields(&mut self, mark: usize) {
        self.tables.fields.truncate(mark);
    }

    /// Closes a record: its fields are those pushed since `mark`.
    pub fn push_row(&mut self, mark: usize, head: RowHead) {
        self.push_flagged_row(mark, self.own_flags(mark), head);
    }

    /// Which added values the fields after `mark` stand in the way of.
    pub(crate) fn own_flags(&self, mark: usize) -> u16 {
        self.tables.fields[mark..].iter().fold(0, |own, field| own | own_flag(&self.tables.arena, field))
    }

    /// The same for a codec that has found the members of `log` itself, and knows which added values they stand in the way of.
    pub(crate) fn push_row_taken_apart(&mut self, mark: usize, own: u16, head: RowHead) {
        debug_assert!(self.fields_mark() > mark, "an empty object is left to the plain way");
        self.taken_apart += 1;
        self.append(mark, own, head);
    }

    /// The same for a codec that has written the object whose members the fields after `mark` are into the arena, as
    /// [`is_whole`](Self::is_whole) has it.
    pub(crate) fn push_row_as_written(&mut self, mark: usize, own: u16, head: RowHead) {
        debug_assert!(self.fields_mark() > mark, "an empty object has no members to copy");
        self.pack(mark);
        self.append(mark, own, head);
    }

    /// The same for a codec that knows these already.
    pub(crate) fn push_flagged_row(&mut self, mark: usize, own: u16, head: RowHead) {
        self.whole = false;
        self.append(mark, own, head);
    }

    /// Notes whether the object that the fields after `mark` are the members of, and that is the arena's end, stands right
    /// behind the one of the row before. Asked here, while they are in the first cache.
    #[inline(always)]
    fn pack(&mut self, mark: usize) {
        let (Some(first), Some(last)) = (self.tables.fields.get(mark), self.tables.fields.last()) else { return };
        let (rows, from) = self.packed;
        let to = last.end() + 1;
        let is_next = first.key.at == from + 2 && to as usize == self.tables.used;
        if is_next && rows == self.tables.rows.len() {
            self.packed = (rows + 1, to);
        }
    }

    /// Whether the arena is nothing but the objects of the rows, in their order.
    pub(crate) fn is_packed(&self) -> bool {
        self.whole && self.packed == (self.len(), self.tables.used as u32)
    }

    fn append(&mut self, mark: usize, own: u16, head: RowHead) {
        self.has_pieces |= head.partial;
        self.tables.rows.push(Row {
            time: head.time,
            time_text: head.time_text,
            fields_at: mark as u32,
            fields_len: (self.tables.fields.len() - mark) as u32,
            pos: head.pos,
            tag: head.tag,
            stream: head.stream,
            flags: own | if head.partial { PARTIAL } else { 0 },
        });
    }

    // --- Reading and changing rows.

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.tables.rows
    }

    /// One row.
    pub fn row(&self, at: usize) -> &Row {
        &self.tables.rows[at]
    }

    /// One row, to change.
    pub fn row_mut(&mut self, at: usize) -> &mut Row {
        &mut self.tables.rows[at]
    }

    /// The fields of a row, in order.
    pub fn fields(&self, at: usize) -> &[Field] {
        let row = &self.tables.rows[at];
        &self.tables.fields[row.fields_at as usize..(row.fields_at + row.fields_len) as usize]
    }

    /// The same, to repoint. Call [`reflag`](Self::reflag) after a key changed.
    pub fn fields_mut(&mut self, at: usize) -> &mut [Field] {
        self.whole = false;
        let row = &self.tables.rows[at];
        &mut self.tables.fields[row.fields_at as usize..(row.fields_at + row.fields_len) as usize]
    }

    /// The key of a field.
    pub fn key(&self, field: &Field) -> Value<'_> {
        Value { form: field.key_form, bytes: self.bytes(field.key) }
    }

    /// The value of a field.
    pub fn value(&self, field: &Field) -> Value<'_> {
        Value { form: field.form, bytes: self.bytes(field.value) }
    }

    /// The last field of row `at` whose key is exactly `key` (written without escapes, as keys nearly always are).
    pub fn find(&self, at: usize, key: &[u8]) -> Option<&Field> {
        self.fields(at).iter().rev().find(|field| field.key.len as usize == key.len() && self.bytes(field.key) == key)
    }

    /// Keeps the rows for which `keep` says so. Order stays.
    pub fn retain(&mut self, mut keep: impl FnMut(&Row) -> bool) {
        self.tables.rows.retain(|row| keep(row));
    }

    /// The same by a list of one `bool` a row.
    pub fn retain_marked(&mut self, keep: &[bool]) {
        assert_eq!(keep.len(), self.len(), "one mark a row");
        let mut marks = keep.iter();
        self.tables.rows.retain(|_| *marks.next().unwrap_or(&true));
    }

    /// Takes all rows out, to be put back one by one in a new order or among others ([`keep_row`](Self::keep_row),
    /// [`push_row`](Self::push_row)). Their fields stay in the table.
    pub fn take_rows(&mut self) -> Vec<Row> {
        // They may come back in another order.
        self.packed = (usize::MAX, 0);
        std::mem::take(&mut self.tables.rows)
    }

    /// Puts a row of this batch back at the end.
    pub fn keep_row(&mut self, row: Row) {
        self.tables.rows.push(row);
    }

    /// Adds the next row of a stored batch; `whole`: its fields are as [`is_whole`](Self::is_whole) has it.
    pub(crate) fn restore_row(&mut self, row: Row, whole: bool) {
        self.whole &= whole;
        self.tables.rows.push(row);
    }

    /// Takes the last row out. Its fields stay in the table.
    pub fn pop_row(&mut self) -> Option<Row> {
        self.tables.rows.pop()
    }

    /// Makes the rows count from an earlier `base`; what `base + pos` says stays. Does nothing (and says so) where a
    /// position would pass 4 GiB.
    pub fn rebase(&mut self, base: u64) -> bool {
        let last = self.tables.rows.iter().map(|row| row.pos).max().unwrap_or(0);
        let shift = self.base.checked_sub(base).and_then(|shift| u32::try_from(shift).ok());
        let Some(shift) = shift.filter(|shift| last.checked_add(*shift).is_some()) else {
            return false;
        };
        for row in &mut self.tables.rows {
            row.pos += shift;
        }
        for run in &mut self.ids {
            run.from = run.from.saturating_add(shift);
        }
        self.base = base;
        true
    }

    /// Forgets the tags that no row has, which makes room for others. Indices change.
    pub fn forget_unused_tags(&mut self) {
        let used = self.tables.rows.iter().fold(0u64, |used, row| used | 1 << row.tag);
        let mut moved = [0u8; TAGS_MAX];
        let mut next = 0;
        for (at, to) in moved.iter_mut().enumerate() {
            *to = next;
            next += u8::from(used >> at & 1 == 1);
        }
        let mut at = 0;
        self.tags.retain(|_| {
            at += 1;
            used >> (at - 1) & 1 == 1
        });
        for row in &mut self.tables.rows {
            row.tag = moved[usize::from(row.tag)];
        }
    }

    // --- Memory.

    /// Room for a stored batch's tables, which are as large as is known.
    pub(crate) fn reserve(&mut self, rows: usize, fields: usize) {
        self.tables.rows.reserve(rows);
        self.tables.fields.reserve(fields);
    }

    /// Ends filling: small content moves out of a large arena, which goes back to be recycled, and the permit shrinks
    /// to what the batch really holds. Without it a thousand batches of one line each would hold a thousand arenas.
    pub fn seal(&mut self) {
        if self.cost() * 4 < self.tables.memory() {
            let small = Tables {
                arena: self.tables.arena[..self.tables.used].to_vec(),
                used: self.tables.used,
                rows: self.tables.rows.as_slice().to_vec(),
                fields: self.tables.fields.as_slice().to_vec(),
                marks: Vec::new(),
            };
            let large = std::mem::replace(&mut self.tables, small);
            self.permit.budget().recycle(large);
        }
        let held = self.tables.memory() + size_of::<Batch>();
        self.permit.resize(held);
    }

    /// Takes more from the budget without waiting: for a sink that holds an encoded copy beside the batch.
    pub fn permit_mut(&mut self) -> &mut Permit {
        &mut self.permit
    }

    /// The permit that pays for the batch.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.permit.budget().recycle(std::mem::take(&mut self.tables));
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("rows", &self.len())
            .field("cost", &self.cost())
            .field("tags", &self.tags)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::record::{Form, Timestamp};

    fn batch() -> Batch {
        Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::default())
    }

    fn push(batch: &mut Batch, fields: &[(&str, &str)]) {
        let tag = batch.tag_index("t").expect("room for a tag");
        let mark = batch.fields_mark();
        for (key, value) in fields {
            let key = batch.push_bytes(key.as_bytes());
            let value = batch.push_bytes(value.as_bytes());
            batch.push_field(Field::new(key, Form::Text, value));
        }
        batch.push_row(mark, RowHead::at(Timestamp(0), tag));
    }

    fn read(batch: &Batch, at: usize) -> Vec<(String, String)> {
        let text = |value: Value<'_>| String::from_utf8_lossy(value.bytes).into_owned();
        batch.fields(at).iter().map(|f| (text(batch.key(f)), text(batch.value(f)))).collect()
    }

    #[test]
    fn fields_of_any_row_can_grow_shrink_and_be_replaced() {
        let mut b = batch();
        push(&mut b, &[("a", "1"), ("log", "x"), ("b", "2")]);
        push(&mut b, &[("c", "3")]);
        let (key, value) = (b.push_bytes(b"d"), b.push_bytes(b"4"));
        b.add_field(0, Field::new(key, Form::Text, value));
        assert_eq!(b.fields(0).len(), 4);
        let mark = b.fields_mark();
        for (k, v) in [("x", "7"), ("time", "8")] {
            let (key, value) = (b.push_bytes(k.as_bytes()), b.push_bytes(v.as_bytes()));
            b.push_field(Field::new(key, Form::Text, value));
        }
        b.splice_fields(0, Some(1), mark);
        let keys: Vec<String> = read(&b, 0).into_iter().map(|(k, _)| k).collect();
        assert_eq!(keys, ["a", "x", "time", "b", "d"]);
        assert!(b.row(0).has(OWN_TIME));
        b.remove_field(0, 2);
        assert!(!b.row(0).has(OWN_TIME));
        assert_eq!(read(&b, 1), [("c".to_owned(), "3".to_owned())]);
    }

    #[test]
    fn several_fields_are_removed_at_once() {
        let mut b = batch();
        push(&mut b, &[("a", "1"), ("time", "2"), ("c", "3"), ("d", "4")]);
        b.remove_fields(0, &[1, 3]);
        assert_eq!(read(&b, 0), [("a".to_owned(), "1".to_owned()), ("c".to_owned(), "3".to_owned())]);
        assert!(!b.row(0).has(OWN_TIME));
    }

    #[test]
    fn tags_that_no_row_has_make_room_for_others() {
        let mut b = batch();
        for at in 0..TAGS_MAX {
            let tag = b.tag_index(&format!("t{at}")).expect("room for a tag");
            if at % 2 == 1 {
                let mark = b.fields_mark();
                b.push_row(mark, RowHead::at(Timestamp(0), tag));
            }
        }
        assert_eq!(b.tag_index("new"), None);
        b.forget_unused_tags();
        assert_eq!(b.tags().len(), TAGS_MAX / 2);
        assert_eq!(b.tag_of(3).as_str(), "t7");
        assert_eq!(b.tag_index("new"), Some(32));
    }

    #[test]
    fn rows_that_count_from_an_earlier_base_keep_their_place() {
        let mut b = batch();
        push(&mut b, &[]);
        b.base = 100;
        b.row_mut(0).pos = 5;
        assert!(b.rebase(40));
        assert_eq!((b.base, b.row(0).pos), (40, 65));
        b.base = 10 << 32;
        assert!(!b.rebase(40));
        assert_eq!((b.base, b.row(0).pos), (10 << 32, 65));
    }

    #[test]
    fn a_sealed_batch_holds_what_it_says() {
        let budget = Budget::new(16 << 20);
        let mut b = Batch::new(budget.try_acquire(1 << 20).expect("free"), 0, Arc::default());
        b.tail(512 << 10);
        push(&mut b, &[("a", "1")]);
        b.seal();
        assert!(budget.used() < 2048, "{}", budget.used());
        assert_eq!(read(&b, 0), [("a".to_owned(), "1".to_owned())]);
        drop(b);
        assert_eq!(budget.used(), 0);
    }
}
