//! Rotation at a pace that no reader keeps up with: nothing is lost in silence.

use super::*;
use crate::metrics::followed::{Generation, LostBytes};

impl Node {
    fn generations(&self, what: Generation) -> u64 {
        self.metrics.inputs[0].followed.generations[what as usize].load(Ordering::Relaxed)
    }
}

#[test]
fn with_compression_at_full_pace_every_line_comes_once_or_is_counted() {
    for round in 0..6 {
        let docker = Docker::new();
        let node = Node::new();
        node.start("docker", &docker.settings());
        docker.append(&["line 0"]);
        node.wait_for(1);
        for n in 0..40 {
            docker.append(&lines(1 + n * 10..1 + n * 10 + 10));
            for old in (1..6).rev() {
                let _ = fs::rename(docker.path(&format!(".{old}.gz")), docker.path(&format!(".{}.gz", old + 1)));
            }
            docker.rotate(2);
            docker.compress(1);
            std::thread::sleep(Duration::from_micros(500));
        }
        docker.append(&["line 401"]);
        node.wait(|arrived| arrived.iter().any(|record| record.log == "line 401"));
        std::thread::sleep(Duration::from_millis(1500));
        let all: Vec<usize> = node.all().iter().map(|record| record.log[5..].parse().expect("a number")).collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "round {round}: twice or out of order: {all:?}");
        let missing = 402 - all.len();
        let counted = node.generations(Generation::Lost);
        assert!(
            missing <= counted as usize * 11,
            "round {round}: {missing} lines are missing, {counted} generations are counted"
        );
        assert!(missing > 0 || counted == 0, "round {round}: nothing is missing, but {counted} are counted");
    }
}

#[test]
fn files_that_come_and_go_before_they_can_be_opened_are_counted_exactly() {
    let docker = Docker::new();
    docker.append(&["line 0"]);
    // Surely older than the watch: it is not told of.
    std::thread::sleep(Duration::from_millis(300));
    let node = Node::new();
    node.start("docker", &docker.settings());
    node.wait_for(1);
    let total = 3000;
    for n in 1..=total {
        // As `max-file=1` does: the file is unlinked and made anew, each time with one line.
        fs::remove_file(docker.path("")).expect("there");
        docker.append(&[format!("line {n}")]);
    }
    node.wait(|arrived| arrived.iter().any(|record| record.log == format!("line {total}")));
    std::thread::sleep(Duration::from_millis(200));
    let all = node.all();
    let missing = total + 1 - all.len();
    assert_eq!(node.generations(Generation::Lost), missing as u64, "{} came", all.len());
    let opened = node.generations(Generation::Opened);
    assert_eq!(opened + missing as u64, total as u64 + 1, "each was opened or is counted as lost");
}

#[test]
fn the_copy_of_a_truncated_file_gives_what_was_unread() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (log, copy) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    let put = |range: std::ops::Range<usize>| {
        let mut file = OpenOptions::new().create(true).append(true).open(&log).expect("opens");
        file.write_all(range.map(|n| format!("line {n}\n")).collect::<String>().as_bytes()).expect("written");
    };
    put(0..100);
    let node = Node::new();
    node.start("file", &format!("paths = [\"{}/*.log*\"]\n", dir.path().display()));
    node.wait_for(100);
    // An idle file is looked at when it grows: all of this comes before that look now and then, and the copy has it then.
    for round in 1..20 {
        let from = round * 100;
        put(from..from + 100);
        fs::copy(&log, &copy).expect("copied");
        OpenOptions::new().write(true).open(&log).expect("opens").set_len(0).expect("truncated");
        node.wait_for(from + 100);
    }
    put(2000..2001);
    assert_eq!(node.wait_for(2001), lines(0..2001));
    assert_eq!(node.metrics.inputs[0].followed.lost_bytes[LostBytes::Truncated as usize].load(Ordering::Relaxed), 0);
}

#[test]
fn a_file_that_is_copied_and_truncated_again_and_again_between_two_looks_gives_every_line_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let log = dir.path().join("a.log");
    let name = |n: usize| dir.path().join(format!("a.log.{n}"));
    let put = |range: std::ops::Range<usize>| {
        let mut file = OpenOptions::new().create(true).append(true).open(&log).expect("opens");
        file.write_all(range.map(|n| format!("line {n}\n")).collect::<String>().as_bytes()).expect("written");
    };
    put(0..100);
    let node = Node::new();
    node.start("file", &format!("paths = [\"{}/*.log\"]\n", dir.path().display()));
    node.wait_for(100);
    let mut next = 100;
    for _ in 0..8 {
        for _ in 0..4 {
            put(next..next + 100);
            next += 100;
            for old in (1..10).rev() {
                let _ = fs::rename(name(old), name(old + 1));
            }
            fs::copy(&log, name(1)).expect("copied");
            OpenOptions::new().write(true).open(&log).expect("opens").set_len(0).expect("truncated");
        }
        // The first line after the last truncation: what was copied before it is read when it comes, at the latest.
        put(next..next + 1);
        next += 1;
        assert_eq!(node.wait_for(next), lines(0..next));
    }
    assert_eq!(node.metrics.inputs[0].followed.lost_bytes[LostBytes::Truncated as usize].load(Ordering::Relaxed), 0);
}
