//! `longshore replay`: what a sink was given between two times, once more, from what the disk log keeps.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::harness::http::{Answer, Server};
use crate::harness::records::Numbers;
use crate::harness::sender::Senders;
use crate::harness::{folder, free_port, node, run, told};

fn replay(dir: &Path, words: &[&str]) -> Output {
    let config = dir.join("longshore.toml");
    let config = config.to_str().expect("UTF-8");
    let words: Vec<&str> = ["replay", "--config", config].into_iter().chain(words.iter().copied()).collect();
    run(dir, &words, b"")
}

fn now() -> String {
    // Frames have milliseconds: apart from those before and after.
    std::thread::sleep(Duration::from_millis(20));
    let now = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(20));
    now
}

#[test]
fn what_was_delivered_between_two_times_is_sent_once_more_beside_a_running_node_and_after_it() {
    let dir = folder();
    let port = free_port();
    let server = Server::start(|_, _| Answer::status(200));
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n\
         [buffer]\nsize = \"64MiB\"\nkeep = \"1h\"\n[sinks.central]\ntype = \"http\"\nurl = \"{}\"\n\
         batch = {{ size = \"64KiB\", wait = \"20ms\" }}\n",
        server.url()
    );
    let mut node = node(dir.path(), &body).start();
    let mut times = vec![now()];
    let mut parts: Vec<BTreeMap<String, u64>> = Vec::new();
    let mut total = 0;
    for _ in 0..3 {
        let senders = Senders::start(port, 2, Duration::from_millis(2));
        node.wait_for("some acks", |_| senders.acked() > 300);
        let sent = senders.finish();
        total += sent.values().sum::<u64>();
        parts.push(sent);
        node.wait_for("all of it", |node| node.delivered("central") == total);
        times.push(now());
    }
    // Cursors are saved a second after the last delivery at the latest.
    std::thread::sleep(Duration::from_millis(1_500));
    let before = server.accepted().len();
    let second: u64 = parts[1].values().sum();
    let middle = replay(dir.path(), &["--sink", "central", "--from", &times[1], "--to", &times[2]]);
    assert!(middle.status.success(), "{}", told(&middle));
    assert!(told(&middle).contains(&format!("central: {second} records sent again\n")), "{}", told(&middle));
    let again = server.accepted().split_off(before);
    assert!(Numbers::of(&again, "p", "seq").missing(&parts[1]).is_empty() && again.len() as u64 == second);
    node.assert_ledger_closes();
    assert_eq!(node.delivered("central"), total, "the ledger of the node is its own");
    node.stop_well();
    let all = replay(dir.path(), &["--sink", "central", "--from", &times[0]]);
    assert!(told(&all).contains(&format!("central: {total} records sent again\n")), "{}", told(&all));
    let none = replay(dir.path(), &["--sink", "central", "--from", &times[3]]);
    assert!(none.status.success() && told(&none).contains("central: 0 records sent again"), "{}", told(&none));

    let wrong = replay(dir.path(), &["--sink", "centrol", "--from", &times[0]]);
    assert!(wrong.status.code() == Some(1) && told(&wrong).contains("there is central"), "{}", told(&wrong));
    let wrong = replay(dir.path(), &["--sink", "central", "--from", "today"]);
    assert!(wrong.status.code() == Some(1) && told(&wrong).contains("with its zone"), "{}", told(&wrong));
    drop(server);
    let dead = replay(dir.path(), &["--sink", "central", "--from", &times[2], "--patience", "1"]);
    assert!(dead.status.code() == Some(3) && told(&dead).contains("not taken in time"), "{}", told(&dead));
}
