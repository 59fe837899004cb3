//! The handle of a log: its queue, its I/O thread, and what waits for it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::{Committed, Lsn, NoRoom, Payload, Read, Recovered, Refusal, Settings, State, Status};
use crate::workers::Stop;

/// An open log. Shared by everything that appends, reads and settles.
pub struct Log {
    settings: Settings,
}

impl Log {
    /// Opens the log, or makes it. Fails only if the folder can not be used: no permission, another process, a newer
    /// version, a size that the file system does not have.
    pub fn open(settings: Settings, _readers: &[&str]) -> io::Result<(Arc<Log>, Recovered)> {
        Err(io::Error::other(format!("{}: the disk log is not built yet", settings.dir.display())))
    }

    /// Takes a frame for the readers of the mask (bit `i` is reader `i` as given to [`open`](Self::open)) and gives its
    /// number at once, in call order. `done` is told when it is on stable storage.
    pub fn append(
        &self,
        _readers: u64,
        _records: u32,
        _payload: Arc<dyn Payload>,
        done: Box<dyn Committed>,
    ) -> Result<Lsn, NoRoom> {
        Err(NoRoom { why: Refusal::Closed, done })
    }

    /// Says that frame `lsn` was handed to the reader from memory, so that `drop_oldest` does not count it as lost.
    /// [`read`](Self::read) does the same for what it returns.
    pub fn hand_out(&self, _reader: usize, _lsn: Lsn) {}

    /// Bytes of a payload, at most.
    pub fn frame_max(&self) -> usize {
        usize::try_from(self.settings.size / 4).unwrap_or(usize::MAX).min(16 << 20)
    }

    /// Waits until a frame could be taken again, or the log is closed.
    pub async fn room(&self) {}

    /// The same for a thread; returns early when told to stop.
    pub fn room_blocking(&self, _stop: &Stop) {}

    /// The next frame of a reader after `after` that it has not settled (0: from its cursor).
    pub fn read(&self, _reader: usize, _after: Lsn) -> Read {
        Read::End
    }

    /// Waits until frame `lsn` is committed; `false` if the log was closed before.
    pub async fn wait_committed(&self, _lsn: Lsn) -> bool {
        false
    }

    /// The reader is done with a frame: delivered, rejected or dropped. In any order.
    pub fn settle(&self, _reader: usize, _lsn: Lsn) {}

    /// How the log is now.
    pub fn status(&self) -> Status {
        Status {
            state: State::Closed,
            bytes: 0,
            size: self.settings.size,
            segments: 0,
            readers: Vec::new(),
            queued: 0,
            committed: 0,
            commits: 0,
            commit_ns: 0,
            commit_ns_max: 0,
            failures: 0,
            cursor_error: None,
        }
    }

    /// Commits what is queued, saves the cursors and ends the I/O thread. What can not be written by `deadline` is
    /// [`Lost::Closed`](super::Lost::Closed).
    pub fn close(&self, _deadline: Instant) -> io::Result<()> {
        Ok(())
    }
}
