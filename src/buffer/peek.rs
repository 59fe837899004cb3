//! A look at a log that somebody else may have open: every frame that is there, oldest first. Takes no lock and writes
//! nothing, so it works beside a running node. A segment that goes while it looks is passed over.
//!
//! What is damaged is left out and counted; its readers count it too, when they get there.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Lsn;
use super::books::Segment;
use super::frame::{LogId, Seed};
use super::io::{Disk, Io};
use super::meta::Meta;
use super::recover::recover;
use super::segment::Scan;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Its number.
    pub lsn: Lsn,
    /// When it was appended, in milliseconds since 1970.
    pub time_ms: u64,
    /// Records in it.
    pub records: u32,
    /// The name of where they came from, if it is known.
    pub source: Option<String>,
    /// Its payload.
    pub bytes: Vec<u8>,
    readers: u64,
}

/// A walk over all frames.
pub struct Peek<I: Io = Disk> {
    io: I,
    meta: Meta,
    seed: Seed,
    segments: VecDeque<Segment>,
    /// The segment that is being read.
    scan: Option<(Segment, Scan<I::File>)>,
    next: Lsn,
    damaged: u64,
    /// By bit: how far that reader was.
    settled: BTreeMap<u8, Lsn>,
}

impl Peek {
    /// Looks into a log's folder; `None` where there is no log.
    ///
    /// # Errors
    /// The folder can not be listed, or the log is of a newer version.
    pub fn open(dir: &Path) -> io::Result<Option<Peek>> {
        match Disk::open(dir) {
            Ok(io) => Peek::on(io),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<I: Io> Peek<I> {
    fn on(io: I) -> io::Result<Option<Peek<I>>> {
        let found = recover(&io)?;
        let seed = Seed::new(&found.meta.id);
        let settled = found.cursors.iter().map(|(bit, cursor)| (*bit, cursor.settled)).collect();
        let peek =
            Peek { io, meta: found.meta, seed, segments: found.segments, scan: None, next: 1, damaged: 0, settled };
        Ok((!found.is_new).then_some(peek))
    }

    /// The random name of the log: another one means that numbers began anew.
    pub fn id(&self) -> LogId {
        self.meta.id
    }

    /// Frames that were passed over because their payload is damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Whether that reader was done with a frame, when its cursor was saved last.
    pub fn is_settled(&self, frame: &Peeked, reader: &str) -> bool {
        let of = self.meta.readers.iter().find(|(_, known)| known.name == reader);
        of.and_then(|(bit, _)| self.settled.get(bit)).is_some_and(|settled| frame.lsn <= *settled)
    }

    /// Whether a frame is for that reader.
    pub fn is_for(&self, frame: &Peeked, reader: &str) -> bool {
        let of = self.meta.readers.iter().find(|(_, known)| known.name == reader);
        of.is_some_and(|(bit, known)| frame.readers >> bit & 1 == 1 && frame.lsn >= known.since)
    }

    /// The next frame that can be read.
    pub fn next_frame(&mut self) -> Option<Peeked> {
        loop {
            let Some((segment, scan)) = &mut self.scan else {
                let segment = self.segments.pop_front()?;
                // It may have gone meanwhile.
                if let Ok(file) = self.io.open_read(&segment.name.text()) {
                    let scan = Scan::new(Arc::new(file), u64::from(segment.header_len));
                    self.scan = Some((segment, scan));
                }
                continue;
            };
            let below = self.segments.front().map_or(Lsn::MAX, |next| next.first);
            let from = self.next.max(segment.first);
            let Ok(Some((at, head))) = scan.next(&self.io, self.seed, from, below, segment.end) else {
                self.scan = None;
                continue;
            };
            self.next = head.lsn + 1;
            match scan.payload(&self.io, at, &head) {
                Ok(bytes) if head.is_intact(self.seed, &bytes) => {
                    return Some(Peeked {
                        lsn: head.lsn,
                        time_ms: head.time_ms,
                        records: head.records,
                        source: self.meta.sources.get(&head.source).cloned(),
                        bytes,
                        readers: head.readers,
                    });
                }
                _ => self.damaged += 1,
            }
        }
    }
}
