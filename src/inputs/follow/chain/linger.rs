//! What comes late to files that were renamed: writers that are not Docker go on until they are told, and who never is goes
//! on for good. And files to which nothing comes: where descriptors are scarce they are closed.
//!
//! A renamed file is looked at every 100 ms until it has been quiet for [`LINGER`], then after a [`SHARE`]th of the time for
//! which it has been quiet, [`EVERY_MAX`] at most. It is let go of when it has no name any more. [`QUIET_MAX`] quiet ones of
//! a chain are held, and none where descriptors are scarce; the others are *left*: looked for by name after the next
//! rotation, and read on if they have grown. What is left, grows and has lost its name by then is not seen.
//!
//! A CRI runtime that is told to write to a new file may leave a line's first pieces in the old one and go on in the new
//! one; what it had queued still comes to the old one meanwhile. So a line without its end keeps the new file waiting for
//! [`PIECE_WAIT`] at most, and is gone on with there if its end does not come by then. Once the new file has begun, pieces
//! that come late are joined with one another only: as the new file's they would make one of two lines.
//!
//! Limits: the rest of a late line that was cut, if it came after a second look, is a record when that look is read again.
//! A start looks at no file that is older than the one of its checkpoint. [`LEFT_MAX`] files are remembered as left.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::unreadable::{self, Kind};
use super::{Chain, Context, LINGER};
use crate::inputs::Outlet;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{FileId, Mark};
use crate::inputs::follow::source::{self, Found, Source};
use crate::inputs::follow::{clock, held};
use crate::metrics::followed::{Generation, LostBytes};
use crate::pipeline::Lane;

/// How long the rest of a line is waited for.
const PIECE_WAIT: Duration = Duration::from_secs(1);

/// How often a renamed file is looked at.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// A quiet one is looked at after such a part of the time for which it has been quiet.
const SHARE: u32 = 30;
/// But so often at least.
const EVERY_MAX: Duration = Duration::from_secs(10);
/// Quiet ones that a chain holds, at most.
const QUIET_MAX: usize = 4;
/// Files that are remembered as left, at most.
const LEFT_MAX: usize = 64;

/// How often what has been quiet for so long is looked at.
fn every(quiet: Duration) -> Duration {
    if quiet < LINGER { POLL } else { (quiet / SHARE).min(EVERY_MAX) }
}

/// A renamed file that may still grow.
pub(super) struct Lingering {
    pub(super) source: Source,
    pub(super) grew: Instant,
    /// Since when it ends in a piece whose line goes on.
    pub(super) piece: Option<Instant>,
    /// Where its last line begins, if that was cut and its end is still to come.
    pub(super) skipping: Option<u64>,
    /// Since when it can not be read.
    pub(super) failing: Option<Instant>,
}

impl Lingering {
    pub(super) fn new(source: Source, grew: Instant, skipping: Option<u64>) -> Lingering {
        Lingering { source, grew, piece: None, skipping, failing: None }
    }

    fn is_quiet(&self) -> bool {
        clock::since(self.grew) >= LINGER
    }

    fn is_named(&self) -> bool {
        self.source.held.look().is_ok_and(|look| look.links > 0)
    }
}

/// One that is not looked at any more, though it may have a name: who it is, and where it was read to.
pub(super) struct Left {
    pub(super) id: FileId,
    offset: u64,
    tail: Mark,
    skipping: Option<u64>,
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

    /// Lets go of compressed copies, leaves quiet renamed files, and closes the file that is read, if it is read and
    /// delivered to its end and has a name. Says whether that was open.
    pub(in crate::inputs::follow) fn park(&mut self) -> bool {
        self.let_go_of_copies();
        self.leave_quiet(0);
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
        let held = self.source.as_ref().map(|source| &source.held);
        if let Some(held) = held.filter(|held| held.grew.swap(false, Ordering::Relaxed)) {
            self.standing.lost(1, LostBytes::Unseen, 0);
            tracing::error!(
                key = self.key,
                file = held.name,
                "a file that was closed to make room for others grew, and was gone before it could be opened again: raise LimitNOFILE"
            );
        }
        if self.unopened.as_ref().is_some_and(|unopened| matches!(unopened.kind, Kind::Again(_))) {
            let lost = self.undelivered();
            self.standing.lost(0, LostBytes::GivenUp, lost);
            let file = self.current().map(|held| &*held.name);
            tracing::error!(
                key = self.key,
                file,
                bytes_lost_at_least = lost,
                "a file was given up and can not be read again; what was not delivered of it is lost"
            );
        }
        let id = self.current().map(|held| held.id);
        (self.source, self.unopened) = (None, None);
        (self.failing, self.skipping) = (None, None);
        id.into_iter().for_each(|id| self.pass_over_place(id));
        self.not_read_again();
        self.next_behind(outlet);
        // Nothing will come under that name; if something does, it is a chain again.
        self.gone |= !self.rules.docker && self.current().is_none() && self.queue.is_empty();
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

    /// How often an idle chain is to be looked at, whatever its watch tells: it has files that nobody watches, or that could
    /// not be looked at.
    pub(in crate::inputs::follow) fn looks(&self) -> Option<Duration> {
        let older = (self.source.is_some() && !self.queue.is_empty()).then(|| every(clock::since(self.grew)));
        let sought = self.sought.map(|_| unreadable::AGAIN);
        older.into_iter().chain(self.lingers()).chain(sought).min()
    }

    /// How often the renamed files are looked at.
    fn lingers(&self) -> Option<Duration> {
        self.lingering.iter().map(|late| every(clock::since(late.grew))).min()
    }

    /// Reads what came late to renamed files. True when there may be more at once.
    pub(super) fn linger(&mut self, context: &mut Context<'_>) -> bool {
        if self.left.is_empty() {
            (self.rotated, self.sought) = (false, None);
        }
        if self.rotated && self.sought.is_none_or(|(_, last)| clock::since(last) >= unreadable::AGAIN) {
            self.look_for_left();
        }
        let due = |every: Duration| clock::since(self.lingered) >= every;
        // What is read again, or was read just now, has its positions already; so has what is replayed after a start, as long as there
        // is a file for it.
        let reopens = self.unopened.as_ref().is_some_and(|unopened| !matches!(unopened.kind, Kind::New));
        let has_file = self.current().is_some() || !self.queue.is_empty();
        let replays = has_file && (self.awaits_place() || self.position < self.replay_until);
        if !self.lingers().is_some_and(due) || !self.behind.is_empty() || reopens || replays {
            return false;
        }
        let mut more = false;
        for mut late in std::mem::take(&mut self.lingering) {
            let found = late.source.read(context.buf, self.rules.line_max);
            let over = late.is_quiet();
            let (n, grown) = match found {
                Ok(Found::Bytes(n)) => (n, true),
                Ok(Found::End(n)) => (n, false),
                Err(error) if !late.source.held.is_given_up() => {
                    let since = *late.failing.get_or_insert_with(clock::now);
                    if unreadable::is_over(since, &error, &late.source.held) {
                        self.lose_late(&late, &error);
                    } else {
                        self.lingering.push(late);
                    }
                    continue;
                }
                Err(_) => {
                    self.lose_given_up(context.outlet, &late);
                    continue;
                }
                // Rewritten after it was renamed: nothing of ours.
                Ok(Found::Rewritten) => {
                    self.standing.completed(&late.source.held);
                    continue;
                }
            };
            late.failing = None;
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
                self.account_for_read(&held);
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
            // Its writer may never have been told of the rotation. Of a file whose base is gone there is none.
            if grown || !over || !self.gone && late.is_named() {
                self.lingering.push(late);
            } else {
                self.remember_late(&late);
            }
        }
        self.leave_quiet(if held::are_scarce() { 0 } else { QUIET_MAX });
        if !more {
            self.lingered = clock::now();
        }
        more
    }

    /// A renamed file is let go of: so much of it was read, which was all there was.
    fn remember_late(&mut self, late: &Lingering) {
        self.remember(&late.source.held, Some((late.source.offset, late.source.tail())));
        self.standing.completed(&late.source.held);
    }

    /// A renamed file can not be read any more. If it is known to have nothing new, nothing is lost.
    fn lose_late(&self, late: &Lingering, error: &io::Error) {
        let held = &late.source.held;
        let lost = unreadable::unread(held, late.source.offset);
        if lost > 0 || held.look().is_err() {
            self.standing.lost(1, LostBytes::Unreadable, lost);
            let path = held.path.display();
            tracing::error!(key = self.key, %path, bytes_lost_at_least = lost, %error, "what came late to a renamed file can not be read and is lost; see the kernel's log and check the disk or the mount");
        } else {
            self.standing.completed(held);
        }
    }

    /// A renamed file was given up to stay within the limit of held deleted files. To the keeper it was read, being older than
    /// the one that is.
    fn lose_given_up(&self, outlet: &Outlet, late: &Lingering) {
        let held = &late.source.held;
        let lost = held.size_given_up().saturating_sub(late.source.offset);
        if lost == 0 {
            self.standing.completed(held);
        }
        let is_counted = self.progress.unread().is_some_and(|unread| Arc::ptr_eq(&unread.held, held));
        if lost > 0 && !is_counted {
            outlet.counters().followed.generation(Generation::GivenUp, 1);
            self.standing.lost(0, LostBytes::GivenUp, lost);
            let path = held.path.display();
            tracing::error!(key = self.key, %path, bytes_lost = lost, "what came late to a deleted file is lost, for that was given up to stay within the limits of deleted files; see held_deleted_max");
        }
    }

    /// Leaves the oldest of the quiet ones, but for so many.
    fn leave_quiet(&mut self, keep: usize) {
        let quiet = self.lingering.iter().filter(|late| late.is_quiet()).count();
        let mut over = quiet.saturating_sub(keep);
        for late in std::mem::take(&mut self.lingering) {
            if over == 0 || !late.is_quiet() {
                self.lingering.push(late);
                continue;
            }
            over -= 1;
            if self.left.len() >= LEFT_MAX {
                self.left.pop_front();
            }
            self.remember_late(&late);
            let (id, offset, tail) = (late.source.held.id, late.source.offset, late.source.tail());
            self.left.push_back(Left { id, offset, tail, skipping: late.skipping });
        }
    }

    /// Reads on what was left and has grown since. What can not be opened is tried again every second for a while, and after
    /// the next rotation.
    fn look_for_left(&mut self) {
        let left = &self.left;
        let wanted = |id, size| left.iter().any(|left| left.id == id && left.offset < size);
        let mut failed = None;
        for opened in self.family.open_those(wanted) {
            let left = &self.left;
            let at = |held: &Held| left.iter().position(|left| left.id == held.id);
            let opened = opened.and_then(|held| {
                let Some(at) = at(&held) else { return Ok(None) };
                Source::open(held, left[at].offset).map(|source| Some((at, source)))
            });
            match opened {
                Ok(None) => {}
                Ok(Some((at, source))) => {
                    let Some(Left { tail, skipping, .. }) = self.left.remove(at) else { continue };
                    // With other content before the place it is another file, or was written anew.
                    if source.tail() == tail {
                        // It was when it was left.
                        source.held.completed.store(true, Ordering::Relaxed);
                        self.standing.add_older(&source.held);
                        self.lingering.push(Lingering::new(source, clock::now(), skipping));
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else {
            (self.rotated, self.sought) = (false, None);
            return;
        };
        let first = self.sought.is_none();
        let since = self.sought.map_or(clock::now(), |(since, _)| since);
        self.sought = Some((since, clock::now()));
        let over = clock::since(since) >= unreadable::PATIENCE;
        if over {
            (self.rotated, self.sought) = (false, None);
        }
        if first || over {
            tracing::error!(
                key = self.key,
                folder = %self.family.folder.display(),
                %error,
                over,
                "a renamed file can not be looked at for late lines; tried again every second for half a minute, and after the next rotation"
            );
        }
    }
}
