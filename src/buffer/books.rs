//! What the log knows without looking at the disk: its segments, its numbers, and how far each reader is. Pure; shared
//! behind one lock by those that append, read and settle and by the I/O thread, and held only for a look or a change.
//!
//! A reader's frames up to `settled` are done with. Those from there to its `horizon` are in `pending`, one entry each;
//! beyond it lies what was not looked at yet: a backlog costs no memory. The horizon follows the end of the log as long
//! as a reader keeps up (entries come from `append`), and else moves as the reader reads.
//!
//! Of a reader that takes its frames from memory the horizon is always at the end of the log: what it has in hand is noted
//! at once ([`Books::append`]), and without room for that ([`Books::keeps_up`]) it has to read. A horizon that stays
//! behind would hold the cursor, and with it every segment, though all of it is settled.
//!
//! Limits: [`PENDING_MAX`] entries of 32 bytes a reader for what it does not have in hand, [`HELD_MAX`] in all (beyond it only
//! what is queued or was in hand already), settled ones behind one that is not among them; [`PENDING_MAX`] settled numbers
//! beyond the horizon; 64 bytes a segment.

use std::collections::{BTreeSet, VecDeque};

use super::segment::Name;
use super::totals::{BySource, Totals};
use super::{Count, Lsn};

/// Entries of one reader that `append` makes for what is to be read, at most.
pub const PENDING_MAX: usize = 8192;
/// Entries of one reader, at most: so many frames are given out beyond one that is not settled.
pub const HELD_MAX: usize = 65_536;

/// A segment that may have frames for every reader.
pub const ANYBODY: u64 = u64::MAX;

/// One segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its first frame.
    pub first: Lsn,
    /// The bytes that hold committed frames end here (of a recovered one: the file).
    pub end: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When it was made, in milliseconds since 1970; 0 when its header is damaged.
    pub created_ms: u64,
    /// Its file.
    pub name: Name,
    /// Where its frames begin.
    pub header_len: u32,
    /// Bits of the readers that have frames in it; [`ANYBODY`] while nobody has looked.
    pub readers: u64,
}

/// A frame that was taken and is not committed.
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    /// Its number.
    pub lsn: Lsn,
    /// Bits of its readers.
    pub bits: u64,
    /// Its records.
    pub records: u32,
    /// Number of its source.
    pub source: u16,
    /// Bytes that it will have, about.
    pub hint: u64,
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: u64,
}

/// A frame of one reader that is not done with.
#[derive(Clone, Copy, Debug)]
struct Entry {
    lsn: Lsn,
    time_ms: u64,
    records: u32,
    bytes: u32,
    source: u16,
    settled: bool,
    handed: bool,
}

impl Entry {
    fn count(&self) -> Count {
        Count { records: u64::from(self.records), bytes: u64::from(self.bytes) }
    }
}

/// One reader.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// Its bit.
    pub bit: u8,
    /// Its name.
    pub name: String,
    /// Whether it is configured; others keep their backlog while there is room.
    pub live: bool,
    /// It never keeps others from going on: what it has not settled goes when room is needed.
    pub optional: bool,
    /// Everything of it up to here is settled.
    pub settled: Lsn,
    /// What it had got by then.
    pub settled_totals: BySource,
    /// What it has seen of committed frames, settled or not.
    seen: BySource,
    pending: VecDeque<Entry>,
    /// All frames below are in `pending` or settled.
    horizon: Lsn,
    /// Settled, but not in `pending` yet.
    early: BTreeSet<Lsn>,
    /// Losses that count as got once everything up to the number is settled.
    losses: Vec<(Lsn, BySource)>,
}

/// What a segment is to be removed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody needs it.
    Done,
    /// Room is needed: nobody needs it whom others have to wait for.
    Room,
}

/// What became of a frame that a reader met in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It is the reader's turn.
    Give,
    /// It is settled already.
    Skip,
}

impl Reader {
    /// A reader at a place.
    pub fn new(bit: u8, name: String, live: bool, settled: Lsn, totals: BySource) -> Reader {
        Reader {
            bit,
            name,
            live,
            settled,
            seen: totals.clone(),
            settled_totals: totals,
            horizon: settled + 1,
            ..Reader::default()
        }
    }

    /// All frames below are known or settled.
    pub fn horizon(&self) -> Lsn {
        self.horizon
    }

    fn wants(&self, bits: u64) -> bool {
        bits >> self.bit & 1 == 1
    }

    /// Whether frames of that segment can be its own.
    pub fn has_some_in(&self, segment: &Segment) -> bool {
        self.wants(segment.readers)
    }

    fn appended(&mut self, frame: &Queued, handed: bool) {
        if self.horizon != frame.lsn {
            return;
        }
        if self.wants(frame.bits) {
            if !handed && self.pending.len() >= PENDING_MAX {
                return;
            }
            self.push(frame, 0, handed);
        }
        self.horizon = frame.lsn + 1;
    }

    fn push(&mut self, frame: &Queued, bytes: u32, handed: bool) {
        let settled = self.early.remove(&frame.lsn);
        self.pending.push_back(Entry {
            lsn: frame.lsn,
            time_ms: frame.time_ms,
            records: frame.records,
            bytes,
            source: frame.source,
            settled,
            handed,
        });
    }

    fn entry(&mut self, lsn: Lsn) -> Option<&mut Entry> {
        let at = self.pending.binary_search_by_key(&lsn, |entry| entry.lsn).ok()?;
        self.pending.get_mut(at)
    }

    /// A frame of this reader is on the disk with that many bytes; `None`: as an empty one, for nobody.
    fn committed(&mut self, frame: &Queued, bytes: Option<u32>) {
        if !self.wants(frame.bits) {
            return;
        }
        let Some(entry) = self.entry(frame.lsn) else { return };
        match bytes {
            Some(bytes) => {
                entry.bytes = bytes;
                let count = entry.count();
                self.seen.add(frame.source, count);
            }
            None => {
                entry.records = 0;
                entry.settled = true;
            }
        }
    }

    fn advance(&mut self, committed: Lsn) {
        while let Some(front) = self.pending.front().filter(|front| front.settled && front.lsn <= committed) {
            let (source, count) = (front.source, front.count());
            self.settled_totals.add(source, count);
            self.pending.pop_front();
        }
        let done = self.pending.front().map_or(self.horizon, |front| front.lsn) - 1;
        self.settled = self.settled.max(done.min(committed));
        if !self.losses.is_empty() {
            let settled = self.settled;
            let (due, rest) = std::mem::take(&mut self.losses).into_iter().partition(|(lsn, _)| *lsn <= settled);
            self.losses = rest;
            let due: Vec<(Lsn, BySource)> = due;
            for (source, count) in due.into_iter().flat_map(|(_, lost)| lost.0) {
                self.settled_totals.add(source, count);
            }
        }
    }

    /// What is not settled, by source, given the sums of all committed frames.
    pub fn backlog(&self, totals: &Totals, committed: Lsn) -> BySource {
        let mut left = totals.of(self.bit).above(&self.settled_totals);
        for entry in self.pending.iter().filter(|entry| entry.settled && entry.lsn <= committed) {
            left.take(entry.source, entry.count());
        }
        left
    }

    /// What it has settled or has in hand of what ends at `through`, as far as its entries tell.
    pub fn known(&self, through: Lsn) -> BySource {
        let mut known = self.settled_totals.clone();
        let entries = self.pending.iter().take_while(|entry| entry.lsn <= through);
        for entry in entries.filter(|entry| entry.settled || entry.handed) {
            known.add(entry.source, entry.count());
        }
        known
    }

    /// When the oldest known frame was taken.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.pending.iter().find(|entry| !entry.settled).map(|entry| entry.time_ms)
    }

    /// Gives up everything up to `through`, where the sums were `totals`; says what nobody had been handed.
    pub fn give_up(&mut self, through: Lsn, totals: &BySource) -> BySource {
        if self.settled >= through {
            return BySource::default();
        }
        let mut lost = totals.above(&self.settled_totals);
        while let Some(entry) = self.pending.front().filter(|entry| entry.lsn <= through) {
            if entry.settled || entry.handed {
                lost.take(entry.source, entry.count());
            }
            self.pending.pop_front();
        }
        self.early = self.early.split_off(&(through + 1));
        self.losses.retain(|(lsn, _)| *lsn > through);
        self.settled_totals.raise(totals);
        self.seen.raise(totals);
        self.settled = through;
        self.horizon = self.horizon.max(through + 1);
        lost.0.retain(|_, count| !count.is_zero());
        lost
    }
}

/// Everything (see the header).
#[derive(Debug, Default)]
pub struct Books {
    /// Oldest first.
    pub segments: VecDeque<Segment>,
    /// Configured readers in their order, then others.
    pub readers: Vec<Reader>,
    /// Everything up to here is on stable storage.
    pub committed: Lsn,
    /// The next frame's number.
    pub next: Lsn,
    /// Sums of all committed frames.
    pub totals: Totals,
    /// Taken, not committed.
    pub queued: VecDeque<Queued>,
    /// The sum of their hints.
    pub queued_bytes: u64,
    /// What readers that are configured no longer have not settled stays for now.
    pub hold_removed: bool,
}

impl Books {
    /// Takes a frame and gives its number. Readers of the bits `handed` get it from memory.
    pub fn append(&mut self, (bits, handed): (u64, u64), records: u32, source: u16, hint: u64, time_ms: u64) -> Lsn {
        let lsn = self.next;
        self.next += 1;
        let frame = Queued { lsn, bits, records, source, hint, time_ms };
        self.queued.push_back(frame);
        self.queued_bytes += hint;
        self.readers.iter_mut().for_each(|reader| reader.appended(&frame, handed >> reader.bit & 1 == 1));
        lsn
    }

    /// Whether a reader knows of everything that was taken, and has room for more of it.
    pub fn keeps_up(&self, reader: usize) -> bool {
        let reader = &self.readers[reader];
        reader.horizon == self.next && reader.pending.len() < HELD_MAX
    }

    /// The first frames of the queue, one for each of `lens`, are on stable storage. `None`: as an empty frame.
    pub fn publish(&mut self, lens: &[Option<u32>]) {
        for len in lens {
            let frame = self.queued.pop_front().expect("only what is queued is committed");
            self.queued_bytes -= frame.hint;
            if let Some(len) = len {
                let count = Count { records: u64::from(frame.records), bytes: u64::from(*len) };
                self.totals.add(frame.bits, frame.source, count);
                self.segments.back_mut().into_iter().for_each(|last| last.readers |= frame.bits);
            }
            self.readers.iter_mut().for_each(|reader| reader.committed(&frame, *len));
            self.committed = frame.lsn;
        }
        let committed = self.committed;
        self.readers.iter_mut().for_each(|reader| reader.advance(committed));
    }

    /// A reader is done with a frame.
    pub fn settle(&mut self, reader: usize, lsn: Lsn) {
        let committed = self.committed;
        let reader = &mut self.readers[reader];
        if lsn < reader.horizon {
            if let Some(entry) = reader.entry(lsn) {
                entry.settled = true;
            }
        } else if reader.early.len() < PENDING_MAX {
            // Beyond that the frame comes again.
            reader.early.insert(lsn);
        }
        reader.advance(committed);
    }

    /// A frame was handed to a reader from memory later than it was taken; `false` if it is not among those that the
    /// reader has looked at.
    pub fn hand_out(&mut self, reader: usize, lsn: Lsn) -> bool {
        let entry = self.readers[reader].entry(lsn);
        entry.is_some_and(|entry| {
            entry.handed = true;
            true
        })
    }

    /// Whether the reader has [`HELD_MAX`] frames, and so has to wait until an older one is settled before
    /// it [meets](Self::met) frame `lsn`. Asked before the frame is read.
    pub fn is_busy(&mut self, reader: usize, lsn: Lsn) -> bool {
        let reader = &mut self.readers[reader];
        let is_busy = lsn >= reader.horizon && reader.pending.len() >= HELD_MAX;
        if is_busy {
            // Everything before it is known.
            reader.horizon = lsn;
        }
        is_busy
    }

    /// A reader met a frame of its own in the log.
    pub fn met(&mut self, reader: usize, frame: &Queued, bytes: u32) -> Met {
        let committed = self.committed;
        let reader = &mut self.readers[reader];
        if frame.lsn < reader.horizon {
            return match reader.entry(frame.lsn) {
                Some(entry) if !entry.settled => {
                    entry.handed = true;
                    Met::Give
                }
                _ => Met::Skip,
            };
        }
        let count = Count { records: u64::from(frame.records), bytes: u64::from(bytes) };
        reader.horizon = frame.lsn + 1;
        reader.seen.add(frame.source, count);
        reader.push(frame, bytes, true);
        let settled = reader.pending.back().is_some_and(|entry| entry.settled);
        reader.advance(committed);
        if settled { Met::Skip } else { Met::Give }
    }

    /// A reader has looked at everything below `horizon`. Where that is the end of what is committed, it gets to know
    /// what is queued, if it has room for that, and so keeps up from then on.
    pub fn passed(&mut self, reader: usize, horizon: Lsn) {
        let (committed, next) = (self.committed, self.next);
        let reader = &mut self.readers[reader];
        reader.horizon = reader.horizon.max(horizon);
        if reader.horizon == committed + 1 && reader.pending.len() < HELD_MAX {
            for frame in &self.queued {
                if reader.wants(frame.bits) {
                    reader.push(frame, 0, false);
                }
            }
            reader.horizon = next;
        }
        reader.advance(committed);
    }

    /// What a reader must have seen at a place and did not: lost. It counts as seen from then on.
    pub fn lost(&mut self, reader: usize, through: Lsn, totals: &BySource) -> BySource {
        let committed = self.committed;
        let reader = &mut self.readers[reader];
        let lost = totals.above(&reader.seen);
        if lost.0.values().any(|count| count.records > 0) {
            reader.seen.raise(totals);
            reader.losses.push((through, lost.clone()));
            reader.advance(committed);
            return lost;
        }
        BySource::default()
    }

    /// The first number from `from` on of a frame that is queued or committed and waits for this reader, as far as is
    /// known.
    pub fn waiting(&self, reader: usize, from: Lsn) -> Option<Lsn> {
        let pending = &self.readers[reader].pending;
        let at = pending.partition_point(|entry| entry.lsn < from);
        pending.range(at..).find(|entry| !entry.settled).map(|entry| entry.lsn)
    }

    /// What a reader that has looked at all that is committed was not given of it: noted when it was appended, and not met
    /// since, so its bytes are gone. It counts as settled from then on.
    pub fn not_met(&mut self, reader: usize) -> BySource {
        let committed = self.committed;
        let reader = &mut self.readers[reader];
        let mut lost = BySource::default();
        let at = reader.pending.partition_point(|entry| entry.lsn <= committed);
        for entry in reader.pending.range_mut(..at).filter(|entry| !entry.handed && !entry.settled) {
            entry.settled = true;
            lost.add(entry.source, entry.count());
        }
        reader.advance(committed);
        lost
    }

    /// The segment that holds frame `lsn`, if it is held: the last one that begins there or before.
    pub fn holding(&self, lsn: Lsn) -> Option<usize> {
        self.segments.partition_point(|segment| segment.first <= lsn).checked_sub(1)
    }

    /// The frames of a segment end before this number.
    pub fn below(&self, segment: usize) -> Lsn {
        self.segments.get(segment + 1).map_or(self.committed + 1, |next| next.first)
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The segments that can go, oldest first: whoever segments are kept for is beyond it, or has no frame in it. So one
    /// reader that stands still keeps what it has to get, and nothing else. The last one, to which frames are written if it
    /// is `active`, only goes with all others: it says which numbers were given.
    ///
    /// A reader that is configured no longer keeps nothing (but while it is [held](Self::hold_removed)). Where older segments
    /// stay, though, what it has is given up for [`Why::Room`] only: it would lose what it has in those as well.
    pub fn free(&self, active: bool, why: Why) -> Vec<usize> {
        let (mut free, mut all) = (Vec::new(), true);
        let least = self.readers.iter().map(|reader| reader.settled).min().unwrap_or(self.committed);
        for (at, segment) in self.segments.iter().enumerate() {
            let through = self.below(at) - 1;
            let keeps = |reader: &Reader| match why {
                Why::Done => reader.live || self.hold_removed || !all,
                Why::Room => reader.live && !reader.optional || !reader.live && self.hold_removed,
            };
            let needs = |reader: &Reader| reader.settled < through && reader.has_some_in(segment) && keeps(reader);
            let is_last = at + 1 == self.segments.len();
            if through > least && self.readers.iter().any(needs) || is_last && (active || !all) {
                all = false;
            } else {
                free.push(at);
            }
        }
        free
    }

    /// Bytes of frames in segments that can not go, about.
    pub fn held(&self, why: Why) -> u64 {
        let free = self.free(true, why);
        let bytes = |at: usize| self.segments[at].bytes.min(self.segments[at].end);
        (0..self.segments.len()).filter(|at| free.binary_search(at).is_err()).map(bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(next: Lsn) -> Books {
        let reader = |bit| Reader::new(bit, format!("r{bit}"), true, next - 1, BySource::default());
        Books { readers: vec![reader(0), reader(1)], committed: next - 1, next, ..Books::default() }
    }

    fn records(count: &BySource) -> u64 {
        count.sum().records
    }

    #[test]
    fn settling_in_any_order_moves_the_mark_over_what_is_committed_and_contiguous() {
        let mut books = books(1);
        for bits in [3, 1, 2] {
            books.append((bits, 0), 10, 0, 5, 0);
        }
        books.settle(0, 2);
        books.settle(0, 1);
        assert_eq!(books.readers[0].settled, 0, "nothing is committed");
        books.publish(&[Some(5), Some(5)]);
        assert_eq!((books.readers[0].settled, books.readers[1].settled), (2, 0));
        assert_eq!(records(&books.readers[1].backlog(&books.totals, 2)), 10);
        books.publish(&[Some(5)]);
        assert_eq!(books.readers[0].settled, 3, "the third is not for it");
        books.settle(1, 3);
        assert_eq!(books.readers[1].settled, 0);
        assert_eq!(records(&books.readers[1].backlog(&books.totals, 3)), 10);
        books.settle(1, 1);
        assert_eq!((books.readers[1].settled, records(&books.readers[1].settled_totals)), (3, 20));
    }

    #[test]
    fn entries_beyond_the_limit_are_met_when_they_are_read() {
        let mut books = books(1);
        let many = PENDING_MAX as u64 + 50;
        for _ in 0..many {
            books.append((1, 0), 1, 0, 1, 0);
        }
        books.publish(&vec![Some(1); many as usize]);
        assert_eq!(books.readers[0].horizon(), PENDING_MAX as u64 + 1);
        (1..=many).for_each(|lsn| books.settle(0, lsn));
        assert_eq!(books.readers[0].settled, PENDING_MAX as u64);
        for lsn in PENDING_MAX as u64 + 1..=many {
            let frame = Queued { lsn, bits: 1, records: 1, source: 0, hint: 1, time_ms: 0 };
            assert_eq!(books.met(0, &frame, 1), Met::Skip);
        }
        assert_eq!((books.readers[0].settled, records(&books.readers[0].settled_totals)), (many, many));
    }

    #[test]
    fn what_is_in_hand_is_noted_beyond_the_limit_and_frames_of_others_hold_no_horizon() {
        let mut books = books(1);
        let many = PENDING_MAX as u64 + 50;
        for _ in 0..many {
            books.append((1, 1), 1, 0, 1, 0);
            assert!(books.keeps_up(0));
        }
        books.append((2, 0), 1, 0, 1, 0);
        books.publish(&vec![Some(1); many as usize + 1]);
        (2..=many).for_each(|lsn| books.settle(0, lsn));
        assert_eq!((books.readers[0].settled, books.keeps_up(0)), (0, true));
        books.settle(0, 1);
        assert_eq!((books.readers[0].settled, records(&books.readers[0].settled_totals)), (many + 1, many));
    }

    #[test]
    fn who_has_too_many_frames_behind_one_that_is_not_settled_gets_no_more() {
        let mut books = books(1);
        let frame = |lsn| Queued { lsn, bits: 1, records: 1, source: 0, hint: 1, time_ms: 0 };
        (1..=HELD_MAX as u64).for_each(|_| _ = books.append((1, 1), 1, 0, 1, 0));
        assert!(!books.keeps_up(0));
        books.append((1, 0), 1, 0, 1, 0);
        books.publish(&vec![Some(1); HELD_MAX + 1]);
        (2..=HELD_MAX as u64).for_each(|lsn| books.settle(0, lsn));
        let next = HELD_MAX as u64 + 1;
        assert!(!books.is_busy(0, next - 1) && books.is_busy(0, next));
        books.settle(0, 1);
        assert!(!books.is_busy(0, next));
        assert_eq!(books.met(0, &frame(next), 1), Met::Give);
        books.settle(0, next);
        assert_eq!((books.readers[0].settled, records(&books.readers[0].settled_totals)), (next, next));
    }

    #[test]
    fn what_is_given_up_counts_as_lost_only_where_nobody_was_handed_it() {
        let mut books = books(1);
        for _ in 0..4 {
            books.append((1, 0), 10, 0, 5, 0);
        }
        books.publish(&[Some(5); 4]);
        books.hand_out(0, 2);
        books.settle(0, 1);
        let totals = BySource([(0, Count { records: 30, bytes: 15 })].into());
        assert_eq!(records(&books.readers[0].give_up(3, &totals)), 10);
        books.settle(0, 2);
        assert_eq!((books.readers[0].settled, records(&books.readers[0].backlog(&books.totals, 4))), (3, 10));
    }

    #[test]
    fn a_segment_is_kept_for_those_that_have_frames_in_it_wherever_it_lies() {
        let mut books = books(1);
        let all = |readers: u64, at: Lsn| Segment {
            first: at,
            end: 10,
            bytes: 20,
            created_ms: 0,
            name: Name { first: at, take: 0 },
            header_len: 0,
            readers,
        };
        // Two frames a segment: both have some in the first, then the second reader only, and in the end the first again.
        for (at, bits) in [3, 2, 2, 1, 3].into_iter().enumerate() {
            books.segments.push_back(all(0, 2 * at as u64 + 1));
            (0..2).for_each(|_| _ = books.append((bits, 0), 1, 0, 1, 0));
            books.publish(&[Some(1); 2]);
        }
        assert_eq!(books.segments.iter().map(|segment| segment.readers).collect::<Vec<_>>(), [3, 2, 2, 1, 3]);
        (1..=10).for_each(|lsn| books.settle(1, lsn));
        assert_eq!(books.free(true, Why::Done), [1, 2], "the first reader stands at the beginning");
        assert_eq!((books.held(Why::Done), books.held(Why::Room)), (30, 30));
        books.readers[0].optional = true;
        assert_eq!(books.free(true, Why::Done), [1, 2]);
        assert_eq!((books.free(true, Why::Room), books.held(Why::Room)), (vec![0, 1, 2, 3], 10));
        // The last one says which numbers were given, so it does not go before others.
        (7..=10).for_each(|lsn| books.settle(0, lsn));
        assert_eq!(books.free(false, Why::Done), [1, 2]);
        (1..=2).for_each(|lsn| books.settle(0, lsn));
        assert_eq!((books.free(true, Why::Done), books.free(false, Why::Done).len()), (vec![0, 1, 2, 3], 5));
        // A sink that is gone: not more than the oldest go early, unless there is need.
        books.readers[0] = Reader { live: false, ..Reader::new(0, "r0".to_owned(), false, 0, BySource::default()) };
        assert_eq!(books.free(true, Why::Done), [0, 1, 2, 3]);
        books.readers[1] = Reader::new(1, "r1".to_owned(), true, 0, BySource::default());
        assert_eq!((books.free(true, Why::Done).len(), books.free(true, Why::Room)), (0, vec![3]));
        books.hold_removed = true;
        assert!(books.free(true, Why::Room).is_empty());
    }

    #[test]
    fn a_segment_costs_64_bytes_of_memory_at_most() {
        assert!(size_of::<Segment>() <= 64, "{}", size_of::<Segment>());
        assert!(size_of::<Entry>() <= 32, "{}", size_of::<Entry>());
    }
}
