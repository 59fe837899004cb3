//! The forward decoder against a slow reader written with rmpv: the fuzz target `forward_rmpv` on its corpus and on
//! streams of made-up frames.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rmpv::Value;

#[path = "../fuzz/forward_rmpv.rs"]
mod reference;

/// Of what ends the comparison of a stream, or keeps a record from becoming JSON on the way in, there is little.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => Just(Value::Nil),
        6 => any::<bool>().prop_map(Value::from),
        6 => any::<i64>().prop_map(Value::from),
        6 => any::<u64>().prop_map(Value::from),
        6 => prop::num::f64::ANY.prop_map(Value::from),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]).prop_map(Value::from),
        1 => prop::num::f32::ANY.prop_map(Value::from),
        9 => ".{0,40}".prop_map(Value::from),
        1 => proptest::collection::vec(any::<u8>(), 0..8).prop_map(Value::from),
    ]
}

fn key() -> impl Strategy<Value = Value> {
    prop_oneof![9 => "[a-zé]{0,20}", 1 => ".{0,12}"].prop_map(Value::from)
}

fn fields(value: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    proptest::collection::vec((key(), value), 0..6).prop_map(Value::Map)
}

fn record() -> impl Strategy<Value = Value> {
    let value = scalar().prop_recursive(3, 16, 4, |inner| {
        prop_oneof![proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array), fields(inner)]
    });
    fields(value)
}

fn time() -> impl Strategy<Value = Value> {
    prop_oneof![
        9 => any::<u32>().prop_map(Value::from),
        9 => (any::<u32>(), 0u32..1_000_000_000)
            .prop_map(|(seconds, nanos)| Value::Ext(0, [seconds.to_be_bytes(), nanos.to_be_bytes()].concat())),
        1 => any::<i64>().prop_map(Value::from),
    ]
}

fn bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).expect("memory");
    out
}

fn frame() -> impl Strategy<Value = Value> {
    let entry = (time(), record()).prop_map(|(time, record)| Value::Array(vec![time, record]));
    let entries = proptest::collection::vec(entry, 0..5);
    (".{0,12}", 0..3, entries, any::<bool>()).prop_map(|(tag, mode, entries, asks)| {
        let mut items = vec![Value::from(tag)];
        match (mode, entries.first()) {
            (0, Some(Value::Array(entry))) => items.extend(entry.clone()),
            (1, _) => items.push(Value::Binary(entries.iter().flat_map(bytes).collect())),
            _ => items.push(Value::Array(entries)),
        }
        if asks {
            items.push(Value::Map(vec![("chunk".into(), "c".into())]));
        }
        Value::Array(items)
    })
}

#[test]
fn the_corpora_decode_as_rmpv_reads_them() {
    let (mut files, mut records, mut as_json) = (0, 0, 0);
    for folder in ["forward_rmpv", "forward"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
        for file in fs::read_dir(&folder).expect("a corpus") {
            let data = fs::read(file.expect("readable").path()).expect("readable");
            files += 1;
            let compared = reference::check(&data);
            records += compared.records;
            as_json += compared.as_json;
        }
    }
    assert!(files > 3 && records > 10 && as_json > 10, "{files} files, {records} records, {as_json} of them as JSON");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn streams_of_frames_decode_as_rmpv_reads_them(
        frames in proptest::collection::vec(frame(), 1..6),
        flip in proptest::option::of((any::<prop::sample::Index>(), 1u8..=255)),
    ) {
        let mut data: Vec<u8> = frames.iter().flat_map(bytes).collect();
        match flip {
            None => prop_assert_eq!(reference::check(&data).frames, frames.len()),
            Some((at, bits)) => {
                let at = at.index(data.len());
                data[at] ^= bits;
                reference::check(&data);
            }
        }
    }
}
