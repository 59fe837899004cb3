//! Where a start goes on among files that were renamed, compressed, or copied and truncated meanwhile.

use rustix::io::Errno;

use super::logrotate::{compress, copy_and_truncate, one_file};
use super::*;
use crate::inputs::follow::disk::Bad;
use crate::inputs::follow::identity::FileId;

#[test]
fn a_compressed_file_that_was_being_read_and_is_gone_does_not_hide_the_one_after_it() {
    let mut stage = one_file();
    stage.stop();
    a_tick();
    stage.put("x.log", &["2"]);
    stage.rotate("3");
    stage.start();
    // Nothing of it is delivered.
    let came = stage.unsettled(3);
    assert_eq!(rows(&came), 2);
    stage.stop();
    drop(came);
    // Only that of the new file is left, compressed as well; that was written to for longer than its writer took to go over to it.
    stage.change("x.log");
    stage.rotate("4");
    stage.remove("x.log.2.gz");
    stage.start();
    // After the record of the gap.
    assert_eq!(stage.seconds(3)[1..], ["3", "4"]);
    assert_eq!(stage.generations(Generation::Lost), 1);
}

#[test]
fn a_copy_that_was_being_read_and_is_gone_does_not_hide_the_file_that_it_was_made_of() {
    let mut stage = one_file();
    stage.stop();
    stage.store(|entry| {
        let done = &mut entry.saved.done;
        done.id = FileId { ino: 1, btime: done.id.btime + 1_000_000_000, ..done.id };
        (done.name, done.offset, done.head.hash) = ("x.log.2".to_owned(), 0, 1);
    });
    stage.start();
    // After the record of the gap.
    assert_eq!(stage.seconds(3).last().map(String::as_str), Some("1"));
}

#[test]
fn what_is_compressed_of_a_renamed_file_after_a_start_is_no_copy_of_the_next_one() {
    let mut stage = one_file();
    stage.stop();
    a_tick();
    stage.put("x.log", &["2"]);
    stage.rename("x.log", "x.log.20261124-100000");
    File::create(stage.path("x.log")).expect("made");
    stage.start();
    assert_eq!(stage.seconds(1), ["2"]);
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(40), ["3"]);
    stage.stop();
    // Nothing of the new file had been delivered, for all that is stored.
    stage.store(|entry| entry.saved.done.offset = 0);
    packed(&stage.path("x.log.20261124-100000.gz"), "1\n2\n");
    stage.remove("x.log.20261124-100000");
    stage.start();
    assert_eq!(stage.seconds(3), ["3"]);
}

#[test]
fn what_is_renamed_and_compressed_while_copies_are_looked_for_is_no_copy_of_itself() {
    let mut stage = Stage::files(&["*.log"], |root| drop(File::create(root.join("x.log"))));
    assert_eq!(stage.seconds(3), [""; 0]);
    stage.put("x.log", &["2"]);
    stage.change("x.log");
    let (root, mut done) = (stage.root.clone(), false);
    disk::set_hook(Some(Box::new(move |call| {
        if matches!(call, Call::List(_)) && !std::mem::replace(&mut done, true) {
            fs::rename(root.join("x.log"), root.join("x.log.1")).expect("renamed");
            File::create(root.join("x.log")).expect("made");
            compress(&root.join("x.log.1"));
        }
        Ok(())
    })));
    let came = stage.seconds(12);
    disk::set_hook(None);
    assert_eq!(came, ["2"]);
}

#[test]
fn a_copy_that_begins_with_a_hole_and_is_compressed_before_anything_of_it_was_delivered_comes() {
    let mut stage = one_file();
    copy_and_truncate(&mut stage, &[]);
    assert_eq!(stage.seconds(3), [""; 0]);
    // Written without `O_APPEND`, copied and truncated before anybody looks.
    OpenOptions::new().write(true).open(stage.path("x.log")).and_then(|file| file.set_len(4096)).expect("written");
    stage.put("x.log", &["2"]);
    stage.rename("x.log.1", "x.log.2");
    copy_and_truncate(&mut stage, &[]);
    let came = stage.unsettled(3);
    assert_eq!(rows(&came), 1);
    stage.stop();
    drop(came);
    stage.compress("x.log.1");
    stage.start();
    // The hole is no part of the line.
    assert_eq!(stage.seconds(3), ["2"]);
    assert_eq!(stage.oddity(Oddity::NulRun), 1);
}

#[test]
fn a_stop_within_the_hole_of_a_copy_loses_nothing_of_it_nor_of_those_after_it() {
    let mut stage = one_file();
    copy_and_truncate(&mut stage, &[]);
    assert_eq!(stage.seconds(3), [""; 0]);
    let write_behind = |stage: &mut Stage, hole: u64, line: &str| {
        let file = OpenOptions::new().write(true).open(stage.path("x.log"));
        file.and_then(|file| file.set_len(hole)).expect("written");
        stage.put("x.log", &[line]);
        stage.rename("x.log.1", "x.log.2");
        copy_and_truncate(stage, &[]);
    };
    // A disk that gives no more than a part of the hole.
    disk::set_bad(Some(Bad { name: "x.log.1", from: 2 << 20, errno: Errno::IO }));
    write_behind(&mut stage, 3 << 20, "2");
    assert_eq!(stage.seconds(3), [""; 0]);
    stage.stop();
    disk::set_bad(None);
    write_behind(&mut stage, 6 << 20, "3");
    stage.compress("x.log.2");
    stage.start();
    assert_eq!(stage.seconds(5), ["2", "3"]);
}

#[test]
fn a_late_line_of_a_renamed_file_is_no_reason_to_read_it_again_once_it_is_compressed() {
    let mut stage = one_file();
    stage.stop();
    stage.rename("x.log", "x.log.1");
    File::create(stage.path("x.log")).expect("made");
    stage.start();
    assert_eq!(stage.seconds(1), [""; 0]);
    stage.put("x.log.1", &["late"]);
    stage.change("x.log.1");
    stage.put("x.log", &["2"]);
    let mut came = stage.seconds(40);
    came.sort();
    assert_eq!(came, ["2", "late"]);
    stage.compress("x.log.1");
    // It is let go of.
    assert_eq!(stage.seconds(60), [""; 0]);
    OpenOptions::new().write(true).open(stage.path("x.log")).and_then(|file| file.set_len(0)).expect("truncated");
    stage.put("x.log", &["3"]);
    stage.change("x.log");
    assert_eq!(stage.seconds(3), ["3"]);
}

#[test]
fn a_copy_that_is_made_while_stopped_comes_also_beside_what_somebody_renamed_long_ago() {
    let mut stage = Stage::files(&["*.log"], |root| {
        put(&root.join("x.log-20260101"), &["0"]);
        a_tick();
        File::create(root.join("x.log")).expect("made");
    });
    assert_eq!(stage.seconds(3), [""; 0]);
    stage.stop();
    stage.put("x.log", &["1"]);
    fs::copy(stage.path("x.log"), stage.path("x.log.1")).expect("copied");
    OpenOptions::new().write(true).open(stage.path("x.log")).and_then(|file| file.set_len(0)).expect("truncated");
    stage.start();
    stage.put("x.log", &["2"]);
    assert_eq!(stage.seconds(3), ["1", "2"]);
}

const OLDER: &str = "x.log.20261124-100000";
const NEWER: &str = "x.log.20261124-100001";

/// A line of a CRI runtime.
fn cri(second: u32, text: &str) -> String {
    format!("2026-11-24T10:00:{second:02}Z stdout F {text}")
}

/// A line that is longer than what a file is known by.
const LONG: usize = 2000;

/// Its file was rotated, and both are read to the end.
fn rotated_cri() -> Stage {
    let rules = || Rules { format: Format::Cri, ..text_rules() };
    let mut stage = Stage::files_of(rules, &["*.log"], |root| put(&root.join("x.log"), &[&cri(1, &"x".repeat(LONG))]));
    assert_eq!(stage.seconds(1).len(), 1);
    stage.rename("x.log", OLDER);
    a_tick();
    stage.put("x.log", &[&cri(2, "2")]);
    assert_eq!(stage.seconds(1), ["2"]);
    stage
}

#[test]
fn a_start_on_records_older_than_a_week_goes_on_where_it_was_also_with_a_folder_that_comes_back_late() {
    let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(64));
    let ids = [a.clone(), b.clone(), c.clone()];
    let mut stage = Stage::containers(&[], |root| ids.iter().for_each(|id| container(root, id, "web", 0..3)));
    assert_eq!(stage.seconds(1).len(), 9);
    stage.stop();
    stage.store(|entry| entry.seen -= 30 * 86_400);
    let away = |id: &str| stage.dir.path().join(id);
    let (away_b, away_c) = (away(&b), away(&c));
    fs::rename(stage.path(&b), &away_b).and_then(|()| fs::rename(stage.path(&c), &away_c)).expect("moved");
    container(&stage.root, &a, "web", 3..5);
    stage.start();
    assert_eq!(stage.seconds(30), ["3", "4"], "and it is saved meanwhile");
    fs::rename(&away_b, stage.path(&b)).expect("moved back");
    container(&stage.root, &b, "web", 3..5);
    assert_eq!(stage.seconds(30), ["3", "4"], "and nothing of before");
    // What nobody has found for ten minutes after such a start is forgotten.
    stage.turns(Duration::from_secs(601));
    container(&stage.root, &a, "web", 5..6);
    assert_eq!(stage.seconds(2), ["5"]);
    stage.stop();
    let text = fs::read(stage.dir.path().join("data/checkpoints")).expect("there");
    let mut keys: Vec<String> = stored::read(&text).entries.into_keys().map(|(_, key)| key).collect();
    keys.sort();
    assert_eq!(keys, [a, b]);
}

/// The same, started anew after `change`.
fn started_anew(change: impl Fn(&Stage)) -> Stage {
    let mut stage = rotated_cri();
    stage.stop();
    change(&stage);
    stage.start();
    assert_eq!(stage.seconds(1), [""; 0]);
    a_tick();
    stage
}

/// As kubelet does: the compressed file has a time of its own.
fn compress_later(stage: &Stage, name: &str) {
    packed(&stage.path(&format!("{name}.gz")), &fs::read_to_string(stage.path(name)).expect("there"));
    stage.remove(name);
}

/// Both are compressed, and what is written next comes to a third file.
fn compress_both(stage: &Stage) {
    compress_later(stage, OLDER);
    stage.rename("x.log", NEWER);
    compress_later(stage, NEWER);
    stage.put("x.log", &[&cri(3, "3")]);
}

#[test]
fn what_is_compressed_while_the_next_file_is_silent_and_compressed_too_does_not_come_again() {
    let mut stage = started_anew(|_| ());
    compress_both(&stage);
    assert_eq!(stage.seconds(12), ["3"]);
}

#[test]
fn what_was_left_and_is_compressed_while_the_next_file_is_silent_does_not_come_again() {
    let mut stage = rotated_cri();
    held::set_scarce(true);
    assert_eq!(stage.seconds(40), [""; 0]);
    held::set_scarce(false);
    compress_both(&stage);
    assert_eq!(stage.seconds(12), ["3"]);
}

#[test]
fn what_is_compressed_while_stopped_is_no_copy_of_the_next_file_of_which_nothing_was_delivered() {
    // The next one is written to by a clock that was set back: all before it would seem to be older.
    for (second, comes) in [(3, &["2"][..]), (1, &["1", "2"])] {
        let rules = || Rules { format: Format::Cri, ..text_rules() };
        let mut stage = Stage::files_of(rules, &["*.log*"], |root| {
            put(&root.join(OLDER), &[&cri(2, "1")]);
            a_tick();
            put(&root.join("x.log"), &[&cri(second, "2")]);
        });
        let mut came = stage.unsettled(1);
        assert_eq!(rows(&came), 2);
        came.remove(0).receipts.settle(Outcome::Delivered);
        stage.stop();
        drop(came);
        compress_later(&stage, OLDER);
        stage.start();
        assert_eq!(stage.seconds(3), comes);
    }
}

#[test]
fn a_line_that_came_to_a_renamed_file_before_it_was_compressed_is_no_part_of_what_was_read() {
    let late = |stage: &Stage| {
        stage.put(OLDER, &[&cri(2, "late")]);
        stage.change(OLDER);
    };
    let after = started_anew(|_| ());
    late(&after);
    for mut stage in [after, started_anew(late)] {
        compress_both(&stage);
        // Nothing tells how much of it was read.
        assert_eq!(stage.seconds(12)[1..], ["late", "3"]);
    }
}

#[test]
fn a_renamed_file_that_was_let_go_of_and_comes_back_to_its_name_is_read_from_its_head() {
    let mut stage = started_anew(|_| ());
    stage.remove("x.log");
    stage.rename(OLDER, "x.log");
    stage.put("x.log", &[&cri(3, "3")]);
    stage.change("x.log");
    // From its head.
    let came = stage.seconds(12);
    assert_eq!((came.len(), came[0].len(), came[1].as_str()), (2, LONG, "3"));
}
