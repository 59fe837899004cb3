//! The gap that a rotation left while longshore was stopped: the generation that was being read is gone. Reading goes on
//! with the oldest one that is there, and one record stands where lines are missing, for whoever reads them:
//! `{"longshore_gap":{"from":..,"to":..,"file":..,"bytes_at_least":..}}`. `from` is the time of the last record that was
//! delivered (left out where none is known), `to` that of the first one that is there, or that of reading where lines have
//! none. It comes before that one, goes through steps and sinks as any record, and until it is delivered the stored
//! checkpoint stays as it is, so it comes again after a crash. Its id is its own.
//!
//! The same is told where the place is there, and only the beginning of an unfinished line before it is gone, mostly with an older
//! file: `file` is that one, and `to` is `from` (where no time is known, that of reading). Later pieces of the line in the file
//! of the place come as a record.
//!
//! Counters: `generation_gone`, generations `lost`, lost bytes `gone`.

use std::sync::Arc;

use serde_json::json;

use super::Chain;
use super::place::{CUT_AT_LEAST, unread_at_least};
use crate::batch::Receipt;
use crate::codec::docker_json::LineHead;
use crate::codec::text;
use crate::codec::time::write_rfc3339;
use crate::inputs::Outlet;
use crate::inputs::follow::checkpoint::Saved;
use crate::inputs::follow::generations::Held;
use crate::inputs::follow::progress::RangeWaiter;
use crate::pipeline::JoinRule;
use crate::record::Timestamp;
use crate::record_id::{IdRun, prefix_of};

/// Memory of its batch.
const BATCH_BYTES: usize = 4 << 10;

/// Lines that are gone.
pub(super) struct Gap {
    from: i64,
    to: i64,
    file: String,
    bytes: u64,
    /// It is on its way.
    pub(super) told: bool,
}

impl Chain {
    /// The gap between a stored place and the head of the generation that reading goes on with.
    pub(super) fn gap_before(&self, oldest: &Arc<Held>, saved: &Saved) -> Gap {
        let (from, to) = (saved.last, self.first_time(oldest).unwrap_or(Timestamp::now().0));
        let (file, bytes) = (saved.done.name.clone(), unread_at_least(saved));
        tracing::warn!(
            key = self.key,
            file,
            offset = saved.done.offset,
            unread_at_least = bytes,
            from = shown(from),
            to = shown(to),
            goes_on_with = oldest.name,
            "the file that was being read is gone: lines between these times are lost; what is there is read from the oldest generation on"
        );
        Gap { from, to, file, bytes, told: false }
    }

    /// The gap that the first pieces of an unfinished line leave: what comes after them is there.
    pub(super) fn gap_in_line(&self, saved: &Saved) -> Option<Gap> {
        let (hold, _) = saved.hold.as_ref()?;
        tracing::warn!(
            key = self.key,
            file = hold.name,
            offset = hold.offset,
            goes_on_in = saved.done.name,
            "the beginning of a line is gone that was not finished: its first pieces are lost"
        );
        let at = if saved.last == 0 { Timestamp::now().0 } else { saved.last };
        Some(Gap { from: saved.last, to: at, file: hold.name.clone(), bytes: CUT_AT_LEAST, told: false })
    }

    /// Sends the record of a gap that is not told yet. False when the word to stop came while waiting for memory.
    pub(super) fn tell_gap(&mut self, outlet: &Outlet) -> bool {
        let Some(gap) = self.gap.as_mut().filter(|gap| !gap.told) else { return true };
        let Some(mut batch) = outlet.batch_blocking(BATCH_BYTES, &self.about.origin) else { return false };
        gap.told = true;
        let mut record = json!({ "to": shown(gap.to), "file": gap.file, "bytes_at_least": gap.bytes });
        if gap.from != 0 {
            record["from"] = json!(shown(gap.from));
        }
        let record = json!({ "longshore_gap": record });
        batch.base = self.position;
        let parts = [self.rules.input.as_bytes(), self.key.as_bytes(), b"gap", gap.file.as_bytes()];
        let first = u64::try_from(gap.from).unwrap_or(0);
        batch.ids.extend([IdRun { from: 0, prefix: prefix_of(&parts), first }]);
        let tag = batch.shared_tag_index(&self.about.tag).unwrap_or(0);
        let head = LineHead { tag, pos: 0, now: Timestamp(gap.to) };
        text::push_json(record.to_string().as_bytes(), head, &mut batch);
        outlet.apply(&mut outlet.lane(JoinRule::None), &mut batch);
        // Nothing is in flight: it is the first range. It ends where the last one did, also where lines before that are read again.
        let number = {
            let mut inner = self.progress.lock();
            let mark = inner.tracker.mark();
            inner.tracker.open(mark)
        };
        let waiter = RangeWaiter { progress: Arc::clone(&self.progress), number };
        batch.receipts.push(Receipt::new(Box::new(waiter)));
        outlet.send_blocking(batch);
        true
    }
}

fn shown(time: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(Timestamp(time), &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
