//! Attacks on the forward port whose damage would be memory, a spin, or a lie in the own log. Each goes against a node
//! with a budget of 48 MiB, which stays below 64 MiB and serves a good client all the while. `docs/forward-cases.md` has the
//! whole list and where the others are tested.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::forward_input;
use crate::harness::forward::{Client, entries, event_time, gzip, map, message, option, packed, zstd};
use crate::harness::{Node, folder, free_port, node, required};

const PEAK_MAX: u64 = 64 << 20;

/// A node with a small budget whose output goes nowhere.
fn start(dir: &Path, port: u16) -> Node {
    let body = forward_input::config(dir, port);
    let body = body.replace(dir.join("out.ndjson").to_str().expect("UTF-8"), "/dev/null");
    node(dir, &body).with_node("memory = \"48MiB\"").start()
}

fn good(port: u16) {
    let mut client = Client::tcp(port);
    client.send(&message("good", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option("good", &[]))));
    client.expect_ack("good");
}

fn survived(mut node: Node, port: u16, what: &str) {
    good(port);
    let peak = node.peak_memory();
    let _ = writeln!(std::io::stderr(), "memory: {what}: {} MiB at the peak", peak >> 20);
    assert!(peak < PEAK_MAX, "{what}: {} KiB at the peak; figures:\n{}", peak >> 10, node.figures());
    node.assert_ledger_closes();
    node.stop_well();
}

#[test]
fn millions_of_entries_of_three_bytes_are_charged_for_what_they_cost() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let count: u32 = if required() { 2_000_000 } else { 500_000 };
    let blob = [0x92, 1, 0x80].repeat(count as usize);
    let array = [b"\x93\xa1t\xdd", &count.to_be_bytes()[..], &blob, b"\x81\xa5chunk\xa1c"].concat();
    let frames = [
        packed("t", &blob, Some(option("c", &[]))),
        packed("t", &gzip(&blob), Some(option("c", &[("compressed", "gzip".into())]))),
        array,
        format!("[\"t\",[{}[1,{{}}]],{{\"chunk\":\"c\"}}]", "[1,{}],".repeat(count as usize - 1)).into_bytes(),
    ];
    std::thread::scope(|scope| {
        for (at, frame) in frames.iter().enumerate() {
            scope.spawn(move || {
                let mut client = Client::tcp(port);
                client.send(frame);
                client.expect_bytes(if at == 3 { br#"{"ack":"c"}"# } else { b"\x81\xa3ack\xa1c" });
            });
        }
    });
    survived(node, port, "millions of tiny entries");
}

#[test]
fn a_hundred_thousand_tags_are_remembered_nowhere() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let mut client = Client::tcp(port);
    for round in 0..100 {
        let frame = |n: u32| {
            let tag = format!("{}.{round}.{n}", "tag".repeat(100));
            message(&tag, event_time(1_700_000_000, 0), map(&[("n", n.into())]), None)
        };
        client.send(&(0..1_000).flat_map(frame).collect::<Vec<_>>());
    }
    client.send(&packed("t", b"", Some(option("c", &[]))));
    client.expect_ack("c");
    survived(node, port, "a hundred thousand tags");
}

#[test]
fn bombs_of_every_kind_are_cut_and_acked() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let zeros = vec![0u8; 64 << 20];
    let gz = gzip(&zeros);
    let zst = zstd(&zeros);
    // 1 GiB each: many members, one after another; and members within members, which are opened once.
    let bombs = [
        ("gzip", gz.repeat(16)),
        ("zstd", zst.repeat(16)),
        ("gzip", gzip(&gz.repeat(16))),
        ("zstd", zstd(&entries(&[(1.into(), map(&[("a", "x".repeat(64 << 20).into())]))]))),
    ];
    for (codec, bomb) in bombs {
        let mut client = Client::tcp(port);
        client.send(&packed("t", &bomb, Some(option("bomb", &[("compressed", codec.into())]))));
        client.expect_ack("bomb");
        good(port);
    }
    drop(zeros);
    survived(node, port, "bombs");
}

#[test]
fn json_that_never_ends_is_held_within_limits() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let bytes = 2 << 20;
    let starts: [(&[u8], u8); 7] = [
        (b"[\"", b'x'),
        (b"[\"t\",1,{\"a\":\"", b'x'),
        (b"[\"t\",", b'1'),
        (b"[\"t\",[[1,{\"a\":\"", b'x'),
        (b"[", b' '),
        (b" ", b' '),
        (b"{\"a\":\"", b'x'),
    ];
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..42)
            .map(|at| {
                let (start, filler) = starts[at % starts.len()];
                scope.spawn(move || {
                    let mut client = Client::tcp(port);
                    client.set_write_timeout(Duration::from_secs(5));
                    // It may be made to wait.
                    let _ = client.try_send(&[start, &vec![filler; bytes]].concat());
                    client
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("a client does not panic")).collect()
    });
    good(port);
    // Brackets end at their limit, at once.
    let mut deep = Client::tcp(port);
    let _ = deep.try_send(&[b'['; 5_000]);
    assert_eq!(deep.expect_close(), b"");
    drop(clients);
    survived(node, port, "JSON that never ends");
}

#[test]
fn what_a_sender_says_can_not_write_into_the_own_log() {
    let dir = folder();
    let port = free_port();
    let node = start(dir.path(), port);
    let evil = "\u{1b}[2J\r\n2026-01-01 ERROR all is lost\u{7}";
    let mut client = Client::tcp(port);
    client.send(&message(evil, 5.into(), map(&[(evil, evil.into())]), Some(option(evil, &[]))));
    client.expect_ack(evil);
    client.send(evil.as_bytes());
    client.finish();
    client.expect_close();
    let mut json = Client::tcp(port);
    json.send(format!("[\"{evil}").as_bytes());
    json.finish();
    json.expect_close();
    let log = node.log();
    assert!(log.contains("closed: "), "{log}");
    assert!(!log.contains("all is lost") && !log.chars().any(|c| c.is_control() && c != '\n'), "{log:?}");
    survived(node, port, "lies for the log");
}
