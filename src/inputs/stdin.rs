//! `type = "stdin"`: text or JSON lines from standard input. Its end drains everything and ends the input.
//!
//! Read in blocks of 256 KiB at most, and sent on after each read, so a slow producer's lines go on at once. While
//! there is no memory or a sink's queue is full nothing is read: the producer waits.
//!
//! Limits: `line_max` (1 MiB) cuts and counts (`line_cut`). What was read and not delivered when the program is killed
//! is gone: standard input can not give it again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};

use super::follow::decode::Format;
use super::follow::inotify::Bell;
use super::follow::{read_tag, source};
use super::{Input, InputKind, Outlet};
use crate::batch::Batch;
use crate::codec::docker_json::{LineHead, LogForm};
use crate::codec::lines::Lines;
use crate::metrics::Oddity;
use crate::pipeline::Lane;
use crate::pipeline::template::Template;
use crate::record::{Origin, Tag, Timestamp};
use crate::settings::Section;
use crate::workers::Workers;

/// The row of this input.
pub const KIND: InputKind = InputKind { name: "stdin", read };

const BATCH_BYTES: usize = 512 << 10;

struct Stdin {
    input: String,
    format: Format,
    line_max: usize,
    tag: Template,
}

fn read(section: &Section<'_, '_>, name: &str) -> Box<dyn Input> {
    let formats = [("text", Format::Text), ("json", Format::Json), ("cri", Format::Cri), ("docker", Format::Docker)];
    if section.text("ack").is_some_and(|ack| ack != "delivered") {
        section.error("ack", "standard input can not give a line twice, so there is nothing to choose; leave it out");
    }
    Box::new(Stdin {
        input: name.to_owned(),
        format: section.choice("format", &formats).unwrap_or(Format::Text),
        line_max: section.size("line_max", 64..(64 << 20) + 1).unwrap_or(1 << 20) as usize,
        tag: read_tag(section, &name.replace('{', "{{").replace('}', "}}")),
    })
}

impl Input for Stdin {
    fn tags(&self) -> Vec<String> {
        vec![self.tag.pattern()]
    }

    fn start(self: Box<Self>, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        self.start_on(stdin, outlet, workers)
    }
}

impl Stdin {
    fn start_on(self, from: OwnedFd, outlet: Outlet, workers: &Arc<Workers>) -> io::Result<()> {
        let bell = Arc::new(Bell::new()?);
        let (stop, ring) = (outlet.stop.clone(), Arc::clone(&bell));
        let waker = outlet.runtime.spawn(async move {
            stop.wait().await;
            ring.ring();
        });
        let origin = Arc::new(Origin::default());
        let tag = Tag::from(self.tag.for_origin(&origin).as_str());
        let name = format!("read {}", self.input);
        workers.spawn(&name, move || {
            let mut pump = Pump {
                lane: outlet.lane(self.format.join_rule()),
                lines: Lines::new(self.line_max, 0),
                format: self.format,
                outlet,
                origin,
                tag,
                sent: 0,
            };
            if let Err(error) = pump.run(&from, &bell) {
                tracing::error!(input = self.input, %error, "standard input can not be read any more");
            }
            waker.abort();
        })
    }
}

struct Pump {
    outlet: Outlet,
    lane: Lane,
    lines: Lines,
    format: Format,
    origin: Arc<Origin>,
    tag: Tag,
    /// Position up to which bytes were counted.
    sent: u64,
}

impl Pump {
    fn run(&mut self, from: &OwnedFd, bell: &Bell) -> io::Result<()> {
        loop {
            // Waits for data or the word to stop, whichever comes first.
            let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled?,
            };
            if self.outlet.stop.is_set() {
                return Ok(());
            }
            let got = match rustix::io::read(from, &mut *self.lines.space(source::BLOCK)) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                got => got?,
            };
            self.lines.filled(got);
            self.send(got == 0);
            if got == 0 {
                self.finish();
                return Ok(());
            }
        }
    }

    /// Makes batches of all lines that are there; of the last, unterminated one too at the end.
    fn send(&mut self, end: bool) {
        let mut filling: Option<Batch> = None;
        let now = Timestamp::now();
        loop {
            if filling.as_ref().is_some_and(Batch::is_full) {
                self.close(filling.take());
            }
            let mut line = self.lines.next_line();
            if line.is_none() && end {
                line = self.lines.last_line();
            }
            let Some(line) = line else { break };
            if line.bytes.is_empty() && !self.format.keeps_empty() {
                continue;
            }
            let batch = match &mut filling {
                Some(batch) => batch,
                None => {
                    let Some(mut batch) = self.outlet.batch_blocking(BATCH_BYTES, &self.origin) else { return };
                    batch.base = line.start;
                    filling.insert(batch)
                }
            };
            let tag = batch.shared_tag_index(&self.tag).unwrap_or(0);
            let pos = u32::try_from(line.start - batch.base).unwrap_or(u32::MAX);
            if line.cut > 0 {
                batch.tally.odd(Oddity::LineCut);
            }
            let head = LineHead { tag, pos, now };
            self.format.decode(line.bytes, line.bytes, head, batch, LogForm::default());
        }
        self.close(filling);
    }

    fn close(&mut self, batch: Option<Batch>) {
        let Some(mut batch) = batch else { return };
        batch.tally.bytes += self.lines.offset() - self.sent;
        self.sent = self.lines.offset();
        self.outlet.apply(&mut self.lane, &mut batch);
        self.outlet.send_blocking(batch);
    }

    /// Pieces of a line that will never end are records now.
    fn finish(&mut self) {
        if self.lane.is_waiting() {
            let mut batch = Batch::new(self.outlet.budget.empty_permit(), self.outlet.input, Arc::clone(&self.origin));
            batch.shared_tag_index(&self.tag);
            self.outlet.flush(&mut self.lane, &mut batch);
            self.outlet.send_blocking(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::super::follow::tests::Node;
    use super::*;

    fn pump(node: &Node, format: Format, line_max: usize) -> (io::PipeWriter, Arc<Workers>) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let tag = Template::parse("in").expect("valid");
        let stdin = Stdin { input: "in".to_owned(), format, line_max, tag };
        let workers = Arc::new(Workers::default());
        stdin.start_on(reader.into(), node.outlet(), &workers).expect("started");
        (writer, workers)
    }

    #[test]
    fn the_end_of_input_gives_the_last_line_and_ends_the_input() {
        let node = Node::new();
        let (mut writer, workers) = pump(&node, Format::Text, 1 << 20);
        writer.write_all(b"one\r\n\ntwo").expect("written");
        drop(writer);
        assert!(workers.join(Instant::now() + Duration::from_secs(10)), "the thread ends by itself");
        assert_eq!(node.wait_for(3), ["one", "", "two"]);
    }

    #[test]
    fn a_line_goes_on_before_the_next_one_comes_and_the_word_to_stop_is_heard() {
        let node = Node::new();
        let (mut writer, workers) = pump(&node, Format::Text, 1 << 20);
        writer.write_all(b"one\n").expect("written");
        assert_eq!(node.wait_for(1), ["one"]);
        node.stop();
        assert!(workers.join(Instant::now() + Duration::from_secs(10)));
    }

    #[test]
    fn a_long_line_is_cut_and_counted_and_the_next_one_is_whole() {
        let node = Node::new();
        let (mut writer, workers) = pump(&node, Format::Text, 100);
        writer.write_all(&b"x".repeat(1_000_000)).expect("written");
        writer.write_all(b"\nnext\n").expect("written");
        drop(writer);
        assert!(workers.join(Instant::now() + Duration::from_secs(10)));
        assert_eq!(node.wait_for(2), ["x".repeat(100).as_str(), "next"]);
        assert_eq!(node.oddity(Oddity::LineCut), 1);
    }
}
