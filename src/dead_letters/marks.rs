//! Which letters were sent again: `SENT` in their folder, JSON, replaced as a whole. Kept apart from the log's cursor, so
//! that a replay works beside a running node, which owns the log.
//!
//! ```text
//! {"log":"00112233445566778899aabbccddeeff","sinks":{"central":[[1,40],[43,90]]}}
//! ```
//!
//! Numbers from..=to, of one sink's letters; those of other sinks in between do not count. A file of another log, or a
//! damaged one, says nothing: then letters are shown, and sent, once more.
//!
//! Limits: [`RANGES_MAX`] ranges a sink; beyond that the newest ones are forgotten, and come again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::buffer::Lsn;
use crate::lock;

const FILE: &str = "SENT";
const LOCK: &str = "SENT.lock";
/// Letters that are refused again part the ranges.
const RANGES_MAX: usize = 10_000;
const BYTES_MAX: u64 = 16 << 20;

/// What was sent again, by sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    log: String,
    sinks: BTreeMap<String, Vec<(Lsn, Lsn)>>,
}

impl Marks {
    /// Reads the file of the log with that id.
    pub fn load(dir: &Path, id: [u8; 16]) -> Marks {
        let log: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = dir.join(FILE);
        let small = path.metadata().is_ok_and(|file| file.len() <= BYTES_MAX);
        let text = if small { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        let mut marks = Marks { log, sinks: BTreeMap::new() };
        let Some(sinks) = value["sinks"].as_object().filter(|_| value["log"] == marks.log.as_str()) else {
            return marks;
        };
        for (sink, ranges) in sinks {
            let range = |range: &Value| Some((range[0].as_u64()?, range[1].as_u64()?));
            let mut ranges: Vec<_> = ranges.as_array().into_iter().flatten().filter_map(range).collect();
            ranges.sort_unstable();
            marks.sinks.insert(sink.clone(), ranges);
        }
        marks
    }

    /// Whether the letter was sent again.
    pub fn is_sent(&self, sink: &str, number: Lsn) -> bool {
        let Some(ranges) = self.sinks.get(sink) else { return false };
        let at = ranges.partition_point(|(from, _)| *from <= number);
        at > 0 && ranges[at - 1].1 >= number
    }

    /// Takes over what became of a sink's letters, in their order: (number, sent again). They are all that were not sent
    /// again before.
    pub fn note(&mut self, sink: &str, letters: &[(Lsn, bool)]) {
        let mut ranges = self.sinks.remove(sink).unwrap_or_default();
        // What comes right after the last range belongs to it.
        let first = letters.first().map_or(0, |(number, _)| *number);
        let mut open = ranges.last().is_some_and(|(_, to)| *to < first);
        for (number, sent) in letters {
            match ranges.last_mut() {
                Some(last) if *sent && open => last.1 = *number,
                _ if *sent => ranges.push((*number, *number)),
                _ => {}
            }
            open = *sent;
        }
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let within = next.0 <= last.1;
            last.1 = if within { last.1.max(next.1) } else { last.1 };
            within
        });
        ranges.truncate(RANGES_MAX);
        self.sinks.insert(sink.to_owned(), ranges);
    }

    /// Saves it: all or nothing, and durable when this returns.
    ///
    /// # Errors
    /// The disk says so.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let text = json!({ "log": self.log, "sinks": self.sinks }).to_string();
        let new = dir.join("SENT.new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&new, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }

    /// Held while letters are sent again: two replays would send them twice.
    ///
    /// # Errors
    /// Another one is at it, or the folder can not be written.
    pub fn lock(dir: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))?;
        if !lock::take(&file)? {
            let message = "another replay of these dead letters is under way";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_span_the_letters_of_other_sinks_but_not_those_that_were_refused_again() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let mut marks = Marks::load(dir.path(), [1; 16]);
        marks.note("a", &[(1, true), (4, true), (5, false), (9, true)]);
        marks.note("b", &[(2, true)]);
        marks.save(dir.path()).expect("saved");
        let again = Marks::load(dir.path(), [1; 16]);
        assert_eq!(again, marks);
        let sent: Vec<Lsn> = (0..12).filter(|number| again.is_sent("a", *number)).collect();
        assert_eq!(sent, [1, 2, 3, 4, 9]);
        assert!(again.is_sent("b", 2) && !again.is_sent("b", 1) && !again.is_sent("c", 1));
        let mut later = again;
        later.note("a", &[(5, true), (12, true), (13, false)]);
        later.note("a", &[(13, true), (15, true)]);
        assert_eq!(later.sinks["a"].len(), 2, "{later:?}");
        assert!([1, 4, 5, 9, 12, 13, 15].into_iter().all(|number| later.is_sent("a", number)));
        assert!(!Marks::load(dir.path(), [2; 16]).is_sent("a", 1), "another log");
    }

    #[test]
    fn a_damaged_file_says_nothing_and_a_second_replay_is_refused() {
        let dir = tempfile::tempdir().expect("a temp dir");
        for text in [
            "",
            "{",
            "[]",
            r#"{"log":"01","sinks":[1]}"#,
            r#"{"log":"00000000000000000000000000000000","sinks":{"a":[[9]]}}"#,
        ] {
            std::fs::write(dir.path().join(FILE), text).expect("written");
            assert!(!Marks::load(dir.path(), [0; 16]).is_sent("a", 9), "{text}");
        }
        let held = Marks::lock(dir.path()).expect("free");
        let error = Marks::lock(dir.path()).expect_err("held");
        assert!(error.to_string().contains("under way"));
        drop(held);
        Marks::lock(dir.path()).expect("free again");
    }
}
