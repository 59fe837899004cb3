//! SIGHUP: the configuration is read again, checked, and put in the place of the running one, without losing a record or
//! an ack.
//!
//! 1. The file is read and checked as at a start. With a mistake it is refused: nothing has changed. If its text is the
//!    same, sinks reopen their files, and that is all.
//! 2. Inputs whose section is gone or different stop reading, and their sockets stay open. The others go on: followed
//!    files stay open, connections stay connected. Sinks are told to drain, and do not wait for their next try.
//! 3. The gate is shut (`inputs/gate.rs`). What has passed it is delivered, or is in the disk log, or, after
//!    [`RELOAD_PATIENCE`] and the time to stop at most, is given back to its origin: files are read again from there, a
//!    sender that waits for an ack sends again.
//! 4. What was delivered is synced and saved, the disk log closed, with a cursor for each sink by its name.
//! 5. Disk log, sinks and way to them are made anew, the gate is opened, and new inputs start, on the sockets that were
//!    left where the address is the same.
//!
//! If step 5 fails, the configuration of before is started in the same way; if that fails too, the node stops. What can not
//! be changed in a running process ([`keep_fixed`]) is said by its key, and stays.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::signals::Signals;
use super::{LOOK_AT_LOG, Node, Why};
use crate::admin::Phase;
use crate::config::{self, Config, Overrides, Report};
use crate::delivery::SinkHandle;
use crate::inputs::gate::Gate;
use crate::inputs::inherited;
use crate::ledger::Ledger;
use crate::log;
use crate::metrics::{Health, Reload};
use crate::service;
use crate::settings::Severity;

/// What a sink has not taken after that is left to the disk log and the files, where nothing is lost by it: who reloads
/// often does so to mend a dead sink.
const RELOAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long the threads of what is replaced have to end after they gave up: a write to a slow disk returns in that time.
const THREADS_END: Duration = Duration::from_secs(10);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(5);
/// How long its last syncs may take. The process goes on, so a slow disk is waited for longer than at a stop.
const SAVED_WITHIN: Duration = Duration::from_secs(30);
/// The health check.
const CHECK: &str = "config";
/// Mistakes that are said, at most.
const SAID_MAX: usize = 20;

/// Where a configuration was read from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file; `-` can not be read twice.
    pub path: PathBuf,
    /// What the command line said.
    pub overrides: Overrides,
    /// The text that is in force.
    pub text: String,
}

impl Node {
    /// Reads the configuration again. `Some`: the node has to stop.
    pub(super) async fn reload(&mut self, signals: &mut Signals) -> Option<Why> {
        service::reloading();
        let (result, why) = self.try_reload(signals).await;
        self.metrics.reloads[result as usize].fetch_add(1, Relaxed);
        if why.is_none() {
            service::ready();
        }
        why
    }

    async fn try_reload(&mut self, signals: &mut Signals) -> (Reload, Option<Why>) {
        let Some(origin) = self.options.origin.clone() else {
            tracing::info!("SIGHUP: sinks reopen their files");
            self.reopen();
            return (Reload::Unchanged, None);
        };
        let read = config::text_of(&origin.path).and_then(|(name, text)| {
            if text == origin.text {
                return Ok(None);
            }
            config::load_text(&name, &text, &origin.overrides).map(|config| Some((config, text)))
        });
        match read {
            Ok(None) => {
                self.metrics.check(CHECK, Health::Pass, "");
                tracing::info!("SIGHUP: the configuration is the same; sinks reopen their files");
                self.reopen();
                (Reload::Unchanged, None)
            }
            Ok(Some((config, text))) => self.replace(config, text, &origin, signals).await,
            Err(report) => {
                self.refuse(&report);
                (Reload::Refused, None)
            }
        }
    }

    fn reopen(&self) {
        self.handles().iter().for_each(SinkHandle::reopen);
    }

    fn refuse(&self, report: &Report) {
        let errors: Vec<_> = report.findings.iter().filter(|found| found.severity == Severity::Error).collect();
        for found in errors.iter().take(SAID_MAX) {
            tracing::error!("{}: {}", found.place, found.message);
        }
        let first = errors.first().map_or(String::new(), |found| format!("{}: {}", found.place, found.message));
        self.metrics.check(CHECK, Health::Warn, format!("refused, the one before goes on: {first}"));
        tracing::error!(
            errors = errors.len(),
            "SIGHUP: the new configuration has mistakes and is refused; the one before goes on"
        );
    }

    async fn replace(
        &mut self,
        mut config: Config,
        text: String,
        origin: &Origin,
        signals: &mut Signals,
    ) -> (Reload, Option<Why>) {
        // Held until all is over: after a failure the last input may be gone, and its gate is needed again.
        let Some(gate) = self.gate.upgrade() else {
            tracing::warn!("SIGHUP: all inputs are at their end, and the node stops when all is delivered");
            return (Reload::Refused, None);
        };
        let began = Instant::now();
        for warning in &config.warnings.findings {
            tracing::warn!("{}: {}", warning.place, warning.message);
        }
        self.keep_fixed(&mut config);
        let summary = config.summary();
        self.state.set(Phase::Reloading);
        let (swapped, told) = self.swap(config, &gate, signals).await;
        let mut why = told.map(Why::Signal);
        let Err(error) = swapped else {
            self.options.origin = Some(Origin { text, ..origin.clone() });
            self.metrics.check(CHECK, Health::Pass, "");
            self.state.set(Phase::Running);
            tracing::info!(ms = began.elapsed().as_millis(), "SIGHUP: the new configuration is in force: {summary}");
            return (Reload::Applied, why);
        };
        if error.kind() == ErrorKind::Interrupted {
            return (Reload::Refused, why.or(self.broken.then_some(Why::Panic)));
        }
        tracing::error!("SIGHUP: the new configuration can not be started ({error}); the one before is started again");
        self.metrics.check(CHECK, Health::Warn, format!("not started, the one before goes on: {error}"));
        let name = origin.path.display().to_string();
        let again = match config::load_text(&name, &origin.text, &origin.overrides) {
            Ok(mut config) => {
                self.keep_fixed(&mut config);
                let (swapped, told) = self.swap(config, &gate, signals).await;
                why = why.or(told.map(Why::Signal));
                swapped.map_err(|error| error.to_string())
            }
            Err(report) => Err(report.to_string()),
        };
        match again {
            Ok(()) => {
                self.state.set(Phase::Running);
                (Reload::Failed, why)
            }
            Err(_) if why.is_some() => (Reload::Failed, why),
            Err(error) => {
                tracing::error!("the configuration of before can not be started either: {error}");
                self.broken = true;
                (Reload::Failed, Some(Why::Broken))
            }
        }
    }

    /// Gives a configuration the values of the running one where only a restart can change them.
    fn keep_fixed(&self, config: &mut Config) {
        let (old, new) = (&self.node, &mut config.node);
        let say = |key: &str, stays: String| {
            tracing::warn!("SIGHUP: {key} is changed by a restart only; {stays} stays in force");
        };
        if new.data_dir != old.data_dir {
            say("[node] data_dir", old.data_dir.display().to_string());
            new.data_dir.clone_from(&old.data_dir);
        }
        if new.memory != old.memory {
            say("[node] memory", config::memory::mib(old.memory as u64));
            new.memory = old.memory;
        }
        if new.workers != old.workers {
            say("[node] workers", old.workers.to_string());
            new.workers = old.workers;
        }
        if config.telemetry.log.format != self.log_format {
            say("[telemetry] log format", format!("{:?}", self.log_format.name()));
            config.telemetry.log.format = self.log_format;
        }
    }

    /// Puts a configuration in the place of the running one. With it: the word to stop that came meanwhile.
    async fn swap(
        &mut self,
        config: Config,
        gate: &Gate,
        signals: &mut Signals,
    ) -> (Result<(), std::io::Error>, Option<&'static str>) {
        let same_secrets = config.node.secrets == self.node.secrets;
        let is_same = |input: &super::Running| {
            let wanted = config.inputs.iter().find(|wanted| wanted.name == input.name);
            let same = wanted.is_some_and(|wanted| wanted.kind == input.kind && wanted.written == input.written);
            // One that was told to leave, and did not in time, leaves now.
            same && same_secrets && !input.stop.is_set()
        };
        let (stay, leave): (Vec<_>, Vec<_>) = std::mem::take(&mut self.inputs).into_iter().partition(is_same);
        inherited::keep();
        leave.iter().for_each(|input| input.stop.set());
        self.drain_sinks();
        let began = Instant::now();
        let left = || leave.iter().map(|input| input.workers.running()).sum::<usize>();
        let mut told = self.wait_while(signals, began, || left() > 0).await;
        if told.is_none() {
            gate.shut();
            told = self.wait_while(signals, began, || self.sinks_running() > 0).await;
        }
        if told.is_some() {
            // The stop that comes now has its own time for what is under way; who waits at a shut gate is not delivered.
            if gate.pass_now().is_none() {
                gate.close();
            }
            self.inputs = stay;
            self.inputs.extend(leave);
            return (Err(ErrorKind::Interrupted.into()), told);
        }
        if let Some(middle) = &self.middle {
            middle.watch.keep(Duration::ZERO);
            middle.give_up.set();
        }
        service::alive();
        let until = Instant::now() + THREADS_END;
        let mut ended = self.middle.as_ref().is_none_or(|middle| middle.sinks.join(until));
        ended &= leave.iter().all(|input| input.workers.join(until));
        self.inputs = stay;
        if !ended {
            // A thread that is stuck in a dead mount has an output file that nobody else may write.
            self.inputs.extend(leave);
            let text =
                "threads of the running one do not end; their disk or mount may be dead, and only a restart helps";
            return (Err(std::io::Error::other(text)), told);
        }
        for input in &leave {
            for check in ["input", "rotation", "held deleted files", "descriptors"] {
                self.metrics.uncheck(&format!("{check} {}", input.name));
            }
            self.metrics.inputs.iter().filter(|of| of.name == input.name).for_each(|of| of.held.forget());
        }
        self.save_all(Instant::now() + SAVED_WITHIN);
        leave.iter().for_each(|input| self.checkpoints.let_go(&input.name));
        self.give_back(false);
        self.broken |= self.has_failed() || leave.iter().any(|input| input.workers.failed().is_set());
        if let Some(middle) = self.middle.take() {
            middle.watch.say_last();
        }
        if self.broken {
            // No input is started any more.
            inherited::close_rest();
            tracing::error!(
                "SIGHUP: a worker has panicked meanwhile; the node stops, the new configuration waits for its start"
            );
            return (Err(ErrorKind::Interrupted.into()), told);
        }
        log::set_level(config.telemetry.log.level);
        self.node.shutdown_timeout = config.node.shutdown_timeout;
        self.node.secrets.clone_from(&config.node.secrets);
        let saved = Ledger::of(&self.metrics);
        let bound = self.bind(config.telemetry.listen);
        let built = bound.and_then(|bound| self.build(config, &saved).map(|()| self.serve(bound)));
        if built.is_ok() {
            for address in inherited::close_rest() {
                tracing::info!(address, "no input listens here any more");
            }
        }
        (built, told)
    }

    /// Waits while that is so and no worker has panicked: until the time to stop is over, or [`RELOAD_PATIENCE`] where
    /// nothing is lost by it, or until a word to stop, which is returned.
    pub(super) async fn wait_while(
        &self,
        signals: &mut Signals,
        began: Instant,
        goes_on: impl Fn() -> bool,
    ) -> Option<&'static str> {
        let mut looked = Instant::now();
        while goes_on() && !self.has_failed() && began.elapsed() < self.node.shutdown_timeout {
            if began.elapsed() >= RELOAD_PATIENCE && self.comes_again() {
                break;
            }
            if looked.elapsed() >= LOOK_AT_LOG {
                looked = Instant::now();
                self.look();
                service::alive();
            }
            tokio::select! {
                name = signals.stop() => return Some(name),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        None
    }

    /// Whether all that is on its way is in the disk log, or is read again from where it came.
    fn comes_again(&self) -> bool {
        self.metrics.shown_sinks().all(|(_, sink)| {
            let pairs = sink.pairs.iter().enumerate();
            pairs.filter(|(at, _)| self.give_again.get(*at) != Some(&true)).all(|(_, pair)| {
                let held = pair.held.load(Relaxed);
                // Below zero: it got into the log late, and was delivered.
                held == 0 || held > u64::MAX / 2
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::{Committed, Log, Lost, Lsn, Payload};
    use crate::run::{FAILED, Options};

    /// What no payload should do.
    struct Panics;
    impl Payload for Panics {
        fn encode(&self, _: &mut Vec<u8>) {
            panic!("on purpose");
        }
        fn size_hint(&self) -> usize {
            1
        }
    }

    struct Nobody;
    impl Committed for Nobody {
        fn committed(self: Box<Self>, _: Result<Lsn, Lost>) {}
    }

    /// The thread of the log that is named so has panicked when the reload comes to it: the code of the exit.
    fn exit_code(log_of: impl Fn(&Node) -> Arc<Log>) -> u8 {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("longshore.toml");
        let text = format!(
            "[node]\ndata_dir = {:?}\n\n[inputs.in]\ntype = \"forward\"\nlisten = [\"tcp://127.0.0.1:0\"]\nack = \"durable\"\n\n[sinks.out]\ntype = \"file\"\npath = {:?}\n\n[telemetry]\nlisten = \"off\"\n",
            dir.path().join("data"),
            dir.path().join("out.ndjson"),
        );
        let overrides = Overrides::default();
        let config = config::load_text("longshore.toml", &text, &overrides).expect("valid");
        std::fs::write(&path, format!("{text}\n# changed\n")).expect("writable");
        let origin = Some(Origin { path, overrides, text });
        let (mut node, mut signals) = Node::start(config, Options { origin, ..Options::default() }).expect("it starts");
        let log = log_of(&node);
        log.append(1, 1, Arc::new(Panics), Box::new(Nobody)).expect("room");
        let until = Instant::now() + Duration::from_secs(60);
        while !log.failed().is_set() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(log.failed().is_set(), "it has panicked");
        let runtime = node.runtime.handle().clone();
        assert_eq!(runtime.block_on(node.reload(&mut signals)), Some(Why::Panic));
        let stopped = Arc::clone(&node.stopped);
        let code = node.run_and_stop(signals);
        assert!(!stopped.load(Relaxed), "a stop with a panic before it is not in order");
        code
    }

    #[test]
    fn a_log_whose_thread_panicked_ends_the_node_in_a_reload_too() {
        let disk_log = |node: &Node| node.middle.as_ref().and_then(|middle| middle.log.clone()).expect("a disk log");
        assert_eq!(exit_code(disk_log), FAILED);
        let letters =
            |node: &Node| node.middle.as_ref().and_then(|middle| middle.letters.log()).expect("a log of letters");
        assert_eq!(exit_code(letters), FAILED);
    }
}
