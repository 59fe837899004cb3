//! The usual rotation: a file was created under the base's name, right after the one that is known. It is opened as soon
//! as that is told, and no other name is looked at; of several that were created meanwhile, Docker's numbers say which
//! names they have.
//!
//! A look ([`Opener::look`]) lists the folder, and asks for names that are absent in the middle of a rotation. Both wait
//! for the folder's lock, which the writer holds in each of its renames, for milliseconds when it is stopped in one: at
//! `10k/3` and full speed a dozen generations come and go meanwhile. A name that was just created is found without that lock.
//! The look at what events of other names may mean is put off for the same reason: a creation mostly ends the rotation
//! that they are part of. Where generations are compressed every event is looked at: a copy may stand for what was missed.

use std::time::{Duration, Instant};

use super::Opener;
use super::events::Told;
use super::kin::Kin;
use crate::inputs::follow::chain::Notes;
use crate::inputs::follow::generations::{self, Family, Opened};
use crate::inputs::follow::{clock, held};

/// How long a rotation has to come to its end before its names are looked at.
const LATER: Duration = Duration::from_millis(20);

impl Opener {
    /// Opens what was created under the base's name, if it certainly follows the newest generation. Otherwise it takes a
    /// look, which begins with what was opened by then: some of it may be gone.
    ///
    /// # Errors
    /// That.
    pub(super) fn follow_on(&mut self, family: &Family) -> Result<(), Opened> {
        let path = family.path();
        let created = self.created.get(&(family.folder.clone(), family.base.clone())).copied().unwrap_or(0);
        let mut opened = Opened::default();
        let Some(kin) = self.kin_of(&family.folder, &family.base) else { return Err(opened) };
        let now = clock::births();
        // A parked one is opened again before its name is another file's.
        let holds = kin.newest.as_ref().is_some_and(|newest| !newest.is_given_up() && !newest.is_parked());
        // All that was created before is accounted for, and no copy may stand for something.
        let settled = kin.created == kin.opened && !kin.packs;
        let usual = kin.chain.is_some() && !kin.left && !kin.link && !kin.again;
        // A date in a name does not say how many came after it.
        let named = created == 1 || !family.dated;
        if !holds || !settled || !usual || !named || held::are_used_up() || self.waiting.contains_key(&path) {
            return Err(opened);
        }
        for number in 0..created {
            let held = if number == 0 { generations::open(&path) } else { generations::open(&family.numbered(number)) };
            // Compressed, or gone.
            let Ok(held) = held else { return Err(opened) };
            // A second name of one that is known, or one that has shifted.
            let is_known = |kin: &mut Kin| kin.published.has(held.id);
            if self.kin_of(&family.folder, &family.base).is_some_and(is_known)
                || opened.certain.iter().any(|certain| certain.id == held.id)
            {
                return Err(opened);
            }
            // If names shifted before it was open, it may be another one; that is told by then. (The base is whatever it is
            // called. For one file only its name matters: others shift first in the next rotation.)
            if self.has_shifted(family, created > 1) {
                if number == 0 {
                    opened.certain.push(held);
                } else {
                    opened.doubtful = Some(held);
                }
                return Err(opened);
            }
            opened.certain.push(held);
        }
        if let Some(kin) = self.kin_of(&family.folder, &family.base) {
            (kin.opened, kin.seen) = (kin.opened + created, now);
        }
        self.later.remove(&path);
        opened.certain.reverse();
        self.publish(family, opened.certain, Notes::default());
        Ok(())
    }

    /// Whether the kernel tells by now that the base, or `any` name of a family, has changed hands.
    fn has_shifted(&mut self, family: &Family, any: bool) -> bool {
        self.gather();
        let watch = self.folders.get(&family.folder).and_then(|folder| folder.watch);
        let shifted = |told: &Told| match told {
            Told::Overflow => true,
            Told::Ended(of) => Some(*of) == watch,
            Told::Name { watch: of, name, .. } => {
                Some(*of) == watch && (*name == family.base || any && family.owns(name))
            }
        };
        self.told.iter().any(shifted)
    }

    /// Whether a look at a family can wait for the end of the rotation; then it is put off.
    pub(super) fn can_look_later(&mut self, family: &Family) -> bool {
        let kin = self.folders.get(&family.folder).and_then(|folder| folder.families.get(&family.base));
        if kin.is_none_or(|kin| kin.newest.is_none() || kin.packs) {
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
        self.list_once(due.len());
        for family in due {
            self.look(family);
        }
        self.listing = None;
    }
}
