//! Whether who sends is held up: the part of `/ready` that is judged by time.
//!
//! Back-pressure is how longshore works, and a sink that is a little slower than its senders holds them up all day; so a
//! moment of it says nothing. Readiness turns red when for [`HELD_AFTER`] nothing at all was taken from those who wait:
//! the disk log is full under `full = "block"`, a sink that is dead has no log behind it, or all of the memory is held. It
//! turns green when for [`CALM_AFTER`] nobody had to wait for longer than [`MOVES_WITHIN`], so a destination that takes one
//! batch in a while does not make it flap.
//!
//! Only inputs that somebody sends to count: a file that waits is a buffer, and no load balancer sends less to it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::figures::commit_text;
use crate::budget::Budget;
use crate::metrics::{Health, Metrics};
use crate::outbox;

/// So long nothing is taken before it is told.
pub const HELD_AFTER: Duration = Duration::from_secs(5);
/// So long it has to be well again.
const CALM_AFTER: Duration = Duration::from_secs(5);
/// Who waits no longer than this is not held.
const MOVES_WITHIN: Duration = Duration::from_secs(1);
/// The check of the memory budget.
pub(super) const MEMORY_CHECK: &str = "memory";

/// What is held, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    time: Duration,
    /// The check's name, and why.
    text: String,
}

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    red: Option<String>,
    calm: Option<Instant>,
}

impl Readiness {
    /// Takes what is held at this moment.
    pub(super) fn judge(&mut self, held: Option<Held>, now: Instant) {
        let time = held.as_ref().map_or(Duration::ZERO, |held| held.time);
        if let Some(held) = held.filter(|_| time >= HELD_AFTER) {
            if self.red.is_none() {
                tracing::warn!("not ready: {}", held.text);
            }
            self.red = Some(held.text);
        }
        if time > MOVES_WITHIN || self.red.is_none() {
            self.calm = None;
            return;
        }
        if now.duration_since(*self.calm.get_or_insert(now)) >= CALM_AFTER {
            *self = Readiness::default();
            tracing::info!("ready again: what is sent is taken");
        }
    }

    /// Why it is red.
    pub(super) fn red(&self) -> Option<String> {
        self.red.clone()
    }
}

/// What is the matter with the memory.
pub(super) fn memory_text(stuck: Duration) -> String {
    format!("all of it is held and reading has waited for {} s; see the sinks", stuck.as_secs())
}

/// The check of an input's progress.
pub(super) fn check_of(input: &str) -> String {
    format!("progress.{input}")
}

/// Why an input is held.
pub(super) fn held_text(metrics: &Metrics, time: Duration) -> String {
    let why = match metrics.checks().remove(outbox::CHECK) {
        Some((health, reason)) if health != Health::Pass => reason,
        _ => "a sink has no room".to_owned(),
    };
    format!("nothing was taken for {} s: {why}; see the sinks", time.as_secs())
}

/// What has been held for longest: an input that somebody sends to, the memory that it wants, or the `commit` that its acks
/// wait for.
pub(super) fn held(metrics: &Metrics, budget: &Budget, commit: Duration) -> Option<Held> {
    let sent_to = || metrics.inputs.iter().filter(|input| input.sent_to.load(Relaxed));
    sent_to().next()?;
    let longest = sent_to().map(|input| (input.held.held_for(), input)).max_by_key(|(time, _)| *time);
    let stuck = budget.stuck_for();
    match longest {
        _ if commit > stuck && longest.is_none_or(|(time, _)| commit > time) => {
            Some(Held { time: commit, text: format!("{}: {}", outbox::CHECK, commit_text(commit)) })
        }
        Some((time, input)) if time >= stuck && !time.is_zero() => {
            Some(Held { time, text: format!("{}: {}", check_of(&input.name), held_text(metrics, time)) })
        }
        _ if !stuck.is_zero() => Some(Held { time: stuck, text: format!("{MEMORY_CHECK}: {}", memory_text(stuck)) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(readiness: &mut Readiness, from: Instant, looks: &[(u64, u64)]) -> Vec<bool> {
        let held = |secs| (secs > 0).then(|| Held { time: Duration::from_secs(secs), text: format!("x: {secs} s") });
        let look = |&(at, secs): &(u64, u64)| {
            readiness.judge(held(secs), from + Duration::from_secs(at));
            readiness.red().is_some()
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_moment_of_back_pressure_says_nothing_and_what_lasts_does() {
        let from = Instant::now();
        let mut readiness = Readiness::default();
        assert_eq!(after(&mut readiness, from, &[(0, 0), (1, 1), (2, 2), (5, 4), (6, 0)]), [false; 5]);
        assert_eq!(after(&mut readiness, from, &[(7, 4), (8, 5), (9, 6)]), [false, true, true]);
        assert_eq!(readiness.red().as_deref(), Some("x: 6 s"));
    }

    #[test]
    fn one_batch_in_a_while_does_not_make_it_green() {
        let from = Instant::now();
        let mut readiness = Readiness::default();
        let looks = [(5, 5), (6, 0), (7, 0), (8, 2), (9, 3), (10, 0), (13, 0), (14, 1), (15, 0), (16, 0)];
        let red = after(&mut readiness, from, &looks);
        assert_eq!(red, [true, true, true, true, true, true, true, true, false, false], "calm from 10 to 15");
    }

    #[test]
    fn what_files_wait_for_is_no_reason_and_what_senders_wait_for_is() {
        let metrics = Metrics::new(&[("files", "file"), ("apps", "forward")], &[("out", "http")]);
        let budget = Budget::new(1 << 20);
        let _place = metrics.inputs[0].held.enter();
        let dead = Duration::from_secs(9);
        assert_eq!(held(&metrics, &budget, dead), None);
        metrics.inputs[1].sent_to.store(true, Relaxed);
        let commit = held(&metrics, &budget, dead).expect("the acks wait");
        assert_eq!((commit.time, commit.text.contains("is the disk dead?")), (dead, true));
        let _place = metrics.inputs[1].held.enter();
        metrics.check(outbox::CHECK, Health::Warn, "the disk log is full");
        let found = held(&metrics, &budget, Duration::ZERO).expect("it is held");
        assert_eq!(found.text, "progress.apps: nothing was taken for 0 s: the disk log is full; see the sinks");
    }
}
