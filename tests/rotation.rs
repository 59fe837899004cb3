//! Logs that rotate, shrink and vanish while they are followed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::docker_folder::{app_line, config};
use crate::harness::containers::Container;
use crate::harness::records::{assert_each_once, line_count, records};
use crate::harness::{folder, node};

#[test]
fn rotation_with_and_without_compression_while_running_loses_nothing() {
    const LINES: u64 = 30_000;
    let dir = folder();
    let root = dir.path().join("containers");
    let mut plain = Container::create(&root, 1, "plain", "app", &[]);
    let mut packed = Container::create(&root, 2, "packed", "app", &[]);
    let mut node = node(dir.path(), &config(dir.path())).start();
    for seq in 0..LINES {
        plain.line(&app_line(seq), "stdout");
        packed.line(&app_line(seq), "stdout");
        if seq % 1_500 == 1_499 {
            plain.rotate(5);
            packed.rotate(5);
            packed.compress(1);
            thread::sleep(Duration::from_millis(40));
        }
    }
    node.wait_for("all records", |node| node.delivered("out") >= 2 * LINES);
    node.assert_ledger_closes();
    node.stop_well();
    let expected = BTreeMap::from([("plain".to_owned(), LINES), ("packed".to_owned(), LINES)]);
    assert_each_once(&records(&dir.path().join("out.ndjson")), "container.name", "seq", &expected);
}

#[test]
fn a_removed_container_is_read_to_its_end() {
    let dir = folder();
    let mut brief = Container::create(&dir.path().join("containers"), 1, "brief", "app", &[]);
    brief.line(&app_line(0), "stdout");
    let mut node = node(dir.path(), &config(dir.path())).start();
    let out = dir.path().join("out.ndjson");
    node.wait_for("the first record", |_| line_count(&out) == 1);
    for seq in 1..2_000 {
        brief.line(&app_line(seq), "stdout");
    }
    brief.remove();
    node.wait_for("all records", |_| line_count(&out) >= 2_000);
    node.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &BTreeMap::from([("brief".to_owned(), 2_000)]));
}

#[test]
fn a_container_that_is_removed_with_20_mb_unread_leaves_them_all_with_its_name() {
    const LINES: u64 = 10_000;
    let dir = folder();
    let mut brief = Container::create(&dir.path().join("containers"), 1, "brief", "app", &[]);
    let line = |seq: u64| format!(r#"{{"seq":{seq},"pad":"{}"}}"#, "x".repeat(2_000));
    brief.line(&line(0), "stdout");
    let mut node = node(dir.path(), &config(dir.path())).start();
    let out = dir.path().join("out.ndjson");
    node.wait_for("the first record", |_| line_count(&out) == 1);
    // It stands still until the container is gone, so all of that is unread then.
    node.signal(Signal::STOP);
    (1..LINES).for_each(|seq| brief.line(&line(seq), "stdout"));
    brief.remove();
    node.signal(Signal::CONT);
    node.wait_for("all records", |node| node.delivered("out") >= LINES);
    node.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &BTreeMap::from([("brief".to_owned(), LINES)]));
}

#[test]
fn a_truncated_file_is_read_from_its_start_again() {
    let dir = folder();
    let log = dir.path().join("app.log");
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.app]\ntype = \"file\"\npaths = [{log:?}]\nformat = \"json\"\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    );
    let mut file = OpenOptions::new().create(true).append(true).open(&log).expect("writable");
    for seq in 0..1_000 {
        writeln!(file, r#"{{"seq":{seq}}}"#).expect("writable");
    }
    let mut node = node(dir.path(), &body).start();
    node.wait_for("1,000 records", |_| line_count(&out) == 1_000);
    OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(0)).expect("it can be truncated");
    for seq in 1_000..1_300 {
        writeln!(file, r#"{{"seq":{seq}}}"#).expect("writable");
    }
    node.wait_for("300 more records", |_| line_count(&out) >= 1_300);
    node.stop_well();
    let seqs: Vec<_> = records(&out).iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..1_300).collect::<Vec<_>>());
}
