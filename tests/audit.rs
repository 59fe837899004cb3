//! `longshore audit` of a stopped node: what it says, its exit code, and that it writes nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use crate::harness::engine::has_program;
use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::records::files_under;
use crate::harness::sender::Senders;
use crate::harness::{PATIENCE, audit_closes, folder, free_port, node, run, skip, told};

const RECORDS: u64 = 7;

fn config(inputs: &[(&str, u16)], url: &str) -> String {
    let inputs = inputs
        .iter()
        .map(|(name, port)| format!("[inputs.{name}]\ntype = \"forward\"\nlisten = \"tcp://127.0.0.1:{port}\"\n"));
    let inputs: String = inputs.collect();
    format!("{inputs}[buffer]\nsize = \"16MiB\"\nkeep = \"24h\"\n[sinks.central]\ntype = \"http\"\nurl = \"{url}\"\n")
}

fn dead() -> String {
    format!("http://127.0.0.1:{}/", free_port())
}

/// Leaves the folder of a node that stopped with a backlog of each of these inputs.
fn leave_backlog(dir: &Path, names: &[&str]) {
    let inputs: Vec<(&str, u16)> = names.iter().map(|name| (*name, free_port())).collect();
    let mut node = node(dir, &config(&inputs, &dead())).with_node("shutdown_timeout = \"1s\"").start();
    for (name, port) in &inputs {
        let mut client = Client::tcp(*port);
        for seq in 0..RECORDS {
            let chunk = format!("{name}-{seq}");
            client.send(&message("t", 1_700_000_000.into(), map(&[("seq", seq.into())]), Some(option(&chunk, &[]))));
            client.expect_ack(&chunk);
        }
    }
    assert_eq!(node.stop(), 3, "{}", node.log());
}

fn audit(dir: &Path, more: &[&str]) -> (Output, String) {
    let output = crate::harness::audit(dir, more);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

/// Everything that can be known of a folder's files from outside.
fn seen(dir: &Path) -> Vec<(String, u64, u32, u32, SystemTime, Vec<u8>)> {
    let files = files_under(dir).into_iter().map(|path| {
        let meta = path.symlink_metadata().expect("there");
        let bytes = if meta.is_file() { fs::read(&path).expect("readable") } else { Vec::new() };
        let modified = meta.modified().expect("Linux has it");
        (path.display().to_string(), meta.ino(), meta.uid(), meta.mode(), modified, bytes)
    });
    files.collect()
}

#[test]
fn the_folder_of_a_stopped_node_is_not_touched_whatever_the_configuration_says_now() {
    let dir = folder();
    leave_backlog(dir.path(), &["apps"]);
    let data = dir.path().join("data");
    // Kept segments would go, and a new sink get a cursor, if this were a start.
    let text = fs::read_to_string(dir.path().join("longshore.toml")).expect("there");
    let text = text.replace("keep = \"24h\"\n", "") + "[sinks.new]\ntype = \"stdout\"\n";
    fs::write(dir.path().join("longshore.toml"), text).expect("writable");
    let (names, before) = (fs::read_dir(data.join("buffer")).expect("there").count(), seen(&data));
    let (output, text) = audit(dir.path(), &[]);
    assert!(output.status.success() && text.contains("buffered 7 "), "{}", told(&output));
    assert!(before == seen(&data), "the audit wrote to the data folder");
    let listed = run(dir.path(), &["checkpoints", "list", "--data-dir", data.to_str().expect("UTF-8")], b"");
    assert!(listed.status.success(), "{}", told(&listed));
    assert!(before == seen(&data), "the list wrote to the data folder");
    assert_eq!(fs::read_dir(data.join("buffer")).expect("there").count(), names);
}

#[test]
fn it_exits_1_and_says_where_when_it_does_not_close_for_people_and_programs() {
    let dir = folder();
    leave_backlog(dir.path(), &["apps"]);
    let (output, text) = audit(dir.path(), &["--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!((value["closes"].as_bool(), value["running"].as_bool()), (Some(true), Some(false)));
    assert_eq!(
        (value["pairs"][0]["buffered"].as_u64(), value["wrong"].as_array().map(Vec::len)),
        (Some(RECORDS), Some(0))
    );
    fs::rename(dir.path().join("data/buffer"), dir.path().join("aside")).expect("there");
    let (output, text) = audit(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(text.contains("apps -> central: 7 records were buffered when it stopped, the disk log has 0"), "{text}");
    let (output, text) = audit(dir.path(), &["--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((output.status.code(), value["closes"].as_bool()), (Some(1), Some(false)));
    // A folder that never had a ledger was not killed.
    fs::remove_dir_all(dir.path().join("data")).expect("there");
    fs::create_dir(dir.path().join("data")).expect("writable");
    let (output, text) = audit(dir.path(), &[]);
    assert!(output.status.success() && text.contains("saved no ledger yet"), "{}", told(&output));
}

#[test]
fn a_disk_log_that_went_after_a_kill_is_said_by_the_audit_and_by_the_next_start() {
    let dir = folder();
    let (port, data) = (free_port(), dir.path().join("data"));
    let start = || node(dir.path(), &config(&[("apps", port)], &dead())).with_node("shutdown_timeout = \"1s\"");
    let mut first = start().start();
    let mut client = Client::tcp(port);
    client.send(&message("t", 1_700_000_000.into(), map(&[("seq", 0.into())]), Some(option("c", &[]))));
    client.expect_ack("c");
    // Until a ledger with it is saved, and it is in the log only.
    first.stop();
    let mut second = start().start();
    let saved = || fs::read_to_string(data.join("checkpoints")).unwrap_or_default();
    second.wait_for("a saved ledger", |_| saved().contains("\"stopped\":false"));
    second.kill();
    audit_closes(dir.path());
    fs::rename(data.join("buffer"), dir.path().join("aside")).expect("there");
    let (output, text) = audit(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(
        text.contains("apps -> central: 1 records were in the disk log, or on their way there, when it was killed"),
        "{text}"
    );
    let mut third = start().start();
    assert!(third.log().contains("that log is gone"), "{}", third.log());
    assert_eq!(third.metric("longshore_dropped_total", &[("reason", "buffer_damaged")]), 1);
    third.stop_well();
}

#[test]
fn an_input_that_is_gone_from_the_configuration_leaves_it_closed_and_its_records_delivered() {
    let dir = folder();
    leave_backlog(dir.path(), &["apps", "gone"]);
    let server = Server::start(|_, _| Answer::status(200));
    let start = node(dir.path(), &config(&[("apps", free_port())], &server.url()));
    start.write_config();
    let (output, text) = audit(dir.path(), &[]);
    assert!(output.status.success() && text.contains("buffered 14 "), "{}", told(&output));
    let mut node = start.start();
    node.wait_for("both backlogs", |node| node.delivered("central") == 2 * RECORDS);
    node.stop_well();
    assert!(!node.log().contains("differ"), "{}", node.log());
}

#[test]
fn an_input_that_comes_back_as_the_first_one_leaves_it_closed() {
    let dir = folder();
    leave_backlog(dir.path(), &["apps", "more"]);
    let body = config(&[("more", free_port())], &dead());
    let mut without = node(dir.path(), &body).with_node("shutdown_timeout = \"1s\"").start();
    assert_eq!(without.stop(), 3, "{}", without.log());
    let (output, text) = audit(dir.path(), &[]);
    assert!(output.status.success() && text.contains("buffered 14 "), "{}", told(&output));
    let server = Server::start(|_, _| Answer::status(200));
    let start = node(dir.path(), &config(&[("apps", free_port()), ("more", free_port())], &server.url()));
    start.write_config();
    let (output, text) = audit(dir.path(), &[]);
    assert!(output.status.success() && text.matches("buffered 7 ").count() == 2, "{}", told(&output));
    let mut node = start.start();
    node.wait_for("both backlogs", |node| node.delivered("central") == 2 * RECORDS);
    node.stop_well();
    assert!(!node.log().contains("differ"), "{}", node.log());
}

#[test]
fn after_kills_inputs_in_another_order_keep_their_own_counts() {
    let dir = folder();
    let (names, ports) = (["apps", "more"], [free_port(), free_port()]);
    let senders = ports.map(|port| Senders::start(port, 2, Duration::from_millis(2)));
    let server = Server::start(|_, _| Answer::status(200));
    for round in 0..6 {
        let acked = senders.each_ref().map(Senders::acked);
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let body = config(&order.map(|at| (names[at], ports[at])), &server.url());
        let mut first = node(dir.path(), &body).start();
        first.wait_for("acks of both", |_| {
            acked.iter().zip(&senders).all(|(before, senders)| senders.acked() > before + 1_000)
        });
        // Not the same moment of the 250 ms between two saves of the ledger each time.
        std::thread::sleep(Duration::from_millis(100 + round * 97 % 250));
        first.kill();
        let order = [order[1], order[0]];
        node(dir.path(), &config(&order.map(|at| (names[at], ports[at])), &server.url())).write_config();
        audit_closes(dir.path());
        // Everything that an input passes on is for the one sink.
        let ledger = crate::harness::audited(dir.path());
        for (input, pair) in order.iter().zip(ledger["pairs"].as_array().expect("a list")) {
            let of = ledger["inputs"].as_array().expect("a list").iter().find(|line| line["input"] == names[*input]);
            assert_eq!(of.expect("it is there")["passed"], pair["routed"], "round {round}: {ledger:#}");
        }
    }
    let mut last = node(dir.path(), &config(&[0, 1].map(|at| (names[at], ports[at])), &server.url())).start();
    senders.into_iter().for_each(|senders| drop(senders.finish()));
    last.wait_for("an empty backlog", |node| node.undelivered(&[]) == 0);
    last.stop_well();
}

#[test]
fn a_start_that_fails_leaves_the_ledger_of_the_last_stop() {
    let dir = folder();
    leave_backlog(dir.path(), &["apps"]);
    let data = dir.path().join("data");
    let kept = || ["checkpoints", "checkpoints.bak"].map(|name| fs::read(data.join(name)).expect("there"));
    let before = kept();
    let body = config(&[("apps", free_port())], &dead());
    let bad = format!("[sinks.bad]\ntype = \"file\"\npath = {:?}\n", dir.path().join("longshore.toml/out.ndjson"));
    // A log that is larger than any disk; an address that is not ours; and, when the ledger was gone on with, a sink that can
    // not be opened after one that has a backlog.
    for (body, address, says) in [
        (body.replace("16MiB", "900TiB"), "", "[buffer] size is 989560464998400 bytes, its file system has"),
        (body.clone(), "192.0.2.1:9600", "[telemetry] listen"),
        (format!("{body}{bad}"), "", "sinks.bad: "),
    ] {
        let start = node(dir.path(), &body).without_waiting();
        let config = start.write_config();
        let text = fs::read_to_string(&config).expect("there");
        let listen = text.lines().find(|line| line.starts_with("listen = \"127.0.0.1")).expect("a line").to_owned();
        if !address.is_empty() {
            fs::write(&config, text.replace(&listen, &format!("listen = \"{address}\""))).expect("writable");
        }
        let output = run(dir.path(), &["run", "--config", config.to_str().expect("UTF-8")], b"");
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{}", told(&output));
        assert!(before == kept(), "a start that failed wrote the ledger");
    }
    let start = node(dir.path(), &body);
    start.write_config();
    let (output, text) = audit(dir.path(), &[]);
    assert!(output.status.success() && text.contains("buffered 7 "), "{}", told(&output));
}

#[test]
fn what_belongs_to_another_user_ends_the_start_with_the_way_out_and_is_delivered_once_it_is_ours() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::getuid().is_root() || !has_program("setpriv") {
        return skip("needs root and setpriv, to be another user");
    }
    let dir = folder();
    leave_backlog(dir.path(), &["apps"]);
    let data = dir.path().join("data");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let give = |owner: u32| {
        for path in files_under(&data) {
            chown(path, Some(owner), Some(owner)).expect("root may");
        }
        for name in ["", "buffer"] {
            chown(data.join(name), Some(owner), Some(owner)).expect("root may");
        }
    };
    let server = Server::start(|_, _| Answer::status(200));
    let body = config(&[("apps", free_port())], &server.url());
    let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for name in ["buffer/00.cursor", "buffer/META", "checkpoints"] {
        give(NOBODY);
        chown(data.join(name), Some(0), Some(0)).expect("root may");
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).expect("ours");
        let mut refused = node(dir.path(), &body).under(&words).without_waiting().start();
        assert_eq!(refused.wait_exit(PATIENCE), 1, "{name}: {}", refused.log());
        let log = refused.log();
        let way_out =
            format!("{} belongs to uid 0, longshore runs as 65534: `chown -R 65534", data.join(name).display());
        assert!(log.contains(&way_out), "{name}: {log}");
    }
    give(NOBODY);
    let mut node = node(dir.path(), &body).under(&words).start();
    node.wait_for("the backlog", |node| node.delivered("central") == RECORDS);
    assert_eq!(node.stop(), 0, "{}", node.log());
    audit_closes(dir.path());
    assert_eq!(server.accepted().len() as u64, RECORDS, "nothing came twice");
}
