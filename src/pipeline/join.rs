//! `join = "docker_partial"`: the pieces of a split line become one record again.
//!
//! Three rules, by input ([`JoinRule`]):
//!
//! - Docker's json-file driver cuts a line every 16,384 source bytes (moby, `daemon/logger/copier.go`). A piece has no
//!   line break at its end; the next piece has the same stream and the same time text. A piece of another size is the
//!   unterminated last output of a process: nothing follows it. A line of exactly 16,384 bytes is followed by an empty
//!   record. Another time on the same stream means that the waiting piece was the last output before a restart.
//! - CRI: `P` pieces up to an `F`, by stream.
//! - Docker's fluentd driver: `partial_id`, `partial_ordinal`, `partial_last` (since 19.03; the pieces of older drivers
//!   carry no id and go on as they are). The four fields leave the joined record.
//!
//! The joined record stands where its last piece was, with the time, position and other fields of its first piece, and
//! its text unescaped. Bytes are joined before anybody looks at them as UTF-8: a character may be cut in half.
//!
//! Limits ([`Limits`], keys of the step): bytes a line (what is there goes on as a record, the rest becomes another),
//! lines and bytes that wait in one lane (the oldest goes on), and the time for the forward rule. What waits is paid for
//! from the memory budget.
//! Counters: `piece`; `partial_orphan` for lines without their end (or beginning); `partial_unjoined` for the limits,
//! and for pieces that go on because their sender waits for their ack.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Batch, NO_CONTAINER, NO_FILE, NO_TAG, NO_TIME, PARTIAL, Receipts, Row, RowHead};
use crate::budget::Permit;
use crate::codec::json;
use crate::metrics::Oddity;
use crate::record::{Field, Form, Origin, Span, Stream, Tag, Timestamp, Value};

use super::JoinRule;

/// Source bytes of a piece that is not the last (`defaultBufSize` of moby's copier).
const PIECE_BYTES: usize = 16_384;
/// Lines of the greatest length whose bytes may wait in one lane.
pub const LANE_LINES: usize = 4;

/// What may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a joined line.
    pub line_max: usize,
    /// Unfinished lines in one lane.
    pub lines_max: usize,
    /// How long an unfinished line of a forward connection waits for its end.
    pub wait: Duration,
    /// The same where its sender waits for the ack of the piece, and so sends no other.
    pub acked_wait: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            line_max: 1 << 20,
            lines_max: 256,
            wait: Duration::from_secs(30),
            acked_wait: Duration::from_millis(250),
        }
    }
}

/// What a step has removed before; kept for the joined record.
const KEPT_FLAGS: [u16; 4] = [NO_TIME, NO_TAG, NO_CONTAINER, NO_FILE];
const LOG: &[u8] = b"log";

/// An unfinished line: a copy of all that is needed, since its batch has gone.
#[derive(Debug)]
struct Waiting {
    stream: Stream,
    /// `partial_id`, for the forward rule.
    id: Vec<u8>,
    time: Timestamp,
    time_text: Vec<u8>,
    tag: Tag,
    origin: Arc<Origin>,
    /// `base + pos` of the first piece.
    pos: u64,
    flags: u16,
    /// The unescaped text so far.
    text: Vec<u8>,
    /// Bytes of the other fields, whose spans count from its start.
    store: Vec<u8>,
    fields: Vec<Field>,
    /// Where `log` stands among the fields.
    log_at: usize,
    /// When the first piece came.
    since: Timestamp,
    /// The next `partial_ordinal`, where there are any.
    next_ordinal: Option<u64>,
    /// Its first piece was seen.
    whole: bool,
    /// Handles of all batches that it has pieces of, but for the one at hand.
    receipts: Receipts,
    /// It has a piece of the batch at hand.
    touched: bool,
}

impl Waiting {
    fn cost(&self) -> usize {
        self.text.capacity()
            + self.store.capacity()
            + self.fields.capacity() * size_of::<Field>()
            + self.receipts.0.capacity() * size_of::<crate::batch::Receipt>()
            + size_of::<Waiting>()
    }
}

/// The unfinished lines of one lane, oldest first.
#[derive(Debug, Default)]
pub struct Joiner {
    waiting: Vec<Waiting>,
    /// Those of the step at the last batch.
    limits: Limits,
    /// Pays for them; of the budget that the batches come from.
    permit: Option<Permit>,
}

/// What a row is to the joiner.
enum Part {
    /// A record of its own that ends whatever waits on its stream.
    Whole,
    /// A piece; `more` says that another one follows.
    Piece { more: bool },
    /// None of our business.
    Other,
}

impl Joiner {
    /// Position of the first waiting piece.
    pub fn hold(&self) -> Option<u64> {
        self.waiting.iter().map(|line| line.pos).min()
    }

    /// Whether anything waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When the oldest waiting piece came.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|line| line.since).min()
    }

    /// Joins the pieces of `batch` whose tag `wants` has (one bit a tag).
    pub fn apply(&mut self, rule: JoinRule, limits: Limits, batch: &mut Batch, wants: u64, now: Timestamp) {
        self.limits = limits;
        // No piece of a line is taken apart before it is joined.
        let is_any = || !batch.is_taken_apart() && (0..batch.len()).any(|at| is_piece(rule, batch, at));
        if self.waiting.is_empty() && !is_any() {
            return;
        }
        if let Some(first) = self.hold().filter(|first| *first < batch.base) {
            // Else (4 GiB lie between) the joined record keeps the base as its position, which is never too late.
            batch.rebase(first);
        }
        let own_receipts = batch.receipts.0.len();
        let rows = batch.take_rows();
        if rule == JoinRule::Forward {
            let wait = i64::try_from(limits.wait.as_nanos()).unwrap_or(i64::MAX);
            while let Some(at) = self.waiting.iter().position(|line| now.0.saturating_sub(line.since.0) > wait) {
                batch.tally.odd(Oddity::PartialOrphan);
                self.end(rule, at, batch);
            }
        }
        for row in rows {
            batch.keep_row(row);
            if wants >> row.tag & 1 == 1 {
                self.row(rule, row, batch, now);
            }
        }
        self.settle_in(rule, batch, own_receipts);
    }

    /// Makes records of all that waits, each counted as `why`.
    pub fn flush(&mut self, rule: JoinRule, batch: &mut Batch, why: Oddity) {
        if let Some(first) = self.hold() {
            if batch.is_empty() {
                batch.base = first;
            } else if first < batch.base {
                batch.rebase(first);
            }
        }
        while !self.waiting.is_empty() {
            batch.tally.odd(why);
            self.end(rule, 0, batch);
        }
        self.permit = None;
    }

    /// Takes the last row of the batch, which stays there or waits.
    fn row(&mut self, rule: JoinRule, row: Row, batch: &mut Batch, now: Timestamp) {
        let at = batch.len() - 1;
        let Some(log_at) = log_index(batch, at) else {
            return;
        };
        let found = self.position(rule, batch, at);
        let part = match rule {
            JoinRule::DockerFile if row.has(PARTIAL) => {
                Part::Piece { more: source_bytes(batch.value(&batch.fields(at)[log_at])) == PIECE_BYTES }
            }
            JoinRule::Cri if row.has(PARTIAL) => Part::Piece { more: true },
            JoinRule::DockerFile | JoinRule::Cri => Part::Whole,
            JoinRule::Forward if !is_piece(rule, batch, at) => Part::Other,
            JoinRule::Forward => Part::Piece { more: !is_true(batch, at, b"partial_last") },
            JoinRule::None => Part::Other,
        };
        match (part, found) {
            (Part::Other, _) | (Part::Whole, None) => {}
            (Part::Piece { more: false }, None) => {
                batch.row_mut(at).mark(PARTIAL, false);
                if rule == JoinRule::Forward {
                    // The end of a line whose beginning went elsewhere (or a line of one piece).
                    if ordinal(batch, at) != Some(1) {
                        batch.tally.odd(Oddity::PartialOrphan);
                    }
                    batch.tally.odd(Oddity::Piece);
                    remove_partial_fields(batch, at);
                }
            }
            (Part::Piece { more: true }, None) => self.start(rule, row, log_at, batch, now),
            (part, Some(index)) => self.go_on(rule, row, log_at, index, part, batch, now),
        }
    }

    /// A row that continues waiting line `index`, or ends it by being something else.
    #[expect(clippy::too_many_arguments, reason = "one place that decides; all of it is the row at hand")]
    fn go_on(
        &mut self,
        rule: JoinRule,
        row: Row,
        log_at: usize,
        index: usize,
        part: Part,
        batch: &mut Batch,
        now: Timestamp,
    ) {
        let at = batch.len() - 1;
        let line = &self.waiting[index];
        let continues = match rule {
            JoinRule::DockerFile => batch.bytes(row.time_text) == line.time_text,
            JoinRule::Forward => match (line.next_ordinal, ordinal(batch, at)) {
                (Some(expected), Some(got)) => expected == got,
                _ => true,
            },
            JoinRule::Cri | JoinRule::None => true,
        };
        let room = line.text.len() + batch.value(&batch.fields(at)[log_at]).bytes.len() <= self.limits.line_max;
        if !continues || !room {
            batch.tally.odd(if continues { Oddity::PartialUnjoined } else { Oddity::PartialOrphan });
            batch.pop_row();
            self.end(rule, index, batch);
            batch.keep_row(row);
            let at = batch.len() - 1;
            match part {
                Part::Piece { more: true } => {
                    self.start(rule, row, log_at, batch, now);
                    if let Some(rest) = self.waiting.last_mut().filter(|_| continues) {
                        // The rest of a long line has been counted above.
                        rest.whole = true;
                    }
                }
                _ => {
                    batch.row_mut(at).mark(PARTIAL, false);
                    if rule == JoinRule::Forward {
                        batch.tally.odd(Oddity::Piece);
                        remove_partial_fields(batch, at);
                    }
                }
            }
            return;
        }
        let line = &mut self.waiting[index];
        let piece = json::text(batch.value(&batch.fields(at)[log_at])).unwrap_or_default();
        line.text.extend_from_slice(&piece);
        line.next_ordinal = line.next_ordinal.map(|ordinal| ordinal.saturating_add(1));
        line.touched = true;
        // The codec has cut the line break of a whole row; of "\r" | "\n" it has seen the second half only.
        let cut_return = piece.is_empty() && line.text.ends_with(b"\r");
        drop(piece);
        batch.tally.odd(Oddity::Piece);
        batch.pop_row();
        match part {
            Part::Piece { more: true } => self.keep_within_limits(rule, batch),
            Part::Whole if cut_return && rule == JoinRule::DockerFile => {
                line.text.pop();
                self.end(rule, index, batch);
            }
            _ => {
                if !line.whole {
                    batch.tally.odd(Oddity::PartialOrphan);
                }
                self.end(rule, index, batch);
            }
        }
    }

    /// The waiting line that the last row belongs to.
    fn position(&self, rule: JoinRule, batch: &Batch, at: usize) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        match rule {
            JoinRule::Forward => {
                let id = batch.value(batch.find(at, b"partial_id")?).bytes;
                self.waiting.iter().position(|line| line.id == id)
            }
            _ => self.waiting.iter().position(|line| line.stream == batch.row(at).stream),
        }
    }

    /// Moves the last row out of the batch: the first piece of a line.
    fn start(&mut self, rule: JoinRule, row: Row, log_at: usize, batch: &mut Batch, now: Timestamp) {
        let at = batch.len() - 1;
        let text = json::text(batch.value(&batch.fields(at)[log_at])).unwrap_or_default().into_owned();
        let (mut id, mut ordinal_seen) = (Vec::new(), None);
        if rule == JoinRule::Forward {
            id = batch.find(at, b"partial_id").map_or(Vec::new(), |field| batch.value(field).bytes.to_vec());
            ordinal_seen = ordinal(batch, at);
        }
        let (mut store, mut fields, mut log_index) = (Vec::new(), Vec::new(), 0);
        let mut put = |bytes: &[u8]| {
            let span = Span { at: store.len() as u32, len: bytes.len() as u32 };
            store.extend_from_slice(bytes);
            span
        };
        for (index, field) in batch.fields(at).iter().enumerate() {
            if rule == JoinRule::Forward && is_partial_key(batch.bytes(field.key)) {
                continue;
            }
            if index == log_at {
                log_index = fields.len();
            }
            let key = put(batch.bytes(field.key));
            let value = if index == log_at { Span::default() } else { put(batch.bytes(field.value)) };
            fields.push(Field { key, value, ..*field });
        }
        self.waiting.push(Waiting {
            stream: row.stream,
            id,
            time: row.time,
            time_text: batch.bytes(row.time_text).to_vec(),
            tag: batch.tag_of(at).clone(),
            origin: Arc::clone(batch.origin_at(at)),
            pos: batch.base + u64::from(batch.row(at).pos),
            flags: KEPT_FLAGS.into_iter().filter(|flag| row.has(*flag)).sum(),
            text,
            store,
            fields,
            log_at: log_index,
            since: now,
            next_ordinal: ordinal_seen.map(|ordinal| ordinal.saturating_add(1)),
            whole: rule != JoinRule::Forward || ordinal_seen.is_none_or(|ordinal| ordinal == 1),
            receipts: Receipts::default(),
            touched: true,
        });
        batch.tally.odd(Oddity::Piece);
        batch.pop_row();
        self.keep_within_limits(rule, batch);
    }

    /// Lets the oldest lines go on while too many or too large ones wait.
    fn keep_within_limits(&mut self, rule: JoinRule, batch: &mut Batch) {
        let Limits { line_max, lines_max, .. } = self.limits;
        let is_over = |waiting: &[Waiting]| {
            waiting.len() > lines_max || waiting.iter().map(Waiting::cost).sum::<usize>() > LANE_LINES * line_max
        };
        while is_over(&self.waiting) {
            batch.tally.odd(Oddity::PartialUnjoined);
            self.end(rule, 0, batch);
        }
    }

    /// Makes line `index` a record at the end of the batch, with the handles of its pieces.
    fn end(&mut self, rule: JoinRule, index: usize, batch: &mut Batch) {
        let line = self.waiting.remove(index);
        let store = batch.push_bytes(&line.store).at;
        let text = batch.push_bytes(&line.text);
        let time_text = batch.push_bytes(&line.time_text);
        let shift = |span: Span| Span { at: store + span.at, len: span.len };
        let mark = batch.fields_mark();
        for (at, field) in line.fields.iter().enumerate() {
            let (value, form) = if at == line.log_at { (text, Form::Text) } else { (shift(field.value), field.form) };
            batch.push_field(Field { key: shift(field.key), value, form, ..*field });
        }
        let tag = batch.shared_tag_index(&line.tag).unwrap_or_else(|| {
            // All tags of a batch taken, and this line's is not among them: it can only go with another's.
            batch.tally.odd(Oddity::StepFailed);
            0
        });
        let pos = match rule {
            // Positions only name these records, and those of the batch's own rows are their indexes.
            JoinRule::Forward => 1 << 31 | mark as u32,
            _ => u32::try_from(line.pos.saturating_sub(batch.base)).unwrap_or(u32::MAX),
        };
        batch.push_row(mark, RowHead { time: line.time, time_text, pos, tag, stream: line.stream, partial: false });
        let at = batch.len() - 1;
        batch.row_mut(at).mark(line.flags, true);
        // Containers have changed their origin since (a name came): the file's batch at hand knows better.
        if rule == JoinRule::Forward {
            match batch.place_of(&line.origin) {
                Some(place) => batch.row_mut(at).set_place(place),
                None => batch.tally.odd(Oddity::StepFailed),
            }
        }
        batch.receipts.extend(line.receipts);
    }

    /// At the end of a batch: what still waits takes a handle of everything that the batch came with (its first `own`
    /// receipts; the others came from lines that ended here), and is paid for.
    fn settle_in(&mut self, rule: JoinRule, batch: &mut Batch, own: usize) {
        if rule == JoinRule::Forward {
            for line in self.waiting.iter_mut().filter(|line| line.touched) {
                line.receipts.0.extend_from_slice(&batch.receipts.0[..own]);
            }
        }
        for line in &mut self.waiting {
            line.touched = false;
        }
        let held: usize = self.waiting.iter().map(Waiting::cost).sum();
        match (&mut self.permit, held) {
            (permit, 0) => *permit = None,
            (Some(permit), held) => permit.resize(held),
            (permit @ None, held) => permit.insert(batch.permit().budget().empty_permit()).grow(held),
        }
    }
}

/// Whether a row is a piece of a line at all. Runs for every row.
fn is_piece(rule: JoinRule, batch: &Batch, at: usize) -> bool {
    match rule {
        JoinRule::DockerFile | JoinRule::Cri => batch.row(at).has(PARTIAL),
        JoinRule::Forward => batch.find(at, b"partial_id").is_some() && is_true(batch, at, b"partial_message"),
        JoinRule::None => false,
    }
}

fn is_true(batch: &Batch, at: usize, key: &[u8]) -> bool {
    batch.find(at, key).is_some_and(|field| {
        let value = batch.value(field);
        value.bytes == b"true" || (value.form == Form::Msg && value.bytes == [0xc3])
    })
}

fn ordinal(batch: &Batch, at: usize) -> Option<u64> {
    let value = batch.value(batch.find(at, b"partial_ordinal")?);
    std::str::from_utf8(value.bytes).ok()?.parse().ok()
}

fn is_partial_key(key: &[u8]) -> bool {
    matches!(key, b"partial_message" | b"partial_id" | b"partial_ordinal" | b"partial_last")
}

fn remove_partial_fields(batch: &mut Batch, at: usize) {
    super::remove_where(batch, at, is_partial_key);
}

/// The last field `log` that is a text.
fn log_index(batch: &Batch, at: usize) -> Option<usize> {
    let is_log = |field: &Field| {
        field.key.len == 3 && matches!(field.form, Form::Text | Form::JsonStr) && batch.bytes(field.key) == LOG
    };
    batch.fields(at).iter().rposition(is_log)
}

/// How many bytes of the container's output a piece was. Docker writes each byte that is not UTF-8 as an escaped
/// `\ufffd`, and a real U+FFFD raw, so the escaped one counts 1.
fn source_bytes(value: Value<'_>) -> usize {
    if value.form != Form::JsonStr {
        return value.bytes.len();
    }
    let (mut at, mut count) = (0, 0);
    let bytes = value.bytes;
    while let Some(step) = memchr::memchr(b'\\', &bytes[at..]) {
        count += step;
        at += step;
        let Some(hex) = bytes.get(at + 2..at + 6).filter(|_| bytes[at + 1] == b'u') else {
            count += 1;
            at = (at + 2).min(bytes.len());
            continue;
        };
        let code = std::str::from_utf8(hex).ok().and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
        // Half a surrogate pair: two halves are one character of 4 bytes.
        count += match code {
            0xfffd => 1,
            0..=0x7f => 1,
            0x80..=0x7ff => 2,
            0xd800..=0xdfff => 2,
            _ => 3,
        };
        at += 6;
    }
    count + bytes.len() - at
}
