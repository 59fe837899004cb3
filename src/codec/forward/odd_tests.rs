use rmpv::Value as V;

use super::tests::{blob, chunk, encode, entry, map, message, packed, run_with};
use super::*;

#[test]
fn options_and_tags_in_single_bytes_are_looked_at_a_bounded_number_of_times() {
    // As long as each may be: read again with each byte they would be a hundred million steps.
    let options = map(&[("x", V::Array(vec![V::from(1); 16_000])), ("chunk", V::from("c"))]);
    let options_of = |kind: V| encode(&V::Array(vec![V::from("t"), kind, options.clone()]));
    let long_tag = encode(&V::Array(vec![V::from("t".repeat(4 << 10)), V::Binary(blob(4_000)), chunk("c")]));
    let V::Array(mut parts) = entry(1) else { panic!("an entry is an array") };
    let V::Map(fields) = &mut parts[1] else { panic!("of a time and a map") };
    fields.push((V::from("many"), V::Array(vec![V::from(1); 60_000])));
    let long_message = [vec![V::from("t".repeat(4 << 10))], parts, vec![chunk("c")]].concat();
    let frames = [
        ("options of a blob", options_of(V::Binary(blob(2)))),
        ("options of an array", options_of(V::Array(vec![entry(1), entry(2)]))),
        ("a tag before a blob", long_tag),
        ("a tag before a record", encode(&V::Array(long_message))),
    ];
    for (name, frame) in frames {
        for whole_max in [1, 1 << 20] {
            let limits = Limits { whole_max, ..Limits::default() };
            let whole = run_with(&frame, &[frame.len()], limits, 64 << 20, |_| ());
            let before = msgpack::tests::STEPS.get();
            let seen = run_with(&frame, &[1], limits, 64 << 20, |_| ());
            let steps = msgpack::tests::STEPS.get() - before;
            assert_eq!((&seen, seen.chunks.len(), seen.lost), (&whole, 1, None), "{name}");
            assert!(steps <= 5 * frame.len() as u64, "{name}: {steps} steps for {} bytes", frame.len());
        }
    }
}

#[test]
fn options_above_their_limit_and_reserved_bytes_are_known_at_once() {
    let streamed = Limits { whole_max: 1, ..Limits::default() };
    let blob_then = |options: &[u8]| [b"\x93\xa1t\xc4\x00", options].concat();
    let large = encode(&map(&[("x", V::from("y".repeat(17 << 10)))]));
    let claims: [&[u8]; 5] = [
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xdb\xff\xff\xff\xff",
        b"\x81\xa5chunk\xdd\xff\xff\xff\xff",
        b"\x81\xa5chunk\xc9\xff\xff\xff\xff\x05",
        &large,
    ];
    for options in claims {
        for piece in [1, 3, options.len() + 5] {
            let seen = run_with(&blob_then(options), &[piece], streamed, 1 << 20, |_| ());
            // Where all of it is there at once, it is the frame that is seen to be too large.
            let at_once = piece > 3 && matches!(seen.lost, Some(LostReason::TooLarge(..)));
            assert!(seen.lost == Some(LostReason::Options) || at_once, "in pieces of {piece}: {:?}", seen.lost);
            assert!(seen.chunks.is_empty());
        }
    }
    // More bytes are owed when it comes.
    for frame in
        [&b"\x94\xa1t\x01\x82\xa1a\xc1"[..], b"\x93\xa1t\x92\x92\x01\x83\xa1a\xc1", b"\x93\xa1t\xc4\x00\x83\xa1a\xc1"]
    {
        for limits in [streamed, Limits::default()] {
            let seen = run_with(frame, &[1], limits, 1 << 20, |_| ());
            assert_eq!(seen.lost, Some(LostReason::Reserved), "{frame:?}");
        }
    }
    // So does what claims more than a frame may have.
    for frame in [&b"\x94\xa1t\x01\x8f\xa1a\xdd\xff\xff\xff\xff"[..], b"\x93\xa1t\x92\x9f\x01\xdf\xff\xff\xff\xff"] {
        let seen = run_with(frame, &[1], Limits::default(), 1 << 20, |_| ());
        assert!(matches!(seen.lost, Some(LostReason::TooLarge(..))), "{frame:?}: {:?}", seen.lost);
    }
}

/// How often that was counted in what is made of these bytes, in pieces of any size alike.
fn counted(what: Oddity, bytes: &[u8]) -> u32 {
    let mut all = Vec::new();
    for (piece, whole_max) in [(bytes.len(), 1 << 20), (1, 1 << 20), (2, 1), (bytes.len(), 1)] {
        let (mut count, limits) = (0, Limits { whole_max, ..Limits::default() });
        run_with(bytes, &[piece], limits, 1 << 20, |batch| count += batch.tally.oddities[what as usize]);
        all.push(count);
    }
    assert!(all.iter().all(|count| *count == all[0]), "{} depends on pieces: {all:?}", what.name());
    all[0]
}

#[test]
fn keys_that_come_twice_are_both_kept_and_counted() {
    let record =
        |keys: &[&str]| V::Map(keys.iter().enumerate().map(|(at, key)| (V::from(*key), V::from(at))).collect());
    let numbered = |count: usize, more: &[&str]| {
        let keys: Vec<String> = (0..count).map(|n| format!("key {n:03}")).collect();
        record(&keys.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let inner = |value: V| map(&[("a", value)]);
    let cases: Vec<(&str, V, u32)> = vec![
        ("none", record(&["a", "b", "c"]), 0),
        ("once", record(&["a", "a"]), 1),
        ("twice and thrice", record(&["a", "b", "a", "b", "a"]), 3),
        ("empty", record(&["", "x", ""]), 1),
        ("alike but for the middle", record(&["axb", "ayb", "azb", "ayb"]), 1),
        ("of another length", record(&["aa", "aaa", "aaaa"]), 0),
        ("far apart", numbered(63, &["key 000"]), 1),
        ("beyond those that are compared", numbered(64, &["key 000"]), 0),
        ("many without one", numbered(500, &[]), 0),
        ("in a map within it", inner(record(&["a", "a"])), 0),
        ("no texts", V::Map(vec![(V::from(1), V::Nil), (V::from(1), V::Nil)]), 0),
    ];
    for (name, record, count) in cases {
        let fields = record.as_map().expect("a map").len();
        let entry = |record: &V| V::Array(vec![V::from(1), record.clone()]);
        let frames = [
            encode(&V::Array(vec![V::from("t"), V::from(1), record.clone()])),
            encode(&V::Array(vec![V::from("t"), V::Array(vec![entry(&record)]), map(&[])])),
            packed(encode(&entry(&record)), map(&[])),
        ];
        for frame in frames {
            assert_eq!(counted(Oddity::DuplicateKey, &frame), count, "{name}");
            run_with(&frame, &[frame.len()], Limits::default(), 1 << 20, |batch| {
                assert_eq!(batch.fields(0).len(), fields, "{name}: all are kept");
            });
        }
    }
    // A record that is refused has none.
    let deep = (0..130).fold(V::Nil, |inner, _| V::Array(vec![inner]));
    let refused = V::Map(vec![(V::from("a"), V::Nil), (V::from("a"), V::Nil), (V::from("d"), deep)]);
    assert_eq!(counted(Oddity::DuplicateKey, &packed(encode(&V::Array(vec![V::from(1), refused])), map(&[]))), 0);
    let json = br#"["t",1,{"a":1,"b":2,"a":3}]["t",[[1,{"a":1,"a":1,"a":1}],[1,{"a":{"b":1,"b":1}}]]]"#;
    assert_eq!(counted(Oddity::DuplicateKey, json), 3);
}

#[test]
fn an_empty_tag_is_kept_and_counted_once_a_frame() {
    let empty = || V::from("");
    let frame = |body: &[V]| encode(&V::Array([&[empty()], body].concat()));
    let V::Array(parts) = entry(1) else { panic!("an entry is an array") };
    let nested = V::Array(vec![V::Array(vec![empty(), V::Array(vec![entry(1), entry(2)])])]);
    let cases = [
        ("a message", frame(&parts), 1),
        ("two messages", frame(&parts).repeat(2), 2),
        ("an array", frame(&[V::Array(vec![entry(1), entry(2)]), map(&[])]), 1),
        ("a blob", frame(&[V::Binary(blob(3)), map(&[])]), 1),
        ("inside", encode(&V::Array(vec![V::from("t"), nested])), 1),
        ("JSON", br#"["",1,{"a":1}]["",[[1,{"a":1}],[2,{"a":1}]]]["t",1,{}]"#.to_vec(), 2),
        ("another tag", message(1, None), 0),
    ];
    for (name, bytes, count) in cases {
        assert_eq!(counted(Oddity::TagEmpty, &bytes), count, "{name}");
    }
}
