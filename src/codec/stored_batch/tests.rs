use proptest::prelude::*;

use super::*;
use crate::budget::Budget;
use crate::codec::json;
use crate::record::{RowHead, Tag};

fn fresh() -> Batch {
    let container = Container {
        id: "ab".repeat(32),
        name: "web".into(),
        image: "a:1".into(),
        labels: vec![("k".into(), "v".into())],
    };
    let origin = Origin { container: Some(container), file: Some("/a".into()), peer: None };
    let mut batch = Batch::new(Budget::new(1 << 20).empty_permit(), 3, Arc::new(origin));
    batch.base = 1 << 40;
    batch.ids.push(IdRun { from: 0, prefix: 7, first: 1 << 41 });
    batch
}

/// A record as it would be sent, its tag and id among it.
type Seen = (i64, Vec<u8>, Vec<(Form, Vec<u8>, Form, Vec<u8>)>, String, Stream, u16, Origin, String);

fn seen(batch: &Batch, at: usize) -> Seen {
    let row = batch.row(at);
    let fields = batch.fields(at).iter().map(|field| {
        let (key, value) = (batch.key(field), batch.value(field));
        (key.form, key.bytes.to_vec(), value.form, value.bytes.to_vec())
    });
    (
        row.time.0,
        batch.bytes(row.time_text).to_vec(),
        fields.collect(),
        batch.tag_of(at).as_str().to_owned(),
        row.stream,
        row.flags,
        (**batch.origin_at(at)).clone(),
        batch.id_of(at).to_string(),
    )
}

fn stored(batch: &Batch, tags: u64) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encode(batch, "apps", tags, &mut out);
    out.split_off(6)
}

fn read(bytes: &[u8]) -> Result<Batch, Damage> {
    decode(bytes, Budget::new(1 << 20).empty_permit(), 3)
}

/// Any batch of records that stand in the arena as objects, among other bytes and with blanks in the objects.
fn any_objects() -> impl Strategy<Value = Batch> {
    let value = prop::sample::select(vec![
        "0",
        "-1.5e3",
        "null",
        "\"\"",
        "\"a\\n\\u00e9\"",
        "{\"x\":[1,{}]}",
        "\"日本\"",
        "[]",
    ]);
    let members = prop::collection::vec(("[a-f\\\\]{0,9}", value), 1..6);
    let row = (members, 0usize..4, any::<bool>(), any::<i64>(), 0u8..4, 0u8..3, 0usize..4);
    prop::collection::vec(row, 0..20).prop_map(|rows| {
        let mut batch = fresh();
        let mut keep = Vec::new();
        for (members, odd, kept, time, tag, place, stream) in rows {
            let tag = batch.tag_index(&format!("t{tag}")).expect("few");
            let (colon, comma) = if odd == 1 { (": ", ", ") } else { (":", ",") };
            let members: Vec<String> =
                members.iter().map(|(key, value)| format!("\"{}\"{colon}{value}", key.replace('\\', "\\t"))).collect();
            let blank = if odd == 2 { " " } else { "" };
            let object = format!("{{{blank}{}{blank}}}", members.join(comma));
            if odd == 3 {
                batch.push_bytes(b"other bytes");
            }
            let object = batch.push_bytes(object.as_bytes());
            let mark = batch.fields_mark();
            json::push_members(&mut batch, object, 128).expect("an object");
            let time_text = if kept { batch.push_bytes(b"2026") } else { Span::default() };
            let pos = batch.len() as u32;
            let head = RowHead { stream: STREAMS[stream], time_text, pos, ..RowHead::at(Timestamp(time), tag) };
            batch.push_row_as_written(mark, batch.own_flags(mark), head);
            if place > 0 {
                let origin = Arc::new(Origin { peer: Some(format!("peer {place}")), ..Origin::default() });
                let place = batch.place_of(&origin).expect("few");
                let at = batch.len() - 1;
                batch.row_mut(at).set_place(place);
            }
            keep.push(kept || odd > 0);
        }
        batch.retain_marked(&keep);
        assert!(batch.is_whole());
        batch
    })
}

/// As JSON lines.
fn lines(batch: &Batch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = crate::codec::ndjson::Encoder::new(crate::record::Added::ALL);
    (0..batch.len()).for_each(|at| encoder.row(batch, at, &mut out));
    out
}

/// Any batch: fields of all forms, several tags and origins, dropped rows, parsed text.
fn any_batch() -> impl Strategy<Value = Batch> {
    let field = (prop::collection::vec(any::<u8>(), 0..12), prop::collection::vec(any::<u8>(), 0..40), 0usize..16);
    let row =
        (any::<i64>(), 0u8..4, 0u8..3, prop::collection::vec(field, 0..5), any::<bool>(), 0usize..4, any::<u32>());
    prop::collection::vec(row, 0..20).prop_map(|rows| {
        let mut batch = fresh();
        let mut keep = Vec::new();
        for (time, tag, place, fields, kept, stream, pos) in rows {
            let tag = batch.tag_index(&format!("t{tag}")).expect("few");
            let mark = batch.fields_mark();
            for (key, value, forms) in fields {
                let (key, value) = (batch.push_bytes(&key), batch.push_bytes(&value));
                batch.push_field(Field { key, value, key_form: FORMS[forms % 4], form: FORMS[forms / 4] });
            }
            let time_text = if kept { batch.push_bytes(b"2026") } else { Span::default() };
            let head = RowHead { stream: STREAMS[stream], time_text, pos, ..RowHead::at(Timestamp(time), tag) };
            batch.push_row(mark, head);
            if place > 0 {
                let origin = Arc::new(Origin { peer: Some(format!("peer {place}")), ..Origin::default() });
                let place = batch.place_of(&origin).expect("few");
                let at = batch.len() - 1;
                batch.row_mut(at).set_place(place);
            }
            keep.push(kept);
        }
        batch.retain_marked(&keep);
        batch
    })
}

proptest! {
    #[test]
    fn what_was_stored_is_read_whatever_the_records(batch in any_batch(), tags in prop::sample::select(vec![u64::MAX, 1, 6])) {
        let bytes = stored(&batch, tags);
        let wanted: Vec<Seen> =
            (0..batch.len()).filter(|at| wants(batch.row(*at), tags)).map(|at| seen(&batch, at)).collect();
        let back = read(&bytes).expect("whole");
        prop_assert_eq!(peek(&bytes).expect("whole"), ("apps", wanted.len() as u32));
        prop_assert_eq!((0..back.len()).map(|at| seen(&back, at)).collect::<Vec<_>>(), wanted);
        prop_assert_eq!((back.base, back.input), (batch.base, 3));
    }

    #[test]
    fn objects_are_read_as_they_were_stored_without_their_tables(
        batch in any_objects(), tags in prop::sample::select(vec![u64::MAX, 1, 6]),
    ) {
        let bytes = stored(&batch, tags);
        prop_assert_eq!(bytes[3], 2);
        let wanted: Vec<Seen> =
            (0..batch.len()).filter(|at| wants(batch.row(*at), tags)).map(|at| seen(&batch, at)).collect();
        let back = read(&bytes).expect("whole");
        prop_assert_eq!(peek(&bytes).expect("whole"), ("apps", wanted.len() as u32));
        prop_assert_eq!((0..back.len()).map(|at| seen(&back, at)).collect::<Vec<_>>(), wanted);
        prop_assert!(back.cost() <= memory(&bytes) && bytes.len() <= size_hint(&batch) + 256);
        if tags == u64::MAX {
            prop_assert_eq!(lines(&back), lines(&batch));
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_a_batch_and_never_a_panic(
        batch in any_batch().boxed().prop_union(any_objects().boxed()),
        at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = stored(&batch, u64::MAX);
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert!(read(short).is_err(), "every byte is wanted");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fuzz_one(&bytes);
    }
}

#[test]
fn dead_bytes_are_left_out_and_neighbours_stay_neighbours() {
    let mut batch = fresh();
    let tag = batch.shared_tag_index(&Tag::from("t")).expect("room");
    for dead in [true, false, true, true, true] {
        let object = batch.push_bytes(br#"{"a":1,"b":"text","c":{"d":[1,2]}}"#);
        let mark = batch.fields_mark();
        json::push_members(&mut batch, object, 128).expect("an object");
        batch.push_row(mark, RowHead { pos: u32::from(dead), ..RowHead::at(Timestamp(5), tag) });
    }
    batch.retain(|row| row.pos == 0);
    let bytes = stored(&batch, u64::MAX);
    assert!(bytes.len() < 340, "{} bytes for one record", bytes.len());
    let back = read(&bytes).expect("whole");
    assert_eq!(seen(&back, 0), seen(&batch, 0));
    assert!(back.arena().windows(8).any(|part| part == br#""b":"tex"#), "separators come along");
}

#[test]
fn other_versions_and_other_bytes_are_named() {
    let mut bytes = stored(&fresh(), u64::MAX);
    bytes[3] = 3;
    assert!(read(&bytes).is_err_and(|error| error.to_string().contains("version 3")));
    assert!(read(b"{\"a\":1}").is_err_and(|error| error.to_string().contains("no stored batch")));
    assert!(read(b"").is_err());
}

/// Two records as `push_escaped` and the like leave them.
fn objects() -> Batch {
    let mut batch = fresh();
    let tag = batch.tag_index("t").expect("room");
    for object in [r#"{"a":1,"b":"text"}"#, r#"{"log":"two"}"#] {
        let mark = batch.fields_mark();
        let object = batch.push_bytes(object.as_bytes());
        json::push_members(&mut batch, object, 128).expect("an object");
        batch.push_row_as_written(mark, 0, RowHead::at(Timestamp(5), tag));
    }
    batch
}

#[test]
fn objects_that_say_other_than_their_rows_are_damage() {
    let bytes = stored(&objects(), u64::MAX);
    let back = read(&bytes).expect("whole");
    assert!(back.is_whole(), "a sink copies the members of what was read in one piece, too");
    assert!(objects().is_packed());
    let at = bytes.len() - 31;
    assert_eq!(&bytes[at..], br#"{"a":1,"b":"text"}{"log":"two"}"#);
    // Another number of fields; other streams, one with a text; an empty object; no object; bytes left over; a blank first.
    for (place, byte) in [(8, 2), (8, 4), (at - 1, 3), (at - 1, 0x80), (at + 1, b'}'), (at, b'['), (at + 18, b'\n')] {
        let mut bytes = bytes.clone();
        assert_ne!(bytes[place], byte, "{place}");
        bytes[place] = byte;
        assert!(read(&bytes).is_err(), "byte {place} as {byte}");
    }
    let mut longer = [&bytes[..], b" "].concat();
    longer[12] += 1;
    assert!(read(&longer).is_err_and(|error| error.to_string().contains("left over")));
    let spaced = [&bytes[..at], br#"{"a":1,"b": "tex"}{"log":"two"}"#].concat();
    let back = read(&spaced).expect("an object all the same");
    assert!(!back.is_whole());
    assert_eq!(lines(&back).windows(10).filter(|part| part == br#""b": "tex""#).count(), 1);
}

#[test]
fn a_batch_is_packed_until_something_else_is_between_its_objects_or_a_row_goes_or_moves() {
    let changes: [fn(&mut Batch); 5] = [
        |batch| batch.retain(|row| row.pos == 1),
        |batch| _ = batch.push_bytes(b"x"),
        |batch| _ = batch.pop_row(),
        |batch| {
            let mut rows = batch.take_rows();
            rows.reverse();
            rows.into_iter().for_each(|row| batch.keep_row(row));
        },
        |batch| _ = batch.fields_mut(0),
    ];
    for change in changes {
        let mut batch = objects();
        batch.row_mut(1).pos = 1;
        change(&mut batch);
        assert!(!batch.is_packed());
        let wanted: Vec<Seen> = (0..batch.len()).map(|at| seen(&batch, at)).collect();
        let back = read(&stored(&batch, u64::MAX)).expect("whole");
        assert_eq!((0..back.len()).map(|at| seen(&back, at)).collect::<Vec<_>>(), wanted);
    }
    // The time as text of a row is stored beside its object.
    let mut batch = objects();
    batch.row_mut(0).time_text = Span { at: 2, len: 1 };
    let back = read(&stored(&batch, u64::MAX)).expect("whole");
    assert_eq!(
        (0..2).map(|at| seen(&back, at)).collect::<Vec<_>>(),
        (0..2).map(|at| seen(&batch, at)).collect::<Vec<_>>()
    );
}

/// Writes the seeds of the fuzz target when they are missing.
#[test]
fn the_seeds_are_whole() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/stored_batch");
    let mut batch = fresh();
    let tag = batch.tag_index("t").expect("room");
    let mark = batch.fields_mark();
    let object = batch.push_bytes(br#"{"a":1,"b":"text"}"#);
    json::push_members(&mut batch, object, 128).expect("an object");
    batch.push_row(mark, RowHead::at(Timestamp(5), tag));
    let bytes = stored(&batch, u64::MAX);
    if std::env::var_os("LONGSHORE_WRITE_SEEDS").is_some() {
        std::fs::write(folder.join("one_record"), &bytes).expect("writable");
        std::fs::write(folder.join("empty"), stored(&fresh(), u64::MAX)).expect("writable");
        std::fs::write(folder.join("cut"), &bytes[..bytes.len() / 2]).expect("writable");
        std::fs::write(folder.join("objects"), stored(&objects(), u64::MAX)).expect("writable");
    }
    let kept = std::fs::read(folder.join("objects")).expect("LONGSHORE_WRITE_SEEDS=1 writes it");
    assert_eq!(kept, stored(&objects(), u64::MAX), "the format changed: raise the version");
    let kept = std::fs::read(folder.join("one_record")).expect("LONGSHORE_WRITE_SEEDS=1 writes it");
    assert_eq!(kept, bytes, "the format changed: raise the version");
}
