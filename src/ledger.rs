//! The ledger as a whole: what of each record that was received became of it, for each input and for each pair of input
//! and sink. Taken from the counters at one moment, saved with the checkpoints, shown by `/audit` and `longshore audit`.
//!
//! ```text
//! input   received = dropped{reason} + passed
//! pair    routed   = delivered + rejected{reason} + dropped{reason} + returned + buffered + in_flight
//! ```
//!
//! What rotation took before it was read never was a record: it stands beside the equation of its input, in generations and
//! bytes, and is kept like it.
//!
//! After an orderly stop nothing is in flight, and `buffered` is what the disk log has: both are counted apart, so a
//! difference is a mistake and is said. After a kill the last saved ledger is up to a second old; what it calls in flight
//! and is not in the disk log was in memory only and counts as `returned` (its origin gives it again, and then it is
//! counted again); what the disk log has beyond it is counted as received now. So it closes, and what a kill can cost is
//! a second of counts on both sides, never a record. If the disk log is another one by then, or gone, that is said: what was in
//! it, or on its way there, counts as dropped (`buffer_damaged`), for nobody gives again what was acknowledged.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Map, Value, json};

use crate::buffer::LogId;
use crate::metrics::followed::{Generation, LostBytes};
use crate::metrics::{DropReason, InputMetrics, Metrics, Pair, RejectReason};

/// Generations of followed files that count as lost, and where they are counted.
const LOST: [(&str, Generation); 2] = [("lost", Generation::Lost), ("given_up", Generation::GivenUp)];

/// Counts by reason, without those that are zero.
type Reasons = BTreeMap<String, u64>;

/// One input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputLine {
    /// Its name.
    pub input: String,
    /// Records after joining.
    pub received: u64,
    /// Records that at least one sink wanted.
    pub passed: u64,
    /// Records that ended before any sink.
    pub dropped: Reasons,
    /// Records refused before they were received.
    pub rejected: Reasons,
    /// Generations of followed files that rotation took before they were read to their end.
    pub lost_generations: Reasons,
    /// Bytes of them, and of files that were truncated: estimates but for `given_up`.
    pub lost_bytes: Reasons,
}

/// One input at one sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairLine {
    /// The input.
    pub input: String,
    /// The sink.
    pub sink: String,
    /// Offered to the sink.
    pub routed: u64,
    /// Taken by the destination.
    pub delivered: u64,
    /// Refused for good.
    pub rejected: Reasons,
    /// Given up.
    pub dropped: Reasons,
    /// Given back to the origin.
    pub returned: u64,
    /// In the disk log only.
    pub buffered: u64,
    /// In memory.
    pub in_flight: u64,
    /// Of those in memory, what is in the disk log, too.
    pub logged: u64,
}

/// Records that are counted for another input than they were.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    /// Of this one from now on.
    came: u64,
    /// Of another one.
    went: u64,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// By input.
    pub inputs: Vec<InputLine>,
    /// By input and sink.
    pub pairs: Vec<PairLine>,
    /// It was saved by an orderly stop.
    pub stopped: bool,
    /// The random name of the disk log at that moment, if there was one.
    pub log: Option<LogId>,
    /// The disk log that is there now is another one, or none.
    pub log_lost: bool,
}

fn reasons(names: &[&str], counters: &[AtomicU64]) -> Reasons {
    let counts = names.iter().zip(counters).map(|(name, count)| ((*name).to_owned(), count.load(Relaxed)));
    counts.filter(|(_, count)| *count > 0).collect()
}

fn restore(names: &[&str], counters: &[AtomicU64], from: &Reasons) {
    for (name, counter) in names.iter().zip(counters) {
        // Never back: while a configuration is replaced, some of them go on.
        counter.fetch_max(from.get(*name).copied().unwrap_or(0), Relaxed);
    }
}

fn lost_generations(input: &InputMetrics) -> Reasons {
    let counts = LOST.map(|(name, what)| (name.to_owned(), input.followed.generations[what as usize].load(Relaxed)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// What counts for input `at` of so many, given what the disk log has by input and, at the end, of none of them.
fn there(known: &[u64], at: usize, inputs: usize) -> u64 {
    let own = known.get(at).copied().unwrap_or(0);
    if at == 0 { own + known.get(inputs).copied().unwrap_or(0) } else { own }
}

fn sum(reasons: &Reasons) -> u64 {
    reasons.values().sum()
}

impl InputLine {
    /// What is left over of the equation: 0 when it closes.
    pub fn left_over(&self) -> i128 {
        i128::from(self.received) - i128::from(sum(&self.dropped)) - i128::from(self.passed)
    }
}

impl PairLine {
    fn of(input: &str, sink: &str, pair: &Pair) -> PairLine {
        PairLine {
            input: input.to_owned(),
            sink: sink.to_owned(),
            routed: pair.routed.load(Relaxed),
            delivered: pair.delivered.load(Relaxed),
            rejected: reasons(RejectReason::NAMES, &pair.rejected),
            dropped: reasons(DropReason::NAMES, &pair.dropped),
            returned: pair.returned.load(Relaxed),
            buffered: pair.buffered.load(Relaxed),
            in_flight: pair.in_flight(),
            logged: pair.logged.load(Relaxed),
        }
    }

    /// Without an end.
    fn open(&self) -> u64 {
        self.buffered + self.in_flight
    }

    fn ended(&self) -> u64 {
        self.delivered + sum(&self.rejected) + sum(&self.dropped) + self.returned
    }

    /// What is left over of the equation: 0 when it closes.
    pub fn left_over(&self) -> i128 {
        i128::from(self.routed) - i128::from(self.ended()) - i128::from(self.buffered) - i128::from(self.in_flight)
    }
}

impl Ledger {
    /// The ledger at this moment: no record is between two terms.
    pub fn of(metrics: &Metrics) -> Ledger {
        let _still = metrics.still();
        let mut ledger = Ledger::default();
        for input in &metrics.inputs {
            ledger.inputs.push(InputLine {
                input: input.name.clone(),
                received: input.received.load(Relaxed),
                passed: input.passed.load(Relaxed),
                dropped: reasons(DropReason::NAMES, &input.dropped),
                rejected: reasons(RejectReason::NAMES, &input.rejected),
                lost_generations: lost_generations(input),
                lost_bytes: reasons(LostBytes::NAMES, &input.followed.lost_bytes),
            });
        }
        for (_, sink) in metrics.shown_sinks() {
            for (input, pair) in metrics.inputs.iter().zip(&sink.pairs) {
                ledger.pairs.push(PairLine::of(&input.name, &sink.name, pair));
            }
        }
        ledger
    }

    /// The same, held against the disk log that is there now.
    #[must_use]
    pub fn held_against(mut self, found: Option<LogId>) -> Ledger {
        self.log_lost = self.log.is_some() && self.log != found;
        self
    }

    /// Puts a saved ledger into fresh counters. `backlog` is what the disk log has, by sink and input, and at the end what it
    /// has of inputs that are configured no longer, which counts for the first one; the counters of sinks whose numbers are
    /// not among `sinks` stay. Returns what did not fit although the node had stopped in order: one line for each pair.
    pub fn resume(&self, metrics: &Metrics, backlog: &[Vec<u64>], sinks: &[usize]) -> Vec<String> {
        let mut wrong = Vec::new();
        for line in &self.inputs {
            let Some(input) = metrics.inputs.iter().find(|input| input.name == line.input) else { continue };
            input.received.store(line.received, Relaxed);
            input.passed.store(line.passed, Relaxed);
            restore(DropReason::NAMES, &input.dropped, &line.dropped);
            restore(RejectReason::NAMES, &input.rejected, &line.rejected);
            restore(LostBytes::NAMES, &input.followed.lost_bytes, &line.lost_bytes);
            for (name, what) in LOST {
                let count = line.lost_generations.get(name).copied().unwrap_or(0);
                input.followed.generations[what as usize].fetch_max(count, Relaxed);
            }
        }
        let moved = metrics.sinks.iter().zip(backlog).map(|(sink, known)| self.moved(metrics, &sink.name, known));
        let moved: Vec<Vec<Moved>> = moved.collect();
        for (number, input) in metrics.inputs.iter().enumerate() {
            let mut unknown = 0;
            for (at, (sink, known)) in metrics.sinks.iter().zip(backlog).enumerate() {
                if !sinks.contains(&at) {
                    continue;
                }
                let pair = &sink.pairs[number];
                let saved = self.pairs.iter().find(|line| line.input == input.name && line.sink == sink.name);
                // A sink that was taken out by a reload, and is back, goes on with what it had.
                let line = saved.cloned().unwrap_or_else(|| PairLine::of(&input.name, &sink.name, pair));
                let there = there(known, number, metrics.inputs.len());
                let Moved { came, went } = moved[at][number];
                let open = line.open() + came - went;
                if self.stopped && (saved.is_some() || came > 0) && open != there {
                    wrong.push(format!(
                        "{} -> {}: {open} records were buffered when it stopped, the disk log has {there}",
                        input.name, sink.name
                    ));
                }
                // Of another log nothing was open then, and nobody gives again what was acknowledged.
                let (lost, found) =
                    if self.log_lost { ((line.buffered + line.logged).min(open), 0) } else { (0, there) };
                if lost > 0 && !self.stopped {
                    wrong.push(format!(
                        "{} -> {}: {lost} records were in the disk log, or on their way there, when it was killed; that log is gone",
                        input.name, sink.name
                    ));
                }
                let beyond = there - found.min(open);
                // A sink that was not there (any more) has records that were counted when they came.
                if saved.is_some() || self.pairs.is_empty() {
                    unknown = unknown.max(beyond);
                }
                pair.routed.store(line.routed + came + beyond - went, Relaxed);
                pair.delivered.store(line.delivered, Relaxed);
                pair.returned.store(line.returned + open.saturating_sub(found) - lost, Relaxed);
                pair.buffered.store(there, Relaxed);
                // It is in `open`.
                pair.logged.store(0, Relaxed);
                restore(RejectReason::NAMES, &pair.rejected, &line.rejected);
                restore(DropReason::NAMES, &pair.dropped, &line.dropped);
                pair.dropped[DropReason::BufferDamaged as usize].fetch_add(lost, Relaxed);
            }
            input.received.fetch_add(unknown, Relaxed);
            input.passed.fetch_add(unknown, Relaxed);
        }
        wrong
    }

    /// By input: open records of a sink that are counted for another one than they were. What the log has of inputs that are
    /// configured no longer counts for the first one (`disk_log.rs`) until their name comes back, wherever that stands, and
    /// the first one of now may be another than that of then.
    fn moved(&self, metrics: &Metrics, sink: &str, known: &[u64]) -> Vec<Moved> {
        let lines = || self.pairs.iter().filter(|line| line.sink == sink);
        let place = |line: &PairLine| metrics.inputs.iter().position(|input| input.name == line.input);
        let inputs = metrics.inputs.len();
        let there = |at: usize| there(known, at, inputs);
        let (mut had, mut of_gone) = (vec![None; inputs], 0);
        for line in lines() {
            match place(line) {
                Some(at) => had[at] = Some(line.open()),
                None => of_gone += line.open(),
            }
        }
        let mut moved = vec![Moved::default(); had.len()];
        let back: Vec<usize> = (1..had.len()).filter(|at| had[*at].is_none()).collect();
        for at in &back {
            let part = there(*at).min(of_gone);
            moved[*at].came = part;
            of_gone -= part;
        }
        moved.iter_mut().take(1).for_each(|first| first.came = of_gone);
        let Some(then) = lines().next().and_then(place) else { return moved };
        let mut left = (had[then].unwrap_or(0) + moved[then].came).saturating_sub(there(then));
        for at in back.into_iter().chain([0]).filter(|at| *at != then) {
            // Of one that was there, what it has more now came after the ledger was saved, but for what is of those that are gone.
            let most = if had[at].is_some() { known.get(inputs).copied().unwrap_or(0) } else { u64::MAX };
            let more = there(at).saturating_sub(had[at].unwrap_or(0) + moved[at].came);
            let part = more.min(most.saturating_sub(moved[at].came)).min(left);
            moved[at].came += part;
            moved[then].went += part;
            left -= part;
        }
        moved
    }

    /// Whether every equation closes.
    pub fn closes(&self) -> bool {
        self.inputs.iter().all(|line| line.left_over() == 0) && self.pairs.iter().all(|line| line.left_over() == 0)
    }

    /// Records that the disk log keeps, with the names of the sinks that they are for.
    pub fn buffered(&self) -> (u64, Vec<&str>) {
        let mut sinks: Vec<&str> =
            self.pairs.iter().filter(|line| line.buffered > 0).map(|line| line.sink.as_str()).collect();
        sinks.dedup();
        (self.pairs.iter().map(|line| line.buffered).sum(), sinks)
    }

    /// Generations and bytes of followed files that were lost before they were read.
    pub fn lost(&self) -> (u64, u64) {
        let lost = self.inputs.iter().map(|line| (sum(&line.lost_generations), sum(&line.lost_bytes)));
        lost.fold((0, 0), |(generations, bytes), (more, of)| (generations + more, bytes + of))
    }

    /// As JSON: what is saved, and what `/audit` answers.
    pub fn to_json(&self) -> Value {
        let inputs: Vec<Value> = self
            .inputs
            .iter()
            .map(|line| {
                json!({"input": line.input, "received": line.received, "passed": line.passed, "dropped": line.dropped,
                    "rejected": line.rejected, "lost_generations": line.lost_generations,
                    "lost_bytes": line.lost_bytes, "left_over": left_over(line.left_over())})
            })
            .collect();
        let pairs: Vec<Value> = self
            .pairs
            .iter()
            .map(|line| {
                json!({"input": line.input, "sink": line.sink, "routed": line.routed, "delivered": line.delivered,
                    "rejected": line.rejected, "dropped": line.dropped, "returned": line.returned,
                    "buffered": line.buffered, "in_flight": line.in_flight, "logged": line.logged,
                    "left_over": left_over(line.left_over())})
            })
            .collect();
        let mut value = json!({"closes": self.closes(), "stopped": self.stopped, "inputs": inputs, "pairs": pairs});
        if let Some(log) = self.log {
            value["log"] = format!("{:032x}", u128::from_be_bytes(log)).into();
        }
        value
    }

    /// Reads what [`to_json`](Self::to_json) made; what is missing or of another kind counts as zero.
    pub fn from_json(value: &Value) -> Ledger {
        let list = |name: &str| value[name].as_array().map_or(&[][..], Vec::as_slice);
        let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("").to_owned();
        let number = |line: &Value, name: &str| line[name].as_u64().unwrap_or(0);
        let reasons = |line: &Value, name: &str| -> Reasons {
            let empty = Map::new();
            let counts = line[name].as_object().unwrap_or(&empty).iter();
            counts.map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(0))).collect()
        };
        let input = |line: &Value| InputLine {
            input: text(line, "input"),
            received: number(line, "received"),
            passed: number(line, "passed"),
            dropped: reasons(line, "dropped"),
            rejected: reasons(line, "rejected"),
            lost_generations: reasons(line, "lost_generations"),
            lost_bytes: reasons(line, "lost_bytes"),
        };
        let pair = |line: &Value| PairLine {
            input: text(line, "input"),
            sink: text(line, "sink"),
            routed: number(line, "routed"),
            delivered: number(line, "delivered"),
            rejected: reasons(line, "rejected"),
            dropped: reasons(line, "dropped"),
            returned: number(line, "returned"),
            buffered: number(line, "buffered"),
            in_flight: number(line, "in_flight"),
            logged: number(line, "logged"),
        };
        let log = value["log"].as_str().and_then(|id| u128::from_str_radix(id, 16).ok()).map(u128::to_be_bytes);
        Ledger {
            inputs: list("inputs").iter().map(input).collect(),
            pairs: list("pairs").iter().map(pair).collect(),
            stopped: value["stopped"].as_bool().unwrap_or(false),
            log,
            log_lost: false,
        }
    }

    /// The equations for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for line in &self.inputs {
            let dropped = terms("dropped", &line.dropped);
            let _ = write!(out, "{}: received {} = passed {}{dropped}", line.input, line.received, line.passed);
            say_left_over(&mut out, line.left_over());
            for (reason, count) in &line.rejected {
                let _ = writeln!(out, "  refused before it was received: {count} ({reason})");
            }
            for (what, counts) in [("generations", &line.lost_generations), ("bytes", &line.lost_bytes)] {
                for (reason, count) in counts {
                    let _ = writeln!(out, "  lost at rotation, before it was read: {count} {what} ({reason})");
                }
            }
            for pair in self.pairs.iter().filter(|pair| pair.input == line.input) {
                let (rejected, dropped) = (terms("rejected", &pair.rejected), terms("dropped", &pair.dropped));
                let _ = write!(
                    out,
                    "  -> {}: routed {} = delivered {}{rejected}{dropped} + returned {} + buffered {} + in flight {}",
                    pair.sink, pair.routed, pair.delivered, pair.returned, pair.buffered, pair.in_flight
                );
                say_left_over(&mut out, pair.left_over());
            }
        }
        let _ = writeln!(out, "{}", if self.closes() { "it closes" } else { "IT DOES NOT CLOSE" });
        out
    }
}

fn left_over(left_over: i128) -> i64 {
    i64::try_from(left_over).unwrap_or(if left_over < 0 { i64::MIN } else { i64::MAX })
}

fn terms(name: &str, reasons: &Reasons) -> String {
    reasons.iter().fold(String::new(), |mut text, (reason, count)| {
        let _ = write!(text, " + {name} {count} ({reason})");
        text
    })
}

fn say_left_over(out: &mut String, left_over: i128) {
    let _ = match left_over {
        0 => writeln!(out),
        count => writeln!(out, "   LEFT OVER: {count}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::shift;

    fn metrics() -> Metrics {
        let metrics = Metrics::new(&[("apps", "forward")], &[("a", "file"), ("b", "http")]);
        metrics.inputs[0].received.store(100, Relaxed);
        metrics.inputs[0].passed.store(90, Relaxed);
        metrics.inputs[0].dropped[DropReason::Step as usize].store(10, Relaxed);
        for sink in &metrics.sinks {
            sink.pairs[0].routed.store(90, Relaxed);
            sink.pairs[0].delivered.store(50, Relaxed);
            sink.pairs[0].held.store(30, Relaxed);
            sink.pairs[0].buffered.store(10, Relaxed);
        }
        metrics
    }

    fn fresh() -> Metrics {
        Metrics::new(&[("apps", "forward")], &[("a", "file"), ("b", "http")])
    }

    #[test]
    fn what_was_in_a_log_that_is_gone_after_a_kill_is_dropped_and_what_another_one_has_came_since() {
        let before = metrics();
        for sink in &before.sinks {
            shift(&sink.pairs[0].held, &sink.pairs[0].logged, 5);
        }
        let saved = Ledger { log: Some([1; 16]), ..Ledger::of(&before) };
        let saved = Ledger::from_json(&saved.to_json());
        for (found, dropped, returned) in [(Some([1; 16]), 0, 36), (Some([2; 16]), 15, 25), (None, 15, 25)] {
            let there = if found.is_some() { 4 } else { 0 };
            let after = fresh();
            let wrong = saved.clone().held_against(found).resume(&after, &[vec![there], vec![there]], &[0, 1]);
            assert_eq!(wrong.len(), if dropped > 0 { 2 } else { 0 }, "{wrong:?}");
            let pair = &after.sinks[1].pairs[0];
            assert_eq!(pair.dropped[DropReason::BufferDamaged as usize].load(Relaxed), dropped);
            assert_eq!((pair.returned.load(Relaxed), pair.buffered.load(Relaxed)), (returned, there));
            assert!(Ledger::of(&after).closes(), "{}", Ledger::of(&after).text());
        }
    }

    #[test]
    fn it_closes_or_says_what_is_left_over_and_survives_json() {
        let metrics = metrics();
        let ledger = Ledger::of(&metrics);
        assert!(ledger.closes(), "{}", ledger.text());
        assert_eq!(Ledger::from_json(&ledger.to_json()), ledger);
        shift(&metrics.sinks[1].pairs[0].held, &metrics.sinks[0].pairs[0].delivered, 3);
        let ledger = Ledger::of(&metrics);
        assert!(!ledger.closes());
        assert_eq!(ledger.pairs.iter().map(PairLine::left_over).collect::<Vec<_>>(), [-3, 3]);
        assert!(ledger.text().contains("LEFT OVER: 3") && ledger.text().contains("IT DOES NOT CLOSE"));
    }

    #[test]
    fn after_a_kill_memory_is_returned_and_what_the_log_has_more_is_received() {
        let saved = Ledger::of(&metrics());
        let after = fresh();
        // Of the 40 open ones the log has 25 for a; for b it has 45, five of them newer than the saved ledger.
        assert!(saved.resume(&after, &[vec![25], vec![45]], &[0, 1]).is_empty());
        let ledger = Ledger::of(&after);
        assert!(ledger.closes(), "{}", ledger.text());
        let figures = |at: usize| (ledger.pairs[at].routed, ledger.pairs[at].returned, ledger.pairs[at].buffered);
        assert_eq!((figures(0), figures(1), ledger.inputs[0].received), ((90, 15, 25), (95, 0, 45), 105));
    }

    #[test]
    fn what_was_in_hand_is_buffered_again_where_a_configuration_is_replaced() {
        let metrics = metrics();
        let pair = metrics.pair(0, 0);
        pair.held.store(0, Relaxed);
        pair.logged.store(30, Relaxed);
        assert!(Ledger::of(&metrics).resume(&metrics, &[vec![40]], &[0]).is_empty());
        let ledger = Ledger::of(&metrics);
        assert!(ledger.closes(), "{}", ledger.text());
        assert_eq!((ledger.pairs[0].buffered, ledger.pairs[0].in_flight), (40, 0));
    }

    #[test]
    fn after_an_orderly_stop_a_difference_to_the_log_is_said() {
        let mut saved = Ledger::of(&metrics());
        saved.stopped = true;
        assert!(saved.resume(&fresh(), &[vec![40], vec![40]], &[0, 1]).is_empty());
        let wrong = saved.resume(&fresh(), &[vec![40], vec![39]], &[0, 1]);
        assert_eq!(wrong, ["apps -> b: 40 records were buffered when it stopped, the disk log has 39"]);
    }

    /// Of `old` and `new` at one sink: what is buffered.
    fn saved(old: u64, new: u64) -> Ledger {
        let metrics = Metrics::new(&[("old", "forward"), ("new", "forward")], &[("a", "http")]);
        for (number, buffered) in [old, new].into_iter().enumerate() {
            let (input, pair) = (&metrics.inputs[number], metrics.pair(number as u16, 0));
            input.received.store(100, Relaxed);
            input.passed.store(100, Relaxed);
            pair.routed.store(100, Relaxed);
            pair.delivered.store(100 - buffered, Relaxed);
            pair.buffered.store(buffered, Relaxed);
        }
        Ledger { stopped: true, ..Ledger::of(&metrics) }
    }

    #[test]
    fn the_backlog_of_an_input_that_is_gone_counts_for_the_first_one_until_it_is_back() {
        let without = Metrics::new(&[("new", "forward")], &[("a", "http")]);
        assert!(saved(30, 5).resume(&without, &[vec![5, 30]], &[0]).is_empty());
        let mut ledger = Ledger::of(&without);
        assert!(ledger.closes(), "{}", ledger.text());
        let figures = |line: &PairLine| (line.routed, line.delivered, line.returned, line.buffered);
        assert_eq!((figures(&ledger.pairs[0]), ledger.inputs[0].received), ((130, 95, 0, 35), 100));
        // And a record that is missing is said all the same.
        assert_eq!(
            saved(30, 5).resume(&Metrics::new(&[("new", "forward")], &[("a", "http")]), &[vec![5, 29]], &[0]).len(),
            1
        );
        // It comes back before its records are delivered.
        ledger.stopped = true;
        let with = Metrics::new(&[("new", "forward"), ("old", "forward")], &[("a", "http")]);
        assert!(ledger.resume(&with, &[vec![5, 30]], &[0]).is_empty());
        let ledger = Ledger::of(&with);
        assert!(ledger.closes(), "{}", ledger.text());
        assert_eq!((figures(&ledger.pairs[0]), figures(&ledger.pairs[1])), ((100, 95, 0, 5), (30, 0, 0, 30)));
        // Where no input of before is left.
        let other = Metrics::new(&[("other", "forward")], &[("a", "http")]);
        assert!(saved(30, 5).resume(&other, &[vec![0, 35]], &[0]).is_empty());
        assert!(Ledger::of(&other).closes(), "{}", Ledger::of(&other).text());
        assert_eq!(Ledger::of(&other).inputs[0].received, 0);
    }

    #[test]
    fn a_sink_that_is_taken_out_and_put_back_goes_on_with_its_counts() {
        let metrics = metrics();
        metrics.pair(0, 1).held.store(0, Relaxed);
        metrics.pair(0, 1).rejected[RejectReason::Refused as usize].store(30, Relaxed);
        metrics.keep_sinks(&[0]);
        let saved = Ledger::of(&metrics);
        assert_eq!(metrics.sink("b", "http"), Some(1));
        assert!(saved.resume(&metrics, &[vec![40], vec![0]], &[1]).is_empty());
        let ledger = Ledger::of(&metrics);
        assert!(ledger.closes(), "{}", ledger.text());
        let line = &ledger.pairs[1];
        assert_eq!((line.routed, line.delivered, sum(&line.rejected), line.returned), (90, 50, 30, 10));
    }

    #[test]
    fn what_is_lost_while_a_configuration_is_replaced_stays_counted() {
        let metrics = fresh();
        let lose = || {
            metrics.inputs[0].followed.generation(Generation::Lost, 1);
            metrics.inputs[0].followed.lost(LostBytes::Gone, 100);
            metrics.inputs[0].rejected[RejectReason::Refused as usize].fetch_add(1, Relaxed);
        };
        lose();
        let saved = Ledger::of(&metrics);
        // The inputs run on, and the gate does not hold this.
        lose();
        saved.resume(&metrics, &[vec![0], vec![0]], &[0, 1]);
        let ledger = Ledger::of(&metrics);
        assert_eq!((ledger.lost(), sum(&ledger.inputs[0].rejected)), ((2, 200), 2));
    }

    /// Resumes where these inputs and this backlog of the one sink are there (at the end of inputs that are gone): what is
    /// wrong, and by input what was routed, returned and is buffered.
    fn resumed(saved: &Ledger, inputs: &[&str], known: &[u64]) -> (usize, Vec<(u64, u64, u64)>) {
        let inputs: Vec<(&str, &'static str)> = inputs.iter().map(|name| (*name, "forward")).collect();
        let metrics = Metrics::new(&inputs, &[("a", "http")]);
        let wrong = saved.resume(&metrics, &[known.to_vec()], &[0]);
        let ledger = Ledger::of(&metrics);
        assert!(ledger.pairs.iter().all(|line| line.left_over() == 0), "{}", ledger.text());
        (wrong.len(), ledger.pairs.iter().map(|line| (line.routed, line.returned, line.buffered)).collect())
    }

    #[test]
    fn an_input_may_come_back_as_the_first_one_and_inputs_may_change_their_places() {
        let metrics = Metrics::new(&[("new", "forward"), ("more", "forward")], &[("a", "http")]);
        // Thirty of `old` are counted for `new`; `more` has ten of its own.
        for (at, (routed, buffered)) in [(130, 35), (100, 10)].into_iter().enumerate() {
            let pair = metrics.pair(at as u16, 0);
            pair.routed.store(routed, Relaxed);
            pair.delivered.store(routed - buffered, Relaxed);
            pair.buffered.store(buffered, Relaxed);
        }
        let saved = Ledger { stopped: true, ..Ledger::of(&metrics) };
        let (old, new, more) = ((30, 0, 30), (100, 0, 5), (100, 0, 10));
        assert_eq!(resumed(&saved, &["old", "new", "more"], &[30, 5, 10]), (0, vec![old, new, more]));
        assert_eq!(resumed(&saved, &["more", "new", "old"], &[10, 5, 30]), (0, vec![more, new, old]));
        // Still without `old`, whose records now count for `more`.
        assert_eq!(resumed(&saved, &["more", "new"], &[10, 5, 30]), (0, vec![(130, 0, 40), new]));
        // `new` is gone in turn, and its records count for `more`.
        assert_eq!(resumed(&saved, &["more", "old"], &[10, 30, 5]), (0, vec![(105, 0, 15), old]));
        // What is missing is said all the same.
        assert_eq!(resumed(&saved, &["old", "new", "more"], &[29, 5, 10]).0, 1);
        assert_eq!(resumed(&saved, &["more", "new"], &[10, 4, 30]).0, 1);
        assert_eq!(resumed(&saved, &["more", "old"], &[10, 29, 5]).0, 1);
    }

    #[test]
    fn after_a_kill_inputs_in_another_order_keep_their_own_counts() {
        let saved = Ledger { stopped: false, ..saved(100, 10) };
        // Since it was saved, 40 of `old` were delivered and 40 came to `new`: neither is the other's.
        let (old, new) = ((100, 40, 60), (140, 0, 50));
        assert_eq!(resumed(&saved, &["old", "new"], &[60, 50]), (0, vec![old, new]));
        assert_eq!(resumed(&saved, &["new", "old"], &[50, 60]), (0, vec![new, old]));
        // 30 of the 100 are of an input that is gone still, and count for the first one now.
        let (old, new) = ((70, 40, 30), (170, 0, 80));
        assert_eq!(resumed(&saved, &["new", "old"], &[50, 30, 30]), (0, vec![new, old]));
    }

    #[test]
    fn what_rotation_took_stands_beside_its_input_and_survives_a_restart() {
        let metrics = fresh();
        metrics.inputs[0].followed.generation(Generation::Lost, 2);
        metrics.inputs[0].followed.generation(Generation::Opened, 9);
        metrics.inputs[0].followed.lost(LostBytes::Gone, 4096);
        let saved = Ledger::from_json(&Ledger::of(&metrics).to_json());
        let text = saved.text();
        assert!(text.contains("  lost at rotation, before it was read: 2 generations (lost)\n"), "{text}");
        assert!(text.contains("  lost at rotation, before it was read: 4096 bytes (gone)\n"), "{text}");
        let after = fresh();
        saved.resume(&after, &[vec![0], vec![0]], &[0, 1]);
        after.inputs[0].followed.generation(Generation::Lost, 1);
        let ledger = Ledger::of(&after);
        assert_eq!((ledger.lost(), ledger.closes()), ((3, 4096), true));
        assert_eq!(after.inputs[0].followed.generations[Generation::Opened as usize].load(Relaxed), 0);
    }
}
