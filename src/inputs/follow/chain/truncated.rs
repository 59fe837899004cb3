//! Files that are truncated in place: the copies that `copytruncate` makes of them first, and what is unread in those.
//!
//! The copy of what was being read is known by its head and by what was read last. Under load a reader comes late by
//! whole rounds (filled, copied, truncated, filled again): copies that were written since the file had what was known of
//! it are of content that nobody saw, and are read too, oldest first. Limit: [`READ_MAX`] copies are remembered.
//!
//! Counters: `file_rewritten`, lost bytes `truncated` where no copy has what was unread.

use std::sync::Arc;
use std::time::Duration;

use super::{Chain, linger};
use crate::inputs::follow::clock;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{FileId, HEAD_BYTES, Mark};
use crate::inputs::follow::source::{self, Source};
use crate::metrics::Oddity;
use crate::metrics::followed::LostBytes;

/// Copies that are remembered as read.
const READ_MAX: usize = 128;
/// File times lag behind the clock by a tick of the kernel, 10 ms at most.
const TICK: Duration = Duration::from_millis(10);

/// A copy that was read to its end.
pub(super) struct Ended {
    head: Mark,
    tail: Mark,
    offset: u64,
    changed: i64,
}

impl Ended {
    pub(super) fn of(source: &Source) -> Option<Ended> {
        let head = source::head_of(&source.held).ok().filter(|head| head.is_known())?;
        let changed = source.held.look().ok()?.mtime;
        Some(Ended { head, tail: source.tail(), offset: source.offset, changed })
    }
}

impl Chain {
    /// The file was truncated or rewritten in place. If it was copied before (`copytruncate`), the copy has what was
    /// unread; then, or at once, the file is read from its head.
    pub(super) fn rewritten(&mut self) {
        let is_copy = self.reads_copy();
        let Some(source) = self.source.take() else { return };
        let size = source.held.look().map_or(0, |look| look.size);
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
        self.tally.odd(Oddity::FileRewritten);
        self.skipping = None;
        self.truncated = Some(source.held.id);
        if self.queue.iter().any(|held| held.id == source.held.id) {
            self.begin_copy_earlier(&source, head);
            return;
        }
        let copies = self.copies_since(&source, head);
        // What was read of it and not delivered is gone, too.
        let read = self.again.until.saturating_sub(self.position);
        if copies.first().is_none_or(|(_, offset)| *offset == 0) {
            // Nothing is left to be made for a join.
            self.position = self.position.max(self.replay_until);
        }
        let Some((first, offset)) = copies.first().cloned() else {
            let lost = (source.seen - source.offset).max(read);
            self.standing.lost(0, LostBytes::Truncated, lost);
            tracing::warn!(
                key = self.key,
                file = source.held.name,
                offset = source.offset,
                size,
                bytes_lost_at_least = lost,
                "a file was truncated or rewritten in place, and no copy of it is there; it is read from its head"
            );
            self.open(source.held, 0);
            return;
        };
        tracing::info!(
            key = self.key,
            file = source.held.name,
            copy = first.name,
            offset,
            copies = copies.len(),
            "a file was copied and truncated; what is unread is read from its copies"
        );
        if offset == 0 {
            // Copied and truncated more than once: the first of the copies is gone, or nothing of it was unread.
            self.standing.lost(0, LostBytes::Truncated, (source.seen - source.offset).max(read));
        }
        self.read_copies(source.held, copies);
    }

    /// A truncated file whose copies wait before it was to be read again, for what was read of it was not delivered: its copy is
    /// begun where that begins.
    fn begin_copy_earlier(&mut self, source: &Source, head: Mark) {
        let copy = self.queue.front().map(Arc::clone);
        let own = |copy: &Arc<Held>| head.is_known() && source::has_marks(copy, head, source.tail(), source.offset);
        if let Some(copy) = copy.filter(|copy| self.begun.iter().any(|(id, _)| *id == copy.id) && own(copy)) {
            self.begin_at(copy.id, source.offset);
            return;
        }
        let lost = self.again.until.saturating_sub(self.position);
        self.position = self.position.max(self.replay_until);
        self.standing.lost(0, LostBytes::Truncated, lost);
        tracing::warn!(
            key = self.key,
            file = source.held.name,
            offset = source.offset,
            bytes_lost_at_least = lost,
            "a file was truncated before what was read of it was delivered, and no copy of that is there"
        );
    }

    /// The copies that were made of a file since it had what was read of it, oldest first, and where each is to be read
    /// from: the sibling with its head, and with what was read last before the same offset, goes on there. Those that
    /// were written since, and are not that one, are of content that nobody saw: the file was filled, copied and
    /// truncated again before the reader came.
    pub(super) fn copies_since(&mut self, source: &Source, head: Mark) -> Vec<(Arc<Held>, u64)> {
        let looked = clock::wall();
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        // What changes within the same tick has the same time.
        let changed = source.held.look().map_or(0, |look| look.mtime);
        self.copies_sought = if changed < nanos(looked.saturating_sub(TICK)) { changed } else { 0 };
        let since = nanos(self.agreed.saturating_sub(TICK));
        let copies = self.family.copies();
        let mut unread: Vec<(i64, Arc<Held>, u64)> = Vec::new();
        let mut goes_on = false;
        for copy in &copies {
            // Beside its plain file a compressed one is still being written.
            let named = |name: &str| copies.iter().any(|copy| *copy.name == *name);
            let Ok(look) = copy.look() else { continue };
            if copy.id == source.held.id
                || copy.name.strip_suffix(".gz").is_some_and(named)
                || self.reads(copy, look.mtime)
            {
                continue;
            }
            if head.is_known() && source::has_marks(copy, head, source.tail(), source.offset) {
                unread.push((look.mtime, Arc::clone(copy), source.offset));
                goes_on = true;
                break;
            }
            if look.mtime >= since && look.size > 0 {
                unread.push((look.mtime, Arc::clone(copy), 0));
            }
        }
        // Where none goes on there, what was copied in the tick of the last read had less than that found.
        let read = nanos(self.agreed + TICK);
        unread.retain(|(mtime, ..)| goes_on || !head.is_known() || *mtime > read);
        // A compressed one keeps the time of the plain one. The newest came first, by its name.
        unread.reverse();
        unread.sort_by_key(|(mtime, ..)| *mtime);
        // What is copied from here on is newer.
        self.agreed = looked;
        unread.into_iter().map(|(_, copy, offset)| (copy, offset)).collect()
    }

    /// Whether a sibling is read, was read or will be read anyway.
    fn reads(&self, copy: &Arc<Held>, changed: i64) -> bool {
        let lingers = |late: &linger::Lingering| {
            let source = &late.source;
            source.held.id == copy.id && source::has_marks(copy, Mark::default(), source.tail(), source.offset)
        };
        self.queue.iter().any(|held| held.id == copy.id)
            || self.is_read_copy(copy, changed)
            || self.lingering.iter().any(lingers)
            || self.rules.docker && self.was_read(copy) == Some(true)
    }

    /// Whether it is a copy that was read, or is that one compressed: with its time and its head.
    fn is_read_copy(&self, copy: &Arc<Held>, changed: i64) -> bool {
        let same_time = |(_, time, _): &&(FileId, i64, Mark)| *time == changed;
        self.copies_read.iter().filter(same_time).any(|(id, _, head)| {
            *id == copy.id || copy.gz && head.is_known() && source::head_of(copy).is_ok_and(|own| own == *head)
        })
    }

    /// A file that was truncated has its first `n` bytes, or none. If it had others before, which were copied and
    /// truncated again before anybody looked, those come first: true, and the file is read once more after them.
    pub(super) fn read_copies_before(&mut self, buf: &[u8], n: usize) -> bool {
        let Some(source) =
            self.source.take_if(|source| source.held.look().is_ok_and(|look| look.mtime != self.copies_sought))
        else {
            return false;
        };
        let copies = self.copies_since(&source, Mark::default());
        // One alone may be a copy of what was just read.
        let head = Mark::of(&source.data(buf, n)[..n.min(HEAD_BYTES)]);
        let own = |(copy, _): &(Arc<Held>, u64)| head.is_known() && source::has_marks(copy, head, Mark::default(), 0);
        let some = copies.len() > 1 || copies.first().is_some_and(|copy| !own(copy));
        if some {
            self.read_copies(source.held, copies);
        } else {
            self.source = Some(source);
        }
        some
    }

    /// Copies first, then `held` from its head.
    pub(super) fn read_copies(&mut self, held: Arc<Held>, copies: Vec<(Arc<Held>, u64)>) {
        self.queue.push_front(held);
        for (copy, _) in &copies {
            if self.copies_read.len() >= READ_MAX {
                self.copies_read.pop_front();
            }
            let head = source::head_of(copy).unwrap_or_default();
            self.copies_read.extend(copy.look().map(|look| (copy.id, look.mtime, head)));
        }
        let mut copies = copies.into_iter();
        let first = copies.next();
        for (copy, _) in copies.rev() {
            self.queue.push_front(copy);
        }
        if let Some((copy, offset)) = first {
            self.open(copy, offset);
        }
    }

    /// A truncated file that was copied again, and not truncated again yet, has what was just read from its copy: where
    /// to go on in it. By its time too, for a program may write the same lines once more.
    pub(super) fn read_as_copy(&mut self, held: &Arc<Held>) -> Option<u64> {
        let copy = self.copy_ended.take()?;
        let same =
            held.look().ok()?.mtime <= copy.changed && source::has_marks(held, copy.head, copy.tail, copy.offset);
        same.then_some(copy.offset)
    }

    /// Whether what is being read is the copy of a truncated file.
    pub(super) fn reads_copy(&self) -> bool {
        let Some(source) = &self.source else { return false };
        self.truncated.is_some_and(|file| file != source.held.id)
            && self.copies_read.iter().any(|(copy, ..)| *copy == source.held.id)
    }
}
