//! Open output files: found or made below the base folder, checked for a torn end, written whole, synced.
//!
//! - Folders below the base are opened one component at a time, each without following links, so no name and no link
//!   that somebody plants leads out of it. Folders are made 0750, files 0640.
//! - A write that fails half-way is cut back, so no line ever follows half of another. If even that fails, the file is
//!   closed, and its end is checked when it is opened again.
//! - A file has one writer: it is locked. A file that was deleted is made again.
//!
//! Limits: [`OPEN_MAX`] files are open at once (the one that was idle longest is closed), each [`IDLE`] at most without
//! a write; as many wait for a sync.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::fs::{accessat, fcntl_setfl, flock, fstat, ftruncate, mkdirat, openat};
use rustix::io::Errno;

use super::file_rotate::{self, Rotate};
use super::file_sync::Dirty;
use super::file_tail::{Packing, Tail, examine};
use crate::record::Timestamp;

/// Files open at once.
const OPEN_MAX: usize = 256;
/// A file without a write for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Ends of files that are remembered, so that they need no check when opened again.
const KNOWN_MAX: usize = 4096;

/// Why a file could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It may work later.
    Later(String),
    /// A path that comes from a record and that can never be made.
    Never(String),
}

struct Open {
    file: Arc<File>,
    folder: Arc<OwnedFd>,
    name: String,
    /// Device and inode.
    id: (u64, u64),
    /// A device: no end to check, nothing to cut, lock or rotate.
    special: bool,
    /// See [`Rotate::period`].
    period: i64,
    used: Instant,
}

/// All open files of one sink.
pub struct Files {
    /// Opened when it is first needed.
    base: Option<Arc<OwnedFd>>,
    base_path: PathBuf,
    packing: Packing,
    rotate: Rotate,
    /// The path is the operator's own word: a link as the file itself is followed, and no path is "never".
    fixed: bool,
    open: HashMap<String, Open>,
    /// Inode and length of files that were closed whole.
    known: HashMap<String, ((u64, u64), u64)>,
    dirty: Arc<Dirty>,
}

impl Files {
    /// Files below the folder `base`, which is made when it is first needed.
    pub fn new(base: &Path, packing: Packing, rotate: Rotate, fixed: bool) -> Files {
        Files {
            base: None,
            base_path: base.to_owned(),
            packing,
            rotate,
            fixed,
            open: HashMap::new(),
            known: HashMap::new(),
            dirty: Arc::default(),
        }
    }

    /// Whether files can be made in the base folder.
    pub fn check_base(&mut self) -> io::Result<()> {
        self.base()?;
        accessat(CWD, &self.base_path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|error| explain(&self.base_path, "the folder can not be written to", &error.into()))
    }

    /// What has to be synced.
    pub fn dirty(&self) -> &Arc<Dirty> {
        &self.dirty
    }

    /// Opens a file without writing to it.
    pub fn touch(&mut self, path: &str, now: Timestamp) -> io::Result<()> {
        self.try_open(path, now).map_err(|error| {
            let kind = match &error {
                OpenError::Os(errno) => io::Error::from(*errno).kind(),
                OpenError::Base(error) => error.kind(),
                OpenError::NoFile | OpenError::Pipe | OpenError::Locked => io::ErrorKind::Other,
            };
            let (Fault::Later(cause) | Fault::Never(cause)) = self.open_fault(path, error);
            io::Error::new(kind, cause)
        })
    }

    /// Appends whole lines (or a whole member), all or nothing.
    pub fn append(&mut self, path: &str, bytes: &[u8], now: Timestamp) -> Result<(), Fault> {
        self.ready(path, bytes.len() as u64, now)?;
        let Some(open) = self.open.get_mut(path) else {
            return Err(Fault::Later(format!("{path}: not open")));
        };
        let before = fstat(&open.file).map_err(|error| self.fault(path, error))?.st_size;
        let Some(open) = self.open.get_mut(path) else {
            return Err(Fault::Later(format!("{path}: not open")));
        };
        match write_all(open.file.as_fd(), bytes) {
            Ok(()) => {
                open.used = Instant::now();
                if !open.special {
                    self.dirty.file(open.id, &open.file, &open.name);
                }
                Ok(())
            }
            Err(error) => {
                // Sizes of files are never negative.
                if !open.special && ftruncate(&open.file, before as u64).is_err() {
                    // What it ends in now is checked before anything else is written to it.
                    self.close(path);
                    self.known.remove(path);
                }
                Err(self.fault(path, error))
            }
        }
    }

    /// Sees to it that `path` is open, in place, and not due to be finished before `more` bytes.
    fn ready(&mut self, path: &str, more: u64, now: Timestamp) -> Result<(), Fault> {
        if let Some(open) = self.open.get(path) {
            let stat = fstat(&open.file).map_err(|error| self.fault(path, error))?;
            if stat.st_nlink == 0 && !open.special {
                // Somebody deleted it.
                self.close(path);
            }
        }
        if !self.open.contains_key(path) {
            self.open(path, now)?;
        }
        let Some(open) = self.open.get(path) else { return Ok(()) };
        let len = fstat(&open.file).map_or(0, |stat| stat.st_size.max(0) as u64);
        if !open.special && self.rotate.is_due(len, more, open.period, now) {
            self.finish(path, now)?;
            self.open(path, now)?;
        }
        Ok(())
    }

    fn open(&mut self, path: &str, now: Timestamp) -> Result<(), Fault> {
        if self.open.len() >= OPEN_MAX {
            self.close_idlest();
        }
        match self.try_open(path, now) {
            Err(OpenError::Os(Errno::MFILE | Errno::NFILE)) if !self.open.is_empty() => {
                for _ in 0..self.open.len().div_ceil(2) {
                    self.close_idlest();
                }
                self.dirty.sync_now();
                self.try_open(path, now).map_err(|error| self.open_fault(path, error))
            }
            // Somebody deleted the base folder.
            Err(OpenError::Os(Errno::NOENT)) if self.base_is_gone() => {
                self.base = None;
                self.try_open(path, now).map_err(|error| self.open_fault(path, error))
            }
            outcome => outcome.map_err(|error| self.open_fault(path, error)),
        }
    }

    fn try_open(&mut self, path: &str, now: Timestamp) -> Result<(), OpenError> {
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let name = parts.pop().ok_or(Errno::INVAL)?.to_owned();
        let mut folder = self.base().map_err(OpenError::Base)?;
        for part in parts {
            folder = Arc::new(self.folder(&folder, part)?);
        }
        // A second round after a file that is not ours was set aside.
        for _ in 0..2 {
            // Without waiting: a pipe that nobody reads would hold the thread here.
            let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
            flags |= OFlags::NONBLOCK;
            if !self.fixed {
                flags |= OFlags::NOFOLLOW;
            }
            let file = match openat(&*folder, &*name, flags, Mode::from_raw_mode(0o640)) {
                // A device that can only be written.
                Err(Errno::ACCESS | Errno::NXIO | Errno::SPIPE) if self.fixed => openat(
                    &*folder,
                    &*name,
                    flags.difference(OFlags::RDWR) | OFlags::WRONLY,
                    Mode::from_raw_mode(0o640),
                )?,
                file => file?,
            };
            let stat = fstat(&file)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Fifo {
                // What lies in a pipe is lost with its reader, so nothing written to it is delivered.
                return Err(OpenError::Pipe);
            }
            let special = kind != FileType::RegularFile;
            if special && !self.fixed {
                return Err(OpenError::NoFile);
            }
            let id = (stat.st_dev, stat.st_ino);
            if special {
                // Writes do wait.
                fcntl_setfl(&file, OFlags::APPEND)?;
            }
            let file = File::from(file);
            if !special {
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                    Err(Errno::WOULDBLOCK) => return Err(OpenError::Locked),
                    Err(error) => return Err(error.into()),
                }
                let len = stat.st_size.max(0) as u64;
                if len == 0 {
                    self.dirty.folder(&folder);
                }
                if self.known.remove(path) != Some((id, len)) && !self.repair(&file, &folder, &name, path, len, now)? {
                    continue;
                }
            }
            let born = if stat.st_size > 0 { Timestamp(stat.st_mtime.saturating_mul(1_000_000_000)) } else { now };
            let (period, used) = (self.rotate.period(born), Instant::now());
            let open = Open { file: Arc::new(file), folder, name, id, special, period, used };
            self.open.insert(path.to_owned(), open);
            return Ok(());
        }
        Err(OpenError::NoFile)
    }

    fn base(&mut self) -> io::Result<Arc<OwnedFd>> {
        if let Some(base) = &self.base {
            return Ok(Arc::clone(base));
        }
        let base = Arc::new(open_base(&self.base_path)?);
        self.base = Some(Arc::clone(&base));
        Ok(base)
    }

    fn base_is_gone(&self) -> bool {
        self.base.as_ref().is_some_and(|base| fstat(base).is_ok_and(|stat| stat.st_nlink == 0))
    }

    fn folder(&self, parent: &OwnedFd, part: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, part, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match mkdirat(parent, part, Mode::from_raw_mode(0o750)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                self.dirty.folder_fd(parent.try_clone().map_err(|_| Errno::MFILE)?);
                openat(parent, part, flags, Mode::empty())
            }
            outcome => outcome,
        }
    }

    /// Cuts off what a crash left. Says whether the file can be appended to: one that is not ours is set aside.
    fn repair(
        &self,
        file: &File,
        folder: &OwnedFd,
        name: &str,
        path: &str,
        len: u64,
        now: Timestamp,
    ) -> Result<bool, OpenError> {
        let examined = examine(file, len, self.packing);
        match examined.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))? {
            Tail::Whole => Ok(true),
            Tail::Torn(at) => {
                ftruncate(file, at)?;
                let (file, bytes) = (self.show(path), len - at);
                tracing::warn!(file, bytes, "cut off a torn write at the end; it was not settled and comes again");
                Ok(true)
            }
            Tail::Foreign => {
                let aside = file_rotate::set_aside(folder.as_fd(), name, "torn-", now)?;
                let file = self.show(path);
                tracing::warn!(file, aside, "the file does not end as longshore writes it; it was set aside");
                Ok(false)
            }
        }
    }

    /// Gives a finished file its final name.
    fn finish(&mut self, path: &str, now: Timestamp) -> Result<(), Fault> {
        let Some(open) = self.open.get(path) else { return Ok(()) };
        let (folder, name) = (Arc::clone(&open.folder), open.name.clone());
        match file_rotate::set_aside(folder.as_fd(), &name, "", now) {
            Ok(_) => {}
            // Somebody moved it away already.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(self.fault(path, error)),
        }
        self.dirty.folder(&folder);
        self.close(path);
        self.known.remove(path);
        if let Some(keep) = self.rotate.keep
            && let Err(error) = file_rotate::prune(folder.as_fd(), &name, keep)
        {
            let file = self.show(path);
            tracing::warn!(file, %error, "old finished files could not be deleted");
        }
        Ok(())
    }

    fn close(&mut self, path: &str) {
        let Some(open) = self.open.remove(path) else { return };
        if open.special {
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        if let Ok(stat) = fstat(&open.file) {
            self.known.insert(path.to_owned(), (open.id, stat.st_size.max(0) as u64));
        }
        // The descriptor may live on until it is synced; the lock must not.
        let _ = flock(&open.file, FlockOperation::Unlock);
    }

    fn close_idlest(&mut self) {
        let idlest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(path, _)| path.clone());
        if let Some(path) = idlest {
            self.close(&path);
        }
    }

    /// Closes all; they are opened again when there is something to write.
    pub fn close_all(&mut self) {
        for path in self.open.keys().cloned().collect::<Vec<_>>() {
            self.close(&path);
        }
    }

    /// Closes idle files and finishes those whose time is over. Returns when to look again.
    pub fn upkeep(&mut self, now: Timestamp) -> Option<Duration> {
        let due = |open: &Open| {
            let len = || fstat(&open.file).map_or(0, |stat| stat.st_size.max(0) as u64);
            !open.special && self.rotate.period(now) > open.period && self.rotate.is_due(len(), 0, open.period, now)
        };
        let finished: Vec<String> =
            self.open.iter().filter(|(_, open)| due(open)).map(|(path, _)| path.clone()).collect();
        for path in finished {
            if let Err(Fault::Later(cause) | Fault::Never(cause)) = self.finish(&path, now) {
                tracing::warn!(cause, "a finished file could not be renamed; tried again before the next write");
            }
        }
        let idle = |open: &Open| open.used.elapsed() >= IDLE;
        let idle: Vec<String> = self.open.iter().filter(|(_, open)| idle(open)).map(|(path, _)| path.clone()).collect();
        for path in idle {
            self.close(&path);
        }
        if self.open.is_empty() {
            return None;
        }
        Some(if self.rotate.every.is_some() { Duration::from_secs(1) } else { IDLE / 4 })
    }

    fn show(&self, path: &str) -> String {
        self.base_path.join(path).display().to_string()
    }

    fn fault(&self, path: &str, error: Errno) -> Fault {
        self.open_fault(path, OpenError::Os(error))
    }

    fn open_fault(&self, path: &str, error: OpenError) -> Fault {
        let place = self.show(path);
        let never = |cause| if self.fixed { Fault::Later(cause) } else { Fault::Never(cause) };
        match error {
            OpenError::Os(
                error @ (Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::ISDIR | Errno::INVAL | Errno::ILSEQ),
            ) => never(format!("{place}: {error}")),
            OpenError::Os(error @ (Errno::NOSPC | Errno::DQUOT)) => {
                Fault::Later(format!("{place}: {error}; make room, or lower `rotate.keep`"))
            }
            OpenError::Os(error @ (Errno::ACCESS | Errno::PERM)) => {
                let user = rustix::process::geteuid().as_raw();
                Fault::Later(format!("{place}: {error}; the user {user} must be able to write there"))
            }
            OpenError::Os(error) => Fault::Later(format!("{place}: {error}")),
            OpenError::Base(error) => Fault::Later(error.to_string()),
            OpenError::NoFile => never(format!("{place}: it is there and no regular file")),
            OpenError::Pipe => never(format!(
                "{place}: it is a pipe, which keeps nothing when its reader ends; use a regular file, or a sink of type \"stdout\""
            )),
            OpenError::Locked => {
                Fault::Later(format!("{place}: another process (or another sink) writes to it; give each its own path"))
            }
        }
    }
}

#[derive(Debug)]
enum OpenError {
    Os(Errno),
    /// The base folder can not be opened; the text names it.
    Base(io::Error),
    /// There is something, and it is no regular file.
    NoFile,
    /// There is a pipe.
    Pipe,
    Locked,
}

impl Drop for Files {
    /// Whoever comes next gets the locks at once, though a sync, or a process that is being started, has descriptors still.
    fn drop(&mut self) {
        self.close_all();
    }
}

impl From<Errno> for OpenError {
    fn from(error: Errno) -> OpenError {
        OpenError::Os(error)
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens the base folder, made if it is not there.
fn open_base(path: &Path) -> io::Result<OwnedFd> {
    make_folder(path).map_err(|error| explain(path, "the folder can not be made", &error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|error| explain(path, "the folder can not be opened", &error.into()))
}

/// Makes a folder and those above it (0750), and syncs the names that are new.
fn make_folder(path: &Path) -> io::Result<()> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new(".").to_owned(),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    };
    let missing: Vec<&Path> =
        path.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o750).create(path)?;
    for made in missing {
        File::open(parent(made))?.sync_all()?;
    }
    Ok(())
}

fn explain(path: &Path, what: &str, error: &io::Error) -> io::Error {
    let who = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("; the user {} must be able to write there", rustix::process::geteuid().as_raw())
        }
        io::ErrorKind::ReadOnlyFilesystem => "; choose a `path` on a file system that can be written to".to_owned(),
        _ => String::new(),
    };
    io::Error::new(error.kind(), format!("{}: {what}: {error}{who}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_next_has_the_locks_though_somebody_still_has_descriptors() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = || Files::new(dir.path(), Packing::Plain, Rotate::default(), false);
        let (mut first, mut other) = (files(), files());
        first.touch("out", Timestamp(0)).expect("opened");
        assert!(matches!(other.try_open("out", Timestamp(0)), Err(OpenError::Locked)));
        let synced: Vec<Arc<File>> = first.open.values().map(|open| Arc::clone(&open.file)).collect();
        drop(first);
        other.touch("out", Timestamp(0)).expect("free");
        assert_eq!(synced.len(), 1);
    }
}
