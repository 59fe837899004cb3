//! What `/ready` and `/health` say while a node is held up, and when: a full disk log, memory that is used up, a sink that is
//! only slow, a target that dies and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::{Node, PATIENCE, folder, free_port, node};

/// A forward input and one http sink.
fn body(port: u16, more: &str, target: u16, batch: &str) -> String {
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = \"tcp://127.0.0.1:{port}\"\n{more}\
         [sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{target}/\"\nbatch = {batch}\n"
    )
}

const BATCH: &str = "{ size = \"256KiB\", wait = \"10ms\" }";

/// Threads that send records of 10 KB for as long as they are taken.
fn load(port: u16, senders: usize, records: u32) -> Vec<JoinHandle<u32>> {
    let sender = move |at: usize| {
        let mut client = Client::tcp(port);
        client.set_patience(PATIENCE * 2);
        let pad = "x".repeat(10_000);
        // Without acks, which nobody would read: then the end of the connection would cut off what is on its way.
        let send = |seq: &u32| {
            let record = map(&[("pad", pad.as_str().into()), ("sender", (at as u64).into()), ("seq", (*seq).into())]);
            client.try_send(&message("t", 1_700_000_000.into(), record, None)).is_ok()
        };
        u32::try_from((0..records).take_while(send).count()).expect("not more")
    };
    (0..senders).map(|at| thread::spawn(move || sender(at))).collect()
}

fn ready(node: &Node) -> (u16, String) {
    node.get("/ready").expect("it is answered")
}

fn check(node: &Node, name: &str) -> (u16, Value) {
    let (status, text) = node.get("/health").expect("it is answered");
    let health: Value = serde_json::from_str(&text).expect("JSON");
    (status, health["checks"][name].clone())
}

#[test]
fn a_full_disk_log_turns_readiness_red_until_it_takes_records_again() {
    let dir = folder();
    let (port, target) = (free_port(), free_port());
    let body = body(port, "[buffer]\nsize = \"8MiB\"\nfull = \"block\"\n", target, BATCH);
    let mut node = node(dir.path(), &body).start();
    node.wait_for("readiness", |node| ready(node).0 == 200);
    let (senders, records) = (2, 1_500);
    let load = load(port, senders, records);
    node.wait_for("red readiness", |node| ready(node).0 == 503);
    let (_, reason) = ready(&node);
    assert!(
        reason.starts_with("progress.apps: nothing was taken for ") && reason.contains("the disk log is full"),
        "{reason}"
    );
    let seconds: u64 = reason.split(' ').nth(5).and_then(|text| text.parse().ok()).expect("a number of seconds");
    assert!(seconds >= 5, "a moment is no reason: {reason}");
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    let (_, progress) = check(&node, "progress.apps");
    assert_eq!(progress["status"], "warn", "{progress}");
    assert!(progress["held_seconds"].as_f64().is_some_and(|held| held >= 5.0), "{progress}");
    let (_, sink) = check(&node, "sink.central");
    assert!(sink["undelivered"].as_u64().is_some_and(|records| records > 100), "{sink}");
    assert!(sink["oldest_undelivered_seconds"].as_f64().is_some_and(|age| age >= 5.0), "{sink}");
    assert_eq!(sink["last_success_seconds_ago"], Value::Null, "{sink}");
    let (_, log) = check(&node, "buffer");
    assert!(log["commit_ms"].as_f64().is_some_and(|ms| ms > 0.0) && log["size"] == 8 << 20, "{log}");
    let (_, disk) = check(&node, "disk");
    assert!(disk["free_bytes"].as_u64() < disk["total_bytes"].as_u64() && disk["free_bytes"].is_u64(), "{disk}");

    // It stays red while the sink tries and fails, and nothing flaps.
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert_eq!(ready(&node).0, 503);
        thread::sleep(Duration::from_millis(50));
    }
    let server = Server::start_at(target, |_, _| Answer::status(200));
    // By its jitter the next try may be a minute away.
    node.wait_within(Duration::from_secs(90), "readiness", &mut |node| ready(node).0 == 200);
    let sent: u32 = load.into_iter().map(|sender| sender.join().expect("a sender that ends")).sum();
    assert_eq!(sent, senders as u32 * records);
    node.wait_for("all that was sent", |node| node.delivered("central") == u64::from(sent));
    assert!(check(&node, "sink.central").1["last_success_seconds_ago"].is_f64());
    assert_eq!(check(&node, "sink.central").1["undelivered"], 0);
    node.stop_well();
    assert_eq!(server.accepted().len(), sent as usize);
    let log = node.log();
    assert_eq!((log.matches("not ready: ").count(), log.matches("ready again: ").count()), (1, 1), "{log}");
}

#[test]
fn what_nobody_gets_rid_of_turns_readiness_red_without_a_disk_log_too() {
    let dir = folder();
    let port = free_port();
    // Acknowledged when delivered, so memory is all there is; many connections, which hold all of it.
    let body = body(port, "ack = \"delivered\"\n", free_port(), BATCH);
    let mut node = node(dir.path(), &body).with_node("memory = \"16MiB\"\nshutdown_timeout = \"1s\"").start();
    let load = load(port, 24, 400);
    node.wait_for("red readiness", |node| ready(node).0 == 503);
    let (_, reason) = ready(&node);
    assert!(
        (reason.starts_with("progress.apps: ") && reason.contains("a sink has no room"))
            || reason.starts_with("memory: all of it is held"),
        "{reason}"
    );
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    node.kill();
    for sender in load {
        let _ = sender.join().expect("a sender that ends");
    }
}

#[test]
fn a_sink_that_is_only_slow_holds_senders_up_and_readiness_stays_green() {
    let dir = folder();
    let port = free_port();
    let server = Server::start(|_, _| {
        thread::sleep(Duration::from_millis(100));
        Answer::status(200)
    });
    let body = body(port, "ack = \"delivered\"\n", server.port, "{ size = \"64KiB\", wait = \"10ms\" }");
    let mut node = node(dir.path(), &format!("{body}concurrency = 1\n")).with_node("shutdown_timeout = \"1s\"").start();
    let load = load(port, 4, 10_000);
    node.wait_for("senders that are held up", |node| {
        node.metric("longshore_input_paused_ns_total", &[]) > 2_000_000_000
    });
    let until = Instant::now() + Duration::from_secs(8);
    let before = node.metric("longshore_input_paused_ns_total", &[]);
    while Instant::now() < until {
        assert_eq!(ready(&node), (200, "ready\n".to_owned()));
        thread::sleep(Duration::from_millis(50));
    }
    assert!(node.metric("longshore_input_paused_ns_total", &[]) > before, "back-pressure all the time");
    node.kill();
    for sender in load {
        let _ = sender.join().expect("a sender that ends");
    }
}

/// Seconds from the death of a target until `/health` showed it, was 503, and, after its return, was well again.
fn transitions() -> (f64, f64, f64) {
    let dir = folder();
    let (port, up) = (free_port(), Arc::new(AtomicBool::new(true)));
    let target = free_port();
    // Each answer closes its connection, so that nothing of the server is left when it dies.
    let close = |_: &_, _| Answer(200, vec!["connection: close".to_owned()], "");
    let mut server = Some(Server::start_at(target, close));
    let mut node = node(dir.path(), &body(port, "", target, BATCH)).start();
    let sending = Arc::clone(&up);
    let sender = thread::spawn(move || {
        let mut client = Client::tcp(port);
        let mut sent = 0u64;
        while sending.load(Ordering::Relaxed) {
            let record = map(&[("seq", sent.into())]);
            client.send(&message("t", 1_700_000_000.into(), record, Some(option(&sent.to_string(), &[]))));
            client.expect_ack(&sent.to_string());
            sent += 1;
            thread::sleep(Duration::from_millis(50));
        }
        sent
    });
    node.wait_for("delivery", |node| node.delivered("central") > 3);
    let healthy = |node: &Node| {
        let (status, check) = check(node, "sink.central");
        (status, check["status"].as_str().expect("a status").to_owned())
    };
    assert_eq!(healthy(&node), (200, "pass".to_owned()));
    drop(server.take());
    let died = Instant::now();
    node.wait_for("a sink that is not well", |node| healthy(node).1 != "pass");
    let shown = died.elapsed();
    node.wait_for("503", |node| healthy(node) == (503, "fail".to_owned()));
    let failed = died.elapsed();
    let (_, sink) = check(&node, "sink.central");
    assert!(sink["failing_seconds"].as_f64().is_some_and(|time| time >= 7.9), "{sink}");
    assert!(sink["last_success_seconds_ago"].as_f64().is_some_and(|time| time >= 7.0), "{sink}");
    assert_eq!(ready(&node).0, 200, "the disk log takes what comes");
    let _server = Server::start_at(target, close);
    let back = Instant::now();
    node.wait_for("health", |node| healthy(node) == (200, "pass".to_owned()));
    let recovered = back.elapsed();
    up.store(false, Ordering::Relaxed);
    let sent = sender.join().expect("every record is acknowledged");
    node.wait_for("all records", |node| node.delivered("central") == sent);
    node.stop_well();
    (shown.as_secs_f64(), failed.as_secs_f64(), recovered.as_secs_f64())
}

#[test]
fn a_dead_target_shows_at_once_is_503_within_ten_seconds_and_is_well_when_it_is_back() {
    // The times are the program's; a machine that stands still for two seconds says nothing about them.
    let mut tries = Vec::new();
    for _ in 0..3 {
        let times = transitions();
        tries.push(times);
        if times.0 < 5.0 && times.1 < 10.0 && times.2 < 30.0 {
            println!(
                "shown after {:.1} s, 503 after {:.1} s, well {:.1} s after its return",
                times.0, times.1, times.2
            );
            return;
        }
    }
    panic!("shown, 503, well again: {tries:?}");
}
