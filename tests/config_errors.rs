//! What `check` and `run` say of a configuration with mistakes: all of them in one run, each with its place and the way
//! out.

use std::fs;

use crate::harness::{folder, run, told};

const MANY_MISTAKES: &str = r#"[node]
data_dri = "/tmp/x"
memory = 64

[inputs.a]
type = "dockr"

[inputs.b]
type = "forward"
listen = ["tcp://127.0.0.1:24224"]
ack = "durabel"

[inputs.c]
type = "file"
paths = ["/tmp/*.log"]
format = "jsn"
tag = "${NO_SUCH_VARIABLE_HERE}"

[pipeline]
steps = [
  { parse = "json", form = "log" },
  { drop = 'level === "x"' },
]

[sinks.out]
type = "file"

[sinks.web]
type = "http"
url = "http://127.0.0.1:1/x"
batch = { size = "1MiB", wait = "5" }
token = "secret:no_such_secret"
"#;

/// For each line of the file, words that its message must hold.
const EXPECTED: &[(&str, &[&str])] = &[
    ("bad.toml:2:1: error: ", &["unknown key `data_dri`", "did you mean `data_dir`?"]),
    ("bad.toml:3:", &["64 has no unit", "\"64MiB\""]),
    ("bad.toml:6:8: error: ", &["dockr", "did you mean \"docker\"?"]),
    ("bad.toml:11:", &["durabel", "durable", "delivered"]),
    ("bad.toml:16:10: error: ", &["jsn", "did you mean \"json\"?"]),
    ("bad.toml:17:7: error: ", &["NO_SUCH_VARIABLE_HERE"]),
    ("bad.toml:21:", &["form", "did you mean `from`?"]),
    ("bad.toml:22:", &["error"]),
    ("bad.toml:25:", &["`path` is missing"]),
    ("bad.toml:31:", &["\"5\" has no unit", "\"5s\""]),
    ("bad.toml:32:", &["no_such_secret", "NO_SUCH_SECRET_FILE"]),
];

#[test]
fn every_mistake_of_a_file_is_reported_in_one_run_with_its_place_and_a_way_out() {
    let dir = folder();
    fs::write(dir.path().join("bad.toml"), MANY_MISTAKES).expect("writable");
    let output = run(dir.path(), &["check", "bad.toml"], b"");
    let text = told(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for (place, words) in EXPECTED {
        let line = text.lines().find(|line| line.starts_with(place) && words.iter().all(|word| line.contains(word)));
        assert!(line.is_some(), "no line begins with {place:?} and has {words:?}:\n{text}");
    }
    let errors = text.lines().filter(|line| line.contains(": error: ")).count();
    assert_eq!(errors, EXPECTED.len(), "nothing is reported twice or without need:\n{text}");
    // `run` says the same and starts nothing.
    let started = run(dir.path(), &["run", "--config", "bad.toml"], b"");
    assert_eq!(started.status.code(), Some(1), "{}", told(&started));
}

#[test]
fn broken_toml_and_a_missing_file_are_named_with_their_place() {
    let dir = folder();
    fs::write(dir.path().join("broken.toml"), "[inputs.a]\ntype = \n").expect("writable");
    let output = run(dir.path(), &["check", "broken.toml"], b"");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("broken.toml:2:"), "{}", told(&output));
    let output = run(dir.path(), &["check", "nowhere.toml"], b"");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("nowhere.toml"), "{}", told(&output));
}

#[test]
fn a_good_file_passes_and_what_can_never_match_is_warned_of() {
    let dir = folder();
    let good = "[node]\ndata_dir = \"data\"\n[inputs.in]\ntype = \"stdin\"\n[sinks.out]\ntype = \"stdout\"\n";
    fs::write(dir.path().join("good.toml"), good).expect("writable");
    let output = run(dir.path(), &["check", "good.toml"], b"");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(!dir.path().join("data").exists(), "check writes nothing");
    let deaf = format!("{good}[sinks.deaf]\ntype = \"stdout\"\nmatch = \"other.**\"\n");
    fs::write(dir.path().join("deaf.toml"), deaf).expect("writable");
    let output = run(dir.path(), &["check", "deaf.toml"], b"");
    assert_eq!(output.status.code(), Some(0), "a warning is no error: {}", told(&output));
    let text = told(&output);
    assert!(text.contains("warning: ") && text.contains("deaf"), "{text}");
    fs::write(dir.path().join("none.toml"), "[inputs.in]\ntype = \"stdin\"\n").expect("writable");
    let output = run(dir.path(), &["check", "none.toml"], b"");
    assert_eq!(output.status.code(), Some(1), "no sink at all is an error: {}", told(&output));
}
