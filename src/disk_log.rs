//! The disk log as the configuration wants it: whether there is one, where, how large, and what it has for each sink.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::buffer::{self, Backlog, Log};
use crate::config::Config;
use crate::metrics::{Health, Metrics};
use crate::outbox::{self, LogWatcher};
use crate::profile;

/// The folder of the disk log within the data folder.
pub const BUFFER: &str = "buffer";
/// The disk log's size where nothing is configured; a quarter of the file system where that is less.
const BUFFER_SIZE: u64 = 1 << 30;

/// What the log has for each sink, by input, both by their numbers in the metrics; `numbers` are those of its readers.
pub fn by_number(readers: &[Backlog], metrics: &Metrics, numbers: &[usize]) -> Vec<Vec<u64>> {
    let mut all = vec![vec![0; metrics.inputs.len()]; metrics.sinks.len()];
    for (number, backlog) in numbers.iter().zip(readers) {
        let records = &mut all[*number];
        for (to, from) in records.iter_mut().zip(&backlog.by_source) {
            *to = from.records;
        }
        // Of inputs that are configured no longer: counted for the first one, as `outbox/feed.rs` does it.
        let known: u64 = records.iter().sum();
        if let Some(first) = records.first_mut() {
            *first += backlog.total.records.saturating_sub(known);
        }
    }
    all
}

/// Opens the disk log if there is one, or if there has to be one (`to_run`). With it: what it has for each sink, by input,
/// both by their numbers in the metrics. `numbers` are those of the configured sinks.
pub fn open(
    config: &Config,
    metrics: &Arc<Metrics>,
    numbers: &[usize],
    to_run: bool,
) -> io::Result<(Option<Arc<Log>>, Vec<Vec<u64>>)> {
    let dir = config.node.data_dir.join(BUFFER);
    let nothing = vec![vec![0; metrics.inputs.len()]; metrics.sinks.len()];
    let wanted = to_run && (config.inputs.iter().any(|input| input.part.is_durable()) || config.sinks.len() > 1);
    if !wanted && !dir.exists() {
        return Ok((None, nothing));
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
    let (log, found) =
        Log::open(settings, &names).map_err(|error| io::Error::new(error.kind(), format!("the disk log: {error}")))?;
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
    Ok((Some(log), backlog))
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
        io::ErrorKind::PermissionDenied => match std::fs::metadata(data_dir) {
            Ok(found) => format!(
                "{shown} belongs to uid {}, longshore runs as {user}: `chown {user} {shown}`, or run as its owner ({})",
                found.uid(),
                profile::USERS
            ),
            Err(_) => format!("{}; make a folder of that user's and set [node] data_dir", profile::user()),
        },
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}
