//! More followed files than the process may open.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use crate::harness::records::{line_count, records};
use crate::harness::{folder, node};

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
