//! kill -9 at any moment, and a start after it: nothing is missing, and what comes twice is bounded; after a stop nothing
//! comes twice.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::docker_folder::{app_line, config};
use crate::harness::containers::Container;
use crate::harness::records::{Numbers, assert_each_once, line_count, records, records_so_far};
use crate::harness::twice::pass_the_time_of_twice;
use crate::harness::{Moments, Node, folder, node, run, told};

/// Rounds of kill -9; `.ci/campaign` asks for more.
fn rounds() -> u64 {
    std::env::var("LONGSHORE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Containers that write and rotate until they are told; each gives its name and its number of lines.
fn writers(root: &Path, done: &Arc<AtomicBool>) -> Vec<JoinHandle<(String, u64)>> {
    [(1, "web"), (2, "api")]
        .map(|(seed, name)| {
            let mut container = Container::create(root, seed, name, "app:1", &[]);
            let done = Arc::clone(done);
            thread::spawn(move || {
                let mut seq = 0;
                while !done.load(Ordering::Relaxed) && seq < 2_000_000 {
                    for _ in 0..10 {
                        container.line(&app_line(seq), "stdout");
                        seq += 1;
                    }
                    // A rotation every second or so; eight generations outlive any pause of this test.
                    if seq % 2_000 == 0 {
                        container.rotate(8);
                        // A compressed file that was begun after the last save may be named anew.
                        if seq % 4_000 == 0 && name == "web" {
                            container.compress(1);
                        }
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                (name.to_owned(), seq)
            })
        })
        .into_iter()
        .collect()
}

fn with_ids(dir: &Path) -> String {
    config(dir) + "add = [\"stream\", \"time\", \"container\", \"tag\", \"id\"]\n"
}

/// Each line has one id whenever it comes, and no other line has that.
fn assert_ids(records: &[serde_json::Value]) {
    let (mut lines, mut ids) = (HashMap::new(), HashMap::new());
    for record in records {
        let name = record["container"]["name"].as_str().expect("one");
        let line = (name, record["seq"].as_u64().expect("a number"));
        let id = record["longshore_id"].as_str().expect("one");
        assert_eq!(*ids.entry(id).or_insert(line), line, "two lines have the id {id}");
        let known = *lines.entry(line).or_insert(id);
        assert!(known == id || name == "web", "{line:?} came as {known} and as {id}");
    }
}

/// Starts the node so many times while containers write and rotate, and ends it at other moments as `end` does; how many lines
/// each container has written in all.
fn interrupted(dir: &Path, rounds: u64, mut end: impl FnMut(Node)) -> BTreeMap<String, u64> {
    let done = Arc::new(AtomicBool::new(false));
    let writers = writers(&dir.join("containers"), &done);
    let (out, mut moments) = (dir.join("out.ndjson"), Moments::new());
    for _ in 0..rounds {
        let before = line_count(&out);
        let mut node = node(dir, &with_ids(dir)).start();
        node.wait_for("some progress", |_| line_count(&out) > before);
        // At any moment of the 250 ms between two checkpoints.
        moments.wait(400);
        end(node);
    }
    done.store(true, Ordering::Relaxed);
    writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect()
}

#[test]
fn stops_and_starts_while_containers_write_and_rotate_lose_nothing_and_double_nothing() {
    let dir = folder();
    let out = dir.path().join("out.ndjson");
    let expected = interrupted(dir.path(), 6, |mut node| node.stop_well());
    let total: u64 = expected.values().sum();
    let mut last = node(dir.path(), &config(dir.path())).start();
    last.wait_for("all records", |_| line_count(&out) as u64 >= total);
    last.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &expected);
}

#[test]
fn checkpoints_that_can_not_be_read_are_named_and_lines_come_again() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    (0..20).for_each(|seq| web.line(&app_line(seq), "stdout"));
    let out = dir.path().join("out.ndjson");
    let mut first = node(dir.path(), &config(dir.path())).start();
    first.wait_for("20 records", |_| line_count(&out) == 20);
    first.stop_well();
    for name in ["checkpoints", "checkpoints.bak"] {
        std::fs::write(dir.path().join("data").join(name), b"\0\0\0").expect("writable");
    }
    let mut second = node(dir.path(), &config(dir.path())).start();
    second.wait_for("all of them again", |_| line_count(&out) >= 40);
    let said = "neither the checkpoints nor their previous save can be read";
    assert!(second.log().contains(said), "{}", second.log());
    second.stop_well();
    let found = Numbers::of(&records(&out), "container.name", "seq");
    let expected = BTreeMap::from([("web".to_owned(), 20)]);
    assert!(found.missing(&expected).is_empty() && found.repeats() == 20, "{found:?}");
}

#[test]
fn kill_9_while_containers_write_and_rotate_loses_nothing() {
    let dir = folder();
    let out = dir.path().join("out.ndjson");
    let kills = rounds();
    let written = || std::fs::metadata(&out).map_or(0, |file| file.len());
    // What was written within the time that the README gives, before each kill; each third comes at once, when nothing may be saved
    // of what that life has written.
    let (mut allowed, mut round, mut began) = (0, 0, 0);
    let expected = interrupted(dir.path(), kills, |mut node| {
        round += 1;
        if round % 3 > 0 {
            began = written();
            pass_the_time_of_twice(dir.path());
        }
        node.kill();
        allowed += written() - began;
        began = written();
    });
    let total: u64 = expected.values().sum();
    let mut last = node(dir.path(), &with_ids(dir.path())).start();
    last.wait_for("all records", |_| {
        line_count(&out) as u64 >= total
            && Numbers::of(&records_so_far(&out), "container.name", "seq").missing(&expected).is_empty()
    });
    last.stop_well();
    let records = records(&out);
    let found = Numbers::of(&records, "container.name", "seq");
    assert!(found.missing(&expected).is_empty(), "missing: {:?}", found.missing(&expected));
    assert_ids(&records);
    let repeats = found.repeats();
    // Into standard error past the capture: a figure that a person wants to see.
    let _ = writeln!(std::io::stderr(), "kill -9: {kills} kills, {total} records, 0 missing, {repeats} repeated");
    let bytes = repeats * written() / records.len() as u64;
    assert!(
        bytes <= allowed,
        "{repeats} records of {bytes} bytes came twice after {kills} kills, not of {allowed} at most"
    );
}

#[test]
fn a_torn_last_line_of_the_output_is_cut_before_new_ones_are_written() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    web.line(&app_line(0), "stdout");
    let out = dir.path().join("out.ndjson");
    let mut first = node(dir.path(), &config(dir.path())).start();
    first.wait_for("one record", |_| line_count(&out) == 1);
    first.stop_well();
    let mut file = std::fs::OpenOptions::new().append(true).open(&out).expect("the output is there");
    file.write_all(b"{\"seq\":1,\"torn").expect("writable");
    drop(file);
    web.line(&app_line(1), "stdout");
    let mut second = node(dir.path(), &config(dir.path())).start();
    second.wait_for("the second record", |_| line_count(&out) == 2);
    second.stop_well();
    let seqs: Vec<_> = records(&out).iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, [0, 1]);
}

#[test]
fn the_next_start_goes_on_where_a_place_was_set_and_from_the_head_where_it_was_forgotten() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let (out, data) = (dir.path().join("out.ndjson"), dir.path().join("data").display().to_string());
    let came = |web: &mut Container, more: std::ops::Range<u64>, count: usize| {
        let before = line_count(&out);
        let mut node = node(dir.path(), &config(dir.path())).start();
        more.for_each(|seq| web.line(&app_line(seq), "stdout"));
        node.wait_for("what is to come", |_| line_count(&out) >= before + count);
        // All that was read is delivered by then.
        node.stop_well();
        let seq = |record: &serde_json::Value| record["seq"].as_u64().expect("a number");
        records(&out)[before..].iter().map(seq).collect::<Vec<_>>()
    };
    let checkpoints = |words: &[&str]| {
        let said = run(dir.path(), &[&["checkpoints"], words, &["--data-dir", &data]].concat(), b"");
        assert!(said.status.success(), "{}", told(&said));
    };
    (0..5).for_each(|seq| web.line(&app_line(seq), "stdout"));
    web.rotate(3);
    assert_eq!(came(&mut web, 5..10, 10), (0..10).collect::<Vec<_>>());
    let log = web.path("").display().to_string();
    let text = std::fs::read_to_string(&log).expect("there");
    let offset: usize = text.lines().take(2).map(|line| line.len() + 1).sum();
    let (id, at) = (web.id[..12].to_owned(), offset.to_string());
    checkpoints(&["set", "containers", &id, "--offset", &at, "--file", &log]);
    assert_eq!(came(&mut web, 10..11, 4), [7, 8, 9, 10], "back, and nothing of the file before it");
    (11..14).for_each(|seq| web.line(&app_line(seq), "stdout"));
    checkpoints(&["set", "containers", &id, "--end", "--file", &log]);
    assert_eq!(came(&mut web, 14..15, 1), [14], "passed over");
    checkpoints(&["forget", "containers", &id]);
    assert_eq!(came(&mut web, 15..16, 16), (0..16).collect::<Vec<_>>());
}
