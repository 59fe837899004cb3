//! Looks at the disk log from time to time: for metrics and health, for the share of optional sinks, and to say what is
//! dropped. Drops themselves say nothing: they happen under the lock that everybody needs.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::late::LATE_AFTER;
use crate::log::Limited;
use crate::metrics::{DROPS_CHECK, DropReason, Health, Metrics};

/// How long after its last drop a sink is still shown as one that records are dropped for.
const SHOWN: Duration = Duration::from_secs(60);

/// By sink.
static SAID: Limited = Limited::new(6);

/// Records and bytes that were dropped for one sink since the disk log was full, or it has no room.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    records: u64,
    bytes: u64,
}

/// What was said of the drops of one sink.
pub(super) struct Drops {
    sink: usize,
    seen: Count,
    said: Count,
    /// The last one, if it is shown.
    last: Option<Instant>,
}

fn count(metrics: &Metrics, sink: usize) -> Count {
    let mut count = Count::default();
    for pair in &metrics.sinks[sink].pairs {
        count.records += pair.dropped[DropReason::BufferFull as usize].load(Relaxed);
        count.bytes += pair.dropped_bytes[DropReason::BufferFull as usize].load(Relaxed);
    }
    count
}

impl Drops {
    /// Of these sinks, from now on.
    pub(super) fn of(sinks: &[usize], metrics: &Metrics) -> Vec<Drops> {
        let begin = |sink: &usize| {
            metrics.uncheck(&check(metrics, *sink));
            let seen = count(metrics, *sink);
            Drops { sink: *sink, seen, said: seen, last: None }
        };
        sinks.iter().map(begin).collect()
    }

    fn look(&mut self, metrics: &Metrics, now: Instant) {
        let found = count(metrics, self.sink);
        let name = &metrics.sinks[self.sink].name;
        if found != self.seen {
            self.seen = found;
            self.last = Some(now);
            let reason = "records are dropped: the disk log is full, or this sink is optional and has no room";
            metrics.check(&check(metrics, self.sink), Health::Warn, reason);
        } else if self.last.is_some_and(|last| now.duration_since(last) >= SHOWN) {
            self.last = None;
            metrics.uncheck(&check(metrics, self.sink));
        }
        if found != self.said && SAID.allow(name).is_some() {
            self.say(name, found);
        }
    }

    fn say_last(&mut self, metrics: &Metrics) {
        let found = count(metrics, self.sink);
        if found != self.said {
            self.say(&metrics.sinks[self.sink].name, found);
        }
    }

    fn say(&mut self, name: &str, found: Count) {
        let (records, bytes) = (found.records - self.said.records, found.bytes - self.said.bytes);
        self.said = found;
        let reason = DropReason::BufferFull.name();
        tracing::warn!(
            sink = name,
            records,
            bytes,
            reason,
            "records were dropped for this sink since the last such line"
        );
    }
}

fn check(metrics: &Metrics, sink: usize) -> String {
    format!("{DROPS_CHECK}{}", metrics.sinks[sink].name)
}

/// Looks when it is told to.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    /// By port: its sink.
    sinks: Arc<[usize]>,
}

impl Watch {
    pub(super) fn new(shared: &Arc<Shared>, sinks: Arc<[usize]>) -> Watch {
        Watch { shared: Arc::clone(shared), sinks }
    }

    /// Gives to the log what sinks have had in memory only for so long. Zero at the end of a stop, before the sinks give
    /// up: what a dead sink holds would else keep a file's checkpoint back, and live sinks would get it all again.
    pub fn keep(&self, after: Duration) {
        let Some(behind) = &self.shared.behind else { return };
        let _ports = self.shared.ports();
        // Refused: tried again at the next look.
        for late in &self.shared.late {
            let _ = late.log(&behind.log, after);
        }
    }

    /// Says what was dropped and not said yet, however much was said in this minute: nothing looks here any more.
    pub fn say_last(&self) {
        let metrics = &self.shared.metrics;
        let mut drops = self.shared.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.iter_mut().for_each(|drops| drops.say_last(metrics));
    }

    /// Copies what the log says to the metrics, and says what was dropped. Called a few times a second.
    pub fn look(&self) {
        let Some(behind) = &self.shared.behind else { return };
        self.keep(LATE_AFTER);
        let status = behind.log.status();
        let half_full = status.held > status.size / 2;
        if self.shared.half_full.swap(half_full, Relaxed) && !half_full {
            // Who found all sinks behind and the log half full waits for this.
            self.shared.room.notify_waiters();
        }
        let metrics = &self.shared.metrics;
        let buffer = &metrics.buffer;
        for (to, figure) in [
            (&buffer.size, status.size),
            (&buffer.bytes, status.bytes),
            (&buffer.segments, status.segments as u64),
            (&buffer.commits, status.commits),
            (&buffer.commit_ns, status.commit_ns),
            (&buffer.failures, status.failures),
            (&buffer.waiting, status.queued as u64),
        ] {
            to.store(figure, Relaxed);
        }
        for (sink, backlog) in self.sinks.iter().map(|sink| &metrics.sinks[*sink]).zip(&status.readers) {
            sink.backlog_bytes.store(backlog.total.bytes, Relaxed);
            sink.backlog_oldest_ms.store(backlog.oldest_ms.unwrap_or(0), Relaxed);
        }
        let now = Instant::now();
        let mut drops = self.shared.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.iter_mut().for_each(|drops| drops.look(metrics, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_too_much_for_a_minute_is_said_at_the_end() {
        let metrics = Metrics::new(&[("in", "test")], &[("drops a lot", "test")]);
        let mut drops = Drops::of(&[0], &metrics);
        let drops = &mut drops[0];
        for _ in 0..20 {
            metrics.pair(0, 0).dropped[DropReason::BufferFull as usize].fetch_add(1, Relaxed);
            drops.look(&metrics, Instant::now());
        }
        assert!((1..20).contains(&drops.said.records), "{} are said", drops.said.records);
        metrics.pair(0, 0).dropped[DropReason::BufferFull as usize].fetch_add(1, Relaxed);
        drops.say_last(&metrics);
        assert_eq!(drops.said.records, 21);
    }
}
