//! Checkpoints: how far each chain was delivered, in one place of the data folder for all inputs.
//!
//! Saved soon after a delivery (`saver.rs`), and at stop. So a node that is killed soon after each start still gets on. A
//! save is: snapshot of the chains that have news, then the hook (the sinks' fdatasync: what a checkpoint rests on must be
//! on disk first), then what changed is appended, or the whole replaced (`files.rs`). Inputs of which the hook says that
//! something is not on the disk keep the checkpoints of the save before; the others go on. A full disk leaves what is
//! stored in place. Both show as a health warning, and are tried again; reading goes on.
//!
//! Damaged files give way to the whole save before, or to none (`load.rs`): duplicates, never loss. The folder is created with
//! mode 0700 and locked (`flock`) against a second longshore.
//!
//! Limits: records of chains not followed for 7 days are dropped at save, and the oldest beyond 100,000; never that of a
//! chain that is followed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use super::stored::{CopiesKnown, Entry, Key, Place, Saved};
use super::{clock, disk, progress::Progress};
use crate::metrics::{Health, Metrics};
use crate::workers::Workers;

mod closing; // of chains with batches under way
mod files; // that a save writes
mod load; // what is stored
mod lock; // of the data folder
mod saver; // when they are saved
mod trouble; // saves that fail

use files::{Files, Save};
use load::load;
pub use load::{edit, stored, stored_ledger};
#[cfg(test)]
pub(crate) use saver::Saver;
use trouble::Trouble;

/// The name within the data folder.
pub const FILE: &str = "checkpoints";
const KEEP_SECONDS: i64 = 7 * 86_400;
/// That a chain without news is followed is stored once in so many seconds: of ten thousand at rest, a save has nothing
/// to write.
const SEEN_EVERY: i64 = 3_600;
/// Chains without news are looked at so often.
const SWEEP: Duration = Duration::from_secs(600);
const SETTLE_IN: Duration = Duration::from_secs(600);
const RECORDS_MAX: usize = 100_000;
const CHECK: &str = "checkpoints";

/// Makes what was delivered durable, before a checkpoint says so.
pub type SyncHook = Box<dyn Fn() -> Unsynced + Send + Sync>;

/// Inputs of which something that was delivered is not on the disk, each with the reason. Their checkpoints stay.
pub type Unsynced = BTreeMap<String, String>;

/// The ledger at this moment, to be saved with the checkpoints.
pub type LedgerHook = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// All checkpoints of the node. One for all inputs.
pub struct Checkpoints {
    folder: PathBuf,
    /// Held for its `flock`.
    _lock: File,
    sync: SyncHook,
    state: Mutex<State>,
    /// One save at a time.
    saving: Mutex<Saving>,
    wake: Condvar,
    metrics: Mutex<Option<Arc<Metrics>>>,
    ledger: OnceLock<LedgerHook>,
    started: Instant,
    /// No record is dropped for its age before that much time has passed since the start.
    settle_in: Duration,
}

/// What saves know of one another.
struct Saving {
    /// Those that failed.
    trouble: Trouble,
    /// What was written.
    files: Files,
}

#[derive(Default)]
struct State {
    /// What may be saved: what it rests on is on the disk. Shared with a save while that puts it into text, which takes 10 ms
    /// and more with 10,000 chains: the opener must not wait for so long.
    entries: Arc<HashMap<Key, Entry>>,
    /// Of those, what is to be left out from the next save on: nobody changes them while one is under way.
    forgotten: HashSet<Key>,
    /// News of chains since the last look at them.
    news: HashMap<Key, Entry>,
    /// What was new at that look, until the hook has said that what it rests on is on the disk.
    noted: HashMap<Key, Entry>,
    /// Of the records, those that were changed without waiting for an output.
    changed: Vec<Key>,
    /// Strong: a chain's receipts may settle after its reader has ended.
    live: HashMap<Key, Arc<Progress>>,
    /// Live chains that may have news since the last look at them.
    stirred: Vec<Key>,
    /// When all of them were looked at.
    swept: Option<Instant>,
    closing: Vec<closing::Closing>,
    /// Live chains that somebody else waits to go on with, and since when.
    wanted: HashMap<Key, Instant>,
    seq: u64,
    dirty: bool,
    urgent: bool,
    /// So much was delivered that the next save is due sooner.
    many: bool,
    /// The first delivery since the last snapshot.
    moved: Option<Instant>,
    bytes: u64,
    closed: bool,
    /// Damaged records that were met at the start.
    damaged: u64,
    /// The ledger of the last save, as it was read.
    ledger: Option<serde_json::Value>,
}

impl State {
    /// The chains of an input of which something is known, some of them more than once.
    fn known(&self, input: &str) -> impl Iterator<Item = &Key> {
        let stored = self.entries.keys().filter(|key| !self.forgotten.contains(key));
        stored.chain(self.noted.keys()).chain(self.news.keys()).filter(move |(of, _)| of == input)
    }

    fn is_live(&self, key: &Key, progress: &Arc<Progress>) -> bool {
        self.live.get(key).is_some_and(|live| Arc::ptr_eq(live, progress))
    }
}

impl std::fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoints").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Checkpoints {
    /// Whether another longshore works in this folder.
    pub fn is_locked(data_dir: &Path) -> bool {
        File::open(data_dir.join("lock")).is_ok_and(|file| crate::lock::is_taken(&file))
    }

    /// Creates (0700) and locks the folder and reads what is there. `sync` is called before each save.
    ///
    /// # Errors
    /// The folder can not be made, is used by another longshore, or its checkpoints are of a newer version.
    pub fn open(data_dir: &Path, sync: SyncHook) -> io::Result<Arc<Checkpoints>> {
        let said = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "data folder {}: {error}; check its owner and mode, or set [node] data_dir",
                    data_dir.display()
                ),
            )
        };
        disk::make_folder(data_dir).map_err(said)?;
        let lock = lock::take(data_dir)?;
        let path = data_dir.join(FILE);
        // A torn tmp file of an earlier life says nothing.
        let _ = disk::remove(&data_dir.join("checkpoints.tmp"));
        let state = load(&path)?;
        Ok(Arc::new(Checkpoints {
            folder: data_dir.to_owned(),
            _lock: lock,
            sync,
            state: Mutex::new(state),
            saving: Mutex::new(Saving { trouble: Trouble::new(), files: Files::default() }),
            wake: Condvar::new(),
            metrics: Mutex::new(None),
            ledger: OnceLock::new(),
            started: clock::now(),
            settle_in: SETTLE_IN,
        }))
    }

    /// What is saved beside the checkpoints, in the same file: it never runs behind them.
    pub fn carry(&self, ledger: LedgerHook) {
        // Set once, by the wiring.
        let _ = self.ledger.set(ledger);
    }

    /// The ledger that was saved with them, once.
    pub fn take_ledger(&self) -> Option<serde_json::Value> {
        self.lock().ledger.take()
    }

    /// Where health warnings go.
    pub fn report_to(&self, metrics: Arc<Metrics>) {
        *self.metrics.lock().unwrap_or_else(PoisonError::into_inner) = Some(metrics);
    }

    /// Starts the thread that saves. It ends after [`Checkpoints::final_save`], so join it after that: it wants a
    /// `Workers` of its own.
    pub fn start_saver(self: &Arc<Self>, workers: &Workers) -> io::Result<()> {
        let me = Arc::clone(self);
        workers.spawn("checkpoints", move || me.save_when_needed())
    }

    /// How far a chain was delivered, as far as is known.
    pub fn lookup(&self, input: &str, key: &str) -> Option<Saved> {
        let (state, key) = (self.lock(), (input.to_owned(), key.to_owned()));
        let closing = state.closing.iter().rfind(|closing| closing.key == key);
        let closing = closing.map(|closing| Arc::clone(&closing.progress));
        let stored = state.entries.get(&key).filter(|_| !state.forgotten.contains(&key));
        let found = [&state.news, &state.noted].into_iter().find_map(|of| of.get(&key)).or(stored);
        let found = found.map(|entry| entry.saved.clone());
        drop(state);
        closing.and_then(|progress| progress.last_saved()).or(found)
    }

    /// Whether anything of an input was ever saved: then this is not its first start.
    pub fn knows(&self, input: &str) -> bool {
        self.lock().known(input).next().is_some()
    }

    /// The chains of an input of which something was saved.
    pub fn keys(&self, input: &str) -> Vec<String> {
        self.lock().known(input).map(|(_, key)| key.clone()).collect()
    }

    /// How many chains have a checkpoint, over all inputs.
    pub fn resumed(&self) -> u64 {
        self.lock().entries.len() as u64
    }

    /// Damaged records met at the start that no `.bak` replaced, and damaged places of what changed since.
    pub fn damaged(&self) -> u64 {
        self.lock().damaged
    }

    /// From now on the chain's progress is saved.
    pub fn attach(&self, input: &str, key: &str, progress: &Arc<Progress>) {
        let (mut state, key) = (self.lock(), (input.to_owned(), key.to_owned()));
        state.forget_closing(&key);
        state.wanted.remove(&key);
        progress.is_known_as(&key);
        state.stirred.push(key.clone());
        state.live.insert(key, Arc::clone(progress));
        state.dirty = true;
        self.wake.notify_all();
    }

    /// The chain is at its end for good: its record goes, unless another chain has that key by now, or is to have it.
    pub fn forget(&self, input: &str, key: &str, progress: &Arc<Progress>) {
        let whole = (input.to_owned(), key.to_owned());
        let mut state = self.lock();
        if state.wanted.contains_key(&whole) {
            drop(state);
            self.close(input, key, progress);
        } else if state.is_live(&whole, progress) {
            state.live.remove(&whole);
            state.forget_closing(&whole);
            state.news.remove(&whole);
            state.noted.remove(&whole);
            if state.entries.contains_key(&whole) {
                state.forgotten.insert(whole);
            }
            state.dirty = true;
            self.wake.notify_all();
        }
    }

    /// The chain is at its end, and may go on at another start: its record stays, its files are let go of once what is under
    /// way has come to its end.
    pub fn close(&self, input: &str, key: &str, progress: &Arc<Progress>) {
        let key = (input.to_owned(), key.to_owned());
        // In this order: what ends in between is in it.
        let under_way = progress.is_under_way();
        let saved = progress.last_saved();
        let mut state = self.lock();
        if state.is_live(&key, progress) {
            state.close(key, progress, under_way, saved);
            self.wake.notify_all();
        }
    }

    /// An input has ended, and may go on at another start: the records of its chains stay, their files are let go of.
    pub fn let_go(&self, input: &str) {
        let live = {
            let state = self.lock();
            let of_it = state.live.iter().filter(|((of, _), _)| of == input);
            of_it.map(|(key, progress)| (key.1.clone(), Arc::clone(progress))).collect::<Vec<_>>()
        };
        live.iter().for_each(|(key, progress)| self.close(input, key, progress));
    }

    /// Something was delivered; `urgent` at the end of a generation. Quick: called from the sinks' threads.
    pub fn touch(&self, bytes: u64, urgent: bool) {
        self.touch_chain(None, bytes, urgent);
    }

    /// The same of a chain, which is `stirred` if that was not said since the last look at it.
    pub fn touch_chain(&self, stirred: Option<&Key>, bytes: u64, urgent: bool) {
        let mut state = self.lock();
        state.stirred.extend(stirred.cloned());
        let before = (state.dirty, state.urgent, state.many, state.moved);
        state.dirty = true;
        if bytes > 0 && state.moved.is_none() {
            state.moved = Some(clock::now());
        }
        state.bytes += bytes;
        state.urgent |= urgent;
        state.many |= state.bytes >= saver::BYTES_MAX;
        if before != (state.dirty, state.urgent, state.many, state.moved) {
            self.wake.notify_all();
        }
    }

    /// Saves what was delivered up to now and ends the saver: the last act of a stop.
    pub fn final_save(&self) -> io::Result<()> {
        {
            let mut state = self.lock();
            state.closed = true;
            self.wake.notify_all();
        }
        self.save()
    }

    /// Ends the saver without a save: what is stored is newer than what is known here.
    pub(crate) fn abandon(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Saves now.
    pub fn save(&self) -> io::Result<()> {
        self.save_once().map(|_| ())
    }

    /// The same. Says whether everything is saved: `false` while some inputs have to keep their checkpoints.
    fn save_once(&self) -> io::Result<bool> {
        let mut saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.try_save(&mut saving.files);
        saving.trouble.note(&self.folder, result.as_ref().err());
        match &result {
            Ok(unsynced) if unsynced.is_empty() => self.health(None),
            Ok(unsynced) => {
                self.lock().dirty = true;
                let inputs = unsynced.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                // One reason is enough: they rest on the same outputs.
                let why = unsynced.values().next().map_or("", String::as_str);
                self.health(Some(&format!("those of {inputs} stay: outputs could not be synced: {why}")));
            }
            Err(error) => {
                self.lock().dirty = true;
                self.health(Some(&error.to_string()));
            }
        }
        result.map(|unsynced| unsynced.is_empty())
    }

    fn health(&self, trouble: Option<&str>) {
        if let Some(metrics) = &*self.metrics.lock().unwrap_or_else(PoisonError::into_inner) {
            match trouble {
                None => metrics.check(CHECK, Health::Pass, "saved"),
                Some(why) => metrics.check(CHECK, Health::Warn, format!("not saved: {why}")),
            }
        }
    }

    fn try_save(&self, files: &mut Files) -> io::Result<Unsynced> {
        let ledger = self.look();
        let unsynced = (self.sync)();
        let save = self.take_changes(&unsynced);
        files.save(&self.folder, &save, ledger).map(|()| unsynced)
    }

    /// Notes what is known now: the news of each live chain, which is asked before anything else of ours is locked for
    /// long, and the ledger of this moment.
    fn look(&self) -> Option<serde_json::Value> {
        let live: Vec<(Key, Arc<Progress>)> = {
            let mut state = self.lock();
            (state.dirty, state.urgent, state.many, state.moved, state.bytes) = (false, false, false, None, 0);
            let mut stirred = std::mem::take(&mut state.stirred);
            // Who is at rest is followed, too. The last save relies on nobody's word.
            if state.closed || state.swept.is_none_or(|swept| clock::since(swept) >= SWEEP) {
                state.swept = Some(clock::now());
                stirred = state.live.keys().cloned().collect();
            }
            let closing = state.closing.iter().map(|closing| (closing.key.clone(), Arc::clone(&closing.progress)));
            let live = stirred.into_iter().filter_map(|key| state.live.get(&key).map(|live| (key, Arc::clone(live))));
            live.chain(closing).collect()
        };
        let news: Vec<(Key, Arc<Progress>, bool, Option<Saved>)> = live
            .into_iter()
            .map(|(key, progress)| {
                let under_way = progress.is_under_way();
                let saved = progress.take_saved();
                (key, progress, under_way, saved)
            })
            .collect();
        let now = seconds_now();
        let mut state = self.lock();
        let is_last = state.closed;
        for (key, progress, under_way, saved) in news {
            // A chain that was forgotten meanwhile stays forgotten, and another one in its place has a place of its own.
            if !state.is_known(&key, &progress) {
                continue;
            }
            if !under_way {
                state.closing.retain(|closing| !Arc::ptr_eq(&closing.progress, &progress));
            }
            match (saved, Arc::make_mut(&mut state.entries).get_mut(&key)) {
                (Some(saved), entry) => {
                    // That its file, or that of its hold, counts as lost rests on no output, and the ledger of this save has it.
                    if let Some(entry) = entry.filter(|entry| saved.lost && saved.done == entry.saved.done) {
                        (entry.saved.lost, entry.saved.hold) = (true, saved.hold.clone());
                        state.changed.push(key.clone());
                    }
                    state.news.insert(key, Entry { saved, seen: now });
                }
                // Once an hour, so that of a chain at rest nothing is written; and if a clock was ahead.
                (None, Some(entry)) if is_last || (now - entry.seen).abs() >= SEEN_EVERY => {
                    entry.seen = now;
                    state.changed.push(key);
                }
                (None, _) => {}
            }
        }
        let news = std::mem::take(&mut state.news);
        state.noted.extend(news);
        drop(state);
        // After the chains were asked: what their marks cover is counted in it.
        self.ledger.get().map(|ledger| ledger())
    }

    /// What is to be written, after the hook: the news of all inputs but those.
    fn take_changes(&self, unsynced: &Unsynced) -> Save {
        let now = seconds_now();
        let state = &mut *self.lock();
        let noted = std::mem::take(&mut state.noted);
        let (stay, go): (HashMap<_, _>, HashMap<_, _>) =
            noted.into_iter().partition(|((input, _), _)| unsynced.contains_key(input));
        state.noted = stay;
        let forgotten = std::mem::take(&mut state.forgotten);
        // No save is under way but this one, so that nothing is cloned.
        let entries = Arc::make_mut(&mut state.entries);
        forgotten.iter().for_each(|key| drop(entries.remove(key)));
        let changed = go.keys().cloned().collect::<Vec<_>>();
        entries.extend(go);
        let all = entries.len();
        // Not right after the start: after a long stop all records are old, and their chains are only being found.
        if clock::since(self.started) >= self.settle_in {
            entries.retain(|key, entry| now - entry.seen < KEEP_SECONDS || state.live.contains_key(key));
        }
        if entries.len() > RECORDS_MAX {
            let mut seen: Vec<i64> = entries.values().map(|entry| entry.seen).collect();
            seen.sort_unstable();
            let oldest = seen[seen.len() - RECORDS_MAX];
            entries.retain(|key, entry| entry.seen >= oldest || state.live.contains_key(key));
        }
        let whole = entries.len() < all || state.closed;
        state.seq += 1;
        let gone = forgotten.into_iter().collect();
        let changed = changed.into_iter().chain(std::mem::take(&mut state.changed)).collect();
        Save { seq: state.seq, entries: Arc::clone(&state.entries), changed, gone, whole }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds_now() -> i64 {
    crate::record::Timestamp::now().0 / 1_000_000_000
}

#[cfg(test)]
mod tests;
