//! A watched folder, its families, and what was handed out of each.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use crate::inputs::follow::chain::About;
use crate::inputs::follow::disk;
use crate::inputs::follow::generations::{Family, Held};
use crate::inputs::follow::identity::FileId;
use crate::inputs::follow::standing::Standing;
use crate::metrics::followed::LostBytes;

/// See the header.
pub(super) struct Folder {
    pub(super) watch: Option<i32>,
    /// It makes no events, and may be looked into.
    pub(super) polled: bool,
    /// Which folder the path led to just before it was watched.
    pub(super) id: Option<FileId>,
    pub(super) families: BTreeMap<String, Kin>,
    /// Its file system tells of all that happens.
    pub(super) tells: bool,
    /// When it was watched, or looked at, first, in nanoseconds since 1970: what is newer was made after that.
    pub(super) since: i64,
    /// Its place in the order in which folders were seen: folders are looked at in turn by it.
    pub(super) number: u64,
}

impl Folder {
    /// Whether the kernel tells of all that may happen in it, and what is there is open: a look finds something only if an
    /// event was lost without a word.
    pub(super) fn is_sure(&self) -> bool {
        let open = |kin: &Kin| kin.newest.as_ref().is_some_and(|newest| !newest.is_given_up());
        let sure = |kin: &Kin| kin.left || open(kin) && kin.named && !kin.link;
        self.tells && self.watch.is_some() && !self.families.is_empty() && self.families.values().all(sure)
    }
}

/// A generation that was handed out.
struct One {
    held: Weak<Held>,
    /// Its place in the order in which they were.
    number: u64,
    /// It is not only there to find a checkpoint's place in.
    read: bool,
    /// For its memory to be freed by the thread that allocated it: see `FREED_AT_ONCE`.
    _path: Arc<Path>,
}

/// The generations that were handed out and are still held, by who they are. With a dead sink they are thousands, of which a
/// rotation asks for one or two.
#[derive(Default)]
pub(super) struct Published {
    all: HashMap<FileId, One>,
    /// With so many, those that are not held any more are removed: twice as many as were left then, so that each one that is
    /// added pays for a step of that.
    sweep_at: usize,
    /// So many were, in all.
    count: u64,
}

impl Published {
    const SWEEP_MIN: usize = 16;

    /// Oldest first; the first `unread` of them are only there to find a place in.
    pub(super) fn add(&mut self, generations: &[Arc<Held>], unread: usize) {
        if self.all.len() + generations.len() > self.sweep_at {
            self.sweep();
            self.sweep_at = self.sweep_at.max(2 * (self.all.len() + generations.len()));
        }
        self.all.extend(generations.iter().enumerate().map(|(at, held)| {
            self.count += 1;
            let (number, read) = (self.count, at >= unread);
            let one = One { held: Arc::downgrade(held), number, read, _path: Arc::clone(&held.path) };
            (held.id, one)
        }));
    }

    /// Lets go of the memory of what is not held any more.
    pub(super) fn sweep(&mut self) {
        self.all.retain(|_, one| one.held.strong_count() > 0);
        self.all.shrink_to(2 * self.all.len());
        self.sweep_at = Self::SWEEP_MIN.max(2 * self.all.len());
    }

    /// Who that is, if it is held. One that was let go of is nobody: its inode may be another file's.
    pub(super) fn get(&self, id: FileId) -> Option<Arc<Held>> {
        self.all.get(&id).and_then(|one| one.held.upgrade())
    }

    pub(super) fn has(&self, id: FileId) -> bool {
        self.all.get(&id).is_some_and(|one| one.held.strong_count() > 0)
    }

    /// Those of them that are read.
    pub(super) fn read(&self) -> impl Iterator<Item = FileId> {
        self.all.iter().filter(|(_, one)| one.read && one.held.strong_count() > 0).map(|(id, _)| *id)
    }

    /// The newest of those that were not given up. (Walks through all.)
    pub(super) fn newest(&self) -> Option<FileId> {
        let held = self.all.values().filter_map(|one| Some((one.number, one.held.upgrade()?)));
        let newest = held.filter(|(_, held)| !held.is_given_up()).max_by_key(|(number, _)| *number);
        newest.map(|(_, held)| held.id)
    }

    pub(super) fn clear(&mut self) {
        *self = Published::default();
    }
}

/// A family and what was handed out of it.
pub(super) struct Kin {
    pub(super) family: Family,
    pub(super) chain: Option<u64>,
    pub(super) newest: Option<Arc<Held>>,
    pub(super) published: Published,
    pub(super) about: Option<About>,
    /// What is known of it is all there is to know.
    pub(super) named: bool,
    pub(super) standing: Option<Arc<Standing>>,
    /// Files of the base's name that the kernel said were created, and generations that were opened: if the first is
    /// more, the others came and went in between.
    pub(super) created: u64,
    pub(super) opened: u64,
    pub(super) left: bool,
    /// Its chain had ended before: what is there and older was read.
    pub(super) again: bool,
    /// When its base was seen to be the newest one last, in nanoseconds since 1970: what is newer was made after that.
    pub(super) seen: i64,
    /// The look before found no base, and nothing new.
    pub(super) away: bool,
    /// Its generations are compressed.
    pub(super) packs: bool,
    /// Its base is a symlink: what happens at its target makes no event here.
    pub(super) link: bool,
}

impl Kin {
    /// Nobody reads it, nothing of it is held, and nothing of it is to be remembered.
    pub(super) fn is_over(&self) -> bool {
        self.chain.is_none() && self.newest.is_none() && !self.left
    }

    /// Has its chain count what was created and never opened. Whether there is any, and a chain.
    pub(super) fn hand_missing(&mut self) -> bool {
        let missing = self.created.saturating_sub(self.opened);
        let Some(standing) = self.standing.as_ref().filter(|_| missing > 0) else { return false };
        self.opened = self.created;
        standing.missing.fetch_add(missing.cast_signed(), Ordering::AcqRel);
        true
    }

    /// Its chain has ended: what it was told to count after that, nobody else will.
    pub(super) fn count_missing(&self) {
        let Some(standing) = &self.standing else { return };
        let missing = standing.missing.swap(0, Ordering::AcqRel);
        if missing > 0 {
            standing.lost(missing.cast_unsigned(), LostBytes::Unseen, 0);
        }
        // So is what it was handed in its last turn, if no other chain reads it.
        let mut handed = VecDeque::new();
        standing.take(&mut handed);
        for held in handed.iter().filter(|held| !held.gz && !held.is_given_up()) {
            standing.lost(1, LostBytes::Unseen, held.look().map_or(0, |look| look.size));
        }
    }

    /// A family that was not looked at yet.
    pub(super) fn new(family: &Family) -> Kin {
        Kin {
            link: disk::is_link(&family.path()),
            family: family.clone(),
            chain: None,
            newest: None,
            published: Published::default(),
            about: None,
            named: false,
            standing: None,
            created: 0,
            opened: 0,
            left: false,
            again: false,
            seen: 0,
            away: false,
            packs: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::inputs::follow::generations;

    #[test]
    fn what_was_handed_out_is_known_while_it_is_held_and_is_not_walked_through_each_time() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let make = |n: usize| {
            let path = dir.path().join(n.to_string());
            fs::write(&path, "").expect("written");
            generations::open(&path).expect("opens")
        };
        let mut published = Published::default();
        let mut held: Vec<Arc<Held>> = Vec::new();
        let (mut sweeps, mut before) = (0, 0);
        for n in 0..200 {
            held.push(make(n));
            published.add(&held[n..], 0);
            sweeps += usize::from(published.sweep_at != before);
            before = published.sweep_at;
        }
        assert!(sweeps <= 6, "{sweeps} walks for 200 generations");
        assert!(held.iter().all(|held| published.has(held.id) && published.get(held.id).is_some()));
        let gone: Vec<FileId> = held.drain(..190).map(|held| held.id).collect();
        assert!(!gone.iter().any(|id| published.has(*id) || published.get(*id).is_some()));
        for n in 200..500 {
            published.add(&[make(n)], 0);
        }
        assert!(published.all.len() <= 2 * Published::SWEEP_MIN.max(held.len() + 1), "{}", published.all.len());
        assert!(held.iter().all(|held| published.has(held.id)));
        published.sweep();
        assert_eq!(published.all.len(), held.len());
    }
}
