//! Running it: health and metrics, signals, process 1, its own log.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::file_input;
use crate::harness::engine::has_program;
use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::{Node, PATIENCE, folder, free_port, node, send_signal, skip};

#[test]
fn live_ready_health_and_metrics_answer_in_their_formats() {
    let dir = folder();
    fs::write(dir.path().join("a.log"), "one\n").expect("writable");
    let mut node = node(dir.path(), &file_input::config(dir.path(), "text", "")).start();
    node.wait_for("readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    node.wait_for("the record", |node| node.delivered("out") == 1);
    let (status, body) = node.get("/health").expect("it is served");
    let health: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 200);
    assert_eq!(health["status"], "healthy", "{health}");
    assert_eq!(health["version"].as_str().map(|text| text.starts_with(env!("CARGO_PKG_VERSION"))), Some(true));
    assert!(health["checks"].is_object() || health["checks"].is_array(), "{health}");
    let (status, text) = node.get("/metrics").expect("it is served");
    assert_eq!(status, 200);
    let mut families = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if line.starts_with("# TYPE ") {
            families += 1;
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            assert!(series.starts_with("longshore_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(families >= 15, "{families} families");
    assert_eq!(node.metric("longshore_input_records_total", &[("input", "files")]), 1);
    assert_eq!(node.get("/nowhere").map(|(status, _)| status), Some(404));
    node.stop_well();
}

#[test]
fn sigterm_and_sigint_stop_reading_flush_ack_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = folder();
        let port = free_port();
        let mut node = node(dir.path(), &crate::forward_input::config(dir.path(), port)).start();
        let mut client = Client::tcp(port);
        client.send(&message("t", 1_700_000_000.into(), map(&[("a", 1.into())]), Some(option("last", &[]))));
        node.wait_for("the record", |node| node.metric("longshore_input_records_total", &[]) == 1);
        let began = Instant::now();
        node.signal(signal);
        client.expect_ack("last");
        assert_eq!(node.wait_exit(PATIENCE), 0);
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "an idle connection does not hold it: {:?}",
            began.elapsed()
        );
        assert_eq!(crate::harness::records::line_count(&dir.path().join("out.ndjson")), 1);
    }
}

/// A node with acknowledged records in its disk log and a destination that takes connections and never answers, so that a
/// stop would take the whole minute; how many records.
fn held_up(dir: &std::path::Path) -> (Node, TcpListener, u64) {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).expect("a port");
    let (port, target) = (free_port(), silent.local_addr().expect("it is bound").port());
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = \"tcp://127.0.0.1:{port}\"\n\
         [sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{target}/\"\n"
    );
    let mut node = node(dir, &body).with_node("shutdown_timeout = \"60s\"").start();
    let mut client = Client::tcp(port);
    for seq in 0..7 {
        let chunk = format!("c{seq}");
        client.send(&message("t", 1_700_000_000.into(), map(&[("seq", seq.into())]), Some(option(&chunk, &[]))));
        client.expect_ack(&chunk);
    }
    node.wait_for("records on their way", |node| node.undelivered(&[]) == 7);
    (node, silent, 7)
}

#[test]
fn a_second_signal_cuts_a_long_stop_short_and_the_last_line_says_what_stays_on_the_disk() {
    let dir = folder();
    let (mut node, _silent, records) = held_up(dir.path());
    node.signal(Signal::TERM);
    node.wait_for("the word about the stop", |node| node.log().contains("SIGTERM: delivering what was read"));
    // The stop goes on while nobody insists: it has a minute, and nothing answers.
    std::thread::sleep(Duration::from_secs(2));
    node.wait_for("a node that still waits", |node| node.get("/ready").is_some_and(|(_, text)| text == "stopping\n"));
    let began = Instant::now();
    node.signal(Signal::INT);
    // README.md, exit codes: a backlog stays in the disk log.
    assert_eq!(node.wait_exit(PATIENCE), 3, "{}", node.log());
    // Two seconds to let go and save, and a busy machine; far from the minute.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let log = node.log();
    assert!(log.contains("SIGINT again: not waiting for what is not delivered"), "{log}");
    let last = log.lines().last().expect("it says something");
    assert!(
        last.contains("a backlog stays in the disk log")
            && last.contains(&format!("records={records} "))
            && last.contains("central"),
        "the last line of {log}"
    );

    // And what it said is true.
    let server = Server::start(|_, _| Answer::status(200));
    let config = fs::read_to_string(dir.path().join("longshore.toml")).expect("written");
    let at = config.find("url = \"").expect("it has one");
    let body = format!("{}url = {:?}\n", &config[config.find("[inputs").expect("an input")..at], server.url());
    let mut next = crate::harness::node(dir.path(), &body).start();
    next.wait_for("the backlog", |node| node.delivered("central") == records);
    next.stop_well();
    assert_eq!(server.accepted().len() as u64, records);
    assert!(!next.log().contains("a backlog stays"), "{}", next.log());
}

/// A file whose reader waits at the full queue of a sink that was told to wait for ten minutes, and would be served now.
fn told_to_wait(dir: &std::path::Path) -> (Node, Server, String) {
    let line = format!("{}\n", "a line of a file of which no queue holds more than a part ".repeat(4));
    fs::write(dir.join("a.log"), line.repeat(24_000_000 / line.len())).expect("writable");
    let server = Server::start(|_, number| match number {
        0 => Answer(503, vec!["retry-after: 600".to_owned()], ""),
        _ => Answer::status(200),
    });
    let body = format!(
        "[inputs.files]\ntype = \"file\"\npaths = [{:?}]\n[sinks.central]\ntype = \"http\"\nurl = {:?}\n",
        dir.join("*.log"),
        server.url()
    );
    let mut node = node(dir, &body).with_node("shutdown_timeout = \"100s\"").start();
    node.wait_for("a full queue", |node| node.metric("longshore_sink_queued_batches", &[]) == 16);
    (node, server, body)
}

#[test]
fn a_stop_is_heard_by_a_sink_that_was_told_to_wait_while_its_queue_is_full() {
    let dir = folder();
    let (mut node, server, _) = told_to_wait(dir.path());
    node.stop_well();
    let audit = crate::harness::audited(dir.path());
    let pair = &audit["pairs"][0];
    assert_eq!((&pair["delivered"], &pair["returned"]), (&pair["routed"], &0.into()), "{}", node.log());
    assert_eq!(pair["delivered"].as_u64(), Some(server.accepted().len() as u64));
}

#[test]
fn a_reload_is_heard_by_a_sink_that_was_told_to_wait_while_its_queue_is_full() {
    let dir = folder();
    let (mut node, server, body) = told_to_wait(dir.path());
    node.reload(&format!("{body}batch = {{ wait = \"100ms\" }}\n"));
    node.wait_for("the reload", |node| node.reloads("applied") == 1);
    assert_eq!(node.metric("longshore_returned_total", &[]), 0, "{}", node.log());
    let received = || node.metric("longshore_input_records_total", &[]);
    crate::harness::wait_for("all of it", PATIENCE, || node.delivered("central") == received() && received() > 100_000);
    node.stop_well();
    assert_eq!(server.accepted().len() as u64, fs::metadata(dir.path().join("a.log")).expect("there").len() / 233);
}

#[test]
fn it_works_as_process_1() {
    if !rustix::process::getuid().is_root() || !has_program("unshare") {
        return skip("needs root and unshare, to be process 1 of a namespace");
    }
    let dir = folder();
    fs::write(dir.path().join("a.log"), "one\n").expect("writable");
    let start = node(dir.path(), &file_input::config(dir.path(), "text", ""));
    let mut node = start.under(&["unshare", "--pid", "--fork", "--kill-child"]).start();
    node.wait_for("the record", |node| node.delivered("out") == 1);
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", node.pid())).expect("Linux gives children");
    let child: u32 = children.trim().parse().expect("one child");
    let status = fs::read_to_string(format!("/proc/{child}/status")).expect("it runs");
    let inner = status.lines().find(|line| line.starts_with("NSpid:")).and_then(|line| line.split_whitespace().last());
    assert_eq!(inner, Some("1"), "{status}");
    // Process 1 has no default for SIGTERM: only a handler of its own ends it.
    send_signal(child, Signal::TERM);
    assert_eq!(node.wait_exit(PATIENCE), 0, "{}", node.log());
}

/// How many lines a run from start to stop says at each level, as JSON.
fn levels(environment: &[&str], flags: &[&str]) -> BTreeMap<String, usize> {
    let dir = folder();
    fs::write(dir.path().join("a.log"), "one\n").expect("writable");
    let port = free_port();
    // An input that says where it listens (info).
    let body = format!(
        "{}[inputs.apps]\ntype = \"forward\"\nlisten = \"tcp://127.0.0.1:{port}\"\n",
        file_input::config(dir.path(), "text", "")
    );
    let mut start = node(dir.path(), &body).under(&[&["env", "NO_COLOR=1"], environment].concat());
    for flag in flags {
        start = start.with_flag(flag);
    }
    let mut node = start.start();
    node.wait_for("the record", |node| node.delivered("out") == 1);
    node.stop_well();
    let mut levels = BTreeMap::new();
    for line in node.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["message"].is_string(), "{line}");
        *levels.entry(value["level"].as_str().expect("a level").to_lowercase()).or_default() += 1;
    }
    levels
}

#[test]
fn its_own_log_is_text_or_json_and_the_level_is_that_of_the_environment_unless_a_flag_says_another() {
    let has = |levels: &BTreeMap<String, usize>, level: &str| levels.contains_key(level);
    let info = levels(&["LOG_FORMAT=json"], &[]);
    assert!(has(&info, "info") && !has(&info, "debug"), "{info:?}");
    let debug = levels(&["LOG_FORMAT=json", "LOG_LEVEL=debug"], &[]);
    assert!(has(&debug, "info") && has(&debug, "debug"), "{debug:?}");
    let error = levels(&["LOG_FORMAT=json", "LOG_LEVEL=error"], &[]);
    assert!(!has(&error, "info") && !has(&error, "debug") && !has(&error, "warn"), "{error:?}");
    let flag = levels(&["LOG_LEVEL=error"], &["--log-level=debug", "--log-format=json"]);
    assert!(has(&flag, "debug"), "a flag wins over the environment: {flag:?}");

    let dir = folder();
    let start = node(dir.path(), &file_input::config(dir.path(), "text", ""));
    let mut node = start.under(&["env", "NO_COLOR=1"]).start();
    node.stop_well();
    let log = node.log();
    assert!(!log.is_empty() && log.lines().all(|line| !line.starts_with('{')), "text is the default: {log}");
}
