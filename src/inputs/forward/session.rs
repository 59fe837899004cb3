//! One conversation of the forward input, from a sender's first byte to its end or to a long silence: socket to batches.
//!
//! It reads only while it holds memory of the budget, and holds none while it is idle; between two parts of a frame it
//! holds what was read of it. What is read is decoded at once, and sent on as soon as the socket has no more, so that
//! an ack is as quick as the sinks.
//! Limits: a stall within a frame ([`Settings::stall`]), none between frames, since closing an idle
//! connection costs Docker a line: after [`SILENCE`] only what is made for the conversation goes. Buffers of unfinished frames share a quarter of the budget.
//! Memory is never waited for without end by somebody who holds some: only as many connections read at once as a
//! sixteenth of the budget has read buffers ([`Held::turn`]), and one of these that gets no memory for its next batch
//! within [`HOLDER_WAIT`] overdraws. Otherwise many senders could each hold a buffer and wait for the others'.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;

use crate::batch::{Batch, Receipt};
use crate::codec::forward::{Decoder, Need, Step};
use crate::inputs::Ack;
use crate::metrics::Oddity;
use crate::pipeline::{JoinRule, Lane, Pipeline};
use crate::record::{Origin, Timestamp};
use crate::record_id::{IdRun, prefix_of};

use super::acks::Acks;
use super::buffer::Buffer;
use super::codec_memory::Granted;
use super::connection::{Connection, count};
use super::held::Share;
use super::hint;
use super::socket::{Reader, Writer};

/// Bytes that are read at once.
pub(super) const READ: usize = 128 << 10;
/// Bytes of one batch.
const BATCH: usize = 256 << 10;
/// A connection with a turn waits this long for its next batch before it overdraws the budget.
pub(super) const HOLDER_WAIT: Duration = Duration::from_secs(1);
/// A connection that has read so much gives its turn to one that waits, once little of a frame is left in its buffer.
const TURN: usize = 1 << 20;
/// Frames above this are decoded as they arrive while memory is short.
const WHOLE_WHEN_SHORT: usize = 32 << 10;
/// A sender that has nothing outstanding and says nothing for so long is taken to be silent for longer. Short, so that
/// of a crowd that speaks now and then only few have a conversation at a time; making one anew takes microseconds.
pub(super) const SILENCE: Duration = Duration::from_millis(100);
/// What is still in the socket at the end is read and thrown away for so long, so that no reset eats the last ack.
const LINGER: Duration = Duration::from_millis(500);

/// Why a conversation ends.
#[derive(Debug)]
enum End {
    /// Nothing is outstanding and nothing comes: the connection stays.
    Silent,
    /// The sender closed it.
    Closed,
    /// The word to stop was said.
    Stop,
    /// The acks say so.
    Broken(&'static str),
    /// A message for the log.
    Fault(Oddity, String),
}

/// What an idle connection woke up for.
enum Woken {
    Readable,
    /// Pieces wait no longer; whether that is because of their acks.
    Flush(bool),
    /// Nothing: the sender waits for its acks.
    Still,
    End(End),
}

/// One conversation.
pub(super) struct Session {
    connection: Box<Connection>,
    peer: String,
    acks: Arc<Acks>,
}

/// A task that does not outlive who waits for it, also if that one panics: else the socket would stay open.
struct AbortOnDrop(tokio::task::JoinHandle<Option<Writer>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The parts that change while it is read.
struct Work {
    lane: Lane,
    origin: Arc<Origin>,
    decoder: Decoder,
    buffer: Buffer,
    /// Number and handle of the frame at hand, when some of its records are on their way already.
    split: Option<(u64, Receipt)>,
    granted: Granted,
    /// What decompression waits for.
    need: Option<Need>,
    /// Rows of the batch that frames before the one at hand have filled.
    named: usize,
    /// Scraps of the batch that wait with a receipt.
    refused: usize,
    /// Those that the batch at hand is read for.
    steps: Arc<Pipeline>,
}

impl Session {
    /// A conversation on a connection that is silent.
    pub(super) fn new(connection: Box<Connection>) -> Session {
        let shared = &connection.shared;
        let acks = Acks::new(shared.settings.acks, &shared.held.acks);
        Session { peer: connection.present.peer(), acks, connection }
    }

    /// Reads until the end, or until a silence: then the connection is given back.
    pub(super) async fn hold(mut self) -> Option<Box<Connection>> {
        let writer = self.connection.writer.take()?;
        let mut writer = AbortOnDrop(tokio::spawn(Arc::clone(&self.acks).write(writer)));
        let connection = &self.connection;
        let settings = &connection.shared.settings;
        let mut work = Work {
            lane: connection.outlet.lane(JoinRule::Forward),
            origin: Arc::new(Origin { peer: Some(self.peer.clone()), ..Origin::default() }),
            decoder: Decoder::resume(settings.limits, settings.docker, connection.place),
            buffer: Buffer::default(),
            split: None,
            granted: Granted::default(),
            need: None,
            named: 0,
            refused: 0,
            steps: connection.outlet.gate.pipeline(),
        };
        let end = self.read(&mut work).await;
        let is_cut = matches!(end, End::Closed | End::Stop | End::Fault(Oddity::FrameStalled, _));
        if is_cut && work.decoder.is_mid_frame() && work.buffer.len() > 0 {
            Box::pin(self.look_again(&mut work)).await;
        }
        if work.lane.is_waiting() {
            Box::pin(self.flush(&mut work, false)).await;
        }
        let place = work.decoder.place();
        drop(work);
        let Session { mut connection, peer, acks } = self;
        if matches!(end, End::Silent) {
            acks.hand_back();
            connection.place = place;
            connection.writer = (&mut writer.0).await.ok().flatten();
            return Some(connection);
        }
        let Connection { reader, outlet, shared, present, .. } = *connection;
        let (input, metrics) = (outlet.input, Arc::clone(&outlet.metrics));
        // The queues of the sinks end when the last outlet is gone; the acks need the socket alone.
        drop(outlet);
        match &end {
            End::Silent | End::Closed | End::Stop => (),
            End::Broken(why) => shared.complaints.say(&peer, format_args!("closed without an ack: {why}")),
            End::Fault(oddity, message) => {
                count(&metrics, input, *oddity);
                shared.complaints.say(&peer, format_args!("{message}"));
            }
        }
        if matches!(end, End::Broken(_)) {
            return None;
        }
        acks.close();
        let patience = if matches!(end, End::Stop) { Duration::MAX } else { shared.settings.acks.last_wait };
        let _ = tokio::time::timeout(patience, &mut writer.0).await;
        drop(writer);
        acks.abandon();
        if !matches!(end, End::Closed) {
            let _ = tokio::time::timeout(LINGER, drain(&reader)).await;
        }
        drop(present);
        None
    }

    /// What is boxed here is what it takes to read: while it waits for acks a conversation is small.
    async fn read(&self, work: &mut Work) -> End {
        let mut turn = None;
        loop {
            let share = self.go_idle(work);
            if share.is_some() || work.buffer.len() == 0 {
                turn = None;
            }
            let need = work.need.take();
            let woken = match need {
                Some(need) => Box::pin(self.wait_for_memory(work, need)).await,
                None => self.wait(work).await,
            };
            match woken {
                Woken::End(end) => return end,
                Woken::Flush(for_acks) => Box::pin(self.flush(work, for_acks)).await,
                Woken::Still => (),
                Woken::Readable => {
                    if let Some(end) = Box::pin(self.take(work, need.is_some(), share, &mut turn)).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Takes what the socket has, once there is a turn and memory for it.
    async fn take<'s>(
        &'s self,
        work: &mut Work,
        resumes: bool,
        share: Option<Share<'s>>,
        turn: &mut Option<SemaphorePermit<'s>>,
    ) -> Option<End> {
        if turn.is_none() {
            *turn = tokio::select! {
                turn = self.connection.shared.held.turn() => turn,
                () = self.connection.outlet.stop.wait() => return Some(End::Stop),
                () = self.acks.until_broken() => return Some(End::Broken(self.acks.broken().unwrap_or_default())),
            };
        }
        let mut batch = tokio::select! {
            batch = self.connection.outlet.batch(READ + BATCH, &work.origin) => batch,
            () = self.connection.outlet.stop.wait() => return Some(End::Stop),
            () = self.acks.until_broken() => return Some(End::Broken(self.acks.broken().unwrap_or_default())),
        };
        drop(share);
        // One wait for both, so that nobody waits for the one while holding the other.
        let got = batch.permit().bytes();
        let len = work.buffer.len();
        // A large part of a frame grows by a share of itself, when there is no room.
        let for_buffer = if work.buffer.spare() >= READ || len >= READ / 8 { 0 } else { READ.min(got / 2) };
        let mut permit = batch.permit().budget().empty_permit();
        batch.permit_mut().resize(got - for_buffer);
        permit.grow(for_buffer);
        work.buffer.grow(permit);
        let (batch, end) = self.fill(work, batch, resumes).await;
        self.ship_any(work, batch).await;
        if end.is_some() {
            return end;
        }
        if work.buffer.len() == 0 {
            *turn = None;
        }
        self.until_room(work).await
    }

    /// Waits until there is room for more acks. The ack of a piece that waits for the rest of its line may be what is in the
    /// way, so that is not waited for; and when acks of others make room, nobody tells.
    async fn until_room(&self, work: &mut Work) -> Option<End> {
        while !self.acks.has_room() {
            tokio::select! {
                () = self.acks.until_room() => (),
                () = self.connection.outlet.stop.wait() => return Some(End::Stop),
                () = tokio::time::sleep(self.connection.outlet.join_limits().acked_wait) => {
                    if work.lane.is_waiting() {
                        Box::pin(self.flush(work, true)).await;
                    }
                }
            }
        }
        None
    }

    /// Gives back all memory but the part of a frame that was read, or is kept of one that is refused. `None` without such a
    /// part, or where the share of the idle ones is used up: then the connection keeps its turn until the frame is whole,
    /// since what was read can not be given back to the socket.
    fn go_idle<'s>(&'s self, work: &mut Work) -> Option<Share<'s>> {
        let caught = work.decoder.caught();
        if work.buffer.len() == 0 {
            work.buffer = Buffer::default();
            if caught == 0 {
                return None;
            }
        } else {
            work.buffer.shrink();
        }
        let held = &self.connection.shared.held;
        let share = held.take(work.buffer.capacity() + caught);
        if share.is_none() && caught > 0 {
            // Bytes for a dead letter are nothing to make others wait for.
            work.decoder.let_go_of_caught();
            return if work.buffer.len() == 0 { None } else { held.take(work.buffer.capacity()) };
        }
        share
    }

    async fn wait(&self, work: &Work) -> Woken {
        let stalls = work.decoder.is_mid_frame() || work.buffer.len() > 0;
        let flushes = work.lane.is_waiting();
        let for_acks = self.acks.is_waiting();
        let stall = self.connection.shared.settings.stall;
        let wait = match (stalls, flushes) {
            (stalls, true) => {
                let join = self.connection.outlet.join_limits();
                // Who waits for the ack of a piece sends no other one meanwhile.
                let wait = if for_acks { join.acked_wait } else { join.wait };
                if stalls { wait.min(stall) } else { wait }
            }
            (true, false) => stall,
            (false, false) => SILENCE,
        };
        // While it owes an ack it stays as it is, and nothing has to be looked at.
        let owes = !stalls && !flushes && !self.acks.is_empty();
        tokio::select! {
            biased;
            () = self.connection.outlet.stop.wait() => Woken::End(End::Stop),
            () = self.acks.until_broken(), if !owes => Woken::End(End::Broken(self.acks.broken().unwrap_or_default())),
            () = self.acks.until_empty(), if owes => match self.acks.broken() {
                Some(why) => Woken::End(End::Broken(why)),
                None => Woken::Still,
            },
            ready = self.connection.reader.readable() => match ready {
                Ok(()) => Woken::Readable,
                Err(_) => Woken::End(End::Closed),
            },
            () = tokio::time::sleep(wait), if !owes => {
                if flushes {
                    return Woken::Flush(for_acks);
                }
                if !stalls {
                    return if self.acks.is_empty() { Woken::End(End::Silent) } else { Woken::Still };
                }
                let message = format!("closed: nothing came for {wait:?} within a frame");
                Woken::End(End::Fault(Oddity::FrameStalled, message))
            }
        }
    }

    /// Waits until decompression may go on. Nothing is read meanwhile, and the connection stays: what it waits for is
    /// with others whose frames go on, or end by the stall.
    async fn wait_for_memory(&self, work: &mut Work, need: Need) -> Woken {
        tokio::select! {
            biased;
            () = self.connection.outlet.stop.wait() => Woken::End(End::Stop),
            () = self.acks.until_broken() => Woken::End(End::Broken(self.acks.broken().unwrap_or_default())),
            () = work.granted.get(need, &self.connection.shared.held.codecs, &self.connection.outlet.budget) => {
                work.decoder.grant(need);
                Woken::Readable
            }
        }
    }

    /// Reads and decodes until the socket has no more; ships full batches on the way. `resumes`: what was read before
    /// could not be decoded yet.
    async fn fill(&self, work: &mut Work, mut batch: Batch, resumes: bool) -> (Batch, Option<End>) {
        let mut now = Timestamp::now();
        let mut taken = 0;
        self.read_for_steps(work);
        if resumes {
            let end;
            (batch, end) = self.decode(work, batch, now).await;
            if end.is_some() {
                return (batch, end);
            }
        }
        while work.need.is_none() {
            let read = match work.buffer.room() {
                (0, _) => {
                    let (more, end) = self.grow(work, batch, now).await;
                    batch = more;
                    match end {
                        Some(end) => return (batch, Some(end)),
                        None => continue,
                    }
                }
                (room, into) => self.connection.reader.try_read(room, into),
            };
            match read {
                Ok(0) => return (batch, Some(End::Closed)),
                Ok(bytes) => taken += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (batch, None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return (batch, Some(End::Closed)),
            }
            let end;
            (batch, end) = self.decode(work, batch, now).await;
            if end.is_some() {
                return (batch, end);
            }
            if self.connection.outlet.stop.is_set() {
                return (batch, Some(End::Stop));
            }
            if !self.acks.has_room() {
                return (batch, None);
            }
            if taken >= TURN && work.buffer.len() <= READ / 8 && self.connection.shared.held.is_busy() {
                return (batch, None);
            }
            now = Timestamp::now();
        }
        (batch, None)
    }

    /// Takes the whole entries that are still in the buffer, of a frame that will not end.
    async fn look_again(&self, work: &mut Work) {
        work.decoder.look_again();
        let batch = self.next_batch(work).await;
        let (batch, _) = self.decode(work, batch, Timestamp::now()).await;
        self.ship_any(work, batch).await;
    }

    /// Decodes what is in the buffer.
    async fn decode(&self, work: &mut Work, mut batch: Batch, now: Timestamp) -> (Batch, Option<End>) {
        #[cfg(test)]
        super::tests::panic_if_asked(work.buffer.data());
        loop {
            let (before, data) = work.buffer.parts();
            let (used, step) = work.decoder.decode_after(before, data, &mut batch, now);
            work.buffer.used(used);
            work.granted.release(work.decoder.memory());
            match step {
                Step::NeedMore => return (batch, None),
                Step::FrameEnd => self.frame_ended(work, &mut batch),
                Step::NeedsMemory(need) => {
                    if !work.granted.try_get(need, &self.connection.shared.held.codecs, &self.connection.outlet.budget)
                    {
                        work.need = Some(need);
                        return (batch, None);
                    }
                    work.decoder.grant(need);
                }
                Step::Full => {
                    self.ship(work, batch).await;
                    // A connection with much to say lets the others speak.
                    tokio::task::yield_now().await;
                    batch = self.next_batch(work).await;
                    if let Some(why) = self.acks.broken() {
                        return (batch, Some(End::Broken(why)));
                    }
                }
                Step::Lost(lost) => {
                    // Of a frame that is not used yet the bad byte may be far behind the start.
                    let at = lost.offset.saturating_sub(work.decoder.place().offset());
                    let rest = usize::try_from(at).ok().and_then(|at| work.buffer.data().get(at..)).unwrap_or_default();
                    let rest = &rest[..rest.len().min(32)];
                    let hex: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
                    let message = match hint::of_lost(lost.reason, rest) {
                        Some(hint) => format!("closed: {hint} (byte {}, {hex})", lost.offset),
                        None => format!("closed: {} at byte {} ({hex})", lost.reason, lost.offset),
                    };
                    return (batch, Some(End::Fault(Oddity::FramingLost, message)));
                }
            }
        }
    }

    fn frame_ended(&self, work: &mut Work, batch: &mut Batch) {
        let chunk = work.decoder.chunk();
        if work.decoder.is_json() {
            self.acks.speak_json();
        }
        // A chunk id comes last, so only the records of a frame that is whole in this batch can be named by it.
        let rows = std::mem::replace(&mut work.named, batch.len())..batch.len();
        if !rows.is_empty() {
            let prefix = match chunk {
                Some(chunk) if work.split.is_none() => prefix_of(&[b"chunk", chunk]),
                _ => fastrand::u64(..),
            };
            // At most a batch's rows, which fit a u32.
            batch.ids.push(IdRun { from: rows.start as u32, prefix, first: 0 });
        }
        let (number, receipt) = match (work.split.take(), chunk, self.connection.shared.settings.ack) {
            (Some(split), ..) => split,
            (None, Some(chunk), Ack::Accepted) => return self.acks.accept(chunk),
            (None, Some(_), _) => self.acks.open(),
            (None, None, _) => return,
        };
        self.acks.end(number, chunk);
        self.wait_for_scraps(work, batch, &receipt);
        batch.receipts.push(receipt);
    }

    /// What was refused since the last frame of the batch that has a receipt waits with this one: an ack says that it is
    /// kept.
    fn wait_for_scraps(&self, work: &mut Work, batch: &mut Batch, receipt: &Receipt) {
        let from = std::mem::replace(&mut work.refused, batch.scraps.kept.len());
        for scrap in batch.scraps.kept.iter_mut().skip(from) {
            scrap.receipts.push(receipt.clone());
        }
    }

    /// Makes room for a frame or entry that is larger than the buffer: with memory that is free; else by decoding the
    /// frame as it arrives; else by sending on what there is and waiting for memory.
    async fn grow(&self, work: &mut Work, batch: Batch, now: Timestamp) -> (Batch, Option<End>) {
        let awaited = work.decoder.waits_for();
        let Err(more) = work.buffer.try_grow(awaited, &self.connection.outlet.budget) else { return (batch, None) };
        let before = work.buffer.len();
        let whole_max = self.connection.shared.settings.limits.whole_max;
        work.decoder.set_whole_max(whole_max.min(WHOLE_WHEN_SHORT));
        let (mut batch, end) = self.decode(work, batch, now).await;
        work.decoder.set_whole_max(whole_max);
        if end.is_some() || work.need.is_some() || work.buffer.len() < before {
            return (batch, end);
        }
        if !(batch.is_empty() && batch.scraps.is_empty()) {
            self.ship(work, batch).await;
            batch = self.next_batch(work).await;
        }
        match tokio::time::timeout(self.connection.shared.settings.stall, self.connection.outlet.budget.acquire(more))
            .await
        {
            Ok(permit) => {
                work.buffer.grow(permit);
                (batch, None)
            }
            Err(_) => {
                let message = format!("closed: no memory for an entry of more than {before} bytes");
                (batch, Some(End::Fault(Oddity::ConnectionRefused, message)))
            }
        }
    }

    /// The next batch of a connection that holds a read buffer.
    async fn next_batch(&self, work: &mut Work) -> Batch {
        let outlet = &self.connection.outlet;
        let batch = tokio::time::timeout(HOLDER_WAIT, outlet.batch(BATCH, &work.origin)).await.unwrap_or_else(|_| {
            let mut permit = outlet.budget.empty_permit();
            permit.grow(BATCH);
            Batch::new(permit, outlet.input, Arc::clone(&work.origin))
        });
        self.read_for_steps(work);
        batch
    }

    /// Has the records of a new batch read as suits the steps and sinks that are behind the gate since a reload.
    fn read_for_steps(&self, work: &mut Work) {
        let steps = self.connection.outlet.gate.pipeline();
        work.decoder.set_as_json(steps.is_only_for_json());
        work.decoder.set_takes_apart(steps.takes_log_apart());
        work.steps = steps;
    }

    /// Ships a batch that has anything to say.
    async fn ship_any(&self, work: &mut Work, batch: Batch) {
        if !(batch.is_empty() && batch.scraps.is_empty() && batch.tally.bytes == 0 && batch.receipts.0.is_empty()) {
            self.ship(work, batch).await;
        }
    }

    async fn ship(&self, work: &mut Work, mut batch: Batch) {
        let goes_on = work.decoder.is_mid_frame() && !(batch.is_empty() && batch.scraps.is_empty());
        if goes_on && self.connection.shared.settings.ack != Ack::Accepted {
            // Records of a frame that goes on, whose chunk id comes last: it gets its place among the acks now.
            let (_, receipt) = work.split.get_or_insert_with(|| self.acks.open());
            let receipt = receipt.clone();
            self.wait_for_scraps(work, &mut batch, &receipt);
            batch.receipts.push(receipt);
        }
        work.refused = 0;
        self.say_refused(&batch);
        // Receipts are in the batch already: pieces of lines that wait take clones of them along.
        let named = std::mem::take(&mut work.named);
        if named < batch.len() {
            // The frame goes on in the next batch.
            batch.ids.push(IdRun { from: named as u32, prefix: fastrand::u64(..), first: 0 });
        }
        batch.number_rows();
        // A reload may have put others behind the gate since, which would not know what was done as one of these.
        work.steps.apply(&mut work.lane, &mut batch, Timestamp::now());
        batch.durable = self.connection.shared.settings.ack == Ack::Durable;
        self.connection.outlet.send(batch).await;
    }

    /// A line about what was refused: its reasons are counted, the last one is said.
    fn say_refused(&self, batch: &Batch) {
        if let Some(scrap) = batch.scraps.kept.last() {
            let (what, bytes, reason) = (scrap.what, scrap.whole, scrap.reason.name());
            let message =
                format_args!("refused {what} of {bytes} bytes: {reason}; it is counted and never becomes a record");
            self.connection.shared.refusals.say(&self.peer, message);
        }
    }

    /// Sends the pieces of lines that wait for their end on as they are.
    async fn flush(&self, work: &mut Work, for_acks: bool) {
        let mut batch = self.connection.outlet.batch(BATCH, &work.origin).await;
        match for_acks {
            true => self.connection.outlet.flush_unjoined(&mut work.lane, &mut batch),
            false => self.connection.outlet.flush(&mut work.lane, &mut batch),
        }
        batch.durable = self.connection.shared.settings.ack == Ack::Durable;
        self.connection.outlet.send(batch).await;
    }
}

async fn drain(reader: &Reader) {
    let mut nowhere = Vec::new();
    while reader.readable().await.is_ok() {
        nowhere.clear();
        match reader.try_read(16 << 10, &mut nowhere) {
            Ok(0) => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(_) => return,
        }
    }
}
