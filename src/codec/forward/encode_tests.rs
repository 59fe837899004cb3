use std::sync::Arc;

use proptest::prelude::*;
use rmpv::Value as V;

use super::super::{Decoder, Limits, Step};
use super::*;
use crate::batch::RowHead;
use crate::budget::Budget;
use crate::codec::{json, msgpack};
use crate::record::{Origin, Stream};

const NOTHING: Added = Added::NONE;
const NOW: Timestamp = Timestamp(1_795_428_900_000_000_007);

fn batch_of(origin: Origin) -> Batch {
    Batch::new(Budget::new(64 << 20).try_acquire(16 << 20).expect("free"), 0, Arc::new(origin))
}

/// Decodes a connection's bytes with our own decoder.
fn decode(bytes: &[u8]) -> Batch {
    let mut batch = batch_of(Origin::default());
    let (mut decoder, mut at) = (Decoder::new(Limits::default(), false), 0);
    loop {
        let (used, step) = decoder.decode(&bytes[at..], &mut batch, NOW);
        at += used;
        match step {
            Step::FrameEnd => (),
            Step::NeedMore if at == bytes.len() => return batch,
            other => panic!("{other:?} at {at} of {}", bytes.len()),
        }
    }
}

fn entry(encoder: &mut Encoder, batch: &Batch, at: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.row(batch, at, NOW, &mut out);
    out
}

/// The same as rmpv reads it: time and record.
fn read(entry: &[u8]) -> (V, V) {
    let mut rest = entry;
    let value = rmpv::decode::read_value(&mut rest).expect("whole MessagePack");
    assert!(rest.is_empty(), "{} bytes more", rest.len());
    match value {
        V::Array(mut items) if items.len() == 2 => (items.remove(0), items.remove(0)),
        other => panic!("{other}"),
    }
}

fn push_object(batch: &mut Batch, object: &str, head: impl FnOnce(RowHead) -> RowHead) {
    let tag = batch.tag_index("api.web").expect("room for a tag");
    let span = batch.push_bytes(object.as_bytes());
    let mark = batch.fields_mark();
    json::push_members(batch, span, 128).expect("an object");
    batch.push_row(mark, head(RowHead::at(Timestamp(1_700_000_000_000_000_001), tag)));
}

fn to_bytes(value: &V) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).expect("writing to memory");
    out
}

fn counted(encoder: &mut Encoder) -> Vec<&'static str> {
    let tally = std::mem::take(&mut encoder.tally);
    Oddity::NAMES.iter().zip(tally.oddities).filter(|(_, count)| *count > 0).map(|(name, _)| *name).collect()
}

#[test]
fn the_corpus_replays() {
    msgpack::replay("forward_encode", fuzz_one);
}

#[test]
fn a_frame_is_byte_for_byte_what_the_protocol_says() {
    let entries = [0x92, 0xd7, 0, 0x65, 0x53, 0xf1, 0, 0, 0, 0, 1, 0x81, 0xa1, b'a', 1];
    let made = |mode, options| {
        let mut out = Vec::new();
        frame(mode, "t", &entries, 1, options, &mut out);
        out
    };
    let chunk = Options { chunk: Some("id"), compressed: None };
    let option = b"\x82\xa4size\x01\xa5chunk\xa2id";
    assert_eq!(made(Mode::Packed, chunk), [b"\x93\xa1t\xc6\0\0\0\x0f", &entries[..], option].concat());
    assert_eq!(made(Mode::PackedText, chunk), [b"\x93\xa1t\xdb\0\0\0\x0f", &entries[..], option].concat());
    assert_eq!(made(Mode::Forward, chunk), [b"\x93\xa1t\x91", &entries[..], option].concat());
    assert_eq!(made(Mode::Message, chunk), [b"\x94\xa1t", &entries[1..], b"\x81\xa5chunk\xa2id"].concat());
    assert_eq!(made(Mode::Message, Options::default()), [b"\x93\xa1t", &entries[1..]].concat());
    let zipped = Options { chunk: None, compressed: Some("gzip") };
    let option = b"\x82\xa4size\x01\xaacompressed\xa4gzip";
    assert_eq!(made(Mode::Packed, zipped), [b"\x93\xa1t\xc6\0\0\0\x0f", &entries[..], option].concat());
}

#[test]
fn the_chunk_id_is_the_same_for_the_same_key_and_tag_only() {
    let id = chunk_id(7, "a");
    assert_eq!(id.len(), 24);
    assert_eq!(id, chunk_id(7, "a"));
    assert!(id != chunk_id(8, "a") && id != chunk_id(7, "b"));
}

#[test]
fn the_frames_of_a_body_are_found_again() {
    let mut body = Vec::new();
    for (tag, chunk) in [("a", "c1"), ("", "c2")] {
        frame(Mode::Packed, tag, b"\x92\0\x80", 1, Options { chunk: Some(chunk), compressed: None }, &mut body);
    }
    let found: Vec<_> = frames(&body).collect();
    assert_eq!(found, [(&b"a"[..], 1, &b"c1"[..]), (b"", 1, b"c2")]);
    assert_eq!(frames(b"\x93").count(), 0);
}

#[test]
fn a_record_that_came_as_messagepack_goes_out_as_the_same_bytes() {
    // Heads of several widths, binary, an ext type, bytes that are no UTF-8, a duplicate key.
    let long = "k".repeat(40);
    let record = [
        b"\x88\xa1a\xcd\x01\x00\xa3log\xd9\x22".as_slice(),
        "x".repeat(34).as_bytes(),
        b"\xd9\x28",
        long.as_bytes(),
        b"\x92\xc0\x81\xa1b\xc4\x02\xff\x00\xa3ext\xd4\x05\x07\xa1u\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1f\xca\x3d\xcc\xcc\xcd",
        b"\xa1a\xa2\xff\xfe\xa0\xa0",
    ]
    .concat();
    let entry_bytes = [b"\x92\xd7\0\x65\x53\xf1\0\0\0\0\x01".as_slice(), &record].concat();
    let mut bytes = Vec::new();
    frame(Mode::Packed, "t", &entry_bytes, 1, Options::default(), &mut bytes);
    let batch = decode(&bytes);
    let mut encoder = Encoder::new(Added { tag: false, time: false, ..Added::ALL }, TimeForm::Event);
    assert_eq!(entry(&mut encoder, &batch, 0), entry_bytes);
    assert!(counted(&mut encoder).is_empty());
}

#[test]
fn a_step_that_moved_a_field_costs_a_run_and_nothing_else() {
    let mut bytes = Vec::new();
    let record = V::Map(vec![("a".into(), 1.into()), ("b".into(), "x".into()), ("c".into(), V::Nil)]);
    let entries = [b"\x92\xd7\0\x65\x53\xf1\0\0\0\0\x01".as_slice(), &to_bytes(&record)].concat();
    frame(Mode::Packed, "t", &entries, 1, Options::default(), &mut bytes);
    let mut batch = decode(&bytes);
    let changed = batch.push_bytes(b"a longer text than the one before, so that its head is another");
    batch.fields_mut(0)[1].value = changed;
    let (_, record) = read(&entry(&mut Encoder::new(NOTHING, TimeForm::Event), &batch, 0));
    let text = "a longer text than the one before, so that its head is another";
    assert_eq!(record, V::Map(vec![("a".into(), 1.into()), ("b".into(), text.into()), ("c".into(), V::Nil)]));
}

#[test]
fn json_fields_become_messagepack_and_added_values_follow() {
    let container = Container { id: "c0ffee".into(), name: "web".into(), ..Container::default() };
    let mut batch = batch_of(Origin { container: Some(container), file: Some("/var/log/x".into()), peer: None });
    let object = r#"{"n":18446744073709551615,"s":"é\n\"","o":{"k":[1,-2,0.5,null,true]},"big":1e400,"stream":"own"}"#;
    push_object(&mut batch, object, |head| RowHead { stream: Stream::Stderr, ..head });
    let mut encoder = Encoder::new(Added::ALL, TimeForm::Event);
    let (time, record) = read(&entry(&mut encoder, &batch, 0));
    assert_eq!(time, V::Ext(0, vec![0x65, 0x53, 0xf1, 0, 0, 0, 0, 1]));
    let inner = V::Map(vec![("k".into(), V::Array(vec![1.into(), (-2).into(), 0.5.into(), V::Nil, true.into()]))]);
    let expected = vec![
        ("n".into(), u64::MAX.into()),
        ("s".into(), "é\n\"".into()),
        ("o".into(), inner),
        ("big".into(), "1e400".into()),
        ("stream".into(), "own".into()),
        ("_stream".into(), "stderr".into()),
        ("time".into(), "2023-11-14T22:13:20.000000001Z".into()),
        ("container".into(), V::Map(vec![("id".into(), "c0ffee".into()), ("name".into(), "web".into())])),
        ("file".into(), "/var/log/x".into()),
        ("tag".into(), "api.web".into()),
    ];
    assert_eq!(record, V::Map(expected));
    assert_eq!(counted(&mut encoder), ["number_as_text"]);
}

#[test]
fn a_time_that_is_text_is_read_and_one_that_is_none_is_now() {
    let mut batch = batch_of(Origin::default());
    for text in ["2023-11-14T22:13:20.5Z", "yesterday"] {
        let time_text = batch.push_bytes(text.as_bytes());
        push_object(&mut batch, "{}", |head| RowHead { time: Timestamp::UNREAD, time_text, ..head });
    }
    let mut encoder = Encoder::new(Added { time: true, ..NOTHING }, TimeForm::Seconds);
    let (time, record) = read(&entry(&mut encoder, &batch, 0));
    assert_eq!((time, record), (1_700_000_000.into(), V::Map(vec![("time".into(), "2023-11-14T22:13:20.5Z".into())])));
    let (time, record) = read(&entry(&mut encoder, &batch, 1));
    assert_eq!(time, (NOW.0 / NS).into());
    assert_eq!(record, V::Map(vec![("time".into(), "yesterday".into())]));
    assert_eq!(counted(&mut encoder), ["time_from_receipt"]);
}

#[test]
fn times_that_mean_something_else_to_receivers_are_moved_and_counted() {
    let written = |time: i64, form| {
        let (mut out, mut tally) = (Vec::new(), Tally::default());
        entry_head(Timestamp(time), form, &mut out, &mut tally);
        (out[1..].to_vec(), tally.oddities[Oddity::TimeClamped as usize])
    };
    let event = |seconds: u32, nanos: u32| [&[0xd7, 0][..], &seconds.to_be_bytes(), &nanos.to_be_bytes()].concat();
    assert_eq!(written(NS, TimeForm::Event), (event(1, 0), 0));
    assert_eq!(written(NS - 1, TimeForm::Event), (event(1, 0), 1));
    assert_eq!(written(-5 * NS, TimeForm::Event), (event(1, 0), 1));
    assert_eq!(written(0xffff_fffd * NS + 7, TimeForm::Event), (event(0xffff_fffd, 7), 0));
    assert_eq!(written(0xffff_ffff * NS, TimeForm::Event), (event(0xffff_fffd, 999_999_999), 1));
    assert_eq!(written(0, TimeForm::Seconds), (vec![1], 1));
    assert_eq!(written(-NS, TimeForm::Seconds), (vec![0xff], 0));
    assert_eq!(written(1_700_000_000 * NS, TimeForm::Seconds), (vec![0xce, 0x65, 0x53, 0xf1, 0], 0));
}

#[test]
fn the_corpus_of_the_decoder_goes_round() {
    msgpack::replay("forward", fuzz_one);
}

fn values() -> impl Strategy<Value = V> {
    let leaf = prop_oneof![
        Just(V::Nil),
        any::<bool>().prop_map(V::from),
        any::<u64>().prop_map(V::from),
        any::<i64>().prop_map(V::from),
        any::<f64>().prop_filter("equality", |number| !number.is_nan()).prop_map(V::F64),
        any::<f32>().prop_filter("equality", |number| !number.is_nan()).prop_map(V::F32),
        ".{0,300}".prop_map(V::from),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(V::Binary),
        (1i8..100, proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, data)| V::Ext(kind, data)),
    ];
    leaf.prop_recursive(3, 30, 20, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(V::Array),
            proptest::collection::vec((".{0,40}".prop_map(V::from), inner), 0..20).prop_map(V::Map),
        ]
    })
}

fn records() -> impl Strategy<Value = Vec<(String, V)>> {
    proptest::collection::vec((".{0,40}", values()), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_rmpv_writes_comes_out_as_rmpv_reads_it(all in proptest::collection::vec(records(), 1..8)) {
        let record = |fields: &[(String, V)]| {
            V::Map(fields.iter().map(|(key, value)| (key.as_str().into(), value.clone())).collect())
        };
        let time = V::Ext(0, vec![0x65, 0x53, 0xf1, 0, 0, 0, 0, 1]);
        let entries: Vec<u8> =
            all.iter().flat_map(|fields| to_bytes(&V::Array(vec![time.clone(), record(fields)]))).collect();
        let mut bytes = Vec::new();
        frame(Mode::Packed, "t", &entries, all.len(), Options::default(), &mut bytes);
        let batch = decode(&bytes);
        prop_assert_eq!(batch.len(), all.len());
        let mut encoder = Encoder::new(NOTHING, TimeForm::Event);
        let mut again = Vec::new();
        for (at, fields) in all.iter().enumerate() {
            let one = entry(&mut encoder, &batch, at);
            prop_assert_eq!(read(&one), (time.clone(), record(fields)));
            again.extend(one);
        }
        // rmpv writes the shortest heads, as every good sender does: nothing was encoded anew.
        prop_assert!(again == entries);
    }

    #[test]
    fn json_comes_out_as_the_same_json(texts in proptest::collection::vec(".{0,40}", 1..6), eighths in any::<i32>(), int in any::<i64>()) {
        // No more digits than serde_json's reader gets right.
        let number = f64::from(eighths) / 8.0;
        let object = serde_json::json!({ "texts": texts, "text": texts[0], "number": number, "int": int, "o": { "a": [null, {}] } });
        let mut batch = batch_of(Origin::default());
        push_object(&mut batch, &object.to_string(), |head| head);
        let mut encoder = Encoder::new(NOTHING, TimeForm::Event);
        let entries = entry(&mut encoder, &batch, 0);
        prop_assert!(counted(&mut encoder).is_empty());
        let mut bytes = Vec::new();
        frame(Mode::Packed, "t", &entries, 1, Options::default(), &mut bytes);
        let mut out = Vec::new();
        ndjson::Encoder::new(NOTHING).row(&decode(&bytes), 0, &mut out);
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).expect("JSON"), object);
    }
}
