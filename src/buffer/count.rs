//! What a log has for each reader, counted from outside: writes nothing and takes no lock, for a node that is stopped.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::core::{Core, Limits, Options, lock};
use super::io::Disk;
use super::recover::recover;
use super::{Backlog, Full, LogId, SIZE_MIN};

/// The log's random name, and the backlog of each of these readers, with the records of each of these sources; `None` where there is
/// no log.
///
/// # Errors
/// The folder or a file of it can not be read, or the log is of a newer version.
pub fn count(dir: &Path, readers: &[&str], sources: &[&str]) -> io::Result<Option<(LogId, Vec<Backlog>)>> {
    let said = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    let io = match Disk::open(dir) {
        Ok(io) => Arc::new(io),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(said(error)),
    };
    let recovery = recover(&*io).map_err(said)?;
    if recovery.is_new {
        return Ok(None);
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let options = Options {
        limits: Limits::of(SIZE_MIN),
        full: Full::Block,
        keep_ms: 0,
        readers: names(readers),
        optional: 0,
        sources: names(sources),
        id: [0; 16],
        hold_removed: true,
        jump: 0,
    };
    let core = Core::new(io, recovery, &options).map_err(said)?;
    let number = |name: &&str| core.meta().sources.iter().find(|(_, known)| known == name).map(|(number, _)| *number);
    let books = lock(core.shared());
    let backlog = books.readers.iter().take(readers.len()).map(|reader| {
        let left = reader.backlog(&books.totals, books.committed);
        let by_source = sources.iter().map(|name| number(name).map(|number| left.of(number)).unwrap_or_default());
        Backlog { total: left.sum(), by_source: by_source.collect(), oldest_ms: None }
    });
    Ok(Some((core.meta().id, backlog.collect())))
}
