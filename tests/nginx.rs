//! A real HTTP server: nginx in front of a counting one, killed, restarted, with each of its refusals in turn, and cutting
//! connections. Its access log says what it met and answered; at the end the counting server has every record once, but for
//! requests that came again with their key.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::engine::has_program;
use crate::harness::http::{Answer, Server};
use crate::harness::records::{assert_each_once, parse};
use crate::harness::sender::Senders;
use crate::harness::{Node, Spawned, audit_closes, folder, free_port, node, skip};

/// Larger bodies get a 413 from [`strict`].
const BODY_MAX: u64 = 24 << 10;

/// Passes every request on to that port.
fn pass(port: u16) -> String {
    format!("client_max_body_size 0; proxy_pass http://127.0.0.1:{port};")
}

/// The same, but for large ones.
fn strict(port: u16) -> String {
    format!("client_max_body_size {BODY_MAX}; proxy_pass http://127.0.0.1:{port};")
}

struct Nginx {
    dir: PathBuf,
    port: u16,
    process: Option<Spawned>,
}

/// A request as nginx logged it.
#[derive(Debug)]
struct Logged {
    /// When it ended, in seconds since 1970.
    at: f64,
    /// What it answered; 444: it closed the connection instead.
    status: u16,
    /// Bytes that it had read, the head among them.
    read: u64,
    /// Bytes that the body was to have.
    body: u64,
    key: String,
}

impl Nginx {
    fn new(dir: &Path) -> Nginx {
        Nginx { dir: dir.to_owned(), port: free_port(), process: None }
    }

    /// Starts it; `says` is what it does with a request.
    fn start(&mut self, says: &str) {
        let text = format!(
            "daemon off;\nmaster_process off;\npid {0}/nginx.pid;\nerror_log {0}/nginx.log;\nevents {{}}\n\
             http {{ log_format seen '$msec $status $request_length $content_length $http_idempotency_key';\n\
             access_log {0}/access.log seen; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
             uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{1}; location / {{ proxy_read_timeout 1s; {says} }} }} }}\n",
            self.dir.display(),
            self.port
        );
        let config = self.dir.join("nginx.conf");
        fs::write(&config, text).expect("writable");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Spawned::start(&mut command));
    }

    /// kill -9, in the middle of whatever it does.
    fn kill(&mut self) {
        self.process = None;
    }

    /// What it has logged, in its order.
    fn logged(&self) -> Vec<Logged> {
        let text = fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let logged = whole.lines().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse().unwrap_or_else(|error| panic!("{error}: {line}"));
            Logged {
                at: words[0].parse().expect("seconds"),
                status: number(1) as u16,
                read: number(2),
                body: number(3),
                key: words[4].to_owned(),
            }
        });
        logged.collect()
    }

    fn has_answered(&self, status: u16) -> bool {
        self.logged().iter().any(|logged| logged.status == status)
    }
}

/// A forward input, the disk log, and an HTTP sink whose bodies are as long as its batches.
fn config(port: u16, nginx: &Nginx, more: &str) -> String {
    format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n[buffer]\nsize = \"64MiB\"\n\
         [sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{}/\"\ncompression = \"none\"\n\
         batch = {{ size = \"64KiB\", wait = \"20ms\" }}\n{more}\n",
        nginx.port
    )
}

/// The records of requests that the server took, each request once: a destination that knows keys takes it so. What comes
/// again under a key is the same.
fn taken(server: &Server) -> Vec<Value> {
    let mut by_key = BTreeMap::new();
    for (request, _) in server.requests().into_iter().filter(|(_, status)| *status == 200) {
        let key = request.header("idempotency-key").expect("each has one").to_owned();
        let first = by_key.entry(key).or_insert_with(|| request.body.clone());
        assert!(*first == request.body, "one key, two bodies");
    }
    by_key.values().flat_map(|body| std::str::from_utf8(body).expect("UTF-8").lines()).map(parse).collect()
}

/// Stops the node when all is delivered, and checks that the server has each record once.
fn assert_all_taken(dir: &Path, mut node: Node, sent: &BTreeMap<String, u64>, server: &Server) {
    node.wait_for("an empty backlog", |node| node.undelivered(&[]) == 0);
    assert_eq!(node.metric("longshore_rejected_total", &[]), 0, "no record was at fault");
    node.assert_ledger_closes();
    node.stop_well();
    audit_closes(dir);
    assert_each_once(&taken(server), "p", "seq", sent);
}

#[test]
fn each_refusal_of_nginx_is_met_and_handled_as_its_class_is() {
    if !has_program("nginx") {
        return skip("needs nginx");
    }
    let dir = folder();
    let closed = free_port();
    let server = Server::start(|_, _| Answer::status(200));
    // Takes it, and says so too late: nginx gives a 504.
    let late = Server::start(|_, _| {
        std::thread::sleep(Duration::from_secs(3));
        Answer::status(200)
    });
    let mut nginx = Nginx::new(dir.path());
    // What passes is never too large: who gets no answer to it sends the same again.
    let (port, strict) = (free_port(), strict(server.port));
    // One request after the other, so that the access log is what happened.
    let mut node = node(dir.path(), &config(port, &nginx, "concurrency = 1")).start();
    nginx.start(&strict);
    let senders = Senders::start(port, 2, Duration::from_millis(10));
    node.wait_for("deliveries", |node| node.delivered("central") > 0);
    let refusals = [
        (429, "client_max_body_size 0; add_header retry-after 3 always; return 429;".to_owned()),
        (500, "client_max_body_size 0; return 500;".to_owned()),
        (502, pass(closed)),
        (503, "client_max_body_size 0; return 503;".to_owned()),
        (504, pass(late.port)),
        // Closes the connection when it has the head: what is under way of the body is cut.
        (444, "client_max_body_size 0; return 444;".to_owned()),
    ];
    for (status, says) in &refusals {
        nginx.kill();
        nginx.start(says);
        node.wait_for(&format!("an answer of {status}"), |_| nginx.has_answered(*status));
        nginx.kill();
        nginx.start(&strict);
        let delivered = node.delivered("central");
        // Logged, too: nginx answers first, and is killed in between where it gets no processor.
        node.wait_for("deliveries again", |node| {
            node.delivered("central") > delivered && nginx.logged().last().is_some_and(|last| last.status == 200)
        });
    }
    node.wait_for("an answer of 413", |_| nginx.has_answered(413));
    let delivered = node.delivered("central");
    node.wait_for("smaller requests", |node| node.delivered("central") > delivered + 1_000);
    let sent = senders.finish();
    assert_all_taken(dir.path(), node, &sent, &server);

    let logged = nginx.logged();
    let later = |at: usize| &logged[at + 1..];
    for (at, one) in logged.iter().enumerate() {
        let again = later(at).iter().find(|other| other.key == one.key);
        match one.status {
            200 => assert!(again.is_none(), "taken and sent again: {one:?}"),
            // Halved: what comes of it are other requests, of half its size, under keys of their own.
            413 => {
                assert!(one.body > BODY_MAX && again.is_none(), "{one:?}");
                let next = &logged[at + 1];
                assert!(next.body <= one.body * 5 / 8, "the next one after {one:?}: {next:?}");
            }
            // The whole sink waits, then the same request comes again.
            429 => {
                let next = &logged[at + 1];
                assert!(next.key == one.key && next.at - one.at >= 2.9, "{one:?}, then {next:?}");
            }
            _ => {
                assert!(refusals.iter().any(|(status, _)| *status == one.status), "{one:?}");
                assert!(again.is_some_and(|again| again.body == one.body), "not sent again: {one:?}");
                assert!(logged[at + 1].at - one.at >= 0.09, "sent again at once: {one:?}");
            }
        }
    }
    let met = |status| logged.iter().filter(move |one| one.status == status);
    assert!(refusals.iter().all(|(status, _)| met(*status).count() > 0) && met(413).count() > 0);
    assert!(met(444).any(|one| one.read < one.body), "a body was cut: {:?}", met(444).collect::<Vec<_>>());
    assert!(!late.requests().is_empty(), "the answer of a 504 came too late, not the request");
}

#[test]
fn nginx_that_is_killed_restarted_and_in_a_bad_mood_gets_every_record() {
    if !has_program("nginx") {
        return skip("needs nginx");
    }
    let dir = folder();
    // Every answer that there is, in turn, and some that never come (nginx gives a 504), until it is well again.
    let well = Arc::<AtomicBool>::default();
    let is_well = Arc::clone(&well);
    let server = Server::start(move |_, number| match if is_well.load(Ordering::Relaxed) { 0 } else { number % 9 } {
        2 => Answer(429, vec!["retry-after: 1".to_owned()], ""),
        4 => Answer::status(500),
        7 => {
            std::thread::sleep(Duration::from_millis(1_500));
            Answer::status(200)
        }
        _ => Answer::status(200),
    });
    let mut nginx = Nginx::new(dir.path());
    let strict = strict(server.port);
    nginx.start(&strict);
    let port = free_port();
    let mut node = node(dir.path(), &config(port, &nginx, "")).start();
    let senders = Senders::start(port, 2, Duration::from_millis(10));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        nginx.kill();
        std::thread::sleep(Duration::from_millis(300));
        nginx.start(&strict);
    }
    node.wait_for("each answer", |_| [200, 413, 429, 500, 504].into_iter().all(|status| nginx.has_answered(status)));
    well.store(true, Ordering::Relaxed);
    let sent = senders.finish();
    assert_all_taken(dir.path(), node, &sent, &server);
}
