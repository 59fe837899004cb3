//! The protocol's cases, one line each: what is sent, what is answered, which lines come out, what is counted. All go to
//! one node that lives through all of them. `docs/forward-cases.md` says which case is tested where.

use flate2::Compression;
use flate2::write::GzEncoder;
use rmpv::Value as Msg;
use std::io::Write as _;

use crate::forward_input::config;
use crate::harness::forward::{Client, encode, entries, event_time, forward, gzip, map, message, option, packed, zstd};
use crate::harness::records::{line_count, lines};
use crate::harness::{Node, folder, free_port, node};

/// What comes back before both sides close.
enum Answer {
    Nothing,
    Ack(Vec<u8>),
    /// The receiver closes, without an ack.
    Closed,
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    answer: Answer,
    /// The lines that come out; `<now>` is a time of this century's second half of the twenties or later.
    lines: Vec<String>,
    /// Reasons of rejection and kinds of oddities, and by how much they rise.
    counted: Vec<(&'static str, u64)>,
}

const TIME: u32 = 1_700_000_000;
const AT: &str = "2023-11-14T22:13:20.000000000Z";

fn at() -> Msg {
    Msg::from(TIME)
}

/// The line of a record in the tag `t`: its fields as JSON members, its time.
fn line(fields: &str, time: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{{fields}{comma}"time":"{time}","tag":"t"}}"#)
}

fn acked(chunk: &Msg) -> Answer {
    Answer::Ack([b"\x81\xa3ack", &encode(chunk)[..]].concat())
}

fn c() -> Answer {
    acked(&"c".into())
}

fn one() -> Msg {
    map(&[("a", 1.into())])
}

fn chunk() -> Option<Msg> {
    Some(option("c", &[]))
}

/// A case of good data without anything to count.
fn good(name: &'static str, bytes: Vec<u8>, answer: Answer, lines: &[&str]) -> Case {
    Case { name, bytes, answer, lines: lines.iter().map(|fields| line(fields, AT)).collect(), counted: vec![] }
}

/// A case of a bad frame: acknowledged, counted, no line.
fn bad(name: &'static str, bytes: Vec<u8>, reason: &'static str) -> Case {
    Case { name, bytes, answer: c(), lines: vec![], counted: vec![(reason, 1)] }
}

/// One record `{"a": value}` whose value is these bytes.
fn raw(value: &[u8]) -> Vec<u8> {
    [b"\x93\xa1t\xce\x65\x53\xf1\x00\x81\xa1a", value].concat()
}

fn times() -> Vec<Case> {
    let timed = |name, time: Msg, text: &str, counted: &[(&'static str, u64)]| Case {
        name,
        bytes: message("t", time, one(), chunk()),
        answer: c(),
        lines: vec![line(r#""a":1"#, text)],
        counted: counted.to_vec(),
    };
    let receipt = &[("time_from_receipt", 1)];
    let zero = || (Msg::from(0), one());
    vec![
        timed("int 0 in Message mode", 0.into(), "<now>", receipt),
        Case {
            name: "int 0 in Forward mode",
            bytes: forward("t", &[zero()], chunk()),
            answer: c(),
            lines: vec![line(r#""a":1"#, "<now>")],
            counted: receipt.to_vec(),
        },
        Case {
            name: "int 0 in PackedForward mode",
            bytes: packed("t", &entries(&[zero()]), chunk()),
            answer: c(),
            lines: vec![line(r#""a":1"#, "<now>")],
            counted: receipt.to_vec(),
        },
        timed("EventTime of second 0, nanosecond 5", event_time(0, 5), "<now>", receipt),
        timed("nil", Msg::Nil, "<now>", receipt),
        timed("half a second", 1_700_000_000.5.into(), "2023-11-14T22:13:20.500000000Z", &[]),
        timed("-1", (-1).into(), "1969-12-31T23:59:59.000000000Z", &[]),
        timed(
            "nanoseconds above 1e9",
            event_time(TIME, 1_500_000_000),
            "2023-11-14T22:13:21.500000000Z",
            &[("nanoseconds_carried", 1)],
        ),
        timed(
            "u64::MAX",
            u64::MAX.into(),
            "2262-04-11T23:47:16.854775807Z",
            &[("time_scaled", 1), ("time_clamped", 1)],
        ),
        timed("milliseconds", 1_700_000_000_000u64.into(), AT, &[("time_scaled", 1)]),
    ]
}

fn blobs() -> Vec<Case> {
    let blob = entries(&[(at(), one()), (at(), map(&[("a", 2.into())]))]);
    let len = u8::try_from(blob.len()).expect("short");
    let two = &[r#""a":1"#, r#""a":2"#];
    let widths: [&[u8]; 5] = [&[0xc4, len], &[0xc5, 0, len], &[0xc6, 0, 0, 0, len], &[0xd9, len], &[0xda, 0, len]];
    let all_widths: Vec<u8> = widths
        .iter()
        .chain([&&[0xdb, 0, 0, 0, len][..]])
        .flat_map(|head| [b"\x92\xa1t", *head, &blob].concat())
        .collect();
    // Stored, not packed, so that what looks like the start of a member stands in it as it is.
    let mut stored = GzEncoder::new(Vec::new(), Compression::none());
    let body = entries(&[(at(), map(&[("a", Msg::Binary(b"\x1f\x8b\x08".to_vec()))]))]);
    stored.write_all(&body).expect("memory");
    let stored = stored.finish().expect("memory");
    let with = |codec: Msg| Some(option("c", &[("compressed", codec)]));
    let skippable = [zstd(&blob[..5]), b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz".to_vec(), zstd(&blob[5..])].concat();
    let sniffed = |mut case: Case| {
        case.counted = vec![("codec_sniffed", 1)];
        case
    };
    vec![
        good("no entries", forward("t", &[], chunk()), c(), &[]),
        good("an empty blob", packed("t", b"", chunk()), c(), &[]),
        good("a blob of every width", all_widths, Answer::Nothing, &two.repeat(6)),
        good("compressed: text", packed("t", &blob, with("text".into())), c(), two),
        Case {
            name: "a gzip body that holds the magic number",
            bytes: packed("t", &stored, with("gzip".into())),
            answer: c(),
            lines: vec![line("\"a\":\"\\u001f\u{fffd}\\b\"", AT)],
            counted: vec![],
        },
        good("zstd: two frames around a skippable one", packed("t", &skippable, with("zstd".into())), c(), two),
        sniffed(good("gzip declared, a plain blob", packed("t", &blob, with("gzip".into())), c(), two)),
        sniffed(good("gzip that nobody declared", packed("t", &gzip(&blob), chunk()), c(), two)),
        sniffed(good("zstd that is called gzip", packed("t", &zstd(&blob), with("gzip".into())), c(), two)),
        bad("lz4", packed("t", &blob, with("lz4".into())), "unknown_codec"),
        bad("a codec that is a number", packed("t", &blob, with(5.into())), "unknown_codec"),
        bad("gzip of garbage", packed("t", b"\x1f\x8b\x08garbage", with("gzip".into())), "bad_compression"),
        bad(
            "metrics of Fluent Bit as Fluentd takes them",
            forward("t", &[(at(), Msg::Array(vec![one()]))], Some(option("c", &[("fluent_signal", 1.into())]))),
            "not_logs",
        ),
        Case {
            name: "one record that is called metrics",
            bytes: message("t", at(), one(), Some(option("c", &[("fluent_signal", 1.into())]))),
            answer: c(),
            lines: vec![line(r#""a":1"#, AT)],
            counted: vec![("options_late", 1)],
        },
        bad("metrics of Fluent Bit", packed("t", &blob, Some(option("c", &[("fluent_signal", 1.into())]))), "not_logs"),
        Case {
            name: "a hundred zero bytes after the entries",
            bytes: packed("t", &[&blob[..], &[0; 100]].concat(), chunk()),
            answer: c(),
            lines: two.iter().map(|fields| line(fields, AT)).collect(),
            counted: vec![("zero_tail", 1)],
        },
        Case {
            name: "the last entry is cut",
            bytes: packed("t", &blob[..blob.len() - 1], chunk()),
            answer: c(),
            lines: vec![line(two[0], AT)],
            counted: vec![("bad_entry", 1)],
        },
        Case {
            name: "a batch in the place of an entry",
            bytes: encode(&Msg::Array(vec![
                "x".into(),
                Msg::Array(vec![Msg::Array(vec!["t".into(), Msg::Array(vec![Msg::Array(vec![at(), one()])])])]),
                option("c", &[]),
            ])),
            answer: c(),
            lines: vec![line(two[0], AT)],
            counted: vec![("nested_batch", 1)],
        },
        Case {
            name: "a group of Fluent Bit with metadata",
            bytes: packed(
                "t",
                &entries(&[
                    (Msg::Array(vec![event_time(u32::MAX, 0), map(&[])]), map(&[])),
                    (Msg::Array(vec![event_time(TIME, 0), map(&[("k", "v".into())])]), one()),
                    (Msg::Array(vec![event_time(u32::MAX - 1, 0), map(&[])]), map(&[])),
                ]),
                chunk(),
            ),
            answer: c(),
            lines: vec![line(two[0], AT)],
            counted: vec![("group_marker", 2), ("metadata_dropped", 1)],
        },
        Case {
            name: "a group of Fluent Bit whose markers are plain numbers",
            bytes: packed(
                "t",
                &entries(&[
                    (Msg::Array(vec![(-1).into(), map(&[])]), map(&[])),
                    (Msg::Array(vec![at(), map(&[])]), one()),
                    (Msg::Array(vec![(-2).into(), map(&[])]), map(&[])),
                ]),
                chunk(),
            ),
            answer: c(),
            lines: vec![line(two[0], AT)],
            counted: vec![("group_marker", 2)],
        },
    ]
}

fn frames() -> Vec<Case> {
    let then_good = |bytes: &[u8]| [bytes, &message("t", at(), one(), chunk())].concat();
    let a = r#""a":1"#;
    let with_chunk = |id: Msg| message("t", at(), one(), Some(map(&[("chunk", id)])));
    let odd_chunk = |name, id: Msg| Case {
        name,
        bytes: with_chunk(id.clone()),
        answer: acked(&id),
        lines: vec![line(a, AT)],
        counted: vec![("chunk_not_text", 1)],
    };
    let tagged = |tag: Msg| encode(&Msg::Array(vec![tag, at(), one(), option("c", &[])]));
    let after_bad = |name, bytes: &[u8]| Case {
        name,
        bytes: then_good(bytes),
        answer: c(),
        lines: vec![line(a, AT)],
        counted: vec![("bad_frame", 1)],
    };
    let lost = |name, bytes: &[u8]| Case {
        name,
        bytes: bytes.to_vec(),
        answer: Answer::Closed,
        lines: vec![],
        counted: vec![("framing_lost", 1)],
    };
    let five = encode(&Msg::Array(vec!["t".into(), at(), one(), option("c", &[]), "more".into()]));
    vec![
        good("no options", message("t", at(), one(), None), Answer::Nothing, &[a]),
        good("empty options", message("t", at(), one(), Some(map(&[]))), Answer::Nothing, &[a]),
        good("nil for options", message("t", at(), one(), Some(Msg::Nil)), Answer::Nothing, &[a]),
        good("an empty chunk id", message("t", at(), one(), Some(option("", &[]))), acked(&"".into()), &[a]),
        odd_chunk("a chunk id that is a number", 5.into()),
        odd_chunk("a chunk id that is a map", map(&[("a", Msg::Nil)])),
        odd_chunk("a chunk id that is binary", Msg::Binary(vec![1, 2])),
        good("a thousand keepalives", then_good(&[0xc0; 1000]), c(), &[a]),
        after_bad("a frame of nothing", &[0x90]),
        after_bad("a frame of a tag", b"\x91\xa1t"),
        after_bad("a tag and a number", b"\x92\xa1t\x05"),
        good("a frame of five", five, c(), &[a]),
        lost("a number at the top", &[5]),
        lost("a text at the top", b"\xa5hello"),
        lost("a map at the top", b"\x81\xa1a\x01"),
        lost("the byte 0xc1", &[0xc1]),
        lost("a bin32 of 4 GiB", b"\x93\xa1t\xc6\xff\xff\xff\xff"),
        lost("a map32 of 2^32-1 pairs in a record", b"\x93\xa1t\x01\xdf\xff\xff\xff\xff\xa1a\x01"),
        lost("an array32 of 2^32-1 items in a record", b"\x93\xa1t\x01\x81\xa1a\xdd\xff\xff\xff\xff\x01"),
        lost("an ext32 of 4 GiB in a record", b"\x93\xa1t\x01\x81\xa1a\xc9\xff\xff\xff\xff\x05\x01"),
        Case {
            name: "an empty tag",
            bytes: tagged("".into()),
            answer: c(),
            lines: vec![format!(r#"{{{a},"time":"{AT}","tag":""}}"#)],
            counted: vec![("tag_empty", 1)],
        },
        Case {
            name: "a tag with slashes and spaces",
            bytes: tagged("/a b/../c/".into()),
            answer: c(),
            lines: vec![format!(r#"{{{a},"time":"{AT}","tag":"/a b/../c/"}}"#)],
            counted: vec![],
        },
        Case {
            name: "a tag that is no UTF-8",
            bytes: [b"\x94\xa3t\xff.", &encode(&at())[..], &encode(&one()), &encode(&option("c", &[]))].concat(),
            answer: c(),
            lines: vec![format!("{{{a},\"time\":\"{AT}\",\"tag\":\"t\u{fffd}.\"}}")],
            counted: vec![("invalid_utf8", 1)],
        },
        good("a tag that is binary", tagged(Msg::Binary(b"t".to_vec())), c(), &[a]),
        bad("a tag that is nil", tagged(Msg::Nil), "bad_tag"),
        bad("a tag that is a number", tagged(7.into()), "bad_tag"),
        bad("a tag of 64 KiB", tagged("t".repeat(64 << 10).into()), "bad_tag"),
        bad("a record that is no map", message("t", at(), "text".into(), chunk()), "not_a_map"),
    ]
}

fn records() -> Vec<Case> {
    let deep = |levels: usize| {
        let nested = (1..levels).fold(Msg::Nil, |inner, _| Msg::Array(vec![inner]));
        message("t", at(), map(&[("d", nested)]), chunk())
    };
    let nested = |levels: usize| format!(r#""d":{}null{}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
    let endless = [b"\x94\xa1t\x01\x81\xa1d", &vec![0x91; 1_000_000][..], b"\xc0\x81\xa5chunk\xa1c"].concat();
    let fields = |name, bytes: Vec<u8>, fields: &str, counted: &[(&'static str, u64)]| Case {
        name,
        bytes,
        answer: Answer::Nothing,
        lines: vec![line(fields, AT)],
        counted: counted.to_vec(),
    };
    let keys = b"\x93\xa1t\xce\x65\x53\xf1\x00\x84\x07\x01\xc0\x02\xc4\x01b\x03\xa2k\xff\x04";
    let id = "ab".repeat(32);
    let docker = |log: &[u8]| {
        let mut bytes = b"\x94\xa1t\xce\x65\x53\xf1\x00\x84\xa3log".to_vec();
        bytes.extend([0xa0 | log.len() as u8]);
        bytes.extend(log);
        bytes.extend(b"\xaecontainer_name\xa4/web\xa6source\xa6stderr\xaccontainer_id\xd9\x40");
        bytes.extend(id.as_bytes());
        bytes.push(0x80);
        bytes
    };
    let docker_line = |log: &str| {
        format!(
            r#"{{"log":"{log}","stream":"stderr","time":"{AT}","container":{{"id":"{id}","name":"web"}},"tag":"t"}}"#
        )
    };
    let of_docker = |name, log: &[u8], text: &str| Case {
        name,
        bytes: docker(log),
        answer: Answer::Nothing,
        lines: vec![docker_line(text)],
        counted: vec![],
    };
    vec![
        good("31 levels", deep(31), c(), &[&nested(31)]),
        good("33 levels", deep(33), c(), &[&nested(33)]),
        good("128 levels", deep(128), c(), &[&nested(128)]),
        bad("129 levels", deep(129), "too_deep"),
        bad("a million levels", endless, "too_deep"),
        fields(
            "a key twice",
            b"\x93\xa1t\xce\x65\x53\xf1\x00\x82\xa1a\x01\xa1a\x02".to_vec(),
            r#""a":1,"a":2"#,
            &[("duplicate_key", 1)],
        ),
        fields(
            "keys that are a number, nil, binary, no UTF-8",
            keys.to_vec(),
            "\"7\":1,\"null\":2,\"b\":3,\"k\u{fffd}\":4",
            &[("key_not_text", 3)],
        ),
        fields("u64::MAX", raw(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), r#""a":18446744073709551615"#, &[]),
        fields("i64::MIN", raw(b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00"), r#""a":-9223372036854775808"#, &[]),
        fields("a float of 32 bits", raw(b"\xca\x3d\xcc\xcc\xcd"), r#""a":0.1"#, &[]),
        fields("-0.0", raw(b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00"), r#""a":-0.0"#, &[]),
        fields(
            "infinities",
            raw(b"\x92\xca\x7f\x80\x00\x00\xcb\xff\xf0\x00\x00\x00\x00\x00\x00"),
            r#""a":[null,null]"#,
            &[("not_finite", 2)],
        ),
        fields("NaN", raw(b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"), r#""a":null"#, &[("not_finite", 1)]),
        fields("a timestamp of 4 bytes", raw(b"\xd6\xff\x65\x53\xf1\x00"), &format!(r#""a":"{AT}""#), &[]),
        fields(
            "a timestamp of 8 bytes",
            raw(b"\xd7\xff\x00\x00\x00\x04\x65\x53\xf1\x00"),
            r#""a":"2023-11-14T22:13:20.000000001Z""#,
            &[],
        ),
        fields(
            "a timestamp of 12 bytes",
            raw(b"\xc7\x0c\xff\x00\x00\x00\x01\x00\x00\x00\x00\x65\x53\xf1\x00"),
            r#""a":"2023-11-14T22:13:20.000000001Z""#,
            &[],
        ),
        fields(
            "an ext of type 42",
            raw(b"\xd5\x2a\x01\x02"),
            r#""a":{"type":42,"data":"AQI="}"#,
            &[("ext_unknown", 1)],
        ),
        fields("bytes that are no UTF-8", raw(b"\xa3x\xffy"), "\"a\":\"x\u{fffd}y\"", &[("invalid_utf8", 1)]),
        of_docker("a label that overwrote the log, keys in any order", b"a label", "a label"),
        Case {
            name: "a label that replaced the container's id",
            bytes: encode(&Msg::Array(vec![
                "t".into(),
                at(),
                map(&[
                    ("source", "stdout".into()),
                    ("log", "x".into()),
                    ("container_id", "a label".into()),
                    ("container_name", "/web".into()),
                ]),
                map(&[]),
            ])),
            answer: Answer::Nothing,
            lines: vec![docker_line("x").replace(&id, "a label").replace("stderr", "stdout")],
            counted: vec![],
        },
        of_docker("a log with NUL and 0xff", b"a\x00b\xffc", "a\\u0000b\u{fffd}c"),
        of_docker("a log that ends in a carriage return", b"tty\r", "tty\\r"),
        of_docker("a log of nothing", b"", ""),
    ]
}

fn json_mode() -> Vec<Case> {
    let a = r#""a":1"#;
    let lost = |name, text: &str| Case {
        name,
        bytes: text.as_bytes().to_vec(),
        answer: Answer::Closed,
        lines: vec![],
        counted: vec![("framing_lost", 1)],
    };
    let twice = "[\"t\",1700000000,{\"a\":1},{\"chunk\":\"x\"}]\n".repeat(2);
    let ack = |text: &str| Answer::Ack(text.as_bytes().to_vec());
    vec![
        good("JSON, twice", twice.into_bytes(), ack(r#"{"ack":"x"}{"ack":"x"}"#), &[a, a]),
        good("JSON after white space", b" \n[\"t\",[[1700000000,{\"a\":1}]]]".to_vec(), Answer::Nothing, &[a]),
        Case {
            name: "an object in JSON, then a frame",
            bytes: br#"{"a":1}["t",1700000000,{"a":1}]"#.to_vec(),
            answer: Answer::Nothing,
            lines: vec![line(a, AT)],
            counted: vec![("bad_frame", 1)],
        },
        Case {
            name: "a bad record in JSON",
            bytes: br#"["t",[[1700000000,5],[1700000000,{"a":1}]],{"chunk":"x"}]"#.to_vec(),
            answer: ack(r#"{"ack":"x"}"#),
            lines: vec![line(a, AT)],
            counted: vec![("not_a_map", 1)],
        },
        lost("no JSON after a bracket", "[nope"),
        lost("a member without a value", r#"["t",1700000000,{"a":}]"#),
        lost("a tag that is not escaped", r#"["a "tag"",1700000000,{"a":1}]"#),
    ]
}

/// Sends one case, checks the answer and the counts.
fn play(node: &mut Node, port: u16, case: &Case) {
    let count = |node: &Node, name: &str| {
        node.metric("longshore_input_rejected_total", &[("reason", name)])
            + node.metric("longshore_input_oddities_total", &[("kind", name)])
    };
    let before: Vec<u64> = case.counted.iter().map(|(name, _)| count(node, name)).collect();
    let rejected = node.metric("longshore_input_rejected_total", &[]);
    let mut client = Client::tcp(port);
    client.send(&case.bytes);
    match &case.answer {
        Answer::Nothing => client.finish(),
        Answer::Ack(ack) => {
            client.expect_bytes(ack);
            client.finish();
        }
        Answer::Closed => (),
    }
    assert_eq!(client.expect_close(), b"", "{}", case.name);
    let mut reject = 0;
    for ((name, rise), before) in case.counted.iter().zip(before) {
        let what = format!("{}: {name} to rise by {rise}", case.name);
        node.wait_for(&what, |node| count(node, name) == before + rise);
        reject += u64::from(node.metric("longshore_input_rejected_total", &[("reason", name)]) > 0) * rise;
    }
    let rose = node.metric("longshore_input_rejected_total", &[]) - rejected;
    assert!(rose <= reject, "{}: {rose} rejected, {reject} expected", case.name);
}

#[test]
fn every_case_of_the_protocol_is_answered_written_and_counted_as_documented() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let out = dir.path().join("out.ndjson");
    let mut expected: Vec<(&str, String)> = Vec::new();
    for case in [times(), blobs(), frames(), records(), json_mode()].iter().flatten() {
        play(&mut node, port, case);
        expected.extend(case.lines.iter().map(|line| (case.name, line.clone())));
        let count = expected.len();
        node.wait_for(case.name, |_| line_count(&out) >= count);
        let got = lines(&out);
        assert_eq!(got.len(), count, "{}: {:#?}", case.name, &got[got.len().saturating_sub(3)..]);
        for (got, wanted) in got[count - case.lines.len()..].iter().zip(&case.lines) {
            match wanted.split_once("<now>") {
                None => assert_eq!(got, wanted, "{}", case.name),
                Some((start, _)) => {
                    assert!(got.starts_with(start) && got[start.len()..] > *"2025", "{}: {got}", case.name);
                }
            }
        }
    }
    assert!(expected.len() > 60);
    node.assert_ledger_closes();
    node.stop_well();
}
