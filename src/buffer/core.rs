//! What is done to the disk, in which order: commits, new segments, cursors, removal. Synchronous and without a clock or
//! thread of its own; `log.rs` runs it on the I/O thread, the crash tests on a simulated disk.
//!
//! | Step | Order |
//! |---|---|
//! | commit | (new segment: create, keep space, header) write, fdatasync, (folder) — then it is published |
//! | a failed write or sync | the file is never written or synced again; the same frames go into a new segment |
//! | a segment that can not grow | it ends; the same frames go into a new segment |
//! | removal of a segment, wherever it lies | cursors on the disk, then unlink, then the folder |
//! | a cursor's failed sync | the next save makes a new file and renames it over the old one |
//!
//! Limits: segments of a sixteenth of the log, 1 to 64 MiB; space is kept in steps of an eighth of that.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::books::{Books, Reader, Segment, Why};
use super::cursor::{self, Cursor, SLOT};
use super::frame::{self, BLOCK, Seed};
use super::group::Group;
use super::io::Io;
use super::meta::{self, Meta};
use super::names::{assign_readers, assign_sources};
use super::quarantine;
use super::recover::Recovery;
use super::segment::{Name, SegmentHeader};
use super::totals::BySource;
use super::{Full, LossReason, Lsn};

mod room; // what goes when, and with which counts

/// Tries of making a segment file whose name is taken.
const TAKES_MAX: u32 = 1000;

/// Sizes, all derived from the log's.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes on the disk, at most.
    pub size: u64,
    /// Bytes of a segment, about.
    pub segment: u64,
    /// Space is kept in steps of this.
    pub step: u64,
    /// Bytes of a payload, at most.
    pub payload: usize,
}

impl Limits {
    /// Those of a log of `size` bytes.
    pub fn of(size: u64) -> Limits {
        let segment = (size / 16).clamp(1 << 20, 64 << 20);
        // Two segments of the rest: one that is written to and one that is reserved.
        let payload = usize::try_from((size - 2 * segment) / 2).unwrap_or(usize::MAX).min(frame::PAYLOAD_MAX);
        Limits { size, segment, step: segment / 8, payload }
    }
}

/// Why a commit did not happen. The frames can be committed again.
#[derive(Debug)]
pub enum Fail {
    /// There is no room within the log's size.
    Full,
    /// The disk.
    Io(io::Error),
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Fail {
        Fail::Io(error)
    }
}

/// Records that a reader does not get any more: its index in the books, by source number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Index in the books.
    pub reader: usize,
    /// What, by the source's number.
    pub lost: BySource,
    /// Why.
    pub why: LossReason,
}

struct Active<F> {
    file: F,
    end: u64,
    bytes: u64,
}

/// A cursor's file.
struct CursorFile<F> {
    /// Made by this run. One of an earlier run is never written to: what it shows may be what the kernel kept of a sync
    /// that failed, so that the slot which looks older is the only one on the disk.
    file: Option<F>,
    generation: u64,
    /// What this run knows to be on the disk. `None` at the start, so that every cursor is saved anew before anything is
    /// removed: what was read may be what the kernel kept of a sync that failed.
    saved: Option<Lsn>,
}

/// See the header.
pub struct Core<I: Io> {
    io: Arc<I>,
    seed: Seed,
    meta: Meta,
    meta_dirty: bool,
    limits: Limits,
    full: Full,
    keep_ms: u64,
    books: Arc<Mutex<Books>>,
    active: Option<Active<I::File>>,
    folder_dirty: bool,
    cursors: Vec<CursorFile<I::File>>,
    /// Losses that were not told yet.
    given: Vec<Given>,
    /// Removals in a row that failed since sums can not be read.
    unreadable: u32,
    /// Segments of earlier runs begin below.
    recovered: Lsn,
    /// [`Self::learn`] has looked at those up to this one.
    learned: Option<Name>,
    /// The last segment of a failed try that could not be unlinked. The next try is later in the order of names too, whatever
    /// became of earlier ones meanwhile: recovery reads a segment up to where the next one begins.
    left: Option<Name>,
}

/// How a log is opened; what [`super::Settings`] comes down to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sizes.
    pub limits: Limits,
    /// When it is full.
    pub full: Full,
    /// Settled segments are kept for so long, in milliseconds.
    pub keep_ms: u64,
    /// Names of readers.
    pub readers: Vec<String>,
    /// One bit a reader, in their order: it keeps nobody from going on.
    pub optional: u64,
    /// Names of sources.
    pub sources: Vec<String>,
    /// The id of a new log.
    pub id: frame::LogId,
    /// What readers that are configured no longer have not settled stays, until the log is told to let go of it.
    pub hold_removed: bool,
    /// Numbers that are left out, since they may have been given before a crash without a trace.
    pub jump: u64,
}

impl<I: Io> Core<I> {
    /// Begins where `recovery` says. Writes nothing.
    pub fn new(io: Arc<I>, mut recovery: Recovery, options: &Options) -> io::Result<Core<I>> {
        let mut meta = recovery.meta.clone();
        let mut meta_dirty = recovery.meta_lost;
        if recovery.meta_lost && meta.id == [0; 16] {
            meta.id = options.id;
        }
        let next = if recovery.is_new { 1 } else { recovery.last + 1 + options.jump };
        let mut totals = recovery.totals.clone();
        let bits = assign_readers(&mut meta, &recovery, &mut totals, options, next, &mut meta_dirty)?;
        assign_sources(&mut meta, &totals, &options.sources, &mut meta_dirty);
        let names = meta.readers.iter().filter(|(bit, _)| !bits.contains(bit)).map(|(bit, _)| *bit);
        let order: Vec<(u8, bool)> = bits.iter().map(|bit| (*bit, true)).chain(names.map(|bit| (bit, false))).collect();
        let mut books =
            Books { segments: recovery.segments.clone(), committed: next - 1, next, totals, ..Books::default() };
        books.hold_removed = options.hold_removed;
        let mut cursors = Vec::new();
        let last = recovery.last;
        recovery.meta = meta.clone();
        for (bit, live) in order {
            let (settled, got) = recovery.place_of(&*io, bit);
            // Who has everything has the numbers that are left out as well.
            let settled = if settled >= last { next - 1 } else { settled };
            let optional = live && options.optional >> books.readers.len() & 1 == 1;
            let mut reader = Reader::new(bit, meta.readers[&bit].name.clone(), live, settled, got);
            reader.optional = optional;
            books.readers.push(reader);
            cursors.push(CursorFile {
                file: None,
                generation: recovery.generations.get(&bit).copied().unwrap_or(0),
                saved: None,
            });
        }
        Ok(Core {
            seed: Seed::new(&meta.id),
            io,
            meta,
            meta_dirty,
            limits: options.limits,
            full: options.full,
            keep_ms: options.keep_ms,
            books: Arc::new(Mutex::new(books)),
            active: None,
            folder_dirty: false,
            cursors,
            given: Vec::new(),
            unreadable: 0,
            recovered: next,
            learned: None,
            left: None,
        })
    }

    /// What the start writes, as far as the disk lets it: what was only in the kernel's memory is made durable, strangers
    /// go into the quarantine, names and cursors are saved. Nothing of it has to succeed for the log to work.
    pub fn prepare(&mut self, strangers: &[String], now_ms: u64) -> io::Result<()> {
        let newest = self.books().segments.back().map(|segment| segment.name.text());
        if let Some(file) = newest.and_then(|name| self.io.open(&name).ok()) {
            // A failure says nothing new: what of it was acked is on the disk.
            let _ = self.io.fdatasync(&file);
        }
        quarantine::take(&*self.io, strangers);
        self.save_meta()?;
        self.io.sync_folder()?;
        self.save_cursors()?;
        self.collect(now_ms).map_err(|fail| match fail {
            Fail::Io(error) => error,
            Fail::Full => io::ErrorKind::StorageFull.into(),
        })
    }

    /// The shared books.
    pub fn shared(&self) -> &Arc<Mutex<Books>> {
        &self.books
    }

    /// The seed of the log's checksums.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// The names.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Losses since the last call.
    pub fn take_losses(&mut self) -> Vec<Given> {
        std::mem::take(&mut self.given)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    fn save_meta(&mut self) -> io::Result<()> {
        if self.meta_dirty {
            self.io.replace(meta::FILE, &self.meta.encode())?;
            self.meta_dirty = false;
        }
        Ok(())
    }

    /// Whether a group of about `bytes` still belongs into the segment that is written to.
    pub fn fits(&self, bytes: u64) -> bool {
        let end = self.active.as_ref().map_or(BLOCK as u64, |active| active.end);
        end + bytes + frame::HEADER as u64 <= self.limits.segment
    }

    /// Writes a group, makes it durable, and publishes it. Its frames are the first of the queue.
    pub fn commit(&mut self, group: &mut Group, now_ms: u64) -> Result<(), Fail> {
        group.pad();
        let done = self.write(group, now_ms);
        if let Err(Fail::Io(error)) = &done
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            // Others fill the disk or the quota: the active segment gives back what it keeps for more, and what is only kept
            // for a replay goes. The next try says whether it helped.
            self.seal();
            let settled = self.books().free(false, Why::Done);
            if !settled.is_empty() {
                let _ = self.remove(&settled);
            }
        }
        done
    }

    fn write(&mut self, group: &Group, now_ms: u64) -> Result<(), Fail> {
        self.save_meta()?;
        let len = group.len() as u64;
        let holds_frames = self.books().segments.back().is_some_and(|last| last.end > u64::from(last.header_len));
        if holds_frames && self.active.as_ref().is_some_and(|active| active.end + len > self.limits.segment) {
            self.seal();
        }
        if self.active.is_none() {
            self.begin(group.first(), len, now_ms)?;
        }
        let (end, bytes) = self.active.as_ref().map_or((0, 0), |active| (active.end, active.bytes));
        if end + len > bytes {
            let wanted = (end + len).next_multiple_of(self.limits.step);
            self.make_room(wanted - bytes, now_ms)?;
            let active = self.active.as_mut().expect("it was begun above");
            if let Err(error) = self.io.fallocate(&active.file, wanted) {
                // Whatever it was, it may be this file's for ever. What is in it stays, and a new one has another chance.
                self.seal();
                return Err(error.into());
            }
            active.bytes = wanted;
            lock(&self.books).segments.back_mut().expect("the active one").bytes = wanted;
        }
        if let Err(error) = self.make_durable(group) {
            self.suspect();
            return Err(error.into());
        }
        let active = self.active.as_mut().expect("it was begun above");
        active.end += len;
        let mut books = lock(&self.books);
        books.segments.back_mut().expect("the active one").end = active.end;
        books.publish(group.lens());
        Ok(())
    }

    /// Writes the group to the active segment and syncs that, and the folder if the segment is new. After an error of this,
    /// and of nothing else, nobody knows what of the segment is on the disk.
    fn make_durable(&mut self, group: &Group) -> io::Result<()> {
        let active = self.active.as_ref().expect("it was begun before");
        self.io.write_blocks(&active.file, group.bytes(), active.end)?;
        self.io.fdatasync(&active.file)?;
        if self.folder_dirty {
            self.io.sync_folder()?;
            self.folder_dirty = false;
        }
        Ok(())
    }

    /// Makes a segment.
    fn begin(&mut self, first: Lsn, len: u64, now_ms: u64) -> Result<(), Fail> {
        let take = self.left.filter(|left| left.first == first).map_or(0, |left| TAKES_MAX.min(left.take + 1));
        let mut header =
            SegmentHeader { id: self.meta.id, first, take, created_ms: now_ms, totals: self.books().totals.clone() };
        let header_len = header.encode().len() as u64;
        let bytes = (header_len + len).next_multiple_of(self.limits.step);
        self.make_room(bytes, now_ms)?;
        let file = loop {
            let name = Name { first, take: header.take };
            match self.io.create(&name.text()) {
                Ok(file) => break file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && header.take < TAKES_MAX => {
                    header.take += 1;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let name = Name { first, take: header.take };
        let made = self.io.fallocate(&file, bytes).and_then(|()| self.io.write_at(&file, &header.encode(), 0));
        if let Err(error) = made {
            // Nothing was committed in it. If it stays, it is empty, and found as such.
            if self.io.unlink(&name.text()).is_err() {
                self.left = Some(name);
            }
            return Err(error.into());
        }
        self.folder_dirty = true;
        self.active = Some(Active { file, end: header_len, bytes });
        // At most HEADER_MAX.
        let header_len = header_len as u32;
        let end = u64::from(header_len);
        let segment = Segment { first, end, bytes, created_ms: now_ms, name, header_len, readers: 0 };
        self.books().segments.push_back(segment);
        Ok(())
    }

    /// Ends the active segment; gives back the space that was kept for more.
    pub fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        if self.io.truncate(&active.file, active.end).is_ok() {
            self.books().segments.back_mut().expect("the active one").bytes = active.end;
        }
    }

    /// A write or sync failed: nobody knows what of it is on the disk, and a second sync would say that all is well.
    fn suspect(&mut self) {
        if self.active.take().is_none() {
            return;
        }
        let last = self.books().segments.back().cloned().expect("the active one");
        if last.end > u64::from(last.header_len) {
            return;
        }
        if self.io.unlink(&last.name.text()).is_ok() {
            self.books().segments.pop_back();
        } else {
            self.left = Some(last.name);
        }
    }

    /// Whether a reader is further than its cursor says.
    pub fn cursors_dirty(&self) -> bool {
        let books = self.books();
        self.cursors
            .iter()
            .zip(&books.readers)
            .any(|(file, reader)| file.saved.is_none_or(|saved| saved < reader.settled))
    }

    /// Saves every cursor that has moved. All are tried; the first error is told.
    pub fn save_cursors(&mut self) -> io::Result<()> {
        let mut first = None;
        for at in 0..self.cursors.len() {
            let cursor = {
                let books = self.books();
                let reader = &books.readers[at];
                let file = &self.cursors[at];
                if file.saved.is_some_and(|saved| saved >= reader.settled) {
                    continue;
                }
                Cursor {
                    generation: file.generation + 1,
                    settled: reader.settled,
                    bit: reader.bit,
                    name: reader.name.clone(),
                    totals: reader.settled_totals.clone(),
                }
            };
            match self.save_cursor(at, &cursor) {
                Ok(()) => {
                    self.cursors[at].generation = cursor.generation;
                    self.cursors[at].saved = Some(cursor.settled);
                }
                Err(error) => {
                    // Never that file again: the next save makes a new one.
                    self.cursors[at].file = None;
                    first = first.or(Some(error));
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn save_cursor(&mut self, at: usize, cursor: &Cursor) -> io::Result<()> {
        let slot = cursor.encode(&self.meta.id);
        let place = Cursor::place(cursor.generation);
        if let Some(file) = &self.cursors[at].file {
            self.io.write_at(file, &slot, place)?;
            return self.io.fdatasync(file);
        }
        let mut both = vec![0; 2 * SLOT];
        let place = if place == 0 { 0 } else { SLOT };
        both[place..place + SLOT].copy_from_slice(&slot);
        self.cursors[at].file = Some(self.io.replace(&cursor::file_name(cursor.bit), &both)?);
        Ok(())
    }
}

/// The books, whatever happened to who held them before.
pub fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
