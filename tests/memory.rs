//! One promise: under `memory = "48MiB"` the peak of resident memory stays below 64 MiB, whatever is fed in.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crate::docker_folder::{app_line, config};
use crate::forward_input;
use crate::harness::containers::Container;
use crate::harness::forward::{Client, entries, gzip, map, option, packed, zstd};
use crate::harness::{Node, folder, free_port, node, required};

const BUDGET: &str = "memory = \"48MiB\"";
const PEAK_MAX: u64 = 64 << 20;

/// Megabytes to feed: the whole measure where it is required, less in a quick `cargo test`.
fn megabytes() -> u64 {
    if required() { 300 } else { 80 }
}

fn assert_peak(node: &Node, what: &str) {
    let peak = node.peak_memory();
    let _ = writeln!(std::io::stderr(), "memory: {what}: {} MiB at the peak", peak >> 20);
    assert!(peak < PEAK_MAX, "{what}: {} KiB at the peak; figures:\n{}", peak >> 10, node.figures());
}

/// Writes this many megabytes of Docker lines; how many lines.
fn write_docker_lines(container: &mut Container, megabytes: u64) -> u64 {
    let mut block = String::new();
    let mut lines = 0;
    for seq in 0..2_000u64 {
        let inner = app_line(seq).replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(
            block,
            "{{\"log\":\"{inner}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-23T10:00:00.{seq:09}Z\"}}"
        );
        lines += 1;
    }
    let blocks = (megabytes << 20) / block.len() as u64;
    for _ in 0..blocks {
        container.raw(block.as_bytes());
    }
    blocks * lines
}

#[test]
fn peak_memory_of_docker_lines() {
    let dir = folder();
    let root = dir.path().join("containers");
    let lines: u64 = (1..=3)
        .map(|seed| {
            let mut container = Container::create(&root, seed, &format!("app-{seed}"), "app", &[]);
            write_docker_lines(&mut container, megabytes() / 3)
        })
        .sum();
    let body = config(dir.path()).replace(dir.path().join("out.ndjson").to_str().expect("UTF-8"), "/dev/null");
    let mut node = node(dir.path(), &body).with_node(BUDGET).start();
    node.wait_within(Duration::from_secs(180), "all records", &mut |node| node.delivered("out") >= lines);
    assert_peak(&node, "docker lines");
    node.stop_well();
}

#[test]
fn peak_memory_of_a_dead_http_sink() {
    let dir = folder();
    let mut container = Container::create(&dir.path().join("containers"), 1, "app", "app", &[]);
    write_docker_lines(&mut container, megabytes());
    let dead = format!("[sinks.out]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n", free_port());
    let body = config(dir.path());
    let body = format!("{}{dead}", &body[..body.find("[sinks.out]").expect("it has that sink")]);
    let mut node = node(dir.path(), &body).with_node(BUDGET).start();
    node.wait_for("the sink to fail", |node| node.metric("longshore_input_records_total", &[]) > 0);
    std::thread::sleep(Duration::from_secs(5));
    assert_peak(&node, "a dead http sink");
    assert_eq!(node.delivered("out"), 0);
}

#[test]
fn peak_memory_of_big_forward_frames_from_many_connections() {
    let dir = folder();
    let port = free_port();
    let body = forward_input::config(dir.path(), port);
    let body = body.replace(dir.path().join("out.ndjson").to_str().expect("UTF-8"), "/dev/null");
    let mut node = node(dir.path(), &body).with_node(BUDGET).start();
    let record = map(&[("msg", "x".repeat(300).into()), ("level", "info".into())]);
    let entry = entries(&[(1_700_000_000.into(), record)]);
    let count = (40 << 20) / entry.len();
    let blob = entry.repeat(count);
    let plain = packed("t", &blob, Some(option("c", &[])));
    let zipped = packed("t", &gzip(&blob), Some(option("c", &[("compressed", "gzip".into())])));
    let frames = if required() { 2 } else { 1 };
    std::thread::scope(|scope| {
        for connection in 0..4 {
            let frame = if connection % 2 == 0 { &plain } else { &zipped };
            scope.spawn(move || {
                let mut client = Client::tcp(port);
                for _ in 0..frames {
                    client.send(frame);
                    client.expect_ack("c");
                }
            });
        }
    });
    node.wait_for("all records", |node| node.delivered("out") >= (4 * frames * count) as u64);
    assert_peak(&node, "forward frames of 40 MiB on four connections");
    node.stop_well();
}

#[test]
fn peak_memory_of_large_frames_on_a_hundred_connections_at_once() {
    let dir = folder();
    let port = free_port();
    let body = forward_input::config(dir.path(), port);
    let body = body.replace(dir.path().join("out.ndjson").to_str().expect("UTF-8"), "/dev/null");
    let mut node = node(dir.path(), &body).with_node(BUDGET).start();
    // The frames of all of them are 3.2 GiB where the whole measure is required.
    let frame_bytes = if required() { 32 << 20 } else { 4 << 20 };
    let record = map(&[("msg", "x".repeat(1_000).into())]);
    let entry = entries(&[(1_700_000_000.into(), record)]);
    let count = frame_bytes / entry.len();
    let plain = packed("t", &entry.repeat(count), Some(option("c", &[])));
    let one = format!("[1700000000,{{\"msg\":\"{}\"}}]", "x".repeat(1_000));
    let json = format!("[\"t\",[{}],{{\"chunk\":\"c\"}}]", vec![one; count].join(","));
    std::thread::scope(|scope| {
        for connection in 0..100 {
            let (plain, json) = (&plain, &json);
            scope.spawn(move || {
                let mut client = Client::tcp(port);
                client.set_patience(Duration::from_secs(300));
                if connection % 10 == 0 {
                    client.send(json.as_bytes());
                    client.expect_bytes(br#"{"ack":"c"}"#);
                } else {
                    client.send(plain);
                    client.expect_ack("c");
                }
            });
        }
    });
    node.wait_for("all records", |node| node.delivered("out") >= 100 * count as u64);
    assert_peak(&node, "large frames on a hundred connections");
    node.stop_well();
}

#[test]
fn peak_memory_of_a_bomb_and_of_frames_that_never_end() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &forward_input::config(dir.path(), port)).with_node(BUDGET).start();
    // Fifty connections that each promise 60 MiB and send 1 MiB of it.
    let mut head = vec![0x93, 0xa1, b't', 0xc6];
    head.extend((60u32 << 20).to_be_bytes());
    head.extend(entries(&[(1_700_000_000.into(), map(&[("a", "x".repeat(1_000).into())]))]).repeat(1_000));
    let stuck: Vec<_> = (0..50)
        .map(|_| {
            let head = head.clone();
            std::thread::spawn(move || {
                let mut client = Client::tcp(port);
                // It may be made to wait, or be sent away.
                let _ = client.try_send(&head);
                client
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    let mut bomb = Client::tcp(port);
    let member = gzip(&vec![0xc0; 64 << 20]);
    bomb.send(&packed("t", &member.repeat(8), Some(option("bomb", &[("compressed", "gzip".into())]))));
    bomb.expect_ack("bomb");
    assert_peak(&node, "fifty unfinished frames and a bomb");
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200));
    node.kill();
    for client in stuck {
        client.join().expect("a client does not panic");
    }
}

/// The first half of a frame whose blob, of these bytes packed, is far from its end.
fn unfinished(packed: &[u8]) -> Vec<u8> {
    let mut head = vec![0x93, 0xa1, b't', 0xc6];
    head.extend((40u32 << 20).to_be_bytes());
    head.extend(packed);
    head
}

#[test]
fn peak_memory_of_many_unfinished_zstd_frames_with_large_windows_and_of_large_packed_entries() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &forward_input::config(dir.path(), port)).with_node(BUDGET).start();
    // Twelve MiB that fill a window of eight, so that each of its pages is touched.
    let mut random = fastrand::Rng::with_seed(7);
    let mut record = |len: usize| {
        let text: String = (0..len / 8).map(|_| format!("{:08x}", random.u32(..))).collect();
        entries(&[(1_700_000_000.into(), map(&[("a", text.into())]))])
    };
    let varied: Vec<u8> = (0..1_000).flat_map(|_| record(1_000)).collect::<Vec<_>>().repeat(12);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("a level");
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(23)).expect("a window of 8 MiB");
    encoder.write_all(&varied).expect("memory");
    let wide = unfinished(&encoder.finish().expect("memory"));
    // An entry of nearly four MiB, the limit, that lacks its last byte.
    let large = record(4_000_000);
    let large = unfinished(&gzip(&large[..large.len() - 1]));
    let stuck: Vec<_> = (0..60)
        .map(|at| {
            let head = if at % 2 == 0 { wide.clone() } else { large.clone() };
            std::thread::spawn(move || {
                let mut client = Client::tcp(port);
                // It may be made to wait.
                client.set_write_timeout(Duration::from_secs(5));
                let _ = client.try_send(&head);
                client
            })
        })
        .collect();
    let stuck: Vec<Client> = stuck.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
    let mut plain = Client::tcp(port);
    for _ in 0..20 {
        plain.send(&packed("t", &varied[..1 << 20], Some(option("plain", &[]))));
        plain.expect_ack("plain");
    }
    assert_peak(&node, "unfinished zstd frames and large packed entries on sixty connections");
    // What the unfinished ones held is free again when they are gone.
    drop(stuck);
    plain.send(&packed("t", &zstd(&varied), Some(option("packed", &[]))));
    plain.expect_ack("packed");
    assert_peak(&node, "the same and one that ends");
    node.kill();
}
