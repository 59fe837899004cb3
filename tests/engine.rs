//! A real Docker engine: its json-file logs tailed, and its fluentd driver's lines received. Counted to the last line.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::docker_folder;
use crate::forward_input;
use crate::harness::engine::Engine;
use crate::harness::records::{Numbers, assert_each_once, at, line_count, records, records_so_far};
use crate::harness::{Node, folder, free_port, node};

/// A program for the containers' awk: `lines` numbered JSON lines.
pub fn counter(lines: u64) -> String {
    format!(
        r#"BEGIN {{ for (seq = 0; seq < {lines}; seq++) printf "{{\"level\":\"info\",\"seq\":%d,\"msg\":\"line number %d\"}}\n", seq, seq }}"#
    )
}

/// A name that no other run of the tests uses at the same time.
pub fn unique(stem: &str) -> String {
    format!("{stem}-{}-{}", std::process::id(), free_port())
}

/// Follows the engine's containers.
pub fn tail_config(dir: &Path, engine: &Engine) -> String {
    let own = format!("{:?}", dir.join("containers"));
    docker_folder::config(dir).replace(&own, &format!("{:?}", engine.containers()))
}

#[test]
fn json_file_containers_are_tailed_to_the_last_line_through_rotations() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let mut node = node(dir.path(), &tail_config(dir.path(), &engine)).start();
    let names = [unique("plain"), unique("rotated"), unique("packed")];
    let rotated = ["--log-opt", "max-size=1m", "--log-opt", "max-file=5"];
    let packed = ["--log-opt", "max-size=1m", "--log-opt", "max-file=5", "--log-opt", "compress=true"];
    let options: [&[&str]; 3] = [&[], &rotated, &packed];
    let containers: Vec<_> = names
        .iter()
        .zip(options)
        .map(|(name, options)| engine.run(name, options, &["awk", &counter(20_000)]))
        .collect();
    for container in &containers {
        assert_eq!(container.wait(), "0");
    }
    let out = dir.path().join("out.ndjson");
    node.wait_for("60,000 lines", |_| line_count(&out) >= 60_000);
    node.stop_well();
    let records = records(&out);
    let expected: BTreeMap<String, u64> = names.iter().map(|name| (name.clone(), 20_000)).collect();
    let found = Numbers::of(&records, "container.name", "seq");
    assert!(found.missing(&expected).is_empty(), "missing: {:?}", found.missing(&expected));
    assert_eq!(found.repeats(), 0, "{:?}", found.duplicates());
    let one = records.iter().find(|record| at(record, "container.name") == Some(&json!(names[0]))).expect("it came");
    assert_eq!(at(one, "container.id"), Some(&json!(containers[0].id)));
    assert_eq!(at(one, "container.image"), Some(&json!("longshore-test:1")));
    assert_eq!(one["tag"], json!(format!("docker.{}", names[0])));
    assert_eq!(one["stream"], json!("stdout"));
}

#[test]
fn a_line_of_100_000_bytes_is_joined_from_a_json_file_log_and_from_the_fluentd_driver() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let port = free_port();
    let socket = dir.path().join("f.sock");
    let body = format!(
        "{}\n[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\", \"unix://{}\"]\n",
        tail_config(dir.path(), &engine),
        socket.display()
    );
    let mut node = node(dir.path(), &body).start();
    let long = r#"BEGIN { for (i = 0; i < 10000; i++) printf "0123456789"; print ""; print "short" }"#;
    let (tailed, sent) = (unique("tailed"), unique("sent"));
    let address = format!("fluentd-address=127.0.0.1:{port}");
    let driver = ["--log-driver=fluentd", "--log-opt", &address, "--log-opt", "tag=api.{{.Name}}"];
    let containers = [engine.run(&tailed, &[], &["awk", long]), engine.run(&sent, &driver, &["awk", long])];
    for container in &containers {
        assert_eq!(container.wait(), "0");
    }
    let out = dir.path().join("out.ndjson");
    let of = |name: &str| -> Vec<serde_json::Value> {
        let all = records_so_far(&out);
        all.into_iter().filter(|record| at(record, "container.name") == Some(&json!(name))).collect()
    };
    node.wait_for("two lines of each", |_| of(&tailed).len() >= 2 && of(&sent).len() >= 2);
    node.stop_well();
    for name in [&tailed, &sent] {
        let lines = of(name);
        assert_eq!(lines.len(), 2, "{name}");
        assert_eq!(lines[0]["log"], json!("0123456789".repeat(10_000)), "{name}");
        assert_eq!(lines[1]["log"], json!("short"), "{name}");
    }
    assert_eq!(of(&sent)[0]["tag"], json!(format!("api.{sent}")));
}

#[test]
fn with_request_ack_no_piece_of_a_line_of_100_000_bytes_is_lost() {
    const LINES: usize = 8;
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let port = free_port();
    let body =
        format!("{}\n[pipeline]\nsteps = [{{ join = \"docker_partial\" }}]\n", forward_input::config(dir.path(), port));
    let mut node = node(dir.path(), &body).start();
    // It lives on: what is queued ten seconds after its end the engine throws away.
    let awk = format!(
        r#"BEGIN {{ for (n = 0; n < {LINES}; n++) {{ printf "%d:", n; for (i = 0; i < 10000; i++) printf "0123456789"; print "" }} print "end" }}"#
    );
    let address = format!("fluentd-address=127.0.0.1:{port}");
    let options = ["--log-driver=fluentd", "--log-opt", &address, "--log-opt", "fluentd-request-ack=true"];
    let container = engine.run(&unique("pieces"), &options, &["sh", "-c", "awk \"$0\"; sleep 600", &awk]);
    let out = dir.path().join("out.ndjson");
    let ended = || records_so_far(&out).iter().any(|record| record["log"] == json!("end"));
    // The driver sends a piece when the one before is acknowledged, and each ack waits for more of the line in vain.
    node.wait_within(Duration::from_secs(180), "the last line", &mut |_| ended());
    drop(container);
    node.assert_ledger_closes();
    node.stop_well();
    let found: String = records(&out).iter().map(|record| record["log"].as_str().expect("text").to_owned()).collect();
    let lines = (0..LINES).map(|n| format!("{n}:{}", "0123456789".repeat(10_000)));
    let expected: String = lines.chain(["end".to_owned()]).collect();
    assert!(found == expected, "{} bytes of {}", found.len(), expected.len());
}

#[test]
fn the_fluentd_driver_is_counted_to_the_last_of_50_000_lines() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let port = free_port();
    let body = format!(
        "{}\n[pipeline]\nsteps = [{{ join = \"docker_partial\" }}, {{ parse = \"json\" }}]\n",
        forward_input::config(dir.path(), port)
    );
    let mut node = node(dir.path(), &body).start();
    let address = format!("fluentd-address=127.0.0.1:{port}");
    let plain = vec!["--log-driver=fluentd", "--log-opt", &address, "--log-opt", "tag=api.{{.Name}}"];
    let acked = [&plain[..], &["--log-opt", "fluentd-request-ack=true"]].concat();
    // Without `fluentd-async`: there the driver itself throws its queue away when the container ends.
    let precise = [&plain[..], &["--log-opt", "fluentd-sub-second-precision=true"]].concat();
    let runs = [(unique("plain"), plain, 50_000), (unique("acked"), acked, 2_000), (unique("precise"), precise, 5_000)];
    let containers: Vec<_> =
        runs.iter().map(|(name, options, lines)| engine.run(name, options, &["awk", &counter(*lines)])).collect();
    for container in &containers {
        assert_eq!(container.wait(), "0");
    }
    let out = dir.path().join("out.ndjson");
    node.wait_for("57,000 lines", |_| line_count(&out) >= 57_000);
    node.assert_ledger_closes();
    node.stop_well();
    let records = records(&out);
    let expected: BTreeMap<String, u64> = runs.iter().map(|(name, _, lines)| (format!("api.{name}"), *lines)).collect();
    let found = Numbers::of(&records, "tag", "seq");
    assert!(found.missing(&expected).is_empty(), "missing: {:?}", found.missing(&expected));
    assert_eq!(found.repeats(), 0, "{:?}", found.duplicates());
    let one = records.iter().find(|record| record["tag"] == json!(format!("api.{}", runs[0].0))).expect("it came");
    assert_eq!(at(one, "container.name"), Some(&json!(runs[0].0)), "without the leading slash");
    assert_eq!(at(one, "container.id"), Some(&json!(containers[0].id)));
    assert_eq!(one["stream"], json!("stdout"));
    let precise = records.iter().filter(|record| record["tag"] == json!(format!("api.{}", runs[2].0)));
    let fractions = precise.filter(|record| !record["time"].as_str().is_some_and(|time| time.ends_with(".000000000Z")));
    assert!(fractions.count() > 4_000, "EventTime keeps its fraction");
    assert!(one.get("log").is_none() && one.get("container_name").is_none(), "{one}");
}

#[test]
fn containers_that_lived_a_moment_and_were_removed_leave_their_lines_with_name_image_and_labels() {
    let Some(engine) = Engine::find() else { return };
    const THREADS: usize = 4;
    const EACH: usize = 5;
    let dir = folder();
    let team = unique("team");
    let tagged = "type = \"docker\"\ntag = \"brief.{container.labels.team}\"";
    let body = tail_config(dir.path(), &engine).replacen("type = \"docker\"", tagged, 1);
    let mut node = node(dir.path(), &format!("{body}match = [\"brief.{team}\"]\n")).start();
    node.wait_for("readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    let names: Vec<String> = (0..THREADS * EACH).map(|_| unique("brief")).collect();
    let (label, script) = (format!("team={team}"), counter(100));
    std::thread::scope(|scope| {
        for names in names.chunks(EACH) {
            let (engine, label, script) = (&engine, &label, &script);
            scope.spawn(move || {
                for name in names {
                    let options = ["run", "--rm", "--network", "none", "--name", name, "--label", label];
                    engine.docker(&[&options[..], &["longshore-test:1", "awk", script]].concat());
                }
            });
        }
    });
    let out = dir.path().join("out.ndjson");
    let lines = 100 * names.len();
    node.wait_for("their lines", |_| line_count(&out) >= lines);
    node.stop_well();
    let records = records(&out);
    let expected = names.iter().map(|name| (name.clone(), 100)).collect();
    assert_each_once(&records, "container.name", "seq", &expected);
    for record in &records {
        assert_eq!(at(record, "container.image"), Some(&json!("longshore-test:1")));
        assert_eq!(record["tag"], json!(format!("brief.{team}")));
    }
}

/// The options of the `daemon.json` that the page about the driver gives, with the address of this test.
fn documented_options(address: &str) -> Vec<String> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/docker-fluentd.md")).expect("it");
    let (_, after) = page.split_once("```json\n").expect("the page has a daemon.json");
    let (text, _) = after.split_once("```").expect("which ends");
    let daemon: serde_json::Value = serde_json::from_str(text).expect("a daemon.json is JSON");
    assert_eq!(daemon["log-driver"], "fluentd");
    let mut words = vec!["--log-driver=fluentd".to_owned()];
    for (name, value) in daemon["log-opts"].as_object().expect("options") {
        // The engine wants texts in this file; a number or `true` keeps the daemon from starting.
        let value = value.as_str().unwrap_or_else(|| panic!("{name}: {value} is no text"));
        let value = if name == "fluentd-address" { address } else { value };
        words.extend(["--log-opt".to_owned(), format!("{name}={value}")]);
    }
    words
}

fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

#[test]
fn the_daemon_json_of_the_page_about_the_driver_is_taken_by_the_engine_and_does_what_the_page_says() {
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let socket = dir.path().join("f.sock");
    let options = documented_options(&format!("unix://{}", socket.display()));
    // A container starts without longshore, says something, and lives until it is taken down.
    let name = unique("documented");
    let said = r#"echo '{"seq":0}'; sleep 1; echo '{"seq":1}'; sleep 600"#;
    let container = engine.run(&name, &words(&options), &["sh", "-c", said]);
    let config = forward_input::config(dir.path(), free_port());
    let steps = "[pipeline]\nsteps = [{ join = \"docker_partial\" }, { parse = \"json\" }]\n";
    let mut node = node(dir.path(), &format!("{config}\n{steps}")).start();
    let out = dir.path().join("out.ndjson");
    node.wait_for("both lines", |_| line_count(&out) >= 2);
    node.stop_well();
    for (seq, record) in records(&out).iter().enumerate() {
        assert_eq!(record["seq"], json!(seq));
        assert_eq!(record["tag"], json!(format!("docker.{name}")));
        assert_eq!(at(record, "container.id"), Some(&json!(container.id)));
        let time = record["time"].as_str().expect("a time");
        assert!(!time.ends_with(".000000000Z"), "a fraction of a second: {time}");
    }
}

#[test]
fn with_async_and_request_ack_no_line_is_lost_while_longshore_stops_is_killed_and_starts_again() {
    const LINES: u64 = 1_500;
    let Some(engine) = Engine::find() else { return };
    let dir = folder();
    let port = free_port();
    let steps = "[pipeline]\nsteps = [{ join = \"docker_partial\" }, { parse = \"json\" }]\n";
    let body = format!("{}\n{steps}", forward_input::config(dir.path(), port));
    let out = dir.path().join("out.ndjson");
    let come = |node: &mut Node, lines: usize| {
        node.wait_within(Duration::from_secs(120), "lines", &mut |_| out.exists() && line_count(&out) >= lines);
    };
    let mut first = node(dir.path(), &body).start();
    let address = format!("fluentd-address=127.0.0.1:{port}");
    let mut options = vec!["--log-driver=fluentd", "--log-opt", &address, "--log-opt", "tag=api.{{.Name}}"];
    for option in ["fluentd-async=true", "fluentd-request-ack=true", "fluentd-sub-second-precision=true"] {
        options.extend(["--log-opt", option]);
    }
    options.extend(["--log-opt", "fluentd-retry-wait=200ms", "--log-opt", "fluentd-max-retries=80"]);
    // It writes for some seconds and then lives on: what is queued at its end the driver would throw away.
    let write = format!(
        r#"i=0; while [ $i -lt {LINES} ]; do echo "{{\"seq\":$i}}"; i=$((i+1)); [ $((i % 100)) -ne 0 ] || sleep 1; done; sleep 600"#
    );
    let name = unique("steady");
    let container = engine.run(&name, &options, &["sh", "-c", &write]);
    come(&mut first, 150);
    first.stop_well();
    std::thread::sleep(Duration::from_secs(2));
    let mut second = node(dir.path(), &body).start();
    let before = line_count(&out);
    come(&mut second, before + 200);
    // A line whose ack was under way when longshore stopped is sent again; one that is acknowledged is not.
    let found = Numbers::of(&records_so_far(&out), "tag", "seq");
    assert!(found.repeats() <= 2, "{:?}", found.duplicates());
    second.kill();
    std::thread::sleep(Duration::from_secs(1));
    let mut third = node(dir.path(), &body).start();
    let expected = BTreeMap::from([(format!("api.{name}"), LINES)]);
    third.wait_within(Duration::from_secs(120), "every line", &mut |_| {
        Numbers::of(&records_so_far(&out), "tag", "seq").missing(&expected).is_empty()
    });
    drop(container);
    third.assert_ledger_closes();
    third.stop_well();
    let records = records(&out);
    let found = Numbers::of(&records, "tag", "seq");
    assert!(found.missing(&expected).is_empty(), "missing: {:?}", found.missing(&expected));
    // A kill may repeat what was written in the second before it, from the disk log.
    let fractions =
        records.iter().filter(|record| !record["time"].as_str().is_some_and(|time| time.ends_with(".000000000Z")));
    assert!(fractions.count() as u64 > LINES / 2, "EventTime keeps its fraction");
}
