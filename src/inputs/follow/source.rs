//! Bytes of one held generation, from an offset on: plain files by `pread` into the reader's buffer, compressed ones
//! through a decoder.
//!
//! A plain read starts [`TAIL_BYTES`] before the offset and compares what it finds there with what was read there
//! before. A file that is shorter, or has other bytes there, was rewritten in place. No unfinished line is kept in
//! memory: it is read again when there is more of it.
//!
//! Limits: the buffer grows up to one line of the largest allowed length, and shrinks again. A compressed file is
//! decoded as a stream, so a decompression bomb costs time but no memory. A decoder takes some 80 KiB, which no permit pays
//! for, and the unfinished line; a reader has [`DECODERS_MAX`] of them.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::disk;
use super::generations::Held;
use super::identity::{self, HEAD_BYTES, Mark, TAIL_BYTES};

/// Bytes of one read. More gains nothing (measured: no faster past 64 KiB), less costs calls.
pub const BLOCK: usize = 256 << 10;

/// Bytes that are decoded at a time, unless a line is longer.
const DECODED: usize = 64 << 10;
/// Decoders of a reader at a time.
pub const DECODERS_MAX: usize = 16;

/// The decoders of one reader. (Not those of several: a reader whose sink is dead would keep all of them.)
#[derive(Debug, Default)]
pub struct Decoders(Arc<()>);

/// The right to one decoder.
pub struct Seat {
    _counts: Arc<()>,
}

impl Decoders {
    /// One more, if there may be one.
    pub fn take(&self) -> Option<Seat> {
        (self.open() < DECODERS_MAX).then(|| Seat { _counts: Arc::clone(&self.0) })
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// One generation being read.
pub struct Source {
    /// The file.
    pub held: Arc<Held>,
    /// Content offset of the next byte that was not consumed.
    pub offset: u64,
    /// Content bytes seen so far, consumed or not.
    pub seen: u64,
    tail: [u8; TAIL_BYTES],
    tail_len: usize,
    gz: Option<Gz>,
    /// Of a compressed file.
    _seat: Option<Seat>,
    /// Bytes were left on purpose: the next read finds them even if there are no more.
    left: bool,
}

struct Gz {
    decoder: MultiGzDecoder<BufReader<Pread>>,
    /// Decoded but not consumed: less than a block and one line.
    pending: Vec<u8>,
    ended: bool,
    /// Why it ended early.
    damage: Option<io::Error>,
    /// The disk did not give the next bytes: the decoder is to be made anew.
    broken: bool,
}

struct Pread {
    held: Arc<Held>,
    at: u64,
}

impl Read for Pread {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = disk::read_at(&*self.held.file()?, buf, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

/// What a read found. The new bytes are those of [`Source::data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This many bytes lie after the offset, more of them than at the last read, or the buffer is full.
    Bytes(usize),
    /// Nothing new; this many bytes of an unfinished line lie after the offset.
    End(usize),
    /// The file was truncated or rewritten in place.
    Rewritten,
}

impl Source {
    /// Reads `held` from `offset` on. For a compressed file everything before it is decoded and skipped.
    ///
    /// # Errors
    /// What lies before the offset can not be read. (What is damaged is no error.)
    pub fn open(held: Arc<Held>, offset: u64) -> io::Result<Source> {
        let (tail, tail_len) = ([0; TAIL_BYTES], 0);
        let mut source = Source { held, offset, seen: offset, tail, tail_len, gz: None, _seat: None, left: false };
        if source.held.gz {
            let (gz, tail) = Gz::open(&source.held, offset)?;
            source.tail[..tail.len()].copy_from_slice(&tail);
            (source.gz, source.tail_len) = (Some(gz), tail.len());
        } else {
            let len = offset.min(TAIL_BYTES as u64) as usize;
            let got = identity::read_at(&*source.held.file()?, &mut source.tail[..len], offset - len as u64)?;
            // A file shorter than the offset is met by the first read.
            source.tail_len = if got == len { len } else { TAIL_BYTES.min(len) };
        }
        Ok(source)
    }

    /// The same with the seat of a decoder, which goes back with it.
    ///
    /// # Errors
    /// The same.
    pub fn open_with(held: Arc<Held>, offset: u64, seat: Option<Seat>) -> io::Result<Source> {
        Ok(Source { _seat: seat, ..Source::open(held, offset)? })
    }

    /// Nothing is read for a while: keeps no more memory than it needs for what it has.
    pub fn rest(&mut self) {
        if let Some(gz) = &mut self.gz {
            gz.pending.shrink_to_fit();
        }
    }

    /// Whether the offset is the file's head, or nothing but NULs stands right before it: what is truncated under its writer begins
    /// with as many of them as it had bytes.
    pub fn is_in_hole(&self) -> bool {
        self.offset == 0 || self.tail_len > 0 && self.tail[..self.tail_len].iter().all(|byte| *byte == 0)
    }

    /// The mark of the content before the offset, as far as it was read here.
    pub fn tail(&self) -> Mark {
        Mark::of(&self.tail[..self.tail_len])
    }

    /// Bytes of the last read were not looked at: the next one is to find them again.
    pub fn leave(&mut self) {
        self.left = true;
    }

    /// What lies before the offset is not what was read there.
    pub fn forget(&mut self) {
        self.tail_len = 0;
    }

    /// Whether the content ended early because the compressed file is damaged. Said once.
    pub fn take_damage(&mut self) -> Option<io::Error> {
        self.gz.as_mut().and_then(|gz| gz.damage.take())
    }

    /// Reads more. The bytes after the offset are then `data(buf, n)`. `line_max` bounds how far an unfinished line
    /// makes the buffer grow.
    pub fn read(&mut self, buf: &mut Vec<u8>, line_max: usize) -> io::Result<Found> {
        let pending = (self.seen - self.offset) as usize;
        let left = std::mem::take(&mut self.left) && pending > 0;
        // Room for what is known to be there, a block more, and never more than one line needs.
        let room = (pending + BLOCK).min(line_max + BLOCK);
        if let Some(gz) = &mut self.gz {
            // A long line is looked at each time: twice as much of it.
            let room = (pending + DECODED.max(pending)).min(line_max + BLOCK);
            return Ok(match gz.read(&self.held, room, &mut self.seen)? {
                Found::End(n) if left => Found::Bytes(n),
                found => found,
            });
        }
        let wanted = self.tail_len + room;
        if buf.len() < wanted || buf.len() > 2 * wanted.max(BLOCK + TAIL_BYTES) {
            buf.resize(wanted, 0);
            buf.shrink_to_fit();
        }
        let file = self.held.file()?;
        // One call: what a second one finds at the end of the first may be of other content, if the file was truncated
        // and has grown beyond that in between.
        let got = identity::read_once(&file, &mut buf[..wanted], self.offset - self.tail_len as u64)?;
        if got < self.tail_len || buf[..self.tail_len] != self.tail[..self.tail_len] {
            return Ok(Found::Rewritten);
        }
        let new = got - self.tail_len;
        if new < pending {
            // Cut behind the offset: what remains is the same file, so far.
            self.seen = self.offset + new as u64;
            return Ok(Found::Rewritten);
        }
        let grown = new > pending || left;
        self.seen = self.offset + new as u64;
        Ok(if grown { Found::Bytes(new) } else { Found::End(new) })
    }

    /// The `n` bytes after the offset that the last read found.
    pub fn data<'b>(&'b self, buf: &'b [u8], n: usize) -> &'b [u8] {
        match &self.gz {
            Some(gz) => &gz.pending[..n],
            None => &buf[self.tail_len..self.tail_len + n],
        }
    }

    /// Moves the offset over the first `n` of `data`, which are in `buf` as the last read left it.
    pub fn consume(&mut self, buf: &[u8], n: usize) {
        let kept = self.tail_len;
        let data = match &self.gz {
            Some(gz) => &gz.pending[..n],
            None => &buf[kept..kept + n],
        };
        if n >= TAIL_BYTES {
            self.tail.copy_from_slice(&data[n - TAIL_BYTES..]);
            self.tail_len = TAIL_BYTES;
        } else {
            let keep = kept.min(TAIL_BYTES - n);
            self.tail.copy_within(kept - keep..kept, 0);
            self.tail[keep..keep + n].copy_from_slice(data);
            self.tail_len = keep + n;
        }
        self.offset += n as u64;
        if let Some(gz) = &mut self.gz {
            gz.pending.drain(..n);
        }
    }
}

impl Gz {
    /// Decodes up to `offset`. Gives the last of what it skipped, too.
    fn open(held: &Arc<Held>, offset: u64) -> io::Result<(Gz, Vec<u8>)> {
        let mut decoder = decoder(held);
        let (len, mut tail) = (offset.min(TAIL_BYTES as u64), Vec::with_capacity(TAIL_BYTES));
        let skipped = io::copy(&mut decoder.by_ref().take(offset - len), &mut io::sink())
            .and_then(|n| Ok(n + decoder.by_ref().take(len).read_to_end(&mut tail)? as u64));
        let damage = match skipped {
            Ok(n) if n == offset => None,
            Ok(_) => Some(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if disk::is_of_kernel(&error) => return Err(error),
            Err(error) => Some(error),
        };
        if damage.is_some() {
            tail.clear();
        }
        Ok((Gz { decoder, pending: Vec::new(), ended: damage.is_some(), damage, broken: false }, tail))
    }

    fn read(&mut self, held: &Arc<Held>, room: usize, seen: &mut u64) -> io::Result<Found> {
        if self.broken {
            let (Gz { decoder, ended, damage, .. }, _) = Gz::open(held, *seen)?;
            (self.decoder, self.ended, self.damage, self.broken) = (decoder, ended, damage, false);
        }
        let before = self.pending.len();
        if !self.ended && before < room {
            let mut limited = (&mut self.decoder).take((room - before) as u64);
            match limited.read_to_end(&mut self.pending) {
                Ok(got) => self.ended = got < room - before,
                Err(error) if disk::is_of_kernel(&error) => {
                    self.broken = true;
                    // What was decoded by then comes first.
                    if self.pending.len() == before {
                        return Err(error);
                    }
                }
                // What was decoded before the damage stays.
                Err(error) => {
                    self.ended = true;
                    self.damage = Some(error);
                }
            }
        }
        *seen += (self.pending.len() - before) as u64;
        Ok(if self.pending.len() > before { Found::Bytes(self.pending.len()) } else { Found::End(before) })
    }
}

fn decoder(held: &Arc<Held>) -> MultiGzDecoder<BufReader<Pread>> {
    MultiGzDecoder::new(BufReader::with_capacity(32 << 10, Pread { held: Arc::clone(held), at: 0 }))
}

/// The head mark of a generation's content. Of a damaged compressed file: of what can be decoded.
pub fn head_of(held: &Arc<Held>) -> io::Result<Mark> {
    if !held.gz {
        return identity::head_of(&*held.file()?);
    }
    Ok(Mark::of(&start_of(held, HEAD_BYTES)?))
}

/// The first `max` bytes of a generation's content, or all of it. Of a damaged compressed file: what can be decoded.
pub fn start_of(held: &Arc<Held>, max: usize) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    if held.gz {
        let _ = decoder(held).take(max as u64).read_to_end(&mut start);
    } else {
        Pread { held: Arc::clone(held), at: 0 }.take(max as u64).read_to_end(&mut start)?;
    }
    Ok(start)
}

/// The last `max` bytes of a generation's content, or all of it. Of a damaged compressed file: of what can be decoded.
pub fn end_of(held: &Arc<Held>, max: usize) -> io::Result<Vec<u8>> {
    if !held.gz {
        let size = held.look()?.size;
        let len = usize::try_from(size).unwrap_or(usize::MAX).min(max);
        let mut end = vec![0; len];
        let got = identity::read_at(&*held.file()?, &mut end, size - len as u64)?;
        end.truncate(got);
        return Ok(end);
    }
    let mut decoder = decoder(held);
    let (mut end, mut block) = (Vec::new(), [0; 16 << 10]);
    while let Ok(n) = decoder.read(&mut block)
        && n > 0
    {
        end.extend_from_slice(&block[..n]);
        // Not at each block: what stays would be moved each time.
        if end.len() > 2 * max {
            end.drain(..end.len() - max);
        }
    }
    end.drain(..end.len().saturating_sub(max));
    Ok(end)
}

/// Whether a compressed file can be decoded to its end.
pub fn is_whole(held: &Arc<Held>) -> bool {
    let mut first = [0];
    let mut decoder = decoder(held);
    // No byte at all is no whole file either.
    matches!(decoder.read(&mut first), Ok(1)) && io::copy(&mut decoder, &mut io::sink()).is_ok()
}

/// Whether the content of `held` has these marks: `head` at its start, `tail` before `offset`. What can not be read has none.
pub fn has_marks(held: &Arc<Held>, head: Mark, tail: Mark, offset: u64) -> bool {
    shows_marks(held, head, tail, offset).unwrap_or(false)
}

/// The same.
///
/// # Errors
/// The file can not be read. (What is damaged is no error.)
pub fn shows_marks(held: &Arc<Held>, head: Mark, tail: Mark, offset: u64) -> io::Result<bool> {
    if !held.gz {
        let file = held.file()?;
        let mut bytes = [0; HEAD_BYTES];
        let len = (head.len as usize).min(HEAD_BYTES);
        let got = identity::read_at(&file, &mut bytes[..len], 0)?;
        let head_is = !head.is_known() || Mark::of(&bytes[..got]) == head;
        let long_enough = identity::look(&file)?.size >= offset;
        return Ok(head_is && long_enough && (!tail.is_known() || mark_before(&file, offset, tail.len)? == Some(tail)));
    }
    packed_marks(&mut decoder(held), head, tail, offset)
}

/// Whether the content of `held` has these marks, and ends there. What is damaged has no end.
pub fn ends_with_marks(held: &Arc<Held>, head: Mark, tail: Mark, len: u64) -> bool {
    if !held.gz {
        return held.look().is_ok_and(|look| look.size == len) && has_marks(held, head, tail, len);
    }
    let mut decoder = decoder(held);
    u64::from(head.len) <= len
        && packed_marks(&mut decoder, head, tail, len).unwrap_or(false)
        && matches!(decoder.read(&mut [0]), Ok(0))
}

/// Decodes content up to `offset`: whether it has the marks there.
fn packed_marks(decoder: &mut impl Read, head: Mark, tail: Mark, offset: u64) -> io::Result<bool> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    let got = decoder.by_ref().take(u64::from(head.len).min(HEAD_BYTES as u64)).read_to_end(&mut bytes);
    match got {
        Ok(_) if Mark::of(&bytes) == head => {}
        Err(error) if disk::is_of_kernel(&error) => return Err(error),
        _ => return Ok(false),
    }
    // Most files are no match, and are left above. Decode up to the tail, keeping its last bytes.
    let mut last = bytes;
    let mut block = [0; 16 << 10];
    let mut at = last.len() as u64;
    if at > offset {
        last.truncate(usize::try_from(offset).unwrap_or(0));
        at = offset;
    }
    while at < offset {
        let want = block.len().min(usize::try_from(offset - at).unwrap_or(usize::MAX));
        match decoder.read(&mut block[..want]) {
            Err(error) if disk::is_of_kernel(&error) => return Err(error),
            Ok(0) | Err(_) => return Ok(false),
            Ok(n) => {
                last.extend_from_slice(&block[..n]);
                last.drain(..last.len().saturating_sub(TAIL_BYTES));
                at += n as u64;
            }
        }
    }
    let from = last.len().saturating_sub(tail.len as usize);
    Ok(!tail.is_known() || Mark::of(&last[from..]) == tail)
}

fn mark_before(file: &std::fs::File, offset: u64, len: u32) -> io::Result<Option<Mark>> {
    let mut bytes = [0; TAIL_BYTES];
    let len = (len as usize).min(TAIL_BYTES);
    let Some(start) = offset.checked_sub(len as u64) else { return Ok(None) };
    let got = identity::read_at(file, &mut bytes[..len], start)?;
    Ok((got == len).then(|| Mark::of(&bytes[..len])))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use flate2::{Compression, write::GzEncoder};

    use super::super::generations;
    use super::*;

    fn held(path: &Path) -> Arc<Held> {
        generations::open(path).expect("opens")
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    #[test]
    fn a_file_that_is_begun_within_its_hole_is_known_to_be_compressed_or_not() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let content = [&[0; 4000][..], b"one\n"].concat();
        for (name, bytes) in [("a", content.clone()), ("a.gz", gz(&content))] {
            fs::write(dir.path().join(name), bytes).expect("written");
            let at = |offset| Source::open(held(&dir.path().join(name)), offset).expect("opens").is_in_hole();
            assert_eq!([0, 1, 63, 3000, 4000, 4004].map(at), [true, true, true, true, true, false], "{name}");
        }
    }

    #[test]
    fn an_unfinished_line_is_read_again_when_there_is_more_of_it() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("a");
        fs::write(&path, b"one\ntw").expect("written");
        let mut s = Source::open(held(&path), 0).expect("opens");
        let mut buf = Vec::new();
        assert_eq!(s.read(&mut buf, 1 << 20).expect("read"), Found::Bytes(6));
        s.consume(&buf, 4);
        assert_eq!(s.read(&mut buf, 1 << 20).expect("read"), Found::End(2));
        fs::OpenOptions::new().append(true).open(&path).expect("there").write_all(b"o\n").expect("written");
        assert_eq!(s.read(&mut buf, 1 << 20).expect("read"), Found::Bytes(4));
        assert_eq!(s.data(&buf, 4), b"two\n");
    }

    #[test]
    fn other_bytes_before_the_offset_or_fewer_bytes_are_a_rewrite() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("a");
        for after in [&b""[..], b"x", b"ONE\nTWO\nTHREE\n", b"\0\0\0\0\0\0\0\0new\n"] {
            fs::write(&path, b"one\ntwo\n").expect("written");
            let mut s = Source::open(held(&path), 0).expect("opens");
            let mut buf = Vec::new();
            assert_eq!(s.read(&mut buf, 1 << 20).expect("read"), Found::Bytes(8));
            s.consume(&buf, 8);
            fs::write(&path, after).expect("truncated in place");
            assert_eq!(s.read(&mut buf, 1 << 20).expect("read"), Found::Rewritten, "{after:?}");
        }
    }

    #[test]
    fn a_compressed_generation_has_the_content_and_marks_of_the_plain_one() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let content: Vec<u8> = (0..50_000u32).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let (half, rest) = content.split_at(content.len() / 2);
        // Two members, as `cat a.gz b.gz` makes them.
        fs::write(dir.path().join("a.gz"), [gz(half), gz(rest)].concat()).expect("written");
        fs::write(dir.path().join("a"), &content).expect("written");
        let (packed, plain) = (held(&dir.path().join("a.gz")), held(&dir.path().join("a")));
        let head = head_of(&plain).expect("read");
        assert_eq!(head_of(&packed).expect("read"), head);
        for offset in [1, 63, 64, 1024, 1025, 100_000, content.len() as u64] {
            let tail = identity::tail_of(&plain.file().expect("held"), offset).expect("read");
            assert!(has_marks(&packed, head, tail, offset) && has_marks(&plain, head, tail, offset), "{offset}");
            let wrong = Mark { hash: tail.hash ^ 1, ..tail };
            assert!(!has_marks(&packed, head, wrong, offset) && !has_marks(&plain, head, wrong, offset));
        }
        let mut s = Source::open(packed, 100_000).expect("opens");
        let (mut buf, mut out) = (Vec::new(), Vec::new());
        while let Found::Bytes(n) = s.read(&mut buf, 1 << 20).expect("read") {
            out.extend_from_slice(s.data(&buf, n));
            s.consume(&buf, n);
        }
        assert!(out == content[100_000..]);
    }

    #[test]
    fn a_decoder_at_rest_keeps_an_unfinished_line_and_no_room_for_more_and_there_are_only_so_many() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let content = [b"x\n".repeat(100_000), b"y".repeat(200_000)].concat();
        fs::write(dir.path().join("a.gz"), gz(&content)).expect("written");
        let decoders = Decoders::default();
        let mut all: Vec<Seat> = std::iter::from_fn(|| decoders.take()).collect();
        assert_eq!((all.len(), decoders.open()), (DECODERS_MAX, DECODERS_MAX));
        let mut s = Source::open_with(held(&dir.path().join("a.gz")), 0, all.pop()).expect("opens");
        assert!(decoders.take().is_none());
        let mut buf = Vec::new();
        let kept = |s: &Source| s.gz.as_ref().map_or(0, |gz| gz.pending.capacity());
        let mut read = 0;
        while let Found::Bytes(n) = s.read(&mut buf, 1 << 20).expect("read") {
            assert!(kept(&s) <= 512 << 10, "{}", kept(&s));
            let whole = s.data(&buf, n).iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            s.consume(&buf, whole);
            s.rest();
            assert_eq!(kept(&s), n - whole);
            read += whole;
        }
        assert_eq!((read, kept(&s)), (200_000, 200_000));
        drop(s);
        assert_eq!(decoders.open(), DECODERS_MAX - 1);
    }

    #[test]
    fn the_valid_part_of_a_damaged_gz_is_read_and_the_damage_said_once() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let mut bytes = gz(&b"0123456789\n".repeat(1000));
        let at = bytes.len() - 6;
        bytes[at] ^= 0xff;
        fs::write(dir.path().join("a.gz"), bytes).expect("written");
        let mut s = Source::open(held(&dir.path().join("a.gz")), 0).expect("opens");
        let mut buf = Vec::new();
        assert_eq!(s.read(&mut buf, 1 << 20).expect("read"), Found::Bytes(11_000));
        assert!(s.take_damage().is_some() && s.take_damage().is_none());
    }

    #[test]
    fn a_compressed_file_that_the_disk_does_not_give_is_not_damaged_and_is_read_on_when_it_does() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let content: Vec<u8> = (0..200_000u32).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let packed = gz(&content);
        fs::write(dir.path().join("a.gz"), &packed).expect("written");
        let bad = disk::Bad { name: "a.gz", from: packed.len() as u64 / 2, errno: rustix::io::Errno::IO };
        disk::set_bad(Some(bad));
        let mut s = Source::open(held(&dir.path().join("a.gz")), 0).expect("opens");
        let (mut buf, mut out, mut failed) = (Vec::new(), Vec::new(), 0);
        loop {
            match s.read(&mut buf, 1 << 20) {
                Ok(Found::Bytes(n)) => {
                    out.extend_from_slice(s.data(&buf, n));
                    s.consume(&buf, n);
                }
                Ok(_) => break,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                    failed += 1;
                    if failed == 3 {
                        disk::set_bad(None);
                    }
                    assert!(failed < 10, "it can be read now");
                }
            }
        }
        disk::set_bad(None);
        assert!(failed == 3 && s.take_damage().is_none());
        assert!(out == content);
        disk::set_bad(Some(bad));
        assert!(Source::open(held(&dir.path().join("a.gz")), content.len() as u64).is_err());
        disk::set_bad(None);
    }
}
