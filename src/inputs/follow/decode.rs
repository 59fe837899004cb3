//! Which codec reads a line of a followed file or of standard input.

use memchr::memrchr;

use crate::batch::Batch;
use crate::codec::docker_json::{self, LineHead, LogForm};
use crate::codec::{cri, text};
use crate::pipeline::JoinRule;

/// What the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Plain text: the record is `{log}`.
    Text,
    /// One JSON object a line.
    Json,
    /// Container runtimes' files: `time stream P|F text`.
    Cri,
    /// Docker's json-file.
    Docker,
}

impl Format {
    /// How pieces of split lines are recognised.
    pub fn join_rule(self) -> JoinRule {
        match self {
            Format::Docker => JoinRule::DockerFile,
            Format::Cri => JoinRule::Cri,
            Format::Text | Format::Json => JoinRule::None,
        }
    }

    /// Whether each line has the time at which it was written: no two files of them have the same head and end. (Those of a
    /// container that are full of pieces of one line may.)
    pub fn is_timed(self) -> bool {
        matches!(self, Format::Docker | Format::Cri)
    }

    /// Appends one line, which is not empty for Docker and CRI (nothing stands there that could be kept).
    /// `log` says how the text of a Docker line, or of a plain one, is kept. `padded` begins with the line; what follows it may be
    /// read.
    pub fn decode(self, line: &[u8], padded: &[u8], head: LineHead, batch: &mut Batch, log: LogForm) {
        match self {
            Format::Docker => docker_json::decode(line, head, batch, log),
            Format::Cri => cri::decode(trim_cr(line), head, batch),
            Format::Json => text::push_json(trim_cr(line), head, batch),
            Format::Text if log == LogForm::Escaped => text::push_escaped(padded, trim_cr(line).len(), head, batch),
            Format::Text => text::push(trim_cr(line), head, batch),
        }
    }

    /// Whether the last whole line of a stream in `data` is a piece whose line goes on. (A Docker piece says so by its size
    /// only, and Docker's own files are not asked.)
    pub fn ends_in_pieces(self, data: &[u8]) -> bool {
        let Some(end) = memrchr(b'\n', data).filter(|_| self == Format::Cri) else { return false };
        let mut seen = Vec::with_capacity(2);
        for line in data[..end].rsplit(|byte| *byte == b'\n') {
            match cri::piece(trim_cr(line)) {
                Some((stream, is_piece)) if !seen.contains(&stream) => {
                    if is_piece {
                        return true;
                    }
                    seen.push(stream);
                    if seen.len() == 2 {
                        return false;
                    }
                }
                _ => {}
            }
        }
        false
    }

    /// Whether an empty line is a record.
    pub fn keeps_empty(self) -> bool {
        self == Format::Text
    }
}

fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The first `max` bytes of a line, less what would be half a character.
pub fn cut(line: &[u8], max: usize) -> &[u8] {
    let mut end = max.min(line.len());
    if end < line.len() {
        // A character has three continuation bytes at most; anything longer is no UTF-8 anyway.
        let back = (0..4).find(|back| *back <= end && line.get(end - back).is_some_and(|byte| byte & 0xc0 != 0x80));
        end -= back.unwrap_or(0);
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_cri_piece_at_the_end_of_a_stream_says_that_its_line_goes_on() {
        let other = |line: &str| line.replace("stdout", "stderr");
        let (piece, last) = ("2026-11-23T10:15:00Z stdout P a\n", "2026-11-23T10:15:00Z stdout F b\n");
        let cases = [
            (piece.to_owned(), true),
            (last.to_owned() + piece, true),
            (piece.replace('\n', "\r\n"), true),
            (piece.to_owned() + "2026-11-23T10:15:00Z stdout F unfin", true),
            (piece.to_owned() + last, false),
            (piece.to_owned() + &other(last), true),
            (piece.to_owned() + &other(piece) + last, true),
            (piece.to_owned() + &other(piece) + last + &other(last), false),
            (piece.trim_end().to_owned(), false),
            ("\n".to_owned(), false),
            (String::new(), false),
        ];
        for (data, goes_on) in cases {
            assert_eq!(Format::Cri.ends_in_pieces(data.as_bytes()), goes_on, "{data:?}");
            assert!(!Format::Text.ends_in_pieces(data.as_bytes()));
        }
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(cut("aé".as_bytes(), 2), b"a");
        assert_eq!(cut("aé".as_bytes(), 3), "aé".as_bytes());
        assert_eq!(cut(b"abc", 2), b"ab");
        assert_eq!(cut(&[0x80; 10], 5), [0x80; 5]);
        assert_eq!(cut("é".as_bytes(), 1), b"");
    }
}
