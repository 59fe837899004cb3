//! The opener with the folders and names of real inputs, on the simulation's clock: folders and names that go and come
//! back, and names that only look rotated.

use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use super::*;
use crate::inputs::follow::{held, source, stored};
use crate::inputs::{docker, file};
use crate::metrics::followed::{LostBytes, Watching};

mod cuts;
mod faults;
mod logrotate;
mod places;
mod refused;
mod replayed;
mod service;

type Make = Box<dyn FnMut(&Path, &Checkpoints) -> Box<dyn Layout>>;

/// An engine on a folder of its own.
struct Stage {
    life: Option<Life>,
    make: Make,
    rules: fn() -> Rules,
    how: How,
    root: PathBuf,
    now: Duration,
    wall: SystemTime,
    runtime: Runtime,
    dir: tempfile::TempDir,
}

fn text_rules() -> Rules {
    Rules { format: Format::Text, docker: false, ..docker_rules() }
}

impl Stage {
    /// Plain files by these globs, on what `prepare` puts there.
    fn files(patterns: &'static [&'static str], prepare: impl FnOnce(&Path)) -> Stage {
        Stage::files_of(text_rules, patterns, prepare)
    }

    /// The same of another kind.
    fn files_of(rules: fn() -> Rules, patterns: &'static [&'static str], prepare: impl FnOnce(&Path)) -> Stage {
        Stage::with(Box::new(|root, known| file::tests::layout(root, patterns, known)), rules, prepare)
    }

    /// Containers.
    fn containers(exclude: &'static [&'static str], prepare: impl FnOnce(&Path)) -> Stage {
        Stage::with(Box::new(|root, _| docker::tests::layout(root, exclude)), docker_rules, prepare)
    }

    fn with(make: Make, rules: fn() -> Rules, prepare: impl FnOnce(&Path)) -> Stage {
        let dir = tempfile::tempdir().expect("a temp dir");
        let root = dir.path().join("logs");
        fs::create_dir(&root).expect("made");
        prepare(&root);
        // What is made from now on is newer by more than a tick of birth times.
        a_tick();
        let (now, wall) = (Duration::ZERO, SystemTime::now());
        let mut stage =
            Stage { life: None, make, rules, how: How::default(), root, now, wall, runtime: runtime(), dir };
        stage.start();
        stage
    }

    fn start(&mut self) {
        clock::set(Some((*START + self.now, self.wall + self.now)));
        let Stage { make, root, .. } = self;
        let data = self.dir.path().join("data");
        let life = begin_with(&mut |known| make(root, known), &data, self.runtime.handle(), (self.rules)(), self.how);
        self.life = Some(life.expect("starts"));
    }

    fn stop(&mut self) {
        let life = self.life.take().expect("runs");
        life.checkpoints.final_save().expect("saved");
    }

    /// Changes what is stored of each chain, while nothing runs.
    fn store(&self, change: impl Fn(&mut stored::Entry)) {
        let path = self.dir.path().join("data/checkpoints");
        let mut parsed = stored::read(&fs::read(&path).expect("there"));
        parsed.entries.values_mut().for_each(change);
        fs::write(&path, stored::write(parsed.seq.expect("whole"), &parsed.entries, None)).expect("written");
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("runs")
    }

    /// Lets time pass, and gives everybody a turn.
    fn turns(&mut self, time: Duration) {
        self.now += time;
        clock::set(Some((*START + self.now, self.wall + self.now)));
        let life = self.life();
        life.opener.step();
        life.reader.woken();
        for _ in 0..50 {
            if !matches!(life.reader.step(), Step::Again) {
                break;
            }
        }
    }

    /// The same, and takes the lines that came.
    fn after(&mut self, time: Duration) -> Vec<String> {
        self.turns(time);
        let life = self.life();
        let mut came = Vec::new();
        while let Ok(shipment) = life.queue.try_recv() {
            let batch = &shipment.batch;
            for at in 0..batch.len() {
                let field = batch.find(at, b"log").or(batch.fields(at).first()).copied().expect("a field");
                let text = crate::codec::json::text(batch.value(&field));
                let text = text.unwrap_or_else(|| batch.bytes(field.value).into());
                came.push(String::from_utf8_lossy(&text).into_owned());
            }
            shipment.receipts.settle(Outcome::Delivered);
        }
        life.checkpoints.step(&mut life.saver);
        came
    }

    /// The same in steps of 100 ms.
    fn seconds(&mut self, seconds: u32) -> Vec<String> {
        (0..seconds * 10).flat_map(|_| self.after(Duration::from_millis(100))).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn put(&self, name: &str, lines: &[&str]) {
        put(&self.path(name), lines);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("renamed");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }

    fn oddity(&mut self, what: Oddity) -> u64 {
        self.life().metrics.inputs[0].oddities[what as usize].load(Ordering::Relaxed)
    }

    fn watching(&mut self, what: Watching) -> u64 {
        self.life().metrics.inputs[0].followed.watching[what as usize].load(Ordering::Relaxed)
    }

    fn generations(&mut self, what: Generation) -> u64 {
        self.life().metrics.inputs[0].followed.generations[what as usize].load(Ordering::Relaxed)
    }

    fn lost_bytes(&mut self, why: LostBytes) -> u64 {
        self.life().metrics.inputs[0].followed.lost_bytes[why as usize].load(Ordering::Relaxed)
    }

    fn said(&mut self) -> String {
        self.life().metrics.checks().remove("input in").map(|(_, reason)| reason).unwrap_or_default()
    }
}

fn rows(shipments: &[Shipment]) -> usize {
    shipments.iter().map(|shipment| shipment.batch.len()).sum()
}

fn a_tick() {
    std::thread::sleep(Duration::from_millis(30));
}

impl Drop for Stage {
    fn drop(&mut self) {
        disk::set_hook(None);
        disk::set_bad(None);
        held::set_scarce(false);
        clock::set(None);
    }
}

fn put(path: &Path, lines: &[&str]) {
    fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
}

fn container(root: &Path, id: &str, name: &str, lines: std::ops::Range<u64>) {
    fs::create_dir_all(root.join(id)).expect("made");
    config(root, id, name);
    let text: String = lines.map(|n| record_at(&format!("{n}\\n"), n)).collect();
    let file = OpenOptions::new().create(true).append(true).open(root.join(id).join(format!("{id}-json.log")));
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
}

/// As Docker writes it: another file in its place.
fn config(root: &Path, id: &str, name: &str) {
    let text = format!(r#"{{"ID":"{id}","Name":"/{name}","Config":{{"Image":"img","Labels":{{}}}}}}"#);
    fs::write(root.join(id).join(".tmp"), text).expect("written");
    fs::rename(root.join(id).join(".tmp"), root.join(id).join("config.v2.json")).expect("renamed");
}

/// Counts the calls of this thread that are asked for, and fails those that `fails` names.
fn hook(
    counted: fn(Call<'_>) -> bool,
    fails: impl Fn(Call<'_>) -> Option<rustix::io::Errno> + 'static,
) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&count);
    disk::set_hook(Some(Box::new(move |call| {
        counts.fetch_add(usize::from(counted(call)), Ordering::Relaxed);
        fails(call).map_or(Ok(()), |errno| Err(errno.into()))
    })));
    count
}

fn packed(path: &Path, text: &str) {
    let mut encoder = GzEncoder::new(File::create(path).expect("made"), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("written");
    encoder.finish().expect("written");
}

#[test]
fn a_folder_that_is_away_for_a_moment_is_read_on_and_no_line_comes_twice() {
    let mut stage = Stage::files(&["*/*.log"], |root| put(&root.join("x/a.log"), &["1", "2"]));
    assert_eq!(stage.seconds(1), ["1", "2"]);
    let aside = stage.dir.path().join("aside");
    for lines in [["3", "4"], ["5", "6"]] {
        fs::rename(stage.path("x"), &aside).expect("renamed");
        assert!(stage.seconds(1).is_empty());
        put(&aside.join("a.log"), &lines[..1]);
        assert_eq!(stage.seconds(1), lines[..1], "what is open is read wherever it is");
        fs::rename(&aside, stage.path("x")).expect("renamed back");
        assert!(stage.seconds(1).is_empty());
        stage.put("x/a.log", &lines[1..]);
        assert_eq!(stage.seconds(2), lines[1..]);
    }
    stage.stop();
    stage.put("x/a.log", &["7"]);
    stage.start();
    assert_eq!(stage.seconds(1), ["7"]);
}

#[test]
fn a_folder_that_is_removed_and_made_anew_goes_on_and_its_checkpoint_stays() {
    let mut stage = Stage::files(&["*/*.log"], |root| put(&root.join("x/a.log"), &["1", "2"]));
    assert_eq!(stage.seconds(1), ["1", "2"]);
    fs::remove_dir_all(stage.path("x")).expect("removed");
    assert!(stage.after(Duration::from_millis(300)).is_empty());
    stage.put("x/a.log", &["3", "4"]);
    assert_eq!(stage.seconds(100), ["3", "4"]);
    assert_eq!((stage.oddity(Oddity::GenerationGone), stage.generations(Generation::Lost)), (0, 0));
    stage.stop();
    stage.put("x/a.log", &["5"]);
    stage.start();
    assert_eq!(stage.seconds(1), ["5"]);
    // It stays away for longer than a deleted file is waited for.
    fs::remove_dir_all(stage.path("x")).expect("removed");
    assert!(stage.seconds(100).is_empty());
    assert_eq!(stage.life().opener.families(), 0);
    stage.put("x/a.log", &["6"]);
    assert_eq!(stage.seconds(1), ["6"]);
}

#[test]
fn what_was_rotated_and_read_does_not_come_again_when_the_file_is_removed() {
    for made_at_once in [false, true] {
        let mut stage = Stage::files(&["*.log*"], |root| {
            packed(&root.join("x.log.2.gz"), "1\n2\n");
            put(&root.join("x.log.1"), &["3", "4"]);
            put(&root.join("x.log"), &["5", "6"]);
        });
        assert_eq!(stage.seconds(2), ["1", "2", "3", "4", "5", "6"]);
        stage.remove("x.log");
        if !made_at_once {
            assert!(stage.seconds(100).is_empty());
        }
        stage.put("x.log", &["7"]);
        assert_eq!(stage.seconds(100), ["7"]);
    }
}

#[test]
fn a_copy_that_a_truncation_left_is_no_newer_generation_when_the_file_is_removed() {
    let mut stage = Stage::files(&["*.log*"], |root| put(&root.join("x.log"), &["1", "2"]));
    assert_eq!(stage.seconds(1), ["1", "2"]);
    fs::copy(stage.path("x.log"), stage.path("x.log.1")).expect("copied");
    OpenOptions::new().write(true).open(stage.path("x.log")).expect("there").set_len(0).expect("truncated");
    a_tick();
    assert!(stage.seconds(1).is_empty());
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(1), ["3"]);
    stage.remove("x.log");
    assert!(stage.seconds(11).is_empty());
    stage.put("x.log", &["4"]);
    assert_eq!(stage.seconds(1), ["4"]);
}

#[test]
fn a_generation_between_two_looks_comes_though_the_one_before_it_is_gone() {
    for patterns in [&["*.log"][..], &["*.log*"]] {
        let mut stage = Stage::files(patterns, |root| put(&root.join("x.log"), &["1"]));
        assert_eq!(stage.seconds(1), ["1"]);
        a_tick();
        stage.remove("x.log");
        stage.put("x.log", &["2"]);
        stage.rename("x.log", "x.log.1");
        stage.put("x.log", &["3"]);
        assert_eq!(stage.seconds(2), ["2", "3"]);
        assert_eq!(stage.seconds(100), [""; 0]);
    }
}

#[test]
fn two_rotations_within_one_look_lose_nothing_also_after_the_name_was_gone_for_long() {
    let mut stage = Stage::files(&["*.log"], |root| {
        put(&root.join("x.log.1"), &["not asked for"]);
        put(&root.join("x.log"), &["1"]);
    });
    assert_eq!(stage.seconds(1), ["1"]);
    stage.remove("x.log");
    assert!(stage.seconds(100).is_empty());
    stage.put("x.log", &["2"]);
    assert_eq!(stage.seconds(1), ["2"]);
    stage.rename("x.log", "x.log.2");
    stage.put("x.log", &["3"]);
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["4"]);
    assert_eq!(stage.seconds(2), ["3", "4"]);
}

#[test]
fn a_rotated_file_belongs_to_its_base_also_while_that_is_away() {
    let mut stage = Stage::files(&["*.log*"], |root| put(&root.join("x.log"), &["1", "2"]));
    assert_eq!(stage.seconds(1), ["1", "2"]);
    stage.rename("x.log", "x.log.1");
    assert!(stage.seconds(12).is_empty(), "also at the look at everything");
    stage.put("x.log.1", &["3"]);
    assert_eq!(stage.seconds(1), ["3"]);
    stage.put("x.log", &["4"]);
    assert_eq!(stage.seconds(1), ["4"]);
    // The same with a restart while it is away.
    stage.rename("x.log.1", "x.log.2");
    stage.rename("x.log", "x.log.1");
    assert!(stage.seconds(1).is_empty());
    stage.stop();
    stage.put("x.log.1", &["5"]);
    stage.start();
    assert_eq!(stage.seconds(1), ["5"]);
    stage.put("x.log", &["6"]);
    assert_eq!(stage.seconds(100), ["6"]);
    assert_eq!(stage.life().opener.families(), 1);
}

#[test]
fn rotated_files_that_were_there_before_their_base_do_not_come_again_with_it() {
    let mut stage = Stage::files(&["*.log*"], |root| put(&root.join("x.log.1"), &["1", "2"]));
    assert_eq!(stage.seconds(1), ["1", "2"]);
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(100), ["3"]);
}

#[test]
fn names_that_only_look_rotated_are_files_of_their_own() {
    let names = ["worker", "worker-1", "x", "x.01", "report", "report-2026", "y.1.2", "y.1"];
    let mut stage = Stage::files(&["*"], |root| names.iter().for_each(|name| put(&root.join(name), &[name])));
    let mut came = stage.seconds(1);
    came.sort();
    let mut all = names.map(str::to_owned).to_vec();
    all.sort();
    assert_eq!(came, all);
}

#[test]
fn a_rotation_that_begins_with_zero_is_followed_and_no_line_comes_twice() {
    for patterns in [&["*.log"][..], &["*.log*"]] {
        let mut stage = Stage::files(patterns, |root| put(&root.join("x.log"), &["1", "2"]));
        assert_eq!(stage.seconds(1), ["1", "2"]);
        stage.rename("x.log", "x.log.0");
        assert!(stage.seconds(1).is_empty());
        stage.put("x.log.0", &["3"]);
        assert_eq!(stage.seconds(1), ["3"]);
        stage.put("x.log", &["4"]);
        assert_eq!(stage.seconds(1), ["4"]);
        stage.rename("x.log.0", "x.log.1");
        stage.rename("x.log", "x.log.0");
        stage.put("x.log", &["5"]);
        assert_eq!(stage.seconds(12), ["5"]);
        stage.stop();
        stage.put("x.log", &["6"]);
        stage.rename("x.log.1", "x.log.2");
        stage.rename("x.log.0", "x.log.1");
        stage.rename("x.log", "x.log.0");
        stage.put("x.log", &["7"]);
        stage.start();
        assert_eq!(stage.seconds(12), ["6", "7"]);
        assert_eq!(stage.life().opener.families(), 1);
    }
}

#[test]
fn a_file_that_was_removed_while_stopped_does_not_bring_back_what_was_rotated_before_it() {
    for (patterns, all) in [(&["*.log"][..], &["3"][..]), (&["*.log*"], &["1", "2", "3"])] {
        let mut stage = Stage::files(patterns, |root| {
            packed(&root.join("x.log.2.gz"), "1\n");
            put(&root.join("x.log.1"), &["2"]);
            a_tick();
            put(&root.join("x.log"), &["3"]);
        });
        assert_eq!(stage.seconds(2), all);
        stage.stop();
        stage.remove("x.log");
        stage.start();
        assert!(stage.seconds(12).is_empty());
        assert_eq!((stage.oddity(Oddity::GenerationGone), stage.generations(Generation::Lost)), (0, 0));
        stage.put("x.log", &["4"]);
        assert_eq!(stage.seconds(1), ["4"]);
        stage.stop();
        stage.put("x.log", &["5"]);
        stage.start();
        assert_eq!(stage.seconds(1), ["5"]);
        // Another one is in its place, and one came between them.
        stage.stop();
        stage.remove("x.log");
        stage.rename("x.log.1", "x.log.2");
        stage.put("x.log.1", &["6"]);
        stage.put("x.log", &["7"]);
        stage.start();
        let came = stage.seconds(12);
        assert!(came[0].contains("bytes_at_least"), "{came:?}");
        // It was this file's, whether the patterns ask for rotated names or not.
        assert_eq!(came[1..], ["6", "7"]);
    }
}

#[test]
fn a_file_that_is_gone_with_unread_lines_is_lost_once_however_often_longshore_starts_before_another_one_is_there() {
    let mut stage = Stage::files(&["*.log"], |root| {
        put(&root.join("x.log.1"), &["1"]);
        a_tick();
        fs::write(root.join("x.log"), "2\nunfinished").expect("written");
    });
    assert_eq!(stage.seconds(2), ["2"]);
    stage.stop();
    stage.remove("x.log");
    for counted in [1, 0, 0] {
        stage.start();
        assert!(stage.seconds(12).is_empty());
        assert_eq!(stage.generations(Generation::Lost), counted);
        assert_eq!(stage.lost_bytes(LostBytes::Gone), counted * "unfinished".len() as u64);
        // Killed.
        stage.life = None;
    }
    stage.start();
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(2), ["3"]);
    assert_eq!(stage.generations(Generation::Lost), 0);
    stage.stop();
    let stored = crate::inputs::follow::checkpoint::stored(&stage.dir.path().join("data")).expect("readable");
    assert!(stored.values().all(|entry| !entry.saved.lost), "the next one is another file");
}

#[test]
fn a_file_that_came_to_the_name_by_a_rename_and_was_rotated_within_one_look_comes() {
    for others in [0, 20] {
        let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
        assert_eq!(stage.seconds(1), ["1"]);
        stage.put("draft", &["2"]);
        stage.rename("draft", "x.log");
        stage.rename("x.log", "x.log.1");
        (0..others).for_each(|n| stage.put(&format!("{n}.txt"), &["not asked for"]));
        stage.put("x.log", &["3"]);
        assert_eq!(stage.seconds(2), ["2", "3"], "{others} other names");
    }
}

#[test]
fn what_a_refused_look_could_not_hand_out_is_new_at_the_next_one() {
    for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::ACCESS] {
        let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1"]));
        assert_eq!(stage.seconds(1), ["1"]);
        stage.remove("x.log");
        stage.put("x.log", &["2"]);
        stage.rename("x.log", "x.log.1");
        stage.put("x.log", &["3"]);
        a_tick();
        let refused =
            hook(|call| matches!(call, Call::List(_)), move |call| matches!(call, Call::List(_)).then_some(errno));
        assert!(stage.after(Duration::from_millis(100)).is_empty());
        assert!(refused.load(Ordering::Relaxed) > 0, "it was not met");
        disk::set_hook(None);
        assert_eq!(stage.seconds(2), ["2", "3"], "{errno:?}");
    }
}

#[test]
fn a_file_that_is_written_under_a_name_of_the_moment_is_not_counted_as_lost() {
    let mut stage = Stage::files(&["*"], |root| put(&root.join("x"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    stage.put("sedAbCd", &["2"]);
    stage.rename("sedAbCd", "x");
    assert_eq!(stage.seconds(12), ["2"]);
    assert_eq!((stage.generations(Generation::Lost), stage.life().opener.families()), (0, 1));
    stage.put("short", &["unseen"]);
    stage.remove("short");
    assert!(stage.seconds(12).is_empty());
    assert_eq!(stage.generations(Generation::Lost), 1);
}

#[test]
fn a_rotated_name_that_was_a_file_of_its_own_is_none_once_its_file_is_gone() {
    let mut stage = Stage::files(&["*.log*"], |root| put(&root.join("x.log.1"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    stage.put("x.log", &["2"]);
    assert_eq!(stage.seconds(1), ["2"]);
    stage.remove("x.log.1");
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(100), ["3"]);
    assert_eq!(stage.life().opener.families(), 1);
}

#[test]
fn containers_that_all_stand_in_compressed_files_have_a_few_decoders_at_a_time_and_all_their_lines_come() {
    const CONTAINERS: usize = source::DECODERS_MAX + 8;
    // More than one turn reads.
    const LINES: u64 = 80;
    let mut stage = Stage::containers(&[], |root| {
        for n in 0..CONTAINERS {
            let id = format!("{n:064x}");
            container(root, &id, "web", LINES..LINES + 1);
            let text: String = (0..LINES).map(|n| record_at(&format!("{}{n}\\n", "x".repeat(16_000)), n)).collect();
            packed(&root.join(&id).join(format!("{id}-json.log.1.gz")), &text);
        }
    });
    // The compressed files have been quiet for long enough.
    stage.now += Duration::from_secs(2);
    let (mut most, mut came) = (0, 0);
    for _ in 0..200 * CONTAINERS {
        stage.now += Duration::from_millis(5);
        clock::set(Some((*START + stage.now, stage.wall + stage.now)));
        let life = stage.life();
        life.reader.step();
        most = most.max(life.reader.decoders());
        while let Ok(shipment) = life.queue.try_recv() {
            came += shipment.batch.len();
            shipment.receipts.settle(Outcome::Delivered);
        }
    }
    assert_eq!(most, source::DECODERS_MAX);
    assert_eq!(came, CONTAINERS * (LINES as usize + 1));
    assert_eq!(stage.life().reader.decoders(), 0);
}
