//! Docker's folder of json-file logs, read through the program: every record once, in the documented shape.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::harness::containers::Container;
use crate::harness::records::{assert_each_once, at, line_count, records};
use crate::harness::{folder, node};

/// A docker input over `dir/containers`, the usual steps, and one output file.
pub fn config(dir: &Path) -> String {
    let (containers, out) = (dir.join("containers"), dir.join("out.ndjson"));
    format!(
        r#"
[inputs.containers]
type = "docker"
path = {containers:?}

[pipeline]
steps = [{{ join = "docker_partial" }}, {{ parse = "json" }}]

[sinks.out]
type = "file"
path = {out:?}
"#
    )
}

/// A line of an application that logs JSON.
pub fn app_line(seq: u64) -> String {
    format!(r#"{{"level":"info","msg":"request <done> & \"quoted\"\tpath /a/{seq}","seq":{seq},"ms":1.50}}"#)
}

#[test]
fn sixty_thousand_lines_of_three_containers_come_out_once_each_in_the_documented_shape() {
    const EACH: u64 = 20_000;
    let dir = folder();
    let root = dir.path().join("containers");
    let names = [("web", "nginx:1.27"), ("api", "example/api:2"), ("db", "postgres:16")];
    let mut containers: Vec<Container> = (1u8..)
        .zip(names)
        .map(|(seed, (name, image))| Container::create(&root, seed, name, image, &[("team", "a")]))
        .collect();
    let write = |container: &mut Container, from: u64, to: u64| {
        for seq in from..to {
            container.line(&app_line(seq), if seq % 10 == 0 { "stderr" } else { "stdout" });
        }
    };
    // Before the start: `.2.gz`, `.1` and the base.
    for container in &mut containers {
        write(container, 0, 6_000);
        container.rotate(4);
        container.compress(1);
        write(container, 6_000, 12_000);
        container.rotate(4);
        write(container, 12_000, 15_000);
    }
    let mut node = node(dir.path(), &config(dir.path())).start();
    // While it runs: more lines, and one rotation.
    for container in &mut containers {
        write(container, 15_000, 17_000);
        container.rotate(5);
        write(container, 17_000, EACH);
    }
    let out = dir.path().join("out.ndjson");
    node.wait_for("60,000 delivered records", |node| node.delivered("out") >= 3 * EACH);
    node.assert_ledger_closes();
    node.stop_well();

    let records = records(&out);
    let expected: BTreeMap<String, u64> = names.iter().map(|(name, _)| ((*name).to_owned(), EACH)).collect();
    assert_each_once(&records, "container.name", "seq", &expected);
    for (container, (name, image)) in containers.iter().zip(names) {
        let of_it: Vec<_> = records.iter().filter(|r| at(r, "container.name") == Some(&json!(name))).collect();
        let sequence: Vec<u64> = of_it.iter().filter_map(|r| r["seq"].as_u64()).collect();
        assert!(sequence.is_sorted(), "the order within a container is kept");
        let expected = json!({
            "level": "info", "msg": "request <done> & \"quoted\"\tpath /a/1230", "seq": 1230, "ms": 1.50,
            "stream": "stderr", "time": "2026-11-23T10:00:01.230000123Z",
            "container": {"id": container.id, "name": name, "image": image}, "tag": format!("docker.{name}"),
        });
        assert_eq!(*of_it[1230], expected);
    }
}

#[test]
fn a_second_start_delivers_only_what_is_new() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 7, "web", "nginx", &[]);
    for seq in 0..500 {
        web.line(&app_line(seq), "stdout");
    }
    let out = dir.path().join("out.ndjson");
    let mut first = node(dir.path(), &config(dir.path())).start();
    first.wait_for("500 records", |_| line_count(&out) == 500);
    first.stop_well();
    web.rotate(3);
    for seq in 500..600 {
        web.line(&app_line(seq), "stdout");
    }
    let mut second = node(dir.path(), &config(dir.path())).start();
    second.wait_for("100 more records", |_| line_count(&out) >= 600);
    second.stop_well();
    assert_each_once(&records(&out), "container.name", "seq", &BTreeMap::from([("web".to_owned(), 600)]));
}

#[test]
fn a_line_that_docker_split_comes_out_whole_even_across_streams_and_generations() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "nginx", &[]);
    let long = "x".repeat(100_000);
    web.long_line(&long, "stdout");
    // Pieces of the two streams interleave, and a rotation comes between two pieces.
    let piece = "a".repeat(16_384);
    web.record(&piece, "stdout", "2026-11-23T10:00:05.5Z");
    web.record("error\n", "stderr", "2026-11-23T10:00:05.6Z");
    web.rotate(3);
    web.record("end\n", "stdout", "2026-11-23T10:00:05.5Z");
    // A line of exactly one piece is followed by a record that holds only its line feed.
    web.long_line(&"y".repeat(16_384), "stdout");
    web.line("last", "stdout");

    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("five records", |node| node.delivered("out") >= 5);
    node.stop_well();
    let records = records(&dir.path().join("out.ndjson"));
    let mut logs: Vec<_> = records.iter().map(|r| r["log"].as_str().expect("text stays in log")).collect();
    logs.sort_by_key(|log| (log.len(), log.as_bytes().first().copied()));
    let joined = format!("{piece}end");
    let y = "y".repeat(16_384);
    assert_eq!(logs.iter().map(|log| log.len()).collect::<Vec<_>>(), [4, 5, 16_384, 16_387, 100_000]);
    assert_eq!(logs, ["last", "error", &y, &joined, &long]);
}

#[test]
fn a_character_that_docker_cut_in_two_costs_two_bytes_and_no_line() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let most = "a".repeat(16_383);
    // The first piece ends with the first byte of the character; each byte alone is no UTF-8.
    let end = "\",\"stream\":\"stdout\",\"time\":\"2026-11-23T10:00:05.5Z\"}\n";
    web.raw(format!("{{\"log\":\"{most}\\ufffd{end}{{\"log\":\"\\ufffd\\n{end}").as_bytes());
    web.line("last", "stdout");
    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("two records", |node| node.delivered("out") >= 2);
    let odd = |kind: &str| node.metric("longshore_input_oddities_total", &[("kind", kind)]);
    assert_eq!((odd("utf8_lost_by_docker"), odd("partial_orphan")), (2, 0));
    node.stop_well();
    let logs: Vec<_> = records(&dir.path().join("out.ndjson")).iter().map(|record| record["log"].clone()).collect();
    assert_eq!(logs, [json!(format!("{most}\u{fffd}\u{fffd}")), json!("last")]);
}

#[test]
fn the_longest_record_that_docker_writes_comes_with_large_attributes() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let tag = "t".repeat(100_000);
    let end =
        format!("\",\"stream\":\"stdout\",\"attrs\":{{\"tag\":\"{tag}\"}},\"time\":\"2026-11-23T10:00:05.5Z\"}}\n");
    // 16,384 bytes of the program are 98,304 of the file.
    web.raw(format!("{{\"log\":\"{}{end}{{\"log\":\"\\n{end}", "\\u0001".repeat(16_384)).as_bytes());
    web.line("last", "stdout");
    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("two records", |node| node.delivered("out") >= 2);
    assert_eq!(node.metric("longshore_input_oddities_total", &[("kind", "line_cut")]), 0);
    node.stop_well();
    let records = records(&dir.path().join("out.ndjson"));
    assert_eq!(records[0]["log"], json!("\u{1}".repeat(16_384)));
    assert_eq!(at(&records[0], "attrs.tag"), Some(&json!(tag)));
    assert_eq!((records.len(), &records[1]["log"]), (2, &json!("last")));
}

#[test]
fn control_characters_and_line_separators_come_out_as_they_went_in() {
    let dir = folder();
    let mut web = Container::create(&dir.path().join("containers"), 1, "web", "app", &[]);
    let control = (0u8..0x20).filter(|byte| *byte != b'\n').map(char::from);
    let rest = "\"\\/<>&'\u{7f}\u{80}\u{9f}\u{2028}\u{2029}\u{feff}é東😀\u{fffd}end".chars();
    let text: String = control.chain(rest).collect();
    web.line(&text, "stdout");
    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("the record", |node| node.delivered("out") >= 1);
    let odd = |kind: &str| node.metric("longshore_input_oddities_total", &[("kind", kind)]);
    assert_eq!((odd("utf8_lost_by_docker"), odd("invalid_utf8"), odd("line_not_docker")), (0, 0, 0));
    node.stop_well();
    assert_eq!(records(&dir.path().join("out.ndjson"))[0]["log"], json!(text));
}

#[test]
fn a_container_without_configuration_ships_under_its_id_and_gets_its_name_when_it_is_known() {
    let dir = folder();
    let root = dir.path().join("containers");
    let mut nameless = Container::create_bare(&root, 3);
    nameless.line(r#"{"seq":0}"#, "stdout");
    let mut broken = Container::create_bare(&root, 4);
    fs::write(broken.dir.join("config.v2.json"), b"{\"ID\": tor").expect("writable");
    broken.line(r#"{"seq":0}"#, "stdout");
    let out = dir.path().join("out.ndjson");
    let mut node = node(dir.path(), &config(dir.path())).start();
    node.wait_for("two records", |_| line_count(&out) >= 2);
    for record in records(&out) {
        let id = at(&record, "container.id").and_then(|id| id.as_str()).expect("the id is known");
        assert_eq!(id.len(), 64);
        assert_eq!(record["tag"], json!(format!("docker.{}", &id[..12])));
    }
    nameless.write_config("late", "app:1", &[]);
    let mut seq = 0;
    node.wait_for("a record with the late name", |_| {
        seq += 1;
        nameless.line(&format!(r#"{{"seq":{seq}}}"#), "stdout");
        records(&out).iter().any(|record| record["tag"] == json!("docker.late"))
    });
    node.stop_well();
}

#[test]
fn excluded_containers_and_foreign_files_are_left_alone_and_new_containers_are_found() {
    let dir = folder();
    let root = dir.path().join("containers");
    let mut quiet = Container::create(&root, 1, "quiet", "app", &[("longshore.ignore", "true")]);
    quiet.line(r#"{"seq":1}"#, "stdout");
    let mut sidecar = Container::create(&root, 2, "sidecar-7", "app", &[]);
    sidecar.line(r#"{"seq":1}"#, "stdout");
    let mut web = Container::create(&root, 3, "web", "app", &[]);
    web.line(r#"{"seq":1}"#, "stdout");
    fs::write(web.path(".1.gz.tmp"), b"never").expect("writable");
    fs::write(web.dir.join("container-cached.log"), b"never\n").expect("writable");
    let body = config(dir.path())
        .replace("[pipeline]", "exclude = [\"label:longshore.ignore=true\", \"name:sidecar-*\"]\n\n[pipeline]");
    let mut node = node(dir.path(), &body).start();
    let out = dir.path().join("out.ndjson");
    node.wait_for("the first record", |_| line_count(&out) >= 1);
    let mut late = Container::create(&root, 9, "late", "app", &[]);
    late.line(r#"{"seq":1}"#, "stdout");
    node.wait_for("the record of the new container", |_| line_count(&out) >= 2);
    late.remove();
    quiet.line(r#"{"seq":2}"#, "stdout");
    web.line(r#"{"seq":2}"#, "stdout");
    node.wait_for("the third record", |_| line_count(&out) >= 3);
    node.stop_well();
    let names: Vec<_> =
        records(&out).iter().filter_map(|r| at(r, "container.name")?.as_str().map(str::to_owned)).collect();
    assert_eq!(names, ["web", "late", "web"]);
}

#[test]
fn check_warns_of_a_container_whose_rotation_keeps_less_than_some_seconds_of_its_output() {
    let dir = folder();
    let root = dir.path().join("containers");
    for (seed, name, seconds) in [(1, "fast", 1), (2, "slow", 3600)] {
        let mut container = Container::create(&root, seed, name, "app", &[]);
        let limits = r#"{"LogConfig":{"Type":"json-file","Config":{"max-size":"10k","max-file":"3"}}}"#;
        fs::write(container.dir.join("hostconfig.json"), limits).expect("written");
        for generation in 0..3 {
            (0..100).for_each(|seq| container.line(&app_line(seq), "stdout"));
            let written = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000 + generation * seconds);
            let log = fs::File::options().append(true).open(container.path("")).expect("there");
            log.set_modified(written).expect("set");
            if generation < 2 {
                container.rotate(3);
            }
        }
    }
    let file = node(dir.path(), &config(dir.path())).write_config();
    let said = crate::harness::run(dir.path(), &["check", &file.to_string_lossy()], b"");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{text}");
    assert!(text.contains("container fast: rotation keeps some ") && text.contains("as the sizes and times"), "{text}");
    assert!(!text.contains("container slow"), "{text}");
}

#[test]
fn a_record_has_the_same_id_whatever_files_it_is_read_with() {
    let dir = folder();
    let mut container = Container::create(&dir.path().join("containers"), 1, "web", "nginx:1.27", &[]);
    let (out, config) = (dir.path().join("out.ndjson"), config(dir.path()) + "add = [\"id\"]\n");
    let run = |count: usize, then: &mut dyn FnMut()| {
        let mut node = node(dir.path(), &config).start();
        node.wait_for("the first half", |_| line_count(&out) >= count / 2);
        then();
        node.wait_for("all", |_| line_count(&out) >= count);
        node.stop_well();
        let ids = records(&out).into_iter().map(|record| record["longshore_id"].as_str().expect("an id").to_owned());
        let ids: Vec<String> = ids.collect();
        // As if nothing had ever been read.
        fs::remove_file(&out).expect("removed");
        fs::remove_dir_all(dir.path().join("data")).expect("removed");
        ids
    };
    (0..50).for_each(|seq| container.line(&app_line(seq), "stdout"));
    // One file, then the next.
    let apart = run(100, &mut || {
        container.rotate(4);
        (50..100).for_each(|seq| container.line(&app_line(seq), "stdout"));
    });
    // Both at once.
    assert_eq!(run(100, &mut || ()), apart);
    assert_eq!(apart.iter().collect::<std::collections::HashSet<_>>().len(), 100);
}
