//! Files that were removed: their blocks are given back by a thread of its own, a piece at a time.
//!
//! The name goes at once; the blocks go with the last descriptor, and that takes as long as the file system needs to free them:
//! 11 to 17 ms for a segment of 64 MiB on ext4 with `discard`, beside 0.03 ms for the name. On the log's own thread all commits waited
//! for it; closed by another thread, the next sync did, for the journal takes no more until all is freed. So the file is
//! cut by [`STEP`] first, 0.8 ms each. What a commit waits for: `cargo bench --bench disk_log`, `ack`.
//!
//! Limits: [`WAITING_MAX`] files wait and one is being cut, so the disk has that much more for a moment than the log counts; who
//! removes more closes them itself. Who finds the disk full waits until all of it is given back ([`Release::wait`]), for
//! [`WAIT_MAX`] at most.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs;

use crate::workers::Workers;

/// Files that wait to be closed, at most.
const WAITING_MAX: usize = 2;
/// Bytes that are given back at once.
const STEP: u64 = 4 << 20;
/// For so long who finds the disk full waits; then it is full.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// See the header. Its thread begins with the first file, and ends once this is gone and all are closed: nobody waits for a
/// disk that does not answer.
#[derive(Debug, Default)]
pub(super) struct Release {
    /// `None` inside where no thread could be had.
    files: OnceLock<Option<SyncSender<OwnedFd>>>,
    open: Arc<Open>,
}

/// Files that were taken and are not closed.
#[derive(Debug, Default)]
struct Open {
    count: Mutex<usize>,
    closed: Condvar,
}

impl Open {
    fn change(&self, by: isize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.checked_add_signed(by).expect("as many are closed as were taken");
        self.closed.notify_all();
    }
}

/// Gives back all but the last piece of a file, from its end, if it has no other name (a backup may be a link).
fn cut(file: &OwnedFd) {
    let Ok(stat) = fs::fstat(file) else { return };
    let mut len = u64::try_from(stat.st_size).unwrap_or(0);
    while stat.st_nlink == 0 && len > STEP {
        len -= STEP;
        if fs::ftruncate(file, len).is_err() {
            return;
        }
    }
}

fn begin(open: &Arc<Open>) -> Option<SyncSender<OwnedFd>> {
    let (sender, files): (_, Receiver<OwnedFd>) = sync_channel(WAITING_MAX);
    let open = Arc::clone(open);
    let body = move || {
        for file in files {
            cut(&file);
            drop(file);
            open.change(-1);
        }
    };
    Workers::default().spawn("log-release", body).ok()?;
    Some(sender)
}

impl Release {
    /// Closes a file that was opened for writing and has no name any more.
    pub(super) fn close(&self, file: OwnedFd) {
        let Some(files) = self.files.get_or_init(|| begin(&self.open)) else { return };
        self.open.change(1);
        if let Err(TrySendError::Full(file) | TrySendError::Disconnected(file)) = files.try_send(file) {
            drop(file);
            self.open.change(-1);
        }
    }

    /// Waits until all are closed, for [`WAIT_MAX`] at most.
    pub(super) fn wait(&self) {
        let count = self.open.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.open.closed.wait_timeout_while(count, WAIT_MAX, |count| *count > 0));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions, hard_link, remove_file};

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    #[test]
    fn a_file_is_cut_unless_it_has_another_name() {
        let dir = tempfile::tempdir().expect("a folder");
        for (link, left) in [(false, 1 << 20), (true, 9 << 20)] {
            let path = dir.path().join("a");
            File::create(&path).and_then(|file| file.set_len(9 << 20)).expect("made");
            let [file, other] = [(); 2].map(|()| OpenOptions::new().write(true).open(&path).expect("there"));
            if link {
                hard_link(&path, dir.path().join("b")).expect("linked");
            }
            remove_file(&path).expect("removed");
            let release = Release::default();
            release.close(file.into());
            release.wait();
            assert_eq!(other.metadata().expect("open").len(), left);
        }
    }

    #[test]
    fn what_is_taken_is_closed_when_nobody_has_to_wait_any_more() {
        let release = Release::default();
        let open = || *release.open.count.lock().expect("no panic");
        assert_eq!(open(), 0, "there is none");
        let pipes: Vec<_> = (0..20).map(|_| std::io::pipe().expect("a pipe")).collect();
        let mut ends = Vec::new();
        for (read, write) in pipes {
            fcntl_setfl(&read, OFlags::NONBLOCK).expect("set");
            release.close(write.into());
            ends.push(read);
        }
        release.wait();
        assert_eq!(open(), 0);
        // The end of each, and no wait for more.
        assert!(ends.iter().all(|end| rustix::io::read(end, &mut [0; 1]) == Ok(0)));
    }
}
