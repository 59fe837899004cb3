//! Cases that are written out for the engine of the simulation and its clock: what takes days, a file that grows for
//! seconds, and a writer that is told of a rotation late.

use std::time::SystemTime;

use super::*;
use crate::inputs::follow::disk::Bad;
use crate::inputs::follow::held;
use crate::metrics::followed::LostBytes;

/// An engine that nobody disturbs.
struct Still {
    life: Life,
    folder: PathBuf,
    now: Duration,
    wall: SystemTime,
    /// What comes is not taken: it is read again.
    refuses: bool,
    _runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Still {
    /// Starts it on what `prepare` puts into the folder.
    fn new(rules: Rules, prepare: impl FnOnce(&Path, SystemTime)) -> Still {
        let dir = tempfile::tempdir().expect("a temp dir");
        let folder = dir.path().join("logs");
        fs::create_dir(&folder).expect("made");
        let wall = SystemTime::now();
        prepare(&folder, wall);
        clock::set(Some((*START, wall)));
        let runtime = runtime();
        let life = begin(&folder, &dir.path().join("data"), runtime.handle(), rules).expect("starts");
        Still { life, folder, now: Duration::ZERO, wall, refuses: false, _runtime: runtime, _dir: dir }
    }

    /// Lets time pass, gives everybody a turn, and takes the texts of the lines that came.
    fn after(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        clock::set(Some((*START + self.now, self.wall + self.now)));
        self.life.opener.step();
        self.life.reader.woken();
        for _ in 0..50 {
            if !matches!(self.life.reader.step(), Step::Again) {
                break;
            }
        }
        let mut came = Vec::new();
        while let Ok(shipment) = self.life.queue.try_recv() {
            let batch = &shipment.batch;
            for at in 0..batch.len() {
                let field = batch.find(at, b"log").copied().expect("log");
                let text = crate::codec::json::text(batch.value(&field)).expect("a text");
                came.push(String::from_utf8_lossy(&text).into_owned());
            }
            if !self.refuses {
                shipment.receipts.settle(Outcome::Delivered);
            }
        }
        came
    }

    /// The same in steps of 100 ms.
    fn for_seconds(&mut self, seconds: u32) -> Vec<String> {
        (0..seconds * 10).flat_map(|_| self.after(Duration::from_millis(100))).collect()
    }

    /// How many files of its folder are open, by the end of their names.
    fn open(&self, end: &str) -> usize {
        let open =
            fs::read_dir("/proc/self/fd").expect("there").filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let ours = open.filter(|path| path.starts_with(&self.folder) && path != &self.folder);
        ours.filter(|path| path.to_string_lossy().ends_with(end)).count()
    }

    fn oddity(&self, what: Oddity) -> u64 {
        self.life.metrics.inputs[0].oddities[what as usize].load(Ordering::Relaxed)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        clock::set(None);
        disk::set_bad(None);
        held::set_scarce(false);
    }
}

fn record(n: u64) -> String {
    record_at(&format!("{n}\\n"), n)
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn a_line_after_days_of_silence_that_is_rotated_away_at_once_comes() {
    let mut still = Still::new(docker_rules(), |folder, _| fs::write(folder.join(BASE), record(0)).expect("written"));
    assert_eq!(still.for_seconds(1), ["0"]);
    for _ in 0..3 {
        assert!(still.after(Duration::from_secs(86_400)).is_empty());
        assert!(still.for_seconds(1).is_empty());
    }
    // All of it between two looks: the line, the end of its file, a new one.
    let base = still.folder.join(BASE);
    let mut file = OpenOptions::new().append(true).open(&base).expect("there");
    file.write_all(record(1).as_bytes()).expect("written");
    fs::remove_file(&base).expect("removed");
    fs::write(&base, record(2)).expect("written");
    assert_eq!(still.for_seconds(1), ["1", "2"]);
    let lost = &still.life.metrics.inputs[0].followed.generations[Generation::Lost as usize];
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}

/// Moves the base to `.1`, and what was there to `.2`.
fn shift(folder: &Path) {
    let _ = fs::rename(folder.join(format!("{BASE}.1")), folder.join(format!("{BASE}.2")));
    fs::rename(folder.join(BASE), folder.join(format!("{BASE}.1"))).expect("there");
}

fn create(folder: &Path, n: u64) {
    fs::write(folder.join(BASE), record(n)).expect("written");
}

impl Still {
    /// The same as [`Still::after`], and how often the folder was listed meanwhile. `each` is asked before each call.
    fn listings(&mut self, time: Duration, mut each: impl FnMut(Call<'_>) + 'static) -> (Vec<String>, usize) {
        let listed = Rc::new(RefCell::new(0));
        let (count, folder) = (Rc::clone(&listed), self.folder.clone());
        disk::set_hook(Some(Box::new(move |call| {
            *count.borrow_mut() += usize::from(call == Call::List(&folder));
            each(call);
            Ok(())
        })));
        let came = self.after(time);
        disk::set_hook(None);
        (came, listed.take())
    }
}

#[test]
fn files_that_were_created_are_followed_without_a_look_at_other_names() {
    let mut still = Still::new(docker_rules(), |folder, _| create(folder, 0));
    assert_eq!(still.for_seconds(1), ["0"]);
    let mut next = 1;
    // That many rotations between two turns of the opener.
    for times in [1, 1, 2, 1, 2] {
        let from = next;
        for _ in 0..times {
            shift(&still.folder);
            create(&still.folder, next);
            next += 1;
        }
        let (came, listings) = still.listings(Duration::from_millis(1), |_| {});
        assert_eq!(listings, 0);
        let rest = still.after(Duration::from_millis(1));
        assert_eq!([came, rest].concat(), numbers(from..next));
    }
    // The look that the other names ask for was not put off, but left out.
    assert_eq!(still.listings(Duration::from_secs(1), |_| {}).1, 0);
    let opened = &still.life.metrics.inputs[0].followed.generations[Generation::Opened as usize];
    assert_eq!(opened.load(Ordering::Relaxed), next);
    let lost = &still.life.metrics.inputs[0].followed.generations[Generation::Lost as usize];
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}

#[test]
fn a_file_that_is_rotated_just_before_it_is_opened_is_not_passed_over() {
    let mut still = Still::new(docker_rules(), |folder, _| create(folder, 0));
    assert_eq!(still.for_seconds(1), ["0"]);
    shift(&still.folder);
    create(&still.folder, 1);
    let (folder, mut done) = (still.folder.clone(), false);
    let rotate = move |call: Call<'_>| {
        if call == Call::Open(&folder.join(BASE)) && !std::mem::replace(&mut done, true) {
            shift(&folder);
            create(&folder, 2);
        }
    };
    let (mut came, listings) = still.listings(Duration::from_millis(1), rotate);
    assert!(listings > 0, "it can not know what is between");
    came.extend(still.for_seconds(1));
    assert_eq!(came, ["1", "2"]);
}

#[test]
fn a_file_that_was_opened_and_is_gone_before_the_look_is_not_lost() {
    let mut still = Still::new(docker_rules(), |folder, _| create(folder, 0));
    assert_eq!(still.for_seconds(1), ["0"]);
    let again = |folder: &Path, n| {
        fs::remove_file(folder.join(BASE)).expect("there");
        create(folder, n);
    };
    again(&still.folder, 1);
    let (folder, mut fstats) = (still.folder.clone(), 0);
    let (came, _) = still.listings(Duration::from_millis(1), move |call| {
        // It is open by then.
        if call == Call::Fstat {
            fstats += 1;
            if fstats == 1 {
                again(&folder, 2);
            }
        }
    });
    assert_eq!([came, still.for_seconds(1)].concat(), ["1", "2"]);
    let lost = &still.life.metrics.inputs[0].followed.generations[Generation::Lost as usize];
    assert_eq!(lost.load(Ordering::Relaxed), 0);
}

#[test]
fn half_a_rotation_is_looked_at_when_it_does_not_go_on() {
    let mut still = Still::new(docker_rules(), |folder, _| create(folder, 0));
    assert_eq!(still.for_seconds(1), ["0"]);
    shift(&still.folder);
    let nothing = |listings: (Vec<String>, usize)| assert_eq!(listings, (Vec::new(), 0));
    nothing(still.listings(Duration::from_millis(1), |_| {}));
    nothing(still.listings(Duration::from_millis(5), |_| {}));
    assert!(still.listings(Duration::from_millis(20), |_| {}).1 > 0);
    create(&still.folder, 1);
    assert_eq!(still.for_seconds(1), ["1"]);
}

#[test]
fn a_gz_that_grows_for_seconds_without_its_plain_file_is_read_to_its_end_before_what_is_newer() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    (0..2000).for_each(|n| encoder.write_all(record(n).as_bytes()).expect("in memory"));
    let packed = encoder.finish().expect("in memory");
    let mut gz = None;
    let mut still = Still::new(docker_rules(), |folder, wall| {
        fs::write(folder.join(BASE), record(2000)).expect("written");
        let mut file = File::create(folder.join(format!("{BASE}.1.gz"))).expect("made");
        file.write_all(&packed[..10]).and_then(|()| file.set_modified(wall)).expect("written");
        gz = Some(file);
    });
    let mut gz = gz.expect("made");
    let mut came = Vec::new();
    for part in packed[10..].chunks(packed.len() / 8) {
        came.extend(still.after(Duration::from_millis(700)));
        assert!(came.len() < 2000, "it is not whole");
        gz.write_all(part).and_then(|()| gz.set_modified(still.wall + still.now)).expect("written");
    }
    // Nobody says that it is closed: it has been quiet for a second.
    came.extend(still.for_seconds(3));
    assert_eq!(came, numbers(0..2001));
    assert_eq!(still.oddity(Oddity::GzDamaged), 0);
}

#[test]
fn a_compressed_file_that_nobody_was_told_of_hides_no_file_that_is_lost_later() {
    let mut still = Still::new(docker_rules(), |folder, _| fs::write(folder.join(BASE), record(0)).expect("written"));
    assert_eq!(still.for_seconds(1), ["0"]);
    let base = still.folder.join(BASE);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(record(1).as_bytes()).expect("in memory");
    fs::rename(&base, still.folder.join(format!("{BASE}.2"))).expect("renamed");
    fs::write(still.folder.join(format!("{BASE}.1.gz")), encoder.finish().expect("in memory")).expect("written");
    fs::write(&base, record(2)).expect("written");
    assert_eq!(still.for_seconds(12), ["1", "2"]);
    let lost = |still: &Still| {
        still.life.metrics.inputs[0].followed.generations[Generation::Lost as usize].load(Ordering::Relaxed)
    };
    assert_eq!(lost(&still), 0);
    // One that is there between two looks only.
    fs::remove_file(&base).and_then(|()| fs::write(&base, record(3))).expect("written");
    fs::remove_file(&base).and_then(|()| fs::write(&base, record(4))).expect("written");
    assert_eq!(still.for_seconds(1), ["4"]);
    assert_eq!(lost(&still), 1);
}

/// A CRI file that its runtime is to rotate: renamed, while the runtime still has it open.
fn renamed(content: &str) -> (Still, File, PathBuf) {
    let rules = Rules { format: Format::Cri, docker: false, ..docker_rules() };
    renamed_under(rules, content)
}

fn renamed_under(rules: Rules, content: &str) -> (Still, File, PathBuf) {
    let still = Still::new(rules, |folder, _| fs::write(folder.join(BASE), content).expect("written"));
    let base = still.folder.join(BASE);
    let old = OpenOptions::new().append(true).open(&base).expect("there");
    fs::rename(&base, still.folder.join(format!("{BASE}.1"))).expect("renamed");
    (still, old, base)
}

fn cri(tag: &str, text: &str) -> String {
    format!("2026-11-24T12:00:00.5+02:00 stdout {tag} {text}\n")
}

#[test]
fn a_cri_line_whose_end_comes_to_its_renamed_file_is_not_joined_with_the_new_file_s_line() {
    let (mut still, mut old, base) = renamed(&(cri("F", "a") + &cri("P", "half")));
    assert_eq!(still.for_seconds(1), ["a"]);
    old.write_all(cri("P", " and").as_bytes()).expect("written");
    assert!(still.after(Duration::from_millis(100)).is_empty());
    fs::write(&base, cri("F", "new")).expect("written");
    assert!(still.after(Duration::from_millis(500)).is_empty(), "its end may still come");
    old.write_all(cri("F", " half").as_bytes()).expect("written");
    assert_eq!(still.for_seconds(1), ["half and half", "new"]);
    assert_eq!(still.oddity(Oddity::PartialOrphan), 0);
}

#[test]
fn a_cri_line_that_begins_in_a_renamed_file_ends_in_the_new_one_and_what_comes_late_is_joined_by_itself() {
    let (mut still, mut old, base) = renamed(&cri("P", "begun there, "));
    assert!(still.for_seconds(1).is_empty());
    fs::write(&base, cri("F", "ended here") + &cri("P", "begun here, ")).expect("written");
    assert_eq!(still.for_seconds(2), ["begun there, ended here"]);
    let mut new = OpenOptions::new().append(true).open(&base).expect("there");
    // A line that comes late in two looks, with one of the new file in between.
    old.write_all(cri("P", "late, ").as_bytes()).expect("written");
    assert!(still.after(Duration::from_millis(300)).is_empty());
    new.write_all((cri("F", "ended here, too") + &cri("P", "third: ")).as_bytes()).expect("written");
    assert_eq!(still.after(Duration::from_millis(300)), ["begun here, ended here, too"]);
    old.write_all(cri("F", "but whole").as_bytes()).expect("written");
    assert_eq!(still.after(Duration::from_millis(300)), ["late, but whole"]);
    // And one whose end does not come.
    old.write_all(cri("P", "without an end").as_bytes()).expect("written");
    assert_eq!(still.for_seconds(2), ["without an end"]);
    assert_eq!(still.oddity(Oddity::PartialOrphan), 1);
    new.write_all(cri("F", "done").as_bytes()).expect("written");
    assert_eq!(still.for_seconds(1), ["third: done"]);
}

#[test]
fn a_cri_file_that_is_renamed_back_since_its_runtime_could_not_be_told_is_read_once() {
    let (mut still, mut file, base) = renamed(&(cri("P", "a") + &cri("P", "b") + &cri("F", "c") + &cri("F", "")));
    assert_eq!(still.for_seconds(1), ["abc", ""]);
    file.write_all((cri("F", "d") + &cri("P", "e, ")).as_bytes()).expect("written");
    assert_eq!(still.for_seconds(5), ["d"]);
    fs::rename(still.folder.join(format!("{BASE}.1")), &base).expect("renamed back");
    assert!(still.for_seconds(11).is_empty(), "also at the look at everything");
    file.write_all(cri("F", "f").as_bytes()).expect("written");
    assert_eq!(still.for_seconds(1), ["e, f"]);
}

#[test]
fn what_came_late_to_a_renamed_cri_file_is_joined_by_itself_also_when_it_is_read_again() {
    let (mut still, mut old, base) = renamed(&cri("F", "a"));
    assert_eq!(still.for_seconds(1), ["a"]);
    fs::write(&base, cri("F", "new") + &cri("P", "begun here, ")).expect("written");
    let mut new = OpenOptions::new().append(true).open(&base).expect("there");
    assert_eq!(still.for_seconds(1), ["new"]);
    // The end of a line of the old file comes while one of the new file waits for its own.
    let mut refused = |still: &mut Still, text: String, came: &str| {
        still.refuses = true;
        old.write_all(text.as_bytes()).expect("written");
        let first = still.for_seconds(2);
        assert!(!first.is_empty() && first.iter().all(|log| log == came), "{first:?}");
        still.refuses = false;
        assert_eq!(still.for_seconds(3), [came]);
    };
    refused(&mut still, cri("F", "late"), "late");
    refused(&mut still, cri("P", "late, ") + &cri("F", "too"), "late, too");
    refused(&mut still, cri("P", "without an end"), "without an end");
    // What was delivered of it does not come again when something of the new file does, nor does it join that.
    still.refuses = true;
    new.write_all(cri("F", "said").replace("stdout", "stderr").as_bytes()).expect("written");
    assert!(still.for_seconds(1).iter().all(|log| log == "said"));
    still.refuses = false;
    assert_eq!(still.for_seconds(3), ["said"]);
    new.write_all(cri("F", "ended here").as_bytes()).expect("written");
    assert_eq!(still.for_seconds(1), ["begun here, ended here"]);
}

#[test]
fn a_line_that_was_cut_at_the_end_of_a_renamed_file_costs_no_line_of_the_new_one_and_ends_in_its_own() {
    let rules = Rules { format: Format::Cri, docker: false, line_max: 64, ..docker_rules() };
    // More than is read at a time.
    let long = cri("F", &"x".repeat(400_000));
    let cut = "x".repeat(64 - cri("F", "").trim_end_matches('\n').len());
    let (mut still, mut old, base) = renamed_under(rules, &(cri("F", "a") + long.trim_end()));
    still.refuses = true;
    assert_eq!(still.after(Duration::from_millis(100)), ["a", cut.as_str()]);
    fs::write(&base, cri("F", "first") + &cri("F", "second")).expect("written");
    still.for_seconds(2);
    still.refuses = false;
    assert_eq!(still.for_seconds(3), ["a", cut.as_str(), "first", "second"]);
    // It goes on, and what is refused meanwhile is read again: not from where it began, which is let go by now.
    old.write_all("x".repeat(100).as_bytes()).expect("written");
    assert!(still.for_seconds(1).is_empty());
    still.refuses = true;
    let mut new = OpenOptions::new().append(true).open(&base).expect("there");
    new.write_all(cri("F", "third").as_bytes()).expect("written");
    assert!(still.for_seconds(1).iter().all(|log| log == "third"));
    still.refuses = false;
    assert_eq!(still.for_seconds(3), ["third"]);
    old.write_all(("the rest\n".to_owned() + &cri("F", "late")).as_bytes()).expect("written");
    assert_eq!(still.for_seconds(1), ["late"]);
}

fn text_rules() -> Rules {
    Rules { format: Format::Text, docker: false, ..docker_rules() }
}

fn append(path: &Path, line: &str) {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("written");
}

#[test]
fn a_writer_that_is_never_told_of_the_rotation_is_read_on_after_pauses_of_any_length() {
    let (mut still, mut old, base) = renamed_under(text_rules(), "0\n");
    assert_eq!(still.for_seconds(1), ["0"]);
    File::create(&base).expect("made");
    for n in 1..4 {
        assert!(still.for_seconds(60 * n).is_empty());
        writeln!(old, "{n}").expect("written");
        assert_eq!(still.for_seconds(11), [n.to_string()]);
    }
    // Once more renamed, and the new one is as empty.
    shift(&still.folder);
    File::create(&base).expect("made");
    assert!(still.for_seconds(60).is_empty());
    writeln!(old, "4").expect("written");
    assert_eq!(still.for_seconds(11), ["4"]);
    // It is told at last, or another one begins: the new one is not waited for.
    assert!(still.for_seconds(600).is_empty());
    append(&base, "5");
    assert_eq!(still.for_seconds(1), ["5"]);
    assert!(still.for_seconds(600).is_empty());
    writeln!(old, "6").expect("written");
    assert_eq!(still.for_seconds(11), ["6"]);
    append(&base, "7");
    assert_eq!(still.for_seconds(1), ["7"]);
    // What has no name any more is let go of.
    fs::remove_file(still.folder.join(format!("{BASE}.2"))).expect("there");
    writeln!(old, "8").expect("written");
    drop(old);
    assert_eq!(still.open(" (deleted)"), 1);
    assert_eq!(still.for_seconds(50), ["8"]);
    assert_eq!(still.open(" (deleted)"), 0);
}

#[test]
fn quiet_renamed_files_are_held_up_to_a_limit_and_the_others_are_read_on_after_the_next_rotation() {
    for scarce in [false, true] {
        let mut still = Still::new(text_rules(), |folder, _| fs::write(folder.join(BASE), "0\n").expect("written"));
        assert_eq!(still.for_seconds(1), ["0"]);
        let (base, folder) = (still.folder.join(BASE), still.folder.clone());
        // The first one is the oldest, and never renamed again.
        let older = |n: u64| folder.join(format!("{BASE}.{}", 20 - n));
        for n in 1..9 {
            fs::rename(&base, older(n)).expect("renamed");
            fs::write(&base, format!("{n}\n")).expect("written");
            assert_eq!(still.for_seconds(1), [n.to_string()]);
        }
        held::set_scarce(scarce);
        assert!(still.for_seconds(45).is_empty());
        assert_eq!(still.open(""), if scarce { 1 } else { 1 + 4 });
        append(&older(1), "late");
        append(&older(8), "later");
        let came = still.for_seconds(15);
        assert_eq!(came, if scarce { vec![] } else { vec!["later"] });
        fs::rename(&base, older(9)).expect("renamed");
        fs::write(&base, "9\n").expect("written");
        let mut came = still.for_seconds(2);
        came.sort();
        assert_eq!(came, if scarce { vec!["9", "late", "later"] } else { vec!["9", "late"] });
        assert!(still.for_seconds(45).is_empty());
    }
}

#[test]
fn what_is_to_be_read_again_and_can_not_be_is_waited_for_and_passed_over_when_there_is_something_newer() {
    for rotates in [false, true] {
        let mut still = Still::new(text_rules(), |folder, _| fs::write(folder.join(BASE), "1\n").expect("written"));
        assert_eq!(still.for_seconds(1), ["1"]);
        let base = still.folder.join(BASE);
        append(&base, "2");
        still.refuses = true;
        assert_eq!(still.after(Duration::from_millis(100)), ["2"]);
        still.refuses = false;
        let name = if rotates { "c-json.log.1" } else { BASE };
        disk::set_bad(Some(Bad { name, from: 0, errno: rustix::io::Errno::IO }));
        if rotates {
            shift(&still.folder);
            fs::write(&base, "3\n").expect("written");
        }
        assert!(still.for_seconds(25).is_empty());
        if rotates {
            assert_eq!(still.for_seconds(15), ["3"]);
        } else {
            assert!(still.for_seconds(15).is_empty());
            disk::set_bad(None);
            assert_eq!(still.for_seconds(2), ["2"]);
        }
        let lost = &still.life.metrics.inputs[0].followed.lost_bytes[LostBytes::Unreadable as usize];
        assert_eq!(lost.load(Ordering::Relaxed), if rotates { 2 } else { 0 });
    }
}

#[test]
fn compressed_copies_are_closed_where_descriptors_are_scarce_and_not_read_again() {
    let mut still = Still::new(docker_rules(), |folder, _| create(folder, 0));
    assert_eq!(still.for_seconds(1), ["0"]);
    // As Docker does it: right after a line, and with a copy of all of it.
    let rotate = |still: &mut Still, n: u64| {
        let (folder, last) = (still.folder.clone(), 10 * n - 1);
        let name = |n: u64, gz: &str| folder.join(format!("{BASE}.{n}{gz}"));
        let mut base = OpenOptions::new().append(true).open(folder.join(BASE)).expect("there");
        base.write_all(record(last).as_bytes()).expect("written");
        assert_eq!(still.after(Duration::from_millis(10)), [last.to_string()]);
        (1..9).rev().for_each(|n| drop(fs::rename(name(n, ".gz"), name(n + 1, ".gz"))));
        shift(&folder);
        create(&folder, 10 * n);
        let mut encoder = GzEncoder::new(File::create(name(1, ".gz")).expect("made"), Compression::fast());
        let text = record(10 * n - 10) + &record(last);
        encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish().map(drop)).expect("written");
        fs::remove_file(name(1, "")).expect("there");
        assert_eq!(still.for_seconds(13), [(10 * n).to_string()]);
    };
    (1..5).for_each(|n| rotate(&mut still, n));
    let open = still.open(".gz");
    assert!(open >= 3, "{open}: what is not held need not be closed");
    held::set_scarce(true);
    assert!(still.for_seconds(61).is_empty());
    assert_eq!(still.open(".gz"), 0);
    (5..8).for_each(|n| rotate(&mut still, n));
    assert!(still.for_seconds(61).is_empty());
    assert_eq!(still.open(".gz"), 0);
    // Met again, they are known: without a base all that is there is looked at.
    held::set_scarce(false);
    fs::remove_file(still.folder.join(BASE)).expect("there");
    assert!(still.for_seconds(25).is_empty());
    create(&still.folder, 80);
    assert_eq!(still.for_seconds(13), ["80"]);
}

#[test]
fn a_compressed_copy_whose_writer_pauses_for_long_is_not_read_as_a_damaged_file() {
    // Lines that do not pack well, so that half of the bytes are some of them.
    let text: String = (0..50u64)
        .map(|n| record_at(&format!("{n} {}\\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string().repeat(20)), n))
        .collect();
    let mut still = Still::new(docker_rules(), |folder, _| fs::write(folder.join(BASE), &text).expect("written"));
    assert_eq!(still.for_seconds(1).len(), 50);
    shift(&still.folder);
    create(&still.folder, 50);
    assert_eq!(still.for_seconds(1), ["50"]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("in memory");
    let packed = encoder.finish().expect("in memory");
    let half = File::create(still.folder.join(format!("{BASE}.1.gz"))).expect("made");
    (&half).write_all(&packed[..packed.len() / 2]).expect("written");
    fs::remove_file(still.folder.join(format!("{BASE}.1"))).expect("there");
    assert!(still.for_seconds(5).is_empty());
    // Without a base all that is there is looked at.
    fs::remove_file(still.folder.join(BASE)).expect("there");
    assert!(still.for_seconds(25).is_empty());
    create(&still.folder, 51);
    assert_eq!(still.for_seconds(5), ["51"]);
}
