//! Several times the size of the log goes past sinks that are dead.

use super::*;
use crate::buffer::Full;
use crate::metrics::Health;

/// Bytes of one of the batches of which many go through a small log.
const LARGE: usize = 64 << 10;

#[test]
fn an_optional_sink_that_is_dead_stops_no_ack_however_much_goes_past_it() {
    let dir = folder();
    let mut bench = Bench::with_log_of(8 << 20, dir.path(), &[false, true]);
    let many = (30 << 20) / LARGE as u32;
    let mut acks = Vec::new();
    for number in 0..many {
        acks.push(bench.send_large(number, true, LARGE, 3));
        assert_eq!(bench.deliver(1), number);
    }
    bench.until(|| acks.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
    let (records, bytes) = bench.dropped(0);
    assert!(records > u64::from(many) / 2 && bytes >= records * LARGE as u64, "{records} records, {bytes} bytes");
    let checks = bench.metrics.checks();
    assert!(checks["drops.s0"].0 == Health::Warn && !checks.contains_key("drops.s1"), "{checks:?}");
    let text = bench.metrics.exposition(&bench.budget);
    let series = "longshore_dropped_bytes_total{input=\"in\",sink=\"s0\",reason=\"buffer_full\"}";
    assert!(text.contains(&format!("{series} {bytes}\n")), "{text}");
    bench.assert_closes();
    // It has what its queue and its share of the log hold, in order.
    let left = u64::from(many) - records;
    assert!(left > 10, "{left}");
    let got: Vec<u32> = (0..left).map(|_| bench.deliver(0)).collect();
    assert!(got.is_sorted() && got[0] == 0, "{got:?}");
    bench.until(|| bench.log.status().readers[0].total.records == 0);
    bench.assert_closes();
    bench.close();
}

#[test]
fn an_optional_sink_that_is_dead_has_half_of_the_log_for_what_is_not_durable_too() {
    let dir = folder();
    let mut bench = Bench::with_log_of(8 << 20, dir.path(), &[false, true]);
    for number in 0..(30 << 20) / LARGE as u32 {
        bench.send_large(number, false, LARGE, 3);
        assert_eq!(bench.deliver(1), number);
    }
    bench.until(|| bench.log.status().queued == 0);
    let held = bench.log.status().held;
    assert!((3 << 20..6 << 20).contains(&held), "{held} bytes are held for it");
    let seen = bench.send_large(u32::MAX, true, LARGE, 2);
    bench.until(|| seen.outcomes() == [Outcome::Delivered]);
    bench.assert_closes();
    bench.close();
}

#[test]
fn a_required_sink_with_few_records_that_is_dead_keeps_those_and_stops_nobody() {
    let dir = folder();
    let mut bench = Bench::with_log_of(8 << 20, dir.path(), &[true, true]);
    // More than its queue holds, so that it reads some of them.
    (0..10).for_each(|number| _ = bench.send_large(number, true, 10, 1));
    let mut acks = Vec::new();
    for number in 0..(30 << 20) / LARGE as u32 {
        acks.push(bench.send_large(number, true, LARGE, 2));
        assert_eq!(bench.deliver(1), number);
    }
    bench.until(|| acks.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
    assert_eq!((0..10).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!((bench.dropped(0), bench.dropped(1)), ((0, 0), (0, 0)));
    bench.assert_closes();
    bench.close();
}

#[test]
fn what_is_only_kept_for_a_replay_takes_nothing_from_the_half_of_an_optional_sink() {
    let dir = folder();
    let keep = Some(Duration::from_secs(3_600));
    let mut bench = Bench::with(Settings { keep, ..Settings::new(dir.path(), 8 << 20) }, &[false, true]);
    for number in 0..(10 << 20) / LARGE as u32 {
        bench.send_large(number, true, LARGE, 2);
        assert_eq!(bench.deliver(1), number);
    }
    bench.until(|| bench.log.status().queued == 0);
    bench.until(|| {
        bench.outbox.watch().look();
        !bench.outbox.shared.half_full.load(Relaxed)
    });
    assert!(bench.log.status().bytes > 6 << 20, "{:?}", bench.log.status());
    // Only it wants these; beyond its queue they are in the log.
    (0..20).for_each(|number| _ = bench.send_large(number, false, 10, 1));
    assert_eq!(bench.dropped(0), (0, 0));
    assert_eq!((0..20).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    bench.assert_closes();
    bench.close();
}

#[test]
fn a_durable_batch_that_no_frame_can_hold_waits_for_room_in_memory_and_is_not_refused() {
    let dir = folder();
    let mut bench = Bench::with_log_of(8 << 20, dir.path(), &[true]);
    (0..4).for_each(|number| assert!(bench.send(number, true).0));
    let (offer, seen) = bench.offer(4, true, 3 << 20, 1);
    let mut feed = bench.feeds.remove(0);
    let placed = bench.runtime.block_on(async {
        let send = bench.outbox.send(offer);
        tokio::pin!(send);
        assert!(timeout(Duration::from_millis(300), &mut send).await.is_err(), "its queue is full");
        assert_eq!(seen.outcomes(), [], "an ack of what is nowhere");
        let shipments = async {
            let mut all = Vec::new();
            while all.len() < 5 {
                all.push(feed.recv().await.expect("a shipment"));
            }
            all
        };
        timeout(SOON, async { tokio::join!(send, shipments).1 }).await.expect("in time")
    });
    assert_eq!(placed.iter().map(|shipment| shipment.logged).collect::<Vec<_>>(), [true, true, true, true, false]);
    assert_eq!(seen.outcomes(), [], "an ack of what is in memory only");
    for shipment in placed {
        let pair = bench.metrics.pair(0, 0);
        shift(if shipment.logged { &pair.logged } else { &pair.held }, &pair.delivered, 1);
        shipment.receipts.settle(Outcome::Delivered);
    }
    assert_eq!(seen.outcomes(), [Outcome::Delivered]);
    bench.assert_closes();
    bench.close();
}

#[test]
fn a_batch_that_waits_for_room_in_the_log_is_not_offered_again_and_again() {
    let dir = folder();
    let bench = Bench::with_log_of(8 << 20, dir.path(), &[true]);
    for number in 0..2 {
        bench.send_large(number, true, 2_700_000, 1);
    }
    let (offer, _) = bench.offer(2, true, 2_700_000, 1);
    let mut polls = 0;
    bench.runtime.block_on(async {
        let send = bench.outbox.send(offer);
        tokio::pin!(send);
        let counted = std::future::poll_fn(|context| {
            polls += 1;
            send.as_mut().poll(context)
        });
        assert!(timeout(Duration::from_secs(1), counted).await.is_err(), "there is no room");
    });
    assert!(polls < 50, "{polls} looks within a second");
    bench.close();
}

#[test]
fn with_drop_newest_a_dead_sink_costs_its_own_share_only_and_it_is_counted_and_said() {
    let dir = folder();
    let settings = Settings { full: Full::DropNewest, ..Settings::new(dir.path(), 8 << 20) };
    let mut bench = Bench::with(settings, &[true, true]);
    let many = (20 << 20) / LARGE as u32;
    let mut acks = Vec::new();
    for number in 0..many {
        acks.push(bench.send_large(number, true, LARGE, 3));
        assert_eq!(bench.deliver(1), number);
    }
    bench.until(|| acks.iter().all(|seen| seen.outcomes() == [Outcome::Delivered]));
    let (records, bytes) = bench.dropped(0);
    assert!(records > u64::from(many) / 2 && bytes >= records * LARGE as u64, "{records} records, {bytes} bytes");
    assert_eq!(bench.dropped(1), (0, 0));
    let checks = bench.metrics.checks();
    assert!(checks[CHECK].0 == Health::Warn && checks["drops.s0"].0 == Health::Warn, "{checks:?}");
    let left = many - records as u32;
    assert_eq!((0..left).map(|_| bench.deliver(0)).collect::<Vec<_>>(), (0..left).collect::<Vec<_>>(), "the oldest");
    bench.assert_closes();
    bench.close();
}
