//! The opener with the folders and names of real inputs, on the simulation's clock: folders and names that go and come
//! back, names that only look rotated, and what the kernel refuses.

use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use super::*;
use crate::inputs::{docker, file};
use crate::metrics::followed::{LostBytes, Watching};

type Make = Box<dyn FnMut(&Path, &Checkpoints) -> Box<dyn Layout>>;

/// An engine on a folder of its own.
struct Stage {
    life: Option<Life>,
    make: Make,
    rules: fn() -> Rules,
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
        Stage::with(Box::new(|root, known| file::tests::layout(root, patterns, known)), text_rules, prepare)
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
        let mut stage = Stage { life: None, make, rules, root, now, wall, runtime: runtime(), dir };
        stage.start();
        stage
    }

    fn start(&mut self) {
        clock::set(Some((*START + self.now, self.wall + self.now)));
        let Stage { make, root, .. } = self;
        let data = self.dir.path().join("data");
        let life = begin_with(&mut |known| make(root, known), &data, self.runtime.handle(), (self.rules)());
        self.life = Some(life.expect("starts"));
    }

    fn stop(&mut self) {
        let life = self.life.take().expect("runs");
        life.checkpoints.final_save().expect("saved");
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("runs")
    }

    /// Lets time pass, gives everybody a turn, and takes the lines that came.
    fn after(&mut self, time: Duration) -> Vec<String> {
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

    fn said(&mut self) -> String {
        self.life().metrics.checks().remove("input in").map(|(_, reason)| reason).unwrap_or_default()
    }
}

fn a_tick() {
    std::thread::sleep(Duration::from_millis(30));
}

impl Drop for Stage {
    fn drop(&mut self) {
        disk::set_hook(None);
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
        assert!(came[0].contains("longshore_gap"), "{came:?}");
        let newer = if all.len() > 1 { &["6", "7"][..] } else { &["7"] };
        assert_eq!(came[1..], *newer);
    }
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

#[test]
fn links_that_lead_nowhere_cost_one_look_each_and_are_forgotten_once_they_are_gone() {
    const LINKS: usize = 20;
    let mut stage = Stage::files(&["*.log"], |root| {
        for n in 0..LINKS {
            std::os::unix::fs::symlink(root.join("nowhere"), root.join(format!("{n}.log"))).expect("linked");
        }
        put(&root.join("a.log"), &["1"]);
    });
    assert_eq!(stage.seconds(1), ["1"]);
    // Between two looks at everything.
    stage.now += Duration::from_secs(10);
    stage.after(Duration::from_millis(100));
    let torn = stage.watching(Watching::TornScan);
    let calls = hook(|call| matches!(call, Call::List(_) | Call::Stat(_)), |_| None);
    assert!(stage.seconds(8).is_empty());
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls <= 80 * 2 * (LINKS + 1), "{calls} calls in 80 looks at {LINKS} links");
    for n in 0..LINKS {
        stage.remove(&format!("{n}.log"));
    }
    stage.seconds(25);
    assert_eq!(stage.life().opener.families(), 1);
    assert_eq!(stage.watching(Watching::TornScan), torn, "nothing was torn");
}

#[test]
fn names_that_come_and_go_leave_nothing_behind() {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("stays.log"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    for n in 0..20 {
        let name = format!("job {n}.log");
        stage.put(&name, &["of a job"]);
        assert_eq!(stage.seconds(1), ["of a job"]);
        stage.remove(&name);
    }
    // One that nobody could see.
    stage.put("short.log", &["unseen"]);
    stage.remove("short.log");
    assert!(stage.seconds(120).is_empty());
    assert_eq!(stage.life().opener.families(), 1);
    assert_eq!((stage.watching(Watching::TornScan), stage.generations(Generation::Lost)), (0, 1));
    stage.put("job 3.log", &["again"]);
    assert_eq!(stage.seconds(1), ["again"]);
}

#[test]
fn a_folder_that_can_not_be_listed_once_forgets_nothing() {
    let id = "a".repeat(64);
    for files in [false, true] {
        let mut stage = if files {
            Stage::files(&["**/*.log"], |root| put(&root.join("x/a.log"), &["0", "1", "2"]))
        } else {
            Stage::containers(&[], |root| container(root, &"a".repeat(64), "web", 0..3))
        };
        assert_eq!(stage.seconds(1), ["0", "1", "2"]);
        for failing in [stage.root.clone(), stage.path("x")] {
            let failed = Arc::new(AtomicUsize::new(0));
            let (counts, is_root) = (Arc::clone(&failed), failing == stage.root);
            hook(
                |_| false,
                move |call| {
                    let fails = matches!(call, Call::List(path) if path == failing);
                    counts.fetch_add(usize::from(fails), Ordering::Relaxed);
                    fails.then_some(rustix::io::Errno::MFILE)
                },
            );
            assert!(stage.seconds(11).is_empty());
            // The folder of a container that is known is not listed.
            assert!(failed.load(Ordering::Relaxed) > 0 || !files && !is_root, "it was not met");
            disk::set_hook(None);
            assert!(stage.seconds(12).is_empty(), "nothing comes again");
        }
        if files {
            stage.put("x/a.log", &["3"]);
        } else {
            container(&stage.root, &id, "web", 3..4);
        }
        assert_eq!(stage.seconds(1), ["3"]);
        assert!(stage.seconds(12).is_empty());
        assert_eq!(stage.said(), "", "and it is said no longer");
    }
}

/// Counts how often the tree is walked.
struct Counting(Box<dyn Layout>, Arc<AtomicUsize>);

impl Layout for Counting {
    fn folders(&mut self) -> Folders {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.folders()
    }

    fn families(&mut self, folder: &Path) -> std::io::Result<Vec<Family>> {
        self.0.families(folder)
    }

    fn has_folders(&self, folder: &Path) -> bool {
        self.0.has_folders(folder)
    }

    fn forget(&mut self, family: &Family) {
        self.0.forget(family);
    }

    fn meaning(&mut self, folder: &Path, name: &str) -> Meaning {
        self.0.meaning(folder, name)
    }

    fn about(&mut self, family: &Family) -> Known {
        self.0.about(family)
    }

    fn key(&self, family: &Family) -> String {
        self.0.key(family)
    }

    fn first(&self, family: &Family) -> First {
        self.0.first(family)
    }

    fn denied_hint(&self) -> &'static str {
        self.0.denied_hint()
    }

    fn ends_with_folder(&self) -> bool {
        self.0.ends_with_folder()
    }
}

#[test]
fn a_folder_that_may_not_be_watched_does_not_have_everything_walked_all_the_time() {
    for (errno, most) in [(rustix::io::Errno::ACCESS, 2), (rustix::io::Errno::NOSPC, 14)] {
        let walks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&walks);
        let refused =
            move |call: Call<'_>| matches!(call, Call::Watch(path) if path.ends_with("private/deep")).then_some(errno);
        hook(|_| false, refused);
        let make: Make = Box::new(move |root, known| {
            Box::new(Counting(file::tests::layout(root, &["*/deep/*.log"], known), Arc::clone(&counted)))
        });
        let mut stage = Stage::with(make, text_rules, |root| {
            put(&root.join("private/deep/a.log"), &["1"]);
            put(&root.join("open/deep/a.log"), &["2"]);
        });
        let mut came = stage.seconds(1);
        came.sort();
        assert_eq!(came, ["1", "2"]);
        walks.store(0, Ordering::Relaxed);
        assert!(stage.seconds(10).is_empty());
        let walks = walks.load(Ordering::Relaxed);
        assert!((1..=most).contains(&walks), "{walks} walks in ten seconds, {errno:?}");
        stage.put("private/deep/a.log", &["3"]);
        assert_eq!(stage.seconds(2), ["3"]);
    }
}

#[test]
fn a_container_that_is_not_excluded_any_more_goes_on_where_it_was_left() {
    let id = "b".repeat(64);
    let mut stage = Stage::containers(&["name:sidecar-*"], |root| container(root, &"b".repeat(64), "web", 0..3));
    assert_eq!(stage.seconds(1), ["0", "1", "2"]);
    config(&stage.root, &id, "sidecar-x");
    assert!(stage.seconds(1).is_empty());
    container(&stage.root, &id, "sidecar-x", 3..5);
    assert!(stage.seconds(12).is_empty());
    config(&stage.root, &id, "web");
    assert_eq!(stage.seconds(1), ["3", "4"]);
    container(&stage.root, &id, "web", 5..6);
    assert_eq!(stage.seconds(1), ["5"]);
}

#[test]
fn a_folder_in_the_place_of_a_followed_file_is_said_with_its_path() {
    let mut stage = Stage::files(&["*"], |root| {
        put(&root.join("a.log"), &["1"]);
        fs::create_dir(root.join("a folder of somebody's")).expect("made");
    });
    assert_eq!(stage.seconds(11), ["1"]);
    assert_eq!(stage.said(), "");
    stage.remove("a.log");
    fs::create_dir(stage.path("a.log")).expect("made");
    assert!(stage.seconds(12).is_empty());
    let said = stage.said();
    assert!(said.contains("1 files can not be read") && said.contains("a.log: is a folder"), "{said}");
    fs::remove_dir(stage.path("a.log")).expect("removed");
    stage.put("a.log", &["2"]);
    assert_eq!(stage.seconds(25), ["2"]);
    assert_eq!(stage.said(), "");
}

#[test]
fn a_configuration_that_stays_broken_is_said_with_its_path_and_the_lines_go_on() {
    let id = "c".repeat(64);
    let mut stage = Stage::containers(&[], |root| {
        container(root, &"c".repeat(64), "web", 0..2);
        fs::write(root.join("c".repeat(64)).join("config.v2.json"), "{\"Name\":").expect("written");
    });
    assert_eq!(stage.seconds(25), ["0", "1"]);
    let said = stage.said();
    assert!(said.contains(&format!("{id}/config.v2.json")), "{said:?}");
    config(&stage.root, &id, "web");
    stage.seconds(12);
    assert_eq!(stage.said(), "");
}

#[test]
fn a_container_that_came_and_went_before_its_folder_was_watched_is_counted() {
    let mut stage = Stage::containers(&[], |root| container(root, &"d".repeat(64), "web", 0..1));
    assert_eq!(stage.seconds(1), ["0"]);
    let short = "e".repeat(64);
    container(&stage.root, &short, "short", 0..1);
    fs::remove_dir_all(stage.path(&short)).expect("removed");
    fs::create_dir(stage.path("no container")).expect("made");
    fs::remove_dir(stage.path("no container")).expect("removed");
    assert!(stage.seconds(1).is_empty());
    assert_eq!(stage.watching(Watching::GapPossible), 1);
    // And one that is there is none of those.
    container(&stage.root, &"f".repeat(64), "next", 1..2);
    assert_eq!(stage.seconds(1), ["1"]);
    assert_eq!(stage.watching(Watching::GapPossible), 1);
    assert_eq!(
        stage.life().metrics.inputs[0].followed.lost_bytes[LostBytes::Unseen as usize].load(Ordering::Relaxed),
        0
    );
}
