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
//! The options come last. Of a frame that is decoded when it is whole (also a larger one that is there at once) they are read
//! first, but for a message's. Of a larger
//! one the blob's first byte alone decides: what neither begins an entry nor is gzip or zstd (metrics of Fluent Bit, an
//! unknown codec) is passed over and rejected with the reason that the options give. What begins as entries, or is an array
//! of them, is read as records, and options that say otherwise at the end (`fluent_signal`, an unknown `compressed`) come
//! too late: `options_late`.
//!
//! Bad data within good framing is rejected, counted, and its frame ends as any other; a loss of framing ends the
//! connection ([`Step::Lost`]).
//! Limits: [`Limits`], all settings of the input. Counters: `RejectReason` and `Oddity` of the batch's tally.
//! Format: <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>, and what senders really write.

pub mod ack; // read by a sender
mod as_json; // records for those who write JSON
mod blob;
mod caught; // the bytes of what is refused
mod docker; // the records of its driver
pub mod encode;
mod entries;
mod entry;
mod frame; // from a frame's heads to its body
mod fuzz;
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

use blob::Blob;
pub use blob::Need;
use caught::Caught;
use entries::{Entries, Stop};
use entry::Filler;
use frame::Found;
#[doc(hidden)]
pub use fuzz::fuzz_one;
use json::Json;
pub use lost::{Lost, LostReason};
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

/// What is done already with a frame whose options are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arriving {
    /// The records of its blob are on their way.
    Entries,
    /// So are its records, which no blob holds.
    Records,
    /// Its blob is passed over.
    Refused,
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
    /// The heads of a frame that is not begun, and how far its end was looked for.
    found: Option<Found>,
    /// The end of the options is looked for: the scan, and how far it is from their start.
    options: Option<(Skip, usize)>,
    /// With fewer bytes of input nothing goes on, whatever they are but wide heads, since nothing could, or since it is not
    /// worth a look yet (a blob's small entries that come byte by byte); and how many were looked at.
    wait: usize,
    looked: usize,
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
            found: None,
            options: None,
            wait: 0,
            looked: 0,
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

    /// Whether records are written as JSON while they are decoded, where that loses nothing: for a caller whose records all
    /// go to encoders of JSON, untouched. Anyone else gets the same values, but texts escaped and numbers as text.
    pub fn set_as_json(&mut self, yes: bool) {
        self.filler.set_as_json(yes);
    }

    /// Whether `log` of Docker's records is taken apart as JSON where it is an object: for a caller whose first step does so, in
    /// all records, and who runs that step on the rest.
    pub fn set_takes_apart(&mut self, yes: bool) {
        self.filler.set_takes_apart(yes);
    }

    /// Frames above `bytes` are decoded as they arrive from now on: for a caller that is short of memory.
    pub fn set_whole_max(&mut self, bytes: usize) {
        if self.limits.whole_max != bytes {
            self.wait = 0;
        }
        self.limits.whole_max = bytes;
        if let Some(json) = &mut self.json {
            json.set_whole_max(bytes);
        }
    }

    /// As many bytes have to be there before anything goes on, if that is known: as the sender says.
    pub fn waits_for(&self) -> usize {
        self.wait
    }

    /// The next call looks at all that is there: nothing may come that was worth waiting for.
    pub fn look_again(&mut self) {
        self.wait = 0;
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
    #[inline]
    pub fn decode(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Step) {
        self.decode_after(&[], input, batch, now)
    }

    /// The same for a caller that still has what it gave `before`: what is refused is kept from its start then.
    #[inline]
    pub fn decode_after(&mut self, before: &[u8], input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Step) {
        // All that a byte costs when bytes come one by one, so it is done where this is called.
        if input.len() < self.wait && self.is_idle(input) {
            return (0, Step::NeedMore);
        }
        self.go_through(before, input, batch, now)
    }

    #[inline(never)]
    fn go_through(&mut self, before: &[u8], input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Step) {
        self.wait = 0;
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
                    // What is waited for was counted from where this part began.
                    self.wait = if step == Step::NeedMore { self.wait.saturating_sub(used) } else { 0 };
                    self.looked = input.len() - at;
                    return (at, step);
                }
            }
        }
    }

    /// Whether what is new is nothing to look at as long as less than [`Decoder::wait`] is there: a few bytes, none of which
    /// can be the reserved one or the head of something that may be longer than 255 bytes or values, which are seen at
    /// once.
    #[inline]
    fn is_idle(&mut self, input: &[u8]) -> bool {
        const FEW: usize = 16;
        let new = input.get(self.looked..).unwrap_or_default();
        self.looked = input.len();
        let heavy = |byte: &u8| matches!(byte, 0xc1 | 0xc5 | 0xc6 | 0xc8 | 0xc9 | 0xda..=0xdf);
        match new {
            [byte] => !heavy(byte),
            _ => new.len() <= FEW && !new.iter().any(heavy),
        }
    }

    /// Nothing goes on before the input is `bytes` long: it was looked at up to `pos`. The rest is a head that is not
    /// whole, and may say at any byte that all is different.
    fn wait_for(&mut self, bytes: u64, pos: usize, input: &[u8]) -> Flow {
        self.wait = if pos < input.len() { 0 } else { usize::try_from(bytes).unwrap_or(usize::MAX) };
        Some(Step::NeedMore)
    }

    /// `at` counts from what was used before the call at hand.
    fn lost(&mut self, reason: LostReason, at: usize) -> Step {
        let lost = Lost { reason, offset: self.offset + at as u64 };
        self.state = State::Lost(lost);
        self.wait = 0;
        Step::Lost(lost)
    }

    fn between(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        if let Some(found) = self.found {
            return match batch.is_full() {
                true => (0, Some(Step::Full)),
                false => self.go_on(found, input, batch, now),
            };
        }
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
        self.heads(input, start, count, batch, now)
    }

    fn array(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        let (State::Array(left), Some((_, tag))) = (&mut self.state, &self.tag) else { return (0, None) };
        let (used, stop) = self.entries.run(&mut self.filler, input, Some(left), tag, batch, now);
        let flow = match stop {
            Stop::Hungry => {
                let (owed, pos) = self.entries.owed();
                self.wait_for((used as u64).saturating_add(owed), used + pos, input)
            }
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
}

/// Makes `known` the tag of these bytes, which it mostly is already.
fn intern(known: &mut Option<(Vec<u8>, Tag)>, bytes: &[u8], batch: &mut Batch) {
    #[cfg(test)]
    msgpack::tests::STEPS.set(msgpack::tests::STEPS.get() + bytes.len() as u64);
    if known.as_ref().is_some_and(|(known, _)| known == bytes) {
        return;
    }
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, std::borrow::Cow::Owned(_)) {
        batch.tally.odd(Oddity::InvalidUtf8);
    }
    *known = Some((bytes.to_vec(), Tag::from(&*text)));
}

#[cfg(test)]
mod cut_tests; // what must not depend on where the bytes are cut
#[cfg(test)]
mod odd_tests;
#[cfg(test)]
mod tests;
