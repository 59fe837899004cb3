//! The time by which following waits. In tests a thread may have a clock of its own, which moves when it is told.

use std::time::{Duration, Instant, SystemTime};

#[cfg(not(test))]
#[inline(always)]
fn shift() -> Option<(Instant, SystemTime)> {
    None
}

#[cfg(not(test))]
#[inline(always)]
fn made() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
pub use own::set;

#[cfg(test)]
use own::{made, shift};

/// The longest tick of a kernel's clock.
const TICK: Duration = Duration::from_millis(10);

/// Now, for waiting.
pub fn now() -> Instant {
    shift().map_or_else(Instant::now, |(now, _)| now)
}

/// How long that is ago.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Now, since 1970: for comparing with the times of files only.
pub fn wall() -> Duration {
    let now = shift().map_or_else(SystemTime::now, |(_, now)| now);
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Now, in nanoseconds since 1970, for comparing with birth times: a file that is made later has none before it. The kernel
/// takes them from a clock that is behind by up to a tick. (It is that clock in tests, too, unless they tell birth times.)
pub fn births() -> i64 {
    let now = made().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(TICK).as_nanos()).unwrap_or(i64::MAX)
}

/// Waits a moment. Who has a clock of its own does not.
pub fn pause(time: Duration) {
    if shift().is_none() {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod own {
    use std::cell::Cell;

    use super::super::disk;
    use super::{Instant, SystemTime};

    thread_local!(static OWN: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) });

    /// What this thread takes for now; `None` is the real time.
    pub fn set(now: Option<(Instant, SystemTime)>) {
        OWN.set(now);
    }

    pub fn shift() -> Option<(Instant, SystemTime)> {
        OWN.get()
    }

    /// When what is made now is made.
    pub fn made() -> SystemTime {
        shift().filter(|_| disk::are_told()).map_or_else(SystemTime::now, |(_, now)| now)
    }
}
