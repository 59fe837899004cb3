//! What the forward input refuses is kept as dead letters: acked when it is on the disk, with its bytes as they came; counted
//! and acked all the same where it can not be kept; shown by command, and never sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rmpv::Value as Msg;
use serde_json::Value;
use tempfile::TempDir;

use crate::dead_letters::{letters, lines};
use crate::forward_input::config;
use crate::harness::forward::{Client, encode, entries, forward, gzip, map, message, option, packed, zstd};
use crate::harness::records::{line_count, records};
use crate::harness::{Node, audit_closes, folder, free_port, node, told};

/// Bytes that are kept of one letter.
const KEPT_MAX: usize = 64 << 10;

struct Bench {
    dir: TempDir,
    port: u16,
    node: Node,
}

impl Bench {
    fn start(more: &str) -> Bench {
        let dir = folder();
        let port = free_port();
        let node = node(dir.path(), &format!("{}{more}", config(dir.path(), port))).start();
        Bench { dir, port, node }
    }

    fn rejected(&self, reason: &str) -> u64 {
        self.node.metric("longshore_input_rejected_total", &[("reason", reason)])
    }

    fn written(&self) -> u64 {
        self.node.metric("longshore_input_dead_letters_written_total", &[("input", "apps")])
    }

    fn lost(&self, reason: &str) -> u64 {
        self.node.metric("longshore_input_dead_letters_lost_total", &[("input", "apps"), ("reason", reason)])
    }
}

fn time() -> Msg {
    Msg::from(1_700_000_000)
}

fn ok(seq: u64) -> (Msg, Msg) {
    (time(), map(&[("ok", seq.into())]))
}

fn c() -> Option<Msg> {
    Some(option("c", &[]))
}

/// One kind of bad data: what is sent, how many good records are in it, and the letter.
struct Kind {
    reason: &'static str,
    frame: Vec<u8>,
    good: usize,
    what: &'static str,
    tag: Option<&'static str>,
    bytes: Vec<u8>,
}

/// Good records are numbered from 1, each once.
fn kinds() -> Vec<Kind> {
    let tagged = |tag: Msg| encode(&Msg::Array(vec![tag, time(), map(&[]), option("c", &[])]));
    let deep = (0..1_000).fold(Msg::Nil, |inner, _| Msg::Array(vec![inner]));
    let with = |key: &str, value: Msg| Some(option("c", &[(key, value)]));
    let mut torn = gzip(&entries(&[ok(1), ok(2)]));
    torn.truncate(torn.len() - 4);
    // Half a GiB in some KB, so that the frame is decoded when it is whole.
    let bomb = [zstd(&entries(&[ok(3)])), zstd(&vec![0; 64 << 20]).repeat(8)].concat();
    let large = map(&[("x", "y".repeat(5 << 20).into())]);
    let whole = |reason, tag, good, frame: Vec<u8>| {
        let bytes = frame[..frame.len().min(KEPT_MAX)].to_vec();
        Kind { reason, frame, good, what: "frame", tag, bytes }
    };
    let entry = |reason, first: u64, entry: Msg| {
        let blob = [entries(&[ok(first)]), encode(&entry), entries(&[ok(first + 1)])].concat();
        Kind { reason, frame: packed("t", &blob, c()), good: 2, what: "entry", tag: Some("t"), bytes: encode(&entry) }
    };
    vec![
        whole("bad_tag", None, 0, tagged(5.into())),
        whole("bad_tag", None, 0, tagged(Msg::Nil)),
        whole("bad_tag", None, 0, tagged("t".repeat(100 << 10).into())),
        whole("not_logs", Some("t"), 0, packed("t", &entries(&[ok(900)]), with("fluent_signal", 1.into()))),
        whole("unknown_codec", Some("t"), 0, packed("t", b"\x00\x01", with("compressed", "lz4".into()))),
        whole("bad_compression", Some("t"), 0, packed("t", b"garbage", with("compressed", "gzip".into()))),
        whole("bad_compression", Some("t"), 2, packed("t", &torn, with("compressed", "gzip".into()))),
        whole("bomb", Some("t"), 1, packed("t", &bomb, with("compressed", "zstd".into()))),
        whole("bad_entry", Some("t"), 1, packed("t", &[entries(&[ok(4)]), vec![0x92, 1]].concat(), c())),
        whole("not_a_map", Some("t"), 0, message("t", time(), "text".into(), c())),
        whole("too_deep", Some("t"), 0, message("t", time(), map(&[("deep", deep.clone())]), c())),
        whole("too_large", Some("t"), 0, message("t", time(), large, c())),
        entry("bad_entry", 5, "text".into()),
        entry("not_a_map", 7, Msg::Array(vec![time(), 5.into()])),
        entry("too_deep", 9, Msg::Array(vec![time(), map(&[("deep", deep)])])),
    ]
}

/// Shown as it was refused, and the bytes as they came.
fn assert_is(dir: &Path, letter: &Value, kind: &Kind) {
    let size = if kind.what == "frame" { kind.frame.len() } else { kind.bytes.len() };
    let told = format!("{} {}: {}", kind.reason, size, letter.to_string().chars().take(400).collect::<String>());
    let text = |key: &str| letter[key].as_str();
    assert_eq!((text("reason"), text("what"), text("tag")), (Some(kind.reason), Some(kind.what), kind.tag), "{told}");
    assert_eq!((text("input"), text("sink")), (Some("apps"), None), "{told}");
    assert!(text("peer").is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{told}");
    assert!(text("time").is_some_and(|time| time.starts_with("20")), "{told}");
    let number = |key: &str| letter[key].as_u64().and_then(|number| usize::try_from(number).ok());
    assert_eq!(
        (number("bytes"), number("kept"), number("kept_from")),
        (Some(size), Some(kind.bytes.len()), Some(0)),
        "{told}"
    );
    assert_eq!(letter["cut"], size != kind.bytes.len(), "{told}");
    let raw = letters(dir, &["show", "--raw", &letter["number"].to_string()]);
    assert!(raw.status.success() && raw.stdout == kind.bytes, "{told}");
}

#[test]
fn what_is_refused_is_acked_when_its_letter_is_on_the_disk() {
    let mut bench = Bench::start("");
    let mut client = Client::tcp(bench.port);
    let kinds = kinds();
    let mut by_reason = BTreeMap::new();
    for kind in &kinds {
        client.send(&kind.frame);
        client.expect_ack("c");
        *by_reason.entry(kind.reason).or_insert(0) += 1;
    }
    // A frame of one element has no options, and so no ack; the next one's comes after it.
    let bare = encode(&Msg::Array(vec!["t".into()]));
    client.send(&[bare.clone(), message("t", time(), map(&[("ok", 11.into())]), c())].concat());
    client.expect_ack("c");
    for (reason, count) in by_reason {
        assert_eq!(bench.rejected(reason), count, "{reason}: once each\n{}", bench.node.figures());
    }
    assert_eq!((bench.rejected("bad_frame"), bench.written()), (1, kinds.len() as u64 + 1));
    bench.node.assert_ledger_closes();
    // What was acked survives what no orderly stop has touched.
    bench.node.kill();
    let dir = bench.dir.path();
    let shown = lines(&letters(dir, &["show"]));
    assert_eq!(shown.len(), kinds.len() + 1);
    for (letter, kind) in shown.iter().zip(&kinds) {
        assert_is(dir, letter, kind);
    }
    let last = Kind { reason: "bad_frame", frame: bare.clone(), good: 0, what: "frame", tag: None, bytes: bare };
    assert_is(dir, &shown[kinds.len()], &last);
    // Their neighbours are records, all of them, and nothing else is. Since the kill some come twice, as documented.
    assert_eq!(kinds.iter().map(|kind| kind.good).sum::<usize>(), 10);
    bench.node = node(dir, &config(dir, bench.port)).start();
    let out = dir.join("out.ndjson");
    let numbers = || -> Vec<u64> { records(&out).iter().filter_map(|record| record["ok"].as_u64()).collect() };
    let distinct = || numbers().into_iter().collect::<BTreeSet<u64>>();
    bench.node.wait_for("the end of what was buffered", |node| {
        node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0 && line_count(&out) >= 11
    });
    bench.node.wait_for("the letters of before", |node| {
        node.metric("longshore_input_dead_letters", &[("input", "apps")]) == kinds.len() as u64 + 1
    });
    bench.node.stop_well();
    assert_eq!(distinct(), (1..=11).collect());
    assert!(numbers().len() <= 22, "{:?}", numbers());
    audit_closes(dir);
}

#[test]
fn letters_of_an_input_are_listed_and_shown_and_no_replay_sends_them() {
    let mut bench = Bench::start("");
    let mut client = Client::tcp(bench.port);
    client.send(&message("app.web", time(), "text".into(), c()));
    client.expect_ack("c");
    let mut json = Client::tcp(bench.port);
    json.send(br#"["j",[[1700000000,{"ok":1}],[1700000000,[7]]],{"chunk":"c"}]"#);
    json.expect_bytes(br#"{"ack":"c"}"#);
    let dir = bench.dir.path();
    let listed = letters(dir, &["list"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        text.contains("  apps refused  app.web  not_a_map: frame of ") && text.contains(" bytes from 127.0.0.1:"),
        "{text}"
    );
    assert!(text.contains("2 dead letters, "), "{text}");
    let shown = lines(&letters(dir, &["show"]));
    // What is one value is shown as one.
    assert_eq!(shown[0]["value"], serde_json::json!(["app.web", 1_700_000_000, "text", {"chunk": "c"}]));
    assert_eq!(
        (&shown[1]["value"], &shown[1]["what"]),
        (&serde_json::json!([1_700_000_000, [7]]), &Value::from("entry"))
    );
    assert_eq!(lines(&letters(dir, &["show", "--sink", "out"])).len(), 0);
    let (first, second) = (shown[0]["number"].to_string(), shown[1]["number"].to_string());
    assert_eq!(letters(dir, &["show", "--raw", &second]).stdout, b"[1700000000,[7]]");
    let both = letters(dir, &["show", "--raw", &first, &second]);
    assert!(!both.status.success() && told(&both).contains("one NUMBER"), "{}", told(&both));
    let missing = letters(dir, &["show", "--raw", "999999999"]);
    assert!(!missing.status.success() && told(&missing).contains("there is no dead letter 999999999"));
    // No sink ever saw them.
    let all = letters(dir, &["replay"]);
    assert!(
        all.status.success() && told(&all).contains("apps: 2 letters of what this input refused stay"),
        "{}",
        told(&all)
    );
    let named = letters(dir, &["replay", &first]);
    assert!(!named.status.success() && told(&named).contains(&format!("show --raw {first}")), "{}", told(&named));
    assert_eq!(lines(&letters(dir, &["show"])).len(), 2);
    bench.node.stop_well();
}

#[test]
fn where_nothing_can_be_kept_bad_data_is_counted_and_acked_as_ever() {
    let dir = folder();
    let port = free_port();
    fs::create_dir_all(dir.path().join("data")).expect("writable");
    fs::write(dir.path().join("data/dead-letters"), "a file where the folder should be").expect("writable");
    let mut bench = Bench { node: node(dir.path(), &config(dir.path(), port)).start(), dir, port };
    let mut client = Client::tcp(bench.port);
    for seq in 0..3 {
        client.send(&forward("t", &[ok(seq), (time(), 5.into())], c()));
        client.expect_ack("c");
    }
    assert_eq!((bench.rejected("not_a_map"), bench.written(), bench.lost("unwritten")), (3, 0, 3));
    let log = bench.node.log();
    assert!(log.contains("refused entry of 7 bytes: not_a_map"), "{log}");
    assert!(log.contains("what is refused can not be kept"), "{log}");
    bench.node.assert_ledger_closes();
    bench.node.stop_well();
    assert_eq!(line_count(&bench.dir.path().join("out.ndjson")), 3);
}

#[test]
fn a_flood_of_bad_data_is_acked_and_writes_no_more_than_its_allowance() {
    let mut bench = Bench::start("\n[dead_letters]\nsize = \"8MiB\"\n");
    let mut client = Client::tcp(bench.port);
    let frame = encode(&Msg::Array(vec![Msg::Nil, time(), Msg::Binary(vec![7; 128 << 10]), option("c", &[])]));
    // 2 MiB are allowed at once, and 580 bytes more a second.
    for _ in 0..100 {
        client.send(&frame);
        client.expect_ack("c");
    }
    let (written, limited) = (bench.written(), bench.lost("rate_limited"));
    assert_eq!((bench.rejected("bad_tag"), written + limited), (100, 100));
    assert!((25..=35).contains(&written), "{written}");
    assert_eq!(bench.lost("unwritten") + bench.lost("pushed_out"), 0);
    // Many in one frame are one batch's worth.
    let many: Vec<(Msg, Msg)> = (0..1_000).map(|n| (time(), Msg::from(n))).collect();
    client.send(&forward("t", &many, c()));
    client.expect_ack("c");
    assert_eq!((bench.rejected("not_a_map"), bench.written() + bench.lost("rate_limited")), (1_000, 1_100));
    let written = bench.written();
    bench.node.stop_well();
    assert_eq!(lines(&letters(bench.dir.path(), &["list", "--json"])).len() as u64, written);
    audit_closes(bench.dir.path());
}
