//! SIGHUP: the configuration is replaced while records flow, and nothing is lost, doubled or refused by it; one with
//! mistakes, or one that can not be started, changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::harness::forward::{Client, map, message, option};
use crate::harness::http::{Answer, Server};
use crate::harness::records::{Numbers, assert_each_once, records, records_so_far};
use crate::harness::sender::Senders;
use crate::harness::{Node, folder, free_port, node};

/// Something that goes on until it is told to stop, and says how far it got.
struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(mut write: impl FnMut(u64) + Send + 'static) -> Writer {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                write(counted.load(Ordering::Relaxed));
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Writer { stop, count, thread }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic");
        self.count.load(Ordering::Relaxed)
    }
}

/// A log that is renamed away every 500 lines and goes on under its name: so the name, and what it was called before,
/// have to be followed across a reload.
fn rotating(path: PathBuf, name: &'static str) -> Writer {
    let mut file = None;
    Writer::start(move |seq| {
        if seq.is_multiple_of(500) {
            let _ = fs::remove_file(path.with_extension("log.2"));
            let _ = fs::rename(path.with_extension("log.1"), path.with_extension("log.2"));
            let _ = fs::rename(&path, path.with_extension("log.1"));
            file = None;
        }
        let file = file.get_or_insert_with(|| File::create(&path).expect("writable"));
        writeln!(file, "{{\"p\":\"{name}\",\"seq\":{seq}}}").expect("writable");
    })
}

/// A sender that asks for no acks, on one connection for ever: it would lose what is in a socket that is closed.
fn without_acks(port: u16, name: &'static str) -> Writer {
    let mut client = Client::tcp(port);
    Writer::start(move |seq| {
        let record = map(&[("p", name.into()), ("seq", seq.into())]);
        client.send(&message("t", 1_700_000_000.into(), record, None));
    })
}

fn forward(name: &str, listen: &str, more: &str) -> String {
    format!("[inputs.{name}]\ntype = \"forward\"\nlisten = [\"{listen}\"]\n{more}\n")
}

fn tailed(name: &str, path: &Path) -> String {
    format!("[inputs.{name}]\ntype = \"file\"\npaths = [{path:?}]\nformat = \"json\"\n")
}

fn file_sink(name: &str, path: &Path) -> String {
    format!("[sinks.{name}]\ntype = \"file\"\npath = {path:?}\n")
}

fn http_sink(name: &str, port: u16) -> String {
    format!("[sinks.{name}]\ntype = \"http\"\nurl = \"http://127.0.0.1:{port}/\"\nbatch = {{ wait = \"20ms\" }}\n")
}

fn settled(node: &mut Node) {
    node.wait_for("everything delivered", |node| node.undelivered(&[]) == 0);
}

fn both(dir: &Path, names: [&str; 2]) -> Vec<Value> {
    names.iter().flat_map(|name| records(&dir.join(name))).collect()
}

#[test]
fn ten_reloads_under_load_lose_nothing_double_nothing_and_close_no_connection() {
    let dir = folder();
    let (port, late_port) = (free_port(), free_port());
    let (log, late_log) = (dir.path().join("app.log"), dir.path().join("late.log"));
    let apps = forward("apps", &format!("tcp://127.0.0.1:{port}"), "");
    let body = |turn: u64| {
        let mut body = apps.clone() + &tailed("files", &log);
        if turn >= 4 {
            body += &forward("late", &format!("tcp://127.0.0.1:{late_port}"), "");
            body += &tailed("late_files", &late_log);
        }
        if turn % 4 == 2 {
            body += &format!("[pipeline]\nsteps = [{{ set = {{ turn = \"{turn}\" }} }}]\n");
        }
        // Another path each time, another sink beside it, one less.
        body += &file_sink("out", &dir.path().join(if turn.is_multiple_of(2) { "a.ndjson" } else { "b.ndjson" }));
        if turn % 3 == 1 {
            body += &file_sink("more", &dir.path().join("more.ndjson"));
        }
        body
    };
    let mut node = node(dir.path(), &body(0)).start();
    let senders = Senders::start(port, 4, Duration::from_millis(2));
    let files = rotating(log.clone(), "file");
    let plain = without_acks(port, "plain");
    let mut late = None;
    for turn in 1..=10 {
        let (before, lines, sent) = (senders.acked(), files.count(), plain.count());
        node.wait_for("records between two reloads", |_| {
            senders.acked() > before && files.count() > lines + 200 && plain.count() > sent + 50
        });
        node.reload(&body(turn));
        node.wait_for("the reload", |node| node.reloads("applied") == turn);
        if turn == 4 {
            late = Some((without_acks(late_port, "late"), rotating(late_log.clone(), "late_file")));
        }
    }
    let (late_plain, late_files) = late.expect("since the fourth");
    // The fan-out and the new inputs work, so the reloads did change something.
    node.wait_for("records of the late inputs", |node| {
        ["late", "late_files"].iter().all(|input| node.metric("longshore_input_records_total", &[("input", input)]) > 0)
    });
    assert_eq!(senders.resent(), 0, "no connection was closed:\n{}", node.log());
    let mut sent = senders.finish();
    for (name, writer) in [("file", files), ("plain", plain), ("late", late_plain), ("late_file", late_files)] {
        sent.insert(name.to_owned(), writer.finish());
    }
    let total: u64 = sent.values().sum();
    node.wait_for("everything received", |node| node.metric("longshore_input_records_total", &[]) >= total);
    settled(&mut node);
    node.assert_ledger_closes();
    assert_eq!(node.delivered("out"), total, "the ledger goes on over reloads");
    node.stop_well();
    let all = both(dir.path(), ["a.ndjson", "b.ndjson"]);
    assert_each_once(&all, "p", "seq", &sent);
    let turns: std::collections::BTreeSet<&str> = all.iter().filter_map(|record| record["turn"].as_str()).collect();
    assert_eq!(turns.into_iter().collect::<Vec<_>>(), ["10", "2", "6"], "the steps of each configuration were used");
    // The sink that came and went has each record once, too.
    let more = Numbers::of(&records(&dir.path().join("more.ndjson")), "p", "seq");
    assert!(more.duplicates().is_empty(), "{:?}", more.duplicates());
    assert!(node.log().contains("the new configuration is in force"), "{}", node.log());
}

#[test]
fn a_changed_listener_refuses_nobody_while_it_is_replaced() {
    let dir = folder();
    let (port, path) = (free_port(), dir.path().join("f.sock"));
    let sink = file_sink("out", &dir.path().join("out.ndjson"));
    let body = |turn: u64| {
        let more = format!("peer_connections_max = {}", 1000 + turn);
        forward("apps", &format!("tcp://127.0.0.1:{port}"), &more)
            + &forward("local", &format!("unix://{}", path.display()), &more)
            + &sink
    };
    let mut node = node(dir.path(), &body(0)).start();
    let unix = path.clone();
    // A refused or reset connection panics, and fails the test.
    let knocks = Writer::start(move |_| {
        TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
        UnixStream::connect(&unix).expect("somebody listens");
    });
    let senders = Senders::start(port, 2, Duration::from_millis(2));
    for turn in 1..=5 {
        let (knocked, acked) = (knocks.count(), senders.acked());
        node.wait_for("connections and acks", |_| knocks.count() > knocked + 20 && senders.acked() > acked);
        node.reload(&body(turn));
        node.wait_for("the reload", |node| node.reloads("applied") == turn);
    }
    knocks.finish();
    let sent = senders.finish();
    settled(&mut node);
    // Its connections were closed after their acks; a chunk whose first bytes were on their way came again.
    let found = Numbers::of(&records(&dir.path().join("out.ndjson")), "p", "seq");
    assert!(found.missing(&sent).is_empty(), "{:?}", found.missing(&sent));

    // One that is gone is gone, and so is its file.
    node.reload(&(forward("apps", &format!("tcp://127.0.0.1:{port}"), "") + &sink));
    node.wait_for("the reload", |node| node.reloads("applied") == 6);
    assert!(UnixStream::connect(&path).is_err() && !path.exists());
    TcpStream::connect(("127.0.0.1", port)).expect("this one stays");
    node.stop_well();
}

#[test]
fn a_configuration_with_mistakes_is_refused_and_the_running_one_goes_on() {
    let dir = folder();
    let port = free_port();
    let out = dir.path().join("out.ndjson");
    let good = forward("apps", &format!("tcp://127.0.0.1:{port}"), "") + &file_sink("out", &out);
    let mut node = node(dir.path(), &good).start();
    let senders = Senders::start(port, 1, Duration::from_millis(2));
    node.reload(&good.replace("path =", "pth ="));
    node.wait_for("the refusal", |node| node.reloads("refused") == 1);
    let log = node.log();
    let line = log.lines().find(|line| line.contains("did you mean `path`")).unwrap_or_default();
    assert!(line.contains("ERROR") && line.contains("longshore.toml:"), "{log}");
    assert!(log.contains("is refused; the one before goes on"), "{log}");
    let check = |node: &Node| {
        let (status, text) = node.get("/health").expect("answered");
        let health: Value = serde_json::from_str(&text).expect("JSON");
        (status, health["checks"]["config"]["status"].as_str().unwrap_or_default().to_owned(), text)
    };
    let (status, config, text) = check(&node);
    assert_eq!((status, config.as_str()), (200, "warn"), "{text}");
    let before = senders.acked();
    node.wait_for("acks after the refusal", |_| senders.acked() > before);

    // The one that runs, written again: nothing is replaced, and nothing is to be complained of.
    node.reload(&good);
    node.wait_for("the look at it", |node| node.reloads("unchanged") == 1);
    assert_eq!(check(&node).1, "pass");
    assert_eq!(senders.resent(), 0);
    let sent = senders.finish();
    settled(&mut node);
    node.stop_well();
    assert_each_once(&records(&out), "p", "seq", &sent);
}

#[test]
fn a_configuration_that_can_not_be_started_gives_way_to_the_one_before() {
    let dir = folder();
    let port = free_port();
    let out = dir.path().join("out.ndjson");
    let apps = forward("apps", &format!("tcp://127.0.0.1:{port}"), "");
    let log = dir.path().join("app.log");
    let good = apps.clone() + &tailed("files", &log) + &file_sink("out", &out);
    let mut node = node(dir.path(), &good).start();
    let senders = Senders::start(port, 2, Duration::from_millis(2));
    let files = rotating(log.clone(), "file");
    // A file where a folder has to be: no check can know, and no start can go on.
    let bad = apps + &tailed("files", &log) + &file_sink("out", &dir.path().join("longshore.toml/out.ndjson"));
    for turn in 1..=3 {
        let (acked, lines) = (senders.acked(), files.count());
        node.wait_for("records", |_| senders.acked() > acked && files.count() > lines + 100);
        node.reload(&bad);
        node.wait_for("the failure", |node| node.reloads("failed") == turn);
        // What is in force is the text of before: the same mistake is tried again, and fails again.
    }
    let (acked, lines) = (senders.acked(), files.count());
    node.wait_for("acks of the one before", |_| senders.acked() > acked && files.count() > lines + 100);
    assert!(node.log().contains("the one before is started again"), "{}", node.log());
    assert_eq!(senders.resent(), 0, "no connection was closed");
    let mut sent = senders.finish();
    sent.insert("file".to_owned(), files.finish());
    let total: u64 = sent.values().sum();
    node.wait_for("everything received", |node| node.metric("longshore_input_records_total", &[]) >= total);
    settled(&mut node);
    node.assert_ledger_closes();
    fs::write(dir.path().join("longshore.toml"), {
        let text = fs::read_to_string(dir.path().join("longshore.toml")).expect("ours");
        text.replace("longshore.toml/out.ndjson", "out.ndjson")
    })
    .expect("ours");
    node.stop_well();
    assert_each_once(&records(&out), "p", "seq", &sent);
}

#[test]
fn what_only_a_restart_can_change_is_named_and_stays() {
    let dir = folder();
    let port = free_port();
    let body =
        forward("apps", &format!("tcp://127.0.0.1:{port}"), "") + &file_sink("out", &dir.path().join("o.ndjson"));
    let mut node = node(dir.path(), &body).with_node("memory = \"64MiB\"\nworkers = 1").start();
    let config = dir.path().join("longshore.toml");
    let text = fs::read_to_string(&config).expect("ours");
    let data = format!("data_dir = {:?}", dir.path().join("data"));
    assert!(text.contains(&data), "{text}");
    let changed = text
        .replace(&data, &format!("data_dir = {:?}", dir.path().join("other")))
        .replace("\"64MiB\"", "\"128MiB\"")
        .replace("workers = 1", "workers = 2")
        .replace("[telemetry]\n", "[telemetry]\nlog = { level = \"debug\", format = \"json\" }\n");
    fs::write(&config, changed).expect("ours");
    node.signal(rustix::process::Signal::HUP);
    node.wait_for("the reload", |node| node.reloads("applied") == 1);
    let log = node.log();
    for (key, stays) in [("data_dir", "/data"), ("memory", "64MiB"), ("workers", "1"), ("log format", "text")] {
        let line = log.lines().find(|line| line.contains("by a restart only") && line.contains(key));
        assert!(line.is_some_and(|line| line.contains(stays)), "{key}: {log}");
    }
    assert!(!dir.path().join("other").exists());
    assert_eq!(node.metric("longshore_memory_budget_bytes", &[]), 64 << 20);
    let mut client = Client::tcp(port);
    client.send(&message("t", 1_700_000_000.into(), map(&[("seq", 0.into())]), Some(option("c", &[]))));
    client.expect_ack("c");
    fs::write(&config, text).expect("ours");
    node.stop_well();
}

#[test]
fn a_dead_sink_is_mended_by_a_reload_and_gets_everything_once() {
    let dir = folder();
    let (port, dead) = (free_port(), free_port());
    let out = dir.path().join("out.ndjson");
    let apps = forward("apps", &format!("tcp://127.0.0.1:{port}"), "");
    let http = |port: u16| http_sink("central", port);
    let log = dir.path().join("app.log");
    let inputs = apps + &tailed("files", &log);
    let mut node = node(dir.path(), &(inputs.clone() + &file_sink("out", &out) + &http(dead))).start();
    let senders = Senders::start(port, 2, Duration::from_millis(1));
    let files = rotating(log, "file");
    node.wait_for("a backlog", |node| node.metric("longshore_buffered", &[("sink", "central")]) > 5_000);
    // Another change first: the backlog of the dead one goes through it.
    let steps = "[pipeline]\nsteps = [{ set = { turn = \"1\" } }]\n";
    node.reload(&(inputs.clone() + steps + &file_sink("out", &out) + &http(dead)));
    node.wait_for("the reload", |node| node.reloads("applied") == 1);
    node.assert_ledger_closes();
    let (kept, backlog) = (node.delivered("out"), node.undelivered(&[("sink", "central")]));
    assert!(backlog > 5_000, "{backlog}");
    node.wait_for("the other sink", |node| node.delivered("out") > kept);
    // Then an address where somebody answers.
    let server = Server::start(|_, _| Answer::status(200));
    node.reload(&(inputs + steps + &file_sink("out", &out) + &http(server.port)));
    node.wait_for("the reload", |node| node.reloads("applied") == 2);
    assert_eq!(senders.resent(), 0);
    let mut sent: BTreeMap<String, u64> = senders.finish();
    sent.insert("file".to_owned(), files.finish());
    node.wait_for("everything in the file", |_| {
        let found = Numbers::of(&records_so_far(&out), "p", "seq");
        found.missing(&sent).is_empty()
    });
    settled(&mut node);
    node.assert_ledger_closes();
    node.stop_well();
    let found = Numbers::of(&records(&out), "p", "seq");
    assert!(found.duplicates().is_empty(), "the live sink got nothing twice: {:?}", found.duplicates());
    assert_each_once(&server.accepted(), "p", "seq", &sent);
}

#[test]
fn a_sink_that_is_gone_is_in_no_figure_and_holds_nobody_up() {
    let dir = folder();
    let (port, dead) = (free_port(), free_port());
    let apps = forward("apps", &format!("tcp://127.0.0.1:{port}"), "");
    let out = dir.path().join("out.ndjson");
    let http = format!("[sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{dead}/\"\n");
    let mut node = node(dir.path(), &(apps.clone() + &file_sink("out", &out) + &http)).start();
    let senders = Senders::start(port, 1, Duration::from_millis(1));
    node.wait_for("records", |node| node.metric("longshore_buffered", &[("sink", "central")]) > 500);
    node.reload(&(apps + &file_sink("out", &out)));
    node.wait_for("the reload", |node| node.reloads("applied") == 1);
    node.assert_ledger_closes();
    assert!(!node.get("/metrics").expect("answered").1.contains("sink=\"central\""));
    assert!(!node.get("/health").expect("answered").1.contains("sink.central"));
    let acked = senders.acked();
    node.wait_for("acks", |_| senders.acked() > acked);
    let sent = senders.finish();
    settled(&mut node);
    // Exit code 0: nothing is left that anybody is to get.
    node.stop_well();
    assert_each_once(&records(&out), "p", "seq", &sent);
}

#[test]
fn an_input_of_files_that_is_gone_holds_none_of_them_and_is_read_on_when_it_comes_back() {
    let dir = folder();
    let (log, other, out) = (dir.path().join("app.log"), dir.path().join("other.log"), dir.path().join("out.ndjson"));
    fs::write(&log, "{\"p\":\"file\",\"seq\":0}\n").expect("writable");
    File::create(&other).expect("writable");
    let rest = tailed("others", &other) + &file_sink("out", &out);
    let mut node = node(dir.path(), &(tailed("files", &log) + &rest)).start();
    node.wait_for("the record", |node| node.delivered("out") == 1);
    let open = |node: &Node| {
        let links = fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("runs").flatten();
        links.filter_map(|link| fs::read_link(link.path()).ok()).any(|path| path.to_string_lossy().contains("app.log"))
    };
    assert!(open(&node), "it is followed");
    node.reload(&rest);
    node.wait_for("the reload", |node| node.reloads("applied") == 1);
    node.wait_for("nobody holds it", |node| !open(node));
    let mut file = File::options().append(true).open(&log).expect("there");
    writeln!(file, "{{\"p\":\"file\",\"seq\":1}}").expect("writable");
    node.reload(&(tailed("files", &log) + &rest));
    node.wait_for("the reload", |node| node.reloads("applied") == 2);
    node.wait_for("what came meanwhile", |_| records_so_far(&out).len() == 2);
    settled(&mut node);
    node.stop_well();
    assert_each_once(&records(&out), "p", "seq", &BTreeMap::from([("file".to_owned(), 2)]));
}

#[test]
fn a_reload_that_fails_costs_a_renamed_sink_none_of_its_backlog_and_a_listener_none_of_its_senders() {
    let dir = folder();
    let (port, dead) = (free_port(), free_port());
    let out = dir.path().join("out.ndjson");
    let apps = |more: &str, limit: u32| {
        let listen = format!("[\"tcp://127.0.0.1:{port}\"{more}]");
        format!("[inputs.apps]\ntype = \"forward\"\nlisten = {listen}\npeer_connections_max = {limit}\n")
    };
    let good = apps("", 500) + &file_sink("out", &out) + &http_sink("central", dead);
    let mut node = node(dir.path(), &good).start();
    let senders = Senders::start(port, 1, Duration::from_millis(1));
    node.wait_for("a backlog", |node| node.metric("longshore_buffered", &[("sink", "central")]) > 2_000);
    // The second address has a certificate that is none: known only when it is opened, after the first one is.
    let none = dir.path().join("none.pem");
    fs::write(&none, "no certificate").expect("writable");
    let tls = format!(", {{ address = \"tls://127.0.0.1:{}\", cert = {none:?}, key = {none:?} }}", free_port());
    node.reload(&(apps(&tls, 501) + &file_sink("out", &out) + &http_sink("renamed", dead)));
    node.wait_for("the failure", |node| node.reloads("failed") == 1);
    let acked = senders.acked();
    node.wait_for("acks of the one before", |_| senders.acked() > acked);
    assert_eq!(node.get("/ready").map(|(status, _)| status), Some(200), "{}", node.log());
    node.assert_ledger_closes();
    let server = Server::start(|_, _| Answer::status(200));
    node.reload(&(apps("", 500) + &file_sink("out", &out) + &http_sink("central", server.port)));
    node.wait_for("the reload", |node| node.reloads("applied") == 1);
    let sent = senders.finish();
    settled(&mut node);
    node.assert_ledger_closes();
    node.stop_well();
    let found = Numbers::of(&server.accepted(), "p", "seq");
    assert!(found.missing(&sent).is_empty(), "of the backlog: {:?}", found.missing(&sent));
}

#[test]
fn an_input_that_leaves_behind_a_dead_sink_comes_back_with_the_configuration() {
    let dir = folder();
    let (log, other) = (dir.path().join("app.log"), dir.path().join("other.log"));
    let dead = format!("[sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\n", free_port());
    // More than its queue and the memory hold: the reader waits for room when it is told to leave.
    let lines = 300_000;
    let mut file = std::io::BufWriter::new(File::create(&log).expect("writable"));
    for seq in 0..lines {
        writeln!(file, "{{\"p\":\"file\",\"seq\":{seq},\"pad\":\"{}\"}}", "x".repeat(100)).expect("writable");
    }
    file.flush().expect("writable");
    drop(file);
    fs::write(&other, "").expect("writable");
    let mut node = node(dir.path(), &(tailed("files", &log) + &dead)).with_node("shutdown_timeout = \"3s\"").start();
    node.wait_for("a reader that waits", |node| {
        let before = node.metric("longshore_input_records_total", &[]);
        thread::sleep(Duration::from_millis(300));
        before > 0 && node.metric("longshore_input_records_total", &[]) == before
    });
    // The sink is mended, and the input is another one: it leaves while it waits.
    let server = Server::start(|_, _| Answer::status(200));
    let sink = format!("[sinks.central]\ntype = \"http\"\nurl = {:?}\n", server.url());
    let both = format!("[inputs.files]\ntype = \"file\"\npaths = [{log:?}, {other:?}]\nformat = \"json\"\n");
    node.reload(&(both + &sink));
    node.wait_for("the reload", |node| node.reloads("applied") == 1);
    node.wait_for("everything", |node| node.delivered("central") >= lines);
    node.assert_ledger_closes();
    node.stop_well();
    assert_each_once(&server.accepted(), "p", "seq", &BTreeMap::from([("file".to_owned(), lines)]));
}
