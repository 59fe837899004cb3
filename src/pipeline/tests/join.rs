//! Joining by every rule: interleaved streams, lines over several batches, exact multiples, orphans, limits.

use std::sync::{Arc, Mutex, PoisonError};

use super::*;
use crate::batch::{Outcome, Receipt, Waiter};
use crate::codec::docker_json;
use crate::pipeline::Lane;
use crate::pipeline::join::{LANE_LINES, Limits};

const JOIN: &str = r#"{ join = "docker_partial" }"#;
const FULL: usize = 16_384;

/// One line of a json-file log as its codec leaves it: pieces escaped, whole lines unescaped and without line break.
#[derive(Clone)]
struct Line {
    log: String,
    partial: bool,
    stream: Stream,
    time: &'static str,
}

fn piece(log: &str, stream: Stream, time: &'static str) -> Line {
    Line { log: log.to_owned(), partial: true, stream, time }
}

fn whole(log: &str, stream: Stream, time: &'static str) -> Line {
    Line { partial: false, ..piece(log, stream, time) }
}

use Stream::{Stderr, Stdout};

/// A batch of lines, each 100 bytes of the file.
fn docker(base: u64, lines: &[Line]) -> Batch {
    let mut batch = empty();
    batch.base = base;
    let tag = batch.tag_index("docker.web").expect("room");
    for (at, line) in lines.iter().enumerate() {
        let mark = batch.fields_mark();
        let (key, log) = (batch.push_bytes(b"log"), batch.push_bytes(line.log.as_bytes()));
        batch.push_field(Field::new(key, if line.partial { Form::JsonStr } else { Form::Text }, log));
        let (key, value) = (batch.push_bytes(b"attrs"), batch.push_bytes(format!("{{\"n\":{at}}}").as_bytes()));
        batch.push_field(Field::new(key, Form::Json, value));
        let time_text = batch.push_bytes(line.time.as_bytes());
        let head = RowHead::at(Timestamp::UNREAD, tag);
        batch.push_row(
            mark,
            RowHead { time_text, pos: 100 * at as u32, stream: line.stream, partial: line.partial, ..head },
        );
    }
    batch
}

/// Position, time, stream and log of each record.
fn seen(batch: &Batch) -> Vec<(u64, String, &'static str, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let row = |at: usize| {
        let row = batch.row(at);
        let log = batch.find(at, b"log").map_or(String::new(), |field| text(batch.bytes(field.value)));
        (batch.base + u64::from(row.pos), text(batch.bytes(row.time_text)), row.stream.name().unwrap_or(""), log)
    };
    (0..batch.len()).map(row).collect()
}

fn entry(pos: u64, time: &str, stream: &'static str, log: &str) -> (u64, String, &'static str, String) {
    (pos, time.to_owned(), stream, log.to_owned())
}

fn apply(pipeline: &Pipeline, lane: &mut Lane, mut batch: Batch) -> Batch {
    pipeline.apply(lane, &mut batch, NOW);
    batch
}

#[test]
fn docker_pieces_of_interleaved_streams_are_joined_where_the_last_one_was() {
    let (pipeline, a, b) = (pipeline(JOIN), "a".repeat(FULL), "b".repeat(FULL));
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    let batch = docker(
        1000,
        &[
            whole("first", Stdout, "T0"),
            piece(&a, Stdout, "T1"),
            piece(&b, Stderr, "T2"),
            piece(&a, Stdout, "T1"),
            whole("between", Stream::None, "T3"),
            whole("end b", Stderr, "T2"),
            whole("end a", Stdout, "T1"),
            whole("last", Stdout, "T4"),
        ],
    );
    let batch = apply(&pipeline, &mut lane, batch);
    assert_eq!(
        seen(&batch),
        [
            entry(1000, "T0", "stdout", "first"),
            entry(1400, "T3", "", "between"),
            entry(1200, "T2", "stderr", &format!("{b}end b")),
            entry(1100, "T1", "stdout", &format!("{a}{a}end a")),
            entry(1700, "T4", "stdout", "last"),
        ]
    );
    assert_eq!((odd(&batch, Oddity::Piece), odd(&batch, Oddity::PartialOrphan), batch.tally.received), (5, 0, 5));
    assert_eq!(batch.value(batch.find(3, b"attrs").expect("kept")).bytes, b"{\"n\":1}", "fields of the first piece");
    assert!(!lane.is_waiting() && lane.hold().is_none());
}

#[test]
fn a_line_over_three_batches_holds_its_first_position_and_is_joined_in_the_last() {
    let (pipeline, a) = (pipeline(JOIN), "a".repeat(FULL));
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    let first = apply(&pipeline, &mut lane, docker(0, &[whole("x", Stdout, "T0"), piece(&a, Stdout, "T1")]));
    assert_eq!((first.len(), lane.hold()), (1, Some(100)));
    let second = apply(&pipeline, &mut lane, docker(5000, &[piece(&a, Stdout, "T1"), whole("y", Stderr, "T2")]));
    assert_eq!((seen(&second), lane.hold()), (vec![entry(5100, "T2", "stderr", "y")], Some(100)));
    let third = apply(&pipeline, &mut lane, docker(9000, &[whole("z", Stdout, "T1"), whole("w", Stdout, "T3")]));
    assert_eq!(seen(&third), [entry(100, "T1", "stdout", &format!("{a}{a}z")), entry(9100, "T3", "stdout", "w")]);
    assert_eq!(lane.hold(), None);
}

#[test]
fn what_waits_is_paid_for_from_the_budget() {
    let (pipeline, budget) = (pipeline(JOIN), Budget::new(1 << 20));
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    let mut batch = Batch::new(budget.empty_permit(), 0, Arc::default());
    let filled = docker(0, &[piece(&"a".repeat(FULL), Stdout, "T1")]);
    let tag = batch.tag_index("t").expect("room");
    let mark = batch.fields_mark();
    let (key, log) = (batch.push_bytes(b"log"), batch.push_bytes(filled.value(&filled.fields(0)[0]).bytes));
    batch.push_field(Field::new(key, Form::JsonStr, log));
    batch.push_row(mark, RowHead { partial: true, ..RowHead::at(NOW, tag) });
    pipeline.apply(&mut lane, &mut batch, NOW);
    drop(batch);
    assert!(budget.used() >= FULL, "{}", budget.used());
    drop(lane);
    assert_eq!(budget.used(), 0);
}

#[test]
fn an_exact_multiple_ends_with_an_empty_record() {
    let (pipeline, a) = (pipeline(JOIN), "a".repeat(FULL));
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    let batch = docker(0, &[piece(&a, Stdout, "T1"), whole("", Stdout, "T1"), whole("", Stdout, "T2")]);
    let batch = apply(&pipeline, &mut lane, batch);
    assert_eq!(seen(&batch), [entry(0, "T1", "stdout", &a), entry(200, "T2", "stdout", "")]);
    // The line break was "\r\n", cut in two by the limit.
    let returned = format!("{}\\r", &a[1..]);
    let batch = apply(&pipeline, &mut lane, docker(0, &[piece(&returned, Stdout, "T1"), whole("", Stdout, "T1")]));
    assert_eq!(seen(&batch), [entry(0, "T1", "stdout", &a[1..])]);
}

#[test]
fn a_piece_is_measured_in_source_bytes() {
    let pipeline = pipeline(JOIN);
    // As Docker escapes them: 1, 1, 1, 3 and (raw) 2 and 3 source bytes; a lost byte is 1.
    let escaped = [(r"\u003c", 1), (r"\n", 1), (r#"\""#, 1), (r"\u2028", 3), ("é", 2), ("\u{fffd}", 3), (r"\ufffd", 1)];
    for (unit, bytes) in escaped {
        let exact = format!("{}{}", unit.repeat(FULL / bytes), "a".repeat(FULL % bytes));
        let mut lane = pipeline.lane(JoinRule::DockerFile);
        let batch = apply(&pipeline, &mut lane, docker(0, &[piece(&exact, Stdout, "T1")]));
        assert_eq!((batch.len(), lane.is_waiting()), (0, true), "{unit}");
        let batch = apply(&pipeline, &mut lane, docker(0, &[whole("end", Stdout, "T1")]));
        let expected: String = serde_json::from_str(&format!("\"{exact}end\"")).expect("JSON");
        assert_eq!(seen(&batch)[0].3, expected, "{unit}");
    }
}

#[test]
fn unterminated_output_goes_on_by_itself() {
    let (pipeline, a) = (pipeline(JOIN), "a".repeat(FULL));
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    // A short piece is the end of a process: nothing can follow it.
    let batch = apply(&pipeline, &mut lane, docker(0, &[piece("no newline", Stdout, "T1"), whole("x", Stdout, "T1")]));
    assert_eq!(seen(&batch), [entry(0, "T1", "stdout", "no newline"), entry(100, "T1", "stdout", "x")]);
    assert_eq!((odd(&batch, Oddity::PartialOrphan), lane.is_waiting()), (0, false));
    // So is a short last piece.
    let batch = apply(&pipeline, &mut lane, docker(0, &[piece(&a, Stdout, "T1"), piece("end", Stdout, "T1")]));
    assert_eq!(seen(&batch), [entry(0, "T1", "stdout", &format!("{a}end"))]);
    assert!(!lane.is_waiting());
    // A full piece, then another time: the container was restarted.
    let batch = docker(0, &[piece(&a, Stdout, "T1"), whole("err", Stderr, "T1"), whole("new", Stdout, "T9")]);
    let batch = apply(&pipeline, &mut lane, batch);
    let expected = [entry(100, "T1", "stderr", "err"), entry(0, "T1", "stdout", &a), entry(200, "T9", "stdout", "new")];
    assert_eq!((seen(&batch), odd(&batch, Oddity::PartialOrphan)), (expected.to_vec(), 1));
    // And another full piece starts the next line.
    let batch = docker(0, &[piece(&a, Stdout, "T1"), piece(&a, Stdout, "T2"), whole("b", Stdout, "T2")]);
    let batch = apply(&pipeline, &mut lane, batch);
    assert_eq!(seen(&batch), [entry(0, "T1", "stdout", &a), entry(100, "T2", "stdout", &format!("{a}b"))]);
}

#[test]
fn flush_makes_records_of_what_waits_and_the_other_steps_see_them() {
    let pipeline = pipeline(&format!("{JOIN}, {{ parse = \"json\" }}, {{ set = {{ x = 1 }} }}"));
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    let text = format!(r#"{{\"pad\":\"{}\"}}"#, "p".repeat(FULL - 10));
    let batch =
        apply(&pipeline, &mut lane, docker(700, &[piece(&text, Stdout, "T1"), piece(&"b".repeat(FULL), Stderr, "T1")]));
    assert_eq!((batch.len(), batch.tally.received, lane.hold()), (0, 0, Some(700)));
    let mut last = empty();
    pipeline.flush(&mut lane, &mut last, NOW);
    assert_eq!((last.base, last.len(), last.tally.received, odd(&last, Oddity::PartialOrphan)), (700, 2, 2, 2));
    assert!(last.find(0, b"pad").is_some() && last.find(1, b"x").is_some());
    assert_eq!((lane.is_waiting(), last.row(1).pos), (false, 100));
}

#[test]
fn a_line_beyond_the_limit_goes_on_in_parts_and_loses_nothing() {
    let (pipeline, a) = (pipeline(JOIN), "a".repeat(FULL));
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    let line_max = Limits::default().line_max;
    let mut lines = vec![piece(&a, Stdout, "T1"); 2 * line_max / FULL + 1];
    lines.push(whole("end", Stdout, "T1"));
    let (mut total, mut records, mut unjoined) = (0, 0, 0);
    for part in lines.chunks(10) {
        let batch = apply(&pipeline, &mut lane, docker(0, part));
        let found = seen(&batch);
        assert!(found.iter().all(|(_, _, _, log)| log.len() <= line_max));
        total += found.iter().map(|(_, _, _, log)| log.len()).sum::<usize>();
        records += found.len();
        unjoined += odd(&batch, Oddity::PartialUnjoined);
    }
    assert_eq!((total, records, unjoined), (2 * line_max + FULL + 3, 3, 2));
}

#[test]
fn match_chooses_the_tags_and_without_the_step_only_cri_is_joined() {
    let a = "a".repeat(FULL);
    let lines = [piece(&a, Stdout, "T1"), whole("x", Stdout, "T1")];
    let cases = [
        (JOIN, JoinRule::DockerFile, 1),
        (r#"{ join = "docker_partial", match = "docker.*" }"#, JoinRule::DockerFile, 1),
        (r#"{ join = "docker_partial", match = "other" }"#, JoinRule::DockerFile, 2),
        ("", JoinRule::DockerFile, 2),
        ("", JoinRule::Cri, 1),
        ("", JoinRule::None, 2),
    ];
    for (steps, rule, records) in cases {
        let pipeline = pipeline(steps);
        let batch = apply(&pipeline, &mut pipeline.lane(rule), docker(0, &lines));
        assert_eq!((batch.len(), batch.tally.received), (records, records as u32), "{steps} {rule:?}");
    }
}

#[test]
fn cri_pieces_of_any_size_and_time_are_joined_up_to_the_end() {
    let pipeline = pipeline("");
    let mut lane = pipeline.lane(JoinRule::Cri);
    let first = [piece("a", Stdout, "T1"), piece("b", Stderr, "T1"), piece("", Stdout, "T2"), whole("c", Stdout, "T3")];
    let batch = apply(&pipeline, &mut lane, docker(0, &first));
    assert_eq!((seen(&batch), lane.hold()), (vec![entry(0, "T1", "stdout", "ac")], Some(100)));
    let batch = apply(&pipeline, &mut lane, docker(400, &[whole("", Stderr, "T4")]));
    assert_eq!(seen(&batch), [entry(100, "T1", "stderr", "b")]);
}

// --- The forward protocol.

struct Note(Arc<Mutex<Vec<(u32, Outcome)>>>, u32);

impl Waiter for Note {
    fn settled(&self, worst: Outcome) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((self.1, worst));
    }
}

/// A message as Docker's driver sends it; `part` is id, ordinal and whether it is the last.
fn message(batch: &mut Batch, log: &[u8], part: Option<(&str, &str, bool)>) {
    let tag = batch.tag_index("api.web").expect("room");
    let mark = batch.fields_mark();
    let mut add = |key: &[u8], value: &[u8]| {
        let (key, value) = (batch.push_bytes(key), batch.push_bytes(value));
        batch.push_field(Field::new(key, Form::Text, value));
    };
    if let Some((id, ordinal, last)) = part {
        add(b"partial_last", if last { b"true" } else { b"false" });
        add(b"partial_id", id.as_bytes());
        add(b"partial_message", b"true");
        add(b"partial_ordinal", ordinal.as_bytes());
    }
    add(b"log", log);
    add(b"source", b"stdout");
    batch.push_row(mark, RowHead::at(NOW, tag));
}

#[test]
fn forward_pieces_are_joined_by_id_with_all_their_receipts() {
    let pipeline = pipeline(JOIN);
    let mut lane = pipeline.lane(JoinRule::Forward);
    let settled = Arc::new(Mutex::new(Vec::new()));
    let mut batches = Vec::new();
    for number in 0..3 {
        let mut batch = empty();
        match number {
            0 => {
                message(&mut batch, b"caf\xc3", Some(("A", "1", false)));
                message(&mut batch, b"x", Some(("B", "1", false)));
                message(&mut batch, b"plain", None);
            }
            1 => message(&mut batch, b"\xa9 ", Some(("A", "2", false))),
            _ => message(&mut batch, b"", Some(("A", "3", true))),
        }
        batch.receipts.push(Receipt::new(Box::new(Note(Arc::clone(&settled), number))));
        pipeline.apply(&mut lane, &mut batch, NOW);
        batches.push(batch);
    }
    let logs: Vec<usize> = batches.iter().map(Batch::len).collect();
    assert_eq!(logs, [1, 0, 1]);
    assert_eq!(lines(&batches[2], NONE), [r#"{"log":"café ","source":"stdout"}"#]);
    assert_eq!((lane.hold(), lane.is_waiting(), lane.waiting_since()), (None, true, Some(NOW)));
    for (at, batch) in batches.iter_mut().enumerate() {
        let receipts = std::mem::take(&mut batch.receipts);
        assert_eq!(receipts.0.len(), [1, 1, 3][at], "its own and those of its pieces");
        receipts.settle(Outcome::Delivered);
    }
    // B still waits and holds the first batch only.
    settled.lock().expect("not poisoned").sort_by_key(|(number, _)| *number);
    assert_eq!(*settled.lock().expect("not poisoned"), [(1, Outcome::Delivered), (2, Outcome::Delivered)]);
    let mut last = empty();
    pipeline.flush(&mut lane, &mut last, NOW);
    assert_eq!((lines(&last, NONE), last.receipts.0.len()), (vec![r#"{"log":"x","source":"stdout"}"#.to_owned()], 1));
    std::mem::take(&mut last.receipts).settle(Outcome::Delivered);
    assert_eq!(settled.lock().expect("not poisoned").last(), Some(&(0, Outcome::Delivered)));
}

#[test]
fn a_lane_that_ends_with_waiting_pieces_says_not_delivered() {
    let (pipeline, settled) = (pipeline(JOIN), Arc::new(Mutex::new(Vec::new())));
    let mut lane = pipeline.lane(JoinRule::Forward);
    let mut batch = empty();
    message(&mut batch, b"x", Some(("B", "1", false)));
    batch.receipts.push(Receipt::new(Box::new(Note(Arc::clone(&settled), 7))));
    pipeline.apply(&mut lane, &mut batch, NOW);
    std::mem::take(&mut batch.receipts).settle(Outcome::Delivered);
    drop(lane);
    assert_eq!(*settled.lock().expect("not poisoned"), [(7, Outcome::NotDelivered)]);
}

#[test]
fn missing_forward_pieces_never_make_a_line_with_a_hole() {
    let pipeline = pipeline(JOIN);
    let mut lane = pipeline.lane(JoinRule::Forward);
    let mut batch = empty();
    message(&mut batch, b"1", Some(("A", "1", false)));
    message(&mut batch, b"3", Some(("A", "3", false)));
    message(&mut batch, b"4", Some(("A", "4", true)));
    message(&mut batch, b"tail", Some(("B", "2", true)));
    message(&mut batch, b"alone", Some(("C", "1", true)));
    pipeline.apply(&mut lane, &mut batch, NOW);
    let logs: Vec<String> = seen(&batch).into_iter().map(|(_, _, _, log)| log).collect();
    assert_eq!(logs, ["1", "34", "tail", "alone"]);
    assert_eq!((odd(&batch, Oddity::PartialOrphan), odd(&batch, Oddity::Piece), lane.is_waiting()), (3, 5, false));
    assert!(lines(&batch, NONE).iter().all(|line| !line.contains("partial")));
}

#[test]
fn forward_pieces_wait_within_limits_of_time_count_and_bytes() {
    let pipeline = pipeline(JOIN);
    let Limits { line_max, lines_max, wait, .. } = Limits::default();
    let mut lane = pipeline.lane(JoinRule::Forward);
    let mut batch = empty();
    for at in 0..lines_max + 10 {
        message(&mut batch, at.to_string().as_bytes(), Some((&format!("id{at}"), "1", false)));
    }
    pipeline.apply(&mut lane, &mut batch, NOW);
    assert_eq!((batch.len(), odd(&batch, Oddity::PartialUnjoined), seen(&batch)[0].3.as_str()), (10, 10, "0"));
    // Thirty seconds later the others go on with whatever comes.
    let mut batch = empty();
    message(&mut batch, b"plain", None);
    pipeline.apply(&mut lane, &mut batch, Timestamp(NOW.0 + wait.as_nanos() as i64 + 1));
    assert_eq!((batch.len(), odd(&batch, Oddity::PartialOrphan)), (lines_max + 1, lines_max as u32));
    assert_eq!(seen(&batch).last().map(|last| last.3.clone()), Some("plain".to_owned()));
    // Bytes.
    let mut batch = empty();
    for at in 0..10 {
        message(&mut batch, &vec![b'x'; 1_000_000], Some((&format!("id{at}"), "1", false)));
    }
    pipeline.apply(&mut lane, &mut batch, NOW);
    let room = LANE_LINES * line_max / 1_000_000;
    assert_eq!((batch.len(), odd(&batch, Oddity::PartialUnjoined) as usize), (10 - room, 10 - room));
}

#[test]
fn the_limits_are_those_of_the_step() {
    let pipeline = pipeline(r#"{ join = "docker_partial", line_max = "20KiB", lines_max = 3, wait = "2s" }"#);
    let mut lane = pipeline.lane(JoinRule::Forward);
    let mut batch = empty();
    for at in 0..5 {
        message(&mut batch, at.to_string().as_bytes(), Some((&format!("id{at}"), "1", false)));
    }
    pipeline.apply(&mut lane, &mut batch, NOW);
    assert_eq!((batch.len(), odd(&batch, Oddity::PartialUnjoined)), (2, 2), "lines");
    let mut batch = empty();
    message(&mut batch, &vec![b'x'; FULL], Some(("id4", "2", false)));
    message(&mut batch, &vec![b'x'; FULL], Some(("id4", "3", false)));
    pipeline.apply(&mut lane, &mut batch, NOW);
    assert_eq!((batch.len(), odd(&batch, Oddity::PartialUnjoined)), (1, 1), "bytes of a line");
    let mut batch = empty();
    pipeline.apply(&mut lane, &mut batch, Timestamp(NOW.0 + 2_000_000_000));
    assert!(lane.is_waiting());
    message(&mut batch, b"plain", None);
    pipeline.apply(&mut lane, &mut batch, Timestamp(NOW.0 + 2_000_000_001));
    assert_eq!((batch.len(), lane.is_waiting()), (4, false), "time");
}

#[test]
fn old_drivers_pieces_without_an_id_go_on_as_they_are() {
    let pipeline = pipeline(JOIN);
    let mut batch = empty();
    push_json(&mut batch, "t", r#"{"log":"x","partial_message":"true"}"#);
    pipeline.apply(&mut pipeline.lane(JoinRule::Forward), &mut batch, NOW);
    assert_eq!(lines(&batch, NONE), [r#"{"log":"x","partial_message":"true"}"#]);
}

// --- From the bytes of a file.

#[test]
fn a_split_json_line_of_a_real_json_file_comes_out_as_its_members() {
    // As Docker writes it: cut every 16,384 source bytes, each part escaped by itself, all with one time.
    let msg = "a<b> \"quoted\" c:\\d\u{1}\t".repeat(4000);
    let source = format!("{{\"msg\":{},\"n\":18446744073709551615}}\n", serde_json::Value::from(msg.as_str()));
    let bytes = source.as_bytes();
    let mut file = Vec::new();
    for part in bytes.chunks(FULL) {
        let text = std::str::from_utf8(part).expect("ASCII");
        let log = serde_json::to_string(text).expect("JSON").replace('<', "\\u003c").replace('>', "\\u003e");
        file.push(format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"2026-11-24T11:00:00.5Z\"}}"));
    }
    assert!(file.len() > 3);
    let pipeline = pipeline(&format!("{JOIN}, {{ parse = \"json\" }}"));
    let (mut lane, mut batch) = (pipeline.lane(JoinRule::DockerFile), empty());
    let tag = batch.tag_index("docker.web").expect("room");
    for line in &file {
        let head = docker_json::LineHead { tag, pos: 0, now: NOW };
        docker_json::decode(line.as_bytes(), head, &mut batch, Default::default());
    }
    pipeline.apply(&mut lane, &mut batch, NOW);
    assert_eq!((batch.len(), odd(&batch, Oddity::NotParsed), lane.is_waiting()), (1, 0, false));
    let line = lines(&batch, Added { stream: true, time: true, ..NONE }).remove(0);
    let got: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(got["n"].to_string(), "18446744073709551615");
    assert_eq!((got["stream"].as_str(), got["time"].as_str()), (Some("stdout"), Some("2026-11-24T11:00:00.5Z")));
    assert_eq!(got["msg"].as_str(), Some(msg.as_str()));
}
