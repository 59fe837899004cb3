//! Tests of the checkpoints: what is saved, when, and what is left of it where something fails.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::inputs::follow::generations::{self, Held};
use crate::inputs::follow::progress::Span;
use crate::inputs::follow::{identity, tracker};
use crate::log::Settings;
use crate::log::tests::logged;

fn quiet() -> SyncHook {
    Box::new(Unsynced::new)
}

fn put(checkpoints: &Checkpoints, key: &str, offset: u64) {
    let saved = Saved { done: Place { offset, ..Place::default() }, ..Saved::default() };
    let seen = crate::record::Timestamp::now().0 / 1_000_000_000;
    checkpoints.lock().news.insert(("in".to_owned(), key.to_owned()), Entry { saved, seen });
}

fn offset(checkpoints: &Checkpoints, key: &str) -> Option<u64> {
    checkpoints.lookup("in", key).map(|saved| saved.done.offset)
}

/// A chain `a` of that input, of whose two lines in a file of the folder one is delivered, and the file, which it holds.
fn half_delivered(checkpoints: &Arc<Checkpoints>, folder: &Path, input: &str) -> (Arc<Held>, Arc<Progress>) {
    let (path, text) = (folder.join(input), b"one\ntwo\n");
    fs::write(&path, text).expect("written");
    let held = generations::open(&path).expect("opens");
    let progress = Progress::new(tracker::Mark { done: 4, ..Default::default() }, Some(checkpoints));
    let span = Span { head: identity::Mark::of(text), ..Span::of(&held, 0, 0) };
    progress.lock().spans.push_back(span);
    checkpoints.attach(input, "a", &progress);
    (held, progress)
}

#[test]
fn a_chain_that_is_closed_keeps_its_record_and_lets_its_files_go() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free");
    let (held, progress) = half_delivered(&checkpoints, dir.path(), "in");
    checkpoints.save().expect("saved");
    let other = Progress::new(tracker::Mark::default(), Some(&checkpoints));
    checkpoints.close("in", "a", &other);
    assert!(Arc::strong_count(&held) > 1, "another chain of that name is none of its business");
    checkpoints.close("in", "a", &progress);
    drop(progress);
    assert_eq!(Arc::strong_count(&held), 1, "nobody else holds it");
    assert_eq!(offset(&checkpoints, "a"), Some(4));
    checkpoints.final_save().expect("saved");
    drop(checkpoints);
    let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free again");
    assert_eq!(offset(&checkpoints, "a"), Some(4));
}

#[test]
fn the_end_of_a_chain_costs_another_one_of_its_name_nothing() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free");
    let chain = |done| {
        let mark = tracker::Mark { done, ..Default::default() };
        let progress = Progress::new(mark, Some(&checkpoints));
        checkpoints.attach("in", "a", &progress);
        progress
    };
    let (old, new) = (chain(1), chain(2));
    put(&checkpoints, "a", 2);
    checkpoints.forget("in", "a", &old);
    assert_eq!(offset(&checkpoints, "a"), Some(2));
    assert!(checkpoints.lock().live.values().all(|live| Arc::ptr_eq(live, &new)));
    checkpoints.forget("in", "a", &new);
    assert!(offset(&checkpoints, "a").is_none() && checkpoints.lock().live.is_empty());
}

#[test]
fn what_is_forgotten_is_not_known_any_more_and_leaves_the_file_at_the_next_save() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let data = dir.path().join("data");
    let checkpoints = Checkpoints::open(&data, quiet()).expect("free");
    let chain = |done| {
        let mark = tracker::Mark { done, ..Default::default() };
        let progress = Progress::new(mark, Some(&checkpoints));
        checkpoints.attach("in", "a", &progress);
        put(&checkpoints, "a", done);
        progress
    };
    let is_stored = || stored(&data).expect("whole").into_values().map(|entry| entry.saved.done.offset).next();
    let old = chain(5);
    checkpoints.save().expect("saved");
    assert_eq!(is_stored(), Some(5));
    checkpoints.forget("in", "a", &old);
    assert!(offset(&checkpoints, "a").is_none() && checkpoints.keys("in").is_empty() && !checkpoints.knows("in"));
    checkpoints.save().expect("saved");
    assert_eq!(is_stored(), None);
    // And another one of its name has its own place, whether the old one has left by then or not.
    let old = chain(6);
    checkpoints.save().expect("saved");
    checkpoints.forget("in", "a", &old);
    chain(7);
    assert_eq!(offset(&checkpoints, "a"), Some(7));
    checkpoints.save().expect("saved");
    assert_eq!((is_stored(), offset(&checkpoints, "a")), (Some(7), Some(7)));
}

#[test]
fn an_input_that_is_let_go_of_pins_no_file_and_keeps_its_records() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let checkpoints = Checkpoints::open(&dir.path().join("data"), quiet()).expect("free");
    let chain = |input| half_delivered(&checkpoints, dir.path(), input).0;
    let (left, stays) = (chain("in"), chain("other"));
    checkpoints.let_go("in");
    assert_eq!((Arc::strong_count(&left), Arc::strong_count(&stays)), (1, 2));
    assert_eq!(offset(&checkpoints, "a"), Some(4));
}

#[test]
fn a_second_longshore_is_refused_and_told_who_is_there() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let data = dir.path().join("data");
    let first = Checkpoints::open(&data, quiet()).expect("free");
    let error = Checkpoints::open(&data, quiet()).expect_err("locked").to_string();
    assert!(error.contains(&format!("another longshore (pid {})", std::process::id())), "{error}");
    drop(first);
    Checkpoints::open(&data, quiet()).expect("free again");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&data).expect("there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_damaged_record_comes_from_the_previous_save() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    put(&c, "a", 1);
    put(&c, "b", 1);
    c.save().expect("saved");
    drop(c);
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    put(&c, "a", 2);
    put(&c, "b", 2);
    c.save().expect("saved");
    drop(c);
    let path = dir.path().join(FILE);
    let mut text = fs::read(&path).expect("there");
    let at = text.windows(9).position(|w| w == b"\"key\":\"b\"").expect("b is there");
    text[at + 7] ^= 4;
    fs::write(&path, text).expect("written");
    fs::write(dir.path().join("checkpoints.tmp"), b"torn").expect("written");
    let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
    assert_eq!((offset(&c, "a"), offset(&c, "b"), c.damaged()), (Some(2), Some(1), 0));
    assert!(!dir.path().join("checkpoints.tmp").exists());
}

#[test]
fn what_changed_is_appended_until_it_is_as_long_as_the_whole() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap_or_default();
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    (0..1000).for_each(|n| put(&c, &format!("k{n}"), 1));
    c.save().expect("saved");
    let whole = read(FILE);
    for round in 2..50 {
        put(&c, "k7", round);
        c.save().expect("saved");
    }
    assert!(read(FILE) == whole && read(files::CHANGES).len() < whole.len() / 5);
    drop(c);
    let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
    assert_eq!((offset(&c, "k7"), offset(&c, "k8"), c.damaged(), c.resumed()), (Some(49), Some(1), 0, 1000));
    drop(c);
    // The last save did not come to its end.
    let torn = read(files::CHANGES);
    fs::write(dir.path().join(files::CHANGES), &torn[..torn.len() - 5]).expect("written");
    let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
    assert_eq!((offset(&c, "k7"), c.damaged()), (Some(48), 0));
    c.save().expect("saved");
    assert!(read(files::CHANGES).is_empty(), "the first save is a whole one");
    // The whole is damaged, the one before it is there: what changed since is newer than both.
    put(&c, "k7", 50);
    c.save().expect("saved");
    drop(c);
    fs::write(dir.path().join(FILE), b"").expect("written");
    let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
    assert_eq!((offset(&c, "k7"), offset(&c, "k8")), (Some(50), Some(1)));
    let (mut rounds, mut most, mut before) = (0, 0, 0);
    while rounds < 10 {
        (0..100).for_each(|n| put(&c, &format!("k{n}"), 100));
        c.save().expect("saved");
        let len = read(files::CHANGES).len();
        rounds += u64::from(len < before);
        (most, before) = (most.max(len), len);
    }
    assert!(most <= whole.len() * 2, "{most} bytes of changes beside {}", whole.len());
    c.final_save().expect("saved");
    assert!(read(files::CHANGES).is_empty());
}

#[test]
fn an_empty_file_gives_way_to_the_previous_save_and_two_to_nothing() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    put(&c, "a", 1);
    c.save().expect("saved");
    drop(c);
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    c.save().expect("saved");
    drop(c);
    fs::write(dir.path().join(FILE), b"").expect("written");
    let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
    assert_eq!(offset(&c, "a"), Some(1));
    drop(c);
    fs::write(dir.path().join("checkpoints.bak"), b"\0\0\0").expect("written");
    let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
    assert_eq!(offset(&c, "a"), None);
}

#[test]
fn a_save_without_room_or_cut_short_before_the_rename_leaves_the_previous_one_and_is_said() {
    for at_rename in [false, true] {
        let dir = tempfile::tempdir().expect("a temp dir");
        let metrics = Arc::new(Metrics::new(&[("in", "test")], &[("out", "test")]));
        let mut c = Checkpoints::open(dir.path(), quiet()).expect("free");
        put(&c, "a", 1);
        c.save().expect("saved");
        // The first save of each start is a whole one.
        if at_rename {
            drop(c);
            c = Checkpoints::open(dir.path(), quiet()).expect("free");
        }
        c.report_to(Arc::clone(&metrics));
        put(&c, "a", 2);
        disk::set_hook(Some(Box::new(move |call| match call {
            disk::Call::Write(_) if !at_rename => Err(rustix::io::Errno::NOSPC.into()),
            disk::Call::Rename(_) if at_rename => Err(rustix::io::Errno::NOSPC.into()),
            _ => Ok(()),
        })));
        let error = c.save().expect_err("no room");
        disk::set_hook(None);
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let (health, reason) = metrics.checks().remove(CHECK).expect("said");
        assert!(health == Health::Warn && reason.contains("not saved"), "{reason}");
        drop(c);
        let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
        assert_eq!((offset(&c, "a"), c.damaged()), (Some(1), 0));
        put(&c, "a", 2);
        c.save().expect("saved");
        drop(c);
        assert_eq!(offset(&Checkpoints::open(dir.path(), quiet()).expect("starts"), "a"), Some(2));
    }
}

#[test]
fn that_saving_fails_is_said_when_it_begins_and_once_a_minute_and_that_it_works_again_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    let (began, wall) = (Instant::now(), std::time::SystemTime::now());
    let full = |full: bool| {
        disk::set_hook(Some(Box::new(move |call| match call {
            disk::Call::Write(_) if full => Err(rustix::io::Errno::NOSPC.into()),
            _ => Ok(()),
        })));
    };
    let text = logged(Settings::default(), false, || {
        // A disk that is full for two minutes, and now and then in the one after that.
        for second in 0..180u64 {
            let time = Duration::from_secs(second);
            clock::set(Some((began + time, wall + time)));
            full(second < 120 || second % 10 == 0);
            let _ = c.save();
        }
    });
    disk::set_hook(None);
    clock::set(None);
    let lines: Vec<&str> = text.lines().collect();
    let tries = |line: &str| line.rsplit_once("tries=").map(|(_, tries)| tries.to_owned());
    let said: Vec<_> = lines.iter().map(|line| (line.contains("checkpoints were not saved"), tries(line))).collect();
    let times = |count: &str| Some(count.to_owned());
    let expected = [(true, times("1")), (true, times("61")), (true, times("121")), (false, times("121"))];
    assert_eq!(said, expected, "{text}");
    assert!(lines[3].contains("checkpoints are saved again") && lines[0].contains("No space"), "{text}");
}

/// A hook of which the outputs of `in` can not be synced while the first is set.
fn breakable() -> (Arc<AtomicBool>, SyncHook) {
    let broken = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&broken);
    let sync: SyncHook = Box::new(move || match hook.load(Ordering::Acquire) {
        true => [("in".to_owned(), "sink out: no space".to_owned())].into(),
        false => Unsynced::new(),
    });
    (broken, sync)
}

#[test]
fn an_input_whose_output_can_not_be_synced_keeps_its_checkpoints_and_the_others_go_on() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let metrics = Arc::new(Metrics::new(&[("in", "test"), ("other", "test")], &[("out", "test")]));
    let (broken, sync) = breakable();
    let c = Checkpoints::open(dir.path(), sync).expect("free");
    c.report_to(Arc::clone(&metrics));
    let put_both = |offset| {
        put(&c, "a", offset);
        let mut state = c.lock();
        let entry = state.news[&("in".to_owned(), "a".to_owned())].clone();
        state.news.insert(("other".to_owned(), "b".to_owned()), entry);
    };
    let stored = |input: &str, key: &str| {
        let stored = stored(dir.path()).expect("readable");
        stored[&(input.to_owned(), key.to_owned())].saved.done.offset
    };
    put_both(1);
    assert!(c.save_once().expect("saved"));
    broken.store(true, Ordering::Release);
    put_both(2);
    for _ in 0..2 {
        assert!(!c.save_once().expect("saved"), "not all of it");
        assert_eq!((stored("in", "a"), stored("other", "b")), (1, 2));
    }
    assert_eq!(offset(&c, "a"), Some(2), "who goes on in this run knows better");
    put(&c, "first", 1);
    assert!(!c.save_once().expect("saved"));
    assert!(c.keys("in").contains(&"first".to_owned()), "though nothing of it is stored yet");
    let (health, reason) = metrics.checks().remove(CHECK).expect("said");
    assert!(health == Health::Warn && reason.contains("those of in stay"), "{reason}");
    broken.store(false, Ordering::Release);
    assert!(c.save_once().expect("saved"));
    assert_eq!((stored("in", "a"), stored("other", "b")), (2, 2));
    assert_eq!(metrics.checks().remove(CHECK).expect("said").0, Health::Pass);
}

#[test]
fn that_a_file_is_lost_is_stored_though_an_output_can_not_be_synced_but_no_newer_place() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (broken, sync) = breakable();
    let c = Checkpoints::open(dir.path(), sync).expect("free");
    put(&c, "a", 1);
    put(&c, "b", 1);
    c.save().expect("saved");
    broken.store(true, Ordering::Release);
    put(&c, "b", 2);
    for key in ["a", "b"] {
        let progress = Progress::new(tracker::Mark::default(), Some(&c));
        progress.stay(c.lookup("in", key).expect("known"), true);
        c.attach("in", key, &progress);
    }
    c.save().expect("saved");
    let all = stored(dir.path()).expect("readable");
    let of = |key: &str| &all[&("in".to_owned(), key.to_owned())].saved;
    assert_eq!((of("a").done.offset, of("a").lost), (1, true));
    assert_eq!((of("b").done.offset, of("b").lost), (1, false));
}

#[test]
fn checkpoints_that_may_not_be_read_end_the_start() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    put(&c, "a", 1);
    c.save().expect("saved");
    drop(c);
    let denied = |name: &'static str| {
        disk::set_hook(Some(Box::new(move |call| match call {
            disk::Call::Open(path) if path.ends_with(name) => Err(rustix::io::Errno::ACCESS.into()),
            _ => Ok(()),
        })));
        let opened = Checkpoints::open(dir.path(), quiet());
        disk::set_hook(None);
        opened
    };
    let error = denied(FILE).expect_err("it is somebody else's");
    assert!(error.kind() == io::ErrorKind::PermissionDenied && error.to_string().contains("/checkpoints"), "{error}");
    denied("checkpoints.bak").expect("nobody needs it");
    denied(files::CHANGES).expect_err("it may be there");
}

#[test]
fn the_saver_saves_soon_after_a_change_and_ends_with_the_final_save() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    let workers = Workers::default();
    c.start_saver(&workers).expect("started");
    put(&c, "a", 1);
    c.touch(1, false);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !dir.path().join(FILE).exists() {
        assert!(Instant::now() < deadline, "not saved");
        std::thread::sleep(Duration::from_millis(10));
    }
    c.final_save().expect("saved");
    assert!(workers.join(Instant::now() + Duration::from_secs(5)));
}

#[test]
fn the_first_delivery_is_saved_well_before_the_delay_and_later_ones_within_it() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let saves = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&saves);
    let hook: SyncHook = Box::new(move || {
        seen.lock().expect("no panic").push(Instant::now());
        Unsynced::new()
    });
    let c = Checkpoints::open(dir.path(), hook).expect("free");
    let workers = Workers::default();
    c.start_saver(&workers).expect("started");
    put(&c, "a", 1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        c.touch(1, false);
        std::thread::sleep(Duration::from_millis(5));
    }
    let saves: Vec<Duration> = saves.lock().expect("no panic").iter().map(|at| at.duration_since(began)).collect();
    c.final_save().expect("saved");
    assert!(workers.join(Instant::now() + Duration::from_secs(5)));
    assert!(saves[0] < Duration::from_millis(150), "{saves:?}");
    assert!((2..=5).contains(&saves.len()), "neither rare nor one for each delivery: {saves:?}");
}

/// A second of touches, two milliseconds apart, brings saves forward, but not one each.
fn a_second_of(touch: impl Fn(&Checkpoints)) {
    let dir = tempfile::tempdir().expect("a temp dir");
    let saves = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::clone(&saves);
    let hook: SyncHook = Box::new(move || {
        seen.fetch_add(1, Ordering::Relaxed);
        Unsynced::new()
    });
    let c = Checkpoints::open(dir.path(), hook).expect("free");
    let workers = Workers::default();
    c.start_saver(&workers).expect("started");
    put(&c, "a", 1);
    let began = Instant::now();
    let mut touches = 0;
    while began.elapsed() < Duration::from_secs(1) {
        touch(&c);
        touches += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    let saves = saves.load(Ordering::Relaxed);
    let most = began.elapsed().as_millis() as usize / 100 + 2;
    c.final_save().expect("saved");
    assert!(workers.join(Instant::now() + Duration::from_secs(5)));
    assert!(saves >= 2 && saves <= most, "{saves} saves, not {most} at most, for {touches} touches");
}

#[test]
fn many_bytes_bring_a_save_forward_but_not_one_for_each_delivery() {
    a_second_of(|c| c.touch(saver::BYTES_MAX, false));
}

#[test]
fn ends_of_generations_bring_a_save_forward_but_not_one_each() {
    a_second_of(|c| c.touch(0, true));
}

#[test]
fn records_of_chains_long_gone_are_dropped() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let mut c = Checkpoints::open(dir.path(), quiet()).expect("free");
    put(&c, "new", 1);
    put(&c, "old", 1);
    c.save().expect("saved");
    assert_eq!(offset(&c, "old"), Some(1));
    Arc::get_mut(&mut c).expect("the only one").settle_in = Duration::ZERO;
    let old = ("in".to_owned(), "old".to_owned());
    Arc::make_mut(&mut c.lock().entries).get_mut(&old).expect("there").seen -= KEEP_SECONDS + 5;
    c.save().expect("saved");
    assert_eq!((offset(&c, "new"), offset(&c, "old")), (Some(1), None));
}

#[test]
fn a_chain_that_is_followed_keeps_its_record_however_long_nothing_was_saved() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let mut c = Checkpoints::open(dir.path(), quiet()).expect("free");
    put(&c, "quiet", 1);
    c.save().expect("saved");
    Arc::get_mut(&mut c).expect("the only one").settle_in = Duration::ZERO;
    let quiet = ("in".to_owned(), "quiet".to_owned());
    let progress = Progress::new(tracker::Mark::default(), None);
    assert!(progress.take_saved().is_none(), "no news");
    let age = |seconds| {
        let mut state = c.lock();
        state.live.insert(quiet.clone(), Arc::clone(&progress));
        Arc::make_mut(&mut state.entries).get_mut(&quiet).expect("there").seen -= seconds;
    };
    // Nobody has looked at it for a week.
    c.lock().swept = Some(clock::now());
    age(KEEP_SECONDS + 5);
    c.save().expect("saved");
    assert_eq!(offset(&c, "quiet"), Some(1));
    // And with the next look, that it is followed is stored.
    c.lock().swept = None;
    c.save().expect("saved");
    let changes = || fs::read_to_string(dir.path().join(files::CHANGES)).expect("there");
    let before = changes();
    assert!(before.contains("quiet"));
    c.lock().swept = None;
    c.save().expect("saved");
    let again = changes();
    assert!(!again.strip_prefix(&before).expect("appended").contains("quiet"), "not with each look: {again}");
    // A clock that was ahead is put right.
    age(-10 * KEEP_SECONDS);
    c.lock().swept = None;
    c.save().expect("saved");
    let entries = stored(dir.path()).expect("readable");
    assert!(entries[&quiet].seen <= seconds_now());
}

#[test]
fn changes_that_could_not_be_written_are_in_the_next_save_and_leave_nothing_that_misleads() {
    // The file is made by the first of them.
    for (fails, appended) in [("create", 0), ("write", 0), ("write", 1), ("sync", 0), ("sync", 1)] {
        let dir = tempfile::tempdir().expect("a temp dir");
        let c = Checkpoints::open(dir.path(), quiet()).expect("free");
        put(&c, "a", 1);
        (0..=appended).for_each(|_| c.save().expect("saved"));
        put(&c, "a", 2);
        let fails_now = move |call: disk::Call<'_>| match call {
            disk::Call::Create(_) => fails == "create",
            disk::Call::Write(_) => fails == "write",
            disk::Call::Sync => fails == "sync",
            _ => false,
        };
        disk::set_hook(Some(Box::new(move |call| match fails_now(call) {
            true => Err(rustix::io::Errno::NOSPC.into()),
            false => Ok(()),
        })));
        c.save().expect_err("no room");
        disk::set_hook(None);
        let of = |key: &str| {
            let all = stored(dir.path()).expect("whole");
            all.get(&("in".to_owned(), key.to_owned())).map(|entry| entry.saved.done.offset)
        };
        assert!(of("a") == Some(1) || fails == "sync", "{fails}");
        put(&c, "b", 3);
        c.save().expect("there is room again");
        assert_eq!((of("a"), of("b")), (Some(2), Some(3)), "{fails}");
        assert!(!dir.path().join(files::CHANGES).exists(), "after a failure, everything is written");
    }
}

#[test]
fn who_moves_the_checkpoints_away_begins_anew() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    for n in 1..3 {
        put(&c, "a", n);
        c.save().expect("saved");
    }
    drop(c);
    assert!(dir.path().join(files::CHANGES).exists());
    fs::remove_file(dir.path().join(FILE)).expect("there");
    let c = Checkpoints::open(dir.path(), quiet()).expect("starts");
    assert_eq!((offset(&c, "a"), c.resumed()), (None, 0));
    // Nor do they come back where the changes can not be removed, or it ends before that.
    disk::set_hook(Some(Box::new(|call| match call {
        disk::Call::Remove(path) if path.ends_with(files::CHANGES) => Err(rustix::io::Errno::IO.into()),
        _ => Ok(()),
    })));
    c.save().expect("saved");
    disk::set_hook(None);
    drop(c);
    assert!(dir.path().join(files::CHANGES).exists());
    assert_eq!(offset(&Checkpoints::open(dir.path(), quiet()).expect("starts"), "a"), None);
}

#[test]
fn a_damaged_change_costs_one_save_and_is_said() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let c = Checkpoints::open(dir.path(), quiet()).expect("free");
    for (key, place) in [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c", 2)] {
        put(&c, key, place);
        c.save().expect("saved");
    }
    drop(c);
    let path = dir.path().join(files::CHANGES);
    let mut text = fs::read(&path).expect("there");
    let of_a = b"\"key\":\"a\"";
    let at = text.windows(of_a.len()).position(|text| text == of_a).expect("the second place of a");
    text[at + 7] ^= 1;
    fs::write(&path, text).expect("written");
    let mut opened = None;
    let said = logged(Settings::default(), false, || opened = Checkpoints::open(dir.path(), quiet()).ok());
    let c = opened.expect("starts");
    assert_eq!(["a", "b", "c"].map(|key| offset(&c, key)), [Some(1), Some(2), Some(2)]);
    assert!(c.damaged() == 1 && said.contains("damaged changes of checkpoints were skipped"), "{said}");
}
