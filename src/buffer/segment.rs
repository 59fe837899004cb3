//! One segment file: its name, its header block, and a scan over its frames.
//!
//! ```text
//! header  0 "lngshseg" | 8 version u32 | 12 header length u32 | 16 log id | 32 first lsn u64 | 40 created u64, ms
//!         48 take u32 | 52 entries u32 | 56 CRC u32 (of the whole header, with 0 here) | 60 zero u32 | 64 entries
//! then    commits, each from a multiple of 4096: frames, zeros
//! ```
//!
//! The entries are the [`Totals`] before the first frame. A segment holds the frames from its first lsn up to the next
//! segment's: what it has beyond (a commit that failed and was written again elsewhere) does not count. `take` tells
//! two segments of one first lsn apart; the later one counts.

use std::io;
use std::sync::Arc;

use super::frame::{self, ALIGN, BLOCK, Header, LogId, PAYLOAD_MAX, Seed};
use super::io::Io;
use super::totals::{ENTRY, Totals};
use super::{Lsn, VERSION};

const MAGIC: &[u8; 8] = b"lngshseg";
const FIXED: usize = 64;
/// Bytes of a header, at most: entries of 64 readers with 300 sources each.
pub const HEADER_MAX: usize = 512 << 10;
/// Bytes that a scan reads at once.
const WINDOW: usize = 256 << 10;

/// The name of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its first lsn.
    pub first: Lsn,
    /// Which try this is of making a segment with that first lsn.
    pub take: u32,
}

impl Name {
    /// The text, which sorts as the numbers do.
    pub fn text(self) -> String {
        match self.take {
            0 => format!("{:020}.seg", self.first),
            take => format!("{:020}.{take}.seg", self.first),
        }
    }

    /// Reads a name; `None` for other files.
    pub fn parse(text: &str) -> Option<Name> {
        let mut parts = text.strip_suffix(".seg")?.split('.');
        let first = parts.next()?.parse().ok()?;
        let take = parts.next().map_or(Some(0), |take| take.parse().ok())?;
        let name = Name { first, take };
        (name.text() == text).then_some(name)
    }
}

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log that it belongs to.
    pub id: LogId,
    /// Its name, if nobody renamed the file.
    pub first: Lsn,
    /// See [`Name::take`].
    pub take: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Sums before its first frame.
    pub totals: Totals,
}

/// What the start of a file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// A header, and its length in bytes.
    Header(SegmentHeader, u64),
    /// A header of a newer version, of the log with that id.
    Newer(u32, LogId),
    /// The header is longer than the bytes given: that many are needed.
    More(usize),
    /// No header, or a damaged one.
    Damaged,
}

impl SegmentHeader {
    /// The bytes: a multiple of [`BLOCK`].
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.totals.entries();
        let len = (FIXED + entries * ENTRY).next_multiple_of(BLOCK);
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        // Bounded by readers and sources, see HEADER_MAX.
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.take.to_le_bytes());
        out.extend_from_slice(&(entries as u32).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        self.totals.encode(&mut out);
        out.resize(len, 0);
        let crc = crc32c::crc32c(&out);
        out[56..60].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the start of a file.
    pub fn decode(bytes: &[u8]) -> Start {
        let word = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (len, entries) = (word(12) as usize, word(52) as usize);
        let sane = bytes.len() >= FIXED && bytes.starts_with(MAGIC);
        if !sane || len > HEADER_MAX || !len.is_multiple_of(BLOCK) || len < FIXED {
            return Start::Damaged;
        }
        let Some(header) = bytes.get(..len) else { return Start::More(len) };
        let crc = crc32c::crc32c(&header[..56]);
        let crc = crc32c::crc32c_append(crc, &[0; 4]);
        if crc32c::crc32c_append(crc, &header[60..]) != word(56) {
            return Start::Damaged;
        }
        let id: LogId = std::array::from_fn(|i| header[16 + i]);
        let Some(table) = header.get(FIXED..FIXED.saturating_add(entries.saturating_mul(ENTRY))) else {
            return Start::Damaged;
        };
        match word(8) {
            VERSION => Start::Header(
                SegmentHeader {
                    id,
                    first: long(32),
                    created_ms: long(40),
                    take: word(48),
                    totals: Totals::decode(table),
                },
                len as u64,
            ),
            0 => Start::Damaged,
            newer => Start::Newer(newer, id),
        }
    }
}

/// Reads the header of an open file.
pub fn read_header<I: Io>(io: &I, file: &I::File) -> io::Result<Start> {
    let mut bytes = vec![0; BLOCK];
    let got = io.read_at(file, &mut bytes, 0)?;
    bytes.truncate(got);
    match SegmentHeader::decode(&bytes) {
        Start::More(len) => {
            bytes.resize(len, 0);
            let got = io.read_at(file, &mut bytes, 0)?;
            bytes.truncate(got);
            Ok(match SegmentHeader::decode(&bytes) {
                Start::More(_) => Start::Damaged,
                other => other,
            })
        }
        other => Ok(other),
    }
}

/// A walk over the frames of one file. Payloads are only read when asked for.
pub struct Scan<F> {
    file: Arc<F>,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<F> Scan<F> {
    /// A walk from byte `at`, a multiple of 8.
    pub fn new(file: Arc<F>, at: u64) -> Scan<F> {
        Scan { file, at, window: Vec::new(), window_at: 0 }
    }

    /// Where the next look is.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The file.
    pub fn file(&self) -> &Arc<F> {
        &self.file
    }

    /// Gives the memory of the window back.
    pub fn shrink(&mut self) {
        self.window = Vec::new();
    }

    /// Fills the window from `at`, as far as `end`.
    fn fill<I: Io<File = F>>(&mut self, io: &I, at: u64, end: u64) -> io::Result<()> {
        let len = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(WINDOW);
        self.window.resize(len, 0);
        self.window_at = at;
        match io.read_at(&self.file, &mut self.window, at) {
            Ok(got) => {
                self.window.truncate(got);
                Ok(())
            }
            Err(error) => {
                self.window.clear();
                Err(error)
            }
        }
    }

    /// The next frame whose number lies in `from..below`, and where it is; `None` when there is none before byte `end`.
    pub fn next<I: Io<File = F>>(
        &mut self,
        io: &I,
        seed: Seed,
        from: Lsn,
        below: Lsn,
        end: u64,
    ) -> io::Result<Option<(u64, Header)>> {
        while self.at + frame::HEADER as u64 <= end {
            let skip = self.at.wrapping_sub(self.window_at);
            if self.at < self.window_at || skip + frame::HEADER as u64 > self.window.len() as u64 {
                self.fill(io, self.at, end)?;
                if self.window.len() < frame::HEADER {
                    // The file is shorter than it should be.
                    self.at = end;
                    return Ok(None);
                }
                continue;
            }
            // Within the window.
            let skip = skip as usize;
            if let Some(head) = Header::decode(seed, &self.window[skip..]) {
                let at = self.at;
                self.at += head.frame_len();
                if (from..below).contains(&head.lsn) {
                    return Ok(Some((at, head)));
                }
            } else {
                let (next, _) = frame::find(&self.window, skip + ALIGN);
                self.at = self.window_at + (next.max(skip + ALIGN)) as u64;
            }
        }
        Ok(None)
    }

    /// The payload of a frame that [`next`](Self::next) gave; shorter than it should be where the file ends.
    pub fn payload<I: Io<File = F>>(&mut self, io: &I, at: u64, head: &Header) -> io::Result<Vec<u8>> {
        let len = (head.len as usize).min(PAYLOAD_MAX);
        let from = at + frame::HEADER as u64;
        let skip = usize::try_from(from.saturating_sub(self.window_at)).unwrap_or(usize::MAX);
        if let Some(bytes) = self.window.get(skip..skip.saturating_add(len)).filter(|_| from >= self.window_at) {
            return Ok(bytes.to_vec());
        }
        let mut bytes = vec![0; len];
        let got = io.read_at(&self.file, &mut bytes, from)?;
        bytes.truncate(got);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Count;
    use super::*;

    #[test]
    fn names_sort_as_their_numbers_and_only_whole_ones_count() {
        let names = [(1, 0), (1, 1), (2, 0), (1 << 41, 0)].map(|(first, take)| Name { first, take });
        assert!(names.is_sorted());
        for name in names {
            assert_eq!(Name::parse(&name.text()), Some(name));
        }
        assert_eq!(names[0].text(), "00000000000000000001.seg");
        for other in ["1.seg", "00000000000000000001.0.seg", "x.seg", "00000000000000000001.seg.new", ".seg"] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_header_reads_as_it_was_written_and_every_flipped_bit_is_noticed() {
        let mut totals = Totals::default();
        totals.add(3, 1, Count { records: 5, bytes: 50 });
        let header = SegmentHeader { id: [3; 16], first: 9, take: 2, created_ms: 77, totals };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Start::Header(header, BLOCK as u64));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(SegmentHeader::decode(&bytes), Start::Header(..) | Start::Newer(..)), "bit {bit}");
        }
    }

    #[test]
    fn a_header_of_many_readers_and_sources_takes_more_blocks() {
        let mut totals = Totals::default();
        for source in 0..300 {
            totals.add(u64::MAX, source, Count { records: 1, bytes: 1 });
        }
        let header = SegmentHeader { totals, ..SegmentHeader::default() };
        let bytes = header.encode();
        assert!(bytes.len() <= HEADER_MAX);
        assert_eq!(SegmentHeader::decode(&bytes[..BLOCK]), Start::More(bytes.len()));
        assert_eq!(SegmentHeader::decode(&bytes), Start::Header(header, bytes.len() as u64));
    }
}
