//! Memory for what a shipper is about to write: a file as large as the output, which shrinks as the output grows.
//!
//! A virtual machine may hand memory that nobody uses back to its host, a second or two after it came free. The next page
//! of it costs whoever touches it a fault of the host's, which counts as his own time in the kernel: 400 MiB written to a
//! new file took 0.38 to 0.64 s of it without this file, and 0.10 to 0.13 s with it. That is more than a fast shipper needs
//! for all else, and differs from run to run. On a machine of its own it changes nothing.
//!
//! Limit: [`BYTES_MAX`] of disk and page cache.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Bytes of the file, at most: beyond them an output has the memory that there is.
const BYTES_MAX: u64 = 2 << 30;
/// Bytes of a write. The page cache takes memory in pieces as large as the writes are, if it can, and an output that is written in
/// large ones does not get what came free in small ones: with writes of 8 KiB here the first run of line-file (500,000 lines) had
/// 0.35 to 0.61 s in the kernel and the second 0.17 to 0.19, with these both have 0.13 to 0.21.
const WRITE_BYTES: usize = 1 << 20;
/// The file gives up its pages so many bytes before the output needs them.
const AHEAD: u64 = 64 << 20;

/// See the header. Removes its file at the end.
#[derive(Debug)]
pub struct Ballast {
    file: File,
    path: PathBuf,
    /// Bytes that the output will have.
    expected: u64,
    /// Bytes that the file still has.
    left: u64,
}

impl Ballast {
    /// Writes the file, for an output of about `expected` bytes.
    pub fn make(path: &Path, expected: u64) -> io::Result<Ballast> {
        let left = expected.min(BYTES_MAX);
        let mut file = File::create(path)?;
        let block = vec![0; WRITE_BYTES];
        let mut written = 0;
        while written < left {
            let some = (left - written).min(WRITE_BYTES as u64);
            file.write_all(&block[..some as usize])?;
            written += some;
        }
        Ok(Ballast { file, path: path.to_owned(), expected, left })
    }

    /// The output has `part` of its records, of 0 to 1.
    pub fn shrink(&mut self, part: f64) -> io::Result<()> {
        let to_come = (self.expected as f64 * (1.0 - part)) as u64;
        let left = to_come.saturating_sub(AHEAD).min(self.left);
        if left < self.left {
            self.file.set_len(left)?;
            self.left = left;
        }
        Ok(())
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // The folder goes before the next run at the latest.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shrinks_as_the_output_grows_and_goes_at_the_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ballast");
        let bytes = || fs::metadata(&path).expect("a file").len();
        let mut ballast = Ballast::make(&path, 3 * AHEAD).expect("written");
        assert_eq!(bytes(), 3 * AHEAD);
        for (part, left) in [(0.0, 2 * AHEAD), (0.5, AHEAD / 2), (0.25, AHEAD / 2), (0.75, 0), (1.0, 0)] {
            ballast.shrink(part).expect("shrunk");
            assert_eq!(bytes(), left, "at {part}");
        }
        drop(ballast);
        assert!(!path.exists());
    }
}
