//! Acknowledgements of one connection: in the order of the frames, each sent when its last receipt is settled.
//!
//! A frame that is settled before an earlier one waits for it. A frame that nobody took ends the connection without an
//! ack, so that the sender gives it again.
//! Limits ([`AckLimits`], all settings): bytes of acks that are not written, for whatever reason, beyond which reading
//! pauses; those of all connections are paid for from the budget and share an eighth of it ([`AckMemory`]). A sender
//! whose socket takes nothing for `stall` while acks are ready for it ends the connection, or for `unread_stall` while
//! more than `unread_max` bytes are, or the eighth is used up. An ack that waits for its sinks, or behind one that does,
//! is nobody's fault and only counts for the pause.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::batch::{Outcome, Receipt, Waiter};

use super::held::{ACKS_FREE, AckMemory, AckShare};
use super::socket::Writer;

/// What a slot costs beside its chunk id.
const SLOT_BYTES: usize = 64;

/// What one connection may leave unread, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckLimits {
    /// Bytes of acks that are not written, at most.
    pub(super) max: usize,
    /// Bytes of acks that are ready for a sender that takes none, at most.
    pub(super) unread_max: usize,
    /// A sender that takes nothing for so long is gone.
    pub(super) stall: Duration,
    /// The same for one that has left `unread_max` unread.
    pub(super) unread_stall: Duration,
    /// After the sender's end, what is still to be acknowledged is waited for so long.
    pub(super) last_wait: Duration,
}

impl Default for AckLimits {
    fn default() -> AckLimits {
        AckLimits {
            max: 4 << 20,
            unread_max: 1 << 20,
            stall: Duration::from_secs(30),
            unread_stall: Duration::from_secs(5),
            last_wait: Duration::from_secs(60),
        }
    }
}

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

/// What becomes of the socket after the last ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    ShutDown,
    HandBack,
}

#[derive(Debug)]
struct Inner {
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    first: u64,
    /// Bytes of all slots, and of the ack that is being written.
    open: usize,
    /// What pays for them.
    share: AckShare,
    /// Slots that wait for their outcome.
    waiting: usize,
    /// No more frames come: what then becomes of the socket.
    last: Option<Last>,
    /// Bytes of the ack that is being written.
    writing: usize,
    /// The sender speaks JSON, and the chunk ids are JSON.
    json: bool,
    /// Why the connection must end.
    broken: Option<&'static str>,
}

impl Inner {
    fn count(&mut self, more: usize, less: usize) {
        self.open = (self.open + more).saturating_sub(less);
        self.share.cover(self.open);
    }

    /// Nobody is told anything any more.
    fn forget(&mut self) {
        self.first += self.slots.len() as u64;
        self.slots = VecDeque::new();
        (self.open, self.writing, self.waiting) = (0, 0, 0);
        self.share.cover(0);
    }
}

/// The acks of one connection, shared by its reader, its writer and the receipts.
#[derive(Debug)]
pub(super) struct Acks {
    limits: AckLimits,
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
        inner.waiting = inner.waiting.saturating_sub(1);
        drop(inner);
        self.acks.for_writer.notify_one();
    }
}

impl Acks {
    /// Those of a conversation that begins.
    pub(super) fn new(limits: AckLimits, memory: &Arc<AckMemory>) -> Arc<Acks> {
        let inner = Inner {
            slots: VecDeque::new(),
            first: 0,
            open: 0,
            share: AckShare::new(memory),
            waiting: 0,
            last: None,
            writing: 0,
            json: false,
            broken: None,
        };
        let inner = Mutex::new(inner);
        Arc::new(Acks { limits, inner, for_writer: Notify::new(), for_reader: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for the frame that ends next, and the first handle on its outcome.
    pub(super) fn open(self: &Arc<Self>) -> (u64, Receipt) {
        let mut inner = self.lock();
        inner.slots.push_back(Slot { chunk: None, ended: false, fate: Fate::Waiting });
        inner.count(SLOT_BYTES, 0);
        inner.waiting += 1;
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
            inner.count(chunk.map_or(0, <[u8]>::len), 0);
        }
        drop(inner);
        self.for_writer.notify_one();
    }

    /// Acknowledges a frame at once, after those before it.
    pub(super) fn accept(&self, chunk: &[u8]) {
        let slot = Slot { chunk: Some(chunk.to_vec()), ended: true, fate: Fate::Final };
        let mut inner = self.lock();
        if inner.broken.is_some() {
            return;
        }
        inner.count(slot.cost(), 0);
        inner.slots.push_back(slot);
        drop(inner);
        self.for_writer.notify_one();
    }

    /// The sender speaks JSON: its acks are JSON too.
    pub(super) fn speak_json(&self) {
        self.lock().json = true;
    }

    /// No more frames come: the writer ends when the last ack is written.
    pub(super) fn close(&self) {
        self.lock().last = Some(Last::ShutDown);
        self.for_writer.notify_one();
    }

    /// The same, and the writer gives the socket back for a later conversation.
    pub(super) fn hand_back(&self) {
        self.lock().last = Some(Last::HandBack);
        self.for_writer.notify_one();
    }

    /// Whether every ack is written.
    pub(super) fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.slots.is_empty() && inner.writing == 0
    }

    /// Whether a frame waits for its outcome.
    pub(super) fn is_waiting(&self) -> bool {
        self.lock().waiting > 0
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

    /// Waits until no ack is owed any more, or the connection must end.
    pub(super) async fn until_empty(&self) {
        while !self.is_empty() && self.broken().is_none() {
            self.for_reader.notified().await;
        }
    }

    /// Waits until there is room for more chunk ids, or the connection must end.
    pub(super) async fn until_room(&self) {
        loop {
            if self.has_room() {
                return;
            }
            self.for_reader.notified().await;
        }
    }

    /// Whether there is, or the connection must end.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.lock();
        let in_turn = inner.open <= ACKS_FREE || !inner.share.is_short();
        inner.broken.is_some() || (inner.open <= self.limits.max && in_turn)
    }

    /// Bytes of the acks that could be written now.
    fn ready(&self) -> usize {
        let inner = self.lock();
        let ready = |slot: &&Slot| slot.ended && slot.fate == Fate::Final;
        inner.writing + inner.slots.iter().take_while(ready).map(Slot::cost).sum::<usize>()
    }

    /// The conversation is over: what is settled later is told nobody, and costs nothing.
    pub(super) fn abandon(&self) {
        self.break_off("it is over");
        self.lock().forget();
    }

    fn break_off(&self, why: &'static str) {
        self.lock().broken.get_or_insert(why);
        self.for_reader.notify_one();
        self.for_writer.notify_one();
    }

    fn next(&self) -> Next {
        let mut inner = self.lock();
        let written = std::mem::take(&mut inner.writing);
        if written > 0 {
            inner.count(0, written);
            self.for_reader.notify_one();
        }
        loop {
            if inner.broken.is_some() {
                inner.forget();
                return Next::End;
            }
            let Some(slot) = inner.slots.front() else {
                return if inner.last.is_some() { Next::End } else { Next::Wait };
            };
            match (slot.fate, slot.ended, &slot.chunk) {
                (Fate::Lost, true, Some(_)) => {
                    inner.broken = Some("its records could not be delivered");
                    inner.forget();
                    return Next::End;
                }
                (Fate::Final | Fate::Lost, true, _) => {
                    let slot = inner.slots.pop_front();
                    let cost = slot.as_ref().map_or(0, Slot::cost);
                    inner.first += 1;
                    if let Some(chunk) = slot.and_then(|slot| slot.chunk) {
                        inner.writing = cost;
                        // The text that Fluentd writes, without a line break.
                        return Next::Write(match inner.json {
                            true => [b"{\"ack\":", &chunk[..], b"}"].concat(),
                            false => [b"\x81\xa3ack", &chunk[..]].concat(),
                        });
                    }
                    inner.count(0, cost);
                    self.for_reader.notify_one();
                }
                // A frame that never ended on a closed connection has nobody to tell.
                (_, false, _) if inner.last.is_some() => return Next::End,
                _ => return Next::Wait,
            }
        }
    }

    /// Waits while a write is not taken; returns when that has lasted too long.
    async fn until_unread(&self) {
        let since = Instant::now();
        loop {
            let left = self.limits.stall.saturating_sub(since.elapsed());
            tokio::time::sleep(left.min(self.limits.unread_stall)).await;
            let ready = self.ready();
            let in_the_way = ready > self.limits.unread_max || (ready > ACKS_FREE && self.lock().share.is_short());
            if in_the_way || since.elapsed() >= self.limits.stall {
                return;
            }
        }
    }

    /// Writes acks until the connection is closed and all are written, or it breaks. Then nothing more is sent, unless
    /// the socket is asked back.
    pub(super) async fn write(self: Arc<Self>, mut socket: Writer) -> Option<Writer> {
        let _told = TellPanic(&self);
        loop {
            match self.next() {
                Next::Wait => self.for_writer.notified().await,
                Next::End => break,
                Next::Write(ack) => {
                    // One write each: senders take what one read gives as one ack.
                    let written = async {
                        socket.write_all(&ack).await?;
                        socket.flush().await
                    };
                    tokio::select! {
                        written = written => if written.is_err() {
                            self.break_off("it closed before its acks were written");
                        },
                        () = self.until_unread() => self.break_off("it does not read its acks"),
                    }
                }
            }
        }
        let (broken, last) = {
            let mut inner = self.lock();
            if inner.broken.is_some() {
                inner.forget();
            }
            (inner.broken.is_some(), inner.last)
        };
        match last {
            _ if broken => self.for_reader.notify_one(),
            Some(Last::HandBack) => return Some(socket),
            // A plain end, so that no reset eats the last ack.
            Some(Last::ShutDown) | None => drop(socket.shutdown().await),
        }
        None
    }
}

/// A writer that panics leaves no reader behind that takes frames and never answers.
struct TellPanic<'a>(&'a Acks);

impl Drop for TellPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_off("the task that writes its acks panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWrite;

    use super::*;
    use crate::budget::Budget;

    fn fresh(limits: AckLimits) -> (Arc<Acks>, Arc<Budget>) {
        let budget = Budget::new(64 << 20);
        (Acks::new(limits, &AckMemory::new(&budget)), budget)
    }

    /// With limits that a test can wait for.
    fn quick() -> AckLimits {
        AckLimits { unread_stall: Duration::from_millis(50), ..AckLimits::default() }
    }

    #[tokio::test]
    async fn acks_of_a_sender_that_speaks_json_are_json() {
        let (acks, _budget) = fresh(AckLimits::default());
        acks.speak_json();
        acks.accept(b"\"a\\n\"");
        acks.accept(b"5");
        assert_eq!(written(&acks).await, br#"{"ack":"a\n"}{"ack":5}"#);
    }

    /// A socket that panics when it is written to.
    struct Bad;

    impl AsyncWrite for Bad {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            panic!("a planted mistake");
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_writer_that_panics_ends_the_connection() {
        let (acks, _budget) = fresh(AckLimits::default());
        acks.accept(b"\xa1a");
        assert!(tokio::spawn(Arc::clone(&acks).write(Box::new(Bad))).await.is_err_and(|error| error.is_panic()));
        acks.until_broken().await;
    }

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
        let (acks, _budget) = fresh(AckLimits::default());
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
        let (acks, _budget) = fresh(AckLimits::default());
        let (first, receipt) = acks.open();
        acks.end(first, Some(b"\xa1a"));
        drop(receipt);
        acks.accept(b"\xa1b");
        assert_eq!(written(&acks).await, b"");
        assert!(acks.broken().is_some());
    }

    #[tokio::test]
    async fn acks_that_nobody_reads_pause_reading_and_then_end_the_connection() {
        let (acks, budget) = fresh(quick());
        let (ours, theirs) = tokio::io::duplex(64);
        let writer = tokio::spawn(Arc::clone(&acks).write(Box::new(ours)));
        while acks.has_room() {
            acks.accept(b"\xa1a");
        }
        assert!(acks.ready() > acks.limits.unread_max);
        assert!(budget.used() > acks.limits.unread_max, "the budget pays for them");
        acks.until_broken().await;
        assert_eq!(acks.broken(), Some("it does not read its acks"));
        writer.await.expect("no panic");
        assert_eq!(budget.used(), 0, "nobody is told any more");
        drop(theirs);
    }

    #[tokio::test]
    async fn a_few_acks_that_nobody_reads_are_waited_for_until_the_longer_limit() {
        let (acks, _budget) = fresh(AckLimits { stall: Duration::from_millis(200), ..quick() });
        let (ours, _theirs) = tokio::io::duplex(8);
        let writer = tokio::spawn(Arc::clone(&acks).write(Box::new(ours)));
        let since = Instant::now();
        acks.accept(b"\xa8chunk id");
        acks.until_broken().await;
        assert!(since.elapsed() >= acks.limits.stall);
        writer.await.expect("no panic");
    }

    #[tokio::test]
    async fn where_memory_of_acks_is_short_others_go_on_with_a_few_and_the_deaf_are_closed_sooner() {
        let budget = Budget::new(1 << 20);
        let memory = AckMemory::new(&budget);
        let [deaf, polite, busy] = [0; 3].map(|_| Acks::new(quick(), &memory));
        let (ours, _theirs) = tokio::io::duplex(8);
        let writer = tokio::spawn(Arc::clone(&deaf).write(Box::new(ours)));
        while deaf.has_room() {
            deaf.accept(b"\xa1a");
        }
        assert!(deaf.ready() < deaf.limits.unread_max && memory.is_short());
        polite.accept(b"\xa1b");
        assert!(polite.has_room());
        (0..100).for_each(|_| busy.accept(b"\xa1c"));
        assert!(!busy.has_room());
        deaf.until_broken().await;
        writer.await.expect("no panic");
        assert!(!memory.is_short() && busy.has_room());
    }

    #[tokio::test]
    async fn acks_that_wait_behind_an_unsettled_frame_pause_reading_and_blame_nobody() {
        let (acks, _budget) = fresh(AckLimits::default());
        let (first, receipt) = acks.open();
        acks.end(first, Some(b"\xa1a"));
        let mut count = 1;
        while acks.has_room() {
            acks.accept(b"\xa1b");
            count += 1;
        }
        assert!(count * SLOT_BYTES > acks.limits.unread_max);
        assert_eq!((acks.ready(), acks.broken()), (0, None));
        let (ours, mut theirs) = tokio::io::duplex(64);
        let writer = tokio::spawn(Arc::clone(&acks).write(Box::new(ours)));
        receipt.settle(Outcome::Delivered);
        acks.close();
        let mut out = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut out).await.expect("a pipe");
        assert_eq!(out.len(), count * b"\x81\xa3ack\xa1b".len());
        writer.await.expect("no panic");
        assert!(acks.has_room() && acks.broken().is_none());
    }
}
