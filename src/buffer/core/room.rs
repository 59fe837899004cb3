//! Which segments go, when, and what their readers are told. A segment goes when everybody it is kept for is done with it,
//! wherever it lies ([`Books::free`](super::super::books::Books::free)); who has to give up what is in it hears exact
//! counts, from the header of the next one.

use std::io;
use std::sync::Arc;

use super::super::books::{ANYBODY, Reader, Segment, Why};
use super::super::io::Io;
use super::super::segment::{self, Scan, Start};
use super::super::totals::Totals;
use super::super::{Count, Full, LossReason, Lsn};
use super::{Core, Fail, Given, lock};

/// Removals that fail since the sums of a segment's header can not be read, in a row; then it goes without them.
const UNREADABLE_MAX: u32 = 2;

impl<I: Io> Core<I> {
    /// Makes room for `bytes` more, as the policy has it: what nobody needs goes first, then what optional readers have; but
    /// who needs a segment of an earlier run is looked up before anybody gives up anything.
    pub(super) fn make_room(&mut self, bytes: u64, now_ms: u64) -> Result<(), Fail> {
        let mut learned = false;
        loop {
            let (used, done, room, segments) = {
                let books = self.books();
                let active = self.active.is_some();
                let first = |why| books.free(active, why).first().copied();
                (books.bytes(), first(Why::Done), first(Why::Room), books.segments.len())
            };
            if used + bytes <= self.limits.size {
                return Ok(());
            }
            let sealed = segments - usize::from(self.active.is_some());
            if let Some(at) = done {
                self.remove(&[at])?;
            } else if !learned && self.learn() {
                // One look at a time: commits wait for it.
                learned = true;
                continue;
            } else if let Some(at) = room {
                self.remove(&[at])?;
            } else if self.full == Full::DropOldest && sealed > 0 {
                self.remove(&[0])?;
            } else {
                return Err(Fail::Full);
            }
            self.collect(now_ms)?;
        }
    }

    /// Removes segments that everybody is done with and that are not kept for a replay.
    pub fn collect(&mut self, now_ms: u64) -> Result<(), Fail> {
        let old = {
            let books = self.books();
            // What a segment holds is no younger than the next one.
            let ended = |at: usize| books.segments.get(at + 1).map_or(now_ms, |next| next.created_ms);
            // Without a time to keep them the clock is not asked: after a step back it would say that only the last one is
            // old, and that one says which numbers were given.
            let is_old = |at: &usize| self.keep_ms == 0 || ended(*at).saturating_add(self.keep_ms) <= now_ms;
            books.free(self.active.is_some(), Why::Done).into_iter().filter(is_old).collect::<Vec<usize>>()
        };
        if !old.is_empty() {
            self.remove(&old)?;
        }
        Ok(())
    }

    /// Removes segments, given in their order: who has frames in one and is not done with it gives up everything up to its
    /// end, and all cursors are on the disk before.
    pub(super) fn remove(&mut self, which: &[usize]) -> Result<(), Fail> {
        which.iter().try_for_each(|at| self.give_up(*at))?;
        self.save_cursors()?;
        for (gone, at) in which.iter().enumerate() {
            let name = self.books().segments[at - gone].name.text();
            match self.io.unlink(&name) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            self.books().segments.remove(at - gone);
        }
        self.io.sync_folder()?;
        Ok(())
    }

    /// Whoever has frames in that segment and is not beyond it gives up what it has up to its end.
    fn give_up(&mut self, segment: usize) -> io::Result<()> {
        let (through, behind) = {
            let books = self.books();
            let through = books.below(segment) - 1;
            let is_behind = |reader: &Reader| reader.settled < through && reader.has_some_in(&books.segments[segment]);
            let behind = (0..books.readers.len()).filter(|at| is_behind(&books.readers[*at]));
            (through, behind.collect::<Vec<usize>>())
        };
        if behind.is_empty() {
            return Ok(());
        }
        let totals = self.known_totals_at(segment + 1)?;
        let mut books = lock(&self.books);
        for reader in behind {
            let of = &mut books.readers[reader];
            let at = match &totals {
                Some(totals) => totals.of(of.bit),
                None => of.known(through),
            };
            let lost = of.give_up(through, &at);
            let why = if of.live { LossReason::DroppedOldest } else { LossReason::ReaderRemoved };
            if !lost.0.is_empty() {
                self.given.push(Given { reader, lost, why });
            }
        }
        Ok(())
    }

    /// Looks who has frames in a segment of an earlier run that can not go, one at a call; `false` if there is none left.
    /// Sums would say it without a look, but they may leave out what could not be read when they were made.
    pub fn learn(&mut self) -> bool {
        let (at, segment, below) = {
            let books = self.books();
            let (free, last) = (books.free(true, Why::Done), books.segments.len().saturating_sub(1));
            let is_unknown = |at: &usize| {
                let Segment { name, first, readers, .. } = books.segments[*at];
                readers == ANYBODY && first < self.recovered && self.learned.is_none_or(|learned| learned < name)
            };
            let Some(at) = (0..last).filter(|at| free.binary_search(at).is_err()).find(is_unknown) else {
                return false;
            };
            (at, books.segments[at].clone(), books.below(at))
        };
        self.learned = Some(segment.name);
        match self.readers_of(&segment, below) {
            Ok(readers) => self.books().segments[at].readers = readers,
            Err(error) => {
                tracing::debug!(segment = segment.name.text(), %error, "who has frames in it can not be read; it stays");
            }
        }
        true
    }

    fn readers_of(&self, segment: &Segment, below: Lsn) -> io::Result<u64> {
        let file = self.io.open_read(&segment.name.text())?;
        let mut scan = Scan::new(Arc::new(file), u64::from(segment.header_len));
        let mut readers = 0;
        while let Some((_, head)) = scan.next(&*self.io, self.seed, segment.first, below, segment.end)? {
            readers |= head.readers;
        }
        Ok(readers)
    }

    /// The sums before segment `at`, which whoever gives up what lies before it needs: without them it would be found
    /// missing later, and counted as damaged. So a disk that does not say them is asked again before that happens.
    fn known_totals_at(&mut self, at: usize) -> io::Result<Option<Totals>> {
        match self.totals_at(at).or_else(|_| self.totals_at(at)) {
            Ok(totals) => {
                self.unreadable = 0;
                Ok(Some(totals))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound && self.unreadable < UNREADABLE_MAX => {
                self.unreadable += 1;
                Err(error)
            }
            Err(_) => {
                self.unreadable = 0;
                Ok(None)
            }
        }
    }

    /// From its header, or those of all frames when it is the end.
    fn totals_at(&self, at: usize) -> io::Result<Totals> {
        let name = {
            let books = self.books();
            match books.segments.get(at) {
                Some(segment) => segment.name.text(),
                None => return Ok(books.totals.clone()),
            }
        };
        let file = self.io.open_read(&name)?;
        match segment::read_header(&*self.io, &file)? {
            Start::Header(header, _) => Ok(header.totals),
            // Its header is damaged: what lies before it is added up.
            _ => self.add_up(at),
        }
    }

    fn add_up(&self, at: usize) -> io::Result<Totals> {
        let (segments, readers) = {
            let books = self.books();
            let segments: Vec<(Segment, Lsn)> =
                (0..at).map(|at| (books.segments[at].clone(), books.below(at))).collect();
            (segments, books.readers.clone())
        };
        let mut totals = Totals(readers.iter().map(|reader| (reader.bit, reader.settled_totals.clone())).collect());
        for (segment, below) in segments {
            let file = self.io.open_read(&segment.name.text())?;
            let mut scan = Scan::new(Arc::new(file), u64::from(segment.header_len));
            while let Some((_, head)) = scan.next(&*self.io, self.seed, segment.first, below, segment.end)? {
                let done = readers.iter().filter(|reader| head.lsn <= reader.settled);
                let bits = done.fold(head.readers, |bits, reader| bits & !(1 << reader.bit));
                let count = Count { records: u64::from(head.records), bytes: u64::from(head.len) };
                totals.add(bits, head.source, count);
            }
        }
        Ok(totals)
    }
}
