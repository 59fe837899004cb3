//! Standard input as lines, for `longshore send`: with a word when the input pauses, so that what there is can go out.
//!
//! Limit: [`LINE_MAX`] bytes a line; what is beyond it is the next one.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

/// Bytes of one line, at most.
pub const LINE_MAX: usize = 1 << 20;
/// Bytes that are read at once.
const READ: usize = 64 << 10;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'l> {
    /// A line without its end, and whether it was cut.
    Line(&'l [u8], bool),
    /// Nothing came for a while.
    Pause,
    /// Nothing will come.
    End,
}

/// The lines of an input.
pub struct Lines<R> {
    input: R,
    /// Bytes that were read; those before `from` are done with, those before `seen` hold no line break.
    held: Vec<u8>,
    from: usize,
    seen: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Of this input.
    pub fn new(input: R) -> Lines<R> {
        Lines { input, held: Vec::new(), from: 0, seen: 0, ended: false }
    }

    /// The next line; waits for it no longer than `pause`, if there is one.
    pub async fn next(&mut self, pause: Option<Duration>) -> io::Result<Next<'_>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.held[self.seen..]) {
                let (from, end) = (self.from, self.seen + at);
                self.from = end + 1;
                self.seen = self.from;
                let line = &self.held[from..end];
                return Ok(Next::Line(line.strip_suffix(b"\r").unwrap_or(line), false));
            }
            self.seen = self.held.len();
            let left = self.seen - self.from;
            if left > LINE_MAX || (self.ended && left > 0) {
                let from = self.from;
                self.from = from + left.min(LINE_MAX);
                self.seen = self.from;
                return Ok(Next::Line(&self.held[from..self.from], left > LINE_MAX));
            }
            if self.ended {
                return Ok(Next::End);
            }
            self.held.drain(..self.from);
            self.from = 0;
            let filled = self.held.len();
            self.seen = filled;
            self.held.resize(filled + READ, 0);
            let reading = self.input.read(&mut self.held[filled..]);
            let read = match pause {
                Some(pause) => timeout(pause, reading).await,
                None => Ok(reading.await),
            };
            self.held.truncate(filled + read.as_ref().map_or(0, |read| *read.as_ref().unwrap_or(&0)));
            match read {
                Err(_) => return Ok(Next::Pause),
                Ok(read) => self.ended = read? == 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<(usize, bool)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut lines = Lines::new(input);
            let mut found = Vec::new();
            loop {
                match lines.next(None).await.expect("memory can be read") {
                    Next::Line(line, cut) => found.push((line.len(), cut)),
                    Next::Pause => panic!("no pause was asked for"),
                    Next::End => return found,
                }
            }
        })
    }

    #[test]
    fn lines_end_at_breaks_at_the_end_and_at_the_limit() {
        assert_eq!(all(b""), []);
        assert_eq!(all(b"a\r\n\nbc"), [(1, false), (0, false), (2, false)]);
        assert_eq!(all(b"\n"), [(0, false)]);
        let long = vec![b'x'; 2 * LINE_MAX + 10];
        assert_eq!(all(&long), [(LINE_MAX, true), (LINE_MAX, true), (10, false)]);
    }

    #[test]
    fn a_silent_input_is_a_pause_and_goes_on_after_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (mut write, read) = tokio::io::duplex(64);
            let mut lines = Lines::new(read);
            tokio::io::AsyncWriteExt::write_all(&mut write, b"a\nb").await.expect("room");
            let pause = Some(Duration::from_millis(5));
            assert_eq!(lines.next(pause).await.expect("read"), Next::Line(b"a", false));
            assert_eq!(lines.next(pause).await.expect("read"), Next::Pause);
            drop(write);
            assert_eq!(lines.next(pause).await.expect("read"), Next::Line(b"b", false));
            assert_eq!(lines.next(pause).await.expect("read"), Next::End);
        });
    }
}
