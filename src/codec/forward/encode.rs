//! Rows to frames of the forward protocol: what a forward sink and `longshore send` write.
//!
//! ```text
//! frame   [tag, entries back to back as bin (or str), {"size": n, "chunk": id, "compressed": "gzip"}]
//! entry   [time, {the record's own fields, then the added values}]
//! ```
//!
//! A record that came as MessagePack lies in the arena as it came, so its fields are copied as one range, heads
//! included; JSON becomes MessagePack in one pass ([`from_json`]). The record has the same fields in the same order as
//! the JSON that other sinks write, but for the tag, which is the frame's, and the time, which is the entry's.
//!
//! Times are EventTimes (1970 to 2106, nanoseconds) or whole seconds. Zero means "now" to receivers and the last two
//! seconds of an EventTime mean something else to Fluent Bit, so times at or beyond those are moved, counted.
//! A chunk id is 16 bytes of SHA-512 over the request's key and the tag, in base64: the same for all tries of a frame.
//!
//! Counters: `time_clamped`, `time_from_receipt`, and those of `from_json`.
//! Format: <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::batch::{
    Added, Batch, NO_CONTAINER, NO_FILE, NO_TAG, NO_TIME, OWN_CONTAINER, OWN_FILE, OWN_STREAM, OWN_TAG, OWN_TIME, Row,
};
use crate::codec::msgpack::{self, from_json, write};
use crate::codec::{ndjson, time};
use crate::metrics::{Oddity, Tally};
use crate::record::{Container, Field, Form, Timestamp, Value};

/// The first second of an EventTime that is taken for a time.
const FIRST_SECOND: i64 = 1;
/// The last one: Fluent Bit brackets groups of entries by the two after it.
const LAST_SECOND: i64 = 0xffff_fffd;
const NS: i64 = 1_000_000_000;

/// How times are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeForm {
    /// EventTime: nanoseconds.
    #[default]
    Event,
    /// Whole seconds as an integer, for receivers that know no EventTime.
    Seconds,
}

/// What a frame with entries looks like on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One record a frame: `[tag, time, record]`.
    Message,
    /// An array of entries.
    Forward,
    /// Entries back to back in a `bin`.
    #[default]
    Packed,
    /// The same in a `str`: for receivers older than the `bin` type (Fluentd before 0.14).
    PackedText,
}

/// What a frame says beside its entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The id that the receiver is to acknowledge.
    pub chunk: Option<&'a str>,
    /// How the entries are compressed; nothing says that they are not.
    pub compressed: Option<&'static str>,
}

/// Appends a frame of `count` entries, which lie back to back in `entries` (compressed or not, as the options say).
/// In [`Mode::Message`] there is one of them, and it is not compressed.
pub fn frame(mode: Mode, tag: &str, entries: &[u8], count: usize, options: Options<'_>, out: &mut Vec<u8>) {
    debug_assert!(
        mode != Mode::Message || (count == 1 && options.compressed.is_none() && entries.first() == Some(&0x92))
    );
    let sized = mode != Mode::Message;
    let pairs = usize::from(sized) + usize::from(options.chunk.is_some()) + usize::from(options.compressed.is_some());
    let body = if sized { 2 } else { 3 };
    write::array(body + usize::from(pairs > 0), out);
    write::text(tag.as_bytes(), out);
    match mode {
        Mode::Message => out.extend_from_slice(entries.get(1..).unwrap_or_default()),
        Mode::Forward => {
            write::array(count, out);
            out.extend_from_slice(entries);
        }
        Mode::Packed => write::bin(entries, out),
        Mode::PackedText => {
            // Always with the long head, as Fluentd's own sender writes it.
            out.push(0xdb);
            out.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(entries);
        }
    }
    if pairs == 0 {
        return;
    }
    write::map(pairs, out);
    if sized {
        write::text(b"size", out);
        write::unsigned(count as u64, out);
    }
    for (key, value) in [("chunk", options.chunk), ("compressed", options.compressed)] {
        if let Some(value) = value {
            write::text(key.as_bytes(), out);
            write::text(value.as_bytes(), out);
        }
    }
}

/// The chunk id of the records of `tag` in the request `key`.
pub fn chunk_id(key: u128, tag: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA512);
    hash.update(&key.to_be_bytes());
    hash.update(tag.as_bytes());
    STANDARD.encode(&hash.finish().as_ref()[..16])
}

/// The tag, the number of records and the chunk id of each frame of a body that [`frame`] made with `size` and `chunk`.
pub fn frames(body: &[u8]) -> impl Iterator<Item = (&[u8], u64, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let end = msgpack::end_of(rest).ok()?;
        let (frame, after) = rest.split_at(end);
        rest = after;
        let (_, mut at) = msgpack::head(frame).ok()?;
        let mut item = || {
            let value = frame.get(at..)?;
            let end = msgpack::end_of(value).ok()?;
            at += end;
            Some(&value[..end])
        };
        let (tag, _, options) = (item()?, item()?, item()?);
        let msgpack::Peek::Bytes(tag) = msgpack::peek(tag)? else { return None };
        let msgpack::Peek::UInt(size) = msgpack::peek(msgpack::get(options, b"size")?)? else { return None };
        let msgpack::Peek::Bytes(chunk) = msgpack::peek(msgpack::get(options, b"chunk")?)? else { return None };
        Some((tag, size, chunk))
    })
}

/// Appends the `[time` of an entry; a record has to follow.
pub fn entry_head(time: Timestamp, form: TimeForm, out: &mut Vec<u8>, tally: &mut Tally) {
    out.push(0x92);
    match form {
        TimeForm::Event => {
            let fits = Timestamp(time.0.clamp(FIRST_SECOND * NS, LAST_SECOND * NS + NS - 1));
            if fits != time {
                tally.odd(Oddity::TimeClamped);
            }
            write::event_time(fits, out);
        }
        TimeForm::Seconds => {
            let seconds = time.0.div_euclid(NS);
            if seconds == 0 {
                tally.odd(Oddity::TimeClamped);
            }
            write::signed(if seconds == 0 { FIRST_SECOND } else { seconds }, out);
        }
    }
}

/// Writes rows as entries. One for each sink.
#[derive(Debug)]
pub struct Encoder {
    added: Added,
    form: TimeForm,
    /// What was odd since the last time somebody took it.
    pub tally: Tally,
    time: time::Writer,
    text: Vec<u8>,
}

impl Encoder {
    /// An encoder that adds these values.
    pub fn new(added: Added, form: TimeForm) -> Encoder {
        Encoder { added, form, tally: Tally::default(), time: time::Writer::default(), text: Vec::new() }
    }

    /// Appends row `at` as one entry. `now` is the time of a record that has none that can be read.
    pub fn row(&mut self, batch: &Batch, at: usize, now: Timestamp, out: &mut Vec<u8>) {
        let row = batch.row(at);
        let when = time::of(batch, at).unwrap_or_else(|| {
            self.tally.odd(Oddity::TimeFromReceipt);
            now
        });
        entry_head(when, self.form, out, &mut self.tally);
        let origin = batch.origin_in(row.place());
        let stream = row.stream.name().filter(|_| self.added.stream);
        let time = (self.added.time && !row.has(NO_TIME) && has_time(row)).then_some(());
        let container = origin.container.as_ref().filter(|_| self.added.container && !row.has(NO_CONTAINER));
        let file = origin.file.as_deref().filter(|_| self.added.file && !row.has(NO_FILE));
        let tag = (self.added.tag && !row.has(NO_TAG)).then(|| batch.tags()[usize::from(row.tag)].as_str());
        let added = usize::from(stream.is_some())
            + usize::from(time.is_some())
            + usize::from(container.is_some())
            + usize::from(file.is_some())
            + usize::from(tag.is_some())
            + usize::from(self.added.id);
        write::map(batch.fields(at).len() + added, out);
        self.own_fields(batch, at, out);
        if added == 0 {
            return;
        }
        if let Some(stream) = stream {
            added_key(batch, at, "stream", row.has(OWN_STREAM), out);
            write::text(stream.as_bytes(), out);
        }
        if time.is_some() {
            added_key(batch, at, "time", row.has(OWN_TIME), out);
            self.time_text(batch, row, out);
        }
        if let Some(container) = container {
            added_key(batch, at, "container", row.has(OWN_CONTAINER), out);
            write_container(container, out);
        }
        if let Some(file) = file {
            added_key(batch, at, "file", row.has(OWN_FILE), out);
            write::text(file.as_bytes(), out);
        }
        if let Some(tag) = tag {
            added_key(batch, at, "tag", row.has(OWN_TAG), out);
            write::text(tag.as_bytes(), out);
        }
        if self.added.id {
            self.text.clear();
            batch.id_of(at).write(&mut self.text);
            write::text(b"longshore_id", out);
            write::text(&self.text, out);
        }
    }

    /// The fields, in runs of those that lie in the arena as they have to be written.
    #[inline]
    fn own_fields(&mut self, batch: &Batch, at: usize, out: &mut Vec<u8>) {
        let arena = batch.arena();
        // The run that is not yet copied.
        let mut run = (0, 0);
        for field in batch.fields(at) {
            if let Some((from, to)) = as_written(arena, field) {
                if from != run.1 {
                    out.extend_from_slice(&arena[run.0..run.1]);
                    run.0 = from;
                }
                run.1 = to;
            } else {
                out.extend_from_slice(&arena[run.0..run.1]);
                run = (0, 0);
                self.value(batch.key(field), out);
                self.value(batch.value(field), out);
            }
        }
        out.extend_from_slice(&arena[run.0..run.1]);
    }

    fn value(&mut self, value: Value<'_>, out: &mut Vec<u8>) {
        let whole = match value.form {
            Form::Text => {
                write::text(value.bytes, out);
                true
            }
            Form::Msg => {
                out.extend_from_slice(value.bytes);
                true
            }
            Form::JsonStr => from_json::text(value.bytes, out, &mut self.tally).is_some(),
            Form::Json => from_json::value(value.bytes, out, &mut self.tally),
        };
        if !whole {
            // Forms are checked when they come in; should one not be what it says, its bytes are a text.
            write::text(value.bytes, out);
        }
    }

    fn time_text(&mut self, batch: &Batch, row: &Row, out: &mut Vec<u8>) {
        let text = batch.bytes(row.time_text);
        if !text.is_empty() {
            return write::text(text, out);
        }
        self.text.clear();
        self.time.write(row.time, &mut self.text);
        write::text(&self.text, out);
    }
}

fn has_time(row: &Row) -> bool {
    row.time_text.len > 0 || row.time != Timestamp::UNREAD
}

/// `{"id": ..., "name": ..., "image": ...}`, without what is not known.
fn write_container(container: &Container, out: &mut Vec<u8>) {
    let parts = [("id", &container.id), ("name", &container.name), ("image", &container.image)];
    let known = || parts.iter().filter(|(_, value)| !value.is_empty());
    write::map(known().count(), out);
    for (key, value) in known() {
        write::text(key.as_bytes(), out);
        write::text(value.as_bytes(), out);
    }
}

/// Appends a key, with as many `_` before it as it takes to be no key of the record's own.
#[inline]
fn added_key(batch: &Batch, at: usize, key: &str, own: bool, out: &mut Vec<u8>) {
    if !own {
        return write::text(key.as_bytes(), out);
    }
    let underscores = ndjson::underscores(batch, at, key);
    write::text(format!("{}{key}", "_".repeat(underscores)).as_bytes(), out);
}

/// Where a field stands in the arena as MessagePack, key and value with their heads, ready to be copied. So do those
/// of a record that came as MessagePack, until a step moves one of their spans. Whoever put the heads there, they are
/// right if they are the heads of these lengths.
#[inline]
fn as_written(arena: &[u8], field: &Field) -> Option<(usize, usize)> {
    let (key, value) = (field.key.at as usize, field.value.at as usize);
    let (key_end, end) = (key + field.key.len as usize, value + field.value.len as usize);
    if field.key_form != Form::Text {
        return None;
    }
    let value_head = match field.form {
        Form::Text => has_head(arena, value, field.value.len as usize)?,
        Form::Msg => value,
        Form::Json | Form::JsonStr => return None,
    };
    if value_head != key_end {
        return None;
    }
    Some((has_head(arena, key, field.key.len as usize)?, end))
}

/// Where the head of the text of `len` bytes at `at` begins, if it is before it.
#[inline]
fn has_head(arena: &[u8], at: usize, len: usize) -> Option<usize> {
    if len < 32 {
        let from = at.checked_sub(1)?;
        return (arena[from] == 0xa0 | len as u8).then_some(from);
    }
    let (head, head_len) = write::text_head(len);
    let from = at.checked_sub(head_len)?;
    (arena[from..at] == head[..head_len]).then_some(from)
}

/// One run of the fuzzer: whatever the decoder makes of the bytes is encoded, decoded again, and the same. Of JSON as many
/// rows: numbers that MessagePack can not hold become text.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    use super::{Decoder, Limits, Step};
    let budget = crate::budget::Budget::new(64 << 20);
    let fresh = || {
        let mut batch = Batch::new(budget.empty_permit(), 0, std::sync::Arc::default());
        batch.permit_mut().grow(8 << 20);
        batch
    };
    let decode = |bytes: &[u8], batch: &mut Batch| {
        let (mut decoder, mut at) = (Decoder::new(Limits::default(), false), 0);
        loop {
            let (used, step) = decoder.decode(&bytes[at..], batch, Timestamp(NS));
            at += used;
            match step {
                Step::FrameEnd => (),
                Step::NeedsMemory(need) => decoder.grant(need),
                _ => return (step, decoder.is_json()),
            }
        }
    };
    let nothing = Added::NONE;
    let mut first = fresh();
    let (_, is_json) = decode(data, &mut first);
    let (mut entries, mut encoder) = (Vec::new(), Encoder::new(nothing, TimeForm::Event));
    for at in 0..first.len() {
        encoder.row(&first, at, Timestamp(NS), &mut entries);
    }
    let mut body = Vec::new();
    let chunk = chunk_id(1, "t");
    let options = Options { chunk: Some(&chunk), compressed: None };
    frame(Mode::Packed, "t", &entries, first.len(), options, &mut body);
    let mut second = fresh();
    assert_eq!(decode(&body, &mut second).0, Step::NeedMore);
    assert_eq!(second.len(), first.len(), "as many rows");
    let json = |batch: &Batch, at: usize| {
        let mut out = Vec::new();
        ndjson::Encoder::new(nothing).row(batch, at, &mut out);
        out
    };
    for at in (0..first.len()).filter(|_| !is_json) {
        assert_eq!(json(&first, at), json(&second, at), "row {at}");
    }
    let found: Vec<_> = frames(&body).collect();
    assert_eq!(found, [(&b"t"[..], first.len() as u64, chunk.as_bytes())]);
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
