//! Dead letters: records that a sink's destination refused for good, and data that an input refused (`scraps.rs`), kept with
//! the reason until somebody looks.
//!
//! They lie in a disk log of their own, `<data_dir>/dead-letters`: one frame a letter (`codec/dead_letter.rs`), no more
//! than [`Settings::size`](crate::buffer::Settings) bytes, the oldest segment dropped and counted for what is new. The log
//! is made with the first letter, so a node that never has one has neither folder nor thread.
//!
//! The origin of what was refused is told once its letter is on the disk; a letter that can not be written is counted
//! (`unwritten`) and holds nobody up. But at a stop, where nobody would wait for it: then the origin hears "not delivered", and
//! what is read or sent again is refused again, and gets its letter then. In the ledger the record is `rejected`, and stays so whatever becomes of the letter:
//! what `longshore dead-letters replay` sends is told by that command alone.
//!
//! Limits: a full queue before the disk is waited for [`PATIENCE`] in all for one answer of a destination.

mod look;
mod marks;
mod scraps;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use look::{Letter, Letters, Of as LetterOf};
pub use marks::Marks;

use crate::batch::{Batch, Outcome, Receipts};
use crate::buffer::{
    self, Committed, Full, Log, Loss, LossReason, Lost, Lsn, NoRoom, Payload, Refusal, State, Watcher,
};
use crate::codec::dead_letter::{self, Head};
use crate::log::Limited;
use crate::metrics::letters::LetterCounts;
use crate::metrics::{Health, LetterLoss, Metrics, RejectReason};
use scraps::{Allowance, There};

/// The folder within the data folder.
pub const FOLDER: &str = "dead-letters";
/// The health check.
pub const CHECK: &str = "dead_letters";
/// The log's size where nothing is configured, and the file system has sixteen times that.
pub const SIZE: u64 = 64 << 20;
/// The one reader of the log. It settles nothing: what goes, goes for room.
const READER: &str = "dead letters";
/// How long the records of one answer wait for the disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// A log that can not be opened is tried again after this.
const OPEN_AGAIN: Duration = Duration::from_secs(30);

static SAID: Limited = Limited::new(4);

/// Where refused records go. One for the node.
pub struct DeadLetters {
    settings: buffer::Settings,
    metrics: Arc<Metrics>,
    opened: Mutex<Opened>,
    /// The thread of a log that was closed had panicked.
    failed: AtomicBool,
    /// The node stops.
    closing: Arc<AtomicBool>,
    /// Sources of the log below this are sinks; inputs follow.
    sinks: usize,
    allowance: Mutex<Allowance>,
    /// Until when letters of inputs are not waited for: the last one was in vain.
    impatient: Mutex<Option<Instant>>,
}

enum Opened {
    NotYet,
    Log(Arc<Log>),
    Failed(Instant),
    Closed,
}

/// Records that were refused together.
pub struct Refused {
    /// Where they are.
    pub batch: Arc<Batch>,
    /// Which of them: indexes of rows.
    pub rows: Vec<u32>,
    /// Who waits.
    pub receipts: Receipts,
    /// The reason, as it is counted.
    pub reason: RejectReason,
    /// What the destination said.
    pub cause: String,
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("dir", &self.settings.dir).finish_non_exhaustive()
    }
}

impl DeadLetters {
    /// For the sinks and inputs of these metrics; `size` is `[dead_letters] size`. Opens what is there from before.
    pub fn new(data_dir: &Path, size: Option<u64>, metrics: &Arc<Metrics>) -> Arc<DeadLetters> {
        let dir = data_dir.join(FOLDER);
        let there = dir.exists();
        let size = size.unwrap_or_else(|| default_size(data_dir));
        let mut sources: Vec<String> = metrics.sinks.iter().map(|sink| sink.name.clone()).collect();
        let sinks = sources.len();
        // No name has a space, so that an input and a sink may have the same.
        sources.extend(metrics.inputs.iter().map(|input| format!("input {}", input.name)));
        let settings = buffer::Settings {
            full: Full::DropOldest,
            sources,
            watcher: Some(Arc::new(LetterWatcher { metrics: Arc::clone(metrics), sinks })),
            ..buffer::Settings::new(dir, size)
        };
        let letters = Arc::new(DeadLetters {
            settings,
            metrics: Arc::clone(metrics),
            opened: Mutex::new(Opened::NotYet),
            failed: AtomicBool::new(false),
            closing: Arc::default(),
            sinks,
            allowance: Mutex::new(Allowance::of(size, Instant::now())),
            impatient: Mutex::default(),
        });
        if there {
            letters.log();
        }
        letters
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, opened if need be. Takes as long as the disk does.
    pub(crate) fn log(&self) -> Option<Arc<Log>> {
        let mut opened = self.opened();
        match &*opened {
            Opened::Log(log) => return Some(Arc::clone(log)),
            Opened::Closed => return None,
            Opened::Failed(at) if at.elapsed() < OPEN_AGAIN => return None,
            Opened::Failed(_) | Opened::NotYet => {}
        }
        match Log::open(self.settings.clone(), &[READER]) {
            Ok((log, _)) => {
                self.metrics.check(CHECK, Health::Pass, "");
                *opened = Opened::Log(Arc::clone(&log));
                Some(log)
            }
            Err(error) => {
                let text = format!("what is refused can not be kept: {error}");
                tracing::error!("{text}");
                self.metrics.check(CHECK, Health::Warn, text);
                *opened = Opened::Failed(Instant::now());
                None
            }
        }
    }

    /// Keeps records that a sink refused, and settles their receipts as rejected: each when its letter is on the disk,
    /// or at once where it can not be written. Called by the sink's own thread.
    pub fn keep(&self, sink: usize, refused: Refused) {
        let Refused { batch, rows, receipts, reason, cause } = refused;
        let cause: Arc<str> = cause.into();
        let until = Instant::now() + PATIENCE;
        let log = self.log();
        for row in rows {
            let letter = Arc::new(Kept {
                batch: Arc::clone(&batch),
                row: row as usize,
                sink,
                reason,
                cause: Arc::clone(&cause),
                metrics: Arc::clone(&self.metrics),
            });
            let done = self.done(receipts.clone(), Of::Sink(sink));
            match &log {
                Some(log) => append_blocking(log, letter, done, until),
                None => Box::new(done).committed(Err(Lost::Closed)),
            }
        }
        receipts.settle(Outcome::Delivered);
    }

    fn done(&self, receipts: Receipts, of: Of) -> Done {
        Done { receipts, of, metrics: Arc::clone(&self.metrics), closing: Arc::clone(&self.closing) }
    }

    /// Copies the log's figures to the metrics.
    pub fn look(&self) {
        // Asked by the loop that hears signals: it does not wait while somebody opens the log.
        let There::Log(log) = self.there() else { return };
        let status = log.status();
        self.metrics.letters.size.store(status.size, Relaxed);
        self.metrics.letters.bytes.store(status.bytes, Relaxed);
        let Some(backlog) = status.readers.first() else { return };
        let (of_sinks, of_inputs) = backlog.by_source.split_at(self.sinks.min(backlog.by_source.len()));
        for (sink, count) in self.metrics.sinks.iter().zip(of_sinks) {
            sink.letters.there.store(count.records, Relaxed);
        }
        for (input, count) in self.metrics.inputs.iter().zip(of_inputs) {
            input.letters.there.store(count.records, Relaxed);
        }
    }

    /// Whether the log's thread has panicked: no letter is kept any more, the node has to stop. Does not wait.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed) || matches!(self.there(), There::Log(log) if log.failed().is_set())
    }

    /// Writes what is queued and closes the log: before the last checkpoints, which rest on it.
    pub fn close(&self, deadline: Instant) {
        self.closing.store(true, Relaxed);
        let opened = std::mem::replace(&mut *self.opened(), Opened::Closed);
        let Opened::Log(log) = opened else { return };
        if let Err(error) = log.close(deadline) {
            tracing::error!("the log of dead letters could not be closed in order: {error}");
        }
        self.failed.fetch_or(log.failed().is_set(), Relaxed);
    }
}

/// 64 MiB, or a sixteenth of the file system where that is less.
fn default_size(data_dir: &Path) -> u64 {
    let total = rustix::fs::statvfs(data_dir).map_or(u64::MAX, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    (total / 16).clamp(buffer::SIZE_MIN, SIZE)
}

/// Where the letters of a data folder are.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

fn append(log: &Log, letter: Arc<dyn Payload>, done: Box<dyn Committed>) -> Result<(), NoRoom> {
    log.append(1, 1, letter, done).map(|_| ())
}

/// What a refusal that is not waited out means.
fn refusal(why: Refusal) -> Lost {
    if why == Refusal::TooLarge { Lost::TooLarge } else { Lost::Closed }
}

fn append_blocking(log: &Log, letter: Arc<Kept>, done: Done, until: Instant) {
    let mut done: Box<dyn Committed> = Box::new(done);
    loop {
        match append(log, Arc::<Kept>::clone(&letter), done) {
            Ok(()) => return,
            // Thousands wait for one sync: the sink waits with them, in its own thread, which holds up nobody else.
            Err(refused) if refused.why == Refusal::Queue && Instant::now() < until => {
                done = refused.done;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(refused) => return refused.done.committed(Err(refusal(refused.why))),
        }
    }
}

/// One refused record, to be encoded by the log's thread.
struct Kept {
    batch: Arc<Batch>,
    row: usize,
    sink: usize,
    reason: RejectReason,
    cause: Arc<str>,
    metrics: Arc<Metrics>,
}

impl Kept {
    fn head(&self) -> Head<'_> {
        Head {
            sink: &self.metrics.sinks[self.sink].name,
            input: &self.metrics.inputs[usize::from(self.batch.input)].name,
            reason: self.reason.name(),
            cause: &self.cause,
        }
    }
}

impl Payload for Kept {
    fn encode(&self, out: &mut Vec<u8>) {
        dead_letter::encode(&self.head(), &self.batch, self.row, out);
    }

    fn size_hint(&self) -> usize {
        dead_letter::size_hint(&self.head(), &self.batch, self.row)
    }

    fn source(&self) -> usize {
        self.sink
    }
}

/// Who refused it: a number in the metrics.
#[derive(Clone, Copy)]
enum Of {
    Sink(usize),
    Input(u16),
}

struct Done {
    receipts: Receipts,
    of: Of,
    metrics: Arc<Metrics>,
    /// As in [`DeadLetters`].
    closing: Arc<AtomicBool>,
}

impl Committed for Done {
    fn committed(self: Box<Self>, outcome: Result<Lsn, Lost>) {
        let (kind, name, counts): (_, &str, &LetterCounts) = match self.of {
            Of::Sink(sink) => ("sink", &self.metrics.sinks[sink].name, &self.metrics.sinks[sink].letters),
            Of::Input(input) => {
                let input = &self.metrics.inputs[usize::from(input)];
                ("input", &input.name, &input.letters)
            }
        };
        match outcome {
            Ok(_) => {
                counts.written.fetch_add(1, Relaxed);
            }
            // Dropped unsettled: its origin gives it again.
            Err(Lost::Closed) if self.closing.load(Relaxed) => return,
            Err(why) => {
                counts.lose(LetterLoss::Unwritten, 1);
                let key = format!("{kind} {name}");
                if let Some(left_out) = SAID.allow(&key) {
                    tracing::error!(?why, left_out, "what {key} refused could not be kept as a dead letter");
                }
            }
        }
        self.receipts.settle(Outcome::Rejected);
    }
}

/// Hears from the log.
struct LetterWatcher {
    metrics: Arc<Metrics>,
    /// As in [`DeadLetters`].
    sinks: usize,
}

impl Watcher for LetterWatcher {
    fn lost(&self, loss: &Loss) {
        let why = match loss.why {
            LossReason::Damaged => LetterLoss::LetterDamaged,
            LossReason::DroppedOldest | LossReason::ReaderRemoved => LetterLoss::PushedOut,
        };
        // Those of a sink or input that is configured no longer are nobody's.
        let Some(source) = loss.source else { return };
        let counts = match source.checked_sub(self.sinks) {
            None => self.metrics.sinks.get(source).map(|sink| &sink.letters),
            Some(input) => self.metrics.inputs.get(input).map(|input| &input.letters),
        };
        if let Some(counts) = counts {
            counts.lose(why, loss.count.records);
        }
    }

    fn state(&self, state: &State) {
        match state {
            State::Degraded { cause } => {
                self.metrics.check(CHECK, Health::Warn, format!("what is refused can not be kept: {cause}"));
            }
            State::Healthy => self.metrics.check(CHECK, Health::Pass, ""),
            State::Full | State::Closed => {}
        }
    }
}

/// Looks at the letters of a data folder, whether or not a node runs there. `None` where there never was one.
///
/// # Errors
/// The folder can not be read, or was written by a newer version.
pub fn look(data_dir: &Path) -> io::Result<Option<Letters>> {
    Letters::open(&folder(data_dir))
}

#[cfg(test)]
mod tests;
