//! What came out, against what went in: every line is parsed as JSON by a reader that is not our own, finds its record
//! by its number, and has to have that record's fields; what stands behind a later record of its source is counted. The
//! same for every shipper.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind};
use std::path::Path;

use serde_json::{Map, Value};

use super::measure::Task;

/// How the output of one run looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Records that are not there.
    pub missing: u64,
    /// Lines of a record that was there already.
    pub twice: u64,
    /// Lines that are no JSON, have no known number, or other fields than the record.
    pub wrong: u64,
    /// Records behind a later one of the same container, file or connection.
    pub disordered: u64,
}

impl Verdict {
    /// Adds another one.
    pub fn add(&mut self, other: Verdict) {
        self.missing += other.missing;
        self.twice += other.twice;
        self.wrong += other.wrong;
        self.disordered += other.disordered;
    }
}

/// What was found in one output.
#[derive(Clone, Debug)]
pub struct Found {
    /// How it looks.
    pub verdict: Verdict,
    /// Records that the clock ran for and that are there as they should be, each once.
    pub arrived: u64,
    /// A line that is wrong.
    pub example: Option<String>,
}

/// Checks an output that has to hold the records `0..records`; the clock ran for those of the task among them.
pub fn verify(path: &Path, task: &Task, records: u64) -> io::Result<Found> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let verdict = Verdict { missing: records, ..Verdict::default() };
            return Ok(Found { verdict, arrived: 0, example: None });
        }
        Err(error) => return Err(error),
    };
    let mut seen = vec![false; usize::try_from(records).map_err(io::Error::other)?];
    let (mut verdict, mut example) = (Verdict::default(), None);
    let source = task.sources();
    let mut latest: HashMap<u64, u64> = HashMap::new();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    while {
        line.clear();
        reader.read_until(b'\n', &mut line)? > 0
    } {
        let fields = serde_json::from_slice::<Map<String, Value>>(&line).unwrap_or_default();
        let place = number_of(&fields).and_then(|seq| Some((seq, seen.get_mut(usize::try_from(seq).ok()?)?)));
        let good = place.as_ref().is_some_and(|(seq, _)| holds(&fields, &task.work.expected(&task.recipe, *seq)));
        match place {
            Some((_, seen)) if good && *seen => verdict.twice += 1,
            Some((seq, seen)) if good => {
                *seen = true;
                if let Some(source) = source(seq) {
                    let last = latest.entry(source).or_insert(seq);
                    verdict.disordered += u64::from(seq < *last);
                    *last = seq.max(*last);
                }
            }
            _ => {
                verdict.wrong += 1;
                let start = &line[..line.len().min(400)];
                example.get_or_insert_with(|| String::from_utf8_lossy(start).trim_end().to_owned());
            }
        }
    }
    let there = |all: &[bool]| all.iter().filter(|seen| **seen).count() as u64;
    verdict.missing = records - there(&seen);
    let clocked = seen.len().min(usize::try_from(task.records).map_err(io::Error::other)?);
    Ok(Found { verdict, arrived: there(&seen[..clocked]), example })
}

/// The number of a record: a field of its own, or at the start of a text.
fn number_of(fields: &Map<String, Value>) -> Option<u64> {
    match fields.get("seq") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(number) => number.as_u64(),
        None => {
            let text = fields.get("log")?.as_str()?.strip_prefix("seq=")?;
            text.split(' ').next()?.parse().ok()
        }
    }
}

/// The same number anywhere in an encoded line, without parsing it: for when it arrived, and whether for the first time.
pub fn number_in(line: &[u8]) -> Option<u64> {
    // The letters may stand in a path or a name before it.
    memchr::memmem::find_iter(line, b"seq").find_map(|at| number_behind(&line[at + 3..]))
}

/// The number at the start of what follows `seq`.
fn number_behind(text: &[u8]) -> Option<u64> {
    let digits = match text.strip_prefix(b"=") {
        Some(digits) => digits,
        None => {
            let value = text.strip_prefix(b"\"")?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
            value.strip_prefix(b"\"").unwrap_or(value)
        }
    };
    let len = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..len]).ok()?.parse().ok()
}

fn holds(fields: &Map<String, Value>, expected: &Map<String, Value>) -> bool {
    !expected.is_empty() && expected.iter().all(|(key, value)| fields.get(key).is_some_and(|found| same(found, value)))
}

/// Whether two values are the same record content. `12` and `12.0` are; so is a text with the line break that Docker
/// puts behind it.
fn same(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::String(a), Value::String(b)) => a == b || a.strip_suffix('\n') == Some(b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && holds(a, b),
        _ => found == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate::{Recipe, Shape};
    use super::super::work::Work;
    use super::*;

    const RECIPE: Recipe = Recipe { shape: Shape::Normal, line_size: None };

    /// Each record is of a container of its own.
    fn check(lines: &[String], records: u64) -> Verdict {
        check_of(lines, records, records as usize)
    }

    fn check_of(lines: &[String], records: u64, containers: usize) -> Verdict {
        found(lines, records, records, containers).verdict
    }

    /// The first `clocked` of the records are those that the clock ran for.
    fn found(lines: &[String], records: u64, clocked: u64, containers: usize) -> Found {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("out");
        std::fs::write(&path, lines.concat()).expect("written");
        let task = Task {
            work: Work::DockerFile,
            recipe: RECIPE,
            records: clocked,
            containers,
            connections: 1,
            sinks: 1,
            readers: None,
            cores: None,
            rate: 1.0,
            trickle: 0,
            dir: dir.path().to_owned(),
        };
        verify(&path, &task, records).expect("read")
    }

    fn told(missing: u64, twice: u64, wrong: u64) -> Verdict {
        Verdict { missing, twice, wrong, disordered: 0 }
    }

    fn line(seq: u64) -> String {
        format!("{}\n", Value::Object(Work::DockerFile.expected(&RECIPE, seq)))
    }

    #[test]
    fn missing_repeated_and_changed_records_are_told_apart() {
        assert_eq!(check(&[line(0), line(1), line(2)], 3), Verdict::default());
        assert_eq!(check(&[line(2), line(0), line(2)], 3), told(1, 1, 0));
        let changed = line(1).replace("request handled", "request mangled");
        assert_eq!(check(&[line(0), changed], 2), told(1, 0, 1));
        let unparsed = "{\"log\":\"{\\\"seq\\\":1}\\n\"}\n".to_owned();
        assert_eq!(check(&[line(0), unparsed], 2), told(1, 0, 1));
        assert_eq!(check(&[line(0), "{\"seq\":".to_owned()], 1), told(0, 0, 1));
        for field in ["stream", "time"] {
            let lost = line(1).replace(&format!("\"{field}\":"), "\"lost\":");
            assert_eq!(check(&[line(0), lost], 2), told(1, 0, 1), "{field}");
        }
        assert_eq!(check(&[line(5)], 2), told(2, 0, 1));
    }

    #[test]
    fn what_is_wrong_or_repeated_or_came_behind_the_clock_has_not_arrived() {
        let changed = line(1).replace("request handled", "request mangled");
        let found = found(&[line(0), changed, line(2), line(2), line(4)], 5, 4, 5);
        assert_eq!((found.arrived, found.verdict), (2, told(2, 1, 1)));
        assert!(found.example.is_some_and(|example| example.contains("request mangled")));
    }

    #[test]
    fn records_of_one_container_have_an_order_and_repeated_ones_have_none() {
        let lines = [0, 3, 1, 2, 5, 4].map(line);
        assert_eq!(check_of(&lines, 6, 2), Verdict { disordered: 1, ..Verdict::default() }, "1 behind 3");
        assert_eq!(
            check_of(&lines, 6, 1),
            Verdict { disordered: 3, ..Verdict::default() },
            "1 and 2 behind 3, 4 behind 5"
        );
        assert_eq!(check_of(&[0, 1, 2, 1, 2, 3].map(line), 4, 1), Verdict { twice: 2, ..Verdict::default() });
    }

    #[test]
    fn numbers_and_texts_may_be_written_in_another_way() {
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert!(same(&value("12.0"), &value("12")));
        assert!(!same(&value("12.5"), &value("12")));
        assert!(same(&value("\"a\\n\""), &value("\"a\"")));
        assert!(same(&value("\"a\\n\""), &value("\"a\\n\"")), "one of its own");
        assert!(!same(&value("{\"a\":1,\"b\":2}"), &value("{\"a\":1}")));
    }

    #[test]
    fn the_number_is_found_in_any_encoding() {
        for (line, seq) in [
            ("{\"seq\":12,\"a\":1}", Some(12)),
            ("{\"a\":1,\"seq\": \"13\"}", Some(13)),
            ("{\"seq\":\"14\"}", Some(14)),
            ("{\"log\":\"seq=15 x\"}", Some(15)),
            ("{\"file\":\"/sequel/seq=/a\",\"seq\" : 16}", Some(16)),
            ("{\"unseq\":\"x\",\"log\":\"no number\"}", None),
            ("{}", None),
        ] {
            assert_eq!(number_in(line.as_bytes()), seq, "{line}");
        }
    }
}
