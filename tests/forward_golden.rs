//! Golden bytes: what each sender of the forward protocol writes, laid down by hand, byte by byte, from what their sources
//! and dumps say. Each is sent in two writes, cut at every byte, and gives the same records and the same ack.
//!
//! | Senders here | What is peculiar |
//! |---|---|
//! | Docker's `fluentd` driver, of all ages | signed int32 times, nil or empty options, EventTime, acks, pieces of lines |
//! | Fluentd | blobs as `str32` however small, `compressed = "text"`, chunk ids that end in a newline, members one after another |
//! | Fluent Bit before and after 5.0.5 | `array32` of entries, `[[time, metadata], record]`, group markers of both kinds, each `fluent_signal` and `fluentd_compat`, integer times, gzip that nothing declares, Windows |
//! | loggers for Go, Python, Ruby, Java, Node; Fluency; Wazuh | float times, milliseconds, `size` in bytes, blobs as `bin` and `str`, JSON, options without a meaning |
//!
//! What they say in the handshake is laid down in `src/codec/forward/handshake_tests.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::forward::{Client, gzip, zstd};
use crate::harness::records::{line_count, records};
use crate::harness::{folder, free_port, node};

/// One sender's bytes, what is answered, and the records without their `tag`, which is the name.
struct Sender {
    name: &'static str,
    bytes: Vec<u8>,
    answer: Vec<u8>,
    records: Vec<Value>,
}

/// 2023-11-14T22:13:20Z: as signed and unsigned int32, as uint64, and as EventTime with a nanosecond.
const SIGNED: &[u8] = b"\xd2\x65\x53\xf1\x00";
const UNSIGNED: &[u8] = b"\xce\x65\x53\xf1\x00";
const LONG: &[u8] = b"\xcf\x00\x00\x00\x00\x65\x53\xf1\x00";
const EVENT: &[u8] = b"\xd7\x00\x65\x53\xf1\x00\x00\x00\x00\x01";
const WHOLE: &str = "2023-11-14T22:13:20.000000000Z";
const NANO: &str = "2023-11-14T22:13:20.000000001Z";

const ID: &[u8; 64] = b"3fa1c0ffee00000000000000000000000000000000000000000000000000beef";

/// A text of 32 to 255 bytes.
fn str8(text: &[u8]) -> Vec<u8> {
    [&[0xd9, u8::try_from(text.len()).expect("short")], text].concat()
}

/// A text of up to 31 bytes.
fn fixstr(text: &str) -> Vec<u8> {
    assert!(text.len() < 32);
    [&[0xa0 | text.len() as u8], text.as_bytes()].concat()
}

fn bin8(blob: &[u8]) -> Vec<u8> {
    [&[0xc4, u8::try_from(blob.len()).expect("short")], blob].concat()
}

fn str32(blob: &[u8]) -> Vec<u8> {
    [&[0xdb][..], &u32::try_from(blob.len()).expect("short").to_be_bytes(), blob].concat()
}

/// `{"ack": chunk}`
fn ack(chunk: &[u8]) -> Vec<u8> {
    [b"\x81\xa3ack", chunk].concat()
}

/// The four fields of Docker's driver, in the order in which a Go map happened to give them.
fn docker(log: &str) -> Vec<u8> {
    [&b"\xa6source\xa6stdout\xa3log"[..], &fixstr(log), b"\xaccontainer_id", &str8(ID), b"\xaecontainer_name\xa4/web"]
        .concat()
}

fn docker_record(log: &str, time: &str) -> Value {
    let id = std::str::from_utf8(ID).expect("ASCII");
    json!({"log": log, "stream": "stdout", "time": time, "container": {"id": id, "name": "web"}})
}

/// One frame of Docker's driver.
fn docker_frame(tag: &str, time: &[u8], fields: u8, more: &[u8], log: &str, options: &[u8]) -> Vec<u8> {
    [b"\x94", &fixstr(tag)[..], time, &[0x80 | fields], &docker(log), more, options].concat()
}

/// A piece of a line: `partial_message`, `partial_id`, `partial_ordinal`, `partial_last`.
fn piece(tag: &str, ordinal: &str, last: &str, log: &str) -> Vec<u8> {
    let id = b"aa00000000000000000000000000000000000000000000000000000000000bb0";
    let more = [
        &b"\xafpartial_message\xa4true\xaapartial_id"[..],
        &str8(id),
        b"\xafpartial_ordinal",
        &fixstr(ordinal),
        b"\xacpartial_last",
        &fixstr(last),
    ]
    .concat();
    docker_frame(tag, SIGNED, 8, &more, log, b"\x80")
}

fn docker_senders() -> Vec<Sender> {
    // Base64 of 8 bytes of time and 8 random ones.
    let chunk = fixstr("AAECAwQFBgcICQoLDA0ODw==");
    let with_chunk = [b"\x81\xa5chunk", &chunk[..]].concat();
    let of = |name, bytes, answer: &[u8], records| Sender { name, bytes, answer: answer.to_vec(), records };
    vec![
        of(
            "docker.1809",
            docker_frame("docker.1809", SIGNED, 4, b"", "hello", b"\xc0"),
            b"",
            vec![docker_record("hello", WHOLE)],
        ),
        of(
            "docker.1903",
            docker_frame("docker.1903", SIGNED, 4, b"", "", b"\x80"),
            b"",
            vec![docker_record("", WHOLE)],
        ),
        of(
            "docker.subsecond",
            docker_frame("docker.subsecond", EVENT, 4, b"", "hello", b"\x80"),
            b"",
            vec![docker_record("hello", NANO)],
        ),
        of(
            "docker.requestack",
            docker_frame("docker.requestack", SIGNED, 4, b"", "acked", &with_chunk),
            &ack(&chunk),
            vec![docker_record("acked", WHOLE)],
        ),
        of(
            "docker.after2038",
            docker_frame("docker.after2038", b"\xd3\x00\x00\x00\x00\x80\x00\x00\x00", 4, b"", "x", b"\x80"),
            b"",
            vec![docker_record("x", "2038-01-19T03:14:08.000000000Z")],
        ),
        of(
            "docker.label",
            docker_frame("docker.label", SIGNED, 5, b"\xa7com.app\xa3web", "x", b"\x80"),
            b"",
            vec![{
                let mut record = docker_record("x", WHOLE);
                record["com.app"] = json!("web");
                record
            }],
        ),
        of(
            "docker.pieces",
            [
                piece("docker.pieces", "1", "false", "first,"),
                piece("docker.pieces", "2", "false", "second,"),
                // A line of a multiple of 16,384 bytes ends with an empty piece.
                piece("docker.pieces", "3", "true", ""),
            ]
            .concat(),
            b"",
            vec![docker_record("first,second,", WHOLE)],
        ),
    ]
}

/// Two entries `[EventTime, {"n": 1 or 2}]`.
fn two_entries() -> Vec<u8> {
    [b"\x92", EVENT, b"\x81\xa1n\x01", b"\x92", EVENT, b"\x81\xa1n\x02"].concat()
}

fn two_records() -> Vec<Value> {
    vec![json!({"n": 1, "time": NANO}), json!({"n": 2, "time": NANO})]
}

fn fluentd_senders() -> Vec<Sender> {
    // `Base64.encode64`: with its newline.
    let chunk = fixstr("BgfR5TQ7pxOzp9O3yaWxxQ==\n");
    let options = |codec: &str| [b"\x83\xa4size\x02\xaacompressed", &fixstr(codec)[..], b"\xa5chunk", &chunk].concat();
    let all = two_entries();
    let (left, right) = all.split_at(9);
    let of = |name: &'static str, blob: &[u8], codec| Sender {
        name,
        bytes: [b"\x93", &fixstr(name)[..], &str32(blob), &options(codec)].concat(),
        answer: ack(&chunk),
        records: two_records(),
    };
    let without_ack = [b"\x93", &fixstr("fluentd.noack")[..], &str32(&all), b"\x82\xa4size\x02\xaacompressed\xa4text"];
    vec![
        of("fluentd.text", &all, "text"),
        // Each append to the buffer is packed by itself.
        of("fluentd.gzip", &[gzip(left), gzip(right)].concat(), "gzip"),
        of("fluentd.zstd", &[zstd(left), zstd(right)].concat(), "zstd"),
        Sender { name: "fluentd.noack", bytes: without_ack.concat(), answer: Vec::new(), records: two_records() },
    ]
}

fn fluent_bit_senders() -> Vec<Sender> {
    let hex = str8(b"0123456789abcdef0123456789abcdef");
    let base64 = fixstr("q83vASNFZ4mrze8BI0VniQ==");
    let options =
        |chunk: &[u8], signal: u8| [b"\x83\xa5chunk", chunk, b"\xa4size\x02\xadfluent_signal", &[signal]].concat();
    let nested = |n: u8| [b"\x92\x92", EVENT, b"\x80\x81\xa1n", &[n]].concat();
    let marker = |seconds: &[u8; 4]| [b"\x92\x92\xd7\x00", &seconds[..], b"\0\0\0\0", b"\x80\x80"].concat();
    let groups = [
        marker(b"\xff\xff\xff\xff"),
        nested(1),
        marker(b"\xff\xff\xff\xfe"),
        marker(b"\xff\xff\xff\xff"),
        nested(2),
        marker(b"\xff\xff\xff\xfe"),
    ]
    .concat();
    let packed = |name: &'static str, blob: &[u8], chunk: &[u8]| Sender {
        name,
        bytes: [b"\x93", &fixstr(name)[..], &bin8(blob), &options(chunk, 0)].concat(),
        answer: ack(chunk),
        records: two_records(),
    };
    let array32 =
        |name: &'static str, entries: &[u8]| [b"\x93", &fixstr(name)[..], b"\xdd\x00\x00\x00\x02", entries].concat();
    let gzipped = [
        b"\x93",
        &fixstr("flb.gzip")[..],
        &bin8(&gzip(&two_entries())),
        b"\x84\xa5chunk",
        &base64,
        b"\xa4size\x02\xadfluent_signal\x00\xaacompressed\xa4gzip",
    ]
    .concat();
    let whole = || vec![json!({"n": 1, "time": WHOLE}), json!({"n": 2, "time": WHOLE})];
    // `time_as_integer`, for Fluentd up to 0.12: uint64 however small.
    let integers = [b"\x92", LONG, b"\x81\xa1n\x01", b"\x92", LONG, b"\x81\xa1n\x02"].concat();
    let integer_marker = |time: &[u8]| [b"\x92\x92", time, b"\x80\x80"].concat();
    let integer_groups = [
        integer_marker(b"\xff"),
        nested(1),
        integer_marker(b"\xfe"),
        integer_marker(b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff"),
        nested(2),
        integer_marker(b"\xd3\xff\xff\xff\xff\xff\xff\xff\xfe"),
    ]
    .concat();
    // A blob that is no entries.
    let signal = |name: &'static str, signal: u8, blob: &[u8]| Sender {
        name,
        bytes: [b"\x93", &fixstr(name)[..], &bin8(blob), &options(&base64, signal)].concat(),
        answer: ack(&base64),
        records: Vec::new(),
    };
    // `fluentd_compat`: one entry whose record is an array of what the blob would hold.
    let compat = |name: &'static str, signal: u8| Sender {
        name,
        bytes: [
            b"\x93",
            &fixstr(name)[..],
            b"\x91\x92",
            EVENT,
            b"\x92\x82\xa4meta\x80\xa7metrics\x90\x82\xa4meta\x80\xa7metrics\x90",
            &options(&base64, signal),
        ]
        .concat(),
        answer: ack(&base64),
        records: Vec::new(),
    };
    let inner = [b"\x93\xabflb.windows\x92", &two_entries()[..], b"\x80"].concat();
    vec![
        packed("flb.4.packed", &two_entries(), &hex),
        packed("flb.5.packed", &[nested(1), nested(2)].concat(), &base64),
        packed("flb.5.groups", &groups, &base64),
        Sender {
            name: "flb.4.forward",
            bytes: [array32("flb.4.forward", &two_entries()), options(&hex, 0)].concat(),
            answer: ack(&hex),
            records: two_records(),
        },
        Sender {
            name: "flb.5.forward",
            bytes: [array32("flb.5.forward", &[nested(1), nested(2)].concat()), options(&base64, 0)].concat(),
            answer: ack(&base64),
            records: two_records(),
        },
        Sender {
            name: "flb.message",
            bytes: [b"\x94\xabflb.message", EVENT, b"\x81\xa1n\x01\x81\xa8metadata\x81\xa1k\xa1v"].concat(),
            answer: Vec::new(),
            records: vec![json!({"n": 1, "time": NANO})],
        },
        Sender { name: "flb.gzip", bytes: gzipped, answer: ack(&base64), records: two_records() },
        // Without options, and with some that do not say it: the blob's first bytes do.
        Sender {
            name: "flb.gzip.bare",
            bytes: [b"\x92", &fixstr("flb.gzip.bare")[..], &bin8(&gzip(&two_entries()))].concat(),
            answer: Vec::new(),
            records: two_records(),
        },
        packed("flb.gzip.sniffed", &gzip(&[nested(1), nested(2)].concat()), &base64),
        Sender {
            name: "flb.integers",
            bytes: [b"\x93", &fixstr("flb.integers")[..], b"\x92", &integers, &options(&hex, 0)].concat(),
            answer: ack(&hex),
            records: whole(),
        },
        Sender {
            name: "flb.integer.message",
            bytes: [b"\x94", &fixstr("flb.integer.message")[..], LONG, b"\x81\xa1n\x01\x81\xa5chunk", &hex].concat(),
            answer: ack(&hex),
            records: vec![json!({"n": 1, "time": WHOLE})],
        },
        packed("flb.integer.groups", &integer_groups, &base64),
        signal("flb.traces", 2, b"\x82\xadresourceSpans\x91\x80\xa4meta\x80"),
        signal("flb.blobs", 3, b"\xc4\x04blob"),
        signal("flb.profiles", 4, b"\x81\xa8profiles\x90"),
        compat("flb.compat.metrics", 1),
        compat("flb.compat.traces", 2),
        // A batch in the place of an entry (fluent-bit#12200).
        Sender {
            name: "flb.windows",
            bytes: [b"\x93\xa9flb.outer\x91", &inner[..], b"\x81\xa5chunk", &base64].concat(),
            answer: ack(&base64),
            records: two_records(),
        },
        // Metrics: acknowledged, and no records.
        Sender {
            name: "flb.metrics",
            bytes: [b"\x93\xabflb.metrics", &bin8(b"\x82\xa4meta\x80\xa7metrics\x90")[..], &options(&hex, 1)].concat(),
            answer: ack(&hex),
            records: Vec::new(),
        },
    ]
}

fn logger_senders() -> Vec<Sender> {
    let message = |name: &'static str, time: &[u8], text: &str| Sender {
        name,
        bytes: [b"\x93", &fixstr(name)[..], time, b"\x81\xa1n\x01"].concat(),
        answer: Vec::new(),
        records: vec![json!({"n": 1, "time": text})],
    };
    let half = b"\xcb\x41\xd9\x54\xfc\x40\x20\x00\x00";
    let milliseconds = b"\xcb\x42\x78\xbc\xfe\x56\x80\x00\x00";
    let uuid = str8(b"d6b2f3a0-0b3c-4a3e-9c59-2f1de2d7a001");
    let node_chunk = fixstr("cDE5NGZmYTAtYjM2Yg==");
    let blob = two_entries();
    let bytes = u8::try_from(blob.len()).expect("short");
    let sized = |chunk: &[u8]| [b"\x82\xa5chunk", chunk, b"\xa4size", &[bytes]].concat();
    let gzipped = gzip(&blob);
    vec![
        message("python.int", UNSIGNED, WHOLE),
        message("python.float", half, "2023-11-14T22:13:20.500000000Z"),
        message("python.nanosecond", EVENT, NANO),
        message("ruby", UNSIGNED, WHOLE),
        message("ruby.subsecond", EVENT, NANO),
        message("java", UNSIGNED, WHOLE),
        message("node.milliseconds", milliseconds, WHOLE),
        Sender {
            name: "go",
            bytes: [b"\x94\xa2go", SIGNED, b"\x81\xa1n\x01\xc0"].concat(),
            answer: Vec::new(),
            records: vec![json!({"n": 1, "time": WHOLE})],
        },
        // `MarshalAsJSON` with `RequestAck`.
        Sender {
            name: "go.json",
            bytes: br#"["go.json",1700000000,{"n":1},{"chunk":"AAECAwQFBgcICQoLDA0ODw=="}]"#.to_vec(),
            answer: br#"{"ack":"AAECAwQFBgcICQoLDA0ODw=="}"#.to_vec(),
            records: vec![json!({"n": 1, "time": WHOLE})],
        },
        // In its packed modes it sends a chunk id, wants it or not.
        Sender {
            name: "node.packed",
            bytes: [b"\x93\xabnode.packed", &bin8(&blob)[..], &sized(&node_chunk)].concat(),
            answer: ack(&node_chunk),
            records: two_records(),
        },
        Sender {
            name: "fluent-org.packed",
            bytes: [b"\x93\xb1fluent-org.packed", &bin8(&blob)[..], &sized(&node_chunk)].concat(),
            answer: ack(&node_chunk),
            records: two_records(),
        },
        Sender {
            name: "fluent-org.gzip",
            bytes: [
                b"\x93\xaffluent-org.gzip",
                &bin8(&gzipped)[..],
                b"\x83\xa5chunk",
                &node_chunk,
                b"\xa4size",
                &[bytes],
                b"\xaacompressed\xa4gzip",
            ]
            .concat(),
            answer: ack(&node_chunk),
            records: two_records(),
        },
        // Its options are a place holder. A line of JSON, which it does not take apart.
        Sender {
            name: "wazuh",
            bytes: [
                b"\x94\xa5wazuh",
                UNSIGNED,
                b"\x81\xa7message",
                &str8(br#"{"rule":{"level":3},"agent":{"id":"001"}}"#),
                b"\x81\xa6option\xa8optional",
            ]
            .concat(),
            answer: Vec::new(),
            records: vec![json!({"message": r#"{"rule":{"level":3},"agent":{"id":"001"}}"#, "time": WHOLE})],
        },
        Sender {
            name: "fluency",
            bytes: [b"\x93\xa7fluency", &str8(&blob)[..], &sized(&uuid)].concat(),
            answer: ack(&uuid),
            records: two_records(),
        },
        // What Fluentd takes in JSON mode, line by line.
        Sender {
            name: "json.lines",
            bytes: b"[\"json.lines\",[[1700000000,{\"n\":1}]]]\n[\"json.lines\",1700000000,{\"n\":2},{}]\n".to_vec(),
            answer: Vec::new(),
            records: vec![json!({"n": 1, "time": WHOLE}), json!({"n": 2, "time": WHOLE})],
        },
        // A keepalive before and after.
        Sender {
            name: "nil",
            bytes: [b"\xc0\xc0\x93\xa3nil", UNSIGNED, b"\x81\xa1n\x01\xc0"].concat(),
            answer: Vec::new(),
            records: vec![json!({"n": 1, "time": WHOLE})],
        },
    ]
}

/// Sends the bytes in two writes, cut at every byte, and checks what is answered. How often.
fn send_cut(port: u16, sender: &Sender) -> usize {
    let len = sender.bytes.len();
    for cut in 1..=len {
        let mut client = Client::tcp(port);
        client.send(&sender.bytes[..cut]);
        if cut < len {
            // So that they are two reads: a wait that is too short makes it one, which is right as well.
            std::thread::sleep(Duration::from_millis(1));
            client.send(&sender.bytes[cut..]);
        }
        client.expect_bytes(&sender.answer);
        client.finish();
        assert_eq!(client.expect_close(), b"", "{}, cut at {cut}: nothing but the ack", sender.name);
    }
    len
}

#[test]
fn every_sender_gives_its_records_and_gets_its_ack_wherever_its_bytes_are_cut() {
    let dir = folder();
    let port = free_port();
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nack = \"delivered\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [pipeline]\nsteps = [{{ join = \"docker_partial\" }}]\n\
         [sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    );
    let mut node = node(dir.path(), &body).start();
    let senders = [docker_senders(), fluentd_senders(), fluent_bit_senders(), logger_senders()];
    // (records, how often each) of each sender.
    let mut expected: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    std::thread::scope(|scope| {
        for group in &senders {
            scope.spawn(move || {
                for sender in group {
                    send_cut(port, sender);
                }
            });
        }
    });
    let mut count = 0;
    for sender in senders.iter().flatten() {
        let times = sender.bytes.len();
        for record in &sender.records {
            let mut record = record.clone();
            record["tag"] = sender.name.into();
            *expected.entry(sender.name.to_owned()).or_default().entry(record.to_string()).or_default() += times;
            count += times;
        }
    }
    node.wait_for("all records", |_| line_count(&out) >= count);
    node.assert_ledger_closes();
    // How often bytes were sent that count so much each.
    let sent = |each: &[(&str, usize)]| -> usize {
        let found = senders.iter().flatten().filter_map(|sender| {
            each.iter().find(|(name, _)| *name == sender.name).map(|(_, times)| times * sender.bytes.len())
        });
        assert_eq!(found.clone().count(), each.len(), "{each:?}");
        found.sum()
    };
    let no_logs = senders.iter().flatten().filter(|sender| sender.records.is_empty());
    let no_logs: Vec<(&str, usize)> = no_logs.map(|sender| (sender.name, 1)).collect();
    assert_eq!(no_logs.len(), 6);
    let rejected = |labels: &[(&str, &str)]| node.metric("longshore_input_rejected_total", labels) as usize;
    assert_eq!(rejected(&[("reason", "not_logs")]), sent(&no_logs));
    assert_eq!(rejected(&[]), sent(&no_logs), "nothing else");
    let odd = |kind| node.metric("longshore_input_oddities_total", &[("kind", kind)]) as usize;
    assert_eq!(odd("group_marker"), sent(&[("flb.5.groups", 4), ("flb.integer.groups", 4)]));
    assert_eq!(odd("codec_sniffed"), sent(&[("flb.gzip.bare", 1), ("flb.gzip.sniffed", 1)]));
    assert_eq!(odd("time_scaled"), sent(&[("node.milliseconds", 1)]));
    for kind in ["framing_lost", "time_from_receipt", "duplicate_key", "options_late"] {
        assert_eq!(odd(kind), 0, "{kind}");
    }
    node.stop_well();
    let mut got: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for record in records(&out) {
        let tag = record["tag"].as_str().expect("a tag").to_owned();
        *got.entry(tag).or_default().entry(record.to_string()).or_default() += 1;
    }
    for (tag, records) in &expected {
        assert_eq!(got.get(tag), Some(records), "{tag}");
    }
    assert_eq!(got.len(), expected.len(), "no other tag");
    assert_eq!(fs::metadata(&out).is_ok(), count > 0);
}
