//! What was written and is not known to be on the disk yet. Filled by the sink's thread, emptied by whoever saves a
//! checkpoint that rests on it.
//!
//! After a failed sync the kernel may have thrown the written pages away and call the next sync a success, so one
//! failure is final: no checkpoint is saved in this run any more, and the next run reads again from the last good one.
//!
//! Limit: [`DIRTY_MAX`] files; beyond it the sink's own thread syncs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{fdatasync, fstat, fsync};

use super::Durable;

const DIRTY_MAX: usize = 256;

/// Files and folders that wait for a sync.
#[derive(Default)]
pub struct Dirty {
    waiting: Mutex<Waiting>,
    /// Held during a sync, so that nobody returns while another still syncs what he asked for. Holds the first error.
    failed: Mutex<Option<String>>,
}

#[derive(Default)]
struct Waiting {
    files: HashMap<(u64, u64), (Arc<File>, String)>,
    folders: HashMap<(u64, u64), Arc<OwnedFd>>,
}

impl Dirty {
    /// Notes a file that was written to. Call it before anything is settled.
    pub fn file(&self, id: (u64, u64), file: &Arc<File>, name: &str) {
        let full = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.files.entry(id).or_insert_with(|| (Arc::clone(file), name.to_owned()));
            waiting.files.len() > DIRTY_MAX
        };
        if full {
            self.sync_now();
        }
    }

    /// Notes a folder in which a name is new.
    pub fn folder(&self, folder: &Arc<OwnedFd>) {
        if let Ok(stat) = fstat(folder) {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.folders.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| Arc::clone(folder));
        }
    }

    /// The same for a folder whose descriptor is only for this.
    pub fn folder_fd(&self, folder: OwnedFd) {
        self.folder(&Arc::new(folder));
    }

    /// Syncs from the sink's own thread, to keep the limits. An error is kept for whoever asks later.
    pub fn sync_now(&self) {
        if let Err(error) = self.sync() {
            tracing::error!(%error, "output files could not be synced");
        }
    }
}

impl Durable for Dirty {
    fn sync(&self) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none() {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let files = waiting.files.values().map(|(file, name)| (fdatasync(file), name.as_str()));
            let folders = waiting.folders.values().map(|folder| (fsync(folder), "a folder"));
            let first = files.chain(folders).find_map(|(outcome, name)| {
                // Pipes, devices and some network file systems have nothing to sync.
                outcome
                    .err()
                    .filter(|e| !matches!(*e, rustix::io::Errno::INVAL | rustix::io::Errno::ROFS))
                    .map(|e| (e, name.to_owned()))
            });
            *failed = first.map(|(error, name)| {
                format!("{name}: sync failed: {error}; no checkpoint is saved any more, since nobody knows what is on the disk: restart longshore to send again from the last good one")
            });
        }
        failed.as_ref().map_or(Ok(()), |text| Err(io::Error::other(text.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_waits_once_until_it_is_synced() {
        let dirty = Dirty::default();
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        dirty.file((1, 1), &file, "out");
        dirty.file((1, 1), &file, "out");
        assert_eq!(Arc::strong_count(&file), 2);
        dirty.sync().expect("synced");
        assert_eq!(Arc::strong_count(&file), 1);
        dirty.sync().expect("nothing to do");
    }

    #[test]
    fn many_files_are_synced_without_being_asked() {
        let dirty = Dirty::default();
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        for number in 0..=DIRTY_MAX as u64 {
            dirty.file((1, number), &file, "out");
        }
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn after_one_failure_no_sync_succeeds_again() {
        let dirty = Dirty::default();
        *dirty.failed.lock().expect("not poisoned") = Some("out: input/output error".to_owned());
        assert!(dirty.sync().is_err());
        dirty.file((1, 1), &Arc::new(tempfile::tempfile().expect("a file")), "out");
        assert!(dirty.sync().is_err());
    }
}
