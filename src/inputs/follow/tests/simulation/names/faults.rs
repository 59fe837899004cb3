//! Faults that come together: disks that do not give what is read again, what came late or what a rotation left, and sinks
//! that fail or stand still meanwhile.

use rustix::io::Errno;

use super::*;
use crate::inputs::follow::disk::Bad;

impl Stage {
    /// The same as [`Stage::seconds`] with a sink that settles nothing.
    pub(super) fn unsettled(&mut self, seconds: u32) -> Vec<Shipment> {
        let mut came = Vec::new();
        for _ in 0..seconds * 10 {
            self.turns(Duration::from_millis(100));
            came.extend(std::iter::from_fn(|| self.life().queue.try_recv().ok()));
        }
        came
    }

    /// The opener alone has its turns.
    fn opens(&mut self, seconds: u32) {
        for _ in 0..seconds * 10 {
            self.now += Duration::from_millis(100);
            clock::set(Some((*START + self.now, self.wall + self.now)));
            self.life().opener.step();
        }
    }

    fn keep(&mut self) {
        self.life().keeper.look(clock::now());
    }

    /// Of the first chain, as the keeper saw it last.
    fn backlog(&mut self) -> u64 {
        self.life().reader.standing(0).figures.backlog.load(Ordering::Relaxed)
    }

    fn unread(&mut self) -> (u64, u64) {
        (self.generations(Generation::Lost), self.lost_bytes(LostBytes::Unreadable))
    }

    /// Descriptors of this stage's file of that name.
    fn open(&self, name: &str) -> usize {
        let path = self.path(name);
        let links =
            fs::read_dir("/proc/self/fd").expect("there").filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| *link == path).count()
    }
}

fn one_file(lines: &'static [&'static str]) -> Stage {
    Stage::files(&["*.log"], |root| put(&root.join("x.log"), lines))
}

#[test]
fn a_compressed_generation_that_is_begun_a_second_time_stands_in_for_one_lost_one_only() {
    let id = "a".repeat(64);
    let mut stage = Stage::containers(&[], |root| container(root, &"a".repeat(64), "web", 0..2));
    let log = format!("{id}/{id}-json.log");
    let [first, second, third] = [1, 2, 3].map(|n| format!("{log}.{n}"));
    let lost = stage.unsettled(1);
    assert_eq!(rows(&lost), 2);
    // One is compressed before anybody looks.
    stage.rename(&log, &second);
    File::create(stage.path(&log)).expect("made");
    stage.remove(&log);
    let text: String = (2..4).map(|n| record_at(&format!("{n}\\n"), n)).collect();
    packed(&stage.path(&format!("{first}.gz")), &text);
    container(&stage.root, &id, "web", 4..5);
    // It waits for a decoder when what was read before it is to be read again.
    let all = stage.life().reader.take_decoders();
    assert!(stage.unsettled(3).is_empty());
    drop(lost);
    assert_eq!(stage.seconds(2), ["0", "1"]);
    drop(all);
    assert_eq!(stage.seconds(2), ["2", "3", "4"]);
    assert_eq!(stage.generations(Generation::Lost), 0);
    // Another one is lost.
    stage.rename(&log, &third);
    File::create(stage.path(&log)).expect("made");
    stage.remove(&log);
    container(&stage.root, &id, "web", 5..6);
    assert_eq!(stage.seconds(1), ["5"]);
    assert_eq!(stage.generations(Generation::Lost), 1);
}

#[test]
fn a_chain_holds_so_many_deleted_files_however_small_and_gives_the_oldest_up() {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.life().keeper.set_limits(1 << 20, 3);
    for line in ["2", "3", "4", "5", "6", "7", "8", "9"] {
        stage.remove("x.log");
        stage.put("x.log", &[line]);
        stage.opens(1);
        stage.keep();
    }
    assert_eq!((stage.generations(Generation::GivenUp), stage.lost_bytes(LostBytes::GivenUp)), (4, 8));
    assert_eq!(stage.seconds(5), ["6", "7", "8", "9"]);
    stage.keep();
    assert_eq!((stage.generations(Generation::GivenUp), stage.generations(Generation::Lost)), (4, 0));
}

#[test]
fn what_comes_to_a_name_in_the_last_turn_of_its_chain_is_read_by_the_next_one() {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.remove("x.log");
    stage.put("x.log", &["2"]);
    stage.opens(1);
    stage.life().reader.ended(0);
    // Before the opener has heard of that.
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(2), ["2", "3"]);
    // Gone as well. (What was made within a tick of the clock before a look may be new to it.)
    a_tick();
    stage.remove("x.log");
    stage.put("x.log", &["4"]);
    stage.opens(1);
    stage.life().reader.ended(1);
    stage.remove("x.log");
    stage.put("x.log", &["5"]);
    assert_eq!(stage.seconds(2), ["4", "5"]);
    // Rotated by when it was handed to it.
    a_tick();
    stage.remove("x.log");
    stage.put("x.log", &["6"]);
    a_tick();
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["7"]);
    a_tick();
    stage.opens(1);
    stage.life().reader.ended(2);
    assert_eq!(stage.seconds(2), ["6", "7"]);
    assert_eq!((stage.generations(Generation::Lost), stage.watching(Watching::GapPossible)), (0, 0));
    assert_eq!((stage.seconds(60).len(), stage.generations(Generation::Lost)), (0, 0));
}

#[test]
fn of_what_is_given_up_while_a_sink_holds_the_reader_up_little_stays() {
    let mut stage = one_file(&["0"]);
    assert_eq!(stage.seconds(1), ["0"]);
    stage.life().keeper.set_limits(1 << 20, 3);
    let handed = |stage: &mut Stage| stage.life().reader.standing(0).handed();
    let mut most = 0;
    for line in 1..=300 {
        stage.remove("x.log");
        stage.put("x.log", &[&line.to_string()]);
        stage.opens(1);
        stage.keep();
        most = most.max(handed(&mut stage));
    }
    assert_eq!(stage.generations(Generation::GivenUp), 300 - 4);
    // Twice as many as are not given up (the one that was read, three deleted ones, the newest), and 64.
    assert!((64..=74).contains(&most), "{most}");
    let told = stage.life().reader.standing(0).hand(Vec::new());
    assert!(!told, "once is enough");
    assert_eq!(stage.seconds(5), ["297", "298", "299", "300"]);
    assert_eq!(handed(&mut stage), 0);
}

#[test]
fn what_comes_late_while_a_file_can_not_be_read_again_does_not_take_its_place() {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["a longer line", "2"]);
    assert_eq!(stage.seconds(1), ["a longer line", "2"]);
    stage.put("x.log", &["3"]);
    let lost = stage.unsettled(1);
    assert_eq!(rows(&lost), 1);
    disk::set_bad(Some(Bad { name: "x.log", from: 0, errno: Errno::IO }));
    drop(lost);
    assert!(stage.seconds(2).is_empty());
    stage.put("x.log.1", &["late"]);
    let mut came = stage.seconds(2);
    disk::set_bad(None);
    came.extend(stage.seconds(3));
    came.sort();
    assert_eq!(came, ["3", "late"]);
    stage.stop();
    stage.put("x.log", &["4"]);
    stage.start();
    assert_eq!(stage.seconds(2), ["4"]);
    assert_eq!(stage.oddity(Oddity::FileRewritten), 0);
}

#[test]
fn quiet_renamed_files_are_closed_where_descriptors_are_scarce_also_while_the_newest_is_written() {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.rename("x.log", "x.log.1");
    let write = |stage: &mut Stage, seconds| {
        for _ in 0..seconds * 10 {
            stage.put("x.log", &["more"]);
            assert_eq!(stage.after(Duration::from_millis(100)), ["more"]);
        }
    };
    write(&mut stage, 40);
    assert_eq!(stage.open("x.log.1"), 1);
    held::set_scarce(true);
    write(&mut stage, 5);
    assert_eq!(stage.open("x.log.1"), 0);
}

#[test]
fn what_can_not_be_looked_at_after_a_rotation_is_looked_at_again() {
    let mut stage = left();
    stage.put("x.log.1", &["late"]);
    stage.rename("x.log.1", "x.log.2");
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["3"]);
    let refused = |call: Call<'_>| matches!(call, Call::Open(path) if path.ends_with("x.log.2"));
    let refusals = hook(refused, move |call| refused(call).then_some(Errno::IO));
    assert_eq!(stage.seconds(4), ["3"]);
    assert!((1..=5).contains(&refusals.load(Ordering::Relaxed)), "{refusals:?}");
    disk::set_hook(None);
    assert_eq!(stage.seconds(3), ["late"]);
}

#[test]
fn what_lies_behind_a_bad_block_of_the_newest_file_has_failed_before_a_newer_one_is_there() {
    let mut stage = one_file(&["1", "2"]);
    assert_eq!(stage.seconds(1), ["1", "2"]);
    disk::set_bad(Some(Bad { name: "x.log", from: 6, errno: Errno::IO }));
    stage.put("x.log", &["3", "4"]);
    assert_eq!(stage.seconds(40), ["3"]);
    assert_eq!(stage.unread(), (0, 0));
    disk::set_bad(Some(Bad { name: "x.log.1", from: 6, errno: Errno::IO }));
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["5"]);
    assert_eq!(stage.seconds(3), ["5"]);
    assert_eq!(stage.unread(), (1, 2));
}

#[test]
fn a_removed_file_that_ends_with_a_bad_block_is_counted() {
    let mut stage = one_file(&["1", "2"]);
    assert_eq!(stage.seconds(1), ["1", "2"]);
    disk::set_bad(Some(Bad { name: "x.log (deleted)", from: 6, errno: Errno::IO }));
    stage.put("x.log", &["3", "4"]);
    stage.remove("x.log");
    assert_eq!(stage.seconds(100), ["3"]);
    assert_eq!(stage.unread(), (1, 2));
    assert_eq!(stage.life().opener.families(), 0);
    stage.put("x.log", &["5"]);
    assert_eq!(stage.seconds(1), ["5"]);
}

#[test]
fn a_generation_with_late_lines_that_can_not_be_read_again_is_counted_once() {
    let mut stage = one_file(&["1", "2"]);
    let mut lost = stage.unsettled(1);
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["3"]);
    lost.extend(stage.unsettled(1));
    stage.put("x.log.1", &["4"]);
    lost.extend(stage.unsettled(2));
    assert_eq!(rows(&lost), 4);
    disk::set_bad(Some(Bad { name: "x.log.1", from: 0, errno: Errno::IO }));
    drop(lost);
    assert_eq!(stage.seconds(80), ["3"]);
    assert_eq!(stage.unread(), (1, 6));
}

#[test]
fn pieces_before_a_bad_block_are_not_joined_with_those_of_the_next_file() {
    let rules = || Rules { format: Format::Cri, ..text_rules() };
    let line = |kind: &str, text: &str| format!("2026-11-24T10:00:00Z stdout {kind} {text}");
    let mut stage = Stage::files_of(rules, &["*.log"], |root| put(&root.join("x.log"), &[&line("F", "1")]));
    assert_eq!(stage.seconds(1).len(), 1);
    let piece = line("P", "ab");
    let from = fs::metadata(stage.path("x.log")).expect("there").len() + piece.len() as u64 + 1;
    disk::set_bad(Some(Bad { name: "x.log.1", from, errno: Errno::IO }));
    stage.put("x.log", &[&piece, &line("F", "lost")]);
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &[&line("F", "cd")]);
    assert_eq!(stage.seconds(40), ["ab", "cd"]);
}

#[test]
fn a_container_that_is_followed_again_before_its_reader_has_left_it_does_not_come_twice() {
    let id = "b".repeat(64);
    let mut stage = Stage::containers(&["name:sidecar-*"], |root| container(root, &"b".repeat(64), "web", 0..1));
    assert_eq!(stage.seconds(1), ["0"]);
    container(&stage.root, &id, "web", 1..3);
    let held = stage.unsettled(1);
    assert_eq!(rows(&held), 2);
    // Its reader waits for the sinks.
    for name in ["sidecar-x", "web"] {
        config(&stage.root, &id, name);
        stage.opens(1);
    }
    assert!(stage.seconds(2).is_empty(), "nothing comes again");
    held.into_iter().for_each(|shipment| shipment.receipts.settle(Outcome::Delivered));
    assert!(stage.seconds(2).is_empty());
    container(&stage.root, &id, "web", 3..4);
    assert_eq!(stage.seconds(1), ["3"]);
}

#[test]
fn a_container_that_is_followed_again_under_a_dead_sink_is_opened_after_a_while() {
    let id = "b".repeat(64);
    let mut stage = Stage::containers(&["name:sidecar-*"], |root| container(root, &"b".repeat(64), "web", 0..1));
    assert_eq!(stage.seconds(1), ["0"]);
    container(&stage.root, &id, "web", 1..3);
    let lost = stage.unsettled(1);
    assert_eq!(rows(&lost), 2);
    let log = format!("{id}/{id}-json.log");
    let held = stage.open(&log);
    for name in ["sidecar-x", "web"] {
        config(&stage.root, &id, name);
        stage.opens(1);
    }
    assert_eq!(stage.open(&log), held, "its reader may leave it soon");
    stage.opens(11);
    assert_eq!(stage.open(&log), held + 1);
    drop(lost);
    assert_eq!(stage.seconds(2), ["1", "2"]);
}

#[test]
fn a_container_whose_folder_is_away_for_a_moment_under_a_slow_sink_does_not_come_again() {
    let id = "b".repeat(64);
    let mut stage = Stage::containers(&[], |root| container(root, &"b".repeat(64), "web", 0..2));
    assert_eq!(stage.seconds(1), ["0", "1"]);
    container(&stage.root, &id, "web", 2..4);
    let late = stage.unsettled(1);
    assert_eq!(rows(&late), 2);
    let (folder, aside) = (stage.path(&id), stage.dir.path().join("aside"));
    for (from, to) in [(&folder, &aside), (&aside, &folder)] {
        fs::rename(from, to).expect("renamed");
        assert!(stage.unsettled(2).is_empty());
    }
    late.into_iter().for_each(|shipment| shipment.receipts.settle(Outcome::Delivered));
    assert!(stage.seconds(2).is_empty(), "nothing comes again");
    container(&stage.root, &id, "web", 4..5);
    assert_eq!(stage.seconds(1), ["4"]);
    stage.stop();
    stage.start();
    assert!(stage.seconds(12).is_empty());
}

#[test]
fn what_comes_late_to_a_file_that_was_left_is_no_more_than_itself_in_the_backlog() {
    let mut stage = left();
    stage.put("x.log.1", &["late"]);
    stage.rename("x.log.1", "x.log.2");
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["3", "4"]);
    assert_eq!(stage.seconds(1), ["late", "3", "4"]);
    let mut held = Vec::new();
    for (name, line, backlog) in [("x.log", "5", "5\n"), ("x.log.2", "later", "5\nlater\n")] {
        stage.put(name, &[line]);
        held.extend(stage.unsettled(1));
        stage.keep();
        assert_eq!(stage.backlog(), backlog.len() as u64);
    }
    // The first of these was delivered, and the late one is the oldest.
    held.remove(0).receipts.settle(Outcome::Delivered);
    stage.put("x.log", &["6"]);
    stage.keep();
    assert_eq!(stage.backlog(), "later\n6\n".len() as u64);
}

/// A renamed file that was left, and another one in its place.
fn left() -> Stage {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["2"]);
    assert_eq!(stage.seconds(40), ["2"]);
    held::set_scarce(true);
    stage.seconds(20);
    assert_eq!(stage.open("x.log.1"), 0);
    held::set_scarce(false);
    stage
}

#[test]
fn what_can_not_be_looked_at_after_a_rotation_is_looked_at_every_second_also_by_an_idle_chain() {
    let mut stage = left();
    stage.now += Duration::from_secs(600);
    assert!(stage.seconds(1).is_empty());
    stage.put("x.log.1", &["late"]);
    stage.rename("x.log.1", "x.log.2");
    stage.rename("x.log", "x.log.1");
    File::create(stage.path("x.log")).expect("made");
    let refused = |call: Call<'_>| matches!(call, Call::Open(path) if path.ends_with("x.log.2"));
    let refusals = hook(refused, move |call| refused(call).then_some(Errno::IO));
    assert!(stage.seconds(12).is_empty());
    assert!((9..=13).contains(&refusals.load(Ordering::Relaxed)), "{refusals:?}");
    disk::set_hook(None);
    assert_eq!(stage.seconds(3), ["late"]);
}

#[test]
fn deleted_files_that_were_there_at_the_start_are_given_up_oldest_first_and_counted() {
    let id = "b".repeat(64);
    let names = ["", ".1", ".2"].map(|end| format!("{id}/{id}-json.log{end}"));
    let mut stage = Stage::containers(&[], |root| {
        let id = "b".repeat(64);
        for (n, end) in [(0, ".2"), (1, ".1"), (2, "")] {
            container(root, &id, "web", n..n + 1);
            let log = root.join(&id).join(format!("{id}-json.log"));
            fs::rename(&log, format!("{}{end}", log.display())).expect("renamed");
        }
    });
    // What is newer waits for the oldest.
    disk::set_bad(Some(Bad { name: "-json.log.2 (deleted)", from: 0, errno: Errno::IO }));
    names.iter().for_each(|name| stage.remove(name));
    assert!(stage.seconds(2).is_empty());
    stage.keep();
    disk::set_bad(None);
    assert_eq!(stage.seconds(3), ["1", "2"]);
    assert_eq!(stage.generations(Generation::GivenUp), 1);
    assert_eq!(stage.lost_bytes(LostBytes::GivenUp), record_at("0\\n", 0).len() as u64);
}

#[test]
fn a_copy_that_waits_for_a_decoder_when_a_sink_fails_is_begun_where_that_had_nothing() {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.put("x.log", &["2", "3"]);
    let lost = stage.unsettled(1);
    assert_eq!(rows(&lost), 2);
    let all = stage.life().reader.take_decoders();
    packed(&stage.path("x.log.1.gz"), "1\n2\n3\n4\n");
    fs::write(stage.path("x.log"), "5\n").expect("written anew");
    assert!(stage.unsettled(3).is_empty());
    drop(lost);
    assert!(stage.seconds(3).is_empty());
    drop(all);
    assert_eq!(stage.seconds(3), ["2", "3", "4", "5"]);
    assert_eq!(stage.lost_bytes(LostBytes::Truncated), 0);
    stage.put("x.log", &["6"]);
    assert_eq!(stage.seconds(1), ["6"]);
}

#[test]
fn what_was_read_of_a_truncated_file_and_not_delivered_comes_again_from_its_copy() {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.put("x.log", &["2", "3"]);
    let mut lost = stage.unsettled(1);
    put(&stage.path("x.log.1"), &["1", "2", "3", "4"]);
    fs::write(stage.path("x.log"), "5\n").expect("written anew");
    lost.extend(stage.unsettled(2));
    assert_eq!(rows(&lost), 4);
    drop(lost);
    // An idle chain is looked at every 10 s.
    assert_eq!(stage.seconds(12), ["2", "3", "4", "5"]);
    assert_eq!(stage.lost_bytes(LostBytes::Truncated), 0);
    stage.stop();
    stage.put("x.log", &["6"]);
    stage.start();
    assert_eq!(stage.seconds(2), ["6"]);
}

#[test]
fn what_came_late_to_a_deleted_file_that_is_given_up_before_it_is_read_is_counted() {
    let mut stage = one_file(&["1"]);
    assert_eq!(stage.seconds(1), ["1"]);
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["2"]);
    assert_eq!(stage.seconds(1), ["2"]);
    let late = "late".repeat(5_000);
    stage.put("x.log.1", &[&late]);
    stage.remove("x.log.1");
    stage.keep();
    assert!(stage.seconds(3).is_empty());
    assert_eq!((stage.generations(Generation::GivenUp), stage.generations(Generation::Lost)), (1, 0));
    assert_eq!(stage.lost_bytes(LostBytes::GivenUp), late.len() as u64 + 1);
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(1), ["3"]);
}

#[test]
fn what_a_container_that_is_removed_holds_is_seen_though_its_reader_is_held_up() {
    let id = "a".repeat(64);
    let mut stage = Stage::containers(&[], |root| container(root, &"a".repeat(64), "web", 0..3));
    assert_eq!(stage.seconds(2), ["0", "1", "2"]);
    stage.keep();
    stage.keep();
    assert!(stage.life().reader.standing(0).resting().is_some(), "the keeper does not look at it");
    container(&stage.root, &id, "web", 3..6);
    fs::remove_dir_all(stage.path(&id)).expect("removed");
    stage.opens(1);
    stage.keep();
    assert!(stage.backlog() > 0);
    assert!(stage.life().metrics.inputs[0].followed.held_deleted.load(Ordering::Relaxed) > 0);
    assert_eq!(stage.seconds(2), ["3", "4", "5"]);
}
