//! What happens to records between input and sink: one ordered list of steps, each a pure function in its own file.
//!
//! A step sees a whole batch and changes it in place. `match` (tag globs) is decided once for each tag of a batch,
//! `where` for each record. Steps know no I/O, clock or thread; what they need beside the batch is in the lane.
//!
//! Counters: each step's own, and `received`, which is set after joining.

pub mod condition; // what `where`, `drop` and `keep` ask
pub mod condition_text; // reads the text of a condition
pub mod filter; // drop, keep, sample
pub mod join; // pieces of split lines
pub mod logfmt; // key=value
pub mod mask; // hides names and patterns
pub mod nested; // changes inside encoded values
pub mod one_way; // patterns that need no automaton
pub mod parse; // text to fields
pub mod path; // names of values
pub mod read; // the steps of a configuration
pub mod route; // which sinks get a record
pub mod set; // set, rename, remove
pub mod tag; // gives records another tag
pub mod template; // text with {path} in it
pub mod time; // a field says when it happened

use crate::batch::Batch;
use crate::metrics::Oddity;
use crate::record::{TagGlob, Timestamp};

use condition::Condition;

/// A lane's scratch buffers are freed after a batch when they have grown beyond this.
const SCRATCH_MAX: usize = 1 << 20;

/// How the pieces of split lines are recognised; follows from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRule {
    /// Docker's json-file: a piece does not end in a line break; the next one of the same stream has the same time.
    DockerFile,
    /// CRI: `P` pieces up to an `F`, by stream. Joined whether or not a step asks for it.
    Cri,
    /// Docker's fluentd driver: `partial_id`, `partial_ordinal`, `partial_last`.
    Forward,
    /// Nothing to join.
    None,
}

/// The steps, shared by all inputs.
#[derive(Debug, Default)]
pub struct Pipeline {
    /// The tags whose pieces are joined, if there is a `join` step; it is always the first.
    join: Option<Vec<TagGlob>>,
    join_limits: join::Limits,
    steps: Vec<Step>,
    /// All sinks write JSON.
    to_json: bool,
}

/// One step.
#[derive(Debug)]
struct Step {
    /// `match`; empty for all tags.
    globs: Vec<TagGlob>,
    /// `where`.
    condition: Option<Condition>,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Parse(parse::Parse),
    Time(time::Time),
    Set(set::Set),
    Rename(set::Rename),
    Remove(set::Remove),
    Mask(mask::Mask),
    Filter(filter::Filter),
    Sample(filter::Sample),
    Tag(tag::Retag),
}

/// Which rows of a batch a step is for.
#[derive(Debug)]
pub struct Rows<'s> {
    /// One bit for each tag of the batch.
    tags: u64,
    condition: Option<&'s Condition>,
}

impl Rows<'_> {
    fn has(&self, batch: &Batch, at: usize) -> bool {
        self.tags >> batch.row(at).tag & 1 == 1 && self.condition.is_none_or(|condition| condition.holds(batch, at))
    }
}

/// Buffers that steps use again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    out: Vec<u8>,
    text: Vec<u8>,
    marks: Vec<bool>,
}

/// State of one ordered stream of records: a container's chain of files, a plain file, a connection.
#[derive(Debug)]
pub struct Lane {
    rule: JoinRule,
    joiner: join::Joiner,
    scratch: Scratch,
}

impl Lane {
    /// Position (batch `base` + row `pos`) of the first piece of an unfinished line: a follower must start there again
    /// after a crash. `None` when no piece waits, and for lanes of forward connections, which have no positions.
    pub fn hold(&self) -> Option<u64> {
        if self.rule == JoinRule::Forward { None } else { self.joiner.hold() }
    }

    /// Whether pieces wait for their end.
    pub fn is_waiting(&self) -> bool {
        self.joiner.is_waiting()
    }

    /// When the oldest of the waiting pieces came (the `now` of its batch). A forward connection flushes its lane when
    /// that is [`join::Limits::wait`] ago; `apply` sees to it whenever it is called.
    pub fn waiting_since(&self) -> Option<Timestamp> {
        self.joiner.oldest()
    }
}

impl Pipeline {
    /// What the `join` step lets wait, and for how long.
    pub fn join_limits(&self) -> join::Limits {
        self.join_limits
    }

    /// Fresh state for one stream of records.
    pub fn lane(&self, rule: JoinRule) -> Lane {
        Lane { rule, joiner: join::Joiner::default(), scratch: Scratch::default() }
    }

    /// Applies all steps to a batch. Pieces of lines that are not complete yet leave the batch and wait in the lane
    /// (with clones of its receipts, for the forward rule; a follower asks [`Lane::hold`] instead); a line that is
    /// completed becomes a record of this batch and brings the receipts of its pieces along. Sets `tally.received`.
    ///
    /// A joined record has the position of its first piece, which may lie before the batch's `base`: then `base` becomes
    /// smaller, so take what you need of it before.
    pub fn apply(&self, lane: &mut Lane, batch: &mut Batch, now: Timestamp) {
        let tags = match (&self.join, lane.rule) {
            (_, JoinRule::None) => 0,
            (_, JoinRule::Cri) => u64::MAX,
            (None, _) => 0,
            (Some(globs), _) => bits(globs, batch),
        };
        if tags == 0 && lane.is_waiting() && lane.rule == JoinRule::DockerFile {
            // A reload has taken `join` away: nothing will complete what waits. It comes before what is there.
            if let Some(first) = lane.joiner.hold().filter(|first| *first < batch.base) {
                batch.rebase(first);
            }
            let rows = batch.take_rows();
            lane.joiner.flush(lane.rule, batch, Oddity::PartialUnjoined);
            rows.into_iter().for_each(|row| batch.keep_row(row));
        } else if tags != 0 || lane.is_waiting() {
            lane.joiner.apply(lane.rule, self.join_limits, batch, tags, now);
        }
        self.after_join(lane, batch, now);
    }

    /// Makes the lane's waiting pieces records of `batch` (a fresh one): the stream has ended, or waits no longer.
    /// Counted as orphans. Applies the other steps.
    pub fn flush(&self, lane: &mut Lane, batch: &mut Batch, now: Timestamp) {
        lane.joiner.flush(lane.rule, batch, Oddity::PartialOrphan);
        self.after_join(lane, batch, now);
    }

    /// The same for pieces whose end is still expected, but which can not wait for it: their sender waits for the ack.
    /// Counted as unjoined.
    pub fn flush_unjoined(&self, lane: &mut Lane, batch: &mut Batch, now: Timestamp) {
        lane.joiner.flush(lane.rule, batch, Oddity::PartialUnjoined);
        self.after_join(lane, batch, now);
    }

    /// Whether the first step after joining takes `log` apart as JSON, in all records: then a codec may do so while it
    /// has the text at hand, of a record that is surely no piece of a line.
    pub fn takes_log_apart(&self) -> bool {
        self.steps.first().is_some_and(|step| {
            let all = step.globs.is_empty() && step.condition.is_none();
            all && matches!(&step.action, Action::Parse(parse) if parse.takes_log_apart())
        })
    }

    /// Says whether all sinks write JSON, and none of them wants values as they came.
    pub fn set_to_json(&mut self, yes: bool) {
        self.to_json = yes;
    }

    /// Whether records go to encoders of JSON alone, and no step looks at them before: then a codec may write them as JSON
    /// while it reads them.
    pub fn is_only_for_json(&self) -> bool {
        self.to_json && self.steps.is_empty() && self.join.is_none()
    }

    fn after_join(&self, lane: &mut Lane, batch: &mut Batch, now: Timestamp) {
        batch.tally.received = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let done = usize::from(batch.is_taken_apart() && self.takes_log_apart());
        for step in &self.steps[done..] {
            if batch.is_empty() {
                break;
            }
            let rows = Rows { tags: bits(&step.globs, batch), condition: step.condition.as_ref() };
            if rows.tags != 0 {
                step.run(batch, &rows, &mut lane.scratch, now);
            }
        }
        for buffer in [&mut lane.scratch.out, &mut lane.scratch.text] {
            buffer.clear();
            buffer.shrink_to(SCRATCH_MAX);
        }
    }
}

impl Step {
    fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch, now: Timestamp) {
        match &self.action {
            Action::Parse(step) => step.run(batch, rows, scratch),
            Action::Time(step) => step.run(batch, rows, scratch, now),
            Action::Set(step) => step.run(batch, rows, scratch),
            Action::Rename(step) => step.run(batch, rows, scratch),
            Action::Remove(step) => step.run(batch, rows, scratch),
            Action::Mask(step) => step.run(batch, rows, scratch),
            Action::Filter(step) => step.run(batch, rows, scratch),
            Action::Sample(step) => step.run(batch, rows, scratch),
            Action::Tag(step) => step.run(batch, rows, scratch),
        }
    }
}

/// One bit for each tag of the batch that the globs match; all bits for no globs.
fn bits(globs: &[TagGlob], batch: &Batch) -> u64 {
    if globs.is_empty() {
        return u64::MAX;
    }
    let tags = batch.tags().iter().enumerate();
    let matched = tags.filter(|(_, tag)| globs.iter().any(|glob| glob.matches(tag.as_str())));
    matched.fold(0, |bits, (at, _)| bits | 1 << at)
}

/// Index of the last field of row `at` whose key is exactly `key`.
fn index_of(batch: &Batch, at: usize, key: &[u8]) -> Option<usize> {
    batch.fields(at).iter().rposition(|field| field.key.len as usize == key.len() && batch.bytes(field.key) == key)
}

/// Removes every field of row `at` whose key is `key`; says how many there were.
fn remove_key(batch: &mut Batch, at: usize, key: &[u8]) -> u32 {
    let Some(index) = index_of(batch, at, key) else {
        return 0;
    };
    batch.remove_field(at, index);
    // More than one is rare; all of those go in one pass, however many a sender has put there.
    if index_of(batch, at, key).is_none() { 1 } else { 1 + remove_where(batch, at, |other| other == key) }
}

/// Removes every field of row `at` whose key `is_doomed`; says how many there were.
fn remove_where(batch: &mut Batch, at: usize, is_doomed: impl Fn(&[u8]) -> bool) -> u32 {
    let fields = batch.fields(at).iter().enumerate();
    let doomed: Vec<usize> = fields.filter(|(_, field)| is_doomed(batch.bytes(field.key))).map(|(at, _)| at).collect();
    batch.remove_fields(at, &doomed);
    u32::try_from(doomed.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
