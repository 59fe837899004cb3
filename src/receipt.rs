//! A [`Receipt`]: how the origin of records learns what became of them. The one thing that travels back.
//!
//! A receipt stands for something that waits for an outcome: the range of a file, or a chunk of a forward connection. It
//! is cloned for each sink, each clone is settled once, and when the last one is, the waiter hears the worst outcome.
//! The count is the reference count, so a clone that is dropped anywhere, by a panic too, says "not delivered".

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What became of a record or batch, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// The sink has it.
    Delivered = 0,
    /// A sink refused it for good; counted with its reason.
    Rejected = 1,
    /// A rule dropped it; counted with its reason.
    Dropped = 2,
    /// Nobody took it: a handle was dropped unsettled. The origin must not ack or move on.
    NotDelivered = 3,
}

impl Outcome {
    fn from_u8(byte: u8) -> Outcome {
        match byte {
            0 => Outcome::Delivered,
            1 => Outcome::Rejected,
            2 => Outcome::Dropped,
            _ => Outcome::NotDelivered,
        }
    }

    /// Whether the origin may forget the records: everything but [`Outcome::NotDelivered`].
    pub fn is_final(self) -> bool {
        self != Outcome::NotDelivered
    }
}

/// Waits for the outcome of a chunk or of a range of offsets. Called once, from whichever thread settles the last
/// handle, so it must be quick and never wait.
pub trait Waiter: Send + Sync {
    /// All handles are settled; `worst` is the worst of their outcomes.
    fn settled(&self, worst: Outcome);
}

/// A counted handle on one thing that waits for an outcome. Clone it for each sink; settle every clone once. A clone
/// that is dropped unsettled counts as [`Outcome::NotDelivered`].
pub struct Receipt {
    slip: Arc<Slip>,
    settled: bool,
}

struct Slip {
    worst: AtomicU8,
    waiter: Box<dyn Waiter>,
}

impl Drop for Slip {
    fn drop(&mut self) {
        self.waiter.settled(Outcome::from_u8(*self.worst.get_mut()));
    }
}

impl Receipt {
    /// The first handle.
    pub fn new(waiter: Box<dyn Waiter>) -> Receipt {
        Receipt { slip: Arc::new(Slip { worst: AtomicU8::new(0), waiter }), settled: false }
    }

    /// Ends this handle with an outcome.
    pub fn settle(mut self, outcome: Outcome) {
        self.slip.worst.fetch_max(outcome as u8, Ordering::AcqRel);
        self.settled = true;
    }
}

impl Clone for Receipt {
    fn clone(&self) -> Receipt {
        Receipt { slip: Arc::clone(&self.slip), settled: false }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.settled {
            self.slip.worst.fetch_max(Outcome::NotDelivered as u8, Ordering::AcqRel);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

/// All that wait for one batch: one for a range of a file, one for each chunk of a forward connection.
#[derive(Clone, Debug, Default)]
pub struct Receipts(pub Vec<Receipt>);

impl Receipts {
    /// Settles every handle with the same outcome.
    pub fn settle(self, outcome: Outcome) {
        for receipt in self.0 {
            receipt.settle(outcome);
        }
    }

    /// Adds one more that waits.
    pub fn push(&mut self, receipt: Receipt) {
        self.0.push(receipt);
    }

    /// Takes over the handles of others (pieces that were joined into this batch).
    pub fn extend(&mut self, others: Receipts) {
        self.0.extend(others.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Note(Arc<Mutex<Vec<Outcome>>>);
    impl Waiter for Note {
        fn settled(&self, worst: Outcome) {
            self.0.lock().expect("not poisoned").push(worst);
        }
    }

    #[test]
    fn a_receipt_is_settled_once_by_its_last_handle_with_the_worst_outcome() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let first = Receipt::new(Box::new(Note(Arc::clone(&seen))));
        let second = first.clone();
        first.settle(Outcome::Rejected);
        assert!(seen.lock().expect("not poisoned").is_empty());
        second.settle(Outcome::Delivered);
        assert_eq!(*seen.lock().expect("not poisoned"), [Outcome::Rejected]);
    }

    #[test]
    fn a_dropped_handle_means_not_delivered() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let first = Receipt::new(Box::new(Note(Arc::clone(&seen))));
        drop(first.clone());
        first.settle(Outcome::Delivered);
        assert_eq!(*seen.lock().expect("not poisoned"), [Outcome::NotDelivered]);
    }
}
