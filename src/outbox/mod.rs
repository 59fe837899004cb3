//! Where batches wait for sinks: a bounded queue in memory for each, and the disk log behind them all.
//!
//! ```text
//! offer -> live port with room ------------------> its queue -> feed -> delivery
//!     \--> disk log -> committed: the origin is told
//!               \--> port that is behind: --------------------> feed reads from its cursor
//! ```
//!
//! - A port is *live* while its queue has room for what comes; it gets each batch from memory. One that has none gets
//!   *behind* at that frame: its feed empties the queue, then reads the log, and is live again when it has read
//!   everything that was appended for it. So each sink gets its frames in the order of their numbers.
//! - A durable batch (`ack = "durable"`) is appended once, for all its sinks, and its origin is told when that is
//!   committed. Others go from memory, and their origin is told when the sinks have taken them; where one port has no
//!   room while another has, the batch is spilled: appended for those without room only. With one sink, or with all of
//!   them full, the input waits: the file is the buffer. (If all are behind already, it is spilled while the log is less
//!   than half full, so that durable inputs do not starve it.) What a sink has in memory only is logged late
//!   (`late.rs`).
//! - A sink with `required = false` holds nobody back: without room in its queue and in its half of the log, what is
//!   new is dropped for it and counted; what it has in the log goes where the others need the room.
//! - One lock decides who gets what, so that numbers are given in the order in which queues are filled. Nobody waits for
//!   one sink while holding the batch of another.
//!
//! Limits: [`QUEUE_MAX`] shipments a queue; with a disk log [`LOGGED_QUEUE_MAX`], and its share of the memory budget (an
//! eighth, divided by the ports).

mod feed;
mod fresh;
mod late;
mod look;
mod settle;
mod stored;
#[cfg(test)]
mod tests;
mod watcher;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

pub use feed::Feed;
pub use look::Watch;
pub use settle::{Before, Settled};
pub use watcher::{CHECK, LogWatcher};

use crate::batch::{Batch, Outcome, Receipts, Shipment};
use crate::budget::Budget;
use crate::buffer::{Log, Lsn, Payload as _, Refusal};
use crate::codec::stored_batch;
use crate::metrics::{DropReason, Metrics, shift};
use crate::workers::Stop;
use fresh::Fresh;
use late::{Handed, Late};
use look::Drops;
use settle::{LogWaiter, Settler};
use stored::{AtCommit, Stored};

/// Shipments that wait for one sink without a disk log. Their bytes are bounded by the memory budget; this bounds their
/// number, so that a slow sink is felt as back-pressure before it has taken the whole budget from the others.
pub const QUEUE_MAX: usize = 16;
/// The same with a disk log, where their bytes have a limit of their own. A sink without room gets behind at once, and reads
/// back and decodes all that comes until it has caught up. 16 batches of 170 KB are 6 ms of a sink's work: where two cores
/// had other work too, that was often all of a million records, at twice the sink's CPU time; with 64 it was none.
pub const LOGGED_QUEUE_MAX: usize = 64;

/// A sink that has had no room for so long gets behind: what others go on with is written to the disk for it.
const SPILL_AFTER: Duration = Duration::from_millis(50);

/// What is known of a port when the outbox is made.
#[derive(Debug)]
pub struct Way {
    /// Its number in the metrics. As a reader of the log its number is that of the port.
    pub sink: usize,
    /// Its queue.
    pub queue: mpsc::Sender<Shipment>,
    /// Whether it holds back others when it has no room.
    pub required: bool,
}

/// The disk log and what is needed to read from it.
pub struct Behind {
    /// The log; its readers are the ports.
    pub log: Arc<Log>,
    /// Pays for what is read.
    pub budget: Arc<Budget>,
    /// By port: what its cursor has not settled yet; behind from the start.
    pub backlog: Vec<bool>,
    /// "Give up": nobody waits for room any more.
    pub give_up: Stop,
}

/// All ways to the sinks. When it is dropped, the queues end and the sinks drain.
pub struct Outbox {
    ways: Vec<Way>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("ways", &self.ways).finish_non_exhaustive()
    }
}

/// Where a port gets its next batch from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// From its queue.
    Live,
    /// From its queue until that is empty, then from the log, after this frame.
    Behind { after: Lsn },
}

/// What the senders and the feeds share.
struct Shared {
    /// By port. The lock that orders everything.
    ports: Mutex<Vec<Mode>>,
    /// By port: bytes in its queue.
    queued: Vec<AtomicUsize>,
    /// By port: what it has in memory only, while other sinks want the same batches.
    late: Vec<Late>,
    /// By port: what it is to read from the log and is still in memory.
    fresh: Vec<Fresh>,
    /// By port: it was live and is behind now.
    turned: Vec<Notify>,
    /// Something left a queue, or a port is live again.
    room: Notify,
    metrics: Arc<Metrics>,
    behind: Option<Behind>,
    settler: Option<Arc<Settler>>,
    /// The log is more than half full with what sinks have not got.
    half_full: AtomicBool,
    /// By port: what was said of its drops.
    drops: Mutex<Vec<Drops>>,
    /// Bytes in the queue of one port, at most (but one batch always).
    queued_max: usize,
}

impl Shared {
    fn ports(&self) -> MutexGuard<'_, Vec<Mode>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that is offered to sinks, and what of it is still to be placed.
pub struct Offer {
    /// The records.
    pub batch: Arc<Batch>,
    /// Who waits: this handle is settled when everything is placed.
    pub receipts: Receipts,
    /// Who wants some of it.
    pub wants: Vec<Want>,
    /// Several sinks want it: none of them may keep the others from going on.
    pub shared: bool,
    /// Some of it was placed.
    pub placed: bool,
}

/// The part of a batch that one port wants.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The port.
    pub port: usize,
    /// One bit a tag of the batch.
    pub tags: u64,
    /// Records.
    pub records: u64,
}

/// What the rest of an offer waits for; of several, the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    /// Room in a queue.
    Room,
    /// Room in the log for a frame of so many bytes, or in a queue.
    Log(usize),
}

/// What the log did not take.
struct Refused {
    why: Refusal,
    /// Of the frame, about.
    bytes: usize,
}

impl Outbox {
    /// An outbox without a disk log: a full queue is waited for.
    pub fn in_memory(ways: Vec<Way>, metrics: Arc<Metrics>) -> Outbox {
        Outbox::new(ways, metrics, None)
    }

    /// An outbox with a disk log, whose readers are the ports in their order.
    pub fn new(ways: Vec<Way>, metrics: Arc<Metrics>, behind: Option<Behind>) -> Outbox {
        let port = |at: usize| match &behind {
            // Also where nothing is for it, it looks at what is there: its cursor stands before that.
            Some(behind) if behind.backlog.get(at) == Some(&true) || !behind.log.keeps_up(at) => {
                Mode::Behind { after: 0 }
            }
            _ => Mode::Live,
        };
        let total = behind.as_ref().map_or(0, |behind| behind.budget.total());
        let shared = Shared {
            ports: Mutex::new((0..ways.len()).map(port).collect()),
            queued: ways.iter().map(|_| AtomicUsize::new(0)).collect(),
            late: ways.iter().map(|_| Late::default()).collect(),
            fresh: ways.iter().map(|_| Fresh::default()).collect(),
            turned: ways.iter().map(|_| Notify::new()).collect(),
            room: Notify::new(),
            metrics,
            settler: behind.as_ref().map(|behind| Arc::new(Settler::new(&behind.log))),
            behind,
            half_full: AtomicBool::new(false),
            drops: Mutex::default(),
            queued_max: (total / 8 / ways.len().max(1)).max(64 << 10),
        };
        let sinks: Vec<usize> = ways.iter().map(|way| way.sink).collect();
        *shared.drops.lock().unwrap_or_else(PoisonError::into_inner) = Drops::of(&sinks, &shared.metrics);
        Outbox { ways, shared: Arc::new(shared) }
    }

    /// What the sink of a port takes from. `queue` is the other end of its [`Way::queue`].
    pub fn feed(&self, port: usize, queue: mpsc::Receiver<Shipment>) -> Feed {
        Feed::new(queue, Arc::clone(&self.shared), port, self.ways[port].sink)
    }

    /// What moves the cursors; `None` without a disk log. It does not keep the queues open.
    pub fn settled(&self) -> Option<Settled> {
        self.shared.settler.as_ref().map(|settler| Settled(Arc::clone(settler)))
    }

    /// What looks at the log from time to time; it does not keep the queues open.
    pub fn watch(&self) -> Watch {
        Watch::new(&self.shared, self.ways.iter().map(|way| way.sink).collect())
    }

    /// The number of ports.
    pub fn len(&self) -> usize {
        self.ways.len()
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// Places what can be placed now; says whether that was all.
    pub fn try_send(&self, offer: &mut Offer) -> bool {
        self.place(offer, false).is_none()
    }

    /// Places everything; waits for room. What is not placed when it is time to give up is dropped unsettled.
    pub async fn send(&self, mut offer: Offer) {
        let Some(behind) = &self.shared.behind else {
            self.place(&mut offer, false);
            for want in std::mem::take(&mut offer.wants) {
                let shipment = self.shipment(&offer, want, offer.receipts.clone(), false);
                // A closed queue means that its sink has given up: its origin hears "not delivered".
                let _ = self.ways[want.port].queue.send(shipment).await;
            }
            offer.receipts.settle(Outcome::Delivered);
            return;
        };
        let mut give_up = pin!(behind.give_up.wait());
        let began = Instant::now();
        loop {
            // Before it looks, so that no news is missed.
            let mut room = pin!(self.shared.room.notified());
            room.as_mut().enable();
            let spills = began.elapsed() >= SPILL_AFTER;
            match self.place(&mut offer, spills) {
                None => break,
                Some(Wait::Room) => tokio::select! {
                    () = room => {}
                    () = tokio::time::sleep_until((began + SPILL_AFTER).into()), if !spills => {}
                    () = &mut give_up => return,
                },
                Some(Wait::Log(bytes)) => tokio::select! {
                    () = room => {}
                    () = behind.log.room(bytes) => {}
                    () = &mut give_up => return,
                },
            }
            // Where others take the room each time, they get their turn on this thread as well.
            tokio::task::consume_budget().await;
        }
        offer.receipts.settle(Outcome::Delivered);
    }

    fn shipment(&self, offer: &Offer, want: Want, receipts: Receipts, logged: bool) -> Shipment {
        Shipment { batch: Arc::clone(&offer.batch), receipts, tags: want.tags, logged }
    }

    /// Whether a port takes `cost` bytes from memory now.
    fn has_room(&self, ports: &[Mode], port: usize, cost: usize) -> bool {
        let queued = self.shared.queued[port].load(Relaxed);
        let fits = self.shared.behind.is_none() || queued == 0 || queued + cost <= self.shared.queued_max;
        ports[port] == Mode::Live && fits && self.ways[port].queue.capacity() > 0
    }

    /// The handles of a shipment from memory: of one that several sinks want, the disk log may take over.
    fn waits_for_sink(&self, offer: &Offer, want: &Want) -> Receipts {
        let receipts = offer.receipts.clone();
        match &self.shared.settler {
            Some(settler) if offer.shared => {
                let (port, sink) = (want.port, self.ways[want.port].sink);
                let handed = Handed { port, sink, tags: want.tags, records: want.records, batch: &offer.batch };
                self.shared.late[port].note(&handed, receipts, &self.shared.metrics, settler)
            }
            _ => receipts,
        }
    }

    /// Hands a shipment to a port that has room.
    fn hand(&self, port: usize, shipment: Shipment) {
        self.shared.queued[port].fetch_add(shipment.batch.cost(), Relaxed);
        // Only senders fill the queue, and they hold the lock. A closed one drops it unsettled.
        if let Err(error) = self.ways[port].queue.try_send(shipment) {
            self.shared.queued[port].fetch_sub(error.into_inner().batch.cost(), Relaxed);
        }
    }

    /// `patient`: it has waited long enough to write to the disk what a sink has no room for.
    fn place(&self, offer: &mut Offer, patient: bool) -> Option<Wait> {
        let mut ports = self.shared.ports();
        let cost = offer.batch.cost();
        let has_log = self.shared.behind.is_some();
        if offer.batch.durable && has_log {
            return self.place_durable(&mut ports, offer, cost);
        }
        let wants = std::mem::take(&mut offer.wants);
        let (room, lack): (Vec<Want>, Vec<Want>) = wants
            .into_iter()
            .partition(|want| self.has_room(&ports, want.port, cost) || self.ways[want.port].queue.is_closed());
        let half_full = self.shared.half_full.load(Relaxed);
        let (left_out, lack): (Vec<Want>, Vec<Want>) =
            lack.into_iter().partition(|want| has_log && half_full && self.is_optional(want));
        left_out.into_iter().for_each(|want| self.end(offer, want));
        let all_behind = lack.iter().all(|want| ports[want.port] != Mode::Live);
        offer.placed |= !room.is_empty();
        // Others go on with it, or nobody may wait for it: then the disk takes what the full ones have no room for.
        let goes_on = offer.placed || lack.iter().all(|want| self.is_optional(want));
        let spills = has_log
            && match all_behind {
                true => goes_on || !half_full,
                false => goes_on && patient,
            };
        for want in &room {
            let receipts = self.waits_for_sink(offer, want);
            self.hand(want.port, self.shipment(offer, *want, receipts, false));
        }
        if !spills {
            offer.wants.extend(&lack);
            return (!lack.is_empty()).then_some(Wait::Room);
        }
        let mut wait = None;
        for group in groups(lack) {
            let Some(Refused { why, bytes }) = self.store(&mut ports, offer, &group, false) else { continue };
            for want in group {
                let ends = match why {
                    Refusal::Dropped => true,
                    Refusal::Full | Refusal::Degraded => self.is_optional(&want),
                    // It passes soon, or its queue may have room.
                    Refusal::Queue | Refusal::TooLarge => self.is_optional(&want) && patient,
                    Refusal::Closed => false,
                };
                if ends {
                    self.end(offer, want);
                    continue;
                }
                let room_helps = matches!(why, Refusal::TooLarge | Refusal::Closed);
                wait = wait.max(Some(if room_helps { Wait::Room } else { Wait::Log(bytes) }));
                offer.wants.push(want);
            }
        }
        wait
    }

    fn place_durable(&self, ports: &mut [Mode], offer: &mut Offer, cost: usize) -> Option<Wait> {
        let half_full = self.shared.half_full.load(Relaxed);
        let wants = std::mem::take(&mut offer.wants);
        let (wants, left_out): (Vec<Want>, Vec<Want>) = wants
            .into_iter()
            .partition(|want| !self.is_optional(want) || !half_full || self.has_room(ports, want.port, cost));
        left_out.into_iter().for_each(|want| self.end(offer, want));
        let mut wait = None;
        for group in groups(wants) {
            let Some(Refused { why, bytes }) = self.store(ports, offer, &group, true) else { continue };
            for want in group {
                let from_memory = self.has_room(ports, want.port, cost);
                match why {
                    Refusal::Dropped | Refusal::TooLarge if from_memory => {
                        self.hand(want.port, self.shipment(offer, want, offer.receipts.clone(), false));
                    }
                    Refusal::Dropped => self.end(offer, want),
                    Refusal::Full | Refusal::TooLarge if self.is_optional(&want) && !from_memory => {
                        self.end(offer, want);
                    }
                    // No frame can hold it: it goes from memory, when the sink has room.
                    Refusal::TooLarge => {
                        wait = wait.max(Some(Wait::Room));
                        offer.wants.push(want);
                    }
                    // Its sinks end too: the origin hears "not delivered".
                    Refusal::Closed => drop(offer.receipts.clone()),
                    Refusal::Queue | Refusal::Full | Refusal::Degraded => {
                        wait = wait.max(Some(Wait::Log(bytes)));
                        offer.wants.push(want);
                    }
                }
            }
        }
        wait
    }

    /// Appends the batch for these ports. Live ones with room (if `live`) get it from memory as well, the others are
    /// behind from now on. `Some` when the log refused it; then nothing has changed.
    fn store(&self, ports: &mut [Mode], offer: &Offer, group: &[Want], live: bool) -> Option<Refused> {
        let log = &self.shared.behind.as_ref()?.log;
        let (batch, metrics) = (&offer.batch, &self.shared.metrics);
        let (mut readers, mut direct) = (0, 0);
        for want in group {
            readers |= 1 << want.port;
            if live && self.has_room(ports, want.port, batch.cost()) && log.keeps_up(want.port) {
                direct |= 1 << want.port;
            }
        }
        let is_direct = |want: &Want| direct >> want.port & 1 == 1;
        // What a port has in memory comes before what it reads from the log, there too.
        let full = |want: &&Want| !is_direct(want) && ports[want.port] == Mode::Live;
        let late = group.iter().filter(full).find_map(|want| self.shared.late[want.port].log(log, Duration::ZERO));
        if late.is_some() {
            return late;
        }
        let moved = |back: bool| {
            let _turn = metrics.turn();
            for want in group {
                let pair = metrics.pair(batch.input, self.ways[want.port].sink);
                let to = if is_direct(want) { &pair.logged } else { &pair.buffered };
                if back { shift(to, &pair.held, want.records) } else { shift(&pair.held, to, want.records) }
            }
        };
        moved(false);
        let tags = group.first().map_or(0, |want| want.tags);
        let records = group.first().map_or(0, |want| want.records);
        let buffered = group.iter().filter(|want| !is_direct(want));
        let buffered = buffered.map(|want| (self.ways[want.port].sink, want.records)).collect();
        let payload = Arc::new(Stored::new(batch, tags, metrics));
        let waiting = AtCommit::new(offer.receipts.clone(), buffered, &payload);
        let (records, bytes) = (u32::try_from(records).unwrap_or(u32::MAX), payload.size_hint());
        match log.append_handed(readers, direct, records, payload, waiting.handle()) {
            Ok(lsn) => {
                for want in group {
                    if is_direct(want) {
                        let receipts = self.shared.settler.as_ref().map(|to| LogWaiter::receipts(to, want.port, lsn));
                        self.hand(want.port, self.shipment(offer, *want, receipts.unwrap_or_default(), true));
                        continue;
                    }
                    self.shared.fresh[want.port].note(lsn, &waiting);
                    if ports[want.port] == Mode::Live {
                        ports[want.port] = Mode::Behind { after: lsn - 1 };
                        // Its queue may be empty: nothing else would tell its feed.
                        self.shared.turned[want.port].notify_one();
                    }
                }
                None
            }
            Err(refused) => {
                waiting.dismiss();
                moved(true);
                Some(Refused { why: refused.why, bytes })
            }
        }
    }

    fn is_optional(&self, want: &Want) -> bool {
        !self.ways[want.port].required
    }

    /// Drops the part that a port wanted. What of it is said, [`Watch::look`] says.
    fn end(&self, offer: &Offer, want: Want) {
        let rows = offer.batch.len().max(1) as u64;
        let bytes = stored_batch::size_hint(&offer.batch) as u64 * want.records / rows;
        let pair = self.shared.metrics.pair(offer.batch.input, self.ways[want.port].sink);
        let _turn = self.shared.metrics.turn();
        pair.give_up(&pair.held, DropReason::BufferFull, want.records, bytes);
    }
}

/// Ports that want the same rows share a frame.
fn groups(wants: Vec<Want>) -> Vec<Vec<Want>> {
    let mut groups: Vec<Vec<Want>> = Vec::with_capacity(1);
    for want in wants {
        match groups.iter_mut().find(|group| group[0].tags == want.tags) {
            Some(group) => group.push(want),
            None => groups.push(vec![want]),
        }
    }
    groups
}
