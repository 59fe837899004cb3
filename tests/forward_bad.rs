//! Bad bytes on the forward port. Framed but bad: rejected, counted, acked. Framing lost: closed without an ack. And a
//! good client beside them notices nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rmpv::Value as Msg;
use tempfile::TempDir;

use crate::forward_input::config;
use crate::harness::forward::{Client, encode, entries, forward, gzip, map, message, option, packed};
use crate::harness::records::{line_count, records};
use crate::harness::{Node, folder, free_port, node};

struct Bench {
    _dir: TempDir,
    out: PathBuf,
    port: u16,
    node: Node,
    good: Client,
    sent: usize,
}

impl Bench {
    fn start() -> Bench {
        let dir = folder();
        let port = free_port();
        let node = node(dir.path(), &config(dir.path(), port)).with_node("memory = \"48MiB\"").start();
        let good = Client::tcp(port);
        Bench { out: dir.path().join("out.ndjson"), port, node, good, sent: 0, _dir: dir }
    }

    fn rejected(&self, reason: &str) -> u64 {
        self.node.metric("longshore_input_rejected_total", &[("reason", reason)])
    }

    /// A good record still goes through the connection that was open all the time.
    fn still_works(&mut self) {
        let record = map(&[("good", (self.sent as u64).into())]);
        self.good.send(&message("good", 1_700_000_000.into(), record, Some(option("good", &[]))));
        self.good.expect_ack("good");
        self.sent += 1;
    }

    /// Checks that all good records, and `more`, came out.
    fn finish(mut self, more: usize) {
        let (out, expected) = (self.out.clone(), self.sent + more);
        self.node.wait_for("the good records", |_| line_count(&out) >= expected);
        self.node.stop_well();
        assert_eq!(records(&out).len(), expected);
    }
}

fn ok(seq: u64) -> (Msg, Msg) {
    (1_700_000_000.into(), map(&[("ok", seq.into())]))
}

#[test]
fn lost_framing_is_told_with_the_bytes_at_its_offset() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    // Of an array that is decoded when it is whole, the third entry can be none.
    let entry = [&b"\x92\x01\x81\xa1a\xd9\x40"[..], &[b'x'; 64]].concat();
    let behind: Vec<u8> = (1..=40).collect();
    let mut client = Client::tcp(port);
    client.send(&[b"\x93\xa1t\x93", &entry[..], &entry, b"\xc1", &behind].concat());
    assert_eq!(client.expect_close(), b"");
    let hex: String = std::iter::once(0xc1).chain(1..32).map(|byte: u8| format!("{byte:02x}")).collect();
    node.wait_for("the line", |node| node.log().contains(&format!("at byte 146 ({hex})")));
    // Behind a frame that is used, and in JSON; over another way in, since a peer is spoken of once in ten seconds.
    let mut client = Client::unix(&dir.path().join("f.sock"));
    client.send(br#"["t",1,{"a":1},{"chunk":"c"}]["t",1700000000,{"a":?}]"#);
    node.wait_for("the line about JSON", |node| node.log().contains("at byte 50 (3f7d5d)"));
    node.stop_well();
}

#[test]
fn bad_but_framed_data_is_rejected_counted_and_acked_and_its_neighbours_live() {
    let mut bench = Bench::start();
    let mut client = Client::tcp(bench.port);
    let time = || Msg::from(1_700_000_000);
    let deep = (0..1_000).fold(Msg::Nil, |inner, _| Msg::Array(vec![inner]));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not_a_map", message("t", time(), "text".into(), Some(option("1", &[])))),
        ("not_a_map", forward("t", &[ok(1), (time(), 5.into()), ok(2)], Some(option("2", &[])))),
        ("bad_tag", encode(&Msg::Array(vec![5.into(), time(), map(&[]), option("3", &[])]))),
        ("too_deep", message("t", time(), map(&[("deep", deep)]), Some(option("4", &[])))),
        ("unknown_codec", packed("t", b"\x00\x01", Some(option("5", &[("compressed", "lz4".into())])))),
    ];
    for (at, (reason, frame)) in cases.iter().enumerate() {
        let before = bench.rejected(reason);
        client.send(frame);
        client.expect_ack(&(at + 1).to_string());
        bench.node.wait_for("the count", |node| {
            node.metric("longshore_input_rejected_total", &[("reason", reason)]) > before
        });
    }
    let huge = "t".repeat(64 << 10);
    client.send(&message(&huge, time(), map(&[]), Some(option("tag", &[]))));
    client.expect_ack("tag");
    bench.still_works();
    bench.finish(2);
}

#[test]
fn damaged_compression_keeps_what_came_before_the_damage() {
    let mut bench = Bench::start();
    let mut client = Client::tcp(bench.port);
    let blob = entries(&(0..20_000).map(ok).collect::<Vec<_>>());
    let packed_whole = gzip(&blob);
    let torn = &packed_whole[..packed_whole.len() / 2];
    client.send(&packed("t", torn, Some(option("torn", &[("compressed", "gzip".into())]))));
    client.expect_ack("torn");
    bench.still_works();
    assert!(bench.rejected("bad_compression") >= 1, "{}", bench.node.figures());
    let out = bench.out.clone();
    bench.node.wait_for("the readable part", |_| line_count(&out) > 5_000);
    bench.node.stop_well();
    let seqs: Vec<u64> = records(&out).iter().filter_map(|record| record["ok"].as_u64()).collect();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
}

#[test]
fn lost_framing_closes_the_connection_without_an_ack() {
    let mut bench = Bench::start();
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("a reserved byte", vec![0xc1]),
        ("text at the top", encode(&"hello".into())),
        ("a map at the top", encode(&map(&[("a", 1.into())]))),
        ("str32 of 4 GiB", vec![0x93, 0xa1, b't', 0xdb, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        ("bin32 of 4 GiB", vec![0x93, 0xa1, b't', 0xc6, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        ("array32 of 2^32-1 entries", vec![0x92, 0xa1, b't', 0xdd, 0xff, 0xff, 0xff, 0xff, 0x92, 0, 0x80]),
        ("an outer array32 of 2^32-1", vec![0xdd, 0xff, 0xff, 0xff, 0xff, 0xa1, b't']),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a TLS hello", [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01][..], &[0; 512]].concat()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    let good = message("t", 1.into(), map(&[]), Some(option("never", &[])));
    cases.push(("a stump, then the end", good[..good.len() - 3].to_vec()));
    for (what, bytes) in cases {
        let mut client = Client::tcp(bench.port);
        let _ = client.try_send(&bytes);
        client.finish();
        let answer = client.expect_close();
        // A helpful line may answer HTTP; an ack may answer nothing of this.
        assert!(!answer.windows(3).any(|part| part == b"ack"), "{what} was acked: {answer:02x?}");
        bench.still_works();
    }
    // The first of them is said, the others within ten seconds are only counted.
    bench.node.wait_for("one line with peer, offset and bytes", |node| {
        let log = node.log();
        let line = log.lines().find(|line| line.contains("does not use at byte 0 (c1)"));
        line.is_some_and(|line| line.contains("127.0.0.1"))
    });
    bench.finish(0);
}

#[test]
fn http_on_the_forward_port_gets_one_helpful_line_in_the_log() {
    let mut bench = Bench::start();
    let mut client = Client::tcp(bench.port);
    client.send(b"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    client.finish();
    client.expect_close();
    bench.node.wait_for("a line that names HTTP", |node| node.log().contains("HTTP on the forward port"));
    bench.still_works();
    bench.finish(0);
}

#[test]
fn random_bytes_end_neither_the_program_nor_its_other_connections() {
    let mut bench = Bench::start();
    let seed = 0x1009_5408e;
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..300 {
        let mut client = Client::tcp(bench.port);
        let mut bytes: Vec<u8> = (0..random.usize(1..4_000)).map(|_| random.u8(..)).collect();
        if round % 2 == 0 {
            // A frame that begins well, with a few bytes changed.
            bytes = forward("t", &(0..20).map(ok).collect::<Vec<_>>(), Some(option("r", &[])));
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
        }
        let _ = client.try_send(&bytes);
        drop(client);
        if round % 50 == 0 {
            bench.still_works();
        }
    }
    bench.still_works();
    bench.node.stop_well();
    let good = records(&bench.out).iter().filter(|record| record["tag"] == "good").count();
    assert_eq!(good, bench.sent, "seed {seed:#x}");
}

#[test]
fn a_decompression_bomb_is_cut_and_acked_within_bounded_time_and_memory() {
    let mut bench = Bench::start();
    let mut client = Client::tcp(bench.port);
    // One record, then 1 GiB of zeros in 1 MB: the members are packed once and repeated.
    let member = gzip(&vec![0; 64 << 20]);
    let mut blob = gzip(&entries(&[ok(1)]));
    for _ in 0..16 {
        blob.extend_from_slice(&member);
    }
    let began = Instant::now();
    client.send(&packed("t", &blob, Some(option("bomb", &[("compressed", "gzip".into())]))));
    client.expect_ack("bomb");
    assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    assert!(bench.node.peak_memory() < 64 << 20, "{} MiB at the peak", bench.node.peak_memory() >> 20);
    bench.still_works();
    bench.finish(1);
}
