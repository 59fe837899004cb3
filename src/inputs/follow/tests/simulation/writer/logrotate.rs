//! logrotate's steps for a plain file, while the one program that writes it goes on: renamed and made anew, then the program
//! is told; or copied and truncated (`copytruncate.rs`); each with `compress` and `delaycompress`. A compressed file is closed
//! once it has the time of its plain one. It is run by a timer: rotations are [`APART`].
//!
//! What it needs of the world beyond Docker's: each call takes a moment ([`super::CALL`]), so that no two files have one time, and
//! files are born at the simulation's time.
//!
//! Not covered: several programs that write one file, of which one goes on with the old one while it is stopped; compressors
//! that do not keep the time.

use std::fs::{self, File};
use std::time::Duration;

use super::{BASE, Generation, Rotation, Step as Own, Writer, gzip};

/// From one rotation to the next, at least.
const APART: Duration = Duration::from_secs(1);

/// How it rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logrotate {
    /// Files, the one that is written to included.
    keep: u32,
    packs: bool,
    /// `delaycompress`.
    later: bool,
    /// `copytruncate`, of a program that writes with `O_APPEND`, or without.
    pub(super) copies: Option<bool>,
}

/// Steps that Docker does not take.
#[derive(Debug)]
pub enum Step {
    /// An empty file of the base's name, which nobody writes to yet.
    Make,
    /// The program goes over to it.
    Reopen,
    /// Compresses `.1`.
    Pack,
    /// The compressed file has the time of its plain one.
    Date,
    /// Makes the file that the next one is copied to.
    Copy,
    /// Copies a block, or finds that there is none.
    Block,
    /// Truncates what was copied.
    Empty,
}

impl Rotation {
    /// One of logrotate's.
    pub fn of_logrotate(rng: &mut fastrand::Rng) -> Rotation {
        let [packs, later] = [rng.bool(), rng.bool()];
        Rotation::Other(Logrotate { keep: rng.u32(3..6), packs, later: packs && later, copies: None })
    }

    /// The same with `copytruncate`.
    pub fn of_copytruncate(rng: &mut fastrand::Rng) -> Rotation {
        let [packs, later, appends] = [rng.bool(), rng.bool(), rng.bool()];
        Rotation::Other(Logrotate { keep: rng.u32(3..6), packs, later: packs && later, copies: Some(appends) })
    }
}

impl Writer {
    /// Whether a rotation may begin.
    pub(super) fn is_due(&self) -> bool {
        !self.rotation.is_served() || self.now.saturating_sub(self.rotated) >= APART
    }

    pub(super) fn begin_logrotate(&mut self, how: Logrotate) {
        let name = |n: u32, gz: &str| format!("{BASE}.{n}{gz}");
        let mut steps = Vec::new();
        let packs_one = how.later && self.names.contains_key(&name(1, ""));
        if packs_one {
            steps.push(Own::Other(Step::Pack));
        }
        let gz = if how.packs { ".gz" } else { "" };
        steps.push(Own::Remove(name(how.keep - 1, gz)));
        let there = |n: &u32| self.names.contains_key(&name(*n, gz)) || *n == 1 && packs_one;
        steps.extend((1..how.keep - 1).rev().filter(there).map(|n| Own::Rename(name(n, gz), name(n + 1, gz))));
        if how.copies.is_some() {
            steps.extend([Step::Copy, Step::Empty].map(Own::Other));
        } else {
            steps.push(Own::Rename(BASE.to_owned(), name(1, "")));
            steps.extend([Step::Make, Step::Reopen].map(Own::Other));
        }
        if how.packs && !how.later {
            steps.push(Own::Other(Step::Pack));
        }
        self.steps.extend(steps);
    }

    pub(super) fn logrotate(&mut self, step: Step) {
        let base = self.folder.join(BASE);
        match step {
            Step::Make => {
                self.make(BASE);
                self.names.insert(BASE.to_owned(), self.generations.len());
                self.generations.push(Generation::default());
            }
            Step::Reopen => {
                self.file = Some(File::options().append(true).open(base).expect("there"));
                self.current = self.names[BASE];
            }
            Step::Pack => {
                let whole = gzip(&self.generations[self.names[&format!("{BASE}.1")]].bytes);
                let cut = self.rng.usize(0..whole.len());
                let parts = [&[], &whole[..cut], &whole[cut..]].map(|part: &[u8]| Own::Pack(part.to_vec()));
                let plain = Own::Remove(format!("{BASE}.1"));
                parts
                    .into_iter()
                    .chain([Own::Other(Step::Date), plain])
                    .rev()
                    .for_each(|step| self.steps.push_front(step));
            }
            Step::Date => {
                let plain = self.folder.join(format!("{BASE}.1"));
                let changed = fs::metadata(plain).and_then(|plain| plain.modified()).expect("there");
                let (packed, _) = self.packed.take().expect("begun");
                packed.set_modified(changed).expect("set");
            }
            Step::Copy => self.begin_copy(),
            Step::Block => self.copy_block(),
            Step::Empty => self.empty(),
        }
    }
}
