//! kubelet's steps for a container's log, and its runtime's: what was rotated before is compressed (to a `.tmp` that is renamed
//! once it is whole, with a time of its own), the oldest are removed, the log is renamed to its name with the time, and the
//! runtime is told: it makes a new one and goes over to it, or does not, and then the name goes back. The newest rotated one stays
//! plain until the next rotation. Long lines come in pieces, which may fall into two files.

use std::fs::{self, File};
use std::io::Write;

use super::{BASE, Rotation, Step as Own, Writer, gzip, logrotate};

/// Files, the one that is written to included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kubelet {
    keep: usize,
}

/// Its steps that others do not take.
#[derive(Debug)]
pub enum Step {
    /// Begins to compress the file of that name.
    Pack(String),
    /// The next part of it.
    Part(String, Vec<u8>),
    /// It is whole.
    Whole(String),
}

impl Rotation {
    /// kubelet's.
    pub fn of_kubelet(rng: &mut fastrand::Rng) -> Rotation {
        Rotation::Kubelet(Kubelet { keep: rng.usize(3..6) })
    }
}

impl Writer {
    pub(super) fn begin_kubelet(&mut self, how: Kubelet) {
        let mut rotated: Vec<String> = self.names.keys().filter(|name| *name != BASE).cloned().collect();
        let excess = rotated.len().saturating_sub(how.keep - 2);
        self.steps.extend(rotated.drain(..excess).map(Own::Remove));
        let plain = rotated.into_iter().filter(|name| !name.ends_with(".gz"));
        self.steps.extend(plain.map(|name| Own::Kubelet(Step::Pack(name))));
        let name = format!("{BASE}.20261124-{:06}", self.now.as_secs());
        self.steps.push_back(Own::Rename(BASE.to_owned(), name.clone()));
        if self.rng.u8(0..8) == 0 {
            self.steps.push_back(Own::Rename(name, BASE.to_owned()));
        } else {
            self.steps.extend([logrotate::Step::Make, logrotate::Step::Reopen].map(Own::Other));
        }
    }

    pub(super) fn kubelet(&mut self, step: Step) {
        let path = |name: &str, end: &str| self.folder.join(format!("{name}{end}"));
        match step {
            Step::Pack(name) => {
                let whole = gzip(&self.generations[self.names[&name]].bytes);
                let cut = self.rng.usize(0..whole.len());
                self.make(&format!("{name}.tmp"));
                self.steps.push_front(Own::Remove(name.clone()));
                self.steps.push_front(Own::Kubelet(Step::Whole(name.clone())));
                for part in [&whole[cut..], &whole[..cut]] {
                    self.steps.push_front(Own::Kubelet(Step::Part(name.clone(), part.to_vec())));
                }
            }
            Step::Part(name, bytes) => {
                let mut file = File::options().append(true).open(path(&name, ".tmp")).expect("there");
                file.write_all(&bytes).expect("written");
                self.date(&file);
            }
            Step::Whole(name) => {
                fs::rename(path(&name, ".tmp"), path(&name, ".gz")).expect("renamed");
                self.names.insert(format!("{name}.gz"), self.names[&name]);
            }
        }
    }

    /// A line in two or three pieces.
    pub(super) fn write_piece(&mut self) {
        let line = self.line();
        let (head, number) = line.split_once(" F ").expect("it has a tag");
        let at = self.rng.usize(0..number.len());
        let next = self.rng.usize(at..number.len());
        self.write(&format!("{head} P {}\n", &number[..at]));
        let middle = if self.rng.bool() { format!("{head} P {}\n", &number[at..next]) } else { String::new() };
        let rest = if middle.is_empty() { at } else { next };
        self.copies.rest = format!("{middle}{head} F {}", &number[rest..]);
    }

    /// Whether a text has pieces of a line of which others were in a file that is gone.
    pub fn is_left_of(&self, line: u64, text: &str) -> bool {
        let whole = line.to_string();
        self.unreachable.contains(&line) && whole.contains(text)
    }
}
