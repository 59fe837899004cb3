//! The forward protocol as clients speak it: all modes, all shapes of time, acks byte for byte and in order.

use std::path::Path;
use std::time::Duration;

use rmpv::Value as Msg;
use serde_json::{Value, json};

use crate::docker_folder;
use crate::harness::containers::Container;
use crate::harness::forward::{
    Client, encode, entries, event_time, forward, gzip, map, message, option, packed, packed_as_str32, zstd,
};
use crate::harness::records::{line_count, lines, records};
use crate::harness::{Node, folder, free_port, node};

/// A forward input on this port and on `dir/f.sock`, and one output file.
pub fn config(dir: &Path, port: u16) -> String {
    let out = dir.join("out.ndjson");
    let socket = format!("unix://{}", dir.join("f.sock").display());
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\", {socket:?}]\n\
         [sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    )
}

fn numbered(seq: u64) -> Msg {
    map(&[("seq", seq.into()), ("msg", "a \"text\"\n".into())])
}

/// Starts, lets the test send, waits for `count` records, stops, and gives them.
fn received(count: usize, send: impl FnOnce(&mut Client, &mut Node)) -> Vec<Value> {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let mut client = Client::tcp(port);
    send(&mut client, &mut node);
    let out = dir.path().join("out.ndjson");
    node.wait_for("the records", |_| line_count(&out) >= count);
    node.assert_ledger_closes();
    node.stop_well();
    let records = records(&out);
    assert_eq!(records.len(), count);
    records
}

#[test]
fn every_mode_arrives_over_tcp_and_unix_and_is_acked_in_order() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let time = event_time(1_700_000_000, 1);
    for (at, mut client) in [(0, Client::tcp(port)), (1, Client::unix(&dir.path().join("f.sock")))] {
        let record = |n: u64| (time.clone(), numbered(at * 1_000 + n));
        let blob = |from: u64| entries(&(from..from + 10).map(record).collect::<Vec<_>>());
        let gz = |more| option("c5", &[("compressed", "gzip".into()), ("size", more)]);
        let frames = [
            message("t.message", time.clone(), record(0).1, Some(option("c1", &[]))),
            forward("t.forward", &[record(1), record(2)], Some(option("c2", &[]))),
            packed("t.packed", &blob(10), Some(option("c3", &[("size", 10.into())]))),
            packed_as_str32("t.packed", &blob(20), &option("c4", &[("compressed", "text".into())])),
            packed("t.gzip", &gzip(&blob(30)), Some(gz(10.into()))),
            packed("t.zstd", &zstd(&blob(40)), Some(option("c6", &[("compressed", "zstd".into())]))),
            message("t.silent", time.clone(), record(3).1, None),
            message("t.silent", time.clone(), record(4).1, Some(map(&[]))),
            message("t.silent", time.clone(), record(5).1, Some(Msg::Nil)),
        ];
        client.send(&frames.concat());
        for chunk in ["c1", "c2", "c3", "c4", "c5", "c6"] {
            client.expect_ack(chunk);
        }
        client.expect_silence(Duration::from_millis(200));
    }
    let out = dir.path().join("out.ndjson");
    node.wait_for("92 records", |_| line_count(&out) >= 92);
    node.assert_ledger_closes();
    node.stop_well();
    let records = records(&out);
    assert_eq!(records.len(), 92);
    let mut seqs: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert!(seqs[..46].is_sorted_by_key(|seq| seq / 1_000) || !seqs.is_empty());
    seqs.sort_unstable();
    let each: Vec<u64> = (0..6).chain(10..50).collect();
    let expected: Vec<u64> = each.iter().copied().chain(each.iter().map(|seq| seq + 1_000)).collect();
    assert_eq!(seqs, expected);
    let first = records.iter().find(|record| record["seq"] == 0).expect("it came");
    let expected =
        json!({"seq": 0, "msg": "a \"text\"\n", "time": "2023-11-14T22:13:20.000000001Z", "tag": "t.message"});
    assert_eq!(*first, expected);
}

#[test]
fn every_kind_of_time_is_read() {
    let record = encode(&map(&[("a", 1.into())]));
    let raw = |time: &[u8]| [&[0x93, 0xa1, b't'][..], time, &record].concat();
    let nested = Msg::Array(vec![event_time(1_700_000_000, 5), map(&[])]);
    let times: [(Vec<u8>, &str); 8] = [
        (raw(&[0xce, 0x65, 0x53, 0xf1, 0x00]), "2023-11-14T22:13:20.000000000Z"),
        (raw(&[0xd2, 0x65, 0x53, 0xf1, 0x00]), "2023-11-14T22:13:20.000000000Z"),
        (raw(&[0xd3, 0, 0, 0, 0, 0x65, 0x53, 0xf1, 0x00]), "2023-11-14T22:13:20.000000000Z"),
        (raw(&[0xd7, 0, 0x65, 0x53, 0xf1, 0, 0, 0, 0, 1]), "2023-11-14T22:13:20.000000001Z"),
        (raw(&[0xc7, 8, 0, 0x65, 0x53, 0xf1, 0, 0, 0, 0, 2]), "2023-11-14T22:13:20.000000002Z"),
        (message("t", 1_700_000_000.5.into(), map(&[("a", 1.into())]), None), "2023-11-14T22:13:20.500000000Z"),
        (message("t", (-1).into(), map(&[("a", 1.into())]), None), "1969-12-31T23:59:59.000000000Z"),
        (forward("t", &[(nested, map(&[("a", 1.into())]))], None), "2023-11-14T22:13:20.000000005Z"),
    ];
    let records = received(times.len() + 2, |client, _| {
        for (frame, _) in &times {
            client.send(frame);
        }
        client.send(&message("t", Msg::Nil, map(&[("a", 1.into())]), None));
        client.send(&message("t", 0.into(), map(&[("a", 1.into())]), None));
    });
    for ((_, expected), record) in times.iter().zip(&records) {
        assert_eq!(record["time"], json!(expected));
    }
    for record in &records[times.len()..] {
        assert!(record["time"].as_str() > Some("2025"), "nil and 0 are the time of receipt: {record}");
    }
}

#[test]
fn a_chunk_is_echoed_byte_for_byte() {
    let long = "x".repeat(300);
    let chunks = ["p8n9gmxTQVC8/nh2wlKKeQ==\n", "", "\u{e9}\u{4e2d}", "0", &long, "no. 5 \u{0}"];
    received(chunks.len(), |client, _| {
        for chunk in chunks {
            client.send(&message("t", 1_700_000_000.into(), numbered(1), Some(option(chunk, &[]))));
            client.expect_ack(chunk);
        }
    });
}

#[test]
fn gzip_of_many_members_and_zstd_of_many_frames_arrive_whole() {
    let pieces: Vec<Vec<u8>> = (0..50).map(|seq| entries(&[(1_700_000_000.into(), numbered(seq))])).collect();
    // An entry may lie across two members, since each append to a buffer is packed by itself.
    let all = pieces.concat();
    let (left, right) = all.split_at(all.len() / 2 + 3);
    let records = received(200, |client, _| {
        let members: Vec<u8> = pieces.iter().flat_map(|piece| gzip(piece)).collect();
        client.send(&packed("t", &members, Some(option("a", &[("compressed", "gzip".into())]))));
        let halves = [gzip(left), gzip(right)].concat();
        client.send(&packed("t", &halves, Some(option("b", &[("compressed", "gzip".into())]))));
        let frames: Vec<u8> = pieces.iter().flat_map(|piece| zstd(piece)).collect();
        client.send(&packed("t", &frames, Some(option("c", &[("compressed", "zstd".into())]))));
        // Packed, but not declared: the first bytes tell.
        client.send(&packed("t", &gzip(&all), Some(option("d", &[]))));
        for chunk in ["a", "b", "c", "d"] {
            client.expect_ack(chunk);
        }
    });
    let seqs: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..4).flat_map(|_| 0..50).collect::<Vec<_>>());
}

#[test]
fn keepalives_empty_frames_and_empty_connections_are_no_trouble() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    for _ in 0..200 {
        drop(Client::tcp(port));
    }
    let mut client = Client::tcp(port);
    client.send(&[0xc0; 1_000]);
    client.send(&forward("t", &[], Some(option("none", &[]))));
    client.expect_ack("none");
    client.send(&packed("t", b"", Some(option("empty", &[]))));
    client.expect_ack("empty");
    client.send(&message("t", 1_700_000_000.into(), numbered(0), Some(option("one", &[]))));
    client.expect_ack("one");
    let out = dir.path().join("out.ndjson");
    node.wait_for("the record", |_| line_count(&out) >= 1);
    assert!(node.log().lines().count() < 30, "a connection without bytes is normal:\n{}", node.log());
    node.stop_well();
}

#[test]
fn a_frame_in_pieces_of_one_byte_is_as_good_as_whole_and_acked_only_after_its_end() {
    let blob = entries(&(0..400).map(|seq| (event_time(1_700_000_000, 0), numbered(seq))).collect::<Vec<_>>());
    let records = received(400, |client, _| {
        let frame = packed("t", &blob, Some(option("slow", &[])));
        let (last, all) = frame.split_last().expect("not empty");
        for byte in all {
            client.send(&[*byte]);
        }
        client.expect_silence(Duration::from_millis(150));
        client.send(&[*last]);
        client.expect_ack("slow");
    });
    let seqs: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..400).collect::<Vec<_>>());
}

#[test]
fn thousands_of_small_frames_in_one_write_keep_their_order_and_are_all_acked() {
    const COUNT: u64 = 5_000;
    let records = received(5_000, |client, _| {
        let frame = |seq| message("t", 1_700_000_000.into(), numbered(seq), Some(option(&seq.to_string(), &[])));
        client.send(&(0..COUNT).flat_map(frame).collect::<Vec<_>>());
        for seq in 0..COUNT {
            client.expect_ack(&seq.to_string());
        }
    });
    let seqs: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn records_of_many_connections_are_all_there() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let clients: Vec<_> = (0..20u64)
        .map(|client| {
            std::thread::spawn(move || {
                let mut connection = Client::tcp(port);
                for frame in 0..10 {
                    let from = client * 1_000 + frame * 100;
                    let batch: Vec<_> = (from..from + 100).map(|seq| (1_700_000_000.into(), numbered(seq))).collect();
                    connection.send(&forward("t", &batch, Some(option("c", &[]))));
                    connection.expect_ack("c");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client does not panic");
    }
    let out = dir.path().join("out.ndjson");
    node.wait_for("20,000 records", |_| line_count(&out) >= 20_000);
    node.stop_well();
    let mut seqs: Vec<u64> = records(&out).iter().filter_map(|record| record["seq"].as_u64()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..20_000).collect::<Vec<_>>());
}

/// A piece of a line as Docker's fluentd driver sends it.
fn piece(id: &str, ordinal: u32, last: bool, log: &str) -> Vec<u8> {
    piece_with(id, ordinal, last, log, map(&[]))
}

fn piece_with(id: &str, ordinal: u32, last: bool, log: &str, options: Msg) -> Vec<u8> {
    let record = map(&[
        ("container_id", "ab".repeat(32).into()),
        ("container_name", "/web".into()),
        ("source", "stdout".into()),
        ("log", log.into()),
        ("partial_message", "true".into()),
        ("partial_id", id.into()),
        ("partial_ordinal", ordinal.to_string().into()),
        ("partial_last", if last { "true" } else { "false" }.into()),
    ]);
    message("docker.web", 1_700_000_000.into(), record, Some(options))
}

#[test]
fn a_piece_whose_ack_leaves_no_room_for_more_is_not_waited_for() {
    let dir = folder();
    let port = free_port();
    let body = config(dir.path(), port).replace("type = \"forward\"", "type = \"forward\"\nacks_max = \"4KiB\"");
    let body = format!("{body}\n[pipeline]\nsteps = [{{ join = \"docker_partial\" }}]\n");
    let mut node = node(dir.path(), &body).start();
    let mut client = Client::tcp(port);
    let long = "c".repeat(5_000);
    client.send(&piece_with("one", 1, false, "a", option(&long, &[])));
    client.expect_ack(&long);
    client.send(&piece_with("one", 2, true, "b", option("end", &[])));
    client.expect_ack("end");
    let out = dir.path().join("out.ndjson");
    node.wait_for("both pieces", |_| line_count(&out) >= 2);
    node.stop_well();
}

/// Steps that join pieces, whose ack waits so long for more of them.
fn joining(dir: &Path, port: u16, acked_wait: &str) -> String {
    let step = format!("{{ join = \"docker_partial\", acked_wait = {acked_wait:?} }}");
    format!("{}\n[pipeline]\nsteps = [{step}]\n", config(dir, port))
}

#[test]
fn a_last_piece_without_its_end_is_a_record_when_its_container_is_gone() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &joining(dir.path(), port, "30s")).start();
    let mut client = Client::tcp(port);
    client.send(&piece("one", 1, false, "no line feed"));
    client.send(&piece("two", 1, false, "begun, "));
    client.send(&piece("two", 2, false, "not ended"));
    drop(client);
    let out = dir.path().join("out.ndjson");
    node.wait_for("two records", |_| line_count(&out) >= 2);
    node.stop_well();
    let mut logs: Vec<String> =
        records(&out).iter().map(|record| record["log"].as_str().expect("text").to_owned()).collect();
    logs.sort();
    assert_eq!(logs, ["begun, not ended", "no line feed"]);
}

#[test]
fn a_last_piece_without_its_end_is_acked_after_its_wait_where_its_container_lives_on() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &joining(dir.path(), port, "2s")).start();
    let mut client = Client::tcp(port);
    client.send(&piece_with("one", 1, false, "no line feed", option("c", &[])));
    // More may come.
    client.expect_silence(Duration::from_millis(1_000));
    client.expect_ack("c");
    let out = dir.path().join("out.ndjson");
    node.wait_for("the record", |_| line_count(&out) >= 1);
    node.wait_for("the count", |node| {
        node.metric("longshore_input_oddities_total", &[("kind", "partial_unjoined")]) == 1
    });
    node.stop_well();
    let records = records(&out);
    assert_eq!((records.len(), &records[0]["log"]), (1, &json!("no line feed")));
}

#[test]
fn pieces_whose_log_a_label_overwrote_are_one_record() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &joining(dir.path(), port, "30s")).start();
    let mut client = Client::tcp(port);
    // With `labels=log` each piece has the label's text in the place of its own.
    for (ordinal, last) in [(1, false), (2, false), (3, true)] {
        client.send(&piece("one", ordinal, last, "a label;"));
    }
    let out = dir.path().join("out.ndjson");
    node.wait_for("the record", |_| line_count(&out) >= 1);
    node.stop_well();
    let expected = json!({
        "log": "a label;a label;a label;", "stream": "stdout", "time": "2023-11-14T22:13:20.000000000Z",
        "container": {"id": "ab".repeat(32), "name": "web"}, "tag": "docker.web",
    });
    assert_eq!(records(&out), [expected]);
}

#[test]
fn a_line_is_the_same_record_from_a_json_file_log_and_from_dockers_driver() {
    let dir = folder();
    let port = free_port();
    let lines: [(String, &str); 7] = [
        ("plain text <b> & \"quoted\"\t\\".to_owned(), "stdout"),
        (r#"{"level":"info","seq":1.50,"nested":{"a":[null,1e3]},"stream":"own"}"#.to_owned(), "stderr"),
        (String::new(), "stdout"),
        ("from a terminal\r".to_owned(), "stdout"),
        ("\u{e9}\u{4e2d}\u{1f600} and \u{0}\u{1b}[31m".to_owned(), "stderr"),
        ("x".repeat(40_000), "stdout"),
        ("y".repeat(2 * 16_384), "stdout"),
    ];
    let docker = docker_folder::config(dir.path());
    let input = format!("[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n");
    let mut node = node(dir.path(), &format!("{docker}{input}")).start();
    let labels = [("team", "a")];
    let mut file = Container::create(&dir.path().join("containers"), 0xab, "web", "nginx:1.27", &labels);
    let mut client = Client::tcp(port);
    for (at, (text, stream)) in lines.iter().enumerate() {
        let sent = |log: &str, partial: Option<(usize, bool)>| {
            let mut fields = vec![
                ("container_id", Msg::from("ab".repeat(32))),
                ("container_name", "/web".into()),
                ("source", (*stream).into()),
                ("log", log.into()),
            ];
            if let Some((ordinal, last)) = partial {
                fields.extend([
                    ("partial_message", "true".into()),
                    ("partial_id", format!("id {at}").into()),
                    ("partial_ordinal", ordinal.to_string().into()),
                    ("partial_last", last.to_string().into()),
                ]);
            }
            message("api.web", 1_700_000_000.into(), map(&fields), Some(map(&[])))
        };
        if text.len() < 16_384 {
            file.line(text, stream);
            client.send(&sent(text, None));
            continue;
        }
        file.long_line(text, stream);
        // A line of whole pieces ends with one that is empty.
        let pieces = text.len() / 16_384 + 1;
        for piece in 0..pieces {
            let log = &text[piece * 16_384..text.len().min((piece + 1) * 16_384)];
            client.send(&sent(log, Some((piece + 1, piece + 1 == pieces))));
        }
    }
    let out = dir.path().join("out.ndjson");
    node.wait_for("each line both ways", |_| out.exists() && line_count(&out) >= 2 * lines.len());
    node.stop_well();
    let of = |tag: &str| -> Vec<Value> {
        let all = records(&out).into_iter().filter(|record| record["tag"] == *tag);
        all.map(|mut record| {
            let fields = record.as_object_mut().expect("a record");
            // What docs/docker-fluentd.md says of the two: they have to be there, and differ.
            fields.remove("tag").expect("a tag");
            fields.remove("time").expect("a time");
            let image = record["container"].as_object_mut().expect("a container").remove("image");
            assert_eq!(image, (tag == "docker.web").then(|| json!("nginx:1.27")), "{record}");
            record
        })
        .collect()
    };
    let (from_file, mut from_driver) = (of("docker.web"), of("api.web"));
    assert_eq!((from_file.len(), from_driver.len()), (lines.len(), lines.len()));
    // The one that is the page's last exception.
    assert_eq!((&from_file[3]["log"], &from_driver[3]["log"]), (&json!("from a terminal"), &json!(lines[3].0)));
    from_driver[3]["log"] = from_file[3]["log"].clone();
    assert_eq!(from_file, from_driver);
    assert_eq!(from_file[1]["level"], json!("info"));
}

#[test]
fn pieces_of_dockers_driver_are_joined_by_their_id_and_get_the_shape_of_a_json_file_line() {
    let dir = folder();
    let port = free_port();
    let body = format!(
        "{}\n[pipeline]\nsteps = [{{ join = \"docker_partial\" }}, {{ parse = \"json\" }}]\n",
        config(dir.path(), port)
    );
    let mut node = node(dir.path(), &body).start();
    let mut client = Client::tcp(port);
    let (a, b) = ("a".repeat(16_384), "b".repeat(16_384));
    client.send(&piece("one", 1, false, &a));
    client.send(&piece("two", 1, false, &b));
    client.send(&piece("one", 2, false, &a));
    client.send(&piece("two", 2, true, ""));
    client.send(&piece("one", 3, true, "end"));
    let whole = map(&[
        ("source", "stderr".into()),
        ("log", "{\"seq\":1}".into()),
        ("container_id", "ab".repeat(32).into()),
        ("container_name", "/web".into()),
    ]);
    client.send(&message("docker.web", 1_700_000_000.into(), whole, Some(map(&[]))));
    let out = dir.path().join("out.ndjson");
    node.wait_for("three records", |_| line_count(&out) >= 3);
    node.stop_well();
    let records = records(&out);
    assert_eq!(records.len(), 3);
    assert_eq!(records[0]["log"], json!(b));
    assert_eq!(records[1]["log"], json!(format!("{a}{a}end")));
    assert!(records.iter().all(|record| record.get("partial_id").is_none()), "pieces leave no trace");
    let expected = json!({
        "seq": 1, "stream": "stderr", "time": "2023-11-14T22:13:20.000000000Z",
        "container": {"id": "ab".repeat(32), "name": "web"}, "tag": "docker.web",
    });
    assert_eq!(records[2], expected);
}

#[test]
fn numbers_and_odd_values_come_out_exact_and_as_valid_json() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let record = Msg::Map(vec![
        ("max".into(), u64::MAX.into()),
        ("min".into(), i64::MIN.into()),
        ("f32".into(), Msg::F32(0.1)),
        ("nan".into(), Msg::F64(f64::NAN)),
        ("inf".into(), Msg::F64(f64::INFINITY)),
        ("nil".into(), Msg::Nil),
        (1.into(), "a number as key".into()),
        ("deep".into(), map(&[("list", Msg::Array(vec![true.into(), map(&[])]))])),
    ]);
    let mut client = Client::tcp(port);
    client.send(&message("t", 1_700_000_000.into(), record, Some(option("c", &[]))));
    client.expect_ack("c");
    // Text that is not UTF-8, as Docker's driver sends it.
    let raw = [&[0x93, 0xa1, b't', 0xce, 0x65, 0x53, 0xf1, 0, 0x81, 0xa1, b'l', 0xa3, b'a', 0xff, b'b'][..]].concat();
    client.send(&raw);
    let out = dir.path().join("out.ndjson");
    node.wait_for("two records", |_| line_count(&out) >= 2);
    node.stop_well();
    let line = &lines(&out)[0];
    for part in [
        r#""max":18446744073709551615"#,
        r#""min":-9223372036854775808"#,
        r#""f32":0.1"#,
        r#""nan":null"#,
        r#""inf":null"#,
        r#""nil":null"#,
        r#""1":"a number as key""#,
        r#""deep":{"list":[true,{}]}"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(records(&out)[1]["l"], json!("a\u{fffd}b"));
}
