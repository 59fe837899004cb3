//! The handle on a real folder.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::log::Log;
use super::*;

struct Bytes(Vec<u8>);
impl Payload for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn size_hint(&self) -> usize {
        self.0.len()
    }
}

#[derive(Clone, Default)]
struct Acked(Arc<AtomicU64>);
impl Committed for Acked {
    fn committed(self: Box<Self>, outcome: Result<Lsn, Lost>) {
        outcome.expect("committed");
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What no payload should do.
struct Panics;
impl Payload for Panics {
    fn encode(&self, _: &mut Vec<u8>) {
        panic!("on purpose");
    }
    fn size_hint(&self) -> usize {
        1
    }
}

struct Nobody;
impl Committed for Nobody {
    fn committed(self: Box<Self>, _: Result<Lsn, Lost>) {}
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn open(dir: &std::path::Path, readers: &[&str]) -> (Arc<Log>, Recovered) {
    Log::open(Settings::new(dir, SIZE_MIN), readers).expect("it opens")
}

fn put(log: &Log, readers: u64, text: &[u8]) -> Lsn {
    log.append(readers, 1, Arc::new(Bytes(text.to_vec())), Box::new(Acked::default())).expect("room")
}

fn sync(log: &Log, lsn: Lsn) {
    assert!(log.wait_committed_blocking(lsn, Duration::from_secs(30)));
}

fn all(log: &Log, reader: usize, after: Lsn) -> Vec<(Lsn, Vec<u8>)> {
    let (mut after, mut found) = (after, Vec::new());
    loop {
        match log.read(reader, after) {
            Read::Frame { lsn, bytes, .. } => {
                found.push((lsn, bytes));
                after = lsn;
            }
            Read::NotYet { lsn } => sync(log, lsn),
            Read::End => return found,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_committed_is_read_by_its_readers_after_a_restart_from_where_they_were() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, found) = open(dir.path(), &["a", "b"]);
    assert!(found.damage.is_none() && found.next_lsn == 1);
    let acked = Acked::default();
    for (mask, text) in [(3, "one"), (1, "two"), (2, "three"), (3, "four")] {
        log.append(mask, 10, Arc::new(Bytes(text.into())), Box::new(acked.clone())).expect("room");
    }
    sync(&log, 4);
    log.settle(0, 2);
    log.settle(0, 1);
    assert_eq!(log.status().readers[0].total.records, 10);
    log.close(soon()).expect("closed");
    assert_eq!(acked.0.load(Ordering::SeqCst), 4);
    drop(log);
    let (log, found) = open(dir.path(), &["b", "a"]);
    assert!(found.damage.is_none(), "{found:?}");
    let records: Vec<u64> = found.readers.iter().map(|reader| reader.total.records).collect();
    assert_eq!(records, [30, 10]);
    let texts = |reader| all(&log, reader, 0).into_iter().map(|(_, bytes)| String::from_utf8(bytes).expect("text"));
    assert_eq!(texts(0).collect::<Vec<_>>(), ["one", "three", "four"]);
    assert_eq!(texts(1).collect::<Vec<_>>(), ["four"]);
    let lsn = put(&log, 2, b"five");
    assert!(lsn > 4);
    sync(&log, lsn);
    assert_eq!(all(&log, 1, 4), [(lsn, b"five".to_vec())]);
    log.close(soon()).expect("closed");
}

#[test]
fn after_a_large_commit_frames_are_gathered_and_who_waits_for_each_ack_is_not_held_up() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, _) = open(dir.path(), &["a"]);
    // A frame of this size, until it is acknowledged; settled, so that there is room.
    let put_one = |size: usize| {
        let lsn = put(&log, 1, &vec![7; size]);
        sync(&log, lsn);
        log.settle(0, lsn);
    };
    (0..20).for_each(|_| put_one(100));
    assert_eq!(log.status().pauses, 0, "small ones wait for no pause");
    // Where the disk takes longer than a pause, none is left of it; and a busy machine may send late in one.
    let until = soon();
    let until_seen = |is_seen: &dyn Fn() -> bool, what: &str| {
        while !is_seen() {
            assert!(Instant::now() < until, "{what}");
        }
    };
    let pauses_of = |frames: usize, size: usize| {
        let before = log.status().pauses;
        (0..frames).for_each(|_| put_one(size));
        log.status().pauses - before
    };
    until_seen(&|| pauses_of(1, 100 << 10) == 1, "no pause after a large one");
    until_seen(&|| pauses_of(60, 100 << 10) == 0, "this one goes on only when it has its ack");
    assert_eq!(pauses_of(20, 1 << 20), 0, "a whole group waits for no pause");
    log.close(soon()).expect("closed");
}

/// A frame that its commit waits for.
struct Slow(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);
impl Payload for Slow {
    fn encode(&self, out: &mut Vec<u8>) {
        let _ = self.0.lock().expect("no panic").recv();
        out.push(1);
    }
    fn size_hint(&self) -> usize {
        1
    }
}

#[test]
fn a_frame_that_is_being_committed_is_waited_for() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, _) = open(dir.path(), &["a"]);
    let (go_on, wait) = std::sync::mpsc::channel();
    let slow = Arc::new(Slow(std::sync::Mutex::new(wait)));
    let lsn = log.append(1, 1, slow, Box::new(Acked::default())).expect("room");
    // Long enough for the thread to take it.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(log.status().queued, 1);
    go_on.send(()).expect("it waits");
    sync(&log, lsn);
    let until = soon();
    while log.status().queued > 0 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    log.close(soon()).expect("closed");
}

#[test]
fn a_second_process_and_a_newer_version_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, _) = open(dir.path(), &["a"]);
    let error = Log::open(Settings::new(dir.path(), SIZE_MIN), &["a"]).err().expect("locked").to_string();
    assert!(error.contains("this process still writes to it"), "{error}");
    std::fs::write(dir.path().join("LOCK"), "1").expect("written");
    let error = Log::open(Settings::new(dir.path(), SIZE_MIN), &["a"]).err().expect("locked").to_string();
    assert!(error.contains("another longshore (pid 1)"), "{error}");
    log.close(soon()).expect("closed");
    drop(log);
    let text = "longshore log 2\nid 00\n";
    let newer = format!("{text}crc {:08x}\n", crc32c::crc32c(text.as_bytes()));
    std::fs::write(dir.path().join("META"), newer).expect("written");
    let error = Log::open(Settings::new(dir.path(), SIZE_MIN), &["a"]).err().expect("refused").to_string();
    assert!(error.contains("newer version") && error.contains("move the folder"), "{error}");
    let error = Log::open(Settings::new(dir.path(), 1 << 20), &["a"]).err().expect("refused").to_string();
    assert!(error.contains("8MiB"), "{error}");
    let error = Log::open(Settings::new(dir.path(), u64::MAX), &["a"]).err().expect("refused").to_string();
    assert!(error.contains("file system"), "{error}");
}

fn fill(log: &Log, readers: u64) -> u64 {
    let payload = Arc::new(Bytes(vec![7; 100_000]));
    let mut taken = 0;
    loop {
        match log.append(readers, 1, Arc::clone(&payload) as Arc<dyn Payload>, Box::new(Acked::default())) {
            Ok(lsn) => {
                taken += 1;
                sync(log, lsn);
            }
            Err(NoRoom { why: Refusal::Queue, .. }) => log.room_blocking(0, &crate::workers::Stop::default()),
            Err(refused) => {
                assert!(matches!(refused.why, Refusal::Full | Refusal::Dropped), "{refused:?}");
                return taken;
            }
        }
        assert!(taken < 1000, "it is never full");
    }
}

#[test]
fn a_full_log_blocks_until_its_slowest_reader_settles() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, _) = open(dir.path(), &["a", "b"]);
    let taken = fill(&log, 3);
    assert!((40..80).contains(&taken), "{taken}");
    assert!(log.status().bytes <= SIZE_MIN);
    assert_eq!(log.status().state, State::Full);
    (1..=taken).for_each(|lsn| log.settle(0, lsn));
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=taken).for_each(|lsn| log.settle(1, lsn)));
        log.room_blocking(0, &crate::workers::Stop::default());
    });
    let lsn = put(&log, 1, b"there is room");
    sync(&log, lsn);
    log.close(soon()).expect("closed");
}

#[derive(Default)]
struct Losses(std::sync::Mutex<Vec<Loss>>, std::sync::Mutex<Vec<State>>);
impl Watcher for Losses {
    fn lost(&self, loss: &Loss) {
        self.0.lock().expect("no panic").push(loss.clone());
    }
    fn state(&self, state: &State) {
        self.1.lock().expect("no panic").push(state.clone());
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = soon();
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn dropping_the_newest_keeps_what_is_there_says_so_once_and_takes_records_again() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let told = Arc::new(Losses::default());
    let watcher: Arc<dyn Watcher> = Arc::clone(&told) as Arc<dyn Watcher>;
    let settings = Settings { full: Full::DropNewest, watcher: Some(watcher), ..Settings::new(dir.path(), SIZE_MIN) };
    let (log, _) = Log::open(settings, &["keeps up", "sleeps"]).expect("it opens");
    let taken = fill(&log, 3);
    assert!((40..80).contains(&taken), "{taken}");
    for _ in 0..50 {
        let payload = Arc::new(Bytes(vec![8; 100_000]));
        let refused = log.append(3, 1, payload, Box::new(Acked::default())).expect_err("it is full");
        assert_eq!(refused.why, Refusal::Dropped);
    }
    // Whoever has nothing to wait for does not wait; and three looks of the thread later it is full still.
    log.room_blocking(100_000, &crate::workers::Stop::default());
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!((log.status().state, told.1.lock().expect("no panic").clone()), (State::Full, vec![State::Full]));
    assert!(log.status().bytes <= SIZE_MIN && told.0.lock().expect("no panic").is_empty());
    let kept: Vec<Lsn> = all(&log, 1, 0).into_iter().map(|(lsn, _)| lsn).collect();
    assert_eq!(kept, (1..=taken).collect::<Vec<Lsn>>(), "the oldest are there");
    (1..=taken).for_each(|lsn| [0, 1].into_iter().for_each(|reader| log.settle(reader, lsn)));
    until("it takes records again", || log.status().state == State::Healthy);
    sync(&log, put(&log, 3, b"there is room"));
    assert_eq!(*told.1.lock().expect("no panic"), [State::Full, State::Healthy]);
    log.close(soon()).expect("closed");
}

#[tokio::test]
async fn room_is_waited_for_as_much_as_is_needed_and_full_is_said_until_there_is() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let told = Arc::new(Losses::default());
    let watcher: Arc<dyn Watcher> = Arc::clone(&told) as Arc<dyn Watcher>;
    let settings = Settings { watcher: Some(watcher), ..Settings::new(dir.path(), SIZE_MIN) };
    let (log, _) = Log::open(settings, &["a"]).expect("it opens");
    let large = || Arc::new(Bytes(vec![1; 2_500_000]));
    for _ in 0..2 {
        let lsn = log.append(1, 1, large(), Box::new(Acked::default())).expect("room");
        sync(&log, lsn);
    }
    let refused = log.append(1, 1, large(), Box::new(Acked::default())).expect_err("5 of 8 MB, and a reserve");
    assert_eq!(refused.why, Refusal::Full);
    log.room(100_000).await;
    let waits = tokio::time::timeout(Duration::from_millis(900), log.room(2_500_000)).await;
    assert!(waits.is_err(), "there is no room for that");
    assert_eq!(*told.1.lock().expect("no panic"), [State::Full], "and nothing flaps");
    log.settle(0, 1);
    tokio::time::timeout(Duration::from_secs(30), log.room(2_500_000)).await.expect("a segment has gone");
    until("it takes records again", || log.status().state == State::Healthy);
    let lsn = log.append(1, 1, large(), Box::new(Acked::default())).expect("room");
    sync(&log, lsn);
    log.close(soon()).expect("closed");
}

/// Appends 100,000 bytes for each of these readers in turn, and settles them for the one that is awake; gives how many of
/// the frames were taken.
fn through(log: &Log, readers: &[u64], awake: usize, frames: usize) -> Vec<Lsn> {
    let payload = Arc::new(Bytes(vec![7; 100_000]));
    let mut lsns = Vec::new();
    for at in 0..frames {
        let readers = readers[at % readers.len()];
        let end = soon();
        let lsn = loop {
            match log.append(readers, 1, Arc::clone(&payload) as Arc<dyn Payload>, Box::new(Acked::default())) {
                Ok(lsn) => break lsn,
                Err(_) => {
                    assert!(Instant::now() < end, "frame {at} is not taken: {:?}", log.status());
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        };
        sync(log, lsn);
        if readers >> awake & 1 == 1 {
            log.settle(awake, lsn);
        }
        lsns.push(lsn);
    }
    lsns
}

#[test]
fn a_reader_that_stands_still_keeps_the_segments_that_hold_something_for_it_and_no_other() {
    for keep in [None, Some(Duration::from_secs(3_600))] {
        let dir = tempfile::tempdir().expect("a temp dir");
        let settings = Settings { keep, ..Settings::new(dir.path(), SIZE_MIN) };
        let (log, _) = Log::open(settings.clone(), &["sleeps", "archive"]).expect("it opens");
        let mine = [through(&log, &[3], 1, 1)[0], {
            through(&log, &[2], 1, 150);
            through(&log, &[3], 1, 1)[0]
        }];
        through(&log, &[2], 1, 150);
        assert!(log.status().bytes <= SIZE_MIN && log.status().held < 4 << 20, "{:?}", log.status());
        log.close(soon()).expect("closed");
        drop(log);
        // What an earlier run has left is looked at when it is in the way.
        let (log, found) = Log::open(settings, &["sleeps", "archive"]).expect("it opens");
        assert!(found.damage.is_none(), "{found:?}");
        assert_eq!((found.readers[0].total.records, found.readers[1].total.records), (2, 0));
        through(&log, &[2], 1, 150);
        let read: Vec<Lsn> = all(&log, 0, 0).into_iter().map(|(lsn, _)| lsn).collect();
        assert_eq!(read, mine);
        mine.iter().for_each(|lsn| log.settle(0, *lsn));
        assert_eq!(log.status().readers[0].total.records, 0);
        log.close(soon()).expect("closed");
    }
}

#[test]
fn what_an_earlier_run_has_left_for_others_goes_while_there_is_room_too() {
    for optional in [0, 1] {
        let dir = tempfile::tempdir().expect("a temp dir");
        let losses = Arc::new(Losses::default());
        let watcher: Arc<dyn Watcher> = Arc::clone(&losses) as Arc<dyn Watcher>;
        let settings = Settings { optional, watcher: Some(watcher), ..Settings::new(dir.path(), SIZE_MIN) };
        let (log, _) = Log::open(settings.clone(), &["dead", "archive"]).expect("it opens");
        through(&log, &[3], 1, 1);
        // Settled by nobody: all of it is there when it starts again.
        through(&log, &[2], 0, 36);
        log.close(soon()).expect("closed");
        drop(log);
        let (log, found) = Log::open(settings, &["dead", "archive"]).expect("it opens");
        assert_eq!((found.readers[0].total.records, found.readers[1].total.records), (1, 36));
        assert!(log.status().held > 3 << 20, "{:?}", log.status());
        all(&log, 1, 0).iter().for_each(|(lsn, _)| log.settle(1, *lsn));
        until("only what the dead one has not got is held", || log.status().held < 5 << 19);
        assert_eq!((log.status().state, log.status().readers[0].total.records), (State::Healthy, 1));
        assert!(losses.0.lock().expect("no panic").is_empty(), "nothing was lost");
        log.close(soon()).expect("closed");
    }
}

#[test]
fn what_an_optional_reader_has_not_settled_goes_where_room_is_needed_and_is_counted() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let losses = Arc::new(Losses::default());
    let watcher: Arc<dyn Watcher> = Arc::clone(&losses) as Arc<dyn Watcher>;
    let settings = Settings { optional: 1, watcher: Some(watcher), ..Settings::new(dir.path(), SIZE_MIN) };
    let (log, _) = Log::open(settings, &["sleeps", "archive"]).expect("it opens");
    let total = through(&log, &[3], 1, 300).len() as u64;
    // Its backlog is all that there was room for.
    let left = all(&log, 0, 0).len() as u64;
    let losses = losses.0.lock().expect("no panic");
    let lost: u64 = losses.iter().map(|loss| loss.count.records).sum();
    assert!(losses.iter().all(|loss| loss.reader == Some(0) && loss.why == LossReason::DroppedOldest), "{losses:?}");
    assert!(lost + left == total && left > 30, "{lost} and {left} of {total}");
    assert_eq!(log.status().readers[1].total.records, 0);
    drop(losses);
    log.close(soon()).expect("closed");
}

#[test]
fn dropping_the_oldest_counts_what_nobody_got_and_no_more() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let losses = Arc::new(Losses::default());
    let watcher: Arc<dyn Watcher> = Arc::clone(&losses) as Arc<dyn Watcher>;
    let settings = Settings { full: Full::DropOldest, watcher: Some(watcher), ..Settings::new(dir.path(), SIZE_MIN) };
    let (log, _) = Log::open(settings, &["keeps up", "sleeps"]).expect("it opens");
    let payload = Arc::new(Bytes(vec![7; 100_000]));
    let total = 200;
    for _ in 0..total {
        let payload = Arc::clone(&payload) as Arc<dyn Payload>;
        let lsn = log.append(3, 2, payload, Box::new(Acked::default())).expect("always room");
        sync(&log, lsn);
        log.settle(0, lsn);
    }
    let left = all(&log, 1, 0).len() as u64;
    let losses = losses.0.lock().expect("no panic");
    let lost: u64 = losses.iter().map(|loss| loss.count.records).sum();
    assert!(losses.iter().all(|loss| loss.reader == Some(1) && loss.why == LossReason::DroppedOldest), "{losses:?}");
    assert_eq!(lost + 2 * left, 2 * total);
    assert!(left > 30 && log.status().bytes <= SIZE_MIN);
    log.close(soon()).expect("closed");
}

#[test]
fn a_removed_sink_keeps_its_backlog_until_it_comes_back() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, _) = open(dir.path(), &["a", "b"]);
    let lsn = put(&log, 3, b"for both");
    sync(&log, lsn);
    log.close(soon()).expect("closed");
    drop(log);
    let (log, found) = open(dir.path(), &["a", "c"]);
    assert_eq!((found.removed.len(), found.removed[0].0.as_str()), (1, "b"));
    assert_eq!((all(&log, 0, 0).len(), all(&log, 1, 0).len()), (1, 0));
    log.close(soon()).expect("closed");
    drop(log);
    let (log, found) = open(dir.path(), &["b", "c"]);
    assert_eq!(found.readers[0].total.records, 1, "{found:?}");
    assert_eq!((all(&log, 0, 0).len(), all(&log, 1, 0).len()), (1, 0));
    log.close(soon()).expect("closed");
}

#[tokio::test]
async fn tasks_wait_for_a_commit_and_for_the_end() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, _) = open(dir.path(), &["a"]);
    let lsn = put(&log, 1, b"x");
    assert!(log.wait_committed(lsn).await);
    log.room(0).await;
    let other = Arc::clone(&log);
    let waits = tokio::spawn(async move { other.wait_committed(lsn + 1).await });
    log.close(soon()).expect("closed");
    assert!(!waits.await.expect("no panic"));
    log.room(0).await;
    let refused = log.append(1, 1, Arc::new(Bytes(vec![])), Box::new(Acked::default())).expect_err("closed");
    assert_eq!(refused.why, Refusal::Closed);
}

#[test]
fn a_look_from_outside_sees_every_frame_beside_its_writer_and_after_it() {
    let dir = tempfile::tempdir().expect("a temp dir");
    assert!(Peek::open(&dir.path().join("none")).expect("no error").is_none());
    assert!(Peek::open(dir.path()).expect("no error").is_none());
    let settings = Settings { sources: vec!["in".to_owned()], ..Settings::new(dir.path(), SIZE_MIN) };
    let (log, _) = Log::open(settings, &["a", "b"]).expect("it opens");
    let frames: Vec<(u64, Vec<u8>)> = (0..40).map(|n: u8| (1 + u64::from(n % 3), vec![n; 100_000])).collect();
    for (readers, bytes) in &frames {
        sync(&log, put(&log, *readers, bytes));
    }
    log.settle(0, 1);
    for _ in 0..2 {
        let mut peek = Peek::open(dir.path()).expect("it can be read").expect("a log");
        let found: Vec<Peeked> = std::iter::from_fn(|| peek.next_frame()).collect();
        assert_eq!(found.len(), frames.len(), "settled frames are there as long as their segment is");
        for (found, (readers, bytes)) in found.iter().zip(&frames) {
            assert_eq!((&found.bytes, found.source.as_deref(), found.records), (bytes, Some("in"), 1));
            assert_eq!((peek.is_for(found, "a"), peek.is_for(found, "b")), (readers & 1 == 1, readers & 2 == 2));
            assert!(!peek.is_for(found, "c") && !peek.is_settled(found, "c"));
            // Its first frame waits; what is before that is not for it.
            assert!(!peek.is_settled(found, "b") || readers & 2 == 0, "{}", found.lsn);
        }
        assert_eq!(peek.damaged(), 0);
        log.close(soon()).expect("closed");
    }
}

#[test]
fn a_panic_of_its_thread_is_said_and_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, _) = open(dir.path(), &["a"]);
    let lsn = log.append(1, 1, Arc::new(Panics), Box::new(Nobody)).expect("room");
    let began = Instant::now();
    assert!(!log.wait_committed_blocking(lsn, Duration::from_secs(60)), "it is not on the disk");
    while !log.failed().is_set() && began.elapsed() < Duration::from_secs(50) {
        std::thread::yield_now();
    }
    assert!(log.failed().is_set() && began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    let refused = log.append(1, 1, Arc::new(Bytes(vec![1])), Box::new(Nobody)).expect_err("closed");
    assert_eq!(refused.why, Refusal::Closed);
    assert!(log.close(soon()).is_err_and(|error| error.to_string().contains("panicked")));
}

#[test]
fn a_frame_of_this_run_that_can_not_be_read_back_is_lost_with_its_records_and_holds_nothing() {
    use std::os::unix::fs::FileExt as _;
    for bad in ["first", "other"] {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (log, _) = open(dir.path(), &["a"]);
        for text in ["first", "other"] {
            log.append(1, 3, Arc::new(Bytes(text.into())), Box::new(Nobody)).expect("room");
        }
        sync(&log, 2);
        let mut files = std::fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
        let path = files.find(|path| path.extension().is_some_and(|end| end == "seg")).expect("a segment");
        let at = memchr::memmem::find(&std::fs::read(&path).expect("readable"), bad.as_bytes()).expect("written");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
        file.write_all_at(b"xxxxx", at as u64).expect("written");
        let (mut after, mut found, mut lost) = (0, 0, 0);
        for _ in 0..6 {
            match log.read(0, after) {
                Read::Frame { lsn, .. } => {
                    (after, found) = (lsn, found + 1);
                    log.settle(0, lsn);
                }
                Read::Damaged { through, records } => (after, lost) = (after.max(through), lost + records),
                Read::End => {}
                other => panic!("{bad}: {other:?}"),
            }
        }
        assert_eq!((found, lost, log.status().readers[0].total.records), (1, 3, 0), "{bad}");
    }
}
