//! How one chain stands: what the opener published of it, how far it was delivered, and what is known of its writer's
//! limits. Shared by the opener (adds generations), the reader (says when it rests) and the keeper (measures). Its
//! gauges are shown as long as somebody holds it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::generations::Held;
use super::progress::Progress;
use crate::metrics::Metrics;
use crate::metrics::followed::{ChainFigures, Generation, LostBytes};

/// Samples of (bytes written, when) that the age of a backlog is read from, at most.
const SAMPLES_MAX: usize = 64;
/// So many given-up generations may wait for a reader beside those that are not.
const HANDED_SPARE: usize = 64;

/// What a writer's rotation leaves: Docker's `max-size`, `max-file` and `compress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of one file.
    pub file_max: u64,
    /// Files, the one that is written to included.
    pub files: u64,
    /// Whether rotated files are compressed: then a plain file goes though its content stays.
    pub compress: bool,
}

/// See the header.
#[derive(Debug)]
pub struct Standing {
    key: String,
    metrics: Arc<Metrics>,
    input: u16,
    /// Its gauges.
    pub figures: Arc<ChainFigures>,
    progress: OnceLock<Arc<Progress>>,
    generations: Mutex<Generations>,
    /// Those that were opened since: the opener never waits for somebody who looks through all of them.
    added: Mutex<Vec<Weak<Held>>>,
    inbox: Mutex<Inbox>,
    handed: Mutex<Handed>,
    space: Mutex<Option<Space>>,
    /// Generations that were created and could not be opened; the chain counts them as lost unless it meets their
    /// compressed copies. Below 0: so many copies were met before the kernel's word on their plain files was heard,
    /// which is awaited until the opener's next rescan.
    pub missing: AtomicI64,
    /// Odd while the chain rests; each rest has a number of its own.
    rests: AtomicU64,
    /// The keeper's own.
    pub(super) pace: Mutex<Pace>,
}

/// What is held of a chain, oldest first.
#[derive(Debug, Default)]
struct Generations {
    all: VecDeque<Weak<Held>>,
    /// Changes places with [`Standing::added`], which is locked for no longer than that: the opener may have stopped who holds it,
    /// and waits then until that has its turn again. The memory of both is the opener's.
    spare: Vec<Weak<Held>>,
}

/// What the opener has for the chain's reader.
#[derive(Debug, Default)]
struct Inbox {
    /// Oldest first.
    generations: Vec<Arc<Held>>,
    /// The reader was told that there is something, and has not come for it yet.
    told: bool,
}

/// What was taken out of the inbox, oldest first. A sink may hold the reader up for days: the keeper lets go of what it gives up
/// meanwhile, and leaves no more of that than there is of the rest.
#[derive(Debug, Default)]
struct Handed {
    generations: VecDeque<Arc<Held>>,
    /// Changes places with [`Inbox::generations`], as [`Generations::spare`] does.
    spare: Vec<Arc<Held>>,
}

impl Standing {
    /// A chain of that input, whose checkpoint has that key.
    pub fn new(metrics: &Arc<Metrics>, input: u16, key: &str, name: &str) -> Arc<Standing> {
        Arc::new(Standing {
            key: key.to_owned(),
            metrics: Arc::clone(metrics),
            input,
            figures: metrics.inputs[usize::from(input)].followed.chain(key, name),
            progress: OnceLock::new(),
            generations: Mutex::default(),
            added: Mutex::default(),
            inbox: Mutex::default(),
            handed: Mutex::default(),
            space: Mutex::default(),
            missing: AtomicI64::new(0),
            rests: AtomicU64::new(0),
            pace: Mutex::default(),
        })
    }

    /// The checkpoint's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its name, or its limits, are known (anew).
    pub fn describe(&self, name: &str, space: Option<Space>) {
        name.clone_into(&mut lock(&self.figures.name));
        *lock(&self.space) = space;
    }

    /// The reader waits for the file to grow: everything was read.
    pub fn rest(&self) {
        self.rests.fetch_or(1, Ordering::AcqRel);
    }

    /// The rest is over, before anything is read or handed out.
    pub fn stir(&self) {
        let _ =
            self.rests.fetch_update(Ordering::AcqRel, Ordering::Acquire, |rest| (rest & 1 == 1).then_some(rest + 1));
    }

    /// The number of its rest: as long as that is the same, nothing was read.
    pub fn resting(&self) -> Option<u64> {
        Some(self.rests.load(Ordering::Acquire)).filter(|rest| rest & 1 == 1)
    }

    /// Generations were opened, oldest first.
    pub fn add(&self, generations: &[Arc<Held>]) {
        let mut added = lock(&self.added);
        // A chain that always rests when it is looked at is not looked through.
        if added.len() + generations.len() > added.capacity() {
            added.retain(|held| held.strong_count() > 0);
        }
        added.extend(generations.iter().map(Arc::downgrade));
    }

    /// Generations for its reader, oldest first; none, if there is only something to count. Whether the reader is to be told: it
    /// is once, until it comes for them.
    pub fn hand(&self, generations: Vec<Arc<Held>>) -> bool {
        let mut inbox = lock(&self.inbox);
        inbox.generations.extend(generations);
        !std::mem::replace(&mut inbox.told, true)
    }

    /// What was handed to its reader since it came last, for the end of its queue. Whether there was any.
    pub fn take(&self, queue: &mut VecDeque<Arc<Held>>) -> bool {
        let (mut handed, before) = (self.gather(true), queue.len());
        queue.append(&mut handed.generations);
        queue.len() > before
    }

    /// All that was handed to its reader, who comes for it or not.
    fn gather(&self, comes: bool) -> MutexGuard<'_, Handed> {
        let mut handed = lock(&self.handed);
        let Handed { generations, spare } = &mut *handed;
        let mut inbox = lock(&self.inbox);
        inbox.told &= !comes;
        std::mem::swap(&mut inbox.generations, spare);
        drop(inbox);
        generations.extend(spare.drain(..));
        handed
    }

    /// So many lie there.
    #[cfg(test)]
    pub(super) fn handed(&self) -> usize {
        self.gather(false).generations.len()
    }

    /// An older generation was opened again: it lies before all that are held.
    pub fn add_older(&self, held: &Arc<Held>) {
        lock(&self.generations).all.push_front(Arc::downgrade(held));
        self.stir();
    }

    /// The reader has the chain.
    pub fn follow(&self, progress: &Arc<Progress>) {
        // A chain has one reader in its life.
        let _ = self.progress.set(Arc::clone(progress));
    }

    /// Its progress, once the reader has it.
    pub fn progress(&self) -> Option<&Arc<Progress>> {
        self.progress.get()
    }

    /// Generations are lost, of about so many bytes.
    pub fn lost(&self, generations: u64, why: LostBytes, bytes: u64) {
        let followed = &self.metrics.inputs[usize::from(self.input)].followed;
        followed.generation(Generation::Lost, generations);
        followed.lost(why, bytes);
        self.figures.lost.fetch_add(generations, Ordering::Relaxed);
    }

    /// A generation was read to its end. (Again, if what was not delivered of it was read once more.)
    pub fn completed(&self, held: &Held) {
        let first = !held.completed.swap(true, Ordering::Relaxed);
        self.metrics.inputs[usize::from(self.input)].followed.generation(Generation::Completed, u64::from(first));
    }

    /// What is held of it, oldest first, without what was given up. Lets go of most of that where it waits for a reader.
    pub fn held(&self) -> Vec<Arc<Held>> {
        let mut generations = lock(&self.generations);
        let Generations { all, spare } = &mut *generations;
        std::mem::swap(&mut *lock(&self.added), spare);
        all.extend(spare.drain(..));
        let mut held = Vec::with_capacity(all.len());
        all.retain(|one| {
            held.extend(one.upgrade().filter(|held| !held.is_given_up()));
            held.last().is_some_and(|last| std::ptr::eq(Arc::as_ptr(last), one.as_ptr()))
        });
        drop(generations);
        // At that many, so that each one that is given up pays for a step of this.
        let mut handed = self.gather(false);
        if handed.generations.len() > 2 * held.len() + HANDED_SPARE {
            handed.generations.retain(|held| !held.is_given_up());
        }
        drop(handed);
        held
    }

    /// The writer's limits.
    pub fn space(&self) -> Option<Space> {
        *lock(&self.space)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.metrics.inputs[usize::from(self.input)].followed.forget(&self.key, &self.figures);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How fast a chain is written and how long its oldest undelivered byte has waited. Pure.
#[derive(Debug, Default)]
pub struct Pace {
    last: Option<(u64, Instant)>,
    /// Bytes a second, smoothed over some seconds.
    rate: f64,
    samples: VecDeque<(u64, Instant)>,
    /// It was said that the container's rotation keeps little of its output.
    pub(super) said_small: bool,
}

impl Pace {
    /// A look: so many bytes were written in all, so many of them delivered. Returns the age of the oldest undelivered.
    pub fn look(&mut self, written: u64, done: u64, now: Instant) -> Duration {
        if let Some((before, at)) = self.last {
            let seconds = now.duration_since(at).as_secs_f64();
            if seconds > 0.0 {
                let new = written.saturating_sub(before) as f64 / seconds;
                self.rate = if self.rate == 0.0 { new } else { 0.7 * self.rate + 0.3 * new };
            }
        }
        self.last = Some((written, now));
        while self.samples.front().is_some_and(|(upto, _)| *upto <= done) {
            self.samples.pop_front();
        }
        if written > done && self.samples.back().is_none_or(|(upto, _)| written > *upto) {
            if self.samples.len() >= SAMPLES_MAX {
                // Every second one goes: the age gets coarser, in proportion to itself.
                let mut keep = false;
                self.samples.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.samples.push_back((written, now));
        }
        self.samples.front().map_or(Duration::ZERO, |(_, at)| now.duration_since(*at))
    }

    /// Bytes a second; 0 while it is not known.
    pub fn rate(&self) -> f64 {
        self.rate
    }
}

/// Time until rotation deletes a generation that `newer` others follow, when the newest one has `newest` bytes: so many
/// bytes have to be written until then. `None` where the pace is not known.
pub fn horizon(space: Space, newer: u64, newest: u64, rate: f64) -> Option<Duration> {
    if newer >= space.files {
        return Some(Duration::ZERO);
    }
    let whole = (space.files - 1 - newer).saturating_mul(space.file_max);
    let left = (space.file_max - newest.min(space.file_max)).saturating_add(whole);
    (rate >= 1.0).then(|| Duration::from_secs_f64((left as f64 / rate).min(1e9)))
}

/// What rotation leaves should be at least so much of a container's output.
pub const SMALL: Duration = Duration::from_secs(5);

/// Bytes a second at which a container wrote, estimated from the sizes and last changes of its files, oldest first:
/// what was written since the oldest one was finished. A compressed file held what a full one holds. `None` for one file
/// alone, or files of one moment.
pub fn estimated_rate(space: Space, files: &[(u64, Duration, bool)]) -> Option<f64> {
    let (oldest, newer) = files.split_first()?;
    let bytes = newer.iter().map(|(size, _, gz)| if *gz { space.file_max } else { *size }).fold(0, u64::saturating_add);
    let time = newer.last()?.1.checked_sub(oldest.1)?.as_secs_f64();
    (time > 0.0 && bytes > 0).then(|| bytes as f64 / time)
}

/// One file alone tells a pace if the time between its first and last record, and its bytes, are at least these: less is
/// what a container says when it starts.
const ALONE: (Duration, u64) = (Duration::from_secs(1), 64 << 10);

/// The same of one file alone, by its bytes and the time within which they were written.
pub fn rate_within(bytes: u64, time: Duration) -> Option<f64> {
    (time >= ALONE.0 && bytes >= ALONE.1).then(|| bytes as f64 / time.as_secs_f64())
}

/// For how long rotation keeps output of that rate.
pub fn kept(space: Space, rate: f64) -> Duration {
    Duration::from_secs_f64((space.file_max.saturating_mul(space.files) as f64 / rate.max(1e-3)).min(1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_is_what_can_still_be_written_before_the_generation_goes() {
        let space = Space { file_max: 1000, files: 3, compress: false };
        let seconds = |newer, newest, rate| horizon(space, newer, newest, rate).map(|time| time.as_secs_f64());
        assert_eq!(seconds(0, 400, 100.0), Some(26.0));
        assert_eq!(seconds(2, 400, 100.0), Some(6.0));
        assert_eq!(seconds(2, 1100, 100.0), Some(0.0), "the next record rotates");
        assert_eq!(seconds(3, 0, 0.0), Some(0.0), "it is gone already");
        assert_eq!(seconds(1, 0, 0.0), None);
    }

    #[test]
    fn limits_beyond_all_reason_are_no_mistake_of_arithmetic() {
        let space = Space { file_max: u64::MAX, files: 10_000, compress: false };
        assert!(horizon(space, 0, 5, 1e9).is_some_and(|left| left > Duration::from_secs(3600)));
        assert!(kept(space, 1e9) > Duration::from_secs(3600));
        assert!(estimated_rate(space, &[(1, Duration::ZERO, true), (1, SMALL, true), (1, SMALL, true)]).is_some());
    }

    #[test]
    fn the_rate_of_a_container_is_estimated_from_what_its_rotation_has_left() {
        let space = Space { file_max: 1000, files: 3, compress: false };
        let at = |millis| Duration::from_secs(1_764_000_000) + Duration::from_millis(millis);
        let rate = |files: &[(u64, Duration, bool)]| estimated_rate(space, files).map(f64::round);
        assert_eq!(rate(&[(1010, at(0), false), (1005, at(500), false), (95, at(550), false)]), Some(2000.0));
        assert_eq!(rate(&[(200, at(0), true), (190, at(500), true), (500, at(750), false)]), Some(2000.0));
        assert_eq!((rate(&[]), rate(&[(1000, at(0), false)])), (None, None));
        assert_eq!(rate(&[(1000, at(5), false), (10, at(5), false)]), None, "one moment");
        assert_eq!(rate(&[(1000, at(5), false), (10, at(1), false)]), None, "clock set back");
        assert_eq!(kept(space, 2000.0), Duration::from_millis(1500));
    }

    #[test]
    fn the_age_is_that_of_the_oldest_byte_that_was_not_delivered() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert_eq!(pace.look(0, 0, at(0)), Duration::ZERO);
        assert_eq!(pace.look(100, 0, at(1)), Duration::ZERO);
        assert_eq!(pace.look(200, 0, at(2)), Duration::from_secs(1));
        assert_eq!(pace.look(300, 150, at(5)), Duration::from_secs(3));
        assert_eq!(pace.look(300, 300, at(6)), Duration::ZERO);
        assert!(pace.rate() > 10.0 && pace.rate() < 100.0, "{}", pace.rate());
        // A sink that is dead for days: the memory of it is bounded.
        for second in 0..10_000 {
            pace.look(301 + second, 300, at(10 + second));
        }
        assert!(pace.samples.len() <= SAMPLES_MAX);
        assert_eq!(pace.look(20_000, 300, at(20_000)), Duration::from_secs(20_000 - 10));
    }
}
