//! The http sink against a server with scripted answers: whatever the server says, no record is lost or sent on twice
//! without need, and only the record at fault is rejected.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::http::{Answer, Server};
use crate::harness::records::Numbers;
use crate::harness::{Node, folder, free_port, node};

/// NDJSON lines of `dir/app.log` to this URL.
fn config(dir: &Path, url: &str, more: &str) -> String {
    let log = dir.join("app.log");
    format!(
        "[inputs.app]\ntype = \"file\"\npaths = [{log:?}]\nformat = \"json\"\n\
         [sinks.central]\ntype = \"http\"\nurl = \"{url}\"\nbatch = {{ size = \"32KiB\", wait = \"50ms\" }}\n{more}\n"
    )
}

fn write_lines(dir: &Path, from: u64, to: u64) {
    let path = dir.join("app.log");
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("writable");
    let text: String = (from..to).map(|seq| format!("{{\"seq\":{seq},\"pad\":\"{}\"}}\n", "x".repeat(60))).collect();
    file.write_all(text.as_bytes()).expect("writable");
}

fn assert_all_once(server: &Server, count: u64) {
    let records = server.accepted();
    let found = Numbers::of(&records, "tag", "seq");
    let expected = [("app".to_owned(), count)].into();
    assert!(found.missing(&expected).is_empty(), "missing: {:?}", found.missing(&expected));
    assert!(found.duplicates().is_empty(), "twice: {:?}", found.duplicates());
}

fn wait_delivered(node: &mut Node, count: u64) {
    node.wait_for("the records at the server", |node| node.delivered("central") >= count);
    node.assert_ledger_closes();
}

#[test]
fn batches_arrive_packed_with_headers_and_token() {
    let dir = folder();
    write_lines(dir.path(), 0, 5_000);
    fs::create_dir(dir.path().join("secrets")).expect("writable");
    fs::write(dir.path().join("secrets/ingest_token"), "s3cret\n").expect("writable");
    for (compression, format) in [("gzip", "ndjson"), ("zstd", "ndjson"), ("none", "json_array")] {
        let server = Server::start(|_, _| Answer::status(200));
        let more = format!(
            "compression = \"{compression}\"\nformat = \"{format}\"\ntoken = \"secret:ingest_token\"\n\
             headers = {{ x-team = \"a\" }}"
        );
        let secrets =
            format!("secrets = {:?}\ndata_dir = {:?}", dir.path().join("secrets"), dir.path().join(compression));
        let mut node = node(dir.path(), &config(dir.path(), &server.url(), &more)).with_node(&secrets).start();
        wait_delivered(&mut node, 5_000);
        assert!(!node.log().contains("s3cret"), "the token is never printed");
        node.stop_well();
        let requests = server.requests();
        for (request, _) in &requests {
            assert_eq!(request.line, "POST /ingest");
            assert_eq!(request.header("authorization"), Some("Bearer s3cret"));
            assert_eq!(request.header("x-team"), Some("a"));
            let coding = request.header("content-encoding").unwrap_or("none");
            assert_eq!(coding, compression);
            assert!(request.body.len() < 40 << 10, "a batch of 32 KiB has {} bytes", request.body.len());
            if compression != "none" {
                assert!(request.wire_len < request.body.len() / 2, "it is packed");
            }
        }
        if format == "ndjson" {
            assert_all_once(&server, 5_000);
        } else {
            let count: usize = requests
                .iter()
                .map(|(request, _)| {
                    let list: Vec<serde_json::Value> = serde_json::from_slice(&request.body).expect("a JSON array");
                    list.len()
                })
                .sum();
            assert_eq!(count, 5_000);
        }
    }
}

#[test]
fn answers_of_500_and_a_dropped_connection_are_tried_again_until_they_succeed() {
    let dir = folder();
    write_lines(dir.path(), 0, 3_000);
    let server = Server::start(|_, number| Answer::status(if number < 2 { 500 } else { 200 }));
    let mut node = node(dir.path(), &config(dir.path(), &server.url(), "")).start();
    wait_delivered(&mut node, 3_000);
    assert!(node.metric("longshore_sink_retries_total", &[("sink", "central")]) >= 1);
    node.stop_well();
    assert_all_once(&server, 3_000);
}

#[test]
fn a_server_that_is_not_there_yet_gets_everything_when_it_comes() {
    let dir = folder();
    write_lines(dir.path(), 0, 1_000);
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/ingest");
    let mut node = node(dir.path(), &config(dir.path(), &url, "")).start();
    std::thread::sleep(Duration::from_millis(1_500));
    let (status, health) = node.get("/health").expect("it is served");
    assert!(health.contains("central"), "the sink is named in {status} {health}");
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    // Stopped meanwhile, it keeps its place; started with the server there, it delivers.
    node.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(700));
    node.signal(Signal::TERM);
    node.wait_exit(Duration::from_secs(10));
    let server = Server::start(|_, _| Answer::status(200));
    let mut again = node_again(dir.path(), &server.url());
    wait_delivered(&mut again, 1_000);
    again.stop_well();
    assert_all_once(&server, 1_000);
}

fn node_again(dir: &Path, url: &str) -> Node {
    node(dir, &config(dir, url, "")).start()
}

#[test]
fn a_400_for_one_record_rejects_that_record_only() {
    let dir = folder();
    write_lines(dir.path(), 0, 700);
    let path = dir.path().join("app.log");
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("it is there");
    file.write_all(b"{\"poison\":true}\n").expect("writable");
    write_lines(dir.path(), 700, 1_000);
    let server = Server::start(|request, _| {
        let bad = request.body.windows(8).any(|part| part == b"\"poison\"");
        if bad { Answer(400, Vec::new(), "field poison is unknown") } else { Answer::status(200) }
    });
    let mut node = node(dir.path(), &config(dir.path(), &server.url(), "")).start();
    wait_delivered(&mut node, 1_000);
    node.wait_for("the rejection", |node| {
        node.metric("longshore_rejected_total", &[("sink", "central"), ("reason", "refused")]) == 1
    });
    assert!(node.log().contains("400"), "the reason is logged:\n{}", node.log());
    node.stop_well();
    assert_all_once(&server, 1_000);
    let refused = server.requests().iter().filter(|(_, status)| *status == 400).count();
    assert!(refused <= 16, "halving needs about log2 of the batch, not {refused} requests");
}

#[test]
fn a_413_halves_the_batch_and_loses_nothing() {
    let dir = folder();
    write_lines(dir.path(), 0, 2_000);
    let server = Server::start(|request, _| Answer::status(if request.body.len() > 6_000 { 413 } else { 200 }));
    let mut node = node(dir.path(), &config(dir.path(), &server.url(), "compression = \"none\"")).start();
    wait_delivered(&mut node, 2_000);
    assert_eq!(node.metric("longshore_rejected_total", &[]), 0);
    node.stop_well();
    assert_all_once(&server, 2_000);
}

#[test]
fn retry_after_is_obeyed() {
    let dir = folder();
    write_lines(dir.path(), 0, 10);
    let server = Server::start(|_, number| match number {
        0 => Answer(429, vec!["retry-after: 3".to_owned()], ""),
        _ => Answer::status(200),
    });
    let mut node = node(dir.path(), &config(dir.path(), &server.url(), "")).start();
    wait_delivered(&mut node, 10);
    node.stop_well();
    let requests = server.requests();
    let pause = requests[1].0.at - requests[0].0.at;
    assert!(pause >= Duration::from_millis(2_900), "asked for 3 s, came after {pause:?}");
    assert_all_once(&server, 10);
}

#[test]
fn a_wrong_key_pauses_the_sink_with_an_alert_and_costs_no_data() {
    let dir = folder();
    write_lines(dir.path(), 0, 500);
    let server = Server::start(|_, _| Answer(401, Vec::new(), "who are you"));
    let mut node = node(dir.path(), &config(dir.path(), &server.url(), "")).start();
    node.wait_for("an alert", |node| {
        node.get("/health").is_some_and(|(_, text)| text.contains("401") && !text.contains("\"healthy\""))
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(server.requests().len() <= 8, "it is tried again slowly, not {} times", server.requests().len());
    assert_eq!(node.metric("longshore_rejected_total", &[]), 0, "nothing is rejected");
    node.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(700));
    node.signal(Signal::TERM);
    node.wait_exit(Duration::from_secs(10));
    let good = Server::start(|_, _| Answer::status(200));
    let mut again = node_again(dir.path(), &good.url());
    wait_delivered(&mut again, 500);
    again.stop_well();
    assert_all_once(&good, 500);
}

#[test]
fn a_dead_sink_holds_no_other_sink_back_while_there_is_room() {
    let dir = folder();
    write_lines(dir.path(), 0, 200);
    let out = dir.path().join("out.ndjson");
    let dead = format!("http://127.0.0.1:{}/ingest", free_port());
    let body = format!("{}\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n", config(dir.path(), &dead, ""));
    let mut node = node(dir.path(), &body).start();
    let began = Instant::now();
    node.wait_for("the file sink", |node| node.delivered("out") >= 200);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(node.delivered("central"), 0);
    let routed = node.metric("longshore_routed_total", &[("sink", "central")]);
    assert_eq!(routed, node.metric("longshore_in_flight", &[("sink", "central")]));
    assert_eq!(json!(routed), json!(200));
}
