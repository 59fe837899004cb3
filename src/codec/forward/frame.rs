//! From a frame's first bytes to its body: the heads of its first elements, the search for its end, and whether it is
//! decoded when it is whole or as it arrives.
//!
//! The heads are read once ([`Found`]); after that the search goes on where it was, however the bytes come. A message is
//! tried before its end is looked for, in the hope that it is whole.

use crate::batch::Batch;
use crate::codec::msgpack::{self, Fault, Head, Skip};
use crate::metrics::{Oddity, RejectReason};
use crate::record::Timestamp;

use super::blob::{Blob, BlobCodec};
use super::entries::Entries;
use super::entry::Taken;
use super::{Arriving, Decoder, Flow, LostReason, OPTIONS_MAX, State, Step, Then, options};

/// What the first two elements say.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Message,
    Array(usize),
    Blob(usize),
}

/// A frame whose heads are read and whose body is not begun. Its tag is the decoder's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    kind: Kind,
    /// Elements of the frame.
    count: usize,
    /// Where the body begins: the time of a message, else the first entry or the first byte of the blob.
    body: usize,
    /// The search for the end, and how far it is from the frame's start.
    skip: Skip,
    pos: usize,
    /// Elements that the search does not know of yet, and where it went on to them.
    after: usize,
    after_at: usize,
}

impl Decoder {
    /// Reads the heads of a frame of `count` elements, the first of which is at `start`.
    pub(super) fn heads(
        &mut self,
        input: &[u8],
        start: usize,
        count: usize,
        batch: &mut Batch,
        now: Timestamp,
    ) -> (usize, Flow) {
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
        let (kind, body) = match msgpack::head(input.get(second..).unwrap_or_default()) {
            Ok((Head::Map(_), _)) if count == 2 && input.get(tag_at..second) == Some(b"HELO") => {
                return (0, Some(self.lost(LostReason::Helo, 0)));
            }
            Ok((Head::Array(entries), head)) => (Kind::Array(entries), second + head),
            Ok((Head::Str(len) | Head::Bin(len), head)) => (Kind::Blob(len), second + head),
            Ok(_) => (Kind::Message, second),
            // A message's time that is not whole yet is a message all the same, but nothing is lost by waiting.
            Err(Fault::Short) => return (0, self.wait_for(second as u64, input.len(), input)),
            Err(_) => return (0, Some(self.lost(LostReason::Reserved, second))),
        };
        super::intern(&mut self.tag, &input[tag_at..second], batch);
        let (skip, pos, after) = match kind {
            Kind::Message if count == 2 => {
                self.refuse(RejectReason::BadFrame, true, batch);
                self.state = State::Skim(Skip::values(1), Then::Tail(0, false));
                return (body, None);
            }
            Kind::Message => {
                let Some(flow) = self.message(input, body, count, false, batch, now) else {
                    let found = Found {
                        kind,
                        count,
                        body,
                        skip: Skip::values(count as u64 - 1),
                        pos: body,
                        after: 0,
                        after_at: 0,
                    };
                    return self.go_on(found, input, batch, now);
                };
                return flow;
            }
            Kind::Array(entries) => (Skip::values(entries as u64), body, count - 2),
            Kind::Blob(len) => (Skip::bytes(len as u64), body, count - 2),
        };
        let found = Found { kind, count, body, skip, pos, after, after_at: body };
        self.go_on(found, input, batch, now)
    }

    /// Looks for the end of a frame until it is whole, or known to be too large to wait for.
    pub(super) fn go_on(&mut self, mut found: Found, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        let Found { kind, count, body, .. } = found;
        loop {
            match found.skip.advance(&input[found.pos..]) {
                Ok(passed) => found.pos += passed,
                Err(fault) => {
                    let at = found.pos + if let Fault::Reserved(offset) = fault { offset } else { 0 };
                    return (0, Some(self.lost(LostReason::Reserved, at)));
                }
            }
            if !found.skip.is_done() || found.after == 0 {
                break;
            }
            found.after_at = found.pos;
            found.skip = Skip::values(std::mem::take(&mut found.after) as u64);
        }
        let whole = found.skip.is_done();
        let needed = (found.pos as u64).saturating_add(found.skip.owed()).saturating_add(found.after as u64);
        if needed > self.limits.frame_max {
            return (0, Some(self.lost(LostReason::TooLarge(needed, self.limits.frame_max), 0)));
        }
        let held_max = match kind {
            Kind::Message => self.limits.entry_max + OPTIONS_MAX,
            Kind::Array(_) | Kind::Blob(_) => self.limits.whole_max,
        };
        if !whole && needed <= held_max as u64 {
            self.found = Some(found);
            return (0, self.wait_for(needed, found.pos, input));
        }
        if let Kind::Message = kind {
            // After `Full` it is tried again.
            self.found = Some(found);
            if !whole {
                self.refuse_message(RejectReason::TooLarge, count, batch);
                return (body, None);
            }
            return self.message(input, body, count, true, batch, now).unwrap_or_default();
        }
        self.found = None;
        self.entries = Entries::default();
        self.tail_after = count - 2;
        self.count_empty_tag(batch);
        if !whole {
            self.arriving = Some(if let Kind::Blob(_) = kind { Arriving::Entries } else { Arriving::Records });
        }
        match kind {
            Kind::Blob(len) => {
                self.state = State::Blob(Blob { left: len as u64, codec: BlobCodec::Unknown });
                if whole && let Some(reason) = self.judge(&input[body..], len, count, batch) {
                    self.refuse(reason, true, batch);
                    self.skim_blob(len as u64);
                }
            }
            Kind::Array(entries) => {
                self.state = State::Array(entries);
                let options = input.get(found.after_at..).filter(|_| whole && count > 2);
                if options.is_some_and(|options| options::read(options).is_ok_and(|(options, _)| options.not_logs)) {
                    self.refuse(RejectReason::NotLogs, true, batch);
                    self.state = State::Skim(Skip::values(entries as u64), Then::Tail(count - 2, true));
                }
            }
            Kind::Message => (),
        }
        (body, None)
    }

    /// A Message mode frame, which is taken when it is whole. `None` if it turns out not to be, and `whole` does not say
    /// that it is.
    fn message(
        &mut self,
        input: &[u8],
        body: usize,
        count: usize,
        whole: bool,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Option<(usize, Flow)> {
        let index = self.tag.as_ref().and_then(|(_, tag)| batch.shared_tag_index(tag));
        let Some(index) = index else { return Some((0, Some(Step::Full))) };
        match self.filler.message(&input[body..], count - 3, index, batch, now) {
            Taken::Row(_) => {
                self.found = None;
                self.arriving = Some(Arriving::Records);
                self.count_empty_tag(batch);
                self.state = State::Tail(count - 3, count > 3);
                Some((body + self.filler.record_end, None))
            }
            Taken::Short if !whole => None,
            Taken::Bad(reason) => {
                self.refuse_message(reason, count, batch);
                Some((body, None))
            }
            // Passing over it finds the byte.
            Taken::Short | Taken::Nested { .. } | Taken::Reserved => {
                self.found = None;
                self.state = State::Skim(Skip::values(2), Then::Tail(count - 3, count > 3));
                Some((body, None))
            }
        }
    }

    fn refuse_message(&mut self, reason: RejectReason, count: usize, batch: &mut Batch) {
        self.found = None;
        self.refuse(reason, true, batch);
        self.state = State::Skim(Skip::values(2), Then::Tail(count - 3, count > 3));
    }

    /// Counts a frame whose tag is there and empty.
    fn count_empty_tag(&self, batch: &mut Batch) {
        if self.tag.as_ref().is_some_and(|(bytes, _)| bytes.is_empty()) {
            batch.tally.odd(Oddity::TagEmpty);
        }
    }
}
