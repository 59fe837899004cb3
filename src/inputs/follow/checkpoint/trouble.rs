//! What is said of saves that fail: that it begins, then once a minute how many tries failed so far, and that saving works
//! again. (A full disk fails each try, one a second, for as long as it is full.)

use std::io;
use std::path::Path;

use crate::inputs::follow::clock;
use crate::log::Limited;

/// See the header.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Tries that failed, one after the other.
    tries: u64,
    /// Somebody was told of them.
    said: bool,
    limit: Limited,
}

impl Trouble {
    /// Nothing has failed yet.
    pub(super) const fn new() -> Trouble {
        Trouble { tries: 0, said: false, limit: Limited::new(1) }
    }

    /// One more try, and why it failed, if it did.
    pub(super) fn note(&mut self, folder: &Path, error: Option<&io::Error>) {
        match error {
            Some(error) => self.failed(folder, error),
            None => self.is_over(folder),
        }
    }

    fn failed(&mut self, folder: &Path, error: &io::Error) {
        self.tries += 1;
        if self.limit.allow_at("", clock::now()).is_some() {
            self.said = true;
            let (folder, tries) = (folder.display(), self.tries);
            tracing::warn!(%folder, %error, tries, "checkpoints were not saved: after a kill, lines come again from the last ones that were; see to room and rights of that folder; tried again every second, said once a minute");
        }
    }

    fn is_over(&mut self, folder: &Path) {
        let tries = std::mem::take(&mut self.tries);
        if std::mem::take(&mut self.said) {
            tracing::info!(folder = %folder.display(), tries, "checkpoints are saved again, after so many tries that failed");
        }
    }
}
