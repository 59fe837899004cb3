//! Letters of what inputs refused: bytes that never were a record ([`Scrap`]).
//!
//! Anybody who can reach an input can send it bad data, and each sink's letters are in the same log. So what inputs may
//! write is limited ([`Allowance`]): a [`SHARE`]th of the log's size at once, and as much again within an hour, counted
//! anew by each start and reload. A flood
//! needs hours, not seconds, to push out the letters of sinks, and costs the disk no more than that. What is beyond it is
//! counted (`rate_limited`), and acknowledged as if there were no letters.

use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::{DeadLetters, Done, OPEN_AGAIN, Of, Opened, PATIENCE, append, refusal};
use crate::batch::{Outcome, Scrap, Scraps};
use crate::buffer::{Committed, Log, Lost, Payload, Refusal};
use crate::codec::dead_letter::ScrapLetter;
use crate::metrics::{LetterLoss, Metrics};

/// Inputs may write this part of the log's size within [`WINDOW`].
const SHARE: u64 = 4;
/// See [`SHARE`].
const WINDOW: Duration = Duration::from_secs(3600);
/// What a commit takes on the disk at least.
const BLOCK: u64 = 4096;
/// Between two looks whether there is room, or the log is open.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How much inputs may write: it is used up by letters and fills again with time.
#[derive(Debug)]
pub(super) struct Allowance {
    /// At most, and what comes back in one [`WINDOW`].
    max: u64,
    left: u64,
    since: Instant,
}

impl Allowance {
    /// For a log of that size.
    pub(super) fn of(size: u64, now: Instant) -> Allowance {
        Allowance { max: size / SHARE, left: size / SHARE, since: now }
    }

    /// Takes what a letter of `bytes` costs, if it is there.
    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            (self.left, self.since) = (self.max, now);
        } else {
            let back = u128::from(self.max) * passed.as_nanos() / WINDOW.as_nanos();
            // Below `max`. The rest of a byte stays in `since`.
            self.left = self.max.min(self.left + u64::try_from(back).unwrap_or(self.max));
            let worth = back * WINDOW.as_nanos() / u128::from(self.max.max(1));
            self.since += Duration::from_nanos(u64::try_from(worth).unwrap_or(0));
        }
        let cost = (bytes as u64).next_multiple_of(BLOCK);
        let Some(left) = self.left.checked_sub(cost) else { return false };
        self.left = left;
        true
    }
}

/// Whether the log is there, without waiting for a disk.
pub(super) enum There {
    Log(Arc<Log>),
    /// Somebody opens it.
    Soon,
    NotOpen,
    No,
}

impl DeadLetters {
    /// Keeps what the input of that number refused of `peer`'s, and settles the receipts: each when its letter is on the
    /// disk, or at once where there is none. Waits for [`PATIENCE`] at most.
    pub async fn keep_scraps(self: &Arc<Self>, input: u16, peer: Option<&str>, scraps: Scraps) {
        let counts = &self.metrics.inputs[usize::from(input)].letters;
        let until = self.patience();
        let mut limited = scraps.left_out;
        let mut allowed = Vec::with_capacity(scraps.kept.len());
        for mut scrap in scraps.kept {
            let receipts = std::mem::take(&mut scrap.receipts);
            let peer = peer.map(str::to_owned);
            let letter = KeptScrap {
                scrap,
                peer,
                input,
                source: self.sinks + usize::from(input),
                metrics: Arc::clone(&self.metrics),
            };
            if self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(letter.size_hint(), Instant::now()) {
                allowed.push((letter, receipts));
            } else {
                limited += 1;
                receipts.settle(Outcome::Rejected);
            }
        }
        counts.lose(LetterLoss::RateLimited, limited);
        if allowed.is_empty() {
            return;
        }
        let log = self.log_soon(until).await;
        let mut in_vain = log.is_none();
        for (letter, receipts) in allowed {
            let done = self.done(receipts, Of::Input(input));
            match &log {
                Some(log) => in_vain |= !append_patiently(log, Arc::new(letter), done, until).await,
                None => Box::new(done).committed(Err(Lost::Closed)),
            }
        }
        if in_vain {
            *self.impatient.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + OPEN_AGAIN);
        }
    }

    /// Until when a batch may wait for the log. Not again soon after a wait in vain: a connection reads nothing meanwhile,
    /// and each batch of a flood would wait anew.
    fn patience(&self) -> Instant {
        let now = Instant::now();
        let impatient = *self.impatient.lock().unwrap_or_else(PoisonError::into_inner);
        if impatient.is_some_and(|until| now < until) { now } else { now + PATIENCE }
    }

    pub(super) fn there(&self) -> There {
        let opened = match self.opened.try_lock() {
            Ok(opened) => opened,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return There::Soon,
        };
        match &*opened {
            Opened::Log(log) => There::Log(Arc::clone(log)),
            Opened::Closed => There::No,
            Opened::Failed(at) if at.elapsed() < OPEN_AGAIN => There::No,
            Opened::Failed(_) | Opened::NotYet => There::NotOpen,
        }
    }

    /// The log, opened by a thread that may wait for the disk: connections share theirs.
    async fn log_soon(self: &Arc<Self>, until: Instant) -> Option<Arc<Log>> {
        loop {
            match self.there() {
                There::Log(log) => return Some(log),
                There::Soon | There::NotOpen if Instant::now() >= until => return None,
                There::No => return None,
                There::NotOpen => {
                    let letters = Arc::clone(self);
                    let opening = tokio::task::spawn_blocking(move || letters.log());
                    // Whoever comes once it has the lock finds it taken, and starts no thread to wait for the same disk.
                    return tokio::time::timeout_at(until.into(), opening).await.ok()?.ok()?;
                }
                There::Soon => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// As [`append`], for a task. Whether it was taken.
async fn append_patiently(log: &Log, letter: Arc<KeptScrap>, done: Done, until: Instant) -> bool {
    let mut done: Box<dyn Committed> = Box::new(done);
    loop {
        match append(log, Arc::<KeptScrap>::clone(&letter), done) {
            Ok(()) => return true,
            Err(refused) if refused.why == Refusal::Queue && Instant::now() < until => {
                done = refused.done;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(refused) => {
                refused.done.committed(Err(refusal(refused.why)));
                return false;
            }
        }
    }
}

/// One of them, to be encoded by the log's thread.
struct KeptScrap {
    scrap: Scrap,
    peer: Option<String>,
    input: u16,
    source: usize,
    metrics: Arc<Metrics>,
}

impl KeptScrap {
    fn letter(&self) -> ScrapLetter<'_> {
        ScrapLetter {
            input: &self.metrics.inputs[usize::from(self.input)].name,
            reason: self.scrap.reason.name(),
            peer: self.peer.as_deref().unwrap_or_default(),
            what: self.scrap.what,
            tag: self.scrap.tag.as_ref().map(|tag| tag.as_str()),
            from: self.scrap.from,
            whole: self.scrap.whole,
            bytes: &self.scrap.bytes,
        }
    }
}

impl Payload for KeptScrap {
    fn encode(&self, out: &mut Vec<u8>) {
        self.letter().encode(out);
    }

    fn size_hint(&self) -> usize {
        self.letter().size()
    }

    fn source(&self) -> usize {
        self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_and_comes_back_with_time() {
        let start = Instant::now();
        let mut allowance = Allowance::of(8 << 20, start);
        let taken =
            |allowance: &mut Allowance, bytes, now| (0..10_000).take_while(|_| allowance.take(bytes, now)).count();
        // Small ones cost a block, large ones their size.
        assert_eq!(taken(&mut allowance, 1, start), (2 << 20) / 4096);
        assert!(!allowance.take(1, start + Duration::from_secs(6)));
        let half = start + WINDOW / 2;
        assert_eq!(taken(&mut allowance, 64 << 10, half), 16);
        assert_eq!(taken(&mut allowance, 64 << 10, half + 10 * WINDOW), 32);
    }

    #[test]
    fn looks_that_come_often_lose_no_part_of_the_allowance() {
        let start = Instant::now();
        let mut allowance = Allowance::of(8 << 20, start);
        while allowance.take(1, start) {}
        // A thousand looks a second bring less than a byte each.
        let taken = (1..=20_000).filter(|ms| allowance.take(1, start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 2, "20 s of 2 MiB an hour are 11,650 bytes");
    }
}
