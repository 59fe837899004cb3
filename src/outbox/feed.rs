//! What one sink takes from: its queue, and the disk log when it is behind.
//!
//! What is behind and not committed yet is taken from memory. Reading the log pays from the memory budget by what the
//! frame takes once it is decoded ([`stored_batch::memory`]). It waits [`PATIENCE`] for that at most, then it overdraws: inputs may hold everything and wait for this very
//! sink. So a sink has one frame beyond the budget at most, beside what its requests hold. Damaged frames are counted
//! (`buffer_damaged`), settled and passed over.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::fresh::Taken;
use super::settle::LogWaiter;
use super::{Mode, Shared};
use crate::batch::Shipment;
use crate::budget::{Budget, Permit};
use crate::buffer::{Lsn, Read};
use crate::codec::stored_batch;
use crate::log::Limited;
use crate::metrics::{DropReason, shift};

/// How long the backlog waits for memory before it overdraws.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a sink that has too many frames in hand waits for one of them to be settled.
const BUSY: Duration = Duration::from_millis(50);
/// Between two tries to read a disk that fails.
const READ_AGAIN: Duration = Duration::from_secs(1);

static SAID: Limited = Limited::new(4);

/// A sink's side of its port.
pub struct Feed {
    queue: mpsc::Receiver<Shipment>,
    log: Option<Reader>,
}

struct Reader {
    shared: Arc<Shared>,
    port: usize,
    sink: usize,
    /// Behind: the last frame that was taken.
    after: Option<Lsn>,
    /// A frame that was read and waits for memory.
    frame: Option<Frame>,
}

struct Frame {
    lsn: Lsn,
    records: u64,
    source: Option<usize>,
    bytes: Vec<u8>,
}

impl From<mpsc::Receiver<Shipment>> for Feed {
    fn from(queue: mpsc::Receiver<Shipment>) -> Feed {
        Feed { queue, log: None }
    }
}

impl Feed {
    pub(super) fn new(queue: mpsc::Receiver<Shipment>, shared: Arc<Shared>, port: usize, sink: usize) -> Feed {
        let has_log = shared.behind.is_some();
        let reader = Reader { shared, port, sink, after: None, frame: None };
        Feed { queue, log: has_log.then_some(reader) }
    }

    /// The next shipment, or `None` when no more will come. Nothing is lost when the wait is cut short.
    pub async fn recv(&mut self) -> Option<Shipment> {
        let Some(reader) = &mut self.log else { return self.queue.recv().await };
        loop {
            // What is in the queue is older than anything in the log that was not handed out.
            let ended = match self.queue.try_recv() {
                Ok(shipment) => return Some(reader.took(shipment)),
                Err(TryRecvError::Empty) => false,
                Err(TryRecvError::Disconnected) => true,
            };
            if reader.after.is_none() {
                reader.after = reader.mode();
                if reader.after.is_some() {
                    // Something may have come into the queue just before the port got behind.
                    continue;
                }
                if ended {
                    return None;
                }
                // A live port with an empty queue gets its next batch there, or is behind at it.
                tokio::select! {
                    shipment = self.queue.recv() => if let Some(shipment) = shipment {
                        return Some(reader.took(shipment));
                    },
                    () = reader.shared.turned[reader.port].notified() => {}
                }
                continue;
            }
            if let Some(shipment) = reader.next().await {
                return Some(shipment);
            }
        }
    }

    /// What is in the queue, without waiting.
    pub fn try_recv(&mut self) -> Option<Shipment> {
        let shipment = self.queue.try_recv().ok()?;
        Some(match &mut self.log {
            Some(reader) => reader.took(shipment),
            None => shipment,
        })
    }

    /// Shipments in the queue.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing more comes into the queue: all who send are gone. There may be a backlog all the same.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes nothing more; drops what is in the queue unsettled.
    pub fn close(&mut self) {
        self.queue.close();
        while self.try_recv().is_some() {}
        if let Some(reader) = &mut self.log {
            reader.frame = None;
        }
    }
}

impl Reader {
    fn took(&self, shipment: Shipment) -> Shipment {
        self.shared.queued[self.port].fetch_sub(shipment.batch.cost(), Relaxed);
        self.shared.room.notify_waiters();
        shipment
    }

    /// Where to read from, if the port is behind.
    fn mode(&self) -> Option<Lsn> {
        match self.shared.ports()[self.port] {
            Mode::Live => None,
            Mode::Behind { after } => Some(after),
        }
    }

    /// The next frame of the backlog; `None` when something else has to be looked at first.
    async fn next(&mut self) -> Option<Shipment> {
        let shared = Arc::clone(&self.shared);
        let behind = shared.behind.as_ref()?;
        if self.frame.is_none() {
            let after = self.after?;
            match behind.log.read(self.port, after) {
                Read::NotYet { lsn } => {
                    if let Some(shipment) = self.uncommitted(lsn) {
                        return Some(shipment);
                    }
                    if !behind.log.wait_committed(lsn).await {
                        // Closed: nothing more will be readable, and the time to give up comes.
                        tokio::time::sleep(READ_AGAIN).await;
                    }
                    tokio::task::consume_budget().await;
                }
                Read::End => self.caught_up(after),
                read => self.note(read).await,
            }
            self.frame.as_ref()?;
        }
        let bytes = self.frame.as_ref().map_or(0, |frame| stored_batch::memory(&frame.bytes));
        let permit = pay(&behind.budget, bytes).await;
        let frame = self.frame.take()?;
        self.after = Some(frame.lsn);
        self.unpack(frame, permit)
    }

    /// The frame that comes next, if the log has it in memory only.
    fn uncommitted(&mut self, lsn: Lsn) -> Option<Shipment> {
        let (behind, settler) = (self.shared.behind.as_ref()?, self.shared.settler.as_ref()?);
        // A frame beyond what the log knows of this reader is left to be read: it keeps books of that.
        let noted = || behind.log.hand_out(self.port, lsn);
        let Taken { batch, tags } = self.shared.fresh[self.port].take(lsn, self.sink, noted)?;
        self.after = Some(lsn);
        let receipts = LogWaiter::receipts(settler, self.port, lsn);
        Some(Shipment { batch, receipts, tags, logged: true })
    }

    async fn note(&mut self, read: Read) {
        match read {
            Read::Frame { lsn, records, source, bytes, .. } => {
                self.frame = Some(Frame { lsn, records: u64::from(records), source, bytes });
            }
            // The log has told its watcher how much that was.
            Read::Damaged { through, .. } => self.after = self.after.max(Some(through)),
            Read::Busy => tokio::time::sleep(BUSY).await,
            Read::Failed(error) => {
                if let Some(left_out) = SAID.allow("") {
                    let sink = &self.shared.metrics.sinks[self.sink].name;
                    tracing::warn!(sink, %error, left_out, "the disk log can not be read; tried again");
                }
                tokio::time::sleep(READ_AGAIN).await;
            }
            Read::NotYet { .. } | Read::End => {}
        }
    }

    /// Everything was read: live again, unless something came meanwhile. Under the lock nothing can.
    fn caught_up(&mut self, after: Lsn) {
        let shared = Arc::clone(&self.shared);
        let mut ports = shared.ports();
        let Some(behind) = &shared.behind else { return };
        match behind.log.read(self.port, after) {
            Read::End => {
                ports[self.port] = Mode::Live;
                self.after = None;
                drop(ports);
                shared.room.notify_waiters();
            }
            Read::Frame { lsn, records, source, bytes, .. } => {
                self.frame = Some(Frame { lsn, records: u64::from(records), source, bytes });
            }
            Read::Damaged { through, .. } => self.after = self.after.max(Some(through)),
            Read::NotYet { .. } | Read::Busy | Read::Failed(_) => {}
        }
    }

    fn unpack(&self, frame: Frame, permit: Permit) -> Option<Shipment> {
        let metrics = &self.shared.metrics;
        // Records of an input that is configured no longer count for the first one: they have to count somewhere.
        let input = u16::try_from(frame.source.unwrap_or(0)).unwrap_or(0);
        let pair = metrics.pair(input, self.sink);
        let settler = self.shared.settler.as_ref()?;
        let receipts = LogWaiter::receipts(settler, self.port, frame.lsn);
        match stored_batch::decode(&frame.bytes, permit, input) {
            Ok(mut batch) => {
                drop(frame.bytes);
                batch.seal();
                let turn = metrics.turn();
                shift(&pair.buffered, &pair.logged, frame.records);
                drop(turn);
                Some(Shipment { batch: Arc::new(batch), receipts, tags: u64::MAX, logged: true })
            }
            Err(damage) => {
                let turn = metrics.turn();
                pair.give_up(&pair.buffered, DropReason::BufferDamaged, frame.records, frame.bytes.len() as u64);
                drop(turn);
                receipts.settle(crate::batch::Outcome::Dropped);
                if let Some(left_out) = SAID.allow("") {
                    let (sink, lsn, records) = (&metrics.sinks[self.sink].name, frame.lsn, frame.records);
                    tracing::error!(sink, lsn, records, %damage, left_out, "a frame of the disk log can not be read; its records are lost and counted as buffer_damaged");
                }
                None
            }
        }
    }
}

async fn pay(budget: &Arc<Budget>, bytes: usize) -> Permit {
    let mut permit = match budget.try_acquire(bytes) {
        Some(permit) => permit,
        None => match tokio::time::timeout(PATIENCE, budget.acquire(bytes)).await {
            Ok(permit) => permit,
            Err(_) => budget.empty_permit(),
        },
    };
    if permit.bytes() < bytes {
        permit.resize(bytes);
    }
    permit
}
