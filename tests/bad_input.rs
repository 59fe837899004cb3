//! Input that nobody should write, and that is written: none of it may end in a panic, a hang or a silent loss.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::docker_folder::{app_line, config};
use crate::file_input;
use crate::harness::containers::Container;
use crate::harness::engine::has_program;
use crate::harness::records::{assert_each_once, line_count, lines, records, records_so_far};
use crate::harness::{PATIENCE, PROGRAM, Spawned, folder, node, skip};

fn odd(node: &crate::harness::Node, kind: &str) -> u64 {
    node.metric("longshore_input_oddities_total", &[("kind", kind)])
}

#[test]
fn a_line_of_20_mb_is_cut_and_counted_and_the_next_line_is_whole() {
    let dir = folder();
    let mut file = File::create(dir.path().join("a.log")).expect("writable");
    file.write_all(b"before\n").expect("writable");
    for _ in 0..20 {
        file.write_all(&[b'x'; 1_000_000]).expect("writable");
    }
    file.write_all(b"\nafter\n").expect("writable");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &file_input::config(dir.path(), "text", "")).start();
    node.wait_for("three records", |_| line_count(&out) >= 3);
    assert_eq!(odd(&node, "line_cut"), 1);
    node.stop_well();
    let records = records(&out);
    let long = records[1]["log"].as_str().expect("text");
    assert!((1_000_000..=1 << 20).contains(&long.len()), "cut at 1 MiB, not at {}", long.len());
    assert_eq!((records[0]["log"].as_str(), records[2]["log"].as_str()), (Some("before"), Some("after")));
}

#[test]
fn torn_and_nul_filled_docker_lines_cost_no_neighbour() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    web.line(&app_line(0), "stdout");
    // A crash of the machine leaves zeros; a full disk leaves half a record glued to the next one.
    web.raw(&[0; 5_000]);
    web.line(&app_line(1), "stdout");
    web.raw(br#"{"log":"half of a rec"#);
    web.line(&app_line(2), "stdout");
    web.raw(b"this is no record\n");
    web.raw(b"{\"log\":\"no end\n");
    web.raw(b"{}\n\n[]\n");
    web.line(&app_line(3), "stdout");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("the last record", |_| records_so_far(&out).iter().any(|record| record["seq"] == 3));
    assert!(odd(&node, "nul_run") >= 1 && odd(&node, "torn_line") >= 1 && odd(&node, "line_not_docker") >= 1);
    node.stop_well();
    let records = records(&out);
    let seqs: Vec<u64> = records.iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, [0, 1, 2, 3]);
    assert!(records.iter().any(|record| record["log"] == "this is no record"), "{records:?}");
    assert!(records.iter().any(|record| record.to_string().contains("half of a rec")), "{records:?}");
}

#[test]
fn invalid_utf8_is_replaced_in_the_output_and_counted() {
    let dir = folder();
    fs::write(dir.path().join("a.log"), b"a\xff\xfeb\nok \xe2\x82\n\xf0\x9f\x92\xa9\n").expect("writable");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &file_input::config(dir.path(), "text", "")).start();
    node.wait_for("three records", |_| line_count(&out) >= 3);
    node.wait_for("the counts", |node| odd(node, "invalid_utf8") >= 3);
    assert_eq!(odd(&node, "invalid_utf8"), 3, "one for each that was replaced");
    node.stop_well();
    let logs: Vec<_> = records(&out).iter().map(|record| record["log"].clone()).collect();
    assert_eq!(logs, ["a\u{fffd}\u{fffd}b", "ok \u{fffd}", "\u{1f4a9}"]);
}

#[test]
fn where_nothing_can_be_watched_folders_are_looked_at_and_that_is_said() {
    let may = |limit: &str| format!("echo 0 >/proc/sys/user/{limit} && exec \"$@\"");
    let unshare = ["unshare", "--map-root-user", "sh", "-c"];
    let tried = Command::new(unshare[0]).args(&unshare[1..]).args([&may("max_inotify_watches"), "sh", "true"]).status();
    if !tried.is_ok_and(|status| status.success()) {
        return skip("needs unshare and user namespaces");
    }
    let limits = [
        ("max_inotify_instances", "fs.inotify.max_user_instances"),
        ("max_inotify_watches", "fs.inotify.max_user_watches"),
    ];
    for (limit, said) in limits {
        let dir = folder();
        let root = dir.path().join("containers");
        let mut web = Container::create(&root, 1, "web", "app", &[]);
        let script = may(limit);
        let words = [&unshare[..], &[script.as_str(), "sh"]].concat();
        let mut node = node(dir.path(), &config(dir.path())).under(&words).start();
        let out = dir.path().join("out.ndjson");
        let since = Instant::now();
        for round in 0..4 {
            (round * 10..round * 10 + 10).for_each(|seq| web.line(&app_line(seq), "stdout"));
            node.wait_for("ten more", |_| line_count(&out) as u64 >= round * 10 + 10);
            web.rotate(3);
        }
        let mut late = Container::create(&root, 2, "late", "app", &[]);
        late.line(&app_line(0), "stdout");
        node.wait_for("the new container", |_| line_count(&out) >= 41);
        assert!(node.log().contains(said), "{limit}:\n{}", node.log());
        // What is only looked at every 10 s takes 30 at least.
        assert!(since.elapsed() < Duration::from_secs(20), "{limit}: {:?}", since.elapsed());
        node.stop_well();
        let expected = BTreeMap::from([("web".to_owned(), 40), ("late".to_owned(), 1)]);
        assert_each_once(&records(&out), "container.name", "seq", &expected);
    }
}

#[test]
fn hostile_json_is_kept_as_text_and_exact_json_exactly() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = format!("{{\"a\":{deep}}}");
    let kept: Vec<String> = [
        "not json",
        "{\"a\":1",
        "{\"a\":1}}",
        "{\"a\":01}",
        "{\"a\":NaN}",
        "{'a':1}",
        "[1,2]",
        "\"text\"",
        "12",
        "null",
        "",
        "{\"a\":\"\u{1}\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\ud800\"}x",
        "{,}",
        "{\"a\":1,}",
        &deep,
        &deep_object,
    ]
    .map(str::to_owned)
    .to_vec();
    for text in &kept {
        if text.len() > 16_000 {
            web.long_line(text, "stdout");
        } else {
            web.line(text, "stdout");
        }
    }
    let exact = r#"{"max":18446744073709551615,"odd":9007199254740993,"huge":1e400,"neg":-0.0,"same":1,"same":2}"#;
    web.line(exact, "stdout");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("all records", |_| line_count(&out) > kept.len());
    node.assert_ledger_closes();
    node.stop_well();
    let lines = lines(&out);
    for (text, line) in kept.iter().zip(&lines) {
        let record = crate::harness::records::parse(line);
        assert_eq!(record["log"].as_str(), Some(text.as_str()), "kept as text: {text:.60}");
    }
    let last = lines.last().expect("there are lines");
    assert!(last.starts_with(exact.trim_end_matches('}')), "members are copied as they stand: {last}");
}

#[test]
fn a_data_folder_that_another_longshore_holds_is_refused() {
    let dir = folder();
    let body = file_input::config(dir.path(), "text", "");
    let mut first = node(dir.path(), &body).start();
    let mut second = node(dir.path(), &body).without_waiting().start();
    assert_eq!(second.wait_exit(PATIENCE), 1);
    let log = second.log();
    let data = dir.path().join("data");
    assert!(
        log.contains("already used") && log.contains(data.to_str().expect("UTF-8")),
        "which folder, and why:\n{log}"
    );
    first.stop_well();
}

#[test]
fn a_folder_without_permission_is_reported_with_the_user_or_capability_that_is_needed() {
    let Some(dir) = open_to_all() else { return };
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    web.line(&app_line(0), "stdout");
    fs::set_permissions(&web.dir, Permissions::from_mode(0o700)).expect("it is ours");
    let start = node(dir.path(), &config(dir.path()));
    let log = run_as_nobody(dir.path(), &start.write_config());
    assert!(log.to_lowercase().contains("permission denied"), "{log}");
    assert!(log.contains(&web.id[..12]), "the folder is named:\n{log}");
    assert!(log.contains("root") || log.contains("CAP_DAC_READ_SEARCH"), "what is needed is said:\n{log}");
}

#[test]
fn what_can_not_be_read_is_said_once_each_with_the_way_out_and_the_others_go_on() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let Some(dir) = open_to_all() else { return };
    let path = |name: &str| dir.path().join(name);
    fs::write(path("secret.log"), "nobody reads this\n").expect("writable");
    fs::set_permissions(path("secret.log"), Permissions::from_mode(0o600)).expect("it is ours");
    fs::create_dir(path("folder.log")).expect("made");
    mknodat(CWD, path("fifo.log"), FileType::Fifo, Mode::RUSR | Mode::ROTH, 0).expect("made");
    std::os::unix::fs::symlink(path("loop.log"), path("loop.log")).expect("linked");
    let zero = makedev(1, 5);
    let has_device = mknodat(CWD, path("device.log"), FileType::CharacterDevice, Mode::RUSR | Mode::ROTH, zero).is_ok();
    fs::write(path("good.log"), "good\n").expect("writable");
    fs::write(path("two\nlines.log"), "also good\n").expect("writable");
    let start = node(dir.path(), &file_input::config(dir.path(), "text", ""));
    let log = path("nobody.log.txt");
    let mut nobody = Spawned::start(as_nobody(dir.path(), &log).arg("run").arg("--config").arg(start.write_config()));
    let out = path("out.ndjson");
    crate::harness::wait_for("two records", PATIENCE, || {
        assert!(
            nobody.0.try_wait().is_ok_and(|status| status.is_none()),
            "{}",
            fs::read_to_string(&log).unwrap_or_default()
        );
        line_count(&out) >= 2
    });
    // They are met again by the look at everything after ten seconds.
    std::thread::sleep(Duration::from_secs(12));
    drop(nobody);
    let mut came: Vec<String> = records(&out).iter().map(|record| record["log"].to_string()).collect();
    came.sort();
    assert_eq!(came, ["\"also good\"", "\"good\""]);
    let log = fs::read_to_string(&log).expect("readable");
    let way_out = "move it away, or leave it out with `exclude`";
    let mut met = vec![
        ("secret.log", "ermission denied", "user"),
        ("fifo.log", "is a FIFO, not a regular file", way_out),
        ("loop.log", "symbolic links", way_out),
    ];
    met.extend(has_device.then_some(("device.log", "not a regular file", way_out)));
    // That a folder has such a name is nothing to worry about.
    assert!(!log.contains("folder.log"), "{log}");
    for (name, why, what_to_do) in met {
        let said: Vec<&str> = log.lines().filter(|line| line.contains("left out") && line.contains(name)).collect();
        assert!(
            matches!(said[..], [one] if one.contains(why) && one.contains(what_to_do)),
            "{name}: {said:#?}\nin\n{log}"
        );
    }
}

/// A folder that is open to all, with a copy of the program. None, and a word, where nobody can become another user.
fn open_to_all() -> Option<TempDir> {
    if !rustix::process::getuid().is_root() || !has_program("setpriv") {
        skip("needs root and setpriv, to become another user");
        return None;
    }
    let dir = folder();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("it is ours");
    fs::copy(PROGRAM, dir.path().join("longshore")).expect("the program can be copied");
    Some(dir)
}

/// That copy, to be run as user 65534.
fn as_nobody(dir: &Path, log: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(dir.join("longshore"));
    command.current_dir(dir).stderr(File::create(log).expect("writable"));
    command
}

#[test]
fn a_tail_that_does_not_follow_ends_where_a_folder_can_not_be_listed() {
    let Some(dir) = open_to_all() else { return };
    // What is in it can be opened by whoever knows its name, and Docker's names are known.
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    web.line(&app_line(7), "stdout");
    fs::set_permissions(&web.dir, Permissions::from_mode(0o711)).expect("it is ours");
    let (out, log) = (dir.path().join("out"), dir.path().join("log"));
    let mut tail = Spawned::start(
        as_nobody(dir.path(), &log)
            .args(["tail", "--no-follow", "containers"])
            .stdout(File::create(&out).expect("writable")),
    );
    crate::harness::wait_for("its end", PATIENCE, || tail.0.try_wait().is_ok_and(|status| status.is_some()));
    let log = fs::read_to_string(&log).expect("readable");
    assert_eq!(line_count(&out), 1, "{log}");
    assert!(log.contains("can not be read") && log.contains(&web.id[..12]), "{log}");
}

/// Runs the program as user 65534 for two seconds; its log.
fn run_as_nobody(dir: &Path, config: &Path) -> String {
    let log = dir.join("nobody.log");
    let mut node = Spawned::start(as_nobody(dir, &log).arg("run").arg("--config").arg(config));
    crate::harness::wait_for("a message about the folder", PATIENCE, || {
        let text = fs::read_to_string(&log).unwrap_or_default().to_lowercase();
        text.contains("permission denied") || node.0.try_wait().is_ok_and(|status| status.is_some())
    });
    drop(node);
    String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned()
}

#[test]
fn a_damaged_gz_generation_gives_its_readable_part_and_is_counted() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    for seq in 0..3_000 {
        web.line(&app_line(seq), "stdout");
    }
    web.rotate(4);
    web.compress(1);
    let gz = web.path(".1.gz");
    let whole = fs::read(&gz).expect("it is there");
    fs::write(&gz, &whole[..whole.len() / 2]).expect("writable");
    web.line(&app_line(9_999), "stdout");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("the newest record", |_| records_so_far(&out).iter().any(|record| record["seq"] == 9_999));
    node.wait_for("the count", |node| odd(node, "gz_damaged") >= 1);
    node.stop_well();
    let records = records(&out);
    assert!(records.len() > 100, "the readable part came out, not {} records", records.len());
    assert_eq!(records[0]["seq"], json!(0));
}
