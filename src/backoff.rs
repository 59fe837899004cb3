//! When to try again. Pure: takes the number of tries and a generator, returns a time; knows no clock.
//!
//! Two rules: full jitter for what passes by itself (a restart, an overload), so that a thousand agents do not come
//! back in the same second; plain doubling for what a person has to put right.

use std::time::Duration;

/// The range of waits between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait before the second try.
    pub first: Duration,
    /// Longest wait ever.
    pub max: Duration,
}

/// For destinations on the network: 1 s to 60 s.
pub const NETWORK: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };
/// For the local disk: 1 s to 5 s, since a try costs nobody anything and room may appear at any time.
pub const DISK: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(5) };
/// For faults of configuration (a wrong key, a wrong path): 30 s to 300 s.
pub const FAULT: Backoff = Backoff { first: Duration::from_secs(30), max: Duration::from_secs(300) };
/// The longest pause that a destination can ask for by `Retry-After`.
pub const ASKED_MAX: Duration = Duration::from_secs(300);

impl Backoff {
    /// The longest wait after `tries` failures (1 is the first): doubles up to `max`.
    pub fn ceiling(&self, tries: u32) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.max)
    }

    /// A wait with full jitter: anything up to the ceiling, but a tenth of `first` at least, so that luck never makes
    /// a busy loop.
    pub fn jittered(&self, tries: u32, rng: &mut fastrand::Rng) -> Duration {
        self.ceiling(tries).mul_f64(rng.f64()).max(self.first / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_and_stays_at_the_maximum() {
        let secs: Vec<u64> = (1..=8).map(|tries| NETWORK.ceiling(tries).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(NETWORK.ceiling(u32::MAX), NETWORK.max);
        assert_eq!(FAULT.ceiling(1).as_secs(), 30);
        assert_eq!(FAULT.ceiling(9).as_secs(), 300);
    }

    #[test]
    fn jitter_spreads_over_the_whole_range_and_never_spins() {
        let mut rng = fastrand::Rng::with_seed(7);
        let waits: Vec<Duration> = (0..1000).map(|_| NETWORK.jittered(7, &mut rng)).collect();
        assert!(waits.iter().all(|wait| (Duration::from_millis(100)..=NETWORK.max).contains(wait)));
        let mean = waits.iter().sum::<Duration>() / 1000;
        assert!((25..35).contains(&mean.as_secs()), "{mean:?}");
        assert!(waits.iter().any(|wait| wait.as_secs() < 6) && waits.iter().any(|wait| wait.as_secs() > 54));
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let waits = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (1..20).map(|tries| NETWORK.jittered(tries, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
