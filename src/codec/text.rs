//! One line of a plain text file, or of a file whose lines are JSON objects.
//!
//! A plain line is the record `{log}`, with the time of reading; a `json` line is its own fields, and has the time of
//! reading too (a `time` step takes it from a field). Limits: the splitter's ([`lines`](crate::codec::lines)).
//! Counters: `line_not_json`.

use crate::batch::Batch;
pub use crate::codec::docker_json::LineHead;
use crate::codec::json::{self, index};
use crate::metrics::Oddity;
use crate::record::{Field, Form};

/// Appends a line as the record `{log}`. The bytes need not be UTF-8.
#[inline]
pub fn push(line: &[u8], head: LineHead, batch: &mut Batch) {
    let key = batch.log_key();
    let mark = batch.fields_mark();
    let value = batch.push_bytes(line);
    batch.push_field(Field::new(key, Form::Text, value));
    batch.push_row(mark, head.row());
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

/// One round of the fuzz target.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    fuzz_lines(data, push);
    fuzz_lines(data, push_json);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Timestamp;

    fn decoded(decode: fn(&[u8], LineHead, &mut Batch), line: &[u8]) -> (Vec<(String, String, Form)>, Batch) {
        let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, std::sync::Arc::default());
        let tag = batch.tag_index("t").expect("room for a tag");
        decode(line, LineHead { tag, pos: 7, now: Timestamp(5) }, &mut batch);
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
}
