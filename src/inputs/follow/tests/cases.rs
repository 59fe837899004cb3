//! Cases of `docs/tail-cases.md` that stand in no other file.

use super::*;
use crate::metrics::followed::{Generation, LostBytes};

fn put(path: &Path, range: std::ops::Range<usize>) {
    let text: String = range.map(|n| format!("line {n}\n")).collect();
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("opens");
    file.write_all(text.as_bytes()).expect("written");
}

fn generations(node: &Node, what: Generation) -> u64 {
    node.metrics.inputs[0].followed.generations[what as usize].load(Ordering::Relaxed)
}

fn lost_bytes(node: &Node, why: LostBytes) -> u64 {
    node.metrics.inputs[0].followed.lost_bytes[why as usize].load(Ordering::Relaxed)
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn deleted_files_beyond_their_limit_are_given_up_oldest_first_and_counted() {
    const LINES: usize = 200;
    let docker = Docker::new();
    docker.append(&["line 0"]);
    let node = Node::new();
    node.start("docker", &format!("{}held_deleted_max = \"64KiB\"\n", docker.settings()));
    node.wait_for(1);
    // Without memory nothing is read, and what Docker deletes meanwhile is only held.
    let budget = node.outlet().budget;
    let all: Vec<_> =
        std::iter::from_fn(|| budget.try_acquire(1 << 20).or_else(|| budget.try_acquire(1 << 10))).collect();
    const FILES: usize = 10;
    for n in 0..FILES {
        fs::remove_file(docker.path("")).expect("there");
        let from = 1 + n * LINES;
        docker.append(&lines(from..from + LINES));
        until("opened", || generations(&node, Generation::Opened) >= n as u64 + 2);
    }
    until("given up", || generations(&node, Generation::GivenUp) >= 5);
    let given_up = generations(&node, Generation::GivenUp) as usize;
    drop(all);
    docker.append(&["the end"]);
    node.wait(|arrived| arrived.iter().any(|record| record.log == "the end"));
    let came: Vec<usize> =
        node.all().iter().filter_map(|record| record.log.strip_prefix("line ")?.parse().ok()).collect();
    assert!(came.is_sorted_by(|a, b| a < b), "the rest in order");
    let missing = 1 + FILES * LINES - came.len();
    // Of the one that was being read when memory ran out, what had been read arrives though its file was given up.
    assert!(missing <= given_up * LINES && missing + LINES >= given_up * LINES, "{missing} of {given_up}");
    assert!(came.ends_with(&[FILES * LINES]), "the newest are kept: {:?}", came.last());
    let bytes = lost_bytes(&node, LostBytes::GivenUp);
    assert!(bytes >= (missing * docker.record("line 0\\n").len()) as u64, "{bytes} for {missing} lines");
}

#[test]
fn copies_that_were_made_twice_while_stopped_give_every_line_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let log = dir.path().join("a.log");
    let settings = format!("paths = [\"{}/*.log\"]\n", dir.path().display());
    let copy = |to: usize| fs::copy(&log, dir.path().join(format!("a.log.{to}"))).expect("copied");
    let truncate = || OpenOptions::new().write(true).open(&log).expect("opens").set_len(0).expect("truncated");
    put(&log, 0..100);
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    node.wait_for(100);
    node.shut_down();
    put(&log, 100..150);
    copy(2);
    truncate();
    put(&log, 150..220);
    copy(1);
    truncate();
    put(&log, 220..230);
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    assert_eq!(node.wait_for(130), lines(100..230));
    assert_eq!(lost_bytes(&node, LostBytes::Truncated), 0);
    node.shut_down();
}

#[test]
fn a_gz_with_docker_s_extra_field_is_read() {
    let docker = Docker::new();
    let text: String = (0..300).map(|n| docker.record(&format!("line {n}\\n"))).collect();
    let file = File::create(docker.path(".1.gz")).expect("made");
    let extra = br#"{"lastTime":"2026-11-24T10:00:00.0000003Z"}"#.to_vec();
    let mut encoder = flate2::GzBuilder::new().extra(extra).write(file, Compression::fast());
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.try_finish()).expect("written");
    docker.append(&["line 300"]);
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(301), lines(0..301));
    node.shut_down();
}

#[test]
fn a_link_that_is_pointed_elsewhere_is_followed_there_and_loops_and_dangling_links_hold_nobody_up() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().expect("a temp dir");
    let (logs, targets) = (dir.path().join("logs"), dir.path().join("targets"));
    fs::create_dir(&logs).and_then(|()| fs::create_dir(&targets)).expect("made");
    put(&targets.join("one"), 0..5);
    put(&targets.join("two"), 5..10);
    symlink(targets.join("one"), logs.join("a.log")).expect("linked");
    symlink(logs.join("loop.log"), logs.join("loop.log")).expect("linked");
    symlink(targets.join("nowhere"), logs.join("dangling.log")).expect("linked");
    let node = Node::new();
    node.start("file", &format!("paths = [\"{}/*.log\"]\n", logs.display()));
    assert_eq!(node.wait_for(5), lines(0..5));
    symlink(targets.join("two"), logs.join("new")).expect("linked");
    fs::rename(logs.join("new"), logs.join("a.log")).expect("replaced");
    assert_eq!(node.wait_for(10), lines(0..10));
    // A target that appears later is found, too.
    put(&targets.join("nowhere"), 10..12);
    assert_eq!(node.wait_for(12), lines(0..12));
}
