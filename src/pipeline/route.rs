//! Which sinks get a record: every sink whose `match` has its tag. One decision a tag of a batch, remembered.
//!
//! Limits: decisions for [`CACHE_MAX`] tags are remembered (then the memory starts afresh); a tag without a sink is
//! logged once, [`SAID_MAX`] of them at most.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::batch::{Batch, Outcome, Shipment};
use crate::metrics::{DropReason, Metrics};
use crate::record::{Tag, TagGlob};

const CACHE_MAX: usize = 4096;
const SAID_MAX: usize = 100;
/// Sinks at most: one bit each.
pub const SINKS_MAX: usize = 64;

/// The way to one sink.
#[derive(Debug)]
pub struct Port {
    /// Its number in the metrics.
    pub sink: usize,
    /// Its `match`.
    pub globs: Vec<TagGlob>,
    /// Its bounded queue.
    pub queue: mpsc::Sender<Shipment>,
}

/// All ways. Shared by all inputs; when the last one is dropped, the queues end and the sinks drain.
#[derive(Debug)]
pub struct Router {
    ports: Vec<Port>,
    metrics: Arc<Metrics>,
    /// One bit a port, by tag.
    decided: Mutex<HashMap<Tag, u64>>,
    said: Mutex<HashSet<Tag>>,
}

impl Router {
    /// A router to these ports, [`SINKS_MAX`] at most.
    pub fn new(ports: Vec<Port>, metrics: Arc<Metrics>) -> Router {
        assert!(ports.len() <= SINKS_MAX, "{} sinks, {SINKS_MAX} at most", ports.len());
        Router { ports, metrics, decided: Mutex::default(), said: Mutex::default() }
    }

    /// The ports that want a tag, one bit each.
    fn decide(&self, tag: &Tag) -> u64 {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ports) = decided.get(tag) {
            return *ports;
        }
        let wants = |port: &Port| port.globs.iter().any(|glob| glob.matches(tag.as_str()));
        let bits =
            self.ports.iter().enumerate().filter(|(_, port)| wants(port)).fold(0, |bits, (at, _)| bits | 1 << at);
        if decided.len() >= CACHE_MAX {
            decided.clear();
        }
        decided.insert(tag.clone(), bits);
        bits
    }

    /// Splits a filled batch into one shipment a sink that wants some of it, with the counting done. A batch that no
    /// sink wants is settled here.
    pub fn route(&self, mut batch: Batch) -> Vec<(mpsc::Sender<Shipment>, Shipment)> {
        batch.seal();
        let receipts = std::mem::take(&mut batch.receipts);
        let tags: Vec<u64> = batch.tags().iter().map(|tag| self.decide(tag)).collect();
        let mut rows = vec![0u32; tags.len()];
        for row in batch.rows() {
            rows[usize::from(row.tag)] += 1;
        }
        for ((tag, ports), rows) in batch.tags().to_vec().iter().zip(&tags).zip(&rows) {
            if *ports == 0 && *rows > 0 {
                batch.tally.drop_by(DropReason::Unrouted, *rows);
                self.say_unrouted(tag);
            }
        }
        self.count(&batch);
        let batch = Arc::new(batch);
        let mut shipments = Vec::new();
        for (at, port) in self.ports.iter().enumerate() {
            let wanted = |(tag, ports): (usize, &u64)| (ports >> at & 1 == 1 && rows[tag] > 0).then_some(tag);
            let (mut bits, mut routed) = (0u64, 0u64);
            for tag in tags.iter().enumerate().filter_map(wanted) {
                bits |= 1 << tag;
                routed += u64::from(rows[tag]);
            }
            if bits != 0 {
                self.metrics.sinks[port.sink].pairs[usize::from(batch.input)].routed.fetch_add(routed, Relaxed);
                let shipment = Shipment { batch: Arc::clone(&batch), receipts: receipts.clone(), tags: bits };
                shipments.push((port.queue.clone(), shipment));
            }
        }
        // The handle that came with the batch: every sink has its own clone by now.
        receipts.settle(if shipments.is_empty() && !batch.is_empty() { Outcome::Dropped } else { Outcome::Delivered });
        shipments
    }

    fn count(&self, batch: &Batch) {
        self.metrics.add(batch.input, &batch.tally);
        let input = &self.metrics.inputs[usize::from(batch.input)];
        input.batches.fetch_add(1, Relaxed);
        if !batch.is_empty() {
            let now = crate::record::Timestamp::now().0;
            input.last_record.store(u64::try_from(now).unwrap_or(0), Relaxed);
        }
    }

    fn say_unrouted(&self, tag: &Tag) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < SAID_MAX && said.insert(tag.clone()) {
            tracing::warn!(tag = %tag.as_str().escape_debug(), "no sink matches this tag; its records are dropped and counted as unrouted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Receipt, RowHead, Waiter};
    use crate::budget::Budget;
    use crate::record::Timestamp;

    struct Note(Arc<Mutex<Vec<Outcome>>>);

    impl Waiter for Note {
        fn settled(&self, worst: Outcome) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(worst);
        }
    }

    fn batch(tags: &[&str], receipt: &Arc<Mutex<Vec<Outcome>>>) -> Batch {
        let mut batch = Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::default());
        for tag in tags {
            let tag = batch.tag_index(tag).expect("room for a tag");
            let mark = batch.fields_mark();
            batch.push_row(mark, RowHead::at(Timestamp(0), tag));
        }
        batch.receipts.push(Receipt::new(Box::new(Note(Arc::clone(receipt)))));
        batch
    }

    fn router(globs: &[&[&str]]) -> (Router, Arc<Metrics>) {
        let names: Vec<(&str, &'static str)> = globs.iter().map(|_| ("sink", "stdout")).collect();
        let metrics = Arc::new(Metrics::new(&[("in", "stdin")], &names));
        let port = |(sink, globs): (usize, &&[&str])| Port {
            sink,
            globs: globs.iter().map(|glob| TagGlob::new(glob)).collect(),
            queue: mpsc::channel(1).0,
        };
        (Router::new(globs.iter().enumerate().map(port).collect(), Arc::clone(&metrics)), metrics)
    }

    #[test]
    fn every_matching_sink_gets_its_rows_and_a_handle_of_its_own() {
        let (router, metrics) = router(&[&["api.**"], &["**"], &["none"]]);
        let settled = Arc::new(Mutex::new(Vec::new()));
        let shipments = router.route(batch(&["api.a", "db", "api.b", "api.a"], &settled));
        let wanted: Vec<Vec<bool>> =
            shipments.iter().map(|(_, shipment)| (0..4).map(|at| shipment.wants(at)).collect()).collect();
        assert_eq!(wanted, [[true, false, true, true].to_vec(), [true; 4].to_vec()]);
        let routed: Vec<u64> = metrics.sinks.iter().map(|sink| sink.pairs[0].routed.load(Relaxed)).collect();
        assert_eq!(routed, [3, 4, 0]);
        let mut outcomes = [Outcome::Delivered, Outcome::Rejected].into_iter();
        for (_, shipment) in shipments {
            assert!(settled.lock().expect("not poisoned").is_empty());
            shipment.receipts.settle(outcomes.next().expect("two"));
        }
        assert_eq!(*settled.lock().expect("not poisoned"), [Outcome::Rejected]);
    }

    #[test]
    fn what_no_sink_matches_is_counted_and_settled_as_dropped() {
        let (router, metrics) = router(&[&["api.**"]]);
        let settled = Arc::new(Mutex::new(Vec::new()));
        assert!(router.route(batch(&["db", "db"], &settled)).is_empty());
        assert_eq!(*settled.lock().expect("not poisoned"), [Outcome::Dropped]);
        assert_eq!(metrics.inputs[0].dropped[DropReason::Unrouted as usize].load(Relaxed), 2);
        // A batch whose rows all wait in a lane (or were dropped by a step) is at an end too.
        assert!(router.route(batch(&[], &settled)).is_empty());
        assert_eq!(settled.lock().expect("not poisoned").last(), Some(&Outcome::Delivered));
    }
}
