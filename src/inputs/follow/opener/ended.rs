//! Chains that have ended: their families are looked at again, or forgotten.

use std::collections::VecDeque;
use std::sync::PoisonError;

use super::Opener;
use crate::inputs::follow::generations::Opened;
use crate::inputs::follow::layout::Meaning;

impl Opener {
    /// Chains that came to their end (a deleted file): should the name come back, it is a new chain.
    pub(super) fn forget_ended(&mut self) {
        let ended = self.ended();
        self.list_once(ended.len());
        for chain in ended {
            let Some((path, base)) = self.owners.remove(&chain) else { continue };
            if self.forget_orphan(&path, &base) {
                continue;
            }
            // Its name may be a rotated one of another family by now, whose files are not to come twice.
            let other = matches!(self.layout.meaning(&path, &base, true), Meaning::Member(of) if of.base != base);
            if other
                && let Some(folder) = self.folders.get_mut(&path)
                && let Some(kin) = folder.families.remove(&base)
            {
                kin.count_missing();
                self.layout.forget(&kin.family);
                continue;
            }
            let Some(kin) = self.kin_of(&path, &base) else { continue };
            // What was handed to it in its last turn nobody has read: it counts as opened once the next chain has it.
            let mut handed = VecDeque::new();
            if let Some(standing) = &kin.standing {
                standing.take(&mut handed);
            }
            kin.count_missing();
            let plain = handed.iter().filter(|held| !held.gz).count() as u64;
            kin.opened = kin.opened.saturating_sub(plain);
            (kin.chain, kin.newest, kin.standing, kin.again) = (None, None, None, true);
            kin.published.clear();
            let family = kin.family.clone();
            self.look_on(family, Opened { certain: handed.into_iter().rev().collect(), ..Opened::default() });
        }
        self.listing = None;
    }

    /// The chains that have ended by themselves since this was asked last.
    fn ended(&self) -> Vec<u64> {
        let lines = self.lines.iter();
        lines.flat_map(|line| std::mem::take(&mut *line.ended.lock().unwrap_or_else(PoisonError::into_inner))).collect()
    }

    /// Where all is read once: chains that came to their end hold no descriptor any more, and are not looked at again.
    pub(super) fn let_go_of_ended(&mut self) {
        for chain in self.ended() {
            if let Some((path, base)) = self.owners.remove(&chain)
                && let Some(kin) = self.kin_of(&path, &base)
            {
                (kin.newest, kin.standing, kin.left) = (None, None, true);
                kin.published.clear();
            }
        }
    }
}
