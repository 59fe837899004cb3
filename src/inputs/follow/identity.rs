//! Which file is which: device, inode and birth time while a file is held, and two marks of its content for the time in
//! between. A mark is the length and hash of a few bytes: the head (the first 1024 bytes, or fewer while the file is
//! shorter) and the tail (the 64 bytes before an offset). Marks are taken over content, after decompression, so a
//! compressed generation has those of the plain file it was made from.
//!
//! Limit: ext4 gives an inode to a new file at once, and birth times have ticks of 4 ms, so the first part alone does
//! not tell two short-lived files apart. A held file keeps its inode; across a restart the marks decide.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, Statx, StatxFlags};

use super::disk;

/// Bytes of content that the head mark covers, at most.
pub const HEAD_BYTES: usize = 1024;
/// Bytes before an offset that the tail mark covers, at most.
pub const TAIL_BYTES: usize = 64;

/// Device, inode and birth time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    /// `st_dev`, as major << 32 | minor.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// Birth time, nanoseconds since 1970; 0 where the file system has none.
    pub btime: i64,
}

/// What a look at a file tells.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Who it is.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
    /// Last change of content, nanoseconds since 1970.
    pub mtime: i64,
    /// Last change of anything but the time of reading, nanoseconds since 1970. Nobody can set it.
    pub ctime: i64,
    /// Bytes on disk.
    pub disk: u64,
    /// Names that it has; 0 once it is unlinked.
    pub links: u32,
    /// What kind of file it is.
    pub kind: FileType,
}

impl From<Statx> for Look {
    fn from(stat: Statx) -> Look {
        let ns = |sec: i64, nsec: u32| sec.saturating_mul(1_000_000_000).saturating_add(i64::from(nsec));
        let born = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Look {
            id: FileId {
                dev: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
                ino: stat.stx_ino,
                btime: if born { ns(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) } else { 0 },
            },
            size: stat.stx_size,
            mtime: ns(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: ns(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            disk: stat.stx_blocks.saturating_mul(512),
            links: stat.stx_nlink,
            kind: FileType::from_raw_mode(u32::from(stat.stx_mode)),
        }
    }
}

/// Looks at an open file.
pub fn look(file: impl AsFd) -> io::Result<Look> {
    Ok(disk::fstat(file)?.into())
}

/// Which file or folder a path leads to now.
pub fn id_of(path: &Path) -> Option<FileId> {
    look_at(path).ok().map(|look| look.id)
}

/// Looks at the file of that name; symlinks are followed.
pub fn look_at(path: &Path) -> io::Result<Look> {
    Ok(disk::stat(path)?.into())
}

/// Length and hash of some bytes of content. Of nothing: "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Bytes that the hash covers.
    pub len: u32,
    /// Their hash (FNV-1a, 64 bits: it is stored, so it must not change between builds).
    pub hash: u64,
}

impl Mark {
    /// The mark of `bytes`, [`HEAD_BYTES`] at most.
    pub fn of(bytes: &[u8]) -> Mark {
        if bytes.is_empty() {
            return Mark::default();
        }
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Mark { len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), hash }
    }

    /// Whether it tells anything: of NULs it does not.
    pub fn tells(self) -> bool {
        self.is_known() && self != Mark::of(&[0; HEAD_BYTES][..(self.len as usize).min(HEAD_BYTES)])
    }

    /// Whether there is a mark at all.
    pub fn is_known(self) -> bool {
        self.len > 0
    }
}

/// Reads up to `buf.len()` bytes at `offset`: fewer only at the end of the file.
pub fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match disk::read_at(file, &mut buf[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// What one call gives of it: all that is there, on a local file system.
pub fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match disk::read_at(file, buf, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The head mark of a plain file as it stands now.
pub fn head_of(file: &File) -> io::Result<Mark> {
    let mut buf = [0; HEAD_BYTES];
    let got = read_at(file, &mut buf, 0)?;
    Ok(Mark::of(&buf[..got]))
}

/// The same for a file that had the head `known` before: that one, if it has another one now and was truncated.
pub fn grown(file: &File, known: Mark) -> io::Result<Mark> {
    let mut buf = [0; HEAD_BYTES];
    let got = read_at(file, &mut buf, 0)?;
    let len = known.len as usize;
    Ok(if len <= got && Mark::of(&buf[..len]) == known { Mark::of(&buf[..got]) } else { known })
}

/// The tail mark of a plain file before `offset`; unknown at 0 or where the file is shorter.
pub fn tail_of(file: &File, offset: u64) -> io::Result<Mark> {
    let len = offset.min(TAIL_BYTES as u64) as usize;
    let mut buf = [0; TAIL_BYTES];
    let got = read_at(file, &mut buf[..len], offset - len as u64)?;
    Ok(if got == len { Mark::of(&buf[..len]) } else { Mark::default() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_head_grows_with_its_file_and_stays_what_it_was_when_that_is_truncated() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("a");
        let grown_from = |known, text: &str| {
            fs::write(&path, text).expect("written");
            grown(&File::open(&path).expect("opens"), known).expect("read")
        };
        let one = grown_from(Mark::default(), "one");
        assert_eq!(one, Mark::of(b"one"));
        assert_eq!(grown_from(one, "one two"), Mark::of(b"one two"));
        assert_eq!(grown_from(one, "another"), one);
        assert_eq!(grown_from(one, ""), one);
    }
}
