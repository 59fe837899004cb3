//! kill -9 at any moment, and a start after it: nothing is missing, and what comes twice is bounded.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::docker_folder::{app_line, config};
use crate::harness::containers::Container;
use crate::harness::records::{Numbers, line_count, records};
use crate::harness::{folder, node};

/// Rounds of kill -9; `.ci/campaign` asks for more.
fn rounds() -> u64 {
    std::env::var("LONGSHORE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

#[test]
fn kill_9_while_containers_write_and_rotate_loses_nothing() {
    let dir = folder();
    let root = dir.path().join("containers");
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [(1, "web"), (2, "api")]
        .map(|(seed, name)| {
            let mut container = Container::create(&root, seed, name, "app:1", &[]);
            let done = Arc::clone(&done);
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
                        if seq % 4_000 == 0 {
                            container.compress(1);
                        }
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                (name.to_owned(), seq)
            })
        })
        .into_iter()
        .collect();
    let out = dir.path().join("out.ndjson");
    let kills = rounds();
    for round in 0..kills {
        let before = line_count(&out);
        let mut node = node(dir.path(), &config(dir.path())).start();
        node.wait_for("some progress", |_| line_count(&out) > before);
        // Not the same moment of the 250 ms between two checkpoints each time.
        thread::sleep(Duration::from_millis(round * 97 % 400));
        node.kill();
    }
    done.store(true, Ordering::Relaxed);
    let expected: BTreeMap<String, u64> =
        writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect();
    let total: u64 = expected.values().sum();
    let mut last = node(dir.path(), &config(dir.path())).start();
    last.wait_for("all records", |_| {
        line_count(&out) as u64 >= total
            && Numbers::of(&records(&out), "container.name", "seq").missing(&expected).is_empty()
    });
    last.stop_well();
    let found = Numbers::of(&records(&out), "container.name", "seq");
    assert!(found.missing(&expected).is_empty(), "missing: {:?}", found.missing(&expected));
    let repeats = found.repeats();
    // Into standard error past the capture: a figure that a person wants to see.
    let _ = writeln!(std::io::stderr(), "kill -9: {kills} kills, {total} records, 0 missing, {repeats} repeated");
    // A checkpoint is at most 250 ms old, and the writers make about 4,000 lines a second together; four times that
    // for a busy machine.
    assert!(repeats <= kills * 4_000, "{repeats} records came twice after {kills} kills");
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
