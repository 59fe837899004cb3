//! What is stored, read and changed: at the start, and by the commands that look at a data folder.
//!
//! A damaged record is taken from `.bak` (the whole save before) or skipped, a damaged file gives way to `.bak`, both damaged means
//! from the head (duplicates, never loss). What changed since (`.changes`) is applied to that, but for saves of which something is
//! damaged. All of it is said. A newer version is an error, and so is a file that belongs to somebody else.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Checkpoints, Entry, FILE, Key, State, Unsynced};
use crate::inputs::follow::stored::Parsed;
use crate::inputs::follow::{disk, stored};

/// What is stored in a data folder. Takes no lock: another longshore may be at work there.
///
/// # Errors
/// The checkpoints are of a newer version.
pub fn stored(data_dir: &Path) -> io::Result<HashMap<Key, Entry>> {
    Ok(Arc::unwrap_or_clone(load(&data_dir.join(FILE))?.entries))
}

/// The ledger that is stored in a data folder. Takes no lock.
///
/// # Errors
/// The checkpoints can not be read, or are of a newer version.
pub fn stored_ledger(data_dir: &Path) -> io::Result<Option<serde_json::Value>> {
    Ok(load(&data_dir.join(FILE))?.ledger)
}

/// Changes what is stored, under the folder's lock. Nothing is written where `change` says that something is wrong.
///
/// # Errors
/// The folder is used by a longshore, or can not be written.
pub fn edit<T, E>(
    data_dir: &Path,
    change: impl FnOnce(&mut HashMap<Key, Entry>) -> Result<T, E>,
) -> io::Result<Result<T, E>> {
    let checkpoints = Checkpoints::open(data_dir, Box::new(Unsynced::new))?;
    if let Some(ledger) = checkpoints.take_ledger() {
        checkpoints.carry(Box::new(move || ledger.clone()));
    }
    let changed = change(Arc::make_mut(&mut checkpoints.lock().entries));
    if changed.is_ok() {
        checkpoints.save()?;
    }
    Ok(changed)
}

pub(super) fn load(path: &Path) -> io::Result<State> {
    // Before the whole: a running node first replaces that, then removes what had changed. So it is never older than them.
    let changes_path = path.with_extension("changes");
    let changes = bytes_of(&changes_path)?.unwrap_or_default();
    let read = |path: &Path| -> io::Result<Option<Parsed>> { Ok(bytes_of(path)?.map(|bytes| stored::read(&bytes))) };
    let bak_path = path.with_extension("bak");
    let main = read(path)?;
    if let Some(version) = main.as_ref().and_then(|main| main.newer) {
        return Err(is_newer(path, version));
    }
    let whole = main.as_ref().is_some_and(|main| main.damaged == 0 && main.seq.is_some());
    let bak = if whole { None } else { read(&bak_path)?.filter(|bak| bak.newer.is_none()) };
    let mut state = State::default();
    let existed = main.is_some() || bak.is_some();
    if let Some(bak) = bak {
        state.seq = bak.seq.unwrap_or(0);
        state.entries = Arc::new(bak.entries);
        state.ledger = bak.ledger;
        tracing::warn!(path = %path.display(), records = state.entries.len(), "checkpoints are damaged or missing; what is whole is used, the rest comes from the previous save");
    }
    let base = main.as_ref().and_then(|main| main.seq);
    if let Some(main) = main {
        state.seq = state.seq.max(main.seq.unwrap_or(0));
        state.damaged = main.damaged.saturating_sub(if state.entries.is_empty() { 0 } else { main.damaged });
        Arc::make_mut(&mut state.entries).extend(main.entries);
        state.ledger = main.ledger.or(state.ledger);
    }
    if existed && !whole && state.entries.is_empty() {
        tracing::error!(path = %path.display(), "neither the checkpoints nor their previous save can be read; files are read from their head, lines may be delivered twice");
    }
    if state.damaged > 0 {
        tracing::error!(path = %path.display(), damaged = state.damaged, "damaged checkpoints were skipped; their files are read from the head, but for those that were saved since");
    }
    // Since the whole save that is there; where nobody can read its number, since any that is newer than what can be read.
    let before = state.seq;
    let changes = stored::read_changes(&changes, |of| base.map_or(of > before, |base| of == base));
    if let Some(version) = changes.newer {
        return Err(is_newer(&changes_path, version));
    }
    if changes.damaged > 0 {
        let (path, damaged) = (changes_path.display(), changes.damaged);
        tracing::error!(%path, damaged, "damaged changes of checkpoints were skipped; lines may be delivered twice");
        state.damaged += damaged;
    }
    for change in changes.all {
        state.seq = change.seq;
        // Who has moved the others away wants none of them. (But no save is to have their number.)
        if existed {
            let entries = Arc::make_mut(&mut state.entries);
            // In this order: another one of that name may have come in the same save.
            change.gone.iter().for_each(|key| drop(entries.remove(key)));
            entries.extend(change.entries);
            state.ledger = change.ledger;
        }
    }
    Ok(state)
}

fn is_newer(path: &Path, version: u64) -> io::Error {
    let message = format!(
        "{}: version {version}, this longshore knows {}; use the newer one, or move the file away (lines are then delivered again)",
        path.display(),
        stored::VERSION
    );
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// What is in a file, if it is there and can be read.
fn bytes_of(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match disk::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        // What nobody may read is whole: to begin without it would give everything again.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "checkpoints could not be read");
            }
            Ok(None)
        }
    }
}
