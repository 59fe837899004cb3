//! How the disk log is, as figures.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Metrics;
use super::text::Exposition;

/// How the disk log is; copied from it four times a second.
#[derive(Debug, Default)]
pub struct BufferMetrics {
    /// Bytes on the disk, at most; 0 where there is no disk log.
    pub size: AtomicU64,
    /// Bytes on the disk.
    pub bytes: AtomicU64,
    /// Segments.
    pub segments: AtomicU64,
    /// Commits since the start.
    pub commits: AtomicU64,
    /// Nanoseconds of all commits.
    pub commit_ns: AtomicU64,
    /// Failed writes and syncs since the start.
    pub failures: AtomicU64,
    /// Frames that wait for their commit.
    pub waiting: AtomicU64,
}

impl Metrics {
    pub(super) fn expose_buffer(&self, out: &mut Exposition) {
        let buffer = &self.buffer;
        let figures: [(&str, &str, &str, &AtomicU64); 6] = [
            ("longshore_buffer_size_bytes", "gauge", "Size of the disk log, at most; 0 without one.", &buffer.size),
            ("longshore_buffer_bytes", "gauge", "Bytes of the disk log.", &buffer.bytes),
            ("longshore_buffer_segments", "gauge", "Segments of the disk log.", &buffer.segments),
            ("longshore_buffer_commits_total", "counter", "Commits of the disk log.", &buffer.commits),
            ("longshore_buffer_commit_ns_total", "counter", "Nanoseconds of all commits.", &buffer.commit_ns),
            ("longshore_buffer_failures_total", "counter", "Failed writes and syncs.", &buffer.failures),
        ];
        for (name, kind, help, figure) in figures {
            out.family(name, kind, help);
            out.sample(name, &[], figure.load(Relaxed));
        }
    }
}
