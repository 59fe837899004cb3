//! Tests of the decisions: time is a number here, and nothing waits.

use std::sync::Arc;

use super::*;
use crate::backoff::NETWORK;
use crate::budget::Budget;
use crate::sinks::Mark;
use crate::sinks::request::tests::{Seen, shipment};

const WAIT: Duration = Duration::from_secs(1);

fn limits(at_once: usize) -> Limits {
    Limits { bytes: 1 << 20, wait: WAIT, at_once, reach: Reach::Network }
}

struct Bench {
    plan: Plan,
    budget: Arc<Budget>,
    now: Instant,
    seen: Vec<Seen>,
}

impl Bench {
    fn new(limits: Limits) -> Bench {
        Bench { plan: Plan::new(limits, 1), budget: Budget::new(64 << 20), now: Instant::now(), seen: Vec::new() }
    }

    fn take(&mut self, texts: &[&str]) {
        let records: Vec<(&str, &str)> = texts.iter().map(|text| ("t", *text)).collect();
        let (shipment, seen) = shipment(&self.budget, &records);
        self.seen.push(seen);
        self.plan.take(shipment, self.now).expect("rows");
    }

    fn send(&mut self) -> Request {
        match self.plan.next(self.now) {
            Next::Send(request) => request,
            Next::Wait(until) => panic!("nothing to send until {:?}", until.map(|until| until - self.now)),
        }
    }

    fn waits(&mut self) -> Option<Duration> {
        match self.plan.next(self.now) {
            Next::Send(request) => panic!("sends {request:?}"),
            Next::Wait(until) => until.map(|until| until - self.now),
        }
    }

    fn finish(&mut self, request: Request, outcome: Result<Reply, SendError>) -> Meaning {
        self.plan.finish(request, outcome, self.now)
    }
}

fn retry(not_before: Option<u64>) -> Result<Reply, SendError> {
    Err(SendError::Retry { cause: "503".to_owned(), not_before: not_before.map(Duration::from_secs) })
}

fn pause() -> Result<Reply, SendError> {
    Err(SendError::Pause { cause: "401".to_owned() })
}

#[test]
fn records_wait_for_company_until_the_time_or_the_size_is_reached() {
    let mut b = Bench::new(limits(4));
    assert_eq!(b.waits(), None);
    b.take(&["a"]);
    assert_eq!(b.waits(), Some(WAIT));
    b.now += WAIT / 2;
    b.take(&["b"]);
    assert_eq!(b.waits(), Some(WAIT / 2));
    b.now += WAIT / 2;
    assert_eq!(b.send().len(), 2);
    let large = "x".repeat(2 << 20);
    assert!(b.plan.has_room());
    b.take(&[&large]);
    assert!(!b.plan.has_room());
    assert_eq!(b.send().len(), 1);
}

#[test]
fn a_local_sink_sends_at_once_and_one_request_at_a_time() {
    let mut b = Bench::new(Limits { wait: Duration::ZERO, ..limits(1) });
    b.take(&["a"]);
    let first = b.send();
    b.take(&["b"]);
    assert_eq!(b.waits(), None);
    let failed = b.finish(first, retry(None));
    assert!(failed.ended.is_empty());
    // The failed one goes first, so order is kept.
    let wait = b.waits().expect("a time for the next try");
    b.now += wait;
    let again = b.send();
    assert_eq!((again.tries, again.len()), (1, 1));
    b.finish(again, Ok(Reply::default()));
    assert_eq!(b.send().len(), 1);
}

#[test]
fn failures_wait_longer_and_longer_and_keep_their_key() {
    let mut b = Bench::new(limits(1));
    b.take(&["a"]);
    b.now += WAIT;
    let mut request = b.send();
    let key = request.key;
    for tries in 1..12 {
        b.finish(request, retry(None));
        let wait = b.waits().expect("a time");
        assert!(wait <= NETWORK.ceiling(tries), "{wait:?} after {tries}");
        b.now += wait;
        request = b.send();
        assert_eq!((request.key, request.tries), (key, tries));
    }
    assert_eq!(b.seen[0].outcomes(), []);
}

#[test]
fn what_retry_after_asks_for_pauses_the_whole_sink_within_limits() {
    let mut b = Bench::new(limits(4));
    b.take(&["a"]);
    b.now += WAIT;
    let request = b.send();
    b.finish(request, retry(Some(7)));
    b.take(&["b"]);
    b.now += Duration::from_secs(6);
    assert_eq!(b.waits(), Some(Duration::from_secs(1)));
    b.now += NETWORK.max;
    let request = b.send();
    b.finish(request, retry(Some(0)));
    assert!(b.plan.waiting.iter().all(|(due, _)| *due >= b.now + NETWORK.first / 10));
    b.now += NETWORK.max;
    let request = b.send();
    b.finish(request, retry(Some(86_400)));
    assert_eq!(b.waits(), Some(ASKED_MAX));
}

#[test]
fn a_fault_pauses_everything_probes_with_one_request_and_slows_down() {
    let mut b = Bench::new(limits(4));
    let mut sent = Vec::new();
    for _ in 0..3 {
        b.take(&["a"]);
        b.now += WAIT;
        sent.push(b.send());
    }
    for request in sent {
        let meaning = b.finish(request, pause());
        assert!(matches!(meaning.state, State::Fails { fault: true, .. }));
    }
    for secs in [30, 60, 120, 240, 300, 300] {
        assert_eq!(b.waits(), Some(Duration::from_secs(secs)));
        b.now += Duration::from_secs(secs);
        let probe = b.send();
        assert_eq!(b.waits(), None, "one at a time");
        b.finish(probe, pause());
    }
    b.now += FAULT.max;
    let probe = b.send();
    let meaning = b.finish(probe, Ok(Reply::default()));
    assert_eq!(meaning.state, State::Works);
    let (one, two) = (b.send(), b.send());
    for request in [one, two] {
        b.finish(request, Ok(Reply::default()));
    }
    assert!(b.plan.is_empty());
}

/// Sends everything to a destination that refuses requests which hold `bad`; returns how many requests that took.
fn bisect(b: &mut Bench, bad: &str, refuse: &SendError) -> (usize, Vec<(Vec<u32>, End)>) {
    let mut requests = 0;
    let mut ended = Vec::new();
    while !b.plan.is_empty() {
        let request = b.send();
        requests += 1;
        let holds = request.rows().any(|(_, batch, row)| {
            batch.find(row, b"n").is_some_and(|field| batch.value(field).bytes == bad.as_bytes())
        });
        let outcome = if holds { Err(refuse.clone()) } else { Ok(Reply::default()) };
        for (part, end) in b.finish(request, outcome).ended {
            ended.push((part.rows.clone(), end));
            part.receipts.settle(end.outcome());
        }
    }
    (requests, ended)
}

#[test]
fn only_the_record_at_fault_is_rejected_after_few_requests() {
    let mut b = Bench::new(limits(1));
    let texts: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    b.take(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    b.now += WAIT;
    let (requests, ended) = bisect(&mut b, "617", &SendError::Reject { cause: "400".to_owned() });
    assert!(requests <= 2 * 10 + 1, "{requests}");
    let rejected: Vec<_> = ended.iter().filter(|(_, end)| *end != End::Delivered).collect();
    assert_eq!(rejected, [&(vec![617], End::Rejected(RejectReason::Refused))]);
    // Order is kept, and each record ended once.
    let rows: Vec<u32> = ended.iter().flat_map(|(rows, _)| rows.clone()).collect();
    assert_eq!(rows, (0..1000).collect::<Vec<u32>>());
    assert_eq!(b.seen[0].outcomes(), [Outcome::Rejected]);
}

#[test]
fn a_single_record_that_is_too_large_is_rejected_as_such() {
    let mut b = Bench::new(limits(1));
    b.take(&["a", "b", "huge"]);
    b.now += WAIT;
    let (_, ended) = bisect(&mut b, "huge", &SendError::TooLarge { cause: "413".to_owned() });
    assert!(ended.contains(&(vec![2], End::Rejected(RejectReason::TooLarge))));
    assert_eq!(ended.iter().filter(|(_, end)| *end == End::Delivered).map(|(rows, _)| rows.len()).sum::<usize>(), 2);
}

#[test]
fn the_size_of_requests_shrinks_when_the_destination_says_so() {
    let mut b = Bench::new(limits(1));
    b.take(&["a", "b"]);
    b.now += WAIT;
    let mut request = b.send();
    // Compressed to a tenth: the limit that is learned counts plain bytes, as requests are cut by them.
    request.keep_body(vec![0; 40_000], 400_000);
    let meaning = b.finish(request, Err(SendError::TooLarge { cause: "413".to_owned() }));
    assert_eq!((meaning.shrunk, b.plan.bytes_max()), (Some(200_000), 200_000));
}

#[test]
fn a_request_taken_in_part_settles_that_part_and_tries_the_rest_again() {
    let mut b = Bench::new(limits(1));
    b.take(&["a", "b", "c"]);
    b.now += WAIT;
    let request = b.send();
    let marks = vec![Mark::Taken, Mark::Never, Mark::Again];
    let reply = Reply { bytes: 1, marks, cause: "no space left".to_owned(), keeps_key: false };
    let meaning = b.finish(request, Ok(reply));
    let ends: Vec<_> = meaning.ended.iter().map(|(part, end)| (part.rows.clone(), *end)).collect();
    assert_eq!(ends, [(vec![0], End::Delivered), (vec![1], End::Rejected(RejectReason::Unencodable))]);
    for (part, end) in meaning.ended {
        part.receipts.settle(end.outcome());
    }
    assert_eq!(b.seen[0].outcomes(), []);
    b.now += NETWORK.max;
    let rest = b.send();
    assert_eq!(rest.parts[0].rows, [2]);
    for (part, end) in b.finish(rest, Ok(Reply::default())).ended {
        part.receipts.settle(end.outcome());
    }
    assert_eq!(b.seen[0].outcomes(), [Outcome::Rejected]);
}

#[test]
fn what_did_not_fit_goes_first_in_the_next_request_without_waiting() {
    let mut b = Bench::new(limits(2));
    b.take(&["a", "b", "c"]);
    b.now += WAIT;
    let mut request = b.send();
    let rest = request.split_off(1);
    b.plan.take_back(rest, &request, b.now);
    b.take(&["d"]);
    let next = b.send();
    assert_eq!(next.parts.iter().map(|part| part.rows.clone()).collect::<Vec<_>>(), [vec![1, 2], vec![0]]);
}

#[test]
fn closing_flushes_at_once_and_shortens_every_wait() {
    let mut b = Bench::new(limits(2));
    b.take(&["a"]);
    b.now += WAIT;
    let request = b.send();
    b.finish(request, pause());
    b.take(&["b"]);
    b.plan.close(b.now);
    // Once more at once, then a little later.
    let probe = b.send();
    b.finish(probe, pause());
    assert_eq!(b.waits(), Some(CLOSING_WAIT_MAX));
    b.now += CLOSING_WAIT_MAX;
    b.plan.close(b.now);
    let probe = b.send();
    b.finish(probe, Ok(Reply::default()));
    assert_eq!(b.send().len(), 1);
}

#[test]
fn an_answer_ends_a_pause_for_a_fault_but_not_one_that_was_asked_for() {
    for (outcome, wait) in [(pause(), None), (retry(Some(40)), Some(Duration::from_secs(40)))] {
        let mut b = Bench::new(limits(4));
        let mut sent = Vec::new();
        for _ in 0..3 {
            b.take(&["a"]);
            b.now += WAIT;
            sent.push(b.send());
        }
        let [one, two, three] = <[Request; 3]>::try_from(sent).expect("three");
        b.finish(one, outcome);
        assert!(b.waits().is_some());
        // The others were under way: one bad server of several.
        for request in [two, three] {
            assert_eq!(b.finish(request, Ok(Reply::default())).state, State::Works);
        }
        match wait {
            Some(wait) => assert_eq!(b.waits(), Some(wait)),
            None => assert_eq!(b.send().tries, 1),
        }
    }
}

#[test]
fn what_does_not_fit_of_a_half_comes_before_the_other_half() {
    let mut b = Bench::new(limits(1));
    b.take(&["a", "b", "c", "d"]);
    b.now += WAIT;
    let whole = b.send();
    b.finish(whole, Err(SendError::TooLarge { cause: "413".to_owned() }));
    let mut rows = Vec::new();
    while !b.plan.is_empty() {
        let mut request = b.send();
        // What was learned: one record a request.
        let rest = request.split_off(1);
        if !rest.is_empty() {
            b.plan.take_back(rest, &request, b.now);
        }
        rows.extend(request.parts[0].rows.clone());
        b.finish(request, Ok(Reply::default()));
    }
    assert_eq!(rows, [0, 1, 2, 3]);
}

#[test]
fn a_half_that_fails_is_tried_again_before_the_other_half_is_sent() {
    // Asked to wait, dead, and failed once: each holds the other half up, which the destination would get without a rest.
    for (failures, not_before) in [(1, Some(3)), (8, None), (1, None)] {
        let mut b = Bench::new(limits(1));
        b.take(&["a", "b"]);
        b.now += WAIT;
        let whole = b.send();
        b.finish(whole, Err(SendError::TooLarge { cause: "413".to_owned() }));
        let mut first = b.send();
        let (key, rows) = (first.key, first.rows().map(|(_, _, row)| row).collect::<Vec<_>>());
        assert_eq!(rows, [0]);
        for _ in 0..failures {
            b.finish(first, retry(not_before));
            let wait = b.waits().expect("a time for the next try");
            assert!(wait >= NETWORK.first / 10);
            b.now += wait;
            first = b.send();
            assert_eq!(first.key, key);
        }
        b.finish(first, Ok(Reply::default()));
        let second = b.send();
        assert_eq!(second.rows().map(|(_, _, row)| row).collect::<Vec<_>>(), [1]);
        b.finish(second, Ok(Reply::default()));
        assert!(b.plan.is_empty());
    }
}

#[test]
fn what_finds_out_whether_a_fault_is_put_right_waits_for_no_other_request() {
    let mut b = Bench::new(limits(4));
    b.take(&["a"]);
    b.now += WAIT;
    let mut failing = b.send();
    b.take(&["b"]);
    b.now += WAIT;
    let paused = b.send();
    let key = paused.key;
    b.finish(paused, pause());
    // It fails as often as it is tried, and takes the only place.
    for _ in 0..20 {
        b.finish(failing, retry(None));
        b.now += FAULT.max;
        let next = b.send();
        if next.key == key {
            b.finish(next, Ok(Reply::default()));
            return;
        }
        failing = next;
    }
    panic!("it is never tried");
}

#[test]
fn a_failing_destination_is_given_fewer_requests_and_more_again_when_it_answers() {
    let mut b = Bench::new(limits(4));
    let mut sent = Vec::new();
    for _ in 0..4 {
        b.take(&["a"]);
        b.now += WAIT;
        sent.push(b.send());
    }
    sent.into_iter().for_each(|request| drop(b.finish(request, retry(None))));
    b.now += NETWORK.max;
    let (one, two) = (b.send(), b.send());
    assert_eq!(b.waits(), None, "two at once after a failure of four");
    b.finish(one, Ok(Reply::default()));
    b.finish(two, Ok(Reply::default()));
    let more: Vec<Request> = (0..2).map(|_| b.send()).collect();
    more.into_iter().for_each(|request| drop(b.finish(request, Ok(Reply::default()))));
    assert!(b.plan.is_empty() && b.plan.pace.at_once() >= 3);
}

#[test]
fn a_dead_destination_is_asked_by_one_request_and_all_go_out_when_it_is_back() {
    let mut b = Bench::new(limits(4));
    let mut sent = Vec::new();
    for _ in 0..4 {
        b.take(&["a"]);
        b.now += WAIT;
        sent.push(b.send());
    }
    sent.into_iter().for_each(|request| drop(b.finish(request, retry(None))));
    let mut tries = 0;
    while !b.plan.pace.is_open() {
        let wait = b.waits();
        b.now += wait.unwrap_or_default();
        let request = b.send();
        b.finish(request, retry(None));
        tries += 1;
    }
    assert!(tries <= 8, "{tries}");
    // From here on the waits are the sink's: one probe each, however many requests wait.
    for _ in 0..20 {
        let wait = b.waits().expect("a time");
        assert!(wait <= NETWORK.max);
        b.now += wait;
        let probe = b.send();
        assert_eq!(b.waits(), None, "one at a time");
        b.finish(probe, retry(None));
    }
    b.now += NETWORK.max;
    let probe = b.send();
    b.finish(probe, Ok(Reply::default()));
    for _ in 0..3 {
        // No more waiting for times that were set while it was dead.
        let request = b.send();
        b.finish(request, Ok(Reply::default()));
    }
    assert!(b.plan.is_empty());
}

#[test]
fn what_was_taken_in_part_keeps_its_key_where_the_sink_says_so() {
    for keeps_key in [false, true] {
        let mut b = Bench::new(limits(1));
        b.take(&["a", "b"]);
        b.now += WAIT;
        let request = b.send();
        let key = request.key;
        let marks = vec![Mark::Taken, Mark::Again];
        b.finish(request, Ok(Reply { bytes: 1, marks, cause: "closed".to_owned(), keeps_key }));
        b.now += NETWORK.max;
        let rest = b.send();
        assert_eq!((rest.key == key, rest.keeps_key), (keeps_key, keeps_key));
    }
}
