//! Containers.

use super::*;
use crate::metrics::followed::Generation;

#[test]
fn all_generations_come_in_order_and_then_what_is_appended() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    docker.rotate(5);
    docker.compress(1);
    fs::rename(docker.path(".1.gz"), docker.path(".2.gz")).expect("renamed");
    docker.append(&lines(10..20));
    docker.rotate(2);
    docker.append(&lines(20..30));
    let node = Node::new();
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(30), lines(0..30));
    docker.append(&lines(30..31));
    assert_eq!(node.wait_for(31), lines(0..31));
    let first = &node.all()[0];
    assert_eq!((first.tag.as_str(), first.name.as_str()), ("docker.web", "web"));
}

#[test]
fn an_idle_file_is_read_again_when_it_grows() {
    let docker = Docker::new();
    docker.append(&lines(0..1));
    let node = Node::new();
    node.start("docker", &docker.settings());
    node.wait_for(1);
    for n in 1..4 {
        std::thread::sleep(Duration::from_millis(300));
        let since = Instant::now();
        docker.append(&lines(n..n + 1));
        node.wait(|arrived| arrived.len() > n);
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }
    assert_eq!(node.wait_for(4), lines(0..4));
}

#[test]
fn nothing_is_lost_or_doubled_while_docker_rotates_fast() {
    let docker = Docker::new();
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    let total = 300 * 20;
    for n in 0..300 {
        docker.append(&lines(n * 20..n * 20 + 20));
        docker.rotate(4);
        std::thread::sleep(Duration::from_millis(2));
    }
    docker.append(&["the end"]);
    node.wait(|arrived| arrived.iter().any(|record| record.log == "the end"));
    std::thread::sleep(Duration::from_millis(200));
    let mut all: Vec<String> = node.all().into_iter().map(|record| record.log).collect();
    assert_eq!(all.pop().as_deref(), Some("the end"), "in order");
    // On a machine that stands still for 8 ms four rotations go by: what is missing then is counted, no more and no less.
    let lost = node.metrics.inputs[0].followed.generations[Generation::Lost as usize].load(Ordering::Relaxed);
    assert_eq!(all.len() + lost as usize * 20, total);
    let mut left = all.iter().peekable();
    for line in &lines(0..total) {
        let _ = left.next_if_eq(&line);
    }
    assert_eq!(left.next(), None, "once each, and in order");
    node.shut_down();
}

#[test]
fn a_compressed_copy_of_what_was_read_is_not_read_again() {
    let docker = Docker::new();
    let node = Node::new();
    node.start("docker", &docker.settings());
    for n in 0..10 {
        docker.append(&lines(n * 10..n * 10 + 10));
        for old in (1..9).rev() {
            let _ = fs::rename(docker.path(&format!(".{old}.gz")), docker.path(&format!(".{}.gz", old + 1)));
        }
        docker.rotate(2);
        docker.compress(1);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(node.wait_for(100), lines(0..100));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(node.all().len(), 100);
}

#[test]
fn a_file_that_is_unlinked_at_once_is_read_through_its_descriptor() {
    let docker = Docker::new();
    let node = Node::new();
    node.start("docker", &docker.settings());
    docker.append(&lines(0..10));
    node.wait_for(10);
    // As `max-file=1` does.
    docker.append(&lines(10..20));
    docker.rotate(1);
    docker.append(&lines(20..30));
    assert_eq!(node.wait_for(30), lines(0..30));
}

#[test]
fn a_truncated_file_is_read_from_its_head() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    let node = Node::new();
    node.start("docker", &docker.settings());
    node.wait_for(10);
    File::create(docker.path("")).expect("truncated");
    docker.append(&lines(10..15));
    assert_eq!(node.wait_for(15), lines(0..15));
    assert_eq!(node.oddity(Oddity::FileRewritten), 1);
    // As a writer without O_APPEND leaves it: NULs up to the old offset.
    let mut file = OpenOptions::new().write(true).open(docker.path("")).expect("opens");
    file.set_len(0).expect("truncated");
    use std::os::unix::fs::FileExt;
    file.write_all_at(docker.record("line 15\\n").as_bytes(), 5000).expect("written");
    file.flush().expect("written");
    assert_eq!(node.wait_for(16), lines(0..16));
    assert!(node.oddity(Oddity::NulRun) >= 1);
}

#[test]
fn a_restart_goes_on_where_it_was_even_in_a_generation_that_was_compressed_meanwhile() {
    let docker = Docker::new();
    docker.append(&lines(0..2000));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(2000), lines(0..2000));
    node.shut_down();
    docker.append(&lines(2000..2010));
    docker.rotate(2);
    docker.compress(1);
    docker.append(&lines(2010..2020));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(20), lines(2000..2020));
    node.shut_down();
    // Nothing new: nothing comes.
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    std::thread::sleep(Duration::from_millis(1500));
    docker.append(&lines(2020..2021));
    assert_eq!(node.wait_for(1), lines(2020..2021));
    node.shut_down();
}

#[test]
fn a_restart_whose_generation_is_gone_reads_what_there_is_after_one_record_that_says_from_when_to_when() {
    let docker = Docker::new();
    docker.put(".1", 0..5);
    docker.put("", 5..10);
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(10), lines(0..10));
    node.shut_down();
    docker.put("", 10..20);
    // Beside the old file, so that the inode is another one too. What is older than it was delivered before.
    fs::rename(docker.path(""), docker.path("x")).expect("renamed");
    docker.put("", 20..30);
    let node = Node::at(Some(&docker.data()));
    node.hold.store(true, Ordering::Release);
    node.start("docker", &docker.settings());
    let first = node.wait_for(11);
    let lost = |node: &Node| {
        let input = &node.metrics.inputs[0];
        let generations = input.followed.generations[Generation::Lost as usize].load(Ordering::Relaxed);
        (generations, node.oddity(Oddity::GenerationGone))
    };
    assert_eq!(lost(&node), (1, 1));
    let is_noted = || {
        let stored = super::super::checkpoint::stored(&docker.data()).expect("readable");
        stored.values().any(|entry| entry.saved.lost)
    };
    until("it is stored that the generation is lost", is_noted);
    node.crash();
    // Nothing was settled: all of it comes again, and the word that something is missing with it.
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(11), first);
    assert_eq!(first[1..], lines(20..30));
    let gap: serde_json::Value = serde_json::from_str(&first[0]).expect("an object");
    let name = docker.path("").file_name().expect("a file").to_string_lossy().into_owned();
    // (Bytes at the time of the last save: what came then is not known.)
    let expected = serde_json::json!({
        "from": "2026-11-24T10:00:00.000000009Z", "to": "2026-11-24T10:00:00.000000020Z", "file": name, "bytes_at_least": 0,
    });
    assert_eq!(gap, expected);
    assert_eq!(lost(&node), (0, 0), "it was counted when it was found");
    node.shut_down();
    assert!(!is_noted(), "it is told");
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    docker.append(&["line 30"]);
    assert_eq!(node.wait_for(1), ["line 30"], "the gap is told once");
    node.shut_down();
}

#[test]
fn the_checkpoint_does_not_pass_what_no_sink_has_taken() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    node.wait_for(10);
    node.hold.store(true, Ordering::Release);
    docker.append(&lines(10..20));
    node.wait_for(20);
    // What is held is dropped unsettled at the stop.
    node.shut_down();
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(10), lines(10..20));
    node.shut_down();
}

#[test]
fn what_was_not_delivered_is_read_again_at_run_time() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    node.wait_for(10);
    node.refuse.store(true, Ordering::Release);
    docker.append(&lines(10..20));
    std::thread::sleep(Duration::from_millis(50));
    docker.rotate(3);
    docker.append(&lines(20..30));
    node.wait(|arrived| {
        arrived.iter().any(|record| record.log == "line 29") && arrived.iter().any(|record| record.log == "line 10")
    });
    let mut all = node.wait_for(30);
    all.sort_by_key(|line| line[5..].parse::<usize>().expect("a number"));
    all.dedup();
    assert_eq!(all, lines(0..30));
    node.shut_down();
}

#[test]
fn a_removed_container_is_read_to_its_end_and_forgotten() {
    let docker = Docker::new();
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    std::thread::sleep(Duration::from_millis(50));
    let id = ID.replace('0', "f");
    docker.create(&id, "short");
    let text: String = (0..100u64).map(|n| record_at(&format!("short {n}\\n"), n)).collect();
    fs::write(docker.root().join(&id).join(format!("{id}-json.log")), text + "{\"log\":\"torn").expect("written");
    std::thread::sleep(Duration::from_millis(20));
    fs::remove_dir_all(docker.root().join(&id)).expect("removed");
    let all = node.wait_for(101);
    assert_eq!(all.len(), 101);
    assert_eq!(all[99], "short 99");
    assert!(node.all().iter().all(|record| record.name == "short"));
    let deadline = Instant::now() + Duration::from_secs(10);
    let checkpoints = node.checkpoints.clone().expect("there");
    while checkpoints.lookup("in", &id).is_some() {
        assert!(Instant::now() < deadline, "not forgotten");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(checkpoints);
    node.shut_down();
}

#[test]
fn a_name_that_comes_late_or_changes_counts_from_then_on() {
    let docker = Docker::new();
    let config = docker.root().join(ID).join("config.v2.json");
    let text = fs::read_to_string(&config).expect("there");
    fs::remove_file(&config).expect("removed");
    let node = Node::new();
    node.start("docker", &docker.settings());
    docker.append(&lines(0..1));
    node.wait_for(1);
    assert_eq!(node.all()[0].tag, "docker.0123456789ab");
    let replace = |text: String| {
        let tmp = docker.root().join(ID).join(".tmp-config.v2.json123");
        fs::write(&tmp, text).expect("written");
        fs::rename(&tmp, &config).expect("renamed");
        std::thread::sleep(Duration::from_millis(200));
    };
    replace(text.clone());
    docker.append(&lines(1..2));
    node.wait_for(2);
    replace(text.replace("/web", "/renamed"));
    docker.append(&lines(2..3));
    node.wait_for(3);
    let tags: Vec<String> = node.all().into_iter().map(|record| record.tag).collect();
    assert_eq!(tags, ["docker.0123456789ab", "docker.web", "docker.renamed"]);
}

#[test]
fn an_excluded_container_sends_nothing() {
    let docker = Docker::new();
    docker.append(&lines(0..1));
    let node = Node::new();
    node.start("docker", &(docker.settings() + "exclude = [\"label:n=skip\"]"));
    node.wait_for(1);
    let id = ID.replace('0', "e");
    docker.create(&id, "skip");
    fs::write(docker.root().join(&id).join(format!("{id}-json.log")), record_at("no\\n", 1)).expect("written");
    std::thread::sleep(Duration::from_millis(300));
    docker.append(&lines(1..2));
    assert_eq!(node.wait_for(2), lines(0..2));
}

#[test]
fn a_split_line_is_whole_and_single_across_a_restart_and_a_rotation() {
    let docker = Docker::new();
    let piece = "p".repeat(16_384);
    let other = |n| error_at(&format!("err {n}\\n"), n);
    docker.append_raw(&record_at(&piece, 7));
    docker.append_raw(&other(1));
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(1), ["err 1"]);
    node.shut_down();
    // The next piece is in the next generation, and another restart lies before the last one.
    docker.rotate(3);
    docker.append_raw(&record_at(&piece, 7));
    docker.append_raw(&other(2));
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(1), ["err 2"]);
    node.shut_down();
    docker.append_raw(&record_at("end\\n", 7));
    docker.append_raw(&other(3));
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(2), [format!("{piece}{piece}end"), "err 3".to_owned()]);
    node.shut_down();
}

#[test]
fn a_damaged_gz_gives_its_valid_part_and_the_chain_goes_on() {
    let docker = Docker::new();
    docker.append(&lines(0..5000));
    docker.rotate(2);
    docker.compress(1);
    let mut packed = fs::read(docker.path(".1.gz")).expect("there");
    packed.truncate(packed.len() / 2);
    fs::write(docker.path(".1.gz"), packed).expect("written");
    docker.append(&["after"]);
    let node = Node::new();
    node.start("docker", &docker.settings());
    node.wait(|arrived| arrived.last().is_some_and(|record| record.log == "after"));
    let all = node.wait_for(1);
    assert!(all.len() > 1000 && all.len() < 5000, "{}", all.len());
    assert_eq!(all[..1000], lines(0..1000));
    assert_eq!(node.oddity(Oddity::GzDamaged), 1);
}

/// A pipeline that joins.
pub(super) fn join_pipeline() -> Pipeline {
    let text = "steps = [ { join = \"docker_partial\" } ]";
    let doc = Doc::new("c.toml", text, |_| None);
    let table = DeTable::parse(text).expect("valid TOML");
    let section = Section::new(&doc, table.get_ref(), "pipeline", table.span());
    let pipeline = Pipeline::read(Some(&section));
    assert!(doc.findings().is_empty());
    pipeline
}

#[test]
fn crashes_stops_and_rotations_in_any_order_lose_nothing_and_a_clean_stop_doubles_nothing() {
    // More than are ever made: none is gone before it was read.
    const KEEP: usize = 200;
    for seed in 0..4 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let docker = Docker::new();
        docker.append(&lines(0..1));
        let mut next = 1;
        let mut all: Vec<String> = Vec::new();
        let mut last_of_clean: Option<usize> = None;
        for round in 0..8 {
            let node = Node::with(Some(&docker.data()), join_pipeline());
            node.start("docker", &docker.settings());
            // What a sink holds back at the end counts as not delivered.
            let late = rng.bool();
            let steps = rng.usize(2..6);
            for step in 0..steps {
                let some = rng.usize(1..300);
                if rng.u8(..4) == 0 {
                    // A line in two pieces, with a rotation in between now and then.
                    let time = *docker.time.lock().expect("no panic") + 1;
                    *docker.time.lock().expect("no panic") = time;
                    let text = format!("line {next}");
                    docker.append_raw(&record_at(&format!("{text:16384}"), time));
                    if rng.bool() {
                        docker.rotate(KEEP);
                    }
                    docker.append_raw(&record_at("\\n", time));
                    next += 1;
                }
                docker.append(&lines(next..next + some));
                next += some;
                if rng.u8(..3) > 0 {
                    docker.rotate(KEEP);
                    if rng.bool() {
                        docker.compress(1);
                    }
                }
                std::thread::sleep(Duration::from_millis(rng.u64(0..120)));
                if step + 2 == steps && late {
                    node.hold.store(true, Ordering::Release);
                }
            }
            let clean = rng.bool() && !late;
            let before = all.len();
            all.extend(
                if clean { node.shut_down() } else { node.crash() }.iter().map(|line| line.trim_end().to_owned()),
            );
            let numbers: Vec<usize> = all[before..].iter().map(|line| line[5..].parse().expect("a number")).collect();
            let odd: Vec<&[usize]> = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).collect();
            assert!(
                odd.is_empty(),
                "seed {seed} round {round}: {odd:?} in {:?}..{:?}",
                numbers.first(),
                numbers.last()
            );
            if let (Some(last), Some(first)) = (last_of_clean, numbers.first()) {
                assert_eq!(*first, last + 1, "seed {seed} round {round}: twice, or never, after a clean stop");
            }
            // Nothing at all may have come in this life.
            let last = numbers.last().copied().or(last_of_clean);
            last_of_clean = last.filter(|_| clean);
        }
        let node = Node::with(Some(&docker.data()), join_pipeline());
        node.start("docker", &docker.settings());
        docker.append(&["line 999999"]);
        node.wait(|arrived| arrived.last().is_some_and(|record| record.log == "line 999999"));
        all.extend(node.shut_down().iter().map(|line| line.trim_end().to_owned()));
        let mut numbers: Vec<usize> = all.iter().map(|line| line[5..].parse().expect("a number")).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let expected: Vec<usize> = (0..next).chain([999_999]).collect();
        assert_eq!(numbers, expected, "seed {seed}");
    }
}

#[test]
fn clean_stops_under_rotation_double_nothing() {
    let docker = Docker::new();
    let mut all = Vec::new();
    for round in 0..6 {
        let node = Node::at(Some(&docker.data()));
        node.start("docker", &docker.settings());
        for n in 0..4 {
            let from = (round * 4 + n) * 50;
            docker.append(&lines(from..from + 50));
            docker.rotate(9);
            std::thread::sleep(Duration::from_millis(15));
        }
        all.extend(node.shut_down());
    }
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    docker.append(&["end"]);
    node.wait(|arrived| arrived.last().is_some_and(|record| record.log == "end"));
    all.extend(node.shut_down());
    assert_eq!(all.pop().as_deref(), Some("end"));
    assert_eq!(all, lines(0..1200));
}

#[test]
fn without_inotify_rotations_and_new_containers_are_found_by_looking() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    let node = Node::new();
    node.start("docker", &(docker.settings() + "watch = \"poll\""));
    node.wait_for(10);
    docker.append(&lines(10..20));
    docker.rotate(3);
    docker.append(&lines(20..30));
    node.wait_for(30);
    docker.rotate(3);
    docker.append(&lines(30..40));
    assert_eq!(node.wait_for(40), lines(0..40));
    let id = ID.replace('0', "d");
    docker.create(&id, "second");
    fs::write(docker.root().join(&id).join(format!("{id}-json.log")), record_at("hello\\n", 1)).expect("written");
    assert_eq!(node.wait_for(41)[40], "hello");
    assert_eq!(node.all()[40].name, "second");
}

#[test]
fn a_folder_without_permission_ends_the_start_with_what_is_needed() {
    use std::os::unix::fs::PermissionsExt;
    let docker = Docker::new();
    docker.append(&lines(0..1));
    fs::set_permissions(docker.root(), fs::Permissions::from_mode(0o000)).expect("changed");
    // This thread (and those that it starts) as a user who is not root.
    let mut sets = rustix::thread::capabilities(None).expect("read");
    use rustix::thread::CapabilitySet;
    sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    let all = rustix::thread::capabilities(None).expect("read");
    rustix::thread::set_capabilities(None, sets).expect("dropped");
    let node = Node::new();
    let started = input("docker", &docker.settings()).start(node.outlet(), &node.workers);
    if rustix::process::geteuid().is_root() {
        // Root owns the folder, so mode 0 alone stops it only without the capabilities.
        assert!(all.effective.contains(CapabilitySet::DAC_OVERRIDE));
    }
    let error = started.expect_err("refused").to_string();
    assert!(error.contains("CAP_DAC_READ_SEARCH") && error.contains(docker.root().to_str().expect("UTF-8")), "{error}");
    fs::set_permissions(docker.root(), fs::Permissions::from_mode(0o755)).expect("changed");
    // One container that can not be read: said in the health check, and read once it can be.
    fs::set_permissions(docker.root().join(ID), fs::Permissions::from_mode(0o000)).expect("changed");
    let id = ID.replace('0', "c");
    docker.create(&id, "open");
    fs::write(docker.root().join(&id).join(format!("{id}-json.log")), record_at("open\\n", 1)).expect("written");
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(1), ["open"]);
    let (health, reason) = node.metrics.checks().remove("input in").expect("a check");
    assert!(health == Health::Warn && reason.contains("CAP_DAC_READ_SEARCH"), "{reason}");
    fs::set_permissions(docker.root().join(ID), fs::Permissions::from_mode(0o755)).expect("changed");
    assert_eq!(node.wait_for(2)[1], "line 0");
    node.stop();
}

#[test]
fn reading_once_ends_with_what_is_there_and_leaves_nothing_in_a_join() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    docker.rotate(5);
    docker.append(&lines(10..20));
    docker.append_raw(&docker.record("piece"));
    let node = Node::with(Some(&docker.data()), join_pipeline());
    node.outlet.lock().expect("no panic").as_mut().expect("there").once = true;
    node.start("docker", &docker.settings());
    assert!(node.workers.join(Instant::now() + Duration::from_secs(10)), "it does not end by itself");
    let mut expected = lines(0..20);
    expected.push("piece".to_owned());
    assert_eq!(node.wait_for(21), expected);
    node.shut_down();
    // How far it came is remembered.
    let node = Node::at(Some(&docker.data()));
    docker.append(&lines(20..21));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(1), lines(20..21));
}

#[test]
fn reading_once_without_any_container_ends() {
    let docker = Docker::new();
    let node = Node::new();
    node.outlet.lock().expect("no panic").as_mut().expect("there").once = true;
    node.start("docker", &docker.settings());
    assert!(node.workers.join(Instant::now() + Duration::from_secs(10)), "it does not end by itself");
}

#[test]
fn what_a_sink_gave_up_at_the_end_comes_again_though_later_records_were_taken() {
    let docker = Docker::new();
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    docker.append(&lines(0..10));
    node.wait_for(10);
    node.hold.store(true, Ordering::Release);
    docker.append(&lines(10..20));
    node.wait_for(20);
    node.hold.store(false, Ordering::Release);
    docker.append(&lines(20..30));
    node.wait_for(30);
    // The first checkpoint after the stop is saved with 10..20 given up and 20..30 taken.
    node.shut_down();
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(20), lines(10..30));
}

#[test]
fn a_gz_that_was_closed_is_read_without_waiting_for_it_to_be_quiet() {
    let docker = Docker::new();
    let node = Node::new();
    node.start("docker", &docker.settings());
    // A busy machine may be late; waiting for a second of quiet is late each time.
    let quick = (0..5).any(|n| {
        let id = format!("{n:064x}");
        docker.create(&id, "new");
        std::thread::sleep(Duration::from_millis(150));
        let path = docker.root().join(&id).join(format!("{id}-json.log.1.gz"));
        let mut encoder = GzEncoder::new(File::create(path).expect("made"), Compression::fast());
        encoder.write_all(docker.record(&format!("zipped {n}\\n")).as_bytes()).expect("written");
        drop(encoder.finish().expect("written"));
        let closed = Instant::now();
        node.wait(|arrived| arrived.len() > n);
        closed.elapsed() < Duration::from_millis(700)
    });
    assert!(quick, "each took longer");
}
