//! What came and went before a look, of which no event told: a possible gap.

use std::path::Path;
use std::sync::Arc;

use super::Opener;
use crate::inputs::follow::clock;
use crate::inputs::follow::generations::{Family, Held};
use crate::log::Limited;
use crate::metrics::followed::Watching;

impl Opener {
    /// What is newer than that was made since a folder is watched, or looked at. Nobody knows where the clock was set back since.
    pub(super) fn since(&self, folder: &Path) -> Option<i64> {
        let since = self.folders.get(folder)?.since;
        (since <= clock::births()).then_some(since)
    }

    /// All that was met of a family at the last look is gone.
    pub(super) fn passed_by(&self, family: &Family) {
        static SAID: Limited = Limited::new(1);
        self.outlet.counters().followed.watch(Watching::GapPossible, 1);
        if let Some(left_out) = SAID.allow(&self.input) {
            tracing::warn!(
                input = self.input,
                path = %family.path().display(),
                left_out,
                "a folder that is looked at every 100 ms has other files than at the look before: what came and went in between is not known; have it watched (`watch = \"inotify\"`, fs.inotify.max_user_watches, no network file system), or rotate less often"
            );
        }
    }

    /// Of a name that is new these older files are not read. If they were made since its folder is looked at, their lines may have
    /// been under that name, and nobody told of it (a folder that is polled, a file that came to its name by a rename).
    pub(super) fn tell_of_unread(&mut self, family: &Family, unread: &[Arc<Held>]) {
        static SAID: Limited = Limited::new(1);
        let since = self.since(&family.folder).unwrap_or(i64::MAX);
        let missed: Vec<_> = unread.iter().filter(|held| !held.gz && held.id.btime > since).map(Arc::clone).collect();
        if missed.is_empty() || self.first_listing {
            return;
        }
        self.outlet.counters().followed.watch(Watching::GapPossible, missed.len() as u64);
        // Once is enough.
        self.listed.are_read(&missed);
        if let Some(left_out) = SAID.allow(&self.input) {
            tracing::warn!(
                input = self.input,
                path = %family.path().display(),
                files = missed.len(),
                left_out,
                "files that were made since the start have rotated names of a log that was not followed until now, and are not read; have a pattern match them, too (`*.log*`)"
            );
        }
    }
}
