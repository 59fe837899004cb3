//! What longshore counts: the ledger, oddities, sinks' figures and health checks; and their text for `/metrics`.
//!
//! The ledger, per input and sink, in records after joining:
//!
//! ```text
//! input   received = dropped{reason} + passed                  passed: routed to at least one sink
//! pair    routed   = delivered + rejected{reason} + dropped{reason} + returned + buffered + in_flight
//! ```
//!
//! `in_flight` is in memory: `held`, which is nowhere else, and `logged`, which is in the disk log too. `buffered` is in
//! the disk log only. `returned` was given back to its origin, which gives it again: what was in memory only when the
//! node stopped or died. Every term is counted by itself, so that the equation can fail; a record goes from one term to
//! another within one hold of [`Metrics::turn`], so that it never fails for a moment only.
//!
//! Counters are atomics that are added to once a batch, not once a record. What can be counted is in
//! `metrics/catalogue.rs`.

mod buffer; // how the disk log is
#[macro_use]
mod catalogue; // what can be counted
pub mod followed; // files that are followed, by chain
pub mod letters; // what is kept of what was refused
pub mod slots; // numbered things of a list that grows
mod text; // the format of /metrics

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::waits::Waits;
pub use buffer::BufferMetrics;
pub use catalogue::{DropReason, LetterLoss, Oddity, RejectReason, Reload};
use slots::Slots;
use text::Exposition;

/// Names of inputs, and of sinks, that one process can have had, those of earlier configurations among them.
pub const NAMES_MAX: usize = 256;

/// Counts of one batch, without atomics: filled by codecs and steps, added to the input's counters when it is routed.
#[derive(Clone, Debug)]
pub struct Tally {
    /// By [`Oddity`].
    pub oddities: [u32; Oddity::COUNT],
    /// By [`RejectReason`].
    pub rejected: [u32; RejectReason::COUNT],
    /// By [`DropReason`].
    pub dropped: [u32; DropReason::COUNT],
    /// Bytes of the input that the batch was made from.
    pub bytes: u64,
    /// Records after joining, before any other step: set by the pipeline.
    pub received: u32,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            oddities: [0; Oddity::COUNT],
            rejected: [0; RejectReason::COUNT],
            dropped: [0; DropReason::COUNT],
            bytes: 0,
            received: 0,
        }
    }
}

impl Tally {
    /// Counts one.
    pub fn odd(&mut self, what: Oddity) {
        self.oddities[what as usize] += 1;
    }

    /// Counts several.
    pub fn odd_by(&mut self, what: Oddity, by: u32) {
        self.oddities[what as usize] += by;
    }

    /// Counts one refused record.
    pub fn reject(&mut self, why: RejectReason) {
        self.rejected[why as usize] += 1;
    }

    /// Counts dropped records.
    pub fn drop_by(&mut self, why: DropReason, by: u32) {
        self.dropped[why as usize] += by;
    }
}

/// Everything that is counted for one input.
#[derive(Debug)]
pub struct InputMetrics {
    /// Its name in the configuration.
    pub name: String,
    /// Its `type`, which a reload may change.
    kind: Mutex<&'static str>,
    /// Records after joining, before any step.
    pub received: AtomicU64,
    /// Records that at least one sink wanted.
    pub passed: AtomicU64,
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Batches made.
    pub batches: AtomicU64,
    /// By [`Oddity`].
    pub oddities: [AtomicU64; Oddity::COUNT],
    /// By [`RejectReason`].
    pub rejected: [AtomicU64; RejectReason::COUNT],
    /// By [`DropReason`].
    pub dropped: [AtomicU64; DropReason::COUNT],
    /// Open connections or followed files.
    pub open: AtomicU64,
    /// Nanoseconds since 1970 of the last record, 0 for none yet.
    pub last_record: AtomicU64,
    /// Nanoseconds spent waiting for room (memory or a sink's queue).
    pub paused_ns: AtomicU64,
    /// Who waits for room in a sink's queue or in the disk log.
    pub held: Waits,
    /// Who sends to it waits while it is held; a file does not mind.
    pub sent_to: AtomicBool,
    /// Of inputs that follow files.
    pub followed: followed::Followed,
    /// Dead letters of what it refused itself.
    pub letters: letters::LetterCounts,
}

/// One input's records at one sink.
#[derive(Debug, Default)]
pub struct Pair {
    /// Offered to the sink.
    pub routed: AtomicU64,
    /// Taken by the destination.
    pub delivered: AtomicU64,
    /// By [`RejectReason`].
    pub rejected: [AtomicU64; RejectReason::COUNT],
    /// By [`DropReason`].
    pub dropped: [AtomicU64; DropReason::COUNT],
    /// The same in bytes, as the disk log has them or would; since the start.
    pub dropped_bytes: [AtomicU64; DropReason::COUNT],
    /// Given back to their origin.
    pub returned: AtomicU64,
    /// In the disk log and not in memory.
    pub buffered: AtomicU64,
    /// In memory and nowhere else.
    pub held: AtomicU64,
    /// In memory, and in the disk log too.
    pub logged: AtomicU64,
}

impl InputMetrics {
    fn new(name: &str, kind: &'static str) -> InputMetrics {
        InputMetrics {
            name: name.to_owned(),
            kind: Mutex::new(kind),
            received: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            oddities: zeros(),
            rejected: zeros(),
            dropped: zeros(),
            open: AtomicU64::new(0),
            last_record: AtomicU64::new(0),
            paused_ns: AtomicU64::new(0),
            held: Waits::default(),
            sent_to: AtomicBool::new(false),
            followed: followed::Followed::default(),
            letters: letters::LetterCounts::default(),
        }
    }

    /// Its `type`.
    pub fn kind(&self) -> &'static str {
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkMetrics {
    fn new(name: &str, kind: &'static str, inputs: usize) -> SinkMetrics {
        SinkMetrics {
            name: name.to_owned(),
            kind: Mutex::new(kind),
            hidden: AtomicBool::new(false),
            pairs: Slots::of(NAMES_MAX, (0..inputs).map(|_| Pair::new())),
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_success: AtomicU64::new(0),
            failing_since: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            backlog_bytes: AtomicU64::new(0),
            backlog_oldest_ms: AtomicU64::new(0),
            inside_since: AtomicU64::new(0),
            letters: letters::LetterCounts::default(),
        }
    }

    /// Its `type`.
    pub fn kind(&self) -> &'static str {
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pair {
    fn new() -> Pair {
        Pair { rejected: zeros(), dropped: zeros(), dropped_bytes: zeros(), ..Pair::default() }
    }

    /// Records in memory.
    pub fn in_flight(&self) -> u64 {
        // One that got into the log while its sink was delivering it may be below zero for a while, and the sum is right.
        self.held.load(Relaxed).wrapping_add(self.logged.load(Relaxed))
    }

    /// Records of some bytes are given up; to be called within a [`Metrics::turn`].
    pub fn give_up(&self, from: &AtomicU64, why: DropReason, records: u64, bytes: u64) {
        shift(from, &self.dropped[why as usize], records);
        self.dropped_bytes[why as usize].fetch_add(bytes, Relaxed);
    }

    /// Records that have an end.
    pub fn ended(&self) -> u64 {
        self.delivered.load(Relaxed) + sum(&self.rejected) + sum(&self.dropped) + self.returned.load(Relaxed)
    }
}

/// Moves records from one term of a pair to another; to be called within a [`Metrics::turn`].
pub fn shift(from: &AtomicU64, to: &AtomicU64, records: u64) {
    from.fetch_sub(records, Relaxed);
    to.fetch_add(records, Relaxed);
}

/// Health checks of addresses that an input is to listen on begin so: while one fails, `/ready` does.
pub const LISTEN_CHECK: &str = "listen ";

/// Health checks of sinks that records are dropped for begin so.
pub const DROPS_CHECK: &str = "drops.";

/// Everything that is counted for one sink.
#[derive(Debug)]
pub struct SinkMetrics {
    /// Its name in the configuration.
    pub name: String,
    /// Its `type`, which a reload may change.
    kind: Mutex<&'static str>,
    /// It is configured no longer: it is in no text and no ledger.
    hidden: AtomicBool,
    /// By input.
    pub pairs: Slots<Pair>,
    /// Requests or writes that succeeded.
    pub requests: AtomicU64,
    /// Requests or writes that were tried again.
    pub retries: AtomicU64,
    /// Bytes that the destination took, as they went out (compressed).
    pub bytes: AtomicU64,
    /// Nanoseconds since 1970 of the last success, 0 for none yet.
    pub last_success: AtomicU64,
    /// Nanoseconds since 1970 since when every try has failed, 0 while all is well.
    pub failing_since: AtomicU64,
    /// Batches in the queue.
    pub queued: AtomicU64,
    /// Bytes of its backlog in the disk log.
    pub backlog_bytes: AtomicU64,
    /// Milliseconds since 1970 when the oldest of its backlog came, 0 for none.
    pub backlog_oldest_ms: AtomicU64,
    /// Nanoseconds since 1970 since when its thread is inside a call that may block (a write to a dead mount), 0 for
    /// none.
    pub inside_since: AtomicU64,
    /// Its dead letters.
    pub letters: letters::LetterCounts,
}

/// How a health check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// All is well.
    Pass,
    /// Worth a look; `/health` stays 200.
    Warn,
    /// Not working; `/health` is 503.
    Fail,
}

/// All counters of the node. Made once by `run.rs`, shared by everything.
#[derive(Debug)]
pub struct Metrics {
    /// By input number. One that is configured no longer stays: its records may be in the disk log.
    pub inputs: Slots<InputMetrics>,
    /// By sink number.
    pub sinks: Slots<SinkMetrics>,
    /// The disk log.
    pub buffer: BufferMetrics,
    /// The log of dead letters.
    pub letters: letters::LettersMetrics,
    /// By [`Reload`]: what became of requests to read the configuration again.
    pub reloads: [AtomicU64; Reload::COUNT],
    turn: RwLock<()>,
    checks: Mutex<BTreeMap<String, (Health, String)>>,
    /// By input and file: seconds since 1970 when a certificate ends.
    certificates: Mutex<BTreeMap<(String, String), i64>>,
    started: std::time::Instant,
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

fn sum(counters: &[AtomicU64]) -> u64 {
    counters.iter().map(|counter| counter.load(Relaxed)).sum()
}

impl Metrics {
    /// Counters for these inputs and sinks, as (name, type).
    pub fn new(inputs: &[(&str, &'static str)], sinks: &[(&str, &'static str)]) -> Metrics {
        Metrics {
            inputs: Slots::of(NAMES_MAX, inputs.iter().map(|(name, kind)| InputMetrics::new(name, kind))),
            sinks: Slots::of(NAMES_MAX, sinks.iter().map(|(name, kind)| SinkMetrics::new(name, kind, inputs.len()))),
            buffer: BufferMetrics::default(),
            letters: letters::LettersMetrics::default(),
            reloads: zeros(),
            turn: RwLock::new(()),
            checks: Mutex::default(),
            certificates: Mutex::default(),
            started: std::time::Instant::now(),
        }
    }

    /// The number of the input of that name, a new one if need be; `None` when there were too many names.
    pub fn input(&self, name: &str, kind: &'static str) -> Option<usize> {
        if let Some(at) = self.inputs.iter().position(|input| input.name == name) {
            *self.inputs[at].kind.lock().unwrap_or_else(PoisonError::into_inner) = kind;
            return Some(at);
        }
        if !self.inputs.has_room() {
            return None;
        }
        // The pairs first: whoever finds the input finds them.
        for sink in &self.sinks {
            sink.pairs.push(Pair::new())?;
        }
        self.inputs.push(InputMetrics::new(name, kind))
    }

    /// The same for a sink.
    pub fn sink(&self, name: &str, kind: &'static str) -> Option<usize> {
        if let Some(at) = self.sinks.iter().position(|sink| sink.name == name) {
            let sink = &self.sinks[at];
            *sink.kind.lock().unwrap_or_else(PoisonError::into_inner) = kind;
            sink.hidden.store(false, Relaxed);
            return Some(at);
        }
        self.sinks.push(SinkMetrics::new(name, kind, self.inputs.len()))
    }

    /// Hides the sinks whose numbers are not among these: they are configured no longer.
    pub fn keep_sinks(&self, numbers: &[usize]) {
        for (_, sink) in self.sinks.iter().enumerate().filter(|(at, _)| !numbers.contains(at)) {
            sink.hidden.store(true, Relaxed);
            for gauge in [&sink.failing_since, &sink.queued, &sink.backlog_bytes, &sink.backlog_oldest_ms] {
                gauge.store(0, Relaxed);
            }
            self.uncheck(&format!("sink.{}", sink.name));
            self.uncheck(&format!("{DROPS_CHECK}{}", sink.name));
        }
    }

    /// The sinks that are configured, with their numbers.
    pub fn shown_sinks(&self) -> impl Iterator<Item = (usize, &SinkMetrics)> {
        self.sinks.iter().enumerate().filter(|(_, sink)| !sink.hidden.load(Relaxed))
    }

    /// Adds the counts of a batch to its input.
    pub fn add(&self, input: u16, tally: &Tally) {
        let to = &self.inputs[usize::from(input)];
        let add = |to: &[AtomicU64], from: &[u32]| {
            for (to, from) in to.iter().zip(from).filter(|(_, from)| **from > 0) {
                to.fetch_add(u64::from(*from), Relaxed);
            }
        };
        add(&to.oddities, &tally.oddities);
        add(&to.rejected, &tally.rejected);
        add(&to.dropped, &tally.dropped);
        to.bytes.fetch_add(tally.bytes, Relaxed);
        to.received.fetch_add(u64::from(tally.received), Relaxed);
    }

    /// Whoever moves records between terms of the ledger holds this meanwhile. Never held while something waits.
    pub fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, no record is between two terms.
    pub fn still(&self) -> RwLockWriteGuard<'_, ()> {
        self.turn.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The terms of an input and a sink.
    pub fn pair(&self, input: u16, sink: usize) -> &Pair {
        &self.sinks[sink].pairs[usize::from(input)]
    }

    /// Sets a named health check.
    pub fn check(&self, name: &str, health: Health, reason: impl Into<String>) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.insert(name.to_owned(), (health, reason.into()));
    }

    /// Forgets a health check whose subject is gone.
    pub fn uncheck(&self, name: &str) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// All health checks, by name.
    pub fn checks(&self) -> BTreeMap<String, (Health, String)> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets when the certificates of an input end: it ends itself.
    pub fn forget_certificates(&self, input: &str) {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != input);
    }

    /// Notes when the certificate in a file ends, in seconds since 1970.
    pub fn certificate(&self, input: &str, file: &str, ends: i64) {
        let mut all = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((input.to_owned(), file.to_owned()), ends);
    }

    /// The Prometheus text exposition of everything.
    pub fn exposition(&self, budget: &crate::budget::Budget) -> String {
        let mut out = Exposition(String::with_capacity(16 << 10));
        out.family("longshore_build_info", "gauge", "Version of the program.");
        out.sample("longshore_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        out.family("longshore_uptime_seconds", "gauge", "Seconds since the start.");
        out.sample("longshore_uptime_seconds", &[], self.started.elapsed().as_secs());
        out.family("longshore_memory_budget_bytes", "gauge", "The memory budget.");
        out.sample("longshore_memory_budget_bytes", &[], budget.total() as u64);
        out.family("longshore_memory_used_bytes", "gauge", "Bytes of the budget in use.");
        out.sample("longshore_memory_used_bytes", &[], budget.used() as u64);
        out.family("longshore_memory_used_peak_bytes", "gauge", "The most bytes of the budget that were in use.");
        out.sample("longshore_memory_used_peak_bytes", &[], budget.used_peak() as u64);
        self.expose_inputs(&mut out);
        followed::expose(&self.inputs, &mut out);
        self.expose_pairs(&mut out);
        self.expose_sinks(&mut out);
        self.expose_buffer(&mut out);
        self.expose_letters(&mut out);
        let name = "longshore_config_reloads_total";
        out.family(name, "counter", "Requests to read the configuration again, by what became of them.");
        for (result, counter) in Reload::NAMES.iter().zip(&self.reloads) {
            out.sample(name, &[("result", result)], counter.load(Relaxed));
        }
        out.family("longshore_health", "gauge", "Health checks: 0 pass, 1 warn, 2 fail.");
        for (name, (health, _)) in self.checks() {
            out.sample("longshore_health", &[("check", &name)], health as u64);
        }
        let name = "longshore_certificate_expiry_timestamp_seconds";
        out.family(name, "gauge", "When a certificate ends.");
        for ((input, file), ends) in self.certificates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            out.sample(name, &[("input", input), ("file", file)], u64::try_from(*ends).unwrap_or(0));
        }
        out.0
    }

    fn expose_inputs(&self, out: &mut Exposition) {
        let plain: [(&str, &str, &str, fn(&InputMetrics) -> &AtomicU64); 5] = [
            ("longshore_input_records_total", "counter", "Records received, after joining.", |i| &i.received),
            ("longshore_input_bytes_total", "counter", "Bytes read.", |i| &i.bytes),
            ("longshore_input_batches_total", "counter", "Batches made.", |i| &i.batches),
            ("longshore_input_open", "gauge", "Open connections or followed files.", |i| &i.open),
            ("longshore_input_paused_ns_total", "counter", "Nanoseconds spent waiting for room.", |i| &i.paused_ns),
        ];
        for (name, kind, help, of) in plain {
            out.family(name, kind, help);
            for input in &self.inputs {
                out.sample(name, &[("input", &input.name), ("type", input.kind())], of(input).load(Relaxed));
            }
        }
        let labelled: [(&str, &str, &str, &[&str], fn(&InputMetrics) -> &[AtomicU64]); 3] = [
            ("longshore_input_oddities_total", "kind", "Odd input that cost no record.", Oddity::NAMES, |i| {
                &i.oddities
            }),
            ("longshore_input_rejected_total", "reason", "Records refused.", RejectReason::NAMES, |i| &i.rejected),
            ("longshore_input_dropped_total", "reason", "Records dropped before any sink.", DropReason::NAMES, |i| {
                &i.dropped
            }),
        ];
        for (name, label, help, values, of) in labelled {
            out.family(name, "counter", help);
            for input in &self.inputs {
                for (value, counter) in values.iter().zip(of(input)) {
                    out.sample(name, &[("input", &input.name), (label, value)], counter.load(Relaxed));
                }
            }
        }
    }

    fn expose_pairs(&self, out: &mut Exposition) {
        type Figure = fn(&Pair) -> u64;
        let figures: [(&str, &str, &str, Figure); 5] = [
            ("longshore_routed_total", "counter", "Records offered to a sink.", |p| p.routed.load(Relaxed)),
            ("longshore_delivered_total", "counter", "Records that a sink's destination took.", |p| {
                p.delivered.load(Relaxed)
            }),
            ("longshore_in_flight", "gauge", "Records on their way to a sink, in memory.", Pair::in_flight),
            ("longshore_buffered", "gauge", "Records that wait for a sink in the disk log.", |p| {
                p.buffered.load(Relaxed)
            }),
            (
                "longshore_returned_total",
                "counter",
                "Records given back to their origin, which gives them again.",
                |p| p.returned.load(Relaxed),
            ),
        ];
        for (name, kind, help, of) in figures {
            out.family(name, kind, help);
            for (_, sink) in self.shown_sinks() {
                for (input, pair) in self.inputs.iter().zip(&sink.pairs) {
                    out.sample(name, &[("input", &input.name), ("sink", &sink.name)], of(pair));
                }
            }
        }
        let labelled: [(&str, &str, &[&str], fn(&Pair) -> &[AtomicU64]); 3] = [
            ("longshore_rejected_total", "Records that a sink refused for good.", RejectReason::NAMES, |p| &p.rejected),
            ("longshore_dropped_total", "Records that were given up at a sink.", DropReason::NAMES, |p| &p.dropped),
            ("longshore_dropped_bytes_total", "Bytes of them, about, since the start.", DropReason::NAMES, |p| {
                &p.dropped_bytes
            }),
        ];
        for (name, help, values, of) in labelled {
            out.family(name, "counter", help);
            for (_, sink) in self.shown_sinks() {
                for (input, pair) in self.inputs.iter().zip(&sink.pairs) {
                    for (value, counter) in values.iter().zip(of(pair)).filter(|(_, c)| c.load(Relaxed) > 0) {
                        let labels = [("input", input.name.as_str()), ("sink", &sink.name), ("reason", value)];
                        out.sample(name, &labels, counter.load(Relaxed));
                    }
                }
            }
        }
    }

    fn expose_sinks(&self, out: &mut Exposition) {
        let plain: [(&str, &str, &str, fn(&SinkMetrics) -> &AtomicU64); 5] = [
            ("longshore_sink_requests_total", "counter", "Requests or writes that succeeded.", |s| &s.requests),
            ("longshore_sink_retries_total", "counter", "Requests or writes tried again.", |s| &s.retries),
            ("longshore_sink_bytes_total", "counter", "Bytes taken by the destination.", |s| &s.bytes),
            ("longshore_sink_queued_batches", "gauge", "Batches waiting in memory.", |s| &s.queued),
            ("longshore_sink_backlog_bytes", "gauge", "Bytes of its backlog in the disk log.", |s| &s.backlog_bytes),
        ];
        for (name, kind, help, of) in plain {
            out.family(name, kind, help);
            for (_, sink) in self.shown_sinks() {
                out.sample(name, &[("sink", &sink.name), ("type", sink.kind())], of(sink).load(Relaxed));
            }
        }
        out.family(
            "longshore_sink_last_success_timestamp_seconds",
            "gauge",
            "When the destination last took something.",
        );
        for (_, sink) in self.shown_sinks() {
            let at = sink.last_success.load(Relaxed) / 1_000_000_000;
            out.sample("longshore_sink_last_success_timestamp_seconds", &[("sink", &sink.name)], at);
        }
        let name = "longshore_sink_failing_since_timestamp_seconds";
        out.family(name, "gauge", "Since when every try has failed, 0 while all is well.");
        for (_, sink) in self.shown_sinks() {
            out.sample(name, &[("sink", &sink.name)], sink.failing_since.load(Relaxed) / 1_000_000_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_ledger_closes_and_names_are_escaped() {
        let metrics = Metrics::new(&[("a\"b", "stdin")], &[("out", "stdout")]);
        let pair = &metrics.sinks[0].pairs[0];
        pair.routed.store(10, Relaxed);
        pair.held.store(4, Relaxed);
        pair.rejected[RejectReason::Refused as usize].store(1, Relaxed);
        shift(&pair.held, &pair.logged, 3);
        shift(&pair.held, &pair.delivered, 1);
        pair.delivered.fetch_add(5, Relaxed);
        assert_eq!((pair.in_flight(), pair.ended()), (3, 7));
        let text = metrics.exposition(&crate::budget::Budget::new(1000));
        assert!(text.contains("longshore_in_flight{input=\"a\\\"b\",sink=\"out\"} 3\n"), "{text}");
        assert!(text.contains("longshore_rejected_total{input=\"a\\\"b\",sink=\"out\",reason=\"refused\"} 1\n"));
    }
}
