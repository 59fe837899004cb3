//! A [`Level`]: a number that only rises, and those who wait for it to reach a value, threads and tasks alike.
//!
//! Waiting is level-triggered: the number is looked at under the lock under which the waiter is noted, so a rise can not
//! fall between the look and the wait.

use std::future::poll_fn;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::task::{Poll, Waker};

/// See the header.
#[derive(Debug, Default)]
pub struct Level {
    at: Mutex<At>,
    risen: Condvar,
}

#[derive(Debug, Default)]
struct At {
    value: u64,
    /// Nothing rises any more.
    closed: bool,
    /// One for each waiting task.
    tasks: Vec<Waker>,
}

impl Level {
    fn lock(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.lock().value
    }

    /// Raises it to `value`, if that is more.
    pub fn raise(&self, value: u64) {
        let mut at = self.lock();
        if value > at.value {
            at.value = value;
            self.wake(at);
        }
    }

    /// Raises it by one: something has changed.
    pub fn bump(&self) {
        let mut at = self.lock();
        at.value += 1;
        self.wake(at);
    }

    /// Ends every wait, now and later.
    pub fn close(&self) {
        let mut at = self.lock();
        at.closed = true;
        self.wake(at);
    }

    fn wake(&self, mut at: MutexGuard<'_, At>) {
        let tasks = std::mem::take(&mut at.tasks);
        drop(at);
        self.risen.notify_all();
        tasks.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, value: u64, waker: &Waker) -> Poll<bool> {
        let mut at = self.lock();
        if at.value >= value {
            return Poll::Ready(true);
        }
        if at.closed {
            return Poll::Ready(false);
        }
        if !at.tasks.iter().any(|task| task.will_wake(waker)) {
            at.tasks.push(waker.clone());
        }
        Poll::Pending
    }

    /// Waits until it is at least `value`; `false` if it was closed before.
    pub async fn reach(&self, value: u64) -> bool {
        poll_fn(|context| self.poll(value, context.waker())).await
    }

    /// The same for a thread; with a limit, it may come back early.
    pub fn reach_blocking(&self, value: u64, limit: std::time::Duration) -> bool {
        let at = self.lock();
        let waits = |at: &mut At| at.value < value && !at.closed;
        let (at, _) =
            self.risen.wait_timeout_while(at, limit, waits).unwrap_or_else(std::sync::PoisonError::into_inner);
        at.value >= value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

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
}
