//! One frame: a header of 56 bytes and a payload. Pure: bytes in, bytes out.
//!
//! ```text
//! 0  magic F5 6C 73 46 | 4 payload length u32 | 8 lsn u64 | 16 committed u64 | 24 readers u64 | 32 records u32
//! 36 source u16 | 38 zero u16 | 40 time u64, ms | 48 CRC of the payload u32 | 52 CRC of the 52 bytes before u32
//! 56 payload, then zeros to the next multiple of 8
//! ```
//!
//! Little endian. Both CRCs are CRC32C, seeded with the log's id and the frame's lsn, so a frame of another log, or an
//! old one in reused blocks, never passes. `committed` is the last frame that was on stable storage when this one was
//! encoded: what is missing up to there was acked (damage), what is missing after it never was (a torn end).
//!
//! A good header with a bad payload costs that frame, and says how many records. A bad header costs what lies before
//! the next good one, which [`find`] looks for.
//!
//! Limit: [`PAYLOAD_MAX`].

use super::Lsn;

/// Bytes of a header.
pub const HEADER: usize = 56;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;
/// Commits begin at multiples of this, so that nothing committed shares a block with what is written later.
pub const BLOCK: usize = 4096;
/// Bytes of a payload, at most.
pub const PAYLOAD_MAX: usize = 16 << 20;

/// 0xF5 is in no UTF-8 text.
const MAGIC: [u8; 4] = *b"\xF5lsF";

/// The random name of a log, in everything that belongs to it.
pub type LogId = [u8; 16];

/// Where the CRCs of one log start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// The seed of a log.
    pub fn new(id: &LogId) -> Seed {
        Seed(crc32c::crc32c(id))
    }

    fn of(self, lsn: Lsn) -> u32 {
        crc32c::crc32c_append(self.0, &lsn.to_le_bytes())
    }

    /// The CRC of a frame's payload.
    pub fn payload_crc(self, lsn: Lsn, payload: &[u8]) -> u32 {
        crc32c::crc32c_append(self.of(lsn), payload)
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Its number.
    pub lsn: Lsn,
    /// The last frame on stable storage when this one was encoded.
    pub committed: Lsn,
    /// One bit a reader, by the numbers of `META`; 0 for a frame that nobody gets.
    pub readers: u64,
    /// Records in it.
    pub records: u32,
    /// Where they came from, by the numbers of `META`.
    pub source: u16,
    /// When it was appended, in milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes of payload.
    pub len: u32,
    /// CRC of the payload.
    pub payload_crc: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Header {
    /// The bytes.
    pub fn encode(&self, seed: Seed) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.lsn.to_le_bytes());
        out[16..24].copy_from_slice(&self.committed.to_le_bytes());
        out[24..32].copy_from_slice(&self.readers.to_le_bytes());
        out[32..36].copy_from_slice(&self.records.to_le_bytes());
        out[36..38].copy_from_slice(&self.source.to_le_bytes());
        out[40..48].copy_from_slice(&self.time_ms.to_le_bytes());
        out[48..52].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(seed.of(self.lsn), &out[..52]);
        out[52..56].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the start of `bytes`; `None` if there is none of this log.
    pub fn decode(seed: Seed, bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER)?;
        if bytes[..4] != MAGIC {
            return None;
        }
        let lsn = u64_at(bytes, 8)?;
        if crc32c::crc32c_append(seed.of(lsn), &bytes[..52]) != u32_at(bytes, 52)? {
            return None;
        }
        let len = u32_at(bytes, 4)?;
        (len as usize <= PAYLOAD_MAX).then_some(Header {
            lsn,
            committed: u64_at(bytes, 16)?,
            readers: u64_at(bytes, 24)?,
            records: u32_at(bytes, 32)?,
            source: u16::from_le_bytes([bytes[36], bytes[37]]),
            time_ms: u64_at(bytes, 40)?,
            len,
            payload_crc: u32_at(bytes, 48)?,
        })
    }

    /// Bytes of the whole frame, to where the next one begins.
    pub fn frame_len(&self) -> u64 {
        (HEADER + self.len as usize).next_multiple_of(ALIGN) as u64
    }

    /// Whether these are the bytes that were stored.
    pub fn is_intact(&self, seed: Seed, payload: &[u8]) -> bool {
        payload.len() == self.len as usize && seed.payload_crc(self.lsn, payload) == self.payload_crc
    }
}

/// Appends a frame to a commit: header, what `encode` writes, zeros to the next multiple of 8. `head` needs no length
/// and no CRC yet. Gives the bytes of the payload; with more than `max`, nothing of it is kept: the frame is empty
/// and for nobody, so that the numbers have no hole.
pub fn append(
    seed: Seed,
    mut head: Header,
    max: usize,
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Option<u32> {
    let at = out.len();
    out.resize(at + HEADER, 0);
    encode(out);
    let len = u32::try_from(out.len() - at - HEADER).ok().filter(|len| *len as usize <= max.min(PAYLOAD_MAX));
    if len.is_none() {
        out.truncate(at + HEADER);
        head = Header { readers: 0, records: 0, ..head };
    }
    head.len = len.unwrap_or(0);
    head.payload_crc = seed.payload_crc(head.lsn, &out[at + HEADER..]);
    out[at..at + HEADER].copy_from_slice(&head.encode(seed));
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    len
}

/// The next place at or after `from` (a multiple of 8) where a header may begin, or where to look on when more bytes
/// are there: the number of bytes rounded down to a multiple of 8.
pub fn find(bytes: &[u8], from: usize) -> (usize, bool) {
    let mut from = from;
    while let Some(hit) = bytes.get(from..).and_then(|rest| memchr::memmem::find(rest, &MAGIC)) {
        let at = from + hit;
        if at.is_multiple_of(ALIGN) {
            return (at, true);
        }
        from = at + 1;
    }
    (bytes.len() / ALIGN * ALIGN, false)
}

/// Any bytes as a segment's content: every frame that is found lies within them and reads the same when encoded again.
pub fn fuzz_one(bytes: &[u8]) {
    let seed = Seed::new(&[7; 16]);
    let mut at = 0;
    while at < bytes.len() {
        match Header::decode(seed, &bytes[at..]) {
            Some(head) => {
                assert_eq!(head.encode(seed)[..36], bytes[at..at + 36]);
                let payload = bytes.get(at + HEADER..at + HEADER + head.len as usize);
                if let Some(payload) = payload.filter(|payload| head.is_intact(seed, payload)) {
                    let mut again = Vec::new();
                    append(seed, head, PAYLOAD_MAX, &mut again, |out| out.extend_from_slice(payload));
                    assert_eq!(again.len() as u64, head.frame_len());
                    assert_eq!(Header::decode(seed, &again), Some(head));
                }
                at += HEADER;
            }
            None => {
                let (next, _) = find(bytes, at + ALIGN);
                assert!(next > at || next >= bytes.len() / ALIGN * ALIGN);
                at = next.max(at + ALIGN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seed: Seed, lsn: Lsn, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let head =
            Header { lsn, committed: lsn - 1, readers: 5, records: 3, source: 2, time_ms: 9, ..Header::default() };
        append(seed, head, PAYLOAD_MAX, &mut out, |out| out.extend_from_slice(payload));
        out
    }

    #[test]
    fn a_frame_reads_as_it_was_written_and_no_other_log_or_number_takes_it() {
        let seed = Seed::new(&[1; 16]);
        let bytes = frame(seed, 1 << 41, b"hello");
        let head = Header::decode(seed, &bytes).expect("it is whole");
        assert_eq!((head.lsn, head.readers, head.records, head.source, head.len), (1 << 41, 5, 3, 2, 5));
        assert!(head.is_intact(seed, &bytes[HEADER..HEADER + 5]));
        assert!(Header::decode(Seed::new(&[2; 16]), &bytes).is_none());
        assert_eq!(bytes.len() as u64, head.frame_len());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let seed = Seed::new(&[1; 16]);
        let whole = frame(seed, 7, b"payload bytes");
        for bit in 0..(HEADER + 13) * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let good =
                Header::decode(seed, &bytes).is_some_and(|head| head.is_intact(seed, &bytes[HEADER..HEADER + 13]));
            assert!(!good, "bit {bit}");
        }
    }

    #[test]
    fn a_payload_above_the_limit_leaves_a_frame_for_nobody() {
        let seed = Seed::new(&[1; 16]);
        let mut out = Vec::new();
        let head = Header { lsn: 4, readers: 1, records: 9, ..Header::default() };
        assert_eq!(append(seed, head, 10, &mut out, |out| out.extend_from_slice(&[1; 11])), None);
        let head = Header::decode(seed, &out).expect("whole");
        assert_eq!((out.len(), head.readers, head.records, head.len), (HEADER, 0, 0, 0));
    }

    #[test]
    fn a_magic_is_found_at_multiples_of_eight_only() {
        let mut bytes = vec![0; 64];
        bytes[12..16].copy_from_slice(&MAGIC);
        assert_eq!(find(&bytes, 0), (64, false));
        bytes[32..36].copy_from_slice(&MAGIC);
        assert_eq!(find(&bytes, 8), (32, true));
        assert_eq!(find(&bytes[..61], 40), (56, false));
    }
}
