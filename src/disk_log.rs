//! The disk log as the configuration wants it: whether there is one, where, how large, and what it has for each sink.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::buffer::{self, Backlog, Log, LogId};
use crate::config::Config;
use crate::metrics::{Health, Metrics};
use crate::outbox::{self, LogWatcher};
use crate::profile;

/// The folder of the disk log within the data folder.
pub const BUFFER: &str = "buffer";
/// The disk log's size where nothing is configured; a quarter of the file system where that is less.
const BUFFER_SIZE: u64 = 1 << 30;

/// What the log has for each sink, by input, both by their numbers in the metrics, and at the end of inputs that are
/// configured no longer; `numbers` are those of its readers.
pub fn by_number(readers: &[Backlog], metrics: &Metrics, numbers: &[usize]) -> Vec<Vec<u64>> {
    let inputs = metrics.inputs.len();
    let mut all = vec![vec![0; inputs + 1]; metrics.sinks.len()];
    for (number, backlog) in numbers.iter().zip(readers) {
        let records = &mut all[*number];
        for (to, from) in records[..inputs].iter_mut().zip(&backlog.by_source) {
            *to = from.records;
        }
        let known: u64 = records.iter().sum();
        records[inputs] = backlog.total.records.saturating_sub(known);
    }
    all
}

/// The random name of the disk log of a stopped node, if there is one, and what it has, as [`by_number`] has it, by their place in the
/// configuration. Writes nothing.
pub fn count(config: &Config, metrics: &Metrics) -> io::Result<(Option<LogId>, Vec<Vec<u64>>)> {
    let dir = config.node.data_dir.join(BUFFER);
    let sinks: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let inputs: Vec<&str> = metrics.inputs.iter().map(|input| input.name.as_str()).collect();
    let found = buffer::count(&dir, &sinks, &inputs).map_err(|error| {
        with_way_out(&config.node.data_dir, io::Error::new(error.kind(), format!("the disk log: {error}")))
    })?;
    let numbers: Vec<usize> = (0..sinks.len()).collect();
    let (id, backlog) = found.map_or((None, Vec::new()), |(id, backlog)| (Some(id), backlog));
    Ok((id, by_number(&backlog, metrics, &numbers)))
}

/// A disk log, if there is one.
pub struct Opened {
    /// Open.
    pub log: Option<Arc<Log>>,
    /// Its random name.
    pub id: Option<LogId>,
    /// What it has, as [`by_number`] has it.
    pub backlog: Vec<Vec<u64>>,
}

/// Opens the disk log if there is one, or if there has to be one. `numbers` are those of the configured sinks.
pub fn open(config: &Config, metrics: &Arc<Metrics>, numbers: &[usize]) -> io::Result<Opened> {
    let dir = config.node.data_dir.join(BUFFER);
    let wanted = config.inputs.iter().any(|input| input.part.is_durable()) || config.sinks.len() > 1;
    if !wanted && !dir.exists() {
        return Ok(Opened { log: None, id: None, backlog: by_number(&[], metrics, &[]) });
    }
    let size = config.buffer.size.unwrap_or_else(|| default_size(&config.node.data_dir));
    let settings = buffer::Settings {
        full: config.buffer.full,
        // As many as sinks may be configured.
        optional: config.sinks.iter().enumerate().fold(0, |bits, (at, sink)| bits | u64::from(!sink.required) << at),
        keep: config.buffer.keep,
        // Should the start fail, the configuration of before has them again.
        hold_removed: true,
        sources: metrics.inputs.iter().map(|input| input.name.clone()).collect(),
        watcher: Some(Arc::new(LogWatcher { metrics: Arc::clone(metrics), sinks: numbers.to_vec() })),
        ..buffer::Settings::new(dir, size)
    };
    let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let opened =
        Log::open(settings, &names).map_err(|error| io::Error::new(error.kind(), format!("the disk log: {error}")));
    let (log, found) = opened.map_err(|error| with_way_out(&config.node.data_dir, error))?;
    metrics.check(outbox::CHECK, Health::Pass, "");
    if !found.damage.is_none() {
        let damage = &found.damage;
        tracing::error!(?damage, "the disk log is damaged; what can be read is delivered, the rest is counted");
    }
    for (sink, backlog) in &found.removed {
        let (records, bytes) = (backlog.total.records, backlog.total.bytes);
        tracing::warn!(sink, records, bytes, "the disk log has a backlog of a sink that is configured no longer");
    }
    let backlog = by_number(&found.readers, metrics, numbers);
    Ok(Opened { log: Some(log), id: Some(found.id), backlog })
}

/// 1 GiB, or a quarter of the file system where that is less.
fn default_size(data_dir: &Path) -> u64 {
    let total = rustix::fs::statvfs(data_dir).map_or(u64::MAX, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    (total / 4).clamp(buffer::SIZE_MIN, BUFFER_SIZE)
}

/// What to do about a data folder that can not be written: in containers the commonest fault of a first start.
pub fn with_way_out(data_dir: &Path, error: io::Error) -> io::Error {
    let user = rustix::process::geteuid().as_raw();
    let shown = data_dir.display();
    let hint = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("[node] data_dir has to be writable: mount a volume or a tmpfs at {shown}")
        }
        io::ErrorKind::PermissionDenied => match of_another(data_dir, user) {
            Some((path, owner)) => format!(
                "{} belongs to uid {owner}, longshore runs as {user}: `chown -R {user} {shown}`, or run as its owner ({})",
                path.display(),
                profile::USERS
            ),
            None if data_dir.exists() => return error,
            None => format!("{}; make a folder of that user's and set [node] data_dir", profile::user()),
        },
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}

/// What in the data folder, or in a folder of it, belongs to another user: itself, or the first that is found.
fn of_another(data_dir: &Path, user: u32) -> Option<(PathBuf, u32)> {
    let owner = |path: &Path| path.symlink_metadata().ok().map(|found| found.uid()).filter(|owner| *owner != user);
    let inside = |dir: &Path| -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let mut paths = vec![data_dir.to_owned()];
    for path in inside(data_dir) {
        let below = if path.is_dir() { inside(&path) } else { Vec::new() };
        paths.push(path);
        paths.extend(below);
    }
    paths.into_iter().find_map(|path| owner(&path).map(|owner| (path, owner)))
}
