//! A watched folder, its families, and what was handed out of each.

use std::collections::BTreeMap;
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
pub(super) struct Published {
    pub(super) id: FileId,
    pub(super) held: Weak<Held>,
    /// For its memory to be freed by the thread that allocated it: see `FREED_AT_ONCE`.
    _path: Arc<Path>,
}

impl Published {
    pub(super) fn of(held: &Arc<Held>) -> Published {
        Published { id: held.id, held: Arc::downgrade(held), _path: Arc::clone(&held.path) }
    }
}

/// A family and what was handed out of it.
pub(super) struct Kin {
    pub(super) family: Family,
    pub(super) chain: Option<u64>,
    pub(super) newest: Option<Arc<Held>>,
    pub(super) published: Vec<Published>,
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
    /// The file that its base was when it began to wait for a descriptor, if nobody was told of that: it is missing if the look
    /// that comes then does not find it.
    pub(super) listed: Option<FileId>,
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
    }

    /// A family that was not looked at yet.
    pub(super) fn new(family: &Family) -> Kin {
        Kin {
            link: disk::is_link(&family.path()),
            family: family.clone(),
            chain: None,
            newest: None,
            published: Vec::new(),
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
            listed: None,
        }
    }
}
