//! The letters that are there, oldest first; those that were sent again are left out. Reads only.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::marks::Marks;
use crate::batch::Batch;
use crate::budget::Budget;
use crate::buffer::{Lsn, Peek};
use crate::codec::dead_letter;

/// One letter.
#[derive(Debug)]
pub struct Letter {
    /// Its number, by which it is known.
    pub number: Lsn,
    /// When it was refused, in milliseconds since 1970.
    pub time_ms: u64,
    /// The sink that refused it.
    pub sink: String,
    /// The input that it came from.
    pub input: String,
    /// The reason, as it is counted.
    pub reason: String,
    /// What the destination said.
    pub cause: String,
    /// Bytes on the disk.
    pub bytes: usize,
    /// The record.
    pub record: Batch,
}

/// All letters of a folder.
pub struct Letters {
    peek: Peek,
    marks: Marks,
    budget: Arc<Budget>,
    unreadable: u64,
    sent: u64,
}

impl Letters {
    pub(super) fn open(dir: &Path) -> io::Result<Option<Letters>> {
        let Some(peek) = Peek::open(dir)? else { return Ok(None) };
        let marks = Marks::load(dir, peek.id());
        // One letter at a time, each as large as a frame may be.
        Ok(Some(Letters { peek, marks, budget: Budget::new(1 << 20), unreadable: 0, sent: 0 }))
    }

    /// Which of them were sent again.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Letters that can not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable + self.peek.damaged()
    }

    /// Letters that were passed over because they were sent again.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

impl Iterator for Letters {
    type Item = Letter;

    fn next(&mut self) -> Option<Letter> {
        loop {
            let frame = self.peek.next_frame()?;
            match dead_letter::decode(&frame.bytes, self.budget.empty_permit(), 0) {
                Ok((head, _)) if self.marks.is_sent(head.sink, frame.lsn) => self.sent += 1,
                Ok((head, record)) => {
                    return Some(Letter {
                        number: frame.lsn,
                        time_ms: frame.time_ms,
                        sink: head.sink.to_owned(),
                        input: head.input.to_owned(),
                        reason: head.reason.to_owned(),
                        cause: head.cause.to_owned(),
                        bytes: frame.bytes.len(),
                        record,
                    });
                }
                Err(_) => self.unreadable += 1,
            }
        }
    }
}
