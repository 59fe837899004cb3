//! Reading what the sinks wrote, and checking numbered records: which are missing, which came twice.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The bytes of an output file; `.gz` and `.zst` are unpacked as far as they are whole.
pub fn read_output(path: &Path) -> Vec<u8> {
    let raw = fs::read(path).unwrap_or_default();
    let mut out = Vec::new();
    match path.extension().and_then(|ext| ext.to_str()) {
        Some("gz") => {
            let _ = flate2::read::MultiGzDecoder::new(raw.as_slice()).read_to_end(&mut out);
        }
        Some("zst") => {
            let mut decoder = zstd::Decoder::new(raw.as_slice()).expect("a decoder can be made");
            let _ = decoder.read_to_end(&mut out);
        }
        _ => out = raw,
    }
    out
}

/// Every file under a folder, in the order of their names.
pub fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of a file, or of every file under a folder, as text. Each must be valid UTF-8 and end in a line feed.
pub fn lines(path: &Path) -> Vec<String> {
    let paths = if path.is_dir() { files_under(path) } else { vec![path.to_owned()] };
    let mut lines = Vec::new();
    for path in paths {
        let text = String::from_utf8(read_output(&path)).expect("output is UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "{} does not end in a whole line", path.display());
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

/// The records of a file, or of every file under a folder. Each line must be a JSON object.
pub fn records(path: &Path) -> Vec<Value> {
    lines(path).iter().map(|line| parse(line)).collect()
}

/// The records of the whole lines of a file that is being written: a read may see a part of a write.
pub fn records_so_far(path: &Path) -> Vec<Value> {
    let bytes = read_output(path);
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&bytes[..whole]).expect("output is UTF-8");
    text.lines().map(parse).collect()
}

/// How many whole lines there are, without looking into them; for waiting.
pub fn line_count(path: &Path) -> usize {
    let paths = if path.is_dir() { files_under(path) } else { vec![path.to_owned()] };
    paths.iter().map(|path| read_output(path).iter().filter(|byte| **byte == b'\n').count()).sum()
}

/// One NDJSON line.
pub fn parse(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the line {line:.300}"));
    assert!(value.is_object(), "a record is an object: {line:.300}");
    value
}

/// Checks that the records of each `stream of numbers` are exactly 0 to its count, each once.
pub fn assert_each_once(records: &[Value], stream_key: &str, number_key: &str, expected: &BTreeMap<String, u64>) {
    let found = Numbers::of(records, stream_key, number_key);
    let gaps = found.missing(expected);
    let twice = found.duplicates();
    assert!(gaps.is_empty() && twice.is_empty(), "missing: {gaps:?}; more than once: {twice:?}");
    let total: u64 = expected.values().sum();
    assert_eq!(records.len() as u64, total, "records that belong to nobody came out");
}

/// How often each number of each stream came.
#[derive(Debug, Default)]
pub struct Numbers(BTreeMap<String, BTreeMap<u64, u64>>);

impl Numbers {
    /// Counts the records by two of their fields; a dotted key looks into an object. Others are left out.
    pub fn of(records: &[Value], stream_key: &str, number_key: &str) -> Numbers {
        let mut numbers = Numbers::default();
        for record in records {
            let stream = at(record, stream_key).and_then(Value::as_str).unwrap_or_default().to_owned();
            if let Some(number) = at(record, number_key).and_then(Value::as_u64) {
                *numbers.0.entry(stream).or_default().entry(number).or_default() += 1;
            }
        }
        numbers
    }

    /// For each stream, how many of 0..count are not there, and the first ten of them.
    pub fn missing(&self, expected: &BTreeMap<String, u64>) -> Vec<(String, usize, Vec<u64>)> {
        let empty = BTreeMap::new();
        let of = |(stream, count): (&String, &u64)| {
            let have = self.0.get(stream).unwrap_or(&empty);
            let gaps: Vec<u64> = (0..*count).filter(|number| !have.contains_key(number)).collect();
            (!gaps.is_empty()).then(|| (stream.clone(), gaps.len(), gaps.into_iter().take(10).collect()))
        };
        expected.iter().filter_map(of).collect()
    }

    /// For each stream, how many came more often than once, and the first ten of them.
    pub fn duplicates(&self) -> Vec<(String, usize, Vec<u64>)> {
        let of = |(stream, counts): (&String, &BTreeMap<u64, u64>)| {
            let twice: Vec<u64> = counts.iter().filter(|(_, n)| **n > 1).map(|(number, _)| *number).collect();
            (!twice.is_empty()).then(|| (stream.clone(), twice.len(), twice.into_iter().take(10).collect()))
        };
        self.0.iter().filter_map(of).collect()
    }

    /// How many records were delivered beyond the first time.
    pub fn repeats(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).map(|count| count - 1).sum()
    }
}

/// A field by dotted path.
pub fn at<'v>(record: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(record, |value, key| value.get(key))
}
