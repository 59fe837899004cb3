//! What is damaged or not ours, kept as it was found in `quarantine/` for whoever wants to look. [`BYTES_MAX`] at most:
//! what does not fit is removed.

use super::io::Io;

/// The folder.
pub const FOLDER: &str = "quarantine";
/// Bytes in it, at most.
const BYTES_MAX: u64 = 64 << 20;

/// Moves files there. Whatever fails is left where it is.
pub fn take<I: Io>(io: &I, names: &[String]) {
    if names.is_empty() || io.folder(FOLDER).is_err() {
        return;
    }
    let sizes: Vec<(String, u64)> = io.list(".").unwrap_or_default();
    let mut used: u64 = io.list(FOLDER).unwrap_or_default().iter().map(|(_, bytes)| bytes).sum();
    for name in names {
        let bytes = sizes.iter().find(|(other, _)| other == name).map_or(0, |(_, bytes)| *bytes);
        let fits = used + bytes <= BYTES_MAX;
        let moved = if fits { io.rename(name, &format!("{FOLDER}/{name}")) } else { io.unlink(name) };
        if moved.is_ok() && fits {
            used += bytes;
        }
    }
}

/// Keeps a copy of some bytes.
pub fn keep<I: Io>(io: &I, name: &str, bytes: &[u8]) {
    if io.folder(FOLDER).is_err() {
        return;
    }
    let used: u64 = io.list(FOLDER).unwrap_or_default().iter().map(|(_, bytes)| bytes).sum();
    if used + bytes.len() as u64 <= BYTES_MAX
        && let Ok(file) = io.create(&format!("{FOLDER}/{name}"))
    {
        // It is a help, not a promise.
        let _ = io.write_at(&file, bytes, 0);
    }
}
