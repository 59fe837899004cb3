//! What the I/O thread does: takes what is queued, encodes it, commits it, tells who waits; saves cursors between.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::super::core::{self, Core, Fail};
use super::super::frame::Header;
use super::super::group::Group;
use super::super::io::Io;
use super::super::{Lost, State};
use super::*;

/// After a commit of [`GATHER_MIN`] or more the next one begins so much later than that began, or as soon as a whole group is there.
/// A commit costs the kernel some 100 us of CPU time however small it is, and where the disk syncs in 0.1 ms, each frame would
/// have one of its own: 1,000,000 records in chunks of 1,000 took 324 to 1444 commits as the disk went, and take 333 to 349.
const COMMITS_APART: Duration = Duration::from_millis(4);
/// Smaller commits are of senders that may wait for each ack before they go on: nothing is gained by a pause.
const GATHER_MIN: u64 = 64 << 10;
/// So do those of larger frames, where nothing came in the last half of a pause: so many commits follow without one.
const AT_ONCE: u32 = 64;

/// Between two saves of the cursors.
const CURSORS_EVERY: Duration = Duration::from_millis(250);
/// Failures in a row until the log says that it fails.
const FAILURES: u32 = 3;
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(30);

/// What the thread has done so far.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) commits: AtomicU64,
    pub(super) pauses: AtomicU64,
    pub(super) commit_ns: AtomicU64,
    pub(super) commit_ns_max: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// When the next commit begins.
struct Pace {
    next: Instant,
    /// Commits that follow without a pause.
    at_once: u32,
}

impl Pace {
    /// A commit of so many bytes begins.
    fn begin(&mut self, bytes: u64) {
        let pauses = bytes >= GATHER_MIN && self.at_once == 0;
        self.at_once = self.at_once.saturating_sub(1);
        self.next = Instant::now() + if pauses { COMMITS_APART } else { Duration::ZERO };
    }

    /// A pause is over that held up frames, of which the last came at `came`.
    fn paused(&mut self, came: Instant) {
        if came + COMMITS_APART / 2 <= self.next {
            self.at_once = AT_ONCE;
        }
    }
}

impl Queue {
    /// Puts a frame at the end; whether the thread is to be woken for it.
    pub(super) fn push(&mut self, frame: Waiting) -> bool {
        let before = self.bytes;
        self.bytes += frame.hint;
        let wakes = if self.gathers {
            self.came = Some(Instant::now());
            before < GROUP_BYTES && self.bytes >= GROUP_BYTES
        } else {
            self.frames.is_empty()
        };
        self.frames.push_back(frame);
        wakes
    }
}

/// However the thread ends, by a panic as well: nobody waits for it any more.
struct End<'a, I: Io>(&'a Inner<I>);

impl<I: Io> Drop for End<'_, I> {
    fn drop(&mut self) {
        let left: Vec<Waiting> = self.0.lock().frames.drain(..).collect();
        left.into_iter().for_each(|frame| frame.done.committed(Err(Lost::Closed)));
        self.0.set_state(State::Closed);
        self.0.committed.close();
        self.0.space.close();
    }
}

impl<I: Io> Inner<I> {
    /// The I/O thread.
    pub(super) fn run(&self, mut core: Core<I>) {
        let _end = End(self);
        let mut group = Group::default();
        let mut saved = Instant::now();
        let mut pace = Pace { next: saved, at_once: 0 };
        loop {
            let Some(waiting) = self.take_work(&core, saved, &mut pace) else { break };
            if !waiting.is_empty() {
                pace.begin(waiting.iter().map(|frame| frame.hint).sum());
                self.commit(&mut core, &mut group, waiting, &mut saved);
            }
            self.housekeep(&mut core, &mut saved, false);
        }
        core.seal();
        self.housekeep(&mut core, &mut saved, true);
    }

    /// Waits for frames, as `pace` says for a whole group, and takes as many as one commit has; none when only the cursors want
    /// attention. `None`: closed.
    fn take_work(&self, core: &Core<I>, saved: Instant, pace: &mut Pace) -> Option<Vec<Waiting>> {
        let mut queue = self.lock();
        queue.taken = 0;
        loop {
            if let Some(deadline) = queue.closing
                && (queue.frames.is_empty() || Instant::now() >= deadline)
            {
                return None;
            }
            let now = Instant::now();
            let is_due = now >= pace.next || queue.bytes >= GROUP_BYTES || queue.closing.is_some();
            if is_due && !queue.frames.is_empty() {
                if let Some(came) = queue.came.take()
                    && queue.bytes < GROUP_BYTES
                {
                    self.figures.pauses.fetch_add(1, Relaxed);
                    pace.paused(came);
                }
                break;
            }
            let due = saved + CURSORS_EVERY;
            // Cursors that can not be saved are not tried without a pause: nothing goes before they are.
            let early = queue.wanted && queue.cursor_error.is_none();
            if now >= due || (early && core.cursors_dirty()) {
                return Some(Vec::new());
            }
            let until = if is_due { due } else { due.min(pace.next) };
            queue.gathers = !is_due;
            queue = self.work.wait_timeout(queue, until - now).unwrap_or_else(PoisonError::into_inner).0;
            queue.gathers = false;
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(frame) = queue.frames.front() {
            let fits = core.fits(bytes + frame.hint) && bytes + frame.hint <= GROUP_BYTES;
            if !taken.is_empty() && !fits {
                break;
            }
            bytes += frame.hint;
            taken.extend(queue.frames.pop_front());
        }
        queue.taken = taken.len();
        queue.bytes -= bytes;
        Some(taken)
    }

    /// Commits frames, however long it takes.
    fn commit(&self, core: &mut Core<I>, group: &mut Group, waiting: Vec<Waiting>, saved: &mut Instant) {
        let bytes: u64 = waiting.iter().map(|frame| frame.hint).sum();
        group.reserve(usize::try_from(bytes).unwrap_or(0));
        let committed = self.committed.get();
        for frame in &waiting {
            let head = Header { committed, ..frame.head };
            group.push(core.seed(), head, self.limits.payload, |out| frame.payload.encode(out));
        }
        let mut failures = 0;
        loop {
            let began = Instant::now();
            match core.commit(group, now_ms()) {
                Ok(()) => {
                    let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    self.figures.commits.fetch_add(1, Relaxed);
                    self.figures.commit_ns.fetch_add(ns, Relaxed);
                    self.figures.commit_ns_max.fetch_max(ns, Relaxed);
                    break;
                }
                Err(Fail::Full) => {
                    self.set_state(State::Full);
                    self.lock().wanted = true;
                    if !self.pause(Duration::from_millis(100)) {
                        return waiting.into_iter().for_each(|frame| frame.done.committed(Err(Lost::Closed)));
                    }
                }
                Err(Fail::Io(error)) => {
                    self.figures.failures.fetch_add(1, Relaxed);
                    failures += 1;
                    tracing::warn!(dir = %self.settings.dir.display(), %error, failures, "a write to the disk log failed; the same records are written again, into a new segment where the old one is in doubt");
                    if failures >= FAILURES {
                        self.set_state(State::Degraded { cause: error.to_string() });
                        let wait = PROBE_MIN * 2_u32.saturating_pow((failures - FAILURES).min(5));
                        if !self.pause(wait.min(PROBE_MAX)) {
                            return waiting.into_iter().for_each(|frame| frame.done.committed(Err(Lost::Closed)));
                        }
                    }
                }
            }
            self.housekeep(core, saved, false);
        }
        self.tell(core.take_losses());
        let was_well = failures == 0 && self.lock().state == State::Healthy;
        if !was_well && !self.is_full() {
            self.set_state(State::Healthy);
        }
        self.committed.raise(core::lock(&self.books).committed);
        for (at, frame) in waiting.into_iter().enumerate() {
            let outcome = if group.kept(at) { Ok(frame.head.lsn) } else { Err(Lost::TooLarge) };
            frame.done.committed(outcome);
        }
        // As much as a usual commit reserves: giving some back each time would fault it in again each time.
        group.clear((GROUP_BYTES + GROUP_BYTES / 8) as usize);
        self.space.bump();
    }

    /// Waits between two tries; `false` when the log closes and its time is over.
    fn pause(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut queue = self.lock();
        loop {
            let now = Instant::now();
            let end = queue.closing.map_or(until, |deadline| deadline.min(now + Duration::from_millis(50)).min(until));
            if queue.closing.is_some_and(|deadline| now >= deadline) {
                return false;
            }
            if now >= until || queue.closing.is_some() && now >= end {
                return true;
            }
            queue = self.work.wait_timeout(queue, end - now).unwrap_or_else(PoisonError::into_inner).0;
            if queue.wanted && queue.state == State::Full {
                return true;
            }
        }
    }

    /// Saves cursors and removes old segments, when it is time, or somebody waits for room, or at the end.
    fn housekeep(&self, core: &mut Core<I>, saved: &mut Instant, end: bool) {
        let wanted = std::mem::take(&mut self.lock().wanted);
        if !end && !wanted && saved.elapsed() < CURSORS_EVERY {
            return;
        }
        *saved = Instant::now();
        if !end {
            // One look at a time: readers and acks are not kept waiting by it for long.
            core.learn();
        }
        let mut done = core.save_cursors();
        if done.is_ok()
            && let Err(Fail::Io(error)) = core.collect(now_ms())
        {
            done = Err(error);
        }
        self.tell(core.take_losses());
        let error = done.err().map(|error| error.to_string());
        let was = std::mem::replace(&mut self.lock().cursor_error, error.clone());
        if let Some(error) = error.filter(|_| was.is_none()) {
            tracing::warn!(dir = %self.settings.dir.display(), error, "cursors of the disk log can not be saved; after a crash records would come twice");
        }
        let was_full = self.lock().state == State::Full;
        if was_full && !self.is_full() {
            self.set_state(State::Healthy);
        }
        self.space.bump();
    }
}
