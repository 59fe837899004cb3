//! Followed files by the thousand, and more of them than the process may open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::docker_folder;
use crate::harness::containers::Container;
use crate::harness::http::{Answer, Server};
use crate::harness::records::{line_count, records};
use crate::harness::{Node, PATIENCE, PROGRAM, folder, node};

const FILES: usize = 400;
/// Those that are rotated: a renamed file is held for a while, since its writer may not know yet.
const ROTATED: usize = 50;
/// Less than the files, and enough for sockets, threads and the disk log.
const LIMITED: [&str; 4] = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];

/// All logs of a folder, to a sink of these settings.
fn tailing(logs: &Path, sink: &str) -> String {
    let input = format!("type = \"file\"\npaths = [\"{}/*.log\"]\nformat = \"json\"\n", logs.display());
    format!("[inputs.app]\n{input}[sinks.out]\n{sink}")
}

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
    let body = tailing(&logs, &format!("type = \"file\"\npath = {out:?}\n"));
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
        .stdout(File::create(&out).expect("made"))
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

#[test]
fn what_is_not_delivered_stays_open_though_descriptors_are_scarce() {
    let dir = folder();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).expect("made");
    (0..FILES).for_each(|file| put(&logs.join(format!("{file}.log")), file, 0));
    let takes = Arc::new(AtomicBool::new(false));
    let taking = Arc::clone(&takes);
    let server = Server::start(move |_, _| Answer::status(if taking.load(Ordering::Relaxed) { 200 } else { 503 }));
    let body = tailing(&logs, &format!("type = \"http\"\nurl = {:?}\n", server.url()));
    let mut node = node(dir.path(), &body).under(&LIMITED).start();
    let open = |node: &Node| -> BTreeSet<PathBuf> {
        let fds = fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("ours").flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|path| path.starts_with(&logs)).collect()
    };
    node.wait_for("as many as may be open", |node| open(node).len() >= 120);
    let before = open(&node);
    // Others wait for a descriptor and ask for it ten times a second, idle files are looked at each second.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let now = open(&node);
        assert!(before.is_subset(&now), "closed: {:?}", before.difference(&now).collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(node.metric("longshore_follow_watching_total", &[("what", "parked")]), 0);
    // Some of them are deleted: they are delivered all the same, and the others come when there is room.
    before.iter().take(20).for_each(|path| fs::remove_file(path).expect("there"));
    takes.store(true, Ordering::Relaxed);
    node.wait_for("a line of each", |node| node.delivered("out") >= FILES as u64);
    assert!(node.metric("longshore_follow_watching_total", &[("what", "parked")]) > 0);
    node.stop_well();
    let mut came: Vec<u64> = server.accepted().iter().filter_map(|record| record["file_number"].as_u64()).collect();
    came.sort_unstable();
    assert!(came.into_iter().eq(0..FILES as u64), "a line of each file, once");
}

/// Hundredths of a second that a process has computed for.
fn computed(node: &Node) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid())).expect("ours");
    let (_, after) = stat.rsplit_once(')').expect("the name is in brackets");
    after.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn ten_thousand_idle_files_cost_nothing_and_their_lines_come_beside_one_at_full_speed() {
    const IDLE: usize = 10_000;
    let dir = folder();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).expect("made");
    let path = |file: usize| logs.join(format!("{file}.log"));
    (0..IDLE).for_each(|file| put(&path(file), file, 0));
    let out = dir.path().join("out.ndjson");
    let body = tailing(&logs, &format!("type = \"file\"\npath = {out:?}\nadd = []\n"));
    let mut node = node(dir.path(), &body).start();
    node.wait_for("a line of each", |node| node.delivered("out") >= IDLE as u64);
    // A fiftieth of a core at most: nothing is looked at each in turn. (At first there are watches to set and places to save.) Every
    // ten seconds there is a look at the folders: one is in each of these.
    node.wait_for("rest", |node| {
        let before = computed(node);
        thread::sleep(Duration::from_secs(11));
        computed(node) - before <= 22
    });
    let done = Arc::new(AtomicBool::new(false));
    let (hot, stop) = (logs.join("hot.log"), Arc::clone(&done));
    let writer = thread::spawn(move || {
        let mut file = File::create(hot).expect("made");
        let block = format!("{{\"hot\":\"{}\"}}\n", "x".repeat(200)).repeat(1_000);
        // 400 MB at most: more than is read in this time.
        for _ in 0..2_000 {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            file.write_all(block.as_bytes()).expect("written");
        }
    });
    let mut tail = File::open(&out).map(BufReader::new).expect("there");
    let (mut waits, mut hot_between) = (Vec::new(), Vec::new());
    let mut text = String::new();
    for n in 0..20 {
        let file = n * (IDLE / 20);
        let since = Instant::now();
        put(&path(file), file, 1);
        let own = format!("{{\"file_number\":{file},\"line\":1}}");
        let mut hot = 0;
        loop {
            assert!(since.elapsed() < PATIENCE, "the line of file {file} did not come; {hot} hot ones did");
            // A line that is not whole yet is gone on with.
            if tail.read_line(&mut text).expect("UTF-8") == 0 || !text.ends_with('\n') {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let is_own = text.trim_end() == own;
            hot += u64::from(text.starts_with("{\"hot\""));
            text.clear();
            if is_own {
                break;
            }
        }
        waits.push(since.elapsed());
        hot_between.push(hot);
    }
    done.store(true, Ordering::Relaxed);
    writer.join().expect("no panic");
    node.kill();
    waits.sort_unstable();
    assert!(waits[10] < Duration::from_secs(2), "a machine that is busy may be late, but not each time: {waits:?}");
    assert!(hot_between.iter().sum::<u64>() > 1_000, "the hot file is read meanwhile: {hot_between:?}");
}
