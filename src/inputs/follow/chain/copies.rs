//! Content under another name: generations that were read before and come again compressed.
//!
//! A copy is known by its head and by its end, which have times: programs start many a file with the same lines. So only of
//! files of Docker's and CRI's lines anything is remembered.
//! A container's copy that is not whole, though it has not grown for a second, is known by its first line. Its compressed copies are
//! held while they have a name, so that their inodes are not used again and the opener need not show them each time. Where
//! descriptors are scarce, and of other files, none is that has a birth time: that and the marks tell it, should it be met again.
//! Limits: [`READ_MAX`] generations are remembered, [`COPIES_MAX`] held.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Chain, linger};
use crate::inputs::follow::clock;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::{self, FileId, HEAD_BYTES, Mark};
use crate::inputs::follow::{held as files, source};

const READ_MAX: usize = 1024;
const COPIES_MAX: usize = 128;

/// A generation that was read: who it was, and the marks of its content's head and end.
pub(super) struct ReadBefore {
    id: FileId,
    head: Mark,
    /// Its first line, if that is no longer than the head.
    first: Mark,
    /// Its length and end; not always known of a compressed one, which keeps its inode.
    end: Option<(u64, Mark)>,
    /// A compressed one is held.
    copy: Option<Arc<Held>>,
}

impl ReadBefore {
    /// Whether it is known without being held: its inode may be another file's by then.
    fn is_known_closed(&self) -> bool {
        self.id.btime != 0 || self.end.is_some()
    }
}

impl Chain {
    /// A generation was read to its end, or is known to have been. `end`: its length and end, if they are known.
    pub(super) fn remember(&mut self, held: &Arc<Held>, end: Option<(u64, Mark)>) {
        let head = source::head_of(held).unwrap_or_default();
        if !self.rules.format.is_timed() || !head.is_known() {
            return;
        }
        let size = held.look().map_or(0, |look| look.size);
        let of_plain =
            || (!held.gz).then(|| Some((size, identity::tail_of(&*held.file().ok()?, size).ok()?))).flatten();
        let end = end.or_else(of_plain);
        let copy = (held.gz && self.holds(held)).then(|| Arc::clone(held));
        self.add(ReadBefore { id: held.id, head, first: first_line(held), end, copy });
    }

    /// Whether a compressed copy is to be held.
    fn holds(&self, held: &Held) -> bool {
        self.rules.docker || held.id.btime == 0
    }

    /// A generation is begun that was not read before. If it is compressed, its plain file may be one that was told of and
    /// could not be opened. (Of an empty one nobody can say.)
    pub(super) fn stand_in(&mut self, held: &Arc<Held>) {
        if !held.gz || !source::head_of(held).is_ok_and(Mark::is_known) {
            return;
        }
        let (first, left) = &mut self.stand_ins;
        if held.number <= *first {
            if *left == 0 {
                return;
            }
            *left -= 1;
        }
        self.standing.missing.fetch_sub(1, Ordering::AcqRel);
    }

    /// The compressed copy of what was read before.
    pub(super) fn hold_copy(&mut self, held: Arc<Held>) {
        if !held.gz {
            return;
        }
        let holds = self.holds(&held);
        if let Some(read) = self.read_before.iter_mut().find(|read| read.id == held.id) {
            if holds && !files::are_scarce() {
                read.copy.get_or_insert(held);
            }
            return;
        }
        let head = source::head_of(&held).unwrap_or_default();
        let copy = holds.then(|| Arc::clone(&held));
        self.add(ReadBefore { id: held.id, head, first: Mark::default(), end: None, copy });
    }

    /// Closes the copies that are held.
    pub(super) fn let_go_of_copies(&mut self) {
        self.read_before.iter_mut().filter(|read| read.is_known_closed()).for_each(|read| read.copy = None);
    }

    fn add(&mut self, mut read: ReadBefore) {
        if files::are_scarce() && read.is_known_closed() {
            read.copy = None;
        }
        // A renamed file may be read on and let go of again and again.
        if let Some(at) = self.read_before.iter().position(|known| known.id == read.id && known.head == read.head)
            && let Some(known) = self.read_before.remove(at)
        {
            read.copy = read.copy.or(known.copy);
            read.end = read.end.or(known.end);
        }
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
        self.read_before.retain_mut(|read| {
            let kept = read.copy.as_ref().is_none_or(&mut keep);
            if !kept {
                read.copy = None;
            }
            // Where names had just shifted, its plain file may still wait to be read.
            kept || read.end.is_some()
        });
    }

    /// Whether a generation is one that was read before, perhaps compressed meanwhile. `None`: it is still growing, so
    /// nobody can say. (A plain file that is not Docker's may be written to again under any name.)
    pub(super) fn was_read(&self, held: &Arc<Held>) -> Option<bool> {
        if !held.gz && !self.rules.docker {
            return Some(false);
        }
        let head = source::head_of(held).unwrap_or_default();
        if (head.len as usize) < HEAD_BYTES && still_grows(held) {
            return None;
        }
        let mut alike = self.read_before.iter().filter(|read| head.is_known() && read.head == head).peekable();
        let some = alike.peek().is_some();
        if alike.any(|read| {
            read.id == held.id || read.end.is_some_and(|(len, tail)| source::ends_with_marks(held, head, tail, len))
        }) {
            return Some(true);
        }
        if some && still_grows(held) {
            return None;
        }
        // Its writer may pause for longer than a file grows. (Of a file that is not Docker's the rest may be late lines.)
        let first = if held.gz && self.rules.docker { first_line(held) } else { Mark::default() };
        let begun = first.is_known() && self.read_before.iter().any(|read| read.first == first);
        Some(begun && !source::is_whole(held))
    }
}

/// The mark of a generation's first line, which has a time; not known if it is longer than the head.
fn first_line(held: &Arc<Held>) -> Mark {
    let start = source::start_of(held, HEAD_BYTES).unwrap_or_default();
    memchr::memchr(b'\n', &start).map_or(Mark::default(), |end| Mark::of(&start[..end]))
}

/// Whether a compressed file still grows, whatever was said of its end.
pub(super) fn still_grows(held: &Arc<Held>) -> bool {
    let changed = |mtime| Duration::from_nanos(u64::try_from(mtime).unwrap_or(0));
    // A time that is far ahead says nothing.
    let is_quiet = |mtime| clock::wall().abs_diff(changed(mtime)) >= linger::POLL * 10;
    held.gz && held.look().is_ok_and(|look| !is_quiet(look.mtime)) && !source::is_whole(held)
}
