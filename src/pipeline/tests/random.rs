//! Whatever comes in, steps do not panic, and what comes out is one line of JSON a record.

use proptest::prelude::*;

use super::*;

const STEPS: &str = r#"
{ join = "docker_partial" },
{ parse = "json" },
{ parse = "logfmt", from = "msg", into = "m" },
{ parse = "regex", from = "text", pattern = '(?<first>\w+) (?<rest>.*)', on_error = "keep" },
{ time = "ts" },
{ time = "at", formats = ["%b %d %H:%M:%S", "epoch_s"], keep = true },
{ mask = ["password"], patterns = ["card", "email", "a+"] },
{ set = { env = "x", copy = "{log}", both = "{a.b}/{tag}" } },
{ rename = { a = "b", tag = "t", time = "when", stream = "log" } },
{ remove = ["c", "b.x", "container"] },
{ drop = 'b.x == 5 or log matches "zz" or exists nope.x or a in [1, "x", null] and ts < 5' },
{ sample = "9/10", by = "id" },
{ tag = "x.{b}", where = 'b != "q"' }
"#;

fn any_value() -> impl Strategy<Value = (Form, Vec<u8>)> {
    let json = prop_oneof![
        Just("null".to_owned()),
        Just("1e400".to_owned()),
        Just("18446744073709551615".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        Just(r#"{"x":5,"password":[1],"x":{"b":"4111111111111111"}}"#.to_owned()),
        Just(r#"[{"a":"aaa\u0000\ud83d\ude00"}]"#.to_owned()),
    ];
    prop_oneof![
        json.prop_map(|text| (Form::Json, text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| (Form::Text, bytes)),
        "[ -!#-\\[\\]-~\u{e9}]{0,30}".prop_map(|text| (Form::JsonStr, text.into_bytes())),
        r#"(\\n|\\"|\\u00e9|\\ufffd|a| ){0,20}"#.prop_map(|text| (Form::JsonStr, text.into_bytes())),
        Just((Form::Text, br#"{"a":{"b":1},"b":"q","ts":1700000000123,"password":"x"}"#.to_vec())),
        Just((Form::Text, b"a=1 b=\"two\\n\" id=4111111111111111".to_vec())),
        Just((Form::JsonStr, br#"{\"a\":\"b\",\"tag\":1}"#.to_vec())),
        prop_oneof![
            Just(serde_json::json!({"x": 5, "password": {"y": [1, 2]}, "b": ["a@b.c", null]})),
            Just(serde_json::json!(4_111_111_111_111_111_u64)),
            Just(serde_json::json!(-7)),
            Just(serde_json::json!(1.5)),
            Just(serde_json::json!(null)),
        ]
        .prop_map(|value| (Form::Msg, msgpack(&value))),
        Just((Form::Msg, vec![0xc4, 2, 0xff, b'a'])),
        Just((Form::Msg, vec![0xd7, 0, 0x60, 0, 0, 0, 0, 0, 0, 1])),
    ]
}

type Fields = Vec<(&'static str, (Form, Vec<u8>))>;

fn any_fields() -> impl Strategy<Value = Fields> {
    const KEYS: &[&str] = &[
        "log",
        "msg",
        "text",
        "ts",
        "at",
        "a",
        "b",
        "c",
        "id",
        "tag",
        "time",
        "stream",
        "container",
        "password",
        "partial_id",
        "partial_message",
        "partial_last",
        "partial_ordinal",
    ];
    proptest::collection::vec((proptest::sample::select(KEYS), any_value()), 0..8)
}

proptest! {
    #[test]
    fn no_record_makes_a_step_panic_and_every_line_is_json(
        rows in proptest::collection::vec((any_fields(), 0..3u8, any::<bool>(), 0..3usize), 0..12),
        rule in 0..4usize,
        cut in 0..12usize,
    ) {
        let pipeline = pipeline(STEPS);
        let rule = [JoinRule::DockerFile, JoinRule::Cri, JoinRule::Forward, JoinRule::None][rule];
        let mut lane = pipeline.lane(rule);
        for part in [&rows[..cut.min(rows.len())], &rows[cut.min(rows.len())..]] {
            let mut batch = empty();
            for (fields, tag, partial, stream) in part {
                let tag = batch.tag_index(["t", "u", "v"][usize::from(*tag)]).expect("room");
                let mark = batch.fields_mark();
                for (key, (form, bytes)) in fields {
                    let (key, value) = (batch.push_bytes(key.as_bytes()), batch.push_bytes(bytes));
                    batch.push_field(Field::new(key, *form, value));
                }
                let stream = [Stream::None, Stream::Stdout, Stream::Stderr][*stream];
                batch.push_row(mark, RowHead { partial: *partial, stream, ..RowHead::at(NOW, tag) });
            }
            pipeline.apply(&mut lane, &mut batch, NOW);
            check(&batch)?;
        }
        let mut last = empty();
        pipeline.flush(&mut lane, &mut last, NOW);
        check(&last)?;
        prop_assert!(!lane.is_waiting());
    }

    #[test]
    fn no_text_makes_reading_a_condition_panic(text in ".{0,60}", words in proptest::collection::vec(
        proptest::sample::select(&["a", "==", "(", ")", "and", "not", "in", "[", "]", "'x'", "5", ",", "matches", "exists", ".", "\"", "${"][..]), 0..12)) {
        let _ = crate::pipeline::condition_text::parse(&text, &str::to_owned);
        let _ = crate::pipeline::condition_text::parse(&words.join(" "), &str::to_owned);
        let _ = crate::pipeline::template::Template::parse(&text);
        let _ = crate::pipeline::path::Path::parse(&text);
    }
}

fn check(batch: &Batch) -> Result<(), TestCaseError> {
    for line in lines(batch, Added::ALL) {
        prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&line).is_ok(), "{}", line);
    }
    prop_assert_eq!(batch.tally.received as usize, batch.len() + dropped(batch) as usize);
    Ok(())
}
