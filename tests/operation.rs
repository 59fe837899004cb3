//! Running it: health and metrics, signals, process 1, its own log.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::file_input;
use crate::harness::engine::has_program;
use crate::harness::forward::{Client, map, message, option};
use crate::harness::{PATIENCE, folder, free_port, node, send_signal, skip};

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

#[test]
fn a_second_signal_cuts_the_wait_for_a_dead_sink_short() {
    let dir = folder();
    fs::write(dir.path().join("a.log"), "one\n").expect("writable");
    let body = file_input::config(dir.path(), "text", "");
    let sinks = format!("[sinks.out]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n", free_port());
    let body = format!("{}{sinks}", &body[..body.find("[sinks.out]").expect("it has that sink")]);
    let mut node = node(dir.path(), &body).start();
    node.wait_for("the record", |node| node.metric("longshore_routed_total", &[]) == 1);
    node.signal(Signal::TERM);
    // Sooner, it would count as the same signal told twice.
    std::thread::sleep(Duration::from_millis(700));
    let began = Instant::now();
    if !node.log().is_empty() {
        // It may be gone already: what it read is at rest in the file.
        let pid = node.pid();
        if fs::metadata(format!("/proc/{pid}")).is_ok() {
            node.signal(Signal::TERM);
        }
    }
    let code = node.wait_exit(Duration::from_secs(8));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!((0..=3).contains(&code), "it ends by itself, with {code}");
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

#[test]
fn its_own_log_is_text_or_json_and_the_environment_wins_over_the_file() {
    let dir = folder();
    let start = node(dir.path(), &file_input::config(dir.path(), "text", ""));
    let mut node = start.under(&["env", "LOG_FORMAT=json", "LOG_LEVEL=debug", "NO_COLOR=1"]).start();
    node.stop_well();
    let log = node.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value.is_object());
    }
}
