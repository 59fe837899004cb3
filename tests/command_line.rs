//! The commands beside `run`: tail, send, healthcheck, completions, version; exit codes; a broken pipe.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::docker_folder::app_line;
use crate::harness::containers::Container;
use crate::harness::records::{line_count, parse, records};
use crate::harness::{PATIENCE, PROGRAM, Spawned, folder, free_port, node, run, told, wait_for};

#[test]
fn help_has_examples_and_wrong_use_exits_2() {
    let dir = folder();
    let help = run(dir.path(), &["--help"], b"");
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.status.success(), "{}", told(&help));
    for word in ["run", "check", "tail", "send", "healthcheck", "completions"] {
        assert!(text.contains(word), "{word} in the help:\n{text}");
    }
    for args in [&["--no-such-flag"][..], &["no-such-command"], &["run", "--no-such-flag"]] {
        let wrong = run(dir.path(), args, b"");
        assert_eq!(wrong.status.code(), Some(2), "{args:?}: {}", told(&wrong));
        assert!(!wrong.stderr.is_empty() && wrong.stdout.is_empty(), "{}", told(&wrong));
    }
    for command in ["run", "check", "tail", "send"] {
        let help = run(dir.path(), &[command, "--help"], b"");
        let text = String::from_utf8_lossy(&help.stdout).to_lowercase();
        assert!(help.status.success() && text.contains("example"), "{command} --help has examples:\n{text}");
    }
}

#[test]
fn version_and_completions_are_printed() {
    let dir = folder();
    let version = run(dir.path(), &["--version"], b"");
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(text.starts_with(concat!("longshore ", env!("CARGO_PKG_VERSION"))), "{text}");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(dir.path(), &["completions", shell], b"");
        assert!(script.status.success() && script.stdout.len() > 500, "{shell}: {}", told(&script));
    }
}

#[test]
fn tail_shows_a_file_follows_it_and_ends_on_sigterm_with_0() {
    let dir = folder();
    let log = dir.path().join("app.log");
    fs::write(&log, "one\ntwo\n").expect("writable");
    let out = dir.path().join("tail.out");
    let mut tail = Spawned::start(
        Command::new(PROGRAM)
            .args(["tail", "app.log", "--format", "json"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).expect("writable"))
            .stderr(fs::File::create(dir.path().join("tail.err")).expect("writable")),
    );
    wait_for("two lines", PATIENCE, || line_count(&out) >= 2);
    let mut file = fs::OpenOptions::new().append(true).open(&log).expect("it is there");
    file.write_all(b"three\n").expect("writable");
    wait_for("the third line", PATIENCE, || line_count(&out) >= 3);
    assert_eq!(tail.stop(), Some(0));
    let logs: Vec<_> = records(&out).iter().map(|record| record["log"].clone()).collect();
    assert_eq!(logs, ["one", "two", "three"]);
    let left: Vec<_> =
        fs::read_dir(dir.path()).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "tail leaves nothing behind: {left:?}");
}

#[test]
fn tail_reads_dockers_folder_and_a_broken_pipe_is_success() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    for seq in 0..20_000 {
        web.line(&app_line(seq), "stdout");
    }
    let mut tail = Spawned::start(
        Command::new(PROGRAM)
            .args(["tail", "containers", "--format", "json"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let mut first = String::new();
    let mut reader = BufReader::new(tail.0.stdout.take().expect("piped"));
    reader.read_line(&mut first).expect("a line comes");
    assert!(first.contains("\"container\"") && first.contains("web"), "{first}");
    parse(&first);
    // As `| head -1` does. The next write finds nobody there.
    drop(reader);
    let writer = thread::spawn(move || {
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(50));
            web.line(&app_line(1), "stdout");
        }
    });
    assert_eq!(tail.wait_exit(), Some(0), "a broken pipe is success");
    writer.join().expect("the writer does not panic");
}

#[test]
fn send_delivers_standard_input_to_a_receiver_and_waits_for_the_acks() {
    let dir = folder();
    let port = free_port();
    let mut node = node(dir.path(), &crate::forward_input::config(dir.path(), port)).start();
    let input: String = (0..10_000).map(|seq| format!("{{\"seq\":{seq}}}\n")).collect();
    let to = format!("tcp://127.0.0.1:{port}");
    let sent = run(dir.path(), &["send", "--to", &to, "--tag", "cli.test"], input.as_bytes());
    assert!(sent.status.success(), "{}", told(&sent));
    // The acks are in, so the records are in the file by now.
    let records = records(&dir.path().join("out.ndjson"));
    let seqs: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..10_000).collect::<Vec<_>>());
    assert!(records.iter().all(|record| record["tag"] == "cli.test"));
    node.stop_well();
    let nobody = run(dir.path(), &["send", "--to", &format!("tcp://127.0.0.1:{}", free_port()), "--tag", "t"], b"{}\n");
    assert!(!nobody.status.success() && !nobody.stderr.is_empty(), "{}", told(&nobody));
}

#[test]
fn healthcheck_says_by_its_exit_code_whether_the_node_lives() {
    let dir = folder();
    let start = node(dir.path(), &crate::file_input::config(dir.path(), "text", ""));
    let config = dir.path().join("longshore.toml");
    let mut node = start.start();
    let config = config.to_str().expect("a temporary path is UTF-8");
    for args in [&["healthcheck", "--config", config][..], &["healthcheck", "--ready", "--config", config]] {
        let healthy = run(dir.path(), args, b"");
        assert!(healthy.status.success(), "{}", told(&healthy));
    }
    node.stop_well();
    let dead = run(dir.path(), &["healthcheck", "--config", config], b"");
    assert_eq!(dead.status.code(), Some(1), "{}", told(&dead));
}
