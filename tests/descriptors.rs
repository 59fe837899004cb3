//! More followed files than the process may open.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::docker_folder;
use crate::harness::containers::Container;
use crate::harness::records::{line_count, records};
use crate::harness::{PATIENCE, PROGRAM, folder, node};

const FILES: usize = 400;
/// Those that are rotated: a renamed file is held for a while, since its writer may not know yet.
const ROTATED: usize = 50;
/// Less than the files, and enough for sockets, threads and the disk log.
const LIMITED: [&str; 4] = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];

fn put(path: &Path, file: usize, line: usize) {
    let mut out = OpenOptions::new().create(true).append(true).open(path).expect("opens");
    writeln!(out, r#"{{"file_number":{file},"line":{line}}}"#).expect("written");
}

#[test]
fn more_files_than_descriptors_are_all_read_and_idle_ones_are_closed_in_turn() {
    let dir = folder();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).expect("made");
    let path = |file: usize| logs.join(format!("{file}.log"));
    (0..FILES).for_each(|file| put(&path(file), file, 0));
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.app]\ntype = \"file\"\npaths = [\"{}/*.log\"]\nformat = \"json\"\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n",
        logs.display()
    );
    let mut node = node(dir.path(), &body).under(&LIMITED).start();
    node.wait_for("a line of each file", |_| line_count(&out) >= FILES);
    assert!(node.metric("longshore_follow_watching_total", &[("input", "app"), ("what", "parked")]) > 0);
    for line in 1..3 {
        (0..FILES).for_each(|file| put(&path(file), file, line));
        node.wait_for("another line of each file", |_| line_count(&out) >= FILES * (line + 1));
    }
    // A last line, and the file is renamed at once: one that was closed is found by its new name.
    for file in 0..ROTATED {
        put(&path(file), file, 3);
        fs::rename(path(file), logs.join(format!("{file}.log.1"))).expect("renamed");
        put(&path(file), file, 4);
    }
    node.wait_for("the lines before and after the rotation", |_| line_count(&out) >= FILES * 3 + ROTATED * 2);
    node.stop_well();
    let mut came: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for record in records(&out) {
        let number = |key: &str| record[key].as_u64().expect("a number");
        came.entry(number("file_number")).or_default().push(number("line"));
    }
    assert_eq!(came.len(), FILES);
    let expected = |file: u64| if file < ROTATED as u64 { vec![0, 1, 2, 3, 4] } else { vec![0, 1, 2] };
    let wrong: Vec<_> = came.iter().filter(|(file, lines)| **lines != expected(**file)).collect();
    assert!(wrong.is_empty(), "each once and in order: {wrong:?}");
}

#[test]
fn a_tail_that_does_not_follow_ends_with_more_files_than_descriptors() {
    let dir = folder();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).expect("made");
    (0..FILES).for_each(|file| put(&logs.join(format!("{file}.log")), file, 0));
    let out = dir.path().join("out.ndjson");
    let mut child = Command::new(LIMITED[0])
        .args(&LIMITED[1..])
        .args([PROGRAM, "tail", "--no-follow"])
        .arg(logs.join("*.log"))
        .stdout(fs::File::create(&out).expect("made"))
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("the child is ours") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    assert!(status.is_some_and(|status| status.success()), "{status:?} after {} lines", line_count(&out));
    let mut came: Vec<u64> = records(&out).iter().map(|record| record["file_number"].as_u64().expect("one")).collect();
    came.sort_unstable();
    assert!(came.into_iter().eq(0..FILES as u64), "a line of each file, once");
}

#[test]
fn a_container_that_waited_for_a_descriptor_is_not_counted_as_lost_when_it_rotates() {
    const OLD: u8 = 160;
    const NEW: u8 = 30;
    let dir = folder();
    let root = dir.path().join("containers");
    let made = |seed: u8| {
        let mut container = Container::create(&root, seed, &format!("c{seed}"), "i", &[]);
        container.line(&docker_folder::app_line(0), "stdout");
        container
    };
    let _old: Vec<Container> = (1..=OLD).map(made).collect();
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &docker_folder::config(dir.path())).under(&LIMITED).start();
    node.wait_for("a line of each container", |_| line_count(&out) >= usize::from(OLD));
    let mut new: Vec<Container> = (OLD + 1..=OLD + NEW)
        .map(|seed| {
            // The folder is watched before there is a log in it, so the kernel tells of that.
            fs::create_dir(root.join(format!("{seed:02x}").repeat(32))).expect("made");
            thread::sleep(Duration::from_millis(20));
            made(seed)
        })
        .collect();
    node.wait_for("a line of each new one", |_| line_count(&out) >= usize::from(OLD + NEW));
    for container in &mut new {
        container.rotate(3);
        container.line(&docker_folder::app_line(1), "stdout");
    }
    node.wait_for("the lines after the rotation", |_| line_count(&out) >= usize::from(OLD) + 2 * usize::from(NEW));
    assert!(node.metric("longshore_follow_watching_total", &[("what", "parked")]) > 0);
    assert_eq!(node.metric("longshore_follow_generations_total", &[("what", "lost")]), 0);
    node.stop_well();
}
