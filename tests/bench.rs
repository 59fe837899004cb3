//! `longshore bench`: every work in small, and that a record that does not arrive, or arrives changed, is not passed over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{PROGRAM, folder, run, run_command, told};

fn works(text: &[u8]) -> Vec<serde_json::Value> {
    let report: serde_json::Value = serde_json::from_slice(text).expect("one JSON object");
    report["works"].as_array().expect("a list").clone()
}

#[test]
fn every_work_delivers_every_record_and_says_what_it_took() {
    let dir = folder();
    let scratch = dir.path().join("scratch");
    let dir_flag = scratch.display().to_string();
    // Enough lines for `rotate` to rotate 1 MiB three times, slowly enough for a busy machine.
    let args = ["bench", "-n", "8500", "--repeats", "1", "--seconds", "1", "--rate", "4000", "--format", "json"];
    let done = run(dir.path(), &[&args[..], &["--dir", &dir_flag]].concat(), b"");
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let works = works(&done.stdout);
    assert_eq!(works.len(), 9, "{works:?}");
    for work in works {
        let ours = &work["shippers"][0];
        for count in ["missing", "duplicated", "wrong"] {
            assert_eq!(ours[count], 0, "{count}: {work}");
        }
        // Requests overtake each other.
        if !work["work"].as_str().expect("a name").ends_with("-http") {
            assert_eq!(ours["disordered"], 0, "{work}");
        }
        assert_eq!(ours["bad_ends"], serde_json::json!([]), "{work}");
        for figure in [
            "records_per_second",
            "mb_per_second",
            "records_per_cpu_second",
            "cpu_seconds_per_gb",
            "cpu_cut_share",
            "peak_memory_mb",
        ] {
            assert!(ours[figure].as_f64() > Some(0.0), "{figure}: {work}");
        }
        assert!(ours["peak_memory_mb"].as_f64() > Some(1.0), "{work}");
        let latency = |name: &str| ours["latency_ms"][name].as_f64();
        let (p50, p99, max) = (latency("p50"), latency("p99"), latency("max"));
        assert!(p50 > Some(0.0) && p50 <= p99 && p99 <= max, "{work}");
        // What is moved is what is counted, in bytes as in records: a record is some 200 to 600 bytes.
        let each = ours["mb_per_second"].as_f64().zip(ours["records_per_second"].as_f64());
        let each = each.map_or(0.0, |(megabytes, records)| megabytes * 1e6 / records);
        assert!((100.0..1000.0).contains(&each), "{each} bytes a record: {work}");
        let rotations = ours["rotations"].as_u64();
        assert_eq!(rotations.is_some(), work["work"] == "rotate", "{work}");
        assert!(rotations.is_none_or(|rotations| rotations >= 2), "{work}");
    }
    let left = fs::read_dir(&scratch).expect("it was made").count();
    assert_eq!(left, 0, "everything that was written is removed");
}

#[test]
fn lines_of_every_shape_arrive_as_they_were_from_several_containers_and_readers() {
    let dir = folder();
    for shape in ["small", "normal", "large", "nested", "escaped", "text", "multi-byte"] {
        let args = ["bench", "docker-file", "message-file", "forward-file", "line-file", "--shape", shape, "-n", "900"];
        let args = [&args[..], &["--repeats", "1", "--seconds", "0", "--containers", "3", "--format", "json"]].concat();
        let done = run(dir.path(), &args, b"");
        assert_eq!(done.status.code(), Some(0), "{shape}: {}", told(&done));
        assert_eq!(works(&done.stdout).len(), 4, "{shape}");
    }
    let args = ["bench", "docker-file", "-n", "20000", "--containers", "4", "--readers", "2", "--repeats", "1"];
    let done = run(dir.path(), &[&args[..], &["--seconds", "0", "--format", "json"]].concat(), b"");
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let works = works(&done.stdout);
    let counts = ["missing", "duplicated", "wrong", "disordered"].map(|count| works[0]["shippers"][0][count].as_u64());
    assert_eq!(counts, [Some(0); 4], "{works:?}");
}

/// A program that is a script: the argument of `--peer` for one of that kind.
fn script(dir: &Path, kind: &str, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    format!("{kind}={}", path.display())
}

#[test]
fn a_shipper_that_loses_or_changes_records_is_told_and_ends_with_exit_code_1() {
    let dir = folder();
    let cases = [
        ("sieve", r#"{ drop = "seq == 7" }"#, "missing", 1),
        ("mangler", r#"{ set = { method = "PUT" } }"#, "wrong", 300),
    ];
    for (name, step, what, count) in cases {
        let text = format!("sed -i 's/^]$/{step},\\n]/' longshore.toml\nexec {PROGRAM} \"$@\"");
        let peer = script(dir.path(), "longshore", name, &text);
        let args = [
            "bench",
            "docker-file",
            "-n",
            "300",
            "--repeats",
            "1",
            "--seconds",
            "0",
            "--format",
            "json",
            "--peer",
            &peer,
        ];
        let done = run(dir.path(), &args, b"");
        assert_eq!(done.status.code(), Some(1), "{name}: {}", told(&done));
        let works = works(&done.stdout);
        assert_eq!(works[0]["shippers"][0][what], 0, "{works:?}");
        assert_eq!(works[0]["shippers"][1][what], count, "{works:?}");
        for (nth, whose) in ["longshore", "longshore (other)"].into_iter().enumerate() {
            let config = works[0]["shippers"][nth]["config"]["longshore.toml"].as_str().expect("its configuration");
            assert!(config.contains("[inputs.in]\ntype = \"docker\""), "{config}");
            let printed = format!("--- {whose} longshore.toml for docker-file\n{config}---");
            assert!(told(&done).contains(&printed), "{printed}\n{}", told(&done));
        }
    }
}

#[test]
fn a_shipper_that_fails_is_reported_with_its_version_beside_the_figures_of_the_others() {
    let dir = folder();
    let text = "if [ \"$1\" = --version ]; then echo Fake v1.2; exit; fi\necho no such key >&2; exit 3";
    let peer = script(dir.path(), "fluent-bit", "fake", text);
    let args = ["bench", "line-file", "docker-file", "-n", "300", "--repeats", "2", "--seconds", "0", "--peer", &peer];
    let done = run(dir.path(), &[&args[..], &["--format", "json"]].concat(), b"");
    assert_eq!(done.status.code(), Some(1), "{}", told(&done));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("one JSON object");
    assert_eq!(report["peers"], serde_json::json!([{ "shipper": "fluent-bit", "version": "Fake v1.2" }]));
    assert_eq!(report["load_average"].as_array().map(Vec::len), Some(3), "{report}");
    for work in report["works"].as_array().expect("a list") {
        let (ours, other) = (&work["shippers"][0], &work["shippers"][1]);
        assert!(ours["missing"] == 0 && ours["records_per_second"].as_f64() > Some(0.0), "{work}");
        assert!(other["error"].as_str().is_some_and(|error| error.contains("no such key")), "{work}");
    }
    assert_eq!(report["works"].as_array().map(Vec::len), Some(2), "it goes on: {report}");
    assert_eq!(told(&done).matches("fluent-bit: failed: ").count(), 2, "once a work: {}", told(&done));
}

#[test]
fn a_shipper_that_ends_badly_is_told_and_ends_with_exit_code_1_and_all_take_turns() {
    let dir = folder();
    // It delivers everything, and fails when it is told to stop.
    let text = format!(
        "trap 'kill -TERM $pid; wait $pid; echo a panic; exit 101' TERM\n{PROGRAM} \"$@\" &\npid=$!\nwait $pid\nexit 102"
    );
    let peer = script(dir.path(), "longshore", "stumbler", &text);
    let args = ["bench", "line-file", "-n", "300", "--repeats", "2", "--seconds", "0", "--format", "json"];
    let done = run(dir.path(), &[&args[..], &["--peer", &peer]].concat(), b"");
    assert_eq!(done.status.code(), Some(1), "{}", told(&done));
    let works = works(&done.stdout);
    let (ours, other) = (&works[0]["shippers"][0], &works[0]["shippers"][1]);
    assert!(ours["missing"] == 0 && ours["bad_ends"] == serde_json::json!([]), "{works:?}");
    assert!(other["missing"] == 0 && other["error"].is_null(), "{works:?}");
    let ends = other["bad_ends"].as_array().expect("a list");
    assert_eq!(ends.len(), 2, "{works:?}");
    for end in ends {
        let end = end.as_str().expect("a text");
        assert!(end.starts_with("exit status: 101; it said:\n") && end.ends_with("a panic\n"), "{end}");
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let turns = ["1/2 longshore", "1/2 longshore (other)", "2/2 longshore (other)", "2/2 longshore"];
    let places = turns.map(|turn| said.find(&format!("line-file {turn}: ")));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
}

/// A shipper of plain lines of the shape `text`, as a script: the command `input` says where they are, the file `all` has the
/// record of each, and of these the commands `how` make the output. It ends when it is told to.
fn fake(input: &str, how: &str) -> String {
    format!(
        "if [ \"$1\" = --version ]; then echo Fake; exit; fi\ntrap 'exit 0' TERM\ninput=$({input})\nsed 's/.*/{{\"log\":\"&\"}}/' \"$input\" > all\n{how}\nwhile :; do sleep 0.05; done"
    )
}

#[test]
fn a_shipper_that_repeats_records_is_not_done_and_what_is_lost_is_in_no_rate() {
    let dir = folder();
    let repeats = fake(
        "sed -n 's/^include = .\"\\(.*\\)\".$/\\1/p' vector.toml",
        "head -n 100 all > some\ncat some some some > out0.ndjson\nsleep 2\ntail -n +101 all >> out0.ndjson",
    );
    let loses =
        fake("sed -n 's/^ *Path \\(.*input.log\\)$/\\1/p' fluent-bit.conf", "sleep 1\nhead -n 100 all > out0.ndjson");
    let repeats = script(dir.path(), "vector", "repeats", &repeats);
    let loses = script(dir.path(), "fluent-bit", "loses", &loses);
    let args = ["bench", "line-file", "-n", "300", "--shape", "text", "--repeats", "1", "--seconds", "0"];
    let peers = ["--format", "json", "--peer", &repeats, "--peer", &loses];
    let done = run(dir.path(), &[&args[..], &peers].concat(), b"");
    assert_eq!(done.status.code(), Some(1), "{}", told(&done));
    let works = works(&done.stdout);
    let counts = |nth: usize| ["missing", "duplicated", "wrong"].map(|count| works[0]["shippers"][nth][count].as_u64());
    assert_eq!([0, 1, 2].map(counts), [[0_u64, 0, 0], [0, 200, 0], [200, 0, 0]].map(|all| all.map(Some)), "{works:?}");
    let rate = |nth: usize, of: &str| works[0]["shippers"][nth][of].as_f64().expect("a number");
    // 300 lines were there at once, and 300 records two seconds later.
    assert!(rate(1, "records_per_second") <= 150.0, "{works:?}");
    // 100 records, and a second at least; a tick of CPU time at least.
    assert!((1.0..=100.0).contains(&rate(2, "records_per_second")), "{works:?}");
    assert!(rate(2, "records_per_cpu_second") <= 10_000.0, "{works:?}");
}

/// `bench` in a shell that sets a limit of open files first.
fn limited(dir: &Path, limit: &str, args: &[&str]) -> Output {
    let text = format!("ulimit {limit} && exec {PROGRAM} bench \"$@\"");
    run_command(Command::new("sh").args(["-c", &text, "sh"]).args(args).current_dir(dir), b"")
}

#[test]
fn more_connections_than_the_soft_limit_of_open_files_are_no_trouble_and_a_low_hard_limit_is_told() {
    let dir = folder();
    let args = ["forward-file", "-n", "600", "--connections", "300", "--repeats", "1", "--seconds", "0"];
    let done = limited(dir.path(), "-Sn 128", &args);
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let done = limited(dir.path(), "-n 512", &args);
    assert_eq!(done.status.code(), Some(1), "{}", told(&done));
    assert!(told(&done).contains("300 connections need 556 open files"), "{}", told(&done));
}

#[test]
fn a_row_of_points_is_drawn() {
    let dir = folder();
    let plots = dir.path().join("plots").display().to_string();
    let axes = ["--scale", "sinks", "--scale", "cores", "--scale", "line-size"];
    let args = [&["bench", "-n", "500", "--repeats", "1", "--svg", &plots], &axes[..]].concat();
    let done = run(dir.path(), &args, b"");
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let svg = fs::read_to_string(dir.path().join("plots/sinks.svg")).expect("the plot is there");
    assert!(svg.starts_with("<svg") && svg.matches("<circle").count() == 6, "{svg}");
    let report = String::from_utf8_lossy(&done.stdout);
    for axis in ["sinks", "cores", "line-size"] {
        assert!(report.contains(&format!("plot: {plots}/{axis}.svg\n")), "{report}");
        let svg = fs::read_to_string(format!("{plots}/{axis}.svg")).expect("the plot is there");
        assert!(svg.starts_with("<svg") && svg.contains("<circle"), "{svg}");
    }
    assert!(report.starts_with("longshore ") && report.contains(", load average "), "{report}");
}
