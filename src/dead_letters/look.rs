//! The letters that are there, oldest first; those that were sent again are left out. Reads only.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::marks::Marks;
use crate::batch::Batch;
use crate::budget::Budget;
use crate::buffer::{Lsn, Peek};
use crate::codec::dead_letter::{self, ScrapLetter};

/// One letter.
#[derive(Debug)]
pub struct Letter {
    /// Its number, by which it is known.
    pub number: Lsn,
    /// When it was refused, in milliseconds since 1970.
    pub time_ms: u64,
    /// The input that it came from.
    pub input: String,
    /// The reason, as it is counted.
    pub reason: String,
    /// Bytes on the disk.
    pub bytes: usize,
    /// Who refused it, and what.
    pub of: Of,
}

/// See [`Letter::of`].
#[derive(Debug)]
pub enum Of {
    /// A sink, whose destination refused a record.
    Sink {
        /// Its name.
        sink: String,
        /// What the destination said.
        cause: String,
        /// The record.
        record: Box<Batch>,
    },
    /// The input itself.
    Input {
        /// Who sent it; empty where nobody is known.
        peer: String,
        /// What the bytes are: `frame` or `entry`.
        what: String,
        /// The tag, if it is known.
        tag: Option<String>,
        /// Bytes before `data` that are not kept.
        from: u64,
        /// How long it was in all.
        whole: u64,
        /// What is kept of it.
        data: Vec<u8>,
    },
}

impl Letter {
    /// The sink that refused it; `None` where that was the input.
    pub fn sink(&self) -> Option<&str> {
        match &self.of {
            Of::Sink { sink, .. } => Some(sink),
            Of::Input { .. } => None,
        }
    }

    /// The tag, if it is known.
    pub fn tag(&self) -> Option<&str> {
        match &self.of {
            Of::Sink { record, .. } => Some(record.tag_of(0).as_str()),
            Of::Input { tag, .. } => tag.as_deref(),
        }
    }
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
            let (number, time_ms, bytes) = (frame.lsn, frame.time_ms, frame.bytes.len());
            if ScrapLetter::is(&frame.bytes) {
                match ScrapLetter::decode(&frame.bytes) {
                    Ok(letter) => {
                        let of = Of::Input {
                            peer: letter.peer.to_owned(),
                            what: letter.what.to_owned(),
                            tag: letter.tag.map(str::to_owned),
                            from: letter.from,
                            whole: letter.whole,
                            data: letter.bytes.to_vec(),
                        };
                        let (input, reason) = (letter.input.to_owned(), letter.reason.to_owned());
                        return Some(Letter { number, time_ms, input, reason, bytes, of });
                    }
                    Err(_) => self.unreadable += 1,
                }
                continue;
            }
            match dead_letter::decode(&frame.bytes, self.budget.empty_permit(), 0) {
                Ok((head, _)) if self.marks.is_sent(head.sink, frame.lsn) => self.sent += 1,
                Ok((head, record)) => {
                    let (sink, cause) = (head.sink.to_owned(), head.cause.to_owned());
                    let of = Of::Sink { sink, cause, record: Box::new(record) };
                    let (input, reason) = (head.input.to_owned(), head.reason.to_owned());
                    return Some(Letter { number, time_ms, input, reason, bytes, of });
                }
                Err(_) => self.unreadable += 1,
            }
        }
    }
}
