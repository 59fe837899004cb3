//! One line of Docker's json-file driver: `{"log":"..","stream":"stdout","attrs":{..},"time":".."}`.
//!
//! Source of the format: moby `daemon/logger/jsonfilelog/jsonlog/jsonlogbytes.go`. Fixed order; `attrs` only with
//! labels, env or tag options; `log` and `stream` left out when empty; `time` in RFC 3339 with up to nine digits, `Z`.
//! The text of one line of the program ends with `\n` inside `log`; a `log` that does not is a piece of a longer line
//! (Docker splits at 16 KiB) or the unterminated end of the program's output.
//!
//! Three ways, tried in this order:
//! 1. the template: the head, then the tail recognised from the end of the line, so that only the text between them is
//!    looked at byte by byte, and that once (4.2 times as fast as the general parser: `decode`, `decode_general` in
//!    `benches/codec.rs`);
//! 2. the general parser: any order, white space, `attrs`, other keys (kept as fields);
//! 3. what is left: half a record glued to the next one (a full disk, a crash) is cut at the next head; anything else
//!    is kept whole as text. Nothing is lost: every byte of the line is in a record, but for runs of NUL.
//!
//! Limits: [`TEARS_MAX`] glued records a line, the rest is kept as text. Counters: `utf8_lost_by_docker`, `nul_run`,
//! `torn_line`, `line_not_docker`, `invalid_utf8`.

use memchr::memmem;

use crate::batch::{Batch, RowHead};
use crate::codec::json::{self, JsonError, index, inner};
use crate::codec::{text, time};
use crate::metrics::Oddity;
use crate::record::{Field, Form, Span, Stream, Timestamp};

/// Records that are looked for in one line, at most. Two is what a full disk makes; a limit, so that a line of nothing
/// but heads costs what any other line costs.
pub const TEARS_MAX: usize = 16;

const HEAD: &[u8] = b"{\"log\":\"";
const MIDDLE: usize = 28;
const STDOUT: &[u8; MIDDLE] = b"\",\"stream\":\"stdout\",\"time\":\"";
const STDERR: &[u8; MIDDLE] = b"\",\"stream\":\"stderr\",\"time\":\"";
const END: &[u8] = b"\"}";
/// Lengths of `time`: `2026-11-23T10:15:00Z` to nine digits.
const TIME_MIN: usize = 20;
const TIME_MAX: usize = 30;

/// What the caller knows of a line.
#[derive(Clone, Copy, Debug)]
pub struct LineHead {
    /// Index from [`Batch::tag_index`].
    pub tag: u8,
    /// Where the line starts, in bytes after the batch's `base`.
    pub pos: u32,
    /// The time of reading: for records without a time of their own.
    pub now: Timestamp,
}

impl LineHead {
    pub(crate) fn row(self) -> RowHead {
        RowHead { pos: self.pos, ..RowHead::at(self.now, self.tag) }
    }
}

/// How the `log` of a whole line is kept. (A piece is always `JsonStr`, so that the joiner can count Docker's source
/// bytes: each escaped `\ufffd` was one.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// Unescaped, as [`Form::Text`]: the pipeline looks into it.
    #[default]
    Text,
    /// Still escaped, as [`Form::JsonStr`]: it only passes through, so the encoder copies it. Lines with broken
    /// UTF-8 become `Text`.
    Escaped,
    /// Taken apart where it is a JSON object, as a first step `parse = "json"` would do it; else as `Text`, for that step to
    /// judge. Not in a batch that has pieces of split lines: the joined text is what has to be read there.
    Members,
}

/// Appends one line (without its line break) as a record; a damaged one may give several. The time stays text
/// ([`time::of`](crate::codec::time::of) reads it). The field is `log`, without its final line break.
pub fn decode(line: &[u8], head: LineHead, batch: &mut Batch, form: LogForm) {
    let mut rest = line;
    // Where `rest` starts, for the position of the records after the first.
    let mut head = head;
    for _ in 0..TEARS_MAX {
        if template(rest, head, batch, form) {
            return;
        }
        let (nuls, trimmed) = trim_nuls(rest, batch);
        if trimmed.is_empty() && nuls > 0 {
            return;
        }
        head.pos = head.pos.saturating_add(nuls as u32);
        rest = trimmed;
        match general(rest, head, batch, form) {
            Ok(true) => return,
            // Whole and valid, but something else.
            Ok(false) | Err(JsonError::TooDeep) => break,
            Err(_) => {}
        }
        // In a valid record a head can not stand inside `log`: its quotes would be escaped.
        let Some(next) = rest.get(1..).and_then(|after| memmem::find(after, HEAD)) else {
            break;
        };
        let (torn, after) = rest.split_at(next + 1);
        keep_torn(torn, head, batch);
        head.pos = head.pos.saturating_add(torn.len() as u32);
        rest = after;
    }
    batch.tally.odd(Oddity::LineNotDocker);
    text::push(rest, head, batch);
}

/// Half a record: kept as it stands, without the NULs that the file system put where data never arrived.
fn keep_torn(torn: &[u8], head: LineHead, batch: &mut Batch) {
    batch.tally.odd(Oddity::TornLine);
    let kept = &torn[..nul_free_len(torn)];
    if kept.len() < torn.len() {
        batch.tally.odd(Oddity::NulRun);
    }
    if !kept.is_empty() {
        text::push(kept, head, batch);
    }
}

/// Length without the NULs at the end.
fn nul_free_len(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The line without NULs at either end, counted, and how many were before it: a file that was cut while Docker wrote
/// on starts with them.
fn trim_nuls<'a>(line: &'a [u8], batch: &mut Batch) -> (usize, &'a [u8]) {
    let start = line.iter().position(|byte| *byte != 0).unwrap_or(line.len());
    let rest = &line[start..];
    let rest = &rest[..nul_free_len(rest)];
    if rest.len() < line.len() {
        batch.tally.odd(Oddity::NulRun);
    }
    (start, rest)
}

// --- The template.

/// The stream, the time and the place of the quote that ends `log`, if the line ends as Docker writes it.
#[inline(always)]
fn tail(line: &[u8]) -> Option<(usize, Stream, &[u8])> {
    let time_end = line.len().checked_sub(END.len())?;
    if line[time_end..] != *END {
        return None;
    }
    // Nine digits are the commonest, and each digit less a tenth as common.
    for time_len in (TIME_MIN..=TIME_MAX).rev() {
        let time_at = time_end.checked_sub(time_len)?;
        let Some(middle) = line.get(time_at.wrapping_sub(MIDDLE)..).and_then(|from| from.first_chunk::<MIDDLE>())
        else {
            continue;
        };
        let stream = match middle {
            STDOUT => Stream::Stdout,
            STDERR => Stream::Stderr,
            _ => continue,
        };
        let time = &line[time_at..time_end];
        let dated = time[4] == b'-' && time[10] == b'T' && time[time_len - 1] == b'Z';
        let body_end = time_at - MIDDLE;
        return (dated && body_end >= HEAD.len() && json::block::is_plain(time)).then_some((body_end, stream, time));
    }
    None
}

/// Takes a line that is exactly as Docker writes it without `attrs`. Anything else: nothing is done, `false`.
#[inline(always)]
fn template(line: &[u8], head: LineHead, batch: &mut Batch, form: LogForm) -> bool {
    if !line.starts_with(HEAD) {
        return false;
    }
    let Some((body_end, stream, time)) = tail(line) else {
        return false;
    };
    let body = Body { padded: &line[HEAD.len()..], len: body_end - HEAD.len() };
    if form == LogForm::Members && take_apart(body, (stream, time), head, batch) {
        return true;
    }
    let Some(log) = push_log(body, batch, form) else {
        return false;
    };
    let mark = batch.fields_mark();
    push_log_field(&log, batch);
    let time_text = batch.push_bytes(time);
    let row = RowHead { time: Timestamp::UNREAD, time_text, stream, partial: log.partial, ..head.row() };
    batch.push_row(mark, row);
    true
}

/// Takes a line whose `log` is a JSON object and one line break. Anything else: nothing is done, `false`.
#[inline(always)]
fn take_apart(body: Body<'_>, (stream, time): (Stream, &[u8]), head: LineHead, batch: &mut Batch) -> bool {
    if batch.has_pieces() || !body.padded.starts_with(b"{\\\"") {
        return false;
    }
    let mark = batch.fields_mark();
    let (base, out, fields, marks) = batch.tail_and_tables(body.len + inner::ROOM);
    let Some(taken) = inner::object(body.padded, body.len, out, base, fields, marks) else {
        return false;
    };
    batch.commit(taken.len);
    batch.tally.odd_by(Oddity::Utf8LostByDocker, taken.replaced);
    let time_text = batch.push_bytes(time);
    let row = RowHead { time: Timestamp::UNREAD, time_text, stream, ..head.row() };
    batch.push_row_taken_apart(mark, taken.own, row);
    true
}

// --- `log`.

/// The inside of the string `log`: the first `len` bytes of `padded`.
#[derive(Clone, Copy)]
struct Body<'a> {
    padded: &'a [u8],
    len: usize,
}

struct Log {
    value: Span,
    form: Form,
    partial: bool,
}

fn push_log_field(log: &Log, batch: &mut Batch) {
    let key = batch.log_key();
    batch.push_field(Field { key, value: log.value, key_form: Form::Text, form: log.form });
}

/// Unescapes `log` into the arena. `None` (and nothing appended) where it is no valid string.
#[inline(always)]
fn push_log(body: Body<'_>, batch: &mut Batch, form: LogForm) -> Option<Log> {
    // The key first: the text is decoded into the arena's tail.
    batch.log_key();
    let out = batch.tail(json::unescape_room(body.len));
    let done = json::unescape_block(body.padded, body.len, out).ok()?;
    let whole = done.ends_in_newline || body.len == 0;
    let unescaped = &out[..done.len];
    if whole && form != LogForm::Escaped {
        let len = without_break(unescaped).len();
        count(done, batch);
        return Some(Log { value: batch.commit(len), form: Form::Text, partial: false });
    }
    Some(push_escaped(body, done, whole, batch))
}

fn count(done: json::Unescaped, batch: &mut Batch) {
    batch.tally.odd_by(Oddity::Utf8LostByDocker, done.replaced);
    batch.tally.odd_by(Oddity::InvalidUtf8, done.lone);
}

/// A text without its one final line break.
fn without_break(text: &[u8]) -> &[u8] {
    match text {
        [rest @ .., b'\r', b'\n'] | [rest @ .., b'\n'] => rest,
        _ => text,
    }
}

/// Keeps `log` escaped, now that unescaping it has shown that it is valid; `done` bytes of that are in the tail.
#[cold]
#[inline(never)]
fn push_escaped(body: Body<'_>, done: json::Unescaped, whole: bool, batch: &mut Batch) -> Log {
    count(done, batch);
    let raw = &body.padded[..body.len];
    if done.lone > 0 || simdutf8::basic::from_utf8(raw).is_err() {
        let unescaped = batch.commit(done.len);
        if whole {
            let len = without_break(batch.bytes(unescaped)).len() as u32;
            return Log { value: Span { len, ..unescaped }, form: Form::Text, partial: false };
        }
        let mut escaped = Vec::with_capacity(body.len + body.len / 8);
        let replaced = json::escape(batch.bytes(unescaped), &mut escaped);
        batch.tally.odd_by(Oddity::InvalidUtf8, replaced);
        return Log { value: batch.push_bytes(&escaped), form: Form::JsonStr, partial: true };
    }
    let mut kept = raw;
    if whole && !raw.is_empty() {
        // `\n` is two bytes, or six as `\u000a`. The `\r` before it counts only if its backslash is no escaped one.
        kept = raw.strip_suffix(b"\\n").unwrap_or(&raw[..raw.len().saturating_sub(6)]);
        if let Some(cut) = kept.strip_suffix(b"\\r")
            && cut.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0
        {
            kept = cut;
        }
    }
    Log { value: batch.push_bytes(kept), form: Form::JsonStr, partial: !whole }
}

// --- The general parser.

/// Takes any JSON object that has a `log` or a `time` as Docker writes them. `Ok(false)`: it is an object, but no
/// such record. Nothing is pushed unless it returns `Ok(true)`.
fn general(line: &[u8], head: LineHead, batch: &mut Batch, form: LogForm) -> Result<bool, JsonError> {
    // Once to see that it is whole and what it is, once to take it.
    let (mut log, mut time_at, mut stream_at) = (None, None, None);
    let seen = index::Scanner::new(line, line.len()).object(index::DEPTH_MAX, |member| {
        if !member.is_string {
            return;
        }
        let value = &line[member.value.from..member.value.to];
        match &line[member.key.from..member.key.to] {
            b"log" => log = log.or(Some(member.value)),
            b"time" if time_at.is_none() && time::parse_rfc3339(value).is_some() => time_at = Some(member.value),
            b"stream" if stream_at.is_none() && Stream::from_name(value) != Stream::None => {
                stream_at = Some(member.value);
            }
            _ => {}
        }
    })?;
    if log.is_none() && time_at.is_none() {
        return Ok(false);
    }
    let mark = batch.fields_mark();
    let at = log.map_or(line.len(), |log: index::Run| log.from);
    let body = Body { padded: &line[at..], len: log.map_or(0, |log| log.to - log.from) };
    let Some(pushed) = push_log(body, batch, form) else {
        return Err(JsonError::Broken(at));
    };
    push_log_field(&pushed, batch);
    index::Scanner::new(line, line.len()).object(index::DEPTH_MAX, |member| {
        let taken = Some(member.value);
        if taken == log && member.is_string || taken == time_at || taken == stream_at {
            return;
        }
        let key_form = if member.key_escaped { Form::JsonStr } else { Form::Text };
        let value_form = if member.is_string { Form::JsonStr } else { Form::Json };
        let key = push_json(&line[member.key.from..member.key.to], seen.high, batch);
        let value = push_json(&line[member.value.from..member.value.to], seen.high, batch);
        batch.push_field(Field { key, value, key_form, form: value_form });
    })?;
    let run = |run: index::Run| &line[run.from..run.to];
    let mut row = RowHead { partial: pushed.partial, ..head.row() };
    if let Some(at) = time_at {
        row.time = Timestamp::UNREAD;
        row.time_text = batch.push_bytes(run(at));
    }
    row.stream = stream_at.map_or(Stream::None, |at| Stream::from_name(run(at)));
    batch.push_row(mark, row);
    Ok(true)
}

/// Appends still encoded JSON, made UTF-8 where it is not (that changes nothing else: the bytes are within strings).
fn push_json(bytes: &[u8], high: bool, batch: &mut Batch) -> Span {
    if high && simdutf8::basic::from_utf8(bytes).is_err() {
        let replaced = bytes.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
        batch.tally.odd_by(Oddity::InvalidUtf8, replaced as u32);
        return batch.push_bytes(String::from_utf8_lossy(bytes).as_bytes());
    }
    batch.push_bytes(bytes)
}

/// One round of the fuzz target: decode the bytes as one line, all ways, and encode what came out. It is the same record
/// whether `log` is taken apart on the way or afterwards.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    for form in [LogForm::Text, LogForm::Escaped, LogForm::Members] {
        text::fuzz_lines(data, |line, head, batch| decode(line, head, batch, form));
    }
    assert_eq!(parsed(data, LogForm::Members), parsed(data, LogForm::Text));
}

/// The records of a line as JSON, with `log` taken apart, and the oddities that were counted.
fn parsed(line: &[u8], form: LogForm) -> (Vec<String>, Vec<u32>) {
    use crate::batch::Added;
    use crate::codec::ndjson::Encoder;
    let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, std::sync::Arc::default());
    let tag = batch.tag_index("t").unwrap_or(0);
    decode(line, LineHead { tag, pos: 0, now: Timestamp(0) }, &mut batch, form);
    let mut encoder = Encoder::new(Added::ALL);
    let mut records = Vec::new();
    for at in 0..batch.len() {
        take_log_apart(&mut batch, at);
        let mut out = Vec::new();
        encoder.row(&batch, at, &mut out);
        records.push(String::from_utf8_lossy(&out).into_owned());
    }
    (records, batch.tally.oddities.to_vec())
}

/// What the step `parse = "json"` does with a `log` of row `at` that is a text: for the fuzzer.
pub(crate) fn take_log_apart(batch: &mut Batch, at: usize) {
    let log = batch.fields(at).iter().rposition(|field| batch.bytes(field.key) == b"log");
    if let Some(index) = log.filter(|index| batch.fields(at)[*index].form == Form::Text) {
        let (span, mark) = (batch.fields(at)[index].value, batch.fields_mark());
        if json::push_members(batch, span, index::DEPTH_MAX).is_ok() {
            batch.splice_fields(at, Some(index), mark);
        }
    }
}

#[cfg(test)]
mod tests;
