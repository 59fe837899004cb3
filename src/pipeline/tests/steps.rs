//! What each step makes of records.

use super::*;
use crate::codec::docker_json::{self, LineHead, LogForm};

/// Runs steps over JSON records with tag `t`.
fn run(steps: &str, records: &[&str]) -> Batch {
    let pipeline = pipeline(steps);
    let mut batch = empty();
    for record in records {
        push_json(&mut batch, "t", record);
    }
    pipeline.apply(&mut pipeline.lane(JoinRule::None), &mut batch, NOW);
    batch
}

fn one(steps: &str, record: &str) -> String {
    lines(&run(steps, &[record]), NONE).join("\n")
}

#[test]
fn parse_puts_what_a_text_holds_in_its_place() {
    let regex = r#"parse = "regex", pattern = '^(?<level>[A-Z]+)( \[(?<id>\d+)\])? (?<message>.*)$'"#;
    let cases = [
        // JSON.
        (
            r#"parse = "json""#,
            r#"{"a":1,"log":"{\"x\":1,\"y\":\"q\\\"r\"}","b":2}"#,
            r#"{"a":1,"x":1,"y":"q\"r","b":2}"#,
        ),
        (r#"parse = "json""#, r#"{"log":" {\"log\":\"inner\"} "}"#, r#"{"log":"inner"}"#),
        (r#"parse = "json""#, r#"{"x":0,"log":"{\"x\":1}","x":9}"#, r#"{"x":1}"#),
        (r#"parse = "json", from = "m""#, r#"{"m":"{}","log":"{}"}"#, r#"{"log":"{}"}"#),
        (r#"parse = "json", from = "m""#, r#"{"m":{"x":{"y":1}}}"#, r#"{"x":{"y":1}}"#),
        (r#"parse = "json", into = "o""#, r#"{"log":" {\"x\":1} ","o":0}"#, r#"{"o":{"x":1}}"#),
        // What is no object stays.
        (r#"parse = "json""#, r#"{"log":"[1]"}"#, r#"{"log":"[1]"}"#),
        (r#"parse = "json""#, r#"{"log":"{\"x\":1"}"#, r#"{"log":"{\"x\":1"}"#),
        (r#"parse = "json""#, r#"{"log":5}"#, r#"{"log":5}"#),
        (r#"parse = "json", on_error = "drop""#, r#"{"log":"x"}"#, ""),
        (r#"parse = "json", on_error = "drop""#, r#"{"other":"x"}"#, r#"{"other":"x"}"#),
        (r#"parse = "json", on_error = "drop", where = "a""#, r#"{"log":"x"}"#, r#"{"log":"x"}"#),
        // logfmt.
        (
            r#"parse = "logfmt""#,
            r#"{"log":"level=info  msg=\"a \\\"b\\\" \\u00e9\" empty= url=x?a=b q=\"\"\n"}"#,
            r#"{"level":"info","msg":"a \"b\" é","empty":"","url":"x?a=b","q":""}"#,
        ),
        (r#"parse = "logfmt""#, r#"{"log":"hello world"}"#, r#"{"log":"hello world"}"#),
        (r#"parse = "logfmt""#, r#"{"log":"a=1 b"}"#, r#"{"log":"a=1 b"}"#),
        (r#"parse = "logfmt""#, r#"{"log":"a=\"1"}"#, r#"{"log":"a=\"1"}"#),
        (r#"parse = "logfmt""#, r#"{"log":"a=\"1\"b=2"}"#, r#"{"log":"a=\"1\"b=2"}"#),
        (r#"parse = "logfmt""#, r#"{"log":""}"#, r#"{"log":""}"#),
        (r#"parse = "logfmt", into = "f""#, r#"{"log":"a=\"\\\"\" b=2"}"#, r#"{"f":{"a":"\"","b":"2"}}"#),
        // Named groups; those that took no part are left out.
        (regex, r#"{"log":"WARN [7] disk \"x\"","a":1}"#, r#"{"level":"WARN","id":"7","message":"disk \"x\"","a":1}"#),
        (regex, r#"{"log":"WARN disk"}"#, r#"{"level":"WARN","message":"disk"}"#),
        (regex, r#"{"log":"nothing"}"#, r#"{"log":"nothing"}"#),
    ];
    for (step, record, expected) in cases {
        assert_eq!(one(&format!("{{ {step} }}"), record), expected, "{step} of {record}");
    }
    let batch = run(r#"{ parse = "json", on_error = "drop" }"#, &[r#"{"log":"x"}"#, r#"{"a":1,"log":"{\"a\":2}"}"#]);
    assert_eq!(odd(&batch, Oddity::NotParsed), 1);
    assert_eq!(odd(&batch, Oddity::FieldReplaced), 1);
    assert_eq!((dropped(&batch), batch.tally.received, batch.len()), (1, 2, 1));
}

#[test]
fn parse_takes_128_levels_and_no_more() {
    for (levels, parsed) in [(127, true), (129, false)] {
        let log = format!("{{\"a\":{}1{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        let record = serde_json::json!({ "log": log }).to_string();
        let batch = run(r#"{ parse = "json" }"#, &[&record]);
        assert_eq!(odd(&batch, Oddity::NotParsed) == 0, parsed, "{levels}");
    }
}

#[test]
fn parse_of_many_fields_into_many_ends() {
    let many = |from: usize| -> String {
        let members: Vec<String> = (from..from + 3000).map(|at| format!("\"k{at}\":{at}")).collect();
        members.join(",")
    };
    let log = serde_json::Value::String(format!("{{{}}}", many(1000)));
    let batch = run(r#"{ parse = "json" }"#, &[&format!("{{{},\"log\":{log}}}", many(0))]);
    assert_eq!(odd(&batch, Oddity::FieldReplaced), 2000);
    assert_eq!(batch.fields(0).len(), 4000);
}

#[test]
fn time_reads_every_format_and_takes_the_field_away() {
    let cases = [
        ("", r#""2026-01-02T03:04:05.6+01:00""#, "2026-01-02T02:04:05.600000000Z"),
        ("", "1700000000", "2023-11-14T22:13:20.000000000Z"),
        ("", "1700000000.25", "2023-11-14T22:13:20.250000000Z"),
        ("", "1700000000123", "2023-11-14T22:13:20.123000000Z"),
        ("", "1700000000123456", "2023-11-14T22:13:20.123456000Z"),
        ("", r#""1700000000123456789""#, "2023-11-14T22:13:20.123456789Z"),
        (r#"formats = ["epoch_ms"]"#, "1700000000123.5", "2023-11-14T22:13:20.123500000Z"),
        (r#"formats = ["epoch_s"]"#, "-1.5", "1969-12-31T23:59:58.500000000Z"),
        (r#"formats = ["epoch_s"]"#, "1.7e9", "2023-11-14T22:13:20.000000000Z"),
        (r#"formats = ["epoch_us", "rfc3339"]"#, "1700000000123456", "2023-11-14T22:13:20.123456000Z"),
        (r#"formats = ["epoch_ns"]"#, "1700000000123456789", "2023-11-14T22:13:20.123456789Z"),
        (r#"formats = ["%d/%b/%Y:%H:%M:%S %z"]"#, r#""24/Nov/2026:12:00:00 +0200""#, "2026-11-24T10:00:00.000000000Z"),
        (r#"formats = ["%Y-%m-%d %H:%M:%S%.f"]"#, r#""2026-07-01 12:00:00.25""#, "2026-07-01T12:00:00.250000000Z"),
        (
            r#"formats = ["%Y-%m-%d %H:%M:%S"], zone = "Europe/Rome""#,
            r#""2026-07-01 12:00:00""#,
            "2026-07-01T10:00:00.000000000Z",
        ),
        (r#"formats = ["%b %d %H:%M:%S"]"#, r#""Nov 24 10:59:00""#, "2026-11-24T10:59:00.000000000Z"),
        (r#"formats = ["%b %d %H:%M:%S"]"#, r#""Dec 31 23:59:59""#, "2025-12-31T23:59:59.000000000Z"),
        (r#"formats = ["%Y-%m-%d"]"#, r#""2026-07-01""#, "2026-07-01T00:00:00.000000000Z"),
    ];
    for (options, value, expected) in cases {
        let comma = if options.is_empty() { "" } else { ", " };
        let (json, msgpack) =
            run_both(&format!("{{ time = \"ts\"{comma}{options} }}"), &format!("{{\"a\":1,\"ts\":{value}}}"));
        for batch in [&json, &msgpack] {
            assert_eq!(time_of(batch, 0), expected, "{options} of {value}");
            assert_eq!(lines(batch, NONE), ["{\"a\":1}"]);
        }
    }
}

#[test]
fn an_own_time_is_written_in_our_form_and_an_unreadable_one_stays() {
    let time_only = Added { time: true, ..NONE };
    let batch = run(r#"{ time = "time" }"#, &[r#"{"time":"2026-01-02T03:04:05+00:00"}"#]);
    assert_eq!(lines(&batch, time_only), [r#"{"time":"2026-01-02T03:04:05.000000000Z"}"#]);
    let batch = run(r#"{ time = "ts", keep = true }"#, &[r#"{"ts":1}"#]);
    assert_eq!(lines(&batch, time_only), [r#"{"ts":1,"time":"1970-01-01T00:00:01.000000000Z"}"#]);
    for bad in [r#""yesterday""#, "true", "[1]", "1e300", r#""""#, r#""99999999999999999999999""#, r#""1.-5""#] {
        let batch = run(r#"{ time = "ts" }"#, &[&format!("{{\"ts\":{bad}}}")]);
        assert_eq!(lines(&batch, NONE), [format!("{{\"ts\":{bad}}}")]);
        assert_eq!(odd(&batch, Oddity::StepFailed), 1, "{bad}");
    }
    assert_eq!(odd(&run(r#"{ time = "ts" }"#, &["{}"]), Oddity::StepFailed), 0, "no such field is no failure");
    assert_eq!(odd(&run(r#"{ time = "ts" }"#, &["{\"ts\":1700000000123}"]), Oddity::TimeScaled), 1);
}

#[test]
fn set_rename_and_remove_change_fields_and_added_values() {
    let cases = [
        (
            r#"set = { env = "${ENVIRONMENT:-dev}", n = 1, f = 1.5, t = true }"#,
            "{}",
            r#"{"env":"prod","n":1,"f":1.5,"t":true}"#,
        ),
        (r#"set = { a = "x" }"#, r#"{"a":{"b":1},"c":2}"#, r#"{"a":"x","c":2}"#),
        (
            r#"set = { b = "{a}", c = "<{a}>", d = "{a.n}" }"#,
            r#"{"a":{"n":7}}"#,
            r#"{"a":{"n":7},"b":{"n":7},"c":"<{\"n\":7}>","d":7}"#,
        ),
        (r#"set = { b = "{a}" }"#, r#"{"a":"q\"r\n"}"#, r#"{"a":"q\"r\n","b":"q\"r\n"}"#),
        (r#"set = { b = "x{a}" }"#, r#"{"a":"q\"r\n"}"#, r#"{"a":"q\"r\n","b":"xq\"r\n"}"#),
        (r#"set = { b = "{missing}", c = "y{missing}" }"#, r#"{"a":1}"#, r#"{"a":1}"#),
        (
            r#"set = { b = "{tag} {stream} {container.name} {container.id}" }"#,
            "{}",
            &format!(r#"{{"b":"t stdout web {}"}}"#, "0123456789abcdef".repeat(4)),
        ),
        (
            r#"set = { c = "{container}" }"#,
            "{}",
            &format!(r#"{{"c":{{"id":"{}","name":"web","image":"nginx:1"}}}}"#, "0123456789abcdef".repeat(4)),
        ),
        (r#"rename = { a = "b" }"#, r#"{"a":1,"b":2,"a":3}"#, r#"{"b":1,"b":3}"#),
        (r#"rename = { a = "b", c = "d" }"#, r#"{"x":1}"#, r#"{"x":1}"#),
        (r#"rename = { stream = "source", file = "path" }"#, "{}", r#"{"source":"stdout","path":"/var/log/x"}"#),
        (r#"rename = { time = "at" }"#, "{}", r#"{"at":"1970-01-01T00:00:00.000000000Z"}"#),
        (
            r#"remove = ["a", "b.c", "d.e.f"]"#,
            r#"{"a":1,"b":{"c":1,"x":2},"d":{"e":{"f":1}},"a":2}"#,
            r#"{"b":{"x":2},"d":{"e":{}}}"#,
        ),
        (r#"remove = ["a.b", "z.y"]"#, r#"{"a.b":1,"z":"y"}"#, r#"{"z":"y"}"#),
    ];
    for (step, record, expected) in cases {
        assert_eq!(one(&format!("{{ {step} }}"), record), expected, "{step} of {record}");
    }
    let (_, msgpack) = run_both(r#"{ remove = ["b.c", "d.e.f"] }"#, r#"{"b":{"c":1,"x":2},"d":{"e":{"f":1}}}"#);
    assert_eq!(lines(&msgpack, NONE), [r#"{"b":{"x":2},"d":{"e":{}}}"#]);
}

#[test]
fn added_values_that_were_removed_or_renamed_are_not_added() {
    let remove = run(r#"{ remove = ["tag", "stream", "container", "file", "time"] }"#, &[r#"{"a":1,"tag":2}"#]);
    assert_eq!(lines(&remove, Added::ALL), [r#"{"a":1}"#]);
    assert_eq!(remove.tag_of(0).as_str(), "t", "routing still knows it");
    let rename = run(r#"{ rename = { tag = "t", stream = "s", time = "at", file = "f", container = "c" } }"#, &["{}"]);
    let id = "0123456789abcdef".repeat(4);
    let container = format!(r#"{{"id":"{id}","name":"web","image":"nginx:1"}}"#);
    assert_eq!(
        lines(&rename, Added::ALL),
        [format!(r#"{{"t":"t","s":"stdout","at":"1970-01-01T00:00:00.000000000Z","f":"/var/log/x","c":{container}}}"#)]
    );
    let under = run(r#"{ remove = ["_tag", "stream", "container", "file", "time"] }"#, &[r#"{"tag":2}"#]);
    assert_eq!(lines(&under, Added::ALL), [r#"{"tag":2}"#]);
}

#[test]
fn mask_hides_names_and_patterns_at_any_depth() {
    let names = r#"{ mask = ["password", "Authorization"] }"#;
    let record =
        r#"{"PASSWORD":5,"a":[{"authorization":{"x":1},"b":"password"}],"n":{"password":null},"z":"password"}"#;
    let expected =
        r#"{"PASSWORD":"***","a":[{"authorization":"***","b":"password"}],"n":{"password":"***"},"z":"password"}"#;
    let patterns = r#"{ mask = [], patterns = ["card", "email", 'tok_\w+'] }"#;
    let texts = r#"{"a":"pay 4111 1111 1111 1111 to x@example.org","b":{"c":["tok_abc \"q\"",4111111111111111]},"d":4111111111111111,"e":1700000000123}"#;
    let hidden = r#"{"a":"pay *** to ***","b":{"c":["*** \"q\"","***"]},"d":"***","e":1700000000123}"#;
    for (steps, record, expected) in [(names, record, expected), (patterns, texts, hidden)] {
        let (json, msgpack) = run_both(steps, record);
        assert_eq!(lines(&json, NONE), [expected]);
        assert_eq!(lines(&msgpack, NONE), [expected]);
    }
    assert_eq!(
        one(r#"{ mask = ["password"] }"#, r#"{"pass\u0077ord":1,"x":{"p\u0061ssword":2}}"#).matches("***").count(),
        2
    );
}

#[test]
fn sample_lets_its_part_go_on_over_batches_and_by_value() {
    let pipeline = pipeline(r#"{ sample = "3/10" }"#);
    let mut kept = 0;
    for size in [1, 2, 7, 33, 57] {
        let mut batch = empty();
        (0..size).for_each(|_| push_json(&mut batch, "t", "{}"));
        pipeline.apply(&mut pipeline.lane(JoinRule::None), &mut batch, NOW);
        assert_eq!(dropped(&batch) as usize + batch.len(), size);
        kept += batch.len();
    }
    assert_eq!(kept, 30);
    let by = r#"{ sample = "50%", by = "id" }"#;
    let records: Vec<String> = (0..200).map(|at| format!("{{\"id\":{}}}", at % 20)).collect();
    let batch = run(by, &records.iter().map(String::as_str).collect::<Vec<_>>());
    let mut groups = std::collections::HashMap::new();
    lines(&batch, NONE).into_iter().for_each(|line| *groups.entry(line).or_insert(0) += 1);
    assert!(groups.values().all(|count| *count == 10), "{groups:?}");
    assert!((3..=17).contains(&groups.len()), "{groups:?}");
    assert_eq!(run(r#"{ sample = "0.1%" }"#, &["{}"; 2000]).len(), 2);
    assert_eq!(run(r#"{ sample = "100%" }"#, &["{}"; 20]).len(), 20);
}

#[test]
fn tag_renames_by_template_and_match_and_where_choose() {
    let pipeline = pipeline(
        r#"{ tag = "api.{service}", match = "raw.**" }, { set = { hit = true }, match = ["api.*", "x"], where = "n > 1" }"#,
    );
    let mut batch = empty();
    push_json(&mut batch, "raw.a", r#"{"service":"pay","n":2}"#);
    push_json(&mut batch, "raw.a", r#"{"n":2}"#);
    push_json(&mut batch, "raw.a", r#"{"service":"a\nb","n":1}"#);
    push_json(&mut batch, "other", r#"{"service":"pay","n":2}"#);
    pipeline.apply(&mut pipeline.lane(JoinRule::None), &mut batch, NOW);
    let tags: Vec<&str> = (0..4).map(|at| batch.tag_of(at).as_str()).collect();
    assert_eq!(tags, ["api.pay", "raw.a", "api.a_b", "other"]);
    assert_eq!(odd(&batch, Oddity::StepFailed), 1);
    let hits: Vec<bool> = lines(&batch, NONE).iter().map(|line| line.contains("hit")).collect();
    assert_eq!(hits, [true, false, false, false]);
}

#[test]
fn more_tags_than_a_batch_has_leave_the_others_as_they_were() {
    let records: Vec<String> = (0..100).map(|at| format!("{{\"n\":{at}}}")).collect();
    let batch = run(r#"{ tag = "n.{n}" }"#, &records.iter().map(String::as_str).collect::<Vec<_>>());
    let changed = (0..100).filter(|at| batch.tag_of(*at).as_str().starts_with("n.")).count();
    // 64, of which the old one is still in use.
    assert_eq!((changed, odd(&batch, Oddity::StepFailed)), (63, 37));
    let batch = run(r#"{ tag = "n.{n}" }"#, &records[..63].iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(odd(&batch, Oddity::StepFailed), 0, "the old tag made room");
}

/// What a chain of Docker lines gives, decoded as `form`: its records, how many were received, how many not parsed.
fn of_docker(steps: &str, logs: &[&str], form: LogForm) -> (Vec<String>, u32, u32) {
    let pipeline = pipeline(steps);
    let mut lane = pipeline.lane(JoinRule::DockerFile);
    let mut batch = empty();
    let tag = batch.tag_index("docker.web").expect("room for a tag");
    for log in logs {
        let log = serde_json::to_string(log).expect("a text");
        let line = format!(r#"{{"log":{log},"stream":"stdout","time":"2026-11-23T10:15:00.5Z"}}"#);
        docker_json::decode(line.as_bytes(), LineHead { tag, pos: 0, now: NOW }, &mut batch, form);
    }
    pipeline.apply(&mut lane, &mut batch, NOW);
    (lines(&batch, Added::ALL), batch.tally.received, odd(&batch, Oddity::NotParsed))
}

#[test]
fn a_log_that_the_codec_has_taken_apart_gives_the_record_that_the_step_would_give() {
    let piece = format!("{{\"a\":\"{}", "x".repeat(16_384 - 6));
    let batches: [&[&str]; 5] = [
        &["{\"a\":1,\"time\":2}\n", "{\"b\":\"c\\n\"}\r\n"],
        &["{\"a\":1}\n", "plain\n", "{\"b\":2}\n", "[1]\n"],
        &["{\"a\":1}\n", "{\"log\":\"{\\\"b\\\":2}\"}\n"],
        // The end of a split line may look like a whole one.
        &["{\"a\":1}\n", &piece, "{\"b\":2}\n", "{\"c\":3}\n"],
        &[],
    ];
    let parse = r#"{ parse = "json" }"#;
    let join = r#"{ join = "docker_partial" }, { parse = "json" }"#;
    let more = r#"{ parse = "json", on_error = "drop" }, { set = { env = "x" } }, { drop = "b == 2" }"#;
    let change = r#"{ parse = "json" }, { remove = ["a"] }, { rename = { b = "e" } }, { mask = ["c"] }"#;
    for steps in [parse, join, more, change] {
        for logs in batches {
            let apart = of_docker(steps, logs, LogForm::Members);
            assert_eq!(apart, of_docker(steps, logs, LogForm::Text), "{steps} {logs:?}");
        }
    }
}

#[test]
fn pieces_that_wait_go_on_as_they_are_when_a_reload_has_taken_join_away() {
    let (joins, plain) = (pipeline(r#"{ join = "docker_partial" }"#), pipeline(""));
    let mut lane = joins.lane(JoinRule::DockerFile);
    let mut give = |pipeline: &Pipeline, base: u64, log: &str| {
        let mut batch = empty();
        batch.base = base;
        let tag = batch.tag_index("docker.web").expect("room for a tag");
        let log = serde_json::to_string(log).expect("a text");
        let line = format!(r#"{{"log":{log},"stream":"stdout","time":"2026-11-23T10:15:00.5Z"}}"#);
        docker_json::decode(line.as_bytes(), LineHead { tag, pos: 0, now: NOW }, &mut batch, LogForm::Text);
        pipeline.apply(&mut lane, &mut batch, NOW);
        let logs = (0..batch.len()).map(|at| {
            let field = batch.fields(at).iter().rposition(|field| batch.bytes(field.key) == b"log").expect("a log");
            (batch.base + u64::from(batch.row(at).pos), batch.bytes(batch.fields(at)[field].value).len())
        });
        (logs.collect::<Vec<_>>(), lane.is_waiting())
    };
    let piece = "x".repeat(16_384);
    assert_eq!(give(&joins, 100, &piece), (vec![], true));
    assert_eq!(give(&plain, 20_000, "end\n"), (vec![(100, 16_384), (20_000, 3)], false));
}

#[test]
fn a_codec_takes_log_apart_only_where_the_first_step_does_so_for_all_records() {
    let takes = [r#"{ parse = "json" }"#, r#"{ join = "docker_partial" }, { parse = "json", on_error = "drop" }"#];
    let leaves = [
        "",
        r#"{ set = { a = "b" } }, { parse = "json" }"#,
        r#"{ parse = "json", match = "api.**" }"#,
        r#"{ parse = "json", where = "a == 1" }"#,
        r#"{ parse = "json", from = "message" }"#,
        r#"{ parse = "json", into = "app" }"#,
        r#"{ parse = "logfmt" }"#,
    ];
    assert!(takes.iter().all(|steps| pipeline(steps).takes_log_apart()));
    assert!(leaves.iter().all(|steps| !pipeline(steps).takes_log_apart()));
}
