//! Published forward clients against the program: `fluent-logger` of PyPI, `@fluent-org/logger` of npm, `poston` and
//! `tracing-fluentd` of Rust, Fluent's Go logger, which is what Docker's driver is made of. Every record that they say
//! they sent is there once.
//!
//! `LONGSHORE_CLIENTS` names a folder with `python` (what `pip install --target` made), `node/node_modules`,
//! `rust-client` (built from `tests/clients/rust`) and `go-client` (from `tests/clients/go`, with Debian's packages).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::forward_input::config;
use crate::harness::certificates::Authority;
use crate::harness::records::{assert_each_once, at, line_count, records};
use crate::harness::{folder, free_port, node, run_command, skip, told};

fn clients() -> Option<PathBuf> {
    let found = std::env::var_os("LONGSHORE_CLIENTS").map(PathBuf::from);
    if found.is_none() {
        skip("no published clients: .ci/run installs them and sets LONGSHORE_CLIENTS");
    }
    found
}

/// Runs a client script against the program; `tags` get `count` records each.
fn exchange(command: &mut Command, count: u64, tags: &[&str]) -> Vec<serde_json::Value> {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &config(dir.path(), port)).start();
    let output = run_command(command.args(["127.0.0.1", &port.to_string(), &count.to_string()]), b"");
    assert!(output.status.success(), "{}\nlog:\n{}", told(&output), node.log());
    let out = dir.path().join("out.ndjson");
    let total = tags.len() as u64 * count;
    node.wait_for("all records", |_| line_count(&out) as u64 >= total);
    node.assert_ledger_closes();
    assert_eq!(node.metric("longshore_input_rejected_total", &[]), 0);
    node.stop_well();
    let records = records(&out);
    let expected: BTreeMap<String, u64> = tags.iter().map(|tag| ((*tag).to_owned(), count)).collect();
    assert_each_once(&records, "tag", "seq", &expected);
    records
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[test]
fn the_python_logger_of_pypi_delivers_every_record_in_its_three_ways() {
    let Some(clients) = clients() else { return };
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", clients.join("python")).arg(script("python_client.py"));
    let records = exchange(&mut command, 2_000, &["py.sync", "py.nano", "py.async"]);
    for record in &records {
        assert_eq!(record["text"], json!("gr\u{fc}\u{df}e \u{2713}"));
        assert_eq!(record["nested"], json!({"list": [1, 2.5, null, true]}));
        assert_eq!(at(record, "big"), Some(&json!(1u64 << 63)));
    }
    let nano = records.iter().filter(|record| record["tag"] == "py.nano");
    let fractions = nano.filter(|record| !record["time"].as_str().is_some_and(|time| time.ends_with(".000000000Z")));
    assert!(fractions.count() > 1_000, "EventTime keeps its fraction");
}

#[test]
fn the_node_logger_of_npm_gets_an_ack_for_every_frame_of_every_mode() {
    let Some(clients) = clients() else { return };
    let mut command = Command::new("node");
    command.env("NODE_PATH", clients.join("node/node_modules")).arg(script("node_client.js"));
    let tags = ["node.Message", "node.Forward", "node.PackedForward", "node.CompressedPackedForward"];
    let records = exchange(&mut command, 3_000, &tags);
    let odd = records.iter().find(|record| record["seq"] == 7).expect("it came");
    assert_eq!(odd["time"], json!("2023-11-14T22:13:20.000000007Z"));
}

#[test]
fn rust_clients_deliver_every_record_and_get_their_acks() {
    let Some(clients) = clients() else { return };
    let mut command = Command::new(clients.join("rust-client"));
    let records = exchange(&mut command, 2_000, &["rust.poston", "rust.tracing"]);
    for record in &records {
        assert_eq!(record["text"], json!("gr\u{fc}\u{df}e \u{2713}"), "{record}");
    }
    let odd = records.iter().find(|record| record["tag"] == "rust.poston").expect("it came");
    assert_eq!((&odd["ratio"], &odd["none"]), (&json!(2.5), &json!(null)));
}

#[test]
fn the_go_logger_of_dockers_driver_delivers_every_record_in_each_of_its_ways() {
    let Some(clients) = clients() else { return };
    let mut command = Command::new(clients.join("go-client"));
    let tags = ["go.plain", "go.nano", "go.acked", "go.async", "go.json"];
    let records = exchange(&mut command, 1_000, &tags);
    for record in &records {
        assert_eq!(record["text"], json!("gr\u{fc}\u{df}e \u{2713}"), "{record}");
        assert_eq!((&record["ratio"], &record["none"]), (&json!(2.5), &json!(null)), "{record}");
    }
    let nano = records.iter().filter(|record| record["tag"] == "go.nano");
    let fractions = nano.filter(|record| !record["time"].as_str().is_some_and(|time| time.ends_with(".000000000Z")));
    assert!(fractions.count() > 500, "EventTime keeps its fraction");
}

const KEY: &str = "canary-key-of-the-clients";

#[test]
fn pythons_ssl_delivers_through_tls_with_a_shared_key() {
    let dir = folder();
    let port = free_port();
    let authority = Authority::new("ours");
    authority.write_server(dir.path(), "server", 3_650);
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("written");
    let (cert, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let listen =
        format!("{{ address = \"tls://127.0.0.1:{port}\", cert = {cert:?}, key = {key:?}, shared_key = \"{KEY}\" }}");
    let ca = ca.display().to_string();
    let records = through(dir.path(), &listen, |command| {
        command.args(["127.0.0.1", &port.to_string(), "300", &ca, KEY]);
    });
    assert_eq!(records.len(), 300);
}

#[test]
fn the_node_logger_delivers_with_a_shared_key_and_a_user() {
    let Some(clients) = clients() else { return };
    let dir = folder();
    let port = free_port();
    let listen = format!(
        "{{ address = \"tcp://127.0.0.1:{port}\", shared_key = \"{KEY}\", \
         users = [{{ name = \"alice\", password = \"pw\" }}] }}"
    );
    let records = through(dir.path(), &listen, |command| {
        *command = Command::new("node");
        command.env("NODE_PATH", clients.join("node/node_modules")).arg(script("node_secure.js"));
        command.args(["127.0.0.1", &port.to_string(), "2000", KEY, "alice", "pw"]);
    });
    assert_eq!(records.len(), 2_000);
    assert!(records.iter().all(|record| record["seq"] != 666_666));
}

/// Runs a client against one listener; `python_tls.py` unless `prepare` says something else.
fn through(dir: &Path, listen: &str, prepare: impl FnOnce(&mut Command)) -> Vec<serde_json::Value> {
    let out = dir.join("out.ndjson");
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [{listen}]\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    );
    let mut node = node(dir, &body).start();
    let mut command = Command::new("python3");
    command.arg(script("python_tls.py"));
    prepare(&mut command);
    let output = run_command(&mut command, b"");
    assert!(output.status.success(), "{}\nlog:\n{}", told(&output), node.log());
    node.stop_well();
    assert!(!node.log().contains("canary-"), "{}", node.log());
    records(&out)
}
