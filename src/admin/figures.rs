//! What the checks of `/health` have beside their reason: each input's progress, each sink's last success and oldest
//! undelivered record, commit latency of the disk log, room on the disk of the data folder. Ages are in seconds; what
//! never happened is `null`.
//!
//! A disk that does not answer must hold up nobody: it is asked in a thread of its own, one at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::age::Age;
use super::readiness::{HELD_AFTER, check_of, held_text};
use crate::metrics::{Health, Metrics};
use crate::outbox;
use crate::record::Timestamp;

/// Commit latency is the mean of the commits of so long.
const COMMITS_OF: Duration = Duration::from_secs(10);
/// A commit that takes longer is worth a look; a batch waits for it before it is acknowledged.
const COMMIT_SLOW: Duration = Duration::from_secs(1);
/// A commit that takes longer does not come back.
const COMMIT_DEAD: Duration = Duration::from_secs(8);
/// Looks come some times a second; what was seen so long ago is not true any more.
const LOOKS_END: Duration = Duration::from_secs(3);
/// Between two looks at the disk.
const LOOK_AT_DISK: Duration = Duration::from_secs(2);
/// A disk that has not answered for so long is dead.
const DISK_DEAD: Duration = Duration::from_secs(8);
/// Less than a twentieth of the disk is worth a look, where that is less than [`LOW_BYTES`].
const LOW_SHARE: u64 = 20;
const LOW_BYTES: u64 = 1 << 30;

/// One check.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) health: Health,
    reason: String,
    figures: Map<String, Value>,
}

/// By name.
pub(super) type Checks = BTreeMap<String, Check>;

impl Default for Check {
    fn default() -> Check {
        Check::new(Health::Pass, String::new())
    }
}

impl Check {
    pub(super) fn new(health: Health, reason: String) -> Check {
        Check { health, reason, figures: Map::new() }
    }

    /// Says it, unless something as bad is said already.
    pub(super) fn say(&mut self, health: Health, reason: String) {
        if health > self.health {
            (self.health, self.reason) = (health, reason);
        }
    }

    pub(super) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    pub(super) fn into_json(self) -> Value {
        let status = match self.health {
            Health::Pass => "pass",
            Health::Warn => "warn",
            Health::Fail => "fail",
        };
        let mut all = self.figures;
        all.insert("status".to_owned(), status.into());
        all.insert("reason".to_owned(), self.reason.into());
        Value::Object(all)
    }
}

/// Seconds since a time in nanoseconds since 1970; `null` for 0, which is never.
fn ago(now: u64, then: u64) -> Value {
    if then == 0 { Value::Null } else { seconds(Duration::from_nanos(now.saturating_sub(then))) }
}

/// With one digit.
fn seconds(time: Duration) -> Value {
    json!((time.as_secs_f64() * 10.0).round() / 10.0)
}

/// What is known by looking again and again.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// By number of the sink.
    ages: Vec<Age>,
    /// Records that had an end at the last look.
    ended: u64,
    commits: Commits,
}

/// Commits and their nanoseconds, as they were.
#[derive(Debug, Default)]
struct Commits {
    from: Option<(Instant, u64, u64)>,
    /// Of the last stretch of time.
    mean: Option<Duration>,
    count: u64,
    /// Since when frames wait and none was committed.
    waiting: Option<Instant>,
    looked: Option<Instant>,
}

/// What is said of a commit that takes so long.
pub(super) fn commit_text(stuck: Duration) -> String {
    format!("a commit has not ended for {} s; is the disk dead?", stuck.as_secs())
}

impl Commits {
    fn look(&mut self, commits: u64, ns: u64, waiting: bool, now: Instant) {
        self.looked = Some(now);
        if !waiting || commits != self.count {
            self.waiting = None;
        }
        if waiting {
            self.waiting.get_or_insert(now);
        }
        self.count = commits;
        let (since, before, ns_before) = *self.from.get_or_insert((now, commits, ns));
        // A reload begins at zero.
        let count = commits.saturating_sub(before);
        let mean = (count > 0).then(|| Duration::from_nanos(ns.saturating_sub(ns_before) / count));
        if commits < before || now.duration_since(since) >= COMMITS_OF {
            self.from = Some((now, commits, ns));
            self.mean = mean;
        } else if self.mean.is_none() {
            self.mean = mean;
        }
    }

    /// For how long a commit has not ended. Nothing is known where nobody has looked for a while, as during a stop.
    fn stuck_for(&self, now: Instant) -> Duration {
        let looked = self.looked.filter(|looked| now.saturating_duration_since(*looked) < LOOKS_END);
        self.waiting.filter(|_| looked.is_some()).map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn add(&self, check: &mut Check, now: Instant) {
        check.figure("commit_ms", self.mean.map(|mean| (mean.as_secs_f64() * 1e5).round() / 100.0));
        let stuck = self.stuck_for(now);
        if stuck >= COMMIT_DEAD {
            check.say(Health::Fail, commit_text(stuck));
        } else if let Some(mean) = self.mean.filter(|mean| *mean >= COMMIT_SLOW) {
            check.say(Health::Warn, format!("a commit takes {:.1} s, and every ack waits for one", mean.as_secs_f64()));
        }
    }
}

impl Figures {
    /// For how long a commit of the disk log has not ended.
    pub(super) fn commit_stuck_for(&self, now: Instant) -> Duration {
        self.commits.stuck_for(now)
    }

    /// Takes what is counted at this moment.
    pub(super) fn look(&mut self, metrics: &Metrics, now: Instant) {
        self.ages.resize_with(metrics.sinks.len(), Age::default);
        let mut all_ended = 0;
        for (age, sink) in self.ages.iter_mut().zip(&metrics.sinks) {
            // Ended first: what comes between the two is younger than this look.
            let ended = sink.pairs.iter().map(|pair| pair.ended()).sum();
            let came = sink.pairs.iter().map(|pair| pair.routed.load(Relaxed)).sum();
            age.look(came, ended, now);
            all_ended += ended;
        }
        // While nobody tries, this is the sign that there is room.
        if all_ended != self.ended {
            self.ended = all_ended;
            metrics.inputs.iter().for_each(|input| input.held.flows());
        }
        let buffer = &metrics.buffer;
        let waiting = buffer.waiting.load(Relaxed) > 0;
        self.commits.look(buffer.commits.load(Relaxed), buffer.commit_ns.load(Relaxed), waiting, now);
    }

    /// Adds figures to the checks, and checks that are made of them.
    pub(super) fn add(&self, metrics: &Metrics, checks: &mut Checks) {
        let now = u64::try_from(Timestamp::now().0).unwrap_or(0);
        for input in &metrics.inputs {
            let held = input.held.held_for();
            let check = checks.entry(check_of(&input.name)).or_default();
            check.figure("last_record_seconds_ago", ago(now, input.last_record.load(Relaxed)));
            check.figure("received", input.received.load(Relaxed));
            check.figure("held_seconds", seconds(held));
            if held >= HELD_AFTER {
                check.say(Health::Warn, held_text(metrics, held));
            }
        }
        for (number, sink) in metrics.shown_sinks() {
            let check = checks.entry(format!("sink.{}", sink.name)).or_default();
            let (mut came, mut ended) = (0u64, 0);
            for pair in &sink.pairs {
                ended += pair.ended();
                came += pair.routed.load(Relaxed);
            }
            let in_memory = self.ages.get(number).map_or(Duration::ZERO, |age| age.of(Instant::now()));
            // After a restart, only the log knows when its oldest record came.
            let stored = sink.backlog_oldest_ms.load(Relaxed);
            let stored = if stored == 0 { 0 } else { (now / 1_000_000).saturating_sub(stored) };
            check.figure("undelivered", came.saturating_sub(ended));
            check.figure("oldest_undelivered_seconds", seconds(in_memory.max(Duration::from_millis(stored))));
            check.figure("last_success_seconds_ago", ago(now, sink.last_success.load(Relaxed)));
            let failing = sink.failing_since.load(Relaxed);
            check.figure("failing_seconds", if failing == 0 { json!(0) } else { ago(now, failing) });
        }
        if let Some(check) = checks.get_mut(outbox::CHECK) {
            check.figure("bytes", metrics.buffer.bytes.load(Relaxed));
            check.figure("size", metrics.buffer.size.load(Relaxed));
            self.commits.add(check, Instant::now());
        }
    }
}

/// The disk of the data folder.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// Free for us, and in all; or what went wrong.
    found: Option<Result<(u64, u64), String>>,
    asked: Option<Instant>,
    answered: bool,
}

impl Disk {
    pub(super) fn new(path: &Path) -> Disk {
        Disk { path: path.to_owned(), last: Mutex::default() }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, if it is time to and the last question was answered.
    pub(super) fn look(self: &Arc<Self>, now: Instant) {
        let mut last = self.last();
        let due = last.asked.is_none_or(|asked| last.answered && now.duration_since(asked) >= LOOK_AT_DISK);
        if !due {
            return;
        }
        (last.asked, last.answered) = (Some(now), false);
        drop(last);
        let disk = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let found = rustix::fs::statvfs(&disk.path).map_err(|error| error.to_string());
            let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
            let found = found.map(|stat| (bytes(stat.f_bavail, stat.f_frsize), bytes(stat.f_blocks, stat.f_frsize)));
            let mut last = disk.last();
            (last.found, last.answered) = (Some(found), true);
        });
    }

    /// As it was at the last answer.
    pub(super) fn check(&self) -> Check {
        let last = self.last();
        let path = self.path.display();
        let mut check = Check::default();
        match &last.found {
            Some(Ok((free, total))) => {
                check.figure("free_bytes", *free);
                check.figure("total_bytes", *total);
                let text = format!("{} MiB of {} MiB are free at {path}", free >> 20, total >> 20);
                match *free {
                    0 => check.say(Health::Fail, text),
                    free if free < (total / LOW_SHARE).min(LOW_BYTES) => check.say(Health::Warn, text),
                    _ => (),
                }
            }
            Some(Err(error)) => check.say(Health::Warn, format!("{path}: {error}")),
            None => (),
        }
        let silent = last.asked.filter(|_| !last.answered).map(|asked| asked.elapsed());
        if let Some(silent) = silent.filter(|silent| *silent >= DISK_DEAD) {
            check.say(Health::Fail, format!("the disk of {path} has not answered for {} s", silent.as_secs()));
        }
        check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_latency_is_the_mean_of_the_last_seconds_and_a_dead_disk_is_said() {
        let from = Instant::now();
        let at = |secs| from + Duration::from_secs(secs);
        let shown = |commits: &Commits, now| {
            let mut check = Check::default();
            commits.add(&mut check, now);
            check.into_json()
        };
        let mut commits = Commits::default();
        commits.look(0, 0, false, at(0));
        assert_eq!(shown(&commits, at(0))["commit_ms"], Value::Null);
        commits.look(10, 20_000_000, false, at(1));
        assert_eq!(shown(&commits, at(1)), json!({ "status": "pass", "reason": "", "commit_ms": 2.0 }));
        commits.look(10, 20_000_000, true, at(11));
        commits.look(12, 4_020_000_000, true, at(22));
        assert_eq!(shown(&commits, at(22))["reason"], "a commit takes 2.0 s, and every ack waits for one");
        commits.look(12, 4_020_000_000, true, at(29));
        assert_eq!(shown(&commits, at(29))["status"], "warn");
        commits.look(12, 4_020_000_000, true, at(31));
        let dead = shown(&commits, at(31));
        assert_eq!(
            (&dead["status"], &dead["reason"]),
            (&json!("fail"), &json!("a commit has not ended for 9 s; is the disk dead?"))
        );
        assert_eq!(commits.stuck_for(at(40)), Duration::ZERO, "nobody looks during a stop");
        commits.look(13, 4_021_000_000, false, at(33));
        assert_eq!(shown(&commits, at(33)), json!({ "status": "pass", "reason": "", "commit_ms": 1.0 }));
    }

    #[test]
    fn what_is_said_first_stays_unless_something_worse_comes() {
        let mut check = Check::new(Health::Warn, "slow".to_owned());
        check.say(Health::Warn, "also".to_owned());
        assert_eq!(check.reason, "slow");
        check.say(Health::Fail, "dead".to_owned());
        assert_eq!((check.health, check.reason.as_str()), (Health::Fail, "dead"));
    }
}
