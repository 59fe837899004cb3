//! What `deploy/` ships, run on a real Docker engine: the image, its two profiles with exactly the flags of the
//! documentation, stops and kills under load, a small memory limit, secrets.
//!
//! `LONGSHORE_PROGRAM` names a static program for the image (`.ci/run` builds it); without it, or without an engine, these
//! tests are skipped, which `.ci/run` makes a failure. Containers use the host's network: servers of the tests listen on
//! loopback.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::engine::unique;
use crate::harness::engine::Engine;
use crate::harness::forward::{Client, ack_of, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::records::{Numbers, at};
use crate::harness::{folder, free_port, get, metric, send_signal, wait_for};

pub const IMAGE: &str = "longshore:test";
pub const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";
const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: &str = "canary-7f1c0ffee5";
/// For senders that wait for each ack: without it one record a second.
const QUICK: (&str, &str) = ("compression = \"gzip\"", "batch = { size = \"1MiB\", wait = \"5ms\" }");
/// What both profiles have in common; each is a flag of the documentation's chapter.
const HARDENED: [&str; 9] = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=64m",
    "--memory-swap=64m",
    "--cpus=0.5",
    "--network=host",
    "--stop-timeout=30",
    "--tmpfs=/tmp:mode=1777,size=16m",
];

/// The engine, with the image in it.
pub fn engine() -> Option<Engine> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let engine = Engine::find()?;
    let built = *BUILT.get_or_init(|| engine.build_longshore(IMAGE, env!("CARGO_PKG_VERSION"), REVISION));
    built.then_some(engine)
}

/// A configuration of `deploy/` with this test's ports and folder, and the token as a secret; where both are.
pub struct Files {
    config: PathBuf,
    secrets: PathBuf,
    telemetry: u16,
}

pub fn files(dir: &Path, name: &str, changes: &[(&str, &str)]) -> Files {
    let telemetry = free_port();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let mut text = fs::read_to_string(source).expect("it is there").replace("9600", &telemetry.to_string());
    for (from, to) in changes {
        assert!(text.contains(from), "deploy/{name} has no {from}");
        text = text.replace(from, to);
    }
    let (config, secrets) = (dir.join(name), dir.join("secrets"));
    fs::write(&config, text).expect("writable");
    fs::create_dir_all(&secrets).expect("writable");
    fs::write(secrets.join("ingest_token"), format!("{TOKEN}\n")).expect("writable");
    Files { config, secrets, telemetry }
}

impl Files {
    /// The options of a container with these files.
    pub fn options(&self, url: &str) -> Vec<String> {
        vec![
            format!("--volume={}:/etc/longshore/longshore.toml:ro", self.config.display()),
            format!("--volume={}:/run/secrets:ro", self.secrets.display()),
            format!("--env=INGEST_URL={url}"),
        ]
    }

    fn metric(&self, name: &str) -> u64 {
        let address = ([127, 0, 0, 1], self.telemetry).into();
        get(address, "/metrics").map_or(0, |(_, text)| metric(&text, name, &[]))
    }

    fn health(&self) -> Option<(u16, Value)> {
        let (status, text) = get(([127, 0, 0, 1], self.telemetry).into(), "/health")?;
        Some((status, serde_json::from_str(&text).expect("JSON")))
    }
}

/// A program for the containers' awk: `lines` numbered JSON lines.
fn counter(lines: u64) -> String {
    format!(
        r#"BEGIN {{ for (n = 0; n < {lines}; n++) printf "{{\"level\":\"info\",\"seq\":%d,\"pad\":\"0123456789\"}}\n", n }}"#
    )
}

fn tailer_options(files: &Files, engine: &Engine, volume: &str, url: &str) -> Vec<String> {
    let mut options: Vec<String> = HARDENED.iter().map(|flag| (*flag).to_owned()).collect();
    options.extend(files.options(url));
    options.push("--user=0:0".to_owned());
    options.push(format!("--volume={volume}:/data"));
    options.push(format!("--volume={}:/var/lib/docker/containers:ro", engine.containers().display()));
    options
}

fn receiver_options(files: &Files, url: &str) -> Vec<String> {
    let mut options: Vec<String> = HARDENED.iter().map(|flag| (*flag).to_owned()).collect();
    options.extend(files.options(url));
    options
}

/// A data folder in memory, of the receiver's user.
const IN_MEMORY: &str = "--tmpfs=/var/lib/longshore:mode=0700,uid=65532,gid=65532,size=16m";
const RUN: [&str; 3] = ["run", "--config", "/etc/longshore/longshore.toml"];

/// `longshore audit` in that container closes.
fn audit_closes(engine: &Engine, id: &str) {
    engine.docker(&["exec", id, "/longshore", "audit", "--config", "/etc/longshore/longshore.toml"]);
}

/// What `docker inspect` says of a container of either profile that was started with [`HARDENED`].
fn assert_hardened(engine: &Engine, id: &str, user: &str) {
    wait_for("a healthy container", PATIENCE, || engine.inspect(id, "/State/Health/Status") == "healthy");
    let expected = [
        ("/Config/User", json!(user)),
        (
            "/Config/Healthcheck/Test",
            json!(["CMD", "/longshore", "healthcheck", "--config", "/etc/longshore/longshore.toml"]),
        ),
        ("/Config/Healthcheck/Interval", json!(10_000_000_000u64)),
        ("/Config/Healthcheck/Timeout", json!(3_000_000_000u64)),
        ("/Config/Healthcheck/Retries", json!(3)),
        ("/Config/StopTimeout", json!(30)),
        ("/HostConfig/ReadonlyRootfs", json!(true)),
        ("/HostConfig/CapDrop", json!(["ALL"])),
        ("/HostConfig/CapAdd", Value::Null),
        ("/HostConfig/SecurityOpt", json!(["no-new-privileges"])),
        ("/HostConfig/Privileged", json!(false)),
        ("/HostConfig/Memory", json!(64 << 20)),
        ("/HostConfig/MemorySwap", json!(64 << 20)),
        ("/HostConfig/NanoCpus", json!(500_000_000)),
        ("/State/OOMKilled", json!(false)),
        ("/State/Running", json!(true)),
    ];
    for (path, value) in expected {
        assert_eq!(engine.inspect(id, path), value, "{path}");
    }
    assert_eq!(engine.inspect(id, "/HostConfig/Tmpfs/~1tmp"), "mode=1777,size=16m");
    // And what the kernel made of it.
    let pid = engine.inspect(id, "/State/Pid");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(of(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!(of("NoNewPrivs:"), "1");
    let uid = user.split(':').next().expect("a user");
    assert_eq!(of("Uid:").split_whitespace().collect::<Vec<_>>(), [uid; 4]);
}

fn of(server: &Server, name: &str) -> Vec<Value> {
    let all = server.accepted();
    all.into_iter().filter(|record| at(record, "container.name") == Some(&json!(name))).collect()
}

pub fn refs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

#[test]
fn it_stops_in_order_below_an_init_too() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let server = Server::start(|_, _| Answer::status(200));
    let port = free_port();
    let listen = format!("tcp://127.0.0.1:{port}");
    let files = files(dir.path(), "receiver.toml", &[("tcp://0.0.0.0:24224", &listen), QUICK]);
    let mut options = receiver_options(&files, &server.url());
    options.extend([IN_MEMORY.to_owned(), "--init".to_owned()]);
    let receiver = engine.run_image(&unique("init"), &refs(&options), IMAGE, &RUN);
    wait_for("its port", PATIENCE, || files.health().is_some());
    let pid = engine.inspect(&receiver.id, "/State/Pid").as_u64().expect("a process id");
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
    assert_ne!(name.trim(), "longshore", "the init is process 1");
    send_until_acked(port, 20);
    audit_closes(&engine, &receiver.id);
    let began = Instant::now();
    engine.docker(&["stop", &receiver.id]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}: the signal was passed on", began.elapsed());
    assert_eq!(engine.inspect(&receiver.id, "/State/ExitCode"), 0, "{}", engine.logs(&receiver.id));
    assert_eq!(server.accepted().len(), 20);
}

#[test]
fn what_a_stopped_receiver_leaves_on_its_volume_is_delivered_by_the_next_version_of_it() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let (port, target) = (free_port(), free_port());
    let listen = format!("tcp://127.0.0.1:{port}");
    let changes = [("tcp://0.0.0.0:24224", listen.as_str()), QUICK, ("25s", "2s")];
    let files = files(dir.path(), "receiver.toml", &changes);
    let mut options = receiver_options(&files, &format!("http://127.0.0.1:{target}/ingest"));
    options.push(format!("--volume={}:/var/lib/longshore", unique("data")));
    let next = "longshore:next";
    engine.docker(&["tag", IMAGE, next]);
    let old = engine.run_image(&unique("receiver"), &refs(&options), IMAGE, &RUN);
    wait_for("its port", PATIENCE, || files.health().is_some());
    // Nobody takes them: acknowledged means that they are in the volume.
    send_until_acked(port, 300);
    audit_closes(&engine, &old.id);
    engine.docker(&["stop", &old.id]);
    assert_eq!(engine.inspect(&old.id, "/State/ExitCode"), 3, "{}", engine.logs(&old.id));
    let log = engine.logs(&old.id);
    let last = log.lines().rev().find(|line| line.starts_with('{')).expect("a line of JSON");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert!(last["message"].as_str().is_some_and(|text| text.starts_with("a backlog stays in the disk log")), "{last}");
    assert_eq!(last["records"], 300, "{last}");

    let server = Server::start_at(target, |_, _| Answer::status(200));
    let new = engine.run_image(&unique("receiver"), &refs(&options), next, &RUN);
    let expected = BTreeMap::from([("sender".to_owned(), 300)]);
    wait_for("the backlog", PATIENCE, || server.accepted().len() >= 300);
    audit_closes(&engine, &new.id);
    engine.docker(&["stop", &new.id]);
    assert_eq!(engine.inspect(&new.id, "/State/ExitCode"), 0, "{}", engine.logs(&new.id));
    let numbers = Numbers::of(&server.accepted(), "name", "seq");
    assert!(numbers.missing(&expected).is_empty() && numbers.repeats() == 0, "{:?}", numbers.missing(&expected));
}

#[test]
fn the_tailer_without_any_capability_ships_100_000_lines_and_is_what_the_documentation_says() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let server = Server::start(|_, _| Answer::status(200));
    let files = files(dir.path(), "tailer.toml", &[]);
    let (volume, app, name) = (unique("data"), unique("app"), unique("tailer"));
    let options = tailer_options(&files, &engine, &volume, &server.url());
    let tailer = engine.run_image(&name, &refs(&options), IMAGE, &RUN);
    let container = engine.run(&app, &[], &["awk", &counter(100_000)]);
    assert_eq!(container.wait(), "0");
    wait_for("100,000 lines", PATIENCE, || of(&server, &app).len() >= 100_000);
    assert_hardened(&engine, &tailer.id, "0:0");
    let inspect = |path: &str| engine.inspect(&tailer.id, path);
    let mounts = inspect("/Mounts");
    let logs =
        mounts.as_array().into_iter().flatten().find(|mount| mount["Destination"] == "/var/lib/docker/containers");
    assert_eq!(logs.map(|mount| &mount["RW"]), Some(&json!(false)), "{mounts}");

    audit_closes(&engine, &tailer.id);
    engine.docker(&["stop", &tailer.id]);
    assert_eq!(inspect("/State/ExitCode"), 0);
    assert_eq!(inspect("/State/OOMKilled"), false);
    let records = of(&server, &app);
    let numbers = Numbers::of(&records, "container.name", "seq");
    let expected = BTreeMap::from([(app.clone(), 100_000)]);
    assert!(numbers.missing(&expected).is_empty(), "missing: {:?}", numbers.missing(&expected));
    assert_eq!(numbers.repeats(), 0, "{:?}", numbers.duplicates());
    assert_eq!(at(&records[0], "container.image"), Some(&json!("longshore-test:1")));
    // Its own log is in the same folder of containers and is not shipped.
    assert!(of(&server, &name).is_empty(), "longshore ships its own log");
}

#[test]
fn the_receiver_as_65532_ships_100_000_lines_of_the_fluentd_driver_and_keeps_its_secret() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let server = Server::start(|_, _| Answer::status(200));
    let port = free_port();
    let listen = format!("tcp://127.0.0.1:{port}");
    let files = files(dir.path(), "receiver.toml", &[("tcp://0.0.0.0:24224", &listen), ("info", "trace")]);
    let mut options = receiver_options(&files, &server.url());
    options.push(IN_MEMORY.to_owned());
    let name = unique("receiver");
    let receiver = engine.run_image(&name, &refs(&options), IMAGE, &RUN);
    wait_for("its port", PATIENCE, || files.health().is_some());
    let app = unique("app");
    let address = format!("fluentd-address=127.0.0.1:{port}");
    let driver = ["--log-driver=fluentd", "--log-opt", &address, "--log-opt", "tag=api.{{.Name}}"];
    let container = engine.run(&app, &driver, &["awk", &counter(100_000)]);
    assert_eq!(container.wait(), "0");
    wait_for("100,000 lines", PATIENCE, || of(&server, &app).len() >= 100_000);
    assert_hardened(&engine, &receiver.id, "65532:65532");
    let tokens: Vec<_> =
        server.requests().iter().filter_map(|(r, _)| r.header("authorization").map(str::to_owned)).collect();
    assert!(tokens.iter().all(|token| *token == format!("Bearer {TOKEN}")) && !tokens.is_empty(), "{tokens:?}");

    // The secret is nowhere where others can read it.
    let telemetry = ([127, 0, 0, 1], files.telemetry).into();
    let explained =
        engine.docker(&["exec", &receiver.id, "/longshore", "check", "--explain", "/etc/longshore/longshore.toml"]);
    let mut told = vec![explained, engine.logs(&receiver.id)];
    told.extend(["/metrics", "/health"].map(|path| get(telemetry, path).expect("served").1));
    for text in &told {
        assert!(!text.is_empty() && !text.contains(TOKEN), "the token is in {text}");
    }
    audit_closes(&engine, &receiver.id);
    engine.docker(&["stop", &receiver.id]);
    assert_eq!(engine.inspect(&receiver.id, "/State/ExitCode"), 0);
    assert!(!engine.logs(&receiver.id).contains(TOKEN));
    let expected = BTreeMap::from([(app.clone(), 100_000)]);
    let records = of(&server, &app);
    let numbers = Numbers::of(&records, "container.name", "seq");
    assert!(numbers.missing(&expected).is_empty() && numbers.repeats() == 0, "{:?}", numbers.missing(&expected));
}

#[test]
fn stops_under_load_lose_nothing_and_repeat_nothing() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let server = Server::start(|_, _| Answer::status(200));
    let files = files(dir.path(), "tailer.toml", &[]);
    let (volume, app) = (unique("data"), unique("app"));
    let options = tailer_options(&files, &engine, &volume, &server.url());
    let tailer = engine.run_image(&unique("tailer"), &refs(&options), IMAGE, &RUN);
    // It writes until the last stop is over, some thousand lines a second, so that none of them finds an idle longshore.
    let gate = dir.path().join("gate");
    fs::create_dir(&gate).expect("writable");
    let script = r#"n=0; while [ ! -e /gate/enough ]; do
        awk -v n=$n 'BEGIN { for (i = 0; i < 200; i++) printf "{\"level\":\"info\",\"seq\":%d,\"pad\":\"0123456789\"}\n", n + i }'
        n=$((n + 200)); sleep 0.02; done; echo $n >/gate/.written; mv /gate/.written /gate/written"#;
    let volume = format!("--volume={}:/gate", gate.display());
    let container = engine.run(&app, &["--log-opt", "max-size=2g", &volume], &["sh", "-c", script]);
    let stops = std::env::var("LONGSHORE_STOPS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut longest = Duration::ZERO;
    for stop in 1..=stops {
        let before = server.requests().len();
        wait_for(&format!("records before stop {stop}"), PATIENCE, || server.requests().len() > before + 2);
        let began = Instant::now();
        engine.docker(&["stop", &tailer.id]);
        longest = longest.max(began.elapsed());
        assert_eq!(engine.inspect(&tailer.id, "/State/ExitCode"), 0, "{}", engine.logs(&tailer.id));
        assert!(!gate.join("written").exists(), "the application writes all the time");
        engine.docker(&["start", &tailer.id]);
    }
    assert!(longest < Duration::from_secs(30), "the grace period: {longest:?}");
    fs::write(gate.join("enough"), "").expect("writable");
    assert_eq!(container.wait(), "0");
    let lines: u64 = fs::read_to_string(gate.join("written")).expect("readable").trim().parse().expect("a number");
    wait_for(&format!("all {lines} lines"), PATIENCE, || server_has(&server, lines));
    println!("{stops} stops under load, the longest {:.1} s, {lines} lines", longest.as_secs_f64());
    audit_closes(&engine, &tailer.id);
    engine.docker(&["stop", &tailer.id]);
    let records = of(&server, &app);
    let numbers = Numbers::of(&records, "container.name", "seq");
    let expected = BTreeMap::from([(app.clone(), lines)]);
    assert!(numbers.missing(&expected).is_empty(), "missing: {:?}", numbers.missing(&expected));
    assert_eq!(numbers.repeats(), 0, "{:?}", numbers.duplicates());
}

/// Whether so many records were taken: by their line ends, since parsing them all again and again takes longer than they do.
fn server_has(server: &Server, records: u64) -> bool {
    let bodies = server.requests();
    let taken = bodies.iter().filter(|(_, status)| *status == 200);
    taken.map(|(request, _)| request.body.iter().filter(|byte| **byte == b'\n').count() as u64).sum::<u64>() >= records
}

/// Sends numbered messages one at a time and resends each until it is acked, as the fluentd driver does.
fn send_until_acked(port: u16, count: u64) {
    let mut seq = 0;
    'connection: while seq < count {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        while seq < count {
            let chunk = format!("c{seq}");
            let record = map(&[("seq", seq.into()), ("name", "sender".into())]);
            let frame = message("api.sender", 1_700_000_000.into(), record, Some(option(&chunk, &[])));
            let mut answer = vec![0; ack_of(&chunk).len()];
            if stream.write_all(&frame).is_err() || stream.read_exact(&mut answer).is_err() {
                continue 'connection;
            }
            assert_eq!(answer, ack_of(&chunk));
            seq += 1;
        }
    }
}

#[test]
fn what_was_acked_survives_kills_under_restart_unless_stopped() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let server = Server::start(|_, _| Answer::status(200));
    let port = free_port();
    let listen = format!("tcp://127.0.0.1:{port}");
    let files = files(dir.path(), "receiver.toml", &[("tcp://0.0.0.0:24224", &listen), QUICK]);
    let mut options = receiver_options(&files, &server.url());
    options.push("--restart=unless-stopped".to_owned());
    options.push(format!("--volume={}:/var/lib/longshore", unique("data")));
    let receiver = engine.run_image(&unique("receiver"), &refs(&options), IMAGE, &RUN);
    let count = 600;
    let sender = std::thread::spawn(move || send_until_acked(port, count));
    for kills in 1..=3 {
        let before = server.accepted().len();
        wait_for("records between two kills", PATIENCE, || {
            server.accepted().len() > before + 3 || sender.is_finished()
        });
        // Time for a save of the cursors: what was delivered since the last one comes again.
        std::thread::sleep(Duration::from_secs(1));
        let pid = engine.inspect(&receiver.id, "/State/Pid").as_u64().expect("a process id");
        send_signal(u32::try_from(pid).expect("small"), Signal::KILL);
        wait_for("the restart", PATIENCE, || engine.inspect(&receiver.id, "/RestartCount") == kills);
    }
    sender.join().expect("every message is acked at last");
    let expected = BTreeMap::from([("sender".to_owned(), count)]);
    // Acknowledged means on the disk; what the server has not got by now, it gets from there.
    wait_for("all that was acked", PATIENCE, || {
        Numbers::of(&server.accepted(), "name", "seq").missing(&expected).is_empty()
    });
    // It may still be starting after the last kill.
    wait_for("its port", PATIENCE, || files.health().is_some());
    audit_closes(&engine, &receiver.id);
    // Cursors are saved 250 ms after a delivery, and a message takes some 5 ms.
    let repeats = Numbers::of(&server.accepted(), "name", "seq").repeats();
    assert!(repeats <= 3 * 200, "{repeats} repeated over three kills");
}

#[test]
fn a_container_with_request_ack_survives_restarts_of_the_receiver() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let server = Server::start(|_, _| Answer::status(200));
    let port = free_port();
    let listen = format!("tcp://127.0.0.1:{port}");
    let files = files(dir.path(), "receiver.toml", &[("tcp://0.0.0.0:24224", &listen), QUICK]);
    let mut options = receiver_options(&files, &server.url());
    options.push(IN_MEMORY.to_owned());
    let receiver = engine.run_image(&unique("receiver"), &refs(&options), IMAGE, &RUN);
    wait_for("its port", PATIENCE, || files.health().is_some());
    let app = unique("app");
    let address = format!("fluentd-address=127.0.0.1:{port}");
    let driver = [
        "--log-driver=fluentd",
        "--log-opt",
        &address,
        "--log-opt",
        "fluentd-request-ack=true",
        "--log-opt",
        "fluentd-retry-wait=100ms",
        "--log-opt",
        "fluentd-max-retries=100",
    ];
    // Lines go on until the file is there: a fast machine must not be through before the second restart. It lives on after
    // its last line, since at the end of a container Docker waits 10 s for its driver, then cuts it off.
    let gate = dir.path().join("gate");
    fs::create_dir(&gate).expect("writable");
    let script = r#"n=0; while [ ! -e /gate/enough ]; do
        printf '{"level":"info","seq":%d,"pad":"0123456789"}\n' $n; n=$((n + 1)); done
        echo $n >/gate/.written; mv /gate/.written /gate/written; sleep 600"#;
    let volume = format!("--volume={}:/gate", gate.display());
    let _container = engine.run(&app, &[&driver[..], &[&volume]].concat(), &["sh", "-c", script]);
    for restart in 1..=2 {
        let before = of(&server, &app).len();
        wait_for(&format!("lines before restart {restart}"), PATIENCE, || of(&server, &app).len() > before + 50);
        engine.docker(&["restart", &receiver.id]);
    }
    fs::write(gate.join("enough"), "").expect("writable");
    wait_for("the number of lines", PATIENCE, || gate.join("written").exists());
    let lines = fs::read_to_string(gate.join("written")).expect("readable").trim().parse().expect("a number");
    let expected = BTreeMap::from([(app.clone(), lines)]);
    wait_for("all lines", PATIENCE, || {
        Numbers::of(&of(&server, &app), "container.name", "seq").missing(&expected).is_empty()
    });
    wait_for("its port", PATIENCE, || files.health().is_some());
    audit_closes(&engine, &receiver.id);
}

#[test]
fn with_64_mib_a_quarter_of_a_core_and_a_dead_sink_it_is_never_killed_and_says_so() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let port = free_port();
    let listen = format!("tcp://127.0.0.1:{port}");
    let files = files(dir.path(), "receiver.toml", &[("tcp://0.0.0.0:24224", &listen)]);
    let mut options: Vec<String> = HARDENED.iter().map(|flag| (*flag).to_owned()).collect();
    options.retain(|flag| !flag.starts_with("--cpus"));
    options.push("--cpus=0.25".to_owned());
    options.extend(files.options(&format!("http://127.0.0.1:{}/", free_port())));
    options.push(IN_MEMORY.to_owned());
    let receiver = engine.run_image(&unique("receiver"), &refs(&options), IMAGE, &RUN);
    wait_for("its port", PATIENCE, || files.health().is_some());
    let pad = "x".repeat(10_000);
    let load: Vec<_> = (0..4)
        .map(|sender| {
            let pad = pad.clone();
            std::thread::spawn(move || {
                let mut client = Client::tcp(port);
                for seq in 0..20_000u32 {
                    let record = map(&[("pad", pad.as_str().into()), ("seq", seq.into())]);
                    let chunk = format!("{sender}-{seq}");
                    if client.try_send(&message("t", 1_700_000_000.into(), record, Some(option(&chunk, &[])))).is_err()
                    {
                        return;
                    }
                }
            })
        })
        .collect();
    wait_for("a dead sink in /health", PATIENCE, || {
        files.health().is_some_and(|(status, body)| status == 503 && body["checks"]["sink.central"]["status"] == "fail")
    });
    std::thread::sleep(Duration::from_secs(10));
    assert!(files.metric("longshore_memory_used_bytes") > 0);
    // Readiness tells: its small disk log is full, and so nothing more is taken.
    let ready = || get(([127, 0, 0, 1], files.telemetry).into(), "/ready").unwrap_or_default();
    wait_for("red readiness", PATIENCE, || ready().0 == 503);
    let reason = ready().1;
    assert!(reason.starts_with("progress.apps: ") || reason.starts_with("memory: "), "{reason}");
    assert_eq!(engine.inspect(&receiver.id, "/State/Running"), true, "{}", engine.logs(&receiver.id));
    assert_eq!(engine.inspect(&receiver.id, "/State/OOMKilled"), false);
    assert_eq!(engine.inspect(&receiver.id, "/RestartCount"), 0);
    assert_eq!(engine.inspect(&receiver.id, "/State/Health/Status"), "healthy", "somebody else's server is down");
    audit_closes(&engine, &receiver.id);
    engine.docker(&["rm", "-f", &receiver.id]);
    for sender in load {
        sender.join().expect("a sender that ends");
    }
}
