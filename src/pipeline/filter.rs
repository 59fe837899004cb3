//! `drop`, `keep` and `sample`: which records go on.
//!
//! `drop = 'condition'` drops the records for which it holds, `keep` the others. `sample = "1/10"` (or `"10%"`) lets one of
//! ten go on, evenly over all inputs; with `by = "trace_id"` all records with the same value of that field share a fate
//! (records without it are sampled evenly).
//!
//! Counter: `dropped{step}`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::batch::Batch;
use crate::metrics::DropReason;

use super::condition::Condition;
use super::path::Path;
use super::{Rows, Scratch};

/// `drop` or `keep`.
#[derive(Debug)]
pub struct Filter {
    /// What is asked.
    pub condition: Condition,
    /// Whether those go on for which it holds.
    pub keeps: bool,
}

/// `sample`.
#[derive(Debug)]
pub struct Sample {
    /// So many of ...
    part: u64,
    /// ... so many go on.
    whole: u64,
    by: Option<Path>,
    /// Records seen: shared by all inputs, added to once a batch.
    seen: AtomicU64,
}

impl Filter {
    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        scratch.marks.clear();
        for at in 0..batch.len() {
            let goes = rows.has(batch, at) && self.condition.holds(batch, at) != self.keeps;
            scratch.marks.push(!goes);
        }
        drop_unmarked(batch, &scratch.marks);
    }
}

impl Sample {
    /// Reads `"1/10"` or `"10%"`.
    pub fn parse(text: &str, by: Option<Path>) -> Result<Sample, String> {
        let wrong = || format!("\"{text}\" is no rate; write for example \"1/10\" or \"10%\"");
        let (part, whole) = match (text.split_once('/'), text.strip_suffix('%')) {
            (Some((part, whole)), _) => {
                (part.trim().parse().map_err(|_| wrong())?, whole.trim().parse().map_err(|_| wrong())?)
            }
            (None, Some(percent)) => {
                let (whole, fraction) = percent.trim().split_once('.').unwrap_or((percent.trim(), ""));
                if fraction.len() > 6 {
                    return Err(format!("\"{text}\" is too fine; six digits after the point at most"));
                }
                let scale = 10u64.pow(fraction.len() as u32);
                let number: u64 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
                (number, scale * 100)
            }
            (None, None) => return Err(wrong()),
        };
        if whole == 0 || part > whole || whole > 1_000_000_000 {
            return Err(format!("\"{text}\" is no part of a whole; write for example \"1/10\" or \"10%\""));
        }
        Ok(Sample { part, whole, by, seen: AtomicU64::new(0) })
    }

    pub(super) fn run(&self, batch: &mut Batch, rows: &Rows<'_>, scratch: &mut Scratch) {
        scratch.marks.clear();
        // First whose turn it is to be counted, then, with one step of the counter, their fate.
        let mut counted = 0;
        let mut fates: Option<Vec<Option<bool>>> = self.by.is_some().then(|| Vec::with_capacity(batch.len()));
        for at in 0..batch.len() {
            let has = rows.has(batch, at);
            let fate = match &self.by {
                Some(by) if has => self.fate(by, batch, at, &mut scratch.out),
                _ => None,
            };
            scratch.marks.push(has);
            counted += u64::from(has && fate.is_none());
            if let Some(fates) = &mut fates {
                fates.push(fate);
            }
        }
        let mut number = self.seen.fetch_add(counted, Relaxed);
        for at in 0..batch.len() {
            if !scratch.marks[at] {
                scratch.marks[at] = true;
                continue;
            }
            let fate = fates.as_ref().and_then(|fates| fates[at]);
            scratch.marks[at] = fate.unwrap_or_else(|| {
                let goes_on = (number % self.whole) * self.part % self.whole < self.part;
                number = number.wrapping_add(1);
                goes_on
            });
        }
        drop_unmarked(batch, &scratch.marks);
    }

    /// Whether records with this value go on; `None` without the value.
    fn fate(&self, by: &Path, batch: &Batch, at: usize, out: &mut Vec<u8>) -> Option<bool> {
        out.clear();
        by.find(batch, at)?.write_text(out);
        // FNV-1a: the same on every machine and in every version, so that agents agree on what they keep.
        let mut hash = out
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        hash ^= hash >> 32;
        Some(hash % self.whole < self.part)
    }
}

fn drop_unmarked(batch: &mut Batch, keep: &[bool]) {
    let dropped = keep.iter().filter(|keep| !**keep).count();
    if dropped > 0 {
        batch.tally.drop_by(DropReason::Step, dropped as u32);
        batch.retain_marked(keep);
    }
}
