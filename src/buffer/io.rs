//! What the log wants from a file system, and the real one. Everything that touches the disk goes through [`Io`], so
//! the crash tests can put a simulated disk below the same code.
//!
//! Names are relative to the log's folder. Calls may write less than they were given and may be interrupted; the
//! helpers at the end of the trait deal with both, but for a sync: one that was interrupted counts as failed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::frame::BLOCK;

mod release; // removed files whose blocks are still to be given back

use release::Release;

/// One read or write may be interrupted so often.
const INTERRUPTED_MAX: u32 = 1000;

/// A folder of files.
pub trait Io {
    /// An open file.
    type File;

    /// Makes a file that must not be there yet.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading.
    fn open_read(&self, name: &str) -> io::Result<Self::File>;
    /// Bytes of a file.
    fn len(&self, file: &Self::File) -> io::Result<u64>;
    /// Reads at a place; 0 at the end.
    fn pread(&self, file: &Self::File, into: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes at a place.
    fn pwrite(&self, file: &Self::File, bytes: &[u8], at: u64) -> io::Result<usize>;
    /// Everything that was written is on stable storage when this returns.
    fn fdatasync(&self, file: &Self::File) -> io::Result<()>;
    /// Makes the file `len` bytes long and keeps the space for it, where the file system can.
    fn fallocate(&self, file: &Self::File, len: u64) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, file: &Self::File, len: u64) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Renames, over what has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Names made, removed and changed are on stable storage when this returns.
    fn sync_folder(&self) -> io::Result<()>;
    /// Makes a folder, if it is not there.
    fn folder(&self, name: &str) -> io::Result<()>;
    /// Names of the folder `name` (`.` is the log's own), with their bytes; what is no plain file is left out.
    fn list(&self, name: &str) -> io::Result<Vec<(String, u64)>>;

    /// Reads until `into` is full or the file ends; gives how much.
    fn read_at(&self, file: &Self::File, into: &mut [u8], at: u64) -> io::Result<usize> {
        let (mut done, mut interrupted) = (0, 0);
        while done < into.len() {
            match self.pread(file, &mut into[done..], at + done as u64) {
                Ok(0) => break,
                Ok(some) => done += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted && interrupted < INTERRUPTED_MAX => {
                    interrupted += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes all bytes.
    fn write_at(&self, file: &Self::File, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut done, mut interrupted) = (0, 0);
        while done < bytes.len() {
            match self.pwrite(file, &bytes[done..], at + done as u64) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "nothing was written")),
                Ok(some) => done += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted && interrupted < INTERRUPTED_MAX => {
                    interrupted += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The same for whole blocks of [`BLOCK`] bytes at a multiple of it, which nobody has written before: where it pays
    /// and can be, past the page cache. What is on stable storage before the sync is as open as with any write.
    fn write_blocks(&self, file: &Self::File, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_at(file, bytes, at)
    }

    /// All bytes of a file, `max` at most.
    fn read_all(&self, name: &str, max: usize) -> io::Result<Vec<u8>> {
        let file = self.open_read(name)?;
        let len = usize::try_from(self.len(&file)?).unwrap_or(usize::MAX).min(max);
        let mut bytes = vec![0; len];
        let got = self.read_at(&file, &mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// Puts a file in place of another one, all or nothing, on stable storage when this returns.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<Self::File> {
        let new = format!("{name}.new");
        match self.unlink(&new) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // What a failed try left must be gone for good, also where it was removed already and that sync failed: the rename
        // below could else be all that a crash keeps of this, and put that in the file's place.
        self.sync_folder()?;
        let file = self.create(&new)?;
        self.write_at(&file, bytes, 0)?;
        self.fdatasync(&file)?;
        self.rename(&new, name)?;
        self.sync_folder()?;
        Ok(file)
    }
}

/// The folder on the real file system.
///
/// Large commits are written with `O_DIRECT`: copying them into the page cache, which nobody is to read them from, and out
/// again is most of what a commit costs. Readers go through the page cache all the same: the kernel drops what it has
/// of the blocks before and after such a write, and readers never look beyond what is published. Where the file system
/// does not have it (an old tmpfs, some network and FUSE ones), everything is written as usual.
#[derive(Debug)]
pub struct Disk {
    folder: OwnedFd,
    /// A direct write was refused: not asked again.
    no_direct: AtomicBool,
    release: Release,
}

/// A smaller write is copied faster than its pages are handed to the device.
const DIRECT_MIN: usize = 64 << 10;

const OPEN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

impl Disk {
    /// Opens a folder.
    pub fn open(folder: &Path) -> io::Result<Disk> {
        let folder = fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Disk { folder, no_direct: AtomicBool::new(false), release: Release::default() })
    }

    /// Writes what it can past the page cache; gives how much, in whole blocks.
    fn write_direct(&self, file: &OwnedFd, bytes: &[u8], at: u64) -> io::Result<usize> {
        let is_aligned = bytes.as_ptr().align_offset(BLOCK) == 0 && bytes.len().is_multiple_of(BLOCK);
        if bytes.len() < DIRECT_MIN || !is_aligned || self.no_direct.load(Relaxed) {
            return Ok(0);
        }
        let is_refusal = |error: Errno| matches!(error, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS);
        // For this one write: the header and small commits of the same file are not aligned.
        let mut written = fs::fcntl_setfl(file, OFlags::DIRECT | OFlags::NONBLOCK).map(|()| 0);
        for _ in 0..INTERRUPTED_MAX {
            written = written.and_then(|_| rustix::io::pwrite(file, bytes, at));
            match written {
                Err(Errno::INTR) => written = Ok(0),
                _ => break,
            }
        }
        fs::fcntl_setfl(file, OFlags::NONBLOCK)?;
        match written {
            // What is left of a short write is written as usual, which says what is wrong.
            Ok(some) => Ok(some / BLOCK * BLOCK),
            Err(error) if is_refusal(error) => {
                self.no_direct.store(true, Relaxed);
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The folder's descriptor.
    pub fn folder_fd(&self) -> &OwnedFd {
        &self.folder
    }
}

impl Io for Disk {
    type File = OwnedFd;

    fn create(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OPEN | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?)
    }

    fn open(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(fs::openat(&self.folder, name, OPEN | OFlags::RDWR, Mode::empty())?)
    }

    fn open_read(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(fs::openat(&self.folder, name, OPEN | OFlags::RDONLY, Mode::empty())?)
    }

    fn len(&self, file: &OwnedFd) -> io::Result<u64> {
        Ok(u64::try_from(fs::fstat(file)?.st_size).unwrap_or(0))
    }

    fn pread(&self, file: &OwnedFd, into: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pread(file, into, at)?)
    }

    fn pwrite(&self, file: &OwnedFd, bytes: &[u8], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwrite(file, bytes, at)?)
    }

    fn write_blocks(&self, file: &OwnedFd, bytes: &[u8], at: u64) -> io::Result<()> {
        let done = self.write_direct(file, bytes, at)?;
        self.write_at(file, &bytes[done..], at + done as u64)
    }

    fn fdatasync(&self, file: &OwnedFd) -> io::Result<()> {
        Ok(fs::fdatasync(file)?)
    }

    fn fallocate(&self, file: &OwnedFd, len: u64) -> io::Result<()> {
        let mut kept = fs::fallocate(file, FallocateFlags::empty(), 0, len);
        if matches!(kept, Err(Errno::NOSPC | Errno::DQUOT)) {
            self.release.wait();
            kept = fs::fallocate(file, FallocateFlags::empty(), 0, len);
        }
        match kept {
            Ok(()) => Ok(()),
            // Some file systems can not; then a full disk shows at the write.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(fs::ftruncate(file, len)?),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, file: &OwnedFd, len: u64) -> io::Result<()> {
        Ok(fs::ftruncate(file, len)?)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        // Its blocks are not waited for.
        let file = self.open(name);
        fs::unlinkat(&self.folder, name, AtFlags::empty())?;
        file.into_iter().for_each(|file| self.release.close(file));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.folder)?)
    }

    fn folder(&self, name: &str) -> io::Result<()> {
        match fs::mkdirat(&self.folder, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self, name: &str) -> io::Result<Vec<(String, u64)>> {
        let folder =
            fs::openat(&self.folder, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut found = Vec::new();
        for entry in fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            // A file may go while we look, if another process reads the folder of a running one.
            let Ok(stat) = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::RegularFile {
                found.push((name.to_owned(), u64::try_from(stat.st_size).unwrap_or(0)));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that begin at a multiple of a block.
    struct Aligned(Vec<u8>, usize);

    impl Aligned {
        fn new(len: usize, fill: u8) -> Aligned {
            let mut bytes: Vec<u8> = Vec::with_capacity(len + BLOCK);
            let start = bytes.as_ptr().align_offset(BLOCK);
            bytes.resize(start, 0);
            bytes.resize(start + len, fill);
            Aligned(bytes, start)
        }

        fn bytes(&self) -> &[u8] {
            &self.0[self.1..]
        }
    }

    #[test]
    fn large_commits_pass_the_page_cache_by_and_are_read_like_others() {
        // Beside the program: the folder for temporary files may be a tmpfs.
        let program = std::env::current_exe().expect("a path");
        let folder = tempfile::tempdir_in(program.parent().expect("a folder")).expect("writable");
        let disk = Disk::open(folder.path()).expect("a folder");
        let file = disk.create("x").expect("a file");
        disk.fallocate(&file, 16 << 20).expect("space");
        let reader = disk.open_read("x").expect("it is there");
        let (mut at, mut wanted) = (0, Vec::new());
        for round in 0..40u8 {
            // A reader has just been there: zeros are in the cache where the commit goes.
            let mut ahead = vec![1; 256 << 10];
            disk.read_at(&reader, &mut ahead, at).expect("readable");
            assert!(ahead.iter().all(|byte| *byte == 0));
            let len = if round % 3 == 0 { BLOCK } else { DIRECT_MIN + usize::from(round) * BLOCK };
            let commit = Aligned::new(len, round + 1);
            // What the cache has afterwards tells nothing: where somebody has hold of a page that the kernel can not drop (one that
            // is being moved, say), it takes the cache, on some machines for hours.
            let direct = disk.write_direct(&file, commit.bytes(), at).expect("writable");
            let has_direct = !disk.no_direct.load(Relaxed);
            assert_eq!(direct, if len > BLOCK && has_direct { len } else { 0 }, "round {round}");
            disk.write_blocks(&file, commit.bytes(), at).expect("writable");
            disk.fdatasync(&file).expect("synced");
            wanted.extend_from_slice(commit.bytes());
            at += len as u64;
            let mut found = vec![0; wanted.len()];
            disk.read_at(&reader, &mut found, 0).expect("readable");
            assert!(found == wanted, "round {round}");
        }
        // That flag of its writes: these file systems refuse what does not begin at a block with it, and only with it.
        let kind = fs::fstatfs(&file).expect("known").f_type;
        if [0xef53, 0x5846_5342].contains(&kind) {
            let commit = Aligned::new(DIRECT_MIN, 1);
            assert_eq!(disk.write_direct(&file, commit.bytes(), 1).expect("it is refused"), 0);
            assert!(disk.no_direct.load(Relaxed));
        }
    }

    #[test]
    fn a_file_system_without_direct_writes_is_written_as_usual() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(folder.path()).expect("a folder");
        let file = disk.create("x").expect("a file");
        let commit = Aligned::new(DIRECT_MIN, 3);
        // At a place that every kernel refuses, as some file systems refuse all.
        disk.write_blocks(&file, commit.bytes(), 1).expect("it is written all the same");
        let found = disk.read_all("x", usize::MAX).expect("readable");
        assert!(found[0] == 0 && &found[1..] == commit.bytes());
        // Bytes that do not begin at a block are no reason to give up.
        let disk = Disk::open(folder.path()).expect("a folder");
        disk.write_blocks(&file, &commit.bytes()[1..], 0).expect("writable");
        assert!(!disk.no_direct.load(Relaxed));
    }
}
