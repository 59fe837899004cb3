//! When checkpoints are saved: a thread that waits for it.
//!
//! 20 ms after the first delivery, then at most 250 ms after a change or after 4 MiB of delivered data, but no sooner than
//! 100 ms after the save before; at the end of a generation likewise; a second after one that failed.

use std::io;
use std::time::{Duration, Instant};

use super::{Checkpoints, State};
use crate::inputs::follow::clock;

const DELAY_MAX: Duration = Duration::from_millis(250);
/// A delivery after a quiet time is saved so soon: what comes with it is waited for.
const GATHER: Duration = Duration::from_millis(20);
pub(super) const BYTES_MAX: u64 = 4 << 20;
/// Saves that are due for their bytes, or for the end of a generation, are so far apart. At 400 MB/s 4 MiB are delivered in 10 ms: by arithmetic, a
/// hundred fdatasyncs of the output a second, each of which waits for the disk and holds up the sink's writes. A crash
/// may repeat 100 ms.
const BYTES_APART: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(1);

impl Checkpoints {
    pub(super) fn save_when_needed(&self) {
        let mut saver = Saver::default();
        loop {
            let state = self.lock();
            if state.closed {
                return;
            }
            let left = saver.due(&state).map(|due| due.saturating_duration_since(clock::now()));
            match left {
                None => drop(self.wake.wait(state)),
                Some(left) if !left.is_zero() => drop(self.wake.wait_timeout(state, left)),
                Some(_) => {
                    saver.begin(&state);
                    drop(state);
                    saver.end(&self.save_once());
                }
            }
        }
    }

    /// What the saver's thread does when it is woken: saves, if it is time. For one thread that steps everything.
    #[cfg(test)]
    pub(crate) fn step(&self, saver: &mut Saver) -> bool {
        let state = self.lock();
        let due = !state.closed && saver.due(&state).is_some_and(|due| due <= clock::now());
        if due {
            saver.begin(&state);
            drop(state);
            saver.end(&self.save_once());
        }
        due
    }
}

/// When the saver acts.
#[derive(Debug, Default)]
pub(crate) struct Saver {
    /// When the last snapshot that had deliveries or the end of a generation in it was taken.
    last: Option<Instant>,
    /// When a change was seen first.
    changed: Option<Instant>,
    /// The last save failed: not again before that.
    not_before: Option<Instant>,
}

impl Saver {
    /// When the next save is due; `None`: not before something changes.
    fn due(&mut self, state: &State) -> Option<Instant> {
        if !state.dirty {
            self.changed = None;
            return None;
        }
        let changed = *self.changed.get_or_insert_with(clock::now);
        // Counted from the last save, not from the change: after a quiet time a delivery is saved at once.
        let due = match (state.moved, self.last) {
            (_, Some(last)) if state.urgent => changed.max(last + BYTES_APART),
            _ if state.urgent => changed,
            (Some(moved), Some(last)) => (moved + GATHER).max(last + if state.many { BYTES_APART } else { DELAY_MAX }),
            (Some(moved), None) => moved + GATHER,
            (None, _) => changed + DELAY_MAX,
        };
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    fn begin(&mut self, state: &State) {
        self.changed = None;
        if state.moved.is_some() || state.urgent {
            self.last = Some(clock::now());
        }
    }

    fn end(&mut self, saved: &io::Result<bool>) {
        self.not_before = (!matches!(saved, Ok(true))).then(|| clock::now() + RETRY);
    }
}
