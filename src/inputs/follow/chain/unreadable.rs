//! Files that the disk or the network does not give. That may pass, so it is tried again every second; meanwhile what is
//! newer waits and is held. Once there is something newer, or it has no name any more, a file that could not be read for
//! [`PATIENCE`] is given up, with its rest counted as lost. What went stale (ESTALE) is opened again by its name; if it has none any more, it is given up
//! at once. Where what is there is read once and not followed, a file is given up at its first error.
//!
//! A read that ends at a bad block is short, as one at the end of a file is. So at each end it is looked whether the file has
//! more ([`Chain::has_more`]).
//!
//! Limit: how long a compressed file is is not known; of one that was begun no bytes are counted.
//!
//! Counters: generations `lost`, lost bytes `unreadable`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Chain, Context, LINGER, Turn, linger};
use crate::inputs::Outlet;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{self, FileId, Mark};
use crate::inputs::follow::progress::Span;
use crate::inputs::follow::source::{self, Seat, Source};
use crate::inputs::follow::{clock, disk};
use crate::metrics::followed::LostBytes;

/// How long until the next try.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// For so long what is newer waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be read next, and is not open: it could not be opened, or waits for a decoder.
pub(super) struct Unopened {
    pub(super) held: Arc<Held>,
    pub(super) offset: u64,
    pub(super) kind: Kind,
}

/// What it is.
pub(super) enum Kind {
    /// It begins a new span.
    New,
    /// It is read again.
    Again(Span),
    /// It was read just now.
    Same,
}

/// Whether what fails since then with that error is waited for no longer. What went stale is opened again, however long that
/// has failed.
pub(super) fn is_over(since: Instant, error: &io::Error, held: &Held) -> bool {
    let is_gone = disk::is_stale(error) && !held.reopen();
    is_gone || clock::since(since) >= PATIENCE
}

impl Chain {
    /// The file that is read, or is to be.
    pub(super) fn current(&self) -> Option<&Arc<Held>> {
        let source = self.source.as_ref().map(|source| &source.held);
        source.or_else(|| self.unopened.as_ref().map(|unopened| &unopened.held))
    }

    /// Goes on with `held` at `offset`, as a new span.
    pub(super) fn open(&mut self, held: Arc<Held>, offset: u64) {
        self.source = None;
        if held.gz {
            self.unopened = Some(Unopened { held, offset, kind: Kind::New });
            return;
        }
        // An error is met, and said, where it is tried again.
        let _ = self.open_new(held, offset, None);
    }

    fn open_new(&mut self, held: Arc<Held>, offset: u64, seat: Option<Seat>) -> io::Result<()> {
        (self.again.head, self.again.end) = (Mark::default(), None);
        match Source::open_with(Arc::clone(&held), offset, seat) {
            Ok(source) => {
                let head = if offset > 0 { source::head_of(&held).unwrap_or_default() } else { Mark::default() };
                self.span(&held, offset, head, false);
                if let Some(span) = self.progress.lock().spans.back_mut() {
                    span.tail = source.tail();
                }
                self.source = Some(source);
                self.grew = clock::now();
                self.begin_place(&held, offset);
                Ok(())
            }
            Err(error) => {
                self.unopened = Some(Unopened { held, offset, kind: Kind::New });
                Err(error)
            }
        }
    }

    /// Opens what is not open. `Some`: it has to wait for a decoder.
    pub(super) fn open_now(&mut self, context: &Context<'_>, next: Unopened) -> io::Result<Option<Turn>> {
        let seat = next.held.gz.then(|| context.decoders.take());
        if matches!(seat, Some(None)) {
            self.unopened = Some(next);
            return Ok(Some(Turn::Sleep(linger::POLL)));
        }
        let (Unopened { held, offset, kind }, seat) = (next, seat.flatten());
        match kind {
            Kind::New => self.open_new(held, offset, seat)?,
            Kind::Again(span) => self.open_again(context.outlet, span, offset, seat)?,
            Kind::Same => match Source::open_with(Arc::clone(&held), offset, seat) {
                Ok(source) => self.source = Some(source),
                Err(error) => {
                    self.unopened = Some(Unopened { held, offset, kind: Kind::Same });
                    return Err(error);
                }
            },
        }
        Ok(None)
    }

    /// What could not be opened yet waits behind what is read again.
    pub(super) fn queue_unopened(&mut self) {
        if let Some(Unopened { held, offset, kind: Kind::New }) = self.unopened.take() {
            let id = held.id;
            self.queue.push_front(held);
            self.begin_at(id, offset);
        }
    }

    /// One of the queue is to be begun there.
    pub(super) fn begin_at(&mut self, id: FileId, offset: u64) {
        let queue = &self.queue;
        self.begun.retain(|(begun, _)| *begun != id && queue.iter().any(|held| held.id == *begun));
        self.begun.push((id, offset));
    }

    /// Where to go on in one that was taken from the queue before.
    pub(super) fn begun(&mut self, id: FileId) -> Option<u64> {
        let at = self.begun.iter().position(|(begun, _)| *begun == id)?;
        Some(self.begun.swap_remove(at).1)
    }

    /// Whether nothing comes any more to the file that is read: it has no name, and was quiet for long.
    pub(super) fn is_nameless(&self) -> bool {
        !self.rules.docker
            && clock::since(self.grew) >= LINGER
            && self.current().is_some_and(|held| held.look().is_ok_and(|look| look.links == 0))
    }

    /// Whether a plain file has more than the last read found.
    pub(super) fn has_more(&self) -> io::Result<bool> {
        let Some(source) = self.source.as_ref().filter(|source| !source.held.gz) else { return Ok(false) };
        if source.held.look()?.size <= source.seen {
            return Ok(false);
        }
        Ok(identity::read_at(&*source.held.file()?, &mut [0], source.seen)? > 0)
    }

    /// Whether a file that can not be read is to be passed over.
    pub(super) fn is_unreadable(&mut self, error: &io::Error) -> bool {
        let Some(held) = self.current().filter(|held| !held.is_given_up()).map(Arc::clone) else { return false };
        let first = self.failing.is_none();
        let since = *self.failing.get_or_insert_with(clock::now);
        // First: the newest one that went stale is opened again, too.
        let over = is_over(since, error, &held);
        let newer = self.gone || !self.queue.is_empty() || !self.behind.is_empty();
        if over && (newer || self.is_nameless()) {
            return true;
        }
        if first {
            tracing::error!(key = self.key, path = %held.path.display(), %error, "reading failed; tried again every second");
        }
        false
    }

    /// Gives up a file that can not be read.
    pub(super) fn pass_over_unreadable(&mut self, outlet: &Outlet, error: &io::Error) {
        self.close(outlet);
        let nameless = self.behind.is_empty() && self.is_nameless();
        let source = self.source.take().map(|source| (source.held, source.offset));
        let unopened = self.unopened.take().map(|unopened| (unopened.held, unopened.offset));
        let Some((held, offset)) = source.or(unopened) else { return };
        // While what came after it is read again, only what lies before that: the rest was read, or is met there.
        let again = self.behind.iter().any(|span| span.held.id == held.id);
        let own = if self.behind.is_empty() { unread(&held, offset) } else { 0 };
        let lost = own.saturating_sub(self.replayed_of(held.id)).max(self.undelivered());
        self.standing.lost(u64::from(!again), LostBytes::Unreadable, lost);
        tracing::error!(
            key = self.key,
            path = %held.path.display(),
            offset,
            bytes_lost_at_least = lost,
            %error,
            "a file can not be read: its rest is lost, and what is newer is gone on with; see the kernel's log and check the disk or the mount"
        );
        (self.failing, self.skipping) = (None, None);
        self.pass_over_place(held.id);
        self.not_read_again();
        // What comes next would go on with its pieces.
        if (own > 0 || lost > 0) && self.position >= self.ranged {
            self.flush_lane(outlet);
        }
        self.next_behind(outlet);
        self.gone |= nameless && self.queue.is_empty();
    }

    /// Bytes of what is read again up to where something else begins.
    pub(super) fn undelivered(&self) -> u64 {
        let read = self.position.max(self.replay_until);
        self.behind.front().map_or(self.again.until, |next| next.start).saturating_sub(read)
    }
}

/// Bytes of a file from an offset on, as far as they are known.
pub(super) fn unread(held: &Held, offset: u64) -> u64 {
    let size = held.look().map_or(0, |look| look.size);
    if held.gz && offset > 0 { 0 } else { size.saturating_sub(offset) }
}
