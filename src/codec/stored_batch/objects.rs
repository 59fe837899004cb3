//! Version 2 of a stored batch: records that stand in the arena as objects are stored as those, and their fields are found
//! again by reading them.
//!
//! ```text
//! head, meta   as in version 1 (the number of all fields is there); the arena's bytes are those of the texts
//! rows         time i64 | pos u32 | flags u16 | tag | stream, 0x80: a text of the time         16 bytes
//! texts        of each row: its object | where it has one, the time's text: length u32, bytes
//! ```
//!
//! The disk log's thread writes every durable record once, and hardly ever is one read: what is done for each field is done
//! ten times a record, and the tables are cold there, since another core has filled them. So a packed batch
//! ([`Batch::is_packed`]) is one copy of its arena, and of any other the objects are copied, beside each other where they
//! stand so. An object says itself where it ends.
//!
//! 600,000 records of ten fields from four connections to a file, `durable`, six runs in turn with version 1, medians, a busy
//! machine: the log's thread 0.29 -> 0.08 CPU seconds, the whole 0.97 -> 0.77 (`delivered` 0.56 and 0.60). With the lengths of
//! objects, for which each row's first and last field are looked at, it was some 0.14. The backlog of as many is 270 -> 161 MB,
//! and reading it back and writing it to a file takes 0.37 -> 0.40 CPU seconds, since what is read is sent in one piece again.
//!
//! Read with the scanner that reads objects from an input, so nothing of it is believed. Limits: those of the scanner.

use super::{Damage, STREAMS, damage, is_placed, wants, write_head};
use crate::batch::Batch;
use crate::codec::json;
use crate::record::{Field, Form, Row, Span, Timestamp};

/// The first four bytes.
pub(super) const MAGIC: [u8; 4] = *b"LSB\x02";
/// Bytes of a row.
pub(super) const ROW: usize = 16;
/// The shortest member: `"":0` and what is before or after it.
pub(super) const MEMBER_MIN: usize = 5;
/// Beside the stream: the time stands there as text as well.
const HAS_TEXT: u8 = 0x80;

/// Bytes of rows and texts, at most: braces that stand apart from an object's members, or the length of a time's text, are
/// 6 bytes more.
pub(super) fn size_hint(batch: &Batch) -> usize {
    batch.arena().len() + batch.len() * (ROW + 6)
}

/// Appends the rows of the wanted tags of a batch that is whole.
pub(super) fn encode(batch: &Batch, input: &str, tags: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(super::HEAD + 256 + size_hint(batch));
    let wanted = || batch.rows().iter().enumerate().filter(|(_, row)| wants(row, tags));
    let (rows, fields, texts) = wanted().fold((0u32, 0u32, false), |(rows, fields, texts), (_, row)| {
        (rows + 1, fields + row.fields_len, texts | (row.time_text.len > 0))
    });
    write_head(batch, input, MAGIC, [rows, fields, 0], out);
    for (_, row) in wanted() {
        let mut to = [0; ROW];
        to[..8].copy_from_slice(&row.time.0.to_le_bytes());
        to[8..12].copy_from_slice(&row.pos.to_le_bytes());
        to[12..14].copy_from_slice(&row.flags.to_le_bytes());
        to[14] = row.tag;
        to[15] = row.stream as u8 | if row.time_text.len > 0 { HAS_TEXT } else { 0 };
        out.extend_from_slice(&to);
    }
    let begin = out.len();
    if batch.is_packed() && rows as usize == batch.len() && !texts {
        out.extend_from_slice(batch.arena());
    } else {
        copy_texts(batch, wanted(), out);
    }
    // An arena is below 4 GiB, and its braces are far less than what else is in it.
    let bytes = (out.len() - begin) as u32;
    out[start + 12..start + 16].copy_from_slice(&bytes.to_le_bytes());
}

/// Copies the object of each row, and the text of its time; those that stand beside each other at once.
fn copy_texts<'b>(batch: &'b Batch, rows: impl Iterator<Item = (usize, &'b Row)>, out: &mut Vec<u8>) {
    let arena = batch.arena();
    let mut run = 0..0;
    for (at, row) in rows {
        let (Some(first), Some(last)) = (batch.fields(at).first(), batch.fields(at).last()) else { continue };
        // From the quote of the first key to the end of the last value.
        let from = (first.key.at as usize).saturating_sub(1);
        let to = last.end() as usize;
        let is_object = from > 0 && arena[from - 1] == b'{' && arena.get(to) == Some(&b'}');
        if !is_object || run.end != from - 1 {
            out.extend_from_slice(&arena[run]);
            run = from.saturating_sub(1)..0;
        }
        if is_object {
            run.end = to + 1;
        } else {
            // Blanks stand between the members and the braces.
            out.push(b'{');
            out.extend_from_slice(&arena[from..to]);
            out.push(b'}');
            run = 0..0;
        }
        if row.time_text.len > 0 {
            out.extend_from_slice(&arena[run]);
            run = 0..0;
            out.extend_from_slice(&row.time_text.len.to_le_bytes());
            out.extend_from_slice(batch.bytes(row.time_text));
        }
    }
    out.extend_from_slice(&arena[run]);
}

/// Pushes the rows to a batch whose arena holds the texts and nothing else.
pub(super) fn decode(rows: &[u8], mut fields: usize, batch: &mut Batch) -> Result<(), Damage> {
    let end = batch.arena().len();
    let mut at = 0u32;
    for row in rows.chunks_exact(ROW) {
        let mark = batch.fields_mark();
        let len = match json::push_first_object(batch, at) {
            Ok(len) => len,
            Err(error) => return damage(format!("a record is no object: {error:?}")),
        };
        let members = batch.fields_after(mark);
        let (found, compact) = (members.len(), is_compact(members, len));
        at += len;
        let mut time_text = Span::default();
        if row[15] & HAS_TEXT != 0 {
            let rest = &batch.arena()[at as usize..];
            let Some((text, rest)) = rest.split_first_chunk() else { return damage("no text of a time is there") };
            let len = u32::from_le_bytes(*text);
            if len as usize > rest.len() {
                return damage(format!("the text of a time has {len} bytes where {} are left", rest.len()));
            }
            time_text = Span { at: at + 4, len };
            at += 4 + len;
        }
        let restored = Row {
            time: Timestamp(i64::from_le_bytes(row[..8].try_into().unwrap_or_default())),
            time_text,
            fields_at: mark as u32,
            fields_len: found as u32,
            pos: u32::from_le_bytes([row[8], row[9], row[10], row[11]]),
            tag: row[14],
            stream: STREAMS[usize::from(row[15] & 3)],
            flags: u16::from_le_bytes([row[12], row[13]]),
        };
        if row[15] & !HAS_TEXT > 2 || !is_placed(batch, &restored) {
            return damage("a row names a tag, origin or stream that is not there");
        }
        // Who pays for the batch was told a number.
        fields = match fields.checked_sub(found) {
            Some(left) if found > 0 => left,
            _ => return damage("an object is empty, or has more members than were announced"),
        };
        batch.restore_row(restored, compact);
    }
    if at as usize != end || fields > 0 {
        return damage("bytes or fields are left over after the last row");
    }
    Ok(())
}

/// Whether nothing but the members' own quotes, colons, commas and braces is in the object of `len` bytes, as whoever
/// copies them in one piece has it. (Where there is a blank, the batch is right all the same, and sent field by field.)
fn is_compact(members: &[Field], len: u32) -> bool {
    let own = |field: &Field| field.key.len + field.value.len + 4 + 2 * u32::from(field.form == Form::JsonStr);
    members.iter().map(own).sum::<u32>() + 1 == len
}
