//! Every call to the kernel about files and folders that following makes, in one place: thin functions over `std` and
//! `rustix`, and nothing besides in a release build.
//!
//! In tests a hook of the thread is asked before each call. So a simulated writer can take its steps between any two of
//! them, and a call can be made to fail or to be the last one before a crash (`tests/simulation`).

use std::ffi::OsString;
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::inotify::WatchFlags;
use rustix::fs::{AtFlags, CWD, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// `statx` of an open file.
    Fstat,
    /// `statx` of a path, or whether it is a link.
    Stat(&'a Path),
    /// Opening a log, or a container's configuration, for reading.
    Open(&'a Path),
    /// `pread`.
    Read,
    /// Listing a folder.
    List(&'a Path),
    /// Watching a folder or file.
    Watch(&'a Path),
    /// Taking what the kernel has queued of events.
    Events,
    /// Making our own file.
    Create(&'a Path),
    /// Writing our own file.
    Write(&'a [u8]),
    /// `fdatasync` of a file, `fsync` of a folder.
    Sync,
    /// A second name for our own file.
    Link(&'a Path),
    /// Replacing our own file.
    Rename(&'a Path),
    /// Removing our own file.
    Remove(&'a Path),
}

#[cfg(not(test))]
#[inline(always)]
fn before(_: Call<'_>) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub use hook::{before, set_hook};

/// How much of it a disk gives.
#[cfg(not(test))]
#[inline(always)]
fn readable(_: &File, len: usize, _: u64) -> io::Result<usize> {
    Ok(len)
}

#[cfg(test)]
use bad::readable;
#[cfg(test)]
pub use bad::{Bad, set_bad};

/// What was seen: tests may tell another time of birth.
#[cfg(not(test))]
#[inline(always)]
fn born(stat: Statx) -> Statx {
    stat
}

#[cfg(test)]
use births::born;
#[cfg(test)]
pub use births::{are_told, bear, set_births};

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Looks at an open file.
pub fn fstat(file: impl AsFd) -> io::Result<Statx> {
    before(Call::Fstat)?;
    Ok(born(rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, WANTED)?))
}

/// Looks at the file of that name; symlinks are followed.
pub fn stat(path: &Path) -> io::Result<Statx> {
    before(Call::Stat(path))?;
    Ok(born(rustix::fs::statx(CWD, path, AtFlags::empty(), WANTED)?))
}

/// Whether that name is a symlink.
pub fn is_link(path: &Path) -> bool {
    before(Call::Stat(path)).is_ok() && fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

/// The magic number of the file system that a path is on; 0 where nobody says. (The hook is not asked: nothing hangs on
/// the moment.)
pub fn file_system(path: &Path) -> u64 {
    rustix::fs::statfs(path).map_or(0, |stat| stat.f_type as u64 & 0xffff_ffff)
}

/// Opens a file for reading; never waits for the writer of a FIFO.
pub fn open(path: &Path) -> io::Result<File> {
    before(Call::Open(path))?;
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

/// Whether an error is the kernel's: what a file holds is not at fault.
pub fn is_of_kernel(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

/// What is held of a file on a network file system will never be read again: its server has deleted or replaced it, or does
/// not know it any more.
pub fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

/// Reads at an offset, once: perhaps less than there is.
pub fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    before(Call::Read)?;
    let readable = readable(file, buf.len(), offset)?;
    file.read_at(&mut buf[..readable], offset)
}

/// The names in a folder. Half of them are worse than an error.
pub fn list(folder: &Path) -> io::Result<Vec<OsString>> {
    Ok(entries(folder)?.into_iter().map(|entry| entry.file_name()).collect())
}

/// The same, with what they are.
pub fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    before(Call::List(folder))?;
    fs::read_dir(folder)?.collect()
}

/// There is nothing of that name, which is an answer. Other errors say nothing of what is there.
pub fn is_absent(error: &io::Error) -> bool {
    let of = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    error.kind() == io::ErrorKind::NotFound || of(Errno::NOTDIR) || of(Errno::LOOP)
}

/// Watches a path.
pub fn watch(inotify: impl AsFd, path: &Path, what: WatchFlags) -> io::Result<i32> {
    before(Call::Watch(path))?;
    Ok(rustix::fs::inotify::add_watch(inotify, path, what)?)
}

/// Before the kernel's queue of events is read.
pub fn events() -> bool {
    before(Call::Events).is_ok()
}

/// Makes a folder of ours (0700), and those above it.
pub fn make_folder(path: &Path) -> io::Result<()> {
    before(Call::Create(path))?;
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a file of ours (0600), empty.
pub fn create(path: &Path) -> io::Result<File> {
    before(Call::Create(path))?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes all of it.
pub fn write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    before(Call::Write(bytes))?;
    file.write_all(bytes)
}

/// The whole of a file of ours.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    before(Call::Open(path))?;
    fs::read(path)
}

/// `fdatasync`.
pub fn sync(file: &File) -> io::Result<()> {
    before(Call::Sync)?;
    file.sync_data()
}

/// Makes the names in a folder durable.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    before(Call::Sync)?;
    File::open(path)?.sync_all()
}

/// A second name for a file of ours.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    before(Call::Link(to))?;
    fs::hard_link(from, to)
}

/// Puts a file of ours in the place of another.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    before(Call::Rename(to))?;
    fs::rename(from, to)
}

/// Removes a file of ours.
pub fn remove(path: &Path) -> io::Result<()> {
    before(Call::Remove(path))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod hook {
    use std::cell::RefCell;

    use super::{Call, io};

    /// Asked before each call of this thread. An error is what the call ends with, without being made.
    pub type Hook = Box<dyn FnMut(Call<'_>) -> io::Result<()>>;

    thread_local!(static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) });

    /// Replaces the thread's hook.
    pub fn set_hook(hook: Option<Hook>) {
        HOOK.with_borrow_mut(|known| *known = hook);
    }

    pub fn before(call: Call<'_>) -> io::Result<()> {
        // Taken out while it runs: what it does itself is not asked about.
        let Some(mut hook) = HOOK.take() else { return Ok(()) };
        let said = hook(call);
        HOOK.set(Some(hook));
        said
    }
}

/// A disk that does not give all of a file.
#[cfg(test)]
mod bad {
    use std::cell::RefCell;
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;

    use super::{Errno, io};

    /// Files whose name ends like this can not be read from there on: a read that begins before that is short.
    #[derive(Clone, Copy)]
    pub struct Bad {
        pub name: &'static str,
        pub from: u64,
        pub errno: Errno,
    }

    thread_local!(static BAD: RefCell<Option<Bad>> = const { RefCell::new(None) });

    /// What this thread can not read.
    pub fn set_bad(bad: Option<Bad>) {
        BAD.set(bad);
    }

    pub fn readable(file: &File, len: usize, offset: u64) -> io::Result<usize> {
        let Some(bad) = BAD.with_borrow(|bad| *bad) else { return Ok(len) };
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        if !path.to_string_lossy().ends_with(bad.name) {
            return Ok(len);
        }
        match usize::try_from(bad.from.saturating_sub(offset)) {
            Ok(0) => Err(bad.errno.into()),
            left => Ok(left.map_or(len, |left| left.min(len))),
        }
    }
}

/// Files that are made at times of a test's own, as far as it tells them.
#[cfg(test)]
mod births {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use super::{AsFd, AtFlags, Statx, WANTED};

    /// By inode and the kernel's own time.
    type Births = HashMap<(u64, i64, u32), Duration>;

    thread_local!(static BIRTHS: RefCell<Option<Births>> = const { RefCell::new(None) });

    /// Whether this thread tells when its files are made.
    pub fn set_births(told: bool) {
        BIRTHS.set(told.then(Births::default));
    }

    pub fn are_told() -> bool {
        BIRTHS.with_borrow(Option::is_some)
    }

    fn key(stat: &Statx) -> (u64, i64, u32) {
        (stat.stx_ino, stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)
    }

    /// A file was made just now.
    pub fn bear(file: &File, at: SystemTime) {
        let stat = rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, WANTED).expect("open");
        let at = at.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        BIRTHS.with_borrow_mut(|births| births.as_mut().map(|births| births.insert(key(&stat), at)));
    }

    pub fn born(mut stat: Statx) -> Statx {
        let at = BIRTHS.with_borrow(|births| births.as_ref().and_then(|births| births.get(&key(&stat)).copied()));
        if let Some(at) = at {
            stat.stx_btime.tv_sec = i64::try_from(at.as_secs()).expect("no such time");
            stat.stx_btime.tv_nsec = at.subsec_nanos();
        }
        stat
    }
}
