//! Logs that rotate, shrink and vanish while they are followed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::docker_folder::{app_line, config};
use crate::full_disk::SmallDisk;
use crate::harness::containers::Container;
use crate::harness::engine::has_program;
use crate::harness::records::{assert_each_once, line_count, records};
use crate::harness::{Node, folder, free_port, node, skip};

#[test]
fn rotation_with_and_without_compression_while_running_loses_nothing() {
    const LINES: u64 = 30_000;
    let dir = folder();
    let root = dir.path().join("containers");
    let mut plain = Container::create(&root, 1, "plain", "app", &[]);
    let mut packed = Container::create(&root, 2, "packed", "app", &[]);
    let mut node = node(dir.path(), &config(dir.path())).start();
    for seq in 0..LINES {
        plain.line(&app_line(seq), "stdout");
        packed.line(&app_line(seq), "stdout");
        if seq % 1_500 == 1_499 {
            plain.rotate(5);
            packed.rotate(5);
            packed.compress(1);
            thread::sleep(Duration::from_millis(40));
        }
    }
    node.wait_for("all records", |node| node.delivered("out") >= 2 * LINES);
    node.assert_ledger_closes();
    node.stop_well();
    let expected = BTreeMap::from([("plain".to_owned(), LINES), ("packed".to_owned(), LINES)]);
    assert_each_once(&records(&dir.path().join("out.ndjson")), "container.name", "seq", &expected);
}

#[test]
fn a_removed_container_is_read_to_its_end() {
    let dir = folder();
    let mut brief = Container::create(&dir.path().join("containers"), 1, "brief", "app", &[]);
    brief.line(&app_line(0), "stdout");
    let mut node = node(dir.path(), &config(dir.path())).start();
    let out = dir.path().join("out.ndjson");
    node.wait_for("the first record", |_| line_count(&out) == 1);
    for seq in 1..2_000 {
        brief.line(&app_line(seq), "stdout");
    }
    brief.remove();
    node.wait_for("all records", |_| line_count(&out) >= 2_000);
    node.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &BTreeMap::from([("brief".to_owned(), 2_000)]));
}

#[test]
fn a_container_that_is_removed_with_20_mb_unread_leaves_them_all_with_its_name() {
    const LINES: u64 = 10_000;
    let dir = folder();
    let mut brief = Container::create(&dir.path().join("containers"), 1, "brief", "app", &[]);
    let line = |seq: u64| format!(r#"{{"seq":{seq},"pad":"{}"}}"#, "x".repeat(2_000));
    brief.line(&line(0), "stdout");
    let mut node = node(dir.path(), &config(dir.path())).start();
    let out = dir.path().join("out.ndjson");
    node.wait_for("the first record", |_| line_count(&out) == 1);
    // It stands still until the container is gone, so all of that is unread then.
    node.signal(Signal::STOP);
    (1..LINES).for_each(|seq| brief.line(&line(seq), "stdout"));
    brief.remove();
    node.signal(Signal::CONT);
    node.wait_for("all records", |node| node.delivered("out") >= LINES);
    node.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &BTreeMap::from([("brief".to_owned(), LINES)]));
}

#[test]
fn a_truncated_file_is_read_from_its_start_again() {
    let dir = folder();
    let log = dir.path().join("app.log");
    let out = dir.path().join("out.ndjson");
    let body = format!(
        "[inputs.app]\ntype = \"file\"\npaths = [{log:?}]\nformat = \"json\"\n[sinks.out]\ntype = \"file\"\npath = {out:?}\n"
    );
    let mut file = OpenOptions::new().create(true).append(true).open(&log).expect("writable");
    for seq in 0..1_000 {
        writeln!(file, r#"{{"seq":{seq}}}"#).expect("writable");
    }
    let mut node = node(dir.path(), &body).start();
    node.wait_for("1,000 records", |_| line_count(&out) == 1_000);
    OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(0)).expect("it can be truncated");
    for seq in 1_000..1_300 {
        writeln!(file, r#"{{"seq":{seq}}}"#).expect("writable");
    }
    node.wait_for("300 more records", |_| line_count(&out) >= 1_300);
    node.stop_well();
    let seqs: Vec<_> = records(&out).iter().filter_map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..1_300).collect::<Vec<_>>());
}

/// The status and the reason of the check of rotation.
fn rotation(node: &Node) -> (String, String) {
    let (_, text) = node.get("/health").expect("it is served");
    let health: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let check = &health["checks"]["rotation containers"];
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// The same containers, and a sink that takes nothing.
fn with_dead_sink(dir: &Path) -> String {
    let body = config(dir);
    let (inputs, _) = body.split_once("[sinks.out]").expect("it has one");
    format!("{inputs}[sinks.out]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n", free_port())
}

#[test]
fn deleted_files_may_hold_a_tenth_of_their_file_system_unless_another_limit_is_set() {
    let dir = folder();
    let root = dir.path().join("containers");
    let Some(_disk) = SmallDisk::mount(&root, "40m") else { return };
    let mut web = Container::create(&root, 1, "web", "app", &[]);
    web.line(&app_line(0), "stdout");
    let mut node = node(dir.path(), &with_dead_sink(dir.path())).start();
    node.wait_for("the file", |node| node.metric("longshore_follow_open_files", &[]) >= 1);
    web.remove();
    node.wait_for("a tenth", |node| node.metric("longshore_follow_held_deleted_max_bytes", &[]) == 4 << 20);
    assert!(node.metric("longshore_follow_held_deleted_bytes", &[]) > 0);
    node.kill();
}

#[test]
fn a_log_that_keeps_less_than_five_seconds_of_its_output_is_named_once() {
    const SAID: &str = "a container's log keeps only";
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let limits = r#"{"LogConfig":{"Type":"json-file","Config":{"max-size":"10k","max-file":"2"}}}"#;
    fs::write(web.dir.join("hostconfig.json"), limits).expect("written");
    let mut node = node(dir.path(), &config(dir.path())).start();
    let line = format!(r#"{{"pad":"{}"}}"#, "x".repeat(1000));
    let write = |web: &mut Container| {
        (0..10).for_each(|_| web.line(&line, "stdout"));
        web.rotate(2);
        thread::sleep(Duration::from_millis(200));
    };
    node.wait_for("the warning", |node| {
        write(&mut web);
        node.log().contains(SAID)
    });
    // For longer than between two looks at it.
    (0..15).for_each(|_| write(&mut web));
    let log = node.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains(SAID)).collect();
    assert!(
        matches!(said[..], [line] if line.contains("web") && line.contains("raise max-size or max-file")),
        "{said:?}"
    );
    node.stop_well();
}

#[test]
fn undelivered_data_that_is_about_to_be_rotated_away_warns_and_then_fails() {
    /// Of two files of 2 MiB that is 40 s, at most.
    const RATE: f64 = 100.0 * 1024.0;
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let limits = r#"{"LogConfig":{"Type":"json-file","Config":{"max-size":"2m","max-file":"2"}}}"#;
    fs::write(web.dir.join("hostconfig.json"), limits).expect("written");
    let mut node = node(dir.path(), &with_dead_sink(dir.path())).with_node("shutdown_timeout = \"1s\"").start();
    node.wait_for("a good word", |node| rotation(node).0 == "pass");
    let line = format!(r#"{{"pad":"{}"}}"#, "x".repeat(1000));
    let (began, mut written) = (Instant::now(), 0);
    node.wait_for("a warning", |node| {
        // Hardly faster after a pause of this machine.
        for _ in 0..5 {
            if ((written * line.len()) as f64) < RATE * began.elapsed().as_secs_f64() {
                web.line(&line, "stdout");
                written += 1;
            }
        }
        let (status, reason) = rotation(node);
        assert_ne!(status, "fail", "{reason}");
        status == "warn" && reason.starts_with("web: ") && reason.contains("rotated away in")
    });
    let labels = [("input", "containers"), ("name", "web")];
    let horizon = node.metric("longshore_follow_rotation_horizon_seconds", &labels);
    assert!((10..60).contains(&horizon), "{horizon}");
    let unread = fs::metadata(web.path("")).expect("there").len();
    // The rest of both files at once.
    while fs::metadata(web.path("")).expect("there").len() < 2 << 20 {
        (0..100).for_each(|_| web.line(&line, "stdout"));
    }
    web.rotate(2);
    web.line(&line, "stdout");
    node.wait_for("a failure", |node| rotation(node).0 == "fail");
    assert_eq!(node.get("/health").map(|(status, _)| status), Some(503));
    web.rotate(2);
    node.wait_for("the word that it is only held", |node| {
        rotation(node).1.contains("is deleted already and only held")
    });
    assert!(node.metric("longshore_follow_backlog_bytes", &labels) >= unread);
    node.kill();
}

#[test]
fn the_series_of_a_removed_container_are_gone_once_it_is_delivered() {
    let dir = folder();
    let root = dir.path().join("containers");
    let mut stays = Container::create(&root, 1, "stays", "app", &[]);
    let mut brief = Container::create(&root, 2, "brief", "app", &[]);
    [&mut stays, &mut brief].into_iter().for_each(|container| container.line(&app_line(0), "stdout"));
    let mut node = node(dir.path(), &config(dir.path())).start();
    let shown = |node: &Node, name: &str| {
        let (_, text) = node.get("/metrics").expect("served");
        text.lines().filter(|line| line.contains(&format!("name=\"{name}\""))).count()
    };
    node.wait_for("both", |node| node.delivered("out") == 2);
    assert!(shown(&node, "stays") >= 2 && shown(&node, "brief") >= 2, "{}", node.figures());
    brief.line(&app_line(1), "stdout");
    brief.remove();
    node.wait_for("its last line, and no series", |node| node.delivered("out") == 3 && shown(node, "brief") == 0);
    assert!(shown(&node, "stays") >= 2, "{}", node.figures());
    node.stop_well();
}

/// How a thread of the program is scheduled: its nice value, its real-time priority and its policy, as /proc says them.
pub fn scheduling(node: &Node, thread: &str) -> Option<[String; 3]> {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).ok()?;
    tasks.filter_map(|task| Some(task.ok()?.path())).find_map(|path| {
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        // Behind the name, which may hold anything: the state is the third field.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        (name.trim_end() == thread).then(|| [fields[16], fields[37], fields[38]].map(str::to_owned))
    })
}

/// Whether a program can be started in that way.
fn runs(words: &[&str]) -> bool {
    Command::new(words[0]).args(&words[1..]).arg("true").status().is_ok_and(|status| status.success())
}

/// Whether there is real-time priority for who asks.
pub fn may_hurry() -> bool {
    runs(&["chrt", "--fifo", "1"])
}

/// As the kernel cuts the name.
pub const OPENER: &str = "open containers";

#[test]
fn the_opener_has_no_raised_priority_where_none_is_asked_for() {
    let dir = folder();
    fs::create_dir(dir.path().join("containers")).expect("made");
    let body = config(dir.path());
    let normal = body.replacen("type = \"docker\"", "type = \"docker\"\npriority = \"normal\"", 1);
    let mut node = node(dir.path(), &normal).start();
    let opener = scheduling(&node, OPENER).expect("it has one");
    assert_eq!(Some(&opener), scheduling(&node, "read 0 containe").as_ref());
    // No real-time priority, SCHED_OTHER.
    assert_eq!(opener[1..], ["0", "0"]);
    node.stop_well();
}

#[test]
fn the_opener_has_real_time_priority_else_a_low_nice_value_else_that_is_said_once() {
    if !rustix::process::getuid().is_root() || !["prlimit", "setpriv"].into_iter().all(has_program) {
        return skip("needs root, prlimit and setpriv");
    }
    let without =
        |nice| ["prlimit", "--rtprio=0:0", nice, "setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice", "--"];
    let (nice, none) = (without("--nice=40:40"), without("--nice=0:0"));
    let (plain, nice, none): (&[&str], &[&str], &[&str]) = (&[], &nice, &none);
    let cases: [(&[&str], [&str; 2], usize); 3] =
        [(plain, ["1", "1"], 0), (nice, ["0", "0"], 0), (none, ["0", "0"], 1)];
    for (words, wanted, said) in cases {
        // Not even root may do each of these everywhere.
        if !(if words.is_empty() { may_hurry() } else { runs(words) }) {
            eprintln!("left out, for it is not allowed here: {words:?}");
            continue;
        }
        let dir = folder();
        fs::create_dir(dir.path().join("containers")).expect("made");
        let mut node = node(dir.path(), &config(dir.path())).under(words).start();
        // It changes its own priority once it runs.
        let nice_of = |node: &Node, thread| scheduling(node, thread).map(|of| of[0].clone());
        node.wait_for("the opener as it is to be", |node| {
            let is_raised = nice_of(node, OPENER) != nice_of(node, "read 0 containe");
            let is_so = scheduling(node, OPENER).is_some_and(|of| of[1..] == wanted) && is_raised == (words == nice);
            is_so && node.log().contains("runs without a raised priority") == (said > 0)
        });
        node.stop_well();
        let times = node.log().matches("runs without a raised priority").count();
        assert_eq!(times, said, "{words:?}: {}", node.log());
    }
}
