//! One chain's progress, shared by the chain (which reads), the receipts (which settle) and the checkpoints (which
//! save): the map from positions of the chain to files and offsets, and the tracker.
//!
//! Positions count content bytes over all generations of a chain. A span maps a run of them to one file; files are
//! held until everything in them was delivered, so that what was not can be read again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::checkpoint::{Checkpoints, CopiesKnown, Key, Place, Saved};
use super::generations::Held;
use super::identity::{self, FileId, HEAD_BYTES};
use super::tracker::{Mark, Tracker};
use crate::batch::{Outcome, Waiter};

/// A run of positions that lies in one file.
#[derive(Clone, Debug)]
pub struct Span {
    /// First position.
    pub start: u64,
    /// Content offset of it in the file.
    pub from: u64,
    /// The file.
    pub held: Arc<Held>,
    /// After which file its records are named: itself, or the one that it is the copy of.
    pub named: FileId,
    /// Its head, as far as it is known.
    pub head: identity::Mark,
    /// What came to a renamed file while the next one was read already.
    pub late: bool,
    /// What was known of copies of the chain's file when it was begun.
    pub copies: CopiesKnown,
    /// The mark before its beginning, if it does not begin a file.
    pub tail: identity::Mark,
    /// The mark before where it was read to, if the file was truncated then or is to be read again.
    pub end: identity::Mark,
}

impl Span {
    /// One that begins at that content offset of a file, of which nothing more is known.
    pub fn of(held: &Arc<Held>, start: u64, from: u64) -> Span {
        Span {
            start,
            from,
            held: Arc::clone(held),
            named: held.id,
            head: identity::Mark::default(),
            late: false,
            copies: CopiesKnown::default(),
            tail: identity::Mark::default(),
            end: identity::Mark::default(),
        }
    }
}

/// What is shared, behind its lock.
#[derive(Debug)]
pub struct Inner {
    /// The chain's spans, oldest first; the last one is being read.
    pub spans: VecDeque<Span>,
    /// What was delivered.
    pub tracker: Tracker,
    /// Whether `saved` would say something new.
    dirty: bool,
    /// What is stored while there is no file to read, while `untold` (the file of that place is gone, or that of its hold), and
    /// while `awaits`.
    stays: Option<Saved>,
    /// Until the first range is settled the stored place stays: what it is about is gone, and that is not told yet.
    pub untold: bool,
    /// The same until the range of that number is settled, after a start before the file of the place: no span has the place until
    /// that file is begun. What of older files is delivered meanwhile comes again after a stop.
    awaits: Option<u64>,
}

/// One chain's progress. Locked once a batch by each side.
#[derive(Debug)]
pub struct Progress {
    inner: Mutex<Inner>,
    /// Weak: the checkpoints hold the progress of every live chain.
    checkpoints: Weak<Checkpoints>,
    /// As which they know it.
    key: OnceLock<Key>,
    /// They know that it has news.
    stirred: AtomicBool,
}

impl Progress {
    /// Progress of a chain whose everything before `mark` was delivered.
    pub fn new(mark: Mark, checkpoints: Option<&Arc<Checkpoints>>) -> Arc<Progress> {
        let tracker = Tracker::new(mark);
        let inner = Inner { spans: VecDeque::new(), tracker, dirty: true, stays: None, untold: false, awaits: None };
        let checkpoints = checkpoints.map(Arc::downgrade).unwrap_or_default();
        let (key, stirred) = (OnceLock::new(), AtomicBool::new(true));
        Arc::new(Progress { inner: Mutex::new(inner), checkpoints, key, stirred })
    }

    /// The checkpoints look at it from now on when it has news.
    pub fn is_known_as(&self, key: &Key) {
        // Once: a chain has one.
        let _ = self.key.set(key.clone());
    }

    /// Tells the checkpoints that there is news.
    fn tell(&self, bytes: u64, urgent: bool) {
        if let Some(checkpoints) = self.checkpoints.upgrade() {
            let key = self.key.get().filter(|_| !self.stirred.swap(true, Ordering::AcqRel));
            checkpoints.touch_chain(key, bytes, urgent);
        }
    }

    /// The shared part.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a stored place (or of its hold, if that is in what is stored) is gone, and is counted as lost by now. The place
    /// stays, with a note of that, until there is a file to read and, if `untold`, the first range is settled.
    pub fn stay(&self, saved: Saved, untold: bool) {
        {
            let mut inner = self.lock();
            inner.stays = Some(Saved { lost: true, ..saved });
            (inner.untold, inner.dirty) = (untold, true);
        }
        self.tell(0, false);
    }

    /// Reading begins at the hold of a stored place, in another file: what is stored stays until that range is settled.
    pub fn stay_until(&self, range: u64, saved: &Saved) {
        let mut inner = self.lock();
        (inner.stays, inner.awaits) = (Some(saved.clone()), Some(range));
    }

    /// Whether the file of the place is still to be begun, or what precedes it to be settled.
    pub fn awaits(&self) -> bool {
        self.lock().awaits.is_some()
    }

    /// Nothing is read of the file of the place.
    pub fn await_no_place(&self) {
        self.lock().awaits = None;
        self.generation_ended();
    }

    /// Settles a range of the tracker, and tells the checkpoints.
    pub fn settle(&self, number: u64, delivered: bool) {
        let (moved, told) = {
            let mut inner = self.lock();
            let front = inner.tracker.front();
            let moved = inner.tracker.settle(number, delivered);
            // What is to be told is the first range, and has no bytes.
            let told = inner.untold && inner.tracker.front() > front;
            inner.untold &= !told;
            let now = inner.tracker.front();
            let awaited = inner.awaits.take_if(|range| front < now && *range < now).is_some();
            inner.dirty |= moved > 0 || told || awaited;
            (moved, told || awaited)
        };
        if moved > 0 || told {
            self.tell(moved, told);
        }
    }

    /// A generation is at its end: worth a checkpoint soon.
    pub fn generation_ended(&self) {
        self.lock().dirty = true;
        self.tell(0, true);
    }

    /// Whether everything that was read is delivered, and the stored checkpoint says so (where there is one).
    pub fn is_at_rest(&self) -> bool {
        let inner = self.lock();
        inner.tracker.is_idle() && !inner.untold && (!inner.dirty || self.checkpoints.upgrade().is_none())
    }

    /// Whether the fate of something that was read is not known yet.
    pub fn is_under_way(&self) -> bool {
        self.lock().tracker.is_under_way()
    }

    /// Where the first byte lies that is not delivered; `None` before the first file is begun.
    pub fn undelivered(&self) -> Option<Undelivered> {
        let inner = self.lock();
        let done = inner.tracker.mark().done;
        let idle = inner.tracker.is_idle();
        inner.undelivered_at(done, idle)
    }

    /// The same for the first byte that is not read, of the newest file that is. (What comes late to a renamed one is read
    /// beside that.)
    pub fn unread(&self) -> Option<Undelivered> {
        let inner = self.lock();
        let (end, idle) = (inner.tracker.end(), inner.tracker.is_idle());
        let at = inner.spans.iter().rposition(|span| !span.late && span.start <= end);
        let read = at.and_then(|at| inner.spans.get(at + 1)).map_or(end, |next| next.start.min(end));
        Some(Undelivered { done: end, ..inner.undelivered_at(read, idle)? })
    }

    /// What a checkpoint says of this chain for good.
    pub fn last_saved(&self) -> Option<Saved> {
        self.lock().saved()
    }

    /// What a checkpoint says of this chain, if that changed since it was asked last.
    pub fn take_saved(&self) -> Option<Saved> {
        // Before it is asked: what comes in between is told once more.
        self.stirred.store(false, Ordering::Release);
        let mut inner = self.lock();
        std::mem::take(&mut inner.dirty).then(|| inner.saved()).flatten()
    }
}

/// A place in what is held of a chain.
#[derive(Debug)]
pub struct Undelivered {
    /// The file.
    pub held: Arc<Held>,
    /// Content offset in it.
    pub offset: u64,
    /// Bytes of the chain before it.
    pub done: u64,
    /// Nothing is on its way.
    pub idle: bool,
}

impl Inner {
    fn undelivered_at(&self, done: u64, idle: bool) -> Option<Undelivered> {
        let span = self.span_of(done)?;
        Some(Undelivered { held: Arc::clone(&span.held), offset: span.from + (done - span.start), done, idle })
    }

    /// The file and content offset of a position.
    pub fn span_of(&self, position: u64) -> Option<&Span> {
        self.spans.iter().rev().find(|span| span.start <= position)
    }

    /// Lets go of files whose everything was delivered. The last span always stays.
    pub fn prune(&mut self) {
        let mark = self.tracker.mark();
        let needed = mark.hold.unwrap_or(mark.done).min(mark.done);
        // The span before `needed` stays too while none that follows has content to be recognised by.
        let begun = |span: &Span| span.start <= needed && span.head.is_known();
        let first = self.spans.iter().rposition(begun).unwrap_or(0);
        self.spans.drain(..first);
    }

    /// Whether a file is part of what was not delivered yet.
    pub fn holds(&self, id: FileId) -> bool {
        self.spans.iter().any(|span| span.held.id == id)
    }

    /// The file of the place has nothing of what was delivered: all of that ends at `from`, and the next range is behind it.
    pub fn await_next(&mut self, from: u64) {
        self.tracker.lower(from);
        self.awaits = self.awaits.and(Some(self.tracker.opened()));
    }

    /// The range that was awaited is forgotten: another one will say so.
    pub fn await_again(&mut self) {
        self.awaits = self.awaits.and(Some(u64::MAX));
    }

    /// The file of the place is read from position `from` on, and of it everything before `after.done` was delivered. Gives the number of
    /// the range that says so, to be settled.
    pub fn begin_place(&mut self, from: u64, after: Mark) -> u64 {
        self.tracker.lower(from);
        let number = self.tracker.open(after);
        self.awaits = self.awaits.and(Some(number));
        number
    }

    fn saved(&mut self) -> Option<Saved> {
        if self.untold || self.awaits.is_some() || self.spans.is_empty() {
            return self.stays.clone();
        }
        for span in &mut self.spans {
            if !span.held.gz && (span.head.len as usize) < HEAD_BYTES {
                // A file that can not be read keeps the mark it has.
                span.head = span.held.file().and_then(|file| identity::grown(&file, span.head)).unwrap_or(span.head);
            }
        }
        let mark = self.tracker.mark();
        let mut done = self.place(mark.done, Some(mark.tail))?;
        // Within the hole that a truncated file begins with, or its copy, nothing was read, and nothing tells it from the hole of
        // another one.
        let may_be = done.copies.emptied || done.copies.of.is_some();
        if may_be && mark.hold.is_none() && done.is_in_hole() {
            (done.offset, done.tail) = (0, identity::Mark::default());
        }
        let hold = match mark.hold {
            Some(hold) if hold < mark.done => {
                self.place(hold, None).map(|place| (place, mark.done - hold - self.not_again(hold, mark.done)))
            }
            _ => None,
        };
        Some(Saved { done, hold, last: mark.time, lost: false })
    }

    /// Bytes between two positions that are not read again by who begins at the first one: late ones of a file that is older
    /// than the one there.
    fn not_again(&self, from: u64, to: u64) -> u64 {
        let ends = self.spans.iter().skip(1).map(|span| span.start).chain([u64::MAX]);
        let spans = self.spans.iter().zip(ends);
        let is_read =
            |late: &Span| spans.clone().any(|(span, end)| !span.late && span.held.id == late.held.id && end > from);
        let late = spans.clone().filter(|(span, _)| span.late && !is_read(span));
        late.map(|(span, end)| end.min(to).saturating_sub(span.start.max(from))).sum()
    }

    fn place(&self, position: u64, tail: Option<identity::Mark>) -> Option<Place> {
        let at = self.spans.iter().rposition(|span| span.start <= position)?;
        // At the border of two files the newer one says more, but only if it has content to be recognised by.
        let older = at > 0 && self.spans[at].start == position && !self.spans[at].head.is_known();
        let span = &self.spans[if older { at - 1 } else { at }];
        let offset = span.from + (position - span.start);
        let tail = match tail {
            _ if offset == 0 => identity::Mark::default(),
            // Taken when the range was read; at the first position of a span it is of the file before.
            Some(tail) if tail.is_known() && position > span.start => tail,
            _ if position == span.start && span.tail.is_known() => span.tail,
            _ if span.held.gz => identity::Mark::default(),
            _ => span.held.file().and_then(|file| identity::tail_of(&file, offset)).unwrap_or_default(),
        };
        let size = span.held.look().map_or(0, |look| look.size);
        Some(Place {
            id: span.held.id,
            name: span.held.name.to_string(),
            head: span.head,
            tail,
            offset,
            size,
            next: older.then(|| self.spans[at].held.id),
            named: Some(span.named).filter(|named| *named != span.held.id),
            copies: span.copies,
        })
    }
}

/// Settles one range when its last receipt is.
pub struct RangeWaiter {
    /// Whose range.
    pub progress: Arc<Progress>,
    /// Its number.
    pub number: u64,
}

impl Waiter for RangeWaiter {
    fn settled(&self, worst: Outcome) {
        self.progress.settle(self.number, worst.is_final());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::follow::generations;

    #[test]
    fn an_empty_file_between_two_others_does_not_hold_what_was_delivered_before_it() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let held = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
            generations::open(&dir.path().join(name)).expect("opens")
        };
        let (old, empty, new) = (held("o", "one\n"), held("e", ""), held("n", "two\n"));
        let progress = Progress::new(Mark { done: 4, ..Mark::default() }, None);
        let add = |held: &Arc<Held>, start, head| {
            let mut inner = progress.lock();
            inner.spans.push_back(Span { head, ..Span::of(held, start, 0) });
            inner.prune();
            inner.spans.iter().map(|span| span.held.name.to_string()).collect::<Vec<_>>()
        };
        add(&old, 0, identity::Mark::of(b"one\n"));
        assert_eq!(add(&empty, 4, identity::Mark::default()), ["o", "e"]);
        assert_eq!(add(&new, 4, identity::Mark::default()), ["o", "e", "n"], "nothing to be recognised by");
        progress.lock().spans[2].head = identity::Mark::of(b"two\n");
        progress.lock().prune();
        assert_eq!(add(&empty, 8, identity::Mark::default()), ["n", "e"]);
        assert_eq!(Arc::strong_count(&old), 1);
    }

    #[test]
    fn late_bytes_count_as_read_ahead_only_where_their_file_is_read_again() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let file = |name: &str| {
            std::fs::write(dir.path().join(name), name.repeat(200)).expect("written");
            generations::open(&dir.path().join(name)).expect("opens")
        };
        let (old, new) = (file("o"), file("n"));
        let spans = [(0, 0, &old, false), (100, 0, &new, false), (150, 100, &old, true), (170, 50, &new, false)];
        let ahead = |hold| {
            let progress = Progress::new(Mark { done: 200, hold: Some(hold), ..Mark::default() }, None);
            progress
                .lock()
                .spans
                .extend(spans.map(|(start, from, held, late)| Span { late, ..Span::of(held, start, from) }));
            let saved = progress.lock().saved().expect("known spans");
            let (place, ahead) = saved.hold.expect("it holds");
            (place.name, place.offset, ahead)
        };
        // Of the new file, 80 bytes are read; the 20 late ones between are of one that is not opened again.
        assert_eq!(ahead(140), ("n".to_owned(), 40, 40));
        assert_eq!(ahead(180), ("n".to_owned(), 60, 20));
        // From the old one on, all of it is: 30 bytes of that, then the new one's.
        assert_eq!(ahead(90), ("o".to_owned(), 90, 110));
    }
}
