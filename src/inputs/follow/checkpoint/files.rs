//! The files of the checkpoints: the whole, the whole before it, and what changed since.
//!
//! With ten thousand containers of which one writes, a save has one record to write, not ten thousand: it is appended to
//! `checkpoints.changes`, behind the number of the whole that it changes, and synced. Where each save wrote all, a hot container
//! beside ten thousand idle ones was read at 0.6 to 0.7 of its speed alone, and 72 % of the CPU time went into saves; it has all of
//! its speed now (`cargo bench --bench tail -- idle`).
//!
//! Everything is written where the changes would get longer than it (and than [`MIN`]), where a record was dropped for its age, after
//! a save that failed, and by the first and the last save of a run: tmp, fdatasync, the old file linked as `.bak`, rename, fsync of
//! the folder. Changes of another whole than the one that is there say nothing.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Entry, FILE, Key};
use crate::inputs::follow::{disk, stored};

/// The name of the changes within the data folder.
pub(super) const CHANGES: &str = "checkpoints.changes";
/// Changes take so many bytes before everything is written again, at least.
const MIN: u64 = 64 << 10;

/// What a save is to write.
pub(super) struct Save {
    /// Its number.
    pub(super) seq: u64,
    /// All records.
    pub(super) entries: Arc<std::collections::HashMap<Key, Entry>>,
    /// Those that are new, or another one than in the save before.
    pub(super) changed: Vec<Key>,
    /// Those that are in no save from this one on.
    pub(super) gone: Vec<Key>,
    /// To be written as a whole: others went, or it is the last save.
    pub(super) whole: bool,
}

/// What was written so far.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Number and length of the whole save that changes are of.
    base: Option<(u64, u64)>,
    /// The changes, and how long they are.
    changes: Option<(File, u64)>,
}

impl Files {
    /// Writes a save; it is on stable storage then.
    pub(super) fn save(&mut self, folder: &Path, save: &Save, ledger: Option<serde_json::Value>) -> io::Result<()> {
        let base = self.base.take();
        let changes = self.changes.take();
        if let Some((seq, whole)) = base.filter(|_| !save.whole) {
            let changed = save.changed.iter().filter_map(|key| save.entries.get_key_value(key));
            let text = stored::write_changes(seq, save.seq, changed, &save.gone, ledger.as_ref());
            let (before, added) = (changes.as_ref().map_or(0, |(_, bytes)| *bytes), text.len() as u64);
            if before + added <= whole.max(MIN) {
                let file = append(folder, changes.map(|(file, _)| file), &text)?;
                (self.base, self.changes) = (base, Some((file, before + added)));
                return Ok(());
            }
        }
        let text = stored::write(save.seq, &save.entries, ledger);
        replace(folder, &text)?;
        self.base = Some((save.seq, text.len() as u64));
        // They are of another one, and must not be met by a whole save that gets its number.
        let _ = disk::remove(&folder.join(CHANGES));
        Ok(())
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Behind what is there, or in a new file.
fn append(folder: &Path, file: Option<File>, text: &[u8]) -> io::Result<File> {
    let path = folder.join(CHANGES);
    let is_new = file.is_none();
    let file = file.map_or_else(|| disk::create(&path), Ok);
    let written = file.and_then(|file| {
        disk::write(&file, text)?;
        disk::sync(&file)?;
        Ok(file)
    });
    let file = written.map_err(|error| named(&path, error))?;
    if is_new {
        disk::sync_folder(folder)?;
    }
    Ok(file)
}

/// Puts the whole text in the place of the one before.
fn replace(folder: &Path, text: &[u8]) -> io::Result<()> {
    let (path, tmp, bak) = (folder.join(FILE), folder.join("checkpoints.tmp"), folder.join("checkpoints.bak"));
    let write = || -> io::Result<()> {
        let file = disk::create(&tmp)?;
        disk::write(&file, text)?;
        disk::sync(&file)
    };
    write().map_err(|error| named(&tmp, error))?;
    // A link, not a rename: the file itself is there at every moment.
    match disk::remove(&bak).and_then(|()| disk::link(&path, &bak)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // No `.bak` yet, or no file yet.
            let _ = disk::link(&path, &bak);
        }
        // A file system without links has no `.bak`; the file itself is still replaced as a whole.
        _ => {}
    }
    disk::rename(&tmp, &path).map_err(|error| named(&path, error))?;
    disk::sync_folder(folder)
}
