//! Which folders there are, and how each is watched.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::events::Told;
use super::kin::{Folder, Kin};
use super::{Opener, SHARES};
use crate::inputs::follow::generations::Family;
use crate::inputs::follow::layout::Folders;
use crate::inputs::follow::reader::News;
use crate::inputs::follow::{clock, disk, identity, inotify};
use crate::metrics::followed::Generation;

/// Where new folders do not come to be, the list of them is made so often while one is polled.
const RELIST: Duration = Duration::from_secs(1);

/// Of folders that are away, so many families are remembered that nobody reads any more.
const ENDED_MAX: usize = 1000;

/// It may not be watched, nor looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused;

impl Opener {
    /// Brings the watched folders up to date; looks into new ones. (To hold ten thousand names against those that are known each time was
    /// 0.4 % of a core.)
    pub(super) fn relist(&mut self) {
        let began = clock::now();
        if self.is_listed && self.layout.folders_stand() {
            self.relisted = (began, clock::since(began));
            return;
        }
        self.may_be_replaced = true;
        let Folders { all, unread } = self.layout.folders();
        self.relisted = (began, clock::since(began));
        for (path, error) in unread.iter().filter(|(_, error)| !disk::is_absent(error)) {
            self.say(path, error);
        }
        let mut is_whole = unread.is_empty();
        let now: HashSet<PathBuf> = all.into_iter().collect();
        let unknown = |path: &Path| unread.iter().any(|(unread, _)| path.starts_with(unread));
        let gone = self.folders.keys().filter(|path| !now.contains(*path) && !unknown(path));
        let mut gone: Vec<PathBuf> = gone.cloned().collect();
        if !gone.is_empty() {
            // What the kernel has told of one by now is read first: else what came and went in it would not be counted.
            self.gather();
            let of = |told: &Told| if let Told::Name { watch, .. } = told { Some(*watch) } else { None };
            let told: HashSet<i32> = self.told.iter().filter_map(of).collect();
            let all = gone.len();
            gone.retain(|path| self.folders[path].watch.is_none_or(|watch| !told.contains(&watch)));
            is_whole &= gone.len() == all;
        }
        self.is_listed = is_whole;
        for path in gone {
            self.folder_gone(&path);
        }
        let mut new: Vec<PathBuf> = now.into_iter().filter(|path| !self.folders.contains_key(path)).collect();
        new.sort_unstable();
        for path in new {
            self.seen_folders += 1;
            // Back again: its chains went on meanwhile.
            let (families, number) = (self.orphans.remove(&path).unwrap_or_default(), self.seen_folders);
            let (watch, id, since) = (None, None, clock::births());
            self.folders
                .insert(path.clone(), Folder { watch, polled: false, id, families, tells: false, since, number });
            self.watch(&path);
            // After the watch: what came before it is listed, what comes after it is told.
            self.list(&path);
        }
    }

    pub(super) fn watch(&mut self, path: &Path) {
        let id = identity::id_of(path);
        let watch = self.add_watch(path);
        let tells = matches!(watch, Ok(Some(_))) && inotify::tells_all(disk::file_system(path));
        if let Some(folder) = self.folders.get_mut(path) {
            (folder.watch, folder.id, folder.tells) = (watch.unwrap_or_default(), id, tells);
            // The next look at everything tries again what was refused.
            folder.polled = watch == Ok(None);
            self.polls |= folder.polled;
        }
    }

    /// The kernel says nothing when a path comes to lead to another folder (a rename, a link, a mount): the watch stays with
    /// the old one. While the folder above stands as it did that is a mount, or a link's other target: then a share of those
    /// of which the kernel surely tells is asked (10,000 were 0.4 % of a core).
    pub(super) fn unwatch_replaced(&mut self, all: bool, share: u64) {
        let all = std::mem::take(&mut self.may_be_replaced) || all;
        let Some(watcher) = &self.watcher else { return };
        for (path, folder) in &mut self.folders {
            if folder.watch.is_some()
                && (all || folder.number % SHARES == share || !folder.is_sure())
                && identity::id_of(path) != folder.id
                && let Some(watch) = folder.watch.take()
            {
                self.watches.remove(&watch);
                watcher.remove(watch);
            }
        }
    }

    /// The watch; none where a folder has to be polled.
    fn add_watch(&mut self, path: &Path) -> Result<Option<i32>, Refused> {
        if self.watcher.is_some() && !inotify::tells(disk::file_system(path)) {
            if !std::mem::replace(&mut self.said_deaf, true) {
                tracing::warn!(input = self.input, folder = %path.display(), "a folder is on a file system that does not tell of what others write (network, 9p, FUSE); it is looked at every 100 ms, and what comes and goes within that time is not seen");
            }
            return Ok(None);
        }
        let Some(watcher) = &self.watcher else { return Ok(None) };
        match watcher.add(path, inotify::FOLDER) {
            // The same folder by two names (a symlink) is one watch: the second name is polled.
            Ok(watch) if self.watches.contains_key(&watch) => Ok(None),
            Ok(watch) => {
                self.watches.insert(watch, path.to_owned());
                Ok(Some(watch))
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.say(path, &error);
                    return Err(Refused);
                }
                if error.kind() != io::ErrorKind::NotFound && !std::mem::replace(&mut self.said_polling, true) {
                    tracing::warn!(input = self.input, folder = %path.display(), %error, "a folder can not be watched (see fs.inotify.max_user_watches); it is looked at every 100 ms");
                }
                Ok(None)
            }
        }
    }

    fn folder_gone(&mut self, path: &Path) {
        let Some(mut folder) = self.folders.remove(path) else { return };
        self.count_last(path, &mut folder.families);
        if let (Some(watch), Some(watcher)) = (folder.watch, &self.watcher) {
            self.watches.remove(&watch);
            watcher.remove(watch);
        }
        self.count_unseen(folder.families.values().filter(|kin| kin.chain.is_none()));
        let gone = folder.families.values().filter_map(|kin| self.listed.remove(&kin.family.path())).collect();
        self.count_listed(gone, &folder.families);
        if self.layout.ends_with_folder() {
            for (chain, kin) in folder.families.values().filter_map(|kin| kin.chain.zip(Some(kin))) {
                self.owners.remove(&chain);
                self.send(chain, News::Gone { chain });
                // A sink may hold its reader up: what is deleted and unread is looked at by the keeper. After it was sent, or
                // the reader might call it a rest in between.
                kin.standing.iter().for_each(|standing| standing.stir());
            }
            return;
        }
        folder.families.values_mut().for_each(|kin| kin.opened = kin.created.max(kin.opened));
        // What is open is read on, and is no new file if the folder comes back; nor is what was read before its file went.
        let ended = self.orphans.values().flat_map(BTreeMap::values).filter(|kin| kin.chain.is_none()).count();
        let mut room = ENDED_MAX.saturating_sub(ended);
        let mut stays = |kin: &Kin| {
            let ended = kin.again && room > 0;
            room -= usize::from(ended && kin.chain.is_none());
            kin.chain.is_some() || ended
        };
        let (families, over): (BTreeMap<String, Kin>, BTreeMap<String, Kin>) =
            folder.families.into_iter().partition(|(_, kin)| stays(kin));
        over.values().for_each(|kin| self.layout.forget(&kin.family));
        if !families.is_empty() {
            self.orphans.insert(path.to_owned(), families);
        }
    }

    /// What was created in a folder that is gone, and is not open, never will be: its chain counts it.
    fn count_last(&mut self, path: &Path, families: &mut BTreeMap<String, Kin>) {
        let told = self.created.extract_if(|(folder, _), _| folder == path);
        let told: Vec<(String, u64)> = told.map(|((_, name), times)| (name, times)).collect();
        for (name, times) in told {
            if let Some(kin) = families.get_mut(&name).filter(|kin| !kin.left && !kin.link) {
                kin.created += times;
            }
        }
        for kin in families.values_mut() {
            if !kin.link
                && kin.hand_missing()
                && let Some((chain, standing)) = kin.chain.zip(kin.standing.as_ref())
            {
                self.hand(chain, standing, Vec::new());
            }
        }
    }

    /// Nothing is left of the families of a folder but of these: what is over is forgotten.
    pub(super) fn forget_all_but(&mut self, path: &Path, left: &[Family]) {
        let Some(folder) = self.folders.get_mut(path) else { return };
        if folder.families.len() <= left.len() && left.iter().all(|family| folder.families.contains_key(&family.base)) {
            return;
        }
        let left: HashSet<&str> = left.iter().map(|family| family.base.as_str()).collect();
        let waiting = &self.waiting;
        let is_over =
            |base: &str, kin: &Kin| kin.is_over() && !left.contains(base) && !waiting.contains_key(&kin.family.path());
        let over: Vec<Kin> =
            folder.families.extract_if(.., |base, kin| is_over(base, kin)).map(|(_, kin)| kin).collect();
        for kin in &over {
            self.layout.forget(&kin.family);
        }
        self.count_unseen(over.iter());
    }

    /// Files were created under these names, and gone before one could be opened: no chain was there to count them.
    fn count_unseen<'k>(&self, over: impl Iterator<Item = &'k Kin> + Clone) {
        let missed = over.filter(|kin| kin.created > kin.opened && !kin.link && !kin.left);
        let Some(first) = missed.clone().next() else { return };
        let files: u64 = missed.map(|kin| kin.created - kin.opened).sum();
        self.outlet.counters().followed.generation(Generation::Lost, files);
        tracing::error!(
            input = self.input,
            path = %first.family.path().display(),
            files,
            "files were created and deleted again before they could be opened: what was in them is lost; exclude them if they are not logs"
        );
    }

    /// The folders that make no events.
    pub(super) fn poll(&mut self) {
        let polled = || self.folders.iter().filter(|(_, folder)| folder.polled);
        // Where new ones may come, as often as may cost a twentieth of the time; a second is soon enough for one to go.
        let (at, took) = self.relisted;
        let apart = if polled().any(|(path, _)| self.layout.has_folders(path)) { took * 20 } else { RELIST };
        if polled().next().is_some() && clock::since(at) >= apart {
            self.relist();
        }
        let folders: Vec<PathBuf> =
            self.folders.iter().filter(|(_, folder)| folder.polled).map(|(path, _)| path.clone()).collect();
        for path in folders {
            self.list(&path);
            self.about_of(&path);
        }
        let links = self.folders.values().flat_map(|folder| folder.families.values());
        // One that leads nowhere costs a look at its target.
        let links = links.filter(|kin| kin.link && identity::id_of(&kin.family.path()).is_some());
        let links: Vec<Family> = links.map(|kin| kin.family.clone()).collect();
        for family in links {
            self.look(family);
        }
    }

    /// The family of a chain, also one whose folder is away.
    pub(super) fn kin_of(&mut self, folder: &Path, base: &str) -> Option<&mut Kin> {
        let families = match self.folders.get_mut(folder) {
            Some(folder) => &mut folder.families,
            None => self.orphans.get_mut(folder)?,
        };
        families.get_mut(base)
    }

    /// The chain of a family has ended while its folder was away. True if that was so.
    pub(super) fn forget_orphan(&mut self, folder: &Path, base: &str) -> bool {
        let Some(families) = self.orphans.get_mut(folder) else { return false };
        if let Some(kin) = families.remove(base) {
            kin.count_missing();
            self.layout.forget(&kin.family);
        }
        if families.is_empty() {
            self.orphans.remove(folder);
        }
        true
    }
}
