//! An open generation, and how many of them there may be.
//!
//! While a file is held its inode can not be used for another one. So it is let go in two cases only: it is given up for
//! the limit of held deleted files, or, where descriptors are scarce, it is idle, read and delivered to its end, and has a
//! name: then it is *parked*, and opened again by that name, or by another name of its folder, when it grows. By then an
//! inode may be another file's, which its birth time tells; without birth times nothing is parked.
//!
//! Limit: beyond half of the process's limit of open files idle ones are parked and new names wait for that; beyond seven
//! eighths new generations wait too, for the rest is for sinks, sockets and our own files.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::identity::{self, FileId, Look};
use super::{clock, disk};

/// Looks at a folder before a file is called gone: its names may shift during one.
const FIND_TRIES: usize = 4;

/// How long a folder may be away before its parked files are given up.
const FOLDER_AWAY: Duration = Duration::from_secs(30);

/// Descriptors of followed files.
static OPEN: AtomicU64 = AtomicU64::new(0);
static MAX: OnceLock<u64> = OnceLock::new();

/// Raises the limit of open files as far as may be: one descriptor for each generation that is not read yet.
pub fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // Less of them is still enough for most.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let _ = MAX.set(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
}

fn limit() -> u64 {
    *MAX.get().unwrap_or(&u64::MAX)
}

/// Whether as many are open as should be.
pub fn are_scarce() -> bool {
    is_said() || open_files() >= limit() / 2
}

#[cfg(not(test))]
#[inline(always)]
fn is_said() -> bool {
    false
}

#[cfg(test)]
pub use said::set_scarce;

#[cfg(test)]
use said::is_said;

#[cfg(test)]
mod said {
    use std::cell::Cell;

    thread_local!(static SCARCE: Cell<bool> = const { Cell::new(false) });

    /// Whether descriptors are scarce for this thread, however many are open.
    pub fn set_scarce(scarce: bool) {
        SCARCE.set(scarce);
    }

    pub fn is_said() -> bool {
        SCARCE.get()
    }
}

/// Whether no more may be opened.
pub fn are_used_up() -> bool {
    open_files() >= limit() / 8 * 7
}

/// How many are open.
pub fn open_files() -> u64 {
    OPEN.load(Relaxed)
}

#[derive(Debug)]
enum State {
    Open(Arc<File>),
    /// Since when its folder is away, if it was found to be.
    Parked(Option<Instant>),
    /// So many bytes it had, if that is known.
    GivenUp(u64),
}

/// Why a parked file is not opened.
enum NotFound {
    File(io::Error),
    /// Nobody knows what becomes of the file: a folder that is away may come back.
    Folder(io::Error),
}

impl NotFound {
    fn in_listing(folder: &Path, error: io::Error) -> NotFound {
        if !disk::is_absent(&error) {
            return NotFound::File(error);
        }
        let message = format!("the folder {} is away: {error}", folder.display());
        NotFound::Folder(io::Error::other(message))
    }
}

impl State {
    fn open(file: File) -> State {
        OPEN.fetch_add(1, Relaxed);
        State::Open(Arc::new(file))
    }

    fn kind(&self) -> u8 {
        match self {
            State::Open(_) => OPENED,
            State::Parked(_) => PARKED,
            State::GivenUp(_) => GIVEN_UP,
        }
    }
}

/// Which state it is, of [`Held::kind`].
const OPENED: u8 = 0;
const PARKED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// See the header.
#[derive(Debug)]
pub struct Held {
    state: Mutex<State>,
    /// Its name when it was opened. The opener has a handle on it, too, and lets go of it last.
    pub path: Arc<Path>,
    /// Who it is.
    pub id: FileId,
    /// Its name when it was opened, without the folder.
    pub name: Box<str>,
    /// Whether its content is compressed.
    pub gz: bool,
    /// Whoever wrote it was seen to close it: a compressed file should be whole then.
    pub closed: AtomicBool,
    /// Counts what was opened in this process: a smaller one was opened earlier.
    pub number: u64,
    /// Names shifted while it was opened: its place among its neighbours is a guess until somebody looks into them.
    pub doubted: AtomicBool,
    /// It was written to while it was parked.
    pub grew: AtomicBool,
    /// It counts as read to its end: that may come more than once.
    pub completed: AtomicBool,
    /// What the state is, for who only wants to know that. The opener asks at each rotation: it would wait for a reader that it
    /// has stopped itself, between two instructions under the lock, until that has its turn again.
    kind: AtomicU8,
}

/// Bytes up to which glibc frees without a lock (`DEFAULT_MXFAST`). Whoever drops the last handle would hold the allocator's
/// lock of the opener's thread beyond that, and could be stopped there by the opener itself, which then waits for it.
const FREED_AT_ONCE: usize = 120;
const _: () = assert!(size_of::<Held>() + 2 * size_of::<usize>() <= FREED_AT_ONCE);

impl Held {
    /// Holds an open file.
    pub fn new(file: File, id: FileId, path: &Path) -> Arc<Held> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name: Box<str> = Box::from(path.file_name().unwrap_or_default().to_string_lossy());
        let gz = name.ends_with(".gz");
        let [closed, doubted, grew, completed] = [false; 4].map(AtomicBool::new);
        let (state, number) = (Mutex::new(State::open(file)), NUMBER.fetch_add(1, Relaxed));
        let kind = AtomicU8::new(OPENED);
        Arc::new(Held { state, path: Arc::from(path), id, name, gz, closed, number, doubted, grew, completed, kind })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The only way from one state to another.
    fn go_over(&self, state: &mut State, to: State) {
        self.kind.store(to.kind(), Release);
        if let State::Open(_) = std::mem::replace(state, to) {
            OPEN.fetch_sub(1, Relaxed);
        }
    }

    /// The file. One that is parked is opened again.
    ///
    /// # Errors
    /// It was given up, or is gone; the kernel's.
    pub fn file(&self) -> io::Result<Arc<File>> {
        self.file_at(&self.path)
    }

    /// The same, where it was seen under a name just now.
    ///
    /// # Errors
    /// As of [`Held::file`].
    pub fn file_at(&self, path: &Path) -> io::Result<Arc<File>> {
        let mut state = self.lock();
        match &*state {
            State::Open(file) => return Ok(Arc::clone(file)),
            State::GivenUp(_) => {
                return Err(io::Error::other("given up to stay within the limits of deleted files, or gone"));
            }
            State::Parked(_) => {}
        }
        match self.find(path) {
            Ok(file) => {
                self.go_over(&mut state, State::open(file));
                self.grew.store(false, Relaxed);
            }
            Err(NotFound::File(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.go_over(&mut state, State::GivenUp(0));
                return Err(error);
            }
            Err(NotFound::File(error)) => return Err(error),
            Err(NotFound::Folder(error)) => {
                let since = match &*state {
                    State::Parked(Some(since)) => *since,
                    _ => clock::now(),
                };
                let over = clock::since(since) >= FOLDER_AWAY;
                self.go_over(&mut state, if over { State::GivenUp(0) } else { State::Parked(Some(since)) });
                return Err(error);
            }
        }
        drop(state);
        self.file_at(path)
    }

    /// Opens it again: by that name, or whatever name of its folder it has now. To list the folder of each parked file
    /// whenever that is looked at would be as many names as files.
    fn find(&self, path: &Path) -> Result<File, NotFound> {
        if let Some(file) = self.open(path)? {
            return Ok(file);
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        for _ in 0..FIND_TRIES {
            let others = disk::list(folder).map_err(|error| NotFound::in_listing(folder, error))?;
            for path in others.into_iter().map(|name| folder.join(name)) {
                if let Some(file) = self.open(&path)? {
                    return Ok(file);
                }
            }
        }
        let gone = "it was closed to make room for others, and is gone since";
        Err(NotFound::File(io::Error::new(io::ErrorKind::NotFound, gone)))
    }

    /// Opens what that name leads to, if that is it.
    fn open(&self, path: &Path) -> Result<Option<File>, NotFound> {
        if !identity::look_at(path).is_ok_and(|look| look.id == self.id) {
            return Ok(None);
        }
        match disk::open(path) {
            Ok(file) if identity::look(&file).map_err(NotFound::File)?.id == self.id => Ok(Some(file)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NotFound::File(error)),
            _ => Ok(None),
        }
    }

    /// What is held of it went stale: opens it again by a name that it has in its folder. Says whether it has one.
    pub fn reopen(&self) -> bool {
        let Ok(file) = self.find(&self.path) else { return false };
        let mut state = self.lock();
        let held = matches!(&*state, State::Open(_));
        if held {
            self.go_over(&mut state, State::open(file));
        }
        held
    }

    /// Looks at it.
    ///
    /// # Errors
    /// The kernel's, or it was given up.
    pub fn look(&self) -> io::Result<Look> {
        if self.is_parked()
            && let Ok(look) = identity::look_at(&self.path)
            && look.id == self.id
        {
            return Ok(look);
        }
        identity::look(&self.file()?)
    }

    /// Closes it until it is asked for. Says whether it was open until now.
    pub fn park(&self) -> bool {
        let mut state = self.lock();
        let idle = self.id.btime != 0 && matches!(&*state, State::Open(file) if Arc::strong_count(file) == 1);
        if idle {
            self.go_over(&mut state, State::Parked(None));
        }
        idle
    }

    /// Whether it is parked.
    pub fn is_parked(&self) -> bool {
        self.kind.load(Acquire) == PARKED
    }

    /// Lets go of the file, though it may not be read yet. Says whether it was held until now.
    pub fn give_up(&self) -> bool {
        let size = self.look().map_or(0, |look| look.size);
        let mut state = self.lock();
        let held = !matches!(&*state, State::GivenUp(_));
        if held {
            self.go_over(&mut state, State::GivenUp(size));
        }
        held
    }

    /// Whether it was given up.
    pub fn is_given_up(&self) -> bool {
        self.kind.load(Acquire) == GIVEN_UP
    }

    /// How many bytes it had when it was given up.
    pub fn size_given_up(&self) -> u64 {
        match &*self.lock() {
            State::GivenUp(size) => *size,
            _ => 0,
        }
    }

    /// Bytes of the file system that it is on.
    pub fn disk_total(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&*self.file().ok()?).ok()?;
        Some(stat.f_blocks.saturating_mul(stat.f_frsize))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.go_over(&mut self.lock(), State::GivenUp(0));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::generations;
    use super::*;

    #[test]
    fn a_parked_file_whose_folder_is_away_is_given_up_only_when_that_stays_away() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (folder, aside) = (dir.path().join("x"), dir.path().join("aside"));
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("a"), b"one").expect("written");
        let held = generations::open(&folder.join("a")).expect("opens");
        assert!(held.park());
        let began = Instant::now();
        let at = |seconds| clock::set(Some((began + Duration::from_secs(seconds), std::time::SystemTime::now())));
        at(0);
        fs::rename(&folder, &aside).expect("renamed");
        assert!(held.file().expect_err("away").to_string().contains("is away"));
        at(29);
        assert!(held.file().is_err() && !held.is_given_up());
        fs::rename(&aside, &folder).expect("renamed back");
        assert!(held.file().is_ok() && held.park());
        fs::rename(&folder, &aside).expect("renamed");
        assert!(held.file().is_err() && !held.is_given_up());
        at(60);
        assert!(held.file().is_err() && held.is_given_up());
        clock::set(None);
    }

    #[test]
    fn a_parked_file_is_found_under_its_new_name_and_another_file_in_its_place_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (path, moved) = (dir.path().join("a"), dir.path().join("a.1"));
        fs::write(&path, b"one").expect("written");
        let held = generations::open(&path).expect("opens");
        let using = held.file().expect("open");
        assert!(!held.park(), "somebody reads it");
        drop(using);
        assert!(held.park() && held.is_parked() && !held.park());
        assert_eq!(held.look().map(|look| look.size).ok(), Some(3));
        assert!(held.is_parked(), "a look needs no descriptor");
        disk::set_hook(Some(Box::new(|call| {
            assert!(!matches!(call, disk::Call::List(_)), "its own name is tried first");
            Ok(())
        })));
        assert!(held.file().is_ok() && held.park());
        fs::rename(&path, &moved).expect("renamed");
        assert!(held.file_at(&moved).is_ok() && held.park());
        fs::rename(&moved, &path).expect("renamed");
        disk::set_hook(None);
        fs::rename(&path, &moved).expect("renamed");
        fs::write(&path, b"another").expect("written");
        assert_eq!(held.file().and_then(|file| file.metadata()).map(|meta| meta.len()).ok(), Some(3));
        assert!(!held.is_parked() && held.park());
        fs::remove_file(&moved).expect("removed");
        assert_eq!(held.file().expect_err("gone").kind(), io::ErrorKind::NotFound);
        assert!(held.is_given_up());
    }
}
