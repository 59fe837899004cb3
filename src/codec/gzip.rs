//! gzip and zstd, in and out, with limits.
//!
//! [`Inflater`] is fed pieces of any size and writes into the caller's buffer: many gzip members (with FEXTRA, FNAME,
//! FCOMMENT, FHCRC) or zstd frames (skippable ones too) one after another, as Fluentd's appended buffers are. Members
//! are found by decoding, never by searching for magic bytes, which a body may contain. What was decoded before damage
//! or a limit stays with the caller: the good prefix counts.
//!
//! A decoder holds memory that its data ask for: a zstd frame names its window in its first bytes. So an [`Inflater`]
//! makes no decoder before its caller has allowed what that one will hold ([`InflateError::NeedsMemory`]), for the
//! first frame and for each later one that needs more.
//!
//! Limits ([`Limits`]): decompressed bytes, the ratio beyond a free first part, and zstd's window
//! ([`ZSTD_WINDOW_LOG_MAX`]: 8 MiB, which is what levels up to 19 ask for). The ratio is that of all data, whose length the
//! caller knows, so that what is a bomb does not depend on how the data arrive. Until they are there, no more comes out than
//! the ratio allows for what is: who promises much and sends little floods nobody. Pure: no I/O.
//! Formats: RFC 1952, RFC 8878.

use std::fmt;

mod wide; // zstd decoders, of which one with a wide window is kept

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use wide::Zstd;

/// Largest zstd window that is decoded, as a power of two.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What a gzip decoder holds: a window of 32 KiB and its tables.
const GZIP_MEMORY: usize = 48 << 10;
/// What a zstd decoder holds beside its buffers: tables, and 64 KiB of literals.
const ZSTD_MEMORY: usize = 192 << 10;
/// The largest block of zstd.
const ZSTD_BLOCK_MAX: u64 = 128 << 10;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// The codec that data beginning with `first` are in, by magic number; four bytes decide. `None` for anything
    /// else. MessagePack arrays (0x9x, 0xdc, 0xdd) and JSON begin otherwise.
    pub fn sniff(first: &[u8]) -> Option<Codec> {
        match first {
            [0x1f, 0x8b, ..] => Some(Codec::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// Whether `first` may still turn out to be a codec when more bytes come.
    pub fn may_follow(first: &[u8]) -> bool {
        matches!(
            first,
            [] | [0x1f]
                | [0x28]
                | [0x28, 0xb5]
                | [0x28, 0xb5, 0x2f]
                | [0x50..=0x5f]
                | [0x50..=0x5f, 0x2a]
                | [0x50..=0x5f, 0x2a, 0x4d]
        )
    }
}

/// How much may come out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Decompressed bytes at most.
    pub output_max: u64,
    /// Bytes out for each byte of the data, at most, once `free` bytes are out.
    pub ratio_max: u64,
    /// Bytes to which the ratio does not apply.
    pub free: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { output_max: 256 << 20, ratio_max: 200, free: 1 << 20 }
    }
}

/// Why decoding ended early. What came out before is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// Not this codec, a wrong checksum, a window above the limit.
    Damaged,
    /// The input ended within a member or frame.
    Truncated,
    /// A limit was reached.
    Bomb,
    /// What follows needs a decoder of so many bytes: go on after [`Inflater::allow`]. No decoder exists meanwhile.
    NeedsMemory(usize),
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InflateError::Damaged => "damaged compression",
            InflateError::Truncated => "compression cut short",
            InflateError::Bomb => "more decompressed bytes than the limit allows",
            InflateError::NeedsMemory(_) => "no memory for the decoder",
        })
    }
}

impl std::error::Error for InflateError {}

enum Engine {
    Gzip(Decompress),
    Zstd(Zstd),
}

/// A streaming decoder of many members or frames.
pub struct Inflater {
    codec: Codec,
    engine: Option<Engine>,
    limits: Limits,
    /// Bytes that the engine may hold.
    allowed: usize,
    /// Bytes of all data.
    len: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Within a member or frame.
    inside: bool,
    /// Met after bytes that were still good.
    pending: Option<InflateError>,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inflater({} in, {} out)", self.bytes_in, self.bytes_out)
    }
}

impl Inflater {
    /// A decoder at the start of `len` bytes of data. It holds nothing yet, and may hold nothing until
    /// [`allow`](Self::allow).
    pub fn new(codec: Codec, limits: Limits, len: u64) -> Inflater {
        let (engine, pending) = (None, None);
        Inflater { codec, engine, limits, allowed: 0, len, bytes_in: 0, bytes_out: 0, inside: false, pending }
    }

    /// From now on it may hold so many bytes: what [`InflateError::NeedsMemory`] said.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// Bytes that it holds at most now.
    pub fn memory(&self) -> usize {
        if self.engine.is_some() { self.allowed } else { 0 }
    }

    /// Decodes some of `input` into `out`; says how many bytes of each were used. `(0, 0)` means that it needs more
    /// input (or, with an empty `out`, room), also where it has some that the ratio does not let it decode yet. Zero bytes between members are padding and skipped.
    pub fn run(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), InflateError> {
        if let Some(error) = self.pending {
            return Err(error);
        }
        if !self.inside {
            let padding = input.iter().take_while(|byte| **byte == 0).count();
            if padding > 0 && self.bytes_in > 0 {
                self.bytes_in += padding as u64;
                return Ok((padding, 0));
            }
            if input.is_empty() || !self.begin(input)? {
                return Ok((0, 0));
            }
        }
        let offered = self.bytes_in.saturating_add(input.len() as u64);
        let allowed = self.allowed_of(offered);
        if allowed == 0 && !out.is_empty() {
            if self.allowed_of(self.len) > 0 {
                return Ok((0, 0));
            }
            // The end of the data may still be due; a single byte more is too much.
            let mut one = [0u8];
            let (used, made) = self.step(input, &mut one)?;
            return if made > 0 { Err(InflateError::Bomb) } else { Ok((used, 0)) };
        }
        let room = allowed.min(out.len());
        self.step(input, &mut out[..room])
    }

    /// Bytes that may still come out of so many bytes of data.
    fn allowed_of(&self, bytes: u64) -> usize {
        let by_ratio = bytes.saturating_mul(self.limits.ratio_max).max(self.limits.free);
        let allowed = self.limits.output_max.min(by_ratio).saturating_sub(self.bytes_out);
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    /// Before a member or frame: sees to a decoder that holds no more than is allowed. `false` if `input` does not say
    /// yet what is needed.
    fn begin(&mut self, input: &[u8]) -> Result<bool, InflateError> {
        let needed = match self.codec {
            Codec::Gzip => GZIP_MEMORY,
            Codec::Zstd => match zstd_memory(input)? {
                Some(needed) => needed,
                None => return Ok(false),
            },
        };
        if needed > self.allowed {
            // Between frames a decoder remembers nothing.
            self.engine = None;
            return Err(InflateError::NeedsMemory(needed));
        }
        if self.engine.is_none() {
            self.engine = Some(match self.codec {
                Codec::Gzip => Engine::Gzip(Decompress::new_gzip(15)),
                Codec::Zstd => Engine::Zstd(Zstd::new(self.allowed).map_err(|_| InflateError::Damaged)?),
            });
        }
        Ok(true)
    }

    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), InflateError> {
        let (used, made, ended) = match &mut self.engine {
            None => return Ok((0, 0)),
            Some(Engine::Gzip(gzip)) => {
                let (before_in, before_out) = (gzip.total_in(), gzip.total_out());
                let status = gzip.decompress(input, out, FlushDecompress::None);
                let (used, made) = (gzip.total_in() - before_in, gzip.total_out() - before_out);
                let ended = matches!(status, Ok(Status::StreamEnd));
                if status.is_err() {
                    if made == 0 {
                        return Err(InflateError::Damaged);
                    }
                    self.pending = Some(InflateError::Damaged);
                }
                if ended {
                    gzip.reset(true);
                }
                // Both are at most the lengths of the slices.
                (used as usize, made as usize, ended)
            }
            Some(Engine::Zstd(zstd)) => {
                let status = zstd.run(input, out).map_err(|_| InflateError::Damaged)?;
                (status.bytes_read, status.bytes_written, status.remaining == 0)
            }
        };
        self.bytes_in += used as u64;
        self.bytes_out += made as u64;
        self.inside = !ended && (self.inside || used > 0 || made > 0);
        Ok((used, made))
    }

    /// The input is at its end: an error if that is within a member or frame.
    pub fn finish(&self) -> Result<(), InflateError> {
        if self.inside { Err(InflateError::Truncated) } else { Ok(()) }
    }

    /// Bytes decoded so far.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }
}

/// Bytes that zstd's decoder holds for the frame that `input` begins with (RFC 8878, 3.1.1.1 and 3.1.2). `None` while
/// the header is not whole.
fn zstd_memory(input: &[u8]) -> Result<Option<usize>, InflateError> {
    let magic = &input[..input.len().min(4)];
    if magic.len() < 4 {
        return if Codec::may_follow(magic) { Ok(None) } else { Err(InflateError::Damaged) };
    }
    match Codec::sniff(magic) {
        Some(Codec::Zstd) => (),
        _ => return Err(InflateError::Damaged),
    }
    if magic[0] != 0x28 {
        // A skippable frame.
        return Ok(Some(ZSTD_MEMORY));
    }
    let Some(&descriptor) = input.get(4) else { return Ok(None) };
    let single = descriptor & 0x20 != 0;
    let size_len = match descriptor >> 6 {
        0 => usize::from(single),
        log => 1 << log,
    };
    let dictionary_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_at = 5 + usize::from(!single) + dictionary_len;
    let Some(size) = input.get(size_at..size_at + size_len) else { return Ok(None) };
    let number = size.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    // Two bytes count from 256 on, since one byte says what is below.
    let content = if size_len == 0 { u64::MAX } else { number + if size_len == 2 { 256 } else { 0 } };
    let window = match single {
        true => content,
        false => {
            let base = 1u64 << (10 + (input[5] >> 3));
            base + base / 8 * u64::from(input[5] & 7)
        }
    };
    if window > 1 << ZSTD_WINDOW_LOG_MAX {
        return Err(InflateError::Damaged);
    }
    // One block of input, and of output the window with two blocks, unless the whole content is less.
    let block = window.min(ZSTD_BLOCK_MAX);
    let out = content.min(window + 2 * block + 64);
    // At most 9 MiB.
    Ok(Some(ZSTD_MEMORY + (block + out) as usize))
}

/// Appends everything that `input` decodes to; what is good stays in `out` on an error too.
pub fn decompress(codec: Codec, limits: Limits, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), InflateError> {
    let mut inflater = Inflater::new(codec, limits, input.len() as u64);
    loop {
        let from = out.len();
        out.resize(from + (64 << 10), 0);
        let step = inflater.run(input, &mut out[from..]);
        out.truncate(from + step.map_or(0, |(_, made)| made));
        if let Err(InflateError::NeedsMemory(bytes)) = step {
            inflater.allow(bytes);
            continue;
        }
        let (used, made) = step?;
        input = &input[used..];
        if used == 0 && made == 0 {
            return if input.is_empty() { inflater.finish() } else { Err(InflateError::Damaged) };
        }
    }
}

/// Appends `input` as one gzip member or zstd frame. Levels: gzip 0 to 9, zstd 1 to 22, others are brought within.
pub fn compress(codec: Codec, level: i32, input: &[u8], out: &mut Vec<u8>) {
    match codec {
        Codec::Gzip => {
            let level = Compression::new(level.clamp(0, 9).unsigned_abs());
            let mut gzip = Compress::new_gzip(level, 15);
            loop {
                let from = out.len();
                let left = input.len() - gzip.total_in() as usize;
                out.resize(from + left / 4 + (4 << 10), 0);
                let (at, before) = (gzip.total_in() as usize, gzip.total_out());
                let status = gzip
                    .compress(&input[at..], &mut out[from..], FlushCompress::Finish)
                    .expect("deflate fails on wrong use only");
                out.truncate(from + (gzip.total_out() - before) as usize);
                if status == Status::StreamEnd {
                    return;
                }
            }
        }
        Codec::Zstd => {
            let from = out.len();
            out.resize(from + zstd::zstd_safe::compress_bound(input.len()), 0);
            let mut compressor = zstd::bulk::Compressor::new(level.clamp(1, 22)).expect("the level is within range");
            let made =
                compressor.compress_to_buffer(input, &mut out[from..]).expect("the room is zstd's own upper bound");
            out.truncate(from + made);
        }
    }
}

/// One run of the fuzzer: any bytes, both codecs, small limits.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let limits = Limits { output_max: 1 << 20, ratio_max: 50, free: 64 << 10 };
    for codec in [Codec::Gzip, Codec::Zstd] {
        let mut out = Vec::new();
        let whole = decompress(codec, limits, data, &mut out);
        assert!(out.len() as u64 <= limits.output_max, "{} bytes came out", out.len());
        let mut packed = Vec::new();
        compress(codec, 1, data, &mut packed);
        let mut back = Vec::new();
        let roomy = Limits { output_max: u64::MAX, ratio_max: u64::MAX, free: 0 };
        assert_eq!(decompress(codec, roomy, &packed, &mut back), Ok(()));
        assert_eq!(back, data);
        let _ = whole;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unpack(codec: Codec, input: &[u8]) -> (Vec<u8>, Result<(), InflateError>) {
        let mut out = Vec::new();
        let result = decompress(codec, Limits::default(), input, &mut out);
        (out, result)
    }

    fn pack(codec: Codec, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(codec, 3, input, &mut out);
        out
    }

    #[test]
    fn many_members_and_skippable_frames_are_one_text() {
        let mut gz = pack(Codec::Gzip, b"one\x1f\x8b\x08 ");
        gz.extend(pack(Codec::Gzip, b""));
        gz.extend(pack(Codec::Gzip, b"two"));
        gz.extend([0; 100]);
        assert_eq!(unpack(Codec::Gzip, &gz), (b"one\x1f\x8b\x08 two".to_vec(), Ok(())));
        let mut zst = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        zst.extend(pack(Codec::Zstd, b"one "));
        zst.extend([0x5f, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
        zst.extend(pack(Codec::Zstd, b"two"));
        assert_eq!(unpack(Codec::Zstd, &zst), (b"one two".to_vec(), Ok(())));
        assert_eq!(Codec::sniff(&zst), Some(Codec::Zstd));
    }

    #[test]
    fn a_gzip_header_with_every_optional_field_is_read() {
        let plain = pack(Codec::Gzip, b"hello");
        let mut gz = vec![0x1f, 0x8b, 8, 0x04 | 0x08 | 0x10 | 0x02, 0, 0, 0, 0, 0, 3];
        gz.extend([2, 0, b'x', b'y']);
        gz.extend(b"name\0comment\0");
        let mut crc = flate2::Crc::new();
        crc.update(&gz);
        gz.extend((crc.sum() as u16).to_le_bytes());
        gz.extend(&plain[10..]);
        assert_eq!(unpack(Codec::Gzip, &gz), (b"hello".to_vec(), Ok(())));
    }

    #[test]
    fn the_good_prefix_stays_when_the_rest_is_damaged_or_missing() {
        for codec in [Codec::Gzip, Codec::Zstd] {
            let mut data = pack(codec, b"good ");
            data.extend(b"garbage");
            assert_eq!(unpack(codec, &data), (b"good ".to_vec(), Err(InflateError::Damaged)), "{codec:?}");
            let whole = pack(codec, b"good ");
            let cut = [&whole[..], &whole[..whole.len() - 3]].concat();
            let (out, result) = unpack(codec, &cut);
            assert!(out.starts_with(b"good "), "{codec:?}");
            assert_eq!(result, Err(InflateError::Truncated), "{codec:?}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        for codec in [Codec::Gzip, Codec::Zstd] {
            let bomb = pack(codec, &vec![0; 64 << 20]);
            let (out, result) = unpack(codec, &bomb);
            assert_eq!(result, Err(InflateError::Bomb), "{codec:?}");
            let most = (bomb.len() * 200).max(1 << 20);
            assert!(out.len() <= most, "{codec:?}: {} of {most}", out.len());
        }
    }

    #[test]
    fn a_decoder_is_made_only_when_its_memory_is_allowed() {
        let text: Vec<u8> = (0..40_000u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
        let windowed = |log: u32| {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("level 1");
            encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(log)).expect("within range");
            std::io::Write::write_all(&mut encoder, &text).expect("memory");
            encoder.finish().expect("memory")
        };
        let wide = [windowed(17), windowed(23), windowed(20)].concat();
        let cases = [
            (Codec::Gzip, pack(Codec::Gzip, &text), vec![GZIP_MEMORY]),
            // Its size is known, so it needs no window beside.
            (Codec::Zstd, pack(Codec::Zstd, b"few bytes"), vec![ZSTD_MEMORY + 2 * 9]),
            (
                Codec::Zstd,
                wide,
                vec![ZSTD_MEMORY + ((4 * 128) << 10) + 64, ZSTD_MEMORY + (8 << 20) + ((3 * 128) << 10) + 64],
            ),
        ];
        for (codec, packed, asked) in cases {
            for piece in [1, 1000, packed.len()] {
                let mut inflater = Inflater::new(codec, Limits::default(), packed.len() as u64);
                let (mut from, mut to, mut seen, mut out) = (0, 0, Vec::new(), vec![0; 1 << 20]);
                while from < packed.len() {
                    match inflater.run(&packed[from..to], &mut out) {
                        Ok((0, 0)) => to = (to + piece).min(packed.len()),
                        Ok((used, _)) => from += used,
                        Err(InflateError::NeedsMemory(bytes)) => {
                            assert_eq!(inflater.memory(), 0, "nothing is held while it asks");
                            seen.push(bytes);
                            inflater.allow(bytes);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(seen, asked, "{codec:?} in pieces of {piece}");
            }
        }
        let mut above = windowed(23);
        above[5] = (24 - 10) << 3;
        assert_eq!(unpack(Codec::Zstd, &above).1, Err(InflateError::Damaged), "a window of 16 MiB");
    }

    #[test]
    fn a_wide_decoder_that_stopped_within_a_frame_begins_the_next_one_well() {
        let text: Vec<u8> = (0..1_000_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("level 1");
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(23)).expect("within range");
        std::io::Write::write_all(&mut encoder, &text).expect("memory");
        let wide = encoder.finish().expect("memory");
        // Others may come in between to the one that is kept, but not each time.
        for _ in 0..5 {
            let (_, cut) = unpack(Codec::Zstd, &wide[..wide.len() / 2]);
            assert_eq!(cut, Err(InflateError::Truncated));
            assert!(unpack(Codec::Zstd, &wide) == (text.clone(), Ok(())));
        }
    }

    #[test]
    fn the_corpus_replays() {
        crate::codec::msgpack::replay("gzip", fuzz_one);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_text(text in proptest::collection::vec(any::<u8>(), 0..2000), cut in 1usize..50) {
            for codec in [Codec::Gzip, Codec::Zstd] {
                let packed = pack(codec, &text);
                let mut inflater = Inflater::new(codec, Limits::default(), packed.len() as u64);
                inflater.allow(16 << 20);
                let (mut out, mut from, mut to) = (Vec::<u8>::new(), 0, 0);
                while to < packed.len() {
                    to = (to + cut).min(packed.len());
                    loop {
                        let mut room = [0; 97];
                        let (used, made) = inflater.run(&packed[from..to], &mut room).expect("good data");
                        out.extend(&room[..made]);
                        from += used;
                        if used == 0 && made == 0 {
                            break;
                        }
                    }
                }
                prop_assert_eq!(from, packed.len());
                prop_assert_eq!(inflater.finish(), Ok(()));
                prop_assert_eq!(&out, &text);
            }
        }
    }
}
