//! From bytes to batches: cuts what a read found into lines, decodes them, and closes batches with their receipts.

use std::sync::Arc;

use memchr::memchr;

use super::{Chain, Context};
use crate::batch::{Batch, Receipt};
use crate::codec::docker_json::{LineHead, LogForm};
use crate::codec::time;
use crate::inputs::follow::decode::{self, Format};
use crate::inputs::follow::identity::{self, Mark};
use crate::inputs::follow::progress::RangeWaiter;
use crate::inputs::follow::source::{self, Source};
use crate::inputs::follow::tracker;
use crate::inputs::{Ack, Outlet};
use crate::metrics::{Oddity, Tally};
use crate::record::{Row, Timestamp};
use crate::record_id::{IdRun, prefix_of};

/// Memory of one batch, at most: the arena of a block of lines and its tables.
const BATCH_BYTES: usize = 512 << 10;

impl Chain {
    /// Feeds the `n` bytes that the last read found, up to where something else begins.
    pub(super) fn take(&mut self, context: &mut Context<'_>, n: usize, whole: bool) {
        let Some(mut source) = self.source.take() else { return };
        let replaying = self.position < self.replay_until;
        let border = self.behind.front().map_or(u64::MAX, |span| span.start);
        let until = if replaying { border.min(self.replay_until) } else { border };
        let allowed = n.min(usize::try_from(until - self.position).unwrap_or(usize::MAX));
        // What was read up to where another file began was all of its own: its unfinished line was a record.
        let whole = whole || self.position + allowed as u64 == border;
        let hole = source.is_in_hole().then_some(source.offset);
        let used = self.feed(context.outlet, &source.data(context.buf, n)[..allowed], whole, hole);
        if self.truncated == Some(source.held.id) && source.data(context.buf, n)[..used].iter().any(|byte| *byte != 0) {
            self.truncated = None;
        }
        source.consume(context.buf, used);
        self.position += used as u64;
        if allowed < n {
            source.leave();
        }
        self.source = Some(source);
        if replaying && (self.position >= self.replay_until || used == 0 && allowed < n) {
            self.close(context.outlet);
            // What was delivered ends at a line; should it not, the limit of a line was changed meanwhile.
            self.replay_until = self.position;
        }
        if self.position >= border {
            self.next_behind(context.outlet);
        }
    }

    /// Lines of `data`, which stands at the position. `hole`: at the head of its file, or behind so many bytes of which the last are
    /// NULs. Returns the bytes used; the rest is an unfinished line.
    fn feed(&mut self, outlet: &Outlet, data: &[u8], whole: bool, hole: Option<u64>) -> usize {
        let max = self.rules.line_max;
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            if self.skipping.is_some() {
                match memchr(b'\n', rest) {
                    Some(end) => {
                        at += end + 1;
                        self.skipping = None;
                    }
                    None => at = data.len(),
                }
                continue;
            }
            let in_hole = hole.is_some() && at == 0;
            if rest[0] == 0 && (self.rules.docker || in_hole) {
                // A file that was truncated under its writer starts with as many NULs as it had bytes.
                let run = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
                // All of these look alike: the file is known by what follows, and is begun with that. That may be written over
                // the last of them.
                let line = &rest[run..];
                let waits = if line.is_empty() {
                    rest.len() < source::BLOCK
                } else {
                    run < source::BLOCK && line.len() <= max && memchr(b'\n', line).is_none()
                };
                if in_hole && !whole && waits {
                    break;
                }
                // Of one that is longer than a read once.
                if !in_hole || hole == Some(0) {
                    self.tally.odd(Oddity::NulRun);
                }
                at += run;
                continue;
            }
            let (line, used) = match memchr(b'\n', rest) {
                Some(end) => (&rest[..end], end + 1),
                None if rest.len() > max => (rest, rest.len()),
                None if whole => {
                    if self.rules.format != Format::Text {
                        self.tally.odd(Oddity::TornLine);
                    }
                    (rest, rest.len())
                }
                None => break,
            };
            let cut = line.len() > max;
            let kept = if cut { decode::cut(line, max) } else { line };
            if !self.push_line(outlet, kept, data, at) {
                break;
            }
            if cut {
                self.tally.odd(Oddity::LineCut);
                if used == line.len() && !whole {
                    self.skipping = Some(self.position + at as u64);
                }
            }
            at += used;
        }
        at
    }

    /// Adds one line, which starts at `data[at]`. False when the word to stop came while waiting for memory.
    fn push_line(&mut self, outlet: &Outlet, line: &[u8], data: &[u8], at: usize) -> bool {
        if line.is_empty() && !self.rules.format.keeps_empty() {
            return true;
        }
        let position = self.position + at as u64;
        // A row's position is 32 bits, counted from the batch's base.
        let far = |batch: &Batch| position - batch.base > u64::from(u32::MAX) / 2;
        if self.filling.as_ref().is_some_and(|batch| batch.is_full() || far(batch)) {
            let tail = at.checked_sub(identity::TAIL_BYTES).map_or(Mark::default(), |from| Mark::of(&data[from..at]));
            self.close_at(outlet, position, tail);
        }
        if self.filling.is_none() {
            // Lines cost more in memory than in the file; what is wished for too much is given back when it is sent. By all that was
            // read, so that batches of a busy file, and with them their arenas, are of one size.
            let wanted = (data.len() * 2 + (4 << 10)).clamp(16 << 10, BATCH_BYTES);
            let Some(mut batch) = outlet.batch_blocking(wanted, &self.about.origin) else { return false };
            batch.base = position;
            self.unnamed = true;
            self.now = Timestamp::now();
            // The text of a line whose pieces wait is not whole yet.
            let steps = outlet.gate.pipeline();
            let apart = steps.takes_log_apart() && !self.lane.is_waiting();
            let escaped = self.rules.format == Format::Text && steps.is_only_for_json();
            self.log = match (apart, escaped) {
                (true, _) => LogForm::Members,
                (false, true) => LogForm::Escaped,
                (false, false) => LogForm::Text,
            };
            self.steps = apart.then_some(steps);
            self.filling = Some(batch);
        }
        // The records of the next file have its name, wherever the batch began: the same one when they are read again.
        let run = if std::mem::take(&mut self.unnamed) { self.ids_from(position) } else { None };
        let Some(batch) = &mut self.filling else { return false };
        let tag = batch.shared_tag_index(&self.about.tag).unwrap_or(0);
        let pos = u32::try_from(position - batch.base).unwrap_or(u32::MAX);
        batch.ids.extend(run.map(|run| IdRun { from: pos, ..run }));
        let head = LineHead { tag, pos, now: self.now };
        self.rules.format.decode(line, &data[at..], head, batch, self.log);
        true
    }

    /// Names the records from a position on: by input, container or path, file, and offset in it.
    fn ids_from(&self, position: u64) -> Option<IdRun> {
        let inner = self.progress.lock();
        let span = inner.span_of(position)?;
        let id = span.named;
        let parts = [self.rules.input.as_bytes(), self.key.as_bytes()];
        let file = [id.dev.to_le_bytes(), id.ino.to_le_bytes(), id.btime.to_le_bytes()];
        let prefix = prefix_of(&[parts[0], parts[1], &file.concat()]);
        Some(IdRun { from: 0, prefix, first: span.from + (position - span.start) })
    }

    /// Sends what was read in this turn.
    pub(super) fn close(&mut self, outlet: &Outlet) {
        let tail = self.source.as_ref().map_or(Mark::default(), Source::tail);
        self.close_at(outlet, self.position, tail);
    }

    /// Closes the range up to `end`.
    fn close_at(&mut self, outlet: &Outlet, end: u64, tail: Mark) {
        let filled = self.filling.take();
        if filled.is_none() && end <= self.ranged {
            outlet.metrics.add(outlet.input, &std::mem::take(&mut self.tally));
            return;
        }
        let mut batch = match filled {
            Some(batch) => batch,
            None => Batch::new(outlet.budget.empty_permit(), outlet.input, Arc::clone(&self.about.origin)),
        };
        // A torn line has the time at which it was read, which may be long after those of files that are still to come.
        let own = |row: &Row| !self.rules.docker || row.time == Timestamp::UNREAD;
        if let Some(time) = batch.rows().iter().rposition(own).and_then(|at| time::of(&batch, at)) {
            self.last = self.last.max(time.0);
        }
        match self.steps.take() {
            _ if batch.is_empty() => {}
            Some(steps) => steps.apply(&mut self.lane, &mut batch, Timestamp::now()),
            None => outlet.apply(&mut self.lane, &mut batch),
        }
        if end <= self.ranged {
            // Rows that were delivered before: only what waits in the lane is new. Counted before, too.
            self.tally = Tally::default();
            return;
        }
        add(&mut batch.tally, &std::mem::take(&mut self.tally));
        batch.tally.bytes += end - self.ranged;
        self.ranged = end;
        self.send(outlet, batch, tracker::Mark { done: end, tail, hold: self.hold(), time: self.last });
    }

    /// Makes records of the pieces that wait: their ends will not come.
    pub(super) fn flush_lane(&mut self, outlet: &Outlet) {
        let Some(first) = self.lane.hold() else { return };
        let mut batch = Batch::new(outlet.budget.empty_permit(), outlet.input, Arc::clone(&self.about.origin));
        batch.base = first;
        batch.ids.extend(self.ids_from(first));
        batch.shared_tag_index(&self.about.tag);
        outlet.flush(&mut self.lane, &mut batch);
        // Of what is replayed everything up to the place was delivered.
        let done = self.position.max(self.ranged);
        let mark = tracker::Mark { done, hold: self.hold_before(done), time: self.last, ..tracker::Mark::default() };
        self.send(outlet, batch, mark);
    }

    /// Where the first line begins that is not finished.
    fn hold(&self) -> Option<u64> {
        let aside = self.aside.iter().flat_map(|aside| [aside.lane.hold(), aside.skipping]);
        // A line that was cut in a lingering file may begin before all that is known of it: nothing begins there again.
        let skipping = self.skipping.filter(|_| self.aside.is_none());
        [self.lane.hold(), skipping].into_iter().chain(aside).flatten().min()
    }

    /// The same where everything before `done` was delivered, though it is to be read: pieces that are not read yet may lie there.
    pub(super) fn hold_before(&self, done: u64) -> Option<u64> {
        self.hold().or((self.position < done).then_some(self.position))
    }

    /// Sends a batch; up to the mark everything is delivered with it.
    fn send(&self, outlet: &Outlet, mut batch: Batch, mark: tracker::Mark) {
        let number = self.progress.lock().tracker.open(mark);
        let waiter = RangeWaiter { progress: Arc::clone(&self.progress), number };
        match self.rules.ack {
            Ack::Delivered | Ack::Durable => batch.receipts.push(Receipt::new(Box::new(waiter))),
            Ack::Accepted => self.progress.settle(number, true),
        }
        outlet.send_blocking(batch);
    }
}

/// Whether the first bytes of a file have a line, behind the hole that a truncation left.
pub(super) fn has_line(data: &[u8], line_max: usize) -> bool {
    let hole = data.iter().take_while(|byte| **byte == 0).count();
    data.len() - hole > line_max || memchr(b'\n', &data[hole..]).is_some()
}

fn add(to: &mut Tally, from: &Tally) {
    let add = |to: &mut [u32], from: &[u32]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    add(&mut to.oddities, &from.oddities);
    add(&mut to.rejected, &from.rejected);
    add(&mut to.dropped, &from.dropped);
    to.bytes += from.bytes;
    to.received += from.received;
}
