//! What is read again: after a sink has failed, and where the place of a restart is gone.

use super::*;
use crate::metrics::followed::{Generation, LostBytes};

#[test]
fn a_restart_that_does_not_find_what_it_had_read_to_its_end_does_not_read_what_is_older() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    docker.rotate(6);
    docker.compress(1);
    docker.append(&lines(10..20));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    assert_eq!(node.wait_for(20), lines(0..20));
    docker.rotate(6);
    // The first one and this one are at their end; the newest is empty.
    let completed =
        || node.metrics.inputs[0].followed.generations[Generation::Completed as usize].load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(20);
    while completed() < 2 {
        assert!(Instant::now() < deadline, "the second generation is not at its end");
        std::thread::sleep(Duration::from_millis(5));
    }
    node.shut_down();
    // Its compressed copy is damaged, so that nothing is left to know it by, and the empty one went on to a third name.
    docker.compress(1);
    let packed = fs::read(docker.path(".1.gz")).expect("there");
    fs::write(docker.path(".1.gz"), &packed[..packed.len() / 2]).expect("written");
    docker.append(&lines(20..30));
    docker.rotate(6);
    docker.compress(1);
    docker.append(&lines(30..31));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    // What is left of the damaged one may come, of the one before it nothing.
    assert_eq!(node.wait_for(12)[1..], lines(20..31));
    node.shut_down();
}

#[test]
fn what_was_not_delivered_and_is_truncated_meanwhile_is_counted_and_what_came_after_it_comes_once_more_in_order() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    let size = fs::metadata(docker.path("")).expect("there").len();
    let node = Node::new();
    node.hold.store(true, Ordering::Release);
    node.start("docker", &docker.settings());
    node.wait_for(10);
    // Longer than what was there: where that ended there is the middle of a line now.
    File::create(docker.path("")).expect("truncated");
    docker.append(&lines(10..25));
    node.wait_for(25);
    node.hold.store(false, Ordering::Release);
    node.held.lock().expect("no panic").clear();
    docker.append(&lines(25..26));
    assert_eq!(node.wait_for(41)[25..], lines(10..26));
    let lost = &node.metrics.inputs[0].followed.lost_bytes[LostBytes::Truncated as usize];
    assert_eq!(lost.load(Ordering::Relaxed), size);
}

#[test]
fn the_unfinished_last_line_of_a_generation_comes_again_too_when_it_was_not_delivered() {
    let docker = Docker::new();
    docker.append(&lines(0..5));
    docker.append_raw("{\"log\":\"torn");
    docker.rotate(3);
    docker.append(&lines(5..10));
    let node = Node::new();
    node.hold.store(true, Ordering::Release);
    node.start("docker", &docker.settings());
    let first = node.wait_for(11);
    node.hold.store(false, Ordering::Release);
    node.held.lock().expect("no panic").clear();
    docker.append(&lines(10..11));
    let all = node.wait_for(23);
    assert_eq!(all[11..22], first);
    assert_eq!(all[22..], lines(10..11));
}

#[test]
fn what_comes_again_from_a_generation_that_was_compressed_meanwhile_has_the_id_that_it_had() {
    let docker = Docker::new();
    docker.append(&lines(0..10));
    let node = Node::at(Some(&docker.data()));
    node.start("docker", &docker.settings());
    node.wait_for(10);
    node.shut_down();
    docker.append(&lines(10..20));
    // It arrives, and nobody says so.
    let came = |ready: &dyn Fn() -> bool| {
        let node = Node::at(Some(&docker.data()));
        node.hold.store(true, Ordering::Release);
        node.start("docker", &docker.settings());
        node.wait_for(10);
        until("ready", ready);
        let ids: Vec<(String, RecordId)> = node.all()[..10].iter().map(|of| (of.log.clone(), of.id)).collect();
        node.crash();
        ids
    };
    let first = came(&|| true);
    assert_eq!(first.iter().map(|(log, _)| log.clone()).collect::<Vec<_>>(), lines(10..20));
    docker.rotate(3);
    docker.compress(1);
    docker.append(&lines(20..21));
    // Once by the plain file's checkpoint, and once by the copy's own.
    let is_saved = || {
        let stored = crate::inputs::follow::checkpoint::stored(&docker.data()).expect("readable");
        stored.values().all(|entry| entry.saved.done.named.is_some() && entry.saved.done.name.ends_with(".gz"))
    };
    assert!(!is_saved());
    assert_eq!(came(&is_saved), first);
    assert_eq!(came(&|| true), first);
}
