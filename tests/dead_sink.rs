//! Destinations that are not there, or that take connections and never answer: seen in `/health`, and never longer in
//! the way of a stop than `shutdown_timeout` allows.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::{folder, free_port, node, run_command, told};

fn http(name: &str, tags: &str, port: u16) -> String {
    format!("[sinks.{name}]\ntype = \"http\"\nmatch = \"{tags}\"\nurl = \"http://127.0.0.1:{port}/\"\n")
}

/// Listens and never answers: the kernel takes the connections.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

#[test]
fn dead_and_silent_destinations_are_seen_within_ten_seconds_and_hold_no_stop() {
    let dir = folder();
    let log = dir.path().join("app.log");
    // Many times what the queue of a sink holds, so that the reader waits for room when the signal comes.
    let mut file = fs::File::create(&log).expect("writable");
    for seq in 0..200_000 {
        writeln!(file, "{seq} {}", "x".repeat(100)).expect("writable");
    }
    let (_listener, port) = silent();
    let body = format!(
        "[inputs.app]\ntype = \"file\"\npaths = [{log:?}]\n{}{}",
        http("dead", "**", free_port()),
        http("silent", "**", port)
    );
    let mut node = node(dir.path(), &body).with_node("shutdown_timeout = \"2s\"").start();
    let began = Instant::now();
    let check = |node: &crate::harness::Node, name: &str| {
        let (_, health) = node.get("/health").expect("it is served");
        let health: Value = serde_json::from_str(&health).expect("JSON");
        health["checks"][format!("sink.{name}")]["status"].as_str().expect("a status").to_owned()
    };
    node.wait_for("the dead sink in /health", |node| check(node, "dead") != "pass");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    node.wait_for("the silent sink in /health", |node| check(node, "silent") == "fail");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(node.get("/health").map(|(status, _)| status), Some(503));
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    node.wait_for("a reader that waits", |node| {
        let before = node.metric("longshore_input_records_total", &[]);
        std::thread::sleep(Duration::from_millis(300));
        before > 0 && node.metric("longshore_input_records_total", &[]) == before
    });
    node.assert_ledger_closes();
    node.signal(Signal::TERM);
    let began = Instant::now();
    // What the two have taken is in the disk log by now, since each could have gone on without the other.
    assert_eq!(node.wait_exit(Duration::from_secs(30)), 3, "a backlog stays on the disk");
    // Two seconds and what a busy machine takes; far from the 25 s of the default.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[test]
fn what_only_memory_held_makes_exit_code_3_within_the_time_and_is_not_acked() {
    let dir = folder();
    let port = free_port();
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nack = \"delivered\"\nlisten = \"tcp://127.0.0.1:{port}\"\n{}",
        http("dead", "**", free_port())
    );
    let mut node = node(dir.path(), &body).with_node("shutdown_timeout = \"1s\"").start();
    let mut client = Client::tcp(port);
    client.send(&message("t", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option("mine", &[]))));
    node.wait_for("the record", |node| node.metric("longshore_routed_total", &[]) == 1);
    node.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(node.wait_exit(Duration::from_secs(30)), 3, "{}", node.log());
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(node.log().contains("not delivered"), "{}", node.log());
}

#[test]
fn a_closed_standard_output_does_not_hide_what_another_sink_still_owed() {
    let dir = folder();
    let config = dir.path().join("longshore.toml");
    let body = format!(
        "[node]\ndata_dir = {:?}\nshutdown_timeout = \"1s\"\n[telemetry]\nlisten = \"off\"\n\
         [inputs.in]\ntype = \"stdin\"\n[sinks.out]\ntype = \"stdout\"\n{}",
        dir.path().join("data"),
        http("dead", "**", free_port())
    );
    fs::write(&config, body).expect("writable");
    let script =
        "(echo one; sleep 1; echo two; sleep 1) | { \"$0\" run --config \"$1\"; echo \"code $?\" >&2; } | true";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(crate::harness::PROGRAM).arg(&config);
    let output = run_command(&mut command, b"");
    assert!(told(&output).contains("code 3"), "{}", told(&output));
}

#[test]
fn a_pipe_is_refused_as_an_output_file() {
    let dir = folder();
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("coreutils");
    assert!(made.success());
    let server = Server::start(|_, _| Answer::status(200));
    let body = format!(
        "[inputs.in]\ntype = \"stdin\"\n[sinks.out]\ntype = \"file\"\npath = {pipe:?}\n{}",
        http("central", "**", server.port)
    );
    let mut node = node(dir.path(), &body).without_waiting().start();
    assert_eq!(node.wait_exit(Duration::from_secs(20)), 1);
    assert!(node.log().contains("it is a pipe"), "{}", node.log());
}

#[test]
fn a_write_that_does_not_return_is_seen_in_health_though_its_thread_can_not_say_so() {
    let dir = folder();
    let log = dir.path().join("app.log");
    // More than a pipe holds, and nobody reads it.
    let (_unread, out) = std::io::pipe().expect("a pipe");
    fs::write(&log, format!("{}\n", "x".repeat(100)).repeat(20_000)).expect("writable");
    let body = format!("[inputs.app]\ntype = \"file\"\npaths = [{log:?}]\n[sinks.screen]\ntype = \"stdout\"\n");
    let mut node = node(dir.path(), &body).with_node("shutdown_timeout = \"1s\"").with_stdout(out).start();
    node.wait_for("the stuck write in /health", |node| {
        let (_, health) = node.get("/health").expect("it is served");
        let health: Value = serde_json::from_str(&health).expect("JSON");
        let check = &health["checks"]["sink.screen"];
        check["status"] == "fail" && check["reason"].as_str().is_some_and(|why| why.contains("has not returned"))
    });
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    node.signal(Signal::TERM);
    assert_eq!(node.wait_exit(Duration::from_secs(30)), 0, "it is at rest in the file");
}
