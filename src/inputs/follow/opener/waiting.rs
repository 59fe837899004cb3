//! Families that wait for a descriptor: where there are more files than `LimitNOFILE` allows. Who waits for [`WAITED`] is a
//! health check: all that is open has something to read, or is not delivered.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use super::Opener;
use crate::inputs::follow::generations::Family;
use crate::inputs::follow::{clock, held};
use crate::metrics::Health;

/// So long some family may wait until it is worth a word.
const WAITED: Duration = Duration::from_secs(10);

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
        self.wait(family);
    }

    /// Remembers a family that is to be looked at again soon.
    pub(super) fn wait(&mut self, family: Family) {
        let was_there = self.first_listing || self.was_there;
        self.waiting.entry(family.path()).or_insert((family, was_there));
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

    /// Asks the readers to close what is idle, and looks once more at what waits.
    pub(super) fn try_waiting(&mut self) {
        self.waited = clock::now();
        for line in &self.lines {
            line.park.store(true, Release);
            line.bell.ring();
        }
        let mut looked_at = HashMap::new();
        for (family, was_there) in std::mem::take(&mut self.waiting).into_values() {
            self.was_there = was_there;
            looked_at.insert((family.folder.clone(), family.base.clone()), 0);
            self.look(family);
        }
        self.was_there = false;
        // What came and went while it waited is not there any more.
        self.count_gaps(looked_at);
        self.tell_waiting();
    }

    fn tell_waiting(&mut self) {
        let (metrics, name) = (&self.outlet.metrics, format!("descriptors {}", self.input));
        let Some(first) = self.waiting.keys().next().filter(|_| held::are_scarce()) else {
            self.waits_since = None;
            metrics.uncheck(&name);
            return;
        };
        if clock::since(*self.waits_since.get_or_insert_with(clock::now)) < WAITED {
            return;
        }
        let reason = format!(
            "{} names wait for a descriptor, such as {}: {} files are open, and none of them is idle and delivered; see whether a sink is slow or failing, and raise LimitNOFILE (systemd) or --ulimit nofile (Docker)",
            self.waiting.len(),
            first.display(),
            held::open_files()
        );
        metrics.check(&name, Health::Warn, reason);
    }
}
