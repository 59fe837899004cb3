use std::sync::Arc;

use proptest::prelude::*;
use rmpv::Value as V;

use super::*;
use crate::budget::Budget;
use crate::codec::gzip::{Codec, compress};
use crate::codec::json::texts::{self, Blanks};
use crate::record::{Form, Stream};

pub(super) const NOW: Timestamp = Timestamp(7_000_000_000);

pub(super) fn encode(value: &V) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).expect("writing to memory");
    out
}

fn event_time(seconds: u32) -> V {
    V::Ext(0, [seconds.to_be_bytes(), 1u32.to_be_bytes()].concat())
}

pub(super) fn map(pairs: &[(&str, V)]) -> V {
    V::Map(pairs.iter().map(|(key, value)| (V::from(*key), value.clone())).collect())
}

pub(super) fn entry(n: u64) -> V {
    V::Array(vec![event_time(1_700_000_000), map(&[("n", V::from(n)), ("log", V::from(format!("line {n}")))])])
}

pub(super) fn blob(entries: u64) -> Vec<u8> {
    (0..entries).flat_map(|n| encode(&entry(n))).collect()
}

pub(super) fn chunk(id: &str) -> V {
    map(&[("size", V::from(3)), ("chunk", V::from(id))])
}

pub(super) fn message(n: u64, option: Option<V>) -> Vec<u8> {
    let V::Array(entry) = entry(n) else { panic!("an entry is an array") };
    let mut frame = vec![V::from("t")];
    frame.extend(entry);
    frame.extend(option);
    encode(&V::Array(frame))
}

fn forward(entries: u64, id: &str) -> Vec<u8> {
    encode(&V::Array(vec![V::from("t"), V::Array((0..entries).map(entry).collect()), chunk(id)]))
}

pub(super) fn packed(blob: Vec<u8>, option: V) -> Vec<u8> {
    encode(&V::Array(vec![V::from("t"), V::Binary(blob), option]))
}

pub(super) fn zipped(codec: Codec, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(codec, 3, text, &mut out);
    out
}

/// What came out of a connection.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) rows: Vec<String>,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) rejected: Vec<(&'static str, u32)>,
    pub(super) lost: Option<LostReason>,
}

fn show(batch: &Batch, at: usize) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields: Vec<String> = batch
        .fields(at)
        .iter()
        .map(|field| {
            let value = match field.form {
                Form::Msg => format!("{:?}", msgpack::peek(batch.bytes(field.value)).expect("a checked value")),
                _ => text(batch.bytes(field.value)),
            };
            format!("{}={value}", text(batch.bytes(field.key)))
        })
        .collect();
    format!("{} {} {}", batch.tag_of(at), batch.row(at).time.0, fields.join(","))
}

pub(super) fn run_with(
    bytes: &[u8],
    pieces: &[usize],
    limits: Limits,
    room: usize,
    mut see: impl FnMut(&Batch),
) -> Seen {
    let budget = Budget::new(1 << 30);
    let fresh = || {
        let mut permit = budget.empty_permit();
        permit.grow(room);
        Batch::new(permit, 0, Arc::default())
    };
    let mut decoder = Decoder::new(limits, true);
    let (mut batch, mut seen, mut pieces) = (fresh(), Seen::default(), pieces.iter().cycle());
    let mut rejected = vec![0; RejectReason::COUNT];
    let mut take = |batch: &Batch, seen: &mut Seen| {
        see(batch);
        seen.rows.extend((0..batch.len()).map(|at| show(batch, at)));
        rejected.iter_mut().zip(batch.tally.rejected).for_each(|(sum, count)| *sum += count);
    };
    let (mut from, mut to) = (0, 0);
    loop {
        let (used, step) = decoder.decode_after(&bytes[..from], &bytes[from..to], &mut batch, NOW);
        from += used;
        match step {
            Step::NeedMore if to == bytes.len() => break,
            Step::NeedMore => to = (to + pieces.next().copied().unwrap_or(1).max(1)).min(bytes.len()),
            Step::Full => {
                take(&batch, &mut seen);
                batch = fresh();
            }
            Step::NeedsMemory(need) => {
                if let Need::Codec(_) = need {
                    assert!(decoder.memory().0 <= 64 << 10, "only the window may be there while it asks");
                }
                decoder.grant(need);
            }
            Step::FrameEnd => seen.chunks.extend(decoder.chunk().map(<[u8]>::to_vec)),
            Step::Lost(lost) => {
                seen.lost = Some(lost.reason);
                break;
            }
        }
    }
    take(&batch, &mut seen);
    seen.rejected = RejectReason::NAMES.iter().copied().zip(rejected).filter(|(_, count)| *count > 0).collect();
    seen
}

fn run(bytes: &[u8]) -> Seen {
    run_with(bytes, &[bytes.len()], Limits::default(), 1 << 20, |_| ())
}

fn lines(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("t 1700000000000000001 n=UInt({n}),log=line {n}")).collect()
}

#[test]
fn a_decoder_that_goes_on_with_a_connection_counts_from_its_start() {
    let json = br#"["t",1700000000,{"a":1}]"#.to_vec();
    for (first, bad) in [(message(1, None), &b"["[..]), (json, &b"\x93"[..])] {
        let budget = Budget::new(1 << 30);
        let mut permit = budget.empty_permit();
        permit.grow(1 << 20);
        let mut batch = Batch::new(permit, 0, Arc::default());
        let mut decoder = Decoder::new(Limits::default(), true);
        assert_eq!(decoder.decode(&first, &mut batch, NOW), (first.len(), Step::NeedMore));
        let mut decoder = Decoder::resume(Limits::default(), true, decoder.place());
        assert_eq!(decoder.decode(&first, &mut batch, NOW), (first.len(), Step::NeedMore));
        let (_, step) = decoder.decode(bad, &mut batch, NOW);
        assert!(matches!(step, Step::Lost(lost) if lost.offset == 2 * first.len() as u64), "{step:?}");
        assert_eq!(batch.len(), 2);
    }
}

#[test]
fn every_mode_gives_the_same_rows_wherever_it_is_cut() {
    let text = blob(3);
    let two = [zipped(Codec::Gzip, &text[..20]), zipped(Codec::Gzip, &text[20..])].concat();
    let three = [zipped(Codec::Zstd, &text[..20]), zipped(Codec::Zstd, &text[20..])].concat();
    let with = |codec: &str| map(&[("chunk", V::from("c")), ("compressed", V::from(codec))]);
    let mut as_str = vec![0x93, 0xa1, b't', 0xdb];
    as_str.extend((text.len() as u32).to_be_bytes());
    as_str.extend(&text);
    as_str.extend(encode(&chunk("c")));
    let mut wide = vec![0xdd, 0, 0, 0, 3, 0xc6, 0, 0, 0, 1, b't', 0xdc, 0, 3];
    wide.extend(&text);
    wide.extend(encode(&chunk("c")));
    let nested = encode(&V::Array(vec![
        V::from("x"),
        V::Array(vec![V::Array(vec![V::from("t"), V::Array((0..3).map(entry).collect()), map(&[])])]),
        chunk("c"),
    ]));
    let messages = [message(0, None), vec![0xc0; 3], message(1, Some(V::Nil)), message(2, Some(chunk("c")))].concat();
    let frames = [
        ("messages", messages),
        ("forward", forward(3, "c")),
        ("packed bin", packed(text.clone(), chunk("c"))),
        ("packed str32", as_str),
        ("wide headers", wide),
        ("gzip", packed(two, with("gzip"))),
        ("zstd", packed(three, with("zstd"))),
        ("nested", nested),
    ];
    let streamed = Limits { whole_max: 1, ..Limits::default() };
    for (name, frame) in frames {
        let expected = Seen { rows: lines(0..3), chunks: vec![b"\xa1c".to_vec()], ..Seen::default() };
        for limits in [Limits::default(), streamed] {
            for cut in 1..=frame.len() {
                let seen = run_with(&frame, &[cut], limits, 1 << 20, |_| ());
                assert_eq!(seen, expected, "{name}, pieces of {cut}");
            }
            assert_eq!(run_with(&frame, &[1], limits, 1, |_| ()), expected, "{name}, a row a batch");
        }
        for cut in 0..frame.len() {
            let seen = run(&frame[..cut]);
            assert!(seen.chunks.is_empty() && seen.lost.is_none(), "{name}, cut at {cut}: {seen:?}");
            assert!(name == "messages" || seen.rows.is_empty(), "{name}: no half of a frame");
        }
    }
}

#[test]
fn bad_data_within_a_frame_is_rejected_and_the_frame_still_ends() {
    let good = || encode(&entry(0));
    let deep = |levels: usize| {
        let mut value = V::Nil;
        (1..levels).for_each(|_| value = V::Array(vec![value.clone()]));
        encode(&V::Array(vec![V::from(1), map(&[("d", value)])]))
    };
    let around = |bad: Vec<u8>| packed([good(), bad, good()].concat(), chunk("c"));
    let mut entries = vec![0x93, 0xa1, b't', 0x93];
    entries.extend([good(), vec![0x92, 1, 5], good(), encode(&chunk("c"))].concat());
    let bomb = zipped(Codec::Gzip, &[blob(1), vec![0; 64 << 20]].concat());
    let mut cut_gzip = zipped(Codec::Gzip, &blob(2));
    cut_gzip.truncate(cut_gzip.len() - 4);
    let codec = |name: V| map(&[("chunk", V::from("c")), ("compressed", name)]);
    let tagged = |tag: V| encode(&V::Array(vec![tag, V::Binary(blob(1)), chunk("c")]));
    let cases: Vec<(&str, Vec<u8>, usize, &[(&str, u32)])> = vec![
        ("a record that is no map", around(vec![0x92, 1, 5]), 2, &[("not_a_map", 1)]),
        ("the same in an array", entries, 2, &[("not_a_map", 1)]),
        ("an entry that is no array", around(vec![5, 6, 7]), 2, &[("bad_entry", 1)]),
        ("an entry of one", around(vec![0x91, 1]), 2, &[("bad_entry", 1)]),
        ("128 levels", around(deep(127)), 3, &[]),
        ("129 levels", around(deep(129)), 2, &[("too_deep", 1)]),
        ("a reserved byte", around(vec![0x92, 1, 0xc1]), 1, &[("bad_entry", 1)]),
        ("a cut entry", packed([good(), vec![0x92, 1]].concat(), chunk("c")), 1, &[("bad_entry", 1)]),
        (
            "a huge count",
            packed([good(), vec![0x92, 1, 0xdf, 255, 255, 255, 255]].concat(), chunk("c")),
            1,
            &[("too_large", 1)],
        ),
        ("zero padding", packed([good(), vec![0; 100]].concat(), chunk("c")), 1, &[]),
        ("an empty blob", packed(vec![], chunk("c")), 0, &[]),
        ("no entries", encode(&V::Array(vec![V::from("t"), V::Array(vec![]), chunk("c")])), 0, &[]),
        ("an unknown codec", packed(blob(2), codec(V::from("lz4"))), 0, &[("unknown_codec", 1)]),
        ("a codec that is a number", packed(blob(2), codec(V::from(5))), 0, &[("unknown_codec", 1)]),
        ("gzip that is none", packed(blob(2), codec(V::from("gzip"))), 2, &[]),
        ("garbage for gzip", packed(b"garbage".to_vec(), codec(V::from("gzip"))), 0, &[("bad_compression", 1)]),
        ("gzip that nobody declared", packed(zipped(Codec::Gzip, &blob(2)), chunk("c")), 2, &[]),
        ("a cut gzip", packed(cut_gzip, codec(V::from("gzip"))), 2, &[("bad_compression", 1)]),
        ("a bomb", packed(bomb, codec(V::from("gzip"))), 1, &[("bomb", 1)]),
        (
            "metrics",
            packed(blob(2), map(&[("chunk", V::from("c")), ("fluent_signal", V::from(1))])),
            0,
            &[("not_logs", 1)],
        ),
        (
            "metrics in an array",
            encode(&V::Array(vec![
                V::from("t"),
                V::Array(vec![entry(1), entry(2)]),
                map(&[("chunk", V::from("c")), ("fluent_signal", V::from(1))]),
            ])),
            0,
            &[("not_logs", 1)],
        ),
        ("a nil tag", tagged(V::Nil), 0, &[("bad_tag", 1)]),
        ("a long tag", tagged(V::from("x".repeat(65536))), 0, &[("bad_tag", 1)]),
        ("an empty tag", tagged(V::from("")), 1, &[]),
        (
            "extra elements",
            encode(&V::Array(vec![V::from("t"), V::Binary(blob(1)), chunk("c"), V::Nil, V::Nil])),
            1,
            &[],
        ),
        (
            "a message that is no map",
            encode(&V::Array(vec![V::from("t"), V::from(1), V::from(5), chunk("c")])),
            0,
            &[("not_a_map", 1)],
        ),
    ];
    for (name, frame, rows, rejected) in cases {
        let both = [frame, message(9, Some(chunk("next")))].concat();
        for limits in [Limits::default(), Limits { whole_max: 1, ..Limits::default() }] {
            if limits.whole_max == 1 && (name.contains("codec") || name.contains("metrics")) {
                // Of a frame that is decoded as it arrives, the options come too late (tested below).
                continue;
            }
            let seen = run_with(&both, &[both.len(), 1], limits, 1 << 20, |_| ());
            assert_eq!((seen.rows.len(), &seen.rejected[..]), (rows + 1, rejected), "{name}");
            assert_eq!(seen.chunks, [b"\xa1c".to_vec(), b"\xa4next".to_vec()], "{name}");
        }
        assert_eq!(run_with(&both, &[1], Limits::default(), 1 << 20, |_| ()).rows.len(), rows + 1, "{name}, bytewise");
    }
}

#[test]
fn late_options_of_a_frame_that_is_decoded_as_it_arrives_are_counted_and_what_is_no_entry_is_refused() {
    let signal = || map(&[("chunk", V::from("c")), ("fluent_signal", V::from(1))]);
    let codec = || map(&[("chunk", V::from("c")), ("compressed", V::from("lz4"))]);
    let metrics = encode(&map(&[("meta", map(&[])), ("metrics", V::Array(vec![entry(1)]))]));
    let cases: Vec<(&str, Vec<u8>, usize, u32, &[(&str, u32)])> = vec![
        ("metrics", packed(metrics.repeat(3), signal()), 0, 0, &[("not_logs", 1)]),
        ("an unknown codec", packed(b"\x04\x22\x4d\x18 whatever".to_vec(), codec()), 0, 0, &[("unknown_codec", 1)]),
        ("nothing said", packed(vec![5; 40], chunk("c")), 0, 0, &[("bad_entry", 1)]),
        ("no options", encode(&V::Array(vec![V::from("t"), V::Binary(vec![5; 40])])), 0, 0, &[("bad_entry", 1)]),
        ("entries that are called metrics", packed(blob(2), signal()), 2, 1, &[]),
        ("entries that are called lz4", packed(blob(2), codec()), 2, 1, &[]),
        ("entries", packed(blob(2), chunk("c")), 2, 0, &[]),
        (
            "an array that is called metrics",
            encode(&V::Array(vec![V::from("t"), V::Array(vec![entry(1), entry(2)]), signal()])),
            2,
            1,
            &[],
        ),
        (
            "an array that is called lz4",
            encode(&V::Array(vec![V::from("t"), V::Array(vec![entry(1)]), codec()])),
            1,
            0,
            &[],
        ),
        ("a message that is called metrics", message(1, Some(signal())), 1, 1, &[]),
    ];
    let limits = Limits { whole_max: 1, ..Limits::default() };
    for (name, frame, rows, late, rejected) in cases {
        for piece in [1, 7, 13] {
            let mut seen_late = 0;
            let both = [frame.clone(), message(9, Some(chunk("next")))].concat();
            let seen = run_with(&both, &[piece], limits, 1 << 20, |batch| {
                seen_late += batch.tally.oddities[Oddity::OptionsLate as usize];
            });
            assert_eq!((seen.rows.len(), &seen.rejected[..], seen_late), (rows + 1, rejected, late), "{name}");
            assert_eq!(seen.chunks.last(), Some(&b"\xa4next".to_vec()), "{name}");
        }
    }
}

#[test]
fn lost_framing_ends_the_connection() {
    let limits = Limits::default();
    let cases: Vec<(&[u8], LostReason)> = vec![
        (b"GET / HTTP/1.1\r\n", LostReason::NotAFrame(b'G')),
        (b"\x16\x03\x01", LostReason::NotAFrame(0x16)),
        (b"\xc1", LostReason::Reserved),
        (b"\x92\xa1t\x91\x92\x01\xc1", LostReason::Reserved),
        (b"\x93\xa1t\xc1", LostReason::Reserved),
        (b"\x93\xa1t\x01\x81\xa1a\xc1", LostReason::Reserved),
        (b"\xdd\xff\xff\xff\xff\xa1t", LostReason::Arity(u32::MAX as usize)),
        (b"\x93\xa1t\xc6\xff\xff\xff\xff", LostReason::TooLarge(u64::from(u32::MAX) + 9, limits.frame_max)),
        (b"\x92\xa1t\xdd\xff\xff\xff\xff", LostReason::TooLarge(u64::from(u32::MAX) + 8, limits.frame_max)),
        (b"\x96\xa4PING\xa1h\xa1s\xa1d\xa0\xa0", LostReason::Handshake),
    ];
    for (bytes, reason) in cases {
        for piece in [bytes.len(), 1] {
            let seen = run_with(bytes, &[piece], limits, 1 << 20, |_| ());
            assert_eq!(seen.lost, Some(reason), "{bytes:?} in pieces of {piece}");
        }
    }
}

#[test]
fn a_chunk_id_is_given_back_as_it_was_encoded() {
    for id in [V::from(""), V::from("YWJj\n"), V::from(5), V::Binary(vec![1, 2]), map(&[("a", V::Nil)])] {
        let seen = run(&packed(blob(1), map(&[("chunk", id.clone())])));
        assert_eq!(seen.chunks, [encode(&id)], "{id}");
    }
    assert!(run(&packed(blob(1), map(&[("chunk", V::Nil)]))).chunks.is_empty());
    assert!(run(&packed(blob(1), V::Nil)).chunks.is_empty());
}

#[test]
fn a_record_of_dockers_driver_gets_the_shape_of_a_json_file_line() {
    let record = |id: &str, source: &str| {
        map(&[
            ("source", V::from(source)),
            ("log", V::Binary(vec![])),
            ("container_id", V::from(id)),
            ("container_name", V::from("/web")),
        ])
    };
    let frame = |id, source| {
        let V::Map(mut pairs) = record(id, source) else { panic!("a map") };
        pairs[1].1 = V::from("hi");
        encode(&V::Array(vec![V::from("t"), V::from(1), V::Map(pairs), map(&[])]))
    };
    let bytes =
        [frame("aa", "stderr"), frame("bb", "stdout"), frame("aa", "stdout"), frame("aa", "elsewhere")].concat();
    let mut streams = Vec::new();
    let seen = run_with(&bytes, &[bytes.len()], Limits::default(), 1 << 20, |batch| {
        streams.extend(batch.rows().iter().map(|row| row.stream));
        let mut encoder = crate::codec::ndjson::Encoder::new(crate::batch::Added::ALL);
        let (mut path, mut out) = (Vec::new(), Vec::new());
        for (at, id) in ["aa", "bb", "aa"].into_iter().enumerate() {
            let template = crate::pipeline::template::Template::parse("{container.name}/{container.id}").expect("one");
            template.write(batch, at, &mut path).expect("known");
            assert_eq!(std::mem::take(&mut path), format!("web/{id}").into_bytes());
            encoder.row(batch, at, &mut out);
            let line = String::from_utf8(std::mem::take(&mut out)).expect("UTF-8");
            let stream = batch.row(at).stream.name().unwrap_or_default();
            let expected = format!(
                r#"{{"log":"hi","stream":"{stream}","time":"1970-01-01T00:00:01.000000000Z","container":{{"id":"{id}","name":"web"}},"tag":"t"}}"#
            );
            assert_eq!(line, expected);
        }
    });
    assert_eq!(seen.rows[..3], ["t 1000000000 log=hi"; 3]);
    assert!(seen.rows[3].contains("source=elsewhere"), "{}", seen.rows[3]);
    assert_eq!(streams, [Stream::Stderr, Stream::Stdout, Stream::Stdout, Stream::None]);
}

#[test]
fn keys_that_are_no_text_become_text() {
    let pairs = vec![(V::from(1), V::from("a")), (V::Nil, V::from("b")), (V::Binary(b"bin".to_vec()), V::from("c"))];
    let seen = run(&encode(&V::Array(vec![V::from("t"), V::from(1), V::Map(pairs)])));
    assert_eq!(seen.rows, ["t 1000000000 1=a,null=b,bin=c"]);
}

#[test]
fn five_mebibytes_in_single_bytes_are_looked_at_a_bounded_number_of_times() {
    let entries = 200_000;
    let text = blob(entries);
    assert!(text.len() > 5 << 20);
    let large = map(&[("a", V::from("x".repeat(3 << 20))), ("b", V::Array(vec![V::from(1); 900_000]))]);
    let frames = [
        ("packed", packed(text.clone(), chunk("c"))),
        ("forward", forward(entries, "c")),
        ("one record", encode(&V::Array(vec![V::from("t"), V::from(1), large, chunk("c")]))),
        ("gzip", packed(zipped(Codec::Gzip, &text), map(&[("chunk", V::from("c"))]))),
    ];
    for (name, frame) in frames {
        let mut whole = None;
        // Also where the frame is never held whole.
        for (piece, whole_max) in [(frame.len(), 1 << 20), (4096, 1 << 20), (1, 1 << 20), (1, 1)] {
            let limits = Limits { whole_max, ..Limits::default() };
            let before = msgpack::tests::STEPS.get();
            let seen = run_with(&frame, &[piece], limits, 256 << 20, |_| ());
            let steps = msgpack::tests::STEPS.get() - before;
            assert_eq!((seen.chunks.len(), seen.lost), (1, None), "{name} in pieces of {piece}");
            assert_eq!(*whole.get_or_insert(seen.rows.len()), seen.rows.len(), "{name} in pieces of {piece}");
            // Each call looks at a head or two to find that it is not whole; looking at all that is there again with
            // each byte would be a million times as much.
            let bytes = (frame.len() + text.len()) as u64;
            assert!(steps <= 4 * bytes, "{name} in pieces of {piece}: {steps} steps for {bytes} bytes");
        }
    }
}

#[test]
fn tiny_entries_and_endless_nesting_stay_within_the_batch() {
    let frame = packed([0x92, 1, 0x80].repeat(300_000), chunk("c"));
    let mut batches = 0;
    let seen = run_with(&frame, &[frame.len()], Limits::default(), 64 << 10, |batch| {
        batches += 1;
        assert!(batch.cost() <= (64 << 10) + 64);
    });
    assert_eq!((seen.rows.len(), seen.chunks.len()), (300_000, 1));
    assert!(batches > 100);
    let mut nested = vec![0x92, 1];
    nested.extend(vec![0x91; 1_000_000]);
    nested.push(0xc0);
    let seen = run(&packed(nested, chunk("c")));
    assert_eq!((seen.rejected, seen.chunks.len()), (vec![("not_a_map", 1)], 1));
}

#[test]
fn the_corpus_replays() {
    msgpack::replay("forward", fuzz_one);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_run_of_frames_gives_the_same_in_any_pieces(
        modes in proptest::collection::vec((0u8..5, 0u64..6), 1..6),
        pieces in proptest::collection::vec(1usize..200, 1..8),
        room in 1usize..5000,
        whole_max in 1usize..500,
    ) {
        let mut bytes = Vec::new();
        let mut rows = Vec::new();
        for (mode, count) in modes {
            let with = |codec: &str| map(&[("chunk", V::from("c")), ("compressed", V::from(codec))]);
            bytes.extend(match mode {
                0 => message(0, Some(chunk("c"))),
                1 => forward(count, "c"),
                2 => packed(blob(count), chunk("c")),
                3 => packed(zipped(Codec::Gzip, &blob(count)), with("gzip")),
                _ => packed(zipped(Codec::Zstd, &blob(count)), with("zstd")),
            });
            rows.extend(lines(0..if mode == 0 { 1 } else { count }));
        }
        let limits = Limits { whole_max, ..Limits::default() };
        let seen = run_with(&bytes, &pieces, limits, room, |_| ());
        prop_assert_eq!(&seen.rows, &rows);
        prop_assert_eq!(seen.rejected, vec![]);
        prop_assert_eq!(seen.lost, None);
    }

    #[test]
    fn log_of_dockers_driver_is_taken_apart_wherever_frames_are_cut(
        logs in proptest::collection::vec(prop_oneof![texts::harmed(Blanks::Few), texts::harmed(Blanks::Any)], 1..4),
        piece in any::<u8>(),
        harm in proptest::option::weighted(0.3, texts::harm()),
    ) {
        let text = |text: &[u8]| [&[0xda][..], &(text.len() as u16).to_be_bytes(), text].concat();
        let mut data = vec![piece | fuzz::APART];
        for log in &logs {
            data.extend_from_slice(b"\x93\xa1t\xce\x65\x53\xf1\x00\x84");
            let pairs: [(&[u8], &[u8]); 4] =
                [(b"container_id", b"4f5c"), (b"container_name", b"/web"), (b"source", b"stderr"), (b"log", log)];
            pairs.iter().for_each(|(key, value)| data.extend([text(key), text(value)].concat()));
        }
        fuzz_one(&data);
        if let Some(harm) = harm {
            texts::do_harm(&mut data, &harm);
            fuzz_one(&data);
        }
    }

    #[test]
    fn random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_one(&data);
    }
}
