//! A simulated disk below the log: knows what is on stable storage and what only in memory, can be crashed after every
//! call, with any of the [`Residue`]s, and fails calls on purpose.
//!
//! What a file system may do: keep any of the 512-byte sectors that were written since the last sync, the old or the new
//! one, or zeros or garbage in their place; keep folder entries up to any point, or any of them. After a failed sync what
//! was not on the disk may never get there, though reads still show it and the next sync succeeds.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;

use super::io::Io;

const SECTOR: usize = 512;

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residue {
    None,
    All,
    Sectors,
    Torn,
    LostEntries,
    Zeros,
    Garbage,
}

pub const RESIDUES: [Residue; 7] = [
    Residue::None,
    Residue::All,
    Residue::Sectors,
    Residue::Torn,
    Residue::LostEntries,
    Residue::Zeros,
    Residue::Garbage,
];

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Arc<Vec<u8>>),
    Len(usize),
}

#[derive(Clone, Debug, Default)]
struct Node {
    now: Vec<u8>,
    durable: Arc<Vec<u8>>,
    /// Since the last sync; `true`: a sync failed since, it may never get there.
    changes: Vec<(Change, bool)>,
}

#[derive(Clone, Debug)]
enum Entry {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    entries: Vec<Entry>,
    /// [`Lie::CursorAfterUnlink`]: what the disk has of cursors, once it has some.
    old_cursors: BTreeMap<String, Arc<Vec<u8>>>,
}

fn is_cursor(name: &str) -> bool {
    name.contains(".cursor")
}

/// Mistakes that the crash tests must find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    #[default]
    None,
    /// A segment's sync does nothing: as if acked before it.
    SegmentSync,
    /// The folder's sync leaves new segments out.
    FolderSync,
    /// Cursors are on the disk only after the next segment has gone from it.
    CursorAfterUnlink,
    /// A failed sync is tried again on the same file: here, it says that all is well.
    FailedSyncIsRetried,
}

type Hook = Box<dyn FnMut(&State) + Send>;

struct Faults {
    rng: Rng,
    every: u32,
    /// Reading calls fail, too.
    reads: bool,
}

#[derive(Default)]
pub struct SimFs {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
    faults: Mutex<Option<Faults>>,
    /// Bytes that were read.
    pub read: AtomicU64,
    lie: Lie,
}

fn error(kind: ErrorKind) -> io::Error {
    io::Error::new(kind, "simulated")
}

fn grow(bytes: &mut Vec<u8>, len: usize) {
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write(at, bytes) => {
                grow(to, at + bytes.len());
                to[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Len(len) => to.resize(*len, 0),
        }
    }

    fn apply_some(&self, to: &mut Vec<u8>, residue: Residue, rng: &mut Rng) {
        match self {
            Change::Len(len) => {
                if rng.bool() {
                    to.resize(*len, 0);
                }
            }
            Change::Write(at, bytes) => {
                let sectors = bytes.len().div_ceil(SECTOR);
                let torn = rng.usize(..=sectors);
                for sector in 0..sectors {
                    let from = sector * SECTOR;
                    let until = (from + SECTOR).min(bytes.len());
                    let keep = match residue {
                        Residue::Torn => sector < torn,
                        _ => rng.bool(),
                    };
                    let mut block = bytes[from..until].to_vec();
                    match residue {
                        Residue::Zeros if !keep => block.fill(0),
                        Residue::Garbage if !keep => rng.fill(&mut block),
                        _ if !keep => continue,
                        _ => {}
                    }
                    grow(to, at + until);
                    to[at + from..at + until].copy_from_slice(&block);
                }
            }
        }
    }
}

fn enter(entry: &Entry, names: &mut BTreeMap<String, usize>) {
    match entry {
        Entry::Link(name, node) => {
            names.insert(name.clone(), *node);
        }
        Entry::Unlink(name) => {
            names.remove(name);
        }
        Entry::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

impl State {
    /// What is there after a power cut now.
    pub fn crashed(&self, residue: Residue, rng: &mut Rng) -> State {
        let mut names = self.durable_names.clone();
        let upto = rng.usize(..=self.entries.len());
        let prefix = rng.bool();
        for (at, entry) in self.entries.iter().enumerate() {
            let keep = match residue {
                Residue::None | Residue::LostEntries => false,
                Residue::All => true,
                _ if prefix => at < upto,
                _ => rng.bool(),
            };
            if keep {
                enter(entry, &mut names);
            }
        }
        let mut state = State::default();
        for (name, node) in names {
            let node = &self.nodes[node];
            let mut bytes = (*node.durable).clone();
            for (change, orphan) in &node.changes {
                match residue {
                    Residue::None => {}
                    Residue::All | Residue::LostEntries if !orphan || rng.bool() => change.apply(&mut bytes),
                    Residue::All | Residue::LostEntries => {}
                    residue => change.apply_some(&mut bytes, residue, rng),
                }
            }
            state.names.insert(name.clone(), state.nodes.len());
            state.durable_names.insert(name, state.nodes.len());
            state.nodes.push(Node { now: bytes.clone(), durable: Arc::new(bytes), changes: Vec::new() });
        }
        if !self.old_cursors.is_empty() {
            state.names.retain(|name, _| !is_cursor(name));
            for (name, bytes) in &self.old_cursors {
                state.names.insert(name.clone(), state.nodes.len());
                state.nodes.push(Node { now: (**bytes).clone(), durable: Arc::clone(bytes), changes: Vec::new() });
            }
            state.durable_names = state.names.clone();
        }
        state
    }
}

impl SimFs {
    pub fn new(state: State, lie: Lie) -> SimFs {
        SimFs { state: Mutex::new(state), lie, ..SimFs::default() }
    }

    /// Called after each call that changes something.
    pub fn on_change(&self, hook: Hook) {
        *self.hook.lock().expect("no panic") = Some(hook);
    }

    /// One call in `every` fails from now on; 0: none.
    pub fn fail(&self, rng: Rng, every: u32) {
        *self.faults.lock().expect("no panic") = (every > 0).then_some(Faults { rng, every, reads: true });
    }

    /// The same of calls that change something: what can not be read at a start is damage.
    pub fn fail_writes(&self, rng: Rng, every: u32) {
        *self.faults.lock().expect("no panic") = (every > 0).then_some(Faults { rng, every, reads: false });
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn changed(&self) {
        let mut hook = self.hook.lock().expect("no panic");
        if let Some(hook) = hook.as_mut() {
            let state = self.state().clone();
            hook(&state);
        }
    }

    fn fault(&self, kinds: &[ErrorKind]) -> Option<ErrorKind> {
        let mut faults = self.faults.lock().expect("no panic");
        let Faults { rng, every, .. } = faults.as_mut()?;
        (rng.u32(..*every) == 0).then(|| kinds[rng.usize(..kinds.len())])
    }

    fn fault_of_read(&self, kinds: &[ErrorKind]) -> Option<ErrorKind> {
        let reads = self.faults.lock().expect("no panic").as_ref().is_some_and(|faults| faults.reads);
        if reads { self.fault(kinds) } else { None }
    }

    fn fails(&self, kinds: &[ErrorKind]) -> io::Result<()> {
        self.fault(kinds).map_or(Ok(()), |kind| Err(error(kind)))
    }

    fn name_of(state: &State, node: usize) -> Option<&str> {
        state.names.iter().find(|(_, other)| **other == node).map(|(name, _)| name.as_str())
    }
}

const EIO: ErrorKind = ErrorKind::Other;
const ENOSPC: ErrorKind = ErrorKind::StorageFull;
const EINTR: ErrorKind = ErrorKind::Interrupted;

impl Io for SimFs {
    type File = usize;

    fn create(&self, name: &str) -> io::Result<usize> {
        self.fails(&[EIO, ENOSPC])?;
        let node = {
            let mut state = self.state();
            if state.names.contains_key(name) {
                return Err(error(ErrorKind::AlreadyExists));
            }
            let node = state.nodes.len();
            state.nodes.push(Node::default());
            state.names.insert(name.to_owned(), node);
            state.entries.push(Entry::Link(name.to_owned(), node));
            node
        };
        self.changed();
        Ok(node)
    }

    fn open(&self, name: &str) -> io::Result<usize> {
        self.state().names.get(name).copied().ok_or(error(ErrorKind::NotFound))
    }

    fn open_read(&self, name: &str) -> io::Result<usize> {
        self.open(name)
    }

    fn len(&self, file: &usize) -> io::Result<u64> {
        Ok(self.state().nodes[*file].now.len() as u64)
    }

    fn pread(&self, file: &usize, into: &mut [u8], at: u64) -> io::Result<usize> {
        let short = match self.fault_of_read(&[EIO, EINTR, ErrorKind::WriteZero]) {
            Some(ErrorKind::WriteZero) => true,
            Some(kind) => return Err(error(kind)),
            None => false,
        };
        let state = self.state();
        let bytes = &state.nodes[*file].now;
        let at = (at as usize).min(bytes.len());
        let mut len = into.len().min(bytes.len() - at);
        if short && len > 1 {
            len /= 2;
        }
        into[..len].copy_from_slice(&bytes[at..at + len]);
        self.read.fetch_add(len as u64, Relaxed);
        Ok(len)
    }

    fn pwrite(&self, file: &usize, bytes: &[u8], at: u64) -> io::Result<usize> {
        let bytes = match self.fault(&[EIO, ENOSPC, EINTR, ErrorKind::WriteZero]) {
            Some(ErrorKind::WriteZero) if bytes.len() > 1 => &bytes[..bytes.len() / 2],
            Some(kind) => return Err(error(kind)),
            None => bytes,
        };
        {
            let mut state = self.state();
            let node = &mut state.nodes[*file];
            let change = Change::Write(at as usize, Arc::new(bytes.to_vec()));
            change.apply(&mut node.now);
            node.changes.push((change, false));
        }
        self.changed();
        Ok(bytes.len())
    }

    fn fdatasync(&self, file: &usize) -> io::Result<()> {
        let fault = self.fault(&[EIO, ENOSPC, EINTR]);
        {
            let mut state = self.state();
            let name = Self::name_of(&state, *file).unwrap_or_default().to_owned();
            if self.lie == Lie::SegmentSync && name.ends_with(".seg") {
                return Ok(());
            }
            let node = &mut state.nodes[*file];
            if let Some(kind) = fault {
                node.changes.iter_mut().for_each(|(_, orphan)| *orphan = true);
                // The second sync finds nothing to do.
                return if self.lie == Lie::FailedSyncIsRetried { Ok(()) } else { Err(error(kind)) };
            }
            let mut durable = (*node.durable).clone();
            let (orphans, synced): (Vec<_>, Vec<_>) =
                std::mem::take(&mut node.changes).into_iter().partition(|(_, orphan)| *orphan);
            synced.iter().for_each(|(change, _)| change.apply(&mut durable));
            node.changes = orphans;
            node.durable = Arc::new(durable);
        }
        self.changed();
        Ok(())
    }

    fn fallocate(&self, file: &usize, len: u64) -> io::Result<()> {
        self.fails(&[EIO, ENOSPC])?;
        let shorter = self.state().nodes[*file].now.len() < len as usize;
        if shorter { self.truncate(file, len) } else { Ok(()) }
    }

    fn truncate(&self, file: &usize, len: u64) -> io::Result<()> {
        self.fails(&[EIO])?;
        {
            let mut state = self.state();
            let node = &mut state.nodes[*file];
            let change = Change::Len(len as usize);
            change.apply(&mut node.now);
            node.changes.push((change, false));
        }
        self.changed();
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        {
            let mut state = self.state();
            if !state.names.contains_key(name) {
                return Err(error(ErrorKind::NotFound));
            }
            drop(state);
            self.fails(&[EIO])?;
            state = self.state();
            state.names.remove(name);
            state.entries.push(Entry::Unlink(name.to_owned()));
        }
        self.changed();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fails(&[EIO, ENOSPC])?;
        {
            let mut state = self.state();
            let node = state.names.remove(from).ok_or(error(ErrorKind::NotFound))?;
            state.names.insert(to.to_owned(), node);
            state.entries.push(Entry::Rename(from.to_owned(), to.to_owned()));
        }
        self.changed();
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.fails(&[EIO])?;
        {
            let state = &mut *self.state();
            let is_segment = |name: &str| name.ends_with(".seg");
            let is_left_out = |entry: &Entry| matches!(entry, Entry::Link(name, _) if self.lie == Lie::FolderSync && is_segment(name));
            let gone = state.entries.iter().any(|entry| matches!(entry, Entry::Unlink(name) if is_segment(name)));
            state.entries.retain(is_left_out);
            state.durable_names = state.names.clone();
            for entry in &state.entries {
                if let Entry::Link(name, _) = entry {
                    state.durable_names.remove(name);
                }
            }
            if self.lie == Lie::CursorAfterUnlink && (gone || state.old_cursors.is_empty()) {
                let cursors = state.durable_names.iter().filter(|(name, _)| is_cursor(name));
                let durable = |node: usize| Arc::clone(&state.nodes[node].durable);
                state.old_cursors = cursors.map(|(name, node)| (name.clone(), durable(*node))).collect();
            }
        }
        self.changed();
        Ok(())
    }

    fn folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, name: &str) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        let inside = |file: &str| match name {
            "." => (!file.contains('/')).then(|| file.to_owned()),
            folder => file.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned),
        };
        let files = state.names.iter().filter_map(|(file, node)| Some((inside(file)?, *node)));
        Ok(files.map(|(file, node)| (file, state.nodes[node].now.len() as u64)).collect())
    }
}
