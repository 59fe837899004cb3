//! One reader's walk through the log. Runs on the reader's own thread; the books are locked for a look only.
//!
//! A reader goes through every frame from its horizon on, so that what is missing is noticed: at the start of each segment
//! and at the end of the log it compares what it saw with the sums that the writer kept. The difference is lost, with
//! the exact number of records, whatever happened to the bytes.

use std::io;
use std::sync::{Arc, Mutex};

use super::books::{Books, Met, Queued};
use super::core::lock;
use super::frame::{self, BLOCK, Header, Seed};
use super::io::Io;
use super::quarantine;
use super::segment::{self, Name, Scan, Start};
use super::totals::BySource;
use super::{LossReason, Lsn};

/// What [`Walk::next`] found.
#[derive(Debug)]
pub enum Step {
    /// The next frame.
    Frame(Header, Vec<u8>),
    /// A frame that is queued.
    NotYet(Lsn),
    /// There is one, but the reader has too many that are not settled.
    Busy,
    /// Nothing more.
    End,
    /// Records that are lost; go on after the number.
    Lost {
        /// Go on after this.
        through: Lsn,
        /// By the source's number.
        lost: BySource,
        /// Why.
        why: LossReason,
    },
    /// The disk can not be read.
    Failed(io::Error),
}

/// Where one reader is in the files.
pub struct Walk<F> {
    reader: usize,
    seed: Seed,
    at: Option<Place<F>>,
    /// Between these two nothing waits for the reader: the `after` that was asked for, and where the look ended.
    nothing: (Lsn, Lsn),
}

struct Place<F> {
    name: Name,
    scan: Scan<F>,
    /// Frames below were passed.
    from: Lsn,
    /// Reads of this place that failed in a row.
    failures: u32,
}

impl<F> Place<F> {
    /// The next look begins with frame `lsn`, which begins at `at`, once more.
    fn once_more(&mut self, at: u64, lsn: Lsn) {
        self.scan = Scan::new(Arc::clone(self.scan.file()), at);
        self.from = lsn;
    }
}

/// A place that fails so often is passed over: the disk does not get better by asking.
const FAILURES_MAX: u32 = 5;

/// What the books say of where to go on.
enum Next {
    Walk {
        name: Name,
        first: Lsn,
        below: Lsn,
        end: u64,
        header_len: u64,
        from: Lsn,
    },
    /// Everything that is committed was seen.
    Done(Step),
    /// A segment begins here without that what is before it was seen.
    Missing {
        name: Name,
        through: Lsn,
    },
}

impl<F> Walk<F> {
    /// A walk of the reader with that index in the books.
    pub fn new(reader: usize, seed: Seed) -> Walk<F> {
        Walk { reader, seed, at: None, nothing: (0, 0) }
    }

    /// The next frame after `after` that is not settled.
    pub fn next<I: Io<File = F>>(&mut self, io: &I, books: &Mutex<Books>, after: Lsn) -> Step {
        loop {
            let next = self.look(books, after);
            let step = match next {
                Next::Done(step) => {
                    if let Some(place) = &mut self.at {
                        place.scan.shrink();
                    }
                    return step;
                }
                Next::Missing { name, through } => {
                    self.nothing = (after, through + 1);
                    self.compare(io, books, name, through)
                }
                Next::Walk { name, first, below, end, header_len, from } => {
                    let begins = from <= first && self.at.as_ref().is_none_or(|at| at.name != name);
                    if begins && let Some(lost) = self.compare(io, books, name, first - 1) {
                        return lost;
                    }
                    match self.walk(io, books, after, name, (from, below), (header_len, end)) {
                        Ok(step) => step,
                        Err(error) => return Step::Failed(error),
                    }
                }
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn look(&mut self, books: &Mutex<Books>, after: Lsn) -> Next {
        let mut books = lock(books);
        let reader = &books.readers[self.reader];
        let horizon = reader.horizon();
        let after = after.max(reader.settled);
        let looked = if after >= self.nothing.0 { self.nothing.1 } else { 0 };
        let from = (after + 1).max(looked).min(horizon);
        if from > books.committed {
            // From here on it keeps up, unless there is more than it can remember; then it asks again.
            if horizon <= books.committed + 1 {
                books.passed(self.reader, horizon);
            }
            let lost = books.not_met(self.reader);
            if !lost.0.is_empty() {
                return Next::Done(Step::Lost { through: books.committed, lost, why: LossReason::Damaged });
            }
            return Next::Done(Self::waiting(&books, self.reader, after + 1));
        }
        match books.holding(from) {
            Some(at) => {
                let segment = &books.segments[at];
                Next::Walk {
                    name: segment.name,
                    first: segment.first,
                    below: books.below(at),
                    end: segment.end,
                    header_len: u64::from(segment.header_len),
                    from,
                }
            }
            None => match books.segments.front() {
                Some(oldest) => Next::Missing { name: oldest.name, through: oldest.first - 1 },
                None => self.finish(&mut books),
            },
        }
    }

    /// Nothing committed is left: is something queued?
    fn waiting(books: &Books, reader: usize, from: Lsn) -> Step {
        let horizon = books.readers[reader].horizon();
        match books.waiting(reader, from) {
            Some(lsn) => Step::NotYet(lsn),
            // More is queued than the books remember for one reader.
            None if horizon < books.next => Step::NotYet(horizon.max(from)),
            None => Step::End,
        }
    }

    /// The end of what is committed.
    fn finish(&self, books: &mut Books) -> Next {
        let through = books.committed;
        let totals = books.totals.of(books.readers[self.reader].bit);
        books.passed(self.reader, through + 1);
        let lost = books.lost(self.reader, through, &totals);
        let why = LossReason::Damaged;
        if lost.0.is_empty() {
            return Next::Done(Self::waiting(books, self.reader, through + 1));
        }
        Next::Done(Step::Lost { through, lost, why })
    }

    /// Compares what was seen with the header of a segment.
    fn compare<I: Io<File = F>>(&self, io: &I, books: &Mutex<Books>, name: Name, through: Lsn) -> Option<Step> {
        let header = io.open_read(&name.text()).ok().and_then(|file| segment::read_header(io, &file).ok());
        let mut books = lock(books);
        books.passed(self.reader, through + 1);
        // A damaged header says nothing; the next one does.
        let Some(Start::Header(header, _)) = header else { return None };
        let totals = header.totals.of(books.readers[self.reader].bit);
        let lost = books.lost(self.reader, through, &totals);
        (!lost.0.is_empty()).then_some(Step::Lost { through, lost, why: LossReason::Damaged })
    }

    /// Walks on in one segment. `Ok(None)`: it has nothing more, or the books have changed.
    fn walk<I: Io<File = F>>(
        &mut self,
        io: &I,
        books: &Mutex<Books>,
        after: Lsn,
        name: Name,
        (from, below): (Lsn, Lsn),
        (header_len, end): (u64, u64),
    ) -> io::Result<Option<Step>> {
        let stays = self.at.as_ref().is_some_and(|at| at.name == name && at.from <= from);
        if !stays {
            let file = match io.open_read(&name.text()) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Removed since the look, or gone: whoever looks again knows which.
                    let mut books = lock(books);
                    if books.segments.iter().any(|segment| segment.name == name) {
                        books.passed(self.reader, below);
                        self.nothing = (after, below);
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let scan = Scan::new(Arc::new(file), header_len);
            self.at = Some(Place { name, scan, from, failures: 0 });
        }
        let bit = lock(books).readers[self.reader].bit;
        let place = self.at.as_mut().expect("it was set above");
        loop {
            let found = match place.scan.next(io, self.seed, from.min(place.from), below, end) {
                Ok(found) => found,
                Err(error) if place.failures < FAILURES_MAX => {
                    place.failures += 1;
                    return Err(error);
                }
                Err(_) => {
                    // One block is given up; the sums will say what was in it.
                    let next = (place.scan.at() / BLOCK as u64 + 1) * BLOCK as u64;
                    place.scan = Scan::new(Arc::clone(place.scan.file()), next);
                    continue;
                }
            };
            let Some((at, head)) = found else {
                self.nothing = (after, below);
                lock(books).passed(self.reader, below);
                let mut books = lock(books);
                return Ok(match self.ends(&mut books, below) {
                    Some(Next::Done(step)) => Some(step),
                    _ => None,
                });
            };
            place.from = head.lsn + 1;
            if head.readers >> bit & 1 == 0 {
                continue;
            }
            if lock(books).is_busy(self.reader, head.lsn) {
                // It asks every few milliseconds: megabytes are not read for that.
                place.once_more(at, head.lsn);
                self.nothing = (after, head.lsn);
                return Ok(Some(Step::Busy));
            }
            let payload = match place.scan.payload(io, at, &head) {
                Err(error) if place.failures < FAILURES_MAX => {
                    place.failures += 1;
                    place.once_more(at, head.lsn);
                    return Err(error);
                }
                payload => payload.unwrap_or_default(),
            };
            place.failures = 0;
            if !head.is_intact(self.seed, &payload) {
                // Whether it counts as lost is for the sums to say. What was removed meanwhile is cut.
                if lock(books).segments.iter().all(|segment| segment.name != name) {
                    return Ok(None);
                }
                let mut frame = head.encode(self.seed).to_vec();
                frame.extend_from_slice(&payload);
                quarantine::keep(io, &format!("{}-{at}.frame", name.text()), &frame);
                continue;
            }
            let frame = Queued {
                lsn: head.lsn,
                bits: head.readers,
                records: head.records,
                source: head.source,
                hint: 0,
                time_ms: head.time_ms,
            };
            let met = lock(books).met(self.reader, &frame, head.len);
            if met == Met::Give && head.lsn > after {
                debug_assert!(payload.len() <= frame::PAYLOAD_MAX);
                return Ok(Some(Step::Frame(head, payload)));
            }
        }
    }

    /// After the last frame of a segment: is it the end of the log?
    fn ends(&self, books: &mut Books, below: Lsn) -> Option<Next> {
        (below == books.committed + 1).then(|| self.finish(books))
    }
}
