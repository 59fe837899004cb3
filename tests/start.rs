//! What can be wrong before the first record: the data folder, the disk below it, a port, the version of what lies there,
//! the clock. One clear line each and exit code 1 where somebody has to act; a start, and red readiness, where the fault
//! can pass. (Ownership: `service`; memory limits: `deploy`; secrets: `secrets`.)

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::full_disk::SmallDisk;
use crate::harness::{PATIENCE, folder, free_port, node, run_command, skip, told};

/// Numbered lines of `dir/app.log` to `dir/out.ndjson`.
fn body(dir: &Path) -> String {
    format!(
        "[inputs.app]\ntype = \"file\"\npaths = [{:?}]\n[sinks.out]\ntype = \"file\"\npath = {:?}\n",
        dir.join("app.log"),
        dir.join("out.ndjson")
    )
}

/// A start that ends by itself: what it said, and that it ended with 1.
fn refused(dir: &Path, body: &str, more: &str) -> String {
    let mut node = node(dir, body).with_node(more).without_waiting().start();
    assert_eq!(node.wait_exit(PATIENCE), 1, "{}", node.log());
    let log = node.log();
    assert!(log.lines().filter(|line| line.starts_with("longshore: ")).count() == 1, "one line that says why: {log}");
    log
}

#[test]
fn a_read_only_data_volume_ends_the_start_with_the_way_out() {
    let dir = folder();
    let Some(disk) = SmallDisk::mount(&dir.path().join("data"), "1m") else { return };
    disk.remount("ro");
    let log = refused(dir.path(), &body(dir.path()), "");
    assert!(log.contains("Read-only file system") && log.contains("mount a volume or a tmpfs at"), "{log}");
}

/// As the user of the receiver profile, which may write in `dir` and nowhere else: a start with this input and sink.
fn denied(dir: &Path, node_lines: &str, body: &str) -> String {
    let user = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"];
    let mut node = node(dir, body).with_node(node_lines).under(&user).without_waiting().start();
    assert_eq!(node.wait_exit(PATIENCE), 1, "{}", node.log());
    node.log()
}

#[test]
fn each_missing_permission_at_the_start_is_said_with_the_path_and_the_profiles() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let dir = folder();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    let made = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("writable");
        path
    };
    mode(dir.path(), 0o755);
    // Root's own, as Docker's folder and most others are.
    let (roots, data) = (made("roots"), made("writable"));
    mode(&roots, 0o710);
    std::os::unix::fs::chown(&data, Some(65532), Some(65532)).expect("root may");
    let own = format!("data_dir = {:?}\n", data);
    let secret = made("secrets").join("token");
    for (path, text) in [(&secret, "canary"), (&dir.path().join("key.pem"), "canary")] {
        fs::write(path, text).expect("writable");
        mode(path, 0o600);
    }
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls/server.pem");
    fs::copy(tls, dir.path().join("cert.pem")).expect("it is there");
    let stdin = "[inputs.in]\ntype = \"stdin\"\n";
    let stdout = "[sinks.out]\ntype = \"stdout\"\n";
    let forward = |listen: String| format!("[inputs.in]\ntype = \"forward\"\nlisten = {listen}\n{stdout}");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let port = free_port();
    let cases = [
        (
            "the data folder",
            format!("data_dir = {:?}\n", roots.join("data")),
            format!("{stdin}{stdout}"),
            roots.join("data"),
        ),
        (
            "Docker's folder",
            own.clone(),
            format!("[inputs.in]\ntype = \"docker\"\npath = {:?}\n{stdout}", roots),
            roots.clone(),
        ),
        (
            "an output file",
            own.clone(),
            format!("{stdin}[sinks.out]\ntype = \"file\"\npath = {:?}\n", roots.join("out.log")),
            roots.clone(),
        ),
        (
            "a secret",
            format!("{own}secrets = {:?}\n", secret.parent().expect("a folder")),
            format!(
                "{stdin}[sinks.out]\ntype = \"http\"\nurl = \"https://logs.example.com/\"\ntoken = \"secret:token\"\n"
            ),
            secret.clone(),
        ),
        (
            "a socket",
            own.clone(),
            forward(format!("\"unix://{}\"", roots.join("f.sock").display())),
            roots.join("f.sock"),
        ),
        (
            "a key",
            own.clone(),
            forward(format!("[{{ address = \"tls://127.0.0.1:{port}\", cert = {cert:?}, key = {key:?} }}]")),
            key.clone(),
        ),
    ];
    for (what, node_lines, body, path) in &cases {
        let log = denied(dir.path(), node_lines, body);
        let said = |part: &str| log.contains(part);
        assert!(
            said(&path.display().to_string()) && said("ermission denied") && said("profile") && !said("canary"),
            "{what}: {log}"
        );
        assert!(what == &"Docker's folder" || said("uid 65532"), "{what}: {log}");
    }
    // The configuration itself.
    let config = dir.path().join("longshore.toml");
    mode(&config, 0o600);
    let words = ["--reuid=65532", "--regid=65532", "--clear-groups", crate::harness::PROGRAM, "run", "--config"];
    let output = run_command(Command::new("setpriv").args(words).arg(&config), b"");
    let text = told(&output);
    assert!(output.status.code() == Some(1) && text.contains("longshore.toml") && text.contains("profile"), "{text}");
}

#[test]
fn a_taken_telemetry_port_is_named_and_waited_for_while_records_flow() {
    let dir = folder();
    let start = node(dir.path(), &body(dir.path())).without_waiting();
    let config = fs::read_to_string(start.write_config()).expect("just written");
    let port: u16 =
        config.split("127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok()).expect("a port");
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("free until now");
    fs::write(dir.path().join("app.log"), "one\n").expect("writable");
    let mut node = start.start();
    let out = dir.path().join("out.ndjson");
    crate::harness::wait_for("the record", PATIENCE, || {
        fs::read_to_string(&out).is_ok_and(|text| text.contains("one"))
    });
    let log = node.log();
    let line = log.lines().find(|line| line.contains("ERROR")).unwrap_or_default();
    assert!(line.contains(&port.to_string()) && line.contains("taken") && line.contains("off"), "{log}");
    drop(taken);
    node.wait_for("an answer", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    node.stop_well();
}

#[test]
fn a_taken_port_of_an_input_is_waited_for_with_red_readiness_while_the_rest_works() {
    let dir = folder();
    // Its other listener and the other input go on.
    let (port, free) = (free_port(), free_port());
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("free until now");
    let body = format!(
        "{}[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\", \"tcp://127.0.0.1:{free}\"]\n",
        body(dir.path())
    );
    fs::write(dir.path().join("app.log"), "one\n").expect("writable");
    let mut node = node(dir.path(), &body).start();
    node.wait_for("the record of the file", |node| node.delivered("out") == 1);
    let send = |port: u16| {
        let args = ["send", "--to", &format!("127.0.0.1:{port}"), "--ack-timeout", "30"];
        let output = crate::harness::run(dir.path(), &args, b"{\"msg\":\"through\"}\n");
        assert!(output.status.success(), "{}", told(&output));
    };
    send(free);
    let (status, text) = node.get("/ready").expect("answered");
    assert_eq!(status, 503, "{text}");
    assert!(text.contains(&port.to_string()), "{text}");
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    let said = node.log().lines().filter(|line| line.contains("until the address is free")).count();
    assert_eq!(said, 1, "once, and clear: {}", node.log());
    drop(taken);
    node.wait_for("readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    send(port);
    node.wait_for("all three records", |node| node.delivered("out") == 3);
    node.stop_well();
}

#[test]
fn a_disk_that_is_full_at_the_start_is_waited_for_with_red_readiness() {
    let dir = folder();
    let Some(disk) = SmallDisk::mount(&dir.path().join("data"), "12m") else { return };
    let ballast = disk.0.join("ballast");
    let _ =
        run_command(Command::new("dd").arg("if=/dev/zero").arg(format!("of={}", ballast.display())).arg("bs=4k"), b"");
    let port = free_port();
    let body = format!(
        "[inputs.in]\ntype = \"forward\"\nlisten = \"tcp://127.0.0.1:{port}\"\n[sinks.out]\ntype = \"file\"\npath = {:?}\n[buffer]\nsize = \"8MiB\"\n",
        dir.path().join("out.ndjson")
    );
    let mut node = node(dir.path(), &body).start();
    let sender = {
        let dir = dir.path().to_owned();
        std::thread::spawn(move || {
            let args = ["send", "--to", &format!("127.0.0.1:{port}"), "--ack-timeout", "5"];
            crate::harness::run(&dir, &args, b"{\"msg\":\"through\"}\n")
        })
    };
    node.wait_for("red readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 503));
    assert_eq!(node.get("/live").map(|(status, _)| status), Some(200), "a restart would not help");
    assert!(node.log().to_lowercase().contains("no space"), "{}", node.log());
    fs::remove_file(&ballast).expect("ours");
    let output = sender.join().expect("the sender ends");
    assert!(output.status.success(), "{}\n{}", told(&output), node.log());
    node.wait_for("readiness", |node| node.get("/ready").is_some_and(|(status, _)| status == 200));
    node.stop_well();
    assert!(fs::read_to_string(dir.path().join("out.ndjson")).expect("written").contains("through"));
}

/// Puts another version into the first line, and the checksum that then belongs there.
fn newer(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("text");
    assert!(text.contains(from), "{}: {text}", path.display());
    let changed = text.replacen(from, to, 1);
    let text = match changed.rfind("\ncrc ") {
        Some(at) => format!("{}\ncrc {:08x}\n", &changed[..at], crc32c::crc32c(&changed.as_bytes()[..=at])),
        None => {
            let (first, rest) = changed.split_once('\n').expect("lines");
            let json = &first[9..];
            format!("{:08x} {json}\n{rest}", crc32c::crc32c(json.as_bytes()))
        }
    };
    fs::write(path, text).expect("writable");
}

#[test]
fn a_data_folder_of_a_newer_version_is_refused_untouched_with_the_way_out() {
    let dir = folder();
    let port = free_port();
    let body = format!("{}[inputs.in]\ntype = \"forward\"\nlisten = \"tcp://127.0.0.1:{port}\"\n", body(dir.path()));
    fs::write(dir.path().join("app.log"), "one\ntwo\n").expect("writable");
    let mut first = node(dir.path(), &body).start();
    first.wait_for("two records", |node| node.delivered("out") == 2);
    first.stop_well();
    let data = dir.path().join("data");
    let (checkpoints, meta) = (data.join("checkpoints"), data.join("buffer/META"));

    for (path, from, to) in
        [(&checkpoints, "\"version\":1", "\"version\":9"), (&meta, "longshore log 1\n", "longshore log 9\n")]
    {
        let good = fs::read(path).expect("it is there");
        newer(path, from, to);
        let bad = fs::read(path).expect("it is there");
        let log = refused(dir.path(), &body, "");
        assert!(
            log.contains(&path.parent().expect("a folder").display().to_string())
                && log.contains('9')
                && log.contains("newer"),
            "{log}"
        );
        assert_eq!(fs::read(path).expect("it is there"), bad, "nothing was written");
        fs::write(path, good).expect("writable");
    }
    // With what this version wrote it goes on where it was.
    fs::write(dir.path().join("app.log"), "one\ntwo\nthree\n").expect("writable");
    let mut again = node(dir.path(), &body).start();
    again.wait_for("the third record", |_| {
        fs::read_to_string(dir.path().join("out.ndjson")).is_ok_and(|text| text.lines().count() == 3)
    });
    again.stop_well();
}

#[test]
fn a_clock_that_jumps_costs_no_record_and_no_liveness() {
    let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
    if !library.exists() {
        skip("no libfaketime: Debian's package faketime");
        return;
    }
    let dir = folder();
    let clock = dir.path().join("clock");
    let (log, out) = (dir.path().join("app.log"), dir.path().join("out.ndjson"));
    fs::write(&clock, "+0").expect("writable");
    fs::write(&log, "line 0\n").expect("writable");
    let words = [
        "env",
        &format!("LD_PRELOAD={}", library.display()),
        &format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        // A preload that is not loaded would make this test say nothing.
        "NO_FAKE_STAT=1",
    ];
    let mut node = node(dir.path(), &body(dir.path())).under(&words).start();
    // Appended to: a file that is written anew is empty for a moment, and then rightly read from its start.
    let mut lines = fs::OpenOptions::new().append(true).open(&log).expect("just written");
    let mut years = Vec::new();
    for (at, jump) in ["+0", "+3650d", "-3650d", "+1d", "-1h"].iter().enumerate() {
        fs::write(&clock, jump).expect("writable");
        writeln!(lines, "line {}", at + 1).expect("writable");
        node.wait_for("the line after the jump", |_| {
            fs::read_to_string(&out).is_ok_and(|out| out.contains(&format!("line {}\"", at + 1)))
        });
        assert_eq!(node.get("/live").map(|(status, _)| status), Some(200));
        assert_eq!(node.get("/ready").map(|(status, _)| status), Some(200), "after {jump}");
        let out = fs::read_to_string(&out).expect("written");
        let last: serde_json::Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
        years.push(last["time"].as_str().expect("a time")[..4].to_owned());
    }
    assert!(years[1] > years[0] && years[2] < years[0], "the clock did jump: {years:?}");
    node.assert_ledger_closes();
    node.stop_well();
    let out = fs::read_to_string(&out).expect("written");
    assert_eq!(out.lines().count(), 6, "each once: {out}");
}
