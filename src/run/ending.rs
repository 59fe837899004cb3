//! The end of a stop, and of what a reload replaces: workers are waited for, everything is saved, what is left is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::middle::Middle;
use super::{BACKLOG, DRAINED, FAILED, LET_GO, Node};
use crate::disk_log;
use crate::ledger::Ledger;
use crate::metrics::{DropReason, shift};
use crate::service;

impl Node {
    /// Waits for all workers and saves the checkpoints a last time: until `deadline`, and beyond it as [`LET_GO`] says.
    pub(super) fn end(&mut self, deadline: Instant) {
        let let_go = Instant::now() + LET_GO / 2;
        let sinks_ended = self.middle.as_ref().is_none_or(|middle| middle.sinks.join(let_go));
        let inputs_until = deadline.min(Instant::now() + LET_GO).max(let_go);
        let ended = self.inputs.iter().filter(|input| input.workers.join(inputs_until)).count();
        let inputs_ended = ended == self.inputs.len();
        if !sinks_ended || !inputs_ended {
            tracing::warn!(sinks_ended, inputs_ended, "some workers did not end in time; they end with the process");
        }
        if !self.resumed {
            self.checkpoints.abandon();
            self.saver.join(let_go);
            return;
        }
        let closed = self.save_all(deadline.max(Instant::now() + LET_GO / 2));
        self.give_back(true);
        // What a reload with a panic in it has left was not closed in order, whatever else is by now.
        let in_order = closed && !self.broken;
        self.recount(in_order);
        self.middle.iter().for_each(|middle| middle.watch.say_last());
        self.stopped.store(in_order, Relaxed);
        let checkpoints = Arc::clone(&self.checkpoints);
        let save = move || {
            if let Err(error) = checkpoints.final_save() {
                tracing::error!("the ledger of this stop could not be saved: {error}");
            }
        };
        let started = self.saver.spawn("last-ledger", save);
        if started.is_err() || !self.saver.join(deadline.max(Instant::now() + LET_GO / 2)) {
            tracing::error!("checkpoints were not saved in time; what was delivered since the last save comes again");
        }
    }

    /// Saves everything of the sinks that have ended, until `until`; says whether all was written. In a thread of its own:
    /// a sync waits for as long as the disk takes, and a dead disk takes for ever.
    pub(super) fn save_all(&mut self, until: Instant) -> bool {
        let checkpoints = Arc::clone(&self.checkpoints);
        let (letters, log) = match &self.middle {
            Some(middle) => (Some(Arc::clone(&middle.letters)), middle.log.clone()),
            None => (None, None),
        };
        let (written, (tell, told)) = (Arc::<AtomicBool>::default(), std::sync::mpsc::channel());
        let all = Arc::clone(&written);
        let left = until.saturating_duration_since(Instant::now());
        // One output that hangs leaves time to save what the others have; and what gives up at its deadline lets go of the
        // folder a moment later, and who waits for it wants to see that.
        let (syncs, writes) = (until - left / 2, until - left / 8);
        self.to_sync.hurry(syncs);
        let save = move || {
            Middle::save(letters.as_deref(), log.as_deref(), &checkpoints, writes, &all);
            let _ = tell.send(());
        };
        if self.saver.spawn("last-save", save).is_ok() {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                match told.recv_timeout(left.min(Duration::from_secs(1))) {
                    // A slow disk is no reason for the watchdog.
                    Err(RecvTimeoutError::Timeout) if !left.is_zero() => service::alive(),
                    _ => break,
                }
            }
        }
        written.load(Relaxed)
    }

    /// The disk log keeps whole frames: of one that was delivered in part, all records come again, and count again. What is
    /// not there after a stop in order, though, went with a segment that others needed the room of while a sink had it in
    /// hand, and then that sink did not deliver it: it was acked, so nobody gives it again.
    fn recount(&self, in_order: bool) {
        let Some(Middle { log: Some(log), numbers, .. }) = &self.middle else { return };
        let there = disk_log::by_number(&log.status().readers, &self.metrics, numbers);
        // Not an orderly stop's ledger yet, so nothing of it can be called wrong.
        let pairs = || numbers.iter().flat_map(|number| &self.metrics.sinks[*number].pairs);
        let before: Vec<u64> = pairs().map(|pair| pair.returned.load(Relaxed)).collect();
        Ledger::of(&self.metrics).resume(&self.metrics, &there, numbers);
        for (pair, before) in pairs().zip(before).filter(|_| in_order) {
            let gone = pair.returned.load(Relaxed).saturating_sub(before);
            shift(&pair.returned, &pair.dropped[DropReason::BufferFull as usize], gone);
        }
    }

    /// Nothing is in flight any more: what the disk log has stays there, the rest is given back or lost. `for_good`: the
    /// node ends.
    pub(super) fn give_back(&self, for_good: bool) {
        let Some(middle) = &self.middle else { return };
        for (handle, number) in middle.handles.iter().zip(&middle.numbers) {
            let sink = &self.metrics.sinks[*number];
            // Nobody reads there any more: nothing is lost that somebody wanted.
            let closed = handle.is_closed();
            for (at, (input, pair)) in self.metrics.inputs.iter().zip(&sink.pairs).enumerate() {
                let _turn = self.metrics.turn();
                shift(&pair.logged, &pair.buffered, pair.logged.load(Relaxed));
                let left = pair.held.load(Relaxed);
                if left > u64::MAX / 2 {
                    // Of frames that got into the log late, these were delivered.
                    shift(&pair.held, &pair.buffered, left);
                    continue;
                }
                if left == 0 {
                    continue;
                }
                let (input, sink) = (&input.name, &sink.name);
                if self.give_again.get(at) == Some(&true) {
                    shift(&pair.held, &pair.returned, left);
                    let when = if for_good { " at the next start" } else { "" };
                    tracing::warn!(
                        input,
                        sink,
                        records = left,
                        "not delivered; they are in the files and are read again{when}"
                    );
                } else {
                    shift(&pair.held, &pair.dropped[DropReason::Shutdown as usize], left);
                    if closed {
                        continue;
                    }
                    if for_good {
                        self.lost.fetch_add(left, Relaxed);
                    }
                    tracing::error!(
                        input,
                        sink,
                        records = left,
                        "not delivered; a sender that asked for acks sends them again, others are lost"
                    );
                }
            }
        }
    }

    /// Chooses the exit code; says last of all what stays on the disk.
    pub(super) fn exit_code(&self) -> u8 {
        let ledger = Ledger::of(&self.metrics);
        let (buffered, sinks) = ledger.buffered();
        if buffered > 0 {
            tracing::warn!(
                records = buffered,
                sinks = sinks.join(", "),
                "a backlog stays in the disk log; it is delivered after the next start (exit code 3)"
            );
        }
        match (self.has_failed() || self.broken, buffered + self.lost.load(Relaxed)) {
            (true, _) => FAILED,
            (false, 0) => DRAINED,
            _ => BACKLOG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};
    use crate::metrics::followed::{Generation, LostBytes};
    use crate::run::Options;

    /// A node with one input and one sink in this folder.
    fn start(dir: &std::path::Path) -> (Node, super::super::signals::Signals) {
        let text = format!(
            "[node]\ndata_dir = {:?}\n\n[inputs.in]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:0\"]\nack = \"durable\"\n\n[sinks.out]\ntype = \"file\"\npath = {:?}\n\n[telemetry]\nlisten = \"off\"\n",
            dir.join("data"),
            dir.join("out.ndjson"),
        );
        let config = config::load_text("longshore.toml", &text, &Overrides::default()).expect("valid");
        Node::start(config, Options::default()).expect("it starts")
    }

    #[test]
    fn the_log_is_looked_at_while_sinks_drain() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (node, mut signals) = start(dir.path());
        let size = &node.metrics.buffer.size;
        let runtime = node.runtime.handle().clone();
        // Its input goes on, so its sink does.
        let soon = || Instant::now() + Duration::from_millis(700);
        assert!(runtime.block_on(node.drain(&mut signals, soon())));
        assert!(size.swap(0, Relaxed) > 0, "at a stop");
        let until = soon();
        runtime.block_on(node.wait_while(&mut signals, Instant::now(), || Instant::now() < until));
        assert!(size.load(Relaxed) > 0, "in a reload");
        node.stop.set();
        node.run_and_stop(signals);
    }

    #[test]
    fn a_loss_alone_is_a_change_of_the_ledger() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (node, signals) = start(dir.path());
        let before = node.counted();
        node.metrics.inputs[0].followed.generation(Generation::Lost, 1);
        let lost = node.counted();
        node.metrics.inputs[0].followed.lost(LostBytes::Gone, 7);
        let bytes = node.counted();
        node.metrics.inputs[0].rejected[0].fetch_add(1, Relaxed);
        assert!(before != lost && lost != bytes && bytes != node.counted());
        node.stop.set();
        node.run_and_stop(signals);
    }

    #[test]
    fn what_went_with_its_segment_while_a_sink_had_it_in_hand_is_dropped_and_not_returned() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (node, signals) = start(dir.path());
        // Seven were acked and are in hand; the log has none of them any more.
        let metrics = Arc::clone(&node.metrics);
        let pair = metrics.pair(0, 0);
        pair.routed.fetch_add(7, Relaxed);
        pair.logged.fetch_add(7, Relaxed);
        let stopped = Arc::clone(&node.stopped);
        node.stop.set();
        node.run_and_stop(signals);
        let dropped = pair.dropped[DropReason::BufferFull as usize].load(Relaxed);
        assert_eq!((dropped, pair.returned.load(Relaxed), pair.buffered.load(Relaxed)), (7, 0, 0));
        assert!(stopped.load(Relaxed));
    }
}
