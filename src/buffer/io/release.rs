//! Files that were removed, whose last descriptor is closed by a thread of its own.
//!
//! The name goes at once; the blocks go with the last descriptor, and that takes as long as the file system needs to free them:
//! 11 to 17 ms for a segment of 64 MiB on ext4 with `discard`, beside 0.03 ms for the name. On the log's own thread all commits waited
//! for it: a frame at half the log's rate waited 22 to 24 ms for its commit at p99 (`cargo bench --bench disk_log`, `ack`).
//!
//! Limits: [`WAITING_MAX`] files wait and one is being closed, so the disk has that much more for a moment than the log counts; who
//! removes more closes them itself. Who finds the disk full waits until all of it is given back ([`Release::wait`]).

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

/// Files that wait to be closed, at most.
const WAITING_MAX: usize = 2;

/// See the header. Its thread begins with the first file.
#[derive(Debug, Default)]
pub(super) struct Release {
    /// `None` inside where no thread could be had.
    worker: OnceLock<Option<Worker>>,
    open: Arc<Open>,
}

#[derive(Debug)]
struct Worker {
    files: SyncSender<OwnedFd>,
    thread: JoinHandle<()>,
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

fn begin(open: &Arc<Open>) -> Option<Worker> {
    let (sender, files): (_, Receiver<OwnedFd>) = sync_channel(WAITING_MAX);
    let open = Arc::clone(open);
    let body = move || {
        for file in files {
            drop(file);
            open.change(-1);
        }
    };
    let thread = thread::Builder::new().name("log-release".to_owned()).spawn(body).ok()?;
    Some(Worker { files: sender, thread })
}

impl Release {
    /// Closes a file that has no name any more.
    pub(super) fn close(&self, file: OwnedFd) {
        let Some(worker) = self.worker.get_or_init(|| begin(&self.open)) else { return };
        self.open.change(1);
        if let Err(TrySendError::Full(file) | TrySendError::Disconnected(file)) = worker.files.try_send(file) {
            drop(file);
            self.open.change(-1);
        }
    }

    /// Waits until all are closed; whether there were any.
    pub(super) fn wait(&self) -> bool {
        let count = self.open.count.lock().unwrap_or_else(PoisonError::into_inner);
        let any = *count > 0;
        drop(self.open.closed.wait_while(count, |count| *count > 0));
        any
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(Worker { files, thread }) = self.worker.take().flatten() {
            drop(files);
            // It does nothing that panics, and who closes a log wants its disk back.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_taken_is_closed_and_can_be_waited_for() {
        let release = Release::default();
        assert!(!release.wait(), "there is none");
        for _ in 0..20 {
            let file = tempfile::tempfile().expect("a file");
            file.write_all_at(&[1; 1 << 20], 0).expect("written");
            release.close(file.into());
        }
        release.wait();
        assert_eq!(*release.open.count.lock().expect("no panic"), 0);
    }

    #[test]
    fn the_last_file_is_closed_before_it_is_gone() {
        let release = Release::default();
        let (mut read, write) = std::io::pipe().expect("a pipe");
        release.close(write.into());
        drop(release);
        // Its other end is closed: nothing blocks.
        assert_eq!(read.read(&mut [0; 1]).expect("the end"), 0);
    }
}
