//! One line of a plain text file, or of a file whose lines are JSON objects.
//!
//! A plain line is the record `{log}`, with the time of reading; a `json` line is its own fields, and has the time of
//! reading too (a `time` step takes it from a field). Limits: the splitter's ([`lines`](crate::codec::lines)).
//! Counters: `line_not_json`.

use crate::batch::Batch;
pub use crate::codec::docker_json::LineHead;
use crate::codec::json::{self, index, page};
use crate::metrics::Oddity;
use crate::record::{Field, Form, Span};

/// Appends a line as the record `{log}`. The bytes need not be UTF-8.
#[inline]
pub fn push(line: &[u8], head: LineHead, batch: &mut Batch) {
    let key = batch.log_key();
    let mark = batch.fields_mark();
    let value = batch.push_bytes(line);
    batch.push_field(Field::new(key, Form::Text, value));
    batch.push_row(mark, head.row());
}

/// Bytes of the object that [`push_escaped`] writes, at most.
const ROOM: usize = 8192;
/// A longer line has no place in it, beside its key and the block that is written beyond its end.
const LINE_MAX: usize = ROOM - 160;

/// Appends the line of the first `len` bytes of `padded` (more may follow, and are read with its last block) as the object
/// `{"log":"..."}`, for records that go to encoders of JSON alone: it is escaped on the way into the arena instead of being
/// copied there and escaped on the way out. line-file: 2,211 -> 1,788 instructions a record, with the words of
/// `json/page.rs` and the ends of `ndjson.rs`. What is not UTF-8, has a rare control character or is larger than [`ROOM`] is
/// appended as [`push`] does.
#[inline]
pub fn push_escaped(padded: &[u8], len: usize, head: LineHead, batch: &mut Batch) {
    const KEY: [u8; 7] = *b"{\"log\":";
    if len > LINE_MAX {
        return push(&padded[..len], head, batch);
    }
    let (base, tail, fields, _) = batch.tail_and_tables(ROOM);
    let mark = fields.len();
    let written = tail.first_chunk_mut::<ROOM>().and_then(|object| {
        let at = page::put(KEY, object, 0)?;
        let end = page::quoted(padded, len, object, at)?;
        let span = |from: usize, to: usize| Span { at: base + from as u32, len: (to - from) as u32 };
        fields.push(Field::new(span(2, 5), Form::JsonStr, span(at + 1, end - 1)));
        page::put(*b"}", object, end)
    });
    match written {
        Some(end) => {
            batch.commit(end);
            batch.push_row_as_written(mark, 0, head.row());
        }
        None => {
            batch.rewind_fields(mark);
            push(&padded[..len], head, batch);
        }
    }
}

/// Appends a line that should be a JSON object as its fields. Anything else is kept as the text `log`, counted.
pub fn push_json(line: &[u8], head: LineHead, batch: &mut Batch) {
    let mark = batch.fields_mark();
    let span = batch.push_bytes(line);
    if json::push_members(batch, span, index::DEPTH_MAX).is_err() {
        batch.tally.odd(Oddity::LineNotJson);
        let key = batch.log_key();
        batch.push_field(Field::new(key, Form::Text, span));
    }
    batch.push_row(mark, head.row());
}

/// Decodes `data` as one line and encodes what came out: every record must be one line of valid JSON.
#[doc(hidden)]
pub fn fuzz_lines(data: &[u8], decode: impl Fn(&[u8], LineHead, &mut Batch)) {
    use crate::batch::Added;
    use crate::record::Timestamp;
    let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, std::sync::Arc::default());
    let tag = batch.tag_index("fuzz").unwrap_or(0);
    decode(data, LineHead { tag, pos: 0, now: Timestamp(0) }, &mut batch);
    let mut encoder = crate::codec::ndjson::Encoder::new(Added::ALL);
    for at in 0..batch.len() {
        let mut out = Vec::new();
        encoder.row(&batch, at, &mut out);
        assert!(!out.contains(&b'\n'), "a record is one line");
        // No tree: numbers may be out of a float's range.
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&out).is_ok(), "a record is valid JSON");
        let _ = crate::codec::time::of(&batch, at);
    }
}

/// One round of the fuzz target. A line is the same whether it is escaped on the way in or on the way out, and whatever can be
/// read behind it.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    fuzz_lines(data, push);
    fuzz_lines(data, push_json);
    let expected = encoded(data, push);
    for behind in [0, 1, 15, 100] {
        let padded = [data, &vec![b'"'; behind]].concat();
        let escape = |_: &[u8], head: LineHead, batch: &mut Batch| push_escaped(&padded, data.len(), head, batch);
        fuzz_lines(data, escape);
        assert_eq!(encoded(data, escape), expected, "{behind} bytes behind it");
    }
}

/// A line as JSON, and what was odd about it.
fn encoded(line: &[u8], decode: impl Fn(&[u8], LineHead, &mut Batch)) -> (String, Vec<u32>) {
    use crate::batch::Added;
    use crate::record::Timestamp;
    let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, std::sync::Arc::default());
    let tag = batch.tag_index("fuzz").unwrap_or(0);
    decode(line, LineHead { tag, pos: 7, now: Timestamp(5) }, &mut batch);
    let mut encoder = crate::codec::ndjson::Encoder::new(Added::ALL);
    let mut out = Vec::new();
    encoder.row(&batch, 0, &mut out);
    let odd = batch.tally.oddities.iter().zip(encoder.tally.oddities).map(|(read, written)| read + written);
    (String::from_utf8_lossy(&out).into_owned(), odd.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Added;
    use crate::codec::json::texts;
    use crate::codec::ndjson::Encoder;
    use crate::record::Timestamp;

    const HEAD: LineHead = LineHead { tag: 0, pos: 7, now: Timestamp(5) };

    fn batch() -> Batch {
        let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, std::sync::Arc::default());
        assert_eq!(batch.tag_index("t"), Some(HEAD.tag));
        batch
    }

    fn decoded(decode: fn(&[u8], LineHead, &mut Batch), line: &[u8]) -> (Vec<(String, String, Form)>, Batch) {
        let mut batch = batch();
        decode(line, HEAD, &mut batch);
        assert_eq!((batch.len(), batch.row(0).pos, batch.row(0).time), (1, 7, Timestamp(5)));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = batch.fields(0).iter();
        let fields = fields.map(|f| (text(batch.bytes(f.key)), text(batch.bytes(f.value)), f.form)).collect();
        (fields, batch)
    }

    #[test]
    fn a_plain_line_is_its_text() {
        let (fields, _) = decoded(push, b"{\"a\": \xff}");
        assert_eq!(fields, [("log".to_owned(), "{\"a\": \u{fffd}}".to_owned(), Form::Text)]);
    }

    #[test]
    fn a_line_that_is_escaped_on_the_way_in_comes_out_as_one_that_is_on_the_way_out() {
        let long = "x\"é".repeat(ROOM / 4);
        let exact = "x".repeat(ROOM - 7 - 3);
        let word = "a plain line that is longer than a word of 64 bytes is, by a few more of them";
        for (line, escaped) in [
            (&b""[..], true),
            (b"plain", true),
            (word.as_bytes(), true),
            (b"\"quoted\"\t\\ \x7f", true),
            (&word.repeat(40).replace("by", "\"").into_bytes(), true),
            ("é and \u{1f6a2}".as_bytes(), true),
            (b"not UTF-8: \xff", false),
            (b"rare: \x07", false),
            (long.as_bytes(), false),
            (&exact.as_bytes()[..exact.len() - 160], true),
            (&exact.as_bytes()[1..], false),
        ] {
            for behind in [0, 1, 15, 100] {
                let mut batch = batch();
                let padded = [line, &vec![b'"'; behind]].concat();
                push_escaped(&padded, line.len(), HEAD, &mut batch);
                push(line, HEAD, &mut batch);
                let (mut first, mut second) = (Vec::new(), Vec::new());
                let mut encoder = Encoder::new(Added::ALL);
                encoder.row(&batch, 0, &mut first);
                encoder.row(&batch, 1, &mut second);
                assert_eq!(String::from_utf8(first), String::from_utf8(second));
                assert_eq!(batch.fields(0)[0].form == Form::JsonStr, escaped, "{}", String::from_utf8_lossy(line));
                assert!(batch.find(0, b"log").is_some() && !batch.is_whole());
                let mut alone = self::batch();
                push_escaped(&padded, line.len(), HEAD, &mut alone);
                assert_eq!(alone.is_whole(), escaped);
            }
        }
    }

    #[test]
    fn a_json_line_is_its_fields() {
        let (fields, batch) = decoded(push_json, br#"{"a": 1e400, "b":"x\n"}"#);
        let field = |key: &str, value: &str, form| (key.to_owned(), value.to_owned(), form);
        assert_eq!(fields, [field("a", "1e400", Form::Json), field("b", "x\\n", Form::JsonStr)]);
        assert_eq!(batch.tally.oddities[Oddity::LineNotJson as usize], 0);
    }

    #[test]
    fn a_json_line_that_is_no_object_is_kept_as_text_and_counted() {
        for line in ["", "[1]", "7", "{\"a\":1", "{\"a\":1} x", "{\"a\":\"\\ud800\"}"] {
            let (fields, batch) = decoded(push_json, line.as_bytes());
            assert_eq!(fields, [("log".to_owned(), line.to_owned(), Form::Text)]);
            assert_eq!(batch.tally.oddities[Oddity::LineNotJson as usize], 1, "{line}");
        }
    }

    proptest! {
        #![proptest_config(texts::many())]
        #[test]
        fn any_line_is_escaped_on_the_way_in_as_on_the_way_out(line in texts::lines(), behind in 0usize..100) {
            fuzz_one(&line);
            let mut batch = batch();
            push_escaped(&[&line[..], &vec![b'"'; behind]].concat(), line.len(), HEAD, &mut batch);
            let escaped = batch.fields(0)[0].form == Form::JsonStr;
            let rare = |byte: &u8| *byte < 0x20 && !b"\x08\t\n\x0c\r".contains(byte);
            prop_assert_eq!(escaped, std::str::from_utf8(&line).is_ok() && !line.iter().any(rare));
            let mut out = Vec::new();
            Encoder::new(Added::NONE).row(&batch, 0, &mut out);
            let read: serde_json::Value = serde_json::from_slice(&out).expect("valid");
            prop_assert_eq!(read, serde_json::json!({ "log": String::from_utf8_lossy(&line) }));
        }
    }
}
