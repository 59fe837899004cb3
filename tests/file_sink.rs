//! The file sink: templates, rotation, compression that survives kill -9, and SIGHUP.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::forward::{Client, forward, map, message, option};
use crate::harness::records::{Numbers, files_under, line_count, lines, records};
use crate::harness::{folder, free_port, node};

/// A forward input on this port, and one file sink with these lines.
fn config(port: u16, sink: &str) -> String {
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\nack = \"delivered\"\n[sinks.out]\ntype = \"file\"\n{sink}\n"
    )
}

/// Sends numbered records in frames of 100 and waits for each ack.
fn send(client: &mut Client, tag: &str, from: u64, to: u64) {
    let numbers: Vec<u64> = (from..to).collect();
    for frame in numbers.chunks(100) {
        let entries: Vec<_> = frame.iter().map(|seq| (1_700_000_000.into(), map(&[("seq", (*seq).into())]))).collect();
        client.send(&forward(tag, &entries, Some(option("c", &[]))));
        client.expect_ack("c");
    }
}

fn assert_numbers(path: &Path, tag: &str, count: u64) {
    let found = Numbers::of(&records(path), "tag", "seq");
    let expected = [(tag.to_owned(), count)].into();
    assert!(found.missing(&expected).is_empty(), "missing: {:?}", found.missing(&expected));
    assert!(found.duplicates().is_empty(), "twice: {:?}", found.duplicates());
}

#[test]
fn a_template_makes_one_file_a_tag_and_a_hostile_tag_stays_inside() {
    let dir = folder();
    let port = free_port();
    let logs = dir.path().join("outer/logs");
    let path = format!("{}/{{tag}}/%Y-%m-%d.ndjson", logs.display());
    let mut node = node(dir.path(), &config(port, &format!("path = {path:?}"))).start();
    let mut client = Client::tcp(port);
    let long = "l".repeat(1_000);
    let tags = ["api.web", "../../x", "/etc/passwd", "..", ".", "a/b", "a\0b", "", "\u{e9}", "-rf", &long, "a\nb"];
    for tag in tags {
        client.send(&message(tag, 1_700_000_000.into(), map(&[("seq", 1.into())]), Some(option("c", &[]))));
        client.expect_ack("c");
    }
    node.wait_for("a file", |_| !files_under(&logs).is_empty());
    node.stop_well();
    let day = files_under(&logs.join("api.web"));
    assert_eq!(day, [logs.join("api.web/2023-11-14.ndjson")], "the date is that of the record");
    let outside: Vec<_> =
        files_under(&dir.path().join("outer")).into_iter().filter(|p| !p.starts_with(&logs)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    for path in files_under(&logs) {
        let below = path.strip_prefix(&logs).expect("it is below");
        assert_eq!(below.components().count(), 2, "each tag is one folder: {}", path.display());
    }
    let tags_out: Vec<_> = records(&logs).iter().map(|record| record["tag"].clone()).collect();
    assert_eq!(tags_out.len(), tags.len(), "{tags_out:?}");
}

#[test]
fn rotation_by_size_keeps_every_record_and_then_only_as_many_files_as_asked() {
    let dir = folder();
    let port = free_port();
    let path = dir.path().join("logs/out.ndjson");
    let sink = format!("path = {path:?}\nrotate = {{ size = \"64KiB\", keep = 1000 }}");
    let mut first = node(dir.path(), &config(port, &sink)).start();
    let mut client = Client::tcp(port);
    send(&mut client, "t", 0, 8_000);
    drop(client);
    first.stop_well();
    let files = files_under(&dir.path().join("logs"));
    assert!(files.len() >= 6, "{files:?}");
    for file in &files {
        let size = fs::metadata(file).expect("it is there").len();
        assert!(size < 200 << 10, "{} has {size} bytes", file.display());
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(name.starts_with("out.") && name.ends_with(".ndjson"), "{name} keeps its prefix and its end");
    }
    assert_numbers(&dir.path().join("logs"), "t", 8_000);

    let sink = sink.replace("keep = 1000", "keep = 2");
    let mut second = node(dir.path(), &config(port, &sink)).start();
    let mut client = Client::tcp(port);
    send(&mut client, "t", 8_000, 16_000);
    drop(client);
    second.stop_well();
    let left = files_under(&dir.path().join("logs"));
    assert!(left.len() <= 3, "two finished files and the open one: {left:?}");
}

#[test]
fn compressed_output_is_readable_after_kill_9_and_holds_what_was_acked() {
    for end in ["gz", "zst"] {
        let dir = folder();
        let port = free_port();
        let path = dir.path().join(format!("out.ndjson.{end}"));
        let body = config(port, &format!("path = {path:?}"));
        let mut first = node(dir.path(), &body).start();
        let mut client = Client::tcp(port);
        send(&mut client, "t", 0, 3_000);
        first.kill();
        assert_numbers(&path, "t", 3_000);
        let mut second = node(dir.path(), &body).start();
        let mut client = Client::tcp(port);
        send(&mut client, "t", 3_000, 4_000);
        drop(client);
        second.stop_well();
        assert_numbers(&path, "t", 4_000);
        let status = std::process::Command::new("gzip").arg("-t").arg(&path).status();
        if end == "gz" {
            assert!(status.expect("gzip is everywhere").success(), "gzip itself reads it to the end");
        }
    }
}

#[test]
fn sighup_reopens_a_file_that_was_moved_away() {
    let dir = folder();
    let port = free_port();
    let (path, moved) = (dir.path().join("out.ndjson"), dir.path().join("moved.ndjson"));
    let mut node = node(dir.path(), &config(port, &format!("path = {path:?}"))).start();
    let mut client = Client::tcp(port);
    send(&mut client, "t", 0, 100);
    fs::rename(&path, &moved).expect("it is there");
    node.signal(Signal::HUP);
    let mut sent = 100;
    node.wait_for("the new file", |_| {
        send(&mut client, "t", sent, sent + 100);
        sent += 100;
        line_count(&path) > 0
    });
    drop(client);
    node.stop_well();
    let all = [records(&moved), records(&path)].concat();
    let seqs: Vec<u64> = all.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..sent).collect::<Vec<_>>());
}

#[test]
fn a_record_is_in_the_file_within_a_moment_of_its_arrival() {
    let dir = folder();
    let port = free_port();
    let path = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(port, &format!("path = {path:?}"))).start();
    let mut client = Client::tcp(port);
    for count in 1..=20 {
        client.send(&message("t", 1_700_000_000.into(), map(&[("seq", count.into())]), None));
        node.wait_within(Duration::from_secs(2), "the record in the file", &mut |_| {
            line_count(&path) >= count as usize
        });
    }
    node.stop_well();
}

#[test]
fn added_fields_can_be_chosen() {
    let dir = folder();
    let port = free_port();
    let path = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(port, &format!("path = {path:?}\nadd = [\"tag\"]"))).start();
    let mut client = Client::tcp(port);
    send(&mut client, "t", 0, 1);
    node.stop_well();
    assert_eq!(lines(&path), [r#"{"seq":0,"tag":"t"}"#]);
}
