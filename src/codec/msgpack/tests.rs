use proptest::prelude::*;
use rmpv::Value as V;

use super::*;

thread_local! {
    /// Heads that were looked at: the work that a reader of MessagePack does beside copying.
    pub(crate) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn encode(value: &V) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).expect("writing to memory");
    out
}

fn to_json(bytes: &[u8]) -> (String, Vec<&'static str>) {
    let (mut out, mut tally) = (Vec::new(), Tally::default());
    write_json(bytes, bytes.len(), &mut out, &mut tally);
    let odd = Oddity::NAMES.iter().zip(tally.oddities).filter(|(_, count)| *count > 0).map(|(name, _)| *name);
    (String::from_utf8(out).expect("JSON is UTF-8"), odd.collect())
}

#[test]
fn every_kind_of_value_is_exact_in_json() {
    let cases: Vec<(Vec<u8>, &str, &[&str])> = vec![
        (encode(&V::from(u64::MAX)), "18446744073709551615", &[]),
        (encode(&V::from(i64::MIN)), "-9223372036854775808", &[]),
        (vec![0xd3, 0, 0, 0, 0, 0, 0, 0, 5], "5", &[]),
        (encode(&V::F32(0.1)), "0.1", &[]),
        (encode(&V::F64(0.1)), "0.1", &[]),
        (encode(&V::F64(-0.0)), "-0.0", &[]),
        (encode(&V::F64(f64::NAN)), "null", &["not_finite"]),
        (encode(&V::F32(f32::INFINITY)), "null", &["not_finite"]),
        (encode(&V::Binary(b"a\"b".to_vec())), r#""a\"b""#, &[]),
        (vec![0xa2, b'a', 0xff], "\"a\u{fffd}\"", &["invalid_utf8"]),
        (vec![0xd7, 0, 0x65, 0x53, 0xf1, 0, 0, 0, 0, 1], r#""2023-11-14T22:13:20.000000001Z""#, &[]),
        (vec![0xd6, 0xff, 0x65, 0x53, 0xf1, 0], r#""2023-11-14T22:13:20.000000000Z""#, &[]),
        (vec![0xd4, 42, 7], r#"{"type":42,"data":"Bw=="}"#, &["ext_unknown"]),
        // Of a time's type, but not of its length.
        (vec![0xd4, 0, 7], r#"{"type":0,"data":"Bw=="}"#, &["ext_unknown"]),
        (vec![0x83, 1, 2, 0xc0, 3, 0xc4, 1, b'x', 4], r#"{"1":2,"null":3,"x":4}"#, &["key_not_text"]),
        (vec![0x82, 0xa1, b'a', 1, 0xa1, b'a', 2], r#"{"a":1,"a":2}"#, &[]),
        (vec![0x92, 0xc3, 0x90], "[true,[]]", &[]),
    ];
    for (bytes, json, odd) in cases {
        assert_eq!(check(&bytes, DEPTH_MAX), Ok(bytes.len()), "{json}");
        assert_eq!(to_json(&bytes), (json.to_owned(), odd.to_vec()));
    }
}

#[test]
fn lies_about_lengths_are_short_and_cost_nothing() {
    for bytes in [
        &b"\xdf\xff\xff\xff\xff"[..],
        b"\xdd\xff\xff\xff\xff\x01",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x00",
    ] {
        assert_eq!(check(bytes, DEPTH_MAX), Err(Fault::Short));
        assert_eq!(end_of(bytes), Err(Fault::Short));
    }
    let mut skip = Skip::values(1);
    assert_eq!(skip.advance(b"\xdf\xff\xff\xff\xff"), Ok(5));
    assert_eq!(skip.owed(), u64::from(u32::MAX) * 2);
}

#[test]
fn a_value_of_any_depth_has_an_end_and_a_limited_check() {
    let deep = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
    for (levels, checked) in [(127, true), (128, true), (129, false), (1_000_000, false)] {
        let bytes = deep(levels);
        assert_eq!(end_of(&bytes), Ok(levels + 1));
        assert_eq!(check(&bytes, DEPTH_MAX).is_ok(), checked, "{levels} levels");
    }
}

#[test]
fn the_last_of_equal_keys_is_found() {
    let map = [0x83, 0xa1, b'a', 1, 0xa1, b'b', 0x91, 3, 0xa1, b'a', 2];
    assert_eq!(get(&map, b"a"), Some(&[2][..]));
    assert_eq!(get(&map, b"b").and_then(peek), Some(Peek::Array(&[0x91, 3])));
    assert_eq!((get(&map, b"c"), get(&[1], b"a")), (None, None));
}

#[test]
fn the_corpus_replays() {
    replay("msgpack", fuzz_one);
}

pub(crate) fn values() -> impl Strategy<Value = V> {
    let leaf = prop_oneof![
        Just(V::Nil),
        any::<bool>().prop_map(V::from),
        any::<u64>().prop_map(V::from),
        any::<i64>().prop_map(V::from),
        any::<i32>().prop_map(|number| V::F64(f64::from(number) / 8.0)),
        ".{0,40}".prop_map(V::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(V::Array),
            proptest::collection::vec((".{0,8}".prop_map(V::from), inner), 0..20).prop_map(V::Map),
        ]
    })
}

/// The obvious way: a tree, and serde_json.
fn tree(value: &V) -> serde_json::Value {
    match value {
        V::Nil => serde_json::Value::Null,
        V::Boolean(flag) => (*flag).into(),
        V::Integer(number) => number.as_u64().map_or_else(|| number.as_i64().into(), Into::into),
        V::F64(number) => (*number).into(),
        V::String(text) => text.as_str().into(),
        V::Array(items) => items.iter().map(tree).collect(),
        V::Map(pairs) => {
            pairs.iter().map(|(key, value)| (key.as_str().unwrap_or_default().to_owned(), tree(value))).collect()
        }
        other => panic!("not generated: {other}"),
    }
}

proptest! {
    #[test]
    fn json_is_what_rmpv_and_serde_json_make(value in values(), piece in 1usize..9) {
        let bytes = encode(&value);
        prop_assert_eq!(check(&bytes, DEPTH_MAX), Ok(bytes.len()));
        let mut skip = Skip::values(1);
        let (mut at, mut upto) = (0, 0);
        while !skip.is_done() {
            upto = (upto + piece).min(bytes.len());
            at += skip.advance(&bytes[at..upto]).expect("a good value");
        }
        prop_assert_eq!(at, bytes.len());
        let read: serde_json::Value = serde_json::from_str(&to_json(&bytes).0).expect("valid JSON");
        prop_assert_eq!(read, tree(&value));
    }

    #[test]
    fn every_float_keeps_its_bits(bits in any::<u64>(), small in any::<u32>()) {
        let (large, small) = (f64::from_bits(bits), f32::from_bits(small));
        prop_assume!(large.is_finite() && small.is_finite());
        // Not serde_json's parser, which may be one bit off.
        prop_assert_eq!(to_json(&encode(&V::F64(large))).0.parse::<f64>().map(f64::to_bits), Ok(large.to_bits()));
        prop_assert_eq!(to_json(&encode(&V::F32(small))).0.parse::<f32>().map(f32::to_bits), Ok(small.to_bits()));
    }

    #[test]
    fn a_float_of_few_decimals_has_the_shortest_text(digits in any::<i64>(), shift in 0u32..60, scale in 0i32..5) {
        let number = (digits >> shift) as f64 / 10f64.powi(scale);
        let mut shortest = ryu::Buffer::new();
        prop_assert_eq!(to_json(&encode(&V::F64(number))).0, shortest.format_finite(number));
    }

    #[test]
    fn json_to_messagepack_and_back_is_the_same(value in values()) {
        let text = serde_json::to_vec(&tree(&value)).expect("JSON");
        let mut packed = Vec::new();
        prop_assert!(from_json::unchecked(&text, &mut packed, &mut Tally::default()));
        prop_assert_eq!(check(&packed, DEPTH_MAX), Ok(packed.len()));
        let read: serde_json::Value = serde_json::from_str(&to_json(&packed).0).expect("valid JSON");
        prop_assert_eq!(read, tree(&value));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_one(&data);
    }
}

#[test]
fn keys_of_keys_of_keys_do_not_double_with_each_level() {
    // {{{...: 1}: 1}: 1}, and the same with an array around each key.
    for level in [&b"\x81"[..], b"\x81\x91"] {
        let deep = |levels: usize| [level.repeat(levels), b"\xa1a".to_vec(), b"\x01".repeat(levels)].concat();
        assert_eq!(check(&deep(60), DEPTH_MAX), Ok(deep(60).len()));
        let (text, odd) = to_json(&deep(60));
        assert!(text.len() < 4 * deep(60).len(), "{text}");
        assert_eq!(odd, ["key_not_text"]);
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    }
    assert_eq!(to_json(b"\x81\x81\xa1a\x01\x02").0, r#"{"{\"a\":1}":2}"#);
    assert_eq!(to_json(b"\x81\x81\x81\xa1a\x01\x02\x03").0, r#"{"{\"gaFhAQ==\":2}":3}"#);
}
