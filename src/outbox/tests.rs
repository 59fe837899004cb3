//! The outbox on a real log in a folder of its own; the sinks are the tests.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::*;
use crate::batch::{Receipt, RowHead, Waiter};
use crate::buffer::Settings;
use crate::ledger::Ledger;
use crate::record::{Field, Form, Timestamp};

mod full_tests; // a log that gets full

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Outcome>>>);

impl Waiter for Seen {
    fn settled(&self, worst: Outcome) {
        self.0.lock().expect("not poisoned").push(worst);
    }
}

impl Seen {
    fn outcomes(&self) -> Vec<Outcome> {
        self.0.lock().expect("not poisoned").clone()
    }
}

struct Bench {
    runtime: Runtime,
    outbox: Outbox,
    feeds: Vec<Feed>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    log: Arc<Log>,
    give_up: Stop,
}

impl Bench {
    fn open(dir: &Path, required: &[bool]) -> Bench {
        Bench::with_log_of(16 << 20, dir, required)
    }

    fn with_log_of(size: u64, dir: &Path, required: &[bool]) -> Bench {
        Bench::with(Settings::new(dir, size), required)
    }

    fn with(settings: Settings, required: &[bool]) -> Bench {
        let names: Vec<String> = (0..required.len()).map(|at| format!("s{at}")).collect();
        let sinks: Vec<(&str, &'static str)> = names.iter().map(|name| (name.as_str(), "test")).collect();
        let metrics = Arc::new(Metrics::new(&[("in", "test")], &sinks));
        let settings = Settings {
            sources: vec!["in".to_owned()],
            optional: required.iter().enumerate().fold(0, |bits, (at, required)| bits | u64::from(!required) << at),
            watcher: Some(Arc::new(LogWatcher { metrics: Arc::clone(&metrics), sinks: (0..sinks.len()).collect() })),
            ..settings
        };
        let readers: Vec<&str> = names.iter().map(String::as_str).collect();
        let (log, found) = Log::open(settings, &readers).expect("a log");
        let backlog: Vec<Vec<u64>> = found.readers.iter().map(|reader| vec![reader.total.records]).collect();
        assert!(Ledger::default().resume(&metrics, &backlog, &(0..sinks.len()).collect::<Vec<_>>()).is_empty());
        let budget = Budget::new(32 << 20);
        let (ways, queues): (Vec<Way>, Vec<_>) = required
            .iter()
            .enumerate()
            .map(|(sink, required)| {
                let (queue, receiver) = mpsc::channel(4);
                (Way { sink, queue, required: *required }, receiver)
            })
            .unzip();
        let give_up = Stop::default();
        let behind = Behind {
            log: Arc::clone(&log),
            budget: Arc::clone(&budget),
            backlog: backlog.iter().map(|records| records[0] > 0).collect(),
            give_up: give_up.clone(),
        };
        let outbox = Outbox::new(ways, Arc::clone(&metrics), Some(behind));
        let feeds = queues.into_iter().enumerate().map(|(port, queue)| outbox.feed(port, queue)).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
        Bench { runtime, outbox, feeds, metrics, budget, log, give_up }
    }

    /// Offers a batch of one record to all ports; waits for room for a second at most. Whether it was placed.
    fn send(&self, number: u32, durable: bool) -> (bool, Seen) {
        let (offer, seen) = self.offer(number, durable, 0, u64::MAX);
        let placed = self.runtime.block_on(async { timeout(Duration::from_secs(1), self.outbox.send(offer)).await });
        (placed.is_ok(), seen)
    }

    /// The same for some of the ports, with so many bytes beside the number; waits as long as a busy machine may need, and
    /// looks at the log as the node does.
    fn send_large(&self, number: u32, durable: bool, bytes: usize, ports: u64) -> Seen {
        let (offer, seen) = self.offer(number, durable, bytes, ports);
        let placed = self.runtime.block_on(async { timeout(SOON, self.outbox.send(offer)).await });
        assert!(placed.is_ok(), "batch {number} is not placed: {:?}", self.log.status());
        self.outbox.watch().look();
        seen
    }

    fn offer(&self, number: u32, durable: bool, bytes: usize, ports: u64) -> (Offer, Seen) {
        let mut batch = Batch::new(self.budget.empty_permit(), 0, Arc::default());
        let tag = batch.tag_index("t").expect("room");
        let mark = batch.fields_mark();
        let (key, value) = (batch.push_bytes(b"n"), batch.push_bytes(number.to_string().as_bytes()));
        batch.push_field(Field::new(key, Form::Text, value));
        let (key, value) = (batch.push_bytes(b"pad"), batch.push_bytes(&vec![b'x'; bytes]));
        batch.push_field(Field::new(key, Form::Text, value));
        batch.push_row(mark, RowHead::at(Timestamp(0), tag));
        batch.durable = durable;
        batch.tally.received = 1;
        self.metrics.add(0, &batch.tally);
        self.metrics.inputs[0].passed.fetch_add(1, Relaxed);
        let seen = Seen::default();
        let mut wants = Vec::new();
        for port in (0..self.outbox.len()).filter(|port| ports >> port & 1 == 1) {
            self.metrics.pair(0, port).routed.fetch_add(1, Relaxed);
            self.metrics.pair(0, port).held.fetch_add(1, Relaxed);
            wants.push(Want { port, tags: 1, records: 1 });
        }
        let receipts = Receipts(vec![Receipt::new(Box::new(seen.clone()))]);
        let shared = wants.len() > 1;
        (Offer { batch: Arc::new(batch), receipts, wants, shared, placed: false }, seen)
    }

    fn dropped(&self, port: usize) -> (u64, u64) {
        let (pair, why) = (self.metrics.pair(0, port), DropReason::BufferFull as usize);
        (pair.dropped[why].load(Relaxed), pair.dropped_bytes[why].load(Relaxed))
    }

    /// What the sink of a port takes next.
    fn take(&mut self, port: usize) -> Shipment {
        let feed = &mut self.feeds[port];
        self.runtime.block_on(async { timeout(SOON, feed.recv()).await }).expect("in time").expect("a shipment")
    }

    /// Takes, counts and settles as `delivery` does; the record's number.
    fn deliver(&mut self, port: usize) -> u32 {
        let shipment = self.take(port);
        let field = shipment.batch.find(0, b"n").expect("a field");
        let number = std::str::from_utf8(shipment.batch.bytes(field.value)).expect("digits").parse().expect("a number");
        let pair = self.metrics.pair(0, port);
        shift(if shipment.logged { &pair.logged } else { &pair.held }, &pair.delivered, shipment.batch.len() as u64);
        shipment.receipts.settle(Outcome::Delivered);
        number
    }

    fn assert_closes(&self) {
        let ledger = Ledger::of(&self.metrics);
        assert!(ledger.closes(), "{}", ledger.text());
    }

    fn until(&self, mut what: impl FnMut() -> bool) {
        let started = Instant::now();
        while !what() {
            assert!(started.elapsed() < SOON, "it takes too long");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn close(self) {
        self.give_up.set();
        self.log.close(Instant::now() + SOON).expect("closed");
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_origin_of_a_durable_batch_hears_of_the_commit_before_any_sink_has_taken_it() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[true]);
    let (placed, seen) = bench.send(1, true);
    assert!(placed);
    bench.until(|| seen.outcomes() == [Outcome::Delivered]);
    assert!(bench.log.status().committed >= 1, "the origin heard it before the commit");
    assert_eq!(bench.deliver(0), 1);
    bench.assert_closes();
    bench.close();
}

#[test]
fn a_sink_that_falls_behind_reads_the_log_in_order_and_is_live_again_when_it_has_caught_up() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[true, true]);
    for number in 0..50 {
        let (placed, seen) = bench.send(number, true);
        assert!(placed, "a full queue holds nobody back");
        assert_eq!(bench.deliver(1), number);
        bench.until(|| seen.outcomes() == [Outcome::Delivered]);
    }
    assert_eq!(bench.metrics.pair(0, 0).buffered.load(Relaxed), 46, "four lie in the queue");
    bench.assert_closes();
    assert_eq!((0..50).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    // The port finds out that it is live when it looks for more.
    let feed = &mut bench.feeds[0];
    assert!(bench.runtime.block_on(async { timeout(Duration::from_millis(100), feed.recv()).await }).is_err());
    assert_eq!(*bench.outbox.shared.ports(), [Mode::Live, Mode::Live]);
    bench.send(50, true);
    assert!(bench.take(0).logged);
    bench.assert_closes();
    bench.close();
}

/// A frame whose writing waits for a word, and with it everything behind it.
struct Held(Mutex<std::sync::mpsc::Receiver<()>>);

impl crate::buffer::Payload for Held {
    fn encode(&self, _: &mut Vec<u8>) {
        // Once, or when the test ends.
        let _ = self.0.lock().expect("not poisoned").recv();
    }

    fn size_hint(&self) -> usize {
        0
    }
}

struct Nobody;

impl crate::buffer::Committed for Nobody {
    fn committed(self: Box<Self>, _: Result<Lsn, crate::buffer::Lost>) {}
}

#[test]
fn a_sink_that_is_behind_takes_what_is_not_committed_yet_from_memory() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[true, true]);
    let (go_on, held) = std::sync::mpsc::channel();
    bench.log.append(0, 0, Arc::new(Held(Mutex::new(held))), Box::new(Nobody)).expect("room");
    let seen: Vec<Seen> = (0..30).map(|number| bench.send(number, true).1).collect();
    assert_eq!(bench.metrics.pair(0, 0).buffered.load(Relaxed), 26, "four lie in the queue");
    assert_eq!((0..20).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(seen.iter().all(|seen| seen.outcomes().is_empty()), "nothing is committed");
    bench.assert_closes();
    // One is in hand while the commit comes, the rest is read back.
    let in_hand = bench.take(0);
    go_on.send(()).expect("it waits");
    bench.until(|| seen.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
    bench.assert_closes();
    assert_eq!((0..9).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (21..30).collect::<Vec<_>>());
    assert_eq!(bench.log.status().readers[0].total.records, 1, "the one in hand");
    shift(&bench.metrics.pair(0, 0).logged, &bench.metrics.pair(0, 0).delivered, 1);
    in_hand.receipts.settle(Outcome::Delivered);
    bench.until(|| bench.log.status().readers[0].total.records == 0);
    let pair = bench.metrics.pair(0, 0);
    assert_eq!((pair.buffered.load(Relaxed), pair.logged.load(Relaxed), pair.delivered.load(Relaxed)), (0, 0, 30));
    // The other has taken none: all of it is still there for it, in order.
    assert_eq!(bench.log.status().readers[1].total.records, 30);
    assert_eq!((0..30).map(|_| bench.deliver(1)).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    bench.assert_closes();
    bench.close();
}

#[test]
fn what_was_not_delivered_comes_again_after_a_restart_and_only_that() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[true]);
    let seen: Vec<Seen> = (0..20).map(|number| bench.send(number, true).1).collect();
    bench.until(|| seen.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
    for number in 0..3 {
        assert_eq!(bench.deliver(0), number);
    }
    // Taken and dropped unsettled: it stays.
    drop(bench.take(0));
    bench.close();
    let mut bench = Bench::open(dir.path(), &[true]);
    assert_eq!(bench.metrics.pair(0, 0).buffered.load(Relaxed), 17);
    assert_eq!((0..17).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (3..20).collect::<Vec<_>>());
    bench.assert_closes();
    bench.close();
}

#[test]
fn other_batches_are_spilled_for_the_full_sink_only_and_with_one_sink_the_input_waits() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[true, true]);
    let mut early = Vec::new();
    for number in 0..30 {
        let (placed, seen) = bench.send(number, false);
        assert!(placed, "{number}");
        assert!(seen.outcomes().is_empty(), "nobody has taken it yet");
        assert_eq!(bench.deliver(1), number);
        if number >= 4 {
            // Delivered to the one, on the disk for the other.
            bench.until(|| seen.outcomes() == [Outcome::Delivered]);
            // The first four too, which the full one has in memory.
            bench.until(|| early.iter().all(|seen: &Seen| seen.outcomes() == [Outcome::Delivered]));
        } else {
            early.push(seen);
        }
    }
    bench.assert_closes();
    assert_eq!(bench.log.status().readers[0].total.records, 30);
    assert_eq!((0..30).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    bench.assert_closes();
    assert_eq!(bench.log.status().readers[0].total.records, 0, "delivered from memory, settled in the log");
    let pair = bench.metrics.pair(0, 0);
    assert_eq!((pair.held.load(Relaxed), pair.logged.load(Relaxed)), (0, 0));
    bench.close();

    let dir = folder();
    let bench = Bench::open(dir.path(), &[true]);
    for number in 0..4 {
        assert!(bench.send(number, false).0);
    }
    assert!(!bench.send(4, false).0, "the queue is full, and the file is the buffer");
    assert_eq!(bench.log.status().committed, 0);
    bench.close();
}

#[test]
fn an_optional_sink_that_is_dead_holds_back_neither_queue_nor_log() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[false, true]);
    // Past the half of the log that it may have.
    bench.outbox.shared.half_full.store(true, Relaxed);
    for number in 0..20 {
        let (placed, seen) = bench.send(number, true);
        assert!(placed);
        assert_eq!(bench.deliver(1), number);
        bench.until(|| seen.outcomes() == [Outcome::Delivered]);
    }
    let pair = bench.metrics.pair(0, 0);
    assert_eq!(pair.dropped[DropReason::BufferFull as usize].load(Relaxed), 16);
    bench.assert_closes();
    assert_eq!((0..4).map(|_| bench.deliver(0)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    bench.close();
}

#[test]
fn frames_that_wait_for_a_sync_are_settled_after_it_and_not_before() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[true]);
    let settled = bench.outbox.settled().expect("a log");
    settled.defer_all();
    for number in 0..3 {
        let seen = bench.send(number, true).1;
        bench.until(|| !seen.outcomes().is_empty());
        bench.deliver(0);
    }
    let records = |bench: &Bench| bench.log.status().readers[0].total.records;
    assert_eq!(records(&bench), 3, "a cursor must not run ahead of the output");
    let mut before = settled.before(0);
    assert!(settled.before(0).is_empty() && !before.is_empty());
    before.add(settled.before(0));
    assert_eq!(records(&bench), 3, "it is not synced yet");
    settled.done(before);
    bench.until(|| records(&bench) == 0);
    bench.close();
}

#[test]
fn each_port_waits_for_its_own_sync_and_who_needs_none_for_nothing() {
    let dir = folder();
    let mut bench = Bench::open(dir.path(), &[true, true, true]);
    let settled = bench.outbox.settled().expect("a log");
    settled.defer_all();
    let round = |bench: &mut Bench, number| {
        let seen = bench.send(number, true).1;
        bench.until(|| !seen.outcomes().is_empty());
        (0..3).for_each(|port| _ = bench.deliver(port));
    };
    round(&mut bench, 0);
    let left =
        |bench: &Bench| -> Vec<u64> { bench.log.status().readers.iter().map(|reader| reader.total.records).collect() };
    assert_eq!(left(&bench), [1, 1, 1], "nobody knows yet who needs a sync");
    settled.at_once(2);
    bench.until(|| left(&bench) == [1, 1, 0]);
    // The sync of the first one fails, that of the second is good.
    drop(settled.before(0));
    settled.done(settled.before(1));
    round(&mut bench, 1);
    bench.until(|| left(&bench) == [2, 1, 0]);
    bench.close();
}

/// So many bytes that mean nothing.
struct Filled(usize);

impl crate::buffer::Payload for Filled {
    fn encode(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + self.0, b'x');
    }

    fn size_hint(&self) -> usize {
        self.0
    }
}

impl Bench {
    /// Appends a frame that the first sink has in hand; waits for room.
    fn in_hand(&self, bytes: usize) -> Lsn {
        let mut taken = None;
        self.until(|| {
            taken = self.log.append_handed(1, 1, 1, Arc::new(Filled(bytes)), Box::new(Nobody)).ok();
            taken.is_some()
        });
        taken.expect("it was taken")
    }
}

#[test]
fn a_cursor_that_stands_before_frames_of_others_is_moved_at_the_start_and_keeps_no_segment() {
    let dir = folder();
    let bench = Bench::open(dir.path(), &[true, true]);
    let last = (0..5).map(|_| bench.in_hand(10)).last().expect("five");
    (1..=last).for_each(|lsn| bench.log.settle(0, lsn));
    bench.until(|| bench.log.status().committed >= last);
    bench.close();
    // A crash leaves it as it was up to a quarter of a second before: here, at the beginning.
    std::fs::remove_file(dir.path().join("01.cursor")).expect("it was saved");
    let mut bench = Bench::open(dir.path(), &[true, true]);
    assert!(!bench.log.keeps_up(1), "it was not moved back");
    let feed = &mut bench.feeds[1];
    assert!(bench.runtime.block_on(async { timeout(Duration::from_millis(300), feed.recv()).await }).is_err());
    assert_eq!(bench.outbox.shared.ports()[1], Mode::Live);
    assert!(bench.log.keeps_up(1));
    // Twice the size of the log goes through it, all of it for the first sink.
    for _ in 0..128 {
        bench.log.settle(0, bench.in_hand(256 << 10));
    }
    bench.close();
}

#[test]
fn frames_behind_one_that_is_not_settled_are_all_settled_once_it_is() {
    let dir = folder();
    // On a fast disk each frame may be a commit of its own, of 4 KiB.
    let mut bench = Bench::with_log_of(64 << 20, dir.path(), &[true]);
    assert!(bench.send(0, true).0);
    let first = bench.take(0);
    for number in 1..=crate::buffer::PENDING_MAX as u32 + 20 {
        bench.until(|| bench.log.status().queued < 1000);
        assert!(bench.send(number, true).0, "{number}");
        assert_eq!(bench.deliver(0), number);
    }
    shift(&bench.metrics.pair(0, 0).logged, &bench.metrics.pair(0, 0).delivered, 1);
    first.receipts.settle(Outcome::Delivered);
    bench.until(|| bench.log.status().readers[0].total.records == 0);
    bench.assert_closes();
    bench.close();
}

#[test]
fn a_sink_with_too_many_frames_in_hand_reads_the_next_one_when_an_older_one_is_settled() {
    let dir = folder();
    // On a fast disk each frame may be a commit of its own, of 4 KiB.
    let mut bench = Bench::with_log_of(512 << 20, dir.path(), &[true]);
    let first = bench.in_hand(10);
    (1..crate::buffer::HELD_MAX).for_each(|_| _ = bench.in_hand(10));
    assert!(!bench.log.keeps_up(0));
    // It waits at its queue, which stays empty.
    let mut feed = bench.feeds.remove(0);
    let next = bench.runtime.spawn(async move { feed.recv().await });
    std::thread::sleep(Duration::from_millis(50));
    let (placed, seen) = bench.send(7, true);
    assert!(placed);
    bench.until(|| seen.outcomes() == [Outcome::Delivered]);
    std::thread::sleep(Duration::from_millis(150));
    assert!(!next.is_finished(), "it has too many in hand");
    bench.log.settle(0, first);
    let shipment = bench.runtime.block_on(async { timeout(SOON, next).await });
    assert!(shipment.expect("in time").expect("no panic").expect("a shipment").logged);
    bench.close();
}
