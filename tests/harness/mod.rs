//! What the black-box tests stand on: a folder of their own, the program as a process, and what it wrote.
//!
//! Everything that waits has a deadline and says what it waited for, with the program's own log. Ports are taken below
//! the range that the kernel gives to clients, so that two tests never race for one. Limit: a test's process is killed
//! when its [`Node`] is dropped; nothing is left running.

pub mod certificates;
pub mod containers;
pub mod engine;
pub mod forward;
pub mod http;
pub mod records;
pub mod sender;
pub mod twice;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_longshore");

/// How long anything may take that normally takes a second, on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a test that can not run here is a failure (`.ci/run` says so) or only said.
pub fn required() -> bool {
    std::env::var_os("LONGSHORE_REQUIRE").is_some_and(|value| value == "1")
}

/// Says that a test is skipped, or fails where skipping is not allowed.
pub fn skip(why: &str) {
    assert!(!required(), "this test must run here, but: {why}");
    // Past the capture of the test runner, so that a skip is seen without --nocapture.
    let _ = writeln!(std::io::stderr(), "skipped: {}: {why}", thread::current().name().unwrap_or("test"));
}

/// An empty folder that goes with the test.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a temporary folder can be made")
}

/// Waits until `done` says so.
pub fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits of a random length. The seed is said, and `LONGSHORE_SEED` gives them again.
pub struct Moments(fastrand::Rng);

impl Moments {
    /// Others in each run.
    pub fn new() -> Moments {
        let seed = std::env::var("LONGSHORE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("moments: LONGSHORE_SEED={seed}");
        Moments(fastrand::Rng::with_seed(seed))
    }

    /// Waits for so many milliseconds at most.
    pub fn wait(&mut self, at_most: u64) {
        thread::sleep(Duration::from_millis(self.0.u64(..=at_most)));
    }
}

/// A port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 20_000).expect("below 20,000");
    for _ in 0..20_000 {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10000 and 30000");
}

/// A running longshore. Killed when dropped.
pub struct Node {
    child: Child,
    config: PathBuf,
    /// Whether `longshore audit` finds its data folder by the configuration alone.
    auditable: bool,
    /// `NAME=VALUE` of the `env` that it runs under.
    env: Vec<String>,
    /// Where `/live` and `/metrics` are.
    pub telemetry: SocketAddr,
    log: PathBuf,
    out: PathBuf,
}

/// How to start a longshore: a folder, the configuration's inputs, steps and sinks, and the rest by default.
pub struct Start<'a> {
    dir: &'a Path,
    body: String,
    node: String,
    telemetry: u16,
    wrapper: Vec<String>,
    flags: Vec<String>,
    wait: bool,
    pipe_stdin: bool,
    stdout: Option<Stdio>,
}

/// A node that is started with these inputs, steps and sinks; `[node]` and `[telemetry]` are added.
pub fn node<'a>(dir: &'a Path, body: &str) -> Start<'a> {
    Start {
        dir,
        body: body.to_owned(),
        node: String::new(),
        telemetry: free_port(),
        wrapper: Vec::new(),
        flags: Vec::new(),
        wait: true,
        pipe_stdin: false,
        stdout: None,
    }
}

impl Start<'_> {
    /// Adds lines to `[node]`.
    pub fn with_node(mut self, lines: &str) -> Self {
        self.node.push_str(lines);
        self.node.push('\n');
        self
    }

    /// Runs the program under another one (`unshare -pf`).
    pub fn under(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Adds a flag to `run`.
    pub fn with_flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Does not wait for `/live`: for starts that are meant to fail, or that end by themselves.
    pub fn without_waiting(mut self) -> Self {
        self.wait = false;
        self
    }

    /// Gives the program a pipe as standard input; see [`Node::stdin`].
    pub fn with_stdin(mut self) -> Self {
        self.pipe_stdin = true;
        self
    }

    /// Standard output goes there instead of to a file.
    pub fn with_stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// The whole configuration, written to `longshore.toml` in the folder.
    pub fn write_config(&self) -> PathBuf {
        let path = self.dir.join("longshore.toml");
        let has_data_dir = self.node.contains("data_dir");
        let data_dir = if has_data_dir { String::new() } else { format!("data_dir = {:?}\n", self.dir.join("data")) };
        let text = format!(
            "[node]\n{data_dir}{}\n[telemetry]\nlisten = \"127.0.0.1:{}\"\n\n{}\n",
            self.node, self.telemetry, self.body
        );
        fs::write(&path, text).expect("the configuration can be written");
        path
    }

    /// Starts it.
    pub fn start(mut self) -> Node {
        let config = self.write_config();
        let log = numbered(self.dir, "log");
        let out = numbered(self.dir, "stdout");
        let mut words = self.wrapper.clone();
        words.push(PROGRAM.to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("run").arg("--config").arg(&config).args(&self.flags).current_dir(self.dir);
        command.env_remove("LOG_LEVEL").env_remove("LOG_FORMAT");
        command.stdin(if self.pipe_stdin { Stdio::piped() } else { Stdio::null() });
        let file = || File::create(&out).expect("a file for standard output").into();
        command.stdout(self.stdout.take().unwrap_or_else(file));
        command.stderr(File::create(&log).expect("a file for the log"));
        let child = command.spawn().expect("the program can be started");
        let telemetry = SocketAddr::from((Ipv4Addr::LOCALHOST, self.telemetry));
        let auditable = !self.flags.iter().any(|flag| flag.contains("data-dir"));
        let env = self.wrapper.iter().filter(|word| word.contains('=')).cloned().collect();
        let mut node = Node { child, config, auditable, env, telemetry, log, out };
        if self.wait {
            node.wait_live();
        }
        node
    }
}

/// `stem.0`, `stem.1`, ...: the first that is not there, so that restarts keep their logs apart.
fn numbered(dir: &Path, stem: &str) -> PathBuf {
    (0..).map(|n| dir.join(format!("{stem}.{n}"))).find(|path| !path.exists()).expect("numbers do not end")
}

impl Node {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Its standard input. Dropping it is the end of input.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("started with_stdin")
    }

    fn wait_live(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("it ended at its start with {status}; its log:\n{}", self.log());
            }
            if self.get("/live").is_some_and(|(status, _)| status == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "not live within {PATIENCE:?}; its log:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `done` says so; fails with the log when time is up or the process ends.
    pub fn wait_for(&mut self, what: &str, mut done: impl FnMut(&Node) -> bool) {
        self.wait_within(PATIENCE, what, &mut done);
    }

    /// The same with another patience.
    pub fn wait_within(&mut self, patience: Duration, what: &str, done: &mut dyn FnMut(&Node) -> bool) {
        let deadline = Instant::now() + patience;
        while !done(self) {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("it ended with {status} while the test waited for {what}; its log:\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "waited {patience:?} for {what}; figures:\n{}\nlog:\n{}",
                self.figures(),
                self.log()
            );
            thread::sleep(Duration::from_millis(25));
        }
    }

    /// Asks the telemetry port. `None` if there is no answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.telemetry, path)
    }

    /// The sum of a series over all label sets that hold every one of `labels`; 0 when there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        metric(&text, name, labels)
    }

    /// Records that `sink` has delivered.
    pub fn delivered(&self, sink: &str) -> u64 {
        self.metric("longshore_delivered_total", &[("sink", sink)])
    }

    /// Records that have no end yet, in memory or in the disk log: of one look, since they go from one to the other.
    pub fn undelivered(&self, labels: &[(&str, &str)]) -> u64 {
        let (_, text) = self.get("/metrics").expect("the figures are served");
        metric(&text, "longshore_buffered", labels) + metric(&text, "longshore_in_flight", labels)
    }

    /// The non-zero figures, for messages of failed tests.
    pub fn figures(&self) -> String {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let kept = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
        kept.collect::<Vec<_>>().join("\n")
    }

    /// Checks that every record that was received is in exactly one place of the ledger, for each input and sink.
    pub fn assert_ledger_closes(&self) {
        let (_, text) = self.get("/audit").expect("the ledger is served");
        let ledger: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(ledger["closes"], true, "the ledger does not close:\n{ledger:#}\n{}", self.figures());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    /// Puts other inputs, steps and sinks into the configuration, and has it read again.
    pub fn reload(&self, body: &str) {
        let text = fs::read_to_string(&self.config).expect("it was written");
        let listen = format!("listen = \"{}\"\n\n", self.telemetry);
        let (head, _) = text.split_once(&listen).expect("as the harness wrote it");
        fs::write(&self.config, format!("{head}{listen}{body}\n")).expect("the configuration can be written");
        self.signal(Signal::HUP);
    }

    /// Requests to read the configuration again that ended so.
    pub fn reloads(&self, result: &str) -> u64 {
        self.metric("longshore_config_reloads_total", &[("result", result)])
    }

    /// Waits for the end. The exit code, or minus the signal that ended it.
    pub fn wait_exit(&mut self, patience: Duration) -> i32 {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status.code().unwrap_or_else(|| -status.signal().expect("no code means a signal"));
            }
            assert!(Instant::now() < deadline, "did not end within {patience:?}; its log:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and the exit code; then `longshore audit` closes.
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        let code = self.wait_exit(Duration::from_secs(40));
        self.audit(false);
        code
    }

    /// Of the node that has ended `longshore audit` closes. `early`: it may have been killed before it had made its folder.
    fn audit(&self, early: bool) {
        if self.auditable {
            let dir = self.config.parent().expect("it lies in the test's folder");
            let env = self.env.iter().filter_map(|word| word.split_once('='));
            let output = run_command(audit_of(dir).envs(env), b"");
            let has_no_folder = told(&output).contains("no longshore has run with this data folder");
            assert!(early && has_no_folder || output.status.success(), "the audit does not close: {}", told(&output));
        }
    }

    /// SIGTERM, and exit 0; then `longshore audit` closes.
    pub fn stop_well(&mut self) {
        let code = self.stop();
        assert_eq!(code, 0, "exit code of a stop by SIGTERM; its log:\n{}", self.log());
        assert!(!self.log().contains("panicked"), "a thread panicked:\n{}", self.log());
    }

    /// kill -9; then `longshore audit` closes.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit(PATIENCE);
        self.audit(true);
    }

    /// The most memory that was resident at once, in bytes (VmHWM).
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).expect("the process is there");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux gives VmHWM");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of kB");
        kib * 1024
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let runs = matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if runs && !thread::panicking() {
            self.audit(true);
        }
    }
}

/// Sends a signal to a process.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small")).expect("process ids are not 0");
    kill_process(pid, signal).expect("the process is there");
}

/// A bare HTTP GET: status and body.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some((status, if chunked { http::unchunk(body) } else { body.to_owned() }))
}

/// The sum of a series over all label sets that hold every one of `labels`.
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let of_series = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
            && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    });
    of_series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map(|number| number as u64).sum()
}

/// A process of the test's own, killed when dropped: a failed test leaves nothing behind.
pub struct Spawned(pub Child);

impl Spawned {
    /// Starts it.
    pub fn start(command: &mut Command) -> Spawned {
        Spawned(command.spawn().expect("the command can be started"))
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        send_signal(self.0.id(), Signal::TERM);
        self.wait_exit()
    }

    /// Waits for the end; `None` if a signal ended it.
    pub fn wait_exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("the child is ours") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "process {} did not end within {PATIENCE:?}", self.0.id());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the program to its end with these arguments and this standard input.
pub fn run(dir: &Path, args: &[&str], input: &[u8]) -> Output {
    run_command(Command::new(PROGRAM).args(args).current_dir(dir), input)
}

/// Runs a command to its end, at most [`PATIENCE`].
pub fn run_command(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command can be started");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A thread, since a program that answers as it reads would otherwise block on a full pipe.
    let feeder = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if ended.recv_timeout(PATIENCE).is_err() {
            send_signal(pid, Signal::KILL);
            return false;
        }
        true
    });
    let output = child.wait_with_output().expect("the child is ours");
    let _ = done.send(());
    assert!(guard.join().expect("the guard does not panic"), "the command took longer than {PATIENCE:?}");
    let _ = feeder.join();
    output
}

fn audit_of(dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["audit", "--config"]).arg(dir.join("longshore.toml")).current_dir(dir);
    command
}

/// `longshore audit` of the node whose configuration lies in that folder.
pub fn audit(dir: &Path, more: &[&str]) -> Output {
    run_command(audit_of(dir).args(more), b"")
}

/// The same as JSON.
pub fn audited(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&audit(dir, &["--format", "json"]).stdout).expect("JSON")
}

/// `longshore audit` of the node whose folder that is, running or not: it must close.
pub fn audit_closes(dir: &Path) {
    let output = audit(dir, &[]);
    assert!(output.status.success(), "the audit does not close: {}", told(&output));
}

/// Standard output and standard error of a finished command, for messages.
pub fn told(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
