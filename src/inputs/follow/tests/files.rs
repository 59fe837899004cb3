//! Plain files.

use super::*;
use crate::metrics::followed::Generation;

#[test]
fn plain_files_are_followed_through_rename_and_late_writes() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("app.log");
    fs::write(&path, "one\r\ntwo\nunfin").expect("written");
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &format!("paths = [\"{}/*.log\"]\ntag = \"app\"", dir.path().display()));
    assert_eq!(node.wait_for(2), ["one", "two"]);
    let mut old = OpenOptions::new().append(true).open(&path).expect("opens");
    old.write_all(b"ished\n").expect("written");
    fs::rename(&path, dir.path().join("app.log.1")).expect("renamed");
    old.write_all(b"still here\n").expect("written");
    assert_eq!(node.wait_for(4)[2..], ["unfinished", "still here"]);
    fs::write(&path, "new file\n").expect("written");
    assert_eq!(node.wait_for(5)[4], "new file");
    old.write_all(b"late\n").expect("written");
    assert_eq!(node.wait_for(6)[5], "late");
    OpenOptions::new().append(true).open(&path).expect("opens").write_all(b"on\n").expect("written");
    assert_eq!(node.wait_for(7)[6], "on");
    assert_eq!(node.all()[0].tag, "app");
    node.shut_down();
    // After a restart nothing of it comes again.
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &format!("paths = [\"{}/*.log\"]", dir.path().display()));
    std::thread::sleep(Duration::from_millis(300));
    OpenOptions::new().append(true).open(&path).expect("opens").write_all(b"again\n").expect("written");
    assert_eq!(node.wait_for(1), ["again"]);
    node.shut_down();
}

#[test]
fn start_at_the_tail_counts_only_for_files_of_the_first_start() {
    let dir = tempfile::tempdir().expect("a temp dir");
    fs::write(dir.path().join("a.log"), "old\nhalf a li").expect("written");
    let settings = format!("paths = [\"{}/*.log\"]\nstart = \"tail\"", dir.path().display());
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    let opened = || node.metrics.inputs[0].followed.generations[Generation::Opened as usize].load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    while opened() == 0 {
        assert!(Instant::now() < deadline, "nothing was opened");
        std::thread::sleep(Duration::from_millis(2));
    }
    // The first listing ends at once after that.
    std::thread::sleep(Duration::from_millis(300));
    fs::write(dir.path().join("b.log"), "head of b\n").expect("written");
    node.wait_for(1);
    let mut a = OpenOptions::new().append(true).open(dir.path().join("a.log")).expect("opens");
    a.write_all(b"ne\nnew\n").expect("written");
    assert_eq!(node.wait_for(2), ["head of b", "new"]);
    node.shut_down();
    fs::write(dir.path().join("c.log"), "head of c\n").expect("written");
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    assert_eq!(node.wait_for(1), ["head of c"]);
    node.shut_down();
}

#[test]
fn what_is_no_file_is_reported_as_long_as_it_is_there_and_the_others_go_on() {
    let dir = tempfile::tempdir().expect("a temp dir");
    // A folder is nothing that one would follow: nothing is said of it.
    fs::create_dir(dir.path().join("folder.log")).expect("made");
    let fifo = dir.path().join("fifo.log");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("made");
    std::os::unix::fs::symlink(dir.path().join("loop.log"), dir.path().join("loop.log")).expect("linked");
    fs::write(dir.path().join("good.log"), "good\n").expect("written");
    fs::write(dir.path().join("of two\nlines.log"), "also\n").expect("written");
    let data = dir.path().join("data");
    let settings = format!("paths = [\"{}/*.log\"]", dir.path().display());
    let node = Node::at(Some(&data));
    node.start("file", &settings);
    let mut came = node.wait_for(2);
    came.sort();
    assert_eq!(came, ["also", "good"]);
    let said = |what: &str| {
        let check = node.metrics.checks().remove("input in");
        check.is_some_and(|(health, reason)| {
            health == Health::Warn && reason.contains(what) && reason.contains("`exclude`")
        })
    };
    until("both are said", || said("2 files can not be read"));
    // No more than those that are there.
    fs::remove_file(&fifo).expect("removed");
    until("one is left out of it", || said("1 files can not be read"));
    node.shut_down();
    // A name with a line's end is a key of the checkpoints like any other.
    fs::write(dir.path().join("last.log"), "last\n").expect("written");
    let node = Node::at(Some(&data));
    node.start("file", &settings);
    assert_eq!(node.wait_for(1), ["last"]);
    assert_eq!(node.shut_down(), ["last"], "and nothing again");
}

#[test]
fn a_line_beyond_the_limit_is_cut_and_counted_also_over_a_restart() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("a.log");
    let settings = format!("paths = [\"{}/*.log\"]\nline_max = \"1kB\"", dir.path().display());
    fs::write(&path, [b"first\n".to_vec(), b"x".repeat(700_000)].concat()).expect("written");
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    let long = "x".repeat(1000);
    assert_eq!(node.wait_for(2), ["first", &long]);
    node.shut_down();
    let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
    file.write_all(&[b"x".repeat(700_000), b"\nlast\n".to_vec()].concat()).expect("written");
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    assert_eq!(node.wait_for(1), ["last"]);
    node.shut_down();
}

#[test]
fn many_files_are_read_while_one_is_written_at_full_speed() {
    let dir = tempfile::tempdir().expect("a temp dir");
    for n in 0..200 {
        fs::write(dir.path().join(format!("{n}.log")), format!("cold {n}\n")).expect("written");
    }
    let node = Node::new();
    node.start("file", &format!("paths = [\"{}/*.log\"]\nreaders = 2", dir.path().display()));
    let mut hot = File::create(dir.path().join("hot.log")).expect("made");
    let block = "hot line of some length, again and again\n".repeat(1000);
    for _ in 0..100 {
        hot.write_all(block.as_bytes()).expect("written");
    }
    node.wait(|arrived| arrived.len() >= 100_200);
    assert_eq!(node.all().iter().filter(|record| record.log.starts_with("cold")).count(), 200);
}

#[test]
fn a_plain_file_that_was_rotated_and_compressed_while_stopped_is_read_to_its_end_first() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("app.log");
    fs::write(dir.path().join("app.log.1"), "older, not asked for\n").expect("written");
    fs::write(&path, "one\ntwo\n").expect("written");
    let settings = format!("paths = [\"{}/*.log\"]", dir.path().display());
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    assert_eq!(node.wait_for(2), ["one", "two"]);
    node.shut_down();
    let content = [fs::read(&path).expect("there"), b"three\n".to_vec()].concat();
    fs::rename(dir.path().join("app.log.1"), dir.path().join("app.log.2")).expect("renamed");
    fs::remove_file(&path).expect("removed");
    let mut encoder = GzEncoder::new(File::create(dir.path().join("app.log.1.gz")).expect("made"), Compression::fast());
    encoder.write_all(&content).expect("written");
    encoder.finish().expect("written");
    fs::write(&path, "four\n").expect("written");
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    assert_eq!(node.wait_for(2), ["three", "four"]);
    node.shut_down();
}

#[test]
fn reading_files_once_ends_with_their_unfinished_lines() {
    let dir = tempfile::tempdir().expect("a temp dir");
    fs::write(dir.path().join("a.log"), "one\ntwo\nunfin").expect("written");
    fs::write(dir.path().join("b.log"), "").expect("written");
    let node = Node::new();
    node.outlet.lock().expect("no panic").as_mut().expect("there").once = true;
    node.start("file", &format!("paths = [\"{}/*.log\"]", dir.path().display()));
    assert!(node.workers.join(Instant::now() + Duration::from_secs(10)), "it does not end by itself");
    assert_eq!(node.wait_for(3), ["one", "two", "unfin"]);
}

#[test]
fn a_cri_piece_without_an_end_is_a_record_once_nothing_can_follow_it() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let line = |stream: &str, tag: &str, text: &str| format!("2026-11-24T12:00:00.5+02:00 {stream} {tag} {text}\n");
    let content = [line("stderr", "P", "half"), line("stdout", "F", "one"), line("stdout", "F", "")].concat();
    fs::write(dir.path().join("a.log"), content).expect("written");
    let node = Node::new();
    node.outlet.lock().expect("no panic").as_mut().expect("there").once = true;
    node.start("file", &format!("paths = [\"{}/*.log\"]\nformat = \"cri\"", dir.path().display()));
    assert!(node.workers.join(Instant::now() + Duration::from_secs(10)), "it does not end by itself");
    assert_eq!(node.wait_for(3), ["one", "", "half"]);
    assert_eq!(node.oddity(Oddity::PartialOrphan), 1);
}

#[test]
fn files_with_the_same_long_head_are_all_read_and_told_apart_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let head = "#".repeat(4096);
    let settings = format!("paths = [\"{}/*.log\"]", dir.path().display());
    for name in ["a", "b"] {
        fs::write(dir.path().join(format!("{name}.log")), format!("{head}\n{name} 0\n")).expect("written");
    }
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    let mut came = node.wait_for(4);
    came.sort();
    assert_eq!(came, [head.as_str(), head.as_str(), "a 0", "b 0"]);
    node.shut_down();
    // Copied, so that only content tells, and a new file with the same head in its place.
    let (log, old) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    OpenOptions::new().append(true).open(&log).expect("there").write_all(b"a 1\n").expect("written");
    fs::copy(&log, &old).expect("copied");
    fs::remove_file(&log).expect("removed");
    fs::write(&log, format!("{head}\nnew 0\n")).expect("written");
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    assert_eq!(node.wait_for(3), ["a 1", head.as_str(), "new 0"]);
    node.shut_down();
}

#[test]
fn an_idle_file_that_grows_does_not_wait_for_the_end_of_a_long_one() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("idle.log"), "idle 0\n").expect("written");
    let node = Node::new();
    node.start("file", &format!("paths = [\"{}/*.log\"]\n", dir.path().display()));
    node.wait_for(1);
    // It is watched after 60 ms without data.
    std::thread::sleep(Duration::from_millis(500));
    // Held back with what fits into memory, until the idle file has grown.
    node.hold.store(true, Ordering::Release);
    let line = "long ".repeat(400) + "\n";
    fs::write(path("long"), line.repeat(50_000)).expect("written");
    fs::rename(path("long"), path("long.log")).expect("renamed");
    node.wait(|arrived| arrived.len() > 1);
    let mut idle = OpenOptions::new().append(true).open(path("idle.log")).expect("there");
    idle.write_all(b"idle 1\n").expect("written");
    node.hold.store(false, Ordering::Release);
    let held = std::mem::take(&mut *node.held.lock().expect("no panic"));
    held.into_iter().for_each(|shipment| shipment.receipts.settle(Outcome::Delivered));
    node.wait(|arrived| arrived.len() == 50_002);
    assert_ne!(node.all()[50_001].log, "idle 1", "it came last of all");
}

#[test]
fn an_input_that_has_ended_shows_nothing_open_or_held() {
    let dir = tempfile::tempdir().expect("a temp dir");
    fs::write(dir.path().join("a.log"), "one\n").expect("written");
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &format!("paths = [\"{}/*.log\"]", dir.path().display()));
    assert_eq!(node.wait_for(1), ["one"]);
    let input = &node.metrics.inputs[0];
    let followed = &input.followed;
    until("it is looked at", || followed.open_files.load(Ordering::Relaxed) == 1);
    assert_eq!(input.open.load(Ordering::Relaxed), 1);
    followed.in_danger.store(1, Ordering::Relaxed);
    followed.held_deleted.store(1, Ordering::Relaxed);
    node.end_inputs();
    let gauges = [&input.open, &followed.open_files, &followed.held_deleted, &followed.in_danger];
    assert_eq!(gauges.map(|gauge| gauge.load(Ordering::Relaxed)), [0; 4]);
}
