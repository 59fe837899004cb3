//! The whole engine on real files: opener, readers and checkpoints with threads, and a sink that is a queue.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use toml::de::DeTable;

use super::checkpoint::Checkpoints;
use crate::batch::{Outcome, Shipment};
use crate::budget::Budget;
use crate::inputs::gate::Gate;
use crate::inputs::{INPUTS, Input, Outlet};
use crate::metrics::{Health, Metrics, Oddity};
use crate::pipeline::Pipeline;
use crate::pipeline::route::{Port, Router};
use crate::record::TagGlob;
use crate::record_id::RecordId;
use crate::settings::{Doc, Section};
use crate::workers::{Stop, Workers};

mod again;
mod cases;
mod docker;
mod files;
mod rotation;
mod simulation;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A record as it arrived: tag, container name, `log` (or the first field), and id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    tag: String,
    name: String,
    log: String,
    id: RecordId,
}

/// A node with one input and one sink, which takes everything unless it is told not to.
pub struct Node {
    runtime: Runtime,
    outlet: Mutex<Option<Outlet>>,
    stop: Stop,
    metrics: Arc<Metrics>,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    /// Keeps what arrives unsettled.
    hold: Arc<AtomicBool>,
    /// Drops the next shipment: not delivered.
    refuse: Arc<AtomicBool>,
    held: Arc<Mutex<Vec<Shipment>>>,
    /// All that was sent has arrived, and no more can come.
    drained: Arc<AtomicBool>,
    workers: Arc<Workers>,
    checkpoints: Option<Arc<Checkpoints>>,
    saver: Workers,
}

impl Node {
    pub fn new() -> Node {
        Node::at(None)
    }

    /// A node whose checkpoints are in `data`.
    fn at(data: Option<&Path>) -> Node {
        Node::with(data, Pipeline::default())
    }

    fn with(data: Option<&Path>, pipeline: Pipeline) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runs");
        let metrics = Arc::new(Metrics::new(&[("in", "test")], &[("out", "test")]));
        let (sender, queue) = mpsc::channel(8);
        let port = Port { sink: 0, globs: vec![TagGlob::new("**")], queue: sender };
        let router = Router::new(vec![port], Arc::clone(&metrics));
        let checkpoints =
            data.map(|data| Checkpoints::open(data, Box::new(std::collections::BTreeMap::new)).expect("not locked"));
        let saver = Workers::default();
        if let Some(checkpoints) = &checkpoints {
            checkpoints.start_saver(&saver).expect("started");
        }
        let stop = Stop::default();
        let outlet = Outlet {
            input: 0,
            metrics: Arc::clone(&metrics),
            budget: Budget::new(32 << 20),
            gate: Gate::new(pipeline, router),
            stop: stop.clone(),
            runtime: runtime.handle().clone(),
            once: false,
            checkpoints: checkpoints.clone(),
        };
        let node = Node {
            runtime,
            outlet: Mutex::new(Some(outlet)),
            stop,
            metrics,
            arrived: Arc::default(),
            hold: Arc::default(),
            refuse: Arc::default(),
            held: Arc::default(),
            drained: Arc::default(),
            workers: Arc::default(),
            checkpoints,
            saver,
        };
        node.drain(queue);
        node
    }

    fn drain(&self, mut queue: mpsc::Receiver<Shipment>) {
        let (arrived, hold, refuse, held) =
            (Arc::clone(&self.arrived), Arc::clone(&self.hold), Arc::clone(&self.refuse), Arc::clone(&self.held));
        let drained = Arc::clone(&self.drained);
        self.runtime.spawn(async move {
            while let Some(shipment) = queue.recv().await {
                if refuse.swap(false, Ordering::AcqRel) {
                    continue;
                }
                let batch = &shipment.batch;
                let name = batch.origin.container.as_ref().map(|c| c.name.clone()).unwrap_or_default();
                for at in 0..batch.len() {
                    let field = batch.find(at, b"log").or(batch.fields(at).first()).copied().expect("a field");
                    let log = crate::codec::json::text(batch.value(&field));
                    let log = log.unwrap_or_else(|| batch.bytes(field.value).into());
                    let log = String::from_utf8_lossy(&log).into_owned();
                    let tag = batch.tag_of(at).as_str().to_owned();
                    let (name, id) = (name.clone(), batch.id_of(at));
                    arrived.lock().expect("no panic").push(Arrived { tag, name, log, id });
                }
                if hold.load(Ordering::Acquire) {
                    held.lock().expect("no panic").push(shipment);
                } else {
                    shipment.receipts.settle(Outcome::Delivered);
                }
            }
            drained.store(true, Ordering::Release);
        });
    }

    pub fn outlet(&self) -> Outlet {
        self.outlet.lock().expect("no panic").clone().expect("not stopped")
    }

    /// Starts an input from its section.
    fn start(&self, kind: &str, settings: &str) {
        input(kind, settings).start(self.outlet(), &self.workers).expect("started");
    }

    fn all(&self) -> Vec<Arrived> {
        self.arrived.lock().expect("no panic").clone()
    }

    /// Waits until `n` records came, and a moment more for those that should not.
    pub fn wait_for(&self, n: usize) -> Vec<String> {
        self.wait(|arrived| arrived.len() >= n);
        std::thread::sleep(Duration::from_millis(30));
        self.all().into_iter().map(|record| record.log).collect()
    }

    fn wait(&self, until: impl Fn(&[Arrived]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !until(&self.arrived.lock().expect("no panic")) {
            assert!(Instant::now() < deadline, "only {} records came: {:?}", self.all().len(), self.all().last());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn oddity(&self, what: Oddity) -> u64 {
        self.metrics.inputs[0].oddities[what as usize].load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.stop.set();
    }

    /// Ends everything without a last save: what was delivered after the last one comes again.
    fn crash(self) -> Vec<String> {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.abandon();
        }
        self.end()
    }

    /// Stops reading, and saves the checkpoints, as a clean stop does.
    fn shut_down(self) -> Vec<String> {
        self.end_inputs();
        if let Some(checkpoints) = &self.checkpoints {
            until("all that was read is delivered", || self.drained.load(Ordering::Acquire));
            checkpoints.final_save().expect("saved");
        }
        self.end()
    }

    fn end_inputs(&self) {
        self.stop.set();
        assert!(self.workers.join(Instant::now() + Duration::from_secs(10)), "threads did not end");
        *self.outlet.lock().expect("no panic") = None;
        self.held.lock().expect("no panic").clear();
    }

    fn end(self) -> Vec<String> {
        self.end_inputs();
        assert!(self.saver.join(Instant::now() + Duration::from_secs(10)));
        self.all().into_iter().map(|record| record.log).collect()
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn input(kind: &str, settings: &str) -> Box<dyn Input> {
    let doc = Doc::new("c.toml", settings, |_| None);
    let table = DeTable::parse(settings).expect("valid TOML");
    let section = Section::new(&doc, table.get_ref(), "inputs.in", table.span());
    let kind = INPUTS.iter().find(|known| known.name == kind).expect("known");
    let input = (kind.read)(&section, "in");
    section.finish();
    let found: Vec<String> = doc.findings().iter().map(|finding| doc.render(finding)).collect();
    assert!(found.is_empty(), "{found:?}");
    input
}

/// A folder that looks like Docker's, with one container.
struct Docker {
    dir: tempfile::TempDir,
    time: Mutex<u64>,
}

impl Docker {
    fn new() -> Docker {
        let docker = Docker { dir: tempfile::tempdir().expect("a temp dir"), time: Mutex::new(0) };
        docker.create(ID, "web");
        docker
    }

    fn create(&self, id: &str, name: &str) {
        fs::create_dir_all(self.root().join(id)).expect("made");
        let config =
            format!(r#"{{"ID":"{id}","Name":"/{name}","Config":{{"Image":"img","Labels":{{"n":"{name}"}}}}}}"#);
        fs::write(self.root().join(id).join("config.v2.json"), config).expect("written");
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("containers")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn settings(&self) -> String {
        format!("path = \"{}\"\n", self.root().display())
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.root().join(ID).join(format!("{ID}-json.log{suffix}"))
    }

    fn record(&self, log: &str) -> String {
        let mut time = self.time.lock().expect("no panic");
        *time += 1;
        record_at(log, *time)
    }

    /// Appends numbered lines to a generation, each with its number as its time.
    fn put(&self, suffix: &str, range: std::ops::Range<usize>) {
        let text: String = range.map(|n| record_at(&format!("line {n}\\n"), n as u64)).collect();
        let file = OpenOptions::new().create(true).append(true).open(self.path(suffix));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
    }

    /// Appends records, each with a time of its own.
    fn append<S: AsRef<str>>(&self, lines: &[S]) {
        let text: String = lines.iter().map(|line| self.record(&format!("{}\\n", line.as_ref()))).collect();
        self.append_raw(&text);
    }

    fn append_raw(&self, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path("")).expect("opens");
        file.write_all(text.as_bytes()).expect("written");
    }

    /// As Docker does: `.N-1` over `.N`, the base over `.1`, a new base.
    fn rotate(&self, keep: usize) {
        for n in (1..keep).rev() {
            let (from, to) = (if n == 1 { String::new() } else { format!(".{}", n - 1) }, format!(".{n}"));
            // Not both exist, and the oldest may not either.
            let _ = fs::rename(self.path(&from), self.path(&to));
            let _ = fs::rename(self.path(&format!("{from}.gz")), self.path(&format!("{to}.gz")));
        }
        if keep == 1 {
            fs::remove_file(self.path("")).expect("removed");
        }
        File::create(self.path("")).expect("created");
    }

    fn compress(&self, n: usize) {
        let plain = self.path(&format!(".{n}"));
        let content = fs::read(&plain).expect("there");
        let mut encoder =
            GzEncoder::new(File::create(self.path(&format!(".{n}.gz"))).expect("made"), Compression::fast());
        encoder.write_all(&content).expect("written");
        encoder.finish().expect("written");
        fs::remove_file(plain).expect("removed");
    }
}

fn record_at(log: &str, time: u64) -> String {
    format!("{{\"log\":\"{log}\",\"stream\":\"stdout\",\"time\":\"2026-11-24T10:00:00.{time:09}Z\"}}\n")
}

/// Of the other stream, an hour later.
fn error_at(log: &str, time: u64) -> String {
    format!("{{\"log\":\"{log}\",\"stream\":\"stderr\",\"time\":\"2026-11-24T11:00:00.{time:09}Z\"}}\n")
}

fn lines(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("line {n}")).collect()
}
