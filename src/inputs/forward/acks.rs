//! Acknowledgements of one connection: in the order of the frames, each sent when its last receipt is settled.
//!
//! A frame that is settled before an earlier one waits for it. A frame that nobody took ends the connection without an
//! ack, so that the sender gives it again.
//! Limits: [`UNREAD_MAX`] bytes of acks that the sender does not read, then the connection ends; [`OPEN_MAX`] bytes of
//! chunk ids that wait, then reading pauses.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::batch::{Outcome, Receipt, Waiter};

/// Bytes of settled acks that wait to be written, at most.
const UNREAD_MAX: usize = 1 << 20;
/// Bytes of chunk ids of unsettled frames, at most.
const OPEN_MAX: usize = 4 << 20;
/// What a slot costs beside its chunk id.
const SLOT_BYTES: usize = 64;
/// A sender that takes nothing for so long is gone.
const WRITE_STALL: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Final,
    Lost,
}

/// One frame.
#[derive(Debug)]
struct Slot {
    /// The chunk id as it was encoded; `None` for a frame without one.
    chunk: Option<Vec<u8>>,
    /// The frame has ended, so `chunk` is final.
    ended: bool,
    fate: Fate,
}

impl Slot {
    fn cost(&self) -> usize {
        SLOT_BYTES + self.chunk.as_ref().map_or(0, Vec::len)
    }
}

#[derive(Debug, Default)]
struct Inner {
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    first: u64,
    /// Bytes of all slots.
    open: usize,
    /// Bytes of the settled ones.
    settled: usize,
    /// No more frames come.
    closed: bool,
    /// Why the connection must end.
    broken: Option<&'static str>,
}

/// The acks of one connection, shared by its reader, its writer and the receipts.
#[derive(Debug, Default)]
pub(super) struct Acks {
    inner: Mutex<Inner>,
    /// Something changed for the writer.
    for_writer: Notify,
    /// Something changed for the reader: broken, or room again.
    for_reader: Notify,
}

/// What the writer does next.
enum Next {
    Write(Vec<u8>),
    Wait,
    End,
}

struct Wait {
    acks: Arc<Acks>,
    number: u64,
}

impl Waiter for Wait {
    fn settled(&self, worst: Outcome) {
        let mut inner = self.acks.lock();
        let Some(at) = self.number.checked_sub(inner.first).and_then(|at| usize::try_from(at).ok()) else { return };
        let Some(slot) = inner.slots.get_mut(at) else { return };
        slot.fate = if worst.is_final() { Fate::Final } else { Fate::Lost };
        let cost = slot.cost();
        inner.settled += cost;
        drop(inner);
        self.acks.for_writer.notify_one();
    }
}

impl Acks {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for the frame that ends next, and the first handle on its outcome.
    pub(super) fn open(self: &Arc<Self>) -> (u64, Receipt) {
        let mut inner = self.lock();
        inner.slots.push_back(Slot { chunk: None, ended: false, fate: Fate::Waiting });
        inner.open += SLOT_BYTES;
        let number = inner.first + inner.slots.len() as u64 - 1;
        drop(inner);
        (number, Receipt::new(Box::new(Wait { acks: Arc::clone(self), number })))
    }

    /// The frame of that slot has ended, with this chunk id.
    pub(super) fn end(&self, number: u64, chunk: Option<&[u8]>) {
        let mut inner = self.lock();
        let at = usize::try_from(number.saturating_sub(inner.first)).unwrap_or(usize::MAX);
        if let Some(slot) = inner.slots.get_mut(at) {
            slot.chunk = chunk.map(<[u8]>::to_vec);
            slot.ended = true;
            let len = chunk.map_or(0, <[u8]>::len);
            let settled = slot.fate != Fate::Waiting;
            inner.open += len;
            inner.settled += if settled { len } else { 0 };
        }
        drop(inner);
        self.for_writer.notify_one();
    }

    /// Acknowledges a frame at once, after those before it.
    pub(super) fn accept(&self, chunk: &[u8]) {
        let slot = Slot { chunk: Some(chunk.to_vec()), ended: true, fate: Fate::Final };
        let mut inner = self.lock();
        inner.open += slot.cost();
        inner.settled += slot.cost();
        inner.slots.push_back(slot);
        drop(inner);
        self.for_writer.notify_one();
    }

    /// No more frames come: the writer ends when the last ack is written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.for_writer.notify_one();
    }

    /// Whether a frame waits for its outcome.
    pub(super) fn is_waiting(&self) -> bool {
        self.lock().slots.iter().any(|slot| slot.fate == Fate::Waiting)
    }

    /// Why the connection must end, if it must.
    pub(super) fn broken(&self) -> Option<&'static str> {
        self.lock().broken
    }

    /// Waits until the connection must end.
    pub(super) async fn until_broken(&self) {
        while self.broken().is_none() {
            self.for_reader.notified().await;
        }
    }

    /// Waits until there is room for more chunk ids, or the connection must end.
    pub(super) async fn until_room(&self) {
        loop {
            {
                let inner = self.lock();
                if inner.broken.is_some() || inner.open <= OPEN_MAX {
                    return;
                }
            }
            self.for_reader.notified().await;
        }
    }

    fn break_off(&self, why: &'static str) {
        self.lock().broken.get_or_insert(why);
        self.for_reader.notify_one();
    }

    fn next(&self) -> Next {
        let mut inner = self.lock();
        if inner.settled > UNREAD_MAX + SLOT_BYTES {
            inner.broken.get_or_insert("it does not read its acks");
        }
        loop {
            if inner.broken.is_some() {
                return Next::End;
            }
            let Some(slot) = inner.slots.front() else {
                return if inner.closed { Next::End } else { Next::Wait };
            };
            match (slot.fate, slot.ended, &slot.chunk) {
                (Fate::Lost, true, Some(_)) => {
                    inner.broken = Some("its records could not be delivered");
                    return Next::End;
                }
                (Fate::Final | Fate::Lost, true, _) => {
                    let slot = inner.slots.pop_front();
                    let cost = slot.as_ref().map_or(0, Slot::cost);
                    inner.first += 1;
                    inner.open = inner.open.saturating_sub(cost);
                    inner.settled = inner.settled.saturating_sub(cost);
                    self.for_reader.notify_one();
                    if let Some(chunk) = slot.and_then(|slot| slot.chunk) {
                        return Next::Write(chunk);
                    }
                }
                // A frame that never ended on a closed connection has nobody to tell.
                (_, false, _) if inner.closed => return Next::End,
                _ => return Next::Wait,
            }
        }
    }

    /// Writes acks until the connection is closed and all are written, or it breaks. Then nothing more is sent.
    pub(super) async fn write(self: Arc<Self>, mut socket: Box<dyn AsyncWrite + Send + Unpin>) {
        loop {
            match self.next() {
                Next::Wait => self.for_writer.notified().await,
                Next::End => break,
                Next::Write(chunk) => {
                    // One write each: senders take what one read gives as one ack.
                    let ack = [b"\x81\xa3ack", &chunk[..]].concat();
                    let written = tokio::time::timeout(WRITE_STALL, async {
                        socket.write_all(&ack).await?;
                        socket.flush().await
                    });
                    match written.await {
                        Ok(Ok(())) => (),
                        Ok(Err(_)) => self.break_off("it closed before its acks were written"),
                        Err(_) => self.break_off("it does not read its acks"),
                    }
                }
            }
        }
        if self.broken().is_some() {
            self.for_reader.notify_one();
        } else {
            // A plain end, so that no reset eats the last ack.
            let _ = socket.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(acks: &Arc<Acks>) -> Vec<u8> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        acks.close();
        Arc::clone(acks).write(Box::new(ours)).await;
        let mut out = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut out).await.expect("a pipe");
        out
    }

    #[tokio::test]
    async fn acks_are_written_in_the_order_of_the_frames_whatever_is_settled_first() {
        let acks = Arc::new(Acks::default());
        let (first, first_receipt) = acks.open();
        acks.end(first, Some(b"\xa1a"));
        let (second, second_receipt) = acks.open();
        let clone = second_receipt.clone();
        second_receipt.settle(Outcome::Delivered);
        acks.end(second, Some(b"\xa1b"));
        clone.settle(Outcome::Rejected);
        assert!(acks.is_waiting());
        first_receipt.settle(Outcome::Delivered);
        assert!(!acks.is_waiting());
        assert_eq!(written(&acks).await, b"\x81\xa3ack\xa1a\x81\xa3ack\xa1b");
    }

    #[tokio::test]
    async fn a_frame_that_was_not_delivered_breaks_the_connection_without_an_ack() {
        let acks = Arc::new(Acks::default());
        let (first, receipt) = acks.open();
        acks.end(first, Some(b"\xa1a"));
        drop(receipt);
        acks.accept(b"\xa1b");
        assert_eq!(written(&acks).await, b"");
        assert!(acks.broken().is_some());
    }

    #[tokio::test]
    async fn acks_that_nobody_reads_are_bounded() {
        let acks = Arc::new(Acks::default());
        for _ in 0..(UNREAD_MAX / SLOT_BYTES + 10) {
            acks.accept(b"\xa1a");
        }
        assert!(matches!(acks.next(), Next::End));
        assert_eq!(acks.broken(), Some("it does not read its acks"));
    }
}
