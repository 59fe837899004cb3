//! The log's folder: made with mode 0700, locked against a second process, and large enough.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::fstatvfs;

use super::Settings;
use super::io::{Disk, Io as _};
use crate::lock;

/// The file that is locked.
const LOCK: &str = "LOCK";

/// Makes the folder and locks it. The lock goes with the descriptor.
pub fn take(dir: &Path) -> io::Result<OwnedFd> {
    let said = |error: io::Error| {
        let text = format!("disk log {}: {error}; check its owner and mode, or set [node] data_dir", dir.display());
        io::Error::new(error.kind(), text)
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(said)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file: File = options.open(dir.join(LOCK)).map_err(said)?;
    if !lock::take(&file).map_err(said)? {
        let mut pid = String::new();
        let _ = (&mut file).take(16).read_to_string(&mut pid);
        let text = if pid.trim() == std::process::id().to_string() {
            let shown = dir.display();
            format!("disk log {shown}: this process still writes to it: its disk is slow or dead; try again later")
        } else {
            format!(
                "disk log {}: another longshore (pid {}) uses it; stop that one, or set another [node] data_dir",
                dir.display(),
                pid.trim()
            )
        };
        return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
    }
    // Who it is, for the message above. A full disk does not keep the log from starting.
    let _ = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    Ok(file.into())
}

/// Refuses a log that is larger than its file system; warns when there is less space now.
pub fn check_size(io: &Disk, settings: &Settings) -> io::Result<()> {
    let stat = fstatvfs(io.folder_fd())?;
    let (total, free) = (stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize));
    if total > 0 && settings.size > total {
        let text = format!(
            "[buffer] size is {} bytes, its file system has {total}: set a smaller size or another [node] data_dir",
            settings.size
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let own: u64 = io.list(".").unwrap_or_default().iter().map(|(_, bytes)| bytes).sum();
    if free.saturating_add(own) < settings.size {
        tracing::warn!(dir = %settings.dir.display(), size = settings.size, free, "the file system has less space than the log may use; when it is full, what is given to it waits, unconfirmed, until there is space");
    }
    Ok(())
}
