//! The newcomer's first command: `run --config config.example.toml` beside the repository's `examples` folder.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::forward::{Client, map, message, option};
use crate::harness::records::files_under;
use crate::harness::{PROGRAM, Spawned, folder, free_port, run, told, wait_for};

fn copy_folder(from: &Path, to: &Path) {
    for path in files_under(from) {
        let target = to.join(path.strip_prefix(from).expect("it is below"));
        fs::create_dir_all(target.parent().expect("it has one")).expect("writable");
        fs::copy(&path, target).expect("it can be copied");
    }
}

fn start(dir: &Path, name: &str) -> Spawned {
    let file = |end: &str| fs::File::create(dir.join(format!("{name}.{end}"))).expect("writable");
    Spawned::start(
        Command::new(PROGRAM)
            .args(["run", "--config", "config.example.toml"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err")),
    )
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}

fn stop(mut node: Spawned) {
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn the_example_shows_the_main_job_within_five_seconds_and_says_what_a_second_run_does() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = folder();
    let config = fs::read_to_string(repository.join("config.example.toml")).expect("the repository has it");
    assert!(config.contains("127.0.0.1:24224") && config.contains("127.0.0.1:9600"), "the usual ports, on loopback");
    let checked = run(repository, &["check", "config.example.toml"], b"");
    assert!(checked.status.success(), "{}", told(&checked));
    // Ports of this test's own, so that it can run beside everything else.
    let port = free_port();
    let config = config.replace("127.0.0.1:24224", &format!("127.0.0.1:{port}"));
    let config = config.replace("127.0.0.1:9600", &format!("127.0.0.1:{}", free_port()));
    fs::write(dir.path().join("config.example.toml"), config).expect("writable");
    copy_folder(&repository.join("examples"), &dir.path().join("examples"));

    let began = Instant::now();
    let first = start(dir.path(), "first");
    let names = ["\"container\":", "\"stream\":", "\"tag\":"];
    wait_for("records of the three containers on standard output", Duration::from_secs(5), || {
        let out = text(dir.path(), "first.out");
        names.iter().all(|name| out.contains(name)) && distinct_containers(&out) >= 3
    });
    assert!(began.elapsed() < Duration::from_secs(5));
    wait_for("the word on what to try next", Duration::from_secs(5), || {
        let log = text(dir.path(), "first.err") + &text(dir.path(), "first.out");
        log.contains("longshore send") && log.contains("fluentd")
    });
    let mut client = Client::tcp(port);
    client.send(&message("hello", 1_700_000_000.into(), map(&[("said", "hi".into())]), Some(option("c", &[]))));
    client.expect_ack("c");
    wait_for("the sent record on standard output", Duration::from_secs(5), || {
        text(dir.path(), "first.out").contains("hi")
    });
    stop(first);
    let written = files_under(&dir.path().join("longshore-data"));
    assert!(written.iter().any(|path| path.to_string_lossy().contains("ndjson")), "{written:?}");

    let second = start(dir.path(), "second");
    wait_for("the word that these lines were delivered before", Duration::from_secs(5), || {
        let log = text(dir.path(), "second.err") + &text(dir.path(), "second.out");
        log.contains("delivered before")
    });
    stop(second);
    assert_eq!(distinct_containers(&text(dir.path(), "second.out")), 0, "nothing comes twice");
}

/// How many container names there are in the records; lines of another shape are left out.
fn distinct_containers(out: &str) -> usize {
    let mut names: Vec<&str> = out
        .lines()
        .filter_map(|line| line.split_once("\"container\":")?.1.split_once("\"name\":\"")?.1.split('"').next())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.len()
}
