//! Standard error as the log writes to it: what it does not take costs lines, never the program.
//!
//! A pipe that nobody reads takes some 64 KiB; then a write waits until somebody does, and with it whoever has something to
//! say, the thread that opens new files among them. So it is asked first. A pipe says that it takes something while
//! [`PIECE`] bytes of it are free, so a piece of that size does not wait. One that is full is given [`PATIENCE`], once; until it has
//! room without that, lines are left out and counted, and the first one that is taken again comes after one that says how many.
//!
//! Limits: who else writes to the same pipe may take its room between the question and the write, and a terminal says that it takes
//! something while it takes a byte. What is told at the start (`log::tell`), and a panic's own words, do not go through here. Lines
//! that were left out are said with the next one, whenever that is.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::Format;

/// Bytes that are written at once: `PIPE_BUF` of Linux (pipe(7)).
const PIECE: usize = 4096;
/// How long somebody who has stopped reading is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// A writer of whole lines that never waits for long, and never fails: there is nowhere to tell it.
#[derive(Debug)]
pub(super) struct Stderr<F>(Arc<Shared<F>>);

#[derive(Debug)]
struct Shared<F> {
    to: F,
    format: Format,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// It had no room, and has been waited for since it had some.
    full: bool,
    /// The beginning of a line was taken, and not its end.
    torn: bool,
    /// Lines that were not taken, since that was said.
    left_out: u64,
}

impl<F> Clone for Stderr<F> {
    fn clone(&self) -> Self {
        Stderr(Arc::clone(&self.0))
    }
}

impl<F: AsFd> Stderr<F> {
    pub(super) fn new(to: F, format: Format) -> Stderr<F> {
        Stderr(Arc::new(Shared { to, format, state: Mutex::default() }))
    }
}

impl<F: AsFd> io::Write for Stderr<F> {
    /// `line` is a whole one.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.left_out > 0 {
            let text = self.0.left_out(&state);
            if self.0.put(text.as_bytes(), &mut state) {
                state.left_out = 0;
            }
        }
        if state.left_out > 0 || !self.0.put(line, &mut state) {
            state.left_out += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F: AsFd> Shared<F> {
    /// Whether the line was taken, all of it.
    fn put(&self, line: &[u8], state: &mut State) -> bool {
        let mut rest = line;
        while !rest.is_empty() {
            if !self.has_room(state) {
                state.torn |= rest.len() < line.len();
                return false;
            }
            match rustix::io::write(&self.to, &rest[..rest.len().min(PIECE)]) {
                Ok(bytes) if bytes > 0 => rest = &rest[bytes..],
                Err(Errno::INTR) => {}
                // Closed: nobody is left to miss it.
                Err(Errno::PIPE | Errno::BADF) => break,
                // Also a descriptor that somebody made non-blocking, and a file on a disk that is full.
                Ok(_) | Err(_) => {
                    state.torn |= rest.len() < line.len();
                    return false;
                }
            }
        }
        state.torn = false;
        true
    }

    fn has_room(&self, state: &mut State) -> bool {
        if self.has_room_within(Duration::ZERO) {
            state.full = false;
            return true;
        }
        // Once: who reads on, but slower than is written, is not waited for again and again.
        !std::mem::replace(&mut state.full, true) && self.has_room_within(PATIENCE)
    }

    fn has_room_within(&self, wait: Duration) -> bool {
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        loop {
            match poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&wait)) {
                Err(Errno::INTR) => {}
                // An error of its own is for the write to meet.
                found => return found != Ok(0),
            }
        }
    }

    /// The line that says how many were left out.
    fn left_out(&self, state: &State) -> String {
        const MESSAGE: &str = "lines of this log were left out: standard error took nothing";
        let (mut time, mut text) = (String::new(), if state.torn { "\n".to_owned() } else { String::new() });
        let lines = state.left_out;
        // Writing to a String can not fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let _ = match self.format {
            Format::Text => fmt::write(&mut text, format_args!("{time} WARN {MESSAGE} lines={lines}\n")),
            Format::Json => fmt::write(
                &mut text,
                format_args!(
                    "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{MESSAGE}\",\"lines\":{lines}}}\n"
                ),
            ),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _, pipe};

    use super::*;

    /// What is in a pipe, as text.
    fn drain(pipe: &mut io::PipeReader) -> String {
        let mut taken = Vec::new();
        let mut block = [0; 1 << 16];
        while poll(&mut [PollFd::new(&*pipe, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) {
            let bytes = pipe.read(&mut block).expect("it can be read");
            taken.extend_from_slice(&block[..bytes]);
        }
        String::from_utf8(taken).expect("text")
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_says_how_many() {
        for format in [Format::Text, Format::Json] {
            let (mut reader, writer) = pipe().expect("a pipe");
            let mut log = Stderr::new(writer, format);
            // 2 MB, of which a pipe takes 64 KiB: without a limit the first write that does not fit waits for ever.
            let line = "x".repeat(999) + "\n";
            (0..2000).for_each(|_| log.write_all(line.as_bytes()).expect("never fails"));
            let taken = drain(&mut reader);
            let whole = taken.matches('\n').count();
            assert!((10..1900).contains(&whole) && taken.len() == whole * 1000, "{whole} lines, {} bytes", taken.len());
            log.write_all(b"again\n").expect("never fails");
            let said = drain(&mut reader);
            let (first, second) = said.trim_end().split_once('\n').expect("two lines");
            assert_eq!(second, "again");
            let left_out = 2000 - whole;
            match format {
                Format::Text => assert!(first.ends_with(&format!("took nothing lines={left_out}")), "{first}"),
                Format::Json => {
                    let first: serde_json::Value = serde_json::from_str(first).expect("JSON");
                    assert_eq!((&first["level"], &first["lines"]), (&"WARN".into(), &left_out.into()));
                }
            }
            log.write_all(b"and again\n").expect("never fails");
            assert_eq!(drain(&mut reader), "and again\n");
        }
    }

    #[test]
    fn a_line_that_is_taken_in_part_does_not_run_into_the_next() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let mut log = Stderr::new(writer, Format::Text);
        let long = "y".repeat(1 << 20) + "\n";
        log.write_all(long.as_bytes()).expect("never fails");
        let torn = drain(&mut reader);
        assert!(torn.len() >= PIECE && torn.bytes().all(|byte| byte == b'y'));
        log.write_all(b"next\n").expect("never fails");
        let said = drain(&mut reader);
        assert!(said.starts_with('\n') && said.ends_with(" lines=1\nnext\n"), "{said}");
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_nothing_is_counted() {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let mut log = Stderr::new(writer, Format::Text);
        log.write_all(b"into the void\n").expect("never fails");
        assert_eq!(log.0.state.lock().expect("no panic").left_out, 0);
    }
}
