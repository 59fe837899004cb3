//! Content under another name: generations that were read before and come again compressed, and plain files beside their
//! compressed copies.
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
use crate::inputs::follow::source;

const READ_MAX: usize = 1024;
const COPIES_MAX: usize = 128;

/// A generation that was read: who it was, and the marks of its content's head and end.
pub(super) struct ReadBefore {
    id: FileId,
    head: Mark,
    /// Its length and end; unknown of a compressed one, which keeps its inode.
    end: Option<(u64, Mark)>,
    /// A compressed one is held.
    copy: Option<Arc<Held>>,
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
