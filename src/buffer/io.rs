//! What the log wants from a file system, and the real one. Everything that touches the disk goes through [`Io`], so
//! the crash tests can put a simulated disk below the same code.
//!
//! Names are relative to the log's folder. Calls may write less than they were given and may be interrupted; the
//! helpers at the end of the trait deal with both, but for a sync: one that was interrupted counts as failed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

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
            // What a failed try left must be gone for good: the rename below could else be all that a crash keeps of
            // this, and put that in the file's place.
            Ok(()) => self.sync_folder()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = self.create(&new)?;
        self.write_at(&file, bytes, 0)?;
        self.fdatasync(&file)?;
        self.rename(&new, name)?;
        self.sync_folder()?;
        Ok(file)
    }
}

/// The folder on the real file system.
#[derive(Debug)]
pub struct Disk {
    folder: OwnedFd,
}

const OPEN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

impl Disk {
    /// Opens a folder.
    pub fn open(folder: &Path) -> io::Result<Disk> {
        let folder = fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Disk { folder })
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

    fn fdatasync(&self, file: &OwnedFd) -> io::Result<()> {
        Ok(fs::fdatasync(file)?)
    }

    fn fallocate(&self, file: &OwnedFd, len: u64) -> io::Result<()> {
        match fs::fallocate(file, FallocateFlags::empty(), 0, len) {
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
        Ok(fs::unlinkat(&self.folder, name, AtFlags::empty())?)
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
