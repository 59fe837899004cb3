//! What was written and is not known to be on the disk yet. Filled by the sink's thread, emptied by whoever saves a
//! checkpoint that rests on it.
//!
//! After a failed sync the kernel may have thrown the written pages away and call the next sync a success, so one
//! failure is final: nothing that rests on this output is settled in this run any more, and the next run gives it again.
//!
//! Limit: [`DIRTY_MAX`] files; beyond it the sink's own thread syncs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{fdatasync, fstat, fsync};
use rustix::io::Errno;

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

/// Whether an error of a sync says that there is nothing to sync: pipes, devices and some network file systems. Not EROFS:
/// ext4 answers so when its journal was aborted and what was written is lost; after an orderly `remount,ro` it answers
/// well, since everything was flushed.
fn is_nothing(error: Errno) -> bool {
    error == Errno::INVAL
}

impl Durable for Dirty {
    fn sync(&self) -> io::Result<()> {
        self.sync_by(|file| fdatasync(file))
    }
}

impl Dirty {
    fn sync_by(&self, sync: impl Fn(&File) -> Result<(), Errno>) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none() {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let files = waiting.files.values().map(|(file, name)| (sync(file), name.as_str()));
            let folders = waiting.folders.values().map(|folder| (fsync(folder), "a folder"));
            let first = files.chain(folders).find_map(|(outcome, name)| {
                outcome.err().filter(|error| !is_nothing(*error)).map(|error| (error, name.to_owned()))
            });
            *failed = first.map(|(error, name)| {
                format!(
                    "{name}: sync failed: {error}; nobody knows what of it is on the disk: restart longshore, which \
                     sends again what was not synced"
                )
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

    #[test]
    fn a_file_system_that_turned_read_only_is_no_success() {
        for (error, is_good) in [(Errno::INVAL, true), (Errno::ROFS, false), (Errno::IO, false), (Errno::NOSPC, false)]
        {
            let dirty = Dirty::default();
            dirty.file((1, 1), &Arc::new(tempfile::tempfile().expect("a file")), "out");
            assert_eq!(dirty.sync_by(|_| Err(error)).is_ok(), is_good, "{error}");
            assert_eq!(dirty.sync().is_ok(), is_good, "{error} is final");
        }
    }
}
