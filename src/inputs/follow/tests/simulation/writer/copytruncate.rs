//! logrotate's `copytruncate`: the file is copied block by block until a read finds nothing, and truncated by the next call,
//! while its program goes on writing, with `O_APPEND` or without: then the file begins with a hole where it had been before.
//!
//! A line that is written between the copy's last read and the truncation is in no file from then on. So is one whose first
//! part was copied, or written before the truncation: each part of it is a fragment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;

use super::logrotate::Step;
use super::{BASE, Generation, Rotation, Step as Own, Writer};

/// What the copies are, and what came of lines that were cut.
#[derive(Debug, Default)]
pub struct Copies {
    /// The copy that is being made.
    file: Option<File>,
    /// The rest of a line that is being written.
    pub(super) rest: String,
    /// Where a program without `O_APPEND` goes on in a file that was truncated.
    hole: usize,
    /// Truncations so far; which of them each copy was made for, by its generation.
    pub truncations: usize,
    made_for: BTreeMap<usize, usize>,
    /// Lines of copies that the rotation removed, and the truncations that those were made for.
    pub removed: Vec<(u64, usize)>,
    /// Parts of lines that are all there is of them in a file.
    pub fragments: BTreeSet<String>,
}

impl Copies {
    /// A copy lost its last name.
    pub(super) fn forget(&mut self, copy: usize, lines: &[u64]) {
        let truncation = self.made_for.get(&copy).copied();
        self.removed.extend(truncation.into_iter().flat_map(|number| lines.iter().map(move |line| (*line, number))));
    }

    pub(super) fn is_half(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl Rotation {
    pub fn appends(self) -> Option<bool> {
        match self {
            Rotation::Other(how) => how.copies,
            _ => None,
        }
    }
}

/// The lines that are whole in a file.
fn whole(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.map(|line| &line[line.iter().take_while(|byte| **byte == 0).count()..])
}

impl Writer {
    fn first(&self) -> String {
        format!("{BASE}.1")
    }

    pub(super) fn begin_copy(&mut self) {
        let name = self.first();
        self.copies.file = Some(self.make(&name));
        self.names.insert(name, self.generations.len());
        self.generations.push(Generation::default());
        self.steps.push_front(Own::Other(Step::Block));
    }

    pub(super) fn copy_block(&mut self) {
        let copy = self.names[&self.first()];
        let done = self.generations[copy].bytes.len();
        let block = self.rng.usize(64..2048);
        let block: Vec<u8> = self.generations[self.current].bytes[done..].iter().take(block).copied().collect();
        let Some(mut file) = self.copies.file.take().filter(|_| !block.is_empty()) else { return };
        file.write_all(&block).expect("written");
        self.date(&file);
        self.generations[copy].bytes.extend(block);
        self.copies.file = Some(file);
        self.steps.push_front(Own::Other(Step::Block));
    }

    pub(super) fn empty(&mut self) {
        let file = File::options().write(true).open(self.folder.join(BASE)).expect("there");
        file.set_len(0).expect("truncated");
        self.date(&file);
        let opened = self.generations[self.current].opened;
        let emptied =
            std::mem::replace(&mut self.generations[self.current], Generation { opened, ..Generation::default() });
        if self.rotation.appends() == Some(false) {
            self.copies.hole = self.copies.hole.max(emptied.bytes.len());
        }
        let copy = self.names[&self.first()];
        self.copies.made_for.insert(copy, self.copies.truncations);
        self.copies.truncations += 1;
        let copied = self.generations[copy].bytes.clone();
        let texts: BTreeSet<&[u8]> = whole(&copied).collect();
        let is_copied = |line: &u64| texts.contains(self.text_of(*line).as_bytes());
        let (kept, gone): (Vec<u64>, Vec<u64>) = emptied.lines.iter().partition(|line| is_copied(line));
        self.generations[copy].lines = kept;
        self.unreachable.extend(gone);
        let cut = copied.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let rest = self.copies.rest.trim_end().to_owned();
        self.copies.fragments.extend([String::from_utf8_lossy(cut).trim_start_matches('\0').to_owned(), rest]);
    }

    /// The rest of a line comes with the next call that writes.
    pub(super) fn write_half_aside(&mut self) {
        let line = self.line();
        let at = self.rng.usize(1..line.len());
        self.write(&line[..at]);
        line[at..].clone_into(&mut self.copies.rest);
    }

    /// Whether there was one. Of pieces the next one.
    pub(super) fn write_rest(&mut self) -> bool {
        let mut rest = std::mem::take(&mut self.copies.rest);
        self.copies.rest = rest.split_off(rest.find('\n').map_or(0, |end| end + 1));
        if !rest.is_empty() {
            self.write(&rest);
        }
        !rest.is_empty()
    }

    /// What is written to an emptied file begins where its program was.
    pub(super) fn dig(&mut self) {
        let bytes = &mut self.generations[self.current].bytes;
        if bytes.is_empty() {
            bytes.resize(self.copies.hole, 0);
        }
    }
}
