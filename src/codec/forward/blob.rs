//! Blobs: entries back to back, plain or compressed, in PackedForward frames.
//!
//! What a blob is, its first bytes say: gzip and zstd have magic numbers that no entry begins with, and senders declare
//! the codec wrongly, or after the blob. A blob is read as it arrives; decompressed bytes pass through a window of
//! [`WINDOW`] bytes, or for an entry that is larger than that, of one entry at most.
//! Decompression holds nothing that was not asked for ([`Need`]) and granted before.
//! Counters: `codec_sniffed`; `bad_compression`, `bomb`, `unknown_codec`, `not_logs`, `bad_entry`.

use crate::batch::Batch;
use crate::codec::gzip::{Codec, InflateError, Inflater};
use crate::codec::msgpack::Skip;
use crate::metrics::{Oddity, RejectReason};
use crate::record::Timestamp;

use super::entries::Stop;
use super::options::{self, Declared};
use super::{Arriving, Decoder, Flow, State, Step, Then};

/// Decompressed bytes that are held, as long as they are enough for an entry.
const WINDOW: usize = 64 << 10;

/// Bytes of a blob that are worth a look where they come one by one: entries wait for as many, and those
/// that are there when the connection ends are taken then ([`Decoder::look_again`]).
const STEP: u64 = 1 << 10;

/// Memory that decompression needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A decoder and its window: so many bytes in all. Nothing of it is there yet but, between two frames of zstd, the
    /// window.
    Codec(usize),
    /// A larger window, beside what is there, for an entry of more than [`WINDOW`] bytes.
    Entry(usize),
}

/// A blob of entries, and how much of it is still to come.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) left: u64,
    pub(super) codec: BlobCodec,
}

#[derive(Debug)]
pub(super) enum BlobCodec {
    /// Its first bytes are still to come.
    Unknown,
    Plain,
    Packed(Box<Inflate>),
}

/// A compressed blob: the decoder, and decoded bytes `from..to` of `window` that are no whole entry yet.
#[derive(Debug)]
pub(super) struct Inflate {
    inflater: Inflater,
    window: Vec<u8>,
    from: usize,
    to: usize,
    /// Bytes of a larger window that was asked for.
    larger: Option<usize>,
}

impl Decoder {
    /// What decompression holds now: a decoder with its window, and a larger window beyond that.
    pub fn memory(&self) -> (usize, usize) {
        match &self.state {
            State::Blob(Blob { codec: BlobCodec::Packed(inflate), .. }) => {
                let window = inflate.window.len();
                (inflate.inflater.memory() + window.min(WINDOW), window.saturating_sub(WINDOW))
            }
            _ => (0, 0),
        }
    }

    /// Grants what [`Step::NeedsMemory`] asked for.
    pub fn grant(&mut self, need: Need) {
        if let State::Blob(Blob { codec: BlobCodec::Packed(inflate), .. }) = &mut self.state {
            match need {
                Need::Codec(bytes) => {
                    inflate.inflater.allow(bytes - WINDOW);
                    if inflate.window.is_empty() {
                        inflate.window = vec![0; WINDOW];
                    }
                }
                Need::Entry(bytes) => inflate.larger = Some(bytes),
            }
        }
    }

    /// Looks at a whole frame's blob of `len` bytes, which `rest` begins with, and at the options behind it: why it can
    /// not be read, if so.
    pub(super) fn judge(&self, rest: &[u8], len: usize, count: usize, batch: &mut Batch) -> Option<RejectReason> {
        let blob = rest.get(..len)?;
        let options = if count > 2 { options::read(&rest[len..]).ok()?.0 } else { options::Options::default() };
        if options.not_logs {
            return Some(RejectReason::NotLogs);
        }
        let first = *blob.first()?;
        let sniffed = Codec::sniff(blob);
        let agree = match sniffed {
            None => options.declared == Declared::Plain,
            Some(Codec::Gzip) => options.declared == Declared::Gzip,
            Some(Codec::Zstd) => options.declared == Declared::Zstd,
        };
        if agree {
            return None;
        }
        let entries = begins_entries(first);
        match (sniffed, options.declared) {
            (None, Declared::Unknown) => return Some(RejectReason::UnknownCodec),
            (None, _) if !entries => return Some(RejectReason::BadCompression),
            _ => batch.tally.odd(Oddity::CodecSniffed),
        }
        None
    }

    /// Passes over what is left of the blob.
    pub(super) fn skim_blob(&mut self, left: u64) {
        self.state = State::Skim(Skip::bytes(left), Then::Tail(self.tail_after, self.tail_after > 0));
    }

    pub(super) fn blob(&mut self, input: &[u8], batch: &mut Batch, now: Timestamp) -> (usize, Flow) {
        let (State::Blob(blob), Some((_, tag))) = (&mut self.state, &self.tag) else { return (0, None) };
        let there = usize::try_from(blob.left).unwrap_or(usize::MAX).min(input.len());
        let there = &input[..there];
        let closed = there.len() as u64 == blob.left;
        match &mut blob.codec {
            BlobCodec::Unknown => {
                if Codec::may_follow(there) && !closed {
                    return (0, Some(Step::NeedMore));
                }
                blob.codec = BlobCodec::Plain;
                if let Some(codec) = Codec::sniff(there) {
                    let inflater = Inflater::new(codec, self.limits.inflate, blob.left);
                    let inflate = Inflate { inflater, window: Vec::new(), from: 0, to: 0, larger: None };
                    blob.codec = BlobCodec::Packed(Box::new(inflate));
                } else if self.arriving.is_some() && there.first().is_some_and(|first| !begins_entries(*first)) {
                    self.arriving = Some(Arriving::Refused);
                    let left = blob.left;
                    // The options behind it give the reason.
                    self.catch(RejectReason::BadEntry, true, batch);
                    self.skim_blob(left);
                }
                (0, None)
            }
            BlobCodec::Plain => {
                let (used, stop) = self.entries.run(&mut self.filler, there, None, tag, batch, now);
                blob.left -= used as u64;
                let left = blob.left;
                match stop {
                    Stop::Full => (used, Some(Step::Full)),
                    Stop::Hungry if !closed => {
                        let (owed, pos) = self.entries.owed();
                        // At the blob's end it is cut, whatever its heads say.
                        let worth = owed.max(pos as u64 + STEP).min(left);
                        (used, self.wait_for(used as u64 + worth, used + pos, input))
                    }
                    Stop::Hungry | Stop::Done => {
                        if left > 0 || self.entries.is_open() {
                            self.refuse(RejectReason::BadEntry, true, batch);
                        }
                        self.skim_blob(left);
                        (used, None)
                    }
                    Stop::Broken => {
                        self.refuse(RejectReason::BadEntry, true, batch);
                        self.skim_blob(left);
                        (used, None)
                    }
                }
            }
            BlobCodec::Packed(inflate) => {
                let mut used = 0;
                loop {
                    let window = &inflate.window[inflate.from..inflate.to];
                    let (taken, stop) = self.entries.run(&mut self.filler, window, None, tag, batch, now);
                    inflate.from += taken;
                    let why = match stop {
                        Stop::Full => return (used, Some(Step::Full)),
                        Stop::Broken => Some(RejectReason::BadEntry),
                        Stop::Hungry | Stop::Done => match inflate.more(&there[used..], self.limits.entry_max) {
                            Err(Paused::For(need)) => return (used, Some(Step::NeedsMemory(need))),
                            Ok((0, 0)) if !closed => return (used, Some(Step::NeedMore)),
                            Ok((0, 0)) => {
                                let cut = inflate.from < inflate.to || self.entries.is_open();
                                match inflate.inflater.finish() {
                                    Err(_) => Some(RejectReason::BadCompression),
                                    // Input that is neither used nor the end of it.
                                    Ok(()) if used < there.len() => Some(RejectReason::BadCompression),
                                    Ok(()) if cut => Some(RejectReason::BadEntry),
                                    Ok(()) => {
                                        self.skim_blob(0);
                                        return (used, None);
                                    }
                                }
                            }
                            Ok((eaten, _)) => {
                                used += eaten;
                                blob.left -= eaten as u64;
                                None
                            }
                            Err(Paused::Error(InflateError::Bomb)) => Some(RejectReason::Bomb),
                            Err(_) => Some(RejectReason::BadCompression),
                        },
                    };
                    if let Some(why) = why {
                        let left = blob.left;
                        self.refuse(why, true, batch);
                        self.skim_blob(left);
                        return (used, None);
                    }
                }
            }
        }
    }
}

/// Why there are no more decoded bytes.
enum Paused {
    For(Need),
    Error(InflateError),
}

/// Whether a plain blob may begin with this byte: an array, or padding.
fn begins_entries(first: u8) -> bool {
    matches!(first, 0x00 | 0x90..=0x9f | 0xdc | 0xdd)
}

impl Inflate {
    /// Decodes some of `input` behind what is in the window. The entries see to it that one that is not whole stays
    /// below `entry_max`, so a larger window is large enough.
    fn more(&mut self, input: &[u8], entry_max: usize) -> Result<(usize, usize), Paused> {
        let kept = self.to - self.from;
        if self.window.len() > WINDOW && kept < WINDOW / 2 {
            // The large entry is done with.
            let mut window = vec![0; WINDOW];
            window[..kept].copy_from_slice(&self.window[self.from..self.to]);
            (self.window, self.from, self.to) = (window, 0, kept);
        }
        if self.from > 0 && self.window.len() - self.to < WINDOW / 2 {
            self.window.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, kept);
        }
        if self.to == self.window.len() && !self.window.is_empty() {
            let larger = entry_max + WINDOW;
            let Some(granted) = self.larger.take() else { return Err(Paused::For(Need::Entry(larger))) };
            // From the allocator as zero pages: what no entry reaches is never touched.
            let mut window = vec![0; WINDOW + granted];
            window[..kept].copy_from_slice(&self.window[self.from..self.to]);
            (self.window, self.from, self.to) = (window, 0, kept);
        }
        let (used, made) = self.inflater.run(input, &mut self.window[self.to..]).map_err(|error| match error {
            InflateError::NeedsMemory(bytes) => Paused::For(Need::Codec(bytes + WINDOW)),
            error => Paused::Error(error),
        })?;
        self.to += made;
        Ok((used, made))
    }
}
