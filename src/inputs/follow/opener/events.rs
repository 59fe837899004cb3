//! What inotify told, and what is missing between what it told and what could be opened.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Opener, RESCAN};
use crate::inputs::follow::generations::{Family, Opened, base_of};
use crate::inputs::follow::layout::Meaning;
use crate::inputs::follow::standing::Standing;
use crate::inputs::follow::{clock, identity};
use crate::metrics::followed::Watching;

/// One event, kept.
pub(super) enum Told {
    /// The queue overflowed.
    Overflow,
    /// A watch has ended by itself.
    Ended(i32),
    /// What happened to a name.
    Name { watch: i32, name: String, what: What },
}

/// What happened to a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// It is a new file's.
    Created,
    /// A file that was there has it now.
    Came,
    /// Whoever wrote its file has closed it.
    Closed,
    /// Its file has another name.
    Moved,
    /// Its file is gone.
    Left,
}

/// What the events of one turn say of a name.
struct Word {
    folder: PathBuf,
    name: String,
    /// It came to a file.
    came: bool,
    /// A file was created under it: should that be gone, it was no folder.
    created: bool,
    /// The last word is that it was created.
    created_last: bool,
}

impl Opener {
    /// Takes what the kernel has queued.
    pub(super) fn gather(&mut self) {
        let Some(watcher) = &self.watcher else { return };
        watcher.drain(|event| {
            if event.is_overflow() {
                self.told.push(Told::Overflow);
            }
            if event.is_ended() {
                self.told.push(Told::Ended(event.watch));
            }
            if event.is_new_folder()
                && self.layout.ends_with_folder()
                && let (Some(folder), Some(name)) = (self.watches.get(&event.watch), event.name)
            {
                self.new_folders.push(folder.join(name));
            }
            let what = match event {
                _ if event.is_created() => What::Created,
                _ if event.is_closed() => What::Closed,
                _ if event.has_come() => What::Came,
                _ if event.has_moved() => What::Moved,
                _ => What::Left,
            };
            if let Some(name) = event.name {
                // Of other files the end says nothing.
                if what != What::Closed || name.ends_with(".gz") {
                    self.told.push(Told::Name { watch: event.watch, name: name.to_owned(), what });
                }
            }
        });
    }

    /// How many files the kernel told of by now that were created under a family's base name, less those of them that were
    /// opened: also those that were told of while the family waited for a descriptor.
    pub(super) fn told_of(&mut self, family: &Family) -> u64 {
        self.gather();
        let watch = self.folders.get(&family.folder).and_then(|folder| folder.watch);
        let is_one = |told: &&Told| matches!(told, Told::Name { watch: of, name, what: What::Created } if Some(*of) == watch && *name == family.base);
        let known = self.created.get(&(family.folder.clone(), family.base.clone())).copied().unwrap_or(0);
        let folder = self.folders.get(&family.folder);
        let kin = folder.and_then(|folder| folder.families.get(&family.base));
        let waited = kin.map_or(0, |kin| kin.created.saturating_sub(kin.opened));
        waited + known + self.told.iter().filter(is_one).count() as u64
    }

    /// Generations of a family were opened that were created under its base's name.
    pub(super) fn count_opened(&mut self, family: &Family, opened: u64) {
        let folder = self.folders.get_mut(&family.folder);
        if let Some(kin) = folder.and_then(|folder| folder.families.get_mut(&family.base)) {
            kin.opened += opened;
        }
    }

    /// What the kernel told. True when its queue overflowed.
    pub(super) fn events(&mut self) -> bool {
        let mut overflow = false;
        let began = clock::now();
        let mut words: Vec<Word> = Vec::new();
        let mut closed: Vec<(PathBuf, String)> = Vec::new();
        let mut ended = Vec::new();
        self.gather();
        // Files that were there came to these names.
        let mut moved_to: HashSet<(PathBuf, String)> = HashSet::new();
        let mut all = std::mem::take(&mut self.told).into_iter().peekable();
        while let Some(told) = all.next() {
            match told {
                Told::Overflow => overflow = true,
                Told::Ended(watch) => ended.push(watch),
                Told::Name { watch, name, what } => {
                    let Some(folder) = self.watches.get(&watch) else { continue };
                    if what == What::Closed {
                        closed.push((folder.clone(), name.clone()));
                    }
                    if what == What::Came {
                        moved_to.insert((folder.clone(), name.clone()));
                    }
                    if what == What::Created {
                        *self.created.entry((folder.clone(), name.clone())).or_default() += 1;
                    }
                    let rotated = |next: &Told| matches!(next, Told::Name { watch: of, name: next, what: What::Came } if *of == watch && base_of(next) == name);
                    let moved = (what == What::Moved && !all.peek().is_some_and(rotated)).then(|| folder.clone());
                    let created = what == What::Created;
                    let came = created || what == What::Came;
                    // One rotation makes some ten events: each name once.
                    match words.iter_mut().rev().take(16).find(|word| word.folder == *folder && word.name == name) {
                        Some(word) => {
                            (word.came, word.created_last) = (word.came || came, created);
                            word.created |= created;
                        }
                        None => {
                            let (folder, created_last) = (folder.clone(), created);
                            words.push(Word { folder, name: name.clone(), came, created, created_last });
                        }
                    }
                    if let Some(folder) = moved {
                        self.count_moved(folder, name);
                    }
                }
            }
        }
        for watch in ended {
            if let Some(path) = self.watches.remove(&watch)
                && let Some(folder) = self.folders.get_mut(&path)
            {
                (folder.watch, folder.polled) = (None, true);
                self.polls = true;
            }
        }
        for word in words.iter().filter(|word| word.name.ends_with(".gz")) {
            if let Meaning::Member(family) = self.layout.meaning(&word.folder, &word.name, word.created)
                && let Some(kin) = self.kin_of(&family.folder, &family.base)
            {
                kin.packs = true;
            }
        }
        let mut relist = false;
        self.list_once(words.len());
        for word in words {
            match self.layout.meaning(&word.folder, &word.name, word.created) {
                Meaning::Folder => relist = true,
                Meaning::Member(family) => {
                    let is_base = family.base == word.name;
                    if is_base && word.came {
                        // One that was there before may have come to the name, and have been rotated away, since.
                        let only_created = !moved_to.contains(&(word.folder.clone(), word.name.clone()));
                        let follows = word.created_last && only_created && !overflow;
                        let opened = if follows { self.follow_on(&family) } else { Err(Opened::default()) };
                        if let Err(opened) = opened {
                            self.later.remove(&family.path());
                            self.look_on(family, opened);
                        }
                    } else if !self.can_look_later(&family) {
                        self.look(family);
                    }
                }
                Meaning::About => self.about_of(&word.folder),
                Meaning::Nothing => {}
            }
        }
        self.listing = None;
        if relist {
            self.relist();
        }
        self.count_unseen_folders();
        let created = std::mem::take(&mut self.created);
        if overflow {
            self.overflowed();
        } else {
            self.count_gaps(created);
            if clock::since(self.rescanned) >= RESCAN {
                self.forgive_copies();
            }
        }
        if began != clock::now() {
            let slowest = u64::try_from(clock::since(began).as_micros()).unwrap_or(u64::MAX);
            self.outlet.counters().followed.opener_slowest.fetch_max(slowest, Ordering::Relaxed);
        }
        for (folder, name) in closed {
            self.closed(&folder, &name);
        }
        overflow
    }

    /// A file that nobody reads was given another name, which is not one of its rotation: what was created is not missing
    /// under this one (a file is written under a name of the moment, and comes to its own when it is whole).
    fn count_moved(&mut self, folder: PathBuf, name: String) {
        let kin = self.folders.get_mut(&folder).and_then(|folder| folder.families.get_mut(&name));
        if kin.as_ref().is_some_and(|kin| kin.chain.is_some()) {
            return;
        }
        match self.created.get_mut(&(folder, name)).filter(|created| **created > 0) {
            Some(created) => *created -= 1,
            None => {
                if let Some(kin) = kin.filter(|kin| kin.created > kin.opened) {
                    kin.created -= 1;
                }
            }
        }
    }

    /// Containers that came and went before their folder was watched: nobody knows whether they wrote anything.
    fn count_unseen_folders(&mut self) {
        let new = std::mem::take(&mut self.new_folders);
        let mut gone: Vec<PathBuf> = new.into_iter().filter(|path| !self.folders.contains_key(path)).collect();
        gone.retain(|path| {
            let (folder, name) = (path.parent(), path.file_name().and_then(|name| name.to_str()));
            let ours = folder.zip(name).map(|(folder, name)| self.layout.meaning(folder, name, false));
            ours == Some(Meaning::Folder) && identity::id_of(path).is_none()
        });
        if let Some(first) = gone.first() {
            self.outlet.counters().followed.watch(Watching::GapPossible, gone.len() as u64);
            tracing::warn!(
                input = self.input,
                folder = %first.display(),
                folders = gone.len(),
                "folders came and went before they could be looked into: what was written there is not known"
            );
        }
    }

    /// Events were lost: from now on the counts start anew.
    fn overflowed(&mut self) {
        let followed = &self.outlet.counters().followed;
        followed.watch(Watching::Overflow, 1);
        followed.watch(Watching::GapPossible, 1);
        if self.said_overflow.is_none_or(|at| clock::since(at) >= RESCAN) {
            self.said_overflow = Some(clock::now());
            tracing::warn!(
                input = self.input,
                overflows = followed.watching[Watching::Overflow as usize].load(Ordering::Relaxed),
                "the kernel's queue of file events overflowed; everything is looked at, and a file that came and went meanwhile is not counted; raise fs.inotify.max_queued_events"
            );
        }
        for kin in self.folders.values_mut().flat_map(|folder| folder.families.values_mut()) {
            (kin.created, kin.opened) = (0, 0);
            // Plain files whose copies were met may not be told of any more.
            if let Some(standing) = &kin.standing {
                standing.missing.fetch_max(0, Ordering::AcqRel);
            }
        }
    }

    /// Copies were met before the kernel's word on their plain files. Once it has nothing more to tell, that word will not
    /// come (nobody watched then, the queue overflowed, somebody put a compressed file there): as many files that are
    /// missing later would pass for those.
    fn forgive_copies(&self) {
        // Read before the kernel is asked: a copy that is met after that may be one whose plain file it tells of later.
        let kin = self.folders.values().flat_map(|folder| folder.families.values());
        let missing = kin.filter_map(|kin| kin.standing.as_ref()).map(|of| (of, of.missing.load(Ordering::Acquire)));
        let owed: Vec<(&Arc<Standing>, i64)> = missing.filter(|(_, missing)| *missing < 0).collect();
        if self.told.is_empty() && self.watcher.as_ref().is_none_or(|watcher| !watcher.has_more()) {
            for (standing, missing) in owed {
                let _ = standing.missing.compare_exchange(missing, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }

    /// Files that were created under a base's name and gone before they could be opened: all that the kernel told of
    /// were opened by now, or never will be.
    pub(super) fn count_gaps(&mut self, created: HashMap<(PathBuf, String), u64>) {
        for ((folder, name), times) in created {
            let Some(kin) = self.folders.get_mut(&folder).and_then(|folder| folder.families.get_mut(&name)) else {
                continue;
            };
            if kin.left || kin.link {
                continue;
            }
            kin.created += times;
            // What waits for a descriptor is not missing yet.
            if self.waiting.contains_key(&kin.family.path()) {
                continue;
            }
            // Before anything of it was opened there is nobody to tell: with the next one.
            if kin.hand_missing() {
                self.send_about_missing(&folder, &name);
            } else if kin.created < kin.opened
                && self.told.is_empty()
                && self.watcher.as_ref().is_some_and(|watcher| !watcher.has_more())
            {
                // What was there before the watch was not told of; all that was told is read.
                kin.opened = kin.created;
            }
        }
    }

    /// Wakes the chain: it counts what is missing once no compressed file can stand in for it.
    fn send_about_missing(&self, folder: &Path, name: &str) {
        let kin = self.folders.get(folder).and_then(|folder| folder.families.get(name));
        if let Some((chain, standing)) = kin.and_then(|kin| kin.chain.zip(kin.standing.as_ref())) {
            self.hand(chain, standing, Vec::new());
        }
    }

    /// A compressed file is whole: it need not be quiet for a second first.
    fn closed(&self, folder: &Path, name: &str) {
        let Ok(look) = identity::look_at(&folder.join(name)) else { return };
        let kin = self.folders.get(folder).into_iter().flat_map(|folder| folder.families.values());
        for held in kin.filter_map(|kin| kin.published.get(look.id)) {
            held.closed.store(true, Ordering::Release);
        }
    }
}
