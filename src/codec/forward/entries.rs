//! Entries one after another: of an array, of a blob, of what a blob decodes to, and of a batch inside an entry.
//!
//! Reads from a window onto the bytes that are there and remembers what it needs to go on with the next one, so that
//! an entry in 1-byte pieces costs O(n): the first try is optimistic; if the entry is not whole, a resumable scan
//! finds its end before the second try. An entry above the limit is passed over without being held.
//! Limits: `entry_max`. Counters: `bad_entry`, `not_a_map`, `too_deep`, `too_large`; `zero_tail`, `nested_batch`, `tag_empty`.

use crate::batch::{Batch, Scrap};
use crate::codec::msgpack::{Fault, Skip};
use crate::metrics::{Oddity, RejectReason};
use crate::record::{Tag, Timestamp};

use super::entry::{Filler, Taken};

/// Why reading entries paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The window is used up, or what is left is not a whole entry.
    Hungry,
    /// The batch is full.
    Full,
    /// All entries that were declared are read.
    Done,
    /// A byte that means nothing: the rest can not be told apart.
    Broken,
}

/// A batch inside an entry.
#[derive(Debug)]
struct Nested {
    tag: Tag,
    left: usize,
    extras: usize,
}

/// Where reading stands within the entries of one frame.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The end of an entry that was not whole is looked for: the scan, and how far it is from the entry's start.
    scan: Option<(Skip, usize)>,
    /// The rest of an entry that is no record is passed over.
    dropping: Option<Skip>,
    nested: Option<Nested>,
    /// The last value was no entry; a run of such values is counted once.
    bad_run: bool,
    /// What was refused last, while its bytes are passed over.
    caught: Option<Scrap>,
    zeros: bool,
}

impl Entries {
    /// Reads entries from `window` until something stops it; says how many bytes are done with. `left` counts the
    /// entries that were declared; a blob has no count.
    pub(super) fn run(
        &mut self,
        filler: &mut Filler,
        window: &[u8],
        mut left: Option<&mut usize>,
        tag: &Tag,
        batch: &mut Batch,
        now: Timestamp,
    ) -> (usize, Stop) {
        let mut at = 0;
        let mut index = None;
        loop {
            if let Some(skip) = &mut self.dropping {
                match skip.advance(&window[at..]) {
                    Ok(passed) => {
                        if let Some(scrap) = &mut self.caught {
                            scrap.add(&window[at..at + passed]);
                        }
                        at += passed;
                    }
                    Err(Fault::Reserved(offset)) => {
                        if let Some(scrap) = &mut self.caught {
                            scrap.add(&window[at..at + offset]);
                        }
                        return (at + offset, Stop::Broken);
                    }
                    Err(_) => return (at, Stop::Broken),
                }
                if !skip.is_done() {
                    return (at, Stop::Hungry);
                }
                self.dropping = None;
                if !self.bad_run {
                    self.end(batch);
                }
                self.count_down(&mut left);
                continue;
            }
            if let Some(extras) = self.nested.as_ref().filter(|nested| nested.left == 0).map(|nested| nested.extras) {
                self.nested = None;
                // What follows is no part of a run of bad values in it.
                self.end_run(batch);
                self.dropping = Some(Skip::values(extras as u64));
                index = None;
                continue;
            }
            if self.nested.is_none() && left.as_ref().is_some_and(|left| **left == 0) {
                return (at, Stop::Done);
            }
            let Some(first) = window.get(at) else { return (at, Stop::Hungry) };
            if *first == 0 && left.is_none() && self.nested.is_none() {
                at += window[at..].iter().take_while(|byte| **byte == 0).count();
                if !self.zeros {
                    batch.tally.odd(Oddity::ZeroTail);
                }
                self.zeros = true;
                continue;
            }
            let mut whole = false;
            if let Some((skip, pos)) = &mut self.scan {
                match skip.advance(&window[at + *pos..]) {
                    Ok(passed) => *pos += passed,
                    Err(Fault::Reserved(offset)) => return (at + *pos + offset, Stop::Broken),
                    Err(_) => return (at, Stop::Broken),
                }
                if !skip.is_done() {
                    if (*pos as u64).saturating_add(skip.owed()) <= filler.entry_max as u64 {
                        return (at, Stop::Hungry);
                    }
                    let (skip, pos) = (*skip, *pos);
                    self.scan = None;
                    self.refuse(RejectReason::TooLarge, tag, batch);
                    if let Some(scrap) = &mut self.caught {
                        scrap.add(&window[at..at + pos]);
                    }
                    at += pos;
                    self.dropping = Some(skip);
                    continue;
                }
                whole = true;
            }
            if batch.is_full() {
                return (at, Stop::Full);
            }
            let tag_of = tag;
            let tag = self.nested.as_ref().map_or(tag, |nested| &nested.tag);
            let Some(tag) = index.or_else(|| batch.shared_tag_index(tag)) else { return (at, Stop::Full) };
            index = Some(tag);
            let taken = filler.entry(&window[at..], tag, batch, now);
            self.scan = None;
            match taken {
                Taken::Row(used) => {
                    at += used;
                    self.end_run(batch);
                    self.count_down(&mut left);
                }
                Taken::Short if !whole => self.scan = Some((Skip::values(1), 0)),
                Taken::Nested { used, tag, entries, extras } if self.nested.is_none() => {
                    batch.tally.odd(Oddity::NestedBatch);
                    batch.tally.odd_by(Oddity::TagEmpty, u32::from(tag.is_empty()));
                    let text = String::from_utf8_lossy(&window[at..][tag]);
                    self.end_run(batch);
                    self.nested = Some(Nested { tag: Tag::from(&*text), left: entries, extras });
                    index = None;
                    at += used;
                }
                Taken::Bad(reason) => self.refuse(reason, tag_of, batch),
                Taken::Short | Taken::Nested { .. } => self.refuse(RejectReason::BadEntry, tag_of, batch),
                // Passing over it finds the byte.
                Taken::Reserved => self.dropping = Some(Skip::values(1)),
            }
        }
    }

    /// Rejects the value that begins now, in a frame of that tag. A run of values that are no entries is one.
    fn refuse(&mut self, reason: RejectReason, tag: &Tag, batch: &mut Batch) {
        if reason != RejectReason::BadEntry || !self.bad_run {
            batch.tally.reject(reason);
            self.end(batch);
            let tag = self.nested.as_ref().map_or(tag, |nested| &nested.tag);
            self.caught = Scrap::begin(reason, "entry", Some(tag), batch);
        }
        self.bad_run = reason == RejectReason::BadEntry;
        self.dropping = Some(Skip::values(1));
    }

    /// A run of values that are no entries is over, if there was one.
    fn end_run(&mut self, batch: &mut Batch) {
        if std::mem::take(&mut self.bad_run) {
            self.end(batch);
        }
    }

    /// What was refused last is over.
    pub(super) fn end(&mut self, batch: &mut Batch) {
        if let Some(scrap) = self.caught.take() {
            batch.scraps.add(scrap);
        }
    }

    /// Bytes that are held of it.
    pub(super) fn caught(&self) -> usize {
        self.caught.as_ref().map_or(0, |scrap| scrap.bytes.len())
    }

    /// Lets go of them.
    pub(super) fn let_go_of_caught(&mut self) {
        if let Some(scrap) = &mut self.caught {
            scrap.let_go();
        }
    }

    fn count_down(&mut self, left: &mut Option<&mut usize>) {
        match (&mut self.nested, left) {
            (Some(nested), _) => nested.left = nested.left.saturating_sub(1),
            (None, Some(left)) => **left = left.saturating_sub(1),
            (None, None) => (),
        }
    }

    /// The fewest bytes, from the start of what was not used, without which the entry at hand does not go on; and how many
    /// of them were looked at.
    pub(super) fn owed(&self) -> (u64, usize) {
        match (&self.dropping, &self.scan) {
            (None, Some((skip, pos))) => ((*pos as u64).saturating_add(skip.owed()), *pos),
            _ => (0, 0),
        }
    }

    /// Whether an entry has begun whose end is not there: at the end of a blob it is cut short, and not counted yet.
    pub(super) fn is_open(&self) -> bool {
        self.scan.is_some() || self.nested.is_some()
    }
}
