//! Rotation by a real Docker engine, at the pace at which a container writes: counted to the last line.
//!
//! `LONGSHORE_ROTATION_LINES` (default 500,000), `LONGSHORE_ROTATION` (limits as `10k/3` or `1m/3/compress`) and
//! `LONGSHORE_ROTATION_PRIORITY` (`realtime`, `normal`) are for the campaign.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::engine::{counter, tail_config, unique};
use crate::harness::engine::Engine;
use crate::harness::records::{line_count, records};
use crate::harness::twice::pass_the_time_of_twice;
use crate::harness::{PATIENCE, folder, node};
use crate::rotation::{OPENER, may_hurry, scheduling};

/// Lines of one container at full speed.
fn lines() -> u64 {
    std::env::var("LONGSHORE_ROTATION_LINES").ok().and_then(|text| text.parse().ok()).unwrap_or(500_000)
}

/// The numbers of one container's records in the order in which they came, and their ids.
fn numbers(out: &Path, name: &str) -> Vec<(u64, String)> {
    let Ok(file) = File::open(out) else { return Vec::new() };
    let name = format!("\"name\":\"{name}\"");
    let mut found = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.expect("readable");
        if line.contains(&name) {
            let record: serde_json::Value = serde_json::from_str(&line).expect("no torn line");
            let id = record["longshore_id"].as_str().unwrap_or_default().to_owned();
            found.push((record["seq"].as_u64().expect("a number"), id));
        }
    }
    found
}

/// Follows the engine's containers; the sink takes the one of that name only (other tests have theirs).
fn config(dir: &Path, engine: &Engine, name: &str, more: &str) -> String {
    let body = tail_config(dir, engine);
    format!("{body}match = [\"docker.{name}\"]\n{more}")
}

fn at_full_speed(options: &[&str]) {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let (name, lines) = (unique("fast"), lines());
    let mut node = node(dir.path(), &config(dir.path(), &engine, &name, "")).start();
    let container = engine.run(&name, options, &["awk", &counter(lines)]);
    assert_eq!(container.wait(), "0");
    let out = dir.path().join("out.ndjson");
    node.wait_within(PATIENCE * 4, "all lines", &mut |node| node.delivered("out") >= lines);
    node.assert_ledger_closes();
    node.stop_well();
    let seqs: Vec<u64> = numbers(&out, &name).into_iter().map(|(seq, _)| seq).collect();
    let wrong = seqs.iter().zip(0..).find(|(seq, at)| **seq != *at);
    assert!(
        wrong.is_none() && seqs.len() as u64 == lines,
        "{} lines, the first that is out of order: {wrong:?}",
        seqs.len()
    );
}

#[test]
fn half_a_million_lines_at_full_speed_come_once_and_in_order_with_1m_and_3_files() {
    at_full_speed(&["--log-opt", "max-size=1m", "--log-opt", "max-file=3"]);
}

#[test]
fn half_a_million_lines_at_full_speed_come_once_and_in_order_with_10m_and_5_files() {
    at_full_speed(&["--log-opt", "max-size=10m", "--log-opt", "max-file=5"]);
}

#[test]
fn half_a_million_lines_at_full_speed_come_once_and_in_order_with_1m_and_3_files_compressed() {
    at_full_speed(&["--log-opt", "max-size=1m", "--log-opt", "max-file=3", "--log-opt", "compress=true"]);
}

#[test]
fn two_streams_at_full_speed_come_once_and_each_in_its_order_with_1m_and_3_files() {
    let Some(engine) = Engine::find() else { return };
    let (dir, name, lines) = (folder(), unique("streams"), lines() / 4);
    let mut node = node(dir.path(), &config(dir.path(), &engine, &name, "")).start();
    let options = ["--log-opt", "max-size=1m", "--log-opt", "max-file=3"];
    let script = "awk \"$0\" & awk \"$0\" >&2; wait";
    let container = engine.run(&name, &options, &["sh", "-c", script, &counter(lines)]);
    assert_eq!(container.wait(), "0");
    node.wait_within(PATIENCE * 4, "all lines", &mut |node| node.delivered("out") >= 2 * lines);
    node.stop_well();
    let records = records(&dir.path().join("out.ndjson"));
    assert_eq!(records.len() as u64, 2 * lines);
    for stream in ["stdout", "stderr"] {
        let of_it = records.iter().filter(|record| record["stream"] == stream);
        let in_order = of_it.map(|record| record["seq"].as_u64().expect("a number")).eq(0..lines);
        assert!(in_order, "{stream}: missing, twice or out of order");
    }
}

#[test]
fn kills_while_a_container_writes_and_rotates_lose_nothing_and_what_comes_twice_has_its_id() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let (name, lines) = (unique("killed"), lines());
    let body = config(dir.path(), &engine, &name, "add = [\"stream\", \"time\", \"container\", \"tag\", \"id\"]\n");
    let out = dir.path().join("out.ndjson");
    let mut running = node(dir.path(), &body).start();
    let options = ["--log-opt", "max-size=50m", "--log-opt", "max-file=5"];
    let container = engine.run(&name, &options, &["awk", &counter(lines)]);
    let written = || std::fs::metadata(&out).map_or(0, |file| file.len());
    // What was written just before each kill.
    let mut allowed = 0;
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(500));
        let before = written();
        pass_the_time_of_twice(dir.path());
        running.kill();
        allowed += written() - before;
        running = node(dir.path(), &body).start();
    }
    assert_eq!(container.wait(), "0");
    let last = format!("\"seq\":{},", lines - 1);
    running.wait_within(PATIENCE * 4, "the last line", &mut |_| {
        File::open(&out)
            .is_ok_and(|file| BufReader::new(file).lines().any(|line| line.is_ok_and(|line| line.contains(&last))))
    });
    running.stop_well();
    let found = numbers(&out, &name);
    let mut ids: Vec<Option<&str>> = vec![None; usize::try_from(lines).expect("small")];
    for (seq, id) in &found {
        let known = ids[usize::try_from(*seq).expect("small")].get_or_insert(id);
        assert!(!id.is_empty() && *known == id, "line {seq} came as {known} and as {id}");
    }
    let missing: Vec<usize> = ids.iter().enumerate().filter_map(|(seq, id)| id.is_none().then_some(seq)).collect();
    assert!(missing.is_empty(), "{} lines are missing, the first is {:?}", missing.len(), missing.first());
    let repeats = found.len() as u64 - lines;
    println!("{repeats} of {lines} lines came twice");
    let bytes = repeats * written() / found.len() as u64;
    assert!(
        bytes <= allowed,
        "{repeats} lines of {bytes} bytes came twice, {allowed} were written just before the kills"
    );
}

#[test]
fn a_container_that_is_restarted_renamed_and_stopped_in_a_line_keeps_its_lines_and_their_order() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let name = unique("name");
    let renamed = format!("{name}-renamed");
    let mut node = node(dir.path(), &config(dir.path(), &engine, &format!("{name}*"), "")).start();
    let out = dir.path().join("out.ndjson");
    let script = "cat /proc/uptime >/dev/null; echo '{\"seq\":1}'; printf '{\"seq\":2'; sleep 0.2; exit 0";
    let options = ["--log-opt", "max-size=10k", "--log-opt", "max-file=3"];
    let container = engine.run(&name, &options, &["sh", "-c", script]);
    assert_eq!(container.wait(), "0");
    node.wait_for("the first line", |_| line_count(&out) >= 1);
    engine.docker(&["rename", &container.id, &renamed]);
    engine.docker(&["start", &container.id]);
    assert_eq!(container.wait(), "0");
    node.wait_for("the lines of the second start", |_| line_count(&out) >= 4);
    node.stop_well();
    let text = std::fs::read_to_string(&out).expect("readable");
    let firsts = text.lines().filter(|line| line.contains("\"seq\":1,")).count();
    let halves = text.lines().filter(|line| line.contains("{\\\"seq\\\":2")).count();
    assert_eq!((firsts, halves), (2, 2), "{text}");
    assert!(text.contains(&format!("{renamed:?}")) && text.contains(&format!("{name:?}")), "{text}");
}

#[test]
fn a_container_that_is_restarted_while_it_runs_ends_its_line_and_begins_anew() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let name = unique("again");
    let mut node = node(dir.path(), &config(dir.path(), &engine, &name, "")).start();
    let out = dir.path().join("out.ndjson");
    let script = "echo '{\"seq\":1}'; printf '{\"seq\":2'; exec sleep 1000";
    let container = engine.run(&name, &[], &["sh", "-c", script]);
    node.wait_for("the first line", |_| line_count(&out) >= 1);
    engine.docker(&["restart", "--time", "0", &container.id]);
    node.wait_for("the line that the restart cut, and the first one after it", |_| line_count(&out) >= 3);
    engine.docker(&["rm", "-f", &container.id]);
    node.stop_well();
    let text = std::fs::read_to_string(&out).expect("readable");
    let is_half = |line: &str| line.contains("{\\\"seq\\\":2");
    let order: Vec<bool> = text.lines().take(3).map(is_half).collect();
    assert_eq!(order, [false, true, false], "{text}");
    assert!(text.lines().nth(2).is_some_and(|line| line.contains("\"seq\":1,")), "{text}");
}

#[test]
fn a_container_that_is_renamed_while_it_runs_has_its_new_name_from_then_on_and_its_old_attributes() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let name = unique("before");
    let renamed = format!("{name}-after");
    let mut node = node(dir.path(), &config(dir.path(), &engine, &format!("{name}*"), "")).start();
    let out = dir.path().join("out.ndjson");
    let script = "i=0; while [ $i -lt 40 ]; do echo \"{\\\"seq\\\":$i}\"; i=$((i+1)); sleep 0.1; done";
    let container = engine.run(&name, &["--log-opt", "tag={{.Name}}"], &["sh", "-c", script]);
    node.wait_for("some lines", |_| line_count(&out) >= 5);
    engine.docker(&["rename", &container.id, &renamed]);
    assert_eq!(container.wait(), "0");
    node.wait_for("all lines", |_| line_count(&out) >= 40);
    node.stop_well();
    let records = records(&out);
    assert!(records.iter().enumerate().all(|(seq, record)| record["seq"] == seq) && records.len() == 40);
    let names: Vec<&str> = records.iter().filter_map(|record| record["container"]["name"].as_str()).collect();
    let at = names.iter().position(|known| *known == renamed).expect("the new name");
    assert!(at >= 5 && names[..at].iter().all(|known| *known == name), "{names:?}");
    assert!(names[at..].iter().all(|known| *known == renamed), "{names:?}");
    assert!(records.iter().all(|record| record["attrs"]["tag"] == name.as_str()), "as Docker began it");
}

#[test]
fn a_container_that_is_removed_while_its_lines_are_unread_leaves_them_all() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    // 100 MB as the engine writes them.
    let (name, lines) = (unique("removed"), lines() * 3 / 2);
    let mut node = node(dir.path(), &config(dir.path(), &engine, &name, "")).start();
    node.wait_for("readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    let script = "echo '{\"seq\":0}'; sleep 5; awk \"$0\"";
    let container = engine.run(&name, &["--log-opt", "max-size=200m"], &["sh", "-c", script, &counter(lines)]);
    // All but the first line is written and removed while it can not read.
    node.wait_for("the first line", |node| node.delivered("out") == 1);
    node.signal(Signal::STOP);
    assert_eq!(container.wait(), "0");
    engine.docker(&["rm", "-f", &container.id]);
    node.signal(Signal::CONT);
    let out = dir.path().join("out.ndjson");
    node.wait_within(PATIENCE * 4, "all lines", &mut |node| node.delivered("out") > lines);
    node.stop_well();
    let seqs: Vec<u64> = numbers(&out, &name).into_iter().map(|(seq, _)| seq).collect();
    assert!(seqs[0] == 0 && seqs[1..].iter().copied().eq(0..lines), "{} lines of {}", seqs.len(), lines + 1);
}

/// Limits that hold a moment of the output, as `10k/3` or `1m/3/compress`.
fn limits() -> Vec<String> {
    let limits = std::env::var("LONGSHORE_ROTATION").unwrap_or_else(|_| "10k/3 1m/2".to_owned());
    limits.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn what_is_missing_at_limits_that_hold_a_moment_is_counted_and_nothing_else_is() {
    let Some(engine) = Engine::find() else { return };
    let priority = std::env::var("LONGSHORE_ROTATION_PRIORITY").unwrap_or_else(|_| "realtime".to_owned());
    for limits in limits() {
        let dir = folder();
        let (name, lines) = (unique("tiny"), lines());
        let body = config(dir.path(), &engine, &name, "");
        let body = body.replacen("type = \"docker\"", &format!("type = \"docker\"\npriority = {priority:?}"), 1);
        assert!(body.contains("priority"), "{body}");
        let mut node = node(dir.path(), &body).start();
        let mut parts = limits.split('/');
        let (size, files) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut options = vec![format!("max-size={size}"), format!("max-file={files}")];
        options.extend(parts.next().map(|_| "compress=true".to_owned()));
        let options: Vec<&str> = options.iter().flat_map(|option| ["--log-opt", option.as_str()]).collect();
        let container = engine.run(&name, &options, &["awk", &counter(lines)]);
        assert_eq!(container.wait(), "0");
        let out = dir.path().join("out.ndjson");
        // The last generation stays: its last line comes in any case, and all that was opened before it.
        let last = format!("\"seq\":{},", lines - 1);
        node.wait_within(PATIENCE * 4, "the last line", &mut |_| {
            File::open(&out)
                .is_ok_and(|file| BufReader::new(file).lines().any(|line| line.is_ok_and(|line| line.contains(&last))))
        });
        let lost = node.metric("longshore_follow_generations_total", &[("input", "containers"), ("what", "lost")]);
        let is_hurried = priority == "realtime" && may_hurry();
        assert_eq!(scheduling(&node, OPENER).is_some_and(|of| of[2] == "1"), is_hurried);
        node.stop_well();
        let seqs: Vec<u64> = numbers(&out, &name).into_iter().map(|(seq, _)| seq).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b), "{limits}: out of order, or twice");
        let missing = lines - seqs.len() as u64;
        println!("rotation {limits} {priority}: {lines} lines, {missing} missing, {lost} generations counted");
        // A generation has its size, and less than a record more; a record has 125 to 145 bytes. (Of compressed ones each is
        // there twice, and what is lost of the plain one is not.)
        let bytes = size.strip_suffix('k').map_or(1_000_000, |_| 10_000);
        let least = if limits.ends_with("compress") { lost.min(1) } else { lost * (bytes / 145) };
        let most = lost * (bytes / 125 + 2);
        assert!(
            (least..=most).contains(&missing),
            "{limits}: {missing} lines are missing, {lost} generations are counted as lost: {least} to {most} lines"
        );
        // With real-time priority a megabyte lives for long enough; of 10 KB a twentieth was missing on a busy machine at most.
        let most = if bytes > 10_000 { 0 } else { lines / 8 };
        assert!(
            !is_hurried || missing <= most,
            "{limits}: {missing} of {lines} lines are missing with real-time priority"
        );
    }
}
