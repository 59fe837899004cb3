//! What is between the gate of the inputs and the destinations: the sinks with their queues, the disk log behind them, the
//! dead letters. A reload replaces it as a whole: that is what keeps the order of things the same as at a start and a
//! stop, which are tested with kills and power cuts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

use crate::budget::Budget;
use crate::buffer::Log;
use crate::config::Named;
use crate::dead_letters::DeadLetters;
use crate::delivery::{self, SinkHandle, Stops};
use crate::inputs::follow::checkpoint::Checkpoints;
use crate::metrics::Metrics;
use crate::outbox::{Behind, LOGGED_QUEUE_MAX, Outbox, QUEUE_MAX, Watch, Way};
use crate::pipeline::route::Router;
use crate::record::TagGlob;
use crate::sinks::Sink;
use crate::workers::{Stop, Workers};

use super::to_sync::{Output, ToSync, taken};

/// What a middle is made from, beside the sinks.
pub(super) struct Ground<'a> {
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) budget: &'a Arc<Budget>,
    pub(super) checkpoints: &'a Arc<Checkpoints>,
    pub(super) to_sync: &'a ToSync,
    /// "Stop reading", for the whole node.
    pub(super) stop: &'a Stop,
    /// Told of each sink that ends.
    pub(super) ended: &'a Arc<Notify>,
}

/// See the header.
pub(super) struct Middle {
    pub(super) handles: Vec<SinkHandle>,
    /// By port: the sink's number in the metrics.
    pub(super) numbers: Vec<usize>,
    /// The disk log, if there is one.
    pub(super) log: Option<Arc<Log>>,
    /// What looks at it.
    pub(super) watch: Watch,
    /// What sinks refused for good.
    pub(super) letters: Arc<DeadLetters>,
    /// Their threads.
    pub(super) sinks: Workers,
    /// "Drain", for the sinks.
    pub(super) drain: Stop,
    /// "Give up", for the sinks.
    pub(super) give_up: Stop,
}

impl Middle {
    /// Opens the sinks and starts them, none of them before all are open: a backlog is read at once, and what was delivered
    /// of it by a start that fails would be delivered again by the next one. After an error nothing of it runs or has run, and
    /// log and letters are still open.
    pub(super) fn start(
        sinks: Vec<Named<Box<dyn Sink>>>,
        numbers: Vec<usize>,
        log: Option<Arc<Log>>,
        letters: Arc<DeadLetters>,
        ground: &Ground<'_>,
    ) -> io::Result<(Middle, Router)> {
        let Ground { metrics, checkpoints, .. } = ground;
        let (drain, give_up) = (Stop::default(), Stop::default());
        let (mut ways, mut receivers, mut globs) = (Vec::new(), Vec::new(), Vec::new());
        for (number, named) in numbers.iter().zip(&sinks) {
            let (queue, receiver) = mpsc::channel(if log.is_some() { LOGGED_QUEUE_MAX } else { QUEUE_MAX });
            ways.push(Way { sink: *number, queue, required: named.required });
            receivers.push(receiver);
            globs.push((*number, named.tags.iter().map(|pattern| TagGlob::new(pattern)).collect()));
        }
        let has_backlog =
            |number: &usize| metrics.sinks[*number].pairs.iter().any(|pair| pair.buffered.load(Relaxed) > 0);
        let behind = log.as_ref().map(|log| Behind {
            log: Arc::clone(log),
            budget: Arc::clone(ground.budget),
            backlog: numbers.iter().map(has_backlog).collect(),
            give_up: give_up.clone(),
        });
        let outbox = Outbox::new(ways, Arc::clone(metrics), behind);
        let settled = outbox.settled();
        if let Some(found) = &settled {
            let checkpoints = Arc::clone(checkpoints);
            found.on_first(move || checkpoints.touch(1, false));
            found.defer_all();
        }
        let (mut handles, mut outputs, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        for (port, (named, receiver)) in sinks.into_iter().zip(receivers).enumerate() {
            let stops = Stops { read: ground.stop.clone(), drain: drain.clone(), give_up: give_up.clone() };
            let (feed, letters) = (outbox.feed(port, receiver), Some(Arc::clone(&letters)));
            let (number, required, taken) = (numbers[port], named.required, taken(metrics, numbers[port]));
            let sink = delivery::open(named.part, feed, Arc::clone(metrics), number, stops, letters)?;
            let handle = sink.handle();
            match (handle.durable(), &settled) {
                (Some(durable), _) => outputs.push(Output { number, port, required, durable, taken }),
                (None, Some(settled)) => settled.at_once(port),
                (None, None) => {}
            }
            handles.push(handle);
            opened.push(sink);
        }
        // Weak: the checkpoints hold who syncs.
        let weak = Arc::downgrade(checkpoints);
        let on_late = move || weak.upgrade().iter().for_each(|checkpoints| checkpoints.touch(0, false));
        ground.to_sync.follow(outputs, settled, metrics, on_late)?;
        let (workers, begin) = (Workers::telling(ground.ended), Stop::default());
        for sink in opened {
            sink.spawn(begin.clone(), &workers).inspect_err(|_| {
                give_up.set();
                workers.join(Instant::now() + super::LET_GO);
            })?;
        }
        begin.set();
        let watch = outbox.watch();
        let router = Router::to(outbox, globs, Arc::clone(metrics));
        Ok((Middle { handles, numbers, log, watch, letters, sinks: workers, drain, give_up }, router))
    }

    /// Whether a thread of the sinks, of the disk log or of the dead letters has panicked.
    pub(super) fn has_failed(&self) -> bool {
        let log = self.log.as_ref().is_some_and(|log| log.failed().is_set());
        log || self.sinks.failed().is_set() || self.letters.has_failed()
    }

    /// Writes what is left: letters, what was delivered (which settles it in the log), the cursors. Takes as long as the
    /// disk does, so it is for a thread of its own. `done`: all of it was written.
    pub(super) fn save(
        letters: Option<&DeadLetters>,
        log: Option<&Log>,
        checkpoints: &Checkpoints,
        until: Instant,
        done: &AtomicBool,
    ) {
        // Receipts of rejected records wait for their letters.
        letters.into_iter().for_each(|letters| letters.close(until));
        // Syncs what was delivered, and so settles it in the log; the cursors say so when it is closed.
        if let Err(error) = checkpoints.save() {
            tracing::error!(
                "checkpoints could not be saved ({error}); what was delivered since the last save comes again"
            );
        }
        match log.map_or(Ok(()), |log| log.close(until)) {
            Ok(()) => done.store(true, Relaxed),
            Err(error) => tracing::error!(
                "the disk log could not be closed in order ({error}); some of what was delivered comes again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;
    use crate::inputs::follow::checkpoint::Unsynced;
    use crate::sinks::request::Request;
    use crate::sinks::{Limits, Reply, Sending};

    /// Counts the turns of its loop. One that fails can not be opened, and takes its time for that.
    struct Counts {
        turns: Arc<AtomicU64>,
        fails: bool,
    }

    impl Sink for Counts {
        fn limits(&self) -> Limits {
            Limits::LOCAL
        }

        fn start(&mut self) -> io::Result<()> {
            if !self.fails {
                return Ok(());
            }
            let until = Instant::now() + Duration::from_secs(1);
            while self.turns.load(Relaxed) == 0 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(io::Error::other("no such folder"))
        }

        fn send(&mut self, _: &mut Request) -> Sending {
            Box::pin(std::future::ready(Ok(Reply::default())))
        }

        fn tick(&mut self) -> Option<Duration> {
            self.turns.fetch_add(1, Relaxed);
            None
        }
    }

    #[test]
    fn no_sink_begins_before_all_are_open() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let metrics = Arc::new(Metrics::new(&[("in", "test")], &[("a", "test"), ("b", "test")]));
        let checkpoints = Checkpoints::open(dir.path(), Box::new(Unsynced::new)).expect("free");
        let (budget, to_sync, ended) = (Budget::new(1 << 20), ToSync::default(), Arc::<Notify>::default());
        let ground = Ground {
            metrics: &metrics,
            budget: &budget,
            checkpoints: &checkpoints,
            to_sync: &to_sync,
            stop: &Stop::default(),
            ended: &ended,
        };
        let start = |fails: bool| {
            let turns = Arc::<AtomicU64>::default();
            let sink = |name: &str, fails: bool| Named {
                name: name.to_owned(),
                kind: "test",
                tags: vec!["**".to_owned()],
                about: Vec::new(),
                required: true,
                written: String::new(),
                part: Box::new(Counts { turns: Arc::clone(&turns), fails }) as Box<dyn Sink>,
            };
            let letters = DeadLetters::new(dir.path(), None, &metrics);
            (Middle::start(vec![sink("a", false), sink("b", fails)], vec![0, 1], None, letters, &ground), turns)
        };
        let (started, turns) = start(true);
        let error = started.err().expect("the second one can not be opened").to_string();
        assert_eq!((error.as_str(), turns.load(Relaxed)), ("sinks.b: no such folder", 0));
        let (started, turns) = start(false);
        let (middle, router) = started.expect("both are there");
        drop(router);
        assert!(middle.sinks.join(Instant::now() + Duration::from_secs(20)), "their queues have ended");
        assert!(turns.load(Relaxed) >= 2);
    }
}
