use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::batch::{Added, PARTIAL};
use crate::budget::Budget;
use crate::codec::json::texts::{self, Blanks};
use crate::codec::ndjson::Encoder;

const TAIL: &str = r#"","stream":"stdout","time":"2026-11-23T10:15:00.123456789Z"}"#;

fn decoded(line: &[u8], form: LogForm) -> Batch {
    let mut batch = Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::default());
    let tag = batch.tag_index("t").expect("room for a tag");
    decode(line, LineHead { tag, pos: 100, now: Timestamp(5) }, &mut batch, form);
    batch
}

/// `log` of row `at`, decoded, and whether it is a piece.
fn log(batch: &Batch, at: usize) -> (String, bool) {
    let field = batch.find(at, b"log").expect("log");
    let text = json::text(batch.value(field)).expect("a text");
    (String::from_utf8_lossy(&text).into_owned(), batch.row(at).has(PARTIAL))
}

fn logs(batch: &Batch) -> Vec<String> {
    (0..batch.len()).map(|at| log(batch, at).0).collect()
}

fn odd(batch: &Batch, what: Oddity) -> u32 {
    batch.tally.oddities[what as usize]
}

/// The inside of a JSON string as Docker escapes it.
fn docker_escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", character as u32));
            }
            _ => out.push(character),
        }
    }
    out
}

#[test]
fn a_line_of_docker_gives_text_stream_and_time() {
    let line = format!(r#"{{"log":"{{\"a\":\"x\\\"y\"}}\u0009<\u003c é 😀\n{TAIL}"#);
    let batch = decoded(line.as_bytes(), LogForm::Text);
    assert_eq!(log(&batch, 0), ("{\"a\":\"x\\\"y\"}\t<< é 😀".to_owned(), false));
    let row = batch.row(0);
    assert_eq!((row.stream, row.pos, row.time), (Stream::Stdout, 100, Timestamp::UNREAD));
    assert_eq!(batch.bytes(row.time_text), b"2026-11-23T10:15:00.123456789Z");
    assert_eq!(time::of(&batch, 0), Some(Timestamp(1_795_428_900_123_456_789)));
    assert_eq!(batch.fields(0).len(), 1);
    assert_eq!(odd(&batch, Oddity::LineNotDocker), 0);
}

/// All that Docker escapes, and what it leaves alone though others do not.
fn hard_text() -> String {
    let control = (0u8..0x20).filter(|byte| *byte != b'\n').map(char::from);
    let rest = "\"\\/<>&'\u{7f}\u{2028}\u{2029}\u{feff}é東😀\u{fffd}end".chars();
    control.chain((0x80..=0x9f).filter_map(char::from_u32)).chain(rest).collect()
}

#[test]
fn every_escape_of_docker_comes_back_and_only_bytes_that_it_lost_are_counted() {
    let text = hard_text();
    for form in [LogForm::Text, LogForm::Escaped, LogForm::Members] {
        let batch = decoded(format!("{{\"log\":\"{}\\n{TAIL}", docker_escaped(&text)).as_bytes(), form);
        assert_eq!(log(&batch, 0), (text.clone(), false), "{form:?}");
        assert_eq!((odd(&batch, Oddity::Utf8LostByDocker), odd(&batch, Oddity::InvalidUtf8)), (0, 0), "{form:?}");
        let batch = decoded(format!("{{\"log\":\"\u{fffd}\\ufffd\\n{TAIL}").as_bytes(), form);
        assert_eq!(
            (log(&batch, 0).0, odd(&batch, Oddity::Utf8LostByDocker)),
            ("\u{fffd}\u{fffd}".to_owned(), 1),
            "{form:?}"
        );
    }
}

#[test]
fn every_length_of_time_and_both_streams_are_known() {
    for time in ["2026-11-23T10:15:00Z", "2026-11-23T10:15:00.1Z", "2026-11-23T10:15:00.12345678Z"] {
        for (name, stream) in [("stdout", Stream::Stdout), ("stderr", Stream::Stderr)] {
            let line = format!(r#"{{"log":"x\n","stream":"{name}","time":"{time}"}}"#);
            let mut batch = Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::default());
            let tag = batch.tag_index("t").expect("room for a tag");
            let head = LineHead { tag, pos: 0, now: Timestamp(5) };
            assert!(template(line.as_bytes(), head, &mut batch, LogForm::Text), "{line}");
            assert_eq!((batch.row(0).stream, batch.bytes(batch.row(0).time_text)), (stream, time.as_bytes()));
        }
    }
}

#[test]
fn one_line_break_is_cut_and_a_text_without_one_is_a_piece() {
    let cases = [
        (r"a\n", "a", false),
        (r"a\r\n", "a", false),
        (r"a\n\n", "a\n", false),
        (r"a\r\r\n", "a\r", false),
        (r"a\\n", "a\\n", true),
        (r"a\\\n", "a\\", false),
        (r"a\\r\n", "a\\r", false),
        (r"a\u000a", "a", false),
        (r"\n", "", false),
        (r"a", "a", true),
        (r"a\r", "a\r", true),
        ("", "", false),
    ];
    for form in [LogForm::Text, LogForm::Escaped] {
        for (escaped, text, partial) in cases {
            let batch = decoded(format!("{{\"log\":\"{escaped}{TAIL}").as_bytes(), form);
            assert_eq!(log(&batch, 0), (text.to_owned(), partial), "{escaped} {form:?}");
        }
    }
}

#[test]
fn a_piece_stays_escaped_so_that_its_source_bytes_can_be_counted() {
    let line = format!("{{\"log\":\"ab\\ufffd\\u003c{TAIL}");
    let batch = decoded(line.as_bytes(), LogForm::Text);
    let field = batch.find(0, b"log").expect("log");
    assert_eq!((field.form, batch.bytes(field.value)), (Form::JsonStr, &b"ab\\ufffd\\u003c"[..]));
    assert_eq!(odd(&batch, Oddity::Utf8LostByDocker), 1);
}

#[test]
fn other_orders_attrs_white_space_and_missing_keys_are_read() {
    let cases = [
        r#"{"log":"x\n","stream":"stderr","attrs":{"tag":"a\u003c"},"time":"2026-11-23T10:15:00Z"}"#,
        r#" { "time" : "2026-11-23T10:15:00Z" , "attrs":{"tag":"a\u003c"}, "stream":"stderr", "log":"x\n" } "#,
    ];
    for line in cases {
        let batch = decoded(line.as_bytes(), LogForm::Text);
        assert_eq!((log(&batch, 0), batch.row(0).stream), (("x".to_owned(), false), Stream::Stderr));
        assert_eq!(batch.bytes(batch.row(0).time_text), b"2026-11-23T10:15:00Z");
        let attrs = batch.find(0, b"attrs").expect("attrs");
        assert_eq!((attrs.form, batch.bytes(attrs.value)), (Form::Json, &br#"{"tag":"a\u003c"}"#[..]));
        assert_eq!(batch.fields(0).len(), 2);
    }
    let batch = decoded(br#"{"stream":"stdout","time":"2026-11-23T10:15:00Z"}"#, LogForm::Text);
    assert_eq!((log(&batch, 0), batch.row(0).stream), ((String::new(), false), Stream::Stdout));
    let batch = decoded(br#"{"log":"x\n","stream":"other","time":7}"#, LogForm::Text);
    assert_eq!((log(&batch, 0).0, batch.fields(0).len(), batch.row(0).time), ("x".to_owned(), 3, Timestamp(5)));
}

#[test]
fn a_torn_record_and_the_one_after_it_are_both_kept() {
    let whole = format!("{{\"log\":\"second\\n{TAIL}");
    for torn in
        ["{\"log\":\"fir", "{\"log\":\"first\\n\",\"stream\":\"std", "{\"log\":\"first\\n\",\"str\0\0\0\0", "rst\\n\"}"]
    {
        let batch = decoded(format!("{torn}{whole}").as_bytes(), LogForm::Text);
        assert_eq!(logs(&batch), [torn.trim_end_matches('\0'), "second"]);
        assert_eq!((odd(&batch, Oddity::TornLine), odd(&batch, Oddity::LineNotDocker)), (1, 0));
        assert_eq!(odd(&batch, Oddity::NulRun), u32::from(torn.ends_with('\0')));
        assert_eq!(batch.row(1).pos as usize, 100 + torn.len());
        assert_eq!(time::of(&batch, 1), Some(Timestamp(1_795_428_900_123_456_789)));
    }
}

#[test]
fn nuls_before_a_record_are_skipped_and_counted() {
    let batch = decoded(format!("\0\0\0{{\"log\":\"x\\n{TAIL}").as_bytes(), LogForm::Text);
    assert_eq!((logs(&batch), odd(&batch, Oddity::NulRun)), (vec!["x".to_owned()], 1));
    assert_eq!(batch.row(0).pos, 103);
    let batch = decoded(b"\0\0\0", LogForm::Text);
    assert_eq!((batch.len(), odd(&batch, Oddity::NulRun)), (0, 1));
}

#[test]
fn what_is_no_record_is_kept_whole_as_text() {
    let deep = format!("{{\"log\":\"x\\n\",\"attrs\":{}", "[".repeat(100_000));
    let cases = ["", "plain", "[1]", "{}", r#"{"a":{"log":"x"}}"#, r#"{"log":7}"#, "{\"log\":\"x", &deep];
    for line in cases {
        let batch = decoded(line.as_bytes(), LogForm::Text);
        assert_eq!(logs(&batch), [line]);
        assert_eq!((odd(&batch, Oddity::LineNotDocker), odd(&batch, Oddity::TornLine)), (1, 0), "{line}");
    }
}

#[test]
fn a_line_of_heads_gives_a_bounded_number_of_records() {
    let line = "{\"log\":\"".repeat(10_000);
    let batch = decoded(line.as_bytes(), LogForm::Text);
    assert_eq!(batch.len(), TEARS_MAX + 1);
    assert_eq!(logs(&batch).concat(), line);
}

#[test]
fn broken_utf_8_is_kept_and_a_piece_of_it_is_made_valid() {
    for form in [LogForm::Text, LogForm::Escaped] {
        let whole = [b"{\"log\":\"a\xff\\n".as_slice(), TAIL.as_bytes()].concat();
        let batch = decoded(&whole, form);
        let field = batch.find(0, b"log").expect("log");
        assert_eq!((field.form, batch.bytes(field.value)), (Form::Text, &b"a\xff"[..]));
        let piece = [b"{\"log\":\"a\xff".as_slice(), TAIL.as_bytes()].concat();
        let batch = decoded(&piece, form);
        assert_eq!((log(&batch, 0), odd(&batch, Oddity::InvalidUtf8)), (("a\u{fffd}".to_owned(), true), 1));
    }
    let batch = decoded(b"{\"log\":\"a\\n\",\"attrs\":{\"k\":\"\xff\"}}", LogForm::Text);
    let attrs = batch.find(0, b"attrs").expect("attrs");
    assert_eq!(batch.bytes(attrs.value), "{\"k\":\"\u{fffd}\"}".as_bytes());
}

/// Whether the one pass took the record.
fn is_taken(log: &str) -> bool {
    let line = format!("{{\"log\":\"{log}{TAIL}");
    assert_eq!(parsed(line.as_bytes(), LogForm::Members), parsed(line.as_bytes(), LogForm::Text), "{line}");
    decoded(line.as_bytes(), LogForm::Members).is_taken_apart()
}

#[test]
fn an_object_is_taken_apart_on_the_way() {
    let long = "x".repeat(300);
    let taken = [
        r#"{"a":1}"#,
        r#"{"a":"b","n":-0.5e+7,"t":true,"f":false,"z":null,"o":{"p":[1,{"q":[]},{}],"r":"s"},"a":2}"#,
        r#"{"a": 1, "b": {"c": [1, 2]}}"#,
        r#"{"":"","é😀":"запрос обработан 東京都","esc":"\"quoted\" \\ \n \t \u00e9 \/","k\"ey":1}"#,
        r#"{"url":"/a?x=1&y=2<b>","time":"now","stream":"x","tag":1,"file":2,"container":3}"#,
        r#"{"big":18446744073709551615,"huge":1e400,"many":123456789012345678901234567890.5}"#,
        &format!(r#"{{"long":"{long}","after":"{long}\"{long}"}}"#),
    ];
    for object in taken {
        for end in ["\n", "\r\n"] {
            assert!(is_taken(&docker_escaped(&format!("{object}{end}"))), "{object}");
        }
        assert!(!is_taken(&docker_escaped(object)), "a piece has to be joined first: {object}");
    }
}

#[test]
fn what_is_rare_or_broken_is_left_to_the_plain_way() {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    let many = format!("{{{}\"z\":1}}", (0..1000).map(|n| format!("\"k{n}\":1,")).collect::<String>());
    let left = [
        "plain",
        "",
        "{}",
        " {\"a\":1}",
        "{\"a\" :1}",
        "{\"a\":  1}",
        "{\"a\":1} ",
        "{\"a\":1}x",
        "{\"a\":1}}",
        "{\"a\":1,}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":-}",
        "{\"a\":1e}",
        "{\"a\":tru}",
        "{\"a\":'b'}",
        "{a:1}",
        "{\"a\"}",
        "{\"a\":[1,]}",
        "{\"a\":[1}",
        "{\"a\":{\"b\":1]",
        "{\"log\":\"x\"}",
        "{\"a\":\"\\ud83d\\ude00\"}",
        "{\"a\":\"\\ud83d\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"tab\tin it\"}",
        "{\"a\":\"b\nc\"}",
        "{\n\"a\":1\n}",
        &deep,
        &many,
    ];
    for text in left {
        assert!(!is_taken(&docker_escaped(&format!("{text}\n"))), "{text}");
    }
    // A quote, a backslash or a half of a pair that only shows once Docker's escape is decoded.
    for log in [r#"{\"a\":\"\u0022\"}\n"#, r#"{\"a\":\"\u005c\"}\n"#, r#"{\"a\":\"\ud800\"}\n"#, r#"{\"a\":\"\/\"}\n"#]
    {
        assert!(!is_taken(log), "{log}");
    }
    let broken = [b"{\"log\":\"{\\\"a\\\":\\\"\xff\\\"}\\n".as_slice(), TAIL.as_bytes()].concat();
    assert!(!decoded(&broken, LogForm::Members).is_taken_apart());
    fuzz_one(&broken);
}

#[test]
fn a_text_that_ends_in_the_middle_of_an_escape_is_no_text() {
    // The quote behind it ends what stands in Docker's place for it, not the string.
    for text in ["", "x", &"x".repeat(63), &"x".repeat(64), r#"{\"a\":1}"#] {
        fuzz_one(format!("{{\"log\":\"{text}\\{TAIL}").as_bytes());
    }
}

#[test]
fn lost_bytes_are_counted_and_pieces_turn_the_one_pass_off() {
    let lost = format!("{{\"log\":\"{{\\\"a\\\":\\\"x\\ufffdy\\ufffd\\\"}}\\n{TAIL}");
    let batch = decoded(lost.as_bytes(), LogForm::Members);
    assert_eq!((batch.is_taken_apart(), odd(&batch, Oddity::Utf8LostByDocker)), (true, 2));
    let mut batch = decoded(format!("{{\"log\":\"{{\\\"a\\\":{TAIL}").as_bytes(), LogForm::Members);
    let head = LineHead { tag: 0, pos: 0, now: Timestamp(5) };
    decode(lost.as_bytes(), head, &mut batch, LogForm::Members);
    assert!(!batch.is_taken_apart() && batch.find(1, b"log").is_some(), "it may be the end of the piece before it");
}

#[test]
fn a_batch_is_whole_until_a_field_is_changed_or_a_row_is_no_object() {
    let line = |log: &str| format!("{{\"log\":\"{log}\\n{TAIL}");
    let head = LineHead { tag: 0, pos: 0, now: Timestamp(5) };
    let object = line(r#"{\"a\": 1, \"b\":{\"c\":\"d\"}}"#);
    let whole = || {
        let mut batch = decoded(object.as_bytes(), LogForm::Members);
        decode(object.as_bytes(), head, &mut batch, LogForm::Members);
        batch
    };
    let ways: [fn(&mut Batch); 6] = [
        |batch| batch.remove_field(0, 0),
        |batch| batch.fields_mut(1).swap(0, 1),
        |batch| batch.add_field(0, batch.fields(0)[0]),
        |batch| batch.splice_fields(1, Some(0), batch.fields_mark()),
        |batch| batch.arena_mut().fill(b' '),
        |batch| decode(b"plain", LineHead { tag: 0, pos: 0, now: Timestamp(5) }, batch, LogForm::Members),
    ];
    for way in ways {
        let mut batch = whole();
        assert!(batch.is_whole());
        way(&mut batch);
        assert!(!batch.is_whole());
    }
    let mut batch = whole();
    batch.retain(|row| row.pos == 0);
    assert!(batch.is_whole() && batch.len() == 1);
    assert!(!decoded(object.as_bytes(), LogForm::Text).is_whole(), "`log` is a text");
}

/// Any JSON, with the characters that are hard to get right.
fn value() -> impl Strategy<Value = serde_json::Value> {
    let text = || "[ab\"\\\\/\n\t<&é😀{}:,\u{fffd}\\[\\]]{0,40}";
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e9f64..1e9).prop_map(Into::into),
        text().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 5, move |inner| {
        let pairs = proptest::collection::vec((text(), inner.clone()), 0..5);
        let object = pairs.prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect()));
        prop_oneof![proptest::collection::vec(inner, 0..5).prop_map(Into::into), object]
    })
}

proptest! {
    #[test]
    fn any_object_gives_the_same_record_both_ways(
        value in value(),
        spaced in any::<bool>(),
        harm in proptest::option::of(texts::harm()),
    ) {
        let object = serde_json::json!({ "first": value, "é": [1, "x"] }).to_string();
        let object = if spaced { object.replace("\":", "\": ").replace(",\"", ", \"") } else { object };
        let mut line = format!("{{\"log\":\"{}\\n{TAIL}", docker_escaped(&object)).into_bytes();
        if let Some(harm) = harm {
            texts::do_harm(&mut line, &harm);
        }
        fuzz_one(&line);
    }

    #[test]
    fn members_of_any_object_are_those_of_serde_json_as_they_are_written(
        (blanks, text) in prop_oneof![
            texts::objects(Blanks::Few).prop_map(|text| (Blanks::Few, text)),
            texts::objects(Blanks::Any).prop_map(|text| (Blanks::Any, text)),
        ],
        harm in texts::harm(),
    ) {
        let mut line = format!("{{\"log\":\"{}\\n{TAIL}", docker_escaped(&text)).into_bytes();
        fuzz_one(&line);
        let members = texts::taken(text.as_bytes());
        let batch = decoded(&line, LogForm::Members);
        if batch.is_taken_apart() {
            let found = texts::members(&batch, 0);
            prop_assert_eq!(Some(&found), members.as_ref());
        } else if let Some(members) = &members {
            let rare = members.is_empty()
                || members.iter().any(|(key, _)| key == "log")
                || text.to_ascii_lowercase().contains(r"\ud")
                || text.matches(['"', '\\']).count() > 1000;
            prop_assert!(rare || blanks == Blanks::Any, "left to the plain way: {}", text);
        }
        let (records, _) = parsed(&line, LogForm::Members);
        let mut record = texts::by_serde(records[0].as_bytes()).expect("valid").members.into_iter();
        match members {
            Some(members) => {
                for (key, value) in members {
                    prop_assert_eq!(record.next(), Some((key, texts::on_one_line(&value))));
                }
            }
            None => {
                let (key, log) = record.next().expect("a text");
                let log: String = serde_json::from_str(&log).expect("a text");
                prop_assert_eq!((key.as_str(), log.as_str()), ("log", text.strip_suffix('\r').unwrap_or(&text)));
            }
        }
        texts::do_harm(&mut line, &harm);
        fuzz_one(&line);
    }

    #[test]
    fn any_text_comes_back_whatever_the_way(text in "[ab\"\\\\\n\r\t\u{0}<é😀\u{2028}]{0,200}", attrs in any::<bool>()) {
        let attrs = if attrs { r#","attrs":{"a":"b"}"# } else { "" };
        let escaped = docker_escaped(&text);
        let time = "2026-11-23T10:15:00.123Z";
        let line = format!(r#"{{"log":"{escaped}\n","stream":"stdout"{attrs},"time":"{time}"}}"#);
        for form in [LogForm::Text, LogForm::Escaped] {
            let batch = decoded(line.as_bytes(), form);
            prop_assert_eq!(batch.len(), 1);
            let expected = text.strip_suffix('\r').unwrap_or(&text);
            prop_assert_eq!(log(&batch, 0), (expected.to_owned(), false));
        }
        let piece = format!(r#"{{"log":"{escaped}","stream":"stdout"{attrs},"time":"{time}"}}"#);
        let batch = decoded(piece.as_bytes(), LogForm::Text);
        let partial = !text.is_empty() && !text.ends_with('\n');
        prop_assert_eq!(batch.row(0).has(PARTIAL), partial);
        if partial {
            prop_assert_eq!(log(&batch, 0).0, text);
        }
    }

    #[test]
    fn arbitrary_bytes_lose_nothing_but_nuls(data in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
        let line = format!("{{\"log\":\"some \\\"text\\\"\\n{TAIL}");
        let mut mixed = line.clone().into_bytes();
        mixed.splice(at.min(line.len())..at.min(line.len()), data.iter().copied());
        fuzz_one(&data);
        fuzz_one(&mixed);
    }

    #[test]
    fn a_cut_line_is_kept_as_it_is(cut in 1usize..80) {
        let line = format!("{{\"log\":\"some \\\"text\\\"\\n{TAIL}");
        let cut = &line.as_bytes()[..cut.min(line.len() - 1)];
        let batch = decoded(cut, LogForm::Text);
        prop_assert_eq!(logs(&batch), [String::from_utf8_lossy(cut).into_owned()]);
        let mut out = Vec::new();
        Encoder::new(Added::ALL).row(&batch, 0, &mut out);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
    }
}
