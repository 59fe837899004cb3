//! Named threads and the word to stop: the only place that spawns a thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

/// "Stop reading": said once, seen by threads and tasks alike. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    tell: Arc<watch::Sender<bool>>,
}

impl Default for Stop {
    fn default() -> Stop {
        Stop { flag: Arc::default(), tell: Arc::new(watch::channel(false).0) }
    }
}

impl Stop {
    /// Says it.
    pub fn set(&self) {
        self.flag.store(true, Ordering::Release);
        self.tell.send_replace(true);
    }

    /// Whether it was said.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Waits until it is said.
    pub async fn wait(&self) {
        let mut told = self.tell.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = told.wait_for(|said| *said).await;
    }
}

/// A set of named threads that are joined together. One that panics is logged, and `failed` is set: the node stops,
/// since what that thread owned is no longer looked after.
#[derive(Debug, Default)]
pub struct Workers {
    threads: Mutex<Vec<JoinHandle<()>>>,
    running: Arc<AtomicUsize>,
    failed: Stop,
    /// Told of each end of a thread.
    ended: Arc<Notify>,
}

impl Workers {
    /// A set whose ends are told to `ended`, which several sets may share. An end that nobody waits for is kept for the
    /// next who does; several ends may be told as one.
    pub fn telling(ended: &Arc<Notify>) -> Workers {
        Workers { ended: Arc::clone(ended), ..Workers::default() }
    }

    /// Starts a thread. The name is what `top -H` and panic messages show (15 bytes at most are visible there).
    pub fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (running, failed, shown) = (Arc::clone(&self.running), self.failed.clone(), name.to_owned());
        let ended = Arc::clone(&self.ended);
        let guarded = move || {
            // What the body held is dropped on the way out, so its receipts say "not delivered".
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                tracing::error!(thread = shown, "a worker panicked; what it held counts as not delivered");
                failed.set();
            }
            running.fetch_sub(1, Ordering::AcqRel);
            ended.notify_one();
        };
        self.running.fetch_add(1, Ordering::AcqRel);
        match thread::Builder::new().name(name.to_owned()).spawn(guarded) {
            Ok(handle) => {
                let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
                // Each reload adds some; one that has ended keeps its stack until it is let go.
                threads.retain(|thread| !thread.is_finished());
                threads.push(handle);
                Ok(())
            }
            Err(error) => {
                self.running.fetch_sub(1, Ordering::AcqRel);
                Err(error)
            }
        }
    }

    /// Threads that have not ended.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Said when a thread panicked.
    pub fn failed(&self) -> &Stop {
        &self.failed
    }

    /// Waits for all threads until `deadline`. Says whether all ended; those that did not are left to the process's
    /// end.
    pub fn join(&self, deadline: Instant) -> bool {
        while self.running() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        for handle in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // The body's panic was caught and said above.
            let _ = handle.join();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_seen_and_the_others_go_on() {
        let workers = Workers::default();
        let (send, receive) = std::sync::mpsc::channel::<()>();
        workers
            .spawn("waits", move || {
                let _ = receive.recv();
            })
            .expect("a thread");
        workers.spawn("panics", || panic!("on purpose")).expect("a thread");
        let soon = Instant::now() + Duration::from_secs(5);
        while !workers.failed().is_set() && Instant::now() < soon {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(workers.failed().is_set());
        assert!(!workers.join(Instant::now()), "one still waits");
        drop(send);
        assert!(workers.join(soon));
    }
}
