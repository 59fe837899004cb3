//! Health and metrics over HTTP: `/live`, `/ready`, `/health`, `/metrics`. Read-only, without authentication, on
//! loopback unless configured otherwise.
//!
//! - `/live` 200, and 503 only when a restart helps: a thread of the node has died, or an output could not be synced.
//! - `/ready` 200 from when everything was started until the word to stop, and 503 while the disk log can not be written,
//!   an address that an input is to listen on is taken, or who sends is held up (`admin/readiness.rs`).
//! - `/health` JSON: `status` is `healthy`, `degraded` (a warning; still 200) or `unhealthy` (503), with each check and its
//!   figures (`admin/figures.rs`).
//! - `/metrics` the Prometheus text format 0.0.4.
//! - `/audit` the ledger of this moment as JSON.
//!
//! Limits: [`CONNECTIONS_MAX`] connections (more are closed at once), [`CONNECTION_TIME`] for each, 5 s for the head
//! of a request, [`HEAD_MAX`] bytes and [`HEADERS_MAX`] headers of it; bodies are not read.

mod age; // how old the oldest undelivered record is
mod figures; // what each check of /health has beside its reason
mod readiness; // whether who sends is held up

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::budget::Budget;
use crate::ledger::Ledger;
use crate::log::Limited;
use crate::metrics::{Health, LISTEN_CHECK, Metrics};
use crate::outbox;
use crate::record::Timestamp;
use figures::{Check, Checks, Disk, Figures};
pub use readiness::HELD_AFTER;
use readiness::Readiness;

/// Open connections, at most.
pub const CONNECTIONS_MAX: usize = 64;
/// The longest life of a connection.
pub const CONNECTION_TIME: Duration = Duration::from_secs(30);
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Bytes of a request's head, at most (hyper wants at least 8 KiB).
pub const HEAD_MAX: usize = 16 << 10;
/// Headers of a request, at most.
pub const HEADERS_MAX: usize = 64;
/// Threads. A failure means that a restart helps.
pub const WORKERS_CHECK: &str = "workers";
/// Syncs of output files. A failure means that a restart helps.
pub const OUTPUTS_CHECK: &str = "outputs";
/// A call into a sink that lasts longer is a health check's business.
const STUCK_AFTER: Duration = Duration::from_secs(8);
/// Between two tries to open a port that is taken.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(15);
/// What is answered.
const PATHS: [&str; 5] = ["/live", "/ready", "/health", "/metrics", "/audit"];

static REFUSED: Limited = Limited::new(2);
static ACCEPT_FAILED: Limited = Limited::new(2);

/// Where the node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not everything was started yet.
    Starting = 0,
    /// Everything runs.
    Running = 1,
    /// The word to stop was said; what was read is being delivered.
    Stopping = 2,
    /// The configuration is being replaced; inputs go on, and wait with what they read.
    Reloading = 3,
}

/// What the answers are made from. Shared with `run.rs`, which sets the phase.
#[derive(Debug)]
pub struct State {
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    phase: AtomicU8,
    readiness: Mutex<Readiness>,
    figures: Mutex<Figures>,
    disk: Arc<Disk>,
}

impl State {
    /// A node that is starting, with its data there.
    pub fn new(metrics: Arc<Metrics>, budget: Arc<Budget>, data_dir: &Path) -> Arc<State> {
        Arc::new(State {
            metrics,
            budget,
            phase: AtomicU8::new(Phase::Starting as u8),
            readiness: Mutex::default(),
            figures: Mutex::default(),
            disk: Arc::new(Disk::new(data_dir)),
        })
    }

    /// Looks at what changes with time. Called a few times a second, within a runtime; waits for nothing.
    pub fn look(&self) {
        let now = Instant::now();
        self.budget.look();
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.look(&self.metrics, now);
        let stuck = figures.commit_stuck_for(now);
        drop(figures);
        let held = readiness::held(&self.metrics, &self.budget, stuck);
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).judge(held, now);
        self.disk.look(now);
    }

    /// Sets the phase.
    pub fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Running,
            3 => Phase::Reloading,
            _ => Phase::Stopping,
        }
    }

    /// All checks: those that were reported, the phase as `node`, and what those who are stuck can not report.
    fn checks(&self) -> Checks {
        let mut checks: Checks = self
            .metrics
            .checks()
            .into_iter()
            .map(|(name, (health, reason))| (name, Check::new(health, reason)))
            .collect();
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).add(&self.metrics, &mut checks);
        let now = u64::try_from(Timestamp::now().0).unwrap_or(0);
        for (_, sink) in self.metrics.shown_sinks() {
            let since = sink.inside_since.load(Ordering::Relaxed);
            let inside = Duration::from_nanos(if since == 0 { 0 } else { now.saturating_sub(since) });
            if inside >= STUCK_AFTER {
                let text = format!("a write has not returned for {} s; is its disk or mount dead?", inside.as_secs());
                checks.entry(format!("sink.{}", sink.name)).or_default().say(Health::Fail, text);
            }
        }
        let memory = checks.entry(readiness::MEMORY_CHECK.to_owned()).or_default();
        memory.figure("used_bytes", self.budget.used());
        memory.figure("budget_bytes", self.budget.total());
        let stuck = self.budget.stuck_for();
        if stuck >= HELD_AFTER {
            memory.say(Health::Warn, readiness::memory_text(stuck));
        }
        checks.insert("disk".to_owned(), self.disk.check());
        let node = match self.phase() {
            Phase::Starting => (Health::Warn, "starting"),
            Phase::Running => (Health::Pass, ""),
            Phase::Reloading => (Health::Warn, "reloading: delivering what was read"),
            Phase::Stopping => (Health::Warn, "stopping: delivering what was read"),
        };
        checks.insert("node".to_owned(), Check::new(node.0, node.1.to_owned()));
        checks
    }

    /// The status and body of `/health`.
    fn health(&self) -> (StatusCode, String) {
        let checks = self.checks();
        let worst = checks.values().map(|check| check.health).max().unwrap_or(Health::Pass);
        let (code, status) = match worst {
            Health::Pass => (StatusCode::OK, "healthy"),
            Health::Warn => (StatusCode::OK, "degraded"),
            Health::Fail => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        };
        let shown: serde_json::Map<String, serde_json::Value> =
            checks.into_iter().map(|(name, check)| (name, check.into_json())).collect();
        let version = env!("LONGSHORE_VERSION");
        let ledger = Ledger::of(&self.metrics);
        let (lost_generations, lost_bytes) = ledger.lost();
        let ledger = serde_json::json!({ "closes": ledger.closes(), "buffered": ledger.buffered().0,
            "lost_generations": lost_generations, "lost_bytes": lost_bytes });
        let answer = serde_json::json!({ "status": status, "checks": shown, "ledger": ledger, "version": version });
        (code, format!("{answer}\n"))
    }

    fn live(&self) -> (StatusCode, String) {
        let mut checks = self.metrics.checks();
        let mut failed = |name| checks.remove(name).filter(|(health, _)| *health == Health::Fail);
        match failed(WORKERS_CHECK).or_else(|| failed(OUTPUTS_CHECK)) {
            Some((_, reason)) => (StatusCode::SERVICE_UNAVAILABLE, format!("restart: {reason}\n")),
            None => (StatusCode::OK, "live\n".to_owned()),
        }
    }

    fn ready(&self) -> (StatusCode, String) {
        match self.phase() {
            Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
            // Nothing is acknowledged then: who can send elsewhere should.
            // A taken port, too: nobody can send to it.
            Phase::Running | Phase::Reloading => {
                let is_ours = |name: &str| name == outbox::CHECK || name.starts_with(LISTEN_CHECK);
                let checks = self.metrics.checks();
                match checks.into_iter().find(|(name, (health, _))| *health == Health::Fail && is_ours(name)) {
                    Some((name, (_, reason))) => (StatusCode::SERVICE_UNAVAILABLE, format!("{name}: {reason}\n")),
                    None => match self.readiness.lock().unwrap_or_else(PoisonError::into_inner).red() {
                        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
                        None => (StatusCode::OK, "ready\n".to_owned()),
                    },
                }
            }
            Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
        }
    }

    /// The answer to a request.
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let text = "text/plain; charset=utf-8";
        if method != Method::GET && method != Method::HEAD {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, text, "only GET and HEAD\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/live" => reply(text, self.live()),
            "/ready" => reply(text, self.ready()),
            "/health" => reply("application/json", self.health()),
            "/audit" => {
                reply("application/json", (StatusCode::OK, format!("{}\n", Ledger::of(&self.metrics).to_json())))
            }
            "/metrics" => respond(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.exposition(&self.budget),
            ),
            _ => respond(StatusCode::NOT_FOUND, text, format!("not here; there is {}\n", PATHS.join(" "))),
        }
    }
}

fn reply(kind: &'static str, (code, body): (StatusCode, String)) -> Response<Full<Bytes>> {
    respond(code, kind, body)
}

fn respond(code: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Opens the port as soon as it is free, and answers there until the task is dropped. Nobody can be answered before, so
/// the log has to say it.
pub async fn serve_when_free(address: SocketAddr, state: Arc<State>) {
    let mut wait = WAIT_MIN;
    let listener = loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
        if let Ok(listener) = TcpListener::bind(address).await {
            break listener;
        }
    };
    tracing::info!(%address, "health and metrics are answered now");
    serve(listener, state).await;
}

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, state: Arc<State>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly out of descriptors: the connection waits in the backlog, so try again, but not in a hot loop.
                if let Some(left_out) = ACCEPT_FAILED.allow("") {
                    tracing::warn!(%error, left_out, "telemetry: a connection could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            if let Some(left_out) = REFUSED.allow("") {
                tracing::warn!(left_out, "telemetry: more than {CONNECTIONS_MAX} connections; this one was closed");
            }
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(|request: Request<Incoming>| {
                let response = state.answer(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD_MAX)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioIo::new(stream), answer);
            // Whatever goes wrong here is the client's business.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::healthcheck;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn start() -> (SocketAddr, Arc<State>) {
        let metrics = Arc::new(Metrics::new(&[("in", "stdin")], &[("out", "stdout")]));
        let state = State::new(metrics, Budget::new(1 << 20), Path::new("/"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, Arc::clone(&state)));
        (address, state)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    #[tokio::test]
    async fn ready_follows_the_phase_and_live_only_what_a_restart_mends() {
        let (address, state) = start().await;
        assert!(get(address, "/ready").await.starts_with("HTTP/1.1 503 "));
        state.set(Phase::Running);
        assert!(get(address, "/ready?verbose=1").await.starts_with("HTTP/1.1 200 "));
        state.metrics.check("sink.out", Health::Fail, "refused");
        state.metrics.check(OUTPUTS_CHECK, Health::Warn, "a sync takes long");
        assert!(get(address, "/live").await.starts_with("HTTP/1.1 200 "), "a restart does not help a dead sink");
        state.metrics.check(OUTPUTS_CHECK, Health::Fail, "out: sync failed");
        assert!(get(address, "/live").await.ends_with("restart: out: sync failed\n"));
        state.metrics.check(WORKERS_CHECK, Health::Fail, "reader panicked");
        let live = get(address, "/live").await;
        assert!(live.starts_with("HTTP/1.1 503 ") && live.ends_with("restart: reader panicked\n"), "{live}");
        state.set(Phase::Stopping);
        assert!(get(address, "/ready").await.ends_with("stopping\n"));
    }

    #[tokio::test]
    async fn health_is_the_worst_check_with_its_reason() {
        let (address, state) = start().await;
        state.set(Phase::Running);
        let body = |text: String| -> serde_json::Value {
            serde_json::from_str(text.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON")
        };
        assert_eq!(body(get(address, "/health").await)["status"], "healthy");
        state.metrics.check("sink.a", Health::Warn, "slow \"today\"");
        let degraded = get(address, "/health").await;
        assert!(degraded.starts_with("HTTP/1.1 200 "));
        let degraded = body(degraded);
        assert_eq!(degraded["status"], "degraded");
        assert_eq!(degraded["checks"]["sink.a"], serde_json::json!({ "status": "warn", "reason": "slow \"today\"" }));
        assert!(degraded["version"].as_str().expect("text").starts_with(env!("CARGO_PKG_VERSION")));
        state.metrics.check("sink.b", Health::Fail, "401");
        let unhealthy = get(address, "/health").await;
        assert!(unhealthy.starts_with("HTTP/1.1 503 "));
        assert_eq!(body(unhealthy)["status"], "unhealthy");
    }

    #[tokio::test]
    async fn metrics_other_paths_and_other_methods() {
        let (address, _) = start().await;
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("text/plain; version=0.0.4") && metrics.contains("longshore_uptime_seconds"));
        let missing = get(address, "/").await;
        assert!(
            missing.starts_with("HTTP/1.1 404 ") && missing.contains("/live /ready /health /metrics /audit"),
            "{missing}"
        );
        let post = "POST /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let refused = ask(address, post).await.to_lowercase();
        assert!(refused.starts_with("http/1.1 405 ") && refused.contains("allow: get, head"), "{refused}");
        let head = ask(address, "HEAD /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn huge_heads_and_random_bytes_are_refused() {
        let (address, _) = start().await;
        let many: String = (0..200).map(|at| format!("x-{at}: y\r\n")).collect();
        let refused = ask(address, &format!("GET /live HTTP/1.1\r\n{many}\r\n")).await;
        assert!(refused.starts_with("HTTP/1.1 431 "), "{refused}");
        assert!(ask(address, "\x00\x01\x02 not HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_connections_than_allowed_are_closed_and_the_client_of_healthcheck_is_answered() {
        let (address, state) = start().await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(address).await.expect("a connection"));
        }
        // Accepted in order, so by now all places are taken.
        let mut one_more = TcpStream::connect(address).await.expect("the backlog takes it");
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(3), one_more.read_to_string(&mut text)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "closed at once: {read:?}");
        drop(idle);
        state.set(Phase::Running);
        let ask = move || {
            // The places of the idle connections come back when their ends are seen.
            (0..50).map(|_| healthcheck::ask(address, "/ready")).find(|answer| answer.is_ok())
        };
        let answer = tokio::task::spawn_blocking(ask).await.expect("no panic");
        assert_eq!(answer, Some(Ok("ready".to_owned())));
    }
}
