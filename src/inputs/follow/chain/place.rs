//! Where a chain starts: at its checkpoint, at the head or at the tail.
//!
//! Where the file of a checkpoint is gone, it starts with the oldest one that is newer. Of a container times of records
//! tell which are; of other files, when they were made.

use std::sync::Arc;

use super::{Chain, First, Opening};
use crate::inputs::Outlet;
use crate::inputs::follow::checkpoint::Saved;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{self, FileId, Mark};
use crate::inputs::follow::progress::Span;
use crate::inputs::follow::resume::{self, Fate};
use crate::inputs::follow::tracker;
use crate::metrics::Oddity;
use crate::metrics::followed::{LostBytes, Watching};

impl Chain {
    pub(super) fn place(
        &mut self,
        mut generations: Vec<Arc<Held>>,
        saved: Option<Saved>,
        first: First,
        outlet: &Outlet,
    ) -> Opening {
        self.sort(&mut generations);
        let size = |held: &Arc<Held>| held.look().map_or(0, |look| look.size);
        let newest = generations.len().saturating_sub(1);
        let (mut at, mut offset) = (if first == First::Oldest { 0 } else { newest }, 0);
        let counted = if saved.is_some() { 0 } else { at };
        let mut opening = Opening { bytes: generations.iter().skip(counted).map(size).sum(), done: 0 };
        let mut mark = tracker::Mark::default();
        let mut seen = false;
        match saved {
            Some(saved) if !generations.is_empty() => {
                let start = resume::find(&generations, &saved);
                seen = start.fate == Fate::Found;
                let gone = matches!(start.fate, Fate::Gone | Fate::GoneComplete);
                let older = if gone && !self.rules.docker { made_before(&generations, &saved) } else { 0 };
                if older == generations.len() {
                    self.wait_for_newer(&generations, &saved, outlet);
                    return Opening { done: opening.bytes, ..opening };
                }
                self.say_fate(start.fate, &saved, outlet);
                // Compressed meanwhile: its records keep their names. (Those of a file that was truncated are its own.)
                let is_gone = |named: &FileId| generations.iter().all(|held| held.id != *named);
                self.copy_of = start.named.filter(is_gone).map(|named| (generations[start.at].id, named));
                if matches!(start.fate, Fate::Found | Fate::Rewritten) || first == First::Oldest {
                    (at, offset) = (start.at, start.offset);
                }
                if gone {
                    at = at.max(older).max(self.older_than(&generations, saved.last));
                }
                if start.fate == Fate::Gone {
                    self.gap = Some(self.gap_before(&generations[at], &saved));
                    self.progress.stay(&saved, true);
                }
                self.last = saved.last;
                let hold = (start.replay > 0).then_some(offset);
                mark = tracker::Mark { done: offset + start.replay, tail: saved.done.tail, hold, time: saved.last };
                if start.fate != Fate::Found {
                    mark.tail = Mark::default();
                }
                opening.done = generations[..at].iter().map(size).sum::<u64>();
                let read = if generations[at].gz { size(&generations[at]) } else { offset + start.replay };
                opening.done = (opening.done + read).min(opening.bytes);
            }
            None if first == First::Tail && !generations.is_empty() => {
                if !generations[at].gz {
                    offset = size(&generations[at]);
                    // In the middle of a line its rest is skipped.
                    let mut last = [b'\n'];
                    let file = generations[at].file();
                    let got = file.and_then(|file| identity::read_at(&file, &mut last, offset.saturating_sub(1)));
                    if matches!(got, Ok(1)) && last[0] != b'\n' {
                        self.skipping = Some(offset);
                    }
                }
                mark.done = offset;
                opening.done = opening.bytes;
            }
            _ => {}
        }
        // Positions start like offsets, so that for a file that never rotates they are the same.
        self.progress.lock().tracker = tracker::Tracker::new(mark);
        self.position = mark.hold.unwrap_or(mark.done);
        (self.replay_until, self.ranged) = (mark.done, mark.done);
        let mut rest = generations.into_iter();
        for old in rest.by_ref().take(at) {
            self.remember(&old, None);
        }
        if let Some(first) = rest.next() {
            if !seen {
                self.stand_in(&first);
            }
            self.open(first, offset);
        }
        self.queue.extend(rest);
        opening
    }

    /// What was being read is gone, and all that is there was rotated before it: that was read, or never asked for. The
    /// checkpoint stays until there is a file to read.
    fn wait_for_newer(&mut self, older: &[Arc<Held>], saved: &Saved, outlet: &Outlet) {
        let unread = saved.done.next.is_none() && saved.done.size > saved.done.offset;
        self.say_fate(if unread { Fate::Gone } else { Fate::GoneComplete }, saved, outlet);
        if unread {
            self.progress.stay(saved, false);
            tracing::warn!(
                key = self.key,
                file = saved.done.name,
                offset = saved.done.offset,
                unread_at_least = saved.done.size - saved.done.offset,
                "the file that was being read is gone, and no newer one is there: its last lines are lost"
            );
        }
        self.last = saved.last;
        older.iter().for_each(|old| self.remember(old, None));
    }

    fn say_fate(&mut self, fate: Fate, saved: &Saved, outlet: &Outlet) {
        let (key, name, offset) = (&self.key, &saved.done.name, saved.done.offset);
        match fate {
            Fate::Found => {}
            Fate::GoneComplete => outlet.counters().followed.watch(Watching::GapPossible, 1),
            Fate::Rewritten => {
                self.tally.odd(Oddity::FileRewritten);
                self.truncated = Some(saved.done.id);
                tracing::warn!(
                    key,
                    file = name,
                    offset,
                    "the file was rewritten while longshore was stopped; it is read from its head"
                );
            }
            // Known since an earlier start, and counted there: the ledger is kept.
            Fate::Gone if saved.lost => {}
            Fate::Gone => {
                self.tally.odd(Oddity::GenerationGone);
                self.standing.lost(1, LostBytes::Gone, saved.done.size.saturating_sub(offset));
            }
        }
    }

    /// From the position on it is `held` that is read, from that offset.
    pub(super) fn span(&mut self, held: &Arc<Held>, from: u64, head: Mark, late: bool) {
        let named = self.copy_of.filter(|(copy, _)| *copy == held.id).map_or(held.id, |(_, named)| named);
        let span = Span { start: self.position, from, held: Arc::clone(held), named, head, late };
        self.unnamed = true;
        self.progress.lock().spans.push_back(span);
    }
}

/// How many of the generations, oldest first, were rotated away before the file of a stored place was made. A compressed
/// file was made later than what is in it, but keeps the time of its last change; that may be after the next file was
/// made, by as much as a writer takes to go over to it.
fn made_before(generations: &[Arc<Held>], saved: &Saved) -> usize {
    const GOING_OVER: i64 = 2_000_000_000;
    let made = saved.done.id.btime;
    let is_older = |held: &Arc<Held>| {
        if held.gz {
            return made > 0 && held.look().is_ok_and(|look| look.mtime < made.saturating_add(GOING_OVER));
        }
        0 < held.id.btime && held.id.btime < made
    };
    generations.iter().rposition(is_older).map_or(0, |last| last + 1)
}
