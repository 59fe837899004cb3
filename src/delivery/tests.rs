//! Tests of the whole loop: its thread, real servers on loopback, and sinks that answer by a list.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::batch::Added;
use crate::budget::Budget;
use tokio::sync::mpsc;

use crate::metrics::RejectReason;
use crate::sinks::request::tests::{Seen, shipment};
use crate::sinks::server_tests::{Server, answer};
use crate::sinks::{Limits, Reach, Sending, test_http};

const LIMITS: Limits = Limits { bytes: 1 << 20, wait: Duration::from_millis(20), at_once: 4, reach: Reach::Quick };

/// A running delivery and everything to look at it.
struct Bench {
    queue: Option<mpsc::Sender<Shipment>>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    handle: SinkHandle,
    stops: Stops,
    workers: Workers,
}

impl Bench {
    fn new(sink: Box<dyn Sink>) -> Bench {
        let metrics = Arc::new(Metrics::new(&[("in", "stdin")], &[("out", "test")]));
        let (queue, receiver) = mpsc::channel(8);
        let stops = Stops { read: Stop::default(), drain: Stop::default(), give_up: Stop::default() };
        let workers = Workers::default();
        let opened = open(sink, receiver, Arc::clone(&metrics), 0, stops.clone(), None).expect("opened");
        let (handle, begin) = (opened.handle(), Stop::default());
        begin.set();
        opened.spawn(begin, &workers).expect("started");
        Bench { queue: Some(queue), metrics, budget: Budget::new(64 << 20), handle, stops, workers }
    }

    fn http(server: &Server, limits: Limits) -> Bench {
        let added = Added::NONE;
        Bench::new(test_http(&format!("http://{}/", server.address), limits, added))
    }

    fn ship(&self, texts: &[&str]) -> Seen {
        let records: Vec<(&str, &str)> = texts.iter().map(|text| ("t", *text)).collect();
        let (shipment, seen) = shipment(&self.budget, &records);
        self.metrics.sinks[0].pairs[0].routed.fetch_add(texts.len() as u64, Relaxed);
        self.metrics.sinks[0].pairs[0].held.fetch_add(texts.len() as u64, Relaxed);
        self.queue.as_ref().expect("open").blocking_send(shipment).expect("taken");
        seen
    }

    /// Ends the queue and waits for the loop.
    fn drain(&mut self) {
        self.queue = None;
        assert!(self.workers.join(Instant::now() + Duration::from_secs(10)), "the loop ends");
        assert!(self.handle.has_ended());
        assert_eq!(self.budget.used(), 0);
    }

    fn health(&self) -> (Health, String) {
        let checks = self.metrics.checks();
        checks.into_iter().find(|(name, _)| name == "sink.out").expect("a check").1
    }

    fn delivered(&self) -> u64 {
        self.metrics.sinks[0].pairs[0].delivered.load(Relaxed)
    }

    fn rejected(&self, reason: RejectReason) -> u64 {
        self.metrics.sinks[0].pairs[0].rejected[reason as usize].load(Relaxed)
    }
}

fn until(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(10), "it takes too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A sink that answers by a list, then takes everything.
struct Script(Arc<Mutex<VecDeque<Result<Reply, SendError>>>>, Limits);

impl Sink for Script {
    fn limits(&self) -> Limits {
        self.1
    }

    fn send(&mut self, _request: &mut Request) -> Sending {
        let next = self.0.lock().expect("not poisoned").pop_front();
        Box::pin(std::future::ready(next.unwrap_or_else(|| Ok(Reply::default()))))
    }
}

fn script(outcomes: impl IntoIterator<Item = Result<Reply, SendError>>) -> Box<dyn Sink> {
    Box::new(Script(Arc::new(Mutex::new(outcomes.into_iter().collect())), Limits { wait: Duration::ZERO, ..LIMITS }))
}

#[test]
fn one_that_is_not_told_to_begin_takes_nothing() {
    let metrics = Arc::new(Metrics::new(&[("in", "stdin")], &[("out", "test")]));
    let (queue, receiver) = mpsc::channel(8);
    let stops = Stops { read: Stop::default(), drain: Stop::default(), give_up: Stop::default() };
    let (shipment, seen) = shipment(&Budget::new(1 << 20), &[("t", "1")]);
    queue.try_send(shipment).expect("room");
    let workers = Workers::default();
    let opened = open(script([]), receiver, Arc::clone(&metrics), 0, stops.clone(), None).expect("opened");
    let handle = opened.handle();
    opened.spawn(Stop::default(), &workers).expect("started");
    // What it would do at once.
    std::thread::sleep(Duration::from_millis(100));
    stops.give_up.set();
    assert!(workers.join(Instant::now() + Duration::from_secs(10)) && handle.has_ended());
    assert_eq!(seen.outcomes(), [Outcome::NotDelivered]);
}

#[test]
fn a_start_that_fails_within_another_runtime_drops_what_was_opened() {
    let metrics = Arc::new(Metrics::new(&[("in", "stdin")], &[("out", "test")]));
    let (_queue, receiver) = mpsc::channel(8);
    let stops = Stops { read: Stop::default(), drain: Stop::default(), give_up: Stop::default() };
    let opened = open(script([]), receiver, metrics, 0, stops, None).expect("opened");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runs");
    runtime.block_on(async { drop(opened) });
}

#[test]
fn everything_is_delivered_before_the_loop_ends() {
    let server = Server::new(|_, _| answer("200 OK", "", ""));
    let mut bench = Bench::http(&server, Limits { wait: Duration::from_secs(60), ..LIMITS });
    let seen: Vec<_> = (0..20).map(|n| bench.ship(&[&n.to_string(), "x"])).collect();
    bench.drain();
    assert!(seen.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
    assert_eq!((bench.delivered(), bench.handle.undelivered()), (40, 0));
    assert_eq!(server.seen().iter().map(|request| request.text().lines().count()).sum::<usize>(), 40);
    assert_eq!(
        bench.metrics.sinks[0].bytes.load(Relaxed),
        server.seen().iter().map(|r| r.body.len() as u64).sum::<u64>()
    );
}

#[test]
fn a_failing_server_is_tried_again_with_the_same_key_until_it_works() {
    let server = Server::new(|number, _| match number {
        0 => answer("503 Service Unavailable", "", "busy"),
        1 => Vec::new(),
        _ => answer("200 OK", "", ""),
    });
    let mut bench = Bench::http(&server, LIMITS);
    let seen = bench.ship(&["1"]);
    until(|| bench.delivered() == 1);
    assert_eq!(seen.outcomes(), [Outcome::Delivered]);
    let requests = server.seen();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.header("idempotency-key") == requests[0].header("idempotency-key")));
    assert!(requests.iter().all(|request| request.text() == "{\"n\":\"1\"}\n"));
    until(|| bench.health().0 == Health::Pass);
    assert_eq!(bench.metrics.sinks[0].retries.load(Relaxed), 2);
    assert_eq!(bench.metrics.sinks[0].failing_since.load(Relaxed), 0);
    bench.drain();
}

#[test]
fn only_the_record_that_a_server_refuses_is_rejected() {
    let server = Server::new(|_, request| match request.text() {
        body if body.contains("bad") => answer("400 Bad Request", "", "bad field"),
        body if body.contains("huge") => answer("413 Too Large", "", ""),
        _ => answer("200 OK", "", ""),
    });
    let mut bench = Bench::http(&server, LIMITS);
    let texts: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    (texts[13], texts[31]) = ("bad", "huge");
    let mixed = bench.ship(&texts);
    let clean = bench.ship(&["clean"]);
    bench.drain();
    assert_eq!((mixed.outcomes(), clean.outcomes()), (vec![Outcome::Rejected], vec![Outcome::Delivered]));
    assert_eq!((bench.delivered(), bench.handle.undelivered()), (39, 0));
    assert_eq!((bench.rejected(RejectReason::Refused), bench.rejected(RejectReason::TooLarge)), (1, 1));
    let taken = server.seen().into_iter().filter(|r| !r.text().contains("bad") && !r.text().contains("huge"));
    let mut lines: Vec<String> = taken.flat_map(|r| r.text().lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort();
    let sent = lines.len();
    lines.dedup();
    assert_eq!((sent, lines.len()), (39, 39), "each record once");
}

#[test]
fn several_requests_are_under_way_at_once_but_no_more_than_allowed() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (Arc::clone(&now), Arc::clone(&most));
    let server = Server::new(move |_, _| {
        peak.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
        std::thread::sleep(Duration::from_millis(100));
        inside.fetch_sub(1, Relaxed);
        answer("200 OK", "", "")
    });
    // One record a request.
    let mut bench = Bench::http(&server, Limits { bytes: 1, at_once: 3, ..LIMITS });
    bench.ship(&["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    bench.drain();
    assert_eq!((server.seen().len(), most.load(Relaxed)), (9, 3));
}

#[test]
fn retry_after_is_obeyed() {
    let server = Server::new(|number, _| match number {
        0 => answer("429 Too Many Requests", "retry-after: 1\r\n", ""),
        _ => answer("200 OK", "", ""),
    });
    let mut bench = Bench::http(&server, LIMITS);
    let started = Instant::now();
    bench.ship(&["1"]);
    until(|| bench.delivered() == 1);
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    bench.drain();
}

#[test]
fn giving_up_ends_at_once_and_says_not_delivered() {
    let server = Server::new(|_, _| {
        std::thread::sleep(Duration::from_secs(20));
        Vec::new()
    });
    let mut bench = Bench::http(&server, Limits { at_once: 1, ..LIMITS });
    let seen: Vec<_> = (0..5).map(|_| bench.ship(&["1", "2"])).collect();
    until(|| server.seen().len() == 1);
    let started = Instant::now();
    bench.queue = None;
    bench.stops.give_up.set();
    bench.drain();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(seen.iter().all(|seen| seen.outcomes() == [Outcome::NotDelivered]));
    assert_eq!(bench.handle.undelivered(), 10);
}

#[test]
fn a_fault_is_an_alert_at_once_and_loses_nothing_at_the_end() {
    let mut bench = Bench::new(script([Err(SendError::Pause { cause: "401 (check `token`)".to_owned() })]));
    let seen = bench.ship(&["1"]);
    until(|| bench.health() == (Health::Fail, "401 (check `token`)".to_owned()));
    assert!(bench.metrics.sinks[0].failing_since.load(Relaxed) > 0);
    assert_eq!(seen.outcomes(), []);
    // Stopping shortens the pause: one more try, which works.
    bench.drain();
    assert_eq!(seen.outcomes(), [Outcome::Delivered]);
    assert_eq!(bench.health().0, Health::Pass);
}

/// One request of one record at a time, and the first answer asks for a pause of ten minutes.
fn told_to_wait() -> Bench {
    let again = Err(SendError::Retry { cause: "503".to_owned(), not_before: Some(Duration::from_secs(600)) });
    let limits = Limits { bytes: 1, at_once: 1, wait: Duration::ZERO, ..LIMITS };
    Bench::new(Box::new(Script(Arc::new(Mutex::new([again].into())), limits)))
}

#[test]
fn a_stop_is_seen_while_there_is_no_room_and_cuts_the_pause_short() {
    let mut bench = told_to_wait();
    let seen: Vec<_> = (0..4).map(|_| bench.ship(&["1"])).collect();
    // One waits for its time, one is gathered, two are in the queue, which nobody looks at.
    until(|| bench.metrics.sinks[0].queued.load(Relaxed) == 2);
    bench.drain();
    assert!(seen.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
}

#[test]
fn the_word_to_drain_cuts_the_pause_short_though_the_queue_is_full_and_has_senders() {
    let mut bench = told_to_wait();
    let seen: Vec<_> = (0..10).map(|_| bench.ship(&["1"])).collect();
    // One waits for its time, one is gathered.
    until(|| bench.metrics.sinks[0].queued.load(Relaxed) == 8);
    bench.stops.drain.set();
    until(|| bench.delivered() == 10);
    assert!(seen.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
    // Who waited for room is served as well.
    let last = bench.ship(&["1"]);
    bench.drain();
    assert_eq!(last.outcomes(), [Outcome::Delivered]);
}

#[test]
fn a_sink_that_fails_now_and_then_is_degraded_though_it_works() {
    let retry = || Err(SendError::Retry { cause: "429".to_owned(), not_before: None });
    let outcomes = (0..4).flat_map(|_| [retry(), Ok(Reply::default())]);
    let mut bench = Bench::new(script(outcomes));
    for round in 1..=4 {
        bench.ship(&["1"]);
        until(|| bench.delivered() == round && bench.metrics.sinks[0].failing_since.load(Relaxed) == 0);
        let wanted = if round < u64::from(LAPSES_WARN) { Health::Pass } else { Health::Warn };
        until(|| bench.health().0 == wanted);
    }
    assert_eq!(bench.health().1, "it fails now and then, 4 times so far; last: 429");
    bench.drain();
}

#[test]
fn the_end_of_refusals_does_not_hide_that_a_sink_fails_now_and_then() {
    let retry = || Err(SendError::Retry { cause: "429".to_owned(), not_before: None });
    let lapses = (0..LAPSES_WARN).flat_map(|_| [retry(), Ok(Reply::default())]);
    let refused = (0..REFUSED_WARN).map(|_| Err(SendError::Reject { cause: "400".to_owned() }));
    let mut bench = Bench::new(script(lapses.chain(refused)));
    let ended = |bench: &Bench| bench.delivered() + bench.rejected(RejectReason::Refused);
    for round in 1..=u64::from(LAPSES_WARN) + REFUSED_WARN {
        bench.ship(&["1"]);
        until(|| ended(&bench) == round);
    }
    until(|| bench.health().1.contains("in a row were rejected"));
    bench.ship(&["1"]);
    until(|| bench.delivered() == u64::from(LAPSES_WARN) + 1);
    bench.drain();
    assert_eq!(bench.health(), (Health::Warn, "it fails now and then, 3 times so far; last: 429".to_owned()));
}

#[test]
fn lapses_are_forgotten_when_none_comes_for_a_while() {
    let (mut lapses, mut now) = (Lapses::default(), Instant::now());
    for count in 1..=5 {
        lapses.note(now, true, "429");
        lapses.note(now, false, "429");
        assert_eq!(lapses.until(), (count >= LAPSES_WARN).then_some(now + LAPSE_WITHIN));
        now += LAPSE_WITHIN / 2;
    }
    lapses.note(now + LAPSE_WITHIN, true, "429");
    assert_eq!(lapses.until(), None);
}

#[test]
fn a_closed_pipe_stops_the_node_quietly() {
    let mut bench = Bench::new(script([Err(SendError::Closed)]));
    let seen = bench.ship(&["1"]);
    until(|| bench.stops.read.is_set());
    bench.drain();
    assert!(bench.handle.is_closed());
    assert_eq!(seen.outcomes(), [Outcome::NotDelivered]);
}

#[test]
fn many_refused_records_in_a_row_warn_and_the_first_that_is_taken_clears_it() {
    let refused = (0..REFUSED_WARN).map(|_| Err(SendError::Reject { cause: "400: unknown field".to_owned() }));
    let mut bench = Bench::new(script(refused));
    for _ in 0..REFUSED_WARN {
        bench.ship(&["1"]);
        let ended = bench.metrics.sinks[0].pairs[0].routed.load(Relaxed);
        until(|| bench.rejected(RejectReason::Refused) == ended);
    }
    until(|| bench.health().0 == Health::Warn);
    assert!(bench.health().1.contains("unknown field"), "{:?}", bench.health());
    bench.ship(&["1"]);
    until(|| bench.health().0 == Health::Pass);
    bench.drain();
}

#[test]
fn a_failing_disk_warns_first() {
    let retry =
        || Err(SendError::Retry { cause: "no space left".to_owned(), not_before: Some(Duration::from_secs(60)) });
    let mut bench = Bench::new(script([retry()]));
    bench.ship(&["1"]);
    until(|| bench.health() == (Health::Warn, "no space left".to_owned()));
    bench.stops.give_up.set();
    bench.drain();
}

struct Broken;

impl Sink for Broken {
    fn limits(&self) -> Limits {
        LIMITS
    }

    fn send(&mut self, _request: &mut Request) -> Sending {
        Box::pin(async { panic!("a bug, for the test") })
    }
}

#[test]
fn a_sink_that_dies_of_a_bug_stops_the_node_and_delivers_nothing() {
    let mut bench = Bench::new(Box::new(Broken));
    let seen = bench.ship(&["1"]);
    until(|| bench.stops.read.is_set());
    bench.drain();
    assert_eq!(seen.outcomes(), [Outcome::NotDelivered]);
    assert_eq!(bench.health().0, Health::Fail);
}
