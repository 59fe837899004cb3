//! What is *replayed* after a start: lines between the beginning of an unfinished line and the place, which were delivered. They are
//! read for that line only, up to `replay_until`, and none of them is sent.
//!
//! Where that begins in an older file than that of the place, only as much of the older ones is replayed as lay in them then. Once the
//! place's own file is begun it is replayed up to the place: a range says that everything before was delivered, and moves the mark
//! there as soon as what came late to older files is settled. Until then the stored checkpoint stays, for no span has its place.
//!
//! Limits: of two and more files before that of the place the bytes are known in sum only, so what came to the first of them since is
//! passed over as far as the last one has bytes, and as much of that comes twice. So it is, too, where late lines of the older file
//! have the place. If the place's file is copied and truncated between the look at it and the first read, or before it is read again,
//! pieces in it before the place are missing in the line.
//!
//! Counters: `file_rewritten`.

use std::sync::Arc;

use super::Chain;
use super::place::was_read;
use crate::inputs::Outlet;
use crate::inputs::follow::checkpoint::Place;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{FileId, Mark};
use crate::inputs::follow::progress::Span;
use crate::inputs::follow::{resume, tracker};
use crate::metrics::Oddity;

/// The end of what is replayed after a start.
pub(super) struct ReplayEnd {
    /// The file of the place.
    pub(super) id: FileId,
    /// Behind it nothing was delivered.
    pub(super) place: Box<Place>,
    /// At which position that file was begun; before that an older one is read.
    pub(super) begun: Option<u64>,
}

impl Chain {
    /// `held` is read from that offset on, as the last span. If it is the file of the place, what is replayed ends there, also where a file
    /// before it turned out to be shorter than it was (a compressed one that is damaged) or longer (late lines).
    pub(super) fn begin_place(&mut self, held: &Arc<Held>, from: u64) {
        let Some(replay) = self.replay_end.as_mut() else { return };
        let (id, place) = (replay.id, &replay.place);
        if replay.begun.is_some() {
            if id == held.id && from == 0 && self.position < self.replay_until {
                self.expect_place();
            }
            return;
        }
        let waits = self.queue.iter().any(|next| next.id == id);
        let is_there = resume::locate(std::slice::from_ref(held), place).is_some();
        // Compressed meanwhile, or copied before it was truncated, it goes on in that.
        if id != held.id && (waits || !is_there) {
            if !waits && resume::locate(self.queue.make_contiguous(), place).is_none() {
                self.pass_over_place(id);
            }
            return;
        }
        if self.filling.is_some() {
            // Rows that are still to be sent are not told from those of the place's file, which come again.
            self.replay_end = None;
            self.progress.await_no_place();
            return;
        }
        replay.begun = Some(self.position);
        if is_there {
            self.replay_place(from);
            if from == 0 {
                self.expect_place();
            }
        } else {
            let mut inner = self.progress.lock();
            inner.await_next(self.position);
            inner.spans.pop_back();
            drop(inner);
            (self.replay_until, self.ranged) = (self.position, self.position);
            self.place_was_truncated();
            self.replay_end = None;
        }
    }

    /// At the position the file of the place is read from that offset on: up to the place everything was delivered.
    fn replay_place(&mut self, from: u64) {
        let Some(place) = self.replay_end.as_ref().map(|replay| &replay.place) else { return };
        let (begun, delivered) = (self.position, place.offset.saturating_sub(from));
        let (done, tail) = (begun + delivered, if delivered > 0 { place.tail } else { Mark::default() });
        let mark = tracker::Mark { done, tail, hold: self.hold_before(done), time: self.last };
        let number = self.progress.lock().begin_place(begun, mark);
        self.progress.settle(number, true);
        (self.replay_until, self.ranged) = (done, done);
    }

    /// The file of the place is read again from the head of its span on, before it was known that what precedes it was delivered.
    pub(super) fn replay_place_again(&mut self, outlet: &Outlet, span: &Span) {
        let begun = self.replay_end.as_ref().and_then(|replay| replay.begun);
        // An empty file before it may begin there, too.
        let is_last = self.behind.front().is_none_or(|next| next.start > span.start);
        if begun == Some(span.start) && is_last && self.progress.awaits() {
            self.close(outlet);
            self.replay_place(span.from);
        }
    }

    /// What the file of the place begins with: it may be truncated before it is read.
    fn expect_place(&mut self) {
        let Some(place) = self.replay_end.as_ref().map(|replay| &replay.place) else { return };
        self.again.head = place.head;
        self.again.end = Some((place.tail, place.offset)).filter(|_| !place.head.tells());
        if let Some(span) = self.progress.lock().spans.back_mut() {
            span.head = place.head;
        }
    }

    /// Whether the file of the place is read, and nothing of it yet after the start, or since it is read again.
    pub(super) fn is_before_place(&self) -> bool {
        let begun = self.replay_end.as_ref().filter(|replay| replay.begun == Some(self.position));
        let unread = self.source.as_ref().filter(|source| source.offset == 0).map(|source| source.held.id);
        begun.is_some_and(|replay| unread == Some(replay.id)) && self.position < self.replay_until && !self.reads_copy()
    }

    /// The file of the place was truncated since it was looked at: what was unread behind the place may be in a copy.
    pub(super) fn place_was_truncated(&mut self) {
        let Some(held) = self.source.take().map(|source| source.held) else { return };
        let Some(replay) = self.replay_end.as_ref() else { return };
        let (was, end) = (was_read(&held, &replay.place), replay.begun.map_or(0, |begun| begun + replay.place.offset));
        self.position = self.position.max(end.min(self.replay_until));
        self.tally.odd(Oddity::FileRewritten);
        self.was_truncated(was);
    }

    /// The file that was read is over. If it is that of the place, what follows was not delivered, though it may have been shorter than it
    /// was.
    pub(super) fn end_place(&mut self) {
        let is_short = self.position < self.replay_until;
        // It may have to be replayed again until what precedes it is settled.
        let knows = is_short || !self.progress.awaits();
        if self.replay_end.take_if(|replay| replay.begun.is_some() && knows).is_some() {
            self.end_replay();
        }
    }

    /// Nothing behind the position was delivered.
    fn end_replay(&mut self) {
        if self.position < self.replay_until {
            self.progress.lock().tracker.lower(self.position);
            (self.replay_until, self.ranged) = (self.position, self.position);
            self.progress.generation_ended();
        }
    }

    /// What was replayed is not gone on with in its file: its rows are not to be sent with those of another one.
    pub(super) fn drop_replayed(&mut self, outlet: &Outlet) {
        if self.position < self.replay_until {
            self.close(outlet);
        }
    }

    /// A file is passed over. If it is that of the place, that is not waited for any more.
    pub(super) fn pass_over_place(&mut self, id: FileId) {
        if self.replay_end.take_if(|replay| replay.id == id && replay.begun.is_none()).is_some() {
            self.end_replay();
            self.progress.await_no_place();
        }
    }

    /// Whether an older file than that of the place is replayed.
    pub(super) fn awaits_place(&self) -> bool {
        self.replay_end.as_ref().is_some_and(|replay| replay.begun.is_none())
    }

    /// Bytes of a file that is to be read which were delivered before.
    pub(super) fn replayed_of(&self, id: FileId) -> u64 {
        let place = self.replay_end.as_ref().filter(|replay| replay.id == id && replay.begun.is_none());
        place.map_or(self.replay_until.saturating_sub(self.position), |replay| replay.place.offset)
    }
}
