//! JSON mode: frames of the forward protocol as JSON arrays, one after another, as Fluentd takes them on a connection
//! whose first byte is `[`, `{` or white space.
//!
//! Message `[tag, time, record, options?]` and Forward `[tag, [[time, record], ...], options?]`; a packed blob is
//! MessagePack and has no place in JSON. Records become the rows that the same records in MessagePack become, with their
//! values as the JSON that came. Of the options, `chunk` alone means something. An object between frames is passed over
//! and rejected, as Fluentd ignores it; what is no JSON at all ends the connection.
//!
//! As in MessagePack a frame of up to [`Limits::whole_max`] is decoded when it is whole, a larger one entry by entry, and
//! each byte is looked at a bounded number of times: once in a whole frame, once in its element, once in its record.
//! Limits: those of [`Limits`]; [`TIME_MAX`]; brackets nested [`LEVELS_MAX`](walk::LEVELS_MAX) deep.
//! Counters: `RejectReason` and `Oddity` of the batch's tally.

use crate::batch::{Batch, Scrap};
use crate::codec::json;
use crate::codec::json::walk::{self, Dead, Walk, item};
use crate::metrics::{Oddity, RejectReason};
use crate::record::{Form, Tag, Timestamp};

use super::caught::Caught;
use super::entry::Filler;
use super::{ARITY_MAX, Flow, Limits, Lost, LostReason, OPTIONS_MAX, Step, time};

/// Bytes of a time; what is longer is none.
const TIME_MAX: usize = 4 << 10;
/// Bytes that one byte of a tag may take as escapes.
const ESCAPE_MAX: usize = 6;

/// Whether a connection that begins with this byte speaks JSON. None of them begins a frame in MessagePack.
pub(super) fn begins(first: u8) -> bool {
    matches!(first, b'[' | b'{') || is_space(first)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// What may come next among the items of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// An item or the end.
    First,
    /// A comma or the end.
    Comma,
    /// An item.
    Item,
}

#[derive(Debug)]
enum State {
    Between,
    /// After so many elements of a frame.
    Elements(usize, Next),
    /// Within the entries of a frame.
    Entries(Next),
    /// Passing over the rest of a value, then ...
    Pass(Then),
    Lost(Lost),
}

#[derive(Clone, Copy, Debug)]
enum Then {
    /// So many elements are over.
    Element(usize),
    Entry,
    /// The value was no frame.
    Frame,
}

/// What there is of a value at the start of the input.
enum There {
    /// All of it: so many bytes.
    Whole(usize),
    More,
    /// More than its limit.
    TooLong,
    Dead(Step),
}

/// Decodes one connection that speaks JSON; [`Decoder`](super::Decoder) has the interface.
#[derive(Debug)]
pub(super) struct Json {
    limits: Limits,
    filler: Filler,
    state: State,
    /// The end of the frame is looked for, before any of it is taken: the walk, and how far it is.
    frame: Option<(Walk, usize)>,
    /// The same of the value at hand.
    value: Option<(Walk, usize)>,
    tag: Option<(Vec<u8>, Tag)>,
    /// The tag or the shape of the frame was rejected, and nothing of it becomes a record.
    refused: bool,
    /// What is refused and passed over, and whose bytes are kept.
    pub(super) caught: Option<Caught>,
    /// The frame is one of Message mode.
    is_message: bool,
    time: Timestamp,
    chunk: Vec<u8>,
    pub(super) has_chunk: bool,
    split: bool,
    offset: u64,
    frame_at: u64,
}

impl Json {
    /// A decoder that is between two frames, `offset` bytes behind the start of the connection.
    pub(super) fn new(limits: Limits, docker: bool, offset: u64) -> Json {
        Json {
            filler: Filler::new(&limits, docker),
            limits,
            state: State::Between,
            frame: None,
            value: None,
            tag: None,
            refused: false,
            caught: None,
            is_message: false,
            time: Timestamp(0),
            chunk: Vec::new(),
            has_chunk: false,
            split: false,
            offset,
            frame_at: offset,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn set_whole_max(&mut self, bytes: usize) {
        self.limits.whole_max = bytes;
    }

    pub(super) fn is_mid_frame(&self) -> bool {
        !matches!(self.state, State::Between)
    }

    /// The chunk id as the JSON that came.
    pub(super) fn chunk(&self) -> Option<&[u8]> {
        self.has_chunk.then_some(&self.chunk)
    }

    pub(super) fn decode(&mut self, before: &[u8], input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Step) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let (used, flow) = match self.state {
                State::Between => self.between(rest, batch),
                State::Elements(count, next) => self.element(count, next, rest, batch, now),
                State::Entries(next) => self.entry(next, rest, batch, now),
                State::Pass(then) => self.pass(then, rest),
                State::Lost(lost) => (0, Some(Step::Lost(lost))),
            };
            if let Some(mut caught) = self.caught.take() {
                caught.follow(before, input, at, used, self.offset - self.frame_at);
                let goes_on =
                    if caught.is_frame() { self.is_mid_frame() } else { matches!(self.state, State::Pass(_)) };
                if goes_on {
                    self.caught = Some(caught);
                } else if !matches!(self.state, State::Lost(_)) {
                    batch.scraps.add(caught.scrap);
                }
            }
            at += used;
            self.offset += used as u64;
            batch.tally.bytes += used as u64;
            let frame = self.offset - self.frame_at;
            if self.is_mid_frame() && frame > self.limits.frame_max && !matches!(flow, Some(Step::Lost(_))) {
                return (at, self.lost(LostReason::TooLarge(frame, self.limits.frame_max), 0));
            }
            if let Some(step) = flow {
                self.split |= self.is_mid_frame();
                return (at, step);
            }
        }
    }

    fn lost(&mut self, reason: LostReason, at: usize) -> Step {
        let lost = Lost { reason, offset: self.offset + at as u64 };
        self.state = State::Lost(lost);
        Step::Lost(lost)
    }

    fn dead(&mut self, dead: Dead, base: usize, input: &[u8]) -> Step {
        match dead {
            Dead::Byte(at) => {
                let byte = input.get(base + at).copied().unwrap_or_default();
                self.lost(LostReason::NotJson(byte), base + at)
            }
            Dead::TooDeep(at) => self.lost(LostReason::TooDeep(walk::LEVELS_MAX), base + at),
        }
    }

    fn between(&mut self, input: &[u8], batch: &mut Batch) -> (usize, Flow) {
        let Some(&first) = input.first() else { return (0, Some(Step::NeedMore)) };
        if is_space(first) {
            return (input.iter().take_while(|byte| is_space(**byte)).count(), None);
        }
        self.frame_at = self.offset;
        (self.has_chunk, self.split, self.refused, self.is_message) = (false, false, false, false);
        match first {
            b'[' => {
                let (walk, pos) = self.frame.get_or_insert_with(|| (Walk::new(), 0));
                match walk.advance(&input[*pos..]) {
                    Ok(passed) => *pos += passed,
                    Err(dead) => {
                        let base = *pos;
                        return (0, Some(self.dead(dead, base, input)));
                    }
                }
                let bytes = *pos as u64;
                if bytes > self.limits.frame_max {
                    return (0, Some(self.lost(LostReason::TooLarge(bytes, self.limits.frame_max), 0)));
                }
                if !walk.is_done() && *pos < self.limits.whole_max {
                    return (0, Some(Step::NeedMore));
                }
                if batch.is_full() {
                    return (0, Some(Step::Full));
                }
                self.frame = None;
                self.state = State::Elements(0, Next::First);
                (1, None)
            }
            b'{' => {
                self.reject(RejectReason::BadFrame, false, batch);
                self.value = Some((Walk::new(), 0));
                self.state = State::Pass(Then::Frame);
                (0, None)
            }
            _ => (0, Some(self.lost(LostReason::NotJson(first), 0))),
        }
    }

    /// The value that `input` begins with, of `max` bytes at most.
    fn value(&mut self, input: &[u8], max: usize) -> There {
        let (walk, pos) = self.value.get_or_insert_with(|| (Walk::new(), 0));
        match walk.advance(&input[*pos..]) {
            Ok(passed) => *pos += passed,
            Err(dead) => {
                let base = *pos;
                return There::Dead(self.dead(dead, base, input));
            }
        }
        let end = *pos;
        match walk.is_done() {
            _ if end > max => There::TooLong,
            true => {
                self.value = None;
                There::Whole(end)
            }
            false => There::More,
        }
    }

    /// Passes over the value at hand, of which a part may be looked at already. It has all the input again.
    fn pass_over(&mut self, then: Then) -> (usize, Flow) {
        let (_, pos) = self.value.get_or_insert_with(|| (Walk::new(), 0));
        let passed = std::mem::take(pos);
        self.state = State::Pass(then);
        (passed, None)
    }

    fn pass(&mut self, then: Then, input: &[u8]) -> (usize, Flow) {
        let (walk, pos) = self.value.get_or_insert_with(|| (Walk::new(), 0));
        debug_assert_eq!(*pos, 0, "what was looked at is used");
        let passed = match walk.advance(input) {
            Ok(passed) => passed,
            Err(dead) => return (0, Some(self.dead(dead, 0, input))),
        };
        if !walk.is_done() {
            return (passed, Some(Step::NeedMore));
        }
        self.value = None;
        let flow = match then {
            Then::Element(count) => {
                self.state = State::Elements(count, Next::Comma);
                None
            }
            Then::Entry => {
                self.state = State::Entries(Next::Comma);
                None
            }
            Then::Frame => self.end_frame(),
        };
        (passed, flow)
    }

    fn end_frame(&mut self) -> Flow {
        self.state = State::Between;
        (self.has_chunk || self.split).then_some(Step::FrameEnd)
    }

    /// White space, comma and bracket between items. `Ok(true)` at an item, `Ok(false)` at the end of the array.
    fn separator(&mut self, next: Next, input: &[u8]) -> Result<bool, (usize, Flow)> {
        let spaces = input.iter().take_while(|byte| is_space(**byte)).count();
        if spaces > 0 {
            return Err((spaces, None));
        }
        match (input.first(), next) {
            (None, _) => Err((0, Some(Step::NeedMore))),
            (Some(b']'), Next::First | Next::Comma) => Ok(false),
            (Some(b','), Next::Comma) => {
                match &mut self.state {
                    State::Elements(_, next) | State::Entries(next) => *next = Next::Item,
                    _ => (),
                }
                Err((1, None))
            }
            (Some(byte), Next::Comma) => Err((0, Some(self.lost(LostReason::NotJson(*byte), 0)))),
            (Some(_), _) => Ok(true),
        }
    }

    fn element(&mut self, count: usize, next: Next, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        match self.separator(next, input) {
            Ok(true) => (),
            Ok(false) => {
                let too_few = count < 2 || self.is_message && count < 3;
                if too_few && !self.refused {
                    self.reject(RejectReason::BadFrame, count > 0, batch);
                }
                return (1, self.end_frame());
            }
            Err(flow) => return flow,
        }
        let options_at = if self.is_message { 3 } else { 2 };
        match count {
            0 => self.tag(input, batch),
            1 => match input.first() {
                Some(b'[') if !self.refused => {
                    self.state = State::Entries(Next::First);
                    (1, None)
                }
                Some(b'[') => self.pass_over(Then::Element(2)),
                Some(b'"') => {
                    self.refuse(RejectReason::BadFrame, batch);
                    self.pass_over(Then::Element(2))
                }
                _ => self.time(input, batch, now),
            },
            2 if self.is_message && !self.refused => self.record(input, batch),
            _ if count == options_at => self.options(input, batch),
            _ if count == ARITY_MAX => (0, Some(self.lost(LostReason::Arity(count + 1), 0))),
            _ => self.pass_over(Then::Element(count + 1)),
        }
    }

    fn refuse(&mut self, reason: RejectReason, batch: &mut Batch) {
        if !self.refused {
            self.reject(reason, reason != RejectReason::BadTag, batch);
        }
        self.refused = true;
    }

    /// Counts the frame at hand as rejected and keeps its bytes. `tagged`: its tag is known.
    fn reject(&mut self, reason: RejectReason, tagged: bool, batch: &mut Batch) {
        batch.tally.reject(reason);
        if self.caught.is_none() {
            self.caught = Caught::frame(reason, self.tag_text().filter(|_| tagged), batch);
        }
    }

    fn tag_text(&self) -> Option<&Tag> {
        self.tag.as_ref().map(|(_, tag)| tag)
    }

    fn tag(&mut self, input: &[u8], batch: &mut Batch) -> (usize, Flow) {
        let max = ESCAPE_MAX * self.limits.tag_max + 2;
        let end = match self.value(input, max) {
            There::Whole(end) => end,
            There::More => return (0, Some(Step::NeedMore)),
            There::Dead(step) => return (0, Some(step)),
            There::TooLong => {
                self.refuse(RejectReason::BadTag, batch);
                return self.pass_over(Then::Element(1));
            }
        };
        let mut text = Vec::new();
        match input[..end].strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
            Some(escaped) => {
                // The grammar was checked, so there is nothing that can not be unescaped.
                let lone = json::unescape(escaped, &mut text).unwrap_or_default();
                batch.tally.odd_by(Oddity::InvalidUtf8, lone);
                match text.len() <= self.limits.tag_max {
                    true => {
                        super::intern(&mut self.tag, &text, batch);
                        batch.tally.odd_by(Oddity::TagEmpty, u32::from(text.is_empty()));
                    }
                    false => self.refuse(RejectReason::BadTag, batch),
                }
            }
            None => self.refuse(RejectReason::BadTag, batch),
        }
        self.state = State::Elements(1, Next::Comma);
        (end, None)
    }

    fn time(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        self.is_message = true;
        match self.value(input, TIME_MAX) {
            There::Whole(end) => {
                self.time = time::from_json(&input[..end], now, &mut batch.tally);
                self.state = State::Elements(2, Next::Comma);
                (end, None)
            }
            There::More => (0, Some(Step::NeedMore)),
            There::Dead(step) => (0, Some(step)),
            There::TooLong => {
                self.time = time::from_json(b"null", now, &mut batch.tally);
                self.pass_over(Then::Element(2))
            }
        }
    }

    /// The record of Message mode.
    fn record(&mut self, input: &[u8], batch: &mut Batch) -> (usize, Flow) {
        if batch.is_full() {
            return (0, Some(Step::Full));
        }
        match self.value(input, self.limits.entry_max) {
            There::Whole(end) => {
                // A value that was found is looked for again after `Full`.
                let Some(tag) = self.tag_index(batch) else { return (0, Some(Step::Full)) };
                if let Err(reason) = self.filler.json_record(&input[..end], self.time, tag, batch) {
                    self.reject(reason, true, batch);
                }
                self.state = State::Elements(3, Next::Comma);
                (end, None)
            }
            There::More => (0, Some(Step::NeedMore)),
            There::Dead(step) => (0, Some(step)),
            There::TooLong => {
                self.refuse(RejectReason::TooLarge, batch);
                self.pass_over(Then::Element(3))
            }
        }
    }

    fn tag_index(&self, batch: &mut Batch) -> Option<u8> {
        let (_, tag) = self.tag.as_ref()?;
        batch.shared_tag_index(tag)
    }

    fn options(&mut self, input: &[u8], batch: &mut Batch) -> (usize, Flow) {
        let end = match self.value(input, OPTIONS_MAX) {
            There::Whole(end) => end,
            There::More => return (0, Some(Step::NeedMore)),
            There::Dead(step) => return (0, Some(step)),
            There::TooLong => return (0, Some(self.lost(LostReason::Options, 0))),
        };
        let mended = json::mend(&input[..end], &mut batch.tally);
        // No object, no options.
        let chunk = json::get(&mended, b"chunk").filter(|chunk| chunk.bytes != b"null" || chunk.form == Form::JsonStr);
        if let Some(chunk) = chunk {
            self.has_chunk = true;
            self.chunk.clear();
            json::write(chunk, &mut self.chunk, &mut batch.tally);
            if chunk.form != Form::JsonStr {
                batch.tally.odd(Oddity::ChunkNotText);
            }
        }
        let count = if self.is_message { 4 } else { 3 };
        self.state = State::Elements(count, Next::Comma);
        (end, None)
    }

    /// An entry of Forward mode.
    fn entry(&mut self, next: Next, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        match self.separator(next, input) {
            Ok(true) => (),
            Ok(false) => {
                self.state = State::Elements(2, Next::Comma);
                return (1, None);
            }
            Err(flow) => return flow,
        }
        if batch.is_full() {
            return (0, Some(Step::Full));
        }
        match self.value(input, self.limits.entry_max) {
            There::Whole(end) => {
                let Some(tag) = self.tag_index(batch) else { return (0, Some(Step::Full)) };
                if let Err(reason) = self.filler.json_entry(&input[..end], tag, batch, now) {
                    batch.tally.reject(reason);
                    if let Some(mut scrap) = Scrap::begin(reason, "entry", self.tag_text(), batch) {
                        scrap.add(&input[..end]);
                        batch.scraps.add(scrap);
                    }
                }
                self.state = State::Entries(Next::Comma);
                (end, None)
            }
            There::More => (0, Some(Step::NeedMore)),
            There::Dead(step) => (0, Some(step)),
            There::TooLong => {
                batch.tally.reject(RejectReason::TooLarge);
                self.caught = Caught::entry(RejectReason::TooLarge, self.tag_text(), batch);
                self.pass_over(Then::Entry)
            }
        }
    }
}

impl Filler {
    /// Makes a row of a checked entry `[time, record]`; `[[time, metadata], record]` too.
    fn json_entry(&mut self, entry: &[u8], tag: u8, batch: &mut Batch, now: Timestamp) -> Result<(), RejectReason> {
        let time = if entry.first() == Some(&b'[') { item(entry, 1) } else { None };
        let Some(time) = time else { return Err(RejectReason::BadEntry) };
        let Some(record) = item(entry, time.end) else { return Err(RejectReason::BadEntry) };
        let before = batch.tally.oddities;
        let time = &entry[time];
        let when = match time.first() {
            Some(b'[') => {
                let first = item(time, 1);
                let metadata = first.as_ref().and_then(|first| item(time, first.end));
                if metadata.is_some_and(|metadata| !matches!(&time[metadata], b"{}" | b"null")) {
                    batch.tally.odd(Oddity::MetadataDropped);
                }
                first.map_or(&b"null"[..], |first| &time[first])
            }
            _ => time,
        };
        let when = time::from_json(when, now, &mut batch.tally);
        let taken = self.json_record(&entry[record], when, tag, batch);
        if taken.is_err() {
            batch.tally.oddities = before;
        }
        taken
    }
}

#[cfg(test)]
mod tests;
