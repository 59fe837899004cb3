//! Files that are truncated in place: the copies that `copytruncate` makes of them first, and what is unread in those.
//!
//! Each truncation has its copy, and each copy is finished before the next one is begun: their last changes tell their order,
//! also once they are compressed. What is known is the newest one that is *accounted for*: read, or found to have
//! nothing unread. The next one is of what was being read, the ones after it are of content that nobody saw (filled, copied and
//! truncated again before the reader came); all of them are read, oldest first, and then the file. Should the first of them be
//! gone (removed by the rotation), the others are still read: its content tells whose copy it is.
//!
//! A copy whose content the file still begins with is of what is there: it is left alone until the file is truncated. So
//! before anything is read of a truncated file, or of one that a chain begins with, it is looked for copies once more.
//!
//! The place of a checkpoint in such a file is found the same way: a file that was truncated while longshore was stopped is
//! no other than one that was truncated between two reads.
//!
//! Limits: [`READ_MAX`] copies are remembered by who they are, for files that change within one tick of the kernel. A compressor
//! that does not keep the time of the last change makes an older copy a newer one; that is read again if nothing tells by its
//! content that it is older.
//!
//! Counters: `file_rewritten`, lost bytes `truncated` where no copy has what was unread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Chain, linger};
use crate::inputs::follow::checkpoint::CopiesKnown;
use crate::inputs::follow::clock;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{self, FileId, Mark};
use crate::inputs::follow::listing::Listing;
use crate::inputs::follow::source;
use crate::metrics::Oddity;
use crate::metrics::followed::LostBytes;

/// Copies that are remembered as read.
const READ_MAX: usize = 128;
/// File times lag behind the clock by a tick of the kernel, 10 ms at most.
const TICK: Duration = Duration::from_millis(10);

/// What is known of copies.
pub(super) struct Copies {
    /// Those that were changed last before that are accounted for, nanoseconds since 1970.
    pub(super) until: i64,
    /// Those that were read, or are to be, and their last changes.
    read: VecDeque<(FileId, i64)>,
    /// The last change of the truncated file at the time of the last look for copies.
    pub(super) sought: i64,
}

impl Copies {
    /// Nothing, of a file that was looked at when it had been changed at that time.
    pub(super) fn since(changed: i64) -> Copies {
        Copies { until: 0, read: VecDeque::new(), sought: changed }
    }

    /// A file is to be read as a copy.
    pub(super) fn add(&mut self, copy: &Arc<Held>) {
        if self.read.len() >= READ_MAX {
            self.read.pop_front();
        }
        self.read.extend(copy.look().map(|look| (copy.id, look.mtime)));
    }

    /// A file is begun. If it is a copy, it and all older ones are accounted for.
    fn begin(&mut self, held: &Arc<Held>) {
        if let Some((_, changed)) = self.read.iter().rfind(|(id, _)| *id == held.id) {
            self.until = *changed;
        }
    }

    fn are_read(&self, id: FileId) -> bool {
        self.read.iter().any(|(copy, _)| *copy == id)
    }

    /// Whether a copy is accounted for: by its time, or as one that is known, perhaps compressed since.
    fn is_known(&self, copy: &Arc<Held>, changed: i64, until: i64) -> bool {
        let is_it = |(id, of): &(FileId, i64)| *of == changed && (*id == copy.id || copy.gz);
        changed < until || self.read.iter().any(is_it)
    }
}

/// What was read of a file before it was truncated.
pub(super) struct Was {
    pub(super) held: Arc<Held>,
    pub(super) head: Mark,
    /// The mark before the offset.
    pub(super) tail: Mark,
    pub(super) offset: u64,
    /// How long it was, as far as is known.
    pub(super) seen: u64,
    /// Where it had been read to, if it is read again, and the mark before that.
    pub(super) end: Option<(Mark, u64)>,
}

impl Was {
    fn end(&self) -> (Mark, u64) {
        self.end.unwrap_or((self.tail, self.offset))
    }

    /// Whether its marks are those of content, and not of a hole.
    fn tells(&self) -> bool {
        self.head.tells() || self.end().0.tells()
    }

    /// Whether a copy has what was read, and may have more.
    fn goes_on_in(&self, copy: &Arc<Held>) -> bool {
        let (tail, end) = self.end();
        (tail.is_known() || self.head.tells()) && source::has_marks(copy, self.head, tail, end)
    }

    /// Whether a copy is of what was read, and has less of it. (One that is shorter than the head is read once more.)
    fn begins_like(&self, copy: &Arc<Held>) -> bool {
        source::has_marks(copy, self.head, Mark::default(), 0) && !has(copy, self.end().1)
    }
}

/// Whether it has so many bytes of content.
fn has(copy: &Arc<Held>, bytes: u64) -> bool {
    source::has_marks(copy, Mark::default(), Mark::default(), bytes)
}

impl Chain {
    /// The file that is read was truncated or rewritten in place. If it was copied before (`copytruncate`), the copy has what was
    /// unread; then, or at once, the file is read from its head.
    pub(super) fn rewritten(&mut self) {
        if self.is_before_place() {
            self.place_was_truncated();
            return;
        }
        let is_copy = self.reads_copy();
        let Some(source) = self.source.take() else { return };
        if is_copy {
            let lost = source.seen - source.offset;
            self.skipping = None;
            self.standing.lost(0, LostBytes::Truncated, lost);
            tracing::warn!(
                key = self.key,
                copy = source.held.name,
                offset = source.offset,
                bytes_lost_at_least = lost,
                "the copy of a truncated file was overwritten while it was read"
            );
            self.not_read_again();
            return;
        }
        let head = self.progress.lock().spans.back().map(|span| span.head).unwrap_or_default();
        let (tail, offset, seen) = (source.tail(), source.offset, source.seen);
        self.tally.odd(Oddity::FileRewritten);
        let end = self.again.end.filter(|_| self.position < self.again.until);
        if end.is_none()
            && let Some(span) = self.progress.lock().spans.back_mut()
        {
            span.end = tail;
        }
        self.was_truncated(Was { held: source.held, head, tail, offset, seen, end });
    }

    /// The same for a file of which so much was read.
    pub(super) fn was_truncated(&mut self, was: Was) {
        self.skipping = None;
        self.truncated = Some(was.held.id);
        if self.queue.iter().any(|held| held.id == was.held.id) {
            self.begin_copy_earlier(&was);
            return;
        }
        let (goes_on, copies, until) = self.copies_of(&was, self.copies.until);
        self.copies.until = until;
        // What was read of it and not delivered is gone, too.
        let read = self.again.until.saturating_sub(self.position.max(self.replay_until));
        if !goes_on || was.offset == 0 {
            // Nothing is left to be made for a join.
            self.position = self.position.max(self.replay_until);
        }
        let lost = if goes_on { 0 } else { was.seen.saturating_sub(was.offset).max(read) };
        // Copied and truncated more than once: the first of the copies is gone, or nothing of it was unread.
        self.standing.lost(0, LostBytes::Truncated, lost);
        let (key, file, offset) = (&self.key, &was.held.name, was.offset);
        if copies.is_empty() {
            let size = was.held.look().map_or(0, |look| look.size);
            tracing::warn!(
                key,
                file,
                offset,
                size,
                bytes_lost_at_least = lost,
                "a file was truncated or rewritten in place, and no copy of it has more; it is read from its head"
            );
        } else {
            let (copy, copies) = (&copies[0].name, copies.len());
            tracing::info!(
                key,
                file,
                copy,
                offset,
                copies,
                bytes_lost_at_least = lost,
                "a file was copied and truncated; what is unread is read from its copies"
            );
        }
        self.read_copies(was.held, copies, if goes_on { offset } else { 0 });
    }

    /// A truncated file whose copies wait before it was to be read again, for what was read of it was not delivered: its copy is
    /// begun where that begins.
    fn begin_copy_earlier(&mut self, was: &Was) {
        let copy = self.queue.front().map(Arc::clone);
        let own = |copy: &Arc<Held>| was.head.is_known() && source::has_marks(copy, was.head, was.tail, was.offset);
        if let Some(copy) = copy.filter(|copy| self.begun.iter().any(|(id, _)| *id == copy.id) && own(copy)) {
            self.begin_at(copy.id, was.offset);
            return;
        }
        self.position = self.position.max(self.replay_until);
        let lost = self.again.until.saturating_sub(self.position);
        self.standing.lost(0, LostBytes::Truncated, lost);
        tracing::warn!(
            key = self.key,
            file = was.held.name,
            offset = was.offset,
            bytes_lost_at_least = lost,
            "a file was truncated before what was read of it was delivered, and no copy of that is there"
        );
    }

    /// The copies that have something unread of a file that was truncated, oldest first, and whether the first of them goes on
    /// where it was read to. Those before a time are accounted for; up to which they are then.
    pub(super) fn copies_of(&mut self, was: &Was, until: i64) -> (bool, Vec<Arc<Held>>, i64) {
        let mut copies = self.copies_there(&was.held, None);
        let is_new = |(copy, changed): &(Arc<Held>, i64)| !self.copies.is_known(copy, *changed, until);
        let goes_on = |(copy, _): &(Arc<Held>, i64)| was.goes_on_in(copy);
        let held = |copies: Vec<(Arc<Held>, i64)>| copies.into_iter().map(|(copy, _)| copy).collect();
        let first = copies.iter().position(|copy| is_new(copy) && goes_on(copy));
        // Of what begins with a hole, and was not read beyond that, each copy with a longer one seems to go on.
        let known = || copies.iter().rposition(goes_on).filter(|_| was.tells());
        if let Some(at) = first.or_else(known) {
            return (true, held(copies.split_off(at)), until);
        }
        copies.retain(is_new);
        match copies.first() {
            Some((copy, _)) if was.begins_like(copy) && has(copy, was.offset) => (true, held(copies), until),
            Some((copy, changed)) if was.begins_like(copy) => {
                let until = changed.saturating_add(1);
                (false, held(copies.split_off(1)), until)
            }
            _ => (false, held(copies), until),
        }
    }

    /// The copies of a file that have a name, oldest first, with their last changes. Not those of what it has now, nor what
    /// is read anyway.
    fn copies_there(&mut self, file: &Arc<Held>, listing: Option<&mut Listing>) -> Vec<(Arc<Held>, i64)> {
        // What changes within the same tick has the same time.
        let (changed, now) = (file.look().map_or(0, |look| look.mtime), nanos(clock::wall().saturating_sub(TICK)));
        self.copies.sought = if changed < now { changed } else { 0 };
        let all = self.family.copies(listing);
        let mut copies: Vec<(Arc<Held>, i64)> = Vec::new();
        // The newest comes first, by its name.
        for copy in all.iter().rev() {
            let Ok(look) = copy.look() else { continue };
            // Beside its plain file a compressed one is still being written.
            let is_plain = |other: &Arc<Held>| copy.name.strip_suffix(".gz") == Some(&*other.name);
            if copy.id != file.id
                && !is_older(copy, file)
                && look.size > 0
                && !all.iter().any(is_plain)
                && !self.reads(copy, look.mtime)
                && !is_begun_with(file, copy, look.size)
            {
                copies.push((Arc::clone(copy), look.mtime));
            }
        }
        copies.sort_by_key(|(copy, changed)| (*changed, copy.gz));
        // A compressed one keeps the time of the plain one.
        let head = |held: &Arc<Held>| source::head_of(held).ok();
        copies.dedup_by(|(copy, changed), (plain, of)| {
            copy.gz && !plain.gz && changed == of && head(copy) == head(plain)
        });
        copies
    }

    /// Whether a sibling is read, or will be read anyway, and is no copy.
    fn reads(&self, copy: &Arc<Held>, changed: i64) -> bool {
        let lingers = |late: &linger::Lingering| {
            let source = &late.source;
            // Of a hole there may be many.
            (source.held.id == copy.id || copy.gz && source.tail().tells())
                && source::has_marks(copy, Mark::default(), source.tail(), source.offset)
        };
        self.queue.iter().any(|held| held.id == copy.id)
            || self.lingering.iter().any(lingers)
            // Of the others time tells, which is less work.
            || (self.rules.docker || changed >= self.copies.until) && self.was_read(copy) == Some(true)
    }

    /// A file of which nothing was read since it was truncated, or since it was met, has these first bytes, or none. If it had others
    /// before, which were copied and truncated before anybody looked, those come first: true, and the file is read once
    /// more after them.
    pub(super) fn read_copies_before(&mut self, listing: &mut Listing) -> bool {
        let unchanged = |source: &source::Source| source.held.look().is_ok_and(|look| look.mtime == self.copies.sought);
        let Some(file) = self.source.as_ref().filter(|source| !unchanged(source)) else { return false };
        let file = Arc::clone(&file.held);
        let copies = self.copies_there(&file, Some(listing)).into_iter();
        let copies: Vec<_> =
            copies.filter(|(copy, changed)| !self.copies.is_known(copy, *changed, self.copies.until)).collect();
        // What was renamed is not truncated: what is compressed of it, if only since the last line above, is its own.
        if copies.is_empty() || identity::id_of(&self.family.path()) != Some(file.id) {
            return false;
        }
        self.source = None;
        self.read_copies(file, copies.into_iter().map(|(copy, _)| copy).collect(), 0);
        true
    }

    /// Copies first, the first of them from an offset on, then `file` from its head.
    fn read_copies(&mut self, file: Arc<Held>, copies: Vec<Arc<Held>>, offset: u64) {
        copies.iter().for_each(|copy| self.copies.add(copy));
        let mut all = copies.into_iter().chain([file]);
        let Some(first) = all.next() else { return };
        for held in all.rev() {
            self.queue.push_front(held);
        }
        self.copies.begin(&first);
        self.open(first, offset);
    }

    /// A file of the queue is begun.
    pub(super) fn account_for(&mut self, next: &Arc<Held>) {
        self.copies.begin(next);
        // What is older than a file that follows a renamed one is none of its copies.
        if self.truncated.is_none() {
            self.copies.until = self.copies.until.max(nanos(clock::wall()));
        }
    }

    /// A file was read as far as it goes by now. Once it is renamed and compressed it keeps the time of its last change, and is
    /// no copy of the one that follows it.
    pub(super) fn account_for_read(&mut self, held: &Arc<Held>) {
        if !self.copies.are_read(held.id) {
            let changed = held.look().map_or(0, |look| look.mtime);
            self.copies.until = self.copies.until.max(just_after(changed));
        }
    }

    /// Whether what is being read is the copy of a truncated file.
    pub(super) fn reads_copy(&self) -> bool {
        self.source.as_ref().is_some_and(|source| self.copies.are_read(source.held.id))
    }

    /// What is known of copies, for who is to go on with a file.
    pub(super) fn copies_known(&self, held: &Arc<Held>) -> CopiesKnown {
        let of = self.truncated.filter(|_| self.copies.are_read(held.id));
        CopiesKnown { until: self.copies.until, emptied: self.truncated == Some(held.id), of }
    }
}

pub(super) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// Up to when copies are accounted for by one that was changed then. A clock that was ahead for a moment would hide all copies
/// until it is that late.
pub(super) fn just_after(changed: i64) -> i64 {
    changed.min(nanos(clock::wall())).saturating_add(1)
}

/// Whether a file was made before another one, and is none of its copies: what was renamed. Of a compressed one nobody knows.
pub(super) fn is_older(copy: &Arc<Held>, file: &Arc<Held>) -> bool {
    !copy.gz && 0 < copy.id.btime && copy.id.btime < file.id.btime
}

/// Whether a file begins with all that is in a copy: it was not truncated since, or not yet.
pub(super) fn is_begun_with(file: &Arc<Held>, copy: &Arc<Held>, size: u64) -> bool {
    // What is compressed was whole, and its file truncated before.
    if copy.gz {
        return false;
    }
    let tail = copy.file().and_then(|copy| identity::tail_of(&copy, size));
    let (Ok(head), Ok(tail)) = (source::head_of(copy), tail) else { return false };
    size > 0 && head.is_known() && source::has_marks(file, head, tail, size)
}
