//! A [`Level`]: a number that only rises, and those who wait for it to reach a value, threads and tasks alike.
//!
//! `crate::loom_tests` tries every order of its threads.
//!
//! Waiting is level-triggered: the number is looked at under the lock under which the waiter is noted, so a rise can not
//! fall between the look and the wait.

use std::future::poll_fn;
use std::sync::PoisonError;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex, MutexGuard};

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
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn reach_blocking(&self, value: u64, limit: Duration) -> bool {
        let began = Instant::now();
        let mut at = self.lock();
        while at.value < value && !at.closed {
            let Some(left) = limit.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else { break };
            at = self.risen.wait_timeout(at, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        at.value >= value
    }
}
