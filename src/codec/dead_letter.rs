//! A dead letter as bytes, and back: one record that a sink refused for good, with the reason. What an input refused never
//! was a record, and its letter is another one ([`ScrapLetter`]).
//!
//! ```text
//! magic "LSL", version | sink | input | reason | cause | stored batch of one record
//! ```
//!
//! Texts have their length before them (u32, little endian). The record is kept as `stored_batch.rs` keeps it, not as the
//! sink wrote it: so it can be shown, and sent again by a sink whose format has been changed meanwhile.
//!
//! Limits: a cause is cut to [`CAUSE_MAX`] bytes. Damage is an error. Pure.

mod scrap; // the letter of what an input refused

use std::sync::Arc;

use crate::batch::{Batch, RowHead};
use crate::budget::Permit;
use crate::codec::stored_batch::{self, Damage};
use crate::record::{Field, Span};
use crate::record_id::IdRun;

pub use scrap::ScrapLetter;

/// Three letters and the version.
const MAGIC: [u8; 4] = *b"LSL\x01";
/// Bytes that are kept of a cause.
pub const CAUSE_MAX: usize = 1024;

/// What is known of a refused record beside itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head<'t> {
    /// The sink that refused it.
    pub sink: &'t str,
    /// The input that it came from.
    pub input: &'t str,
    /// The reason, as it is counted.
    pub reason: &'t str,
    /// What the destination said.
    pub cause: &'t str,
}

/// Bytes that [`encode`] writes, about and never less by much.
pub fn size_hint(head: &Head<'_>, batch: &Batch, at: usize) -> usize {
    let fields: usize = batch.fields(at).iter().map(|field| (field.key.len + field.value.len) as usize + 17).sum();
    let origin = batch.origin_at(at);
    let labels: usize = origin.container.iter().flat_map(|c| &c.labels).map(|(k, v)| k.len() + v.len() + 8).sum();
    let texts = head.cause.len().min(CAUSE_MAX) + batch.tag_of(at).as_str().len();
    512 + texts + fields + labels + batch.row(at).time_text.len as usize
}

/// Appends row `at`.
pub fn encode(head: &Head<'_>, batch: &Batch, at: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    let cause = &head.cause[..head.cause.floor_char_boundary(CAUSE_MAX)];
    for text in [head.sink, head.input, head.reason, cause] {
        push_text(text, out);
    }
    stored_batch::encode(&alone(batch, at), head.input, u64::MAX, out);
}

/// A batch of that row only, with its origin, tag and id.
fn alone(batch: &Batch, at: usize) -> Batch {
    let row = batch.row(at);
    let permit = batch.permit().budget().empty_permit();
    let mut one = Batch::new(permit, batch.input, Arc::clone(batch.origin_at(at)));
    one.base = batch.base;
    if !batch.ids.is_empty() {
        let id = batch.id_of(at);
        one.ids.push(IdRun { from: row.pos, prefix: id.prefix, first: id.number });
    }
    // The first tag always fits.
    let tag = one.shared_tag_index(batch.tag_of(at)).unwrap_or(0);
    let copy = |one: &mut Batch, span: Span| one.push_bytes(batch.bytes(span));
    let mark = one.fields_mark();
    for field in batch.fields(at) {
        let (key, value) = (copy(&mut one, field.key), copy(&mut one, field.value));
        one.push_field(Field { key, value, ..*field });
    }
    let time_text = copy(&mut one, row.time_text);
    one.push_row(mark, RowHead { time_text, pos: row.pos, stream: row.stream, ..RowHead::at(row.time, tag) });
    one.row_mut(0).flags = row.flags;
    one.row_mut(0).set_place(0);
    one
}

/// Appends a text. Names, tags and causes are short.
fn push_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Cuts off a text.
fn text<'b>(bytes: &mut &'b [u8]) -> Option<&'b str> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

/// What is no letter of this version.
fn other(bytes: &[u8]) -> Damage {
    Damage(match bytes {
        [b'L', b'S', b'L' | b'S', version, ..] => {
            format!("version {version} of a dead letter, this longshore knows 1")
        }
        other => format!("no dead letter: it begins with {:02x?}", &other[..other.len().min(4)]),
    })
}

/// Reads a letter: its head, and its record as a batch of one, which `permit` pays for and which belongs to the input of
/// that number.
///
/// # Errors
/// The bytes are damaged, or of another version.
pub fn decode(bytes: &[u8], permit: Permit, input: u16) -> Result<(Head<'_>, Batch), Damage> {
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
        return Err(other(bytes));
    };
    let mut next = || text(&mut rest).ok_or_else(|| Damage("a text is cut short or no UTF-8".to_owned()));
    let head = Head { sink: next()?, input: next()?, reason: next()?, cause: next()? };
    let batch = stored_batch::decode(rest, permit, input)?;
    if batch.len() != 1 {
        return Err(Damage(format!("{} records where there should be one", batch.len())));
    }
    Ok((head, batch))
}

/// What the fuzzer calls: any bytes are an error or a letter that reads the same when it is written again.
pub fn fuzz_one(data: &[u8]) {
    if let Ok(letter) = ScrapLetter::decode(data) {
        let mut again = Vec::new();
        letter.encode(&mut again);
        assert_eq!(ScrapLetter::decode(&again).unwrap_or_else(|error| panic!("own bytes: {error}")), letter);
    }
    let budget = crate::budget::Budget::new(1 << 20);
    let Ok((head, batch)) = decode(data, budget.empty_permit(), 0) else { return };
    let mut again = Vec::new();
    encode(&head, &batch, 0, &mut again);
    let (second, record) =
        decode(&again, budget.empty_permit(), 0).unwrap_or_else(|error| panic!("own bytes: {error}"));
    assert_eq!((second.sink, second.input, second.reason), (head.sink, head.input, head.reason));
    assert!(head.cause.starts_with(second.cause));
    let shown = |batch: &Batch| {
        let mut out = Vec::new();
        crate::codec::ndjson::Encoder::new(crate::record::Added::ALL).row(batch, 0, &mut out);
        out
    };
    assert_eq!(shown(&record), shown(&batch));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::codec::ndjson::Encoder;
    use crate::record::Added;
    use crate::sinks::request::tests::batch;

    #[test]
    fn a_letter_reads_as_it_was_written_with_its_own_tag_origin_and_id() {
        let budget = Budget::new(1 << 20);
        let mut many = batch(&budget, &[("a", "first"), ("b", "sec\"ond"), ("a", "third")]);
        many.number_rows();
        many.ids.push(IdRun { from: 0, prefix: 9, first: 70 });
        let head = Head { sink: "central", input: "apps", reason: "refused", cause: &"é".repeat(600) };
        let mut bytes = Vec::new();
        encode(&head, &many, 1, &mut bytes);
        assert!(bytes.len() <= size_hint(&head, &many, 1), "{} of {}", bytes.len(), size_hint(&head, &many, 1));
        let (read, one) = decode(&bytes, budget.empty_permit(), 4).expect("whole");
        assert_eq!((read.sink, read.input, read.reason), ("central", "apps", "refused"));
        assert_eq!(read.cause.len(), CAUSE_MAX);
        assert_eq!((one.tags().len(), one.input, one.id_of(0)), (1, 4, many.id_of(1)));
        let shown = |batch: &Batch, at| {
            let mut out = Vec::new();
            Encoder::new(Added::ALL).row(batch, at, &mut out);
            String::from_utf8(out).expect("JSON is text")
        };
        assert_eq!(shown(&one, 0), shown(&many, 1));
        assert!(shown(&one, 0).contains("\"tag\":\"b\"") && shown(&one, 0).contains("\"name\":\"web\""));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], budget.empty_permit(), 0).is_err(), "{cut}");
        }
    }

    #[test]
    fn other_versions_and_other_bytes_say_what_they_are() {
        let permit = || Budget::new(1000).empty_permit();
        let error = |bytes: &[u8]| decode(bytes, permit(), 0).expect_err("damaged").to_string();
        assert_eq!(error(b"LSL\x02rest"), "version 2 of a dead letter, this longshore knows 1");
        assert_eq!(error(b"{}"), "no dead letter: it begins with [7b, 7d]");
    }
}
