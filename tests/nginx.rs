//! A real HTTP server: nginx in front of a counting one, killed, restarted, answering 429, 413 (for bodies above 24 KiB),
//! 500 and 504, and cutting connections. Nothing that was acknowledged is missing at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::engine::has_program;
use crate::harness::http::{Answer, Server};
use crate::harness::records::Numbers;
use crate::harness::sender::Senders;
use crate::harness::{Spawned, audit_closes, folder, free_port, node, skip};

struct Nginx {
    config: PathBuf,
    process: Option<Spawned>,
}

impl Nginx {
    fn new(dir: &Path, port: u16, behind: u16) -> Nginx {
        let text = format!(
            "daemon off;\nmaster_process off;\npid {0}/nginx.pid;\nerror_log {0}/nginx.log;\nevents {{}}\n\
             http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
             uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{port}; client_max_body_size 24k;\n\
             location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_read_timeout 2s; }} }} }}\n",
            dir.display()
        );
        let config = dir.join("nginx.conf");
        fs::write(&config, text).expect("writable");
        Nginx { config, process: None }
    }

    fn start(&mut self) {
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&self.config).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Spawned::start(&mut command));
    }

    /// kill -9, in the middle of whatever it does.
    fn kill(&mut self) {
        self.process = None;
    }
}

#[test]
fn nginx_that_is_killed_restarted_and_in_a_bad_mood_gets_every_record() {
    if !has_program("nginx") {
        return skip("needs nginx");
    }
    let dir = folder();
    let (port, nginx_port) = (free_port(), free_port());
    // Every answer that there is, in turn, and some that never come (nginx gives a 504); then it is well again.
    let server = Server::start(|_, number| match if number < 30 { number % 9 } else { 0 } {
        2 => Answer(429, vec!["retry-after: 1".to_owned()], ""),
        4 => Answer::status(500),
        7 => {
            std::thread::sleep(Duration::from_millis(2_500));
            Answer::status(200)
        }
        _ => Answer::status(200),
    });
    let mut nginx = Nginx::new(dir.path(), nginx_port, server.port);
    nginx.start();
    let body = format!(
        "[inputs.apps]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:{port}\"]\n[buffer]\nsize = \"64MiB\"\n\
         [sinks.central]\ntype = \"http\"\nurl = \"http://127.0.0.1:{nginx_port}/\"\n\
         batch = {{ size = \"64KiB\", wait = \"20ms\" }}\n"
    );
    let mut node = node(dir.path(), &body).start();
    let senders = Senders::start(port, 2, Duration::from_millis(10));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(700));
        nginx.kill();
        std::thread::sleep(Duration::from_millis(300));
        nginx.start();
    }
    let sent = senders.finish();
    node.wait_for("an empty backlog", |node| {
        node.metric("longshore_buffered", &[]) + node.metric("longshore_in_flight", &[]) == 0
    });
    assert_eq!(node.metric("longshore_rejected_total", &[]), 0, "no record was at fault");
    node.assert_ledger_closes();
    node.stop_well();
    audit_closes(dir.path());
    let found = Numbers::of(&server.accepted(), "p", "seq");
    assert!(found.missing(&sent).is_empty(), "{:?}", found.missing(&sent));
}
