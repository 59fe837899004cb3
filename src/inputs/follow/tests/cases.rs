//! Cases of `docs/tail-cases.md` that stand in no other file.

use super::docker::join_pipeline;
use super::*;
use crate::metrics::followed::{Generation, LostBytes};

fn put(path: &Path, range: std::ops::Range<usize>) {
    let text: String = range.map(|n| format!("line {n}\n")).collect();
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("opens");
    file.write_all(text.as_bytes()).expect("written");
}

fn generations(node: &Node, what: Generation) -> u64 {
    node.metrics.inputs[0].followed.generations[what as usize].load(Ordering::Relaxed)
}

fn lost_bytes(node: &Node, why: LostBytes) -> u64 {
    node.metrics.inputs[0].followed.lost_bytes[why as usize].load(Ordering::Relaxed)
}

#[test]
fn deleted_files_beyond_their_limit_are_given_up_oldest_first_and_counted() {
    const LINES: usize = 200;
    let docker = Docker::new();
    docker.append(&["line 0"]);
    let node = Node::new();
    node.start("docker", &format!("{}held_deleted_max = \"64KiB\"\n", docker.settings()));
    node.wait_for(1);
    // Without memory nothing is read, and what Docker deletes meanwhile is only held.
    let budget = node.outlet().budget;
    let all: Vec<_> =
        std::iter::from_fn(|| budget.try_acquire(1 << 20).or_else(|| budget.try_acquire(1 << 10))).collect();
    const FILES: usize = 10;
    for n in 0..FILES {
        fs::remove_file(docker.path("")).expect("there");
        let from = 1 + n * LINES;
        docker.append(&lines(from..from + LINES));
        until("opened", || generations(&node, Generation::Opened) >= n as u64 + 2);
    }
    until("given up", || generations(&node, Generation::GivenUp) >= 5);
    until("said", || {
        let said = node.metrics.checks().remove("held deleted files in");
        said.is_some_and(|(health, reason)| {
            health == Health::Warn && reason.contains("were given up before they were delivered")
        })
    });
    let given_up = generations(&node, Generation::GivenUp) as usize;
    drop(all);
    docker.append(&["the end"]);
    node.wait(|arrived| arrived.iter().any(|record| record.log == "the end"));
    let came: Vec<usize> =
        node.all().iter().filter_map(|record| record.log.strip_prefix("line ")?.parse().ok()).collect();
    assert!(came.is_sorted_by(|a, b| a < b), "the rest in order");
    let missing = 1 + FILES * LINES - came.len();
    // Of the one that was being read when memory ran out, what had been read arrives though its file was given up.
    assert!(missing <= given_up * LINES && missing + LINES >= given_up * LINES, "{missing} of {given_up}");
    assert!(came.ends_with(&[FILES * LINES]), "the newest are kept: {:?}", came.last());
    let bytes = lost_bytes(&node, LostBytes::GivenUp);
    assert!(bytes >= (missing * docker.record("line 0\\n").len()) as u64, "{bytes} for {missing} lines");
}

#[test]
fn copies_that_were_made_twice_while_stopped_give_every_line_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let log = dir.path().join("a.log");
    let settings = format!("paths = [\"{}/*.log\"]\n", dir.path().display());
    let copy = |to: usize| fs::copy(&log, dir.path().join(format!("a.log.{to}"))).expect("copied");
    let truncate = || OpenOptions::new().write(true).open(&log).expect("opens").set_len(0).expect("truncated");
    put(&log, 0..100);
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    node.wait_for(100);
    node.shut_down();
    put(&log, 100..150);
    copy(2);
    truncate();
    put(&log, 150..220);
    copy(1);
    truncate();
    put(&log, 220..230);
    let node = Node::at(Some(&dir.path().join("data")));
    node.start("file", &settings);
    assert_eq!(node.wait_for(130), lines(100..230));
    assert_eq!(lost_bytes(&node, LostBytes::Truncated), 0);
    node.shut_down();
}

#[test]
fn a_gz_with_docker_s_extra_field_is_read() {
    let docker = Docker::new();
    let text: String = (0..300).map(|n| docker.record(&format!("line {n}\\n"))).collect();
    let file = File::create(docker.path(".1.gz")).expect("made");
    let extra = br#"{"lastTime":"2026-11-24T10:00:00.0000003Z"}"#.to_vec();
    let mut encoder = flate2::GzBuilder::new().extra(extra).write(file, Compression::fast());
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.try_finish()).expect("written");
    docker.append(&["line 300"]);
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(301), lines(0..301));
    node.shut_down();
}

#[test]
fn a_link_that_is_pointed_elsewhere_is_followed_there_and_loops_and_dangling_links_hold_nobody_up() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().expect("a temp dir");
    let (logs, targets) = (dir.path().join("logs"), dir.path().join("targets"));
    fs::create_dir(&logs).and_then(|()| fs::create_dir(&targets)).expect("made");
    put(&targets.join("one"), 0..5);
    put(&targets.join("two"), 5..10);
    put(&targets.join("three"), 12..15);
    symlink(targets.join("one"), targets.join("hop")).expect("linked");
    symlink(targets.join("hop"), logs.join("a.log")).expect("linked");
    symlink(logs.join("loop.log"), logs.join("loop.log")).expect("linked");
    symlink(targets.join("nowhere"), logs.join("dangling.log")).expect("linked");
    let node = Node::new();
    node.start("file", &format!("paths = [\"{}/*.log\"]\n", logs.display()));
    assert_eq!(node.wait_for(5), lines(0..5));
    // The second hop is pointed elsewhere; the folder that is watched sees nothing of it.
    symlink(targets.join("two"), targets.join("new")).expect("linked");
    fs::rename(targets.join("new"), targets.join("hop")).expect("replaced");
    assert_eq!(node.wait_for(10), lines(0..10));
    // A target that appears later is found, too.
    put(&targets.join("nowhere"), 10..12);
    assert_eq!(node.wait_for(12), lines(0..12));
    symlink(targets.join("three"), logs.join("new")).expect("linked");
    fs::rename(logs.join("new"), logs.join("a.log")).expect("replaced");
    assert_eq!(node.wait_for(15), lines(0..15));
    let (health, reason) = node.metrics.checks().remove("input in").expect("a check");
    assert!(health == Health::Warn && reason.contains("loop.log"), "{reason}");
}

#[test]
fn a_file_that_was_written_anew_while_stopped_is_read_from_its_head_whether_shorter_or_longer() {
    for range in [100..103, 100..300] {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (log, data) = (dir.path().join("a.log"), dir.path().join("data"));
        let settings = format!("paths = [\"{}/*.log\"]\n", dir.path().display());
        put(&log, 0..100);
        let node = Node::at(Some(&data));
        node.start("file", &settings);
        node.wait_for(100);
        node.shut_down();
        OpenOptions::new().write(true).open(&log).expect("opens").set_len(0).expect("truncated");
        put(&log, range.clone());
        let node = Node::at(Some(&data));
        node.start("file", &settings);
        assert_eq!(node.wait_for(range.len()), lines(range.clone()));
        assert_eq!(node.oddity(Oddity::FileRewritten), 1);
        node.shut_down();
        // Another file in its place; the old one stays, so that its inode is another one's.
        fs::rename(&log, dir.path().join("elsewhere")).expect("renamed");
        put(&log, range.start + 1000..range.end + 1000);
        let node = Node::at(Some(&data));
        node.start("file", &settings);
        let came = node.wait_for(range.len() + 1);
        assert!(came[0].starts_with('{') && came[0].contains("bytes_at_least"), "a gap is told: {}", came[0]);
        assert_eq!(came[1..], lines(range.start + 1000..range.end + 1000));
        assert_eq!(node.oddity(Oddity::GenerationGone), 1);
        node.shut_down();
    }
}

#[test]
fn a_restart_goes_on_two_generations_back_and_leaves_older_ones_alone() {
    let docker = Docker::new();
    for n in 0..3 {
        docker.append(&lines(n * 10..n * 10 + 10));
        if n < 2 {
            docker.rotate(5);
        }
    }
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(30), lines(0..30));
    node.shut_down();
    docker.append(&lines(30..35));
    docker.rotate(5);
    docker.append(&lines(35..40));
    docker.rotate(5);
    docker.append(&lines(40..45));
    // By now .4 and .3 were read, and the place is in .2.
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(15), lines(30..45));
    assert_eq!(generations(&node, Generation::Lost), 0);
    assert_eq!(node.shut_down(), lines(30..45), "and nothing more up to the end");
}

#[test]
fn a_restart_where_every_generation_is_another_reads_them_from_the_oldest_on() {
    let docker = Docker::new();
    docker.put("", 0..10);
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(10), lines(0..10));
    node.shut_down();
    // No generation's name, and its inode is not free.
    fs::rename(docker.path(""), docker.path("x")).expect("renamed");
    docker.put(".2", 20..30);
    docker.compress(2);
    docker.put(".1", 30..40);
    docker.put("", 40..50);
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    let came = node.wait_for(31);
    assert_eq!(came[1..], lines(20..50));
    let gap: serde_json::Value = serde_json::from_str(&came[0]).expect("an object");
    let times = (gap["from"].as_str(), gap["to"].as_str());
    assert_eq!(times, (Some("2026-11-24T10:00:00.000000009Z"), Some("2026-11-24T10:00:00.000000020Z")));
    assert_eq!((node.oddity(Oddity::GenerationGone), generations(&node, Generation::Lost)), (1, 1));
    node.shut_down();
}

#[test]
fn a_line_whose_first_piece_went_with_its_file_while_longshore_was_stopped_is_told_of() {
    let docker = Docker::new();
    let piece = "p".repeat(16_384);
    let other = |n| error_at(&format!("err {n}\\n"), n);
    // Both files begin alike.
    for n in 1..3 {
        docker.append_raw(&record_at(&piece, 7));
        docker.append_raw(&other(n));
        let node = Node::with(Some(&docker.data()), join_pipeline());
        node.start("docker", &docker.settings());
        assert_eq!(node.wait_for(1), [format!("err {n}")]);
        node.shut_down();
        if n == 1 {
            docker.rotate(3);
        }
    }
    fs::remove_file(docker.path(".1")).expect("there");
    docker.append_raw(&record_at("end\\n", 7));
    docker.append_raw(&other(3));
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.start("docker", &docker.settings());
    let came = node.wait_for(3);
    assert!(came[0].contains("bytes_at_least"), "the gap is told first: {}", came[0]);
    assert_eq!(came[1..], [format!("{piece}end"), "err 3".to_owned()]);
    assert_eq!((node.oddity(Oddity::GenerationGone), generations(&node, Generation::Lost)), (1, 1));
    node.shut_down();
    // Once.
    docker.append_raw(&other(4));
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(1), ["err 4"]);
    assert_eq!(node.oddity(Oddity::GenerationGone), 0);
    node.shut_down();
}

#[test]
fn what_a_damaged_file_lacks_of_an_unfinished_line_s_is_not_passed_over_in_the_next_one() {
    let docker = Docker::new();
    let errors = |range: std::ops::Range<u64>| {
        let text = |n: u64| n.wrapping_mul(2_654_435_761).to_string().repeat(20);
        for n in range {
            docker.append_raw(&error_at(&format!("err {n} {}\\n", text(n)), n));
        }
    };
    docker.append_raw(&record_at(&"p".repeat(16_384), 7));
    errors(0..300);
    docker.rotate(3);
    errors(300..310);
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(310).len(), 310);
    node.shut_down();
    docker.compress(1);
    let packed = fs::read(docker.path(".1.gz")).expect("there");
    fs::write(docker.path(".1.gz"), &packed[..packed.len() / 2]).expect("written");
    errors(310..500);
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.start("docker", &docker.settings());
    let is_error = |record: &Arrived| record.log.starts_with("err ");
    node.wait(|came| came.iter().filter(|record| is_error(record)).count() >= 190);
    let damaged = node.oddity(Oddity::GzDamaged);
    let all = node.shut_down();
    let numbers = all.iter().filter_map(|log| log.strip_prefix("err ")?.split(' ').next()?.parse::<u64>().ok());
    assert!(numbers.eq(310..500));
    assert_eq!(damaged, 1, "also of what is replayed");
}

#[test]
fn files_from_before_the_clock_was_set_back_are_read_in_their_order() {
    let docker = Docker::new();
    let ahead = |name: &str| {
        let file = OpenOptions::new().append(true).open(docker.path(name)).expect("there");
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(3600)).expect("set");
    };
    docker.append(&lines(0..10));
    docker.rotate(5);
    docker.compress(1);
    docker.append(&lines(10..20));
    ahead(".1.gz");
    ahead("");
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(20), lines(0..20));
    docker.rotate(5);
    docker.append(&lines(20..30));
    docker.compress(1);
    ahead(".1.gz");
    assert_eq!(node.wait_for(30), lines(0..30));
    node.shut_down();
    // What is written by the clock that was set back has times before those of what was read.
    *docker.time.lock().expect("no panic") = 0;
    docker.append(&lines(30..35));
    docker.rotate(5);
    docker.append(&lines(35..40));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(10), lines(30..40));
    node.shut_down();
}

#[test]
fn files_from_before_the_clock_had_passed_the_place_again_are_read_though_it_is_gone() {
    let docker = Docker::new();
    docker.put("", 20..30);
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(10), lines(20..30));
    node.shut_down();
    // Set back, and later again than the last record that was read: what looks older is not.
    fs::rename(docker.path(""), docker.path("x")).expect("renamed");
    docker.put(".1", 0..10);
    docker.put("", 10..40);
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    let came = node.wait_for(41);
    assert!(came[0].contains("bytes_at_least"), "a gap is told: {}", came[0]);
    assert_eq!(came[1..], lines(0..40));
    node.shut_down();
}

#[test]
fn a_folder_that_is_full_before_it_can_be_watched_is_read_at_once() {
    let docker = Docker::new();
    docker.append(&lines(0..1));
    let node = Node::new();
    node.start("docker", &docker.settings());
    node.wait_for(1);
    // Made elsewhere and moved there: no event tells of what is in it. One of some is soon enough also where others are late:
    // who waits for the look at everything is late each time but for one in ten.
    let quick = (1..4).any(|n| {
        let id = format!("{n:064x}");
        let elsewhere =
            Docker { dir: tempfile::tempdir_in(docker.dir.path()).expect("a temp dir"), time: Mutex::new(0) };
        elsewhere.create(&id, "full");
        let made = elsewhere.root().join(&id);
        for (suffix, line) in [(".1", 2 * n - 1), ("", 2 * n)] {
            let text = record_at(&format!("line {line}\\n"), line as u64);
            fs::write(made.join(format!("{id}-json.log{suffix}")), text).expect("written");
        }
        let since = Instant::now();
        fs::rename(&made, docker.root().join(&id)).expect("renamed");
        assert_eq!(node.wait_for(2 * n + 1), lines(0..2 * n + 1));
        assert_eq!(node.all()[2 * n].name, "full");
        since.elapsed() < Duration::from_secs(2)
    });
    assert!(quick, "each took longer");
}

#[test]
fn containers_that_live_for_a_moment_leave_their_lines_with_their_names_and_labels() {
    const CONTAINERS: usize = 100;
    let docker = Docker::new();
    let node = Node::new();
    node.start("docker", &(docker.settings() + "tag = \"{container.image}.{container.labels.n}\"\n"));
    docker.append(&lines(0..1));
    node.wait_for(1);
    for n in 1..=CONTAINERS {
        let (id, name) = (format!("{n:064x}"), format!("c{n}"));
        docker.create(&id, &name);
        let text: String = (0..5).map(|line| record_at(&format!("{n} {line}\\n"), line)).collect();
        fs::write(docker.root().join(&id).join(format!("{id}-json.log")), text).expect("written");
        until("it is open", || generations(&node, Generation::Opened) > n as u64);
        fs::remove_dir_all(docker.root().join(&id)).expect("removed");
    }
    node.wait_for(1 + 5 * CONTAINERS);
    for n in 1..=CONTAINERS {
        let name = format!("c{n}");
        let of_it: Vec<Arrived> = node.all().into_iter().filter(|record| record.name == name).collect();
        let logs: Vec<&str> = of_it.iter().map(|record| record.log.as_str()).collect();
        assert_eq!(logs, [0, 1, 2, 3, 4].map(|line| format!("{n} {line}")));
        assert!(of_it.iter().all(|record| record.tag == format!("img.{name}")), "{:?}", of_it[0].tag);
    }
    assert_eq!(node.all().len(), 1 + 5 * CONTAINERS);
}
