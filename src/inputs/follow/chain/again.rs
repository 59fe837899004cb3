//! Reading again what was not delivered: back to the mark, and through the spans that were read since.
//!
//! A file may have been truncated since it was read. So what is found at its head must be what the span began with; if it
//! is not, the span's content is gone, and is counted as lost as far as it was read. Otherwise other lines would be taken
//! for it, out of order, and the end of the span might lie within one of them.
//!
//! What came late to a renamed file was joined by itself when it was read (see `linger.rs`), and is so again.
//!
//! Counters: lost bytes `truncated`.

use std::io;
use std::sync::Arc;

use super::Chain;
use super::truncated::Was;
use super::unreadable::{Kind, Unopened};
use crate::inputs::Outlet;
use crate::inputs::follow::checkpoint::CopiesKnown;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::Mark;
use crate::inputs::follow::progress::Span;
use crate::inputs::follow::source::{self, Found, Seat, Source};
use crate::metrics::followed::LostBytes;

/// What is known of what is read again.
#[derive(Default)]
pub(super) struct Again {
    /// The head of the span that is read.
    pub(super) head: Mark,
    /// What it ended with, and at which offset of its file.
    pub(super) end: Option<(Mark, u64)>,
    /// Everything before it was read once.
    pub(super) until: u64,
    /// What came late and ends before it was delivered with the record that its last pieces made.
    made: u64,
}

impl Again {
    /// What a read found, if it begins as it did.
    pub(super) fn checked(&self, source: &Source, buf: &[u8], found: Found) -> Found {
        let (Found::Bytes(n) | Found::End(n)) = found else { return found };
        let len = self.head.len as usize;
        let same = source.offset > 0
            || !self.head.is_known()
            || n >= len && Mark::of(&source.data(buf, n)[..len]) == self.head;
        // The hole that a truncation left says nothing. Asked after the read: what still ends as it did then did so before.
        let ends = |(end, at)| {
            self.head.tells() || source.held.gz || source::has_marks(&source.held, Mark::default(), end, at)
        };
        if same && self.end.is_none_or(ends) { found } else { Found::Rewritten }
    }
}

impl Chain {
    /// Whether everything that was read is delivered.
    pub(in crate::inputs::follow) fn is_delivered(&self) -> bool {
        self.progress.lock().tracker.is_idle()
    }

    /// Something was not delivered: everything since the mark is read again.
    pub(super) fn read_again(&mut self, outlet: &Outlet) {
        self.filling = None;
        self.lane = outlet.lane(self.rules.format.join_rule());
        (self.aside, self.skipping) = (None, None);
        // What was not begun comes after what was.
        self.queue_unopened();
        let mut inner = self.progress.lock();
        // Where it was read to, unless that is being read again.
        if let (Some(source), Some(span)) = (&self.source, inner.spans.back_mut())
            && self.behind.is_empty()
            && self.position >= self.again.until
        {
            span.end = source.tail();
        }
        let mark = inner.tracker.mark();
        inner.tracker.reset();
        if self.replay_end.is_some() {
            inner.await_again();
        }
        // Also before there is a file to read.
        if inner.untold
            && let Some(gap) = &mut self.gap
        {
            gap.told = false;
        }
        self.last = mark.time;
        let start = mark.hold.unwrap_or(mark.done).min(mark.done);
        let at = inner.spans.iter().rposition(|span| span.start <= start).unwrap_or(0);
        let Some(span) = inner.spans.get(at).cloned() else { return };
        // The file being read, if it has no span of its own content yet, is the last span already.
        self.behind = inner.spans.iter().skip(at + 1).cloned().collect();
        drop(inner);
        tracing::warn!(
            key = self.key,
            from = start,
            to = self.position,
            "records were not delivered; their lines are read again"
        );
        self.again.until = self.again.until.max(self.position);
        // The record of pieces without an end was the last that was delivered: its mark has no tail.
        self.again.made = mark.done + u64::from(!mark.tail.is_known());
        self.position = start;
        (self.replay_until, self.ranged) = (mark.done, mark.done);
        self.go_to(outlet, span, start);
    }

    /// The next of the spans that are read again.
    pub(super) fn next_behind(&mut self, outlet: &Outlet) {
        let late = self.go_on_with_aside(outlet);
        if let Some(span) = self.behind.pop_front() {
            // A line that was cut ended with its file.
            if !late && !span.late {
                self.skipping = None;
            }
            // Content that is gone meanwhile (a truncated file) leaves a gap.
            self.position = self.position.max(span.start);
            let start = span.start;
            self.replay_place_again(outlet, &span);
            self.go_to(outlet, span, start);
        }
    }

    /// If a span of what came late is over: its pieces are joined with one another only.
    fn go_on_with_aside(&mut self, outlet: &Outlet) -> bool {
        if self.aside.is_none() {
            return false;
        }
        self.close(outlet);
        if self.position >= self.again.made {
            self.flush_lane(outlet);
        }
        self.take_back_aside();
        true
    }

    /// A span that others follow ended before it ended then, or has other content: the rest of it is lost.
    pub(super) fn leave_behind(&mut self, outlet: &Outlet) {
        if let Some(span) = self.span_in_copy().or_else(|| self.span_in_named_copy()) {
            self.go_to(outlet, span, self.position);
            return;
        }
        let read = self.position.max(self.replay_until);
        let lost = self.behind.front().map_or(0, |next| next.start.saturating_sub(read));
        if lost > 0 {
            self.standing.lost(0, LostBytes::Truncated, lost);
            tracing::error!(
                key = self.key,
                file = self.source.as_ref().map(|source| &*source.held.name),
                bytes_lost_at_least = lost,
                "a file was truncated before what was read of it was delivered; the rest of that is lost"
            );
        }
        self.source = None;
        self.next_behind(outlet);
    }

    /// A file that was copied and truncated was gone on with in its copy, and that has what was read before, too: from now on
    /// it stands for the file.
    fn span_in_copy(&self) -> Option<Span> {
        let next = self.behind.front()?;
        self.change_span(|span| {
            let goes_on = span.held.id != next.held.id && next.from == span.from + (next.start - span.start);
            (goes_on && span.head.is_known() && source::has_marks(&next.held, span.head, Mark::default(), next.from))
                .then(|| (Arc::clone(&next.held), next.copies))
        })
    }

    /// The same of a copy that had nothing more when the file was truncated, perhaps less than what was read.
    fn span_in_named_copy(&mut self) -> Option<Span> {
        let span = self.span_read_again()?;
        let file = self.source.as_ref().filter(|source| source.held.id == span.held.id && span.copies.of.is_none())?;
        let (head, tail, offset) = (span.head, Mark::default(), file.offset);
        let was = Was { held: Arc::clone(&file.held), head, tail, offset, seen: 0, end: self.again.end };
        let copy = match self.copies_of(&was, span.copies.until) {
            (true, copies, _) => copies.into_iter().next()?,
            _ => return None,
        };
        let known = CopiesKnown { of: Some(span.held.id), ..span.copies };
        self.change_span(|_| Some((copy, known)))
    }

    /// The span that is read again, and that others follow.
    fn span_read_again(&self) -> Option<Span> {
        self.change_span(|span| Some((Arc::clone(&span.held), span.copies)))
    }

    /// Has another file stand for the one of that span, if there is one.
    fn change_span(&self, other: impl FnOnce(&Span) -> Option<(Arc<Held>, CopiesKnown)>) -> Option<Span> {
        let next = self.behind.front()?;
        let mut inner = self.progress.lock();
        let is_it = |span: &&mut Span| span.start <= self.position && span.start < next.start;
        let span = inner.spans.iter_mut().rfind(is_it)?;
        (span.held, span.copies) = other(span)?;
        Some(span.clone())
    }

    fn go_to(&mut self, outlet: &Outlet, span: Span, position: u64) {
        // The last span may be read on for as long as its file is.
        if span.late && !self.behind.is_empty() {
            self.put_aside(outlet, None);
        }
        // It may linger by now, or have been left: then it is read by one of them.
        if self.behind.is_empty() {
            self.lingering.retain(|late| late.source.held.id != span.held.id);
            self.left.retain(|left| left.id != span.held.id);
        }
        let border = self.behind.front().map_or(self.again.until, |next| next.start);
        let end = span.from + border.saturating_sub(span.start);
        (self.again.head, self.again.end) = (span.head, span.end.is_known().then_some((span.end, end)));
        self.unnamed = true;
        self.source = None;
        let offset = span.from + (position - span.start);
        if span.held.gz {
            self.unopened = Some(Unopened { held: Arc::clone(&span.held), offset, kind: Kind::Again(span) });
            return;
        }
        // An error is met, and said, where it is tried again.
        let _ = self.open_again(outlet, span, offset, None);
    }

    /// Opens what is read again.
    pub(super) fn open_again(
        &mut self,
        outlet: &Outlet,
        span: Span,
        offset: u64,
        seat: Option<Seat>,
    ) -> io::Result<()> {
        let opened = Source::open_with(Arc::clone(&span.held), offset, seat).and_then(|source| {
            // Looked at after what lies before the offset: that is the span's, if its head is.
            let gone = offset > 0 && !source::shows_marks(&span.held, span.head, Mark::default(), 0)?;
            Ok((source, gone))
        });
        match opened {
            Ok((mut source, gone)) => {
                if gone {
                    source.forget();
                    self.drop_replayed(outlet);
                }
                self.source = Some(source);
                match gone {
                    true if self.behind.is_empty() => self.rewritten(),
                    true => self.leave_behind(outlet),
                    false => {}
                }
                Ok(())
            }
            Err(error) => {
                self.unopened = Some(Unopened { held: Arc::clone(&span.held), offset, kind: Kind::Again(span) });
                Err(error)
            }
        }
    }

    /// What was to be read again is gone: what stands behind it was not delivered before, and is not passed over.
    pub(super) fn not_read_again(&mut self) {
        if self.behind.is_empty() {
            self.position = self.position.max(self.replay_until);
            // Nor is what comes next what was read.
            self.again.until = self.position;
        }
    }
}
