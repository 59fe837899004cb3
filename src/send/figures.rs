//! What `longshore send` has done so far, and how it is told.
//!
//! Limit: the times of [`SAMPLES_MAX`] acks; beyond that each new one takes a random place.

use std::fmt::Write as _;
use std::time::Duration;

/// Ack times that are kept for the percentiles.
const SAMPLES_MAX: usize = 100_000;

/// Counts of one run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Records sent (and acknowledged, with acks).
    pub records: u64,
    /// Frames.
    pub frames: u64,
    /// Bytes of frames, without those sent again.
    pub bytes: u64,
    /// Tries that failed and were made again.
    pub again: u64,
    /// Lines that were no JSON object and went as text.
    pub not_json: u64,
    /// Lines that were cut.
    pub cut: u64,
    /// Numbers that went as text, since MessagePack has no such number.
    pub numbers_as_text: u64,
    acks: u64,
    samples: Vec<Duration>,
}

impl Figures {
    /// Notes how long an ack took.
    pub fn ack(&mut self, took: Duration) {
        self.acks += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(took);
        } else if let Some(sample) = self.samples.get_mut(fastrand::usize(..self.acks as usize)) {
            *sample = took;
        }
    }

    /// One line for the time in between.
    pub fn progress(&self, elapsed: Duration) -> String {
        let per_second = self.records as f64 / elapsed.as_secs_f64().max(1e-3);
        format!("{} records, {:.0} records/s, {:.1} MB", self.records, per_second, self.bytes as f64 / 1e6)
    }

    /// All of it.
    pub fn summary(&self, elapsed: Duration, acked: bool) -> String {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let (records, frames) = (self.records, self.frames);
        let mut text = format!("sent {records} records in {frames} frames");
        if acked {
            text.push_str(", all acknowledged");
        }
        let (rate, mb) = (records as f64 / seconds, self.bytes as f64 / 1e6);
        // Writing to a String can not fail.
        let _ = write!(text, "; {seconds:.2} s, {rate:.0} records/s, {mb:.2} MB, {:.2} MB/s", mb / seconds);
        if !self.samples.is_empty() {
            let mut sorted = self.samples.clone();
            sorted.sort_unstable();
            let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
            let _ = write!(text, "; ack p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0));
        }
        for (count, what) in [
            (self.again, "tries failed and were made again"),
            (self.not_json, "lines were no JSON object and went as text"),
            (self.cut, "lines were cut at 1 MiB"),
            (self.numbers_as_text, "numbers were too large for MessagePack and went as text"),
        ] {
            if count > 0 {
                let _ = write!(text, "; {count} {what}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_rates_percentiles_and_only_the_oddities_that_were() {
        let mut figures = Figures { records: 1000, frames: 2, bytes: 2_000_000, not_json: 3, ..Figures::default() };
        (1..=100).for_each(|ms| figures.ack(Duration::from_millis(ms)));
        assert_eq!(
            figures.summary(Duration::from_secs(2), true),
            "sent 1000 records in 2 frames, all acknowledged; 2.00 s, 500 records/s, 2.00 MB, 1.00 MB/s; ack p50 50.00 \
             ms, p99 99.00 ms, max 100.00 ms; 3 lines were no JSON object and went as text"
        );
        let none = Figures::default().summary(Duration::ZERO, false);
        assert!(none.starts_with("sent 0 records in 0 frames; ") && !none.contains("ack"), "{none}");
    }

    #[test]
    fn ack_times_are_kept_up_to_a_limit() {
        let mut figures = Figures::default();
        (0..SAMPLES_MAX + 10).for_each(|_| figures.ack(Duration::from_millis(1)));
        assert_eq!(figures.samples.len(), SAMPLES_MAX);
    }
}
