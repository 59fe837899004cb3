//! A disk that is full under the checkpoints: reading goes on, and it is said. One that is full under the file sink: what was not written is kept, tried again, and in the end every record is
//! there once. A read-only one does not keep the others
//! from starting; log and health name it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::docker_folder::{app_line, config};
use crate::harness::containers::Container;
use crate::harness::records::{Numbers, assert_each_once, line_count, records, records_so_far};
use crate::harness::{folder, node, run_command, skip, told};

/// A small file system in memory, unmounted when dropped.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// Mounts it; `None` (and said) where that is not allowed.
    pub fn mount(at: &Path, size: &str) -> Option<SmallDisk> {
        fs::create_dir_all(at).expect("writable");
        let options = format!("size={size},mode=755");
        let output = run_command(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "longshore"]).arg(at), b"");
        if !output.status.success() {
            skip("needs root and the right to mount a tmpfs");
            return None;
        }
        Some(SmallDisk(at.to_owned()))
    }

    /// Changes its options.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let output = run_command(Command::new("mount").args(["-o", &options]).arg(&self.0), b"");
        assert!(output.status.success(), "{}", told(&output));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_delays_records_and_loses_none() {
    const LINES: u64 = 10_000;
    let dir = folder();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), "1m") else { return };
    let out = disk.0.join("out.ndjson");
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    for seq in 0..LINES {
        web.line(&app_line(seq), "stdout");
    }
    let body = config(dir.path())
        .replace(dir.path().join("out.ndjson").to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let mut node = node(dir.path(), &body).start();
    node.wait_for("the disk to be full", |node| node.log().to_lowercase().contains("no space"));
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    let (_, health) = node.get("/health").expect("it is served");
    assert!(health.contains("out") && health.to_lowercase().contains("space"), "the check names it: {health}");
    disk.remount("size=64m");
    node.wait_for("all records", |node| node.delivered("out") >= LINES);
    node.assert_ledger_closes();
    node.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &BTreeMap::from([("web".to_owned(), LINES)]));
}

#[test]
fn a_full_disk_under_the_checkpoints_stops_no_reading_and_is_said() {
    let dir = folder();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), "16m") else { return };
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let data = format!("data_dir = {:?}", disk.0.join("data"));
    let body = config(dir.path()) + "[buffer]\nsize = \"8MiB\"\n";
    let (out, filler) = (dir.path().join("out.ndjson"), disk.0.join("filler"));
    let mut first = node(dir.path(), &body).with_node(&data).start();
    (0..100).for_each(|seq| web.line(&app_line(seq), "stdout"));
    first.wait_for("100 records", |_| line_count(&out) >= 100);
    // As much as there is room for.
    fs::write(&filler, vec![1; 16 << 20]).expect_err("it can not hold that");
    (100..200).for_each(|seq| web.line(&app_line(seq), "stdout"));
    first.wait_for("100 more", |_| line_count(&out) >= 200);
    first.wait_for("the log to say it", |node| node.log().contains("checkpoints were not saved"));
    first.wait_for("health to say it", |node| {
        node.get("/health").is_some_and(|(_, text)| text.contains("not saved") && text.contains("No space"))
    });
    first.kill();
    fs::remove_file(&filler).expect("there");
    let mut second = node(dir.path(), &body).with_node(&data).start();
    (200..210).for_each(|seq| web.line(&app_line(seq), "stdout"));
    let expected = BTreeMap::from([("web".to_owned(), 210)]);
    second.wait_for("the rest", |_| {
        Numbers::of(&records_so_far(&out), "container.name", "seq").missing(&expected).is_empty()
    });
    second.stop_well();
    let repeats = Numbers::of(&records(&out), "container.name", "seq").repeats();
    assert!(repeats <= 200, "no more than what was not saved: {repeats}");
}

#[test]
fn a_read_only_disk_is_named_in_log_and_health_and_costs_nothing() {
    let dir = folder();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), "16m") else { return };
    disk.remount("ro");
    let out = disk.0.join("out.ndjson");
    Container::create(&dir.path().join("containers"), 1, "web", "app", &[]).line(&app_line(0), "stdout");
    let body = config(dir.path())
        .replace(dir.path().join("out.ndjson").to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let mut node = node(dir.path(), &body).start();
    node.wait_for("the log to say it", |node| {
        let log = node.log().to_lowercase();
        log.contains("read-only") && log.contains("disk/out.ndjson")
    });
    node.wait_for("health to fail", |node| {
        node.get("/health").is_some_and(|(status, text)| status == 503 && text.to_lowercase().contains("read-only"))
    });
    disk.remount("rw");
    node.wait_for("the record", |node| node.delivered("out") == 1);
    node.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &BTreeMap::from([("web".to_owned(), 1)]));
}
