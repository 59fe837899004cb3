//! What connections cost that do nothing: resident memory of a crowd that is connected and silent, and of twenty thousand
//! that came and went.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use crate::harness::forward::{Client, map, message, option};
use crate::harness::{Node, folder, free_port, node, required};

/// Resident KiB of the node (VmRSS).
fn resident(node: &Node) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux gives VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of kB")
}

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("it runs").count()
}

fn good(client: &mut Client) {
    client.send(&message("t", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option("good", &[]))));
    client.expect_ack("good");
}

fn start(dir: &std::path::Path, port: u16, limits: &str) -> Node {
    let mut body = String::new();
    let _ = write!(
        body,
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n{limits}\n\
         [sinks.out]\ntype = \"file\"\npath = {:?}\n",
        dir.join("out.ndjson")
    );
    node(dir, &body).start()
}

/// Bytes of resident memory that each of `count` connections takes while it is silent, and after it has sent a frame.
fn idle(count: usize) -> (i64, i64) {
    let dir = folder();
    let port = free_port();
    let limits = format!("connections_max = {}\npeer_connections_max = {}", count + 10, count + 10);
    let mut node = start(dir.path(), port, &limits);
    // What the first connections make once for all is there already.
    let mut warm: Vec<Client> = (0..8).map(|_| Client::tcp(port)).collect();
    warm.iter_mut().for_each(good);
    let before = resident(&node);
    let mut crowd: Vec<Client> = (0..count).map(|_| Client::tcp(port)).collect();
    node.wait_for("the crowd to be in", |node| node.metric("longshore_input_open", &[]) >= (count + 8) as u64);
    let silent = (resident(&node) - before) * 1024 / count as i64;
    crowd.iter_mut().for_each(good);
    let used = (resident(&node) - before) * 1024 / count as i64;
    let _ = writeln!(
        std::io::stderr(),
        "memory: {count} idle connections: {silent} bytes each, {used} bytes each once all have sent a frame"
    );
    warm.iter_mut().for_each(good);
    node.stop_well();
    (silent, used)
}

/// Bytes that an idle connection may take, the allocator's rounding included. What everything else in the process takes
/// or gives back meanwhile is divided by the connections, so of ten thousand less is allowed.
const IDLE_MAX: i64 = 1280;
/// The same once it has sent a frame: what its conversation took is free again, but scattered, or is not yet free.
const USED_MAX: i64 = 7 << 10;

#[test]
fn a_thousand_idle_connections_take_little_memory_each() {
    let (silent, used) = idle(1_000);
    assert!(silent < IDLE_MAX, "{silent} bytes each");
    assert!(used < USED_MAX, "{used} bytes each after a frame");
}

#[test]
#[ignore = "ten thousand sockets on both sides: `cargo test --test main idle -- --ignored`"]
fn ten_thousand_idle_connections_take_little_memory_each() {
    let (silent, used) = idle(10_000);
    assert!(silent < 1024, "{silent} bytes each");
    assert!(used < USED_MAX, "{used} bytes each after a frame");
}

#[test]
fn twenty_thousand_connects_and_closes_leave_neither_descriptors_nor_memory() {
    let dir = folder();
    let port = free_port();
    let mut node = start(dir.path(), port, "");
    let round = |times: usize| {
        for at in 0..times {
            let mut client = Client::tcp(port);
            match at % 4 {
                // A probe, a stump, a frame without an ack, a frame with one.
                0 => (),
                1 => client.send(b"\x93\xa1t"),
                2 => client.send(b"\x93\xa1t\x01\x80"),
                _ => good(&mut client),
            }
        }
    };
    round(2_000);
    node.wait_for("the first ones to be gone", |node| node.metric("longshore_input_open", &[]) == 0);
    let (memory, open) = (resident(&node), descriptors(&node));
    // The campaign asks for a million.
    let asked = std::env::var("LONGSHORE_CONNECTS").ok().and_then(|count| count.parse().ok());
    round(asked.unwrap_or(if required() { 18_000 } else { 6_000 }));
    node.wait_for("all to be gone", |node| node.metric("longshore_input_open", &[]) == 0);
    node.wait_for("the descriptors", |node| descriptors(node) <= open + 2);
    let grown = resident(&node) - memory;
    let _ = writeln!(std::io::stderr(), "memory: {grown} KiB more after the churn than before");
    assert!(grown < 4 << 10, "{grown} KiB");
    node.stop_well();
}
