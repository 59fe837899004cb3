//! One followed chain: the generations of a container's log or of a plain file, read in order as one run of lines.
//!
//! A turn reads blocks, cuts them into lines, decodes them into batches and sends those on. A batch is closed when it is
//! full and at the end of each turn, so nothing waits for more data, and a chain without data holds no memory. Its range
//! is opened in the tracker with a receipt; the checkpoint follows when the range is settled.
//!
//! A Docker generation is final after an end of file that was seen once a newer one exists (Docker closes before it
//! renames). Other writers go on writing to the renamed file until they are told, and some never are: while the newer ones
//! are empty it is read on; after that it lingers, and what comes late is read from it as long as it has a name. An
//! unfinished last line waits in the file until its generation is final, or has lingered for 30 s, and is a record then:
//! while all newer ones are empty it waits without end.
//! A line whose pieces end with the file may go on in the old one or in the new one: see `linger.rs`.
//!
//! Counters: `line_cut`, `nul_run`, `torn_line`, `file_rewritten`, `generation_gone`.

mod again; // what was not delivered
mod copies; // what was read before, under another name
mod end; // of a generation, for now or for good
mod fill; // lines, batches, receipts
mod gap; // what was there and is gone
mod linger; // renamed files that still grow
mod order; // what was opened while names shifted
mod place; // where to start, and where to go back to
mod replay; // what was delivered, read again for an unfinished line
mod truncated; // copies of a file that was truncated
mod unreadable; // what the disk does not give

pub use order::time_within;
#[cfg(test)]
pub use place::set_silent;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::codec::docker_json::LogForm;
use crate::inputs::follow::checkpoint::Saved;
use crate::inputs::follow::decode::Format;
use crate::inputs::follow::generations::{Family, Held};
use crate::inputs::follow::identity::{FileId, HEAD_BYTES, Mark};
use crate::inputs::follow::listing::Listing;
use crate::inputs::follow::progress::{Progress, Span};
use crate::inputs::follow::source::{self, Decoders, Found, Source};
use crate::inputs::follow::standing::Standing;
use crate::inputs::follow::tracker;
use crate::inputs::follow::{clock, held};
use crate::inputs::{Ack, Outlet};
use crate::metrics::Tally;
use crate::metrics::followed::LostBytes;
use crate::pipeline::{Lane, Pipeline};
use crate::record::{Origin, Tag, Timestamp};

/// Bytes that one chain reads before the others have their turn.
const QUANTUM: usize = 1 << 20;
/// A file without a name is at its end when it has not grown for so long; one that was renamed is quiet then.
const LINGER: Duration = Duration::from_secs(30);

/// What is the same for all chains of an input.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The input's name: first half of the checkpoint's key.
    pub input: String,
    /// What the lines are.
    pub format: Format,
    /// Bytes of a line, at most.
    pub line_max: usize,
    /// Docker's way of rotating: closed, then renamed.
    pub docker: bool,
    /// When the checkpoint moves.
    pub ack: Ack,
}

/// What the records of a chain carry.
#[derive(Clone, Debug)]
pub struct About {
    /// Container or file.
    pub origin: Arc<Origin>,
    /// The tag.
    pub tag: Tag,
}

/// What a chain is made with.
pub struct Seed {
    /// Second half of the checkpoint's key: container id or path.
    pub key: String,
    /// What its records carry.
    pub about: About,
    /// What is there, oldest first.
    pub generations: Vec<Arc<Held>>,
    /// Where it was left.
    pub saved: Option<Saved>,
    /// Without a checkpoint: where to start.
    pub first: First,
    /// Metadata may still come: wait for it until then.
    pub not_before: Option<Instant>,
    /// How it stands, for others to see.
    pub standing: Arc<Standing>,
    /// Its names, to look for the copy of what was truncated.
    pub family: Family,
    /// What the look that found them says besides.
    pub notes: Notes,
}

/// What a look at the files of a family says besides what it found. Times are nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notes {
    /// So many of the files, the newest, were made since their folder is watched.
    pub made: usize,
    /// So many of the files, if they are compressed, may stand in for plain files that were told of and could not be opened;
    /// what is older was there before.
    pub stand_ins: u64,
    /// When the newest file was changed last, before what is older was looked at.
    pub changed: i64,
    /// When the newest of the older ones was changed last that are left out, for they were read or are followed by
    /// themselves; 0 if there is none.
    pub left_out: i64,
}

/// Where a chain without a checkpoint starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// With the oldest generation.
    Oldest,
    /// With the newest one, or the oldest that was made since its folder is watched ([`Notes::made`]); older ones are only there to
    /// find a checkpoint's place in.
    Newest,
    /// At the end of the newest one.
    Tail,
}

impl First {
    /// Which one of so many generations, oldest first, that is.
    pub fn among(self, generations: usize, made: usize) -> usize {
        match self {
            First::Oldest => 0,
            First::Newest => generations.saturating_sub(made.max(1)),
            First::Tail => generations.saturating_sub(1),
        }
    }
}

/// What a turn ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more.
    Again,
    /// Nothing new; look again after this time.
    Sleep(Duration),
    /// Nothing new, and nothing to watch for but growth of this file.
    Idle,
    /// Everything was read and delivered, and nothing will come.
    Ended,
}

/// What a turn needs from its reader.
pub struct Context<'a> {
    /// The way out.
    pub outlet: &'a Outlet,
    /// The reader's buffer.
    pub buf: &'a mut Vec<u8>,
    /// Its decoders.
    pub decoders: &'a Decoders,
    /// The names of the folder that was looked into last.
    pub listing: &'a mut Listing,
}

/// Bytes at the start, for the first message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// Bytes in the files (compressed ones as they are).
    pub bytes: u64,
    /// Of them, bytes that were delivered before.
    pub done: u64,
}

/// See the header.
pub struct Chain {
    key: String,
    rules: Arc<Rules>,
    about: About,
    progress: Arc<Progress>,
    lane: Lane,
    /// The lane and the cut line of the file that is read otherwise, while something late is read.
    aside: Option<linger::Aside>,
    /// Newer generations, oldest first.
    queue: VecDeque<Arc<Held>>,
    source: Option<Source>,
    /// Without a source: what is to be one, and could not be opened.
    unopened: Option<unreadable::Unopened>,
    /// Those of the queue that were taken from it once, and where they are to be begun.
    begun: Vec<(FileId, u64)>,
    /// Position of the source's offset.
    position: u64,
    /// Up to here rows were delivered before: they are made for the join only.
    replay_until: u64,
    /// Where that ends after a start, if it is known.
    replay_end: Option<replay::ReplayEnd>,
    /// Everything before it is in some range.
    ranged: u64,
    /// Spans after the current one that were read before, while reading again.
    behind: VecDeque<Span>,
    again: again::Again,
    /// Position of a line that was cut: its rest is being skipped.
    skipping: Option<u64>,
    filling: Option<Batch>,
    /// The batch is new, or another file is gone on with: its next record begins a run of ids.
    unnamed: bool,
    /// How `log` of its Docker lines is kept.
    log: LogForm,
    /// The steps that it is decoded for, if they are half done with that: a reload meanwhile is for the next batch.
    steps: Option<Arc<Pipeline>>,
    /// When it was begun.
    now: Timestamp,
    tally: Tally,
    gone: bool,
    lingering: Vec<linger::Lingering>,
    lingered: Instant,
    /// Renamed files that are not looked at any more.
    left: VecDeque<linger::Left>,
    /// There are newer generations since they were looked for.
    rotated: bool,
    /// Since when they can not be looked for, and when that was tried last.
    sought: Option<(Instant, Instant)>,
    read_before: VecDeque<copies::ReadBefore>,
    gz_seen: Option<(u64, Instant)>,
    grew: Instant,
    not_before: Option<Instant>,
    /// Since when reading fails.
    failing: Option<Instant>,
    /// Time of the latest record that was read.
    last: i64,
    gap: Option<gap::Gap>,
    /// The newest file, while nothing was read of it since it was met or truncated: its writer may have left a hole, and it
    /// may be copied and truncated before it is read.
    truncated: Option<FileId>,
    copies: truncated::Copies,
    standing: Arc<Standing>,
    /// A file that a checkpoint's place was found in, and the one after which its records are named.
    copy_of: Option<(FileId, FileId)>,
    /// The newest of what it was made with, and [`Notes::stand_ins`] that are left.
    stand_ins: (u64, u64),
    family: Family,
}

impl Chain {
    /// Starts a chain: finds its place, reads nothing yet.
    pub fn new(seed: Seed, rules: &Arc<Rules>, outlet: &Outlet) -> (Chain, Opening) {
        let now = clock::now();
        let mut chain = Chain {
            key: seed.key,
            rules: Arc::clone(rules),
            about: seed.about,
            progress: Progress::new(tracker::Mark::default(), outlet.checkpoints.as_ref()),
            lane: outlet.lane(rules.format.join_rule()),
            aside: None,
            queue: VecDeque::new(),
            source: None,
            unopened: None,
            begun: Vec::new(),
            position: 0,
            replay_until: 0,
            replay_end: None,
            ranged: 0,
            behind: VecDeque::new(),
            again: again::Again::default(),
            skipping: None,
            filling: None,
            unnamed: false,
            log: LogForm::default(),
            steps: None,
            now: Timestamp(0),
            tally: Tally::default(),
            gone: false,
            lingering: Vec::new(),
            lingered: now,
            left: VecDeque::new(),
            rotated: false,
            sought: None,
            read_before: VecDeque::new(),
            gz_seen: None,
            grew: now,
            not_before: seed.not_before,
            failing: None,
            last: 0,
            gap: None,
            truncated: None,
            copies: truncated::Copies::since(seed.notes.changed),
            copy_of: None,
            stand_ins: (seed.generations.iter().map(|held| held.number).max().unwrap_or(0), seed.notes.stand_ins),
            standing: seed.standing,
            family: seed.family,
        };
        chain.standing.follow(&chain.progress);
        let opening = chain.place(seed.generations, seed.saved, seed.first, seed.notes, outlet);
        outlet.metrics.add(outlet.input, &std::mem::take(&mut chain.tally));
        if let Some(checkpoints) = &outlet.checkpoints {
            checkpoints.attach(&rules.input, &chain.key, &chain.progress);
        }
        (chain, opening)
    }

    /// The checkpoint's key within the input.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// How far it was read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The file that grows next, for a watch. While an older one is read whose writer may still go over to it, that is the
    /// newest; the older one is looked at ([`Chain::looks`]).
    pub fn file(&self) -> Option<&Arc<Held>> {
        let source = self.source.as_ref()?;
        Some(self.queue.back().filter(|newest| !newest.is_given_up()).unwrap_or(&source.held))
    }

    /// Newer generations may have been found.
    fn take_handed(&mut self) {
        if !self.standing.take(&mut self.queue) {
            return;
        }
        self.rotated = true;
        if !self.rules.docker {
            // It is renamed, not truncated.
            self.truncated = None;
        }
        // A file of that name came back.
        self.gone &= self.rules.docker;
    }

    /// The name, image or labels are known now, or have changed.
    pub fn set_about(&mut self, about: About) {
        self.about = about;
        self.not_before = None;
    }

    /// The container or file is gone: what is held is all there is.
    pub fn set_gone(&mut self) {
        self.gone = true;
        self.not_before = None;
    }

    /// Reads for one quantum at most.
    pub fn turn(&mut self, context: &mut Context<'_>) -> Turn {
        // Not before its turn: a queue has what was given up until then, and a slow sink has many chains wait.
        self.take_handed();
        if let Some(until) = self.not_before {
            let left = until.saturating_duration_since(clock::now());
            if !left.is_zero() {
                return Turn::Sleep(left);
            }
            self.not_before = None;
        }
        if self.progress.lock().tracker.has_failed() {
            self.read_again(context.outlet);
            // Whoever did not take it is given a moment.
            return Turn::Sleep(Duration::from_secs(1));
        }
        if !self.tell_gap(context.outlet) {
            return Turn::Sleep(LINGER);
        }
        let started = self.position;
        let turn = loop {
            if context.outlet.stop.is_set() {
                break Turn::Sleep(LINGER);
            }
            if self.current().is_some_and(|held| held.is_given_up()) {
                self.pass_over_given_up(context.outlet);
            }
            match self.step(context) {
                Ok(Some(turn)) => break turn,
                Ok(None) if self.position - started >= QUANTUM as u64 => break Turn::Again,
                Ok(None) => {}
                Err(error) if context.outlet.once || self.is_unreadable(&error) => {
                    self.pass_over_unreadable(context.outlet, &error);
                }
                Err(_) => break Turn::Sleep(unreadable::AGAIN),
            }
        };
        self.count_missing();
        let late = self.linger(context);
        self.close(context.outlet);
        if let Some(source) = &mut self.source {
            source.rest();
        }
        // Not only those that are watched and idle can do without.
        if held::are_scarce() {
            self.let_go_of_copies();
        }
        let turn = match turn {
            Turn::Idle | Turn::Sleep(_) if late => Turn::Again,
            Turn::Idle if self.looks() == Some(linger::POLL) => Turn::Sleep(linger::POLL),
            turn => turn,
        };
        let mut inner = self.progress.lock();
        if inner.spans.len() > 1 {
            inner.prune();
        }
        turn
    }

    /// One read, or one move to another file. `Some` ends the turn.
    fn step(&mut self, context: &mut Context<'_>) -> io::Result<Option<Turn>> {
        if let Some(unopened) = self.unopened.take() {
            // What it was may be gone, and another one in its place, not open either.
            return self.open_now(context, unopened);
        }
        let Some(source) = &mut self.source else {
            return Ok(self.next(context.outlet).or_else(|| self.at_rest(context)));
        };
        let (room, plain) = ((source.seen - source.offset) as usize + source::BLOCK, !source.held.gz);
        let seen = source.seen;
        let read = source.read(context.buf, self.rules.line_max)?;
        let found = self.again.checked(source, context.buf, read);
        if found != read {
            // What was seen just now is of another content, and is read yet.
            source.seen = seen;
        }
        // An empty file says nothing of what it was since it was truncated, nor does its copy. A hole and an unfinished line are
        // not used yet: whoever writes them is not to have the folder listed each time.
        let emptied = self.truncated == Some(source.held.id);
        let uses = match found {
            Found::Bytes(n) | Found::End(n) if n > 0 && !context.outlet.once && self.skipping.is_none() => {
                fill::has_line(source.data(context.buf, n), self.rules.line_max)
            }
            _ => found != Found::Rewritten,
        };
        if uses && emptied && self.behind.is_empty() && self.read_copies_before(context.listing) {
            return Ok(None);
        }
        match found {
            Found::Bytes(n) => {
                self.failing = None;
                self.grew = clock::now();
                let before = self.position;
                if self.behind.is_empty() {
                    self.set_head(context.buf, n);
                }
                self.take(context, n, false);
                // Only an unfinished line grew: wait for the rest instead of reading it again and again.
                let waits =
                    plain && self.position == before && n < room && self.queue.is_empty() && self.behind.is_empty();
                Ok(waits.then_some(Turn::Idle))
            }
            // What is read again ended before, or is gone meanwhile.
            Found::End(_) | Found::Rewritten if !self.behind.is_empty() => {
                self.drop_replayed(context.outlet);
                self.leave_behind(context.outlet);
                Ok(None)
            }
            // Or it is as far as the disk gives it. (The others have their turn: it may be so for long.)
            Found::End(_) if self.has_more()? => Ok(Some(Turn::Again)),
            Found::End(n) => {
                self.failing = None;
                Ok(self.at_end(context, n))
            }
            Found::Rewritten => {
                self.drop_replayed(context.outlet);
                self.rewritten();
                Ok(None)
            }
        }
    }

    /// The span has content: from now on it can be recognised by it.
    fn set_head(&mut self, buf: &[u8], n: usize) {
        let Some(source) = &self.source else { return };
        if source.offset == 0
            && let Some(span) = self.progress.lock().spans.back_mut()
        {
            span.head = Mark::of(&source.data(buf, n)[..n.min(HEAD_BYTES)]);
        }
    }

    /// Goes on with the next generation. `Some` when it is not ready.
    fn next(&mut self, outlet: &Outlet) -> Option<Turn> {
        if let Some(wait) = self.put_in_order(outlet) {
            return Some(Turn::Sleep(wait));
        }
        let next = self.queue.front()?;
        if next.gz
            && let Some(wait) = end::gz_wait(next, &mut self.gz_seen)
        {
            return Some(Turn::Sleep(wait));
        }
        let next = Arc::clone(next);
        match self.was_read(&next) {
            Some(false) => {}
            // The compressed copy of what was read already, or what the opener could not place.
            Some(true) => {
                self.begun(next.id);
                self.pass_over_place(next.id);
                self.queue.pop_front();
                self.hold_copy(next);
                self.gz_seen = None;
                return Some(Turn::Again);
            }
            // It was said to be closed, but is still growing.
            None => {
                next.closed.store(false, Ordering::Release);
                return Some(Turn::Sleep(linger::POLL));
            }
        }
        self.gz_seen = None;
        let begun = self.begun(next.id);
        if begun.is_none() {
            self.stand_in(&next);
        }
        let next = self.queue.pop_front()?;
        self.account_for(&next);
        if self.awaits_place() {
            self.close(outlet);
        }
        self.open(next, begun.unwrap_or(0));
        Some(Turn::Again)
    }

    /// No file is being read and none is waiting.
    fn at_rest(&mut self, context: &mut Context<'_>) -> Option<Turn> {
        if !self.gone && !context.outlet.once {
            return Some(Turn::Idle);
        }
        if !self.lingering.is_empty() {
            return Some(Turn::Sleep(linger::POLL));
        }
        self.flush_lane(context.outlet);
        let done = self.progress.lock().tracker.is_idle();
        Some(if done { Turn::Ended } else { Turn::Sleep(linger::POLL) })
    }

    /// Generations that were never opened are lost once no compressed file is left that may stand in for them.
    fn count_missing(&mut self) {
        if self.standing.missing.load(Ordering::Acquire) <= 0 || self.queue.iter().any(|held| held.gz) {
            return;
        }
        let missing = self.standing.missing.swap(0, Ordering::AcqRel).cast_unsigned();
        // Docker fills a file before it rotates.
        let each = self.standing.space().map_or(0, |space| space.file_max);
        self.standing.lost(missing, LostBytes::Unseen, missing * each);
        tracing::error!(
            key = self.key,
            name = self.standing.figures.shown(),
            generations = missing,
            "files were created and deleted again before they could be opened: their lines are lost; raise the container's max-size or max-file, or give longshore real-time priority (CAP_SYS_NICE, or a limit rtprio of 1)"
        );
    }
}
