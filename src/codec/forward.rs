//! Frames of Fluentd's forward protocol, as they arrive: rows for a batch, and the chunk ids to acknowledge.
//!
//! A connection is a bare concatenation of MessagePack values without any point to find one's way again, so a
//! [`Decoder`] is one for each connection and knows where it is. All four modes are read (Message, Forward,
//! PackedForward, CompressedPackedForward with gzip or zstd, found by the blob's first bytes), all widths of every
//! header, `str` and `bin` blobs, `nil` keepalives. A connection that begins as JSON goes on as JSON (`json.rs`).
//!
//! A frame of up to [`Limits::whole_max`] is decoded when it is whole, so that a connection that breaks leaves no half
//! of it; a larger one as it arrives, entry by entry, so that it never has to fit in memory. Either way each byte is
//! looked at a bounded number of times, also if it arrives alone.
//!
//! The options come last. Of a frame that is decoded when it is whole they are read first. Of a larger one the blob's
//! first byte alone decides: what neither begins an entry nor is gzip or zstd (metrics of Fluent Bit, an unknown codec)
//! is passed over and rejected with the reason that the options give. What begins as entries is read as records, and
//! options that say otherwise at the end (`fluent_signal`, an unknown `compressed`) come too late: `options_late`.
//!
//! Bad data within good framing is rejected, counted, and its frame ends as any other; a loss of framing ends the
//! connection ([`Step::Lost`]).
//! Limits: [`Limits`], all settings of the input. Counters: `RejectReason` and `Oddity` of the batch's tally.
//! Format: <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>, and what senders really write.

pub mod ack; // read by a sender
mod blob;
mod caught; // the bytes of what is refused
pub mod encode;
mod entries;
mod entry;
pub mod handshake; // the shared key: HELO, PING, PONG
mod json; // JSON mode
mod json_record;
mod lost;
mod options;
mod place;
mod time;

use crate::batch::Batch;
use crate::codec::gzip;
use crate::codec::msgpack::{self, Fault, Head, Skip};
use crate::metrics::{Oddity, RejectReason};
use crate::record::{Tag, Timestamp};

pub use blob::Need;
use blob::{Blob, BlobCodec};
use caught::Caught;
use entries::{Entries, Stop};
use entry::{Filler, Taken};
use json::Json;
pub use lost::{Lost, LostReason};
use options::Declared;
pub use place::Place;

/// Elements of a frame, at most; what is after the options means nothing.
const ARITY_MAX: usize = 16;
/// Bytes of the options, at most.
const OPTIONS_MAX: usize = 16 << 10;

/// What one connection may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one frame.
    pub frame_max: u64,
    /// Bytes of a frame up to which it is decoded when it is whole.
    pub whole_max: usize,
    /// Bytes of one entry.
    pub entry_max: usize,
    /// Bytes of a tag.
    pub tag_max: usize,
    /// Levels of a record, its own map included; [`msgpack::DEPTH_MAX`] at most.
    pub depth_max: usize,
    /// Decompression.
    pub inflate: gzip::Limits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            frame_max: 64 << 20,
            whole_max: 1 << 20,
            entry_max: 4 << 20,
            tag_max: 4 << 10,
            depth_max: msgpack::DEPTH_MAX,
            inflate: gzip::Limits::default(),
        }
    }
}

/// What [`Decoder::decode`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    NeedMore,
    /// The batch is full; go on with a fresh one. The frame may go on in it ([`Decoder::is_mid_frame`]).
    Full,
    /// Decompression needs memory: go on after [`Decoder::grant`].
    NeedsMemory(Need),
    /// A frame ended that had a chunk id ([`Decoder::chunk`]) or whose rows may be in more than one batch.
    FrameEnd,
    /// The framing is lost: nothing more can be read from this connection.
    Lost(Lost),
}

#[derive(Debug)]
enum State {
    Between,
    /// Forward mode: so many entries to come.
    Array(usize),
    Blob(Blob),
    /// Passing over values, then ...
    Skim(Skip, Then),
    /// After the entries or the record: so many elements, and whether the first of them is the options.
    Tail(usize, bool),
    Lost(Lost),
}

#[derive(Clone, Copy, Debug)]
enum Then {
    /// The second element decides where the options are; so many elements from there on.
    Second(usize),
    /// The tail, as in [`State::Tail`].
    Tail(usize, bool),
}

/// The blob of a frame whose options are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arriving {
    /// Its records are on their way.
    Entries,
    /// It is passed over.
    Refused,
}

/// What the first two elements say.
enum Kind {
    Message,
    Array(usize),
    Blob(usize),
}

/// Goes on, or stops with a step.
type Flow = Option<Step>;

/// Decodes one connection. Holds no input: what it has not used is to be given again with more behind it.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    filler: Filler,
    state: State,
    /// For a connection that turned out to speak JSON; the rest is idle then.
    json: Option<Box<Json>>,
    entries: Entries,
    /// The end of a frame that was not whole is looked for: the scan, and how far it is from the frame's start.
    scan: Option<(Skip, usize)>,
    tag: Option<(Vec<u8>, Tag)>,
    chunk: Vec<u8>,
    has_chunk: bool,
    split: bool,
    /// What the blob of a frame that is decoded as it arrives turned out to be.
    arriving: Option<Arriving>,
    /// The frame at hand is refused, and its bytes are kept.
    caught: Option<Caught>,
    /// Elements after the second one of the frame.
    tail_after: usize,
    /// Bytes used since the start of the connection, and at the start of the frame.
    offset: u64,
    frame_at: u64,
}

impl Decoder {
    /// A decoder at the start of a connection. `docker` gives the records of Docker's fluentd driver the shape of a
    /// json-file line.
    pub fn new(limits: Limits, docker: bool) -> Decoder {
        Decoder {
            filler: Filler::new(&limits, docker),
            limits,
            state: State::Between,
            json: None,
            entries: Entries::default(),
            scan: None,
            tag: None,
            chunk: Vec::new(),
            has_chunk: false,
            split: false,
            arriving: None,
            caught: None,
            tail_after: 0,
            offset: 0,
            frame_at: 0,
        }
    }

    /// Frames above `bytes` are decoded as they arrive from now on: for a caller that is short of memory.
    pub fn set_whole_max(&mut self, bytes: usize) {
        self.limits.whole_max = bytes;
        if let Some(json) = &mut self.json {
            json.set_whole_max(bytes);
        }
    }

    /// Whether some, but not all bytes of a frame were used.
    pub fn is_mid_frame(&self) -> bool {
        match &self.json {
            Some(json) => json.is_mid_frame(),
            None => !matches!(self.state, State::Between),
        }
    }

    /// Whether the connection speaks JSON, and wants its acks in JSON.
    pub fn is_json(&self) -> bool {
        self.json.is_some()
    }

    /// The chunk id of the frame that ended last, exactly as it was encoded. `None` if it had none.
    pub fn chunk(&self) -> Option<&[u8]> {
        match &self.json {
            Some(json) => json.chunk(),
            None => self.has_chunk.then_some(&self.chunk),
        }
    }

    /// Decodes from `input` into `batch`; says how many bytes are done with. `now` is the time of receipt.
    pub fn decode(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Step) {
        self.decode_after(&[], input, batch, now)
    }

    /// The same for a caller that still has what it gave `before`: what is refused is kept from its start then.
    pub fn decode_after(&mut self, before: &[u8], input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Step) {
        if self.offset == 0 && self.json.is_none() && input.first().is_some_and(|first| json::begins(*first)) {
            self.json = Some(Box::new(Json::new(self.limits, self.filler.docker, 0)));
        }
        if let Some(json) = &mut self.json {
            return json.decode(before, input, batch, now);
        }
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let (used, flow) = match self.state {
                State::Between => self.between(rest, batch, now),
                State::Array(_) => self.array(rest, batch, now),
                State::Blob(_) => self.blob(rest, batch, now),
                State::Skim(..) => self.skim(rest),
                State::Tail(..) => self.tail(rest, batch),
                State::Lost(lost) => (0, Some(Step::Lost(lost))),
            };
            if self.caught.is_some() {
                self.follow_caught(before, input, at, used, batch);
            }
            at += used;
            self.offset += used as u64;
            batch.tally.bytes += used as u64;
            let frame = self.offset - self.frame_at;
            if self.is_mid_frame() && frame > self.limits.frame_max && !matches!(flow, Some(Step::Lost(_))) {
                let step = self.lost(LostReason::TooLarge(frame, self.limits.frame_max), 0);
                return (at, step);
            }
            match flow {
                None => (),
                Some(step) => {
                    // Whenever the caller has the batch, it may send its rows on.
                    self.split |= self.is_mid_frame();
                    return (at, step);
                }
            }
        }
    }

    /// `at` counts from what was used before the call at hand.
    fn lost(&mut self, reason: LostReason, at: usize) -> Step {
        let lost = Lost { reason, offset: self.offset + at as u64 };
        self.state = State::Lost(lost);
        Step::Lost(lost)
    }

    fn between(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        let nils = input.iter().take_while(|byte| **byte == 0xc0).count();
        if nils > 0 {
            return (nils, None);
        }
        let Some(first) = input.first() else { return (0, Some(Step::NeedMore)) };
        let (count, start) = match msgpack::head(input) {
            Ok((Head::Array(count), start)) => (count, start),
            Err(Fault::Short) if matches!(first, 0xdc | 0xdd) => return (0, Some(Step::NeedMore)),
            Err(Fault::Reserved(_)) => return (0, Some(self.lost(LostReason::Reserved, 0))),
            _ => return (0, Some(self.lost(LostReason::NotAFrame(*first), 0))),
        };
        if count > ARITY_MAX {
            return (0, Some(self.lost(LostReason::Arity(count), 0)));
        }
        if batch.is_full() {
            return (0, Some(Step::Full));
        }
        self.frame_at = self.offset;
        (self.has_chunk, self.split, self.arriving) = (false, false, None);
        if count < 2 {
            self.refuse(RejectReason::BadFrame, false, batch);
            self.state = State::Skim(Skip::values(count as u64), Then::Tail(0, false));
            return (start, None);
        }
        let (tag_at, second) = match msgpack::head(&input[start..]) {
            Ok((Head::Str(len) | Head::Bin(len), head)) if len <= self.limits.tag_max => {
                (start + head, start + head + len)
            }
            Err(Fault::Short) => return (0, Some(Step::NeedMore)),
            Err(_) => return (0, Some(self.lost(LostReason::Reserved, start))),
            Ok(_) => {
                self.refuse(RejectReason::BadTag, false, batch);
                self.state = State::Skim(Skip::values(1), Then::Second(count - 1));
                return (start, None);
            }
        };
        if count == 6 && input.get(tag_at..second) == Some(b"PING") {
            return (0, Some(self.lost(LostReason::Handshake, 0)));
        }
        let is_map = matches!(msgpack::head(input.get(second..).unwrap_or_default()), Ok((Head::Map(_), _)));
        if count == 2 && is_map && input.get(tag_at..second) == Some(b"HELO") {
            return (0, Some(self.lost(LostReason::Helo, 0)));
        }
        let (kind, body) = match msgpack::head(input.get(second..).unwrap_or_default()) {
            Ok((Head::Array(entries), head)) => (Kind::Array(entries), second + head),
            Ok((Head::Str(len) | Head::Bin(len), head)) => (Kind::Blob(len), second + head),
            Ok(_) => (Kind::Message, second),
            Err(Fault::Short) => {
                // A message's time that is not whole yet is a message all the same, but nothing is lost by waiting.
                return (0, Some(Step::NeedMore));
            }
            Err(_) => return (0, Some(self.lost(LostReason::Reserved, second))),
        };
        let tag = self.intern(&input[tag_at..second], batch);
        match kind {
            Kind::Message if count == 2 => {
                self.refuse(RejectReason::BadFrame, true, batch);
                self.state = State::Skim(Skip::values(1), Then::Tail(0, false));
                (body, None)
            }
            Kind::Message => self.message(input, body, count, &tag, batch, now),
            Kind::Array(_) | Kind::Blob(_) => self.begin(input, start, body, count, kind, batch),
        }
    }

    /// A Message mode frame, which is taken when it is whole.
    fn message(
        &mut self,
        input: &[u8],
        body: usize,
        count: usize,
        tag: &Tag,
        batch: &mut Batch,
        now: Timestamp,
    ) -> (usize, Flow) {
        let Some(index) = batch.shared_tag_index(tag) else { return (0, Some(Step::Full)) };
        let mut whole = false;
        if let Some((skip, pos)) = &mut self.scan {
            match skip.advance(&input[*pos..]) {
                Ok(passed) => *pos += passed,
                Err(_) => {
                    let at = *pos;
                    return (0, Some(self.lost(LostReason::Reserved, at)));
                }
            }
            if !skip.is_done() {
                let needed = (*pos as u64).saturating_add(skip.owed());
                if needed > self.limits.frame_max {
                    return (0, Some(self.lost(LostReason::TooLarge(needed, self.limits.frame_max), 0)));
                }
                if needed <= (self.limits.entry_max + OPTIONS_MAX) as u64 {
                    return (0, Some(Step::NeedMore));
                }
                self.refuse_message(RejectReason::TooLarge, count, batch);
                return (body, None);
            }
            whole = true;
        }
        match self.filler.message(&input[body..], count - 3, index, batch, now) {
            Taken::Row(_) => {
                self.scan = None;
                self.state = State::Tail(count - 3, count > 3);
                (body + self.filler.record_end, None)
            }
            Taken::Short if !whole => {
                // The first try was in hope; from here on the scan finds the end, however the bytes come.
                self.scan = Some((Skip::values((count - 1) as u64), body));
                self.message(input, body, count, tag, batch, now)
            }
            Taken::Bad(reason) => {
                self.refuse_message(reason, count, batch);
                (body, None)
            }
            // Passing over it finds the byte.
            Taken::Short | Taken::Nested { .. } | Taken::Reserved => {
                self.scan = None;
                self.state = State::Skim(Skip::values(2), Then::Tail(count - 3, count > 3));
                (body, None)
            }
        }
    }

    fn refuse_message(&mut self, reason: RejectReason, count: usize, batch: &mut Batch) {
        self.scan = None;
        self.refuse(reason, true, batch);
        self.state = State::Skim(Skip::values(2), Then::Tail(count - 3, count > 3));
    }

    /// A frame with entries: waits until it is whole or too large for that, then begins with its body.
    fn begin(
        &mut self,
        input: &[u8],
        start: usize,
        body: usize,
        count: usize,
        kind: Kind,
        batch: &mut Batch,
    ) -> (usize, Flow) {
        let (skip, pos) = self.scan.get_or_insert((Skip::values(count as u64), start));
        match skip.advance(&input[*pos..]) {
            Ok(passed) => *pos += passed,
            Err(fault) => {
                let at = *pos + if let Fault::Reserved(offset) = fault { offset } else { 0 };
                return (0, Some(self.lost(LostReason::Reserved, at)));
            }
        }
        let whole = skip.is_done();
        let needed = (*pos as u64).saturating_add(skip.owed());
        if needed > self.limits.frame_max {
            return (0, Some(self.lost(LostReason::TooLarge(needed, self.limits.frame_max), 0)));
        }
        if !whole && needed <= self.limits.whole_max as u64 {
            return (0, Some(Step::NeedMore));
        }
        self.scan = None;
        self.entries = Entries::default();
        self.tail_after = count - 2;
        match kind {
            Kind::Blob(len) => {
                self.state = State::Blob(Blob { left: len as u64, codec: BlobCodec::Unknown });
                if !whole {
                    self.arriving = Some(Arriving::Entries);
                } else if let Some(reason) = self.judge(&input[body..], len, count, batch) {
                    self.refuse(reason, true, batch);
                    self.skim_blob(len as u64);
                }
            }
            Kind::Array(entries) => self.state = State::Array(entries),
            Kind::Message => (),
        }
        (body, None)
    }

    fn array(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        let (State::Array(left), Some((_, tag))) = (&mut self.state, &self.tag) else { return (0, None) };
        let (used, stop) = self.entries.run(&mut self.filler, input, Some(left), tag, batch, now);
        let flow = match stop {
            Stop::Hungry => Some(Step::NeedMore),
            Stop::Full => Some(Step::Full),
            Stop::Done => {
                self.state = State::Tail(self.tail_after, self.tail_after > 0);
                None
            }
            Stop::Broken => Some(self.lost(LostReason::Reserved, used)),
        };
        (used, flow)
    }

    fn skim(&mut self, input: &[u8]) -> (usize, Flow) {
        let State::Skim(skip, then) = &mut self.state else { return (0, None) };
        let then = *then;
        let used = match skip.advance(input) {
            Ok(used) => used,
            Err(fault) => {
                let at = if let Fault::Reserved(at) = fault { at } else { 0 };
                return (0, Some(self.lost(LostReason::Reserved, at)));
            }
        };
        if !skip.is_done() {
            let needed = (self.offset - self.frame_at).saturating_add(used as u64).saturating_add(skip.owed());
            if needed > self.limits.frame_max {
                return (used, Some(self.lost(LostReason::TooLarge(needed, self.limits.frame_max), used)));
            }
            return (used, Some(Step::NeedMore));
        }
        match then {
            Then::Tail(left, options) => self.state = State::Tail(left, options),
            Then::Second(left) => {
                // The options follow the entries, or in Message mode the time and the record.
                let passed = match msgpack::head(&input[used..]) {
                    Ok((Head::Array(_) | Head::Str(_) | Head::Bin(_), _)) => 1,
                    Ok(_) => 2,
                    Err(Fault::Short) => return (used, Some(Step::NeedMore)),
                    Err(_) => return (used, Some(self.lost(LostReason::Reserved, used))),
                };
                let passed = passed.min(left);
                self.state = State::Skim(Skip::values(passed as u64), Then::Tail(left - passed, left > passed));
            }
        }
        (used, None)
    }

    fn tail(&mut self, input: &[u8], batch: &mut Batch) -> (usize, Flow) {
        let State::Tail(left, with_options) = self.state else { return (0, None) };
        if left == 0 {
            if self.arriving.take() == Some(Arriving::Refused) {
                self.refuse_arrived(RejectReason::BadEntry, batch);
            }
            self.entries.end(batch);
            self.state = State::Between;
            self.entries = Entries::default();
            return (0, (self.has_chunk || self.split).then_some(Step::FrameEnd));
        }
        if !with_options {
            if self.arriving.take() == Some(Arriving::Refused) {
                self.refuse_arrived(RejectReason::BadEntry, batch);
            }
            self.state = State::Skim(Skip::values(left as u64), Then::Tail(0, false));
            return (0, None);
        }
        match options::read(input) {
            Ok((options, used)) if used <= OPTIONS_MAX => {
                match self.arriving.take() {
                    Some(Arriving::Refused) => self.refuse_arrived(options.refusal(), batch),
                    Some(Arriving::Entries) if options.not_logs || options.declared == Declared::Unknown => {
                        batch.tally.odd(Oddity::OptionsLate);
                    }
                    _ => (),
                }
                if let Some(chunk) = options.chunk {
                    self.chunk.clear();
                    self.chunk.extend_from_slice(&input[chunk]);
                    self.has_chunk = true;
                    if !options.chunk_is_text {
                        batch.tally.odd(Oddity::ChunkNotText);
                    }
                }
                self.state = State::Tail(left - 1, false);
                (used, None)
            }
            Err(Fault::Short) if input.len() <= OPTIONS_MAX => (0, Some(Step::NeedMore)),
            Err(Fault::Reserved(at)) => (0, Some(self.lost(LostReason::Reserved, at))),
            _ => (0, Some(self.lost(LostReason::Options, 0))),
        }
    }

    /// The frame's tag as a text that is made once for a run of frames of the same tag.
    fn intern(&mut self, bytes: &[u8], batch: &mut Batch) -> Tag {
        intern(&mut self.tag, bytes, batch);
        self.tag.as_ref().map_or_else(|| Tag::from(""), |(_, tag)| tag.clone())
    }
}

/// Makes `known` the tag of these bytes, which it mostly is already.
fn intern(known: &mut Option<(Vec<u8>, Tag)>, bytes: &[u8], batch: &mut Batch) {
    if known.as_ref().is_some_and(|(known, _)| known == bytes) {
        return;
    }
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, std::borrow::Cow::Owned(_)) {
        batch.tally.odd(Oddity::InvalidUtf8);
    }
    *known = Some((bytes.to_vec(), Tag::from(&*text)));
}

/// One run of the fuzzer: any bytes, in pieces that the first byte gives, against the same bytes at once.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let limits = Limits {
        frame_max: 1 << 20,
        whole_max: 64 << 10,
        entry_max: 16 << 10,
        inflate: gzip::Limits { output_max: 1 << 20, ratio_max: 100, free: 64 << 10 },
        ..Limits::default()
    };
    let budget = crate::budget::Budget::new(64 << 20);
    let run = |piece: usize| {
        let mut batch = Batch::new(budget.empty_permit(), 0, std::sync::Arc::default());
        batch.permit_mut().grow(8 << 20);
        let mut decoder = Decoder::new(limits, true);
        let (mut from, mut to, mut lost) = (0, 0, None);
        while lost.is_none() {
            let (used, step) = decoder.decode(&data[from..to], &mut batch, Timestamp(0));
            from += used;
            match step {
                Step::NeedMore if to == data.len() => break,
                Step::NeedMore => to = (to + piece).min(data.len()),
                Step::NeedsMemory(need) => decoder.grant(need),
                Step::Full => return None,
                Step::FrameEnd => (),
                Step::Lost(why) => lost = Some(why.offset),
            }
        }
        // How much of a frame was taken before its framing was lost, or before the input ended, depends on how much of it
        // was there: that it is bad, or too large to wait for, is seen sooner with more of it. Nothing of it is
        // acknowledged either way. (Frames before it are compared by inputs that end with them.)
        let ended = lost.is_none() && !decoder.is_mid_frame() && from == data.len();
        ended.then_some((batch.len(), batch.tally.rejected))
    };
    if let (Some(whole), Some(pieces)) = (run(data.len().max(1)), run(usize::from(*piece).max(1))) {
        assert_eq!(whole, pieces, "rows and rejects at once and in pieces of {piece}");
    }
}

#[cfg(test)]
mod tests;
