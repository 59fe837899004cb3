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
use crate::outbox::{Offer, Outbox, Want, Way};
use crate::record::{Tag, TagGlob};
use crate::record_id::IdRun;

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
    ports: Vec<(usize, Vec<TagGlob>)>,
    outbox: Outbox,
    metrics: Arc<Metrics>,
    /// One bit a port, by tag.
    decided: Mutex<HashMap<Tag, u64>>,
    said: Mutex<HashSet<Tag>>,
}

impl Router {
    /// A router to these ports, [`SINKS_MAX`] at most, without a disk log.
    pub fn new(ports: Vec<Port>, metrics: Arc<Metrics>) -> Router {
        let way = |port: &Port| Way { sink: port.sink, queue: port.queue.clone(), required: true };
        let outbox = Outbox::in_memory(ports.iter().map(way).collect(), Arc::clone(&metrics));
        Router::to(outbox, ports.into_iter().map(|port| (port.sink, port.globs)).collect(), metrics)
    }

    /// A router to the ports of this outbox: the sink and the `match` of each.
    pub fn to(outbox: Outbox, ports: Vec<(usize, Vec<TagGlob>)>, metrics: Arc<Metrics>) -> Router {
        assert!(ports.len() <= SINKS_MAX, "{} sinks, {SINKS_MAX} at most", ports.len());
        assert_eq!(ports.len(), outbox.len(), "one `match` a port");
        Router { ports, outbox, metrics, decided: Mutex::default(), said: Mutex::default() }
    }

    /// Where shipments wait for their sinks.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The ports that want a tag, one bit each.
    fn decide(&self, tag: &Tag) -> u64 {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ports) = decided.get(tag) {
            return *ports;
        }
        let wants = |globs: &[TagGlob]| globs.iter().any(|glob| glob.matches(tag.as_str()));
        let wanting = self.ports.iter().enumerate().filter(|(_, (_, globs))| wants(globs));
        let bits = wanting.fold(0, |bits, (at, _)| bits | 1 << at);
        if decided.len() >= CACHE_MAX {
            decided.clear();
        }
        decided.insert(tag.clone(), bits);
        bits
    }

    /// Decides who wants what of a filled batch, with the counting done. A batch that no sink wants is settled here.
    pub fn route(&self, mut batch: Batch) -> Option<Offer> {
        batch.seal();
        if batch.ids.is_empty() {
            // Nothing names the records: the batch does, and keeps the name in the disk log.
            batch.ids.push(IdRun { from: 0, prefix: fastrand::u64(..), first: 0 });
            batch.number_rows();
        }
        let receipts = std::mem::take(&mut batch.receipts);
        let tags: Vec<u64> = batch.tags().iter().map(|tag| self.decide(tag)).collect();
        let mut rows = vec![0u32; tags.len()];
        match rows.as_mut_slice() {
            // Fewer rows than bytes, and those fit a u32.
            [all] => *all = batch.len() as u32,
            rows => batch.rows().iter().for_each(|row| rows[usize::from(row.tag)] += 1),
        }
        let mut passed = batch.len() as u64;
        for ((tag, ports), rows) in batch.tags().to_vec().iter().zip(&tags).zip(&rows) {
            if *ports == 0 && *rows > 0 {
                batch.tally.drop_by(DropReason::Unrouted, *rows);
                passed -= u64::from(*rows);
                self.say_unrouted(tag);
            }
        }
        let mut wants = Vec::with_capacity(self.ports.len());
        for port in 0..self.ports.len() {
            let wanted = |(tag, ports): (usize, &u64)| (ports >> port & 1 == 1 && rows[tag] > 0).then_some(tag);
            let mut want = Want { port, tags: 0, records: 0 };
            for tag in tags.iter().enumerate().filter_map(wanted) {
                want.tags |= 1 << tag;
                want.records += u64::from(rows[tag]);
            }
            if want.tags != 0 {
                wants.push(want);
            }
        }
        self.count(&batch, passed, &wants);
        if wants.is_empty() {
            receipts.settle(if batch.is_empty() { Outcome::Delivered } else { Outcome::Dropped });
            return None;
        }
        let shared = wants.len() > 1;
        Some(Offer { batch: Arc::new(batch), receipts, wants, shared, placed: false })
    }

    fn count(&self, batch: &Batch, passed: u64, wants: &[Want]) {
        let input = &self.metrics.inputs[usize::from(batch.input)];
        let turn = self.metrics.turn();
        self.metrics.add(batch.input, &batch.tally);
        input.passed.fetch_add(passed, Relaxed);
        for want in wants {
            let pair = self.metrics.pair(batch.input, self.ports[want.port].0);
            pair.routed.fetch_add(want.records, Relaxed);
            pair.held.fetch_add(want.records, Relaxed);
        }
        drop(turn);
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

    fn router(globs: &[&[&str]]) -> (Router, Vec<mpsc::Receiver<Shipment>>, Arc<Metrics>) {
        let names: Vec<(&str, &'static str)> = globs.iter().map(|_| ("sink", "stdout")).collect();
        let metrics = Arc::new(Metrics::new(&[("in", "stdin")], &names));
        let mut queues = Vec::new();
        let port = |(sink, globs): (usize, &&[&str])| {
            let (queue, receiver) = mpsc::channel(1);
            queues.push(receiver);
            Port { sink, globs: globs.iter().map(|glob| TagGlob::new(glob)).collect(), queue }
        };
        let ports = globs.iter().enumerate().map(port).collect();
        (Router::new(ports, Arc::clone(&metrics)), queues, metrics)
    }

    #[tokio::test]
    async fn every_matching_sink_gets_its_rows_and_a_handle_of_its_own() {
        let (router, mut queues, metrics) = router(&[&["api.**"], &["**"], &["none"]]);
        let settled = Arc::new(Mutex::new(Vec::new()));
        let offer = router.route(batch(&["api.a", "db", "api.b", "api.a"], &settled)).expect("wanted");
        router.outbox().send(offer).await;
        let shipments: Vec<Shipment> = queues.iter_mut().filter_map(|queue| queue.try_recv().ok()).collect();
        let wanted: Vec<Vec<bool>> =
            shipments.iter().map(|shipment| (0..4).map(|at| shipment.wants(at)).collect()).collect();
        assert_eq!(wanted, [[true, false, true, true].to_vec(), [true; 4].to_vec()]);
        let routed: Vec<u64> = metrics.sinks.iter().map(|sink| sink.pairs[0].routed.load(Relaxed)).collect();
        assert_eq!((routed, metrics.inputs[0].passed.load(Relaxed)), (vec![3, 4, 0], 4));
        let mut outcomes = [Outcome::Delivered, Outcome::Rejected].into_iter();
        for shipment in shipments {
            assert!(settled.lock().expect("not poisoned").is_empty());
            shipment.receipts.settle(outcomes.next().expect("two"));
        }
        assert_eq!(*settled.lock().expect("not poisoned"), [Outcome::Rejected]);
    }

    #[test]
    fn what_no_sink_matches_is_counted_and_settled_as_dropped() {
        let (router, _queues, metrics) = router(&[&["api.**"]]);
        let settled = Arc::new(Mutex::new(Vec::new()));
        assert!(router.route(batch(&["db", "db"], &settled)).is_none());
        assert_eq!(*settled.lock().expect("not poisoned"), [Outcome::Dropped]);
        assert_eq!(metrics.inputs[0].dropped[DropReason::Unrouted as usize].load(Relaxed), 2);
        assert_eq!(metrics.inputs[0].passed.load(Relaxed), 0);
        // A batch whose rows all wait in a lane (or were dropped by a step) is at an end too.
        assert!(router.route(batch(&[], &settled)).is_none());
        assert_eq!(settled.lock().expect("not poisoned").last(), Some(&Outcome::Delivered));
    }
}
