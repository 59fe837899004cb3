//! Where a chain starts: at its checkpoint, at the head or at the tail.
//!
//! Where the file of a checkpoint is gone, it starts with the oldest one that is newer. Of a container times of records
//! tell which are; of other files, when they were made.
//! An unfinished line may have begun before the place: then it starts there (`replay.rs`).

use std::ops::Range;
use std::sync::Arc;

use super::replay::ReplayEnd;
use super::truncated::{self, Was};
use super::{Chain, First, Notes, Opening, order};
use crate::inputs::Outlet;
use crate::inputs::follow::checkpoint::{Place, Saved};
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{self, FileId, Mark};
use crate::inputs::follow::progress::Span;
use crate::inputs::follow::resume::{self, Fate};
use crate::inputs::follow::{clock, source, tracker};
use crate::metrics::Oddity;
use crate::metrics::followed::{LostBytes, Watching};

/// Bytes that are lost with the first pieces of a line: where these are gone, nobody knows how long they were.
pub(super) const CUT_AT_LEAST: u64 = 1;

impl Chain {
    pub(super) fn place(
        &mut self,
        mut generations: Vec<Arc<Held>>,
        mut saved: Option<Saved>,
        first: First,
        notes: Notes,
        outlet: &Outlet,
    ) -> Opening {
        self.sort(&mut generations);
        saved.iter_mut().for_each(|saved| find_by_time(&mut saved.done, &generations));
        self.account_for_copies(&mut generations, saved.as_ref(), notes.left_out);
        let size = |held: &Arc<Held>| held.look().map_or(0, |look| look.size);
        let (mut at, mut offset) = (first.among(generations.len(), notes.made), 0);
        let counted = if saved.is_some() { 0 } else { at };
        let mut opening = Opening { bytes: generations.iter().skip(counted).map(size).sum(), done: 0 };
        let mut mark = tracker::Mark::default();
        let mut seen = false;
        let (mut was, mut is_rewritten) = (None, false);
        let mut replay_end = None;
        let known_until = saved.as_ref().map_or(i64::MAX, |saved| saved.done.copies.until);
        match saved {
            Some(saved) if !generations.is_empty() => {
                let start = resume::find(&generations, &saved);
                seen = start.fate.is_there();
                let mut replay = start.replay;
                // What came late to a renamed file may have the place, and not be the last of what was read.
                let is_behind = start.at == start.end && start.offset + replay == saved.done.offset;
                let is_elsewhere = replay > 0 && !is_behind;
                if start.at < start.end {
                    // Of the files before that of the place: what came since to the last of them is not passed over.
                    replay = replay.saturating_sub(saved.done.offset);
                }
                if is_elsewhere {
                    self.progress.stay_until(if start.at < start.end { u64::MAX } else { 0 }, &saved);
                }
                if replay > 0 && is_behind || start.at < start.end {
                    let (id, place) = (generations[start.end].id, Box::new(saved.done.clone()));
                    replay_end = Some(ReplayEnd { id, place, begun: is_behind.then_some(start.offset) });
                }
                let gone = matches!(start.fate, Fate::Gone | Fate::GoneComplete);
                let of_copies = saved.done.copies.of.is_some();
                let older =
                    if gone && !self.rules.docker && !of_copies { self.made_before(&generations, &saved) } else { 0 };
                if older == generations.len() {
                    self.wait_for_newer(&generations, &saved, outlet);
                    return Opening { done: opening.bytes, ..opening };
                }
                #[cfg(not(test))]
                let fate = start.fate;
                #[cfg(test)]
                let fate = silent::heard(start.fate);
                self.say_fate(fate, &saved, outlet);
                // Compressed meanwhile: its records keep their names. (Those of a file that was truncated are its own.)
                let is_gone = |named: &FileId| generations.iter().all(|held| held.id != *named);
                self.copy_of = start.named.filter(is_gone).map(|named| (generations[start.at].id, named));
                // Wherever a chain without a checkpoint would start: what came after the place is wanted.
                (at, offset) = (start.at, start.offset);
                if gone {
                    at = at.max(older).max(self.older_than(&generations, saved.last));
                }
                self.gap = match fate {
                    Fate::Gone => Some(self.gap_before(&generations[at], &saved)),
                    Fate::Cut => self.gap_in_line(&saved),
                    _ => None,
                };
                match fate {
                    Fate::Gone => self.progress.stay(without_hold(&saved), true),
                    Fate::Cut => self.progress.stay(saved.clone(), true),
                    _ => {}
                }
                self.last = saved.last;
                if generations[at].id == saved.done.id && !generations[at].gz {
                    let hold = saved.hold.as_ref().filter(|_| start.replay > 0);
                    was = Some(was_read(&generations[at], hold.map_or(&saved.done, |(hold, _)| hold)));
                }
                if start.fate == Fate::Rewritten && !self.rules.docker {
                    (is_rewritten, offset) = (true, saved.done.offset);
                }
                let hold = (start.replay > 0).then_some(offset);
                mark = tracker::Mark { done: offset + replay, tail: saved.done.tail, hold, time: saved.last };
                if !start.fate.is_there() || is_elsewhere {
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
                if offset > 0 {
                    // Nobody wants what was there before.
                    self.truncated = None;
                }
                mark.done = offset;
                opening.done = opening.bytes;
            }
            _ => {}
        }
        // Positions start like offsets, so that for a file that never rotates they are the same.
        self.progress.lock().tracker = tracker::Tracker::new(mark);
        // The first file is not that of the place, if an older one is read first.
        self.replay_end = replay_end.take_if(|replay| replay.begun.is_some());
        self.position = mark.hold.unwrap_or(mark.done);
        (self.replay_until, self.ranged) = (mark.done, mark.done);
        let mut rest = generations.into_iter();
        for old in rest.by_ref().take(at) {
            self.remember_older(&old, known_until);
        }
        if let Some(first) = rest.next() {
            if !seen {
                self.stand_in(&first);
            }
            match was {
                Some(was) if is_rewritten && offset > 0 => self.was_truncated(was),
                Some(was) if offset > 0 => self.open_at_place(was),
                _ => self.open(first, offset),
            }
        }
        self.queue.extend(rest);
        self.replay_end = self.replay_end.take().or(replay_end);
        opening
    }

    /// How many of the generations, oldest first, were rotated away before the file of a stored place was made. A compressed
    /// file was made later than what is in it, but keeps the time of its last change; that may be after the next file was
    /// made, by as much as a writer takes to go over to it. So of a place in a compressed one what it was before tells.
    fn made_before(&self, generations: &[Arc<Held>], saved: &Saved) -> usize {
        const GOING_OVER: i64 = 2_000_000_000;
        let (made, base) = (birth_of(&saved.done), &*self.family.base);
        let is_older = |held: &Arc<Held>| match held.gz {
            true => made > 0 && held.look().is_ok_and(|look| look.mtime < made.saturating_add(GOING_OVER)),
            false => 0 < held.id.btime && held.id.btime < made,
        };
        // The place was in a copy of a file that is truncated: when those were made tells nothing of their order.
        let is_of_copies = |newest: &Arc<Held>| *saved.done.name != *base && *newest.name == *base && is_older(newest);
        if generations.last().is_some_and(is_of_copies) {
            return 0;
        }
        generations.iter().rposition(is_older).map_or(0, |last| last + 1)
    }

    /// What was being read is gone, and all that is there was rotated before it: that was read, or never asked for. The
    /// checkpoint stays until there is a file to read.
    fn wait_for_newer(&mut self, older: &[Arc<Held>], saved: &Saved, outlet: &Outlet) {
        let unread = saved.lost || saved.hold.is_some() || saved.done.next.is_none() && unread_at_least(saved) > 0;
        self.say_fate(if unread { Fate::Gone } else { Fate::GoneComplete }, saved, outlet);
        if unread {
            self.progress.stay(without_hold(saved), false);
            tracing::warn!(
                key = self.key,
                file = saved.done.name,
                offset = saved.done.offset,
                unread_at_least = unread_at_least(saved),
                "the file that was being read is gone, and no newer one is there: its last lines are lost"
            );
        }
        self.last = saved.last;
        older.iter().for_each(|old| self.remember_older(old, saved.done.copies.until));
    }

    /// A generation is older than the place where the chain starts. One that is not Docker's and was changed since what is stored
    /// was accounted for may have late lines that nobody read.
    fn remember_older(&mut self, old: &Arc<Held>, until: i64) {
        // Stored while the clock was ahead it tells nothing.
        let is_ahead = until != i64::MAX && until > truncated::nanos(clock::wall());
        let until = if is_ahead { 0 } else { until };
        if self.rules.docker || old.look().is_ok_and(|look| look.mtime < until) {
            self.remember(old, None);
        }
    }

    /// Which copies are accounted for, and which files are left to whoever reads them as such (`truncated.rs`): all of them, if the
    /// place is in the file that is written to, or in a copy of it. What was changed by `left_out` and is not there was left out.
    fn account_for_copies(&mut self, generations: &mut Vec<Arc<Held>>, saved: Option<&Saved>, left_out: i64) {
        let Some(file) = generations.last().map(Arc::clone) else { return };
        let older = generations.len() - 1;
        let changed = |held: &Arc<Held>| held.look().map_or(0, |look| look.mtime);
        // Just after the last change of any of them, and of what is known already.
        let until = |copies: &[Arc<Held>], known: i64| {
            copies.iter().map(|copy| changed(copy).saturating_add(1)).fold(known, i64::max)
        };
        let floor = left_out.saturating_add(1);
        self.copies.until = until(&generations[..older], floor);
        if self.rules.docker {
            return;
        }
        let own = saved.filter(|saved| saved.done.id == file.id);
        let in_copy = saved.filter(|saved| saved.done.copies.of == Some(file.id));
        // What is compressed meanwhile beside a file that followed a renamed one is the renamed one's.
        let follows = saved
            .is_some_and(|saved| saved.done.copies.of.is_none() && (1..file.id.btime).contains(&birth_of(&saved.done)));
        let is_new = |saved: &Saved| {
            let known = saved.done.copies;
            saved.done.offset == 0 && (known.emptied || known.until == 0)
        };
        self.truncated = Some(file.id).filter(|_| own.map_or(!follows, is_new));
        if let Some(saved) = own.or(in_copy).filter(|saved| saved.done.copies.until > 0) {
            self.copies.until = truncated::just_after(saved.done.copies.until);
            self.copies.sought = 0;
            let files = files_of(generations, saved, own.is_some());
            // What was there before the file is none of its copies, and is not to come again when it is compressed.
            let before =
                |held: &&Arc<Held>| truncated::is_older(held, &file) || held.gz && changed(held) < file.id.btime;
            let stored = saved.done.copies.until;
            generations[..files.start].iter().filter(before).for_each(|old| self.remember_older(old, stored));
            // Nor what was compressed since with a time of its own, if nothing of the file was delivered and it was not truncated
            // since: its records tell.
            let is_begun = own.is_some() && saved.done.offset == 0 && saved.done.head.is_known();
            if is_begun && resume::locate(&[Arc::clone(&file)], &saved.done).is_some() {
                let is_new = |held: &&Arc<Held>| held.gz && !before(held) && changed(held) >= self.copies.until;
                let new = generations[..files.start].iter().filter(is_new).map(Arc::clone).collect();
                self.written_by(new, &file, saved.last).iter().for_each(|old| self.remember(old, None));
            }
            *generations = generations[files].to_vec();
            if own.is_none() {
                generations.iter().for_each(|copy| self.copies.add(copy));
                generations.push(file);
            } else {
                // Those before it were renamed; one may have been compressed since, with a time of its own.
                self.copies.until = until(&generations[..generations.len() - 1], self.copies.until);
            }
            return;
        }
        // One that was compressed and renamed during the look was met under both names: the base tells of no such thing.
        if generations.iter().any(|held| held.gz) {
            order::leave_out_copies(generations, &[]);
        }
        let older = generations.len() - 1;
        if let Some(copy) = older.checked_sub(1).map(|at| Arc::clone(&generations[at])).filter(|copy| !copy.gz) {
            // It is still being made, or its file is still to be truncated. What was read is no copy of what is not.
            let is_place = |place: &Place| place.id == copy.id;
            let was_read = saved.is_some_and(|saved| {
                is_place(&saved.done) || saved.hold.as_ref().is_some_and(|(hold, _)| is_place(hold))
            });
            let may_be = !was_read && !truncated::is_older(&copy, &file);
            let is_made = |size| may_be && (size == 0 || truncated::is_begun_with(&file, &copy, size));
            if copy.look().is_ok_and(|look| is_made(look.size)) {
                generations.remove(older - 1);
                self.copies.until = until(&generations[..older - 1], floor);
            }
        }
    }

    /// Goes on in a file where it was left, if what was read is still there: it may have been truncated since it was looked at.
    fn open_at_place(&mut self, was: Was) {
        self.open(Arc::clone(&was.held), was.offset);
        let Some(source) = &self.source else { return };
        let is_there = (!was.tail.is_known() || source.tail() == was.tail)
            && source::shows_marks(&was.held, was.head, Mark::default(), 0).unwrap_or(true);
        if let Some(span) = self.progress.lock().spans.back_mut() {
            (span.head, span.tail) = (was.head, was.tail);
        }
        if !is_there {
            self.source = None;
            self.progress.lock().spans.pop_back();
            self.was_truncated(was);
        }
    }

    fn say_fate(&mut self, fate: Fate, saved: &Saved, outlet: &Outlet) {
        let (key, name, offset) = (&self.key, &saved.done.name, saved.done.offset);
        match fate {
            Fate::Found => {}
            Fate::GoneComplete => outlet.counters().followed.watch(Watching::GapPossible, 1),
            // Known since before the stop. A line that had begun before it was whole in memory only.
            Fate::Rewritten if saved.done.next == Some(saved.done.id) => {
                self.standing.lost(0, LostBytes::Truncated, u64::from(saved.hold.is_some()));
            }
            Fate::Rewritten => {
                self.tally.odd(Oddity::FileRewritten);
                self.truncated = Some(saved.done.id);
                tracing::warn!(
                    key,
                    file = name,
                    offset,
                    "the file was truncated or rewritten while longshore was stopped; it is read from its head, behind what copies have"
                );
            }
            // Known since an earlier start, and counted there: the ledger is kept. (What is gone has no beginning of a line.)
            Fate::Cut if saved.lost => {}
            Fate::Gone if saved.lost && saved.hold.is_none() => {}
            Fate::Cut | Fate::Gone => {
                let unread = if fate == Fate::Cut { CUT_AT_LEAST } else { unread_at_least(saved) };
                self.tally.odd(Oddity::GenerationGone);
                self.standing.lost(1, LostBytes::Gone, unread);
            }
        }
    }

    /// From the position on it is `held` that is read, from that offset.
    pub(super) fn span(&mut self, held: &Arc<Held>, from: u64, head: Mark, late: bool) {
        let named = self.copy_of.filter(|(copy, _)| *copy == held.id).map_or(held.id, |(_, named)| named);
        let copies = self.copies_known(held);
        let span = Span { named, head, late, copies, ..Span::of(held, self.position, from) };
        self.unnamed = true;
        self.progress.lock().spans.push_back(span);
    }
}

/// Bytes that are known to be lost with the file of a place.
pub(super) fn unread_at_least(saved: &Saved) -> u64 {
    let hold = if saved.hold.is_some() { CUT_AT_LEAST } else { 0 };
    saved.done.size.saturating_sub(saved.done.offset).max(hold)
}

/// What is stored of a place whose file is gone: it tells from one of which only the beginning of a line is.
fn without_hold(saved: &Saved) -> Saved {
    Saved { hold: None, ..saved.clone() }
}

/// What was read of a file when a place in it was stored.
pub(super) fn was_read(held: &Arc<Held>, place: &Place) -> Was {
    let Place { head, tail, offset, size, next, .. } = place.clone();
    let seen = if next == Some(held.id) { offset } else { size };
    Was { held: Arc::clone(held), head, tail, offset, seen, end: None }
}

/// A copy of which nothing was read may begin with a hole, and so not be known by its content once it is compressed: its time
/// tells that it is the one that was begun last.
fn find_by_time(place: &mut Place, generations: &[Arc<Held>]) {
    if place.offset > 0 || place.copies.of.is_none() || resume::locate(generations, place).is_some() {
        return;
    }
    let is_it = |held: &&Arc<Held>| {
        held.look().is_ok_and(|look| look.mtime == place.copies.until)
            && source::has_marks(held, place.head, Mark::default(), 0)
    };
    let older = generations.split_last().map_or(&[][..], |(_, older)| older);
    if let Some(copy) = older.iter().find(is_it) {
        place.named.get_or_insert(place.id);
        place.id = copy.id;
    }
}

/// When the file was made that a place lies in, or that was compressed to it; 0 if nobody knows.
fn birth_of(place: &Place) -> i64 {
    let plain = place.named.or((!place.name.ends_with(".gz")).then_some(place.id));
    plain.map_or(0, |plain| plain.btime)
}

/// Those of the generations, oldest first, that what is known of a stored place lies in: in the newest one (its `own`), or in copies
/// of that. An unfinished line may begin in a file before the one where the place is.
fn files_of(generations: &[Arc<Held>], saved: &Saved, own: bool) -> Range<usize> {
    let newest = generations.len() - 1;
    let among = if own { newest..newest + 1 } else { 0..newest };
    let place = resume::locate(&generations[among.clone()], &saved.done).map(|at| among.start + at);
    let hold = saved.hold.as_ref().map(|(hold, _)| hold).filter(|hold| hold.id != saved.done.id);
    match place {
        Some(at) => hold.and_then(|hold| resume::locate(&generations[..at], hold)).unwrap_or(at)..at + 1,
        None if own => among,
        None => {
            let start = resume::find(&generations[among], saved);
            let found = start.fate.is_there();
            start.at..start.at + usize::from(found)
        }
    }
}

#[cfg(test)]
pub use silent::set_silent;

/// That a file is gone is kept quiet, for a negative control of the simulation.
#[cfg(test)]
mod silent {
    use std::cell::Cell;

    use super::Fate;

    thread_local!(static SILENT: Cell<bool> = const { Cell::new(false) });

    /// Whether this thread's chains keep it quiet.
    pub fn set_silent(silent: bool) {
        SILENT.set(silent);
    }

    pub fn heard(fate: Fate) -> Fate {
        if SILENT.get() && matches!(fate, Fate::Cut | Fate::Gone | Fate::GoneComplete) { Fate::Found } else { fate }
    }
}
