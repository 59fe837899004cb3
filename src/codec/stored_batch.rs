//! A batch as bytes for the disk log, and back: what lies in one frame's payload.
//!
//! ```text
//! head    magic "LSB", version, rows u32, fields u32, arena u32, base u64, meta u32      28 bytes, little endian
//! meta    input | origins (own, others) | tags | id runs                                 lengths before texts
//! rows    time | time text | fields | pos | flags | tag | stream                         28 bytes a record
//! fields  key span | value span | forms                                                  17 bytes a field
//! arena   the bytes, as they are in memory
//! ```
//!
//! That is version 1, which any batch can be written in. A batch whose records stand in the arena as objects
//! ([`Batch::is_whole`]) is written without tables of fields, as version 2 (`objects.rs`). Both are read.
//!
//! Only the rows of the wanted tags are written, with their fields and nothing else of the tables. In version 1 the arena is
//! copied as a whole, unless more than half of it is dead (records that were dropped, text that was parsed): then runs of
//! live bytes are copied, with the few bytes between two fields, which the encoders use.
//!
//! The log's checksum guards the content. What is read is still checked so far that nothing can panic later: the sum of
//! all lengths, each span, index and kind. Damage is an error. Pure; no limits of its own: a batch is below 4 GiB.

use std::fmt;
use std::sync::Arc;

use crate::batch::Batch;
use crate::budget::Permit;
use crate::record::{Container, Field, Form, Origin, PLACES_MAX, Row, Span, Stream, Timestamp};
use crate::record_id::IdRun;

mod objects; // version 2: rows and their objects

/// The first four bytes: three letters and the version.
const MAGIC: [u8; 4] = *b"LSB\x01";
const HEAD: usize = 28;
const ROW: usize = 28;
const FIELD: usize = 17;
/// Bytes between two spans that are copied with them: `":` and `,"`, and some blanks that a sender wrote.
const GAP_MAX: u32 = 8;

/// What is wrong with stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage(pub(super) String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damage {}

fn damage<T>(what: impl Into<String>) -> Result<T, Damage> {
    Err(Damage(what.into()))
}

/// Whether row `at` has one of the wanted tags.
fn wants(row: &Row, tags: u64) -> bool {
    tags >> row.tag & 1 == 1
}

/// Bytes that [`encode`] writes, about and never less by much.
pub fn size_hint(batch: &Batch) -> usize {
    HEAD + 256 + if batch.is_whole() { objects::size_hint(batch) } else { batch.cost() }
}

/// Appends the rows of the wanted tags (one bit each).
pub fn encode(batch: &Batch, input: &str, tags: u64, out: &mut Vec<u8>) {
    if batch.is_whole() {
        return objects::encode(batch, input, tags, out);
    }
    let start = out.len();
    let (mut rows, mut fields, mut live) = (0u32, 0u32, 0usize);
    for (at, row) in batch.rows().iter().enumerate().filter(|(_, row)| wants(row, tags)) {
        rows += 1;
        fields += row.fields_len;
        live += row.time_text.len as usize;
        live += batch.fields(at).iter().map(|field| (field.key.len + field.value.len) as usize).sum::<usize>();
    }
    let mut arena = Arena::new(batch.arena(), live);
    out.reserve(HEAD + 256 + rows as usize * ROW + fields as usize * FIELD + arena.size_hint());
    write_head(batch, input, MAGIC, [rows, fields, 0], out);

    // Fields come after the rows but are walked with them, so that spans are moved in the order of the arena.
    let rows_at = out.len();
    out.resize(rows_at + rows as usize * ROW + fields as usize * FIELD, 0);
    let (row_bytes, field_bytes) = out[rows_at..].split_at_mut(rows as usize * ROW);
    let wanted = batch.rows().iter().enumerate().filter(|(_, row)| wants(row, tags));
    let mut fields_out = field_bytes.chunks_exact_mut(FIELD);
    for ((at, row), to) in wanted.zip(row_bytes.chunks_exact_mut(ROW)) {
        let time_text = arena.span(row.time_text);
        to[..8].copy_from_slice(&row.time.0.to_le_bytes());
        to[8..12].copy_from_slice(&time_text.at.to_le_bytes());
        to[12..16].copy_from_slice(&time_text.len.to_le_bytes());
        to[16..20].copy_from_slice(&row.fields_len.to_le_bytes());
        to[20..24].copy_from_slice(&row.pos.to_le_bytes());
        to[24..26].copy_from_slice(&row.flags.to_le_bytes());
        to[26] = row.tag;
        to[27] = row.stream as u8;
        for (field, to) in batch.fields(at).iter().zip(&mut fields_out) {
            let (key, value) = (arena.span(field.key), arena.span(field.value));
            to[..4].copy_from_slice(&key.at.to_le_bytes());
            to[4..8].copy_from_slice(&key.len.to_le_bytes());
            to[8..12].copy_from_slice(&value.at.to_le_bytes());
            to[12..16].copy_from_slice(&value.len.to_le_bytes());
            to[16] = field.key_form as u8 | (field.form as u8) << 2;
        }
    }
    let bytes = arena.end();
    out[start + 12..start + 16].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends head and meta.
fn write_head(batch: &Batch, input: &str, magic: [u8; 4], numbers: [u32; 3], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&magic);
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&batch.base.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    let meta = out.len();
    write_meta(batch, input, out);
    let meta = (out.len() - meta) as u32;
    out[start + 24..start + 28].copy_from_slice(&meta.to_le_bytes());
}

/// The arena as it is written: as it is, or the live runs of it.
struct Arena<'b> {
    from: &'b [u8],
    runs: Option<Vec<u8>>,
    /// The run that is being copied: bytes `run.0..run.1` of `from` are the last ones of `runs`.
    run: (u32, u32),
}

impl<'b> Arena<'b> {
    fn new(from: &'b [u8], live: usize) -> Arena<'b> {
        let runs = (live * 2 < from.len()).then(|| Vec::with_capacity(live + live / 8));
        Arena { from, runs, run: (0, 0) }
    }

    fn size_hint(&self) -> usize {
        self.runs.as_ref().map_or(self.from.len(), Vec::capacity)
    }

    /// Where a span is in what is written.
    fn span(&mut self, span: Span) -> Span {
        let Some(runs) = &mut self.runs else { return span };
        if span.len == 0 {
            return Span::default();
        }
        let (from, to) = self.run;
        // With the byte on either side: quotes are what tells an encoder that a field stands there as it is written.
        let start = span.at.saturating_sub(1);
        let end = (span.at + span.len + 1).min(self.from.len() as u32);
        if from == to || start < from || start > to.saturating_add(GAP_MAX) {
            self.run = (start, end);
            runs.extend_from_slice(&self.from[start as usize..end as usize]);
        } else if end > to {
            self.run.1 = end;
            runs.extend_from_slice(&self.from[to as usize..end as usize]);
        }
        let run_at = runs.len() as u32 - (self.run.1 - self.run.0);
        Span { at: run_at + (span.at - self.run.0), len: span.len }
    }

    fn end(&self) -> &[u8] {
        self.runs.as_deref().unwrap_or(self.from)
    }
}

fn write_meta(batch: &Batch, input: &str, out: &mut Vec<u8>) {
    text(input, out);
    out.push(batch.places().len() as u8);
    write_origin(&batch.origin, out);
    batch.places().iter().for_each(|origin| write_origin(origin, out));
    out.push(batch.tags().len() as u8);
    batch.tags().iter().for_each(|tag| text(tag.as_str(), out));
    out.extend_from_slice(&(batch.ids.len() as u32).to_le_bytes());
    for run in &batch.ids {
        out.extend_from_slice(&run.from.to_le_bytes());
        out.extend_from_slice(&run.prefix.to_le_bytes());
        out.extend_from_slice(&run.first.to_le_bytes());
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn write_origin(origin: &Origin, out: &mut Vec<u8>) {
    let has = u8::from(origin.container.is_some())
        | u8::from(origin.file.is_some()) << 1
        | u8::from(origin.peer.is_some()) << 2;
    out.push(has);
    if let Some(container) = &origin.container {
        [&container.id, &container.name, &container.image].into_iter().for_each(|part| text(part, out));
        out.extend_from_slice(&(container.labels.len() as u32).to_le_bytes());
        for (key, value) in &container.labels {
            text(key, out);
            text(value, out);
        }
    }
    [&origin.file, &origin.peer].into_iter().flatten().for_each(|part| text(part, out));
}

/// A reader of bytes that may end anywhere.
struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], Damage> {
        match self.0.split_at_checked(len) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => damage(format!("{len} bytes wanted where {} are left", self.0.len())),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        Ok(self.take(N)?.try_into().unwrap_or([0; N]))
    }

    fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things of at least `least` bytes each: never more than the bytes that are left have room for.
    fn count(&mut self, least: usize) -> Result<usize, Damage> {
        let count = self.u32()? as usize;
        if count > self.0.len() / least {
            return damage(format!("{count} things announced in {} bytes", self.0.len()));
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<&'b str, Damage> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.take(len)?).map_err(|error| Damage(format!("a text is not UTF-8: {error}")))
    }

    fn origin(&mut self) -> Result<Origin, Damage> {
        let has = self.u8()?;
        if has > 7 {
            return damage(format!("an origin of kind {has}"));
        }
        let mut origin = Origin::default();
        if has & 1 != 0 {
            let (id, name, image) = (self.text()?, self.text()?, self.text()?);
            let mut container =
                Container { id: id.to_owned(), name: name.to_owned(), image: image.to_owned(), labels: Vec::new() };
            for _ in 0..self.count(8)? {
                container.labels.push((self.text()?.to_owned(), self.text()?.to_owned()));
            }
            origin.container = Some(container);
        }
        for (bit, part) in [(2, &mut origin.file), (4, &mut origin.peer)] {
            if has & bit != 0 {
                *part = Some(self.text()?.to_owned());
            }
        }
        Ok(origin)
    }
}

/// The parts of stored bytes.
struct Parts<'b> {
    /// Version 2: no table of fields, the arena is that of `objects.rs`.
    objects: bool,
    counts: Counts,
    base: u64,
    meta: Cursor<'b>,
    rows: &'b [u8],
    fields: &'b [u8],
    arena: &'b [u8],
}

#[derive(Clone, Copy)]
struct Counts {
    rows: usize,
    fields: usize,
}

fn parts(bytes: &[u8]) -> Result<Parts<'_>, Damage> {
    let mut cursor = Cursor(bytes);
    let magic = cursor.array::<4>()?;
    let (objects, row, field) = match magic {
        MAGIC => (false, ROW, FIELD),
        objects::MAGIC => (true, objects::ROW, 0),
        [b'L', b'S', b'B', version] => {
            return damage(format!("version {version} of a stored batch, this longshore knows 1 and 2"));
        }
        other => return damage(format!("no stored batch: it begins with {other:02x?}")),
    };
    let (rows, fields, arena) = (cursor.u32()? as usize, cursor.u32()? as usize, cursor.u32()? as usize);
    let base = cursor.u64()?;
    let meta = cursor.u32()? as usize;
    let wanted = (rows as u64 * row as u64) + (fields as u64 * field as u64) + arena as u64 + meta as u64;
    if wanted != cursor.0.len() as u64 {
        return damage(format!("{wanted} bytes announced, {} are there", cursor.0.len()));
    }
    if objects && fields > arena / objects::MEMBER_MIN {
        return damage(format!("{fields} fields announced in {arena} bytes of objects"));
    }
    let meta = Cursor(cursor.take(meta)?);
    Ok(Parts {
        objects,
        counts: Counts { rows, fields },
        base,
        meta,
        rows: cursor.take(rows * row)?,
        fields: cursor.take(fields * field)?,
        arena: cursor.take(arena)?,
    })
}

/// The name of the input that the records came from, and how many they are.
///
/// # Errors
/// The bytes are no stored batch.
pub fn peek(bytes: &[u8]) -> Result<(&str, u32), Damage> {
    let mut parts = parts(bytes)?;
    // A number of 32 bits.
    Ok((parts.meta.text()?, parts.counts.rows as u32))
}

/// Bytes that a stored batch takes in memory, about: what [`decode`] is to be paid with.
pub fn memory(bytes: &[u8]) -> usize {
    let tables = parts(bytes).ok().filter(|parts| parts.objects).map_or(0, |Parts { counts, .. }| {
        counts.rows * (size_of::<Row>() - objects::ROW) + counts.fields * size_of::<Field>()
    });
    bytes.len() + tables
}

/// Reads a batch. `permit` pays for it ([`memory`]), `input` is the number of the input that [`peek`] named.
///
/// # Errors
/// The bytes are damaged, or of another version.
pub fn decode(bytes: &[u8], permit: Permit, input: u16) -> Result<Batch, Damage> {
    let Parts { objects, counts, base, mut meta, rows, fields, arena } = parts(bytes)?;
    meta.text()?;
    let places = usize::from(meta.u8()?);
    if places > PLACES_MAX {
        return damage(format!("{places} origins"));
    }
    let mut batch = Batch::new(permit, input, Arc::new(meta.origin()?));
    batch.base = base;
    for _ in 0..places {
        batch.restore_place(Arc::new(meta.origin()?));
    }
    let tags = meta.u8()?;
    for tag in 0..tags {
        // The same tag twice would move the indexes of those behind it.
        if batch.tag_index(meta.text()?) != Some(tag) {
            return damage("a tag stands twice, or there are too many");
        }
    }
    for _ in 0..meta.count(20)? {
        batch.ids.push(IdRun { from: meta.u32()?, prefix: meta.u64()?, first: meta.u64()? });
    }
    if !meta.0.is_empty() || !batch.ids.is_sorted_by_key(|run| run.from) {
        return damage("bytes are left over before the rows, or ids are not in order");
    }
    batch.tail(arena.len() + crate::batch::TAIL_MIN)[..arena.len()].copy_from_slice(arena);
    batch.commit(arena.len());
    batch.reserve(counts.rows, counts.fields);
    if objects {
        objects::decode(rows, counts.fields, &mut batch)?;
        return Ok(batch);
    }

    let number = |at: &[u8]| u32::from_le_bytes([at[0], at[1], at[2], at[3]]);
    let span = |at: &[u8]| Span { at: number(at), len: number(&at[4..]) };
    let inside = |span: Span| span.at as u64 + span.len as u64 <= arena.len() as u64;
    for field in fields.chunks_exact(FIELD) {
        let (key, value, forms) = (span(field), span(&field[8..]), field[16]);
        if !inside(key) || !inside(value) || forms > 15 {
            return damage("a field lies outside of the batch, or has no known form");
        }
        batch.push_field(Field {
            key,
            value,
            key_form: FORMS[usize::from(forms & 3)],
            form: FORMS[usize::from(forms >> 2)],
        });
    }
    let mut fields_at = 0u32;
    for row in rows.chunks_exact(ROW) {
        let (time_text, fields_len, tag) = (span(&row[8..]), number(&row[16..]), row[26]);
        let time = i64::from_le_bytes(row[..8].try_into().unwrap_or_default());
        let restored = Row {
            time: Timestamp(time),
            time_text,
            fields_at,
            fields_len,
            pos: number(&row[20..]),
            tag,
            stream: STREAMS[usize::from(row[27] & 3)],
            flags: u16::from_le_bytes([row[24], row[25]]),
        };
        let end = u64::from(fields_at) + u64::from(fields_len);
        if !inside(time_text) || end > counts.fields as u64 || row[27] > 2 || !is_placed(&batch, &restored) {
            return damage("a row names a field, tag, origin or stream that is not there");
        }
        // Below the number of fields, which is a u32.
        fields_at = end as u32;
        batch.restore_row(restored, false);
    }
    Ok(batch)
}

/// Whether the batch has the tag and the origin that a row names.
fn is_placed(batch: &Batch, row: &Row) -> bool {
    usize::from(row.place()) <= batch.places().len() && usize::from(row.tag) < batch.tags().len()
}

/// By their number, which is stored: a new one goes to the end.
const FORMS: [Form; 4] = [Form::Json, Form::JsonStr, Form::Text, Form::Msg];
const STREAMS: [Stream; 4] = [Stream::None, Stream::Stdout, Stream::Stderr, Stream::None];
const _: () =
    assert!(Form::Json as u8 == 0 && Form::JsonStr as u8 == 1 && Form::Text as u8 == 2 && Form::Msg as u8 == 3);
const _: () = assert!(Stream::None as u8 == 0 && Stream::Stdout as u8 == 1 && Stream::Stderr as u8 == 2);

/// What the fuzzer calls: any bytes are an error or a batch that can be encoded, stored again and sent.
pub fn fuzz_one(data: &[u8]) {
    let budget = crate::budget::Budget::new(1 << 20);
    let Ok((input, rows)) = peek(data) else {
        assert!(decode(data, budget.empty_permit(), 0).is_err());
        return;
    };
    let Ok(batch) = decode(data, budget.empty_permit(), 0) else { return };
    assert_eq!(batch.len(), rows as usize);
    let mut again = Vec::new();
    encode(&batch, input, u64::MAX, &mut again);
    let second = decode(&again, budget.empty_permit(), 0).unwrap_or_else(|error| panic!("own bytes: {error}"));
    assert_eq!(second.len(), batch.len());
    let mut out = Vec::new();
    let mut encoder = crate::codec::ndjson::Encoder::new(crate::record::Added::ALL);
    (0..batch.len()).for_each(|at| encoder.row(&batch, at, &mut out));
}

#[cfg(test)]
mod tests;
