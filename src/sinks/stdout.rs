//! Standard output: one JSON object a line, or a form for people (`format = "pretty"`).
//!
//! A pipe whose reader has gone is success, not failure: the sink says [`SendError::Closed`], and the program ends
//! quietly. A write that was cut short goes on where it stopped, so a line is never torn or doubled.

use std::future::ready;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::request::Request;
use super::{Limits, Reply, SendError, Sending, Sink, pretty, read_added};
use crate::batch::Added;
use crate::codec::ndjson::Encoder;
use crate::settings::Section;

/// The sink.
pub struct Stdout<W: AsFd = io::Stdout> {
    out: W,
    encoder: Encoder,
    pretty: bool,
    colour: bool,
}

/// Reads the section of a `stdout` sink.
pub fn read(section: &Section<'_, '_>, _name: &str) -> Box<dyn Sink> {
    let pretty = section.choice("format", &[("ndjson", false), ("pretty", true)]).unwrap_or(false);
    Box::new(Stdout::new(read_added(section), pretty))
}

impl Stdout {
    /// A sink to the program's standard output.
    pub fn new(added: Added, pretty: bool) -> Stdout {
        Stdout::to(io::stdout(), added, pretty)
    }
}

impl<W: AsFd> Stdout<W> {
    fn to(out: W, added: Added, pretty: bool) -> Stdout<W> {
        Stdout { out, encoder: Encoder::new(added), pretty, colour: false }
    }

    fn encode(&mut self, request: &mut Request) -> Vec<u8> {
        let mut body = request.budget().take_body(request.cost());
        let mut tallies = Vec::new();
        for part in &request.parts {
            for row in &part.rows {
                if self.pretty {
                    pretty::write(&part.batch, *row as usize, self.colour, &mut body);
                } else {
                    self.encoder.row(&part.batch, *row as usize, &mut body);
                }
                body.push(b'\n');
            }
            tallies.push((part.batch.input, std::mem::take(&mut self.encoder.tally)));
        }
        for (input, mut tally) in tallies {
            request.note(input, &mut tally);
        }
        body
    }

    fn write(&mut self, request: &mut Request) -> Result<Reply, SendError> {
        if request.body().is_none() {
            let body = self.encode(request);
            let bytes = body.len();
            request.keep_body(body, bytes);
        }
        let body = request.body().cloned().unwrap_or_default();
        while request.written < body.len() {
            match rustix::io::write(&self.out, &body[request.written..]) {
                Ok(bytes) => request.written += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Somebody made the descriptor non-blocking (a shared terminal): wait for room.
                    let mut room = [PollFd::new(&self.out, PollFlags::OUT)];
                    let _ = poll(&mut room, None);
                }
                Err(Errno::PIPE) => return Err(SendError::Closed),
                Err(error) => {
                    let cause = format!("standard output: {}", io::Error::from(error));
                    return Err(SendError::Retry { cause, not_before: None });
                }
            }
        }
        Ok(Reply { bytes: body.len() as u64, ..Reply::default() })
    }
}

impl<W: AsFd + Send> Sink for Stdout<W> {
    fn limits(&self) -> Limits {
        Limits::LOCAL
    }

    fn start(&mut self) -> io::Result<()> {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        self.colour = wanted && self.out.as_fd().is_terminal();
        Ok(())
    }

    fn send(&mut self, request: &mut Request) -> Sending {
        Box::pin(ready(self.write(request)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::budget::Budget;
    use crate::sinks::request::tests::request;

    #[test]
    fn each_record_is_one_line() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut sink = Stdout::to(writer, Added { tag: true, ..NOTHING }, false);
        let reply = sink.write(&mut request(&Budget::new(1 << 20), &["1", "2"])).expect("written");
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, "{\"n\":\"1\",\"tag\":\"t\"}\n{\"n\":\"2\",\"tag\":\"t\"}\n");
        assert_eq!(reply.bytes, text.len() as u64);
    }

    #[test]
    fn a_reader_that_went_away_closes_the_sink_quietly() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let mut sink = Stdout::to(writer, NOTHING, false);
        assert_eq!(sink.write(&mut request(&Budget::new(1 << 20), &["1"])), Err(SendError::Closed));
    }

    #[test]
    fn a_full_disk_is_tried_again_from_where_it_stopped() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let mut sink = Stdout::to(full, NOTHING, false);
        let mut request = request(&Budget::new(1 << 20), &["1", "2"]);
        let error = sink.write(&mut request).expect_err("full");
        assert!(matches!(&error, SendError::Retry { cause, .. } if cause.contains("No space left")), "{error:?}");
        request.written = 9;
        let (mut reader, writer) = io::pipe().expect("a pipe");
        Stdout::to(writer, NOTHING, false).write(&mut request).expect("written");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, "\n{\"n\":\"2\"}\n");
    }

    const NOTHING: Added = Added::NONE;
}
