//! The handle of a log: its queue, its I/O thread, and what waits for it.
//!
//! One thread does all writing: it takes what is queued (up to [`GROUP_BYTES`], so commits grow with the load), encodes it,
//! commits it, and tells who waits; after a large commit it gathers for a moment (`log/thread.rs`). Cursors are saved four
//! times a second, and at once when that could free a segment that somebody waits for.
//!
//! Limits: [`QUEUE_BYTES`] and [`QUEUE_FRAMES`] before the thread; three failures in a row, then tries 1 to 30 s apart.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::books::{Books, Why};
use super::core::{self, Core, Given, Limits, Options};
use super::folder;
use super::frame::{HEADER, Header};
use super::io::{Disk, Io};
use super::level::Level;
use super::read::{Step, Walk};
use super::recover::recover;
use super::totals::BySource;
use super::{
    Backlog, Committed, Count, Full, LogId, Loss, LossReason, Lsn, NoRoom, Payload, Read, Recovered, Refusal, SIZE_MIN,
    Settings, State, Status,
};
use crate::log::Limited;
use crate::workers::{Stop, Workers};

mod thread; // what the I/O thread does

/// Bytes of one commit, about. The budget does not pay for them, so they are few; a group of 1 MiB takes the disk no longer
/// than several smaller ones would.
const GROUP_BYTES: u64 = 1 << 20;
/// Bytes of frames that wait for the thread, about.
const QUEUE_BYTES: u64 = 8 << 20;
/// Frames that wait for the thread, at most. Far less than the numbers that are left out after a crash.
const QUEUE_FRAMES: usize = 4096;
/// Numbers left out at a start: more than can have been given without being written.
const JUMP: u64 = 1 << 16;
/// Room that is waited for at least: for a batch as inputs make them.
const ROOM_MIN: usize = 1 << 20;

/// By folder: that a log is full.
static FULL: Limited = Limited::new(4);
/// By reader: what it has lost.
static LOST: Limited = Limited::new(6);

/// An open log. Shared by everything that appends, reads and settles.
pub struct Log<I: Io = Disk> {
    inner: Arc<Inner<I>>,
    workers: Workers,
}

struct Inner<I: Io> {
    io: Arc<I>,
    limits: Limits,
    settings: Settings,
    books: Arc<Mutex<Books>>,
    queue: Mutex<Queue>,
    /// Something for the thread to do.
    work: Condvar,
    /// What is published.
    committed: Level,
    /// Rises when there may be room again.
    space: Level,
    walks: Vec<Mutex<Walk<I::File>>>,
    /// Bits by index of the reader.
    bits: Vec<u8>,
    /// Numbers by index of the source.
    sources: Vec<u16>,
    figures: thread::Figures,
    /// Its random name, and whether that was on the disk when it was opened.
    id: (LogId, bool),
    /// What was told last.
    told: Mutex<State>,
    /// That it does not take everything was written to the own log.
    said: AtomicBool,
    /// Keeps others out of the folder; until `close` has ended the thread that writes.
    folder_lock: Mutex<Option<std::os::fd::OwnedFd>>,
}

struct Queue {
    frames: VecDeque<Waiting>,
    /// Of these frames, about.
    bytes: u64,
    /// The thread looks again soon, unasked: only a whole group is to wake it.
    gathers: bool,
    /// When a frame came last that had to wait for that.
    came: Option<Instant>,
    /// Frames that the thread has taken and is committing.
    taken: usize,
    state: State,
    /// Somebody was refused for want of room since the cursors were saved last.
    wanted: bool,
    /// The largest frame that was refused since the log is full.
    full_for: usize,
    /// Set by `close`: when the thread has to be done.
    closing: Option<Instant>,
    cursor_error: Option<String>,
}

/// A frame on its way to the disk.
struct Waiting {
    head: Header,
    hint: u64,
    payload: Arc<dyn Payload>,
    done: Box<dyn Committed>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Log {
    /// Opens the log, or makes it. Fails only if the folder can not be used: no permission, another process, a newer
    /// version, a size that the file system does not have.
    pub fn open(settings: Settings, readers: &[&str]) -> io::Result<(Arc<Log>, Recovered)> {
        let said = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", settings.dir.display()));
        if settings.size < SIZE_MIN {
            let text = format!("a disk log of {} bytes: it has {SIZE_MIN} (8MiB) at least", settings.size);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let lock = folder::take(&settings.dir)?;
        let io = Arc::new(Disk::open(&settings.dir).map_err(said)?);
        folder::check_size(&io, &settings).map_err(said)?;
        let limits = Limits::of(settings.size);
        Log::open_on(io, settings.clone(), limits, readers, Some(lock)).map_err(said)
    }
}

impl<I> Log<I>
where
    I: Io + Send + Sync + 'static,
    I::File: Send + Sync + 'static,
{
    /// Opens a log on any [`Io`].
    pub(super) fn open_on(
        io: Arc<I>,
        settings: Settings,
        limits: Limits,
        readers: &[&str],
        lock: Option<std::os::fd::OwnedFd>,
    ) -> io::Result<(Arc<Log<I>>, Recovered)> {
        let recovery = recover(&*io)?;
        let mut random = fastrand::Rng::new();
        let options = Options {
            limits,
            full: settings.full,
            keep_ms: settings.keep.map_or(0, |keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)),
            readers: readers.iter().map(|name| (*name).to_owned()).collect(),
            optional: settings.optional,
            sources: settings.sources.clone(),
            id: std::array::from_fn(|_| random.u8(..)),
            hold_removed: settings.hold_removed,
            jump: JUMP + u64::from(random.u32(..)),
        };
        let damage = recovery.damage.clone();
        let strangers = recovery.strangers.clone();
        let segments = recovery.segments.len();
        let mut core = Core::new(Arc::clone(&io), recovery, &options)?;
        let mut inner = Inner {
            io,
            limits,
            bits: Vec::new(),
            sources: Vec::new(),
            books: Arc::clone(core.shared()),
            queue: Mutex::new(Queue {
                frames: VecDeque::new(),
                bytes: 0,
                gathers: false,
                came: None,
                taken: 0,
                state: State::Healthy,
                wanted: false,
                full_for: 0,
                closing: None,
                cursor_error: None,
            }),
            work: Condvar::new(),
            committed: Level::default(),
            space: Level::default(),
            walks: (0..readers.len()).map(|reader| Mutex::new(Walk::new(reader, core.seed()))).collect(),
            figures: thread::Figures::default(),
            id: (core.meta().id, false),
            told: Mutex::new(State::Healthy),
            said: AtomicBool::new(false),
            folder_lock: Mutex::new(lock),
            settings,
        };
        let number = |name: &String| core.meta().sources.iter().find(|(_, known)| *known == name).map(|(n, _)| *n);
        inner.sources = inner.settings.sources.iter().map_while(number).collect();
        {
            let books = core::lock(&inner.books);
            inner.bits = books.readers.iter().take(readers.len()).map(|reader| reader.bit).collect();
            inner.committed.raise(books.committed);
        }
        let recovered = inner.recovered(damage, segments);
        let prepared = core.prepare(&strangers, now_ms());
        inner.id.1 = prepared.is_ok();
        if let Err(error) = prepared {
            tracing::warn!(dir = %inner.settings.dir.display(), %error, "the disk log could not save its cursors at the start; it is tried again");
            inner.lock().cursor_error = Some(error.to_string());
        }
        inner.tell(core.take_losses());
        let inner = Arc::new(inner);
        let log = Log { inner: Arc::clone(&inner), workers: Workers::default() };
        log.workers.spawn("log", move || inner.run(core))?;
        Ok((Arc::new(log), recovered))
    }

    /// Takes a frame for the readers of the mask (bit `i` is reader `i` as given to [`open`](Log::open)) and gives its
    /// number at once, in call order. `done` is told when it is on stable storage.
    pub fn append(
        &self,
        readers: u64,
        records: u32,
        payload: Arc<dyn Payload>,
        done: Box<dyn Committed>,
    ) -> Result<Lsn, NoRoom> {
        self.append_handed(readers, 0, records, payload, done)
    }

    /// The same for a frame that the readers of `handed` get from memory, or have already: they do not read it again, and
    /// have to settle it.
    pub fn append_handed(
        &self,
        readers: u64,
        handed: u64,
        records: u32,
        payload: Arc<dyn Payload>,
        done: Box<dyn Committed>,
    ) -> Result<Lsn, NoRoom> {
        let inner = &*self.inner;
        let hint = payload.size_hint();
        let source = inner.sources.get(payload.source()).or(inner.sources.last()).copied().unwrap_or(0);
        let bits_of = |readers: u64| {
            let bits = inner.bits.iter().enumerate().filter(|(at, _)| readers >> at & 1 == 1);
            bits.fold(0, |bits, (_, bit)| bits | 1 << bit)
        };
        let (bits, handed) = (bits_of(readers), bits_of(handed));
        let time_ms = now_ms();
        let mut queue = inner.lock();
        let mut books = core::lock(&inner.books);
        if let Some(why) = inner.refusal(&queue, &books, hint) {
            queue.wanted |= why != Refusal::Queue;
            if matches!(why, Refusal::Full | Refusal::Dropped) {
                queue.full_for = queue.full_for.max(hint);
                if queue.state == State::Healthy {
                    queue.state = State::Full;
                    drop(books);
                    inner.work.notify_one();
                    drop(queue);
                    inner.tell_state();
                }
            }
            return Err(NoRoom { why, done });
        }
        let hint = (hint + HEADER) as u64;
        let lsn = books.append((bits, handed), records, source, hint, time_ms);
        let head = Header { lsn, committed: 0, readers: bits, records, source, time_ms, len: 0, payload_crc: 0 };
        let wakes = queue.push(Waiting { head, hint, payload, done });
        drop(books);
        drop(queue);
        if wakes {
            inner.work.notify_one();
        }
        Ok(lsn)
    }

    /// Whether the reader can be handed what is appended now: it knows of all before, and of not too many unsettled ones.
    /// Who is not has to [`read`](Self::read).
    pub fn keeps_up(&self, reader: usize) -> bool {
        core::lock(&self.inner.books).keeps_up(reader)
    }

    /// Says that frame `lsn`, which was not handed to the reader when it was appended, is now, so that `drop_oldest` does
    /// not count it as lost. [`read`](Self::read) does the same for what it returns. `false`: the reader is not that far
    /// yet.
    pub fn hand_out(&self, reader: usize, lsn: Lsn) -> bool {
        core::lock(&self.inner.books).hand_out(reader, lsn)
    }

    /// Bytes of a payload, at most.
    pub fn frame_max(&self) -> usize {
        self.inner.limits.payload
    }

    /// Waits until a frame of about so many bytes could be taken again, or the log is closed.
    pub async fn room(&self, bytes: usize) {
        loop {
            let next = self.inner.space.get() + 1;
            if self.inner.has_room(bytes) || !self.inner.space.reach(next).await {
                return;
            }
        }
    }

    /// The same for a thread; returns early when told to stop.
    pub fn room_blocking(&self, bytes: usize, stop: &Stop) {
        while !stop.is_set() {
            let next = self.inner.space.get() + 1;
            if self.inner.has_room(bytes) {
                return;
            }
            // The limit is for the word to stop.
            self.inner.space.reach_blocking(next, Duration::from_millis(50));
        }
    }

    /// The next frame of a reader after `after` that it has not settled (0: from its cursor). One thread a reader.
    pub fn read(&self, reader: usize, after: Lsn) -> Read {
        let inner = &*self.inner;
        let mut walk = inner.walks[reader].lock().unwrap_or_else(PoisonError::into_inner);
        match walk.next(&*inner.io, &inner.books, after) {
            Step::Frame(head, bytes) => Read::Frame {
                lsn: head.lsn,
                records: head.records,
                source: inner.source_of(head.source),
                time_ms: head.time_ms,
                bytes,
            },
            Step::NotYet(lsn) => Read::NotYet { lsn },
            Step::Busy => Read::Busy,
            Step::End => Read::End,
            Step::Failed(error) => Read::Failed(error),
            Step::Lost { through, lost, why } => {
                drop(walk);
                let records = lost.sum().records;
                inner.tell(vec![Given { reader, lost, why }]);
                Read::Damaged { through, records }
            }
        }
    }

    /// Waits until frame `lsn` is committed; `false` if the log was closed before.
    pub async fn wait_committed(&self, lsn: Lsn) -> bool {
        self.inner.committed.reach(lsn).await
    }

    /// The same for a thread, no longer than `limit`.
    pub fn wait_committed_blocking(&self, lsn: Lsn, limit: Duration) -> bool {
        self.inner.committed.reach_blocking(lsn, limit)
    }

    /// The reader is done with a frame: delivered, rejected or dropped. In any order.
    pub fn settle(&self, reader: usize, lsn: Lsn) {
        let frees = {
            let mut books = core::lock(&self.inner.books);
            let before = books.readers[reader].settled;
            books.settle(reader, lsn);
            // It has passed the end of a segment.
            books.holding(before + 1) != books.holding(books.readers[reader].settled + 1)
        };
        if frees && self.inner.lock().wanted {
            self.inner.work.notify_one();
        }
    }

    /// Has the cursors saved at once: for who has just synced what the settled frames rest on.
    pub fn save_soon(&self) {
        self.inner.lock().wanted = true;
        self.inner.work.notify_one();
    }

    /// Nobody will come back for what readers that are configured no longer have not settled.
    pub fn let_go_of_removed(&self) {
        core::lock(&self.inner.books).hold_removed = false;
        self.save_soon();
    }

    /// How the log is now.
    pub fn status(&self) -> Status {
        let inner = &*self.inner;
        let (state, queued, cursor_error) = {
            let queue = inner.lock();
            (queue.state.clone(), queue.frames.len() + queue.taken, queue.cursor_error.clone())
        };
        let books = core::lock(&inner.books);
        Status {
            state,
            bytes: books.bytes(),
            held: books.held(Why::Done) + books.queued_bytes,
            size: inner.limits.size,
            segments: books.segments.len(),
            readers: (0..inner.bits.len()).map(|reader| inner.backlog(&books, reader)).collect(),
            queued,
            committed: books.committed,
            commits: inner.figures.commits.load(Relaxed),
            pauses: inner.figures.pauses.load(Relaxed),
            commit_ns: inner.figures.commit_ns.load(Relaxed),
            commit_ns_max: inner.figures.commit_ns_max.load(Relaxed),
            failures: inner.figures.failures.load(Relaxed),
            cursor_error,
        }
    }

    /// Its random name; `None` if that could not be saved when it was opened.
    pub fn id(&self) -> Option<LogId> {
        let (id, is_saved) = self.inner.id;
        is_saved.then_some(id)
    }

    /// Said when the I/O thread panicked: nothing is acked any more, the node has to stop.
    pub fn failed(&self) -> &Stop {
        self.workers.failed()
    }

    /// Commits what is queued, saves the cursors and ends the I/O thread. What can not be written by `deadline` is
    /// [`Lost::Closed`].
    pub fn close(&self, deadline: Instant) -> io::Result<()> {
        self.inner.lock().closing.get_or_insert(deadline);
        self.inner.work.notify_one();
        // One sync may take its time; the thread looks at the deadline between two.
        if !self.workers.join(deadline + Duration::from_millis(500)) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk log did not end in time"));
        }
        // Nothing is written any more, whoever still has a handle: the folder is free for the next log.
        drop(self.inner.folder_lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        if self.failed().is_set() {
            return Err(io::Error::other("its thread has panicked; what it had in hand was not confirmed"));
        }
        match self.inner.lock().cursor_error.take() {
            Some(error) => Err(io::Error::other(format!("cursors of the disk log: {error}"))),
            None => Ok(()),
        }
    }
}

impl<I: Io> Drop for Log<I> {
    fn drop(&mut self) {
        self.inner.lock().closing.get_or_insert_with(Instant::now);
        self.inner.work.notify_one();
    }
}

impl<I: Io> Inner<I> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source_of(&self, number: u16) -> Option<usize> {
        self.sources.iter().position(|known| *known == number)
    }

    fn backlog(&self, books: &Books, reader: usize) -> Backlog {
        let of = &books.readers[reader];
        let left = of.backlog(&books.totals, books.committed);
        let total = left.sum();
        let segment = books.holding(of.settled + 1).map(|at| books.segments[at].created_ms).filter(|ms| *ms > 0);
        Backlog {
            total,
            by_source: self.sources.iter().map(|number| left.of(*number)).collect(),
            oldest_ms: of.oldest_ms().or(segment).filter(|_| total.records > 0),
        }
    }

    fn recovered(&self, damage: super::Damage, segments: usize) -> Recovered {
        let books = core::lock(&self.books);
        let backlog = |reader| self.backlog(&books, reader);
        Recovered {
            readers: (0..self.bits.len()).map(backlog).collect(),
            removed: (self.bits.len()..books.readers.len())
                .map(|reader| (books.readers[reader].name.clone(), backlog(reader)))
                .collect(),
            damage,
            next_lsn: books.next,
            segments,
            id: self.id.0,
        }
    }

    /// Why a frame of that size can not be taken now.
    fn refusal(&self, queue: &Queue, books: &Books, hint: usize) -> Option<Refusal> {
        if queue.closing.is_some() || queue.state == State::Closed {
            return Some(Refusal::Closed);
        }
        if hint > self.limits.payload {
            return Some(Refusal::TooLarge);
        }
        if matches!(queue.state, State::Degraded { .. }) {
            return Some(Refusal::Degraded);
        }
        let wanted = books.queued_bytes + (hint + HEADER) as u64;
        if queue.frames.len() >= QUEUE_FRAMES || (wanted > QUEUE_BYTES && !queue.frames.is_empty()) {
            return Some(Refusal::Queue);
        }
        if self.fits(books, hint) {
            return None;
        }
        Some(if self.settings.full == Full::Block { Refusal::Full } else { Refusal::Dropped })
    }

    /// Whether the size has room for a frame of that size, or makes it.
    fn fits(&self, books: &Books, hint: usize) -> bool {
        if self.settings.full == Full::DropOldest {
            return true;
        }
        // One segment is in reserve: what is queued always fits. What is only kept for a replay makes room, and what only
        // optional readers have.
        let wanted = books.queued_bytes + (hint + HEADER) as u64 + self.limits.segment;
        let fits = |held: u64| held + wanted <= self.limits.size;
        fits(books.bytes()) || fits(books.held(Why::Room))
    }

    /// Whether there is nothing to wait for with a frame of that size.
    fn has_room(&self, bytes: usize) -> bool {
        let mut queue = self.lock();
        let books = core::lock(&self.books);
        let why = self.refusal(&queue, &books, bytes.max(ROOM_MIN).min(self.limits.payload));
        let has = matches!(why, None | Some(Refusal::Closed | Refusal::Dropped));
        queue.wanted |= !has;
        has
    }

    /// Whether it is full still, and was said to be: there is no room for the largest frame that was refused since. A queue
    /// that is full is another matter: it would say nothing of the size.
    fn is_full(&self) -> bool {
        let queue = self.lock();
        let largest = queue.full_for.max(ROOM_MIN).min(self.limits.payload);
        queue.state == State::Full && !self.fits(&core::lock(&self.books), largest)
    }

    fn tell(&self, given: Vec<Given>) {
        for Given { reader, lost, why } in given {
            let name = core::lock(&self.books).readers[reader].name.clone();
            let BySource(by_source) = &lost;
            if let Some(left_out) = LOST.allow(&name) {
                let (Count { records, bytes }, reason) = (lost.sum(), reason(why));
                tracing::error!(sink = name, records, bytes, reason, left_out, "records are lost from the disk log");
            }
            let Some(watcher) = &self.settings.watcher else { continue };
            for (source, count) in by_source {
                let source = self.source_of(*source);
                let reader = Some(reader).filter(|reader| *reader < self.bits.len());
                watcher.lost(&Loss { reader, source, count: *count, why });
            }
        }
    }

    /// Says how it is now, if that was not said. A change is made under the lock of the queue and told outside of it, by
    /// several threads; so each of them looks again, and the last word is the right one.
    fn tell_state(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.lock().state.clone();
        if *told == state {
            return;
        }
        told.clone_from(&state);
        match &state {
            State::Degraded { cause } => {
                self.said.store(true, Relaxed);
                tracing::error!(dir = %self.settings.dir.display(), cause, "the log can not be written: what is given to it waits, unconfirmed, until it works again; it is tried every 1 to 30 s");
            }
            State::Full => {
                let dir = self.settings.dir.display().to_string();
                if let Some(left_out) = FULL.allow(&dir) {
                    self.said.store(true, Relaxed);
                    tracing::warn!(
                        dir,
                        size = self.limits.size,
                        left_out,
                        "the disk log is full; what happens now is [buffer] full"
                    );
                }
            }
            State::Healthy if self.said.swap(false, Relaxed) => {
                tracing::info!(dir = %self.settings.dir.display(), "the disk log takes records again");
            }
            State::Healthy | State::Closed => {}
        }
        if let Some(watcher) = &self.settings.watcher {
            watcher.state(&state);
        }
    }

    fn set_state(&self, state: State) {
        let mut queue = self.lock();
        if queue.state != state {
            queue.state = state;
            queue.full_for = 0;
            drop(queue);
            self.tell_state();
        }
    }
}

fn reason(why: LossReason) -> &'static str {
    match why {
        LossReason::DroppedOldest => "dropped_oldest",
        LossReason::Damaged => "damaged",
        LossReason::ReaderRemoved => "reader_removed",
    }
}
