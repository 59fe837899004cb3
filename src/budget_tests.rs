//! The budget with tokio's semaphore and a clock; `loom_tests.rs` has every order of its threads.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::Budget;

#[tokio::test]
async fn bytes_come_back_when_the_permit_is_dropped() {
    let budget = Budget::new(1000);
    let permit = budget.acquire(200).await;
    assert_eq!((permit.bytes(), budget.used()), (200, 200));
    drop(permit);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn an_overdraft_is_paid_before_anyone_gets_more() {
    let budget = Budget::new(1000);
    let mut permit = budget.acquire(200).await;
    permit.grow(2000);
    assert_eq!(budget.used(), 2200);
    assert!(budget.try_acquire(1).is_none());
    permit.resize(999);
    assert_eq!(budget.used(), 999);
    assert!(budget.try_acquire(1).is_some());
}

#[tokio::test]
async fn waiting_counts_from_the_last_time_that_somebody_got_something() {
    let budget = Budget::new(1000);
    let mut held = budget.empty_permit();
    held.grow(1000);
    assert_eq!(budget.stuck_for(), Duration::ZERO, "nobody had to wait");
    let nap = Duration::from_millis(20);
    assert!(tokio::time::timeout(nap, budget.acquire(100)).await.is_err());
    assert!(budget.stuck_for() > Duration::ZERO, "who gave up got nothing");
    let waiting = tokio::spawn({
        let budget = Arc::clone(&budget);
        async move { budget.acquire(100).await.bytes() }
    });
    tokio::time::sleep(nap).await;
    assert!(budget.stuck_for() > Duration::ZERO);
    drop(held);
    assert_eq!(waiting.await.expect("no panic"), 100);
    assert_eq!(budget.stuck_for(), Duration::ZERO);
}

#[tokio::test]
async fn one_taker_gets_a_quarter_at_most() {
    let budget = Budget::new(1000);
    assert_eq!(budget.acquire(5000).await.bytes(), 250);
}

#[test]
fn bodies_are_kept_for_requests_of_their_size_the_oldest_going_first() {
    const KIB: usize = 1 << 10;
    // A 32nd of it is 2 MiB.
    let budget = Budget::new(64 << 20);
    let kept = |wanted: usize| budget.take_body(wanted * KIB).capacity() / KIB > wanted;
    for size in [200, 210, 220, 230, 240, 250, 260] {
        budget.recycle_body(vec![0; size * KIB]);
    }
    let taken: Vec<usize> = (0..6).map(|_| budget.take_body(199 * KIB).capacity() / KIB).collect();
    assert_eq!(taken, [260, 250, 240, 230, 220, 199], "five of them, the newest first");
    budget.recycle_body(vec![0; 300 * KIB]);
    assert!(!kept(301) && !kept(149), "too small, and more than twice as large as it has to be");
    assert!(kept(299));
    budget.recycle_body(vec![0; 300 * KIB]);
    [100 * KIB, 3 << 20].into_iter().for_each(|size| budget.recycle_body(vec![0; size]));
    assert!(!kept(99) && !kept(2 << 10), "too small to be kept, and too large");
    [900, 950].into_iter().for_each(|size| budget.recycle_body(vec![0; size * KIB]));
    assert!(!kept(299), "no room for all of them");
    assert!(budget.take_body(890 * KIB).is_empty());
}
