//! The keeper: once a second it measures how each chain stands, and watches over the disk that deleted files hold.
//!
//! - Backlog, its age and the rotation horizon: how long until the writer's rotation deletes what is not delivered yet.
//!   They are gauges, a health check (data that has waited for [`AGED`] and has less than [`WARN`] or [`FAIL`] left), and
//!   the readers' order of service. What is deleted is still held; it would be lost if longshore ended.
//! - Held deleted files: a file that was deleted before it was delivered stays on disk as long as it is open. Beyond the
//!   limit (10 % of the file system and 8 GiB at most, unless configured) the oldest are given up, counted and said. So are
//!   those of one chain beyond [`CHAIN_MAX`].
//!
//! Of a chain that rests, the keeper looks at the number of that rest, and at nothing else while that is the same: 10,000 a
//! second were 0.4 % of a core when it asked for their backlog and progress. It is a thread of its own, since the opener
//! must not wait and the readers do: with a dead sink its figures are the only ones that are true.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::generations::Held;
use super::held;
use super::inotify::{self, Bell};
use super::progress::Undelivered;
use super::standing::{SMALL, Standing, horizon, kept};
use crate::inputs::Outlet;
use crate::metrics::Health;
use crate::metrics::followed::{ChainFigures, Followed, Generation, LostBytes};
use crate::settings::show_size;

const TICK: Duration = Duration::from_secs(1);
/// Younger data is on its way: a chain at full speed always has some.
const AGED: Duration = Duration::from_secs(2);
/// So near to its deletion, undelivered data is worth a look.
const WARN: Duration = Duration::from_secs(60);
/// So near to its deletion, or deleted already, `/health` fails.
const FAIL: Duration = Duration::from_secs(10);
/// Of a file system, deleted files may hold one in so many bytes.
const SHARE: u64 = 10;
const HELD_DELETED_MAX: u64 = 8 << 30;
/// Deleted files that one chain holds, at most. One costs a descriptor and some 2 KiB: half a KiB is ours, the rest the kernel's
/// (the open file, its inode and its name), which `memory` does not cover, but a memory limit of the service or container
/// does. So a chain of tiny generations has 32 MiB of that, and a quarter of the descriptors of `LimitNOFILE=65536`, before the
/// disk's limit is met. (Of those that are given up while their reader is held up by a sink, our half KiB stays for as many.)
const CHAIN_MAX: usize = 16 << 10;
/// For so long after something was given up the health check says so.
const GIVEN_UP_SHOWN: Duration = Duration::from_secs(60);

/// Chains of an input that its keeper does not know yet.
#[derive(Debug, Default)]
pub struct Chains(Mutex<Vec<Weak<Standing>>>);

impl Chains {
    /// One more.
    pub fn add(&self, standing: &Arc<Standing>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(standing));
    }

    /// For an empty list, in its place: the memory of both is the opener's, as in [`Standing::held`].
    fn take(&self, spare: &mut Vec<Weak<Standing>>) {
        std::mem::swap(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), spare);
    }
}

/// A chain that is looked at. An ended one drops out by itself.
struct Known {
    standing: Weak<Standing>,
    /// The number of its rest, if nothing was left of it then.
    settled: Option<u64>,
}

/// See the header.
pub struct Keeper {
    outlet: Outlet,
    input: String,
    chains: Arc<Chains>,
    known: Vec<Known>,
    /// Changes places with the list of the chains that are not known yet.
    spare: Vec<Weak<Standing>>,
    /// The configured limit of held deleted files.
    limit: Option<u64>,
    gave_up: Option<Instant>,
    /// So many generations that were given up are not said yet.
    unsaid: u64,
    /// [`CHAIN_MAX`], but in tests.
    chain_max: usize,
}

/// The chain that is nearest to a loss.
struct Danger {
    left: Duration,
    name: String,
    backlog: u64,
}

/// A deleted file that is held.
struct Deleted {
    /// What its chain holds, oldest first, and its place in it.
    all: Rc<[Arc<Held>]>,
    at: usize,
    /// On the disk.
    bytes: u64,
    standing: Arc<Standing>,
    /// The highest number of its chain's files up to it: a scan opens the newest first.
    number: u64,
}

/// Where a file is among those of its chain, oldest first.
fn position(all: &[Arc<Held>], held: &Arc<Held>) -> Option<usize> {
    all.iter().position(|one| Arc::ptr_eq(one, held))
}

/// Whether it is older than another one of its chain, which may have been opened since, or given up at an earlier look.
fn is_older(Deleted { all, at, number, .. }: &Deleted, other: &Arc<Held>) -> bool {
    position(all, other).map_or(*number < other.number, |other| *at < other)
}

impl Keeper {
    /// A keeper of these chains; `limit` is for bytes of deleted files.
    pub fn new(outlet: Outlet, input: &str, chains: Arc<Chains>, limit: Option<u64>) -> Keeper {
        let (input, known, spare) = (input.to_owned(), Vec::new(), Vec::new());
        Keeper { outlet, input, chains, known, spare, limit, gave_up: None, unsaid: 0, chain_max: CHAIN_MAX }
    }

    /// Other limits: of bytes, and of files of one chain.
    #[cfg(test)]
    pub(super) fn set_limits(&mut self, bytes: u64, files: usize) {
        (self.limit, self.chain_max) = (Some(bytes), files);
    }

    /// Looks once a second until the word to stop, with which the bell rings.
    pub fn run(mut self, bell: &Bell) {
        while !self.outlet.stop.is_set() {
            self.look(Instant::now());
            inotify::wait(bell, None, TICK);
        }
        let followed = self.followed();
        for gauge in [&followed.open_files, &followed.in_danger, &followed.held_deleted] {
            gauge.store(0, Relaxed);
        }
    }

    fn followed(&self) -> &Followed {
        &self.outlet.counters().followed
    }

    /// One look at everything.
    pub fn look(&mut self, now: Instant) {
        let mut danger: Option<Danger> = None;
        let mut deleted = Vec::new();
        let (mut open, mut near) = (0, 0);
        let mut known = std::mem::take(&mut self.known);
        self.chains.take(&mut self.spare);
        known.extend(self.spare.drain(..).map(|standing| Known { standing, settled: None }));
        known.retain_mut(|chain| {
            let Some(standing) = chain.standing.upgrade() else { return false };
            // One descriptor is the least that it holds.
            open += 1;
            let resting = standing.resting();
            if resting.is_some() && resting == chain.settled {
                return true;
            }
            let figures = &standing.figures;
            let is_settled = resting.is_some()
                && figures.backlog.load(Relaxed) == 0
                && standing.progress().is_some_and(|progress| progress.lock().tracker.is_idle());
            chain.settled = resting.filter(|_| is_settled);
            if is_settled {
                return true;
            }
            let all: Rc<[Arc<Held>]> = standing.held().into();
            open += (all.len() as u64).saturating_sub(1);
            self.measure(&standing, &all, now);
            let (mut number, first) = (0, deleted.len());
            for (at, held) in all.iter().enumerate() {
                number = held.number.max(number);
                if let Ok(look) = held.look()
                    && look.links == 0
                {
                    let (all, standing) = (Rc::clone(&all), Arc::clone(&standing));
                    deleted.push(Deleted { all, at, bytes: look.disk, standing, number });
                }
            }
            let over = (deleted.len() - first).saturating_sub(self.chain_max);
            deleted.drain(first..first + over).for_each(|deleted| self.give_up(&deleted, now));
            let left = Duration::from_millis(figures.horizon.load(Relaxed));
            near += u64::from(left < WARN);
            let aged = figures.age.load(Relaxed) >= AGED.as_millis() as u64;
            if aged && left < WARN && danger.as_ref().is_none_or(|danger| left < danger.left) {
                danger = Some(Danger { left, name: figures.shown(), backlog: figures.backlog.load(Relaxed) });
            }
            true
        });
        self.known = known;
        self.followed().open_files.store(open.min(held::open_files()), Relaxed);
        self.followed().in_danger.store(near, Relaxed);
        self.say_danger(danger);
        self.keep_within(deleted, now);
    }

    /// Backlog, age and horizon of one chain.
    fn measure(&self, standing: &Standing, held: &[Arc<Held>], now: Instant) {
        let figures = &standing.figures;
        // In this order: what is delivered was read.
        let place = standing.progress().and_then(|progress| progress.undelivered());
        let read = standing.progress().and_then(|progress| progress.unread());
        let at = |place: &Undelivered| position(held, &place.held);
        let from = |place: &Option<Undelivered>| &held[place.as_ref().and_then(at).unwrap_or(0)..];
        let done = place.as_ref().map_or(0, |place| place.done);
        let on_its_way = read.as_ref().map_or(0, |read| read.done.saturating_sub(done));
        let (undelivered, unread) = (from(&place), from(&read));
        let offset = read.as_ref().filter(|read| at(read).is_some() && !read.held.gz).map_or(0, |read| read.offset);
        let sizes: Vec<u64> = unread.iter().map(|held| held.look().map_or(0, |look| look.size)).collect();
        let settled = place.as_ref().is_some_and(|place| place.idle) && standing.resting().is_some();
        let backlog = if settled { 0 } else { on_its_way + sizes.iter().sum::<u64>().saturating_sub(offset) };
        let mut pace = standing.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let age = pace.look(done + backlog, done, now);
        let space = standing.space();
        let left = space.filter(|_| backlog > 0).and_then(|space| {
            let plain = undelivered.first().is_some_and(|first| !first.gz);
            let newer = undelivered.iter().skip(1).filter(|held| !plain || !held.gz).count() as u64;
            horizon(space, newer, sizes.last().copied().unwrap_or(0), pace.rate())
        });
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(ChainFigures::SAFE);
        figures.backlog.store(backlog, Relaxed);
        figures.age.store(millis(age), Relaxed);
        figures.horizon.store(left.map_or(ChainFigures::SAFE, millis), Relaxed);
        if let Some(space) = space
            && pace.rate() >= 1.0
            && !pace.said_small
        {
            let kept = kept(space, pace.rate());
            if kept < SMALL && done > 2 * space.file_max * space.files {
                pace.said_small = true;
                tracing::warn!(
                    input = self.input,
                    container = figures.shown(),
                    max_size = space.file_max,
                    max_file = space.files,
                    "a container's log keeps only {:.1} s of its output ({}/s): after a stop of longshore that is all that is left; raise max-size or max-file",
                    kept.as_secs_f64(),
                    show_size(pace.rate() as u64)
                );
            }
        }
    }

    fn say_danger(&self, danger: Option<Danger>) {
        let name = format!("rotation {}", self.input);
        let metrics = &self.outlet.metrics;
        match danger {
            None => metrics.check(&name, Health::Pass, "no undelivered data is about to be rotated away"),
            Some(Danger { left, name: chain, backlog }) => {
                let health = if left < FAIL { Health::Fail } else { Health::Warn };
                let when = if left.is_zero() {
                    "is deleted already and only held open".to_owned()
                } else {
                    format!("is rotated away in {} s", left.as_secs())
                };
                let reason = format!(
                    "{chain}: {} are not delivered, and the oldest of it {when}; see whether a sink is slow or failing, do not stop longshore before, and raise the container's max-size or max-file",
                    show_size(backlog)
                );
                metrics.check(&name, health, reason);
            }
        }
    }

    /// Deleted files and their bytes on disk: gives the oldest up until the rest is within the limit.
    fn keep_within(&mut self, mut deleted: Vec<Deleted>, now: Instant) {
        let mut sum: u64 = deleted.iter().map(|deleted| deleted.bytes).sum();
        if let Some(first) = deleted.first()
            && self.limit.is_none()
        {
            self.limit = first.all[first.at].disk_total().map(|total| (total / SHARE).min(HELD_DELETED_MAX));
        }
        let limit = self.limit.unwrap_or(HELD_DELETED_MAX);
        self.followed().held_deleted_max.store(limit, Relaxed);
        if sum > limit {
            deleted.sort_by_key(|deleted| deleted.number);
            for oldest in &deleted {
                if sum <= limit {
                    break;
                }
                sum -= oldest.bytes;
                self.give_up(oldest, now);
            }
        }
        self.followed().held_deleted.store(sum, Relaxed);
        let name = format!("held deleted files {}", self.input);
        let metrics = &self.outlet.metrics;
        if self.gave_up.is_some_and(|at| now.duration_since(at) < GIVEN_UP_SHOWN) {
            let given_up = self.followed().generations[Generation::GivenUp as usize].load(Relaxed);
            metrics.check(&name, Health::Warn, format!("{given_up} deleted files were given up before they were delivered, to stay within {} and {CHAIN_MAX} files of each log; see held_deleted_max, and rotate at a larger size", show_size(limit)));
        } else if sum > limit / 5 * 4 {
            metrics.check(
                &name,
                Health::Warn,
                format!(
                    "deleted files that are not delivered hold {} of at most {}; beyond that the oldest are given up",
                    show_size(sum),
                    show_size(limit)
                ),
            );
        } else {
            metrics.check(&name, Health::Pass, format!("{} of at most {}", show_size(sum), show_size(limit)));
        }
        if self.unsaid > 0 {
            tracing::error!(
                input = self.input,
                files = self.unsaid,
                limit,
                files_max = CHAIN_MAX,
                "deleted files were given up before they were delivered: what they held is lost; see held_deleted_max, and beyond files_max of one log rotate at a larger size"
            );
            self.unsaid = 0;
        }
    }

    fn give_up(&mut self, deleted: &Deleted, now: Instant) {
        let Deleted { all, at, standing, .. } = deleted;
        let held = &all[*at];
        if !held.give_up() {
            return;
        }
        let size = held.size_given_up();
        // What was read is in memory; should that not be delivered, it can not be read again and is counted then.
        let place = standing.progress().and_then(|progress| progress.unread());
        let unread = match place {
            Some(place) if Arc::ptr_eq(&place.held, held) => size.saturating_sub(place.offset),
            // What is older than the file being read was read. (What came late to it is counted where it is read.)
            Some(place) if is_older(deleted, &place.held) => 0,
            _ => size,
        };
        if unread == 0 {
            return;
        }
        self.followed().generation(Generation::GivenUp, 1);
        self.followed().lost(LostBytes::GivenUp, unread);
        standing.figures.lost.fetch_add(1, Relaxed);
        self.gave_up = Some(now);
        self.unsaid += 1;
    }
}
