//! The options map that may end a frame.
//!
//! `chunk` is kept as it was encoded, to be echoed byte for byte; `compressed` and `fluent_signal` decide what the
//! blob is; `size` is a hint that senders use for different things, so nothing is done with it. Duplicate keys: the
//! last wins. nil, an empty map and no options at all are the same; so is a value that is no map.

use std::ops::Range;

use crate::codec::msgpack::{self, Fault, Head};
use crate::metrics::RejectReason;

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
    let mut options = Options::default();
    let (Head::Map(count), mut at) = msgpack::head(bytes)? else {
        return Ok((options, msgpack::end_of(bytes)?));
    };
    for _ in 0..count {
        let key = at;
        at += msgpack::end_of(&bytes[at..])?;
        let value = at;
        at += msgpack::end_of(&bytes[at..])?;
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
