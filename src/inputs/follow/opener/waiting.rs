//! Families that wait for a descriptor: where there are more files than `LimitNOFILE` allows. Who waits for [`WAITED`] is a
//! health check: all that is open has something to read, or is not delivered.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use super::Opener;
use super::kin::Kin;
use crate::inputs::follow::generations::Family;
use crate::inputs::follow::identity::FileId;
use crate::inputs::follow::layout::Known;
use crate::inputs::follow::{clock, held, identity};
use crate::log::Limited;
use crate::metrics::Health;
use crate::metrics::followed::Watching;

/// So long some family may wait until it is worth a word.
const WAITED: Duration = Duration::from_secs(10);

/// A family that waits.
pub(super) struct Waiting {
    family: Family,
    /// At the start.
    was_there: bool,
    /// For want of a descriptor.
    starves: bool,
}

impl Opener {
    /// Remembers a family that can not be opened for want of descriptors.
    pub(super) fn wait_for_descriptor(&mut self, family: Family) {
        if !std::mem::replace(&mut self.said_waiting, true) {
            tracing::warn!(
                input = self.input,
                open = held::open_files(),
                "as many files are open as the limit allows; idle ones are closed in turn and opened again when they grow: raise LimitNOFILE (systemd) or --ulimit nofile (Docker) to keep all open"
            );
        }
        self.note_listed(&family);
        self.wait(family.clone());
        self.waiting.entry(family.path()).and_modify(|waiting| waiting.starves = true);
    }

    /// Whether that name was there at the start.
    pub(super) fn was_there(&self, path: &Path) -> bool {
        let was_there = self.waiting.get(path).map_or(self.was_there, |waiting| waiting.was_there);
        self.first_listing || was_there
    }

    /// What the kernel tells of is counted by that ([`Opener::count_gaps`]). What only a look at the folder has met is not, so
    /// it is remembered who that is.
    fn note_listed(&mut self, family: &Family) {
        let path = family.path();
        let is_passed_over = self.tail && self.was_there(&path);
        let is_listed = self.listed.has(&path);
        let is_new = |kin: &mut Kin| kin.newest.is_none() && !kin.link && kin.created <= kin.opened;
        if is_passed_over || is_listed || !self.kin_of(&family.folder, &family.base).is_some_and(is_new) {
            return;
        }
        // Before it is asked what was told, so that one which takes the name meanwhile is not this one.
        let listed = identity::id_of(&path);
        // Where all is read once nobody counts by that.
        let is_told = !self.outlet.once && self.told_of(family) > 0;
        if is_told || matches!(self.layout.about(family), Known::Leave) {
            return;
        }
        if let Some(id) = listed {
            self.listed.add(path, id);
        }
    }

    /// Files that only a look at the folder had met, and that waited, are gone: nobody knows what was in them. But for those that
    /// came to another family's name, here or in `more`, or have one that still waits.
    pub(super) fn count_listed(&self, gone: Vec<(PathBuf, FileId)>, more: &BTreeMap<String, Kin>) {
        static SAID: Limited = Limited::new(1);
        let mut missing: HashMap<FileId, PathBuf> = gone.into_iter().map(|(path, listed)| (listed, path)).collect();
        if missing.is_empty() {
            return;
        }
        missing.retain(|id, _| !self.listed.has_file(*id));
        for kin in self.folders.values().flat_map(|folder| folder.families.values()).chain(more.values()) {
            kin.published.read().for_each(|id| drop(missing.remove(&id)));
        }
        self.outlet.counters().followed.watch(Watching::GapPossible, missing.len() as u64);
        for path in missing.values() {
            if let Some(left_out) = SAID.allow(&self.input) {
                tracing::warn!(
                    input = self.input,
                    path = %path.display(),
                    left_out,
                    "a file went while its name waited for a descriptor: what was in it is not known; raise LimitNOFILE (systemd) or --ulimit nofile (Docker)"
                );
            }
        }
    }

    /// Remembers a family that is to be looked at again soon.
    pub(super) fn wait(&mut self, family: Family) {
        let was_there = self.first_listing || self.was_there;
        self.waiting.entry(family.path()).or_insert(Waiting { family, was_there, starves: false });
    }

    /// Asks the readers to close what is idle, and looks once more at what waits.
    pub(super) fn try_waiting(&mut self) {
        self.waited = clock::now();
        for line in &self.lines {
            line.park.store(true, Release);
            line.bell.ring();
        }
        let mut looked_at = HashMap::new();
        self.list_once(self.waiting.len());
        for Waiting { family, was_there, .. } in std::mem::take(&mut self.waiting).into_values() {
            self.was_there = was_there;
            looked_at.insert((family.folder.clone(), family.base.clone()), 0);
            self.look(family);
        }
        (self.was_there, self.listing) = (false, None);
        // What came and went while it waited is not there any more.
        let mut gone = Vec::new();
        for (folder, base) in looked_at.keys() {
            let path = folder.join(base);
            if !self.waiting.contains_key(&path) {
                gone.extend(self.listed.remove(&path));
            }
        }
        self.count_listed(gone, &BTreeMap::new());
        self.count_gaps(looked_at);
        self.tell_waiting();
    }

    fn tell_waiting(&mut self) {
        let (metrics, name) = (&self.outlet.metrics, format!("descriptors {}", self.input));
        let Some(first) = self.waiting.iter().find_map(|(path, of)| of.starves.then_some(path)) else {
            self.waits_since = None;
            metrics.uncheck(&name);
            return;
        };
        if clock::since(*self.waits_since.get_or_insert_with(clock::now)) < WAITED {
            return;
        }
        let reason = format!(
            "{} names wait for a descriptor, such as {}: {} files are open, and none of them is idle and delivered; see whether a sink is slow or failing, and raise LimitNOFILE (systemd) or --ulimit nofile (Docker)",
            self.waiting.values().filter(|of| of.starves).count(),
            first.display(),
            held::open_files()
        );
        metrics.check(&name, Health::Warn, reason);
    }
}
