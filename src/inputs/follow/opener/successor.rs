//! The usual rotation: a file was created under the base's name, right after the one that is known. It is opened as soon
//! as that is told, and no other name is looked at; of several that were created meanwhile, Docker's numbers say which
//! names they have.
//!
//! A look ([`Opener::look`]) lists the folder, and asks for names that are absent in the middle of a rotation. Both wait
//! for the folder's lock, which the writer holds in each of its renames, for milliseconds when it is stopped in one: at
//! `10k/3` and full speed a dozen generations come and go meanwhile. A name that was just created is found without that lock.
//! The look at what events of other names may mean is put off for the same reason: a creation mostly ends the rotation
//! that they are part of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Opener;
use super::events::Told;
use crate::inputs::follow::generations::{self, Family, Held};
use crate::inputs::follow::{clock, held};

/// How long a rotation has to come to its end before its names are looked at.
const LATER: Duration = Duration::from_millis(20);

impl Opener {
    /// Opens what was created under the base's name, if it certainly follows the newest generation. Otherwise it takes a
    /// look, which begins with what was opened by then, newest first: some of it may be gone.
    ///
    /// # Errors
    /// That.
    pub(super) fn follow_on(&mut self, family: &Family) -> Result<(), Vec<Arc<Held>>> {
        let path = family.path();
        let created = self.created.get(&(family.folder.clone(), family.base.clone())).copied().unwrap_or(0);
        let mut fresh: Vec<Arc<Held>> = Vec::new();
        let Some(folder) = self.folders.get_mut(&family.folder) else { return Err(fresh) };
        let watch = folder.watch;
        let Some(kin) = folder.families.get_mut(&family.base) else { return Err(fresh) };
        let now = clock::births();
        // A parked one is opened again before its name is another file's.
        let holds = kin.newest.as_ref().is_some_and(|newest| !newest.is_given_up() && !newest.is_parked());
        // All that was created before is accounted for.
        let usual = kin.created == kin.opened && kin.chain.is_some() && !kin.left && !kin.link && !kin.again;
        // A date in a name does not say how many came after it.
        let named = created == 1 || !family.dated;
        if !usual || !holds || !named || held::are_used_up() || self.waiting.contains_key(&path) {
            return Err(fresh);
        }
        kin.published.retain(|(_, held)| held.strong_count() > 0);
        for number in 0..created {
            let opened =
                if number == 0 { generations::open(&path) } else { generations::open(&family.numbered(number)) };
            // Compressed, or gone.
            let Ok(held) = opened else { return Err(fresh) };
            // A second name of one that is known, or one that has shifted.
            if kin.published.iter().map(|(id, _)| *id).chain(fresh.iter().map(|held| held.id)).any(|id| id == held.id) {
                return Err(fresh);
            }
            fresh.push(held);
        }
        // If names shifted before all were open, something else was opened; that is told by then. (For one file only the
        // base's name matters: others shift first in the next rotation.)
        self.gather();
        let touched = |told: &Told| match told {
            Told::Overflow => true,
            Told::Ended(of) => Some(*of) == watch,
            Told::Name { watch: of, name, .. } if Some(*of) == watch => {
                *name == family.base || created > 1 && family.owns(name)
            }
            Told::Name { .. } => false,
        };
        if self.told.iter().any(touched) {
            return Err(fresh);
        }
        fresh.reverse();
        if let Some(kin) = self.kin_of(&family.folder, &family.base) {
            (kin.opened, kin.seen) = (kin.opened + created, now);
        }
        self.later.remove(&path);
        self.publish(family, fresh, 0);
        Ok(())
    }

    /// Whether a look at a family can wait for the end of the rotation; then it is put off.
    pub(super) fn can_look_later(&mut self, family: &Family) -> bool {
        let kin = self.folders.get(&family.folder).and_then(|folder| folder.families.get(&family.base));
        if kin.is_none_or(|kin| kin.newest.is_none()) {
            return false;
        }
        self.later.entry(family.path()).or_insert_with(|| (family.clone(), clock::now() + LATER));
        true
    }

    /// When the first look that was put off is due.
    pub(super) fn next_later(&self) -> Option<Instant> {
        self.later.values().map(|(_, at)| *at).min()
    }

    /// Takes the looks that are due.
    pub(super) fn look_now(&mut self) {
        let now = clock::now();
        let due = self.later.extract_if(.., |_, (_, at)| *at <= now);
        let due: Vec<Family> = due.map(|(_, (family, _))| family).collect();
        for family in due {
            self.look(family);
        }
    }
}
