//! Waiting for a level outside of loom: a runtime and a clock.

use std::sync::Arc;
use std::time::Duration;

use super::level::Level;

#[tokio::test]
async fn a_task_hears_of_a_rise_and_of_the_end() {
    let level = Arc::new(Level::default());
    let waits = |value| {
        let level = Arc::clone(&level);
        tokio::spawn(async move { level.reach(value).await })
    };
    let (three, nine) = (waits(3), waits(9));
    level.raise(3);
    level.raise(2);
    assert!(three.await.expect("no panic"));
    level.close();
    assert!(!nine.await.expect("no panic"));
    assert_eq!(level.get(), 3);
}

#[test]
fn a_thread_waits_no_longer_than_its_limit() {
    let level = Level::default();
    assert!(!level.reach_blocking(1, Duration::from_millis(1)));
    level.bump();
    assert!(level.reach_blocking(1, Duration::from_secs(100)));
}
