//! The end of a generation: whether it is one for now or for good.
//!
//! Counter: `gz_damaged`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::unreadable::{Kind, Unopened};
use super::{Chain, Context, LINGER, Turn, linger};
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::{clock, held};
use crate::metrics::{Oddity, Tally};

/// A `.gz` is whole when it has not grown for so long.
const GZ_QUIET: Duration = Duration::from_secs(1);

impl Chain {
    /// The current generation has no more, for now or for good; `n` bytes of an unfinished line are left.
    pub(super) fn at_end(&mut self, context: &mut Context<'_>, n: usize) -> Option<Turn> {
        let source = self.source.as_mut()?;
        if source.held.gz {
            if let Some(error) = source.take_damage() {
                let (held, offset) = (Arc::clone(&source.held), source.offset);
                if let Some(wait) = gz_growing(&held, &mut self.gz_seen) {
                    // It was said to be closed, but is still growing: from there on once there is more. Meanwhile others
                    // may have the decoder.
                    self.source = None;
                    self.unopened = Some(Unopened { held, offset, kind: Kind::Same });
                    return Some(Turn::Sleep(wait));
                }
                // At once: what is replayed counts nothing else again.
                let mut tally = Tally::default();
                tally.odd(Oddity::GzDamaged);
                context.outlet.metrics.add(context.outlet.input, &tally);
                tracing::warn!(key = self.key, file = source.held.name, offset = source.seen, %error, "a compressed file is damaged; what could be read of it goes on");
            }
            self.finish(context, n);
            return None;
        }
        if self.queue.is_empty() {
            if self.gone && self.rules.docker || self.is_nameless() || context.outlet.once {
                self.gone = true;
                self.finish(context, n);
                return None;
            }
            return Some(Turn::Idle);
        }
        // Nobody writes to a copy.
        if self.rules.docker || context.outlet.once || self.reads_copy() {
            self.finish(context, n);
            return None;
        }
        // Whoever writes is still at the old file, or at neither, while the new one is empty.
        let nameless = self.source.as_ref()?.held.look().is_ok_and(|look| look.links == 0);
        let newer_has_data = self.queue.iter().any(|held| held.gz || held.look().is_ok_and(|look| look.size > 0));
        let quiet = clock::since(self.grew) >= LINGER;
        // What was written to it before its writer went over to the newer one is there by now.
        if newer_has_data && self.has_more().unwrap_or(false) {
            return None;
        }
        if newer_has_data && self.expects_an_end(context.outlet) {
            return Some(Turn::Sleep(linger::POLL));
        }
        if newer_has_data || quiet && !nameless && held::are_scarce() {
            if self.position < self.replay_until {
                self.close(context.outlet);
                self.end_place();
            }
            if let Some(source) = self.source.take() {
                let grew = if newer_has_data { clock::now() } else { self.grew };
                let skipping = self.skipping.take();
                self.account_for_read(&source.held);
                self.lingering.push(linger::Lingering::new(source, grew, skipping));
            }
            return None;
        }
        if quiet && nameless {
            self.finish(context, n);
            return None;
        }
        // Who was never told of the rotation may go on with the old one after days.
        Some(if quiet { Turn::Idle } else { Turn::Sleep(linger::POLL) })
    }

    /// The current generation is final: its unfinished line is a record.
    pub(super) fn finish(&mut self, context: &mut Context<'_>, n: usize) {
        if n > 0 {
            self.take(context, n, true);
            // Part of it had been delivered before, and the rest stands elsewhere in the buffer now: once more.
            if self.source.as_ref().is_some_and(|source| source.offset < source.seen) && !context.outlet.stop.is_set() {
                return;
            }
        }
        self.skipping = None;
        self.close(context.outlet);
        self.end_place();
        if let Some(source) = self.source.take() {
            let end = (source.offset, source.tail());
            self.account_for_read(&source.held);
            self.remember(&source.held, source.held.gz.then_some(end));
            self.standing.completed(&source.held);
        }
        self.progress.generation_ended();
    }
}

/// How long to wait for a compressed file that ends too early, if it is not quiet yet.
fn gz_growing(held: &Held, seen: &mut Option<(u64, Instant)>) -> Option<Duration> {
    held.closed.store(false, Ordering::Release);
    gz_wait(held, seen)
}

/// How long to wait for a compressed file that may still be growing.
pub(super) fn gz_wait(held: &Held, seen: &mut Option<(u64, Instant)>) -> Option<Duration> {
    if held.closed.load(Ordering::Acquire) {
        return None;
    }
    let look = held.look().ok()?;
    let changed = Duration::from_nanos(u64::try_from(look.mtime).unwrap_or(0));
    // By its own time first, so that a start does not wait for old files; by ours if the clocks do not agree.
    if clock::wall().checked_sub(changed).is_some_and(|age| age >= GZ_QUIET) {
        return None;
    }
    match seen {
        Some((size, since)) if *size == look.size && clock::since(*since) >= GZ_QUIET => return None,
        Some((size, _)) if *size == look.size => {}
        _ => *seen = Some((look.size, clock::now())),
    }
    Some(linger::POLL)
}
