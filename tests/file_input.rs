//! Plain, NDJSON and CRI files, and standard input.

use std::fs;
use std::io::Write as _;

use serde_json::json;

use crate::harness::records::{line_count, lines, parse, records};
use crate::harness::{folder, node, run, told};

/// A file input of this format over `dir/*.log`, and one output file.
pub fn config(dir: &std::path::Path, format: &str, more: &str) -> String {
    let (paths, out) = (dir.join("*.log"), dir.join("out.ndjson"));
    format!(
        "[inputs.files]\ntype = \"file\"\npaths = [{paths:?}]\nformat = \"{format}\"\n{more}\n\
         [sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    )
}

#[test]
fn text_lines_end_in_lf_or_crlf_and_carry_their_file_time_and_tag() {
    let dir = folder();
    let log = dir.path().join("a.log");
    fs::write(&log, "first\nsecond \"quoted\" \\ \u{e9}\r\n\nunfinished").expect("writable");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path(), "text", "")).start();
    node.wait_for("three records", |_| line_count(&out) >= 3);
    let mut file = fs::OpenOptions::new().append(true).open(&log).expect("it is there");
    file.write_all(b" until now\n").expect("writable");
    node.wait_for("the finished line", |_| line_count(&out) >= 4);
    node.stop_well();
    let records = records(&out);
    let logs: Vec<_> = records.iter().map(|record| record["log"].as_str().expect("text")).collect();
    assert_eq!(logs, ["first", "second \"quoted\" \\ \u{e9}", "", "unfinished until now"]);
    for record in &records {
        assert_eq!(record["file"], json!(log));
        assert_eq!(record["tag"], json!("files"));
        let time = record["time"].as_str().expect("the time of reading");
        assert!(time.len() == 30 && time.ends_with('Z'), "RFC 3339, nine digits, Z: {time}");
    }
}

#[test]
fn json_lines_are_their_own_fields_and_their_numbers_keep_their_text() {
    let dir = folder();
    let numbers = r#"{"big":18446744073709551615,"odd":9007199254740993,"huge":1e400,"exact":1.10,"same":1,"same":2}"#;
    fs::write(dir.path().join("a.log"), format!("{numbers}\nnot json\n[1,2]\n{{\"time\":\"mine\"}}\n"))
        .expect("writable");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path(), "json", "")).start();
    node.wait_for("four records", |_| line_count(&out) >= 4);
    assert_eq!(node.metric("longshore_input_oddities_total", &[("kind", "line_not_json")]), 2);
    node.stop_well();
    let lines = lines(&out);
    let inner = numbers.trim_end_matches('}');
    assert!(lines[0].starts_with(inner), "members are copied as they stand: {}", lines[0]);
    // Not the first: its 1e400 is JSON, but no float.
    let records: Vec<_> = lines[1..].iter().map(|line| parse(line)).collect();
    assert_eq!(records[0]["log"], json!("not json"));
    assert_eq!(records[1]["log"], json!("[1,2]"));
    assert_eq!(records[2]["time"], json!("mine"));
    assert!(records[2]["_time"].is_string(), "the added time moves aside: {}", records[2]);
}

#[test]
fn cri_lines_are_joined_and_keep_their_stream_and_time() {
    let dir = folder();
    let text = "2026-11-23T10:00:00.000000001Z stdout P one \n\
                2026-11-23T10:00:00.000000002Z stderr F alone\n\
                2026-11-23T10:00:00.000000003Z stdout F two\n\
                no cri line\n";
    fs::write(dir.path().join("a.log"), text).expect("writable");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path(), "cri", "")).start();
    node.wait_for("three records", |_| line_count(&out) >= 3);
    node.stop_well();
    let records = records(&out);
    let find =
        |log: &str| records.iter().find(|r| r["log"] == json!(log)).unwrap_or_else(|| panic!("no {log}: {records:?}"));
    assert_eq!(find("one two")["stream"], json!("stdout"));
    assert_eq!(find("alone")["time"], json!("2026-11-23T10:00:00.000000002Z"));
    find("no cri line");
}

#[test]
fn start_tail_skips_what_was_there_and_files_that_come_later_are_found() {
    let dir = folder();
    let log = dir.path().join("a.log");
    fs::write(&log, "old\n").expect("writable");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path(), "text", "start = \"tail\"")).start();
    node.wait_for("the file to be followed", |node| node.metric("longshore_input_open", &[("input", "files")]) >= 1);
    let mut file = fs::OpenOptions::new().append(true).open(&log).expect("it is there");
    file.write_all(b"new\n").expect("writable");
    node.wait_for("the new line", |_| line_count(&out) >= 1);
    node.stop_well();
    assert_eq!(records(&out)[0]["log"], json!("new"));
}

#[test]
fn standard_input_is_drained_at_its_end_and_the_exit_code_is_0() {
    let dir = folder();
    let body = "[inputs.in]\ntype = \"stdin\"\nformat = \"json\"\ntag = \"piped\"\n[sinks.out]\ntype = \"stdout\"\n";
    let mut node = node(dir.path(), body).without_waiting().with_stdin().start();
    let mut stdin = node.stdin();
    for seq in 0..20_000 {
        writeln!(stdin, r#"{{"seq":{seq}}}"#).expect("it reads");
    }
    stdin.write_all(b"{\"seq\":20000}").expect("it reads");
    drop(stdin);
    assert_eq!(node.wait_exit(crate::harness::PATIENCE), 0, "{}", node.log());
    let stdout = node.stdout();
    let seqs: Vec<_> = stdout.lines().map(|line| parse(line)["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..=20_000).map(Some).collect::<Vec<_>>());
    assert!(stdout.lines().all(|line| line.contains(r#""tag":"piped""#)));
}

#[test]
fn a_folder_in_the_place_of_another_is_found_with_what_comes_in_it() {
    let dir = folder();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).expect("writable");
    fs::write(logs.join("a.log"), "old\n").expect("writable");
    let out = dir.path().join("out.ndjson");
    let body = config(dir.path(), "text", "").replace("*.log", "logs/*.log");
    let mut node = node(dir.path(), &body).start();
    node.wait_for("the first record", |_| line_count(&out) >= 1);
    // The kernel has no word for this: the watch stays with the old folder, which goes on to exist.
    fs::rename(&logs, dir.path().join("elsewhere")).expect("ours");
    fs::create_dir(&logs).expect("writable");
    fs::write(logs.join("b.log"), "new\n").expect("writable");
    // The list of folders is looked at every 10 s; what is watched and well only once in five minutes.
    let began = std::time::Instant::now();
    node.wait_for("the record of the new folder", |_| line_count(&out) >= 2);
    assert!(began.elapsed() < std::time::Duration::from_secs(40), "{:?}", began.elapsed());
    fs::write(logs.join("c.log"), "newer\n").expect("writable");
    node.wait_for("a record that came after", |_| line_count(&out) >= 3);
    node.stop_well();
}

#[test]
fn a_name_with_a_line_s_end_is_one_line_in_metrics_log_and_checkpoints() {
    let dir = folder();
    let log = dir.path().join("two\nlines.log");
    fs::write(&log, "one\n").expect("writable");
    // One that the log speaks of.
    let loop_of_links = dir.path().join("a loop\nlines.log");
    std::os::unix::fs::symlink(&loop_of_links, &loop_of_links).expect("linked");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path(), "text", "")).start();
    node.wait_for("the record", |_| line_count(&out) >= 1);
    let (_, metrics) = node.get("/metrics").expect("served");
    assert!(metrics.contains("lines.log"), "the file has a series: {metrics}");
    assert!(metrics.lines().all(|line| line.starts_with('#') || line.starts_with("longshore_")), "{metrics}");
    node.stop_well();
    let said = node.log();
    let of_loop: Vec<&str> = said.lines().filter(|line| line.contains("lines.log")).collect();
    assert!(!of_loop.is_empty() && of_loop.iter().all(|line| line.contains("a loop")), "{said}");
    assert_eq!(records(&out)[0]["file"], json!(log));
    let data = dir.path().join("data").display().to_string();
    let listed = run(dir.path(), &["checkpoints", "list", "--data-dir", &data], b"");
    let text = told(&listed);
    let own: Vec<&str> = text.lines().filter(|line| line.contains("lines.log")).collect();
    assert!(listed.status.success() && matches!(own[..], [line] if line.contains("two")), "{text}");
}
