//! One longshore for a data folder: a `flock`, which goes with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::lock;

/// Takes the folder.
///
/// # Errors
/// Another longshore has it; the kernel's, with the path.
pub(super) fn take(folder: &Path) -> io::Result<File> {
    let path = folder.join("lock");
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(named)?;
    if !lock::take(&file).map_err(named)? {
        let mut pid = String::new();
        let _ = (&file).take(32).read_to_string(&mut pid);
        let message = format!(
            "data folder {} is already used by another longshore (pid {}); stop it, or give this one its own [node] data_dir",
            folder.display(),
            pid.trim()
        );
        return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
    }
    // For people only: the lock is what counts.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}
