//! Files that only a look at a folder has met, and that nobody was told of, while the names that they had wait for a descriptor.
//! What is not read by when its name is looked at is missing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::inputs::follow::generations::Held;
use crate::inputs::follow::identity::FileId;

/// See the header. As many as names that wait.
#[derive(Default)]
pub(super) struct Listed {
    by_path: HashMap<PathBuf, FileId>,
    /// How many paths have it: with 100,000 names that wait, each rotation asks for one or two files, and mostly in vain.
    paths: HashMap<FileId, usize>,
}

impl Listed {
    pub(super) fn has(&self, path: &Path) -> bool {
        self.by_path.contains_key(path)
    }

    pub(super) fn has_file(&self, id: FileId) -> bool {
        self.paths.contains_key(&id)
    }

    /// It had no other one before.
    pub(super) fn add(&mut self, path: PathBuf, id: FileId) {
        *self.paths.entry(id).or_default() += 1;
        self.by_path.insert(path, id);
    }

    /// What that path had.
    pub(super) fn remove(&mut self, path: &Path) -> Option<(PathBuf, FileId)> {
        let (path, id) = self.by_path.remove_entry(path)?;
        if let Some(paths) = self.paths.get_mut(&id) {
            *paths -= 1;
            if *paths == 0 {
                self.paths.remove(&id);
            }
        }
        Some((path, id))
    }

    /// Whatever name one of these was listed under, it is not missing.
    pub(super) fn are_read(&mut self, generations: &[Arc<Held>]) {
        for held in generations {
            if self.paths.remove(&held.id).is_some() {
                self.by_path.retain(|_, id| *id != held.id);
            }
        }
    }
}
