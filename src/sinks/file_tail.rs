//! Where the last whole line, gzip member or zstd frame of an output file ends: what follows was cut off by a crash,
//! and was never settled.
//!
//! Lines are searched backwards, so that costs nothing; members and frames are decompressed from the beginning, since
//! nothing less tells a whole one from a torn one (once for each file that this process did not close itself).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

/// A tail longer than this is no torn write of ours.
pub const TORN_MAX: u64 = 16 << 20;

/// How an output file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Lines as they are.
    Plain,
    /// gzip members, one a write.
    Gzip,
    /// zstd frames, one a write.
    Zstd,
}

impl Packing {
    /// By the extension.
    pub fn of(path: &str) -> Packing {
        match path.rsplit('.').next() {
            Some("gz") => Packing::Gzip,
            Some("zst") => Packing::Zstd,
            _ => Packing::Plain,
        }
    }

    /// How every file that was written here begins.
    fn magic(self) -> &'static [u8] {
        match self {
            Packing::Plain => b"{",
            Packing::Gzip => b"\x1f\x8b",
            Packing::Zstd => b"\x28\xb5\x2f\xfd",
        }
    }
}

/// What is at the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing torn.
    Whole,
    /// A torn write begins here; it may be cut off.
    Torn(u64),
    /// Something that was not written here, or damage: not to be cut, not to be appended to.
    Foreign,
}

/// Looks at a file of `len` bytes.
pub fn examine(file: &File, len: u64, packing: Packing) -> io::Result<Tail> {
    if len == 0 {
        return Ok(Tail::Whole);
    }
    let whole = match packing {
        Packing::Plain => last_line_end(file, len)?,
        Packing::Gzip | Packing::Zstd => last_member_end(file, packing)?,
    };
    if whole == len {
        return Ok(Tail::Whole);
    }
    if len.saturating_sub(whole) > TORN_MAX {
        return Ok(Tail::Foreign);
    }
    if whole == 0 {
        let magic = packing.magic();
        let mut begins = vec![0; magic.len().min(usize::try_from(len).unwrap_or(magic.len()))];
        file.read_exact_at(&mut begins, 0)?;
        if begins != magic[..begins.len()] {
            return Ok(Tail::Foreign);
        }
    }
    Ok(Tail::Torn(whole))
}

/// The byte after the last line break, as far back as a torn write of ours could reach; else 0.
fn last_line_end(file: &File, len: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let mut end = len;
    while end > 0 && len - end <= TORN_MAX {
        let size = end.min(block.len() as u64);
        let from = end - size;
        // At most the length of the block.
        let part = &mut block[..size as usize];
        file.read_exact_at(part, from)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

struct Counted<R> {
    inner: R,
    consumed: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(out)?;
        self.consumed += got as u64;
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
        self.inner.consume(bytes);
    }
}

/// A file read from its start by offset, whatever its own position is.
struct FromStart<'f> {
    file: &'f File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(out, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

fn last_member_end(file: &File, packing: Packing) -> io::Result<u64> {
    let reader = BufReader::with_capacity(64 << 10, FromStart { file, at: 0 });
    let mut reader = Counted { inner: reader, consumed: 0 };
    let mut whole = 0;
    while !reader.fill_buf()?.is_empty() {
        let copied = match packing {
            Packing::Zstd => zstd::stream::read::Decoder::with_buffer(&mut reader).and_then(|decoder| {
                let mut decoder = decoder.single_frame();
                // 8 MiB: as much as our own level ever needs, and no more for a foreign file.
                decoder.window_log_max(23)?;
                io::copy(&mut decoder, &mut io::sink())
            }),
            _ => io::copy(&mut flate2::bufread::GzDecoder::new(&mut reader), &mut io::sink()),
        };
        match copied {
            Ok(_) => whole = reader.consumed,
            // The disk, not the content.
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::http_body::Compression;
    use std::io::Write;

    fn tail(content: &[u8], packing: Packing) -> Tail {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        examine(&file, content.len() as u64, packing).expect("readable")
    }

    #[test]
    fn a_torn_line_is_found_at_its_start() {
        assert_eq!(tail(b"", Packing::Plain), Tail::Whole);
        assert_eq!(tail(b"{}\n{}\n", Packing::Plain), Tail::Whole);
        assert_eq!(tail(b"{}\n{\"a", Packing::Plain), Tail::Torn(3));
        assert_eq!(tail(b"{\"a", Packing::Plain), Tail::Torn(0));
        let long = [b"{}\n".as_slice(), &vec![b'x'; 200_000]].concat();
        assert_eq!(tail(&long, Packing::Plain), Tail::Torn(3));
    }

    #[test]
    fn what_was_not_written_here_is_left_alone() {
        assert_eq!(tail(b"hostname", Packing::Plain), Tail::Foreign);
        assert_eq!(tail(&vec![b'{'; TORN_MAX as usize + 100_000], Packing::Plain), Tail::Foreign);
        assert_eq!(tail(b"text", Packing::Gzip), Tail::Foreign);
        assert_eq!(tail(b"text", Packing::Zstd), Tail::Foreign);
    }

    #[test]
    fn a_torn_member_is_found_wherever_it_was_cut() {
        for (packing, compression) in [(Packing::Gzip, Compression::Gzip(4)), (Packing::Zstd, Compression::Zstd(3))] {
            let member = |text: &str| compression.apply(text.repeat(50).as_bytes()).expect("packed");
            let (first, second) = (member("{\"a\":1}\n"), member("{\"b\":2}\n"));
            let both = [first.clone(), second.clone()].concat();
            assert_eq!(tail(&both, packing), Tail::Whole);
            for cut in 1..second.len() {
                let torn = &both[..first.len() + cut];
                assert_eq!(tail(torn, packing), Tail::Torn(first.len() as u64), "{packing:?} cut after {cut}");
            }
            for cut in 4..first.len() {
                assert_eq!(tail(&first[..cut], packing), Tail::Torn(0), "{packing:?} cut after {cut}");
            }
        }
    }
}
