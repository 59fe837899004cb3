//! Content under another name: generations that were read before and come again compressed, plain files beside their
//! compressed copies, and the copy that `copytruncate` makes.
//!
//! A copy is known by its head and by its end, which holds a time: programs start many a file with the same lines.
//! Compressed copies are held while they have a name, so that their inodes are not used again and the opener need not
//! show them each time. Limits: [`READ_MAX`] generations are remembered, [`COPIES_MAX`] held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Chain, gz_wait, linger};
use crate::inputs::follow::clock;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{self, FileId, HEAD_BYTES, Mark};
use crate::inputs::follow::source::{self, Source};

const READ_MAX: usize = 1024;
const COPIES_MAX: usize = 128;
/// File times lag behind the clock by a tick of the kernel, 10 ms at most.
const TICK: Duration = Duration::from_millis(10);

/// A generation that was read: who it was, and the marks of its content's head and end.
pub(super) struct ReadBefore {
    id: FileId,
    head: Mark,
    /// Its length and end; unknown of a compressed one, which keeps its inode.
    end: Option<(u64, Mark)>,
    /// A compressed one is held.
    copy: Option<Arc<Held>>,
}

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
    /// A generation was read to its end, or is known to have been.
    pub(super) fn remember(&mut self, held: &Arc<Held>) {
        let head = source::head_of(held).unwrap_or_default();
        if !self.rules.docker || !head.is_known() {
            return;
        }
        let size = held.look().map_or(0, |look| look.size);
        let end = (!held.gz).then(|| Some((size, identity::tail_of(&*held.file().ok()?, size).ok()?))).flatten();
        self.add(ReadBefore { id: held.id, head, end, copy: held.gz.then(|| Arc::clone(held)) });
    }

    /// The compressed copy of what was read before.
    pub(super) fn hold_copy(&mut self, held: Arc<Held>) {
        if held.gz && !self.read_before.iter().any(|read| read.copy.as_ref().is_some_and(|copy| copy.id == held.id)) {
            let head = source::head_of(&held).unwrap_or_default();
            self.add(ReadBefore { id: held.id, head, end: None, copy: Some(held) });
        }
    }

    fn add(&mut self, read: ReadBefore) {
        if self.read_before.len() >= READ_MAX {
            self.read_before.pop_front();
        }
        self.read_before.push_back(read);
        // One that has no name any more is not met again.
        let mut left = COPIES_MAX;
        let mut keep = |held: &Arc<Held>| {
            let keep = left > 0 && held.look().is_ok_and(|look| look.links > 0);
            left -= usize::from(keep);
            keep
        };
        self.read_before.retain(|read| read.copy.as_ref().is_none_or(&mut keep));
    }

    /// Whether a generation is one that was read before, perhaps compressed meanwhile. `None`: it is still growing, so
    /// nobody can say.
    pub(super) fn was_read(&self, held: &Arc<Held>) -> Option<bool> {
        let head = source::head_of(held).unwrap_or_default();
        let growing = || held.gz && gz_wait_unless_closed(held);
        if held.gz && (head.len as usize) < HEAD_BYTES && growing() && !source::is_whole(held) {
            return None;
        }
        let mut alike = self.read_before.iter().filter(|read| head.is_known() && read.head == head).peekable();
        let some = alike.peek().is_some();
        if alike.any(|read| read.id == held.id || read.end.is_some_and(|end| same_end(held, head, end))) {
            return Some(true);
        }
        if some && growing() && !source::is_whole(held) { None } else { Some(false) }
    }

    /// The next generation is a plain file. If it was compressed while the folder was looked at, its copy is behind it,
    /// perhaps with others in between that are older: it takes its copy's place. Those are compressed too, for they were
    /// before it; a plain one in between was found by an earlier look than the copy, and is newer. Some: how long to wait
    /// to know.
    pub(super) fn put_before_its_copy(&mut self) -> Option<Duration> {
        let first = Arc::clone(self.queue.front()?);
        let behind = self.queue.iter().skip(1).take_while(|held| held.gz).count();
        if !self.rules.docker || first.gz || behind == 0 {
            return None;
        }
        let look = first.look().ok()?;
        if look.links > 0 {
            return None;
        }
        let head = source::head_of(&first).unwrap_or_default();
        let end = (look.size, identity::tail_of(&*first.file().ok()?, look.size).ok()?);
        for at in 1..=behind {
            let held = Arc::clone(&self.queue[at]);
            if let Some(wait) = gz_wait(&held, &mut self.gz_seen) {
                return Some(wait);
            }
            self.gz_seen = None;
            if source::head_of(&held).is_ok_and(|of| of == head) && same_end(&held, head, end) {
                move_to(&mut self.queue, at);
                return None;
            }
        }
        None
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
        for copy in &copies {
            // Beside its plain file a compressed one is still being written.
            let named = |name: &str| copies.iter().any(|copy| copy.name == name);
            let Ok(look) = copy.look() else { continue };
            if copy.id == source.held.id
                || copy.name.strip_suffix(".gz").is_some_and(named)
                || self.reads(copy, look.mtime)
            {
                continue;
            }
            if head.is_known() && source::has_marks(copy, head, source.tail(), source.offset) {
                unread.push((look.mtime, Arc::clone(copy), source.offset));
                break;
            }
            if look.mtime >= since && look.size > 0 {
                unread.push((look.mtime, Arc::clone(copy), 0));
            }
        }
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
            || self.copies_read.contains(&(copy.id, changed))
            || self.lingering.iter().any(lingers)
            || self.rules.docker && self.was_read(copy) == Some(true)
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
            if self.copies_read.len() >= COPIES_MAX {
                self.copies_read.pop_front();
            }
            self.copies_read.extend(copy.look().map(|look| (copy.id, look.mtime)));
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
            && self.copies_read.iter().any(|(copy, _)| *copy == source.held.id)
    }
}

/// Puts the first at the place of the one at `at`, which is its copy and goes.
fn move_to(queue: &mut VecDeque<Arc<Held>>, at: usize) {
    if let Some(first) = queue.pop_front()
        && let Some(place) = queue.get_mut(at - 1)
    {
        *place = first;
    }
}

fn same_end(held: &Arc<Held>, head: Mark, (len, tail): (u64, Mark)) -> bool {
    (held.gz || held.look().is_ok_and(|look| look.size == len)) && source::has_marks(held, head, tail, len)
}

/// Whether a compressed file may still grow, whatever was said of its end.
fn gz_wait_unless_closed(held: &Held) -> bool {
    let Ok(look) = held.look() else { return false };
    let changed = Duration::from_nanos(u64::try_from(look.mtime).unwrap_or(0));
    clock::wall().checked_sub(changed).is_none_or(|age| age < linger::POLL * 10)
}
