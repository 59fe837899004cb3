//! Who waits for the same thing, and since when nobody got it: what tells a fault that lasts from back-pressure that moves.
//!
//! Who gives up waiting (a sender whose patience is over) does not end that time: somebody else comes and waits in its
//! place. It ends when one of those who wait gets what it waits for, or, while nobody waits, when there is a sign that it
//! could be had ([`Waits::flows`]).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// See the header. One for each thing that is waited for.
#[derive(Debug)]
pub struct Waits {
    base: Instant,
    waiting: AtomicUsize,
    /// Nanoseconds after `base`, from 1; 0 while nobody had to wait since somebody got something.
    since: AtomicU64,
}

/// One who waits; dropping it is giving up.
#[derive(Debug)]
pub struct Place<'w>(&'w Waits);

impl Default for Waits {
    fn default() -> Waits {
        Waits { base: Instant::now(), waiting: AtomicUsize::new(0), since: AtomicU64::new(0) }
    }
}

impl Waits {
    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Somebody begins to wait.
    pub fn enter(&self) -> Place<'_> {
        self.waiting.fetch_add(1, SeqCst);
        self.begin();
        Place(self)
    }

    /// Who waits already has waited for longer.
    fn begin(&self) {
        let _ = self.since.compare_exchange(0, self.now(), SeqCst, SeqCst);
    }

    /// The time is over. Of who came in this moment it begins anew.
    fn end(&self) {
        loop {
            self.since.store(0, SeqCst);
            if self.waiting.load(SeqCst) == 0 {
                return;
            }
            self.begin();
            // The last of them may have left before the time began anew, and would leave it behind.
            if self.waiting.load(SeqCst) > 0 {
                return;
            }
        }
    }

    /// Somebody got it without waiting, or it could be had: nothing is held, unless somebody waits all the same.
    pub fn flows(&self) {
        if self.since.load(Relaxed) != 0 && self.waiting.load(Relaxed) == 0 {
            self.end();
        }
    }

    /// How many wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How long nobody has got anything, since the first had to wait; zero while all get what they want.
    pub fn held_for(&self) -> Duration {
        match self.since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(self.now().saturating_sub(since)),
        }
    }

    /// What was waited for is there no more, and neither is who waited.
    pub fn forget(&self) {
        self.since.store(0, Relaxed);
    }
}

impl Place<'_> {
    /// It got what it waited for.
    pub fn got(self) {
        let waits = self.0;
        drop(self);
        waits.end();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nap() {
        std::thread::sleep(Duration::from_millis(5));
    }

    #[test]
    fn time_counts_from_the_first_who_waits_and_who_gives_up_does_not_end_it() {
        let waits = Waits::default();
        waits.flows();
        assert_eq!((waits.held_for(), waits.waiting()), (Duration::ZERO, 0));
        let first = waits.enter();
        nap();
        let second = waits.enter();
        let before = waits.held_for();
        assert!(before >= Duration::from_millis(5));
        waits.flows();
        assert!(waits.held_for() >= before, "others that get through are no help to who waits");
        drop((first, second));
        assert!(waits.waiting() == 0 && waits.held_for() >= before, "both gave up");
        drop(waits.enter());
        assert!(waits.held_for() >= before, "a sender that comes again and again waits as one that stays");
        waits.flows();
        assert_eq!(waits.held_for(), Duration::ZERO);
    }

    #[test]
    fn one_who_gets_it_begins_the_time_of_the_others() {
        let waits = Waits::default();
        let (first, second) = (waits.enter(), waits.enter());
        nap();
        let before = waits.held_for();
        first.got();
        assert!(waits.held_for() < before && waits.waiting() == 1);
        second.got();
        assert_eq!((waits.held_for(), waits.waiting()), (Duration::ZERO, 0));
    }
}
