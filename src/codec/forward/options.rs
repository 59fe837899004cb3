//! The options map that may end a frame.
//!
//! `chunk` is kept as it was encoded, to be echoed byte for byte; `compressed` and `fluent_signal` decide what the
//! blob is; `size` is a hint that senders use for different things, so nothing is done with it. Duplicate keys: the
//! last wins. nil, an empty map and no options at all are the same; so is a value that is no map.
//!
//! Of a frame that is decoded as it arrives they are read when they are whole. They are tried once before their end is
//! looked for; the search goes on where it was, and knows from the heads what is above [`OPTIONS_MAX`].

use std::ops::Range;

use crate::batch::Batch;
use crate::codec::msgpack::{self, Fault, Head, Skip};
use crate::metrics::{Oddity, RejectReason};

use super::entries::Entries;
use super::{Arriving, Decoder, Flow, LostReason, OPTIONS_MAX, State, Step, Then};

/// What `compressed` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Declared {
    /// Nothing, nil, or `text`.
    #[default]
    Plain,
    /// `gzip`
    Gzip,
    /// `zstd`
    Zstd,
    /// Anything else.
    Unknown,
}

/// The options that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Where the encoded chunk id stands in the bytes that were read; `None` for none or nil.
    pub chunk: Option<Range<usize>>,
    /// Whether the chunk id is a `str`.
    pub chunk_is_text: bool,
    /// The blob's codec.
    pub declared: Declared,
    /// Whether the frame holds metrics, traces or the like.
    pub not_logs: bool,
}

impl Options {
    /// Why a blob was refused that is neither entries nor gzip or zstd.
    pub(super) fn refusal(&self) -> RejectReason {
        match self.declared {
            _ if self.not_logs => RejectReason::NotLogs,
            Declared::Plain => RejectReason::BadEntry,
            Declared::Gzip | Declared::Zstd => RejectReason::BadCompression,
            Declared::Unknown => RejectReason::UnknownCodec,
        }
    }
}

/// Reads the options that `bytes` begin with; their end.
pub(super) fn read(bytes: &[u8]) -> Result<(Options, usize), Fault> {
    // A byte that means nothing is told by its place in all of them.
    let end_at = |bytes: &[u8], at: usize| {
        msgpack::end_of(&bytes[at..]).map_err(|fault| match fault {
            Fault::Reserved(offset) => Fault::Reserved(at + offset),
            fault => fault,
        })
    };
    let mut options = Options::default();
    let (Head::Map(count), mut at) = msgpack::head(bytes)? else {
        return Ok((options, msgpack::end_of(bytes)?));
    };
    for _ in 0..count {
        let key = at;
        at += end_at(bytes, at)?;
        let value = at;
        at += end_at(bytes, at)?;
        let Some(msgpack::Peek::Bytes(key)) = msgpack::peek(&bytes[key..value]) else { continue };
        let encoded = &bytes[value..at];
        match key {
            b"chunk" => {
                options.chunk = (encoded != [0xc0]).then_some(value..at);
                options.chunk_is_text = matches!(msgpack::head(encoded), Ok((Head::Str(_), _)));
            }
            b"compressed" => {
                options.declared = match msgpack::peek(encoded) {
                    Some(msgpack::Peek::Nil) => Declared::Plain,
                    Some(msgpack::Peek::Bytes(b"text" | b"")) => Declared::Plain,
                    Some(msgpack::Peek::Bytes(b"gzip")) => Declared::Gzip,
                    Some(msgpack::Peek::Bytes(b"zstd")) => Declared::Zstd,
                    _ => Declared::Unknown,
                };
            }
            b"fluent_signal" => {
                options.not_logs = !matches!(msgpack::peek(encoded), Some(msgpack::Peek::UInt(0) | msgpack::Peek::Nil));
            }
            _ => (),
        }
    }
    Ok((options, at))
}

impl Decoder {
    /// What follows the entries or the record: the options, and elements that mean nothing.
    pub(super) fn tail(&mut self, input: &[u8], batch: &mut Batch) -> (usize, Flow) {
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
        let there = match &mut self.options {
            None => input,
            Some((skip, pos)) => {
                match skip.advance(&input[*pos..]) {
                    Ok(passed) => *pos += passed,
                    Err(fault) => {
                        let at = *pos + if let Fault::Reserved(offset) = fault { offset } else { 0 };
                        return (0, Some(self.lost(LostReason::Reserved, at)));
                    }
                }
                let needed = (*pos as u64).saturating_add(skip.owed());
                if needed > OPTIONS_MAX as u64 {
                    return (0, Some(self.lost(LostReason::Options, 0)));
                }
                let pos = *pos;
                if !skip.is_done() {
                    return (0, self.wait_for(needed, pos, input));
                }
                &input[..pos]
            }
        };
        match read(there) {
            Ok((options, used)) if used <= OPTIONS_MAX => {
                self.options = None;
                match self.arriving.take() {
                    Some(Arriving::Refused) => self.refuse_arrived(options.refusal(), batch),
                    Some(Arriving::Entries) if options.not_logs || options.declared == Declared::Unknown => {
                        batch.tally.odd(Oddity::OptionsLate);
                    }
                    Some(Arriving::Records) if options.not_logs => batch.tally.odd(Oddity::OptionsLate),
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
            Err(Fault::Short) if self.options.is_none() => {
                self.options = Some((Skip::values(1), 0));
                (0, None)
            }
            Err(Fault::Reserved(at)) => (0, Some(self.lost(LostReason::Reserved, at))),
            _ => (0, Some(self.lost(LostReason::Options, 0))),
        }
    }
}
