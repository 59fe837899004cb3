//! Plain files that logrotate rotates: the last lines of a renamed file, generations that are compressed between two looks,
//! and copies of what was read.

use super::*;

impl Stage {
    /// Now, as files have it.
    fn time(&self) -> SystemTime {
        self.wall + self.now
    }

    pub(super) fn change(&self, name: &str) {
        let file = OpenOptions::new().append(true).open(self.path(name)).expect("there");
        file.set_modified(self.time()).expect("set");
    }

    pub(super) fn compress(&self, name: &str) {
        compress(&self.path(name));
    }

    /// Rotates and compresses at once; the new file has that line.
    pub(super) fn rotate(&self, line: &str) {
        for n in (1..9).rev() {
            let _ = fs::rename(self.path(&format!("x.log.{n}.gz")), self.path(&format!("x.log.{}.gz", n + 1)));
        }
        self.rename("x.log", "x.log.1");
        self.put("x.log", &[line]);
        self.compress("x.log.1");
        // They differ in their times.
        a_tick();
    }
}

/// Compresses a file as logrotate does: the compressed one has the time of the plain one.
pub(super) fn compress(plain: &Path) {
    let copy = PathBuf::from(format!("{}.gz", plain.display()));
    packed(&copy, &fs::read_to_string(plain).expect("there"));
    let changed = fs::metadata(plain).and_then(|meta| meta.modified()).expect("there");
    OpenOptions::new().append(true).open(copy).and_then(|file| file.set_modified(changed)).expect("set");
    fs::remove_file(plain).expect("removed");
}

pub(super) fn one_file() -> Stage {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    stage
}

#[test]
fn what_was_made_and_rotated_before_its_name_was_looked_at_is_read_and_what_was_there_is_not() {
    let mut stage = Stage::files(&["*.log"], |root| {
        put(&root.join("y.log.1"), &["old"]);
        put(&root.join("z.log.1"), &["old"]);
        a_tick();
    });
    assert!(stage.seconds(1).is_empty());
    stage.rename("y.log.1", "y.log.2");
    for name in ["x", "y"] {
        let log = format!("{name}.log");
        stage.put(&log, &[&format!("{name}1")]);
        stage.rename(&log, &format!("{log}.1"));
        stage.put(&log, &[&format!("{name}2")]);
    }
    // Made twice, and the first one is gone: what is older was there before, and does not stand for it.
    stage.put("z.log", &["gone"]);
    stage.remove("z.log");
    stage.put("z.log", &["z"]);
    let mut came = stage.seconds(2);
    came.sort();
    assert_eq!(came, ["x1", "x2", "y1", "y2", "z"]);
    assert_eq!((stage.generations(Generation::Lost), stage.watching(Watching::GapPossible)), (1, 0));
}

#[test]
fn an_old_file_that_gets_a_second_name_that_is_followed_is_read_and_nothing_is_missing() {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("old"), &["1", "2"]));
    fs::hard_link(stage.path("old"), stage.path("x.log")).expect("linked");
    assert_eq!(stage.seconds(20), ["1", "2"]);
    assert_eq!((stage.generations(Generation::Lost), stage.watching(Watching::GapPossible)), (0, 0));
}

#[test]
fn the_last_lines_of_a_renamed_file_come_before_those_that_its_writer_wrote_to_the_new_one() {
    for looks in 1..6 {
        let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["0"]));
        assert_eq!(stage.seconds(1), ["0"]);
        // Renamed files are looked at every 100 ms from now on, and were just now.
        stage.rename("x.log", "x.log.2");
        stage.put("x.log", &["1"]);
        assert_eq!(stage.seconds(1), ["1"]);
        stage.rename("x.log", "x.log.1");
        File::create(stage.path("x.log")).expect("made");
        // Right before one of the looks that follow a read without news.
        let (old, new, mut looked) = (stage.path("x.log.1"), stage.path("x.log"), None);
        disk::set_hook(Some(Box::new(move |call| {
            match (call, &mut looked) {
                (Call::Read, None) => looked = Some(0),
                (Call::Fstat, Some(times)) => {
                    *times += 1;
                    if *times == looks {
                        put(&old, &["2"]);
                        put(&new, &["3"]);
                    }
                }
                _ => {}
            }
            Ok(())
        })));
        let mut came = stage.after(Duration::from_millis(10));
        disk::set_hook(None);
        came.extend(stage.seconds(1));
        // What is not written at all by then had less looks than that.
        assert!(came == ["2", "3"] || came.is_empty() && looks > 3, "{looks}: {came:?}");
    }
}

#[test]
fn what_is_rotated_and_compressed_within_one_look_comes_once_though_the_newest_known_file_has_no_name_any_more() {
    let mut stage = one_file();
    a_tick();
    ["2", "3", "4"].iter().for_each(|line| stage.rotate(line));
    assert_eq!(stage.seconds(12), ["2", "3", "4"]);
    assert_eq!(stage.generations(Generation::Lost), 0);
    // The same while older ones are still known.
    ["5", "6"].iter().for_each(|line| stage.rotate(line));
    let undelivered = stage.unsettled(2);
    assert_eq!(rows(&undelivered), 2);
    stage.rotate("7");
    let more = stage.unsettled(12);
    assert_eq!(rows(&more), 1);
    assert_eq!(stage.generations(Generation::Lost), 0);
}

#[test]
fn a_compressed_file_that_still_grows_when_it_is_met_is_known_as_the_copy_of_a_plain_one_once_it_is_whole() {
    let mut stage = one_file();
    a_tick();
    stage.rotate("2");
    stage.rename("x.log.1.gz", "x.log.2.gz");
    let (root, time, mut done) = (stage.root.clone(), stage.time(), false);
    let (plain, copy) = (root.join("x.log.1"), root.join("x.log.1.gz"));
    packed(&root.join("whole"), "2\n");
    let whole = fs::read(root.join("whole")).expect("there");
    let (half, rest) = (whole[..10].to_vec(), whole[10..].to_vec());
    let growing = Rc::new(RefCell::new(None));
    let grows = Rc::clone(&growing);
    disk::set_hook(Some(Box::new(move |call| {
        // Rotated once more, between the looks for the plain file and for the compressed one.
        if call == Call::Stat(&copy) && !std::mem::replace(&mut done, true) {
            fs::rename(root.join("x.log"), &plain).expect("renamed");
            put(&root.join("x.log"), &["3"]);
            let mut file = File::create(&copy).expect("made");
            file.write_all(&half).and_then(|()| file.set_modified(time)).expect("written");
            *grows.borrow_mut() = Some(file);
        }
        Ok(())
    })));
    let mut came = stage.after(Duration::from_millis(1));
    disk::set_hook(None);
    let mut file = growing.take().expect("it was asked for");
    came.extend(stage.after(Duration::from_millis(300)));
    let changed = fs::metadata(stage.path("x.log.1")).and_then(|meta| meta.modified()).expect("there");
    file.write_all(&rest).and_then(|()| file.set_modified(changed)).expect("written");
    drop(file);
    stage.remove("x.log.1");
    came.extend(stage.seconds(12));
    assert_eq!(came, ["2", "3"]);
}

#[test]
fn a_renamed_file_is_completed_once_when_nothing_more_is_expected_of_it() {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    let rotate = |stage: &mut Stage, old: &str, line| {
        stage.rename("x.log", old);
        stage.put("x.log", &[line]);
        stage.seconds(2)
    };
    assert_eq!(rotate(&mut stage, "x.log.1", "2"), ["2"]);
    assert_eq!(stage.generations(Generation::Completed), 0, "its writer may not know of the rotation");
    stage.remove("x.log.1");
    stage.seconds(100);
    assert_eq!(stage.generations(Generation::Completed), 1);
    // One that is left for want of descriptors, and grows after that.
    assert_eq!(rotate(&mut stage, "x.log.1", "3"), ["3"]);
    stage.seconds(40);
    assert_eq!(stage.generations(Generation::Completed), 1);
    held::set_scarce(true);
    stage.put("x.log", &["4"]);
    assert_eq!(stage.seconds(20), ["4"]);
    assert_eq!(stage.generations(Generation::Completed), 2);
    held::set_scarce(false);
    stage.put("x.log.1", &["late"]);
    stage.rename("x.log.1", "x.log.2");
    let mut came = rotate(&mut stage, "x.log.1", "5");
    came.sort();
    assert_eq!(came, ["5", "late"]);
    stage.remove("x.log.1");
    stage.remove("x.log.2");
    stage.seconds(100);
    assert_eq!(stage.generations(Generation::Completed), 3);
}

#[test]
fn a_renamed_file_that_is_read_again_while_the_next_one_waits_is_not_read_on_twice() {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
    let lost = stage.unsettled(1);
    assert_eq!(lost.len(), 1);
    stage.rename("x.log", "x.log.2");
    packed(&stage.path("x.log.1.gz"), "2\n");
    stage.put("x.log", &["3"]);
    // The compressed one waits for a decoder.
    let all = stage.life().reader.take_decoders();
    assert!(stage.unsettled(3).is_empty());
    drop(lost);
    assert_eq!(stage.seconds(3), ["1"]);
    drop(all);
    assert_eq!(stage.seconds(3), ["2", "3"]);
    stage.put("x.log.2", &["late"]);
    assert_eq!(stage.seconds(3), ["late"]);
}

/// As `copytruncate` does it, at the simulation's time; what is `written` meanwhile is in no copy.
pub(super) fn copy_and_truncate(stage: &mut Stage, written: &[&str]) {
    fs::copy(stage.path("x.log"), stage.path("x.log.1")).expect("copied");
    stage.change("x.log.1");
    if !written.is_empty() {
        stage.put("x.log", written);
        assert_eq!(stage.after(Duration::from_millis(1)), written);
    }
    OpenOptions::new().write(true).open(stage.path("x.log")).and_then(|file| file.set_len(0)).expect("truncated");
    stage.change("x.log");
}

#[test]
fn a_copy_that_is_compressed_right_after_it_was_read_does_not_come_again() {
    let mut stage = one_file();
    copy_and_truncate(&mut stage, &[]);
    (0..3).for_each(|_| assert!(stage.after(Duration::from_millis(1)).is_empty()));
    stage.compress("x.log.1");
    assert!(stage.after(Duration::from_millis(1)).is_empty());
    assert!(stage.seconds(3).is_empty());
    stage.put("x.log", &["2"]);
    assert_eq!(stage.seconds(3), ["2"]);
}

#[test]
fn a_copy_that_was_made_just_before_more_was_read_does_not_come_again() {
    let mut stage = one_file();
    copy_and_truncate(&mut stage, &["2"]);
    assert!(stage.seconds(3).is_empty());
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(3), ["3"]);
}

#[test]
fn a_cri_line_that_begins_in_a_renamed_file_is_whole_also_after_a_restart_in_the_middle_of_it() {
    const TIME: &str = "2026-11-24T10:00:00Z";
    let rules = || Rules { format: Format::Cri, ..text_rules() };
    let (first, second) = (format!("{TIME} stdout P half, "), format!("{TIME} stdout P "));
    let mut stage =
        Stage::files_of(rules, &["*.log"], |root| put(&root.join("x.log"), &[&format!("{TIME} stdout F a"), &first]));
    assert_eq!(stage.seconds(1), ["a"]);
    stage.rename("x.log", "x.log.20261124-100000");
    stage.put("x.log", &[&format!("{TIME} stderr F b"), &second]);
    assert_eq!(stage.seconds(2), ["b"]);
    stage.stop();
    stage.start();
    assert_eq!(stage.seconds(1), [""; 0]);
    stage.put("x.log", &[&format!("{TIME} stdout F and half")]);
    assert_eq!(stage.seconds(2), ["half, and half"]);
    assert_eq!(stage.oddity(Oddity::PartialOrphan), 0);
}

#[test]
fn what_was_compressed_and_left_out_does_not_come_when_its_file_is_made_again() {
    let mut stage = one_file();
    a_tick();
    ["2", "3"].iter().for_each(|line| stage.rotate(line));
    assert_eq!(stage.seconds(12), ["2", "3"]);
    stage.rename("x.log", "x.log.1");
    stage.compress("x.log.1");
    // It has no name, and is quiet until its chain ends.
    assert_eq!(stage.seconds(100), [""; 0]);
    File::create(stage.path("x.log")).expect("made");
    assert_eq!(stage.seconds(1), [""; 0]);
    stage.put("x.log", &["4"]);
    stage.change("x.log");
    assert_eq!(stage.seconds(3), ["4"]);
}

#[test]
fn a_renamed_file_that_the_new_one_begins_with_is_read_to_its_end_first() {
    let lines = |n| vec!["ok"; n];
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &lines(100)));
    assert_eq!(stage.seconds(1).len(), 100);
    stage.stop();
    stage.put("x.log", &lines(50));
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &lines(300));
    stage.start();
    assert_eq!(stage.seconds(3).len(), 350);
}

#[test]
fn a_stored_time_of_copies_that_is_ahead_hides_none_that_are_made_later() {
    let mut stage = one_file();
    stage.stop();
    stage.store(|entry| entry.saved.done.copies.until = i64::MAX);
    stage.start();
    assert_eq!(stage.seconds(1), [""; 0]);
    // Copied and truncated twice between two reads; the first copy is gone.
    OpenOptions::new().write(true).open(stage.path("x.log")).and_then(|file| file.set_len(0)).expect("truncated");
    stage.put("x.log", &["3"]);
    copy_and_truncate(&mut stage, &[]);
    stage.put("x.log", &["4"]);
    assert_eq!(stage.seconds(3), ["3", "4"]);
}

#[test]
fn a_first_line_that_grows_has_the_folder_not_listed_each_time() {
    let mut stage = one_file();
    copy_and_truncate(&mut stage, &[]);
    assert_eq!(stage.seconds(3), [""; 0]);
    let listed = hook(|call| matches!(call, Call::List(_)), |_| None);
    for _ in 0..5 {
        let file = OpenOptions::new().append(true).open(stage.path("x.log"));
        file.and_then(|mut file| file.write_all(b"more ")).expect("written");
        stage.change("x.log");
        assert_eq!(stage.after(Duration::from_millis(20)), [""; 0]);
    }
    assert_eq!(listed.load(Ordering::Relaxed), 0);
    stage.put("x.log", &["2"]);
    assert_eq!(stage.seconds(1), ["more more more more more 2"]);
}
