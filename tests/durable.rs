//! The promise of `ack = "durable"`: what was acknowledged is delivered, whatever ends the program and whenever.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::records::{Numbers, assert_each_once, line_count, parse, records};
use crate::harness::sender::{CHUNK, Senders};
use crate::harness::twice::pass_the_time_of_twice;
use crate::harness::{Moments, Node, PATIENCE, audit_closes, folder, free_port, node};

/// A forward input, the disk log, and one output file.
pub fn config(dir: &Path, port: u16) -> String {
    let out = dir.join("out.ndjson");
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [buffer]\nsize = \"64MiB\"\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    )
}

/// The same with an HTTP sink.
pub fn http_config(port: u16, url: &str) -> String {
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [buffer]\nsize = \"64MiB\"\n[sinks.central]\ntype = \"http\"\nurl = \"{url}\"\n\
         batch = {{ size = \"64KiB\", wait = \"20ms\" }}\n"
    )
}

/// Rounds of kill -9 and of SIGTERM; `.ci/run` and `.ci/campaign` ask for more.
fn rounds() -> u64 {
    std::env::var("LONGSHORE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

fn one(chunk: &str) -> Vec<u8> {
    message("t", 1_700_000_000.into(), map(&[("p", "one".into()), ("seq", 0.into())]), Some(option(chunk, &[])))
}

fn assert_nothing_acked_is_missing(dir: &Path, sent: &BTreeMap<String, u64>) {
    // Each line is parsed: none is torn.
    let found = Numbers::of(&records(&dir.join("out.ndjson")), "p", "seq");
    assert!(found.missing(sent).is_empty(), "acknowledged and not there: {:?}", found.missing(sent));
}

/// Each record that came again had been written in one of these parts of the output the last time, or is of a chunk whose
/// ack was under way. How many came again.
fn assert_twice_is_of(parts: &[Range<u64>], output: &Path, resent: &BTreeSet<(String, u64)>) -> u64 {
    let text = fs::read_to_string(output).expect("readable");
    let (mut last, mut at, mut again) = (HashMap::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        let record = parse(line);
        let (of, seq) = (record["p"].as_str().expect("a name").to_owned(), record["seq"].as_u64().expect("a number"));
        if let Some(before) = last.insert((of.clone(), seq), at) {
            again += 1;
            let allowed =
                parts.iter().any(|part| part.contains(&before)) || resent.contains(&(of.clone(), seq / CHUNK));
            assert!(
                allowed,
                "record {seq} of {of} was written at {before} and again at {at}; may come twice: {parts:?}"
            );
        }
        at += line.len() as u64;
    }
    again
}

#[test]
fn kill_9_under_load_loses_nothing_that_was_acknowledged() {
    let dir = folder();
    let port = free_port();
    let out = dir.path().join("out.ndjson");
    let written = || fs::metadata(&out).map_or(0, |file| file.len());
    let senders = Senders::start(port, 4, Duration::from_millis(2));
    let (kills, mut moments) = (rounds(), Moments::new());
    // What was written shortly before each kill.
    let mut late = Vec::new();
    for round in 0..kills {
        let before = senders.acked();
        let mut from = written();
        let mut node = node(dir.path(), &config(dir.path(), port)).start();
        node.wait_for("some acks", |_| senders.acked() > before + 2 * CHUNK);
        moments.wait(400);
        if round % 6 == 3 {
            // Long enough that most of what came was saved as delivered.
            pass_the_time_of_twice(dir.path());
            from = written();
            pass_the_time_of_twice(dir.path());
        }
        node.kill();
        late.push(from..written());
        if round % 10 == 0 {
            audit_closes(dir.path());
        }
    }
    let acked = senders.acked();
    let mut last = node(dir.path(), &config(dir.path(), port)).start();
    last.wait_for("the senders to go on", |_| senders.acked() > acked + 4 * CHUNK);
    let resent = senders.resent_chunks();
    let sent = senders.finish();
    last.wait_for("an empty backlog", |node| {
        node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0
    });
    audit_closes(dir.path());
    last.stop_well();
    assert_nothing_acked_is_missing(dir.path(), &sent);
    let resent = resent.lock().expect("no sender panicked");
    let repeats = assert_twice_is_of(&late, &out, &resent);
    let total: u64 = sent.values().sum();
    let _ = writeln!(
        std::io::stderr(),
        "durable kill -9: {kills} kills, {total} records acked, 0 missing, {repeats} repeated, {} chunks resent",
        resent.len()
    );
}

#[test]
fn sigterm_at_any_moment_loses_nothing_and_doubles_nothing() {
    let dir = folder();
    let port = free_port();
    let senders = Senders::start(port, 3, Duration::from_millis(2));
    let (stops, mut moments) = (rounds(), Moments::new());
    for _ in 0..stops {
        let before = senders.acked();
        let mut node = node(dir.path(), &config(dir.path(), port)).start();
        node.wait_for("some acks", |_| senders.acked() > before);
        moments.wait(400);
        node.stop_well();
    }
    let mut last = node(dir.path(), &config(dir.path(), port)).start();
    let sent = senders.finish();
    last.wait_for("the rest", |node| node.metric("longshore_buffered", &[]) == 0);
    last.stop_well();
    assert_each_once(&records(&dir.path().join("out.ndjson")), "p", "seq", &sent);
    let total: u64 = sent.values().sum();
    let _ = writeln!(std::io::stderr(), "SIGTERM: {stops} stops, {total} records acked, 0 missing, 0 repeated");
}

#[test]
fn a_dead_server_delays_no_ack_and_gets_everything_when_it_comes_back_restarts_or_not() {
    let dir = folder();
    let (port, server_port) = (free_port(), free_port());
    let url = format!("http://127.0.0.1:{server_port}/");
    let mut first = node(dir.path(), &http_config(port, &url)).with_node("shutdown_timeout = \"1s\"").start();
    let senders = Senders::start(port, 2, Duration::from_millis(1));
    first.wait_for("acks without any sink", |_| senders.acked() >= 20_000);
    first.assert_ledger_closes();
    let sent = senders.finish();
    let total: u64 = sent.values().sum();
    audit_closes(dir.path());
    // A backlog that stays is exit code 3, and the last thing that is said.
    assert_eq!(first.stop(), 3, "{}", first.log());
    let log = first.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("stays in the disk log") && last.contains(&total.to_string()), "{last}");
    audit_closes(dir.path());
    let mut second = node(dir.path(), &http_config(port, &url)).start();
    assert_eq!(second.undelivered(&[]), total);
    let server = Server::start_at(server_port, |_, _| Answer::status(200));
    second.wait_for("everything at the server", |node| node.delivered("central") >= total);
    second.assert_ledger_closes();
    second.stop_well();
    assert_each_once(&server.accepted(), "p", "seq", &sent);
}

#[test]
fn a_dead_sink_beside_a_live_one_stops_neither_forward_nor_files_and_costs_no_memory() {
    const LINES: u64 = 100_000;
    let dir = folder();
    let (port, server_port) = (free_port(), free_port());
    let log = dir.path().join("app.log");
    let mut file = fs::File::create(&log).expect("writable");
    for seq in 0..LINES {
        writeln!(file, "{{\"p\":\"file\",\"seq\":{seq},\"pad\":\"{}\"}}", "x".repeat(100)).expect("writable");
    }
    let body = format!(
        "{}[inputs.files]\ntype = \"file\"\npaths = [{log:?}]\nformat = \"json\"\n\
         [sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{server_port}/\"\n\
         batch = {{ size = \"256KiB\", wait = \"20ms\" }}\n",
        config(dir.path(), port)
    );
    let small = "memory = \"24MiB\"\nshutdown_timeout = \"1s\"";
    let mut first = node(dir.path(), &body).with_node(small).start();
    let senders = Senders::start(port, 2, Duration::from_millis(1));
    first.wait_for("all lines at the live sink", |node| {
        node.metric("longshore_delivered_total", &[("sink", "out"), ("input", "files")]) >= LINES
    });
    first.wait_for("acks", |_| senders.acked() >= 5_000);
    assert_eq!(first.delivered("central"), 0);
    let mut sent = senders.finish();
    first.wait_for("all of it at the live sink", |node| node.metric("longshore_in_flight", &[("sink", "out")]) == 0);
    first.assert_ledger_closes();
    let peak = first.peak_memory();
    assert!(peak < 64 << 20, "{} KiB at the peak", peak >> 10);
    assert_eq!(first.stop(), 3, "{}", first.log());
    sent.insert("file".to_owned(), LINES);
    assert_each_once(&records(&dir.path().join("out.ndjson")), "p", "seq", &sent);
    // The files' checkpoint has moved; what the server has not is in the disk log.
    let server = Server::start_at(server_port, |_, _| Answer::status(200));
    let mut second = node(dir.path(), &body).with_node(small).start();
    second.wait_for("an empty backlog", |node| {
        node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0
    });
    second.stop_well();
    let found = Numbers::of(&server.accepted(), "p", "seq");
    assert!(found.missing(&sent).is_empty(), "{:?}", found.missing(&sent));
    assert_each_once(&records(&dir.path().join("out.ndjson")), "p", "seq", &sent);
}

#[test]
fn an_optional_sink_that_is_dead_holds_back_no_file_and_no_stop_of_the_others() {
    // 48 MB: more than the log and the sink's queue, which has a sixteenth of the memory here, hold together.
    const LINES: u64 = 200_000;
    let dir = folder();
    let log = dir.path().join("app.log");
    let text: String =
        (0..LINES).map(|seq| format!("{{\"p\":\"file\",\"seq\":{seq},\"pad\":\"{}\"}}\n", "x".repeat(200))).collect();
    fs::write(&log, text).expect("writable");
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.files]\ntype = \"file\"\npaths = [{log:?}]\nformat = \"json\"\n[buffer]\nsize = \"8MiB\"\n\
         [sinks.out]\ntype = \"file\"\npath = {out:?}\n\
         [sinks.extra]\ntype = \"http\"\nrequired = false\nurl = \"http://127.0.0.1:{}/\"\n",
        free_port()
    );
    let mut node = node(dir.path(), &body).with_node("shutdown_timeout = \"1s\"").start();
    node.wait_for("all lines at the live sink", |node| node.delivered("out") >= LINES);
    node.wait_for("drops at the other", |node| {
        node.metric("longshore_dropped_total", &[("sink", "extra"), ("reason", "buffer_full")]) > 0
    });
    node.assert_ledger_closes();
    audit_closes(dir.path());
    node.stop();
    assert_each_once(&records(&out), "p", "seq", &BTreeMap::from([("file".to_owned(), LINES)]));
}

#[test]
fn an_ack_means_that_it_survives_a_kill_at_that_very_moment() {
    let dir = folder();
    let port = free_port();
    // Nobody takes it: the log is the only place where it can be.
    let url = format!("http://127.0.0.1:{}/", free_port());
    for round in 0..rounds().min(10) {
        let mut node = node(dir.path(), &http_config(port, &url)).start();
        let mut client = Client::tcp(port);
        client.send(&one(&format!("c{round}")));
        client.expect_ack(&format!("c{round}"));
        node.kill();
    }
    let server = Server::start(|_, _| Answer::status(200));
    let mut last = node(dir.path(), &http_config(port, &server.url())).start();
    let count = rounds().min(10);
    last.wait_for("each of them", |node| node.delivered("central") >= count);
    last.stop_well();
    assert_eq!(server.accepted().len() as u64, count);
}

#[test]
fn the_id_of_a_record_is_the_same_when_it_is_sent_again() {
    let dir = folder();
    let port = free_port();
    let server = Server::start(|_, number| Answer::status(if number == 0 { 503 } else { 200 }));
    let body = format!("{}add = [\"id\"]\n", http_config(port, &server.url()));
    let mut node = node(dir.path(), &body).start();
    let mut client = Client::tcp(port);
    for chunk in ["c", "c", "d"] {
        client.send(&one(chunk));
        client.expect_ack(chunk);
    }
    node.wait_for("three records", |node| node.delivered("central") == 3);
    node.stop_well();
    let id = |record: &serde_json::Value| record["longshore_id"].as_str().expect("an id").to_owned();
    let ids: Vec<String> = server.accepted().iter().map(id).collect();
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
    let refused: Vec<String> = server
        .requests()
        .iter()
        .filter(|(_, status)| *status == 503)
        .flat_map(|(request, _)| request.records().iter().map(id).collect::<Vec<_>>())
        .collect();
    assert_eq!(refused[0], ids[0]);
}

/// SIGTERM with what is under way told at once; the program's exit.
#[test]
fn a_second_signal_leaves_the_backlog_in_the_log_at_once() {
    let dir = folder();
    let port = free_port();
    let url = format!("http://127.0.0.1:{}/", free_port());
    let mut node: Node = node(dir.path(), &http_config(port, &url)).start();
    let mut client = Client::tcp(port);
    client.send(&one("c"));
    client.expect_ack("c");
    node.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(700));
    node.signal(Signal::TERM);
    assert_eq!(node.wait_exit(PATIENCE), 3, "{}", node.log());
    audit_closes(dir.path());
    assert_eq!(line_count(&dir.path().join("out.ndjson")), 0);
}
