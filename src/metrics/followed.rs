//! What is counted of followed files: generations, bytes that were lost, the watching itself, and three gauges a chain.
//!
//! A chain's series end with it. Limits: [`SERIES_MAX`] chains of an input are shown, those with unread data first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::slots::Slots;
use super::{Exposition, InputMetrics, zeros};

/// Chains whose gauges are shown, at most: a scrape stays below some megabytes.
const SERIES_MAX: usize = 10_000;

catalogue! {
    /// What became of a generation of a followed file.
    Generation {
        /// It was opened, and is held from then on.
        Opened = "opened",
        /// It was read to its end; a renamed plain file: and nothing more is expected of it.
        Completed = "completed",
        /// It was created and gone before it could be opened, was gone after a restart, or could not be read.
        Lost = "lost",
        /// It had been deleted, and was given up for a limit of held deleted files.
        GivenUp = "given_up",
    }
}

catalogue! {
    /// Why bytes of a followed file were never read. Figures are estimates but for `given_up`.
    LostBytes {
        /// Truncated or rewritten in place, and no copy was found.
        Truncated = "truncated",
        /// Gone after a restart.
        Gone = "gone",
        /// Created and gone before it could be opened (as many as the limit for a file).
        Unseen = "unseen",
        /// Deleted, and given up for the limit of held deleted files.
        GivenUp = "given_up",
        /// The disk or the network did not give it, and a newer generation waited.
        Unreadable = "unreadable",
    }
}

catalogue! {
    /// What happened while folders were watched.
    Watching {
        /// The kernel's queue of events overflowed; everything was looked at.
        Overflow = "overflow",
        /// Nobody can say whether a generation came and went: events were lost, or a file was compressed during a stop.
        GapPossible = "gap_possible",
        /// A scan was repeated because files shifted meanwhile.
        TornScan = "torn_scan",
        /// Generations whose place among others is a guess: names shifted, and nothing in them tells.
        OrderGuessed = "order_guessed",
        /// An idle file was closed since descriptors were scarce.
        Parked = "parked",
    }
}

/// Everything that is counted of one input's followed files.
#[derive(Debug)]
pub struct Followed {
    /// Whether the input follows files at all.
    pub used: AtomicBool,
    /// By [`Generation`].
    pub generations: [AtomicU64; Generation::COUNT],
    /// By [`LostBytes`].
    pub lost_bytes: [AtomicU64; LostBytes::COUNT],
    /// By [`Watching`].
    pub watching: [AtomicU64; Watching::COUNT],
    /// Bytes on disk of files that are deleted and held until they are delivered.
    pub held_deleted: AtomicU64,
    /// The limit of that.
    pub held_deleted_max: AtomicU64,
    /// Chains whose undelivered data is about to be rotated away.
    pub in_danger: AtomicU64,
    /// Descriptors of followed files.
    pub open_files: AtomicU64,
    /// Microseconds of the slowest looks after the kernel's word, from when the opener was awake.
    pub opener_slowest: AtomicU64,
    chains: Mutex<BTreeMap<String, Arc<ChainFigures>>>,
}

impl Default for Followed {
    fn default() -> Followed {
        Followed {
            used: AtomicBool::new(false),
            generations: zeros(),
            lost_bytes: zeros(),
            watching: zeros(),
            held_deleted: AtomicU64::new(0),
            held_deleted_max: AtomicU64::new(0),
            in_danger: AtomicU64::new(0),
            open_files: AtomicU64::new(0),
            opener_slowest: AtomicU64::new(0),
            chains: Mutex::default(),
        }
    }
}

/// The gauges of one chain.
#[derive(Debug)]
pub struct ChainFigures {
    /// Container name, or the file's path.
    pub name: Mutex<String>,
    /// Bytes that are not delivered yet (what is unread of compressed files: as they are on disk).
    pub backlog: AtomicU64,
    /// Milliseconds that the oldest of them have waited.
    pub age: AtomicU64,
    /// Milliseconds until the writer's rotation deletes undelivered data; [`ChainFigures::SAFE`] while none is in danger.
    pub horizon: AtomicU64,
    /// Generations that were lost or given up.
    pub lost: AtomicU64,
}

impl ChainFigures {
    /// Nothing waits, or nothing is known of the writer's limits and pace.
    pub const SAFE: u64 = u64::MAX;

    fn new(name: &str) -> ChainFigures {
        ChainFigures {
            name: Mutex::new(name.to_owned()),
            backlog: AtomicU64::new(0),
            age: AtomicU64::new(0),
            horizon: AtomicU64::new(ChainFigures::SAFE),
            lost: AtomicU64::new(0),
        }
    }

    /// What it is called now.
    pub fn shown(&self) -> String {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Followed {
    /// Generations and bytes that were never read, for whatever reason.
    pub fn all_lost(&self) -> (u64, u64) {
        let generations =
            [Generation::Lost, Generation::GivenUp].map(|what| self.generations[what as usize].load(Relaxed));
        (generations.iter().sum(), self.lost_bytes.iter().map(|bytes| bytes.load(Relaxed)).sum())
    }

    /// Counts generations.
    pub fn generation(&self, what: Generation, by: u64) {
        self.generations[what as usize].fetch_add(by, Relaxed);
    }

    /// Counts bytes that were never read.
    pub fn lost(&self, why: LostBytes, bytes: u64) {
        self.lost_bytes[why as usize].fetch_add(bytes, Relaxed);
    }

    /// Counts what happened while watching.
    pub fn watch(&self, what: Watching, by: u64) {
        self.watching[what as usize].fetch_add(by, Relaxed);
    }

    /// The gauges of a chain, from now on shown.
    pub fn chain(&self, key: &str, name: &str) -> Arc<ChainFigures> {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = Arc::new(ChainFigures::new(name));
        chains.insert(key.to_owned(), Arc::clone(&figures));
        figures
    }

    /// Shows them no longer, unless the key has others by now.
    pub fn forget(&self, key: &str, figures: &Arc<ChainFigures>) {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.get(key).is_some_and(|known| Arc::ptr_eq(known, figures)) {
            chains.remove(key);
        }
    }

    fn shown(&self) -> Vec<(String, Arc<ChainFigures>)> {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown: Vec<(String, Arc<ChainFigures>)> =
            chains.iter().map(|(key, figures)| (key.clone(), Arc::clone(figures))).collect();
        drop(chains);
        if shown.len() > SERIES_MAX {
            shown.sort_by_key(|(_, figures)| std::cmp::Reverse(figures.backlog.load(Relaxed)));
            shown.truncate(SERIES_MAX);
        }
        shown
    }
}

/// The series of all inputs that follow files.
pub(super) fn expose(inputs: &Slots<InputMetrics>, out: &mut Exposition) {
    let used: Vec<&InputMetrics> = inputs.iter().filter(|input| input.followed.used.load(Relaxed)).collect();
    if used.is_empty() {
        return;
    }
    let labelled: [(&str, &str, &str, &[&str], fn(&Followed) -> &[AtomicU64]); 3] = [
        (
            "longshore_follow_generations_total",
            "what",
            "Generations of followed files: opened, read to the end, lost unread, given up.",
            Generation::NAMES,
            |f| &f.generations,
        ),
        (
            "longshore_follow_lost_bytes_total",
            "reason",
            "Bytes of followed files that could not be read any more (estimates but for given_up).",
            LostBytes::NAMES,
            |f| &f.lost_bytes,
        ),
        ("longshore_follow_watching_total", "what", "Events of the watching itself.", Watching::NAMES, |f| &f.watching),
    ];
    for (name, label, help, values, of) in labelled {
        out.family(name, "counter", help);
        for input in &used {
            for (value, counter) in values.iter().zip(of(&input.followed)) {
                out.sample(name, &[("input", &input.name), (label, value)], counter.load(Relaxed));
            }
        }
    }
    let plain: [(&str, &str, fn(&Followed) -> &AtomicU64); 4] = [
        ("longshore_follow_held_deleted_bytes", "Bytes on disk of deleted files that are held until delivered.", |f| {
            &f.held_deleted
        }),
        ("longshore_follow_held_deleted_max_bytes", "The limit of that.", |f| &f.held_deleted_max),
        ("longshore_follow_open_files", "Descriptors of followed files.", |f| &f.open_files),
        (
            "longshore_follow_opener_slowest_microseconds",
            "The longest time from when the opener was awake, after the kernel's word, to the end of its looks.",
            |f| &f.opener_slowest,
        ),
    ];
    for (name, help, of) in plain {
        out.family(name, "gauge", help);
        for input in &used {
            out.sample(name, &[("input", &input.name)], of(&input.followed).load(Relaxed));
        }
    }
    let chains: Vec<(&str, Vec<(String, Arc<ChainFigures>)>)> =
        used.iter().map(|input| (input.name.as_str(), input.followed.shown())).collect();
    let gauges: [(&str, &str, &str, fn(&ChainFigures) -> Option<u64>); 4] = [
        ("longshore_follow_backlog_bytes", "gauge", "Undelivered bytes of a container or file.", |c| {
            Some(c.backlog.load(Relaxed))
        }),
        ("longshore_follow_oldest_undelivered_seconds", "gauge", "How long the oldest of them have waited.", |c| {
            Some(c.age.load(Relaxed) / 1000)
        }),
        (
            "longshore_follow_rotation_horizon_seconds",
            "gauge",
            "Seconds until rotation deletes undelivered data; only while there is some, and limits and pace are known.",
            |c| Some(c.horizon.load(Relaxed)).filter(|horizon| *horizon != ChainFigures::SAFE).map(|ms| ms / 1000),
        ),
        (
            "longshore_follow_lost_generations_total",
            "counter",
            "Generations of a container or file that were lost.",
            |c| Some(c.lost.load(Relaxed)).filter(|lost| *lost > 0),
        ),
    ];
    for (name, kind, help, of) in gauges {
        out.family(name, kind, help);
        for (input, chains) in &chains {
            for (key, figures) in chains {
                if let Some(value) = of(figures) {
                    out.sample(name, &[("input", input), ("key", key), ("name", &figures.shown())], value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn a_chain_is_shown_until_it_is_gone_and_an_input_without_files_is_not() {
        let metrics = Metrics::new(&[("containers", "docker"), ("apps", "forward")], &[]);
        let followed = &metrics.inputs[0].followed;
        followed.used.store(true, Relaxed);
        let figures = followed.chain("0123", "web");
        figures.backlog.store(77, Relaxed);
        followed.generation(Generation::Lost, 2);
        let text = metrics.exposition(&crate::budget::Budget::new(1000));
        let labels = "{input=\"containers\",key=\"0123\",name=\"web\"}";
        assert!(text.contains(&format!("longshore_follow_backlog_bytes{labels} 77\n")), "{text}");
        assert!(text.contains("longshore_follow_generations_total{input=\"containers\",what=\"lost\"} 2\n"));
        assert!(!text.contains(&format!("longshore_follow_rotation_horizon_seconds{labels}")), "nothing is in danger");
        assert!(!text.contains("input=\"apps\",what="));
        figures.horizon.store(2500, Relaxed);
        "web-renamed".clone_into(&mut figures.name.lock().expect("no panic"));
        let text = metrics.exposition(&crate::budget::Budget::new(1000));
        assert!(
            text.contains(
                "longshore_follow_rotation_horizon_seconds{input=\"containers\",key=\"0123\",name=\"web-renamed\"} 2\n"
            ),
            "{text}"
        );
        let again = followed.chain("0123", "web");
        followed.forget("0123", &figures);
        assert!(metrics.exposition(&crate::budget::Budget::new(1000)).contains("0123"), "it has come back meanwhile");
        followed.forget("0123", &again);
        assert!(!metrics.exposition(&crate::budget::Budget::new(1000)).contains("0123"));
    }
}
