//! Every order in which threads can run, tried by loom, on the parts that wake others up: the level by which a commit is
//! published, and the permits of the memory budget. It is their own source, mounted once more on loom's locks.
//!
//! A wake-up that is lost is a deadlock, which loom finds. Its condition variables never time out, so no limit of a wait
//! hides one. tokio's semaphore is stood in for by a small fair one: what is tested is what the budget makes of it.

use std::sync::Arc;
use std::time::Duration;

use loom::future::block_on;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;

/// What the two take from `super::sync`.
mod sync {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::task::{Poll, Waker};

    pub use loom::sync::{Condvar, Mutex, MutexGuard};

    /// As tokio's: fair, and whoever asks for much is not passed by.
    #[derive(Debug)]
    pub struct Semaphore(Mutex<State>);

    #[derive(Debug)]
    struct State {
        free: usize,
        next: u64,
        queue: VecDeque<(u64, Waker)>,
    }

    /// Permits that were taken.
    pub struct Got;

    impl Got {
        pub fn forget(self) {}
    }

    impl Semaphore {
        pub fn new(free: usize) -> Semaphore {
            Semaphore(Mutex::new(State { free, next: 0, queue: VecDeque::new() }))
        }

        fn lock(&self) -> MutexGuard<'_, State> {
            self.0.lock().expect("no panic")
        }

        pub fn available_permits(&self) -> usize {
            self.lock().free
        }

        pub async fn acquire_many(&self, wanted: u32) -> Result<Got, ()> {
            let mut place = None;
            poll_fn(|context| {
                let mut state = self.lock();
                let number = *place.get_or_insert_with(|| {
                    state.next += 1;
                    state.next
                });
                let first = state.queue.front().is_none_or(|(front, _)| *front == number);
                if first && state.free >= wanted as usize {
                    state.free -= wanted as usize;
                    state.queue.pop_front();
                    let next = state.queue.front().map(|(_, waker)| waker.clone());
                    drop(state);
                    next.into_iter().for_each(Waker::wake);
                    return Poll::Ready(Ok(Got));
                }
                match state.queue.iter_mut().find(|(queued, _)| *queued == number) {
                    Some((_, waker)) => waker.clone_from(context.waker()),
                    None => state.queue.push_back((number, context.waker().clone())),
                }
                Poll::Pending
            })
            .await
        }

        pub fn try_acquire_many(&self, wanted: u32) -> Result<Got, ()> {
            let mut state = self.lock();
            if state.free < wanted as usize || !state.queue.is_empty() {
                return Err(());
            }
            state.free -= wanted as usize;
            Ok(Got)
        }

        pub fn forget_permits(&self, wanted: usize) -> usize {
            let mut state = self.lock();
            let some = wanted.min(state.free);
            state.free -= some;
            some
        }

        pub fn add_permits(&self, some: usize) {
            let mut state = self.lock();
            state.free += some;
            let first = state.queue.front().map(|(_, waker)| waker.clone());
            drop(state);
            first.into_iter().for_each(Waker::wake);
        }
    }
}

#[path = "budget.rs"]
#[expect(dead_code, clippy::duplicate_mod, reason = "the same source on other locks; not all of it is modelled")]
mod budget;
#[path = "buffer/level.rs"]
#[expect(dead_code, clippy::duplicate_mod, reason = "the same source on other locks; not all of it is modelled")]
mod level;

use budget::Budget;
use level::Level;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn nobody_sleeps_through_a_commit_or_hears_of_it_before_it_is_on_the_disk() {
    loom::model(|| {
        let (level, on_disk) = (Arc::new(Level::default()), Arc::new(AtomicBool::new(false)));
        let sleeps = thread::spawn({
            let (level, on_disk) = (Arc::clone(&level), Arc::clone(&on_disk));
            move || {
                assert!(level.reach_blocking(1, LONG));
                assert!(on_disk.load(Relaxed), "published before it was committed");
            }
        });
        let task = thread::spawn({
            let (level, on_disk) = (Arc::clone(&level), Arc::clone(&on_disk));
            move || {
                assert!(block_on(level.reach(1)));
                assert!(on_disk.load(Relaxed), "published before it was committed");
            }
        });
        on_disk.store(true, Relaxed);
        level.raise(1);
        sleeps.join().expect("no panic");
        task.join().expect("no panic");
    });
}

#[test]
fn a_rise_is_not_undone_by_a_later_smaller_one_and_the_end_is_heard_by_all() {
    loom::model(|| {
        let level = Arc::new(Level::default());
        let waits = thread::spawn({
            let level = Arc::clone(&level);
            move || {
                assert!(block_on(level.reach(2)), "it was reached before the end");
                assert!(!level.reach_blocking(3, LONG));
            }
        });
        let raises = thread::spawn({
            let level = Arc::clone(&level);
            move || level.raise(1)
        });
        level.raise(2);
        level.close();
        raises.join().expect("no panic");
        waits.join().expect("no panic");
        assert_eq!(level.get(), 2);
    });
}

#[test]
fn memory_that_comes_back_wakes_who_waits_for_it() {
    loom::model(|| {
        // Of eight bytes one taker gets two; six are held by the test.
        let budget = Budget::new(8);
        let mut held = budget.empty_permit();
        held.grow(6);
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let budget = Arc::clone(&budget);
                thread::spawn(move || {
                    let permit = block_on(budget.acquire(2));
                    assert!(budget.used() <= 8, "{} of 8 are used", budget.used());
                    drop(permit);
                })
            })
            .collect();
        takers.into_iter().for_each(|taker| taker.join().expect("no panic"));
        drop(held);
        assert_eq!(budget.used(), 0);
    });
}

#[test]
fn an_overdraft_that_crosses_a_return_is_paid_by_it() {
    loom::model(|| {
        let budget = Budget::new(8);
        let (mut stays, mut goes) = (budget.empty_permit(), budget.empty_permit());
        stays.grow(6);
        goes.grow(2);
        let returns = thread::spawn(move || drop(goes));
        stays.grow(2);
        returns.join().expect("no panic");
        assert_eq!(budget.used(), 8);
        assert!(budget.try_acquire(1).is_none(), "a byte was given that is held by another");
        let waits = thread::spawn({
            let budget = Arc::clone(&budget);
            move || assert_eq!(block_on(budget.acquire(2)).bytes(), 2)
        });
        stays.resize(5);
        waits.join().expect("no panic");
        drop(stays);
        assert_eq!(budget.used(), 0);
    });
}
