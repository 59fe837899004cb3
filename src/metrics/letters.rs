//! What is counted of dead letters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::text::Exposition;
use super::{LetterLoss, Metrics, zeros};

/// The log of dead letters; copied from it four times a second.
#[derive(Debug, Default)]
pub struct LettersMetrics {
    /// Bytes on the disk, at most; 0 while there is none.
    pub size: AtomicU64,
    /// Bytes on the disk.
    pub bytes: AtomicU64,
}

/// Those of one sink.
#[derive(Debug)]
pub struct SinkLetters {
    /// In the log now, those that were sent again among them.
    pub there: AtomicU64,
    /// Written since the start.
    pub written: AtomicU64,
    /// By [`LetterLoss`], since the start.
    pub lost: [AtomicU64; LetterLoss::COUNT],
}

impl Default for SinkLetters {
    fn default() -> SinkLetters {
        SinkLetters { there: AtomicU64::new(0), written: AtomicU64::new(0), lost: zeros() }
    }
}

impl Metrics {
    pub(super) fn expose_letters(&self, out: &mut Exposition) {
        let node = [
            ("longshore_dead_letters_size_bytes", "Size of the log of dead letters, at most.", &self.letters.size),
            ("longshore_dead_letters_bytes", "Bytes of the log of dead letters.", &self.letters.bytes),
        ];
        for (name, help, figure) in node {
            out.family(name, "gauge", help);
            out.sample(name, &[], figure.load(Relaxed));
        }
        let name = "longshore_dead_letters";
        out.family(name, "gauge", "Rejected records that are kept.");
        for (_, sink) in self.shown_sinks() {
            out.sample(name, &[("sink", &sink.name)], sink.letters.there.load(Relaxed));
        }
        let name = "longshore_dead_letters_written_total";
        out.family(name, "counter", "Rejected records that were kept.");
        for (_, sink) in self.shown_sinks() {
            out.sample(name, &[("sink", &sink.name)], sink.letters.written.load(Relaxed));
        }
        let name = "longshore_dead_letters_lost_total";
        out.family(name, "counter", "Dead letters that are gone without having been sent again, or that never were.");
        for (_, sink) in self.shown_sinks() {
            for (reason, counter) in LetterLoss::NAMES.iter().zip(&sink.letters.lost) {
                out.sample(name, &[("sink", &sink.name), ("reason", reason)], counter.load(Relaxed));
            }
        }
    }
}
