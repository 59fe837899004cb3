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

fn scraps(bytes: &[&[u8]], seen: &Seen) -> crate::batch::Scraps {
    let mut batch = batch(&Budget::new(1 << 20), &[("t", "{}")]);
    for bytes in bytes {
        let mut scrap = crate::batch::Scrap::begin(RejectReason::BadTag, "frame", None, &mut batch).expect("room");
        scrap.add(bytes);
        scrap.receipts.push(crate::batch::Receipt::new(Box::new(seen.clone())));
        batch.scraps.add(scrap);
    }
    std::mem::take(&mut batch.scraps)
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
    // Without a close, which writes everything.
    while seen.outcomes().is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(metrics.sinks[1].letters.written.load(Relaxed), 3, "not before the last of them");
    letters.close(soon());
    assert_eq!(seen.outcomes(), [Outcome::Rejected]);
    let found: Vec<Letter> = look(dir.path()).expect("readable").expect("there").collect();
    assert_eq!(found.len(), 3);
    let of_other =
        |letter: &Letter| matches!(&letter.of, LetterOf::Sink { sink, cause, .. } if sink == "other" && cause == "no");
    assert!(found.iter().all(of_other));
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
    assert!(health == Health::Warn && text.contains("what is refused can not be kept"), "{text}");
    // Once the node stops nobody is held up: it comes again, and is refused again.
    letters.close(soon());
    let (late, seen) = refused(&["3"]);
    letters.keep(0, late);
    assert_eq!(seen.outcomes(), [Outcome::NotDelivered]);
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

#[tokio::test]
async fn what_an_input_refused_is_kept_beside_the_records_of_sinks_and_counted_for_it() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let metrics = metrics();
    let letters = DeadLetters::new(dir.path(), None, &metrics);
    let seen = Seen::default();
    letters.keep_scraps(0, Some("10.0.0.1:5"), scraps(&[b"one", b"two"], &seen)).await;
    letters.keep(1, refused(&["3"]).0);
    let again = Arc::clone(&letters);
    tokio::task::spawn_blocking(move || again.close(soon())).await.expect("no panic");
    assert_eq!(seen.outcomes(), [Outcome::Rejected; 2]);
    let written = |counts: &LetterCounts| counts.written.load(Relaxed);
    assert_eq!((written(&metrics.inputs[0].letters), written(&metrics.sinks[1].letters)), (2, 1));
    let found: Vec<Letter> = look(dir.path()).expect("readable").expect("there").collect();
    assert_eq!(found.iter().map(Letter::sink).collect::<Vec<_>>(), [None, None, Some("other")]);
    let LetterOf::Input { peer, what, tag, from, whole, data } = &found[1].of else { panic!("{:?}", found[1]) };
    assert_eq!(
        (peer.as_str(), what.as_str(), tag, *from, *whole, &data[..]),
        ("10.0.0.1:5", "frame", &None, 0, 3, &b"two"[..])
    );
    assert_eq!((found[1].input.as_str(), found[1].reason.as_str()), ("in", "bad_tag"));
    // A later run finds each under its name.
    let again = DeadLetters::new(dir.path(), None, &metrics);
    again.look();
    assert_eq!((metrics.inputs[0].letters.there.load(Relaxed), metrics.sinks[1].letters.there.load(Relaxed)), (2, 1));
    again.close(soon());
}

#[tokio::test]
async fn what_inputs_refuse_beyond_their_allowance_is_counted_and_told_at_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let metrics = metrics();
    let letters = DeadLetters::new(dir.path(), Some(buffer::SIZE_MIN), &metrics);
    let seen = Seen::default();
    let most = usize::try_from(buffer::SIZE_MIN / 4 / 4096).expect("few");
    let of_one = 64;
    for _ in 0..most / of_one + 1 {
        letters.keep_scraps(0, None, scraps(&[&b"x"[..]; 64], &seen)).await;
    }
    let again = Arc::clone(&letters);
    tokio::task::spawn_blocking(move || again.close(soon())).await.expect("no panic");
    let sent = (most / of_one + 1) * of_one;
    let counts = &metrics.inputs[0].letters;
    let limited = usize::try_from(counts.lost[LetterLoss::RateLimited as usize].load(Relaxed)).expect("few");
    // Some 580 bytes a second come back.
    assert!((1..=of_one).contains(&limited), "{limited} of {sent}");
    assert_eq!(usize::try_from(counts.written.load(Relaxed)).expect("few") + limited, sent);
    assert_eq!(seen.outcomes(), vec![Outcome::Rejected; sent]);
}

#[tokio::test]
async fn what_an_input_refused_holds_nobody_up_where_there_are_no_letters() {
    let dir = tempfile::tempdir().expect("a temp dir");
    std::fs::write(folder(dir.path()), "a file where the folder should be").expect("written");
    let metrics = metrics();
    let letters = DeadLetters::new(dir.path(), None, &metrics);
    let seen = Seen::default();
    letters.keep_scraps(0, None, scraps(&[b"x", b"y"], &seen)).await;
    assert_eq!(seen.outcomes(), [Outcome::Rejected; 2]);
    assert_eq!(metrics.inputs[0].letters.lost[LetterLoss::Unwritten as usize].load(Relaxed), 2);
    letters.close(soon());
    letters.keep_scraps(0, None, scraps(&[b"z"], &seen)).await;
    // At a stop it is left to its origin.
    assert_eq!(seen.outcomes(), [Outcome::Rejected, Outcome::Rejected, Outcome::NotDelivered]);
    assert_eq!(metrics.inputs[0].letters.lost[LetterLoss::Unwritten as usize].load(Relaxed), 2);
}
