use proptest::prelude::*;

use super::*;
use crate::codec::forward::tests::{NOW, Seen, run_with};
use crate::codec::json::texts::{self, Blanks};
use crate::codec::ndjson::Encoder;

fn run(text: &str) -> Seen {
    run_with(text.as_bytes(), &[text.len().max(1)], Limits::default(), 1 << 20, |_| ())
}

/// The NDJSON lines of what a connection sends, at once and in pieces.
fn output(text: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    for piece in [text.len(), 1, 7] {
        let mut lines = Vec::new();
        let mut encoder = Encoder::new(crate::batch::Added::ALL);
        let seen = run_with(text, &[piece], Limits::default(), 1 << 20, |batch| {
            for at in 0..batch.len() {
                let mut out = Vec::new();
                encoder.row(batch, at, &mut out);
                lines.push(String::from_utf8(out).expect("UTF-8"));
            }
        });
        assert_eq!(seen.lost, None);
        all.push(lines);
    }
    assert!(all.iter().all(|lines| lines == &all[0]), "{all:?}");
    all.swap_remove(0)
}

const ROWS: [&str; 3] =
    ["t 1700000000000000001 n=1,log=line 1", "t 1700000000000000000 n=2,log=line 2", "t 1700000000500000000 n=3,log="];

#[test]
fn every_mode_gives_the_same_rows_wherever_it_is_cut() {
    let entries = r#"[1700000000.000000001,{"n":1,"log":"line 1"}] , [[1700000000,{}],{"n":2,"log":"line 2"}],[1700000000.5,{"n":3,"log":""}]"#;
    let messages = r#"["t",1700000000.000000001,{"n":1,"log":"line 1"}]
        ["t",1700000000,{"n":2,"log":"line 2"},null]["t",1700000000.5,{"n":3,"log":""},{"chunk":"c"}]"#;
    let frames = [
        ("messages", messages.to_owned()),
        ("forward", format!(r#"["t",[{entries}],{{"size":3,"chunk":"c"}}]"#)),
        ("with spaces", format!(" \r\n[ \"t\" , [ {entries} ] , {{ \"chunk\" : \"c\" }} , 5 , [] ] \n")),
        ("an escaped tag", format!(r#"["\u0074",[{entries}],{{"chunk":"x","chunk":"c"}}]"#)),
        ("after objects", format!(r#"{{"a":[1,{{}}]}}["t",[{entries}],{{"chunk":"c"}}]"#)),
    ];
    let streamed = Limits { whole_max: 1, ..Limits::default() };
    for (name, frame) in frames {
        let rejected = if name == "after objects" { vec![("bad_frame", 1)] } else { vec![] };
        let expected =
            Seen { rows: ROWS.map(str::to_owned).to_vec(), chunks: vec![b"\"c\"".to_vec()], rejected, lost: None };
        for limits in [Limits::default(), streamed] {
            for cut in 1..=frame.len() {
                let seen = run_with(frame.as_bytes(), &[cut], limits, 1 << 20, |_| ());
                assert_eq!(seen, expected, "{name}, pieces of {cut}");
            }
            let seen = run_with(frame.as_bytes(), &[1], limits, 1, |_| ());
            assert_eq!((seen.rows, seen.chunks.last()), (expected.rows.clone(), expected.chunks.last()), "{name}");
        }
        for cut in 0..frame.trim_end().len() {
            let seen = run(&frame[..cut]);
            assert!(seen.chunks.is_empty() && seen.lost.is_none(), "{name}, cut at {cut}: {seen:?}");
            assert!(name == "messages" || seen.rows.is_empty(), "{name}: no half of a frame");
        }
    }
}

#[test]
fn a_record_has_the_shape_that_it_has_in_messagepack() {
    let lines = output(
        br#"["t",1700000000,{"a":1.50,"big":18446744073709551615,"e":1e400,"s":"\u00e9\n","o":{"x":[true,null]},"a":2,"time":"x"}]
        ["d",1700000000,{"container_id":"ab","container_name":"\/web","source":"stderr","log":"hi \"you\"","x":"y"}]
        ["",1700000000,{}]"#,
    );
    let expected = [
        r#"{"a":1.50,"big":18446744073709551615,"e":1e400,"s":"\u00e9\n","o":{"x":[true,null]},"a":2,"time":"x","_time":"2023-11-14T22:13:20.000000000Z","tag":"t"}"#,
        r#"{"log":"hi \"you\"","x":"y","stream":"stderr","time":"2023-11-14T22:13:20.000000000Z","container":{"id":"ab","name":"web"},"tag":"d"}"#,
        r#"{"time":"2023-11-14T22:13:20.000000000Z","tag":""}"#,
    ];
    assert_eq!(lines, expected);
    // Halves of surrogates and bytes that are no UTF-8 are no reason to lose a record, or a tag.
    let lines = output(b"[\"t\\ud800\",1700000000,{\"a\":\"x\\ud83d\",\"b\":\"\xff\"}]");
    assert_eq!(
        lines,
        ["{\"a\":\"x\\ufffd\",\"b\":\"\u{fffd}\",\"time\":\"2023-11-14T22:13:20.000000000Z\",\"tag\":\"t\u{fffd}\"}"]
    );
}

#[test]
fn bad_data_within_a_frame_is_rejected_and_the_frame_still_ends() {
    let good = r#"[1,{"n":1}]"#;
    let around = |bad: &str| format!(r#"["t",[{good},{bad},{good}],{{"chunk":"c"}}]"#);
    let deep = |levels: usize| format!(r#"[1,{{"d":{}{}}}]"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
    let small = Limits { entry_max: 400, tag_max: 10, ..Limits::default() };
    let cases: Vec<(&str, String, usize, &[(&str, u32)])> = vec![
        ("a record that is no map", around("[1,5]"), 2, &[("not_a_map", 1)]),
        ("an array for a map", around("[1,[]]"), 2, &[("not_a_map", 1)]),
        ("an entry that is no array", around("5"), 2, &[("bad_entry", 1)]),
        ("an entry of one", around("[1]"), 2, &[("bad_entry", 1)]),
        ("an empty entry", around("[]"), 2, &[("bad_entry", 1)]),
        ("an entry of three", around(r#"[1,{"n":1},"more"]"#), 3, &[]),
        ("128 levels", around(&deep(128)), 3, &[]),
        ("129 levels", around(&deep(129)), 2, &[("too_deep", 1)]),
        ("a large entry", around(&format!(r#"[1,{{"x":"{}"}}]"#, "x".repeat(500))), 2, &[("too_large", 1)]),
        (
            "a large message",
            format!(r#"["t",1,{{"x":"{}"}},{{"chunk":"c"}}]"#, "x".repeat(500)),
            0,
            &[("too_large", 1)],
        ),
        ("a message that is no map", r#"["t",1,"x",{"chunk":"c"}]"#.to_owned(), 0, &[("not_a_map", 1)]),
        ("a packed blob", r#"["t","kgGA",{"chunk":"c"}]"#.to_owned(), 0, &[("bad_frame", 1)]),
        ("a nil tag", format!(r#"[null,[{good}],{{"chunk":"c"}}]"#), 0, &[("bad_tag", 1)]),
        ("a nil tag of a message", r#"[null,1,{"a":1},{"chunk":"c"}]"#.to_owned(), 0, &[("bad_tag", 1)]),
        ("a long tag", format!(r#"["{}",[{good}],{{"chunk":"c"}}]"#, "t".repeat(11)), 0, &[("bad_tag", 1)]),
        ("a very long tag", format!(r#"["{}",[{good}],{{"chunk":"c"}}]"#, "t".repeat(999)), 0, &[("bad_tag", 1)]),
        ("a long time", format!(r#"["t",{},{{"a":1}},{{"chunk":"c"}}]"#, "1".repeat(5000)), 1, &[]),
        ("no entries", r#"["t",[],{"chunk":"c"}]"#.to_owned(), 0, &[]),
    ];
    for (name, frame, rows, rejected) in cases {
        let both = format!(r#"{frame}["t",1,{{"n":9}},{{"chunk":"next"}}]"#);
        for limits in [small, Limits { whole_max: 1, ..small }] {
            for piece in [both.len(), 1, 13] {
                let seen = run_with(both.as_bytes(), &[piece], limits, 1 << 20, |_| ());
                assert_eq!((seen.rows.len(), &seen.rejected[..]), (rows + 1, rejected), "{name}, pieces of {piece}");
                assert_eq!(seen.chunks, [b"\"c\"".to_vec(), b"\"next\"".to_vec()], "{name}, pieces of {piece}");
            }
        }
    }
    for text in ["[]", r#"["t"]"#, r#"["t",1]"#, r#"["t", 5 ,]"#, "{}", "[[]]"] {
        let seen = run(text);
        let broken = text.contains(",]");
        assert_eq!(seen.lost.is_some(), broken, "{text}");
        assert_eq!(seen.rejected.len(), usize::from(!broken), "{text}: {seen:?}");
    }
}

#[test]
fn what_is_no_json_ends_the_connection_at_its_byte() {
    let cases: &[(&str, LostReason)] = &[
        ("[nope]", LostReason::NotJson(b'o')),
        (r#"["t",1,{"a":}]"#, LostReason::NotJson(b'}')),
        (r#"["t" 1,{}]"#, LostReason::NotJson(b'1')),
        (r#"["a "tag"",1,{}]"#, LostReason::NotJson(b't')),
        ("{\"a\":1}\nGET /", LostReason::NotJson(b'G')),
        ("  \n\u{80}", LostReason::NotJson(0xc2)),
        ("[]\u{0}", LostReason::NotJson(0)),
        ("[\"t\",1,{\"a\":\"line\nbreak\"}]", LostReason::NotJson(b'\n')),
    ];
    for (text, reason) in cases {
        for piece in [text.len(), 1] {
            for whole_max in [1, 1 << 20] {
                let limits = Limits { whole_max, ..Limits::default() };
                let seen = run_with(text.as_bytes(), &[piece], limits, 1 << 20, |_| ());
                assert_eq!(seen.lost, Some(*reason), "{text} in pieces of {piece}");
                assert!(seen.rows.is_empty() && seen.chunks.is_empty(), "{text}");
            }
        }
    }
    let limits = Limits { frame_max: 1000, ..Limits::default() };
    let lost = |text: &str| run_with(text.as_bytes(), &[50], limits, 1 << 20, |_| ()).lost;
    assert!(matches!(lost(&format!("[\"{}", "x".repeat(2000))), Some(LostReason::TooLarge(1001.., 1000))));
    assert!(matches!(lost(&format!("{{\"{}", "x".repeat(2000))), Some(LostReason::TooLarge(1001.., 1000))));
    assert_eq!(run(&"[".repeat(1_000_000)).lost, Some(LostReason::TooDeep(walk::LEVELS_MAX)));
    let options = format!(r#"["t",1,{{}},{{"x":"{}"}}]"#, "x".repeat(20_000));
    assert_eq!(run(&options).lost, Some(LostReason::Options));
    let many = format!("[\"t\",[]{}]", ",1".repeat(20));
    assert_eq!(run(&many).lost, Some(LostReason::Arity(ARITY_MAX + 1)));
}

#[test]
fn chunk_ids_of_any_kind_are_given_back_as_they_came() {
    for id in [r#""""#, r#""YWJj\n""#, r#""\u00e9\"""#, "5", "[1,2]"] {
        let text = format!(r#"["t",1,{{}},{{"size":1,"chunk":{id}}}]"#);
        assert_eq!(run(&text).chunks, [id.as_bytes().to_vec()], "{id}");
    }
    for options in ["null", "{}", r#"{"chunk":null}"#, "5"] {
        assert!(run(&format!(r#"["t",1,{{}},{options}]"#)).chunks.is_empty(), "{options}");
    }
}

#[test]
fn a_frame_above_the_limit_of_whole_ones_is_taken_as_it_arrives_and_looked_at_once() {
    let entry = format!(r#"[1700000000,{{"log":"{}"}}]"#, "x".repeat(200));
    let frame = format!(r#"["t",[{}],{{"chunk":"big"}}]"#, vec![entry; 26_000].join(","));
    assert!(frame.len() > 5 << 20);
    let mut largest = 0;
    let seen = run_with(frame.as_bytes(), &[1], Limits::default(), 256 << 10, |batch| {
        largest = largest.max(batch.cost());
    });
    assert_eq!((seen.rows.len(), seen.chunks), (26_000, vec![b"\"big\"".to_vec()]));
    assert!(largest < 512 << 10, "a batch of {largest} bytes");
    // No half of it is held either: what is not used yet is at most one entry after the first part.
    let mut decoder = Json::new(Limits::default(), true, 0);
    let budget = crate::budget::Budget::new(64 << 20);
    let mut permit = budget.empty_permit();
    permit.grow(32 << 20);
    let mut batch = Batch::new(permit, 0, std::sync::Arc::default());
    let (used, step) = decoder.decode(&[], &frame.as_bytes()[..2 << 20], &mut batch, NOW);
    assert_eq!(step, Step::NeedMore);
    assert!((2 << 20) - used < 300, "{used}");
}

/// A JSON value as MessagePack.
fn packed(value: &serde_json::Value) -> rmpv::Value {
    use rmpv::Value as Msg;
    use serde_json::Value;
    match value {
        Value::Null => Msg::Nil,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (_, Some(number)) => number.into(),
            _ => number.as_f64().expect("a number").into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Msg::Array(items.iter().map(packed).collect()),
        Value::Object(members) => {
            Msg::Map(members.iter().map(|(key, value)| (key.as_str().into(), packed(value))).collect())
        }
    }
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e15f64..1e15).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        prop_oneof![Just("stdout"), Just("stderr"), Just("/web"), Just("")].prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn keys() -> impl Strategy<Value = String> {
    prop_oneof![
        prop_oneof![
            Just("log"),
            Just("source"),
            Just("container_id"),
            Just("container_name"),
            Just("time"),
            Just("tag")
        ]
        .prop_map(str::to_owned),
        any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn a_record_gives_the_same_line_in_json_and_in_messagepack(
        record in proptest::collection::hash_map(keys(), values(), 0..7),
        text in any::<bool>(),
    ) {
        let mut record: serde_json::Map<String, serde_json::Value> = record.into_iter().collect();
        if text {
            // Often enough what Docker's driver sends.
            for (key, value) in [("log", "a \"b\"\n"), ("source", "stderr"), ("container_id", "ab"), ("container_name", "/\u{e9}")] {
                record.insert(key.to_owned(), value.into());
            }
        }
        let record = serde_json::Value::Object(record);
        let json = format!("[\"t\",1700000000,{record}]");
        let mut msgpack = b"\x93\xa1t\xce\x65\x53\xf1\x00".to_vec();
        rmpv::encode::write_value(&mut msgpack, &packed(&record)).expect("memory");
        let lines = |bytes: &[u8]| -> Vec<serde_json::Value> {
            output(bytes).iter().map(|line| serde_json::from_str(line).expect("valid JSON")).collect()
        };
        prop_assert_eq!(lines(json.as_bytes()), lines(&msgpack));
    }

    #[test]
    fn members_of_any_record_are_those_of_serde_json_as_they_are_written(
        text in prop_oneof![texts::harmed(Blanks::Few), texts::harmed(Blanks::Any)],
        piece in 1usize..60,
    ) {
        let (mut found, mut twice) = (Vec::new(), 0);
        let frame = [b"[\"t\",1700000000,", text.as_slice(), b"]"].concat();
        let seen = run_with(&frame, &[piece], Limits::default(), 1 << 20, |batch| {
            twice += batch.tally.oddities[Oddity::DuplicateKey as usize];
            found.extend((0..batch.len()).map(|at| texts::members(batch, at)));
        });
        // On purpose: bytes that are no UTF-8 are replaced, and half a surrogate pair is.
        let text = String::from_utf8_lossy(&text);
        match texts::by_serde(text.as_bytes()) {
            Some(object) if object.levels > Limits::default().depth_max => {
                prop_assert_eq!((found.len(), seen.rejected), (0, vec![("too_deep", 1)]));
            }
            Some(object) if object.lone => prop_assert_eq!(found[0].len(), object.members.len()),
            Some(object) => {
                let members = object.members;
                let before = |at: usize| members[..at].iter().any(|(key, _)| *key == members[at].0);
                prop_assert_eq!(twice as usize, (1..members.len()).filter(|at| before(*at)).count());
                let members = members.into_iter().map(|(key, value)| (key, texts::on_one_line(&value))).collect();
                prop_assert_eq!((found, seen.lost), (vec![members], None));
            }
            // What is broken may be so behind a record that has ended.
            None if texts::begins_with_a_value(&text) => (),
            None => prop_assert_eq!(found, Vec::<Vec<_>>::new()),
        }
    }
}
