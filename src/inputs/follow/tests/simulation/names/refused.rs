//! What the kernel refuses, links that lead nowhere, and names that are gone: what they cost and what stays of them.

use rustix::io::Errno;

use super::*;
use crate::inputs::follow::disk::Bad;

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
    for patterns in [&["*.log"][..], &["**/*.log"]] {
        let mut stage = Stage::files(patterns, |root| put(&root.join("stays.log"), &["1"]));
        assert_eq!(stage.seconds(1), ["1"]);
        for n in 0..20 {
            let name = format!("job {n}.log");
            stage.put(&name, &["of a job"]);
            assert_eq!(stage.seconds(1), ["of a job"]);
            stage.remove(&name);
        }
        // One that nobody could see, and a folder, which is no file that is lost.
        stage.put("short.log", &["unseen"]);
        stage.remove("short.log");
        fs::create_dir(stage.path("folder.log")).expect("made");
        fs::remove_dir(stage.path("folder.log")).expect("removed");
        assert!(stage.seconds(120).is_empty());
        assert_eq!(stage.life().opener.families(), 1);
        let counts = (stage.watching(Watching::TornScan), stage.generations(Generation::Lost));
        assert_eq!(counts, (0, 1), "{patterns:?}");
        stage.put("job 3.log", &["again"]);
        assert_eq!(stage.seconds(1), ["again"]);
    }
}

#[test]
fn a_link_to_a_folder_that_is_gone_is_seen_at_once() {
    let mut stage = Stage::files(&["*/x.log"], |root| put(&root.join("a/x.log"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    let elsewhere = stage.dir.path().join("elsewhere");
    put(&elsewhere.join("x.log"), &["2"]);
    std::os::unix::fs::symlink(&elsewhere, stage.path("link")).expect("linked");
    assert_eq!(stage.after(Duration::from_millis(100)), ["2"]);
    assert_eq!(stage.life().opener.families(), 2);
    stage.remove("link");
    stage.after(Duration::from_millis(100));
    assert_eq!(stage.life().opener.families(), 1);
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
            // Containers are listed again only where something came or went.
            fs::write(stage.path("other"), "").expect("written");
            hook(
                |_| false,
                move |call| {
                    let fails = matches!(call, Call::List(path) if path == failing);
                    counts.fetch_add(usize::from(fails), Ordering::Relaxed);
                    fails.then_some(Errno::MFILE)
                },
            );
            assert!(stage.seconds(11).is_empty());
            // The folder of a container that is known is not listed.
            assert!(failed.load(Ordering::Relaxed) > 0 || !files && !is_root, "it was not met");
            disk::set_hook(None);
            assert!(stage.seconds(12).is_empty(), "nothing comes again");
            fs::remove_file(stage.path("other")).expect("there");
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

    fn meaning(&mut self, folder: &Path, name: &str, of_file: bool) -> Meaning {
        self.0.meaning(folder, name, of_file)
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
    for (errno, most) in [(Errno::ACCESS, 2), (Errno::NOSPC, 14)] {
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
fn what_is_under_way_when_a_container_is_left_does_not_come_again_when_it_is_followed_again_or_after_a_restart() {
    let id = "b".repeat(64);
    for restarts in [false, true] {
        for in_time in [false, true] {
            let mut stage =
                Stage::containers(&["name:sidecar-*"], |root| container(root, &"b".repeat(64), "web", 0..1));
            assert_eq!(stage.seconds(1), ["0"]);
            container(&stage.root, &id, "web", 1..3);
            stage.turns(Duration::from_millis(100));
            let held: Vec<Shipment> = std::iter::from_fn(|| stage.life().queue.try_recv().ok()).collect();
            assert_eq!(held.iter().map(|shipment| shipment.batch.len()).sum::<usize>(), 2);
            config(&stage.root, &id, "sidecar-x");
            assert!(stage.seconds(1).is_empty());
            let settle = || held.into_iter().for_each(|shipment| shipment.receipts.settle(Outcome::Delivered));
            if in_time {
                settle();
                assert!(stage.seconds(1).is_empty());
                if restarts {
                    stage.stop();
                    stage.start();
                }
                config(&stage.root, &id, "web");
            } else {
                // It waits for what is under way.
                config(&stage.root, &id, "web");
                assert!(stage.seconds(5).is_empty());
                settle();
                if restarts {
                    stage.stop();
                    stage.start();
                }
            }
            assert!(stage.seconds(3).is_empty(), "nothing comes again");
            container(&stage.root, &id, "web", 3..4);
            assert_eq!(stage.seconds(1), ["3"]);
        }
    }
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

#[test]
fn files_that_went_with_their_container_before_they_could_be_opened_are_counted() {
    let (reader, short) = ("a".repeat(64), "b".repeat(64));
    let mut stage = Stage::containers(&[], |root| {
        container(root, &reader, "web", 0..1);
        fs::create_dir(root.join(&short)).expect("made");
    });
    assert_eq!(stage.seconds(1), ["0"]);
    // Each between two looks: two generations after the one that is read, and the only one of another container.
    for (id, files) in [(&reader, 2), (&short, 1)] {
        let log = stage.path(id).join(format!("{id}-json.log"));
        for _ in 0..files {
            let _ = fs::remove_file(&log);
            fs::write(&log, "{\"log\":\"lost\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-24T10:15:00Z\"}\n")
                .expect("written");
        }
        fs::remove_dir_all(stage.path(id)).expect("removed");
    }
    assert!(stage.seconds(3).is_empty());
    assert_eq!(stage.generations(Generation::Lost), 3);
    stage.seconds(30);
    assert_eq!(stage.generations(Generation::Lost), 3);
}

#[test]
fn files_that_went_while_their_name_waited_for_a_descriptor_are_counted() {
    let mut stage = two_lines();
    held::set_scarce(true);
    stage.put("y.log", &["lost"]);
    assert!(stage.seconds(1).is_empty());
    stage.remove("y.log");
    stage.put("y.log", &["3"]);
    assert!(stage.seconds(1).is_empty());
    assert_eq!(stage.generations(Generation::Lost), 0);
    held::set_scarce(false);
    assert_eq!(stage.seconds(3), ["3"]);
    assert_eq!(stage.generations(Generation::Lost), 1);
}

#[test]
fn a_file_that_was_listed_and_went_while_its_name_waited_for_a_descriptor_may_be_a_gap() {
    // It is removed, replaced, or renamed and found again, which is read or not as the names that are asked for say; or it is
    // renamed to a name of its own.
    for (patterns, renamed, next, came, gaps) in [
        (&["*.log"][..], None, None, &["0"][..], 1),
        (&["*.log"], None, Some("2"), &["0", "2"], 1),
        (&["*.log"], Some("x.log.1"), Some("2"), &["0", "2"], 1),
        (&["*.log*"], Some("x.log.1"), Some("2"), &["0", "1", "2"], 0),
        (&["*.log"], Some("y.log"), None, &["0", "1"], 0),
        (&["*.log"], Some("y.log"), Some("2"), &["0", "1", "2"], 0),
        // That of another file that waits: nobody reads it.
        (&["*.log"], Some("a.log.1"), None, &["0"], 1),
        (&["*.log*"], Some("a.log.1"), None, &["0", "1"], 0),
    ] {
        held::set_scarce(true);
        let mut stage = Stage::files(patterns, |root| {
            put(&root.join("a.log"), &["0"]);
            put(&root.join("x.log"), &["1"]);
        });
        assert!(stage.seconds(1).is_empty());
        match renamed {
            Some(name) => stage.rename("x.log", name),
            None => stage.remove("x.log"),
        }
        if let Some(line) = next {
            stage.put("x.log", &[line]);
        }
        assert!(stage.seconds(1).is_empty());
        assert_eq!(stage.watching(Watching::GapPossible), 0);
        held::set_scarce(false);
        let mut all = stage.seconds(20);
        all.sort();
        assert_eq!(all, came);
        let counts = (stage.watching(Watching::GapPossible), stage.generations(Generation::Lost));
        assert_eq!(counts, (gaps, 0), "{patterns:?} {renamed:?} {next:?}");
    }
}

#[test]
fn a_file_that_was_listed_and_is_read_under_the_name_of_an_open_one_is_no_gap() {
    let mut stage = Stage::files(&["[ab]/*.log"], |root| {
        fs::create_dir(root.join("a")).expect("made");
        put(&root.join("a/a.log"), &["0"]);
    });
    assert_eq!(stage.seconds(1), ["0"]);
    held::set_scarce(true);
    fs::create_dir(stage.path("c")).expect("made");
    stage.put("c/x.log", &["1"]);
    stage.rename("c", "b");
    assert!(stage.seconds(1).is_empty());
    stage.rename("b/x.log", "a/a.log");
    assert_eq!(stage.seconds(1), ["1"]);
    // Nobody holds it any more when its first name is looked at.
    stage.remove("a/a.log");
    stage.put("a/a.log", &["2"]);
    assert_eq!(stage.seconds(60), ["2"]);
    held::set_scarce(false);
    assert!(stage.seconds(20).is_empty());
    assert_eq!((stage.watching(Watching::GapPossible), stage.generations(Generation::Lost)), (0, 0));
}

#[test]
fn a_polled_folder_that_has_moved_on_by_more_than_it_shows_may_have_a_gap_and_says_so() {
    let mut stage = two_lines();
    stage.stop();
    stage.how.polled = true;
    stage.start();
    assert!(stage.seconds(1).is_empty());
    // A rotation that is met is none, and nothing that stays.
    stage.rename("x.log", "x.log.1");
    stage.put("x.log", &["3"]);
    assert_eq!(stage.seconds(1), ["3"]);
    assert_eq!(stage.watching(Watching::GapPossible), 0);
    // Three of them between two looks, with one file that is kept: nobody can know of the first.
    for line in ["never read", "4", "5"] {
        stage.rename("x.log", "x.log.1");
        stage.put("x.log", &[line]);
    }
    assert_eq!(stage.seconds(1), ["4", "5"]);
    assert_eq!(stage.watching(Watching::GapPossible), 1);
    stage.put("x.log", &["6"]);
    stage.seconds(1);
    assert_eq!(stage.watching(Watching::GapPossible), 1);
}

#[test]
fn a_name_that_was_rotated_in_a_polled_folder_before_anybody_looked_may_have_a_gap_and_says_so() {
    let mut stage = two_lines();
    stage.stop();
    stage.how.polled = true;
    stage.put("y.log.1", &["old"]);
    a_tick();
    stage.start();
    assert!(stage.seconds(1).is_empty());
    // Nothing tells that the name had another file since; what was there before is not in question.
    stage.put("y.log", &["3"]);
    assert_eq!(stage.seconds(1), ["3"]);
    assert_eq!(stage.watching(Watching::GapPossible), 0);
    stage.put("z.log", &["never read"]);
    stage.rename("z.log", "z.log.1");
    stage.put("z.log", &["4"]);
    assert_eq!(stage.seconds(1), ["4"]);
    assert_eq!(stage.watching(Watching::GapPossible), 1);
}

#[test]
fn what_is_made_while_its_name_waits_for_a_descriptor_is_read_from_its_head_though_the_start_is_at_the_tail() {
    let all: &[&str] = &["*.log*"];
    for (patterns, replaced) in [(&["*.log"][..], false), (&["*.log"], true), (all, false), (all, true)] {
        let mut stage = Stage::files(patterns, |root| {
            put(&root.join("x.log"), &["1"]);
            put(&root.join("x.log.1"), &["0"]);
        });
        stage.stop();
        fs::remove_dir_all(stage.dir.path().join("data")).expect("removed");
        stage.how.tail = true;
        held::set_scarce(true);
        stage.start();
        assert!(stage.seconds(1).is_empty());
        if replaced {
            stage.rename("x.log.1", "x.log.2");
            stage.rename("x.log", "x.log.1");
            stage.put("x.log", &["2"]);
        }
        assert!(stage.seconds(1).is_empty());
        held::set_scarce(false);
        let came = stage.seconds(1);
        assert_eq!(came, if replaced { vec!["2"] } else { vec![] }, "replaced: {replaced}");
        stage.put("x.log", &["3"]);
        assert_eq!(stage.seconds(1), ["3"]);
        assert_eq!(stage.generations(Generation::Lost), 0);
    }
}

#[test]
fn many_files_that_go_at_once_do_not_have_their_folder_listed_for_each() {
    const FILES: usize = 100;
    let name = |n: usize| format!("{n}.log");
    let mut stage = Stage::files(&["*.log"], |root| (0..FILES).for_each(|n| put(&root.join(name(n)), &["1"])));
    assert_eq!(stage.seconds(1).len(), FILES);
    (0..FILES).for_each(|n| stage.remove(&name(n)));
    // A listing does not stand while the folder was changed just now.
    a_tick();
    let lists = hook(|call| matches!(call, Call::List(_)), |_| None);
    // Until their chains have come to their end, too.
    stage.seconds(60);
    let lists = lists.load(Ordering::Relaxed);
    assert!(lists < FILES, "listed {lists} times");
}

impl Stage {
    /// A file with two lines that were read and two that were not is renamed, and another one is in its place.
    fn rotated(&mut self, bad: Bad) {
        disk::set_bad(Some(bad));
        self.put("x.log", &["3", "4"]);
        self.rename("x.log", "x.log.1");
        self.put("x.log", &["5"]);
    }

    fn unreadable(&mut self) -> (u64, u64) {
        (self.generations(Generation::Lost), self.lost_bytes(LostBytes::Unreadable))
    }
}

fn two_lines() -> Stage {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("x.log"), &["1", "2"]));
    assert_eq!(stage.seconds(1), ["1", "2"]);
    stage
}

#[test]
fn a_generation_that_the_disk_does_not_give_holds_newer_ones_up_for_half_a_minute_and_is_counted() {
    // All of it, or what lies behind its third line: a read that meets that is short.
    for (from, first, lost) in [(0, &[][..], 4), (6, &["3"], 2)] {
        let mut stage = two_lines();
        stage.rotated(Bad { name: "x.log.1", from, errno: Errno::IO });
        assert_eq!(stage.seconds(28), first);
        assert_eq!(stage.unreadable(), (0, 0));
        assert_eq!(stage.seconds(4), ["5"]);
        assert_eq!(stage.unreadable(), (1, lost));
        stage.put("x.log", &["6"]);
        assert_eq!(stage.seconds(1), ["6"]);
    }
    // What passes costs nothing.
    let mut stage = two_lines();
    stage.rotated(Bad { name: "x.log.1", from: 0, errno: Errno::IO });
    assert!(stage.seconds(20).is_empty());
    disk::set_bad(None);
    assert_eq!(stage.seconds(2), ["3", "4", "5"]);
    assert_eq!(stage.unreadable(), (0, 0));
}

#[test]
fn a_generation_that_went_stale_is_opened_again_by_its_name_or_given_up_at_once() {
    let mut stage = two_lines();
    stage.rotated(Bad { name: "x.log.1 (deleted)", from: 0, errno: Errno::STALE });
    stage.remove("x.log.1");
    assert_eq!(stage.seconds(3), ["5"]);
    assert_eq!(stage.unreadable(), (1, 4));
    let opened = hook(|call| matches!(call, Call::Open(path) if path.ends_with("x.log")), |_| None);
    disk::set_bad(Some(Bad { name: "x.log", from: 0, errno: Errno::STALE }));
    stage.put("x.log", &["6"]);
    assert!(stage.seconds(3).is_empty());
    assert!(opened.load(Ordering::Relaxed) > 0, "it has a name");
    stage.seconds(40);
    let before = opened.load(Ordering::Relaxed);
    stage.seconds(3);
    assert!(opened.load(Ordering::Relaxed) > before, "a server may be away for long");
    disk::set_bad(None);
    assert_eq!(stage.seconds(2), ["6"]);
}

#[test]
fn a_start_waits_for_a_file_that_can_not_be_read_and_goes_on_in_it() {
    for passes in [true, false] {
        let mut stage = two_lines();
        stage.stop();
        stage.rotated(Bad { name: "x.log.1", from: 0, errno: Errno::IO });
        stage.start();
        assert!(stage.seconds(20).is_empty());
        if passes {
            disk::set_bad(None);
        }
        assert_eq!(stage.seconds(20), if passes { &["3", "4", "5"][..] } else { &["5"] });
        assert_eq!(stage.unreadable(), if passes { (0, 0) } else { (1, 4) });
        assert_eq!(stage.oddity(Oddity::FileRewritten), 0);
    }
}

#[test]
fn who_waits_for_a_descriptor_for_ten_seconds_is_a_health_check() {
    let mut stage = Stage::files(&["*.log"], |root| put(&root.join("a.log"), &["1"]));
    assert_eq!(stage.seconds(1), ["1"]);
    let told = |stage: &mut Stage| stage.life().metrics.checks().remove("descriptors in");
    held::set_scarce(true);
    stage.put("b.log", &["2"]);
    assert!(stage.seconds(9).is_empty() && told(&mut stage).is_none());
    assert!(stage.seconds(3).is_empty());
    let (health, reason) = told(&mut stage).expect("told");
    assert!(health == Health::Warn && reason.contains("b.log") && reason.contains("LimitNOFILE"), "{reason}");
    held::set_scarce(false);
    assert_eq!(stage.seconds(1), ["2"]);
    assert_eq!(told(&mut stage), None);
}
