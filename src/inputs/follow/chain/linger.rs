//! What comes late to files that were renamed: writers that are not Docker go on until they are told. And files to which
//! nothing comes: where descriptors are scarce they are closed.
//!
//! A CRI runtime that is told to write to a new file may leave a line's first pieces in the old one and go on in the new
//! one; what it had queued still comes to the old one meanwhile. So a line without its end keeps the new file waiting for
//! [`PIECE_WAIT`] at most, and is gone on with there if its end does not come by then. Once the new file has begun, pieces
//! that come late are joined with one another only: as the new file's they would make one of two lines.
//!
//! Limit: the rest of a late line that was cut, if it came after a second look, is a record when that look is read again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Chain, Context, LINGER};
use crate::inputs::Outlet;
use crate::inputs::follow::clock;
use crate::inputs::follow::source::{self, Found, Source};
use crate::metrics::followed::LostBytes;
use crate::pipeline::Lane;

/// How long the rest of a line is waited for.
const PIECE_WAIT: Duration = Duration::from_secs(1);

/// How often a renamed file is looked at.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// A renamed file that may still grow.
pub(super) struct Lingering {
    pub(super) source: Source,
    pub(super) grew: Instant,
    /// Since when it ends in a piece whose line goes on.
    pub(super) piece: Option<Instant>,
    /// Where its last line begins, if that was cut and its end is still to come.
    pub(super) skipping: Option<u64>,
}

/// What was begun in the file that is read, while a lingering one is.
pub(super) struct Aside {
    pub(super) lane: Lane,
    pub(super) skipping: Option<u64>,
}

impl Chain {
    /// Whether the file that is read ended within a line, and the rest of that may still come to it.
    pub(super) fn expects_an_end(&mut self, outlet: &Outlet) -> bool {
        self.close(outlet);
        self.lane.is_waiting() && clock::since(self.grew) < PIECE_WAIT
    }

    /// Closes the file that is read, if it is read and delivered to its end and has a name. Says whether it was open.
    pub(in crate::inputs::follow) fn park(&self) -> bool {
        let Some(source) = &self.source else { return false };
        let idle = self.queue.is_empty() && self.lingering.is_empty() && self.behind.is_empty() && !source.held.gz;
        let read = |size, links| size == source.offset && source.seen == source.offset && links > 0;
        idle && !source.held.is_parked()
            && self.progress.is_at_rest()
            && source.held.look().is_ok_and(|look| read(look.size, look.links))
            && source.held.park()
    }

    /// The file that is being read was given up to stay within the limit of held deleted files. The keeper counted it.
    /// Or it was closed for want of descriptors, and is gone.
    pub(super) fn pass_over_given_up(&mut self, outlet: &Outlet) {
        self.close(outlet);
        if let Some(held) = self.file().filter(|held| held.grew.swap(false, Ordering::Relaxed)) {
            self.standing.lost(1, LostBytes::Unseen, 0);
            tracing::error!(
                key = self.key,
                file = held.name,
                "a file that was closed to make room for others grew, and was gone before it could be opened again: raise LimitNOFILE"
            );
        }
        self.skipping = None;
        self.source = None;
        self.not_read_again();
        self.next_behind(outlet);
        // Nothing will come under that name; if something does, it is a chain again.
        self.gone |= !self.rules.docker && self.source.is_none() && self.queue.is_empty();
    }

    /// Puts aside what was begun in the file that is read: something late comes in between, which has a cut line of its own.
    pub(super) fn put_aside(&mut self, outlet: &Outlet, skipping: Option<u64>) {
        self.close(outlet);
        let lane = std::mem::replace(&mut self.lane, outlet.lane(self.rules.format.join_rule()));
        let skipping = std::mem::replace(&mut self.skipping, skipping);
        self.aside = Some(Aside { lane, skipping });
    }

    /// The other way round. Gives the cut line of what was late.
    pub(super) fn take_back_aside(&mut self) -> Option<u64> {
        let skipping = self.skipping.take();
        if let Some(aside) = self.aside.take() {
            (self.lane, self.skipping) = (aside.lane, aside.skipping);
        }
        skipping
    }

    /// Reads what came late to renamed files. True when there may be more at once.
    pub(super) fn linger(&mut self, context: &mut Context<'_>) -> bool {
        if self.lingering.is_empty() || clock::since(self.lingered) < POLL || !self.behind.is_empty() {
            return false;
        }
        let mut more = false;
        for mut late in std::mem::take(&mut self.lingering) {
            let found = late.source.read(context.buf, self.rules.line_max);
            let over = clock::since(late.grew) >= LINGER;
            let (n, grown) = match found {
                Ok(Found::Bytes(n)) => (n, true),
                Ok(Found::End(n)) => (n, false),
                // Rewritten after it was renamed, or unreadable: nothing of ours.
                Ok(Found::Rewritten) | Err(_) => continue,
            };
            // The pieces of a line are taken together, if the next one comes soon.
            let piece = n < source::BLOCK && self.rules.format.ends_in_pieces(late.source.data(context.buf, n));
            late.piece = late.piece.filter(|_| piece).or(piece.then(clock::now));
            let due = late.piece.map_or(grown, |since| clock::since(since) >= PIECE_WAIT);
            if n > 0 && (due || over) {
                let (held, from) = (Arc::clone(&late.source.held), late.source.offset);
                self.put_aside(context.outlet, late.skipping.take());
                self.span(&held, from, source::head_of(&held).unwrap_or_default(), true);
                let main = self.source.replace(late.source);
                self.take(context, n, over && !grown);
                self.close(context.outlet);
                self.flush_lane(context.outlet);
                late.skipping = self.take_back_aside();
                let Some(source) = std::mem::replace(&mut self.source, main) else { continue };
                late.source = source;
                if let Some((held, from)) = self.source.as_ref().map(|main| (Arc::clone(&main.held), main.offset)) {
                    self.span(&held, from, source::head_of(&held).unwrap_or_default(), false);
                }
            }
            if grown {
                late.grew = clock::now();
                more |= n >= source::BLOCK;
            }
            if grown || !over {
                self.lingering.push(late);
            }
        }
        if !more {
            self.lingered = clock::now();
        }
        more
    }
}
