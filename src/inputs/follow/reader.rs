//! A reader thread: owns the chains whose number it is dealt, and gives each its turn.
//!
//! Chains with data take turns of one quantum. One without is looked at again after 1 ms, then 2, 4, ...; after 60 ms
//! without data its file gets a one-shot inotify watch and costs nothing until it grows (and one look every 10 s, should
//! the watch not tell; every minute where the file system surely does). So a busy file costs its writer nothing and a slow one is read at once. Where a watch can not be
//! had, the looks go on, every 250 ms at last.
//!
//! A reader that waits for memory or for a sink's queue holds all its chains up: the opener is another thread, and
//! goes on holding what is rotated meanwhile.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::chain::{About, Chain, Context, Rules, Seed, Turn};
use super::checkpoint::Checkpoints;
use super::clock;
use super::disk;
use super::held;
use super::inotify::{self, Bell, Watcher};
use super::listing::Listing;
use super::progress::Progress;
use super::source::Decoders;
#[cfg(test)]
use super::standing::Standing;
use super::startup::Startup;
use crate::inputs::Outlet;
use crate::metrics::followed::{ChainFigures, Watching};

const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(250);
/// So long without data makes a chain idle.
const IDLE_AFTER: Duration = Duration::from_millis(60);
/// So many chains that wait for their turn are compared, at most.
const READY_MAX: usize = 4096;
/// Timers of chains that were woken before their time: so many, and four a chain, are kept before they are sorted out.
const TIMERS_SPARE: usize = 1024;
/// So often the kernel's word is heard while there is always something to read.
const LISTEN: Duration = Duration::from_millis(10);
const SAFETY_LOOK: Duration = Duration::from_secs(10);
/// The same where the kernel tells of every write.
const SURE_LOOK: Duration = Duration::from_secs(60);
/// An idle file that is to be closed to make room for others is at rest once its checkpoint is saved.
const PARK_LOOK: Duration = Duration::from_secs(1);

/// What the opener tells a reader. A sink may hold the reader up for days: of generations there is one message a chain at a time,
/// and they lie with the chain (`Standing::take`). The others come once in its life, or when somebody changes its name.
pub enum News {
    /// A chain.
    Found {
        /// Number of the chain.
        chain: u64,
        /// To start it with.
        seed: Box<Seed>,
        /// Part of the first listing.
        first: bool,
    },
    /// More generations were handed to it, which it takes in its turn, or there is something to count.
    More {
        /// Number of the chain.
        chain: u64,
    },
    /// Name, image, labels or tag changed.
    About {
        /// Number of the chain.
        chain: u64,
        /// What its records carry from now on.
        about: About,
    },
    /// The container is gone.
    Gone {
        /// Number of the chain.
        chain: u64,
    },
    /// Everything that is there was sent, and nothing more will be.
    Listed,
    /// It is not to be followed after all.
    Leave {
        /// Number of the chain.
        chain: u64,
    },
}

/// The sending end of one reader.
#[derive(Clone)]
pub struct Line {
    /// Never blocks.
    pub news: mpsc::Sender<News>,
    /// Idle files are to be closed: descriptors are scarce.
    pub park: Arc<AtomicBool>,
    /// Rung after sending.
    pub bell: Arc<Bell>,
    /// Chains that have ended by themselves, for the opener to forget.
    pub ended: Arc<std::sync::Mutex<Vec<u64>>>,
}

struct Seat {
    chain: Chain,
    /// When to look next; `None`: it is in the ready queue.
    due: Option<Instant>,
    look: Duration,
    quiet_since: Option<Instant>,
    watch: Option<i32>,
    /// The file system of what is watched tells of every write.
    sure: bool,
}

/// What a reader does after a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next one.
    Again,
    /// Waits for the bell, a file or this time.
    Wait(Duration),
    /// All that was listed is read.
    Over,
}

/// See the header.
pub struct Reader {
    outlet: Outlet,
    rules: Arc<Rules>,
    news: mpsc::Receiver<News>,
    line: Line,
    watcher: Option<Watcher>,
    seats: HashMap<u64, Seat>,
    ready: VecDeque<u64>,
    turns: u64,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    watched: HashMap<i32, u64>,
    buf: Vec<u8>,
    decoders: Decoders,
    listing: Listing,
    startup: Arc<Startup>,
    /// No more news will come.
    listed: bool,
}

impl Reader {
    /// A reader at the other end of `line`.
    pub fn new(
        outlet: Outlet,
        rules: Arc<Rules>,
        news: mpsc::Receiver<News>,
        line: Line,
        startup: Arc<Startup>,
    ) -> Reader {
        Reader {
            outlet,
            rules,
            news,
            line,
            watcher: Watcher::new().ok(),
            seats: HashMap::new(),
            ready: VecDeque::new(),
            turns: 0,
            timers: BinaryHeap::new(),
            watched: HashMap::new(),
            buf: Vec::new(),
            decoders: Decoders::default(),
            listing: Listing::default(),
            startup,
            listed: false,
        }
    }

    /// The same with nothing but looks.
    pub fn without_watcher(mut self) -> Reader {
        self.watcher = None;
        self
    }

    /// So many decoders it has now.
    #[cfg(test)]
    pub(super) fn decoders(&self) -> usize {
        self.decoders.open()
    }

    /// How one of its chains stands.
    #[cfg(test)]
    pub(super) fn standing(&self, chain: u64) -> &Standing {
        self.seats[&chain].chain.standing()
    }

    /// All that are left.
    #[cfg(test)]
    pub(super) fn take_decoders(&self) -> Vec<super::source::Seat> {
        std::iter::from_fn(|| self.decoders.take()).collect()
    }

    /// Reads until the word to stop, or until all that was listed is read.
    pub fn run(mut self) {
        self.read();
        self.outlet.counters().open.fetch_sub(self.seats.len() as u64, Relaxed);
    }

    fn read(&mut self) {
        let mut listened = clock::now();
        while !self.outlet.stop.is_set() {
            let timeout = match self.step() {
                // A file that is written faster than it is read leaves no pause: idle ones are to be heard all the same.
                Step::Again => {
                    if clock::since(listened) >= LISTEN {
                        listened = clock::now();
                        self.grown();
                    }
                    continue;
                }
                Step::Wait(timeout) => timeout,
                Step::Over => return,
            };
            if !timeout.is_zero() {
                // An idle reader needs no buffer.
                if timeout >= LOOK_MAX {
                    self.buf = Vec::new();
                }
                inotify::wait(&self.line.bell, self.watcher.as_ref(), timeout);
            }
            self.woken();
        }
    }

    /// One turn of one chain, if one is ready. Waits for nothing but memory and room in the sinks' queues.
    pub(super) fn step(&mut self) -> Step {
        self.hear();
        if self.listed && self.seats.is_empty() {
            return Step::Over;
        }
        let now = clock::now();
        while let Some(Reverse((due, chain))) = self.timers.peek().copied()
            && due <= now
        {
            self.timers.pop();
            // A timer whose chain was woken meanwhile is stale.
            if self.seats.get(&chain).is_some_and(|seat| seat.due == Some(due)) {
                self.wake(chain);
            }
        }
        if let Some(chain) = self.next_ready() {
            self.turn(chain);
            return Step::Again;
        }
        let due = self.timers.peek().map(|Reverse((due, _))| due.saturating_duration_since(clock::now()));
        Step::Wait(due.map_or(SAFETY_LOOK, |due| due.min(SAFETY_LOOK)))
    }

    /// Whose turn it is: every other time the chain that is nearest to losing data to rotation, if one is near.
    fn next_ready(&mut self) -> Option<u64> {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(2) && self.outlet.counters().followed.in_danger.load(Relaxed) > 0 {
            let horizon =
                |chain: &u64| self.seats.get(chain).map(|seat| seat.chain.standing().figures.horizon.load(Relaxed));
            let ready = self.ready.iter().enumerate().take(READY_MAX);
            let nearest = ready.filter_map(|(at, chain)| Some((horizon(chain)?, at))).min();
            if let Some((horizon, at)) = nearest
                && horizon != ChainFigures::SAFE
            {
                return self.ready.remove(at);
            }
        }
        self.ready.pop_front()
    }

    /// After waiting: what has grown is ready.
    pub(super) fn woken(&mut self) {
        self.line.bell.quiet();
        self.grown();
    }

    fn wake(&mut self, chain: u64) {
        if let Some(seat) = self.seats.get_mut(&chain)
            && seat.due.take().is_some()
        {
            self.ready.push_back(chain);
        }
    }

    /// Files that were idle and grew.
    fn grown(&mut self) {
        let mut chains = Vec::new();
        let mut all = false;
        if let Some(watcher) = &self.watcher {
            watcher.drain(|event| {
                all |= event.is_overflow();
                chains.extend(self.watched.remove(&event.watch).map(|chain| (chain, event.is_written())));
            });
        }
        if all {
            chains.extend(self.watched.drain().map(|(_, chain)| (chain, false)));
        }
        for (chain, written) in chains {
            if let Some(seat) = self.seats.get_mut(&chain) {
                // One-shot: it is gone by now.
                seat.watch = None;
                if let Some(held) = seat.chain.file().filter(|held| written && held.is_parked()) {
                    held.grew.store(true, Relaxed);
                }
                seat.chain.standing().stir();
                seat.look = LOOK_MIN;
                seat.quiet_since = None;
            }
            self.wake(chain);
        }
    }

    fn hear(&mut self) {
        if self.line.park.swap(false, Acquire) {
            self.park();
        }
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Found { chain, seed, first } => self.found(chain, *seed, first),
                News::More { chain } => self.change(chain, |_| ()),
                News::About { chain, about } => self.change(chain, |seat| seat.chain.set_about(about)),
                News::Gone { chain } => self.change(chain, |seat| seat.chain.set_gone()),
                News::Listed => self.listed = true,
                // It may be followed again some day.
                News::Leave { chain } => self.leave(chain, Checkpoints::close),
            }
        }
    }

    /// Closes the files of idle chains, as long as descriptors are scarce.
    fn park(&mut self) {
        let idle = self.seats.values_mut().filter(|seat| seat.watch.is_some());
        let parked = idle.take_while(|_| held::are_scarce()).map(|seat| u64::from(seat.chain.park())).sum();
        self.outlet.counters().followed.watch(Watching::Parked, parked);
    }

    fn found(&mut self, number: u64, seed: Seed, first: bool) {
        let (chain, opening) = Chain::new(seed, &self.rules, &self.outlet);
        if first {
            self.startup.add(opening);
        }
        self.outlet.counters().open.fetch_add(1, Relaxed);
        let seat = Seat { chain, due: None, look: LOOK_MIN, quiet_since: None, watch: None, sure: false };
        self.seats.insert(number, seat);
        self.ready.push_back(number);
    }

    fn change(&mut self, chain: u64, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.seats.get_mut(&chain) {
            change(seat);
            seat.chain.standing().stir();
            seat.look = LOOK_MIN;
            seat.quiet_since = None;
            let watch = seat.watch.take();
            self.unwatch(watch);
            self.wake(chain);
        }
    }

    fn unwatch(&mut self, watch: Option<i32>) {
        if let (Some(watch), Some(watcher)) = (watch, &self.watcher) {
            self.watched.remove(&watch);
            watcher.remove(watch);
        }
    }

    fn leave(&mut self, number: u64, end: fn(&Checkpoints, &str, &str, &Arc<Progress>)) {
        if let Some(seat) = self.seats.remove(&number) {
            self.unwatch(seat.watch);
            self.ready.retain(|chain| *chain != number);
            self.outlet.counters().open.fetch_sub(1, Relaxed);
            if let (Some(checkpoints), Some(progress)) = (&self.outlet.checkpoints, seat.chain.standing().progress()) {
                end(checkpoints, &self.rules.input, seat.chain.key(), progress);
            }
        }
    }

    fn turn(&mut self, number: u64) {
        let Some(seat) = self.seats.get_mut(&number) else { return };
        let before = seat.chain.position();
        let (buf, listing) = (&mut self.buf, &mut self.listing);
        let mut context = Context { outlet: &self.outlet, buf, decoders: &self.decoders, listing };
        // Before anything is read: a sink may hold up a turn for days.
        seat.chain.standing().stir();
        let turn = seat.chain.turn(&mut context);
        let now = clock::now();
        if seat.chain.position() != before {
            seat.look = LOOK_MIN;
            seat.quiet_since = None;
        }
        match turn {
            Turn::Again => self.ready.push_back(number),
            Turn::Sleep(time) => self.sleep(number, now + time),
            Turn::Idle => {
                let quiet = now.duration_since(*seat.quiet_since.get_or_insert(now));
                if quiet < IDLE_AFTER {
                    let look = seat.look;
                    seat.look = (look * 2).min(LOOK_MAX);
                    self.sleep(number, now + look);
                } else {
                    seat.look = LOOK_MAX;
                    self.rest(number, now);
                }
            }
            Turn::Ended => self.ended(number),
        }
    }

    pub(super) fn ended(&mut self, number: u64) {
        // Who reads once may follow next time.
        let end = if self.outlet.once { Checkpoints::close } else { Checkpoints::forget };
        self.leave(number, end);
        self.line.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(number);
    }

    fn sleep(&mut self, number: u64, until: Instant) {
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.due = Some(until);
            self.timers.push(Reverse((until, number)));
        }
        // A chain that is woken before its time leaves its timer behind.
        if self.timers.len() > 4 * self.seats.len() + TIMERS_SPARE {
            let seats = &self.seats;
            self.timers.retain(|Reverse((due, number))| seats.get(number).is_some_and(|seat| seat.due == Some(*due)));
        }
    }

    /// An idle chain: its file is watched. It is read once more after that, since it may have grown in between.
    fn rest(&mut self, number: u64, now: Instant) {
        let Some(seat) = self.seats.get_mut(&number) else { return };
        if seat.watch.is_some() {
            seat.chain.standing().rest();
            let scarce = held::are_scarce();
            if scarce && seat.chain.park() {
                self.outlet.counters().followed.watch(Watching::Parked, 1);
            }
            let look = if scarce && seat.chain.file().is_some_and(|held| !held.is_parked()) {
                PARK_LOOK
            } else if seat.sure && seat.chain.is_delivered() {
                SURE_LOOK
            } else {
                // What is not delivered may have to be read again.
                SAFETY_LOOK
            };
            let look = seat.chain.looks().map_or(look, |due| due.min(look));
            self.sleep(number, now + look);
            return;
        }
        let Some(held) = seat.chain.file() else {
            // Nothing to read at all: the opener will tell.
            let look = seat.chain.looks().map_or(SAFETY_LOOK, |due| due.min(SAFETY_LOOK));
            self.sleep(number, now + look);
            return;
        };
        // The link in /proc leads to the file itself, whatever its name is by now.
        let Ok(file) = held.file() else {
            self.ready.push_back(number);
            return;
        };
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let file_system = disk::file_system(&path);
        let watcher = self.watcher.as_ref().filter(|_| inotify::tells(file_system));
        let added = watcher.and_then(|watcher| watcher.add(&path, inotify::GROWTH).ok());
        match added {
            Some(watch) if !self.watched.contains_key(&watch) => {
                (seat.watch, seat.sure) = (Some(watch), inotify::tells_all(file_system));
                self.watched.insert(watch, number);
                self.ready.push_back(number);
            }
            // No watch to be had or none that would tell, or two chains on one file.
            _ => self.sleep(number, now + LOOK_MAX),
        }
    }
}
