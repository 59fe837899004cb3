//! A start in the file where an unfinished line began, which is older than that of the place: what lies between was delivered.

use rustix::io::Errno;

use super::*;
use crate::inputs::follow::disk::Bad;

const OLDER: &str = "x.log.20261124-100000";

/// Of these lines the older file has more than one turn of its chain reads.
const LINES: usize = 900;

fn line(stream: &str, tag: char, text: &str) -> String {
    format!("2026-11-24T10:00:00Z {stream} {tag} {text}")
}

fn error(text: &str) -> String {
    line("stderr", 'F', text)
}

/// The first piece of a line and the errors after it were delivered from two files, and then it was stopped.
fn stopped_within_a_line() -> Stage {
    let rules = || Rules { format: Format::Cri, ..text_rules() };
    let mut stage = Stage::files_of(rules, &["*.log"], |root| {
        let errors = (0..LINES).map(|n| error(&format!("{n} {}", "x".repeat(2000))));
        let lines: Vec<String> = std::iter::once(line("stdout", 'P', "begun, ")).chain(errors).collect();
        put(&root.join("x.log"), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    });
    assert_eq!(stage.seconds(3).len(), LINES);
    stage.rename("x.log", OLDER);
    a_tick();
    stage.put("x.log", &[&error("next 1"), &error("next 2")]);
    assert_eq!(stage.seconds(3), ["next 1", "next 2"]);
    stage.stop();
    stage
}

/// The line ends in the file that is there, and comes as one.
fn ends(stage: &mut Stage) {
    stage.put("x.log", &[&line("stdout", 'F', "ended")]);
    assert_eq!(stage.seconds(2), ["begun, ended"]);
}

impl Stage {
    /// The reader has one turn.
    fn one_turn(&mut self) {
        let life = self.life();
        life.opener.step();
        life.reader.woken();
        assert!(matches!(life.reader.step(), Step::Again), "there is more");
    }
}

#[test]
fn a_stop_before_the_file_of_the_place_is_reached_again_brings_nothing_twice() {
    let mut stage = stopped_within_a_line();
    for _ in 0..2 {
        stage.start();
        stage.one_turn();
        stage.stop();
    }
    stage.start();
    assert_eq!(stage.seconds(3), [""; 0]);
    ends(&mut stage);
}

#[test]
fn what_came_late_to_the_older_file_while_stopped_is_no_part_of_what_was_delivered() {
    for next in [&[][..], &[error("next 3")]] {
        let mut stage = stopped_within_a_line();
        stage.put(OLDER, &[&error("late")]);
        next.iter().for_each(|line| stage.put("x.log", &[line]));
        stage.start();
        assert_eq!(stage.seconds(3), [&["late"][..], &["next 3"][..next.len()]].concat());
        stage.stop();
        stage.start();
        assert_eq!(stage.seconds(3), [""; 0]);
        assert_eq!(stage.oddity(Oddity::FileRewritten), 0);
        ends(&mut stage);
    }
}

#[test]
fn a_place_that_is_reached_while_what_came_late_is_on_its_way_is_stored_with_that() {
    for outcome in [None, Some(Outcome::Delivered), Some(Outcome::NotDelivered)] {
        let mut stage = stopped_within_a_line();
        stage.put(OLDER, &[&error("late")]);
        stage.start();
        let came = stage.unsettled(3);
        assert_eq!(rows(&came), 1);
        if let Some(outcome) = outcome {
            came.into_iter().for_each(|shipment| shipment.receipts.settle(outcome));
        }
        let again = outcome == Some(Outcome::NotDelivered);
        if again {
            assert_eq!(stage.seconds(3), ["late"], "it is read again, and nothing else");
        }
        stage.stop();
        stage.start();
        let late = if outcome.is_none() { &["late"][..] } else { &[] };
        assert_eq!(stage.seconds(3), late);
        ends(&mut stage);
    }
}

#[test]
fn what_comes_to_the_file_of_the_place_after_it_was_truncated_meanwhile_is_not_passed_over() {
    for refused in [false, true] {
        let mut stage = stopped_within_a_line();
        stage.start();
        stage.one_turn();
        let log = OpenOptions::new().write(true).open(stage.path("x.log"));
        log.expect("there").set_len(0).expect("truncated");
        stage.put("x.log", &[&error("new 1"), &error("new 2")]);
        if refused {
            let came = stage.unsettled(3);
            assert_eq!(rows(&came), 2);
            came.into_iter().for_each(|shipment| shipment.receipts.settle(Outcome::NotDelivered));
        }
        assert_eq!(stage.seconds(3), ["new 1", "new 2"]);
        assert_eq!(stage.oddity(Oddity::FileRewritten), 1);
        ends(&mut stage);
        stage.stop();
        stage.start();
        assert_eq!(stage.seconds(3), [""; 0]);
    }
}

#[test]
fn what_follows_on_an_older_file_that_fails_while_reading_once_is_neither_passed_over_nor_twice() {
    let mut stage = stopped_within_a_line();
    stage.put("x.log", &[&error("next 3")]);
    stage.how.once = true;
    disk::set_bad(Some(Bad { name: OLDER, from: 300_000, errno: Errno::IO }));
    stage.start();
    assert_eq!(stage.seconds(3), ["begun, ", "next 3"]);
}

#[test]
fn what_was_replayed_is_not_sent_with_the_lines_of_a_file_that_was_truncated_meanwhile() {
    for copied in [false, true] {
        let mut stage = stopped_within_a_line();
        stage.start();
        assert_eq!(stage.seconds(1), [""; 0]);
        stage.put("x.log", &[&error("next 3")]);
        let came = stage.unsettled(1);
        assert_eq!(rows(&came), 1);
        if copied {
            fs::copy(stage.path("x.log"), stage.path("x.log.1")).expect("copied");
        }
        OpenOptions::new().write(true).open(stage.path("x.log")).expect("there").set_len(0).expect("truncated");
        stage.put("x.log", &[&error("new")]);
        came.into_iter().for_each(|shipment| shipment.receipts.settle(Outcome::NotDelivered));
        assert_eq!(stage.seconds(3), [&["next 3"][..usize::from(copied)], &["new"]].concat());
        let lost = if copied { 0 } else { error("next 3").len() as u64 + 1 };
        assert_eq!(stage.lost_bytes(LostBytes::Truncated), lost);
    }
}
