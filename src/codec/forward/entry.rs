//! One entry `[time, record]`: bytes to a row, in one pass that checks the structure and pushes the spans; the record's
//! bytes are copied into the arena once.
//!
//! Also here: the nested form `[[time, metadata], record]` of Fluent Bit (metadata is not kept, which is counted), and a
//! whole batch in the place of an entry (`[tag, [entries...]]`, Fluent Bit on Windows).
//! Counters: `nested_batch`, `group_marker`, `metadata_dropped`, `key_not_text`, `duplicate_key`.

use std::ops::Range;

use crate::batch::{Batch, RowHead, own_flag_of};
use crate::codec::msgpack::{self, Fault, Head};
use crate::metrics::{Oddity, RejectReason};
use crate::record::{Field, Form, Span, Timestamp};

use super::as_json::{self, AsJson};
use super::docker::{Containers, DockerFields};
use super::time::{self, When};

/// Keys of one record that are compared with each other, at most: each against all before it, in the worst case.
pub(super) const KEYS_COMPARED: usize = 64;

/// What became of the bytes at the start of an entry.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// A row (or a group marker) of so many bytes.
    Row(usize),
    /// The bytes are not whole yet.
    Short,
    /// No record; its end is still to be found.
    Bad(RejectReason),
    /// The byte 0xc1 is in it: nothing after that byte can be told apart.
    Reserved,
    /// A batch in the place of an entry: its entries begin after `used` bytes.
    Nested {
        /// Bytes up to the first inner entry.
        used: usize,
        /// Where its tag stands.
        tag: Range<usize>,
        /// Inner entries.
        entries: usize,
        /// Values after the inner entries.
        extras: usize,
    },
}

impl From<Fault> for Taken {
    fn from(fault: Fault) -> Taken {
        match fault {
            Fault::Short => Taken::Short,
            Fault::Reserved(_) => Taken::Reserved,
            Fault::TooDeep => Taken::Bad(RejectReason::TooDeep),
        }
    }
}

/// A record that is whole, and whose fields are pushed.
#[derive(Debug)]
struct Walked {
    /// Its length.
    end: usize,
    docker: DockerFields,
    /// A key is no text.
    odd_keys: bool,
    /// Keys that were there before, among the first [`KEYS_COMPARED`].
    twice: u32,
    /// Which added values the keys that are text stand in the way of.
    own: u16,
}

/// Makes rows of entries. One for each connection.
#[derive(Debug)]
pub(super) struct Filler {
    pub(super) docker: bool,
    pub(super) depth_max: usize,
    tag_max: usize,
    pub(super) entry_max: usize,
    /// Where the last record that became a row ended, in the window it was in.
    pub(super) record_end: usize,
    pub(super) containers: Containers,
    /// The first step takes `log` apart as JSON.
    takes_apart: bool,
    /// Writes records as JSON; `None` where somebody wants them as they came.
    as_json: Option<Box<AsJson>>,
}

impl Filler {
    pub(super) fn new(limits: &super::Limits, docker: bool) -> Filler {
        Filler {
            docker,
            depth_max: limits.depth_max,
            tag_max: limits.tag_max,
            entry_max: limits.entry_max,
            record_end: 0,
            containers: Containers::default(),
            takes_apart: false,
            as_json: None,
        }
    }

    /// Whether records are written as JSON where that loses nothing.
    pub(super) fn set_as_json(&mut self, yes: bool) {
        if yes != self.as_json.is_some() {
            self.as_json = yes.then(Box::default);
        }
    }

    /// Whether the first step takes `log` apart as JSON, in all records.
    pub(super) fn set_takes_apart(&mut self, yes: bool) {
        self.takes_apart = yes;
    }

    /// Takes the entry that `window` begins with.
    #[inline]
    pub(super) fn entry(&mut self, window: &[u8], tag: u8, batch: &mut Batch, now: Timestamp) -> Taken {
        match self.try_entry(window, tag, batch, now) {
            Ok(taken) => taken,
            Err(fault) => fault.into(),
        }
    }

    fn try_entry(&mut self, window: &[u8], tag: u8, batch: &mut Batch, now: Timestamp) -> Result<Taken, Fault> {
        let (count, mut at) = match window.first() {
            Some(0x92) => (2, 1),
            _ => match msgpack::head(window)? {
                (Head::Array(count), at) if count >= 2 => (count, at),
                _ => return Ok(Taken::Bad(RejectReason::BadEntry)),
            },
        };
        if let Some(time) = window.get(at..).and_then(|rest| rest.first_chunk()).and_then(time::plain) {
            // Nearly all: nothing is counted before the record is (and the counters are not put aside).
            return self.rest(window, at + time::PLAIN, count - 2, When::At(time), tag, batch);
        }
        // Oddities of an entry that turns out not to be whole would be counted twice: they are counted at the end.
        let before = batch.tally.oddities;
        let (when, metadata) = match window.get(at) {
            Some(0xd7) => {
                let (when, len) = time::read(&window[at..], now, &mut batch.tally)?;
                at += len;
                (when, false)
            }
            Some(_) => match msgpack::head(&window[at..])? {
                (Head::Str(len) | Head::Bin(len), start) if len <= self.tag_max => {
                    if let Some(nested) = self.nested(window, at + start..at + start + len, count)? {
                        return Ok(nested);
                    }
                    let (when, len) = time::read(&window[at..], now, &mut batch.tally)?;
                    at += len;
                    (when, false)
                }
                (Head::Array(parts), start) if parts > 0 => {
                    at += start;
                    let read = time::read_nested(&window[at..], now, &mut batch.tally);
                    let mut metadata = false;
                    let rest = read.and_then(|(when, len)| {
                        at += len;
                        for _ in 1..parts {
                            // An empty map is what nearly all senders put here.
                            metadata |= !matches!(window.get(at), Some(0x80 | 0xc0));
                            at += msgpack::end_of(window.get(at..).unwrap_or_default())?;
                        }
                        Ok(when)
                    });
                    match rest {
                        Ok(when) => (when, metadata),
                        Err(fault) => {
                            batch.tally.oddities = before;
                            return Err(fault);
                        }
                    }
                }
                _ => {
                    let (when, len) = time::read(&window[at..], now, &mut batch.tally)?;
                    at += len;
                    (when, false)
                }
            },
            None => return Ok(Taken::Short),
        };
        let taken = self.rest(window, at, count - 2, when, tag, batch);
        match taken {
            Ok(Taken::Row(_)) if metadata => batch.tally.odd(Oddity::MetadataDropped),
            Ok(Taken::Row(_)) => (),
            _ => batch.tally.oddities = before,
        }
        taken
    }

    /// The record at `at`, and what follows it in the entry.
    fn rest(
        &mut self,
        window: &[u8],
        at: usize,
        extras: usize,
        when: When,
        tag: u8,
        batch: &mut Batch,
    ) -> Result<Taken, Fault> {
        let time = match when {
            When::At(time) => time,
            When::Marker => {
                let mut skip = msgpack::Skip::values(extras as u64 + 1);
                let passed = skip.advance(&window[at..])?;
                if !skip.is_done() {
                    return Err(Fault::Short);
                }
                self.record_end = at + msgpack::end_of(&window[at..])?;
                batch.tally.odd(Oddity::GroupMarker);
                return Ok(Taken::Row(at + passed));
            }
        };
        let record = &window[at..];
        let mark = batch.fields_mark();
        if let Some(writer) = &mut self.as_json {
            let limits = as_json::Limits::new(self.depth_max, self.entry_max.saturating_sub(at), self.docker);
            if let Some(written) = writer.write(record, extras, limits, batch) {
                self.record_end = at + written.end;
                batch.push_row_as_written(mark, written.own, RowHead::at(time, tag));
                return Ok(Taken::Row(at + written.passed));
            }
        }
        let walked = self.walk(record, mark, batch).and_then(|walked| {
            let Some(walked) = walked else { return Ok(None) };
            let mut skip = msgpack::Skip::values(extras as u64);
            let passed = skip.advance(&record[walked.end..])?;
            if !skip.is_done() {
                return Err(Fault::Short);
            }
            Ok(Some((walked.end + passed, walked)))
        });
        let (passed, walked) = match walked {
            Ok(Some(walked)) => walked,
            Ok(None) => return Ok(Taken::Bad(RejectReason::NotAMap)),
            Err(fault) => {
                batch.rewind_fields(mark);
                return Err(fault);
            }
        };
        if at + passed > self.entry_max {
            batch.rewind_fields(mark);
            return Ok(Taken::Bad(RejectReason::TooLarge));
        }
        self.record_end = at + walked.end;
        self.commit(record, mark, &walked, RowHead::at(time, tag), batch);
        if let Some(writer) = &mut self.as_json {
            writer.refuse();
        }
        Ok(Taken::Row(at + passed))
    }

    /// Walks the record that `record` begins with and pushes its fields, whose spans count on `record` being appended
    /// to the arena next. `None` if it is no map.
    fn walk(&self, record: &[u8], mark: usize, batch: &mut Batch) -> Result<Option<Walked>, Fault> {
        let (Head::Map(count), mut at) = msgpack::head(record)? else { return Ok(None) };
        if count > (record.len() - at) / 2 {
            return Err(Fault::Short);
        }
        let base = batch.arena().len();
        // The arena is below 4 GiB, and an entry far below: `push_bytes` asserts the sum.
        let span = |at: usize, len: usize| Span { at: (base + at) as u32, len: len as u32 };
        let (mut docker, mut odd_keys, mut own) = (DockerFields::default(), false, 0);
        // Keys that came, by a hash of 6 bits: only of those that share it with another one is it worth to look.
        let (mut came, mut twice) = (0u64, 0);
        for index in 0..count {
            let (key, key_form) = match msgpack::head(&record[at..])? {
                (Head::Str(len), start) => {
                    at += start;
                    let key = span(at, len);
                    let Some(text) = record.get(at..at + len) else { return Err(Fault::Short) };
                    own |= own_flag_of(text);
                    let bit = 1 << (key_hash(text) & 63);
                    if came & bit != 0 && index < KEYS_COMPARED {
                        let before = batch.fields_after(mark).iter().filter(|field| field.key_form == Form::Text);
                        twice += u32::from(came_before(text, before.map(|field| field.key), record, base));
                    }
                    came |= bit;
                    if self.docker && matches!(len, 3 | 6 | 12 | 14) {
                        docker.note(text, index as u32);
                    }
                    at += len;
                    (key, Form::Text)
                }
                _ => {
                    let end = msgpack::check(&record[at..], self.depth_max - 1)?;
                    odd_keys = true;
                    let key = span(at, end);
                    at += end;
                    // Made text by `commit`.
                    (key, Form::Msg)
                }
            };
            let rest = record.get(at..).unwrap_or_default();
            // Of numbers and flags the length is all that is wanted here (forward-file: 4 % fewer instructions a record).
            let (value, form) = match msgpack::scalar(rest) {
                Some(len) => (span(at, len), Form::Msg),
                None => match msgpack::head(rest)? {
                    (Head::Str(len), start) => {
                        at += start;
                        if len > record.len() - at {
                            return Err(Fault::Short);
                        }
                        (span(at, len), Form::Text)
                    }
                    _ => (span(at, msgpack::check(rest, self.depth_max - 1)?), Form::Msg),
                },
            };
            at += value.len as usize;
            batch.push_field(Field { key, value, key_form, form });
        }
        Ok(Some(Walked { end: at, docker, odd_keys, twice, own }))
    }

    /// Makes a row of the walked record that `record` begins with.
    fn commit(&mut self, record: &[u8], mark: usize, walked: &Walked, head: RowHead, batch: &mut Batch) {
        let is_plain = walked.twice == 0 && !walked.odd_keys;
        if self.takes_apart && is_plain && self.take_apart(record, mark, walked.docker, head, batch) {
            return;
        }
        batch.push_bytes(&record[..walked.end]);
        let mut own = walked.own;
        if walked.twice > 0 {
            batch.tally.odd_by(Oddity::DuplicateKey, walked.twice);
        }
        if walked.odd_keys {
            texts_for_keys(mark, batch);
            own = batch.own_flags(mark);
        }
        self.push_row(mark, walked.docker, own, head, batch);
    }

    /// Whether the entry of `count` values that begins with the text at `tag` is a batch: `[tag, [entries...]]`.
    fn nested(&self, window: &[u8], tag: Range<usize>, count: usize) -> Result<Option<Taken>, Fault> {
        match msgpack::head(window.get(tag.end..).unwrap_or_default())? {
            (Head::Array(entries), len) => {
                Ok(Some(Taken::Nested { used: tag.end + len, tag, entries, extras: count - 2 }))
            }
            _ => Ok(None),
        }
    }

    /// The record of a Message mode frame: `window` begins with the time. Gives a row only if the whole frame, with
    /// `extras` values after the record, is there.
    pub(super) fn message(
        &mut self,
        window: &[u8],
        extras: usize,
        tag: u8,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Taken {
        let before = batch.tally.oddities;
        let taken = time::read(window, now, &mut batch.tally)
            .and_then(|(when, at)| self.rest(window, at, extras, when, tag, batch));
        match taken {
            Ok(Taken::Row(used)) => Taken::Row(used),
            Ok(taken) => {
                batch.tally.oddities = before;
                taken
            }
            Err(fault) => {
                batch.tally.oddities = before;
                fault.into()
            }
        }
    }
}

/// Few instructions, and most records have keys that it tells apart.
#[inline(always)]
pub(super) fn key_hash(key: &[u8]) -> usize {
    match key {
        [first, .., last] => key.len() ^ usize::from(*first) ^ usize::from(*last) << 2,
        _ => key.len(),
    }
}

/// Whether `key` is one of the spans before it, which count on `record` being put at `base`.
#[cold]
fn came_before(key: &[u8], before: impl Iterator<Item = Span>, record: &[u8], base: usize) -> bool {
    before.filter(|span| span.len as usize == key.len()).any(|span| record[span.at as usize - base..].starts_with(key))
}

/// Replaces keys of the open fields that are no text by their text.
fn texts_for_keys(mark: usize, batch: &mut Batch) {
    let mut text = Vec::new();
    for index in 0..batch.open_fields(mark).len() {
        let field = batch.open_fields(mark)[index];
        if field.key_form == Form::Msg {
            text.clear();
            let key = batch.bytes(field.key).to_vec();
            batch.tally.odd(Oddity::KeyNotText);
            msgpack::key_text(&key, &mut text, &mut batch.tally);
            let span = batch.push_bytes(&text);
            let field = &mut batch.open_fields(mark)[index];
            (field.key, field.key_form) = (span, Form::Text);
        }
    }
}
