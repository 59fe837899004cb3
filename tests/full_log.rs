//! A disk log that gets full: who goes on, who loses what, and where it is said. Sinks that are dead while several times the
//! size of the log goes past them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::full_disk::SmallDisk;
use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::records::{assert_each_once, records};
use crate::harness::{Node, PATIENCE, folder, free_port, node, run, told};

/// Bytes of one record, about.
const LARGE: usize = 60_000;

/// A forward input, a small disk log, and a sink `central` at that port.
fn config(port: u16, target: u16, log: &str, more: &str) -> String {
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\nrecord_max = \"1MiB\"\n\
         [buffer]\nsize = \"8MiB\"\n{log}\
         [sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{target}/\"\nconcurrency = 1\n{more}"
    )
}

/// Sends records of [`LARGE`], each when the one before it was acknowledged.
fn send(port: u16, records: u64) {
    let mut client = Client::tcp(port);
    client.set_patience(PATIENCE);
    let pad = "x".repeat(LARGE);
    for seq in 0..records {
        let record = map(&[("p", "one".into()), ("seq", seq.into()), ("pad", pad.as_str().into())]);
        client.send(&message("t", 1_700_000_000.into(), record, Some(option(&format!("c{seq}"), &[]))));
        client.expect_ack(&format!("c{seq}"));
    }
}

fn check(node: &Node, name: &str) -> String {
    let (_, text) = node.get("/health").expect("it is answered");
    let health: Value = serde_json::from_str(&text).expect("JSON");
    health["checks"][name]["status"].as_str().unwrap_or_default().to_owned()
}

/// Waits until drops are in the metrics, in the health checks and in the log; how many there are.
fn drops_that_are_said(node: &mut Node) -> u64 {
    let labels = [("sink", "central"), ("reason", "buffer_full")];
    node.wait_for("drops that are said", |node| {
        node.metric("longshore_dropped_total", &labels) > 0
            && check(node, "drops.central") == "warn"
            && node.log().contains("records were dropped for this sink")
    });
    let records = node.metric("longshore_dropped_total", &labels);
    let bytes = node.metric("longshore_dropped_bytes_total", &labels);
    assert!(bytes >= records * LARGE as u64, "{records} records of {bytes} bytes");
    let log = node.log();
    let said = log.lines().find(|line| line.contains("records were dropped for this sink")).unwrap_or_default();
    for part in ["sink=central", "records=", "bytes=", "reason=buffer_full"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(log.matches("records were dropped for this sink").count() <= 6 + 6, "a line for each drop:\n{log}");
    node.assert_ledger_closes();
    records
}

/// The numbers that the server got, in its order.
fn seqs(server: &Server) -> Vec<u64> {
    server.accepted().iter().map(|record| record["seq"].as_u64().expect("a number")).collect()
}

#[test]
fn acks_go_on_while_four_times_the_log_goes_past_an_optional_sink_that_is_dead() {
    const RECORDS: u64 = 540;
    let dir = folder();
    let (port, target) = (free_port(), free_port());
    let out = dir.path().join("out.ndjson");
    let more = format!("required = false\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n");
    let mut node = node(dir.path(), &config(port, target, "", &more)).start();
    send(port, RECORDS);
    node.wait_for("all of it at the live sink", |node| node.delivered("out") == RECORDS);
    let dropped = drops_that_are_said(&mut node);
    assert_eq!(node.metric("longshore_dropped_total", &[("sink", "out")]), 0);
    let server = Server::start_at(target, |_, _| Answer::status(200));
    node.wait_for("what it has left", |node| node.undelivered(&[("sink", "central")]) == 0);
    node.stop_well();
    let got = seqs(&server);
    assert!(got.is_sorted() && got.len() as u64 == RECORDS - dropped && got[0] == 0, "{got:?}, {dropped} dropped");
    assert_each_once(&records(&out), "p", "seq", &[("one".to_owned(), RECORDS)].into());
}

/// A dead sink and that policy; what its server gets when it is there, and how many of the 400 records were dropped.
fn drop_with(policy: &str) -> (Vec<u64>, u64) {
    let dir = folder();
    let (port, target) = (free_port(), free_port());
    let log = format!("full = \"{policy}\"\n");
    let mut node = node(dir.path(), &config(port, target, &log, "")).start();
    send(port, 400);
    let dropped = drops_that_are_said(&mut node);
    assert_eq!(node.get("/ready").map(|(status, _)| status), Some(200), "it takes what comes");
    assert_eq!(check(&node, "buffer"), if policy == "drop_newest" { "warn" } else { "pass" });
    let server = Server::start_at(target, |_, _| Answer::status(200));
    node.wait_for("what it has left", |node| node.undelivered(&[]) == 0);
    node.wait_for("a log that is well", |node| check(node, "buffer") == "pass");
    assert_eq!(node.metric("longshore_dropped_total", &[]), dropped, "none is dropped afterwards");
    node.stop_well();
    let got = seqs(&server);
    assert!(got.is_sorted() && got.len() as u64 == 400 - dropped, "{got:?}, {dropped} dropped");
    (got, dropped)
}

#[test]
fn drop_oldest_keeps_the_newest_in_order_and_counts_the_rest() {
    let (got, dropped) = drop_with("drop_oldest");
    assert!(dropped > 100 && got.ends_with(&[397, 398, 399]), "{dropped} dropped, {got:?}");
}

#[test]
fn drop_newest_keeps_the_oldest_in_order_and_counts_the_rest() {
    let (got, dropped) = drop_with("drop_newest");
    assert!(dropped > 100 && got.starts_with(&[0, 1, 2]) && !got.contains(&399), "{dropped} dropped, {got:?}");
    assert!(got.iter().enumerate().all(|(at, seq)| at as u64 == *seq), "with holes: {got:?}");
}

/// How the program ends with a disk log of that size: its exit code, and what it said.
fn start_with(dir: &Path, size: &str) -> (Option<i32>, String) {
    let body = config(free_port(), free_port(), "", "").replace("8MiB", size);
    let config = node(dir, &body).write_config();
    let output = run(dir, &["run", "--config", config.to_str().expect("UTF-8")], b"");
    (output.status.code(), told(&output))
}

#[test]
fn a_size_that_is_too_small_or_beyond_the_file_system_is_refused_with_the_way_out() {
    let dir = folder();
    let (code, said) = start_with(dir.path(), "7MiB");
    assert!(code == Some(1) && said.contains("8MiB"), "{said}");
    let (code, said) = start_with(dir.path(), "1000TiB");
    assert!(code == Some(1) && said.contains("[buffer] size is") && said.contains("set a smaller size"), "{said}");
}

#[test]
fn a_log_that_may_be_larger_than_what_is_free_is_warned_of_at_the_start() {
    let dir = folder();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), "16m") else { return };
    fs::write(disk.0.join("filler"), vec![1; 10 << 20]).expect("room");
    let data = format!("data_dir = {:?}", disk.0.join("data"));
    let (port, target) = (free_port(), free_port());
    let mut node = node(dir.path(), &config(port, target, "", "")).with_node(&data).start();
    node.wait_for("the warning", |node| node.log().contains("less space than the log may use"));
    node.stop_well();
}
