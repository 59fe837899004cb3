//! Checkpoints: how far each chain was delivered, in one file of the data folder for all inputs.
//!
//! Saved soon after a delivery (`saver.rs`), and at stop. So a node that is killed soon after each start still gets on. A save is:
//! snapshot, then the hook (the sinks' fdatasync: what a checkpoint rests on must be on disk first), then tmp,
//! fdatasync, the old file linked as `.bak`, rename, fsync of the folder. Inputs of which the hook says that something is
//! not on the disk keep the checkpoints of the save before; the others go on. A full disk leaves the old file in place.
//! Both show as a health warning, and are tried again; reading goes on.
//!
//! Damaged files give way to the save before, or to none (`load.rs`): duplicates, never loss. The folder is created with
//! mode 0700 and locked (`flock`) against a second longshore.
//!
//! Limits: records of chains not followed for 7 days are dropped at save, and the oldest beyond 100,000.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use super::stored::{CopiesKnown, Entry, Key, Place, Saved};
use super::{clock, disk, progress::Progress, stored};
use crate::metrics::{Health, Metrics};
use crate::workers::Workers;

mod closing; // of chains with batches under way
mod load; // what is stored
mod lock; // of the data folder
mod saver; // when they are saved
mod trouble; // saves that fail

use load::load;
pub use load::{edit, stored, stored_ledger};
#[cfg(test)]
pub(crate) use saver::Saver;
use trouble::Trouble;

/// The name within the data folder.
pub const FILE: &str = "checkpoints";
const KEEP_SECONDS: i64 = 7 * 86_400;
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
    /// One save at a time; those that failed.
    saving: Mutex<Trouble>,
    wake: Condvar,
    metrics: Mutex<Option<Arc<Metrics>>>,
    ledger: OnceLock<LedgerHook>,
    started: Instant,
    /// No record is dropped for its age before that much time has passed since the start.
    settle_in: Duration,
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
    /// Strong: a chain's receipts may settle after its reader has ended.
    live: HashMap<Key, Arc<Progress>>,
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
            saving: Mutex::new(Trouble::new()),
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

    /// Damaged records met at the start that no `.bak` replaced.
    pub fn damaged(&self) -> u64 {
        self.lock().damaged
    }

    /// From now on the chain's progress is saved.
    pub fn attach(&self, input: &str, key: &str, progress: &Arc<Progress>) {
        let (mut state, key) = (self.lock(), (input.to_owned(), key.to_owned()));
        state.forget_closing(&key);
        state.wanted.remove(&key);
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
        let mut state = self.lock();
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
        let mut trouble = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.try_save();
        trouble.note(&self.folder, result.as_ref().err());
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

    fn try_save(&self) -> io::Result<Unsynced> {
        let ledger = self.look();
        let unsynced = (self.sync)();
        let text = self.text(&unsynced, ledger);
        let (path, tmp, bak) =
            (self.folder.join(FILE), self.folder.join("checkpoints.tmp"), self.folder.join("checkpoints.bak"));
        let named =
            |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let write = || -> io::Result<()> {
            let file = disk::create(&tmp)?;
            disk::write(&file, &text)?;
            disk::sync(&file)
        };
        write().map_err(|error| named(&tmp, error))?;
        // A link, not a rename: the file itself is there at every moment.
        match disk::remove(&bak).and_then(|()| disk::link(&path, &bak)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // No `.bak` yet, or no file yet.
                let _ = disk::link(&path, &bak);
            }
            // A file system without links has no `.bak`; the file itself is still replaced as a whole.
            _ => {}
        }
        disk::rename(&tmp, &path).map_err(|error| named(&path, error))?;
        disk::sync_folder(&self.folder).map(|()| unsynced)
    }

    /// Notes what is known now: the news of each live chain, which is asked before anything else of ours is locked for
    /// long, and the ledger of this moment.
    fn look(&self) -> Option<serde_json::Value> {
        let live: Vec<(Key, Arc<Progress>)> = {
            let mut state = self.lock();
            (state.dirty, state.urgent, state.many, state.moved, state.bytes) = (false, false, false, None, 0);
            let closing = state.closing.iter().map(|closing| (&closing.key, &closing.progress));
            state.live.iter().chain(closing).map(|(key, progress)| (key.clone(), Arc::clone(progress))).collect()
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
                    }
                    state.news.insert(key, Entry { saved, seen: now });
                }
                (None, Some(entry)) => entry.seen = now,
                (None, None) => {}
            }
        }
        let news = std::mem::take(&mut state.news);
        state.noted.extend(news);
        drop(state);
        // After the chains were asked: what their marks cover is counted in it.
        self.ledger.get().map(|ledger| ledger())
    }

    /// The file's text, after the hook: with the news of all inputs but those.
    fn text(&self, unsynced: &Unsynced, ledger: Option<serde_json::Value>) -> Vec<u8> {
        let now = seconds_now();
        let mut state = self.lock();
        let noted = std::mem::take(&mut state.noted);
        let (stay, go): (HashMap<_, _>, HashMap<_, _>) =
            noted.into_iter().partition(|((input, _), _)| unsynced.contains_key(input));
        state.noted = stay;
        let forgotten = std::mem::take(&mut state.forgotten);
        // No save is under way but this one, so that nothing is cloned.
        let entries = Arc::make_mut(&mut state.entries);
        forgotten.iter().for_each(|key| drop(entries.remove(key)));
        entries.extend(go);
        // Not right after the start: after a long stop all records are old, and their chains are only being found.
        if clock::since(self.started) >= self.settle_in {
            entries.retain(|_, entry| now - entry.seen < KEEP_SECONDS);
        }
        if entries.len() > RECORDS_MAX {
            let mut seen: Vec<i64> = entries.values().map(|entry| entry.seen).collect();
            seen.sort_unstable();
            let oldest = seen[seen.len() - RECORDS_MAX];
            entries.retain(|_, entry| entry.seen >= oldest);
        }
        state.seq += 1;
        let (seq, entries) = (state.seq, Arc::clone(&state.entries));
        drop(state);
        stored::write(seq, &entries, ledger)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds_now() -> i64 {
    crate::record::Timestamp::now().0 / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::log::Settings;
    use crate::log::tests::logged;

    fn quiet() -> SyncHook {
        Box::new(Unsynced::new)
    }

    fn put(checkpoints: &Checkpoints, key: &str, offset: u64) {
        let saved = Saved { done: Place { offset, ..Place::default() }, ..Saved::default() };
        let seen = crate::record::Timestamp::now().0 / 1_000_000_000;
        checkpoints.lock().news.insert(("in".to_owned(), key.to_owned()), Entry { saved, seen });
    }

    fn offset(checkpoints: &Checkpoints, key: &str) -> Option<u64> {
        checkpoints.lookup("in", key).map(|saved| saved.done.offset)
    }

    #[test]
    fn a_chain_that_is_closed_keeps_its_record_and_lets_its_files_go() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free");
        let path = dir.path().join("a");
        fs::write(&path, b"one\ntwo\n").expect("written");
        let held = super::super::generations::open(&path).expect("opens");
        let mark = super::super::tracker::Mark { done: 4, ..Default::default() };
        let progress = Progress::new(mark, Some(&checkpoints));
        let head = super::super::identity::Mark::of(b"one\ntwo\n");
        let span = super::super::progress::Span { head, ..super::super::progress::Span::of(&held, 0, 0) };
        progress.lock().spans.push_back(span);
        checkpoints.attach("in", "a", &progress);
        checkpoints.save().expect("saved");
        let other = Progress::new(super::super::tracker::Mark::default(), Some(&checkpoints));
        checkpoints.close("in", "a", &other);
        assert!(Arc::strong_count(&held) > 1, "another chain of that name is none of its business");
        checkpoints.close("in", "a", &progress);
        drop(progress);
        assert_eq!(Arc::strong_count(&held), 1, "nobody else holds it");
        assert_eq!(offset(&checkpoints, "a"), Some(4));
        checkpoints.final_save().expect("saved");
        drop(checkpoints);
        let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free again");
        assert_eq!(offset(&checkpoints, "a"), Some(4));
    }

    #[test]
    fn the_end_of_a_chain_costs_another_one_of_its_name_nothing() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free");
        let chain = |done| {
            let mark = super::super::tracker::Mark { done, ..Default::default() };
            let progress = Progress::new(mark, Some(&checkpoints));
            checkpoints.attach("in", "a", &progress);
            progress
        };
        let (old, new) = (chain(1), chain(2));
        put(&checkpoints, "a", 2);
        checkpoints.forget("in", "a", &old);
        assert_eq!(offset(&checkpoints, "a"), Some(2));
        assert!(checkpoints.lock().live.values().all(|live| Arc::ptr_eq(live, &new)));
        checkpoints.forget("in", "a", &new);
        assert!(offset(&checkpoints, "a").is_none() && checkpoints.lock().live.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_not_known_any_more_and_leaves_the_file_at_the_next_save() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let data = dir.path().join("data");
        let checkpoints = Checkpoints::open(&data, quiet()).expect("free");
        let chain = |done| {
            let mark = super::super::tracker::Mark { done, ..Default::default() };
            let progress = Progress::new(mark, Some(&checkpoints));
            checkpoints.attach("in", "a", &progress);
            put(&checkpoints, "a", done);
            progress
        };
        let is_stored = || stored(&data).expect("whole").into_values().map(|entry| entry.saved.done.offset).next();
        let old = chain(5);
        checkpoints.save().expect("saved");
        assert_eq!(is_stored(), Some(5));
        checkpoints.forget("in", "a", &old);
        assert!(offset(&checkpoints, "a").is_none() && checkpoints.keys("in").is_empty() && !checkpoints.knows("in"));
        checkpoints.save().expect("saved");
        assert_eq!(is_stored(), None);
        // And another one of its name has its own place, whether the old one has left by then or not.
        let old = chain(6);
        checkpoints.save().expect("saved");
        checkpoints.forget("in", "a", &old);
        chain(7);
        assert_eq!(offset(&checkpoints, "a"), Some(7));
        checkpoints.save().expect("saved");
        assert_eq!((is_stored(), offset(&checkpoints, "a")), (Some(7), Some(7)));
    }

    #[test]
    fn an_input_that_is_let_go_of_pins_no_file_and_keeps_its_records() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free");
        let chain = |input: &str| {
            let path = dir.path().join(input);
            fs::write(&path, b"one\ntwo\n").expect("written");
            let held = super::super::generations::open(&path).expect("opens");
            let mark = super::super::tracker::Mark { done: 4, ..Default::default() };
            let progress = Progress::new(mark, Some(&checkpoints));
            let head = super::super::identity::Mark::of(b"one\ntwo\n");
            let span = super::super::progress::Span { head, ..super::super::progress::Span::of(&held, 0, 0) };
            progress.lock().spans.push_back(span);
            checkpoints.attach(input, "a", &progress);
            held
        };
        let (left, stays) = (chain("in"), chain("other"));
        checkpoints.let_go("in");
        assert_eq!((Arc::strong_count(&left), Arc::strong_count(&stays)), (1, 2));
        assert_eq!(offset(&checkpoints, "a"), Some(4));
    }

    #[test]
    fn a_second_longshore_is_refused_and_told_who_is_there() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let data = dir.path().join("data");
        let first = Checkpoints::open(&data, quiet()).expect("free");
        let error = Checkpoints::open(&data, quiet()).expect_err("locked").to_string();
        assert!(error.contains(&format!("another longshore (pid {})", std::process::id())), "{error}");
        drop(first);
        Checkpoints::open(&data, quiet()).expect("free again");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&data).expect("there").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_damaged_record_comes_from_the_previous_save() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let c = Checkpoints::open(dir.path(), quiet()).expect("free");
        put(&c, "a", 1);
        put(&c, "b", 1);
        c.save().expect("saved");
        put(&c, "a", 2);
        put(&c, "b", 2);
        c.save().expect("saved");
        drop(c);
        let path = dir.path().join(FILE);
        let mut text = fs::read(&path).expect("there");
        let at = text.windows(9).position(|w| w == b"\"key\":\"b\"").expect("b is there");
        text[at + 7] ^= 4;
        fs::write(&path, text).expect("written");
        fs::write(dir.path().join("checkpoints.tmp"), b"torn").expect("written");
        let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
        assert_eq!((offset(&c, "a"), offset(&c, "b"), c.damaged()), (Some(2), Some(1), 0));
        assert!(!dir.path().join("checkpoints.tmp").exists());
    }

    #[test]
    fn an_empty_file_gives_way_to_the_previous_save_and_two_to_nothing() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let c = Checkpoints::open(dir.path(), quiet()).expect("free");
        put(&c, "a", 1);
        c.save().expect("saved");
        c.save().expect("saved");
        drop(c);
        fs::write(dir.path().join(FILE), b"").expect("written");
        let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
        assert_eq!(offset(&c, "a"), Some(1));
        drop(c);
        fs::write(dir.path().join("checkpoints.bak"), b"\0\0\0").expect("written");
        let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
        assert_eq!(offset(&c, "a"), None);
    }

    #[test]
    fn a_save_without_room_or_cut_short_before_the_rename_leaves_the_previous_one_and_is_said() {
        for at_rename in [false, true] {
            let dir = tempfile::tempdir().expect("a temp dir");
            let metrics = Arc::new(Metrics::new(&[("in", "test")], &[("out", "test")]));
            let c = Checkpoints::open(dir.path(), quiet()).expect("free");
            c.report_to(Arc::clone(&metrics));
            put(&c, "a", 1);
            c.save().expect("saved");
            put(&c, "a", 2);
            disk::set_hook(Some(Box::new(move |call| match call {
                disk::Call::Write(_) if !at_rename => Err(rustix::io::Errno::NOSPC.into()),
                disk::Call::Rename(_) if at_rename => Err(rustix::io::Errno::NOSPC.into()),
                _ => Ok(()),
            })));
            let error = c.save().expect_err("no room");
            disk::set_hook(None);
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            let (health, reason) = metrics.checks().remove(CHECK).expect("said");
            assert!(health == Health::Warn && reason.contains("not saved"), "{reason}");
            drop(c);
            let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
            assert_eq!((offset(&c, "a"), c.damaged()), (Some(1), 0));
            put(&c, "a", 2);
            c.save().expect("saved");
            drop(c);
            assert_eq!(offset(&Checkpoints::open(dir.path(), quiet()).expect("starts"), "a"), Some(2));
        }
    }

    #[test]
    fn that_saving_fails_is_said_when_it_begins_and_once_a_minute_and_that_it_works_again_once() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let c = Checkpoints::open(dir.path(), quiet()).expect("free");
        let (began, wall) = (Instant::now(), std::time::SystemTime::now());
        let full = |full: bool| {
            disk::set_hook(Some(Box::new(move |call| match call {
                disk::Call::Write(_) if full => Err(rustix::io::Errno::NOSPC.into()),
                _ => Ok(()),
            })));
        };
        let text = logged(Settings::default(), false, || {
            // A disk that is full for two minutes, and now and then in the one after that.
            for second in 0..180u64 {
                let time = Duration::from_secs(second);
                clock::set(Some((began + time, wall + time)));
                full(second < 120 || second % 10 == 0);
                let _ = c.save();
            }
        });
        disk::set_hook(None);
        clock::set(None);
        let lines: Vec<&str> = text.lines().collect();
        let tries = |line: &str| line.rsplit_once("tries=").map(|(_, tries)| tries.to_owned());
        let said: Vec<_> =
            lines.iter().map(|line| (line.contains("checkpoints were not saved"), tries(line))).collect();
        let times = |count: &str| Some(count.to_owned());
        let expected = [(true, times("1")), (true, times("61")), (true, times("121")), (false, times("121"))];
        assert_eq!(said, expected, "{text}");
        assert!(lines[3].contains("checkpoints are saved again") && lines[0].contains("No space"), "{text}");
    }

    /// A hook of which the outputs of `in` can not be synced while the first is set.
    fn breakable() -> (Arc<AtomicBool>, SyncHook) {
        let broken = Arc::new(AtomicBool::new(false));
        let hook = Arc::clone(&broken);
        let sync: SyncHook = Box::new(move || match hook.load(Ordering::Acquire) {
            true => [("in".to_owned(), "sink out: no space".to_owned())].into(),
            false => Unsynced::new(),
        });
        (broken, sync)
    }

    #[test]
    fn an_input_whose_output_can_not_be_synced_keeps_its_checkpoints_and_the_others_go_on() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let metrics = Arc::new(Metrics::new(&[("in", "test"), ("other", "test")], &[("out", "test")]));
        let (broken, sync) = breakable();
        let c = Checkpoints::open(dir.path(), sync).expect("free");
        c.report_to(Arc::clone(&metrics));
        let put_both = |offset| {
            put(&c, "a", offset);
            let mut state = c.lock();
            let entry = state.news[&("in".to_owned(), "a".to_owned())].clone();
            state.news.insert(("other".to_owned(), "b".to_owned()), entry);
        };
        let stored = |input: &str, key: &str| {
            let stored = stored(dir.path()).expect("readable");
            stored[&(input.to_owned(), key.to_owned())].saved.done.offset
        };
        put_both(1);
        assert!(c.save_once().expect("saved"));
        broken.store(true, Ordering::Release);
        put_both(2);
        for _ in 0..2 {
            assert!(!c.save_once().expect("saved"), "not all of it");
            assert_eq!((stored("in", "a"), stored("other", "b")), (1, 2));
        }
        assert_eq!(offset(&c, "a"), Some(2), "who goes on in this run knows better");
        put(&c, "first", 1);
        assert!(!c.save_once().expect("saved"));
        assert!(c.keys("in").contains(&"first".to_owned()), "though nothing of it is stored yet");
        let (health, reason) = metrics.checks().remove(CHECK).expect("said");
        assert!(health == Health::Warn && reason.contains("those of in stay"), "{reason}");
        broken.store(false, Ordering::Release);
        assert!(c.save_once().expect("saved"));
        assert_eq!((stored("in", "a"), stored("other", "b")), (2, 2));
        assert_eq!(metrics.checks().remove(CHECK).expect("said").0, Health::Pass);
    }

    #[test]
    fn that_a_file_is_lost_is_stored_though_an_output_can_not_be_synced_but_no_newer_place() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (broken, sync) = breakable();
        let c = Checkpoints::open(dir.path(), sync).expect("free");
        put(&c, "a", 1);
        put(&c, "b", 1);
        c.save().expect("saved");
        broken.store(true, Ordering::Release);
        put(&c, "b", 2);
        for key in ["a", "b"] {
            let progress = Progress::new(super::super::tracker::Mark::default(), Some(&c));
            progress.stay(c.lookup("in", key).expect("known"), true);
            c.attach("in", key, &progress);
        }
        c.save().expect("saved");
        let all = stored(dir.path()).expect("readable");
        let of = |key: &str| &all[&("in".to_owned(), key.to_owned())].saved;
        assert_eq!((of("a").done.offset, of("a").lost), (1, true));
        assert_eq!((of("b").done.offset, of("b").lost), (1, false));
    }

    #[test]
    fn checkpoints_that_may_not_be_read_end_the_start() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let c = Checkpoints::open(dir.path(), quiet()).expect("free");
        put(&c, "a", 1);
        c.save().expect("saved");
        drop(c);
        let denied = |name: &'static str| {
            disk::set_hook(Some(Box::new(move |call| match call {
                disk::Call::Open(path) if path.ends_with(name) => Err(rustix::io::Errno::ACCESS.into()),
                _ => Ok(()),
            })));
            let opened = Checkpoints::open(dir.path(), quiet());
            disk::set_hook(None);
            opened
        };
        let error = denied(FILE).expect_err("it is somebody else's");
        assert!(
            error.kind() == io::ErrorKind::PermissionDenied && error.to_string().contains("/checkpoints"),
            "{error}"
        );
        denied("checkpoints.bak").expect("nobody needs it");
    }

    #[test]
    fn the_saver_saves_soon_after_a_change_and_ends_with_the_final_save() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let c = Checkpoints::open(dir.path(), quiet()).expect("free");
        let workers = Workers::default();
        c.start_saver(&workers).expect("started");
        put(&c, "a", 1);
        c.touch(1, false);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !dir.path().join(FILE).exists() {
            assert!(Instant::now() < deadline, "not saved");
            std::thread::sleep(Duration::from_millis(10));
        }
        c.final_save().expect("saved");
        assert!(workers.join(Instant::now() + Duration::from_secs(5)));
    }

    #[test]
    fn the_first_delivery_is_saved_well_before_the_delay_and_later_ones_within_it() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let saves = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&saves);
        let hook: SyncHook = Box::new(move || {
            seen.lock().expect("no panic").push(Instant::now());
            Unsynced::new()
        });
        let c = Checkpoints::open(dir.path(), hook).expect("free");
        let workers = Workers::default();
        c.start_saver(&workers).expect("started");
        put(&c, "a", 1);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(900) {
            c.touch(1, false);
            std::thread::sleep(Duration::from_millis(5));
        }
        let saves: Vec<Duration> = saves.lock().expect("no panic").iter().map(|at| at.duration_since(began)).collect();
        c.final_save().expect("saved");
        assert!(workers.join(Instant::now() + Duration::from_secs(5)));
        assert!(saves[0] < Duration::from_millis(150), "{saves:?}");
        assert!((2..=5).contains(&saves.len()), "neither rare nor one for each delivery: {saves:?}");
    }

    /// A second of touches, two milliseconds apart, brings saves forward, but not one each.
    fn a_second_of(touch: impl Fn(&Checkpoints)) {
        let dir = tempfile::tempdir().expect("a temp dir");
        let saves = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let seen = Arc::clone(&saves);
        let hook: SyncHook = Box::new(move || {
            seen.fetch_add(1, Ordering::Relaxed);
            Unsynced::new()
        });
        let c = Checkpoints::open(dir.path(), hook).expect("free");
        let workers = Workers::default();
        c.start_saver(&workers).expect("started");
        put(&c, "a", 1);
        let began = Instant::now();
        let mut touches = 0;
        while began.elapsed() < Duration::from_secs(1) {
            touch(&c);
            touches += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        let saves = saves.load(Ordering::Relaxed);
        let most = began.elapsed().as_millis() as usize / 100 + 2;
        c.final_save().expect("saved");
        assert!(workers.join(Instant::now() + Duration::from_secs(5)));
        assert!(saves >= 2 && saves <= most, "{saves} saves, not {most} at most, for {touches} touches");
    }

    #[test]
    fn many_bytes_bring_a_save_forward_but_not_one_for_each_delivery() {
        a_second_of(|c| c.touch(saver::BYTES_MAX, false));
    }

    #[test]
    fn ends_of_generations_bring_a_save_forward_but_not_one_each() {
        a_second_of(|c| c.touch(0, true));
    }

    #[test]
    fn records_of_chains_long_gone_are_dropped() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let mut c = Checkpoints::open(dir.path(), quiet()).expect("free");
        put(&c, "new", 1);
        put(&c, "old", 1);
        c.save().expect("saved");
        assert_eq!(offset(&c, "old"), Some(1));
        Arc::get_mut(&mut c).expect("the only one").settle_in = Duration::ZERO;
        let old = ("in".to_owned(), "old".to_owned());
        Arc::make_mut(&mut c.lock().entries).get_mut(&old).expect("there").seen -= KEEP_SECONDS + 5;
        c.save().expect("saved");
        assert_eq!((offset(&c, "new"), offset(&c, "old")), (Some(1), None));
    }
}
