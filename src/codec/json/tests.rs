use std::sync::Arc;

use proptest::prelude::*;

use super::texts::{Blanks, Written};
use super::*;
use crate::budget::Budget;

type Members = Vec<(String, String, Form)>;

fn members(text: &[u8]) -> Result<Members, JsonError> {
    let mut batch = Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::default());
    batch.push_bytes(b"before");
    let span = batch.push_bytes(text);
    // What follows must not be seen.
    batch.push_bytes(b"}\"}]}");
    let mark = batch.fields_mark();
    let taken = push_members(&mut batch, span, 128);
    if taken.is_err() {
        assert_eq!((batch.fields_mark(), batch.bytes(span)), (mark, text));
    }
    taken?;
    batch.push_row(mark, crate::batch::RowHead::at(crate::record::Timestamp(0), 0));
    let read = |value: Value<'_>| String::from_utf8(value.bytes.to_vec()).expect("checked");
    let key = |field: &Field| String::from_utf8(text_of(batch.key(field))).expect("checked");
    Ok(batch.fields(0).iter().map(|field| (key(field), read(batch.value(field)), field.form)).collect())
}

fn text_of(value: Value<'_>) -> Vec<u8> {
    text(value).expect("a text").into_owned()
}

fn serde_takes(text: &[u8]) -> bool {
    texts::taken(text).is_some()
}

fn unescaped(key: &str) -> String {
    serde_json::from_str(&format!("\"{key}\"")).expect("checked")
}

#[test]
fn members_come_in_their_order_with_duplicates_and_their_text() {
    let text = br#" {"a":1e400,"b\n":"x\u00e9","a":[{"c":null}],"d":"","":-0.0E+7, "e" : { } ,"f":true} "#;
    let expected = [
        ("a", "1e400", Form::Json),
        ("b\n", "x\\u00e9", Form::JsonStr),
        ("a", r#"[{"c":null}]"#, Form::Json),
        ("d", "", Form::JsonStr),
        ("", "-0.0E+7", Form::Json),
        ("e", "{ }", Form::Json),
        ("f", "true", Form::Json),
    ];
    let expected: Members = expected.map(|(key, value, form)| (key.to_owned(), value.to_owned(), form)).into();
    assert_eq!(members(text), Ok(expected));
    assert_eq!(members(b"{}"), Ok(vec![]));
}

#[test]
fn what_is_no_object_or_broken_is_refused_with_its_place() {
    use JsonError::{Broken, NotAnObject, NotUtf8};
    let cases: [(&[u8], JsonError); 33] = [
        (b"", NotAnObject),
        (b"  ", NotAnObject),
        (b"[1]", NotAnObject),
        (b"7", NotAnObject),
        (b"\"{}\"", NotAnObject),
        (b"{", Broken(1)),
        (b"{,}", Broken(1)),
        (b"{} x", Broken(3)),
        (b"{}{}", Broken(2)),
        (b"{\"a\"}", Broken(4)),
        (b"{\"a\":}", Broken(5)),
        (b"{\"a\":1,}", Broken(7)),
        (b"{\"a\":1 \"b\":2}", Broken(7)),
        (b"{\"a\":[1,]}", Broken(8)),
        (b"{\"a\":[1}}", Broken(7)),
        (b"{\"a\":{\"b\"]}", Broken(9)),
        (b"{\"a\":01}", Broken(6)),
        (b"{\"a\":1.}", Broken(7)),
        (b"{\"a\":.1}", Broken(5)),
        (b"{\"a\":1e}", Broken(7)),
        (b"{\"a\":-}", Broken(6)),
        (b"{\"a\":+1}", Broken(5)),
        (b"{\"a\":NaN}", Broken(5)),
        (b"{\"a\":nul}", Broken(5)),
        (b"{\"a\":truex}", Broken(9)),
        (b"{a:1}", Broken(1)),
        (b"{'a':1}", Broken(1)),
        (b"{\"a\":\"\n\"}", Broken(6)),
        (b"{\"a\":\"\\x\"}", Broken(7)),
        (b"{\"a\":\"\\u12g4\"}", Broken(6)),
        (b"{\"a\":\"\\ud800\"}", Broken(6)),
        (b"{\"a\":\"x", Broken(7)),
        (b"{\"a\":\"\xff\"}", NotUtf8(6)),
    ];
    for (text, error) in cases {
        assert_eq!(members(text), Err(error), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn nesting_is_limited_not_recursive() {
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(members(nested(127).as_bytes()).is_ok());
    assert_eq!(members(nested(128).as_bytes()), Err(JsonError::TooDeep));
    assert_eq!(members(nested(100_000).as_bytes()), Err(JsonError::TooDeep));
    let objects = format!("{}1{}", "{\"a\":".repeat(128), "}".repeat(128));
    assert!(members(objects.as_bytes()).is_ok());
    assert_eq!(members(format!("{{\"a\":{objects}}}").as_bytes()), Err(JsonError::TooDeep));
}

#[test]
fn line_breaks_between_tokens_become_spaces() {
    let found = members(b"{\r\n\"a\"\n:\n[1,\n2],\"b\":\"x\\n\"\n}\n").expect("an object");
    assert_eq!(found[0].1, "[1, 2]");
    assert_eq!(found[1].1, "x\\n");
}

#[test]
fn look_ups_see_the_last_member_and_go_down_paths() {
    let object = br#"{"a":1,"b":{"c":"x","c":{"d":[2]}},"a":"z","\u0065":5}"#;
    let whole = Value { form: Form::Json, bytes: object };
    assert_eq!(get(object, b"a"), Some(Value { form: Form::JsonStr, bytes: b"z" }));
    assert_eq!(get(object, b"e"), Some(Value { form: Form::Json, bytes: b"5" }));
    assert_eq!(get(object, b"x"), None);
    assert_eq!(get(b"[1]", b"a"), None);
    let path = |path: &'static str| get_path(whole, path.split('.').map(str::as_bytes));
    assert_eq!(path("b.c.d"), Some(Value { form: Form::Json, bytes: b"[2]" }));
    assert_eq!(path("b.c.d.e"), None);
    assert_eq!(path("a.b"), None);
}

#[test]
fn surrogate_pairs_are_joined_and_lone_ones_replaced() {
    let mut out = Vec::new();
    assert_eq!(unescape(br"\ud83d\ude00|\ud83d|\ude00\ud83d\u0041", &mut out), Some(3));
    assert_eq!(String::from_utf8(out).expect("valid"), "😀|\u{fffd}|\u{fffd}\u{fffd}A");
    for broken in [r"\", r"a\x", r"\u12", r"\u12g4", "a\"b", "a\nb", r"\\\"] {
        let mut out = b"kept".to_vec();
        assert_eq!(unescape(broken.as_bytes(), &mut out), None, "{broken}");
        assert_eq!(out, b"kept");
    }
}

#[test]
fn escapes_across_every_boundary_of_blocks_are_read() {
    for before in 0..140 {
        for (escape, plain) in
            [(r#"\""#, "\""), (r"\\", "\\"), (r"\u0009", "\t"), (r"\ud83d\ude00", "😀"), (r"\n", "\n")]
        {
            for after in [0, 1, 5, 70] {
                let (before, after) = ("b".repeat(before), "a".repeat(after));
                let mut out = Vec::new();
                let text = format!("{before}{escape}{escape}{escape}{after}");
                assert_eq!(unescape(text.as_bytes(), &mut out), Some(0));
                assert_eq!(String::from_utf8(out).expect("valid"), format!("{before}{plain}{plain}{plain}{after}"));
            }
        }
    }
}

#[test]
fn values_of_every_json_form_are_written_with_their_quotes() {
    let mut out = Vec::new();
    let mut tally = Tally::default();
    for (form, bytes) in [(Form::Json, &b"1"[..]), (Form::JsonStr, b"a\\n"), (Form::Text, b"a\n\xff\xfe\"\x01\x7f")] {
        write(Value { form, bytes }, &mut out, &mut tally);
    }
    assert_eq!(String::from_utf8(out).expect("valid"), "1\"a\\n\"\"a\\n\u{fffd}\u{fffd}\\\"\\u0001\u{7f}\"");
    assert_eq!(tally.oddities[Oddity::InvalidUtf8 as usize], 2);
}

/// Texts that are nearly JSON: tokens in any order.
fn tokens() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\"a\""),
        Just("\"b\\n\""),
        Just("1"),
        Just("-0.5e3"),
        Just("true"),
        Just("null"),
        Just(" "),
        Just("\n"),
        Just("\"\\ud83d\\ude00\""),
        Just("\"é\""),
        Just("\"long enough for two blocks of sixteen bytes\""),
        Just("{\"k\":"),
        Just("\"a\":1,"),
        Just("\"b\":\"x\","),
    ];
    proptest::collection::vec(token, 0..14).prop_map(|tokens| tokens.concat())
}

/// Valid JSON values.
fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i32>().prop_map(|number| (f64::from(number) / 8.0).into()),
        "[a\"\\\\\n\u{1}é😀]{0,40}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map("[a-c\"é]{0,20}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(texts::many())]

    #[test]
    fn the_same_texts_are_taken_as_serde_json_takes(text in tokens()) {
        for text in [text.clone(), format!("{{\"a\":{text}}}"), format!("{{{text}}}")] {
            prop_assert_eq!(members(text.as_bytes()).is_ok(), serde_takes(text.as_bytes()), "{}", text);
        }
    }

    #[test]
    fn one_wrong_byte_is_judged_as_serde_json_judges_it(value in values(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&serde_json::json!({ "a": value, "b": 1 })).expect("a value");
        let at = at.index(text.len());
        text[at] = byte;
        prop_assert_eq!(members(&text).is_ok(), serde_takes(&text), "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn members_have_the_values_that_serde_json_reads(value in values(), pretty in any::<bool>()) {
        let object = serde_json::json!({ "a": value, "b": [value, "x"], "": value });
        let text = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.expect("a value");
        let found = members(&text).expect("an object");
        let expected = object.as_object().expect("an object");
        prop_assert_eq!(found.len(), expected.len());
        for ((key, text, form), (expected_key, expected)) in found.iter().zip(expected) {
            let text = if *form == Form::JsonStr { format!("\"{text}\"") } else { text.clone() };
            prop_assert_eq!(key, expected_key);
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&text).expect("valid"), expected);
        }
    }

    #[test]
    fn members_of_any_text_are_those_of_serde_json_as_they_are_written(
        text in prop_oneof![texts::harmed(Blanks::Few), texts::harmed(Blanks::Any)],
    ) {
        let expected = texts::taken(&text);
        let mut each = Vec::new();
        let seen = each_member(&text, |key, value| each.push((texts::written(key, ""), texts::written(value, "\""))));
        if std::str::from_utf8(&text).is_ok() {
            // Whether it is UTF-8 is not looked at there.
            prop_assert_eq!(seen.is_ok().then_some(each), expected.clone());
            let mut walk = walk::Walk::new();
            let walked = walk.advance(&text);
            let whole = walked.is_ok_and(|len| walk.is_done() && text[len..].iter().all(|byte| b" \t\r\n".contains(byte)));
            prop_assert_eq!(whole && text.trim_ascii_start().starts_with(b"{"), texts::by_serde(&text).is_some());
        }
        let on_one_line = |(key, value): Written| (key, texts::on_one_line(&value));
        let expected: Option<Vec<Written>> = expected.map(|members| members.into_iter().map(on_one_line).collect());

        let mut batch = Batch::new(Budget::new(1 << 20).empty_permit(), 0, Arc::default());
        let tag = batch.tag_index("t").expect("room for a tag");
        let head = crate::codec::text::LineHead { tag, pos: 0, now: crate::record::Timestamp(0) };
        crate::codec::text::push_json(&text, head, &mut batch);
        let is_json = batch.tally.oddities[Oddity::LineNotJson as usize] == 0;
        prop_assert_eq!(is_json.then(|| texts::members(&batch, 0)), expected.clone());
        if let Some(expected) = expected {
            prop_assert!(batch.fields(0).iter().all(|f| (f.key_form == Form::JsonStr) == batch.bytes(f.key).contains(&b'\\')));
            for (key, _) in &expected {
                let last = expected.iter().rfind(|(other, _)| unescaped(other) == unescaped(key)).expect("it is there");
                let value = get(&text, unescaped(key).as_bytes()).map(|value| texts::on_one_line(&texts::written(value, "\"")));
                prop_assert_eq!(value.as_ref(), Some(&last.1));
            }
            let mut out = Vec::new();
            crate::codec::ndjson::Encoder::new(crate::batch::Added::NONE).row(&batch, 0, &mut out);
            prop_assert!(!out.contains(&b'\n'));
            prop_assert_eq!(texts::by_serde(&out).map(|object| object.members), Some(expected));
        }
    }

    #[test]
    fn escaping_is_undone_by_us_and_by_serde_json(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\')], 0..300)) {
        let mut escaped = Vec::new();
        let replaced = escape(&bytes, &mut escaped);
        let expected = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(replaced == 0, std::str::from_utf8(&bytes).is_ok());
        let mut back = Vec::new();
        prop_assert_eq!(unescape(&escaped, &mut back), Some(0));
        prop_assert_eq!(&*expected, std::str::from_utf8(&back).expect("valid"));
        let quoted = [b"\"", escaped.as_slice(), b"\""].concat();
        prop_assert_eq!(&*expected, serde_json::from_slice::<String>(&quoted).expect("valid"));
    }

    #[test]
    fn unescaping_agrees_with_serde_json(text in r#"([a-c]{0,20}|\\[nrtbfu"\\/x]|\\u00[0-9a-f]{2}|\\u[0-9a-fA-F]{4}|é|"|\\){0,12}"#) {
        let mut out = Vec::new();
        let ours = unescape(text.as_bytes(), &mut out);
        match serde_json::from_str::<String>(&format!("\"{text}\"")) {
            Ok(expected) => {
                prop_assert_eq!(ours, Some(0));
                prop_assert_eq!(expected, String::from_utf8(out).expect("valid"));
            }
            // Lone surrogates are replaced here and refused there.
            Err(_) => prop_assert_ne!(ours, Some(0)),
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_trouble(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_one(&data);
    }
}
