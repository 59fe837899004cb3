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

/// Those of one sink, or of one input.
#[derive(Debug)]
pub struct LetterCounts {
    /// In the log now, those that were sent again among them.
    pub there: AtomicU64,
    /// Written since the start.
    pub written: AtomicU64,
    /// By [`LetterLoss`], since the start.
    pub lost: [AtomicU64; LetterLoss::COUNT],
}

impl Default for LetterCounts {
    fn default() -> LetterCounts {
        LetterCounts { there: AtomicU64::new(0), written: AtomicU64::new(0), lost: zeros() }
    }
}

impl LetterCounts {
    /// Counts one that was not kept.
    pub fn lose(&self, why: LetterLoss, letters: u64) {
        self.lost[why as usize].fetch_add(letters, Relaxed);
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
        let of_sinks: Vec<(&str, &LetterCounts)> =
            self.shown_sinks().map(|(_, sink)| (sink.name.as_str(), &sink.letters)).collect();
        let of_inputs: Vec<(&str, &LetterCounts)> =
            self.inputs.iter().map(|input| (input.name.as_str(), &input.letters)).collect();
        let names =
            ["longshore_dead_letters", "longshore_dead_letters_written_total", "longshore_dead_letters_lost_total"];
        expose(out, names, "sink", &of_sinks);
        let names = [
            "longshore_input_dead_letters",
            "longshore_input_dead_letters_written_total",
            "longshore_input_dead_letters_lost_total",
        ];
        expose(out, names, "input", &of_inputs);
    }
}

fn expose(out: &mut Exposition, names: [&str; 3], label: &str, of: &[(&str, &LetterCounts)]) {
    let [there, written, lost] = names;
    out.family(there, "gauge", "What was refused and is kept.");
    for (name, letters) in of {
        out.sample(there, &[(label, name)], letters.there.load(Relaxed));
    }
    out.family(written, "counter", "What was refused and was kept.");
    for (name, letters) in of {
        out.sample(written, &[(label, name)], letters.written.load(Relaxed));
    }
    out.family(lost, "counter", "Dead letters that are gone without having been sent again, or that never were.");
    for (name, letters) in of {
        for (reason, counter) in LetterLoss::NAMES.iter().zip(&letters.lost) {
            out.sample(lost, &[(label, name), ("reason", reason)], counter.load(Relaxed));
        }
    }
}
