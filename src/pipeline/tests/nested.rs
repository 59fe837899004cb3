//! The walk over encoded values, compared with the same change to a tree.

use proptest::prelude::*;

use super::*;
use crate::pipeline::nested::{Act, Edit, edit};
use crate::record::Value;

/// Removes, replaces and enters by the key's first letter; doubles texts that start with `!`; masks 7.
struct Letters(Vec<u8>);

impl Edit for Letters {
    fn member(&mut self, _: usize, key: &[u8]) -> Act {
        match key.first() {
            Some(b'r') => Act::Remove,
            Some(b'm') => Act::Replace("***"),
            Some(b'k') => Act::Keep,
            _ => Act::Enter,
        }
    }
    fn enters_arrays(&self) -> bool {
        true
    }
    fn text(&mut self, text: &[u8]) -> Option<&[u8]> {
        if text.first() != Some(&b'!') {
            return None;
        }
        self.0 = text.repeat(2);
        Some(&self.0)
    }
    fn digits(&mut self, digits: &[u8]) -> Option<&[u8]> {
        (digits == b"7").then_some(b"seven")
    }
}

fn json(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let value = Value { form: Form::Json, bytes: text.as_bytes() };
    let changed = edit(value, &mut Letters(Vec::new()), &mut out);
    changed.then(|| String::from_utf8(out).expect("UTF-8"))
}

#[test]
fn members_of_json_go_and_change_wherever_they_stand() {
    let cases = [
        (r#"{"r":1,"a":2}"#, Some(r#"{"a":2}"#)),
        (r#"{"a":2,"r":1}"#, Some(r#"{"a":2}"#)),
        (r#"{"a":2, "r":1, "r2":[1,{}] , "b":3}"#, Some(r#"{"a":2 , "b":3}"#)),
        (r#"{ "r" : {"x":"}"} , "r" : 2 }"#, Some("{  }")),
        (r#"{"r":1,"r":2,"a":{"r":[1]}}"#, Some(r#"{"a":{}}"#)),
        (r#"{"a":[{"m":{"x":[1]}},7,77,"!"]}"#, Some(r#"{"a":[{"m":"***"},"seven",77,"!!"]}"#)),
        (r#"{"k":{"m":1},"a":-7}"#, None),
        (r#"[{"m\u0061":"\"}"}]"#, Some(r#"[{"m\u0061":"***"}]"#)),
        ("{}", None),
    ];
    for (text, expected) in cases {
        assert_eq!(json(text).as_deref(), expected, "{text}");
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (0..10u64).prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[!a\"\\\\\u{e9}\n]{0,40}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map("[rmkab\"\\\\]{0,3}", inner, 0..20)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The same edit on a tree: the plain version that the walk is compared with.
fn edit_tree(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|key, _| !key.starts_with('r'));
            for (key, value) in members.iter_mut() {
                match key.chars().next() {
                    Some('m') => *value = "***".into(),
                    Some('k') => {}
                    _ => edit_tree(value),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(edit_tree),
        serde_json::Value::String(text) if text.starts_with('!') => *text = text.repeat(2),
        serde_json::Value::Number(number) if number.as_u64() == Some(7) => *value = "seven".into(),
        _ => {}
    }
}

proptest! {
    #[test]
    fn the_walk_over_encoded_values_agrees_with_a_tree(value in any_json()) {
        let mut expected = value.clone();
        edit_tree(&mut expected);
        let text = value.to_string();
        let got: serde_json::Value = serde_json::from_str(&json(&text).unwrap_or(text)).expect("still JSON");
        prop_assert_eq!(&got, &expected);

        let (encoded, mut out) = (msgpack(&value), Vec::new());
        let changed = edit(Value { form: Form::Msg, bytes: &encoded }, &mut Letters(Vec::new()), &mut out);
        let mut got = if changed { &out[..] } else { &encoded[..] };
        let got = rmpv::decode::read_value(&mut got).expect("still MessagePack");
        let mut expected = &msgpack(&expected)[..];
        prop_assert_eq!(got, rmpv::decode::read_value(&mut expected).expect("MessagePack"));
    }

    #[test]
    fn no_bytes_make_the_walk_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        for form in [Form::Json, Form::Msg] {
            edit(Value { form, bytes: &bytes }, &mut Letters(Vec::new()), &mut Vec::new());
        }
    }
}
