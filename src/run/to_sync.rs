//! What has to be synced before a checkpoint is saved, and what it means when one output can not be: each has its own fate.
//!
//! - Each output is synced by a thread of its own, all at once. One that has not returned after [`PATIENCE`] is waited for no
//!   longer; what it says later counts then, and asks for a save by itself.
//! - After a good sync the frames of the disk log that its sink had taken by then are settled.
//! - After a failed one nobody knows what is on the disk, now or later ([`Durable::sync`]): its frames stay in the log, the
//!   inputs that it has taken something of since its last good sync keep their checkpoints, and a restart gives all of that
//!   again. So the check `outputs` fails, and `/live` with it.
//! - A sink with `required = false` holds back no checkpoint; its failure is a warning.
//!
//! Outputs of before a reload stay here until what they had taken is on the disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::admin::OUTPUTS_CHECK;
use crate::inputs::follow::checkpoint::Unsynced;
use crate::metrics::{Health, Metrics};
use crate::outbox::{Before, Settled};
use crate::sinks::Durable;
use crate::workers::Workers;

/// How long a sync is waited for while others wait too. A slow disk under load takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a shorter time to stop is noticed.
const LOOK: Duration = Duration::from_millis(50);

/// The output of one sink.
pub(super) struct Output {
    /// The sink's number in the metrics.
    pub(super) number: usize,
    pub(super) port: usize,
    pub(super) required: bool,
    pub(super) durable: Arc<dyn Durable>,
    /// Records of each input that the sink had taken before it was started.
    pub(super) taken: Vec<u64>,
}

/// See the header. One for the node.
pub(super) struct ToSync {
    current: Mutex<Current>,
    /// Locked by whoever syncs; one save at a time does.
    answers: Mutex<Receiver<Answer>>,
    tell: Sender<Answer>,
    threads: Workers,
    patience: Duration,
}

#[derive(Default)]
struct Current {
    outputs: Vec<Watched>,
    metrics: Option<Arc<Metrics>>,
    settled: Option<Settled>,
    /// Of outputs, over all reloads.
    last_id: u64,
    /// The node stops: no sync is waited for beyond that.
    until: Option<Instant>,
    /// The check was set.
    said: bool,
}

/// What became of a sync.
struct Answer {
    id: u64,
    outcome: io::Result<()>,
}

/// An output and what is known of it. Counts are of records, by input.
struct Watched {
    id: u64,
    name: String,
    number: usize,
    port: usize,
    required: bool,
    /// Asks its thread, which ends with this.
    ask: Sender<Late>,
    /// A sync that is under way.
    asked: Option<Asked>,
    /// Frames that wait for the next one.
    frames: Before,
    /// Taken by the sink: at the last look, or in all of a sink that has ended.
    taken: Vec<u64>,
    has_ended: bool,
    /// Taken, and on the disk.
    synced: Vec<u64>,
    failed: Option<String>,
}

struct Asked {
    at: Instant,
    taken: Vec<u64>,
    frames: Before,
    late: Late,
}

/// Whether a sync was waited for long enough. Behind a lock, so that its answer is either taken by who says so, or known to
/// be late by who gives it.
#[derive(Clone, Default)]
struct Late(Arc<Mutex<bool>>);

impl Late {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records of each input that a sink has taken.
pub(super) fn taken(metrics: &Metrics, number: usize) -> Vec<u64> {
    metrics.sinks[number].pairs.iter().map(|pair| pair.delivered.load(Relaxed)).collect()
}

impl Default for ToSync {
    fn default() -> ToSync {
        let (tell, answers) = mpsc::channel();
        let (current, answers) = (Mutex::default(), Mutex::new(answers));
        ToSync { current, answers, tell, threads: Workers::default(), patience: PATIENCE }
    }
}

impl ToSync {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These outputs come next. Of those of before, the ones stay of which not everything is known to be on the disk.
    /// `on_late` asks for a save, to take an answer that nobody waits for.
    pub(super) fn follow(
        &self,
        outputs: Vec<Output>,
        settled: Option<Settled>,
        metrics: &Arc<Metrics>,
        on_late: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<()> {
        let mut current = self.lock();
        let current = &mut *current;
        current.until = None;
        for old in current.outputs.iter_mut().filter(|old| !old.has_ended) {
            old.taken = taken(metrics, old.number);
            old.has_ended = true;
            // Their log is closed: what is not settled comes again from the one that follows.
            old.frames = Before::default();
            old.asked.iter_mut().for_each(|asked| asked.frames = Before::default());
        }
        current.outputs.retain(|old| !old.is_over());
        if current.said {
            // What was said may be true of none of those that are left.
            on_late();
        }
        (current.settled, current.metrics) = (settled, Some(Arc::clone(metrics)));
        for output in outputs {
            current.last_id += 1;
            let (id, name, tell) = (current.last_id, metrics.sinks[output.number].name.clone(), self.tell.clone());
            let (ask, asks) = mpsc::channel::<Late>();
            let (durable, on_late) = (output.durable, on_late.clone());
            self.threads.spawn(&format!("sync-{name}"), move || {
                while let Ok(late) = asks.recv() {
                    // Nobody is told at the end of the process.
                    let _ = tell.send(Answer { id, outcome: durable.sync() });
                    if *late.lock() {
                        on_late();
                    }
                }
            })?;
            current.outputs.push(Watched {
                id,
                name,
                number: output.number,
                port: output.port,
                required: output.required,
                ask,
                asked: None,
                frames: Before::default(),
                taken: output.taken.clone(),
                has_ended: false,
                synced: output.taken,
                failed: None,
            });
        }
        Ok(())
    }

    /// The node stops: no sync is waited for beyond that.
    pub(super) fn hurry(&self, until: Instant) {
        self.lock().until = Some(until);
    }

    /// Whether a thread has panicked.
    pub(super) fn has_failed(&self) -> bool {
        self.threads.failed().is_set()
    }

    /// The hook of the checkpoints. Takes as long as the disks do, but no longer than [`PATIENCE`].
    pub(super) fn sync(&self) -> Unsynced {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let take = || answers.try_iter().for_each(|answer| self.lock().note(answer));
        take();
        self.lock().ask();
        while self.lock().waits(self.patience) {
            if let Ok(answer) = answers.recv_timeout(LOOK) {
                self.lock().note(answer);
            }
        }
        // What came just before it was called late.
        take();
        self.lock().judge()
    }
}

impl Current {
    /// Has everything synced that needs it.
    fn ask(&mut self) {
        let Some(metrics) = &self.metrics else { return };
        for output in &mut self.outputs {
            if !output.has_ended {
                // Frames first: whoever is done with one has counted its records before.
                let frames = self.settled.as_ref().map(|settled| settled.before(output.port)).unwrap_or_default();
                output.taken = taken(metrics, output.number);
                output.frames.add(frames);
            }
            if output.failed.is_some() {
                output.frames = Before::default();
            } else if output.asked.is_none() && (!output.is_synced() || !output.frames.is_empty()) {
                let (frames, late) = (std::mem::take(&mut output.frames), Late::default());
                let asked = Asked { at: Instant::now(), taken: output.taken.clone(), frames, late: late.clone() };
                output.asked = output.ask.send(late).is_ok().then_some(asked);
            }
        }
    }

    /// Takes down what became of a sync.
    fn note(&mut self, Answer { id, outcome }: Answer) {
        let Some(output) = self.outputs.iter_mut().find(|output| output.id == id) else { return };
        let Some(asked) = output.asked.take() else { return };
        match outcome {
            Ok(()) => {
                output.synced = asked.taken;
                if let Some(settled) = self.settled.as_ref().filter(|_| !output.has_ended) {
                    settled.done(asked.frames);
                }
            }
            Err(error) => {
                tracing::error!(sink = output.name, required = output.required, "{error}");
                output.failed = Some(error.to_string());
            }
        }
    }

    /// Whether a sync is worth waiting for.
    fn waits(&self, patience: Duration) -> bool {
        let now = Instant::now();
        let mut waits = false;
        for output in &self.outputs {
            let Some(asked) = output.asked.as_ref().filter(|asked| !*asked.late.lock()) else { continue };
            let end = asked.at + patience;
            if now < self.until.map_or(end, |until| end.min(until)) {
                waits = true;
                continue;
            }
            *asked.late.lock() = true;
            tracing::warn!(
                sink = output.name,
                seconds = asked.at.elapsed().as_secs(),
                "its output is not synced in time; the others go on without it"
            );
        }
        waits
    }

    /// What must not be saved, and how the outputs are.
    fn judge(&mut self) -> Unsynced {
        self.outputs.retain(|output| !output.has_ended || !output.is_over());
        let Some(metrics) = &self.metrics else { return Unsynced::new() };
        let mut unsynced = BTreeMap::new();
        let mut worst = (Health::Pass, String::new());
        for output in &self.outputs {
            let (health, why) = match (&output.failed, &output.asked) {
                (Some(why), _) if output.required => (Health::Fail, why.clone()),
                (Some(why), _) => (Health::Warn, why.clone()),
                (None, Some(asked)) => {
                    (Health::Warn, format!("a sync has not returned for {} s", asked.at.elapsed().as_secs()))
                }
                (None, None) if output.is_synced() => continue,
                // It was asked before, and has answered since: for what it had taken then.
                (None, None) => (Health::Warn, "what it took since its last sync is not on the disk yet".to_owned()),
            };
            let why = format!("sink {}: {why}", output.name);
            for input in output.behind().filter(|_| output.required) {
                unsynced.entry(metrics.inputs[input].name.clone()).or_insert_with(|| why.clone());
            }
            if health > worst.0 {
                worst = (health, why);
            }
        }
        if worst.0 > Health::Pass || self.said {
            self.said = worst.0 > Health::Pass;
            metrics.check(OUTPUTS_CHECK, worst.0, worst.1);
        }
        unsynced
    }
}

impl Watched {
    /// Inputs of which it has taken something that is not known to be on the disk.
    fn behind(&self) -> impl Iterator<Item = usize> {
        let synced = |input: usize| self.synced.get(input).copied().unwrap_or(0);
        self.taken.iter().enumerate().filter(move |(input, taken)| **taken != synced(*input)).map(|(input, _)| input)
    }

    fn is_synced(&self) -> bool {
        self.behind().next().is_none()
    }

    /// Whether nothing waits for it once its sink has ended. One that has failed never will be synced; if it is optional, it
    /// holds back nothing, and what it lost was said.
    fn is_over(&self) -> bool {
        self.is_synced() || !self.required && self.failed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that does what it is told.
    #[derive(Default)]
    struct Told {
        fails: std::sync::atomic::AtomicBool,
        /// Held by the test while a sync is to hang.
        hangs: Mutex<()>,
        syncs: std::sync::atomic::AtomicU64,
    }

    impl Durable for Told {
        fn sync(&self) -> io::Result<()> {
            let _waits = self.hangs.lock().unwrap_or_else(PoisonError::into_inner);
            self.syncs.fetch_add(1, Relaxed);
            if self.fails.load(Relaxed) { Err(io::Error::other("input/output error")) } else { Ok(()) }
        }
    }

    struct Bench {
        metrics: Arc<Metrics>,
        to_sync: ToSync,
        told: Vec<Arc<Told>>,
        /// Saves that were asked for.
        asked: Arc<std::sync::atomic::AtomicU64>,
    }

    impl Bench {
        /// Two inputs, and sinks of which the last may be optional.
        fn new(last_is_required: bool) -> Bench {
            let metrics = Arc::new(Metrics::new(&[("f", "file"), ("g", "file")], &[("a", "file"), ("b", "file")]));
            let told: Vec<Arc<Told>> = (0..2).map(|_| Arc::default()).collect();
            let to_sync = ToSync { patience: Duration::from_millis(100), ..ToSync::default() };
            let bench = Bench { metrics, to_sync, told, asked: Arc::default() };
            bench.follow(last_is_required);
            bench
        }

        fn follow(&self, last_is_required: bool) {
            let output = |(port, told): (usize, &Arc<Told>)| Output {
                number: port,
                port,
                required: port == 0 || last_is_required,
                durable: Arc::clone(told) as Arc<dyn Durable>,
                taken: taken(&self.metrics, port),
            };
            let outputs = self.told.iter().enumerate().map(output).collect();
            let asked = Arc::clone(&self.asked);
            let on_late = move || {
                asked.fetch_add(1, Relaxed);
            };
            self.to_sync.follow(outputs, None, &self.metrics, on_late).expect("threads");
        }

        fn deliver(&self, input: u16, sink: usize) {
            self.metrics.pair(input, sink).delivered.fetch_add(1, Relaxed);
        }

        fn unsynced(&self) -> Vec<String> {
            self.to_sync.sync().into_keys().collect()
        }

        fn check(&self) -> Option<Health> {
            self.metrics.checks().remove(OUTPUTS_CHECK).map(|(health, _)| health)
        }
    }

    #[test]
    fn one_that_fails_holds_back_what_it_took_and_nothing_else_for_good() {
        let bench = Bench::new(true);
        bench.deliver(0, 0);
        bench.deliver(1, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec![], None));
        bench.told[1].fails.store(true, Relaxed);
        bench.deliver(0, 0);
        assert_eq!((bench.unsynced(), bench.check()), (vec![], None), "it has nothing to sync");
        bench.deliver(0, 0);
        bench.deliver(1, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec!["g".to_owned()], Some(Health::Fail)));
        bench.told[1].fails.store(false, Relaxed);
        bench.deliver(0, 0);
        let before = bench.told[0].syncs.load(Relaxed);
        assert_eq!(bench.unsynced(), ["g"], "after a failure no sync is believed");
        assert_eq!(bench.told[0].syncs.load(Relaxed), before + 1, "the other one goes on");
        // What goes to both waits for the one that failed.
        bench.deliver(0, 1);
        assert_eq!(bench.unsynced(), ["f", "g"]);
        // And after a reload, whatever the new one says.
        bench.follow(true);
        bench.deliver(0, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec!["f".to_owned(), "g".to_owned()], Some(Health::Fail)));
    }

    #[test]
    fn one_that_hangs_is_not_waited_for_and_counts_again_when_it_returns() {
        let bench = Bench::new(true);
        let hangs = bench.told[1].hangs.lock().expect("no panic");
        bench.deliver(0, 0);
        bench.deliver(1, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec!["g".to_owned()], Some(Health::Warn)));
        bench.deliver(0, 0);
        assert_eq!((bench.unsynced(), bench.told[0].syncs.load(Relaxed)), (vec!["g".to_owned()], 2));
        // A reload does not make it good.
        bench.follow(true);
        assert_eq!(bench.unsynced(), ["g"]);
        drop(hangs);
        let began = Instant::now();
        while !bench.unsynced().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "it has returned");
        }
        assert_eq!(bench.check(), Some(Health::Pass));
    }

    #[test]
    fn a_late_answer_is_for_what_was_taken_when_it_was_asked() {
        let bench = Bench::new(true);
        let told: Vec<Arc<Told>> = bench.told.iter().map(Arc::clone).collect();
        let first = told[0].hangs.lock().expect("no panic");
        bench.deliver(0, 0);
        assert_eq!(bench.unsynced(), ["f"]);
        // It answers while the other one is waited for, and has taken more by then.
        let second = told[1].hangs.lock().expect("no panic");
        bench.deliver(0, 0);
        bench.deliver(1, 1);
        drop(first);
        let began = Instant::now();
        while told[0].syncs.load(Relaxed) == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "it returns");
            std::thread::sleep(Duration::from_millis(1));
        }
        bench.to_sync.lock().ask();
        let answer = bench.to_sync.answers.lock().expect("no panic").recv().expect("the late one");
        bench.to_sync.lock().note(answer);
        assert!(bench.to_sync.lock().judge().contains_key("f"), "the second record is in the page cache only");
        drop(second);
        while !bench.unsynced().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "both have returned");
        }
    }

    #[test]
    fn one_that_was_late_asks_for_a_save_when_it_returns_and_one_in_time_does_not() {
        let bench = Bench::new(false);
        let hangs = bench.told[1].hangs.lock().expect("no panic");
        bench.deliver(0, 0);
        bench.deliver(0, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec![], Some(Health::Warn)));
        assert_eq!(bench.asked.load(Relaxed), 0);
        drop(hangs);
        let began = Instant::now();
        while bench.asked.load(Relaxed) == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "it has returned");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((bench.unsynced(), bench.check()), (vec![], Some(Health::Pass)), "that save takes its answer");
        assert_eq!(bench.asked.load(Relaxed), 1);
    }

    #[test]
    fn an_optional_one_holds_back_nothing() {
        let bench = Bench::new(false);
        bench.told[1].fails.store(true, Relaxed);
        bench.deliver(0, 0);
        bench.deliver(0, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec![], Some(Health::Warn)));
    }

    #[test]
    fn an_optional_one_that_failed_is_let_go_of_by_a_reload() {
        let bench = Bench::new(false);
        let outputs = || bench.to_sync.lock().outputs.len();
        bench.told[1].fails.store(true, Relaxed);
        bench.deliver(0, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec![], Some(Health::Warn)));
        bench.follow(false);
        assert_eq!((bench.unsynced(), bench.check(), outputs()), (vec![], Some(Health::Pass), 2));
        // The next one fails when its sink has ended already.
        let hangs = bench.told[1].hangs.lock().expect("no panic");
        bench.deliver(0, 1);
        assert_eq!((bench.unsynced(), bench.check()), (vec![], Some(Health::Warn)));
        bench.follow(false);
        assert_eq!(outputs(), 3, "it may succeed");
        drop(hangs);
        let began = Instant::now();
        while bench.check() != Some(Health::Pass) {
            assert!(began.elapsed() < Duration::from_secs(20), "the one that failed has ended");
            assert!(bench.unsynced().is_empty());
        }
        assert_eq!(outputs(), 2);
    }

    #[test]
    fn a_stop_waits_no_longer_than_it_may() {
        let mut bench = Bench::new(true);
        bench.to_sync.patience = Duration::from_secs(600);
        let told = Arc::clone(&bench.told[0]);
        let _hangs = told.hangs.lock().expect("no panic");
        bench.deliver(0, 0);
        bench.to_sync.hurry(Instant::now() + Duration::from_millis(50));
        assert_eq!(bench.unsynced(), ["f"]);
    }
}
