//! One line of a CRI log file (containerd, CRI-O): `<RFC 3339> <stdout|stderr> <P|F>[:tags] <text>`.
//!
//! Source of the format: Kubernetes, `kubelet-cri-logging.md` and `pkg/kubelet/kuberuntime/logs/logs.go`. `P` is a
//! piece of a longer line, `F` its last or only one; tags after a colon are for the future and are ignored. The text is
//! raw bytes. The record is `{log}` with stream and time. A line that is none is kept as text. Counters: `line_not_cri`.

use crate::batch::{Batch, RowHead};
use crate::codec::text::{self, LineHead};
use crate::codec::time;
use crate::metrics::Oddity;
use crate::record::{Field, Form, Stream, Timestamp};

struct Parts<'a> {
    time: Timestamp,
    time_text: &'a [u8],
    stream: Stream,
    partial: bool,
    text: &'a [u8],
}

fn split(line: &[u8]) -> Option<Parts<'_>> {
    let time_end = line.iter().take(40).position(|byte| *byte == b' ')?;
    let (time_text, rest) = line.split_at(time_end);
    let time = time::parse_rfc3339(time_text)?;
    let (stream, rest) = match rest.split_at_checked(" stdout ".len())? {
        (b" stdout ", rest) => (Stream::Stdout, rest),
        (b" stderr ", rest) => (Stream::Stderr, rest),
        _ => return None,
    };
    // An empty line of the program may have lost its blank after the tag.
    let tags_end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let (tags, text) = rest.split_at(tags_end);
    let partial = match tags.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Parts { time, time_text, stream, partial, text: text.get(1..).unwrap_or_default() })
}

/// The stream of a line (without its line break), and whether it is a piece whose line goes on; `None`: no CRI line.
pub fn piece(line: &[u8]) -> Option<(Stream, bool)> {
    split(line).map(|parts| (parts.stream, parts.partial))
}

/// Appends one line (without its line break) as a record; a `P` line is marked
/// [`PARTIAL`](crate::batch::PARTIAL).
pub fn decode(line: &[u8], head: LineHead, batch: &mut Batch) {
    let Some(parts) = split(line) else {
        batch.tally.odd(Oddity::LineNotCri);
        text::push(line, head, batch);
        return;
    };
    let key = batch.log_key();
    let mark = batch.fields_mark();
    let time_text = batch.push_bytes(parts.time_text);
    let value = batch.push_bytes(parts.text);
    batch.push_field(Field::new(key, Form::Text, value));
    let row = head.row();
    batch.push_row(mark, RowHead { time: parts.time, time_text, stream: parts.stream, partial: parts.partial, ..row });
}

/// One round of the fuzz target.
#[doc(hidden)]
pub fn fuzz_one(data: &[u8]) {
    text::fuzz_lines(data, decode);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::PARTIAL;

    fn decoded(line: &[u8]) -> Batch {
        let mut batch = Batch::new(crate::budget::Budget::new(1 << 20).empty_permit(), 0, std::sync::Arc::default());
        let tag = batch.tag_index("t").expect("room for a tag");
        decode(line, LineHead { tag, pos: 0, now: Timestamp(5) }, &mut batch);
        assert_eq!(batch.len(), 1);
        batch
    }

    fn log(batch: &Batch) -> &[u8] {
        batch.bytes(batch.find(0, b"log").expect("log").value)
    }

    #[test]
    fn a_line_gives_text_stream_and_time() {
        let cases: [(&[u8], &[u8], Stream, bool); 8] = [
            (b"2026-11-23T10:15:00.5Z stdout F hello  world ", b"hello  world ", Stream::Stdout, false),
            // containerd writes its local time.
            (b"2026-11-23T12:15:00.5+02:00 stdout F east", b"east", Stream::Stdout, false),
            (b"2026-11-23T04:45:00.5-05:30 stdout P west", b"west", Stream::Stdout, true),
            (b"2026-11-23T10:15:00.5Z stderr P half", b"half", Stream::Stderr, true),
            (b"2026-11-23T10:15:00.5Z stdout F:x:y tagged", b"tagged", Stream::Stdout, false),
            (b"2026-11-23T10:15:00.5Z stdout P:x \xff", b"\xff", Stream::Stdout, true),
            (b"2026-11-23T10:15:00.5Z stdout F ", b"", Stream::Stdout, false),
            (b"2026-11-23T10:15:00.5Z stdout F", b"", Stream::Stdout, false),
        ];
        for (line, text, stream, partial) in cases {
            let batch = decoded(line);
            let row = batch.row(0);
            assert_eq!(
                (log(&batch), row.stream, row.has(PARTIAL), piece(line)),
                (text, stream, partial, Some((stream, partial)))
            );
            assert_eq!(row.time, Timestamp(1_795_428_900_500_000_000));
            assert!(line.starts_with(batch.bytes(row.time_text)) && row.time_text.len >= 22);
        }
    }

    #[test]
    fn a_line_that_is_no_cri_line_is_kept_as_text_and_counted() {
        let cases: [&[u8]; 6] = [
            b"",
            b"plain",
            b"2026-11-23T10:15:00.5Z stdout X text",
            b"2026-11-23T10:15:00.5Z stdlog F text",
            b"2026-11-23T10:15:61.5Z stdout F text",
            b"2026-11-23T10:15:00.5Z",
        ];
        for line in cases {
            let batch = decoded(line);
            assert_eq!((log(&batch), batch.row(0).time), (line, Timestamp(5)));
            assert_eq!(batch.tally.oddities[Oddity::LineNotCri as usize], 1);
        }
    }
}
