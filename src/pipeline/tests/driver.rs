//! Records of Docker's fluentd driver, from frames to JSON lines: whether `log` is taken apart while they are read or by the
//! step afterwards, the lines and what is counted are the same.

use proptest::prelude::*;

use super::*;
use crate::codec::forward::{Decoder, Limits, Step};
use crate::codec::json::texts::{self, Blanks, Written};

const STEPS: &str = r#"{ join = "docker_partial" }, { parse = "json" }"#;

/// A record of the driver: `log`, and what else it has.
type Record = (Vec<u8>, Vec<(&'static str, &'static str)>);

/// A text of MessagePack.
fn text(text: &[u8]) -> Vec<u8> {
    [&[0xda][..], &(text.len() as u16).to_be_bytes(), text].concat()
}

/// A message: its tag, its time, and a map of encoded values.
fn message(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out =
        [&[0x93, 0xaa], &b"docker.web"[..], &[0xce, 0x65, 0x53, 0xf1, 0x00, 0x80 | pairs.len() as u8]].concat();
    for (key, value) in pairs {
        out.extend(text(key.as_bytes()));
        out.extend_from_slice(value);
    }
    out
}

/// The driver's own fields.
fn own_fields(log: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let own: [(_, &[u8]); 4] =
        [("container_id", b"4f5c"), ("container_name", b"/web"), ("source", b"stderr"), ("log", log)];
    own.into_iter().map(|(key, value)| (key, text(value))).collect()
}

fn frame((log, more): &Record) -> Vec<u8> {
    let mut pairs = own_fields(log);
    pairs.extend(more.iter().map(|(key, value)| (*key, text(value.as_bytes()))));
    message(&pairs)
}

/// What comes of batches of records: lines, what was odd, and how many batches were taken apart as a whole.
fn records(batches: &[&[Record]], apart: bool) -> (Vec<String>, Vec<Vec<u32>>, usize) {
    let frames = |records: &&[Record]| records.iter().map(frame).collect();
    of_frames(batches.iter().map(frames).collect(), apart)
}

fn of_frames(batches: Vec<Vec<Vec<u8>>>, apart: bool) -> (Vec<String>, Vec<Vec<u32>>, usize) {
    let pipeline = pipeline(STEPS);
    assert!(pipeline.takes_log_apart());
    let mut lane = pipeline.lane(JoinRule::Forward);
    let mut decoder = Decoder::new(Limits::default(), true);
    decoder.set_takes_apart(apart);
    let (mut out, mut oddities, mut whole) = (Vec::new(), Vec::new(), 0);
    for frames in batches {
        let mut batch = empty();
        batch.permit_mut().grow(1 << 20);
        let bytes = frames.concat();
        assert_eq!(decoder.decode(&bytes, &mut batch, NOW), (bytes.len(), Step::NeedMore));
        assert_eq!(batch.len(), frames.len());
        pipeline.apply(&mut lane, &mut batch, NOW);
        whole += usize::from(batch.is_whole());
        out.extend(lines(&batch, Added::ALL));
        oddities.push(batch.tally.oddities.to_vec());
    }
    (out, oddities, whole)
}

fn record(log: &str) -> Record {
    (log.as_bytes().to_vec(), vec![])
}

#[test]
fn objects_are_taken_apart_while_they_are_read() {
    let objects = [
        r#"{"a":1}"#,
        r#" {"b" : "x\"y\\z\u00e9" , "c":[1, {"d":null}] } "#,
        r#"{"time":"now","tag":1,"stream":2,"container":{},"file":"f"}"#,
        r#"{"a":1,"a":2,"k\"ey":"é😀"}"#,
        "{\"tab\":\t1,\"container_id\":\"x\",\"source\":\"y\"}",
    ];
    let objects: Vec<Record> = objects.into_iter().map(|text| record(text.trim_start())).collect();
    let (lines, oddities, whole) = records(&[&objects], true);
    let (by_step, odd_by_step, _) = records(&[&objects], false);
    assert_eq!((whole, oddities), (1, odd_by_step));
    // Blanks between tokens, which the step leaves out, are as they were written.
    let values = |lines: &[String]| -> Vec<serde_json::Value> {
        lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert_eq!(values(&lines), values(&by_step));
    assert!(lines[0].starts_with(r#"{"a":1,"stream":"stderr","time":"#), "{}", lines[0]);
    assert!(
        lines[0].contains(r#""container":{"id":"4f5c","name":"web"},"file":"/var/log/x","tag":"docker.web""#),
        "{}",
        lines[0]
    );
}

#[test]
fn what_a_step_has_to_judge_is_left_to_it() {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    let texts = [
        r#"{"log":"inner"}"#,
        r#"{"partial_id":"x","partial_message":"true","partial_last":"true","log":"y"}"#,
        r#"{"partial_id":"x","partial_message":true}"#,
        "{}",
        "{\"a\":\n1}",
        r#"{"a":1"#,
        r#"{"a":1} x"#,
        "[1]",
        "",
        "plain",
        &deep,
    ];
    for text in texts {
        let one = [record(text)];
        let (lines, oddities, _) = records(&[&one], false);
        let (own_lines, own_oddities, whole) = records(&[&one], true);
        assert_eq!((own_lines, own_oddities, whole), (lines, oddities, 0), "{text}");
    }
}

#[test]
fn a_record_whose_fields_are_no_texts_is_left_as_it_is() {
    for at in 0..4 {
        for value in [vec![0xc0], vec![7], vec![0xc4, 1, b'x'], vec![0x80], vec![0xc3]] {
            let mut pairs = own_fields(br#"{"a":1}"#);
            pairs[at].1 = value;
            let frames = vec![vec![message(&pairs)]];
            let lines = of_frames(frames.clone(), false).0;
            assert_eq!(of_frames(frames, true).0, lines, "{}", pairs[at].0);
            // It is not Docker's then, and its fields are fields like others.
            assert!(at == 3 || lines[0].contains(&format!("\"{}\":", pairs[at].0)), "{}", lines[0]);
        }
    }
}

#[test]
fn objects_are_taken_apart_while_a_piece_waits() {
    let piece = |log: &str, ordinal, last| -> Record {
        let own =
            [("partial_message", "true"), ("partial_id", "1"), ("partial_ordinal", ordinal), ("partial_last", last)];
        (log.as_bytes().to_vec(), own.to_vec())
    };
    let (first, last) = ([piece(r#"{"long":"#, "1", "false")], [piece("1}", "2", "true"), record(r#"{"c":3}"#)]);
    let between = [record(r#"{"a":1}"#), record(r#"{"b":2}"#)];
    let batches = [&first[..], &between, &last];
    let (lines, oddities, whole) = records(&batches, true);
    assert_eq!((&lines, &oddities), (&records(&batches, false).0, &records(&batches, false).1));
    assert!(lines.len() == 4 && lines[2].starts_with(r#"{"long":1,"#), "{lines:?}");
    assert_eq!(whole, 1, "the one between");
}

fn any_record() -> impl Strategy<Value = Record> {
    const OBJECT: &[u8] = br#"{"level":"info","n":5,"o":{"p":[1,2]},"msg":"a \"b\" c"}"#;
    const TEXTS: [&[u8]; 9] = [
        br#"{"log":"inner","n":1}"#,
        br#"{"partial_id":"1","partial_message":"true","n":1}"#,
        br#"{"a": 1, "b": [true, null]}"#,
        b"{\"a\":\r\n1}",
        b"{\"a\":\"\xff\"}",
        b"{",
        b"plain text",
        br#"{"a":"#,
        br#"1}"#,
    ];
    const MORE: [&[(&str, &str)]; 3] = [
        &[("level", "a label")],
        &[("partial_message", "true"), ("partial_id", "1"), ("partial_ordinal", "1"), ("partial_last", "false")],
        &[("partial_message", "true"), ("partial_id", "1"), ("partial_ordinal", "2"), ("partial_last", "true")],
    ];
    let log = prop_oneof![
        6 => texts::harmed(Blanks::Few),
        2 => texts::harmed(Blanks::Any),
        2 => Just(OBJECT.to_vec()),
        1 => proptest::sample::select(&TEXTS[..]).prop_map(<[u8]>::to_vec),
        1 => texts::lines(),
    ];
    let more = prop_oneof![8 => Just(&[][..]), 1 => proptest::sample::select(&MORE[..])];
    (log, more).prop_map(|(log, more)| (log, more.to_vec()))
}

/// Lines as their members are written: blanks between tokens, which the step leaves out, stay as they came otherwise.
fn members(lines: &[String]) -> Vec<Option<Vec<Written>>> {
    lines.iter().map(|line| texts::by_serde(line.as_bytes()).map(|object| object.members)).collect()
}

proptest! {
    #[test]
    fn the_records_are_the_same_either_way(
        first in proptest::collection::vec(any_record(), 0..6),
        second in proptest::collection::vec(any_record(), 0..6),
    ) {
        let batches = [&first[..], &second[..]];
        let (lines, oddities, _) = records(&batches, false);
        let (own_lines, own_oddities, _) = records(&batches, true);
        prop_assert_eq!(members(&own_lines), members(&lines));
        prop_assert!(!members(&lines).contains(&None), "{:?}", lines);
        prop_assert_eq!(own_oddities, oddities);
    }

    #[test]
    fn any_object_is_taken_apart_into_the_members_that_serde_json_reads_unless_the_step_has_to_judge_it(
        log in prop_oneof![texts::harmed(Blanks::Few), texts::harmed(Blanks::Any)],
    ) {
        let (lines, _, whole) = records(&[&[(log.clone(), vec![])]], true);
        let is_judged = |key: &str| matches!(key, "log" | "partial_id");
        let expected = texts::taken(&log).filter(|members| {
            log.starts_with(b"{") && !members.is_empty() && !members.iter().any(|(key, _)| is_judged(key))
        });
        // Line breaks are made spaces in the arena, after which no batch is copied as a whole.
        let has_breaks = log.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        prop_assert_eq!(whole == 1, expected.is_some() && !has_breaks);
        if let Some(expected) = expected {
            let found = members(&lines)[0].clone().expect("valid");
            let expected = expected.into_iter().map(|(key, value)| (key, texts::on_one_line(&value)));
            prop_assert_eq!(&found[..expected.len()], &expected.collect::<Vec<_>>());
        }
    }
}
