//! Bytes to lines, over blocks that are read into one buffer again and again.
//!
//! The buffer belongs to whoever reads (one a thread, not one a file), and no line is copied: a [`Line`] borrows from
//! it. Only the unfinished end of a block moves, to the front, when the next block is read. So a follower does:
//!
//! ```text
//! lines.restart(offset)                      // another file, or another place: forgets the unfinished end
//! loop {
//!     n = pread(file, lines.space(256 KiB), lines.read_at())
//!     lines.filled(n)
//!     while let Some(line) = lines.next_line() { decode(line.bytes, line.start, ...) }
//!     if n == 0 { break }                    // for now: lines.offset() is where to go on later
//! }
//! if the file is at its end for good { if let Some(line) = lines.last_line() { ... } }
//! ```
//!
//! A line ends with LF or CRLF. One that is longer than the limit is cut to it and handed out once its end is there, so
//! `start` and `next` are exact for it too; the rest of it is skipped as it comes, without being kept. After `restart`
//! inside such a line everything from its start is read again; keep the splitter of a file whose line is unfinished and
//! long (see [`Lines::waiting`]) if that would happen often.
//!
//! Limits: a line's bytes; the buffer holds at most one line of that length, and one block. Counters: the caller's
//! `line_cut`, from [`Line::cut`].

/// One line, without its line break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its bytes; the first ones of it, if it was cut.
    pub bytes: &'a [u8],
    /// Position of its first byte in the stream.
    pub start: u64,
    /// Position after its line break: where to go on once it is delivered.
    pub next: u64,
    /// Bytes that were cut off (without its line break); 0 for a line within the limit.
    pub cut: u64,
}

/// Splits a stream into lines (see the header).
///
/// Invariant: `from <= scanned <= filled <= buffer.len()`; `from` is the start of the unfinished line, and no LF lies
/// between `from` and `scanned`.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    buffer: Vec<u8>,
    from: usize,
    scanned: usize,
    filled: usize,
    /// Position in the stream of the byte at `from`.
    offset: u64,
    /// Bytes of the unfinished line that followed those in the buffer and were skipped.
    skipped: u64,
    /// Whether the last of them was a CR.
    skipped_cr: bool,
}

impl Lines {
    /// A splitter for lines of at most `limit` bytes (one at least), of a stream that is read from `offset` on.
    pub fn new(limit: usize, offset: u64) -> Lines {
        let limit = limit.max(1);
        Lines { limit, buffer: Vec::new(), from: 0, scanned: 0, filled: 0, offset, skipped: 0, skipped_cr: false }
    }

    /// Forgets what is unfinished and goes on at `offset`, perhaps of another stream. The buffer stays.
    pub fn restart(&mut self, offset: u64) {
        (self.from, self.scanned, self.filled) = (0, 0, 0);
        (self.offset, self.skipped) = (offset, 0);
    }

    /// Position of the first byte that is in no line yet: where a restart has to read from.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Position of the next byte to read.
    pub fn read_at(&self) -> u64 {
        self.offset + self.waiting()
    }

    /// Bytes of the unfinished line so far (after [`next_line`](Self::next_line) has said `None`).
    pub fn waiting(&self) -> u64 {
        (self.filled - self.from) as u64 + self.skipped
    }

    /// Bytes that the buffer holds from the allocator.
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Gives the buffer's memory back, if nothing is unfinished: for a splitter that sleeps.
    pub fn release(&mut self) {
        if self.waiting() == 0 {
            self.buffer = Vec::new();
            (self.from, self.scanned, self.filled) = (0, 0, 0);
        }
    }

    /// Exactly `room` bytes to read into. Lines handed out before are gone; the unfinished one moves to the front.
    pub fn space(&mut self, room: usize) -> &mut [u8] {
        let mut unfinished = self.filled - self.from;
        // One more than the limit is kept: it may be the CR of the line break.
        let kept_max = self.limit + 1;
        if self.scanned == self.filled && unfinished > kept_max {
            self.skipped += (unfinished - kept_max) as u64;
            self.skipped_cr = self.buffer[self.filled - 1] == b'\r';
            unfinished = kept_max;
        }
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.from + unfinished, 0);
        }
        self.scanned = (self.scanned - self.from).min(unfinished);
        (self.from, self.filled) = (0, unfinished);
        // Zeroed once; afterwards the buffer is as long as it ever was.
        if self.buffer.len() < unfinished + room {
            self.buffer.resize(unfinished + room, 0);
        }
        &mut self.buffer[unfinished..unfinished + room]
    }

    /// Says that the first `len` bytes of [`space`](Self::space) were read.
    pub fn filled(&mut self, len: usize) {
        assert!(self.filled + len <= self.buffer.len(), "{len} bytes were read into less space");
        self.filled += len;
    }

    /// The next line that has its line break.
    #[inline]
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let Some(found) = memchr::memchr(b'\n', &self.buffer[self.scanned..self.filled]) else {
            self.scanned = self.filled;
            return None;
        };
        let end = self.scanned + found;
        Some(self.take(end, 1))
    }

    /// What is left when the stream is at its end for good: a line without a line break. `None` if nothing is left.
    /// Call it after [`next_line`](Self::next_line) has said `None`.
    pub fn last_line(&mut self) -> Option<Line<'_>> {
        if self.waiting() == 0 {
            return None;
        }
        Some(self.take(self.filled, 0))
    }

    /// The line from `from` to `end`, which `line_break` bytes follow.
    #[inline(always)]
    fn take(&mut self, end: usize, line_break: usize) -> Line<'_> {
        let (start, skipped) = (self.offset, std::mem::take(&mut self.skipped));
        let next = start + (end - self.from + line_break) as u64 + skipped;
        let from = std::mem::replace(&mut self.from, end + line_break);
        self.scanned = self.from;
        self.offset = next;
        let whole = &self.buffer[from..end];
        if skipped == 0 {
            let bytes = if line_break == 1 { whole.strip_suffix(b"\r").unwrap_or(whole) } else { whole };
            if bytes.len() <= self.limit {
                return Line { bytes, start, next, cut: 0 };
            }
        }
        // The byte before the line break is the last one that was skipped, unless others were read after it.
        let last_is_cr =
            if skipped > 0 && whole.len() == self.limit + 1 { self.skipped_cr } else { whole.last() == Some(&b'\r') };
        let cr = usize::from(line_break == 1 && last_is_cr);
        let cut = whole.len() as u64 + skipped - cr as u64 - self.limit as u64;
        Line { bytes: &whole[..self.limit], start, next, cut }
    }
}

/// One round of the fuzz target: the same lines whatever the blocks.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    let limit = 1 + usize::from(data.first().copied().unwrap_or(0)) % 40;
    let whole = split(data, limit, data.len().max(1));
    for block in [1, 2, 3, 7, 64] {
        assert_eq!(split(data, limit, block), whole, "blocks of {block}");
    }
    let mut next = 0;
    for (line, start, end, cut) in whole {
        assert!(start == next && line.len() <= limit && end >= start + line.len() as u64 + cut);
        assert_eq!(&data[start as usize..start as usize + line.len()], line);
        next = end;
    }
    assert_eq!(next, data.len() as u64);
}

fn split(data: &[u8], limit: usize, block: usize) -> Vec<(Vec<u8>, u64, u64, u64)> {
    let mut lines = Lines::new(limit, 0);
    let mut found = Vec::new();
    let mut push = |line: Line<'_>| found.push((line.bytes.to_vec(), line.start, line.next, line.cut));
    for chunk in data.chunks(block) {
        lines.space(block)[..chunk.len()].copy_from_slice(chunk);
        lines.filled(chunk.len());
        while let Some(line) = lines.next_line() {
            push(line);
        }
        assert!(lines.memory() <= 2 * (limit + 1 + block) + 64, "{} bytes for {limit}", lines.memory());
    }
    if let Some(line) = lines.last_line() {
        push(line);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(data: &str, limit: usize, block: usize) -> Vec<(String, u64)> {
        let lines = split(data.as_bytes(), limit, block);
        lines.into_iter().map(|(line, _, _, cut)| (String::from_utf8(line).expect("text"), cut)).collect()
    }

    #[test]
    fn lf_and_crlf_end_a_line_and_a_lone_cr_does_not() {
        for block in 1..12 {
            let lines = texts("a\nb\r\n\n\r\nc\rd\n\re\r", 100, block);
            let expected = ["a", "b", "", "", "c\rd", "\re\r"].map(|line| (line.to_owned(), 0));
            assert_eq!(lines, expected, "blocks of {block}");
        }
    }

    #[test]
    fn a_line_above_the_limit_is_cut_and_the_next_one_is_whole() {
        for block in 1..20 {
            let lines = texts("abcd\r\nabcdefghijk\nxy\nabcdefgh", 4, block);
            let line = |text: &str, cut| (text.to_owned(), cut);
            assert_eq!(lines, [line("abcd", 0), line("abcd", 7), line("xy", 0), line("abcd", 4)], "blocks of {block}");
        }
    }

    #[test]
    fn a_huge_line_holds_no_more_than_the_limit_and_a_block() {
        let mut lines = Lines::new(1000, 5);
        for _ in 0..1000 {
            lines.space(4096).fill(b'x');
            lines.filled(4096);
            assert_eq!(lines.next_line(), None);
        }
        assert!(lines.memory() < 8192 + 1001, "{}", lines.memory());
        assert_eq!((lines.offset(), lines.read_at(), lines.waiting()), (5, 5 + 4_096_000, 4_096_000));
        lines.space(4)[..2].copy_from_slice(b"\nz");
        lines.filled(2);
        let line = lines.next_line().expect("its end has come");
        assert_eq!((line.bytes.len(), line.cut, line.start, line.next), (1000, 4_095_000, 5, 4_096_006));
        assert_eq!(lines.last_line().map(|line| line.bytes), Some(&b"z"[..]));
        assert_eq!(lines.last_line(), None);
    }

    #[test]
    fn a_restart_forgets_the_unfinished_line() {
        let mut lines = Lines::new(10, 0);
        lines.space(8)[..3].copy_from_slice(b"a\nb");
        lines.filled(3);
        assert_eq!(lines.next_line().map(|line| line.next), Some(2));
        assert_eq!(lines.next_line(), None);
        assert_eq!(lines.offset(), 2);
        lines.restart(70);
        assert_eq!(lines.last_line(), None);
        assert_eq!(lines.read_at(), 70);
        lines.release();
        assert_eq!(lines.memory(), 0);
    }

    proptest! {
        #[test]
        fn any_blocks_give_the_same_lines(data in "[\u{1}-\u{3}ab\r\n]{0,200}") {
            fuzz_one(data.as_bytes());
        }
    }
}
