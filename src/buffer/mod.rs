//! The disk log: byte strings that survive kill -9 and power loss, one log for the node, one cursor for each reader
//! (sink). It knows nothing of records; a payload is bytes, and who wants it is one bit a reader.
//!
//! ```text
//! append -> queue -> [I/O thread: encode, one write, one fdatasync (and the folder's)] -> publish -> committed()
//! read(reader, after)  <- segments, up to the published lsn            settle(reader, lsn) -> cursor -> old segments go
//! ```
//!
//! What is on the disk, in `Settings::dir`:
//!
//! | Name | What |
//! |---|---|
//! | `LOCK` | held with flock by the process that writes |
//! | `META` | version, the log's id, names of readers and sources and their numbers |
//! | `<first lsn>.seg` | a segment: header block, then commits of checksummed frames |
//! | `<bit>.cursor` | two slots of 4 KiB, overwritten in turn: how far that reader is |
//! | `quarantine/` | what was damaged or is not ours, as it was found (64 MiB at most) |
//!
//! Rules: an ack is given after the fdatasync that covers the frame, and the folder's for a new segment. Nothing that
//! was committed is written again, so damage costs one frame. Recovery writes nothing and always succeeds. A cursor
//! is on the disk before the segment below it is removed. After a failed write or sync a file is never used again.

use std::fmt;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod books;
mod core;
mod count;
#[cfg(test)]
mod crash_tests;
pub mod cursor;
mod folder;
pub mod frame;
mod group;
pub mod io;
mod level;
#[cfg(test)]
mod level_tests;
mod log;
#[cfg(test)]
mod log_tests;
mod meta;
#[cfg(test)]
mod model_tests;
mod names;
#[cfg(test)]
mod open_tests;
mod peek;
mod quarantine;
mod read;
mod recover;
mod segment;
#[cfg(test)]
mod sim;
mod totals;

use crate::sync;
#[cfg(test)]
pub use books::{HELD_MAX, PENDING_MAX};
pub use count::count;
pub use frame::LogId;
pub use log::Log;
pub use peek::{Peek, Peeked};

/// Of everything on the disk.
const VERSION: u32 = 1;

/// Number of one frame: from 1, in the order of [`Log::append`], never used twice.
pub type Lsn = u64;

/// Readers of one log, at most: one bit of a frame's header each.
pub const READERS_MAX: usize = 64;
/// Sources (inputs) whose records are counted apart, at most; the last number stands for all others.
pub const SOURCES_MAX: usize = 128;
/// The smallest log.
pub const SIZE_MIN: u64 = 8 << 20;

/// Bytes of one payload in a log of `size` bytes, at most; the same as [`Log::frame_max`].
pub fn frame_max(size: u64) -> usize {
    core::Limits::of(size.max(SIZE_MIN)).payload
}

/// What is stored: encoded by the I/O thread straight into its write buffer, so there is one copy.
pub trait Payload: Send + Sync {
    /// Appends the bytes to `out`. May be called again, after a failed write; it must give the same bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// How many bytes that will be, about; used for the room that is left, so better too many than too few.
    fn size_hint(&self) -> usize;
    /// Index into [`Settings::sources`] of where the records came from; backlog and losses are counted by it.
    fn source(&self) -> usize {
        0
    }
}

/// Told once what became of an appended frame. Called by the I/O thread: quick, never waits. It may be called before
/// [`Log::append`] has returned.
pub trait Committed: Send {
    /// `Ok`: the frame is on stable storage.
    fn committed(self: Box<Self>, outcome: Result<Lsn, Lost>);
}

/// Why a frame that was taken did not get onto the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The log was closed before it could be written.
    Closed,
    /// It is larger than a frame may be, whatever its hint said.
    TooLarge,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue before the I/O thread is full: wait for [`Log::room`].
    Queue,
    /// The log is full and the policy is to block: wait for [`Log::room`].
    Full,
    /// The log is full and the policy is to drop what is new: it is dropped, the caller counts it.
    Dropped,
    /// The disk fails: wait for [`Log::room`].
    Degraded,
    /// Larger than a frame may be ([`Log::frame_max`]): it will never fit.
    TooLarge,
    /// The log is closed.
    Closed,
}

/// A frame that was not taken, with the handle that waits for it.
pub struct NoRoom {
    /// Why.
    pub why: Refusal,
    /// What was to be told; [`Committed::committed`] was not called.
    pub done: Box<dyn Committed>,
}

impl fmt::Debug for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoRoom({:?})", self.why)
    }
}

/// What happens when the log is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    /// Nothing is taken until there is room: inputs wait.
    #[default]
    Block,
    /// The oldest segment goes, counted.
    DropOldest,
    /// What is new is refused as [`Refusal::Dropped`].
    DropNewest,
}

/// How a log is opened.
#[derive(Clone)]
pub struct Settings {
    /// Its folder; created if it is not there.
    pub dir: PathBuf,
    /// Bytes on the disk, at most; [`SIZE_MIN`] at least.
    pub size: u64,
    /// What happens when it is full.
    pub full: Full,
    /// How long settled segments are kept for a replay, within `size`.
    pub keep: Option<Duration>,
    /// Names of what the records came from (inputs), for counting; [`Payload::source`] is an index.
    pub sources: Vec<String>,
    /// One bit a reader, in the order given to [`Log::open`]: it never keeps others from going on. Where room is needed,
    /// what it has not settled goes as [`LossReason::DroppedOldest`], whatever [`Settings::full`] says.
    pub optional: u64,
    /// What readers that are configured no longer have not settled stays until [`Log::let_go_of_removed`].
    pub hold_removed: bool,
    /// Told of losses and of changes of the state.
    pub watcher: Option<Arc<dyn Watcher>>,
}

impl Settings {
    /// The defaults: block, keep nothing.
    pub fn new(dir: impl Into<PathBuf>, size: u64) -> Settings {
        Settings {
            dir: dir.into(),
            size,
            full: Full::Block,
            keep: None,
            sources: Vec::new(),
            optional: 0,
            hold_removed: false,
            watcher: None,
        }
    }
}

/// Records and bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Records.
    pub records: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

/// What one reader has not settled, by source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// All of it.
    pub total: Count,
    /// By index into [`Settings::sources`]; those whose name is gone are only in the total.
    pub by_source: Vec<Count>,
    /// When its oldest frame was appended, in milliseconds since 1970; `None` without a backlog or when not known yet.
    pub oldest_ms: Option<u64>,
}

/// Records that a reader will not get from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Index of the reader as given to [`Log::open`]; `None` for one that is configured no longer.
    pub reader: Option<usize>,
    /// Index into [`Settings::sources`]; `None` for one that is configured no longer.
    pub source: Option<usize>,
    /// How much.
    pub count: Count,
    /// Why.
    pub why: LossReason,
}

/// Why records are lost to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// The log was full: it drops its oldest segment, or the reader keeps nobody from going on.
    DroppedOldest,
    /// Bytes on the disk are damaged, or a segment is missing.
    Damaged,
    /// The reader is configured no longer, and its segment went.
    ReaderRemoved,
}

/// Told of losses and states, by whichever thread finds them: quick, never waits.
pub trait Watcher: Send + Sync {
    /// Records are lost to a reader.
    fn lost(&self, loss: &Loss);
    /// The state has changed.
    fn state(&self, state: &State);
}

/// How the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes frames.
    Healthy,
    /// No room; see [`Full`].
    Full,
    /// The disk fails: nothing is acked, readers go on, it is tried again after 1 to 30 s.
    Degraded {
        /// What failed last.
        cause: String,
    },
    /// Closed.
    Closed,
}

/// What recovery found damaged. None of it keeps the log from starting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Frames that were committed and can not be read.
    pub frames: u64,
    /// Segments of another log.
    pub foreign_segments: u64,
    /// Files that have the name of a segment, and neither a header nor a frame: what a crash leaves of one that nothing
    /// was acked in, or a destroyed one (then its readers count what they miss).
    pub unreadable_segments: u64,
    /// Segments whose header is damaged, or was never acked; their frames are read all the same.
    pub segment_headers: u64,
    /// Cursors of which no slot is whole; their reader starts at its oldest frame.
    pub cursors: u64,
    /// `META` was damaged or missing and was made again from segments and cursors.
    pub meta: u64,
}

impl Damage {
    /// Whether nothing was damaged.
    pub fn is_none(&self) -> bool {
        *self == Damage::default()
    }
}

/// What was found when the log was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// By reader, in the order given to [`Log::open`].
    pub readers: Vec<Backlog>,
    /// Readers of an earlier configuration that still have a backlog: it is kept while there is room and goes on if
    /// the name comes back.
    pub removed: Vec<(String, Backlog)>,
    /// What was damaged.
    pub damage: Damage,
    /// The next frame's number.
    pub next_lsn: Lsn,
    /// Segments found.
    pub segments: usize,
    /// Its random name.
    pub id: LogId,
}

/// The answer of [`Log::read`].
#[derive(Debug)]
pub enum Read {
    /// The next frame.
    Frame {
        /// Its number.
        lsn: Lsn,
        /// Records in it.
        records: u32,
        /// Index into [`Settings::sources`], `None` for a name that is gone.
        source: Option<usize>,
        /// When it was appended, in milliseconds since 1970.
        time_ms: u64,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// The next one is not committed yet: [`Log::wait_committed`].
    NotYet {
        /// Its number.
        lsn: Lsn,
    },
    /// There is one, but the reader has so many that are not settled that it has to wait ([`books::HELD_MAX`]).
    Busy,
    /// Nothing more was appended for this reader.
    End,
    /// Frames are lost; they count as settled. Told to the [`Watcher`] as well.
    Damaged {
        /// Go on after this number.
        through: Lsn,
        /// Records of this reader that are known to be lost.
        records: u64,
    },
    /// The disk can not be read now; nothing is skipped. Try again later.
    Failed(std::io::Error),
}

/// How the log is now, for metrics and health.
#[derive(Clone, Debug)]
pub struct Status {
    /// How it is.
    pub state: State,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes of segments that some reader needs, and of what waits to be written; not of what is only kept for a replay.
    pub held: u64,
    /// Bytes on the disk, at most.
    pub size: u64,
    /// Segments.
    pub segments: usize,
    /// By reader, in the order given to [`Log::open`].
    pub readers: Vec<Backlog>,
    /// Frames taken and not committed yet.
    pub queued: usize,
    /// The last committed frame.
    pub committed: Lsn,
    /// Commits since the start.
    pub commits: u64,
    /// Commits whose frames had waited for more.
    pub pauses: u64,
    /// Nanoseconds of all commits, from the first write to the last sync.
    pub commit_ns: u64,
    /// Nanoseconds of the longest commit.
    pub commit_ns_max: u64,
    /// Failed writes and syncs since the start.
    pub failures: u64,
    /// What failed when a cursor was saved last; `None` if it was saved.
    pub cursor_error: Option<String>,
}
