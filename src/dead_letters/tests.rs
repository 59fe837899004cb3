//! Letters on a real folder.

use super::*;
use crate::budget::Budget;
use crate::sinks::request::tests::{Seen, batch};

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&[("in", "stdin")], &[("out", "test"), ("other", "test")]))
}

fn refused(texts: &[&str]) -> (Refused, Seen) {
    let seen = Seen::default();
    let records: Vec<(&str, &str)> = texts.iter().map(|text| ("t", *text)).collect();
    let batch = Arc::new(batch(&Budget::new(1 << 20), &records));
    let rows = (0..texts.len() as u32).collect();
    let receipts = Receipts(vec![crate::batch::Receipt::new(Box::new(seen.clone()))]);
    let cause = "no".to_owned();
    (Refused { batch, rows, receipts, reason: RejectReason::Refused, cause }, seen)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn the_origin_is_told_when_every_letter_is_on_the_disk() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let metrics = metrics();
    let letters = DeadLetters::new(dir.path(), None, &metrics);
    assert!(!folder(dir.path()).exists(), "nothing is made before the first letter");
    let (refused, seen) = refused(&["1", "2", "3"]);
    letters.keep(1, refused);
    letters.close(soon());
    assert_eq!(seen.outcomes(), [Outcome::Rejected]);
    assert_eq!(metrics.sinks[1].letters.written.load(Relaxed), 3);
    let found: Vec<Letter> = look(dir.path()).expect("readable").expect("there").collect();
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|letter| (letter.sink.as_str(), letter.cause.as_str()) == ("other", "no")));
    // A later run finds them, under the sink's name.
    let again = DeadLetters::new(dir.path(), None, &metrics);
    again.look();
    assert_eq!((metrics.sinks[0].letters.there.load(Relaxed), metrics.sinks[1].letters.there.load(Relaxed)), (0, 3));
    again.close(soon());
}

#[test]
fn what_can_not_be_written_is_counted_and_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a temp dir");
    std::fs::write(folder(dir.path()), "a file where the folder should be").expect("written");
    let metrics = metrics();
    let letters = DeadLetters::new(dir.path(), None, &metrics);
    let (first, seen) = refused(&["1", "2"]);
    letters.keep(0, first);
    assert_eq!(seen.outcomes(), [Outcome::Rejected]);
    assert_eq!(metrics.sinks[0].letters.lost[LetterLoss::Unwritten as usize].load(Relaxed), 2);
    let (health, text) = metrics.checks().remove(CHECK).expect("a check");
    assert!(health == Health::Warn && text.contains("rejected records can not be kept"), "{text}");
    // And after the end of the node.
    letters.close(soon());
    let (late, seen) = refused(&["3"]);
    letters.keep(0, late);
    assert_eq!(seen.outcomes(), [Outcome::Rejected]);
}

#[test]
fn a_letter_that_is_damaged_costs_itself_only() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let metrics = metrics();
    let letters = DeadLetters::new(dir.path(), None, &metrics);
    for text in ["first", "second", "third"] {
        letters.keep(0, refused(&[text]).0);
    }
    letters.close(soon());
    let segment = std::fs::read_dir(folder(dir.path())).expect("there").filter_map(Result::ok);
    let segment = segment.map(|file| file.path()).find(|path| path.extension().is_some_and(|ext| ext == "seg"));
    let segment = segment.expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("readable");
    let at = bytes.windows(6).position(|window| window == b"second").expect("it is plain text");
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let mut found = look(dir.path()).expect("readable").expect("there");
    assert_eq!(found.by_ref().count(), 2);
    assert_eq!(found.unreadable(), 1);
}
